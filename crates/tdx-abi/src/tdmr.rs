//! TDMR_INFO: a range of memory handed to the TDX module, the place of its PAMT and the areas in
//! it that stay with the host (320 bytes, 512-byte aligned).

use core::mem::offset_of;

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::addr::{PageLevel, SIZE_1G};

/// Reserved areas that one TDMR_INFO holds.
pub const MAX_RESERVED_AREAS: usize = 16;
/// Most TDMRs that TDH.SYS.CONFIG takes.
pub const MAX_TDMRS: usize = 64;
/// Alignment of each TDMR_INFO in memory, in bytes.
pub const TDMR_INFO_ALIGN: u64 = 512;
/// Alignment of a TDMR's base and size, in bytes.
pub const TDMR_ALIGN: u64 = SIZE_1G;
/// Bytes of a PAMT entry at every level.
pub const PAMT_ENTRY_SIZE: u64 = 16;

/// A part of a TDMR that stays with the host. Size 0 ends the list.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ReservedArea {
    /// Bytes from the TDMR's base, a multiple of 4 KiB.
    pub offset: U64,
    /// Bytes, a multiple of 4 KiB.
    pub size: U64,
}

/// The TDMR_INFO structure.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct TdmrInfo {
    /// Base, a multiple of 1 GiB, KeyID bits 0.
    pub base: U64,
    /// Bytes, a multiple of 1 GiB, not 0.
    pub size: U64,
    /// First byte of the 1G level of the PAMT, 4 KiB aligned.
    pub pamt_1g_base: U64,
    /// Bytes of it, at least 16 for each GiB.
    pub pamt_1g_size: U64,
    /// First byte of the 2M level.
    pub pamt_2m_base: U64,
    /// Bytes of it, at least 16 for each 2 MiB.
    pub pamt_2m_size: U64,
    /// First byte of the 4K level.
    pub pamt_4k_base: U64,
    /// Bytes of it, at least 16 for each 4 KiB.
    pub pamt_4k_size: U64,
    /// Areas that stay with the host, ascending and disjoint.
    pub reserved: [ReservedArea; MAX_RESERVED_AREAS],
}

const _: () = {
    assert!(size_of::<TdmrInfo>() == 320);
    assert!(offset_of!(TdmrInfo, pamt_1g_base) == 16);
    assert!(offset_of!(TdmrInfo, pamt_2m_base) == 32);
    assert!(offset_of!(TdmrInfo, pamt_4k_base) == 48);
    assert!(offset_of!(TdmrInfo, reserved) == 64);
};

impl TdmrInfo {
    /// Base and size of the PAMT of `level`.
    pub fn pamt(&self, level: PageLevel) -> (u64, u64) {
        match level {
            PageLevel::Size4K => (self.pamt_4k_base.get(), self.pamt_4k_size.get()),
            PageLevel::Size2M => (self.pamt_2m_base.get(), self.pamt_2m_size.get()),
            PageLevel::Size1G => (self.pamt_1g_base.get(), self.pamt_1g_size.get()),
        }
    }

    /// Sets base and size of the PAMT of `level`.
    pub fn set_pamt(&mut self, level: PageLevel, base: u64, size: u64) {
        let (base_field, size_field) = match level {
            PageLevel::Size4K => (&mut self.pamt_4k_base, &mut self.pamt_4k_size),
            PageLevel::Size2M => (&mut self.pamt_2m_base, &mut self.pamt_2m_size),
            PageLevel::Size1G => (&mut self.pamt_1g_base, &mut self.pamt_1g_size),
        };
        base_field.set(base);
        size_field.set(size);
    }
}
