use super::Responder;
use super::dispatch::{Answer, Call, Incoming, Origin, encode};
use super::refusal::Refusal;
use super::session::Update;
use crate::msg::{KeyOperation, KeyUpdate, KeyUpdateAck};
use crate::secured::Direction;

impl Responder {
    /// `KEY_UPDATE`: new keys, or the proof that both sides have them.
    ///
    /// The requester's new key is expected at once, and the old one still accepted: who uses it has not
    /// got the acknowledgement and may ask again. Our new key seals the acknowledgement.
    pub(super) fn key_update(
        &mut self,
        call: &mut Call<'_>,
        incoming: Incoming<'_>,
    ) -> Result<Answer, Refusal> {
        let version = self.negotiated()?.layout.version;
        let (asked, _) = incoming.read(|reader| KeyUpdate::read(reader, version))?;
        let (operation, tag) = (asked.operation, asked.tag);
        let message = encode(4, |writer| KeyUpdateAck { version, operation, tag }.write(writer))?;
        let Origin::Session(id) = call.origin else { return Err(Refusal::unexpected()) };
        let record = self.session_mut(id).ok_or(Refusal::unexpected())?;

        let repeated = match (operation, record.update) {
            (KeyOperation::VerifyNewKey, Some(update)) if !update.undone => {
                record.secured.commit(Direction::Request);
                record.update = None;
                return Ok(message.into());
            }
            (KeyOperation::VerifyNewKey, _) => return Err(Refusal::unexpected()),
            (_, Some(update)) if !update.undone => return Err(Refusal::unexpected()),
            // Our half of this very update was made when it was asked for the first time.
            (_, Some(update)) => update.operation == operation && update.tag == tag,
            (_, None) => false,
        };
        record.secured.prepare_update(Direction::Request)?;
        if operation == KeyOperation::UpdateAllKeys
            && !repeated
            && let Err(error) = record.secured.prepare_update(Direction::Response)
        {
            record.secured.roll_back(Direction::Request)?;
            return Err(error.into());
        }
        record.update = Some(Update { operation, tag, undone: false });
        call.observer.secrets(&record.secured.secrets());
        Ok(message.into())
    }
}
