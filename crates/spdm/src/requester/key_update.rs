//! `KEY_UPDATE`: new keys, and the proof that the other side has them, too.

use alloc::vec::Vec;

use super::exchange::{self, Message};
use super::{Next, Outcome, Requester, RequesterError, Step};
use crate::msg::{KeyOperation, KeyUpdate, KeyUpdateAck, RequestCode, ResponseCode};
use crate::secured::{Direction, SecuredError};

/// What `KEY_UPDATE_ACK` has to agree with.
pub(super) struct Asked {
    pub(super) operation: KeyOperation,
    pub(super) tag: u8,
    /// Updates of the responder's key so far.
    pub(super) before: u32,
}

fn failed(error: SecuredError) -> RequesterError {
    RequesterError::Seal { request: RequestCode::KEY_UPDATE, error }
}

impl Requester {
    pub(super) fn key_update(&mut self, all: bool) -> Result<(Step, Vec<u8>), RequesterError> {
        self.active()?;
        if !self.connected()?.peer.flags.key_upd() {
            return Err(RequesterError::Lacking("KEY_UPD_CAP"));
        }
        if !self.config.flags.key_upd() {
            return Err(RequesterError::Configuration("KEY_UPD_CAP"));
        }
        self.update(if all { KeyOperation::UpdateAllKeys } else { KeyOperation::UpdateKey })
    }

    fn update(&mut self, operation: KeyOperation) -> Result<(Step, Vec<u8>), RequesterError> {
        let [tag] = self.random()?;
        let version = self.version;
        let before = self.active()?.session.updates(Direction::Response);
        let request = exchange::bytes(|writer| KeyUpdate { version, operation, tag }.write(writer))?;
        Ok((Step::KeyUpdate(Asked { operation, tag, before }), request))
    }

    /// Before a request goes out whose answer comes under a new key. An answer under the old one, such
    /// as that the responder is busy, has undone the update.
    pub(super) fn expect_new_keys(&mut self, step: &Step) -> Result<(), RequesterError> {
        let Step::KeyUpdate(asked) = step else { return Ok(()) };
        if asked.operation != KeyOperation::UpdateAllKeys {
            return Ok(());
        }
        let session = &mut self.active()?.session;
        if session.updates(Direction::Response) == asked.before {
            session.prepare_update(Direction::Response).map_err(failed)?;
        }
        Ok(())
    }

    pub(super) fn on_key_update_ack(
        &mut self,
        asked: &Asked,
        message: &Message<'_>,
    ) -> Result<Next, RequesterError> {
        let found = ResponseCode::KEY_UPDATE_ACK;
        let (ack, _) = message.read(|reader| KeyUpdateAck::read(reader, self.version))?;
        if ack.operation != asked.operation {
            return Err(RequesterError::Echo { found, field: "the operation" });
        }
        if ack.tag != asked.tag {
            return Err(RequesterError::Echo { found, field: "the tag" });
        }
        let session = &mut self.active()?.session;
        if asked.operation == KeyOperation::VerifyNewKey {
            self.observe_secrets();
            return Ok(Next::Done(Outcome::KeysUpdated));
        }
        let all = asked.operation == KeyOperation::UpdateAllKeys;
        if all && session.updates(Direction::Response) == asked.before {
            return Err(RequesterError::OldKey);
        }
        session.prepare_update(Direction::Request).map_err(failed)?;
        let (step, request) = self.update(KeyOperation::VerifyNewKey)?;
        Ok(Next::Send(step, request))
    }
}
