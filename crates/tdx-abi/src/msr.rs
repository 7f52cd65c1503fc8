//! Model specific registers that checks of the module, a host or a guest name.

use crate::generated::msr::MSRS;
pub use crate::generated::msr::MsrIndex;

/// What is known of an MSR, or of a range of like ones.
#[derive(Clone, Copy, Debug)]
pub struct MsrInfo {
    /// First index.
    pub first: MsrIndex,
    /// Last index, equal to the first for a single MSR.
    pub last: MsrIndex,
    /// Name, with a lower case x for the number within a range.
    pub name: &'static str,
    /// One sentence on what it holds.
    pub meaning: &'static str,
}

impl MsrIndex {
    /// What is known of the MSR; ranges are searched too.
    pub fn info(self) -> Option<&'static MsrInfo> {
        MSRS.iter().find(|info| (info.first..=info.last).contains(&self))
    }

    /// The single MSR with this name, without regard to case.
    pub fn from_name(name: &str) -> Option<Self> {
        MSRS.iter()
            .find(|info| info.first == info.last && info.name.eq_ignore_ascii_case(name))
            .map(|info| info.first)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::format;

    #[test]
    fn msrs_have_the_numbers_of_the_architecture() {
        for (msr, number) in [
            (MsrIndex::IA32_MKTME_KEYID_PARTITIONING, 0x87),
            (MsrIndex::IA32_TSX_CTRL, 0x122),
            (MsrIndex::IA32_VMX_BASIC, 0x480),
            (MsrIndex::IA32_TME_ACTIVATE, 0x982),
            (MsrIndex::IA32_SEAMRR_PHYS_BASE, 0x1400),
            (MsrIndex::IA32_SEAMRR_PHYS_MASK, 0x1401),
        ] {
            assert_eq!(msr.0, number);
        }
    }

    #[test]
    fn a_member_of_a_range_is_described_by_the_range() {
        let info = MsrIndex(0xC3).info().expect("in a range");
        assert_eq!((info.name, info.first), ("IA32_PMCx", MsrIndex(0xC1)));
        assert_eq!(MsrIndex(0xC3).name(), None);
        assert!(MsrIndex(0xC9).info().is_none());
    }

    #[test]
    fn every_msr_is_described_and_found_by_its_name() {
        for &msr in MsrIndex::ALL {
            let info = msr.info().expect("described");
            assert_eq!(Some(info.name), msr.name());
            assert_eq!(MsrIndex::from_name(info.name), Some(msr));
        }
        assert_eq!(MsrIndex::from_name("ia32_tsx_ctrl"), Some(MsrIndex::IA32_TSX_CTRL));
        assert_eq!(MsrIndex::from_name("IA32_PMCx"), None);
        assert_eq!(format!("{}", MsrIndex(0xFFFF)), "0xffff");
    }
}
