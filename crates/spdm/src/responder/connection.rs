use alloc::boxed::Box;
use alloc::vec::Vec;

use super::Responder;
use super::refusal::Refusal;
use crate::crypto::Digest;
use crate::ids::{SlotId, Version};
use crate::msg::{Layout, RequesterFlags};

/// How far a connection is.
#[derive(Debug, Default)]
pub(super) enum State {
    /// Before `GET_VERSION`.
    #[default]
    Start,
    /// After `VERSION`.
    Version,
    /// After `CAPABILITIES`.
    Capabilities(Peer),
    /// After `ALGORITHMS`.
    Negotiated(Box<Negotiated>),
}

/// What the requester has said of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) version: Version,
    pub(super) flags: RequesterFlags,
    pub(super) data_transfer_size: usize,
    pub(super) max_message_size: usize,
}

/// What was agreed on.
#[derive(Debug)]
pub(super) struct Negotiated {
    pub(super) peer: Peer,
    pub(super) layout: Layout,
    /// Whether opaque data of format 1 may be exchanged; sessions need them.
    pub(super) opaque: bool,
    /// The chains that are usable with the hash and signature algorithm agreed on.
    pub(super) slots: [Option<Slot>; SlotId::COUNT],
    /// Whether a `CHALLENGE` was answered on this connection.
    pub(super) authenticated: bool,
}

/// A slot as it appears on a connection.
#[derive(Debug)]
pub(super) struct Slot {
    /// Index of its identity.
    pub(super) identity: usize,
    /// The chain, header and root hash included.
    pub(super) chain: Vec<u8>,
    pub(super) digest: Digest,
}

impl Negotiated {
    /// The slot, if it holds a chain.
    pub(super) fn slot(&self, slot: SlotId) -> Result<&Slot, Refusal> {
        self.slots.get(slot.index()).and_then(Option::as_ref).ok_or(Refusal::invalid())
    }

    /// A bit for each slot that holds a chain.
    pub(super) fn slot_mask(&self) -> u8 {
        self.slots.iter().rev().fold(0, |mask, slot| mask << 1 | u8::from(slot.is_some()))
    }
}

impl Responder {
    /// The version that was agreed on.
    pub(super) fn version(&self) -> Option<Version> {
        self.peer().map(|peer| peer.version)
    }

    pub(super) fn peer(&self) -> Option<&Peer> {
        match &self.state {
            State::Start | State::Version => None,
            State::Capabilities(peer) => Some(peer),
            State::Negotiated(negotiated) => Some(&negotiated.peer),
        }
    }

    pub(super) fn negotiated(&self) -> Result<&Negotiated, Refusal> {
        match &self.state {
            State::Negotiated(negotiated) => Ok(negotiated),
            _ => Err(Refusal::unexpected()),
        }
    }
}
