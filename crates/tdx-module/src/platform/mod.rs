//! The machine as SYS.INIT finds it: checks, and what is kept for later.

pub(crate) mod cmrs;
pub(crate) mod cpuid;
pub(crate) mod encryption;
pub(crate) mod msrs;
pub(crate) mod smrrs;
pub(crate) mod vmx;

use tdx_abi::PhysRange;

use crate::hardware::{CpuidRegs, KeyAlgorithm};
use crate::hpa::AddressSpace;
use crate::metadata::MetadataTable;
use crate::platform::msrs::SampledMsrs;

/// SEAMOPS(SEAMREPORT) is offered.
pub(crate) const SEAMOPS_SEAMREPORT: u64 = 1 << 1;
/// SEAMDB.CLEAR, INSERT, GETREF and REPORT: what a module needs to keep TDs across an update.
pub(crate) const SEAMOPS_TD_PRESERVING: u64 = 0xF << 2;

/// Facts that TDH.SYS.INIT sampled. Written once.
#[derive(Debug)]
pub(crate) struct Platform {
    pub(crate) space: AddressSpace,
    pub(crate) msrs: SampledMsrs,
    /// CPUID, by index of the look-up table.
    pub(crate) cpuid: Vec<CpuidRegs>,
    /// IA32_TSX_CTRL hid RTM and HLE while CPUID was sampled.
    pub(crate) tsx_hidden: bool,
    pub(crate) seamops: u64,
    pub(crate) algorithm: KeyAlgorithm,
    /// CMRs, touching ones joined.
    pub(crate) memory: Vec<PhysRange>,
    pub(crate) metadata: MetadataTable,
}
