//! TDH.SYS.DISABLE: takes the module down for good, a bounded piece of work per call.
//!
//! Only the caller's side of this leaf is public. Assumed here: it runs in every state; it begins
//! by locking every other leaf out with SYS_BUSY; it invalidates hand-off data, because no successor
//! may take over what is going away, and retires the PAMTs, then the KeyIDs; once it has succeeded
//! every SEAMCALL to the module fails with VMfailInvalid.

use tdx_abi::status::{Status, StatusCode};

use crate::call::{Call, Exit};

pub(crate) fn run(call: &Call<'_>) -> Result<Status, Exit> {
    let module = call.module;
    module.disable.begin();
    // TDH.SYS.DISABLE-1
    if module.lps.get().is_some_and(|lps| lps.other_inside(call.lp)) {
        return Err(StatusCode::SYS_BUSY.into());
    }
    let _lock = call.global_exclusive()?;
    module.handoff.region().invalidate();
    module.disable.step(module, call.hw.interrupt_pending(call.lp));
    // TDH.SYS.DISABLE-2
    if module.disable.work_left(module) {
        return Err(StatusCode::INTERRUPTED_RESUMABLE.into());
    }
    module.set_disabled();
    Ok(Status::SUCCESS)
}
