//! TDH.SPDM.MNG: heartbeat, new keys for the session, and device information anew.

use std::sync::Arc;

use spdm::requester::Operation;
use tdx_abi::connect::ids::{MngOperation, SpdmId};
use tdx_abi::connect::{NO_PAGE, spdm::SpdmConfigInfo};
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_abi::{PhysAddr, Registers};

use super::spdm_connect::{read_config, write_dev_info};
use crate::call::{Call, Exit, invalid};
use crate::connect::evidence::EvidencePlan;
use crate::connect::marshal::MessagePages;
use crate::connect::session::{Body, Session, SessionState, Task};
use crate::connect::work::{Bench, Plan, Turn, Work};

pub(crate) fn run(call: &Call<'_>, regs: &mut Registers) -> Result<Status, Exit> {
    let connect = call.connect()?;
    // TDH.SPDM.MNG-1
    let session = connect.sessions.get(SpdmId(regs.rcx)).ok_or(StatusCode::SPDM_ENTRY_NOT_PRESENT)?;
    // TDH.SPDM.MNG-2
    check_state(&session)?;
    // TDH.SPDM.MNG-3
    let task = Task::of(MngOperation(regs.rdx)).ok_or_else(|| invalid(OperandId::RDX))?;
    // TDH.SPDM.MNG-4
    if task != Task::Recollect {
        for (operand, raw) in [(OperandId::R8, regs.r8), (OperandId::R11, regs.r11)] {
            if raw != NO_PAGE {
                return Err(invalid(operand));
            }
        }
    }
    // TDH.SPDM.MNG-10
    let parameters = if regs.r8 == NO_PAGE { None } else { Some(call.host_page(regs.r8, OperandId::R8)?) };
    let pages = MessagePages::new(call, (OperandId::R9, regs.r9), (OperandId::R10, regs.r10))?;
    // TDH.SPDM.MNG-5
    let slot = call.enter_extension(task, session.id)?;
    let turn = call
        .lock_session(&session, OperandId::RCX)
        .and_then(|mut body| manage(call, &session, &mut body, task, parameters, pages, regs));
    // TDH.SPDM.MNG-6
    if turn == Ok(StatusCode::INTERRUPTED_RESUMABLE.plain()) {
        return turn;
    }
    slot.give_back();
    turn
}

fn check_state(session: &Session) -> Result<(), Exit> {
    if session.state() == SessionState::Connected {
        Ok(())
    } else {
        Err(StatusCode::SPDM_INVALID_STATE.into())
    }
}

fn manage(
    call: &Call<'_>,
    session: &Session,
    body: &mut Body,
    task: Task,
    parameters: Option<PhysAddr>,
    pages: MessagePages,
    regs: &mut Registers,
) -> Result<Status, Exit> {
    check_state(session)?;
    // A session that was lost is none.
    if !body.has_session() {
        return Err(StatusCode::SPDM_INVALID_STATE.into());
    }
    // The device has one message at a time: the session waits for the answer to another one.
    if body.in_flight().is_some_and(|other| other != task) {
        return Err(StatusCode::OPERAND_BUSY.with_operand(OperandId::RCX).into());
    }
    if !body.works.contains_key(&task) {
        let plan = plan(call, session, body, task, parameters)?;
        body.works.insert(task, Work::new(plan));
    }
    let entropy = Arc::clone(&body.entropy);
    let bench = Bench { call, pages, entropy: &entropy, minds_keys: task != Task::KeyUpdate };
    // TDH.SPDM.MNG-9
    match body.run(task, &bench, |_| {})? {
        // TDH.SPDM.MNG-7
        Some(Turn::Send(size)) => {
            regs.rcx = size;
            Ok(StatusCode::SPDM_REQUEST.plain())
        }
        Some(Turn::Interrupted) => Ok(StatusCode::INTERRUPTED_RESUMABLE.plain()),
        // TDH.SPDM.MNG-8
        Some(Turn::Refresh) => Ok(StatusCode::SPDM_SESSION_KEY_REQUIRE_REFRESH.plain()),
        Some(Turn::Finished) => {
            body.works.remove(&task);
            regs.rcx = match task {
                Task::Recollect => write_dev_info(call, body, regs.r11, OperandId::R11)?,
                _ => 0,
            };
            Ok(Status::SUCCESS)
        }
        None => Err(StatusCode::SPDM_INVALID_STATE.into()),
    }
}

/// What is to be done, if the session has agreed on it.
fn plan(
    call: &Call<'_>,
    session: &Session,
    body: &Body,
    task: Task,
    parameters: Option<PhysAddr>,
) -> Result<Plan, Exit> {
    let offers = body.requester.as_ref().map(|requester| requester.config().flags);
    let peer = body.requester.as_ref().and_then(|requester| requester.connection()).map(|one| one.peer.flags);
    let (Some(offers), Some(peer)) = (offers, peer) else {
        return Err(StatusCode::SPDM_INVALID_STATE.into());
    };
    // TDH.SPDM.MNG-11
    let agreed = |both: bool| if both { Ok(()) } else { Err(invalid(OperandId::RDX)) };
    Ok(match task {
        Task::Heartbeat => {
            agreed(offers.hbeat() && peer.hbeat())?;
            Plan::Single(Some(Operation::Heartbeat))
        }
        Task::KeyUpdate => {
            agreed(offers.key_upd() && peer.key_upd())?;
            Plan::Single(Some(Operation::KeyUpdate { all: true }))
        }
        _ => {
            let info = recollection_config(call, body, parameters)?;
            let plan = EvidencePlan::recollect(info, session.function, body.answers.clone());
            Plan::Evidence(Box::new(plan))
        }
    })
}

/// The parameter page says like the configuration page what is wanted; without one it is what was wanted
/// when the device was connected.
fn recollection_config(
    call: &Call<'_>,
    body: &Body,
    parameters: Option<PhysAddr>,
) -> Result<SpdmConfigInfo, Exit> {
    match parameters {
        // TDH.SPDM.MNG-12
        Some(page) => read_config(call, page)?.ok_or_else(|| invalid(OperandId::R8)),
        None => Ok(body.config),
    }
}
