//! TDH.EXT.INIT: starts the extensions, a bounded piece of work per call. Called again behind an update:
//! the new module starts its own.

use tdx_abi::features::Features0;
use tdx_abi::status::{Status, StatusCode};

use crate::call::{Call, Exit};
use crate::hardware::LockName;

/// Steps of one call.
const STEPS: u32 = 8;
/// The same with an interrupt waiting.
const STEPS_INTERRUPTED: u32 = 1;

pub(crate) fn run(call: &Call<'_>) -> Result<Status, Exit> {
    let pool = &call.connect()?.pool;
    // TDH.EXT.INIT-3
    let busy = || Exit::from(StatusCode::OPERAND_BUSY.plain());
    if call.hw.contended(call.lp, LockName::Extension) {
        return Err(busy());
    }
    let _lock = pool.lock.try_lock().ok_or_else(busy)?;
    let opted_in = call.module.opted_in().contains(Features0::TDX_CONNECT);
    // TDH.EXT.INIT-2
    if !opted_in || !pool.ext_required() || pool.missing() != 0 {
        return Err(StatusCode::SYS_STATE_INCORRECT.into());
    }
    if pool.is_initialised() {
        return Ok(Status::SUCCESS);
    }
    let steps = if call.hw.interrupt_pending(call.lp) { STEPS_INTERRUPTED } else { STEPS };
    // TDH.EXT.INIT-1
    if !pool.advance(steps) {
        return Err(StatusCode::INTERRUPTED_RESUMABLE.into());
    }
    Ok(Status::SUCCESS)
}
