//! `END_SESSION` and `END_SESSION_ACK`: 4 bytes each.

use crate::ids::Version;
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

use super::header::bare_message;
use super::{Header, RequestCode, ResponseCode, zero};

/// `END_SESSION`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndSession {
    /// Version of the message.
    pub version: Version,
    /// A responder that caches what was negotiated forgets it.
    pub clear_negotiated: bool,
}

impl EndSession {
    /// Reads the message, which must be of that version.
    pub fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self, DecodeError> {
        let header = Header::expect(reader, version, RequestCode::END_SESSION.0)?;
        zero(header.param1 & 0xfe, "Param1")?;
        header.param2_reserved()?;
        Ok(Self { version, clear_negotiated: header.param1 != 0 })
    }

    /// Writes the message.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        Header::write(writer, self.version, RequestCode::END_SESSION.0, self.clear_negotiated.into(), 0)
    }
}

bare_message! {
    /// `END_SESSION_ACK`.
    EndSessionAck, ResponseCode::END_SESSION_ACK
}
