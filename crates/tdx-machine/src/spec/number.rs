//! Numbers as people write them: sizes with units, addresses and register values in hexadecimal.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Bytes. Written as an integer or as text with a unit: `"64 GiB"`, `"512 MiB"`, `"4 KiB"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl Size {
    /// A size in GiB; saturates.
    pub const fn gib(count: u64) -> Self {
        Self(count.saturating_mul(1 << 30))
    }

    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (digits, factor) = UNITS
            .iter()
            .find_map(|&(unit, factor)| Some((text.strip_suffix(unit)?.trim_end(), factor)))
            .unwrap_or((text, 1));
        parse_u64(digits)?.checked_mul(factor).map(Self)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `UNITS` ends with the unit 1, which divides everything.
        let unit = UNITS.iter().find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor));
        match unit {
            Some((unit, factor)) => write!(f, "{} {unit}", self.0 / factor),
            None => f.write_str("0 B"),
        }
    }
}

/// An address or a register value. Written as an integer or as text: `"0x100000000"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hex(pub u64);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A number in decimal or, with `0x`, in hexadecimal; underscores may group digits.
pub(crate) fn parse_u64(text: &str) -> Option<u64> {
    let text = text.trim();
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    // from_str_radix would take a sign.
    if !digits.starts_with(|first: char| first.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(&digits.replace('_', ""), radix).ok()
}

struct NumberVisitor {
    expected: &'static str,
    parse: fn(&str) -> Option<u64>,
}

impl Visitor<'_> for NumberVisitor {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<u64, E> {
        Ok(value)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<u64, E> {
        u64::try_from(value).map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
        (self.parse)(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let visitor = NumberVisitor {
            expected: "a size: an integer number of bytes, or text such as \"64 GiB\" (B, KiB, MiB, GiB, TiB)",
            parse: |text| Size::parse(text).map(|size| size.0),
        };
        deserializer.deserialize_any(visitor).map(Self)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let visitor = NumberVisitor {
            expected: "a number: an integer, or text such as \"0x100000000\"",
            parse: parse_u64,
        };
        deserializer.deserialize_any(visitor).map(Self)
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Maps whose keys are numbers in text: `{ "0x122" = "0x3" }`.
pub(super) mod msr_map {
    use std::collections::BTreeMap;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Hex, parse_u64};

    pub(in crate::spec) fn serialize<S: Serializer>(
        map: &BTreeMap<u32, Hex>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(map.iter().map(|(index, value)| (format!("{index:#x}"), value)))
    }

    pub(in crate::spec) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<u32, Hex>, D::Error> {
        BTreeMap::<String, Hex>::deserialize(deserializer)?
            .into_iter()
            .map(|(key, value)| {
                let index = parse_u64(&key).and_then(|index| u32::try_from(index).ok());
                Ok((
                    index.ok_or_else(|| {
                        D::Error::custom(format!("`{key}` is not an MSR index such as \"0x122\""))
                    })?,
                    value,
                ))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_take_units_and_hexadecimal() {
        for (text, bytes) in [
            ("64 GiB", 64 << 30),
            ("4KiB", 4096),
            ("24 TiB", 24 << 40),
            ("0x1000", 4096),
            ("1_000 B", 1000),
            ("7", 7),
        ] {
            assert_eq!(Size::parse(text), Some(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn sizes_refuse_signs_fractions_and_overflow() {
        for text in ["-1", "+1", "1.5 GiB", "GiB", "", "64 GB", "16777216 TiB", "0x", "_1"] {
            assert_eq!(Size::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_printed_size_parses_back(bytes: u64) {
            prop_assert_eq!(Size::parse(&Size(bytes).to_string()), Some(Size(bytes)));
            prop_assert_eq!(parse_u64(&Hex(bytes).to_string()), Some(bytes));
        }
    }
}
