//! System management ranges: they must be locked and keep away from convertible memory.

use tdx_abi::msr::MsrIndex;
use tdx_abi::status::{Status, StatusCode};
use tdx_abi::{PhysAddr, PhysRange};

use crate::hardware::CmrEntry;
use crate::platform::msrs::{SMRR2_BASE, SMRR2_MASK, SampledMsrs};

const CAP_SMRR: u64 = 1 << 11;
const CAP_SMRR2: u64 = 1 << 13;
const CAP_LOCK: u64 = 1 << 14;
const MASK_LOCK: u64 = 1 << 10;
const MASK_VALID: u64 = 1 << 11;
/// SMRRs lie below 4 GiB in units of 4 KiB.
const ADDRESS: u64 = 0xFFFF_F000;

/// Rows 24 to 28 of TDH.SYS.INIT.
pub(crate) fn check(msrs: &SampledMsrs, smrr2_unsupported: bool, cmrs: &[CmrEntry]) -> Result<(), Status> {
    let capabilities = msrs.value(MsrIndex::IA32_MTRRCAP);
    // TDH.SYS.INIT-24
    if capabilities & CAP_SMRR == 0 {
        return Err(StatusCode::SMRR_NOT_SUPPORTED.plain());
    }
    // TDH.SYS.INIT-25
    if capabilities & CAP_LOCK == 0 {
        return Err(StatusCode::SMRR_LOCK_NOT_SUPPORTED.plain());
    }
    let mut smrrs = vec![(0, MsrIndex::IA32_SMRR_PHYSBASE, MsrIndex::IA32_SMRR_PHYSMASK)];
    if !smrr2_unsupported && capabilities & CAP_SMRR2 != 0 {
        smrrs.push((1, SMRR2_BASE, SMRR2_MASK));
    }
    // TDH.SYS.INIT-26
    for &(index, _, mask) in &smrrs {
        if msrs.value(mask) & MASK_LOCK == 0 {
            return Err(StatusCode::SMRR_NOT_LOCKED.with_detail(index));
        }
    }
    for &(index, base, mask) in &smrrs {
        let (base, mask) = (msrs.value(base), msrs.value(mask));
        if mask & MASK_VALID == 0 {
            continue;
        }
        // TDH.SYS.INIT-27
        let range = range(base & ADDRESS, mask & ADDRESS)
            .ok_or_else(|| StatusCode::INVALID_SMRR_CONFIGURATION.with_detail(index))?;
        // TDH.SYS.INIT-28
        for (cmr, entry) in (0u32..).zip(cmrs) {
            let memory = PhysRange::from_size(PhysAddr::new(entry.base), entry.size);
            if memory.is_some_and(|memory| memory.overlaps(range)) {
                return Err(StatusCode::SMRR_OVERLAPS_CMR.with_detail(index | cmr << 8));
            }
        }
    }
    Ok(())
}

/// The range of a base and a mask; `None` for a mask with holes or a base not aligned to the size.
fn range(base: u64, mask: u64) -> Option<PhysRange> {
    let size = (!mask & u64::from(u32::MAX)) + 1;
    if mask == 0 || !size.is_power_of_two() || base & !mask != 0 {
        return None;
    }
    PhysRange::from_size(PhysAddr::new(base), size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_without_holes_gives_the_size() {
        assert_eq!(range(0x7000_0000, 0xF800_0000).map(PhysRange::size), Some(0x800_0000));
        assert_eq!(range(0x7000_0000, 0xF000_F000), None);
        assert_eq!(range(0x7000_1000, 0xF800_0000), None);
        assert_eq!(range(0, 0), None);
        assert_eq!(range(0, 0xFFFF_F000).map(PhysRange::size), Some(0x1000));
    }
}
