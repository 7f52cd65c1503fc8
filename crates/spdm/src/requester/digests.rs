//! `GET_DIGESTS`: which slots hold chains.

use alloc::vec::Vec;

use super::exchange::{self, Message};
use super::{Next, Outcome, Requester, RequesterError, Slots, Step};
use crate::crypto::Digest;
use crate::msg::{Digests, GetDigests};

impl Requester {
    pub(super) fn get_digests(&mut self) -> Result<(Step, Vec<u8>), RequesterError> {
        if !self.connected()?.peer.flags.cert() {
            return Err(RequesterError::Lacking("CERT_CAP"));
        }
        let version = self.version;
        let request = exchange::bytes(|writer| GetDigests { version }.write(writer))?;
        self.end_measuring();
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
            let digest = Digest::new(bytes);
            if self.chain(slot).is_some_and(|chain| Some(chain.digest) != digest) {
                return Err(RequesterError::ChainDigest(slot));
            }
            if let Some(entry) = slots.digests.get_mut(slot.index()) {
                *entry = digest;
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
