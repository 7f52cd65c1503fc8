//! Whether a report speaks of nothing but the memory of its interface.

use super::{MmioRange, Report};

/// A window of an interface: what a BAR of its function decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Number of the BAR.
    pub id: u16,
    /// First address.
    pub start: u64,
    /// Size in bytes.
    pub size: u64,
}

/// What a report says of memory that is not so. Ranges count from 0, in the report's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeFault {
    /// A range belongs to a window that the function does not have.
    #[error("MMIO range {range} belongs to BAR {id}, which the function does not have")]
    NoWindow {
        /// The range.
        range: usize,
        /// The window.
        id: u16,
    },
    /// A range goes beyond its window.
    #[error("MMIO range {range} is not inside BAR {id}")]
    Outside {
        /// The range.
        range: usize,
        /// The window.
        id: u16,
    },
    /// Two ranges share a page.
    #[error("MMIO ranges {first} and {second} overlap")]
    Overlap {
        /// The first of them.
        first: usize,
        /// The other one.
        second: usize,
    },
}

impl Report {
    /// Checks the ranges against the windows of the function. `offset` is the reporting offset of the
    /// lock.
    pub fn check(&self, windows: &[Window], offset: u64) -> Result<(), RangeFault> {
        for (range, mmio) in self.ranges.iter().enumerate() {
            let id = mmio.id;
            let window =
                windows.iter().find(|window| window.id == id).ok_or(RangeFault::NoWindow { range, id })?;
            let first = mmio.first_page.wrapping_sub(offset).wrapping_sub(window.start);
            if first.checked_add(bytes(mmio)).is_none_or(|end| end > window.size) {
                return Err(RangeFault::Outside { range, id });
            }
        }
        for (second, later) in self.ranges.iter().enumerate() {
            let earlier = self.ranges.iter().take(second).position(|earlier| overlap(earlier, later));
            if let Some(first) = earlier {
                return Err(RangeFault::Overlap { first, second });
            }
        }
        Ok(())
    }
}

const fn bytes(range: &MmioRange) -> u64 {
    range.pages as u64 * MmioRange::PAGE
}

/// Whether two ranges inside their windows, none of which wraps around, share a page.
const fn overlap(a: &MmioRange, b: &MmioRange) -> bool {
    let behind = b.first_page.wrapping_sub(a.first_page);
    let before = a.first_page.wrapping_sub(b.first_page);
    behind < bytes(a) || before < bytes(b)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::super::RangeAttributes;
    use super::*;

    const OFFSET: u64 = 0xffff_ffff_8000_0000;
    const WINDOWS: [Window; 2] = [
        Window { id: 0, start: 0x8000_0000, size: 0x1_0000 },
        Window { id: 2, start: 0x9000_0000, size: 0x4000 },
    ];

    fn check(ranges: &[(u64, u32, u16)]) -> Result<(), RangeFault> {
        let of = |&(first_page, pages, id): &(u64, u32, u16)| MmioRange {
            first_page,
            pages,
            attributes: RangeAttributes::default(),
            id,
        };
        let ranges: Vec<_> = ranges.iter().map(of).collect();
        Report { ranges, ..Report::default() }.shifted(OFFSET).check(&WINDOWS, OFFSET)
    }

    #[test]
    fn ranges_inside_their_windows_that_share_nothing_are_believed() {
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&[(0x8000_0000, 1, 0), (0x8000_1000, 15, 0), (0x9000_0000, 4, 2)]), Ok(()));
    }

    #[test]
    fn a_range_beyond_its_window_or_of_none_is_named() {
        let outside = |range, id| Err(RangeFault::Outside { range, id });
        assert_eq!(check(&[(0x8000_0000, 17, 0)]), outside(0, 0));
        assert_eq!(check(&[(0x8000_0000, 1, 0), (0x8000_f000, 2, 0)]), outside(1, 0));
        assert_eq!(check(&[(0x7fff_f000, 1, 0)]), outside(0, 0));
        assert_eq!(check(&[(0x9000_0000, 1, 0)]), outside(0, 0));
        assert_eq!(check(&[(0x9000_0000, u32::MAX, 2)]), outside(0, 2));
        assert_eq!(check(&[(0x8000_0000, 1, 1)]), Err(RangeFault::NoWindow { range: 0, id: 1 }));
    }

    #[test]
    fn ranges_that_share_a_page_are_named_both() {
        let overlap = |first, second| Err(RangeFault::Overlap { first, second });
        assert_eq!(check(&[(0x8000_0000, 2, 0), (0x8000_1000, 1, 0)]), overlap(0, 1));
        assert_eq!(check(&[(0x8000_4000, 1, 0), (0x9000_0000, 1, 2), (0x8000_3000, 2, 0)]), overlap(0, 2));
        assert_eq!(check(&[(0x9000_0000, 1, 2), (0x9000_0000, 1, 2)]), overlap(0, 1));
    }
}
