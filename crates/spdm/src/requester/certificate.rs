//! `GET_CERTIFICATE`: a chain, portion by portion, and whether it is believed.

use alloc::vec::Vec;
use core::time::Duration;

use super::exchange::{self, Message};
use super::{Chain, Next, Outcome, Requester, RequesterError, Step};
use crate::ids::SlotId;
use crate::msg::{Certificate, GetCertificate, RequestCode};
use crate::x509::{CertChain, CertModel, Wanted};

/// Bytes of `CERTIFICATE` before the portion.
const HEADER: u32 = 8;

/// A chain of which a part has come.
pub(super) struct Reading {
    pub(super) slot: SlotId,
    pub(super) got: Vec<u8>,
    /// Size of the chain, once it is known.
    pub(super) total: Option<usize>,
    /// Bytes that were asked for.
    pub(super) length: u16,
}

impl Requester {
    pub(super) fn get_certificate(&mut self, slot: SlotId) -> Result<(Step, Vec<u8>), RequesterError> {
        if !self.connected()?.peer.flags.cert() {
            return Err(RequesterError::Lacking("CERT_CAP"));
        }
        if self.slots.is_some_and(|slots| slots.digest(slot).is_none()) {
            return Err(RequesterError::EmptySlot(slot));
        }
        let length = self.portion();
        self.get_portion(Reading { slot, got: Vec::new(), total: None, length })
    }

    /// How much of a chain can be asked for at once.
    fn portion(&self) -> u16 {
        let message =
            if self.chunks() { self.config.max_message_size } else { self.config.data_transfer_size };
        let room = u16::try_from(message.saturating_sub(HEADER)).unwrap_or(u16::MAX);
        match self.config.certificate_portion {
            0 => room,
            wanted => wanted.min(room),
        }
    }

    fn get_portion(&self, reading: Reading) -> Result<(Step, Vec<u8>), RequesterError> {
        let (size, limit) = (reading.got.len(), usize::from(u16::MAX));
        let offset = u16::try_from(size).map_err(|_| RequesterError::RequestTooLarge { size, limit })?;
        let request = GetCertificate {
            version: self.version,
            slot: reading.slot,
            slot_size: false,
            offset,
            length: reading.length,
        };
        let request = exchange::bytes(|writer| request.write(writer))?;
        Ok((Step::Certificate(reading), request))
    }

    pub(super) fn on_certificate(
        &mut self,
        mut reading: Reading,
        request: &[u8],
        message: &Message<'_>,
        now: Duration,
    ) -> Result<Next, RequesterError> {
        let (response, exact) = message.read(|reader| Certificate::read(reader, self.version))?;
        let wrong = |fault| Err(RequesterError::Portion(fault));
        if response.slot != reading.slot {
            let (request, asked) = (RequestCode::GET_CERTIFICATE, reading.slot);
            return Err(RequesterError::WrongSlot { request, asked, found: response.slot.number() });
        }
        if response.model != 0 {
            return wrong("a certificate model, which only connections with several keys have");
        }
        if response.portion.is_empty() {
            return wrong("an empty portion");
        }
        if response.portion.len() > reading.length.into() {
            return wrong("more than was asked for");
        }
        reading.got.extend_from_slice(response.portion);
        let remainder = usize::from(response.remainder);
        let whole = reading.got.len() + remainder;
        if *reading.total.get_or_insert(whole) != whole {
            return wrong("portions of chains of different sizes");
        }
        if let (None, Some(log)) = (&self.session, self.transcript.authentication()) {
            log.append(request);
            log.append(exact);
        }
        if remainder != 0 {
            reading.length = self.portion().min(response.remainder);
            let (step, request) = self.get_portion(reading)?;
            return Ok(Next::Send(step, request));
        }
        let slot = reading.slot;
        let chain = self.believe(slot, reading.got, now)?;
        if let Some(entry) = self.chains.get_mut(slot.index()) {
            *entry = Some(chain);
        }
        Ok(Next::Done(Outcome::Certificate(slot)))
    }

    fn believe(&self, slot: SlotId, bytes: Vec<u8>, now: Duration) -> Result<Chain, RequesterError> {
        let connection = self.connected()?;
        let digest = self.crypto.digest(connection.hash(), &bytes);
        if self.slots.is_some_and(|slots| slots.digest(slot) != Some(digest)) {
            return Err(RequesterError::ChainDigest(slot));
        }
        let model = if connection.peer.flags.alias_cert() { CertModel::Alias } else { CertModel::Device };
        let parsed = CertChain::parse(&bytes, connection.hash())?;
        let key = self.verifier.verify(&parsed, &Wanted { asym: connection.suite.asym, model, now })?;
        Ok(Chain { bytes, digest, key })
    }
}
