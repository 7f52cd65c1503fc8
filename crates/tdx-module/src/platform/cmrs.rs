//! The CMR list of MCHECK.

use tdx_abi::addr::PAGE_SIZE;
use tdx_abi::{AddressLayout, PhysAddr, PhysRange};

use crate::hardware::CmrEntry;

/// The CMRs of the list, in their places; `None` if the list breaks a rule: an entry that
/// overflows, has KeyID bits, is not 4 KiB aligned, or is not above the one before it.
pub(crate) fn check(list: &[CmrEntry], layout: AddressLayout) -> Option<Vec<PhysRange>> {
    let mut ranges: Vec<PhysRange> = Vec::new();
    for entry in list.iter().filter(|entry| entry.size != 0) {
        let range = PhysRange::from_size(PhysAddr::new(entry.base), entry.size)?;
        let last = PhysAddr::new(range.end().as_u64() - 1);
        let plain = |address: PhysAddr| address.as_u64() & !layout.address_mask() == 0;
        let aligned = range.start().is_aligned(PAGE_SIZE) && range.end().is_aligned(PAGE_SIZE);
        let ascending = ranges.last().is_none_or(|previous| previous.end() <= range.start());
        if !plain(range.start()) || !plain(last) || !aligned || !ascending {
            return None;
        }
        ranges.push(range);
    }
    Some(ranges)
}

/// The same memory with touching ranges joined.
pub(crate) fn joined(ranges: &[PhysRange]) -> Vec<PhysRange> {
    let mut joined: Vec<PhysRange> = Vec::new();
    for range in ranges {
        let merged = joined
            .last()
            .filter(|last| last.end() == range.start())
            .and_then(|last| PhysRange::new(last.start(), range.end()));
        match (joined.last_mut(), merged) {
            (Some(last), Some(merged)) => *last = merged,
            _ => joined.push(*range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(list: &[(u64, u64)]) -> Option<Vec<PhysRange>> {
        let list: Vec<_> = list.iter().map(|&(base, size)| CmrEntry { base, size }).collect();
        check(&list, AddressLayout::new(52, 6).expect("a layout"))
    }

    #[test]
    fn a_list_is_aligned_ascending_and_below_the_keyid() {
        assert!(checked(&[(0x1000, 0x1000), (0x2000, 0x1000), (0, 0)]).is_some());
        assert!(checked(&[]).is_some());
        for bad in [
            &[(u64::MAX - 0xFFF, 0x2000)][..],
            &[(1 << 46, 0x1000)],
            &[((1 << 46) - 0x1000, 0x2000)],
            &[(1 << 52, 0x1000)],
            &[(0x1800, 0x1000)],
            &[(0x1000, 0x800)],
            &[(0x3000, 0x1000), (0x1000, 0x1000)],
            &[(0x1000, 0x2000), (0x2000, 0x1000)],
        ] {
            assert!(checked(bad).is_none(), "{bad:x?}");
        }
        assert!(checked(&[((1 << 46) - 0x1000, 0x1000)]).is_some());
    }

    #[test]
    fn touching_ranges_count_as_one() {
        let ranges = checked(&[(0x1000, 0x1000), (0x2000, 0x1000), (0x4000, 0x1000)]).expect("valid");
        let joined: Vec<_> =
            joined(&ranges).iter().map(|range| (range.start().as_u64(), range.size())).collect();
        assert_eq!(joined, [(0x1000, 0x2000), (0x4000, 0x1000)]);
    }
}
