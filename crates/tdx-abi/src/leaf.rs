//! Leaf numbers of SEAMCALL, P-SEAMLDR calls, TDCALL and TDG.VP.VMCALL, and the RAX of a call.

use crate::generated::leaf::{SEAMCALL, SEAMLDR, TDCALL, VMCALL};
pub use crate::generated::leaf::{SeamcallLeaf, SeamldrLeaf, TdcallLeaf, VmcallLeaf};
use core::fmt;

/// How well a fact is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Seen in module sources or in Linux.
    Certain,
    /// Taken from an earlier interface or from a name, believed unchanged.
    Inferred,
    /// Nothing public; chosen by this project.
    Assumed,
    /// From the public GHCI document only.
    Ghci,
    /// Public sources contradict each other.
    Conflict,
}

/// What is known of a leaf.
#[derive(Clone, Copy, Debug)]
pub struct LeafInfo<L: 'static> {
    /// The leaf.
    pub leaf: L,
    /// Its name, such as "TDH.SYS.INIT".
    pub name: &'static str,
    /// Names of the same number in other releases.
    pub aliases: &'static [&'static str],
    /// How well the number is known.
    pub basis: Basis,
    /// One sentence on what it does.
    pub meaning: &'static str,
}

/// Finds `text` among full names, or among names without the part before the first dot (the
/// interface), without regard to case. Full names and current ones win over aliases.
fn find<L: Copy>(table: &'static [LeafInfo<L>], text: &str, interface: &str) -> Option<L> {
    let matches = |name: &str| {
        name.eq_ignore_ascii_case(text)
            || name.get(..interface.len()).is_some_and(|start| start.eq_ignore_ascii_case(interface))
                && name.get(interface.len()..).is_some_and(|rest| rest.eq_ignore_ascii_case(text))
    };
    table
        .iter()
        .find(|info| matches(info.name))
        .or_else(|| table.iter().find(|info| info.aliases.iter().any(|alias| matches(alias))))
        .map(|info| info.leaf)
}

macro_rules! leaf_tables {
    ($($leaf:ident, $table:ident, $interface:literal;)*) => { $(
        impl $leaf {
            /// The leaf with this name, without regard to case, with or without the interface in
            /// front of it.
            pub fn from_name(text: &str) -> Option<Self> {
                find($table, text, $interface)
            }

            /// What is known of the leaf.
            pub fn info(self) -> Option<&'static LeafInfo<Self>> {
                let index = $table.binary_search_by_key(&self, |info| info.leaf).ok()?;
                $table.get(index)
            }
        }
    )* };
}

leaf_tables! {
    SeamcallLeaf, SEAMCALL, "TDH.";
    SeamldrLeaf, SEAMLDR, "SEAMLDR.";
    TdcallLeaf, TDCALL, "TDG.";
    VmcallLeaf, VMCALL, "Instruction.";
}

/// RAX of a call: leaf (bits 15:0), version (23:16), reserved (62:24), and bit 63, which sends a
/// SEAMCALL to the P-SEAMLDR instead of the TDX module.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct LeafWord(u64);

impl LeafWord {
    const SEAMLDR: u64 = 1 << 63;
    const VERSION_SHIFT: u32 = 16;
    const RESERVED: u64 = !(Self::SEAMLDR | 0xFF_FFFF);

    /// A call to the TDX module.
    pub fn module(leaf: SeamcallLeaf, version: u8) -> Self {
        Self(u64::from(leaf.0) | u64::from(version) << Self::VERSION_SHIFT)
    }

    /// A call to the P-SEAMLDR.
    pub fn seamldr(leaf: SeamldrLeaf) -> Self {
        Self(u64::from(leaf.0) | Self::SEAMLDR)
    }

    /// A guest call to the TDX module.
    pub fn guest(leaf: TdcallLeaf, version: u8) -> Self {
        Self(u64::from(leaf.0) | u64::from(version) << Self::VERSION_SHIFT)
    }

    /// Any value of RAX.
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The value of RAX.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Bits 15:0, to be read as [`SeamcallLeaf`], [`SeamldrLeaf`] or [`TdcallLeaf`].
    pub const fn leaf(self) -> u16 {
        let [low, high, ..] = self.0.to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    /// Bits 23:16.
    pub const fn version(self) -> u8 {
        let [_, _, version, ..] = self.0.to_le_bytes();
        version
    }

    /// Bits 62:24 in their place; must be 0.
    pub const fn reserved(self) -> u64 {
        self.0 & Self::RESERVED
    }

    /// Bit 63: the call goes to the P-SEAMLDR.
    pub const fn is_seamldr(self) -> bool {
        self.0 & Self::SEAMLDR != 0
    }
}

impl fmt::Debug for LeafWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_seamldr() {
            write!(f, "{}", SeamldrLeaf(self.leaf()))?;
        } else {
            write!(f, "{}", SeamcallLeaf(self.leaf()))?;
        }
        if self.version() != 0 {
            write!(f, " v{}", self.version())?;
        }
        if self.reserved() != 0 {
            write!(f, " reserved {:#x}", self.reserved())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::format;

    #[test]
    fn leaves_have_the_numbers_of_the_interface() {
        for (leaf, number, name) in [
            (SeamcallLeaf::VP_ENTER, 0, "TDH.VP.ENTER"),
            (SeamcallLeaf::MNG_CREATE, 9, "TDH.MNG.CREATE"),
            (SeamcallLeaf::SYS_KEY_CONFIG, 31, "TDH.SYS.KEY.CONFIG"),
            (SeamcallLeaf::SYS_INFO, 32, "TDH.SYS.INFO"),
            (SeamcallLeaf::SYS_INIT, 33, "TDH.SYS.INIT"),
            (SeamcallLeaf::SYS_RD, 34, "TDH.SYS.RD"),
            (SeamcallLeaf::SYS_LP_INIT, 35, "TDH.SYS.LP.INIT"),
            (SeamcallLeaf::SYS_TDMR_INIT, 36, "TDH.SYS.TDMR.INIT"),
            (SeamcallLeaf::SYS_RDALL, 37, "TDH.SYS.RDALL"),
            (SeamcallLeaf::SYS_CONFIG, 45, "TDH.SYS.CONFIG"),
            (SeamcallLeaf::SYS_DISABLE, 69, "TDH.SYS.DISABLE"),
            (SeamcallLeaf::IDE_STREAM_KM, 135, "TDH.IDE.STREAM.KM"),
        ] {
            assert_eq!((leaf.0, leaf.name()), (number, Some(name)));
        }
        assert_eq!(TdcallLeaf::VP_INFO.0, 1);
        assert_eq!(VmcallLeaf::MAP_GPA.0, 0x10001);
    }

    #[test]
    fn names_are_found_without_regard_to_case_with_and_without_the_interface() {
        for text in ["TDH.SYS.RD", "tdh.sys.rd", "SYS.RD", "sys.rd"] {
            assert_eq!(SeamcallLeaf::from_name(text), Some(SeamcallLeaf::SYS_RD), "{text}");
        }
        for text in ["", "SYS", "TDH.", "TDG.SYS.RD", "SYS.RD ", "é"] {
            assert_eq!(SeamcallLeaf::from_name(text), None, "{text}");
        }
        assert_eq!(SeamldrLeaf::from_name("info"), Some(SeamldrLeaf::INFO));
        assert_eq!(TdcallLeaf::from_name("VP.INFO"), Some(TdcallLeaf::VP_INFO));
        assert_eq!(VmcallLeaf::from_name("mapgpa"), Some(VmcallLeaf::MAP_GPA));
        assert_eq!(VmcallLeaf::from_name("CPUID"), Some(VmcallLeaf::INSTRUCTION_CPUID));
    }

    #[test]
    fn names_of_other_releases_find_the_same_number() {
        assert_eq!(SeamcallLeaf::from_name("TDH.IOMMU.SETREG"), Some(SeamcallLeaf::IOMMU_SETUP));
        assert_eq!(TdcallLeaf::from_name("TDG.DEVIF.RD"), Some(TdcallLeaf::TDI_RD));
    }

    #[test]
    fn every_leaf_is_described_and_found_by_its_name() {
        for &leaf in SeamcallLeaf::ALL {
            let info = leaf.info().expect("described");
            assert_eq!(Some(info.name), leaf.name());
            assert_eq!(SeamcallLeaf::from_name(info.name), Some(leaf));
            assert!(info.meaning.ends_with('.'));
        }
        for &leaf in TdcallLeaf::ALL {
            assert_eq!(leaf.info().map(|info| info.leaf), Some(leaf));
        }
        for &leaf in SeamldrLeaf::ALL {
            assert_eq!(leaf.info().map(|info| info.leaf), Some(leaf));
        }
        for &leaf in VmcallLeaf::ALL {
            assert_eq!(leaf.info().map(|info| info.leaf), Some(leaf));
        }
        assert!(SeamcallLeaf(0x7FFF).info().is_none());
    }

    #[test]
    fn an_unknown_leaf_prints_its_number() {
        assert_eq!(format!("{}", SeamcallLeaf(0x7FFF)), "0x7fff");
        assert_eq!(format!("{:?}", LeafWord::from_raw(0x0102_7FFF)), "0x7fff v2 reserved 0x1000000");
        assert_eq!(format!("{:?}", LeafWord::module(SeamcallLeaf::SYS_INIT, 1)), "TDH.SYS.INIT v1");
    }

    #[test]
    fn bit_63_selects_the_loader() {
        assert_eq!(LeafWord::seamldr(SeamldrLeaf::INSTALL).raw(), 0x8000_0000_0000_0001);
        assert!(LeafWord::seamldr(SeamldrLeaf::INFO).is_seamldr());
        assert!(!LeafWord::module(SeamcallLeaf::VP_ENTER, 0).is_seamldr());
    }

    #[test]
    fn reserved_bits_are_24_to_62() {
        for bit in 0..64 {
            let word = LeafWord::from_raw(1 << bit);
            assert_eq!(word.reserved() != 0, (24..63).contains(&bit), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn a_leaf_word_is_the_sum_of_its_parts(raw: u64) {
            let word = LeafWord::from_raw(raw);
            let module = LeafWord::module(SeamcallLeaf(word.leaf()), word.version()).raw();
            prop_assert_eq!(
                module | word.reserved() | u64::from(word.is_seamldr()) << 63,
                raw
            );
        }
    }
}
