//! TDH.SYS.CONFIG: takes the global KeyID and the TDMRs.

mod overlap;
mod tdmr;

pub(crate) use tdmr::TdmrRules;

use std::sync::atomic::Ordering;

use tdx_abi::features::Features0;
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_abi::tdmr::{MAX_TDMRS, TDMR_INFO_ALIGN, TdmrInfo};
use tdx_abi::{KeyId, Registers};
use zerocopy::{FromZeros, IntoBytes};

use crate::call::{Call, Exit, invalid};
use crate::checks::Switch;
use crate::connect::Connect;
use crate::io::ConnectHardware;
use crate::module::ModuleState;
use crate::tdmrs::{TdmrConfig, TdmrTable};

const LAST_VERSION: u8 = 1;

pub(crate) fn run(call: &Call<'_>, regs: &Registers) -> Result<Status, Exit> {
    let module = call.module;
    let opted_in = opt_in(call, regs)?;
    // TDH.SYS.CONFIG-1
    let _lock = call.global_exclusive()?;
    // TDH.SYS.CONFIG-2
    if module.state() != ModuleState::SysInitDone {
        return Err(StatusCode::SYS_CONFIG_NOT_PENDING.into());
    }
    // TDH.SYS.CONFIG-3
    if module.initialised_lps.load(Ordering::Acquire) < u64::from(call.hw.mcheck().total_lps) {
        return Err(StatusCode::SYS_CONFIG_NOT_PENDING.into());
    }
    let platform = module.platform()?;
    // TDH.SYS.CONFIG-4
    let (array, array_key) =
        platform.space.shared(regs.rcx, TDMR_INFO_ALIGN).ok_or_else(|| invalid(OperandId::RCX))?;
    // TDH.SYS.CONFIG-5
    let count = usize::try_from(regs.rdx)
        .ok()
        .filter(|count| (1..=MAX_TDMRS).contains(count))
        .ok_or_else(|| invalid(OperandId::RDX))?;
    // TDH.SYS.CONFIG-6. Bit 16, dynamic PAMT (TDH.SYS.CONFIG-7), is not modelled and thus reserved.
    let global_key = u16::try_from(regs.r8)
        .ok()
        .map(KeyId::new)
        .filter(|&key| platform.space.key_ids.is_private(key))
        .ok_or_else(|| invalid(OperandId::R8))?;
    // Before the TDMRs are looked at: a refused call leaves the KeyID reserved.
    module.keys.reserve(global_key);
    let rules = TdmrRules {
        space: &platform.space,
        memory: &platform.memory,
        empty_gaps: module.rules.has(Switch::SysConfig24At10),
    };
    let mut tdmrs: Vec<TdmrConfig> = Vec::with_capacity(count);
    for index in 0..count {
        let offset = u64::try_from(index * size_of::<u64>()).unwrap_or(u64::MAX);
        let entry = array.checked_add(offset).ok_or_else(|| invalid(OperandId::RCX))?;
        // TDH.SYS.CONFIG-8
        let (pa, key) = platform
            .space
            .shared(call.read_u64(entry, array_key)?, TDMR_INFO_ALIGN)
            .ok_or_else(|| invalid(OperandId::RCX))?;
        let mut info = TdmrInfo::new_zeroed();
        call.hw.read(pa, key, info.as_mut_bytes())?;
        let config = rules.check(&info, &tdmrs)?;
        tdmrs.push(config);
    }
    // SYSINIT_DONE is left for good here, so that the cells are empty.
    if module.tdmrs.set(TdmrTable::new(tdmrs)).is_ok() && module.global_key.set(global_key).is_ok() {
        let units = call.hw.connect().map_or(&[][..], ConnectHardware::units);
        module.connect.get_or_init(|| Connect::new(module.rules.connect, units));
        module.opted_in.store(opted_in.bits(), Ordering::Release);
        module.set_state(ModuleState::SysConfigDone);
    }
    Ok(Status::SUCCESS)
}

/// The add-on features that version 1 enables. Extensions come with the features that need them:
/// their own bit has no effect.
fn opt_in(call: &Call<'_>, regs: &Registers) -> Result<Features0, Exit> {
    let rules = &call.module.rules;
    if call.version == 0 {
        return Ok(Features0::EMPTY);
    }
    // TDH.SYS.CONFIG-25
    if call.version > LAST_VERSION && rules.has(Switch::SysConfig25) {
        return Err(invalid(OperandId::RAX));
    }
    let features = Features0::from_bits(regs.r9);
    // TDH.SYS.CONFIG-26
    if !rules.features0.contains(features) && rules.has(Switch::SysConfig26) {
        return Err(invalid(OperandId::R9));
    }
    // TDH.SYS.CONFIG-27
    if regs.r10 != 0 && rules.has(Switch::SysConfig27) {
        return Err(invalid(OperandId::R10));
    }
    // TDH.SYS.CONFIG-28
    if regs.r11 == 0 && rules.has(Switch::SysConfig28) {
        return Err(invalid(OperandId::R11));
    }
    Ok(features.difference(Features0::EXT))
}
