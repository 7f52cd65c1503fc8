//! `KEY_EXCHANGE`: the keys of a session, signed for by the device.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use super::exchange::{self, Message};
use super::{Active, Next, Requester, RequesterError, SessionFacts, SessionRequest, Step};
use crate::crypto::{CryptoError, Ephemeral, equal};
use crate::ids::SessionId;
use crate::msg::{KeyExchange, KeyExchangeRsp, MutualAuth, ResponseCode};
use crate::secured::{Direction, Role, SecuredError, Session};
use crate::signing;

/// What `KEY_EXCHANGE_RSP` has to agree with.
pub(super) struct Asked {
    request: SessionRequest,
    session: u16,
    ephemeral: Box<dyn Ephemeral>,
}

impl Requester {
    pub(super) fn key_exchange(&mut self, wanted: SessionRequest) -> Result<(Step, Vec<u8>), RequesterError> {
        let connection = *self.connected()?;
        if let Some(active) = &self.session {
            return Err(RequesterError::SessionOpen(active.facts.id));
        }
        let Some(group) = connection.suite.dhe.filter(|_| self.can_exchange_keys()) else {
            return Err(RequesterError::Lacking("KEY_EX_CAP, ENCRYPT_CAP and MAC_CAP"));
        };
        if !connection.opaque {
            return Err(RequesterError::Lacking("OpaqueDataFmt1"));
        }
        if wanted.policy.all_events() {
            return Err(RequesterError::Configuration("EVENT_CAP"));
        }
        self.can_summarise(wanted.summary)?;
        self.chain(wanted.slot).ok_or(RequesterError::NoChain(wanted.slot))?;
        let versions = self.config.secured_list()?;
        let opaque =
            exchange::bytes(|writer| crate::msg::opaque::write_supported_versions(writer, &versions))?;
        let ephemeral = self
            .crypto
            .ephemeral(group)
            .map_err(|error| RequesterError::Crypto { doing: "key agreement", error })?;
        let session = self.next_session;
        let request = KeyExchange {
            version: self.version,
            summary: wanted.summary,
            slot: wanted.slot,
            session,
            policy: wanted.policy,
            random: self.random()?,
            exchange: ephemeral.public(),
            opaque: &opaque,
        };
        let request = exchange::bytes(|writer| request.write(writer))?;
        // 0 is no session's half.
        self.next_session = session.checked_add(1).unwrap_or(1);
        Ok((Step::KeyExchange(Box::new(Asked { request: wanted, session, ephemeral })), request))
    }

    pub(super) fn on_key_exchange_rsp(
        &mut self,
        asked: Asked,
        request: &[u8],
        message: &Message<'_>,
    ) -> Result<Next, RequesterError> {
        let code = ResponseCode::KEY_EXCHANGE_RSP;
        let connection = *self.connected()?;
        let (layout, wanted) = (connection.layout(), asked.request);
        let (response, exact) =
            message.read(|reader| KeyExchangeRsp::read(reader, &layout, wanted.summary.is_asked()))?;
        if response.mutual_auth != MutualAuth::None {
            return Err(RequesterError::UnaskedMutualAuth(code));
        }
        let heartbeats = self.config.flags.hbeat() && connection.peer.flags.hbeat();
        if response.heartbeat != 0 && !heartbeats {
            return Err(RequesterError::UnaskedHeartbeat);
        }
        let secured_version = self.config.selected(response.opaque)?;

        let verify_data = response.verify_data.unwrap_or_default();
        let behind = response.signature.len() + verify_data.len();
        let unsigned = exact.len().checked_sub(behind).and_then(|size| exact.get(..size)).unwrap_or_default();
        let chain = self.chain(wanted.slot).ok_or(RequesterError::NoChain(wanted.slot))?;
        let mut transcript = self.transcript.session(&chain.digest).ok_or(RequesterError::NotConnected)?;
        transcript.append(request);
        transcript.append(unsigned);
        signing::verify(
            &*self.crypto,
            &chain.key,
            connection.hash(),
            connection.version,
            signing::Context::KeyExchangeRsp,
            &transcript.digest(),
            response.signature,
        )
        .map_err(|error| super::bad_signature(code, error))?;
        transcript.append(response.signature);

        let dhe = asked.ephemeral.agree(response.exchange).map_err(|error| match error {
            CryptoError::Key(_) => RequesterError::BadExchange,
            error => RequesterError::Crypto { doing: "key agreement", error },
        })?;
        let id = SessionId::new(asked.session, response.session);
        let th1 = transcript.digest();
        let (suite, version) = (connection.suite, connection.version);
        let mut session = Session::new(&self.crypto, suite, version, id, Role::Requester, dhe, &th1)
            .map_err(|error| RequesterError::Crypto { doing: "handshake keys", error })?;
        session.set_sequence_limit(self.config.sequence_limit);
        let expected = session.finished_mac(Direction::Response, &th1).map_err(broken)?;
        if !equal(&expected, verify_data) {
            return Err(RequesterError::BadVerifyData(code));
        }
        transcript.append(verify_data);
        let summary = self.take_summary(wanted.summary, response.summary)?;
        let heartbeat = u64::from(response.heartbeat);
        let facts = SessionFacts {
            id,
            slot: wanted.slot,
            secured_version,
            heartbeat: (heartbeat != 0).then_some(Duration::from_secs(heartbeat)),
            summary,
        };
        let measurements = self.transcript.session_measurements().ok_or(RequesterError::NotConnected)?;
        self.session = Some(Active { session, facts, transcript: Some(transcript), measurements });
        self.observe_secrets();
        self.finish_handshake()
    }
}

/// The session is not what it should be.
pub(super) fn broken(error: SecuredError) -> RequesterError {
    match error {
        SecuredError::Crypto(error) => RequesterError::Crypto { doing: "session keys", error },
        error => RequesterError::Seal { request: crate::msg::RequestCode::FINISH, error },
    }
}
