//! `GET_DIGESTS`: which slots hold chains.

use alloc::vec::Vec;

use super::exchange::{self, Message};
use super::{Next, Outcome, Requester, RequesterError, Slots, Step};
use crate::crypto::Digest;
use crate::ids::SlotId;
use crate::msg::{Digests, GetDigests};

impl Requester {
    pub(super) fn get_digests(&mut self) -> Result<(Step, Vec<u8>), RequesterError> {
        if !self.connected()?.peer.flags.cert() {
            return Err(RequesterError::Lacking("CERT_CAP"));
        }
        let version = self.version;
        let request = exchange::bytes(|writer| GetDigests { version }.write(writer))?;
        Ok((Step::Digests, request))
    }

    pub(super) fn on_digests(
        &mut self,
        request: &[u8],
        message: &Message<'_>,
    ) -> Result<Next, RequesterError> {
        let layout = self.connected()?.layout();
        let (response, exact) = message.read(|reader| Digests::read(reader, &layout))?;
        let mut slots = Slots::default();
        for (slot, bytes) in response.slots() {
            if let Some(entry) = slots.digests.get_mut(slot.index()) {
                *entry = Digest::new(bytes);
            }
        }
        for slot in (0..8).filter_map(SlotId::new) {
            // A chain that was believed and is gone is as bad as another one in its place.
            if self.chain(slot).is_some_and(|chain| Some(chain.digest) != slots.digest(slot)) {
                return Err(RequesterError::ChainDigest(slot));
            }
        }
        if response.provisioned == 0 {
            return Err(RequesterError::Digests("no slot holds a chain"));
        }
        let clear = self.session.is_none();
        if let Some(log) = self.transcript.authentication() {
            log.clear();
            if clear {
                log.append(request);
                log.append(exact);
            }
        }
        self.slots = Some(slots);
        Ok(Next::Done(Outcome::Digests))
    }
}
