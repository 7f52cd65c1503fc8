//! Lists of 4 KiB pages as operands.
//!
//! A list is a root page of up to 512 addresses. [`HpaListInfo`](crate::hpa_list::HpaListInfo) is the form
//! with a first entry (TDH.EXT.MEM.ADD), [`HpaArray`] the one without; an array of one page is that page
//! itself, without a root.

use crate::addr::{PAGE_SIZE, PhysAddr};
use crate::hpa_list::{HPA_LIST_MAX, HpaListError};

const FRAME_MASK: u64 = 0x000F_FFFF_FFFF_F000;
const COUNT_SHIFT: u32 = 55;

/// HPA_ARRAY_T: pages of an object or of an output buffer.
///
/// Bits 51:12 frame of the root page, or of the only page; 63:55 number of pages minus one; the rest is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HpaArray {
    first: PhysAddr,
    count: u16,
}

impl HpaArray {
    /// `count` pages whose addresses are in the root page `root`, or the one page `root` itself.
    pub const fn of(root: PhysAddr, count: usize) -> Result<Self, HpaListError> {
        if root.as_u64() & !FRAME_MASK != 0 {
            return Err(HpaListError::Address(root));
        }
        if count == 0 || count > HPA_LIST_MAX {
            return Err(HpaListError::Count(count));
        }
        #[allow(clippy::cast_possible_truncation)] // At most 512.
        let count = count as u16;
        Ok(Self { first: root, count })
    }

    /// The array that `raw` describes; `None` if a reserved bit is set.
    pub const fn from_raw(raw: u64) -> Option<Self> {
        if raw & !(FRAME_MASK | 0x1FF << COUNT_SHIFT) != 0 {
            return None;
        }
        #[allow(clippy::cast_possible_truncation)] // Nine bits.
        let last = (raw >> COUNT_SHIFT) as u16;
        Some(Self { first: PhysAddr::new(raw & FRAME_MASK), count: last + 1 })
    }

    /// The operand.
    pub const fn raw(self) -> u64 {
        #[allow(clippy::cast_lossless)]
        let last = (self.count - 1) as u64;
        self.first.as_u64() | last << COUNT_SHIFT
    }

    /// Number of pages, 1 to 512.
    pub const fn count(self) -> usize {
        self.count as usize
    }

    /// The root page; `None` for an array of one page, which has none.
    pub const fn root(self) -> Option<PhysAddr> {
        if self.count == 1 { None } else { Some(self.first) }
    }

    /// The only page of an array of one.
    pub const fn single(self) -> Option<PhysAddr> {
        if self.count == 1 { Some(self.first) } else { None }
    }
}

/// What a DELETE leaf is given for the list of the pages that it gives back: 0 for an object of one page,
/// else a page that the module overwrites with the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReleaseOperand(pub u64);

impl ReleaseOperand {
    /// The operand for an object of one page.
    pub const SINGLE: Self = Self(0);

    /// The operand for an object of more pages.
    pub const fn list(root: PhysAddr) -> Self {
        Self(root.as_u64())
    }
}

/// Entries of the root page of an IOMMU_MT: two blocks and single pages.
///
/// Entry 0 is the trusted invalidation queue, entry 1 its context block, both physically contiguous and
/// naturally aligned; single pages follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IommuBlock {
    /// First address.
    pub start: PhysAddr,
    /// Pages, a power of two of at most 128.
    pub pages: u16,
}

impl IommuBlock {
    /// Most pages of a block.
    pub const MAX_PAGES: u16 = 128;

    /// The entry. A block of one page is written without a count.
    pub const fn entry(self) -> Option<u64> {
        #[allow(clippy::cast_lossless)]
        let pages = self.pages as u64;
        let fits = self.pages.is_power_of_two() && self.pages <= Self::MAX_PAGES;
        if !fits || !self.start.is_aligned(PAGE_SIZE * pages) || self.start.as_u64() >> 52 != 0 {
            return None;
        }
        Some(if pages == 1 { self.start.as_u64() } else { self.start.as_u64() | pages })
    }

    /// The block that an entry describes; `None` if none can be like that.
    pub const fn from_entry(entry: u64) -> Option<Self> {
        let pages = match entry & 0xFFF {
            0 => 1,
            pages => pages,
        };
        if entry >> 52 != 0 || pages > Self::MAX_PAGES as u64 || !pages.is_power_of_two() {
            return None;
        }
        let start = PhysAddr::new(entry & FRAME_MASK);
        if !start.is_aligned(PAGE_SIZE * pages) {
            return None;
        }
        #[allow(clippy::cast_possible_truncation)] // At most 128.
        let pages = pages as u16;
        Some(Self { start, pages })
    }
}

/// Single pages that an IOMMU_MT has room for, the two blocks not counted.
pub const IOMMU_MT_MAX_PAGES: usize = HPA_LIST_MAX - 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_page_is_the_operand_itself_and_more_have_a_root() {
        for (count, raw) in [(1, 0x12_3000), (2, 0x12_3000 | 1 << 55), (512, 0x12_3000 | 511 << 55)] {
            let array = HpaArray::of(PhysAddr::new(0x12_3000), count).unwrap();
            assert_eq!(array.raw(), raw);
            assert_eq!(HpaArray::from_raw(raw), Some(array));
            assert_eq!(array.count(), count);
            assert_eq!(array.single().is_some(), count == 1);
            assert_eq!(array.root().is_none(), count == 1);
        }
    }

    #[test]
    fn an_array_that_does_not_fit_is_refused() {
        let page = PhysAddr::new(0x1000);
        assert_eq!(HpaArray::of(page, 0), Err(HpaListError::Count(0)));
        assert_eq!(HpaArray::of(page, 513), Err(HpaListError::Count(513)));
        for odd in [0x1008, 1 << 52] {
            let odd = PhysAddr::new(odd);
            assert_eq!(HpaArray::of(odd, 1), Err(HpaListError::Address(odd)));
        }
        for bit in [0, 11, 52, 54] {
            assert_eq!(HpaArray::from_raw(1 << bit), None, "bit {bit}");
        }
    }

    #[test]
    fn a_block_of_one_page_has_no_count() {
        for (pages, start, entry) in [(1, 0x1000, 0x1000), (2, 0x2000, 0x2002), (128, 0x8_0000, 0x8_0080)] {
            let block = IommuBlock { start: PhysAddr::new(start), pages };
            assert_eq!(block.entry(), Some(entry));
            assert_eq!(IommuBlock::from_entry(entry), Some(block));
        }
        for (pages, start) in [(0, 0), (3, 0), (256, 0), (2, 0x1000), (1, 0x1800), (1, 1 << 52)] {
            assert_eq!(
                IommuBlock { start: PhysAddr::new(start), pages }.entry(),
                None,
                "{pages} at {start:#x}"
            );
        }
        for entry in [0x1002, 3, 0x100, 1 << 52] {
            assert_eq!(IommuBlock::from_entry(entry), None, "{entry:#x}");
        }
    }
}
