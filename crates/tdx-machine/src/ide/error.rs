use pcie::Bdf;
use spdm::ide_km::{KeySet, StreamId, SubStream};

use super::tlp::BadTlp;

/// Why TLPs are not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The port has no such stream.
    #[error("there is no stream {0}")]
    NoStream(StreamId),
    /// The stream is not secure.
    #[error("stream {0} is not secure")]
    Insecure(StreamId),
    /// The sub-stream has no key in use.
    #[error("stream {stream}: no key to send {sub_stream:?} with")]
    NotKeyed {
        /// The stream.
        stream: StreamId,
        /// The sub-stream.
        sub_stream: SubStream,
    },
    /// The counter has no value left for this key.
    #[error("stream {stream}: the counter of {sub_stream:?} is used up: its keys must be refreshed")]
    CounterExhausted {
        /// The stream.
        stream: StreamId,
        /// The sub-stream.
        sub_stream: SubStream,
    },
    /// A TLP is none, or too large.
    #[error(transparent)]
    Tlp(#[from] BadTlp),
    /// TLPs of different sub-streams under one MAC.
    #[error("TLPs of different sub-streams cannot be aggregated")]
    MixedSubStreams,
    /// No TLP at all, or more than the stream puts under one MAC.
    #[error("{count} TLPs under one MAC: the stream has 1 to {limit}")]
    Aggregation {
        /// How many.
        count: usize,
        /// How many the stream permits.
        limit: usize,
    },
    /// The cipher failed.
    #[error("the cipher failed")]
    Cipher,
}

/// Why TLPs that arrived are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The port has no such stream.
    #[error("misrouted: there is no stream {0}")]
    MisroutedStream(StreamId),
    /// The sender is not one that the stream is associated with. The TLP is authentic.
    #[error("misrouted: {sender} is not associated with stream {stream}")]
    MisroutedSender {
        /// The stream.
        stream: StreamId,
        /// Requester of a request, completer of a completion.
        sender: Bdf,
    },
    /// The stream is not secure.
    #[error("stream {0} is not secure")]
    Insecure(StreamId),
    /// The key that the TLP says it was sealed with is not in use. The stream is insecure now.
    #[error("stream {stream}: no key of {set:?} to receive {sub_stream:?} with")]
    NotKeyed {
        /// The stream.
        stream: StreamId,
        /// The set of the K bit.
        set: KeySet,
        /// The sub-stream.
        sub_stream: SubStream,
    },
    /// Changed, lost, repeated or reordered: the MAC does not verify. The stream is insecure now.
    #[error("stream {stream}: the integrity check of {sub_stream:?} failed")]
    IntegrityFail {
        /// The stream.
        stream: StreamId,
        /// The sub-stream.
        sub_stream: SubStream,
    },
    /// The counter has no value left for this key. The stream is insecure now.
    #[error("stream {stream}: the counter of {sub_stream:?} is used up: its keys must be refreshed")]
    CounterExhausted {
        /// The stream.
        stream: StreamId,
        /// The sub-stream.
        sub_stream: SubStream,
    },
    /// What arrived is no TLP, or too large a one; in a stream the sender has sealed it with the right key.
    #[error(transparent)]
    Tlp(#[from] BadTlp),
}

impl OpenError {
    /// The bit that reports it in the uncorrectable error status register of AER.
    pub const fn uncorrectable_error(&self) -> Option<u32> {
        match self {
            Self::IntegrityFail { .. } | Self::NotKeyed { .. } | Self::CounterExhausted { .. } => Some(28),
            Self::MisroutedStream(_) | Self::MisroutedSender { .. } => Some(29),
            Self::Tlp(_) => Some(18),
            Self::Insecure(_) => None,
        }
    }

    /// The stream that is insecure from now on: the other end is to be told.
    pub const fn lost_stream(&self) -> Option<StreamId> {
        match *self {
            Self::IntegrityFail { stream, .. }
            | Self::NotKeyed { stream, .. }
            | Self::CounterExhausted { stream, .. } => Some(stream),
            _ => None,
        }
    }
}
