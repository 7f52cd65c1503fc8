//! CMR_INFO: a convertible memory range, memory that TDX may use (16 bytes).

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::addr::{PhysAddr, PhysRange};

/// Most CMRs a platform has; the array always holds this many, unused ones at the end.
pub const MAX_CMRS: usize = 32;

/// One convertible memory range as MCHECK reports it. Size 0 marks an unused entry.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct CmrInfo {
    /// First address.
    pub base: U64,
    /// Bytes.
    pub size: U64,
}

const _: () = assert!(size_of::<CmrInfo>() == 16);

impl CmrInfo {
    /// The entry of a range.
    pub fn from_range(range: PhysRange) -> Self {
        Self { base: range.start().as_u64().into(), size: range.size().into() }
    }

    /// The range; `None` if the entry leaves 64 bits.
    pub fn range(&self) -> Option<PhysRange> {
        PhysRange::from_size(PhysAddr::new(self.base.get()), self.size.get())
    }
}
