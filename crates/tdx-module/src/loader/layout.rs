//! How much of the SEAM range a module needs.
//!
//! The sum is that of the public 1.0 source; page tables, and the size of the P-SEAMLDR itself,
//! are assumed.

use tdx_abi::addr::SIZE_2M;
use tdx_abi::{PAGE_SIZE, PhysAddr, PhysRange};
use tdx_image::Sigstruct;

use crate::hardware::{CpuidRegs, McheckInfo};

/// What the P-SEAMLDR keeps of the top of the SEAM range.
const LOADER_SIZE: u64 = SIZE_2M;
/// Bytes that one page of a page table maps.
const TABLE_REACH: u64 = SIZE_2M;
/// Pages of the upper levels of the page tables: one tree for each of the five regions (code, data,
/// stacks, keyholes, SYSINFO), three levels each.
const UPPER_TABLES: u64 = 15;

/// LPs for which the SEAM VMCS array has room: what shares the L3 by CPUID.4.3 EAX[25:14] + 1,
/// rounded up to a power of two, in each socket.
fn addressable_lps(mcheck: &McheckInfo, l3: CpuidRegs) -> u64 {
    let sharing = u64::from(l3.eax >> 14 & 0xFFF) + 1;
    sharing.next_power_of_two() * u64::from(mcheck.packages)
}

/// Bytes of everything that a module has in the SEAM range.
pub(super) fn needed(module: &Sigstruct, mcheck: &McheckInfo, l3: CpuidRegs, keeps_handoff: bool) -> u64 {
    let lps = u64::from(mcheck.total_lps);
    // A shadow stack takes one page.
    let stack = u64::from(module.stack_pages()) + 1;
    let tls = u64::from(module.tls_pages());
    let has_handoff = keeps_handoff && module.svn().major != 0;
    let handoff = if has_handoff { u64::from(module.handoff_pages()) } else { 0 };
    let data = u64::from(module.global_data_pages()) + handoff;
    let backed = 1 + addressable_lps(mcheck, l3) + lps * (stack + tls) + data;
    // The keyholes have addresses and no memory.
    let mapped = backed + lps * u64::from(module.keyhole_pages()) + SIZE_2M / PAGE_SIZE;
    let tables = (mapped * PAGE_SIZE).div_ceil(TABLE_REACH) + UPPER_TABLES;
    (backed + tables) * PAGE_SIZE + SIZE_2M
}

/// Bytes below the P-SEAMLDR.
pub(super) fn room(mcheck: &McheckInfo) -> u64 {
    mcheck.seamrr.size().saturating_sub(LOADER_SIZE)
}

/// The P-SEAMLDR itself, at the top of the SEAM range.
pub(super) fn loader_range(mcheck: &McheckInfo) -> PhysRange {
    let (seamrr, size) = (mcheck.seamrr, mcheck.seamrr.size().min(LOADER_SIZE));
    PhysRange::from_size(PhysAddr::new(seamrr.end().as_u64() - size), size).unwrap_or_default()
}
