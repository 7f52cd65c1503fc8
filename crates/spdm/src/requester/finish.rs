//! `FINISH`: both sides have the same keys and have seen the same messages.

use super::exchange::{self, Message};
use super::key_exchange::broken;
use super::{Next, Outcome, Requester, RequesterError, Step};
use crate::msg::{Finish, FinishRsp};
use crate::secured::Direction;

impl Requester {
    pub(super) fn finish_handshake(&mut self) -> Result<Next, RequesterError> {
        let version = self.version;
        let active = self.session.as_mut().ok_or(RequesterError::NoSession)?;
        let header = exchange::bytes(|writer| Finish { version, verify_data: &[] }.write(writer))?;
        let transcript = active.transcript.as_mut().ok_or(RequesterError::NoSession)?;
        let digest = transcript.digest_with(&[&header]);
        let mac = active.session.finished_mac(Direction::Request, &digest).map_err(broken)?;
        let request = exchange::bytes(|writer| Finish { version, verify_data: &mac }.write(writer))?;
        transcript.append(&request);
        Ok(Next::Send(Step::Finish, request))
    }

    pub(super) fn on_finish_rsp(&mut self, message: &Message<'_>) -> Result<Next, RequesterError> {
        let layout = self.connected()?.layout();
        let (_, exact) = message.read(|reader| FinishRsp::read(reader, &layout))?;
        let active = self.session.as_mut().ok_or(RequesterError::NoSession)?;
        let mut transcript = active.transcript.take().ok_or(RequesterError::NoSession)?;
        transcript.append(exact);
        active.session.enter_data(&transcript.digest()).map_err(broken)?;
        let facts = active.facts;
        self.observe_secrets();
        Ok(Next::Done(Outcome::Session(facts)))
    }
}
