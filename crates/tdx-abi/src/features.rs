//! TDX_FEATURES0: what the module can do.

pub use crate::generated::features::INFO;
use crate::leaf::Basis;
use core::fmt;

/// The TDX_FEATURES0 word. Bits without a name are kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Features0(pub(crate) u64);

/// What is known of one bit.
#[derive(Clone, Copy, Debug)]
pub struct FeatureInfo {
    /// Bit number, 0 to 63.
    pub bit: u32,
    /// Name of the bit.
    pub name: &'static str,
    /// Names that other sources use for it.
    pub aliases: &'static [&'static str],
    /// How well the meaning is known.
    pub basis: Basis,
    /// One sentence on what the bit says.
    pub meaning: &'static str,
}

impl Features0 {
    /// No bit.
    pub const EMPTY: Self = Self(0);

    /// The bits of a word, known or not.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The word.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// True if no bit is set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// True if every bit of `other` is set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Bits of either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Bits of both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Bits of `self` that are not in `other`.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The known bits that are set, in ascending order.
    pub fn iter(self) -> impl Iterator<Item = &'static FeatureInfo> {
        INFO.iter().filter(move |info| self.0 >> info.bit & 1 != 0)
    }

    /// Names of the known bits that are set, in ascending order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        self.iter().map(|info| info.name)
    }

    /// The set bits that have no name.
    #[must_use]
    pub fn unknown(self) -> Self {
        INFO.iter().fold(self, |rest, info| Self(rest.0 & !(1 << info.bit)))
    }

    /// The bit with this name, without regard to case.
    pub fn from_name(name: &str) -> Option<Self> {
        let same = |other: &str| other.eq_ignore_ascii_case(name);
        INFO.iter()
            .find(|info| same(info.name) || info.aliases.iter().any(|alias| same(alias)))
            .map(|info| Self(1 << info.bit))
    }
}

impl fmt::Display for Features0 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        let mut separator = "";
        for name in self.names() {
            write!(f, "{separator}{name}")?;
            separator = " ";
        }
        let unknown = self.unknown();
        if !unknown.is_empty() {
            write!(f, "{separator}{:#x}", unknown.0)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Features0 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} ({self})", self.0)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::{format, vec::Vec};

    #[test]
    fn bits_have_the_places_of_the_interface() {
        assert_eq!(Features0::TD_PRESERVING.bits(), 0x2);
        assert_eq!(Features0::NO_RBP_MOD.bits(), 0x4_0000);
        assert_eq!(Features0::DYNAMIC_PAMT.bits(), 0x10_0000_0000);
        assert_eq!(Features0::NRX, Features0::EXT);
    }

    #[test]
    fn set_bits_are_named_and_unknown_ones_kept() {
        let features = Features0::from_bits(1 << 63 | 1 << 22 | 0x3);
        let names: Vec<_> = features.names().collect();
        assert_eq!(names, ["TD_MIGRATION", "TD_PRESERVING"]);
        assert_eq!(features.unknown().bits(), 1 << 63 | 1 << 22);
        assert_eq!(format!("{features}"), "TD_MIGRATION TD_PRESERVING 0x8000000000400000");
        assert_eq!(format!("{}", Features0::EMPTY), "none");
        assert_eq!(features.bits(), 1 << 63 | 1 << 22 | 0x3);
    }

    #[test]
    fn contains_needs_every_bit() {
        let both = Features0::TD_PRESERVING.union(Features0::NO_RBP_MOD);
        assert!(both.contains(Features0::NO_RBP_MOD));
        assert!(!Features0::NO_RBP_MOD.contains(both));
        assert!(both.contains(Features0::EMPTY));
        assert_eq!(both.difference(Features0::NO_RBP_MOD), Features0::TD_PRESERVING);
        assert_eq!(both.intersection(Features0::NO_RBP_MOD), Features0::NO_RBP_MOD);
    }

    #[test]
    fn the_table_is_ascending_and_every_name_finds_its_bit() {
        assert!(INFO.is_sorted_by(|a, b| a.bit < b.bit));
        for info in INFO {
            for name in core::iter::once(&info.name).chain(info.aliases) {
                assert_eq!(Features0::from_name(name), Some(Features0(1 << info.bit)), "{name}");
            }
        }
        assert_eq!(Features0::from_name("NO_SUCH_BIT"), None);
    }
}
