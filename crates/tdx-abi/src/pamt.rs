//! PAMT entries (16 bytes) and page types.
//!
//! Real modules keep these in memory that the host cannot read; the layout matters to models and
//! debug tools only.

use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::addr::{PAGE_SIZE, PhysAddr};
use open_enum::open_enum;

open_enum! {
    /// What a physical page is used for (PAMT entry byte 2, bits 4:0).
    pub struct PageType(u8) {
        /// Free, not given to the module.
        NDA = 0 => "PT_NDA",
        /// Inside a reserved area of a TDMR.
        RSVD = 1 => "PT_RSVD",
        /// Private page of a TD.
        REG = 3 => "PT_REG",
        /// Root page of a TD.
        TDR = 4 => "PT_TDR",
        /// Child page of a TD's or a VCPU's control structure.
        TDCX = 5 => "PT_TDCX",
        /// Root page of a VCPU.
        TDVPR = 6 => "PT_TDVPR",
        /// Child page of a VCPU in TDX 1.0.
        TDVPX = 7 => "PT_TDVPX",
        /// Secure EPT page.
        EPT = 8 => "PT_EPT",
        /// Device interface state of TDX Connect.
        DEVIFCS = 9 => "PT_DEVIFCS",
        /// Owned by the module, never given back.
        NR = 10 => "PT_NR",
        /// Metadata of a trusted IOMMU.
        IOMMU_MT = 11 => "PT_IOMMU_MT",
        /// Metadata of MMIO pages.
        MMIO_MT = 12 => "PT_MMIO_MT",
        /// Metadata of device interfaces.
        DEVIF_MT = 13 => "PT_DEVIF_MT",
        /// Used as dynamic PAMT.
        PAMT = 15 => "PT_PAMT",
    }
}

/// A PAMT entry that owns its page.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct PamtEntry {
    /// Bit 0 exclusive, bit 1 host priority, bits 15:2 number of readers.
    pub lock: U16,
    /// Page type.
    pub page_type: u8,
    /// Page frame number of the owner's TDR, 40 bits; 0 for a TDR itself and for free pages.
    pub owner: [u8; 5],
    /// Epoch of the last BLOCK.
    pub bepoch: U64,
}

const _: () = assert!(size_of::<PamtEntry>() == 16);

impl PamtEntry {
    /// The page type.
    pub fn page_type(&self) -> PageType {
        PageType(self.page_type)
    }

    /// Address of the owner's TDR.
    pub fn owner(&self) -> PhysAddr {
        let mut bytes = [0; 8];
        bytes[..5].copy_from_slice(&self.owner);
        PhysAddr::new(u64::from_le_bytes(bytes) * PAGE_SIZE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_names_its_owner_by_page_frame() {
        let mut entry = PamtEntry { page_type: PageType::EPT.0, ..PamtEntry::default() };
        entry.owner = [0x21, 0x43, 0x65, 0x87, 0x09];
        assert_eq!(entry.page_type(), PageType::EPT);
        assert_eq!(entry.owner(), PhysAddr::new(0x09_8765_4321 << 12));
    }
}
