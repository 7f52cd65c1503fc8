//! What a responder makes of a bad object.

use std::fmt;

use spdm::Kind;
use spdm::ide_km::{self, KpStatus, ObjectId};
use spdm::ids::Version;
use spdm::msg::{self, ChunkSendAck, ErrorCode, Header, ResponseCode, VendorDefined};
use spdm::requester::TransportFailure;
use spdm::tdisp::{self, MessageType};

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing.
    Silence,
    /// The mailbox reports an error, or what came is no data object.
    DoeError,
    /// The connection was closed.
    Closed,
    /// `ERROR`, alone or inside `CHUNK_SEND_ACK`.
    Error(ErrorCode),
    /// `KP_ACK`.
    KpAck(KpStatus),
    /// Another message of `IDE_KM`.
    IdeKm(ObjectId),
    /// `TDISP_ERROR`.
    TdispError(tdisp::ErrorCode),
    /// Another message of TDISP.
    Tdisp(MessageType),
    /// A response that grants the request.
    Granted(ResponseCode),
    /// Bytes that are no message of SPDM.
    Malformed(String),
    /// A secured object that the session does not open.
    Unreadable(String),
    /// What the case found out over several objects, and that must not be.
    Broken(String),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silence => f.write_str("no answer"),
            Self::DoeError => f.write_str("a DOE error"),
            Self::Closed => f.write_str("connection closed"),
            Self::Error(code) => write!(f, "ERROR {code}"),
            Self::KpAck(status) => write!(f, "KP_ACK {status}"),
            Self::IdeKm(object) => object.fmt(f),
            Self::TdispError(code) => write!(f, "TDISP_ERROR {code}"),
            Self::Tdisp(message) => message.fmt(f),
            Self::Granted(code) => code.fmt(f),
            Self::Malformed(why) => write!(f, "no SPDM message: {why}"),
            Self::Unreadable(why) => write!(f, "an object that does not open: {why}"),
            Self::Broken(what) => f.write_str(what),
        }
    }
}

impl From<TransportFailure> for Answer {
    fn from(failure: TransportFailure) -> Self {
        match failure {
            TransportFailure::Silence => Self::Silence,
            TransportFailure::Closed => Self::Closed,
            TransportFailure::DoeError | TransportFailure::Aborted | TransportFailure::TooLarge => {
                Self::DoeError
            }
        }
    }
}

impl Answer {
    /// What a message in the clear, or out of a session, says.
    pub fn of(message: &[u8], kind: Kind) -> Self {
        let header = match Header::peek(message) {
            Ok(header) => header,
            Err(error) => return Self::Malformed(error.to_string()),
        };
        match ResponseCode(header.code) {
            ResponseCode::ERROR => Self::Error(ErrorCode(header.param1)),
            ResponseCode::CHUNK_SEND_ACK => Self::of_chunk(message, header.version),
            ResponseCode::VENDOR_DEFINED if kind == Kind::Secured => Self::of_vendor(message, header.version),
            code if code.0 & 0x80 != 0 => {
                Self::Malformed(format!("message code {:#x} is one of a request", code.0))
            }
            code => Self::Granted(code),
        }
    }

    fn of_chunk(message: &[u8], version: Version) -> Self {
        match msg::exact(message, |reader| ChunkSendAck::read(reader, version)) {
            Ok(ack) if ack.response.get(1) == Some(&ResponseCode::ERROR.0) => {
                Self::Error(ErrorCode(ack.response.get(2).copied().unwrap_or(0)))
            }
            Ok(_) => Self::Granted(ResponseCode::CHUNK_SEND_ACK),
            Err(error) => Self::Malformed(error.to_string()),
        }
    }

    fn of_vendor(message: &[u8], version: Version) -> Self {
        let vendor = match msg::exact(message, |reader| VendorDefined::read_response(reader, version)) {
            Ok(vendor) => vendor,
            Err(error) => return Self::Malformed(error.to_string()),
        };
        match *vendor.payload {
            [ide_km::PROTOCOL, object, _, _, _, status, ..] if ObjectId(object) == ObjectId::KP_ACK => {
                Self::KpAck(KpStatus(status))
            }
            [ide_km::PROTOCOL, object, ..] => Self::IdeKm(ObjectId(object)),
            [tdisp::PROTOCOL, _, message, ..] if MessageType(message) == MessageType::TDISP_ERROR => {
                let code = vendor.payload.get(17..21).and_then(|bytes| bytes.try_into().ok());
                Self::TdispError(tdisp::ErrorCode(code.map_or(0, u32::from_le_bytes)))
            }
            [tdisp::PROTOCOL, _, message, ..] => Self::Tdisp(MessageType(message)),
            _ => Self::Granted(ResponseCode::VENDOR_DEFINED),
        }
    }
}
