//! `CHALLENGE` and `CHALLENGE_AUTH`.

use crate::ids::{SlotId, Version};
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

use super::header::slot;
use super::{
    Context, Header, Layout, Nonce, RequestCode, ResponseCode, SummaryHash, read_opaque, write_sized,
};

/// The context of the requester: there since 1.3.
pub(super) fn read_context(
    reader: &mut Reader<'_>,
    version: Version,
) -> Result<Option<Context>, DecodeError> {
    if version >= Version::V1_3 { reader.array("RequesterContext").map(Some) } else { Ok(None) }
}

/// `CHALLENGE`: 36 bytes; 44 since 1.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Version of the message.
    pub version: Version,
    /// Whose key is to sign.
    pub slot: SlotId,
    /// Which measurements are to be summarised.
    pub summary: SummaryHash,
    /// The requester's nonce.
    pub nonce: Nonce,
    /// The requester's context: `Some` in 1.3.
    pub context: Option<Context>,
}

impl Challenge {
    /// Reads the message, which must be of that version.
    pub fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self, DecodeError> {
        let header = Header::expect(reader, version, RequestCode::CHALLENGE.0)?;
        let slot = slot(header.param1, "SlotID")?;
        let summary = SummaryHash::from_code(header.param2)?;
        let nonce = reader.array("Nonce")?;
        Ok(Self { version, slot, summary, nonce, context: read_context(reader, version)? })
    }

    /// Writes the message.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        let code = RequestCode::CHALLENGE.0;
        Header::write(writer, self.version, code, self.slot.number(), self.summary.code())?;
        writer.bytes(&self.nonce)?;
        writer.bytes(self.context.as_ref().map_or(&[], |context| context))
    }
}

/// `CHALLENGE_AUTH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChallengeAuth<'a> {
    /// Version of the message.
    pub version: Version,
    /// Whose key has signed.
    pub slot: SlotId,
    /// One bit per slot that holds a chain.
    pub slot_mask: u8,
    /// Digest of the slot's chain.
    pub chain_hash: &'a [u8],
    /// The responder's nonce.
    pub nonce: Nonce,
    /// Summary of the measurements, if it was asked for.
    pub summary: Option<&'a [u8]>,
    /// Opaque data.
    pub opaque: &'a [u8],
    /// The requester's context again: `Some` in 1.3.
    pub context: Option<Context>,
    /// Signature over the transcript M1/M2.
    pub signature: &'a [u8],
}

impl<'a> ChallengeAuth<'a> {
    /// Reads the message; `summary`: whether `CHALLENGE` has asked for one.
    pub fn read(reader: &mut Reader<'a>, layout: &Layout, summary: bool) -> Result<Self, DecodeError> {
        let header = Header::expect(reader, layout.version, ResponseCode::CHALLENGE_AUTH.0)?;
        Ok(Self {
            version: layout.version,
            // Bit 7 has asked for basic mutual authentication before 1.2.
            slot: slot(header.param1, "SlotID")?,
            slot_mask: header.param2,
            chain_hash: reader.take(layout.digest(), "CertChainHash")?,
            nonce: reader.array("Nonce")?,
            summary: read_summary(reader, *layout, summary)?,
            opaque: read_opaque(reader)?,
            context: read_context(reader, layout.version)?,
            signature: reader.take(layout.signature(), "Signature")?,
        })
    }

    /// Writes the message.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        let code = ResponseCode::CHALLENGE_AUTH.0;
        Header::write(writer, self.version, code, self.slot.number(), self.slot_mask)?;
        writer.bytes(self.chain_hash)?;
        writer.bytes(&self.nonce)?;
        writer.bytes(self.summary.unwrap_or_default())?;
        write_sized(writer, self.opaque)?;
        writer.bytes(self.context.as_ref().map_or(&[], |context| context))?;
        writer.bytes(self.signature)
    }
}

/// The summary of measurements, if one was asked for.
pub(super) fn read_summary<'a>(
    reader: &mut Reader<'a>,
    layout: Layout,
    asked: bool,
) -> Result<Option<&'a [u8]>, DecodeError> {
    if asked { reader.take(layout.digest(), "MeasurementSummaryHash").map(Some) } else { Ok(None) }
}
