//! Physical addresses that a caller hands over.

use tdx_abi::{AddressLayout, KeyId, KeyIdPartitioning, PhysAddr, PhysRange};

/// What the module knows of the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressSpace {
    pub(crate) layout: AddressLayout,
    pub(crate) key_ids: KeyIdPartitioning,
    pub(crate) seamrr: PhysRange,
}

impl AddressSpace {
    /// A shared HPA: a multiple of `align` (a power of two) below MAXPA and outside SEAMRR, whose
    /// KeyID lies below the first private one.
    pub(crate) fn shared(&self, raw: u64, align: u64) -> Option<(PhysAddr, KeyId)> {
        let (pa, key) = self.layout.split(raw)?;
        let shared = self.key_ids.first_private().is_none_or(|first| key < first);
        (pa.is_aligned(align) && shared && !self.seamrr.contains(pa)).then_some((pa, key))
    }

    /// An address below the KeyID bits.
    pub(crate) fn plain(&self, raw: u64) -> Option<PhysAddr> {
        (raw & !self.layout.address_mask() == 0).then_some(PhysAddr::new(raw))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> AddressSpace {
        AddressSpace {
            layout: AddressLayout::new(52, 6).expect("a layout"),
            key_ids: KeyIdPartitioning::new(31, 32),
            seamrr: PhysRange::from_size(PhysAddr::new(0x6000_0000), 0x800_0000).expect("a range"),
        }
    }

    #[test]
    fn a_shared_address_is_aligned_below_maxpa_outside_seamrr_and_has_a_shared_keyid() {
        let shared = |raw| space().shared(raw, 512);
        assert_eq!(shared(0x1000), Some((PhysAddr::new(0x1000), KeyId::TME)));
        assert_eq!(shared(31 << 46 | 0x1000), Some((PhysAddr::new(0x1000), KeyId::new(31))));
        for bad in [0x1008, 32 << 46, 63 << 46, 1 << 52, 1 << 63, 0x6000_0000, 0x67FF_FE00] {
            assert_eq!(shared(bad), None, "{bad:#x}");
        }
        assert!(shared(0x6800_0000).is_some());
    }

    #[test]
    fn a_plain_address_has_no_keyid() {
        assert!(space().plain((1 << 46) - 1).is_some());
        assert_eq!(space().plain(1 << 46), None);
        assert_eq!(space().plain(1 << 52), None);
    }
}
