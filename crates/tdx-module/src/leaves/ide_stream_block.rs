//! TDH.IDE.STREAM.BLOCK: takes a stream out of use for good. The emergency stop: it needs neither the
//! device nor the session.

use tdx_abi::Registers;
use tdx_abi::connect::ids::SpdmId;
use tdx_abi::status::{OperandId, Status, StatusCode};

use crate::call::{Call, Exit};
use crate::connect::stream::{Stream, StreamHardware, StreamState};

pub(crate) fn run(call: &Call<'_>, regs: &Registers) -> Result<Status, Exit> {
    // TDH.IDE.STREAM.BLOCK-1
    let unknown = StatusCode::IDE_STREAM_NOT_CONFIGURED;
    let session = call.connect()?.sessions.get(SpdmId(regs.rcx)).ok_or(unknown)?;
    let stream = call.stream(&session, regs.rdx)?.ok_or(unknown)?;
    check_state(&stream)?;
    // TDH.IDE.STREAM.BLOCK-3
    let _stream = call.lock_stream(&stream, OperandId::RDX)?;
    check_state(&stream)?;
    // Hardware that does not answer any more lets nothing through either.
    if let Some(hardware) = StreamHardware::of(call, &stream.facts)? {
        hardware.clear();
    }
    stream.set_state(StreamState::Blocked);
    Ok(Status::SUCCESS)
}

fn check_state(stream: &Stream) -> Result<(), Exit> {
    // TDH.IDE.STREAM.BLOCK-2
    if stream.state() == StreamState::Blocked {
        return Err(StatusCode::IDE_STREAM_BLOCKED.into());
    }
    Ok(())
}
