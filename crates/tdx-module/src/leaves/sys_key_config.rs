//! TDH.SYS.KEY.CONFIG: programs the global key, once per package.

use std::sync::atomic::Ordering;

use tdx_abi::status::{OperandId, Status, StatusCode};

use crate::call::{Call, Exit};
use crate::hardware::{LockName, PconfigError};
use crate::module::ModuleState;

pub(crate) fn run(call: &Call<'_>) -> Result<Status, Exit> {
    let module = call.module;
    // TDH.SYS.KEY.CONFIG-1
    let _lock = call.global_exclusive()?;
    // TDH.SYS.KEY.CONFIG-2
    if module.state() != ModuleState::SysConfigDone {
        return Err(StatusCode::SYS_KEY_CONFIG_NOT_PENDING.into());
    }
    let platform = module.platform()?;
    let package = call.hw.lp(call.lp).map_or(0, |identity| identity.package.0);
    // LP.INIT refused packages beyond the bitmap.
    let bit = 1u8.checked_shl(package).unwrap_or(0);
    let done = module.packages.load(Ordering::Acquire);
    // TDH.SYS.KEY.CONFIG-3
    if done & bit != 0 {
        return Ok(StatusCode::KEY_CONFIGURED.plain());
    }
    let busy = || Exit::from(StatusCode::OPERAND_BUSY.with_operand(OperandId::KET));
    // TDH.SYS.KEY.CONFIG-4
    if call.hw.contended(call.lp, LockName::KeyTable) {
        return Err(busy());
    }
    let key = *module.global_key.get().ok_or(StatusCode::SYS_KEY_CONFIG_NOT_PENDING)?;
    match call.hw.program_random_key(call.lp, key, platform.algorithm) {
        Ok(()) => {}
        // TDH.SYS.KEY.CONFIG-4
        Err(PconfigError::DeviceBusy) => return Err(busy()),
        // TDH.SYS.KEY.CONFIG-5. SYS.INIT and SYS.CONFIG have checked algorithm and KeyID.
        Err(PconfigError::Entropy | PconfigError::InvalidKeyId | PconfigError::InvalidAlgorithm) => {
            return Err(StatusCode::KEY_GENERATION_FAILED.into());
        }
    }
    let done = done | bit;
    module.packages.store(done, Ordering::Release);
    if done.count_ones() == call.hw.mcheck().packages {
        module.set_state(ModuleState::SysReady);
    }
    Ok(Status::SUCCESS)
}
