use core::time::Duration;

use super::channel::Channel;
use super::dispatch::{Answer, Call, Incoming, encode};
use super::measurements::Watch;
use super::refusal::Refusal;
use super::session::Record;
use super::{Responder, Stage};
use crate::ids::SessionId;
use crate::msg::opaque::write_selected_version;
use crate::msg::{
    ErrorCode, KeyExchange, KeyExchangeRsp, MutualAuth, OpaqueData, ResponseCode, VersionNumber,
};
use crate::secured::{Direction, Role, Session};
use crate::signing::Context;

impl Responder {
    /// `KEY_EXCHANGE`: a session, in its handshake phase.
    pub(super) fn key_exchange(
        &mut self,
        call: &mut Call<'_>,
        incoming: Incoming<'_>,
    ) -> Result<Answer, Refusal> {
        let negotiated = self.negotiated()?;
        let layout = negotiated.layout;
        let (Some(group), Some(_), true) = (layout.suite.dhe, layout.suite.aead, negotiated.opaque) else {
            return Err(Refusal::invalid());
        };
        let (asked, request) = incoming.read(|reader| KeyExchange::read(reader, &layout))?;
        // Events are not built.
        if asked.policy.all_events() {
            return Err(Refusal::invalid());
        }
        let chain = negotiated.slot(asked.slot)?.digest;
        let secured_version = self.secured_version(asked.opaque)?;
        let summary = self.summary(layout, call, asked.summary)?;
        let (session, id) = self.free_session(asked.session)?;

        let heartbeat = if self.config.flags.hbeat() && negotiated.peer.flags.hbeat() {
            self.config.heartbeat_period
        } else {
            0
        };
        let opaque = encode(32, |writer| write_selected_version(writer, secured_version))?;
        let random = self.nonce()?;
        let ephemeral = self.crypto.ephemeral(group)?;
        let mut response = encode(256, |writer| {
            KeyExchangeRsp {
                version: layout.version,
                heartbeat,
                session,
                mutual_auth: MutualAuth::None,
                requester_slot: 0,
                random,
                exchange: ephemeral.public(),
                summary: summary.as_deref(),
                opaque: &opaque,
                signature: &[],
                verify_data: None,
            }
            .write_unsigned(writer)
        })?;
        self.check_size(call, response.len() + layout.signature() + layout.digest())?;
        let dhe = ephemeral.agree(asked.exchange)?;

        call.device.shape(Stage::BeforeSignature(ResponseCode::KEY_EXCHANGE_RSP), &mut response);
        let mut transcript = self.transcript.session(&chain).ok_or(Refusal::unexpected())?;
        transcript.append(request);
        transcript.append(&response);
        let signature = self.sign(asked.slot, Context::KeyExchangeRsp, &transcript.digest())?;
        transcript.append(&signature);
        let th1 = transcript.digest();
        let mut secured =
            Session::new(&self.crypto, layout.suite, layout.version, id, Role::Responder, dhe, &th1)?;
        if let Some(limit) = self.config.sequence_limit {
            secured.set_sequence_limit(limit);
        }
        let verify_data = secured.finished_mac(Direction::Response, &th1)?;
        transcript.append(&verify_data);
        response.extend_from_slice(&signature);
        response.extend_from_slice(&verify_data);

        call.observer.secrets(&secured.secrets());
        self.sessions.push(Record {
            secured,
            slot: asked.slot,
            transcript,
            measurements: self.transcript.session_measurements().ok_or(Refusal::unexpected())?,
            watch: Watch::default(),
            channel: Channel::default(),
            update: None,
            patience: (heartbeat != 0).then(|| Duration::from_secs(2 * u64::from(heartbeat))),
            heard: call.now,
        });
        self.last_session = session;
        Ok(response.into())
    }

    /// The preferred version of secured messages out of those that the requester speaks.
    fn secured_version(&self, opaque: &[u8]) -> Result<VersionNumber, Refusal> {
        let theirs = OpaqueData::parse(opaque)?.supported_versions()?.ok_or(Refusal::invalid())?;
        let ours = self.config.secured_versions.iter();
        ours.copied().find(|ours| theirs.has(ours.version())).ok_or(Refusal::invalid())
    }

    /// A responder's half of a session id that no session has, and the whole id.
    fn free_session(&self, requester: u16) -> Result<(u16, SessionId), Refusal> {
        let full = Refusal::new(ErrorCode::SESSION_LIMIT_EXCEEDED);
        if self.sessions.len() >= self.config.max_sessions {
            return Err(full);
        }
        let mut half = self.last_session;
        for _ in 0..=self.sessions.len() + 1 {
            half = half.wrapping_add(1);
            if half != 0 && self.sessions.iter().all(|record| record.secured.id().responder() != half) {
                return Ok((half, SessionId::new(requester, half)));
            }
        }
        Err(full)
    }
}
