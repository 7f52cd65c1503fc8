use super::connection::State;
use super::dispatch::{Answer, Call, Incoming, encode};
use super::refusal::Refusal;
use super::{Responder, SessionEnd};
use crate::msg::{GetVersion, VersionResponse};

impl Responder {
    /// `GET_VERSION`: all that was before is over.
    pub(super) fn get_version(
        &mut self,
        call: &mut Call<'_>,
        incoming: Incoming<'_>,
    ) -> Result<Answer, Refusal> {
        let (GetVersion, request) = incoming.read(GetVersion::read)?;
        let response = encode(64, |writer| VersionResponse { versions: self.versions }.write(writer))?;

        self.end_all_sessions(SessionEnd::NewConnection, call.device);
        self.forget_connection();
        self.lost = false;
        self.transcript.append_vca(request);
        self.transcript.append_vca(&response);
        self.state = State::Version;
        Ok(response.into())
    }
}
