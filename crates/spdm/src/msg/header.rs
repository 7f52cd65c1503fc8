use crate::ids::{SlotId, Version};
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

use super::zero;

/// The first four bytes of every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Version of the message.
    pub version: Version,
    /// Request or response code.
    pub code: u8,
    /// First parameter, whose meaning depends on the code.
    pub param1: u8,
    /// Second parameter.
    pub param2: u8,
}

impl Header {
    /// Size in bytes.
    pub const SIZE: usize = 4;

    /// The header that `bytes` begin with, nothing checked but its length.
    pub fn peek(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::read(&mut Reader::new(bytes))
    }

    /// Takes the header off.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let [version, code, param1, param2] = reader.array("the message header")?;
        Ok(Self { version: Version(version), code, param1, param2 })
    }

    /// Takes the header of the message `code` off, which must be of that version.
    pub(super) fn expect(reader: &mut Reader<'_>, version: Version, code: u8) -> Result<Self, DecodeError> {
        let header = Self::read(reader)?;
        if header.code != code {
            return Err(DecodeError::Code { found: header.code, expected: code });
        }
        if header.version != version {
            return Err(DecodeError::Version { found: header.version.0, expected: version.0 });
        }
        Ok(header)
    }

    /// The same for a message whose parameters are reserved.
    pub(super) fn expect_bare(
        reader: &mut Reader<'_>,
        version: Version,
        code: u8,
    ) -> Result<(), DecodeError> {
        let header = Self::expect(reader, version, code)?;
        header.param1_reserved()?;
        header.param2_reserved()
    }

    pub(super) fn param1_reserved(self) -> Result<(), DecodeError> {
        zero(self.param1, "Param1")
    }

    pub(super) fn param2_reserved(self) -> Result<(), DecodeError> {
        zero(self.param2, "Param2")
    }

    /// Puts a header in front.
    pub(super) fn write(
        writer: &mut Writer<'_>,
        version: Version,
        code: u8,
        param1: u8,
        param2: u8,
    ) -> Result<(), NoSpace> {
        writer.bytes(&[version.0, code, param1, param2])
    }
}

/// A slot in bits 3:0, of which 8 exist; 15 would be a key without a certificate, which is not built.
/// Bits 7:4 are reserved.
pub(super) fn slot(value: u8, field: &'static str) -> Result<SlotId, DecodeError> {
    zero(value & 0xf0, field)?;
    SlotId::new(value).ok_or(DecodeError::Value { field, value: value.into() })
}

/// Defines a message that consists of its header, with reserved parameters.
macro_rules! bare_message {
    ($(#[$meta:meta])* $message:ident, $code:expr) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $message {
            /// Version of the message.
            pub version: $crate::ids::Version,
        }

        impl $message {
            /// Reads the message, which must be of that version.
            pub fn read(
                reader: &mut $crate::wire::Reader<'_>,
                version: $crate::ids::Version,
            ) -> Result<Self, $crate::wire::DecodeError> {
                $crate::msg::Header::expect_bare(reader, version, $code.0)?;
                Ok(Self { version })
            }

            /// Writes the message.
            pub fn write(
                &self,
                writer: &mut $crate::wire::Writer<'_>,
            ) -> Result<(), $crate::wire::NoSpace> {
                $crate::msg::Header::write(writer, self.version, $code.0, 0, 0)
            }
        }
    };
}

pub(super) use bare_message;
