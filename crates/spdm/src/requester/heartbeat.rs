//! `HEARTBEAT`: the session lives.

use alloc::vec::Vec;

use super::exchange::{self, Message};
use super::{Next, Outcome, Requester, RequesterError, Step};
use crate::msg::{Heartbeat, HeartbeatAck};

impl Requester {
    pub(super) fn heartbeat(&mut self) -> Result<(Step, Vec<u8>), RequesterError> {
        self.active()?;
        if !self.connected()?.peer.flags.hbeat() {
            return Err(RequesterError::Lacking("HBEAT_CAP"));
        }
        if !self.config.flags.hbeat() {
            return Err(RequesterError::Configuration("HBEAT_CAP"));
        }
        let version = self.version;
        let request = exchange::bytes(|writer| Heartbeat { version }.write(writer))?;
        Ok((Step::Heartbeat, request))
    }

    pub(super) fn on_heartbeat_ack(&self, message: &Message<'_>) -> Result<Next, RequesterError> {
        message.read(|reader| HeartbeatAck::read(reader, self.version))?;
        Ok(Next::Done(Outcome::Alive))
    }
}
