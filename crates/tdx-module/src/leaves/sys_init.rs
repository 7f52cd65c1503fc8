//! TDH.SYS.INIT of TDX 1.5 and later: samples and checks the platform, once, on any LP.

use tdx_abi::msr::MsrIndex;
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_abi::{AddressLayout, KeyIdPartitioning, Registers};

use crate::call::{Call, Exit, invalid};
use crate::checks::Switch;
use crate::hardware::CpuidRegs;
use crate::hpa::AddressSpace;
use crate::leaves::{ARCH_CAP_TSX_CTRL, MISC_ENABLE_LIMIT_CPUID, TSX_CTRL_CPUID_CLEAR};
use crate::metadata::{Facts, MetadataTable};
use crate::module::{ModuleState, Rules};
use crate::platform::cpuid::{self, CpuidRefusal, packed};
use crate::platform::msrs::SampledMsrs;
use crate::platform::vmx::Wanted;
use crate::platform::{Platform, SEAMOPS_TD_PRESERVING, cmrs, encryption, smrrs, vmx};

/// Address width that every module wants, KeyID included.
const MAX_PA: u8 = 52;
/// Bits 0, 1, 3, 5, 6, 8, 10 to 15 and 21 of IA32_ARCH_CAPABILITIES.
const ARCH_CAP_NEEDED: u64 = 0x20_FD6B;
const ARCH_CAP_RSBA: u64 = 1 << 2;
const ARCH_CAP_FB_CLEAR_CTRL: u64 = 1 << 18;
const PACKAGE_CTLS_ENERGY_FILTERING: u64 = 1 << 0;
/// The local APIC cannot leave x2APIC mode; the other bits are reserved.
const LEGACY_XAPIC_DISABLED: u64 = 1;
const PERF_CAP_FREEZE_WHILE_SMM: u64 = 1 << 12;
pub(super) const PERF_CAP_FULL_WIDTH_WRITE: u64 = 1 << 13;
const MISC_ENABLE_PERFMON: u64 = 1 << 7;
const MISC_ENABLE_BTS_UNAVAILABLE: u64 = 1 << 11;
const LAST_VERSION: u8 = 1;

pub(crate) fn run(call: &Call<'_>, regs: &mut Registers) -> Result<Status, Exit> {
    let rules = &call.module.rules;
    // TDH.SYS.INIT-1
    if call.version > LAST_VERSION && rules.has(Switch::SysInit1) {
        return Err(invalid(OperandId::RAX));
    }
    let attributes = std::mem::take(&mut regs.rcx);
    let diagnostics = std::mem::take(&mut regs.r8);
    (regs.rdx, regs.r9, regs.r10) = (0, 0, 0);
    // TDH.SYS.INIT-2
    let _lock = call.global_exclusive()?;
    // TDH.SYS.INIT-3
    if attributes != 0 {
        return Err(invalid(OperandId::RCX));
    }
    // TDH.SYS.INIT-4
    if call.module.state() != ModuleState::SysInitPending {
        return Err(StatusCode::SYS_INIT_NOT_PENDING.into());
    }
    let msrs = SampledMsrs::read(call.hw, call.lp);
    capabilities(call, &msrs)?;
    let cpuid = cpuid::sample(call.hw, call.lp, rules).map_err(|refusal| refused(refusal, regs))?;
    // TDH.SYS.INIT-19
    if let Some(msr) = vmx::first_refused(&msrs, wanted(rules, &cpuid, true)) {
        return Err(incorrect_msr(msr));
    }
    let mut platform = sample(call, msrs, cpuid)?;
    // TDH.SYS.INIT-24 to TDH.SYS.INIT-28
    let mcheck = call.hw.mcheck();
    smrrs::check(&platform.msrs, mcheck.smrr2_unsupported, &mcheck.cmrs)?;
    // TDH.SYS.INIT-29
    if platform.seamops & SEAMOPS_TD_PRESERVING != SEAMOPS_TD_PRESERVING {
        return Err(StatusCode::INCOMPATIBLE_SEAM_CAPABILITIES.into());
    }
    // TDH.SYS.INIT-30
    let (built, signed) = (rules.built, rules.sigstruct);
    if signed.module_hv != built.module_hv
        || signed.min_update_hv < built.min_update_hv
        || (built.no_downgrade && !signed.no_downgrade)
        || signed.pages < built.pages
    {
        return Err(StatusCode::SYS_INCOMPATIBLE_SIGSTRUCT.into());
    }
    // TDH.SYS.INIT-31
    if call.version != 0 && rules.has(Switch::SysInit31) && !diagnostics_allowed(diagnostics, &platform.space)
    {
        return Err(invalid(OperandId::R8));
    }
    // TDH.SYS.INIT-32
    if call.hw.random(call.lp).is_none() {
        return Err(StatusCode::RND_NO_ENTROPY.into());
    }
    platform.metadata = MetadataTable::new(rules, &Facts { mcheck, cpuid: &platform.cpuid });
    Ok(finish(call, platform))
}

/// Rows 5 to 9 and 33.
fn capabilities(call: &Call<'_>, msrs: &SampledMsrs) -> Result<(), Exit> {
    let rules = &call.module.rules;
    let arch = msrs.value(MsrIndex::IA32_ARCH_CAPABILITIES);
    // TDH.SYS.INIT-5
    if arch & ARCH_CAP_NEEDED != ARCH_CAP_NEEDED || arch & ARCH_CAP_RSBA != 0 {
        return Err(incorrect_msr(MsrIndex::IA32_ARCH_CAPABILITIES));
    }
    // TDH.SYS.INIT-5@1.5.05
    if arch & ARCH_CAP_FB_CLEAR_CTRL != 0 && rules.has(Switch::SysInit5At1505) {
        return Err(incorrect_msr(MsrIndex::IA32_ARCH_CAPABILITIES));
    }
    // TDH.SYS.INIT-6
    if msrs.value(MsrIndex::IA32_XAPIC_DISABLE_STATUS) != LEGACY_XAPIC_DISABLED {
        return Err(incorrect_msr(MsrIndex::IA32_XAPIC_DISABLE_STATUS));
    }
    // TDH.SYS.INIT-7
    if msrs.value(MsrIndex::IA32_MISC_PACKAGE_CTLS) & PACKAGE_CTLS_ENERGY_FILTERING == 0 {
        return Err(incorrect_msr(MsrIndex::IA32_MISC_PACKAGE_CTLS));
    }
    let perf = msrs.value(MsrIndex::IA32_PERF_CAPABILITIES);
    // TDH.SYS.INIT-8
    if perf & PERF_CAP_FULL_WIDTH_WRITE == 0 {
        return Err(incorrect_msr(MsrIndex::IA32_PERF_CAPABILITIES));
    }
    // TDH.SYS.INIT-8@1.5.05
    if perf & PERF_CAP_FREEZE_WHILE_SMM == 0 && rules.has(Switch::SysInit8At1505) {
        return Err(incorrect_msr(MsrIndex::IA32_PERF_CAPABILITIES));
    }
    let misc = call.hw.rdmsr(call.lp, MsrIndex::IA32_MISC_ENABLE).unwrap_or(0);
    // TDH.SYS.INIT-9
    if misc & MISC_ENABLE_LIMIT_CPUID != 0 {
        return Err(StatusCode::LIMIT_CPUID_MAXVAL_SET.into());
    }
    // TDH.SYS.INIT-33
    if rules.has(Switch::SysInit33)
        && (misc & MISC_ENABLE_PERFMON == 0 || misc & MISC_ENABLE_BTS_UNAVAILABLE != 0)
    {
        return Err(incorrect_msr(MsrIndex::IA32_MISC_ENABLE));
    }
    Ok(())
}

pub(super) fn incorrect_msr(msr: MsrIndex) -> Exit {
    StatusCode::INCORRECT_MSR_VALUE.with_detail(msr.0).into()
}

/// Describes the CPUID entry that was refused in RCX, RDX and R8 to R10.
pub(super) fn refused(refusal: CpuidRefusal, regs: &mut Registers) -> Exit {
    match refusal {
        CpuidRefusal::Status(status) => status.into(),
        CpuidRefusal::Value(entry) => {
            let [eax, ebx, ecx, edx] = entry.verify_mask;
            regs.rcx = entry.packed_id();
            (regs.rdx, regs.r8) = (packed(eax, ebx), packed(ecx, edx));
            let [eax, ebx, ecx, edx] = entry.verify_value;
            (regs.r9, regs.r10) = (packed(eax, ebx), packed(ecx, edx));
            StatusCode::INCORRECT_CPUID_VALUE.into()
        }
    }
}

/// What the VMX capability MSRs must offer.
pub(super) fn wanted(rules: &Rules, cpuid: &[CpuidRegs], l2: bool) -> Wanted {
    // DDPD: the CPU can turn data-dependent prefetching off through IA32_SPEC_CTRL.
    let ddpd = cpuid::sampled(cpuid, 7, 2).edx >> 3 & 1 != 0;
    Wanted {
        values: rules.profile.vmx_values,
        waitpkg: cpuid::sampled(cpuid, 7, 0).ecx >> 5 & 1 != 0,
        virtual_spec_ctrl: ddpd && rules.has(Switch::SysInit19At1505),
        l2,
    }
}

/// Rows 20 to 23: keys and convertible memory. Metadata is filled in by the caller.
pub(super) fn sample(call: &Call<'_>, msrs: SampledMsrs, cpuid: Vec<CpuidRegs>) -> Result<Platform, Exit> {
    let mcheck = call.hw.mcheck();
    let activate = msrs.value(MsrIndex::IA32_TME_ACTIVATE);
    // TDH.SYS.INIT-20
    let algorithm =
        encryption::algorithm(msrs.value(MsrIndex::IA32_TME_CAPABILITY), activate, mcheck.without_integrity)
            .map_err(incorrect_msr)?;
    let key_ids = KeyIdPartitioning::from_msr(msrs.value(MsrIndex::IA32_MKTME_KEYID_PARTITIONING));
    // TDH.SYS.INIT-21
    let limit = call.module.rules.max_key_ids();
    let highest = u64::from(key_ids.mktme_count()) + u64::from(key_ids.tdx_count());
    if highest >= u64::from(limit) {
        return Err(StatusCode::NUM_ACTIVATED_HKIDS_NOT_SUPPORTED.with_detail(limit).into());
    }
    // TDH.SYS.INIT-22
    if msrs.sampled(MsrIndex::MSR_WBNOINVDP) != msrs.sampled(MsrIndex::MSR_WBINVDP) {
        return Err(incorrect_msr(MsrIndex::MSR_WBNOINVDP));
    }
    let [.., key_bits, _, _, _] = activate.to_le_bytes();
    let cmr_list_invalid = || Exit::from(StatusCode::CMR_LIST_INVALID);
    // Four bits of the MSR: the layout always exists.
    let layout = AddressLayout::new(MAX_PA, key_bits & 0xF).ok_or_else(cmr_list_invalid)?;
    // TDH.SYS.INIT-23
    let memory = cmrs::check(&mcheck.cmrs, layout).ok_or_else(cmr_list_invalid)?;
    Ok(Platform {
        space: AddressSpace { layout, key_ids, seamrr: mcheck.seamrr },
        tsx_hidden: tsx_hidden(&msrs),
        msrs,
        cpuid,
        seamops: call.hw.seamops_capabilities(call.lp),
        algorithm,
        memory: cmrs::joined(&memory),
        metadata: MetadataTable::default(),
    })
}

fn tsx_hidden(msrs: &SampledMsrs) -> bool {
    msrs.value(MsrIndex::IA32_ARCH_CAPABILITIES) & ARCH_CAP_TSX_CTRL != 0
        && msrs.value(MsrIndex::IA32_TSX_CTRL) & TSX_CTRL_CPUID_CLEAR != 0
}

/// Keeps what was sampled and moves on to SYSINIT_DONE. The caller holds the global lock.
pub(super) fn finish(call: &Call<'_>, platform: Platform) -> Status {
    // SYSINIT_PENDING is left for good, so that the cell is empty here.
    if call.module.platform.set(platform).is_ok() {
        call.module.set_state(ModuleState::SysInitDone);
    }
    Status::SUCCESS
}

/// All ones turn diagnostics off. Else bits 51:6 are a 64-byte aligned shared HPA, and (assumed
/// places) bits 1:0 the notification: 0 none, 1 interrupt with a vector of at least 16 in bits
/// 59:52, 2 NMI, 3 SMI; the vector is 0 for the others and the remaining bits are 0.
fn diagnostics_allowed(word: u64, space: &AddressSpace) -> bool {
    if word == u64::MAX {
        return true;
    }
    let (kind, vector) = (word & 0x3, word >> 52 & 0xFF);
    let reserved = word & 0x3C != 0 || word >> 60 != 0;
    let vector_allowed = if kind == 1 { vector >= 16 } else { vector == 0 };
    !reserved && vector_allowed && space.shared(word & 0x000F_FFFF_FFFF_FFC0, 64).is_some()
}
