//! The catalogue of bad devices: what a device, or somebody between it and its host, may do wrong or
//! try, each to be chosen by name. All of them are there to be noticed.
//!
//! In a device file: `faults = ["expired-chain", { silent = { at = "FINISH" } }]`.

mod at;
mod bend;
mod catalogue;
mod identity;
mod player;
mod tdisp;

pub use at::{At, UnknownRequest};
pub use catalogue::{CATALOGUE, DeviceFaultInfo};
pub use identity::SignatureFault;
pub use player::{Answered, Faults, Faulty};

pub(super) use identity::{Spoilable, certify};

use serde::{Deserialize, Serialize};

/// A message that a device signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Signed {
    /// `CHALLENGE_AUTH`.
    #[serde(rename = "CHALLENGE_AUTH")]
    ChallengeAuth,
    /// `MEASUREMENTS`.
    #[serde(rename = "MEASUREMENTS")]
    Measurements,
    /// `KEY_EXCHANGE_RSP`.
    #[serde(rename = "KEY_EXCHANGE_RSP")]
    KeyExchangeRsp,
}

/// What is chosen in `ALGORITHMS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// `BaseAsymSel`.
    Signature,
    /// `BaseHashSel`.
    Hash,
    /// The DHE table.
    Group,
    /// The AEAD table.
    Cipher,
    /// `OtherParamsSelection`.
    OtherParams,
}

/// What an acknowledgement of `IDE_KM` echoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Echo {
    /// The stream ID.
    Stream,
    /// The key set.
    KeySet,
    /// The direction.
    Direction,
    /// The sub-stream.
    SubStream,
    /// The port index.
    Port,
}

/// What is wrong with the ranges of a device interface report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReportLie {
    /// The first range is longer than its BAR.
    Outside,
    /// The first range lies in front of its BAR, where another function's memory may be.
    Elsewhere,
    /// The first range is there twice.
    Overlap,
    /// The first range belongs to a BAR that the function does not have.
    NoBar,
    /// The first range has no pages.
    Empty,
    /// It says that there are more ranges than bytes.
    Count,
    /// An attribute that does not exist.
    Attributes,
}

/// A fault of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum DeviceFault {
    /// The leaf certificate has expired.
    ExpiredChain,
    /// The leaf certificate is not valid yet.
    NotYetValidChain,
    /// The chain is one of another authority.
    WrongRootChain,
    /// The signature in the leaf certificate is wrong.
    BadChainSignature,
    /// A byte of the chain differs from `DIGESTS`.
    ChainChanges,
    /// The chain has another size from its second portion on.
    ChainSizeChanges,
    /// `CERTIFICATE` names another slot.
    WrongSlot,
    /// A signature is wrong.
    BadSignature {
        /// Of that message.
        at: Signed,
    },
    /// `ResponderVerifyData` are wrong.
    BadVerifyData,
    /// The public value of `KEY_EXCHANGE_RSP` is no point of the curve.
    BadExchange,
    /// Measurements differ each time.
    MeasurementsChange,
    /// The signed summary is not that of the measurements.
    SummaryLies,
    /// The requester's context is not repeated.
    WrongContext {
        /// In that message.
        at: Signed,
    },

    /// No answer.
    Silent {
        /// To that request.
        at: At,
    },
    /// The mailbox reports an error.
    DoeError {
        /// For that request.
        at: At,
    },
    /// The answer that the same request got on the connection before.
    Replayed {
        /// The request.
        at: At,
    },
    /// The answer comes once more in place of the next one; all that follow come one too late.
    Reordered {
        /// The request.
        at: At,
    },
    /// The last four bytes are missing.
    Truncated {
        /// Of the answer to that request.
        at: At,
    },
    /// Four more bytes follow.
    TrailingBytes {
        /// The answer to that request.
        at: At,
    },
    /// 64 KiB more follow.
    Oversized {
        /// The answer to that request.
        at: At,
    },
    /// A secured message in the clear, or the reverse.
    WrongKind {
        /// The answer to that request.
        at: At,
    },
    /// The secured message names another session.
    WrongSession {
        /// The answer to that request.
        at: At,
    },
    /// The tag is wrong.
    BadTag {
        /// The answer to that request.
        at: At,
    },
    /// The device has no sequence numbers left after some messages.
    SequenceOverflow {
        /// Messages that a key may protect.
        limit: u64,
    },
    /// Another message than the answer.
    WrongAnswer {
        /// To that request.
        at: At,
    },
    /// An answer of another version.
    WrongVersion {
        /// To that request.
        at: At,
    },
    /// `ERROR` with `Unspecified`.
    Refused {
        /// To that request.
        at: At,
    },
    /// Busy, always.
    BusyForever {
        /// For that request.
        at: At,
    },
    /// `ResponseNotReady`, always.
    NotReadyForever {
        /// For that request.
        at: At,
    },
    /// `LargeResponse`, and chunks that do not follow each other.
    WrongChunk,

    /// An algorithm that was not offered.
    UnofferedAlgorithm {
        /// What it is chosen for.
        choice: Choice,
    },
    /// Two algorithms where one is to be chosen.
    ManyAlgorithms {
        /// What they are chosen for.
        choice: Choice,
    },
    /// Somebody takes the best hash, group and cipher out of the offer.
    AlgorithmDowngrade,
    /// Somebody takes the highest version out of `VERSION`.
    VersionRollback,
    /// No version that anybody speaks.
    NoCommonVersion,
    /// Somebody takes a capability out of `CAPABILITIES`.
    CapabilitiesStripped,
    /// Capabilities that contradict each other.
    CapabilitiesInconsistent,
    /// `KEY_EXCHANGE_RSP` asks for mutual authentication.
    UnaskedMutualAuth,
    /// `CHALLENGE_AUTH` asks for basic mutual authentication.
    UnaskedBasicMutualAuth,
    /// An encapsulated request in place of an answer.
    EncapsulatedRequest {
        /// To that request.
        at: At,
    },
    /// `PSK_EXCHANGE_RSP` to `KEY_EXCHANGE`.
    PskExchange,
    /// `PSK_FINISH_RSP` to `FINISH`.
    PskFinish,
    /// A heartbeat that was not agreed on.
    UnaskedHeartbeat,
    /// Opaque data that are none.
    GarbageOpaque,
    /// A version of secured messages that was not offered.
    UnofferedSecuredVersion,
    /// `KEY_UPDATE_ACK` with another tag.
    WrongUpdateTag,
    /// An answer of another vendor.
    WrongVendor,

    /// `QUERY_RESP` is about another port.
    WrongPort,
    /// `KP_ACK` is about another key.
    WrongKeyEchoed {
        /// What differs.
        echo: Echo,
    },
    /// `K_GOSTOP_ACK` is about another key.
    WrongGoEchoed {
        /// What differs.
        echo: Echo,
    },
    /// `KP_ACK` says that the key was not taken.
    KeyRefused {
        /// Its status.
        status: u8,
    },
    /// `K_SET_GO` is refused.
    GoRefused,
    /// The answer belongs to the other protocol of the PCI-SIG.
    WrongProtocol {
        /// To that request.
        at: At,
    },
    /// Another message of the same protocol.
    WrongMessage {
        /// In place of the answer to that request.
        at: At,
    },

    /// An answer about another interface.
    WrongInterface {
        /// To that request.
        at: At,
    },
    /// `TDISP_ERROR`.
    TdispRefused {
        /// To that request.
        at: At,
    },
    /// An answer of another version of TDISP.
    WrongTdispVersion {
        /// To that request.
        at: At,
    },
    /// The nonce of `LOCK_INTERFACE_RESPONSE` has another length.
    WrongNonceLength {
        /// Its length.
        bytes: u8,
    },
    /// `DEVICE_INTERFACE_STATE` has a state that does not exist.
    UnknownState,
    /// The report has another size from its second portion on.
    ReportSizeChanges,
    /// The report lies.
    LyingReport {
        /// How.
        lie: ReportLie,
    },
}

/// When a fault shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    /// From the next message on.
    AtOnce,
    /// Only in a device that was made with it.
    FromPowerOn,
}

impl DeviceFault {
    /// Whether it is part of what the device is made with.
    pub const fn shows(&self) -> Shows {
        match self {
            Self::ExpiredChain
            | Self::NotYetValidChain
            | Self::WrongRootChain
            | Self::BadChainSignature
            | Self::SequenceOverflow { .. } => Shows::FromPowerOn,
            _ => Shows::AtOnce,
        }
    }

    /// The request at which it shows, if that can be chosen.
    pub const fn at(&self) -> Option<At> {
        match *self {
            Self::Silent { at }
            | Self::DoeError { at }
            | Self::Replayed { at }
            | Self::Reordered { at }
            | Self::Truncated { at }
            | Self::TrailingBytes { at }
            | Self::Oversized { at }
            | Self::WrongKind { at }
            | Self::WrongSession { at }
            | Self::BadTag { at }
            | Self::WrongAnswer { at }
            | Self::WrongVersion { at }
            | Self::Refused { at }
            | Self::BusyForever { at }
            | Self::NotReadyForever { at }
            | Self::EncapsulatedRequest { at }
            | Self::WrongProtocol { at }
            | Self::WrongMessage { at }
            | Self::WrongInterface { at }
            | Self::TdispRefused { at }
            | Self::WrongTdispVersion { at } => Some(at),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
