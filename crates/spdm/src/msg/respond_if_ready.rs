//! `RESPOND_IF_READY`: 4 bytes.

use crate::ids::Version;
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

use super::{Header, RequestCode};

/// `RESPOND_IF_READY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RespondIfReady {
    /// Version of the message.
    pub version: Version,
    /// The request whose response was not ready.
    pub request: RequestCode,
    /// The token that the error gave.
    pub token: u8,
}

impl RespondIfReady {
    /// Reads the message, which must be of that version.
    pub fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self, DecodeError> {
        let header = Header::expect(reader, version, RequestCode::RESPOND_IF_READY.0)?;
        if !RequestCode::is_request(header.param1) {
            return Err(DecodeError::Value { field: "RequestCode", value: header.param1.into() });
        }
        Ok(Self { version, request: RequestCode(header.param1), token: header.param2 })
    }

    /// Writes the message.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        Header::write(writer, self.version, RequestCode::RESPOND_IF_READY.0, self.request.0, self.token)
    }
}
