//! `END_SESSION`: the connection stays.

use alloc::vec::Vec;

use super::exchange::{self, Message};
use super::{Next, Outcome, Requester, RequesterError, Step};
use crate::msg::{EndSession, EndSessionAck};

impl Requester {
    pub(super) fn end_session(&mut self) -> Result<(Step, Vec<u8>), RequesterError> {
        self.active()?;
        let version = self.version;
        let request =
            exchange::bytes(|writer| EndSession { version, clear_negotiated: false }.write(writer))?;
        Ok((Step::EndSession, request))
    }

    pub(super) fn on_end_session_ack(&mut self, message: &Message<'_>) -> Result<Next, RequesterError> {
        message.read(|reader| EndSessionAck::read(reader, self.version))?;
        self.session = None;
        Ok(Next::Done(Outcome::Ended))
    }
}
