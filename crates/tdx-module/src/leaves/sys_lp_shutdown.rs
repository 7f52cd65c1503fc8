//! TDH.SYS.LP.SHUTDOWN: shuts TDX 1.0 down; does nothing since.

use tdx_abi::status::Status;

use crate::call::{Call, Exit};
use crate::module::ModuleState;

pub(crate) fn run(call: &Call<'_>) -> Result<Status, Exit> {
    if !call.module.rules.is_1_5() {
        // 1.0:TDH.SYS.LP.SHUTDOWN-1
        let _lock = call.global_shared()?;
        call.module.set_state(ModuleState::SysShutdown);
        call.slot.shut_down();
    }
    Ok(Status::SUCCESS)
}
