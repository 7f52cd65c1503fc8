//! Why an operation failed, and whose fault it is.

use core::fmt;

use super::TransportFailure;
use crate::Kind;
use crate::crypto::CryptoError;
use crate::ids::{SessionId, SlotId, Version};
use crate::msg::{ErrorCode, RequestCode, ResponseCode};
use crate::secured::SecuredError;
use crate::wire::DecodeError;
use crate::x509::ChainError;

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// Whoever asked for the operation: it is not possible now. Nothing has changed.
    Caller,
    /// The device at the other end, or somebody between.
    Responder,
    /// What carries the objects.
    Transport,
    /// This side: entropy, cryptography.
    Platform,
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Caller => "caller",
            Self::Responder => "responder",
            Self::Transport => "transport",
            Self::Platform => "platform",
        })
    }
}

/// What is wrong with a large message that comes or goes in chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkFault {
    /// Chunks were not agreed on, or the message must not come in chunks.
    #[error("no chunks may be used here")]
    NotAllowed,
    /// A chunk of another transfer.
    #[error("handle {found} instead of {expected}")]
    Handle {
        /// In the message.
        found: u8,
        /// Of the transfer.
        expected: u8,
    },
    /// A chunk out of order.
    #[error("sequence number {found} instead of {expected}")]
    Sequence {
        /// In the message.
        found: u16,
        /// The next one.
        expected: u16,
    },
    /// A chunk other than the last is smaller than the least transfer size allows.
    #[error("a chunk of {0} bytes before the last")]
    Small(usize),
    /// The large message fits no buffer, or would have fitted a plain one.
    #[error("a large message of {0} bytes")]
    Total(usize),
    /// The chunks are longer than the message.
    #[error("{found} bytes of a message of {total}")]
    Overrun {
        /// What there would be with this chunk.
        found: usize,
        /// The message.
        total: usize,
    },
    /// The last chunk does not say so, or another one does.
    #[error("the mark of the last chunk stands wrong")]
    Last,
    /// More chunks than sequence numbers.
    #[error("the sequence numbers are used up")]
    Exhausted,
    /// The responder gave the transfer up.
    #[error("the responder gave up early")]
    GivenUp,
    /// The answer to the request came before all of it was sent, or did not come with the last chunk.
    #[error("the answer stands with the wrong chunk")]
    Answer,
}

/// Why an operation failed.
///
/// After an error of [`Blame::Caller`] everything is as before. After any other one the connection is
/// forgotten, the session's secrets with it; [`super::Operation::Connect`] begins anew.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequesterError {
    /// An operation is under way.
    #[error("an operation is under way")]
    UnderWay,
    /// An answer came in, or is asked for, while no operation waits for one.
    #[error("no operation waits for an answer")]
    Idle,
    /// There is no connection.
    #[error("there is no connection")]
    NotConnected,
    /// There is no session.
    #[error("there is no session")]
    NoSession,
    /// Not while there is a session.
    #[error("session {0} is open")]
    SessionOpen(SessionId),
    /// The responder cannot do that.
    #[error("the responder lacks {0}")]
    Lacking(&'static str),
    /// The configuration forbids it.
    #[error("the configuration lacks {0}")]
    Configuration(&'static str),
    /// The chain of the slot was not read and believed.
    #[error("the certificate chain of slot {0} was not read")]
    NoChain(SlotId),
    /// `DIGESTS` has said that the slot holds no chain.
    #[error("slot {0} is empty")]
    EmptySlot(SlotId),
    /// No measurements were read to compare with.
    #[error("no measurements were read that could be compared")]
    NoMeasurements,
    /// The index is reserved.
    #[error("measurement index {0:#x} is reserved")]
    MeasurementIndex(u8),
    /// The request is larger than the responder takes.
    #[error("a request of {size} bytes, the responder takes {limit}")]
    RequestTooLarge {
        /// Of the request.
        size: usize,
        /// What the responder takes.
        limit: usize,
    },

    /// No answer.
    #[error("{request}: {failure}")]
    Transport {
        /// The request that was under way.
        request: RequestCode,
        /// What failed.
        failure: TransportFailure,
    },
    /// This side's cryptography failed.
    #[error("{doing}: {error}")]
    Crypto {
        /// What was being done.
        doing: &'static str,
        /// What failed.
        error: CryptoError,
    },
    /// A secured message could not be made.
    #[error("{request} cannot be secured: {error}")]
    Seal {
        /// The request.
        request: RequestCode,
        /// Why.
        error: SecuredError,
    },

    /// The answer came as another kind of object.
    #[error("the answer to {request} is {found}, not {expected}")]
    WrongKind {
        /// The request.
        request: RequestCode,
        /// How it came.
        found: Kind,
        /// How it should have come.
        expected: Kind,
    },
    /// An `ERROR` in the clear to a secured request: the responder does not know the session any more.
    #[error("the responder has lost session {session}: {code} in the clear")]
    SessionLost {
        /// The session.
        session: SessionId,
        /// The code of the `ERROR`.
        code: ErrorCode,
    },
    /// A secured message of another session.
    #[error("a message of session {found}, not of {expected}")]
    WrongSession {
        /// In the message.
        found: SessionId,
        /// The session.
        expected: SessionId,
    },
    /// A secured message that does not open.
    #[error("the answer to {request} is no message of the session: {error}")]
    Open {
        /// The request.
        request: RequestCode,
        /// Why.
        error: SecuredError,
    },
    /// Bytes that are not the message that was waited for.
    #[error("{request} is answered with bytes that are no answer: {error}")]
    Decode {
        /// The request.
        request: RequestCode,
        /// Why.
        error: DecodeError,
    },
    /// The answer is larger than this side takes.
    #[error("the answer to {request} has {size} bytes, more than the {limit} that are taken")]
    AnswerTooLarge {
        /// The request.
        request: RequestCode,
        /// Of the answer.
        size: usize,
        /// What is taken.
        limit: usize,
    },
    /// Another message than the answer.
    #[error("{request} is answered with {found}")]
    Unexpected {
        /// The request.
        request: RequestCode,
        /// What came.
        found: ResponseCode,
    },
    /// A step of the handshake is answered as if it were one with a pre-shared key.
    #[error("{request} is answered with {found}: nobody has asked for a pre-shared key")]
    UnaskedPsk {
        /// The request.
        request: RequestCode,
        /// What came.
        found: ResponseCode,
    },
    /// The responder answers with an error.
    #[error("{request} is answered with ERROR {code}, data {data:#x}")]
    Refused {
        /// The request.
        request: RequestCode,
        /// The error.
        code: ErrorCode,
        /// Its data.
        data: u8,
    },
    /// The responder stays busy.
    #[error("{request}: the responder is busy, {tries} times on end")]
    Busy {
        /// The request.
        request: RequestCode,
        /// How often it was sent.
        tries: u32,
    },
    /// The responder never gets ready.
    #[error("{request}: the response is not ready, {tries} times on end")]
    NeverReady {
        /// The request.
        request: RequestCode,
        /// How often it was asked for.
        tries: u32,
    },
    /// `ResponseNotReady` where it must not be, or with times or a request that do not fit.
    #[error("{request}: ResponseNotReady {fault}")]
    NotReady {
        /// The request.
        request: RequestCode,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// The responder wants to begin anew.
    #[error("{request}: the responder asks for a new connection")]
    Resynch {
        /// The request.
        request: RequestCode,
    },
    /// Chunks of a large message are wrong.
    #[error("{request}: chunk transfer: {fault}")]
    Chunk {
        /// The request.
        request: RequestCode,
        /// What is wrong.
        fault: ChunkFault,
    },

    /// The responder speaks no version that this side may speak.
    #[error("the responder speaks none of the versions {0:?}")]
    NoCommonVersion(alloc::vec::Vec<Version>),
    /// The responder takes less than the operation needs.
    #[error("{request} has {size} bytes, the responder takes {limit}")]
    PeerTooSmall {
        /// The request.
        request: RequestCode,
        /// Of the request.
        size: usize,
        /// What the responder takes.
        limit: usize,
    },
    /// Capabilities that contradict each other or the rules.
    #[error("CAPABILITIES: {0}")]
    Capabilities(&'static str),
    /// An algorithm that was not offered, more than one, or none.
    #[error("ALGORITHMS: {field} selects {selected:#x} of the offered {offered:#x}")]
    Selection {
        /// The field.
        field: &'static str,
        /// What the responder selects.
        selected: u32,
        /// What was offered.
        offered: u32,
    },
    /// The masks of `DIGESTS` contradict each other.
    #[error("DIGESTS: {0}")]
    Digests(&'static str),
    /// The answer is about another slot.
    #[error("{request} asks for slot {asked}, the answer is for {found}")]
    WrongSlot {
        /// The request.
        request: RequestCode,
        /// The slot asked for.
        asked: SlotId,
        /// What the answer says.
        found: u8,
    },
    /// A portion of a certificate chain that does not fit the others.
    #[error("CERTIFICATE: {0}")]
    Portion(&'static str),
    /// The chain is not the one of `DIGESTS` or of another message.
    #[error("the digest of the chain of slot {0} is not that of its certificates")]
    ChainDigest(SlotId),
    /// The chain is not believed.
    #[error("certificate chain: {0}")]
    Chain(#[from] ChainError),
    /// A signature is wrong.
    #[error("the signature of {0} does not verify")]
    BadSignature(ResponseCode),
    /// A MAC of the handshake is wrong.
    #[error("the verify data of {0} are wrong")]
    BadVerifyData(ResponseCode),
    /// The public value of the key agreement is none.
    #[error("the responder's public value is none")]
    BadExchange,
    /// The responder wants this side to authenticate itself, which nobody has offered.
    #[error("{0} asks for mutual authentication, which was not offered")]
    UnaskedMutualAuth(ResponseCode),
    /// The answer does not repeat the context or tag of the request.
    #[error("{found} does not repeat {field} of the request")]
    Echo {
        /// The answer.
        found: ResponseCode,
        /// What it should have repeated.
        field: &'static str,
    },
    /// `KEY_UPDATE_ACK` of an update of all keys came under the old one.
    #[error("KEY_UPDATE_ACK came under the old key")]
    OldKey,
    /// A heartbeat that was not agreed on.
    #[error("KEY_EXCHANGE_RSP wants a heartbeat, which was not agreed on")]
    UnaskedHeartbeat,
    /// Opaque data that are malformed or choose what was not offered.
    #[error("opaque data of {found}: {fault}")]
    Opaque {
        /// The answer.
        found: ResponseCode,
        /// What is wrong with them.
        fault: OpaqueFault,
    },
    /// A measurement record that is not what was asked for.
    #[error("MEASUREMENTS: {0}")]
    Measurements(&'static str),
    /// Measurements differ from those read before, or the responder says so.
    #[error("the measurements have changed{}", MeasurementIndex(*index))]
    MeasurementsChanged {
        /// The first block that differs, if it is one.
        index: Option<u8>,
    },
    /// The summary of measurements is not that of the measurements.
    #[error("the measurement summary is not that of the measurements")]
    SummaryMismatch,
    /// The vendor's answer is one of another vendor.
    #[error("the answer to VENDOR_DEFINED is one of another vendor or standard")]
    WrongVendor,
}

/// What is wrong with opaque data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpaqueFault {
    /// They are malformed.
    #[error("{0}")]
    Decode(DecodeError),
    /// There are none, or none that select a version.
    #[error("no version of secured messages is selected")]
    NoSelection,
    /// The version was not offered.
    #[error("secured message version {0:#06x} was not offered")]
    NotOffered(u16),
    /// There are opaque data without an agreed format.
    #[error("no format was agreed on")]
    NoFormat,
}

impl RequesterError {
    /// Whose fault it is.
    pub const fn blame(&self) -> Blame {
        match self {
            Self::UnderWay
            | Self::Idle
            | Self::NotConnected
            | Self::NoSession
            | Self::SessionOpen(_)
            | Self::Lacking(_)
            | Self::Configuration(_)
            | Self::NoChain(_)
            | Self::EmptySlot(_)
            | Self::NoMeasurements
            | Self::MeasurementIndex(_)
            | Self::RequestTooLarge { .. } => Blame::Caller,
            Self::Transport { .. } => Blame::Transport,
            Self::Crypto { .. } | Self::Seal { .. } => Blame::Platform,
            _ => Blame::Responder,
        }
    }
}

struct MeasurementIndex(Option<u8>);

impl fmt::Display for MeasurementIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |index| write!(f, ", first at index {index}"))
    }
}
