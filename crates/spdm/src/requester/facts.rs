//! What is known of the other side.

use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use super::MeasurementsRequest;
use crate::algo::{HashAlgo, Suite};
use crate::crypto::{Digest, PublicKey};
use crate::ids::{SessionId, SlotId, Version};
use crate::msg::{Layout, MeasurementOperation, Measurements, ResponderFlags, SummaryHash, VersionNumber};

/// What `CAPABILITIES` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Capabilities of the responder.
    pub flags: ResponderFlags,
    /// Time for cryptography: 2^n µs.
    pub ct_exponent: u8,
    /// Largest message that it takes in one object, in bytes.
    pub data_transfer_size: u32,
    /// Largest message that it takes in chunks, in bytes.
    pub max_message_size: u32,
}

/// What a connection has agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Version of SPDM.
    pub version: Version,
    /// The other side.
    pub peer: Peer,
    /// Algorithms.
    pub suite: Suite,
    /// Whether measurements can be read, in the format of DMTF.
    pub measurements: bool,
    /// Whether opaque data of the general format 1 were agreed on.
    pub opaque: bool,
}

impl Connection {
    /// The layout of the connection's messages.
    pub const fn layout(&self) -> Layout {
        Layout::new(self.version, self.suite)
    }

    /// The hash of the connection.
    pub const fn hash(&self) -> HashAlgo {
        self.suite.hash
    }
}

/// What `DIGESTS` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// Digests of the chains, by slot; `None` where there is no chain.
    pub digests: [Option<Digest>; SlotId::COUNT],
}

impl Slots {
    /// The slots that hold a chain.
    pub fn provisioned(&self) -> impl Iterator<Item = SlotId> + '_ {
        (0..8).filter_map(SlotId::new).filter(|slot| self.digest(*slot).is_some())
    }

    /// The digest of a slot's chain.
    pub fn digest(&self, slot: SlotId) -> Option<Digest> {
        self.digests.get(slot.index()).copied().flatten()
    }
}

/// A chain that was read and is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The chain with its header, as `CERTIFICATE` carries it.
    pub bytes: Vec<u8>,
    /// Its digest.
    pub digest: Digest,
    /// The key of the leaf.
    pub key: PublicKey,
}

/// Measurements that were read.
#[derive(Clone, PartialEq, Eq)]
pub struct MeasurementRecord {
    /// What was asked for.
    pub operation: MeasurementOperation,
    /// The blocks, in the order of the response.
    pub blocks: Vec<u8>,
    /// Number of blocks; of a request for the number only, how many there are.
    pub count: u8,
    /// Whether raw bit streams were asked for.
    pub raw: bool,
    /// The slot whose key has signed, if any.
    pub signed: Option<SlotId>,
    /// The session that they were read in, if any.
    pub session: Option<SessionId>,
    /// Request and response as they were, signature included.
    pub messages: Vec<u8>,
}

impl MeasurementRecord {
    pub(super) fn new(
        asked: MeasurementsRequest,
        response: &Measurements<'_>,
        session: Option<SessionId>,
        messages: Vec<u8>,
    ) -> Self {
        let total = asked.operation == MeasurementOperation::Total;
        Self {
            operation: asked.operation,
            blocks: response.record.to_vec(),
            count: if total { response.total } else { response.blocks },
            raw: asked.raw,
            signed: asked.signed,
            session,
            messages,
        }
    }
}

impl fmt::Debug for MeasurementRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeasurementRecord")
            .field("count", &self.count)
            .field("bytes", &self.blocks.len())
            .field("raw", &self.raw)
            .field("signed", &self.signed)
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

/// A summary of measurements that a signed message gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Of which measurements.
    pub of: SummaryHash,
    /// Their digest.
    pub digest: Digest,
}

/// A session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionFacts {
    /// Its id.
    pub id: SessionId,
    /// The slot whose key has signed the key exchange.
    pub slot: SlotId,
    /// Version of secured messages.
    pub secured_version: VersionNumber,
    /// A heartbeat is due at least this often; `None` if there is none.
    pub heartbeat: Option<Duration>,
    /// The summary of measurements, if it was asked for.
    pub summary: Option<Summary>,
}
