//! `CHALLENGE`: the device has the key of its chain, and what was read of it before is genuine.

use alloc::vec::Vec;

use super::exchange::{self, Message};
use super::{ChallengeRequest, Next, Outcome, Requester, RequesterError, Step, Summary};
use crate::crypto::Digest;
use crate::msg::{Challenge, ChallengeAuth, Context, Header, RequestCode, ResponseCode, SummaryHash};
use crate::signing;

/// `CHALLENGE_AUTH.Param1`: wants basic mutual authentication, before 1.2.
const MUTUAL_AUTH: u8 = 1 << 7;

/// What `CHALLENGE_AUTH` has to agree with.
pub(super) struct Asked {
    request: ChallengeRequest,
    context: Option<Context>,
}

impl Requester {
    pub(super) fn challenge(&mut self, wanted: ChallengeRequest) -> Result<(Step, Vec<u8>), RequesterError> {
        let flags = self.connected()?.peer.flags;
        if let Some(active) = &self.session {
            return Err(RequesterError::SessionOpen(active.facts.id));
        }
        if !flags.chal() {
            return Err(RequesterError::Lacking("CHAL_CAP"));
        }
        self.can_summarise(wanted.summary)?;
        self.chain(wanted.slot).ok_or(RequesterError::NoChain(wanted.slot))?;
        let (nonce, context) = (self.random()?, self.context()?);
        let request =
            Challenge { version: self.version, slot: wanted.slot, summary: wanted.summary, nonce, context };
        let request = exchange::bytes(|writer| request.write(writer))?;
        Ok((Step::Challenge(Asked { request: wanted, context }), request))
    }

    pub(super) fn on_challenge_auth(
        &mut self,
        asked: &Asked,
        request: &[u8],
        message: &Message<'_>,
    ) -> Result<Next, RequesterError> {
        let code = ResponseCode::CHALLENGE_AUTH;
        if Header::peek(message.bytes).is_ok_and(|header| header.param1 & MUTUAL_AUTH != 0) {
            return Err(RequesterError::UnaskedMutualAuth(code));
        }
        let connection = *self.connected()?;
        let (layout, slot) = (connection.layout(), asked.request.slot);
        let summary = asked.request.summary;
        let (response, exact) =
            message.read(|reader| ChallengeAuth::read(reader, &layout, summary.is_asked()))?;
        if response.slot != slot {
            let (request, found) = (RequestCode::CHALLENGE, response.slot.number());
            return Err(RequesterError::WrongSlot { request, asked: slot, found });
        }
        let chain = self.chain(slot).ok_or(RequesterError::NoChain(slot))?;
        if response.slot_mask & 1 << slot.number() == 0 || response.chain_hash != &*chain.digest {
            return Err(RequesterError::ChainDigest(slot));
        }
        if response.context != asked.context {
            return Err(RequesterError::Echo { found: code, field: "the context" });
        }
        connection.check_opaque(code, response.opaque)?;
        let key = chain.key.clone();
        let signed = exact.len().checked_sub(response.signature.len()).and_then(|size| exact.get(..size));
        let log = self.transcript.authentication().ok_or(RequesterError::NotConnected)?;
        let digest = log.digest_with(&[request, signed.unwrap_or_default()]);
        log.clear();
        signing::verify(
            &*self.crypto,
            &key,
            connection.hash(),
            connection.version,
            signing::Context::ChallengeAuth,
            &digest,
            response.signature,
        )
        .map_err(|error| super::bad_signature(code, error))?;
        self.authenticated = true;
        let summary = self.take_summary(summary, response.summary)?;
        Ok(Next::Done(Outcome::Challenged(summary)))
    }

    /// Whether the responder can summarise its measurements.
    pub(super) fn can_summarise(&self, summary: SummaryHash) -> Result<(), RequesterError> {
        if summary.is_asked() && !self.connected()?.measurements {
            return Err(RequesterError::Lacking("MEAS_CAP"));
        }
        Ok(())
    }

    /// A summary that a signature covers: it must be that of the measurements, if they were read.
    pub(super) fn take_summary(
        &mut self,
        of: SummaryHash,
        digest: Option<&[u8]>,
    ) -> Result<Option<Summary>, RequesterError> {
        let summary = digest.and_then(Digest::new).map(|digest| Summary { of, digest });
        if summary.is_some() && of == SummaryHash::All {
            self.summary = summary;
            self.compare_summary()?;
        }
        Ok(summary)
    }
}
