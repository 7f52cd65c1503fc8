//! `KEY_UPDATE` and `KEY_UPDATE_ACK`: 4 bytes each.

use crate::ids::Version;
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

use super::{Header, RequestCode, ResponseCode};

/// What is done with the keys of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOperation {
    /// A new key for requests.
    UpdateKey,
    /// New keys for requests and responses.
    UpdateAllKeys,
    /// The new key of requests works.
    VerifyNewKey,
}

impl KeyOperation {
    /// The code on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Self::UpdateKey => 1,
            Self::UpdateAllKeys => 2,
            Self::VerifyNewKey => 3,
        }
    }

    fn from_code(code: u8) -> Result<Self, DecodeError> {
        match code {
            1 => Ok(Self::UpdateKey),
            2 => Ok(Self::UpdateAllKeys),
            3 => Ok(Self::VerifyNewKey),
            _ => Err(DecodeError::Value { field: "KeyOperation", value: code.into() }),
        }
    }
}

/// Both messages are alike.
macro_rules! key_update_message {
    ($(#[$meta:meta])* $message:ident, $code:expr) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $message {
            /// Version of the message.
            pub version: Version,
            /// What is done.
            pub operation: KeyOperation,
            /// Tells a request from its repetition.
            pub tag: u8,
        }

        impl $message {
            /// Reads the message, which must be of that version.
            pub fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self, DecodeError> {
                let header = Header::expect(reader, version, $code.0)?;
                Ok(Self { version, operation: KeyOperation::from_code(header.param1)?, tag: header.param2 })
            }

            /// Writes the message.
            pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
                Header::write(writer, self.version, $code.0, self.operation.code(), self.tag)
            }
        }
    };
}

key_update_message! {
    /// `KEY_UPDATE`.
    KeyUpdate, RequestCode::KEY_UPDATE
}

key_update_message! {
    /// `KEY_UPDATE_ACK`: repeats the operation and the tag.
    KeyUpdateAck, ResponseCode::KEY_UPDATE_ACK
}
