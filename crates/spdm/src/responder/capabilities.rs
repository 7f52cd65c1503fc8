use super::Responder;
use super::connection::{Peer, State};
use super::dispatch::{Answer, Call, Incoming, encode};
use super::refusal::Refusal;
use crate::msg::{Capabilities, ErrorCode, GetCapabilities, Header};

impl Responder {
    /// `GET_CAPABILITIES`: fixes the version.
    pub(super) fn get_capabilities(
        &mut self,
        _call: &mut Call<'_>,
        incoming: Incoming<'_>,
    ) -> Result<Answer, Refusal> {
        let version = Header::peek(incoming.bytes)?.version;
        if !self.config.versions.contains(&version) {
            return Err(Refusal::new(ErrorCode::VERSION_MISMATCH));
        }
        // The list of all algorithms that 1.3 lets one ask for here is optional, and not given.
        let (asked, request) = incoming.read(|reader| GetCapabilities::read(reader, version))?;
        let response = encode(32, |writer| {
            Capabilities {
                version,
                ct_exponent: self.config.ct_exponent,
                flags: self.config.flags,
                data_transfer_size: self.config.data_transfer_size,
                max_message_size: self.config.max_message_size,
            }
            .write(writer)
        })?;

        self.remember(request, &response);
        self.state = State::Capabilities(Peer {
            version,
            flags: asked.flags,
            data_transfer_size: usize::try_from(asked.data_transfer_size).unwrap_or(usize::MAX),
            max_message_size: usize::try_from(asked.max_message_size).unwrap_or(usize::MAX),
        });
        Ok(response.into())
    }

    /// Takes a request and its response into VCA, and keeps them for a repetition.
    pub(super) fn remember(&mut self, request: &[u8], response: &[u8]) {
        self.transcript.append_vca(request);
        self.transcript.append_vca(response);
        self.repeat = Some((request.to_vec(), response.to_vec()));
    }
}
