//! Every message of SPDM 1.2 and 1.3, one file per request and response. DSP0274.
//!
//! Messages borrow their variable parts from the bytes they were read from; nothing allocates.
//! Reading is strict: lengths, reserved fields, values and the order of tables are checked, and what
//! was read writes the same bytes again. What two messages have to do with each other (states,
//! negotiation, signatures) is not decided here.
//!
//! | file | messages |
//! |---|---|
//! | `version` | GET_VERSION, VERSION |
//! | `capabilities` | GET_CAPABILITIES, CAPABILITIES |
//! | `algorithms` | NEGOTIATE_ALGORITHMS, ALGORITHMS |
//! | `digests` | GET_DIGESTS, DIGESTS |
//! | `certificate` | GET_CERTIFICATE, CERTIFICATE |
//! | `challenge` | CHALLENGE, CHALLENGE_AUTH |
//! | `measurements` | GET_MEASUREMENTS, MEASUREMENTS |
//! | `key_exchange` | KEY_EXCHANGE, KEY_EXCHANGE_RSP |
//! | `finish` | FINISH, FINISH_RSP |
//! | `heartbeat` | HEARTBEAT, HEARTBEAT_ACK |
//! | `key_update` | KEY_UPDATE, KEY_UPDATE_ACK |
//! | `end_session` | END_SESSION, END_SESSION_ACK |
//! | `vendor` | VENDOR_DEFINED_REQUEST, VENDOR_DEFINED_RESPONSE |
//! | `error` | ERROR with its extended data |
//! | `respond_if_ready` | RESPOND_IF_READY |
//! | `chunk` | CHUNK_SEND, CHUNK_SEND_ACK, CHUNK_GET, CHUNK_RESPONSE |
//! | `measurement_block`, `opaque` | what stands inside the records of messages |
//! | `any` | whichever message the bytes hold |

pub mod algorithms;
pub mod any;
pub mod capabilities;
pub mod certificate;
pub mod challenge;
pub mod chunk;
pub mod codes;
pub mod digests;
pub mod end_session;
pub mod error;
pub mod finish;
mod header;
pub mod heartbeat;
pub mod key_exchange;
pub mod key_update;
mod layout;
pub mod measurement_block;
pub mod measurements;
pub mod opaque;
pub mod respond_if_ready;
mod summary;
pub mod vendor;
pub mod version;

pub use algorithms::{AlgorithmTable, AlgorithmTables, Algorithms, NegotiateAlgorithms, OtherParams};
pub use any::{Asked, Request, Response, Stage};
pub use capabilities::{Capabilities, GetCapabilities, RequesterFlags, ResponderFlags};
pub use certificate::{Certificate, GetCertificate};
pub use challenge::{Challenge, ChallengeAuth};
pub use chunk::{ChunkGet, ChunkResponse, ChunkSend, ChunkSendAck};
pub use codes::{ErrorCode, RequestCode, ResponseCode};
pub use digests::{Digests, GetDigests};
pub use end_session::{EndSession, EndSessionAck};
pub use error::{ErrorData, ErrorResponse, NotReady};
pub use finish::{Finish, FinishRsp};
pub use header::Header;
pub use heartbeat::{Heartbeat, HeartbeatAck};
pub use key_exchange::{KeyExchange, KeyExchangeRsp, MutualAuth, SessionPolicy};
pub use key_update::{KeyOperation, KeyUpdate, KeyUpdateAck};
pub use layout::Layout;
pub use measurement_block::{MeasurementBlock, MeasurementBlocks, MeasurementKind, MeasurementValue};
pub use measurements::{
    ContentChange, GetMeasurements, MeasurementOperation, Measurements, SignatureRequest,
};
pub use opaque::{OpaqueData, OpaqueElement};
pub use respond_if_ready::RespondIfReady;
pub use summary::SummaryHash;
pub use vendor::{StandardId, VendorDefined};
pub use version::{GetVersion, VersionList, VersionNumber, VersionResponse};

use crate::wire::{DecodeError, NoSpace, Reader, Writer};

/// Size of a nonce and of the random data of a key exchange, in bytes.
pub const NONCE_SIZE: usize = 32;
/// Size of the context that the requester gives along since 1.3, in bytes.
pub const CONTEXT_SIZE: usize = 8;
/// Largest opaque data of any message, in bytes.
pub const MAX_OPAQUE: usize = 1024;

/// The context of the requester, which the response repeats. 1.3.
pub type Context = [u8; CONTEXT_SIZE];
/// A nonce, or the random data of a key exchange.
pub type Nonce = [u8; NONCE_SIZE];

/// A message that fills `bytes` from end to end, as inside a session.
pub fn exact<'a, T>(
    bytes: &'a [u8],
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    let mut reader = Reader::new(bytes);
    let message = read(&mut reader)?;
    reader.finish()?;
    Ok(message)
}

/// A message in the clear, which a DOE object pads with up to 3 zeros; with its exact length.
///
/// A message that ends in a field without a length (`CHUNK_SEND_ACK`, the data of a vendor's error)
/// takes the padding with it.
pub fn padded<'a, T>(
    bytes: &'a [u8],
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<(T, usize), DecodeError> {
    let mut reader = Reader::new(bytes);
    let message = read(&mut reader)?;
    let padding = reader.left();
    if padding > 3 {
        return Err(DecodeError::Trailing { extra: padding });
    }
    reader.reserved(padding, "padding")?;
    Ok((message, bytes.len() - padding))
}

/// A message that is written into `buffer`: the bytes that it takes.
pub fn encode(
    buffer: &mut [u8],
    write: impl FnOnce(&mut Writer<'_>) -> Result<(), NoSpace>,
) -> Result<&mut [u8], NoSpace> {
    let mut writer = Writer::new(buffer);
    write(&mut writer)?;
    Ok(writer.finish())
}

/// Refuses anything but 0.
fn zero(value: impl Into<u64>, field: &'static str) -> Result<(), DecodeError> {
    match value.into() {
        0 => Ok(()),
        value => Err(DecodeError::Reserved { field, value }),
    }
}

/// Refuses bits outside of `known`.
fn known_bits(value: u32, known: u32, field: &'static str) -> Result<(), DecodeError> {
    zero(value & !known, field)
}

/// Opaque data behind its two-byte length.
fn read_opaque<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let length = usize::from(reader.u16("OpaqueDataLength")?);
    if length > MAX_OPAQUE {
        return Err(DecodeError::Length { field: "OpaqueData", value: length, limit: MAX_OPAQUE });
    }
    reader.take(length, "OpaqueData")
}

/// Bytes behind their two-byte length.
fn write_sized(writer: &mut Writer<'_>, bytes: &[u8]) -> Result<(), NoSpace> {
    writer.u16(u16::try_from(bytes.len()).map_err(|_| NoSpace(usize::from(u16::MAX)))?)?;
    writer.bytes(bytes)
}

#[cfg(test)]
mod tests;
