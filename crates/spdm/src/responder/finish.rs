use super::Responder;
use super::dispatch::{Answer, Call, Incoming, Origin, Then, encode};
use super::refusal::Refusal;
use crate::crypto::equal;
use crate::msg::{Finish, FinishRsp};
use crate::secured::Direction;

impl Responder {
    /// `FINISH`: the session enters its data phase, behind the response.
    pub(super) fn finish(&mut self, call: &mut Call<'_>, incoming: Incoming<'_>) -> Result<Answer, Refusal> {
        let layout = self.negotiated()?.layout;
        let (asked, request) = incoming.read(|reader| Finish::read(reader, &layout))?;
        let Origin::Session(id) = call.origin else { return Err(Refusal::unexpected()) };
        let record = self.session(id).ok_or(Refusal::unexpected())?;

        let signed = request.len().saturating_sub(asked.verify_data.len());
        let th = record.transcript.digest_with(&[request.get(..signed).unwrap_or_default()]);
        let mac = record.secured.finished_mac(Direction::Request, &th)?;
        if !equal(&mac, asked.verify_data) {
            return Err(Refusal::not_authentic());
        }
        let message =
            encode(8, |writer| FinishRsp { version: layout.version, verify_data: None }.write(writer))?;
        let th2 = record.transcript.digest_with(&[request, &message]);
        Ok(Answer { message, then: Then::EnterData(th2) })
    }
}
