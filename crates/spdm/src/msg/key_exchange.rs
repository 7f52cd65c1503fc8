//! `KEY_EXCHANGE` and `KEY_EXCHANGE_RSP`.

use bitfield_struct::bitfield;

use crate::ids::{SlotId, Version};
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

use super::challenge::read_summary;
use super::header::slot;
use super::{Header, Layout, Nonce, RequestCode, ResponseCode, SummaryHash, read_opaque, write_sized, zero};

/// Policy of a session (`SessionPolicy`).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct SessionPolicy {
    /// The session lives on when firmware is updated at run time.
    pub survives_update: bool,
    /// All events are subscribed to. 1.3.
    pub all_events: bool,
    #[bits(6)]
    __: u8,
}

/// `KEY_EXCHANGE`: 40 bytes, the exchanged value and opaque data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyExchange<'a> {
    /// Version of the message.
    pub version: Version,
    /// Which measurements are to be summarised.
    pub summary: SummaryHash,
    /// Whose key is to sign.
    pub slot: SlotId,
    /// The requester's half of the session id.
    pub session: u16,
    /// Policy of the session.
    pub policy: SessionPolicy,
    /// The requester's random data.
    pub random: Nonce,
    /// The requester's value of the key agreement.
    pub exchange: &'a [u8],
    /// Opaque data: the versions of secured messages that the requester speaks.
    pub opaque: &'a [u8],
}

impl<'a> KeyExchange<'a> {
    /// Reads the message.
    pub fn read(reader: &mut Reader<'a>, layout: &Layout) -> Result<Self, DecodeError> {
        let version = layout.version;
        let header = Header::expect(reader, version, RequestCode::KEY_EXCHANGE.0)?;
        let summary = SummaryHash::from_code(header.param1)?;
        let slot = slot(header.param2, "SlotID")?;
        let session = reader.u16("ReqSessionID")?;
        let policy = reader.u8("SessionPolicy")?;
        let known = if version >= Version::V1_3 { 0x03 } else { 0x01 };
        zero(policy & !known, "SessionPolicy")?;
        reader.reserved(1, "byte 7")?;
        Ok(Self {
            version,
            summary,
            slot,
            session,
            policy: SessionPolicy::from(policy),
            random: reader.array("RandomData")?,
            exchange: reader.take(layout.exchange(), "ExchangeData")?,
            opaque: read_opaque(reader)?,
        })
    }

    /// Writes the message.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        let code = RequestCode::KEY_EXCHANGE.0;
        Header::write(writer, self.version, code, self.summary.code(), self.slot.number())?;
        writer.u16(self.session)?;
        writer.bytes(&[self.policy.into(), 0])?;
        writer.bytes(&self.random)?;
        writer.bytes(self.exchange)?;
        write_sized(writer, self.opaque)
    }
}

/// Mutual authentication that the responder wants (`MutAuthRequested`): none or one of three.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MutualAuth {
    /// None.
    #[default]
    None,
    /// A signature in `FINISH`.
    Plain,
    /// By encapsulated requests.
    Encapsulated,
    /// By encapsulated requests that begin with `GET_DIGESTS`.
    WithDigests,
}

impl MutualAuth {
    /// The code on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Plain => 1,
            Self::Encapsulated => 2,
            Self::WithDigests => 4,
        }
    }

    fn from_code(code: u8) -> Result<Self, DecodeError> {
        zero(code & 0xf8, "MutAuthRequested")?;
        match code {
            0 => Ok(Self::None),
            1 => Ok(Self::Plain),
            2 => Ok(Self::Encapsulated),
            4 => Ok(Self::WithDigests),
            _ => Err(DecodeError::Value { field: "MutAuthRequested", value: code.into() }),
        }
    }
}

/// `KEY_EXCHANGE_RSP`: 40 bytes, the exchanged value, and what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyExchangeRsp<'a> {
    /// Version of the message.
    pub version: Version,
    /// Seconds after which a silent session ends at the latest, twice; 0 for never.
    pub heartbeat: u8,
    /// The responder's half of the session id.
    pub session: u16,
    /// Mutual authentication that the responder wants.
    pub mutual_auth: MutualAuth,
    /// The requester's slot for it, 0 to 15; 0 without mutual authentication.
    pub requester_slot: u8,
    /// The responder's random data.
    pub random: Nonce,
    /// The responder's value of the key agreement.
    pub exchange: &'a [u8],
    /// Summary of the measurements, if it was asked for.
    pub summary: Option<&'a [u8]>,
    /// Opaque data: the version of secured messages that was chosen.
    pub opaque: &'a [u8],
    /// Signature over the transcript TH.
    pub signature: &'a [u8],
    /// HMAC with the responder's finished key; with handshakes in the clear, `FINISH_RSP` has it.
    pub verify_data: Option<&'a [u8]>,
}

impl<'a> KeyExchangeRsp<'a> {
    /// Reads the message; `summary`: whether `KEY_EXCHANGE` has asked for one.
    pub fn read(reader: &mut Reader<'a>, layout: &Layout, summary: bool) -> Result<Self, DecodeError> {
        let header = Header::expect(reader, layout.version, ResponseCode::KEY_EXCHANGE_RSP.0)?;
        header.param2_reserved()?;
        let session = reader.u16("RspSessionID")?;
        let mutual_auth = MutualAuth::from_code(reader.u8("MutAuthRequested")?)?;
        let requester_slot = reader.u8("ReqSlotIDParam")?;
        let known = if mutual_auth == MutualAuth::None { 0 } else { 0x0f };
        zero(requester_slot & !known, "ReqSlotIDParam")?;
        let with_verify_data = !layout.handshake_in_clear;
        Ok(Self {
            version: layout.version,
            heartbeat: header.param1,
            session,
            mutual_auth,
            requester_slot,
            random: reader.array("RandomData")?,
            exchange: reader.take(layout.exchange(), "ExchangeData")?,
            summary: read_summary(reader, *layout, summary)?,
            opaque: read_opaque(reader)?,
            signature: reader.take(layout.signature(), "Signature")?,
            verify_data: read_verify_data(reader, *layout, with_verify_data)?,
        })
    }

    /// Writes the message.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        self.write_unsigned(writer)?;
        writer.bytes(self.signature)?;
        writer.bytes(self.verify_data.unwrap_or_default())
    }

    /// Writes the message up to its signature: what is signed of it.
    pub fn write_unsigned(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        Header::write(writer, self.version, ResponseCode::KEY_EXCHANGE_RSP.0, self.heartbeat, 0)?;
        writer.u16(self.session)?;
        writer.bytes(&[self.mutual_auth.code(), self.requester_slot])?;
        writer.bytes(&self.random)?;
        writer.bytes(self.exchange)?;
        writer.bytes(self.summary.unwrap_or_default())?;
        write_sized(writer, self.opaque)
    }
}

/// The verification data of the responder, in one of two messages.
pub(super) fn read_verify_data<'a>(
    reader: &mut Reader<'a>,
    layout: Layout,
    here: bool,
) -> Result<Option<&'a [u8]>, DecodeError> {
    if here { reader.take(layout.digest(), "ResponderVerifyData").map(Some) } else { Ok(None) }
}
