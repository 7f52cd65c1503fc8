//! TDH.SYS.LP.INIT of TDX 1.0.

use tdx_abi::Registers;
use tdx_abi::msr::MsrIndex;
use tdx_abi::status::{Status, StatusCode};

use crate::call::{Call, Exit};
use crate::leaves::ARCH_CAP_TSX_CTRL;
use crate::leaves::sys_init::incorrect_msr;
use crate::leaves::sys_lp_init::{check_package, compare, compare_cpuid, cpuid_is_limited, finish};
use crate::module::ModuleState;
use crate::platform::{SEAMOPS_SEAMREPORT, msrs};

pub(crate) fn run(call: &Call<'_>, regs: &mut Registers) -> Result<Status, Exit> {
    (regs.rcx, regs.rdx, regs.r8) = (0, 0, 0);
    // 1.0:TDH.SYS.LP.INIT-1
    let _lock = call.global_shared()?;
    // 1.0:TDH.SYS.LP.INIT-2
    if call.module.state() != ModuleState::SysInitDone {
        return Err(StatusCode::SYS_LP_INIT_NOT_PENDING.into());
    }
    // 1.0:TDH.SYS.LP.INIT-3
    if call.slot.is_initialised() {
        return Err(StatusCode::SYS_LP_INIT_DONE.into());
    }
    // 1.0:TDH.SYS.LP.INIT-4
    if call.hw.random(call.lp).is_none_or(|seed| seed == 0) {
        return Err(StatusCode::SYS_BUSY.into());
    }
    let platform = call.module.platform()?;
    // 1.0:TDH.SYS.LP.INIT-5
    if call.hw.seamops_capabilities(call.lp) & SEAMOPS_SEAMREPORT == 0 {
        return Err(StatusCode::SEAMREPORT_NOT_AVAILABLE.into());
    }
    // 1.0:TDH.SYS.LP.INIT-6
    compare(call, platform, &[MsrIndex::IA32_CORE_CAPABILITIES, MsrIndex::IA32_ARCH_CAPABILITIES])?;
    if platform.msrs.value(MsrIndex::IA32_ARCH_CAPABILITIES) & ARCH_CAP_TSX_CTRL != 0 {
        compare(call, platform, &[MsrIndex::IA32_TSX_CTRL])?;
    }
    // 1.0:TDH.SYS.LP.INIT-7
    if cpuid_is_limited(call) {
        return Err(StatusCode::BOOT_NT4_SET.into());
    }
    // 1.0:TDH.SYS.LP.INIT-8
    compare_cpuid(call, platform, regs)?;
    // 1.0:TDH.SYS.LP.INIT-9
    check_package(call)?;
    // 1.0:TDH.SYS.LP.INIT-10
    compare(call, platform, &[MsrIndex::IA32_TSC_ADJUST])?;
    // 1.0:TDH.SYS.LP.INIT-11
    compare(call, platform, &msrs::SMRR)?;
    // 1.0:TDH.SYS.LP.INIT-12
    compare(call, platform, &msrs::VMX)?;
    // 1.0:TDH.SYS.LP.INIT-13
    let perf = [MsrIndex::IA32_PERF_CAPABILITIES];
    if let Some(msr) = platform.msrs.first_difference(call.hw, call.lp, &perf) {
        return Err(incorrect_msr(msr));
    }
    // 1.0:TDH.SYS.LP.INIT-14
    compare(call, platform, &msrs::ENCRYPTION)?;
    Ok(finish(call))
}
