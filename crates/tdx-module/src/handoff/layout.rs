//! Layout of the hand-off area: a header and the data of hand-off versions 0 and 1. What version 2 adds is
//! in `connect`.
//!
//! Offsets are those of the public sources of 1.5.01 and 2.0. Two arrangements are assumed: the
//! order of the fields inside an entry of the TDMR table, of which only size and content are
//! known, and that version 0 ends right behind the package bitmap, without padding.

use core::mem::{offset_of, size_of};

use tdx_abi::tdmr::{MAX_RESERVED_AREAS, MAX_TDMRS, ReservedArea};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Entries of the key ownership table.
pub(crate) const KEY_IDS: usize = 2048;
/// Packages of the write-back table.
pub(crate) const PACKAGES: usize = 8;

/// What lies before the data (8 bytes).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub(crate) struct RawHeader {
    /// 1 from SYS.SHUTDOWN until SYS.UPDATE has taken the data over.
    pub(crate) valid: u8,
    pub(crate) reserved: u8,
    /// Hand-off version.
    pub(crate) version: U16,
    /// Bytes of the data, the header left out.
    pub(crate) size: U32,
}

/// One KeyID of the key ownership table (8 bytes).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub(crate) struct KotEntry {
    /// Bit per package that still needs TDH.PHYMEM.CACHE.WB.
    pub(crate) packages: U32,
    pub(crate) state: u8,
    pub(crate) reserved: [u8; 3],
}

/// One package of the write-back table (2064 bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct WbtEntry {
    /// Where an interrupted cycle goes on.
    pub(crate) interrupted_at: U64,
    /// 1 for each KeyID that was FLUSHED when the cycle started.
    pub(crate) flushed: [u8; KEY_IDS],
    /// Free in hand-off data: no LP is inside the module.
    pub(crate) lock: u8,
    pub(crate) reserved: [u8; 7],
}

impl WbtEntry {
    /// A package on which no cycle ever ran.
    pub(crate) const IDLE: Self =
        Self { interrupted_at: U64::ZERO, flushed: [0; KEY_IDS], lock: 0, reserved: [0; 7] };
}

/// One TDMR with its progress (320 bytes). The fields of TDMR_INFO, PAMT sizes in pages, so that
/// the progress has room; this arrangement is assumed.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub(crate) struct TdmrEntry {
    pub(crate) base: U64,
    pub(crate) size: U64,
    /// First bytes of the PAMT areas: 1G, 2M, 4K.
    pub(crate) pamt_bases: [U64; 3],
    /// Their 4 KiB pages.
    pub(crate) pamt_pages: [U32; 3],
    pub(crate) reserved: U32,
    /// Bytes of the TDMR whose metadata are initialised, from the base.
    pub(crate) initialised: U64,
    pub(crate) areas: [ReservedArea; MAX_RESERVED_AREAS],
}

/// Data of hand-off version 0.
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct DataV0 {
    pub(crate) kot: [KotEntry; KEY_IDS],
    pub(crate) wbt: [WbtEntry; PACKAGES],
    pub(crate) tdmrs: [TdmrEntry; MAX_TDMRS],
    pub(crate) tdmr_count: U32,
    pub(crate) global_key: U16,
    /// Bit per package whose global key is programmed.
    pub(crate) packages: U32,
}

/// What hand-off version 1 puts behind the data of version 0.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub(crate) struct TailV1 {
    /// 1 if dynamic PAMT is on.
    pub(crate) dynamic_pamt: u8,
    /// TDs that are being built.
    pub(crate) td_builds: U16,
    /// Migration calls that were interrupted and not resumed.
    pub(crate) interrupted_migrations: U16,
}

/// Data of hand-off version 1.
#[derive(Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct DataV1 {
    pub(crate) v0: DataV0,
    pub(crate) tail: TailV1,
}

/// Bytes of the header.
pub(crate) const HEADER_SIZE: usize = size_of::<RawHeader>();

/// Offset in the area of something at `offset` in the data.
const fn in_area(offset: usize) -> usize {
    HEADER_SIZE + offset
}

const _: () = {
    assert!(HEADER_SIZE == 8);
    assert!(size_of::<KotEntry>() == 8);
    assert!(offset_of!(KotEntry, state) == 4);
    assert!(size_of::<WbtEntry>() == 2064);
    assert!(offset_of!(WbtEntry, flushed) == 8);
    assert!(offset_of!(WbtEntry, lock) == 2056);
    assert!(size_of::<TdmrEntry>() == 320);
    assert!(offset_of!(TdmrEntry, initialised) == 56);
    assert!(in_area(offset_of!(DataV0, kot)) == 0x0008);
    assert!(in_area(offset_of!(DataV0, wbt)) == 0x4008);
    assert!(in_area(offset_of!(DataV0, tdmrs)) == 0x8088);
    assert!(in_area(offset_of!(DataV0, tdmr_count)) == 0xD088);
    assert!(in_area(offset_of!(DataV0, global_key)) == 0xD08C);
    assert!(in_area(offset_of!(DataV0, packages)) == 0xD08E);
    assert!(in_area(size_of::<DataV0>()) == 0xD092);
    let tail = in_area(offset_of!(DataV1, tail));
    assert!(tail + offset_of!(TailV1, dynamic_pamt) == 0xD092);
    assert!(tail + offset_of!(TailV1, td_builds) == 0xD093);
    assert!(tail + offset_of!(TailV1, interrupted_migrations) == 0xD095);
    assert!(in_area(size_of::<DataV1>()) == 0xD097);
};
