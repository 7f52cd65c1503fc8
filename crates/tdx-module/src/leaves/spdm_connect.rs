//! TDH.SPDM.CONNECT: authenticates a device, opens a session with it and writes down what it has shown.
//!
//! GET_VERSION to ALGORITHMS; the chains of the slots that the configuration page names; signed
//! measurements, or a challenge where there are none; KEY_EXCHANGE and FINISH; then, in the session, TDISP
//! GET_VERSION and GET_CAPABILITIES, and QUERY of IDE_KM. Whatever fails leaves a session object without
//! a session.

use std::sync::Arc;

use tdx_abi::connect::MESSAGE_PAGE;
use tdx_abi::connect::ids::SpdmId;
use tdx_abi::connect::spdm::{HBEAT_CAP, KEY_UPD_CAP, SpdmConfigInfo};
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_abi::{KeyId, PhysAddr, Registers};
use zerocopy::FromBytes;

use crate::call::{Call, Exit, invalid};
use crate::connect::dev_info;
use crate::connect::evidence::EvidencePlan;
use crate::connect::marshal::MessagePages;
use crate::connect::session::{Body, Session, SessionState, Task};
use crate::connect::work::{self, Bench, Plan, Turn, Work};

pub(crate) fn run(call: &Call<'_>, regs: &mut Registers) -> Result<Status, Exit> {
    let connect = call.connect()?;
    // TDH.SPDM.CONNECT-1
    let session = connect.sessions.get(SpdmId(regs.rcx)).ok_or(StatusCode::SPDM_ENTRY_NOT_PRESENT)?;
    // TDH.SPDM.CONNECT-2
    check_state(&session)?;
    // TDH.SPDM.CONNECT-9
    let config = call.host_page(regs.rdx, OperandId::RDX)?;
    let pages = MessagePages::new(call, (OperandId::R8, regs.r8), (OperandId::R9, regs.r9))?;
    // TDH.SPDM.CONNECT-3
    let slot = call.enter_extension(Task::Connect, session.id)?;
    let turn = call
        .lock_session(&session, OperandId::RCX)
        .and_then(|mut body| connect_device(call, &session, &mut body, config, pages, regs));
    // TDH.SPDM.CONNECT-4
    if let Ok(status) = turn
        && status == StatusCode::INTERRUPTED_RESUMABLE.plain()
    {
        return turn;
    }
    slot.give_back();
    turn
}

fn check_state(session: &Session) -> Result<(), Exit> {
    match session.state() {
        SessionState::Created | SessionState::Connecting => Ok(()),
        _ => Err(StatusCode::SPDM_INVALID_STATE.into()),
    }
}

fn connect_device(
    call: &Call<'_>,
    session: &Session,
    body: &mut Body,
    config: PhysAddr,
    pages: MessagePages,
    regs: &mut Registers,
) -> Result<Status, Exit> {
    check_state(session)?;
    let unit = call.unit_of(session)?;
    if session.state() == SessionState::Created {
        begin(call, session, body, config)?;
        unit.session_begins();
        session.set_state(SessionState::Connecting);
    }
    let done = advance(call, body, pages, regs);
    match done {
        Ok(status) if status == Status::SUCCESS => session.set_state(SessionState::Connected),
        Ok(_) => {}
        Err(_) => {
            body.forget();
            unit.session_ends();
            session.set_state(SessionState::Created);
        }
    }
    done
}

/// Reads the configuration page, once, and takes a requester for the device.
fn begin(call: &Call<'_>, session: &Session, body: &mut Body, page: PhysAddr) -> Result<(), Exit> {
    // TDH.SPDM.CONNECT-10
    body.config = read_config(call, page)?.ok_or_else(|| invalid(OperandId::RDX))?;
    session.note_link(call.io()?);
    body.requester = Some(work::requester(body.config, &body.entropy));
    let plan = EvidencePlan::connect(body.config, session.function);
    body.works.insert(Task::Connect, Work::new(Plan::Evidence(Box::new(plan))));
    Ok(())
}

/// The configuration page, unless it says what it must not.
pub(super) fn read_config(call: &Call<'_>, page: PhysAddr) -> Result<Option<SpdmConfigInfo>, Exit> {
    let mut bytes = [0; MESSAGE_PAGE];
    call.hw.read(page, KeyId::TME, &mut bytes)?;
    let Ok((config, rest)) = SpdmConfigInfo::read_from_prefix(&bytes) else { return Ok(None) };
    let known = config.capabilities.get() & !(HBEAT_CAP | KEY_UPD_CAP) == 0
        && config.session_policy <= 1
        && config.certificate_slot_mask != 0
        && config.raw_bitstream_requested <= 1
        && rest.iter().all(|&byte| byte == 0);
    Ok(known.then_some(config))
}

fn advance(
    call: &Call<'_>,
    body: &mut Body,
    pages: MessagePages,
    regs: &mut Registers,
) -> Result<Status, Exit> {
    let entropy = Arc::clone(&body.entropy);
    let bench = Bench { call, pages, entropy: &entropy, minds_keys: false };
    // TDH.SPDM.CONNECT-6, TDH.SPDM.CONNECT-7
    match body.run(Task::Connect, &bench, |_| {})? {
        // TDH.SPDM.CONNECT-5
        Some(Turn::Send(size)) => {
            regs.rcx = size;
            Ok(StatusCode::SPDM_REQUEST.plain())
        }
        Some(Turn::Interrupted | Turn::Refresh) => Ok(StatusCode::INTERRUPTED_RESUMABLE.plain()),
        Some(Turn::Finished) => {
            if let Some(Work { plan: Plan::Evidence(plan), .. }) = body.works.remove(&Task::Connect) {
                body.answers = plan.answers().to_vec();
            }
            // TDH.SPDM.CONNECT-8
            regs.rcx = write_dev_info(call, body, regs.r10, OperandId::R10)?;
            Ok(Status::SUCCESS)
        }
        // A state without its work: there is none to go on with.
        None => Err(StatusCode::SPDM_INVALID_STATE.into()),
    }
}

/// Writes the device information to the caller's pages and remembers its digest.
pub(super) fn write_dev_info(
    call: &Call<'_>,
    body: &mut Body,
    array: u64,
    operand: OperandId,
) -> Result<u64, Exit> {
    let requester = body.requester.as_ref().ok_or(StatusCode::SPDM_INVALID_STATE)?;
    let blob = dev_info::blob(requester, &body.answers);
    let pages = call.host_array(array, operand)?;
    let size = dev_info::write(call, &blob, &pages).ok_or_else(|| invalid(operand))?;
    body.digest = Some(dev_info::digest(&blob));
    Ok(size)
}
