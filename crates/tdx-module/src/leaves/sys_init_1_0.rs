//! TDH.SYS.INIT of TDX 1.0.

use tdx_abi::Registers;
use tdx_abi::msr::MsrIndex;
use tdx_abi::status::{OperandId, Status, StatusCode};

use crate::call::{Call, Exit, invalid};
use crate::checks::Switch;
use crate::leaves::sys_init::{PERF_CAP_FULL_WIDTH_WRITE, finish, incorrect_msr, refused, sample, wanted};
use crate::leaves::{ARCH_CAP_TSX_CTRL, MISC_ENABLE_LIMIT_CPUID, TSX_CTRL_CPUID_CLEAR, TSX_CTRL_RTM_DISABLE};
use crate::metadata::{Facts, MetadataTable};
use crate::module::ModuleState;
use crate::platform::msrs::SampledMsrs;
use crate::platform::{cpuid, smrrs, vmx};

/// Bits 0, 1, 3, 5, 6, 8, 10 and 11 of IA32_ARCH_CAPABILITIES.
const ARCH_CAP_NEEDED: u64 = 0xD6B;
/// Bits 12 to 15, since 1.0.03.
const ARCH_CAP_NEEDED_1_0_03: u64 = 0xF000;

pub(crate) fn run(call: &Call<'_>, regs: &mut Registers) -> Result<Status, Exit> {
    let rules = &call.module.rules;
    let attributes = std::mem::take(&mut regs.rcx);
    (regs.rdx, regs.r8, regs.r9, regs.r10) = (0, 0, 0, 0);
    // 1.0:TDH.SYS.INIT-1
    let _lock = call.global_exclusive()?;
    // 1.0:TDH.SYS.INIT-2
    if attributes != 0 {
        return Err(invalid(OperandId::RCX));
    }
    // 1.0:TDH.SYS.INIT-3
    if call.module.state() != ModuleState::SysInitPending {
        return Err(StatusCode::SYS_INIT_NOT_PENDING.into());
    }
    let msrs = SampledMsrs::read(call.hw, call.lp);
    let misc = call.hw.rdmsr(call.lp, MsrIndex::IA32_MISC_ENABLE).unwrap_or(0);
    let limited = misc & MISC_ENABLE_LIMIT_CPUID != 0;
    // 1.0:TDH.SYS.INIT-4
    if limited && rules.has(Switch::V10SysInit4) {
        return Err(StatusCode::BOOT_NT4_SET.into());
    }
    let arch = msrs.value(MsrIndex::IA32_ARCH_CAPABILITIES);
    // 1.0:TDH.SYS.INIT-5
    if arch & ARCH_CAP_NEEDED != ARCH_CAP_NEEDED {
        return Err(incorrect_msr(MsrIndex::IA32_ARCH_CAPABILITIES));
    }
    // 1.0:TDH.SYS.INIT-5@1.0.03
    if arch & ARCH_CAP_NEEDED_1_0_03 != ARCH_CAP_NEEDED_1_0_03 && rules.has(Switch::V10SysInit5At1003) {
        return Err(incorrect_msr(MsrIndex::IA32_ARCH_CAPABILITIES));
    }
    // 1.0:TDH.SYS.INIT-6
    let tsx_off = TSX_CTRL_RTM_DISABLE | TSX_CTRL_CPUID_CLEAR;
    if rules.has(Switch::V10SysInit6)
        && arch & ARCH_CAP_TSX_CTRL != 0
        && msrs.value(MsrIndex::IA32_TSX_CTRL) & tsx_off != 0
    {
        return Err(incorrect_msr(MsrIndex::IA32_TSX_CTRL));
    }
    // 1.0:TDH.SYS.INIT-7
    if limited && rules.has(Switch::V10SysInit7) {
        return Err(StatusCode::BOOT_NT4_SET.into());
    }
    // 1.0:TDH.SYS.INIT-8
    let cpuid = cpuid::sample(call.hw, call.lp, rules).map_err(|refusal| refused(refusal, regs))?;
    // 1.0:TDH.SYS.INIT-9
    if let Some(msr) = vmx::first_refused(&msrs, wanted(rules, &cpuid, false)) {
        return Err(incorrect_msr(msr));
    }
    // 1.0:TDH.SYS.INIT-10 to 1.0:TDH.SYS.INIT-13
    let mut platform = sample(call, msrs, cpuid)?;
    // 1.0:TDH.SYS.INIT-14
    let mcheck = call.hw.mcheck();
    smrrs::check(&platform.msrs, mcheck.smrr2_unsupported, &mcheck.cmrs)?;
    // 1.0:TDH.SYS.INIT-15
    if platform.msrs.value(MsrIndex::IA32_PERF_CAPABILITIES) & PERF_CAP_FULL_WIDTH_WRITE == 0 {
        return Err(incorrect_msr(MsrIndex::IA32_PERF_CAPABILITIES));
    }
    // 1.0:TDH.SYS.INIT-16
    if call.hw.random(call.lp).is_none() {
        return Err(StatusCode::SYS_BUSY.into());
    }
    platform.metadata = MetadataTable::new(rules, &Facts { mcheck, cpuid: &platform.cpuid });
    Ok(finish(call, platform))
}
