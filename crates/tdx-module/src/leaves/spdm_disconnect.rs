//! TDH.SPDM.DISCONNECT: ends the session with a device.
//!
//! Whatever the device answers to END_SESSION, the session is over. It is over at once where nothing can
//! be said in it any more: after a message that was not in order, and while the device has a message of
//! another leaf that nobody will ask the answer of.

use std::sync::Arc;

use spdm::requester::Operation;
use tdx_abi::Registers;
use tdx_abi::connect::ids::SpdmId;
use tdx_abi::status::{OperandId, Status, StatusCode};

use crate::call::{Call, Exit};
use crate::connect::marshal::MessagePages;
use crate::connect::session::{Body, Session, SessionState, Task};
use crate::connect::work::{Bench, Plan, Turn, Work};

pub(crate) fn run(call: &Call<'_>, regs: &mut Registers) -> Result<Status, Exit> {
    let connect = call.connect()?;
    // TDH.SPDM.DISCONNECT-1
    let session = connect.sessions.get(SpdmId(regs.rcx)).ok_or(StatusCode::SPDM_ENTRY_NOT_PRESENT)?;
    admit(call, &session)?;
    // TDH.SPDM.DISCONNECT-7
    let pages = MessagePages::new(call, (OperandId::RDX, regs.rdx), (OperandId::R8, regs.r8))?;
    // TDH.SPDM.DISCONNECT-4
    let slot = call.enter_extension(Task::Disconnect, session.id)?;
    let turn = call
        .lock_session(&session, OperandId::RCX)
        .and_then(|mut body| disconnect(call, &session, &mut body, pages));
    match turn {
        // TDH.SPDM.DISCONNECT-5
        Ok(Turn::Interrupted | Turn::Refresh) => return Ok(StatusCode::INTERRUPTED_RESUMABLE.plain()),
        // TDH.SPDM.DISCONNECT-6
        Ok(Turn::Send(size)) => regs.rcx = size,
        Ok(Turn::Finished) | Err(_) => {}
    }
    slot.give_back();
    turn.map(|turn| match turn {
        Turn::Send(_) => StatusCode::SPDM_REQUEST.plain(),
        _ => Status::SUCCESS,
    })
}

fn admit(call: &Call<'_>, session: &Session) -> Result<(), Exit> {
    // TDH.SPDM.DISCONNECT-2
    if call.connect()?.sessions.has_streams(session) {
        return Err(StatusCode::SPDM_HAS_ACTIVE_IDE_STREAMS.into());
    }
    // TDH.SPDM.DISCONNECT-3
    match session.state() {
        SessionState::Connected | SessionState::Disconnecting => Ok(()),
        _ => Err(StatusCode::SPDM_INVALID_STATE.into()),
    }
}

fn disconnect(
    call: &Call<'_>,
    session: &Session,
    body: &mut Body,
    pages: MessagePages,
) -> Result<Turn, Exit> {
    admit(call, session)?;
    let can_speak = body.has_session() && body.in_flight().is_none_or(|task| task == Task::Disconnect);
    if session.state() == SessionState::Connected && can_speak {
        body.works.clear();
        body.works.insert(Task::Disconnect, Work::new(Plan::Single(Some(Operation::EndSession))));
        session.set_state(SessionState::Disconnecting);
    }
    let entropy = Arc::clone(&body.entropy);
    let bench = Bench { call, pages, entropy: &entropy, minds_keys: false };
    let turn = match body.run(Task::Disconnect, &bench, |_| {}) {
        Ok(Some(turn)) => turn,
        // No word can be said, or the answer was none.
        Ok(None) | Err(Exit::Status(_)) => Turn::Finished,
        Err(check) => return Err(check),
    };
    if turn == Turn::Finished {
        body.forget();
        call.unit_of(session)?.session_ends();
        session.set_state(SessionState::Created);
    }
    Ok(turn)
}
