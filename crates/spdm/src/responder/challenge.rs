use alloc::vec::Vec;

use super::connection::State;
use super::dispatch::{Answer, Call, Incoming, encode};
use super::refusal::Refusal;
use super::{Responder, Stage};
use crate::crypto::Digest;
use crate::ids::SlotId;
use crate::msg::{Challenge, ChallengeAuth, ErrorCode, NONCE_SIZE, Nonce, ResponseCode};
use crate::signing::{self, Context};

impl Responder {
    /// `CHALLENGE`: a signature over M1/M2.
    pub(super) fn challenge(
        &mut self,
        call: &mut Call<'_>,
        incoming: Incoming<'_>,
    ) -> Result<Answer, Refusal> {
        let negotiated = self.negotiated()?;
        let layout = negotiated.layout;
        let (asked, request) = incoming.read(|reader| Challenge::read(reader, layout.version))?;
        let slot = negotiated.slot(asked.slot)?;
        let summary = self.summary(layout, call, asked.summary)?;

        let nonce = self.nonce()?;
        let mut response = encode(256, |writer| {
            ChallengeAuth {
                version: layout.version,
                slot: asked.slot,
                slot_mask: negotiated.slot_mask(),
                chain_hash: &slot.digest,
                nonce,
                summary: summary.as_deref(),
                opaque: &[],
                context: asked.context,
                signature: &[],
            }
            .write(writer)
        })?;
        self.check_size(call, response.len() + layout.signature())?;
        call.device.shape(Stage::BeforeSignature(ResponseCode::CHALLENGE_AUTH), &mut response);
        let log = self.transcript.authentication().ok_or(Refusal::unexpected())?;
        let digest = log.digest_with(&[request, &response]);
        response.extend(self.sign(asked.slot, Context::ChallengeAuth, &digest)?);

        if let Some(log) = self.transcript.authentication() {
            log.clear();
        }
        if let State::Negotiated(negotiated) = &mut self.state {
            negotiated.authenticated = true;
        }
        Ok(response.into())
    }

    /// Signs a transcript with the key of a slot.
    pub(super) fn sign(
        &self,
        slot: SlotId,
        context: Context,
        transcript: &Digest,
    ) -> Result<Vec<u8>, Refusal> {
        let negotiated = self.negotiated()?;
        let layout = negotiated.layout;
        let identity = self.identities.get(negotiated.slot(slot)?.identity).ok_or(Refusal::invalid())?;
        let signature =
            signing::sign(&*identity.signer, layout.suite.hash, layout.version, context, transcript)?;
        if signature.len() == layout.signature() {
            Ok(signature)
        } else {
            Err(Refusal::new(ErrorCode::UNSPECIFIED))
        }
    }

    pub(super) fn nonce(&self) -> Result<Nonce, Refusal> {
        let mut nonce = [0; NONCE_SIZE];
        self.crypto.random(&mut nonce)?;
        Ok(nonce)
    }
}
