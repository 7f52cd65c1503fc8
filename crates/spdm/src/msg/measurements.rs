//! `GET_MEASUREMENTS` and `MEASUREMENTS`.

use crate::ids::{SlotId, Version};
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

use super::challenge::read_context;
use super::header::slot;
use super::measurement_block::MeasurementBlocks;
use super::{Context, Header, Layout, Nonce, RequestCode, ResponseCode, read_opaque, write_sized, zero};

const GENERATE_SIGNATURE: u8 = 1;
const RAW_BIT_STREAM: u8 = 2;
const NEW_MEASUREMENT: u8 = 4;

/// Which measurements are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MeasurementOperation {
    /// How many there are.
    Total,
    /// The one with that index, 1 to 254.
    Index(u8),
    /// All.
    All,
}

impl MeasurementOperation {
    /// The code on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Self::Total => 0,
            Self::Index(index) => index,
            Self::All => 0xff,
        }
    }

    const fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Total,
            0xff => Self::All,
            index => Self::Index(index),
        }
    }
}

/// What a request for signed measurements has in addition: 33 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignatureRequest {
    /// The requester's nonce.
    pub nonce: Nonce,
    /// Whose key is to sign.
    pub slot: SlotId,
}

/// `GET_MEASUREMENTS`: 4 bytes, 33 more for a signature, 8 more since 1.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetMeasurements {
    /// Version of the message.
    pub version: Version,
    /// Whether a signature is wanted, and over what.
    pub signature: Option<SignatureRequest>,
    /// Raw bit streams instead of digests, where there are any.
    pub raw: bool,
    /// Measurements that wait for a reset are wanted. 1.3.
    pub new: bool,
    /// Which measurements.
    pub operation: MeasurementOperation,
    /// The requester's context: `Some` in 1.3.
    pub context: Option<Context>,
}

impl GetMeasurements {
    /// Reads the message, which must be of that version.
    pub fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self, DecodeError> {
        let header = Header::expect(reader, version, RequestCode::GET_MEASUREMENTS.0)?;
        let attributes = header.param1;
        let known = if version >= Version::V1_3 { 0x07 } else { 0x03 };
        zero(attributes & !known, "Param1")?;
        let signature = if attributes & GENERATE_SIGNATURE != 0 {
            let nonce = reader.array("Nonce")?;
            Some(SignatureRequest { nonce, slot: slot(reader.u8("SlotIDParam")?, "SlotIDParam")? })
        } else {
            None
        };
        Ok(Self {
            version,
            signature,
            raw: attributes & RAW_BIT_STREAM != 0,
            new: attributes & NEW_MEASUREMENT != 0,
            operation: MeasurementOperation::from_code(header.param2),
            context: read_context(reader, version)?,
        })
    }

    /// Writes the message.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        let bit = |set, bit| if set { bit } else { 0 };
        let attributes = bit(self.signature.is_some(), GENERATE_SIGNATURE)
            | bit(self.raw, RAW_BIT_STREAM)
            | bit(self.new, NEW_MEASUREMENT);
        let code = RequestCode::GET_MEASUREMENTS.0;
        Header::write(writer, self.version, code, attributes, self.operation.code())?;
        if let Some(signature) = &self.signature {
            writer.bytes(&signature.nonce)?;
            writer.u8(signature.slot.number())?;
        }
        writer.bytes(self.context.as_ref().map_or(&[], |context| context))
    }
}

/// Whether measurements have changed since the transcript L1/L2 began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContentChange {
    /// The responder does not watch this.
    #[default]
    NotWatched,
    /// They have.
    Changed,
    /// They have not.
    Unchanged,
}

impl ContentChange {
    const fn bits(self) -> u8 {
        match self {
            Self::NotWatched => 0,
            Self::Changed => 0x10,
            Self::Unchanged => 0x20,
        }
    }

    fn from_bits(bits: u8) -> Result<Self, DecodeError> {
        match bits {
            0 => Ok(Self::NotWatched),
            0x10 => Ok(Self::Changed),
            0x20 => Ok(Self::Unchanged),
            _ => Err(DecodeError::Value { field: "ContentChanged", value: (bits >> 4).into() }),
        }
    }
}

/// `MEASUREMENTS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measurements<'a> {
    /// Version of the message.
    pub version: Version,
    /// How many measurements there are, if that was asked; 0 otherwise.
    pub total: u8,
    /// Whose key has signed; slot 0 without a signature.
    pub slot: SlotId,
    /// Whether measurements have changed; only a signed message tells.
    pub content: ContentChange,
    /// Blocks in the record.
    pub blocks: u8,
    /// The blocks, at most 2^24 − 1 bytes; [`MeasurementBlocks`] reads them.
    pub record: &'a [u8],
    /// The responder's nonce.
    pub nonce: Nonce,
    /// Opaque data.
    pub opaque: &'a [u8],
    /// The requester's context again: `Some` in 1.3.
    pub context: Option<Context>,
    /// Signature over the transcript L1/L2, if it was asked for.
    pub signature: Option<&'a [u8]>,
}

impl<'a> Measurements<'a> {
    /// Reads the message; `signed`: whether `GET_MEASUREMENTS` has asked for a signature.
    pub fn read(reader: &mut Reader<'a>, layout: &Layout, signed: bool) -> Result<Self, DecodeError> {
        let version = layout.version;
        let header = Header::expect(reader, version, ResponseCode::MEASUREMENTS.0)?;
        if !signed {
            header.param2_reserved()?;
        }
        zero(header.param2 & 0xc0, "Param2")?;
        let slot = slot(header.param2 & 0xf, "SlotID")?;
        let content = ContentChange::from_bits(header.param2 & 0x30)?;
        let blocks = reader.u8("NumberOfBlocks")?;
        if blocks != 0 {
            header.param1_reserved()?;
        }
        let length = reader.u24("MeasurementRecordLength")?;
        // 24 bits fit any usize of a machine that runs this.
        let record = reader.take(usize::try_from(length).unwrap_or(usize::MAX), "MeasurementRecord")?;
        MeasurementBlocks::check(record, blocks, layout.suite.measurement_hash)?;
        Ok(Self {
            version,
            total: header.param1,
            slot,
            content,
            blocks,
            record,
            nonce: reader.array("Nonce")?,
            opaque: read_opaque(reader)?,
            context: read_context(reader, version)?,
            signature: if signed { Some(reader.take(layout.signature(), "Signature")?) } else { None },
        })
    }

    /// Writes the message.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        self.write_unsigned(writer)?;
        writer.bytes(self.signature.unwrap_or_default())
    }

    /// Writes the message up to its signature: what is signed of it.
    pub fn write_unsigned(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        let param2 = self.slot.number() | self.content.bits();
        Header::write(writer, self.version, ResponseCode::MEASUREMENTS.0, self.total, param2)?;
        writer.u8(self.blocks)?;
        let too_large = NoSpace(super::measurement_block::MAX_RECORD as usize);
        let length = u32::try_from(self.record.len()).map_err(|_| too_large)?;
        if length > super::measurement_block::MAX_RECORD {
            return Err(too_large);
        }
        writer.u24(length)?;
        writer.bytes(self.record)?;
        writer.bytes(&self.nonce)?;
        write_sized(writer, self.opaque)?;
        writer.bytes(self.context.as_ref().map_or(&[], |context| context))
    }
}
