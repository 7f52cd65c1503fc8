use super::Responder;
use super::dispatch::{Answer, Incoming, encode};
use super::refusal::Refusal;
use crate::msg::{Heartbeat, HeartbeatAck};

impl Responder {
    /// `HEARTBEAT`: that it has come is all.
    pub(super) fn heartbeat(&mut self, incoming: Incoming<'_>) -> Result<Answer, Refusal> {
        let version = self.negotiated()?.layout.version;
        incoming.read(|reader| Heartbeat::read(reader, version))?;
        // KEY_EXCHANGE_RSP has told that none are wanted.
        if self.config.heartbeat_period == 0 {
            return Err(Refusal::unexpected());
        }
        Ok(encode(4, |writer| HeartbeatAck { version }.write(writer))?.into())
    }
}
