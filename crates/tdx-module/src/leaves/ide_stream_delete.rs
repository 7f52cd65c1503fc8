//! TDH.IDE.STREAM.DELETE: gives back what a stream had: its register block, its slots, its pages.

use std::sync::Arc;

use tdx_abi::Registers;
use tdx_abi::connect::ids::SpdmId;
use tdx_abi::status::{OperandId, Status, StatusCode};

use crate::call::{Call, Exit};
use crate::connect::session::{Session, Task};
use crate::connect::stream::{Stream, StreamHardware, StreamState};

pub(crate) fn run(call: &Call<'_>, regs: &mut Registers) -> Result<Status, Exit> {
    let (session, stream) = admit(call, regs)?;
    // TDH.IDE.STREAM.DELETE-4
    let target = call.release_target(regs.r8, stream.facts.pages.len(), OperandId::R8)?;
    let unit = call.unit_of(&session)?;
    // TDH.IDE.STREAM.DELETE-5
    let _unit = call.lock_unit(unit, OperandId::RCX)?;
    let mut body = call.lock_session(&session, OperandId::RCX)?;
    let _stream = call.lock_stream(&stream, OperandId::RDX)?;
    // Another LP may have been here between the first look and the locks.
    admit(call, regs)?;
    if let Some(hardware) = StreamHardware::of(call, &stream.facts)? {
        hardware.port.protect(hardware.block, false);
    }
    body.abandon(Task::Keys(stream.facts.key.id));
    call.connect()?.sessions.streams.remove(stream.facts.key);
    unit.remove_stream();
    call.release(&stream.facts.pages);
    regs.rcx = call.write_released(target, &stream.facts.pages);
    Ok(Status::SUCCESS)
}

fn admit(call: &Call<'_>, regs: &Registers) -> Result<(Arc<Session>, Arc<Stream>), Exit> {
    // TDH.IDE.STREAM.DELETE-1
    let unknown = StatusCode::IDE_STREAM_NOT_CONFIGURED;
    let session = call.connect()?.sessions.get(SpdmId(regs.rcx)).ok_or(unknown)?;
    let stream = call.stream(&session, regs.rdx)?.ok_or(unknown)?;
    // TDH.IDE.STREAM.DELETE-2
    if stream.state() != StreamState::Blocked {
        return Err(StatusCode::IDE_STREAM_NOT_BLOCKED.into());
    }
    Ok((session, stream))
}
