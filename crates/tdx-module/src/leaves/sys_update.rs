//! TDH.SYS.UPDATE: takes over what the module before left in the hand-off area.
//!
//! Rows 7 and 8 speak of NON_BLOCKING_EXPORT, which no release reports: row 5 refuses its bit. The
//! hand-off data have no place for what they ask of the old module either.

use std::sync::atomic::Ordering;

use tdx_abi::Registers;
use tdx_abi::features::Features0;
use tdx_abi::status::{OperandId, Status, StatusCode};

use crate::call::{Call, Exit, invalid};
use crate::handoff::Machine;
use crate::io::ConnectHardware;
use crate::module::ModuleState;

const LAST_VERSION: u8 = 1;

pub(crate) fn run(call: &Call<'_>, regs: &Registers) -> Result<Status, Exit> {
    let module = call.module;
    let opted_in = opt_in(call, regs)?;
    // TDH.SYS.UPDATE-1
    let _lock = call.global_exclusive()?;
    let mcheck = call.hw.mcheck();
    let initialised = module.initialised_lps.load(Ordering::Acquire);
    // TDH.SYS.UPDATE-2
    if module.state() != ModuleState::SysInitDone || initialised < u64::from(mcheck.total_lps) {
        return Err(StatusCode::SYS_STATE_INCORRECT.into());
    }
    let mut region = module.handoff.region();
    let header = region.header();
    let versions = module.rules.sigstruct;
    let accepted = versions.min_update_hv..=versions.module_hv;
    // TDH.SYS.UPDATE-3
    if !header.valid || !accepted.contains(&header.version) {
        return Err(StatusCode::SYS_INVALID_HANDOFF.into());
    }
    // TDH.SYS.UPDATE-9
    if !module.rules.knows_handoff(header.version) {
        return Err(StatusCode::SYS_INVALID_HANDOFF.into());
    }
    let estate = region
        .read(Machine { platform: module.platform()?, packages: mcheck.packages })
        .map_err(|_| StatusCode::SYS_INVALID_HANDOFF)?;
    let units = call.hw.connect().map_or(&[][..], ConnectHardware::units);
    module.inherit(estate, units).map_err(|_| StatusCode::SYS_INVALID_HANDOFF)?;
    region.invalidate();
    module.opted_in.store(opted_in.bits(), Ordering::Release);
    module.set_state(ModuleState::SysReady);
    Ok(Status::SUCCESS)
}

/// The add-on features that version 1 enables; version 0 leaves all of them off. Extensions come
/// with the features that need them: their own bit has no effect.
fn opt_in(call: &Call<'_>, regs: &Registers) -> Result<Features0, Exit> {
    if call.version == 0 {
        return Ok(Features0::EMPTY);
    }
    // TDH.SYS.UPDATE-4
    if call.version > LAST_VERSION {
        return Err(invalid(OperandId::RAX));
    }
    let features = Features0::from_bits(regs.r9);
    // TDH.SYS.UPDATE-5
    if !call.module.rules.features0.contains(features) {
        return Err(invalid(OperandId::R9));
    }
    // TDH.SYS.UPDATE-6
    if regs.r10 != 0 {
        return Err(invalid(OperandId::R10));
    }
    Ok(features.difference(Features0::EXT))
}
