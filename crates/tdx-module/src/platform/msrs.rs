//! MSRs that SYS.INIT samples and SYS.LP.INIT compares.

use tdx_abi::msr::MsrIndex;

use crate::hardware::{Hardware, LpIndex};

/// IA32_SMRR2_PHYSBASE.
pub(crate) const SMRR2_BASE: MsrIndex = MsrIndex(0x1F6);
/// IA32_SMRR2_PHYSMASK.
pub(crate) const SMRR2_MASK: MsrIndex = MsrIndex(0x1F7);

/// VMX capability MSRs, in the order in which they are checked and compared.
pub(crate) const VMX: [MsrIndex; 13] = [
    MsrIndex::IA32_VMX_BASIC,
    MsrIndex::IA32_VMX_TRUE_PINBASED_CTLS,
    MsrIndex::IA32_VMX_TRUE_PROCBASED_CTLS,
    MsrIndex::IA32_VMX_PROCBASED_CTLS2,
    MsrIndex::IA32_VMX_PROCBASED_CTLS3,
    MsrIndex::IA32_VMX_TRUE_EXIT_CTLS,
    MsrIndex::IA32_VMX_TRUE_ENTRY_CTLS,
    MsrIndex::IA32_VMX_MISC,
    MsrIndex::IA32_VMX_EPT_VPID_CAP,
    MsrIndex::IA32_VMX_CR0_FIXED0,
    MsrIndex::IA32_VMX_CR0_FIXED1,
    MsrIndex::IA32_VMX_CR4_FIXED0,
    MsrIndex::IA32_VMX_CR4_FIXED1,
];

/// MTRR capabilities and SMRRs.
pub(crate) const SMRR: [MsrIndex; 5] = [
    MsrIndex::IA32_MTRRCAP,
    MsrIndex::IA32_SMRR_PHYSBASE,
    MsrIndex::IA32_SMRR_PHYSMASK,
    SMRR2_BASE,
    SMRR2_MASK,
];

/// Key management.
pub(crate) const ENCRYPTION: [MsrIndex; 5] = [
    MsrIndex::IA32_TME_CAPABILITY,
    MsrIndex::IA32_TME_ACTIVATE,
    MsrIndex::IA32_MKTME_KEYID_PARTITIONING,
    MsrIndex::MSR_WBINVDP,
    MsrIndex::MSR_WBNOINVDP,
];

const OTHERS: [MsrIndex; 7] = [
    MsrIndex::IA32_CORE_CAPABILITIES,
    MsrIndex::IA32_ARCH_CAPABILITIES,
    MsrIndex::IA32_MISC_PACKAGE_CTLS,
    MsrIndex::IA32_XAPIC_DISABLE_STATUS,
    MsrIndex::IA32_TSC_ADJUST,
    MsrIndex::IA32_PERF_CAPABILITIES,
    MsrIndex::IA32_TSX_CTRL,
];

/// Values of the compared MSRs on the LP that ran SYS.INIT; `None` where RDMSR faults.
#[derive(Clone, Debug)]
pub(crate) struct SampledMsrs(Vec<(MsrIndex, Option<u64>)>);

impl SampledMsrs {
    pub(crate) fn read(hw: &dyn Hardware, lp: LpIndex) -> Self {
        let all = VMX.iter().chain(&SMRR).chain(&ENCRYPTION).chain(&OTHERS);
        Self(all.map(|&msr| (msr, hw.rdmsr(lp, msr))).collect())
    }

    /// The value; 0 for one that the CPU does not have, which fails every check of a set bit.
    pub(crate) fn value(&self, msr: MsrIndex) -> u64 {
        self.sampled(msr).unwrap_or(0)
    }

    pub(crate) fn sampled(&self, msr: MsrIndex) -> Option<u64> {
        self.0.iter().find(|(sampled, _)| *sampled == msr).and_then(|(_, value)| *value)
    }

    /// The first of `msrs` that `lp` reads differently.
    pub(crate) fn first_difference(
        &self,
        hw: &dyn Hardware,
        lp: LpIndex,
        msrs: &[MsrIndex],
    ) -> Option<MsrIndex> {
        msrs.iter().copied().find(|&msr| hw.rdmsr(lp, msr) != self.sampled(msr))
    }
}
