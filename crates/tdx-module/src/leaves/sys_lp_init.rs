//! TDH.SYS.LP.INIT: compares an LP with the one that ran TDH.SYS.INIT.

use std::sync::atomic::Ordering;

use tdx_abi::Registers;
use tdx_abi::msr::MsrIndex;
use tdx_abi::status::{Status, StatusCode};

use crate::call::{Call, Exit};
use crate::leaves::{ARCH_CAP_TSX_CTRL, MAX_PACKAGES, MISC_ENABLE_LIMIT_CPUID, TSX_CTRL_CPUID_CLEAR};
use crate::module::ModuleState;
use crate::platform::cpuid::{self, packed};
use crate::platform::{Platform, msrs};

/// Compared before CPUID, in this order.
const CAPABILITIES: [MsrIndex; 4] = [
    MsrIndex::IA32_CORE_CAPABILITIES,
    MsrIndex::IA32_ARCH_CAPABILITIES,
    MsrIndex::IA32_MISC_PACKAGE_CTLS,
    MsrIndex::IA32_XAPIC_DISABLE_STATUS,
];

pub(crate) fn run(call: &Call<'_>, regs: &mut Registers) -> Result<Status, Exit> {
    (regs.rcx, regs.rdx, regs.r8) = (0, 0, 0);
    // TDH.SYS.LP.INIT-1
    let _lock = call.global_shared()?;
    // TDH.SYS.LP.INIT-2
    if call.module.state() != ModuleState::SysInitDone {
        return Err(StatusCode::SYS_LP_INIT_NOT_PENDING.into());
    }
    // TDH.SYS.LP.INIT-3
    if call.slot.is_initialised() {
        return Err(StatusCode::SYS_LP_INIT_DONE.into());
    }
    // TDH.SYS.LP.INIT-4
    if call.hw.random(call.lp).is_none_or(|seed| seed == 0) {
        return Err(StatusCode::RND_NO_ENTROPY.into());
    }
    let platform = call.module.platform()?;
    // TDH.SYS.LP.INIT-5
    if call.hw.seamops_capabilities(call.lp) != platform.seamops {
        return Err(StatusCode::INCOMPATIBLE_SEAM_CAPABILITIES.into());
    }
    // TDH.SYS.LP.INIT-6
    compare(call, platform, &CAPABILITIES)?;
    // TDH.SYS.LP.INIT-7
    if cpuid_is_limited(call) {
        return Err(StatusCode::LIMIT_CPUID_MAXVAL_SET.into());
    }
    // TDH.SYS.LP.INIT-8
    compare_cpuid(call, platform, regs)?;
    // TDH.SYS.LP.INIT-9
    check_package(call)?;
    // TDH.SYS.LP.INIT-10
    compare(call, platform, &[MsrIndex::IA32_TSC_ADJUST])?;
    // TDH.SYS.LP.INIT-11
    compare(call, platform, &msrs::SMRR)?;
    // TDH.SYS.LP.INIT-12
    compare(call, platform, &msrs::VMX)?;
    // TDH.SYS.LP.INIT-13
    compare(call, platform, &[MsrIndex::IA32_PERF_CAPABILITIES])?;
    // TDH.SYS.LP.INIT-14
    compare(call, platform, &msrs::ENCRYPTION)?;
    Ok(finish(call))
}

/// INCONSISTENT_MSR for the first of `msrs` that differs from what SYS.INIT sampled.
pub(super) fn compare(call: &Call<'_>, platform: &Platform, msrs: &[MsrIndex]) -> Result<(), Exit> {
    match platform.msrs.first_difference(call.hw, call.lp, msrs) {
        None => Ok(()),
        Some(msr) => Err(StatusCode::INCONSISTENT_MSR.with_detail(msr.0).into()),
    }
}

pub(super) fn cpuid_is_limited(call: &Call<'_>) -> bool {
    let misc = call.hw.rdmsr(call.lp, MsrIndex::IA32_MISC_ENABLE);
    misc.is_some_and(|misc| misc & MISC_ENABLE_LIMIT_CPUID != 0)
}

/// INCONSISTENT_CPUID_FIELD with leaf and mask in RCX, RDX and R8.
pub(super) fn compare_cpuid(call: &Call<'_>, platform: &Platform, regs: &mut Registers) -> Result<(), Exit> {
    let read = |msr| call.hw.rdmsr(call.lp, msr).unwrap_or(0);
    let hidden_here = read(MsrIndex::IA32_ARCH_CAPABILITIES) & ARCH_CAP_TSX_CTRL != 0
        && read(MsrIndex::IA32_TSX_CTRL) & TSX_CTRL_CPUID_CLEAR != 0;
    let tsx_hidden = platform.tsx_hidden || hidden_here;
    match cpuid::first_difference(call.hw, call.lp, &platform.cpuid, tsx_hidden) {
        None => Ok(()),
        Some((entry, [eax, ebx, ecx, edx])) => {
            regs.rcx = entry.packed_id();
            (regs.rdx, regs.r8) = (packed(eax, ebx), packed(ecx, edx));
            Err(StatusCode::INCONSISTENT_CPUID_FIELD.into())
        }
    }
}

/// INVALID_PKG_ID for a package that the module's tables do not hold.
pub(super) fn check_package(call: &Call<'_>) -> Result<(), Exit> {
    match call.hw.lp(call.lp).map(|identity| identity.package.0) {
        Some(package) if package < MAX_PACKAGES => Ok(()),
        package => Err(StatusCode::INVALID_PKG_ID.with_detail(package.unwrap_or(u32::MAX)).into()),
    }
}

/// Counts the LP. The caller holds the global lock, shared: the LP itself cannot run twice.
pub(super) fn finish(call: &Call<'_>) -> Status {
    call.slot.set_initialised();
    call.module.initialised_lps.fetch_add(1, Ordering::AcqRel);
    Status::SUCCESS
}
