//! `FINISH` and `FINISH_RSP`.

use crate::ids::Version;
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

use super::key_exchange::read_verify_data;
use super::{Header, Layout, RequestCode, ResponseCode};

/// `FINISH` without mutual authentication: header and a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finish<'a> {
    /// Version of the message.
    pub version: Version,
    /// HMAC with the requester's finished key.
    pub verify_data: &'a [u8],
}

impl<'a> Finish<'a> {
    /// Reads the message. A signature (first parameter) belongs to mutual authentication only.
    pub fn read(reader: &mut Reader<'a>, layout: &Layout) -> Result<Self, DecodeError> {
        let header = Header::expect(reader, layout.version, RequestCode::FINISH.0)?;
        if header.param1 != 0 {
            return Err(DecodeError::Value { field: "SignatureIncluded", value: header.param1.into() });
        }
        header.param2_reserved()?;
        let verify_data = reader.take(layout.digest(), "RequesterVerifyData")?;
        Ok(Self { version: layout.version, verify_data })
    }

    /// Writes the message.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        Header::write(writer, self.version, RequestCode::FINISH.0, 0, 0)?;
        writer.bytes(self.verify_data)
    }
}

/// `FINISH_RSP`: header, and a digest if the handshake was in the clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FinishRsp<'a> {
    /// Version of the message.
    pub version: Version,
    /// HMAC with the responder's finished key, if the handshake was in the clear.
    pub verify_data: Option<&'a [u8]>,
}

impl<'a> FinishRsp<'a> {
    /// Reads the message.
    pub fn read(reader: &mut Reader<'a>, layout: &Layout) -> Result<Self, DecodeError> {
        Header::expect_bare(reader, layout.version, ResponseCode::FINISH_RSP.0)?;
        let verify_data = read_verify_data(reader, *layout, layout.handshake_in_clear)?;
        Ok(Self { version: layout.version, verify_data })
    }

    /// Writes the message.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        Header::write(writer, self.version, ResponseCode::FINISH_RSP.0, 0, 0)?;
        writer.bytes(self.verify_data.unwrap_or_default())
    }
}
