//! Physical addresses, page levels and the place of the KeyID inside an address.

use core::fmt;

use crate::keyid::KeyId;

/// Bytes of a 4 KiB page.
pub const PAGE_SIZE: u64 = 4096;
/// Bytes of a 2 MiB range.
pub const SIZE_2M: u64 = 1 << 21;
/// Bytes of a 1 GiB range, the granularity of a TDMR.
pub const SIZE_1G: u64 = 1 << 30;
/// Bytes of a cache line, the unit of TD-owner and poison state.
pub const LINE_SIZE: u64 = 64;

/// A host physical address without KeyID bits, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct PhysAddr(u64);

impl PhysAddr {
    /// An address from its number.
    pub const fn new(address: u64) -> Self {
        Self(address)
    }

    /// The number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// True if the address is a multiple of `align`, a power of two.
    pub const fn is_aligned(self, align: u64) -> bool {
        self.0 & (align - 1) == 0
    }

    /// The address rounded down to a multiple of `align`, a power of two.
    #[must_use]
    pub const fn align_down(self, align: u64) -> Self {
        Self(self.0 & !(align - 1))
    }

    /// The address rounded up to a multiple of `align`, a power of two; `None` beyond 2^64.
    #[must_use]
    pub const fn align_up(self, align: u64) -> Option<Self> {
        match self.0.checked_add(align - 1) {
            Some(sum) => Some(Self(sum & !(align - 1))),
            None => None,
        }
    }

    /// The address `bytes` further; `None` beyond 2^64.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// Bytes from `base` up to this address; `None` if `base` lies above.
    pub const fn offset_from(self, base: Self) -> Option<u64> {
        self.0.checked_sub(base.0)
    }
}

impl fmt::Debug for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A half-open range of physical addresses, `[start, end)`. Never inverted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PhysRange {
    start: PhysAddr,
    end: PhysAddr,
}

impl PhysRange {
    /// The range `[start, end)`; `None` if `end` lies below `start`.
    pub const fn new(start: PhysAddr, end: PhysAddr) -> Option<Self> {
        if end.0 < start.0 { None } else { Some(Self { start, end }) }
    }

    /// The range of `size` bytes from `start`; `None` if it leaves 64 bits.
    pub const fn from_size(start: PhysAddr, size: u64) -> Option<Self> {
        match start.checked_add(size) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// First address.
    pub const fn start(self) -> PhysAddr {
        self.start
    }

    /// First address behind the range.
    pub const fn end(self) -> PhysAddr {
        self.end
    }

    /// Bytes.
    pub const fn size(self) -> u64 {
        self.end.0 - self.start.0
    }

    /// True if the range holds no byte.
    pub const fn is_empty(self) -> bool {
        self.start.0 == self.end.0
    }

    /// True if `address` lies inside.
    pub const fn contains(self, address: PhysAddr) -> bool {
        self.start.0 <= address.0 && address.0 < self.end.0
    }

    /// True if every byte of `other` lies inside (an empty range always does).
    pub const fn covers(self, other: Self) -> bool {
        other.is_empty() || (self.start.0 <= other.start.0 && other.end.0 <= self.end.0)
    }

    /// The bytes both ranges share; `None` if there are none.
    pub fn intersection(self, other: Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let end = self.end.min(other.end);
        (start < end).then_some(Self { start, end })
    }

    /// True if both ranges share a byte.
    pub fn overlaps(self, other: Self) -> bool {
        self.intersection(other).is_some()
    }
}

impl fmt::Debug for PhysRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:#x}, {:#x})", self.start.0, self.end.0)
    }
}

impl fmt::Display for PhysRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Level of a page or of a table entry that maps one: a page of level L has 2^(12+9L) bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PageLevel {
    /// 4 KiB.
    Size4K = 0,
    /// 2 MiB.
    Size2M = 1,
    /// 1 GiB.
    Size1G = 2,
}

impl PageLevel {
    /// All levels that a PAMT knows, smallest first.
    pub const ALL: [Self; 3] = [Self::Size4K, Self::Size2M, Self::Size1G];

    /// Bytes of a page of this level.
    pub const fn size(self) -> u64 {
        match self {
            Self::Size4K => PAGE_SIZE,
            Self::Size2M => SIZE_2M,
            Self::Size1G => SIZE_1G,
        }
    }

    /// The number used in registers and status details.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The level of a number from a register; `None` for one that no PAMT level has.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Size4K),
            1 => Some(Self::Size2M),
            2 => Some(Self::Size1G),
            _ => None,
        }
    }
}

impl fmt::Display for PageLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Size4K => "4K",
            Self::Size2M => "2M",
            Self::Size1G => "1G",
        })
    }
}

/// Where the KeyID sits in a physical address: bits `maxpa - 1` down to `maxpa - keyid_bits`.
///
/// `maxpa` is CPUID 0x80000008 EAX\[7:0\], `keyid_bits` is IA32_TME_ACTIVATE\[35:32\].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressLayout {
    maxpa: u8,
    keyid_bits: u8,
}

impl AddressLayout {
    /// A layout; `None` unless `12 < maxpa - keyid_bits` and `maxpa <= 52`.
    pub const fn new(maxpa: u8, keyid_bits: u8) -> Option<Self> {
        if maxpa > 52 || keyid_bits > 15 || maxpa <= 12 + keyid_bits {
            return None;
        }
        Some(Self { maxpa, keyid_bits })
    }

    /// Width of a physical address in bits, KeyID included.
    pub const fn maxpa(self) -> u8 {
        self.maxpa
    }

    /// Number of KeyID bits.
    pub const fn keyid_bits(self) -> u8 {
        self.keyid_bits
    }

    /// Mask of the KeyID bits.
    pub const fn keyid_mask(self) -> u64 {
        let all = (1u64 << self.maxpa) - 1;
        all & !self.address_mask()
    }

    /// Mask of the bits below the KeyID.
    pub const fn address_mask(self) -> u64 {
        (1u64 << (self.maxpa - self.keyid_bits)) - 1
    }

    /// Splits an address with KeyID bits; `None` if bits above `maxpa` are set.
    pub const fn split(self, raw: u64) -> Option<(PhysAddr, KeyId)> {
        if raw >> self.maxpa != 0 {
            return None;
        }
        let number = (raw & self.keyid_mask()) >> (self.maxpa - self.keyid_bits);
        // `keyid_bits` is at most 15, so the number fits.
        #[allow(clippy::cast_possible_truncation)]
        let key = KeyId::new(number as u16);
        Some((PhysAddr(raw & self.address_mask()), key))
    }

    /// Joins an address and a KeyID; `None` if either does not fit.
    pub fn join(self, address: PhysAddr, key: KeyId) -> Option<u64> {
        let number = u64::from(key.number());
        if address.0 & !self.address_mask() != 0 || number >> self.keyid_bits != 0 {
            return None;
        }
        Some(address.0 | (number << (self.maxpa - self.keyid_bits)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_layout_must_leave_room_for_page_addresses() {
        assert!(AddressLayout::new(52, 6).is_some());
        assert!(AddressLayout::new(53, 6).is_none());
        assert!(AddressLayout::new(18, 6).is_none());
        assert!(AddressLayout::new(19, 6).is_some());
    }

    #[test]
    fn ranges_are_never_inverted() {
        let (low, high) = (PhysAddr::new(1), PhysAddr::new(2));
        assert!(PhysRange::new(low, high).is_some());
        assert!(PhysRange::new(high, low).is_none());
        assert!(PhysRange::from_size(high, u64::MAX).is_none());
    }

    proptest! {
        #[test]
        fn split_undoes_join(address in 0u64..1 << 46, key in 0u16..64) {
            let layout = AddressLayout::new(52, 6).unwrap();
            let raw = layout.join(PhysAddr::new(address), KeyId::new(key)).unwrap();
            prop_assert_eq!(layout.split(raw), Some((PhysAddr::new(address), KeyId::new(key))));
        }

        #[test]
        fn the_intersection_lies_in_both(a in 0u64..100, b in 0u64..100, c in 0u64..100, d in 0u64..100) {
            let make = |x: u64, y: u64| PhysRange::new(PhysAddr::new(x.min(y)), PhysAddr::new(x.max(y))).unwrap();
            let (one, two) = (make(a, b), make(c, d));
            if let Some(both) = one.intersection(two) {
                prop_assert!(one.covers(both) && two.covers(both) && !both.is_empty());
            } else {
                prop_assert!(!one.overlaps(two));
            }
        }
    }
}
