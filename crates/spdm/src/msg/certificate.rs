//! `GET_CERTIFICATE` and `CERTIFICATE`: 8 bytes each, and the portion of the chain.

use crate::ids::{SlotId, Version};
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

use super::header::slot;
use super::{Header, RequestCode, ResponseCode, zero};

/// `GET_CERTIFICATE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetCertificate {
    /// Version of the message.
    pub version: Version,
    /// Whose chain.
    pub slot: SlotId,
    /// Asks for the size of the slot instead, which the response has as its remainder; offset and
    /// length mean nothing then. 1.3.
    pub slot_size: bool,
    /// Offset of the portion in the chain, in bytes.
    pub offset: u16,
    /// Size of the portion that is wanted, in bytes.
    pub length: u16,
}

impl GetCertificate {
    /// Reads the message, which must be of that version.
    pub fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self, DecodeError> {
        let header = Header::expect(reader, version, RequestCode::GET_CERTIFICATE.0)?;
        let slot = slot(header.param1, "SlotID")?;
        zero(header.param2 & !u8::from(version >= Version::V1_3), "Param2")?;
        let (offset, length) = (reader.u16("Offset")?, reader.u16("Length")?);
        Ok(Self { version, slot, slot_size: header.param2 != 0, offset, length })
    }

    /// Writes the message.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        let code = RequestCode::GET_CERTIFICATE.0;
        Header::write(writer, self.version, code, self.slot.number(), self.slot_size.into())?;
        writer.u16(self.offset)?;
        writer.u16(self.length)
    }
}

/// `CERTIFICATE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Certificate<'a> {
    /// Version of the message.
    pub version: Version,
    /// Whose chain.
    pub slot: SlotId,
    /// Model of the leaf certificate: 0 not told, 1 device, 2 alias, 3 generic. 1.3; 0 in 1.2.
    pub model: u8,
    /// Bytes of the chain behind the portion.
    pub remainder: u16,
    /// The portion.
    pub portion: &'a [u8],
}

impl<'a> Certificate<'a> {
    /// Reads the message, which must be of that version. A chain is at most 65535 bytes.
    pub fn read(reader: &mut Reader<'a>, version: Version) -> Result<Self, DecodeError> {
        let header = Header::expect(reader, version, ResponseCode::CERTIFICATE.0)?;
        let slot = slot(header.param1, "SlotID")?;
        let model = header.param2;
        if version >= Version::V1_3 {
            zero(model & 0xf8, "Param2")?;
            if model > 3 {
                return Err(DecodeError::Value { field: "CertModel", value: model.into() });
            }
        } else {
            header.param2_reserved()?;
        }
        let (length, remainder) = (reader.u16("PortionLength")?, reader.u16("RemainderLength")?);
        if length.checked_add(remainder).is_none() {
            let limit = usize::from(u16::MAX - length);
            return Err(DecodeError::Length { field: "RemainderLength", value: remainder.into(), limit });
        }
        let portion = reader.take(length.into(), "CertChain")?;
        Ok(Self { version, slot, model, remainder, portion })
    }

    /// Writes the message.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        let length = u16::try_from(self.portion.len()).map_err(|_| NoSpace(usize::from(u16::MAX)))?;
        Header::write(writer, self.version, ResponseCode::CERTIFICATE.0, self.slot.number(), self.model)?;
        writer.u16(length)?;
        writer.u16(self.remainder)?;
        writer.bytes(self.portion)
    }
}
