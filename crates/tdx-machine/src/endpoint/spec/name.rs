//! Values that a file names: algorithms, versions, functions.

use std::fmt;
use std::str::FromStr;

use pcie::FunctionId;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use spdm::algo::{AeadAlgo, AsymAlgo, DheGroup, HashAlgo};
use spdm::ids::Version;

/// A value that stands in a file as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named<T>(pub T);

/// How a value is written.
pub trait Text: Sized {
    /// What is expected where one stands.
    const EXPECTED: &'static str;
    /// The value of `text`.
    fn read(text: &str) -> Option<Self>;
    /// The text of the value.
    fn write(&self) -> String;
}

macro_rules! table {
    ($type:ty, $expected:literal, { $($name:literal => $value:path,)* }) => {
        impl Text for $type {
            const EXPECTED: &'static str = $expected;

            fn read(text: &str) -> Option<Self> {
                match text {
                    $($name => Some($value),)*
                    _ => None,
                }
            }

            fn write(&self) -> String {
                [$(($value, $name),)*]
                    .into_iter()
                    .find(|(value, _)| value == self)
                    .map_or_else(|| format!("{self:?}"), |(_, name)| name.to_owned())
            }
        }
    };
}

table!(Version, "\"1.2\" or \"1.3\"", { "1.2" => Version::V1_2, "1.3" => Version::V1_3, });
table!(HashAlgo, "\"sha-256\" or \"sha-384\"", {
    "sha-256" => HashAlgo::Sha256,
    "sha-384" => HashAlgo::Sha384,
});
table!(AsymAlgo, "\"ecdsa-p256\" or \"ecdsa-p384\"", {
    "ecdsa-p256" => AsymAlgo::EcdsaP256,
    "ecdsa-p384" => AsymAlgo::EcdsaP384,
});
table!(DheGroup, "\"secp256r1\" or \"secp384r1\"", {
    "secp256r1" => DheGroup::Secp256r1,
    "secp384r1" => DheGroup::Secp384r1,
});
table!(AeadAlgo, "\"aes-128-gcm\" or \"aes-256-gcm\"", {
    "aes-128-gcm" => AeadAlgo::Aes128Gcm,
    "aes-256-gcm" => AeadAlgo::Aes256Gcm,
});

impl Text for FunctionId {
    const EXPECTED: &'static str = "a function such as \"0000:3b:00.0\"";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

/// The text names nothing of the kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct UnknownName {
    /// As given.
    pub text: String,
    /// What would be right.
    pub expected: &'static str,
}

impl<T: Text> FromStr for Named<T> {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let unknown = || UnknownName { text: text.to_owned(), expected: T::EXPECTED };
        T::read(text).map(Self).ok_or_else(unknown)
    }
}

impl<T: Text> fmt::Display for Named<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.write())
    }
}

impl<T: Text> Serialize for Named<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, T: Text> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor<T>(std::marker::PhantomData<T>);

        impl<T: Text> Visitor<'_> for NameVisitor<T> {
            type Value = Named<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::EXPECTED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Named<T>, E> {
                T::read(text).map(Named).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_str(NameVisitor(std::marker::PhantomData))
    }
}
