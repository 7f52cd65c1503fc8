use super::Responder;
use super::dispatch::{Answer, Call, Incoming};
use super::refusal::Refusal;
use crate::msg::RespondIfReady;

impl Responder {
    /// `RESPOND_IF_READY`: the request that it stands for is answered now. It is part of no transcript.
    pub(super) fn respond_if_ready(
        &mut self,
        call: &mut Call<'_>,
        incoming: Incoming<'_>,
    ) -> Result<Answer, Refusal> {
        let version = self.negotiated()?.layout.version;
        let (asked, _) = incoming.read(|reader| RespondIfReady::read(reader, version))?;
        let deferred = &mut self.channel_mut(call.origin)?.deferred;
        match deferred {
            None => return Err(Refusal::unexpected()),
            Some(deferred) if deferred.code != asked.request || deferred.token != asked.token => {
                return Err(Refusal::invalid());
            }
            Some(_) => {}
        }
        let deferred = deferred.take().ok_or(Refusal::unexpected())?;
        self.process(call, Incoming { bytes: &deferred.request, padded: deferred.padded })
    }
}
