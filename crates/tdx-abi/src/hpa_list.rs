//! HPA_LIST_INFO: a list of 4 KiB pages handed over through one list page.

use bitfield_struct::bitfield;

use crate::addr::{PAGE_SIZE, PhysAddr};

/// Most addresses that one list page holds.
pub const HPA_LIST_MAX: usize = 512;

/// Operand that names a list page and the entries of it that are used.
///
/// Bits 11:3 first entry, 51:12 page frame of the list page, 63:55 last entry. The list page
/// holds up to 512 64-bit page addresses.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct HpaListInfo {
    #[bits(3)]
    pub reserved_low: u8,
    /// Index of the first entry.
    #[bits(9)]
    pub first_entry: u16,
    /// Page frame number of the list page.
    #[bits(40)]
    pub page_frame: u64,
    #[bits(3)]
    pub reserved_high: u8,
    /// Index of the last entry: the count minus one.
    #[bits(9)]
    pub last_entry: u16,
}

/// Why an HPA list cannot be described.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HpaListError {
    /// The list page is not 4 KiB aligned or lies beyond 52 bits.
    #[error("list page {0} is not a 4 KiB aligned address below 2^52")]
    Address(PhysAddr),
    /// The list holds no page or more than 512.
    #[error("a list page holds 1 to 512 addresses, not {0}")]
    Count(usize),
}

impl HpaListInfo {
    /// Describes the first `count` entries of the list page at `list`.
    pub fn of(list: PhysAddr, count: usize) -> Result<Self, HpaListError> {
        if !list.is_aligned(PAGE_SIZE) || list.as_u64() >> 52 != 0 {
            return Err(HpaListError::Address(list));
        }
        let last = match u16::try_from(count) {
            Ok(count @ 1..=512) => count - 1,
            _ => return Err(HpaListError::Count(count)),
        };
        Ok(Self::new().with_page_frame(list.as_u64() / PAGE_SIZE).with_last_entry(last))
    }

    /// Address of the list page.
    pub fn list(&self) -> PhysAddr {
        PhysAddr::new(self.page_frame() * PAGE_SIZE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_described_by_frame_and_last_entry() {
        for count in [1, 2, 512] {
            let info = HpaListInfo::of(PhysAddr::new(0x12_3000), count).unwrap();
            assert_eq!(info.list(), PhysAddr::new(0x12_3000));
            assert_eq!(usize::from(info.last_entry()) + 1, count);
            assert_eq!(info.into_bits(), 0x12_3000 | ((count as u64 - 1) << 55));
        }
    }

    #[test]
    fn a_list_that_does_not_fit_is_refused() {
        let page = PhysAddr::new(0x1000);
        assert_eq!(HpaListInfo::of(page, 0), Err(HpaListError::Count(0)));
        assert_eq!(HpaListInfo::of(page, 513), Err(HpaListError::Count(513)));
        let odd = PhysAddr::new(0x1008);
        assert_eq!(HpaListInfo::of(odd, 1), Err(HpaListError::Address(odd)));
        let far = PhysAddr::new(1 << 52);
        assert_eq!(HpaListInfo::of(far, 1), Err(HpaListError::Address(far)));
    }
}
