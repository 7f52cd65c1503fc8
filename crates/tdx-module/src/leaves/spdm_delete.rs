//! TDH.SPDM.DELETE: gives the pages of a session object back.

use std::sync::Arc;

use tdx_abi::Registers;
use tdx_abi::connect::ids::SpdmId;
use tdx_abi::status::{OperandId, Status, StatusCode};

use crate::call::{Call, Exit};
use crate::connect::session::{Session, SessionState};

pub(crate) fn run(call: &Call<'_>, regs: &mut Registers) -> Result<Status, Exit> {
    let connect = call.connect()?;
    let session = admit(call, SpdmId(regs.rcx))?;
    // TDH.SPDM.DELETE-4
    let target = call.release_target(regs.rdx, session.pages.len(), OperandId::RDX)?;
    let unit = call.unit_of(&session)?;
    // TDH.SPDM.DELETE-5
    let _unit = call.lock_unit(unit, OperandId::RCX)?;
    let mut body = call.lock_session(&session, OperandId::RCX)?;
    // Another LP may have been here between the first look and the locks.
    admit(call, session.id)?;
    if session.state() != SessionState::Created {
        unit.session_ends();
    }
    body.forget();
    connect.sessions.extension.forget(session.id);
    connect.sessions.remove(session.function);
    unit.remove_session();
    call.release(&session.pages);
    regs.rcx = call.write_released(target, &session.pages);
    Ok(Status::SUCCESS)
}

fn admit(call: &Call<'_>, id: SpdmId) -> Result<Arc<Session>, Exit> {
    let connect = call.connect()?;
    // TDH.SPDM.DELETE-1
    let session = connect.sessions.get(id).ok_or(StatusCode::SPDM_ENTRY_NOT_PRESENT)?;
    // TDH.SPDM.DELETE-2
    if connect.sessions.has_streams(&session) {
        return Err(StatusCode::SPDM_HAS_ACTIVE_IDE_STREAMS.into());
    }
    // TDH.SPDM.DELETE-3
    let deletable = match session.state() {
        SessionState::Created => true,
        SessionState::Connecting => false,
        SessionState::Connected | SessionState::Disconnecting => session.is_device_gone(call.io()?),
    };
    if deletable { Ok(session) } else { Err(StatusCode::SPDM_INVALID_STATE.into()) }
}
