use super::dispatch::{Answer, Incoming, Then, encode};
use super::refusal::Refusal;
use super::{Responder, SessionEnd};
use crate::msg::{EndSession, EndSessionAck};

impl Responder {
    /// `END_SESSION`: the session ends behind the response. Negotiated state is not kept beyond a
    /// connection, so there is none to clear.
    pub(super) fn end_session_request(&mut self, incoming: Incoming<'_>) -> Result<Answer, Refusal> {
        let version = self.negotiated()?.layout.version;
        incoming.read(|reader| EndSession::read(reader, version))?;
        let message = encode(4, |writer| EndSessionAck { version }.write(writer))?;
        Ok(Answer { message, then: Then::End(SessionEnd::Asked) })
    }
}
