use alloc::vec::Vec;

use super::Responder;
use super::dispatch::{Answer, Call, Incoming, Origin, encode};
use super::refusal::Refusal;
use crate::ids::Version;
use crate::msg::{Digests, GetDigests};

impl Responder {
    /// `GET_DIGESTS`: which slots hold a chain, and their digests.
    pub(super) fn get_digests(
        &mut self,
        call: &mut Call<'_>,
        incoming: Incoming<'_>,
    ) -> Result<Answer, Refusal> {
        let negotiated = self.negotiated()?;
        let version = negotiated.layout.version;
        let (_, request) = incoming.read(|reader| GetDigests::read(reader, version))?;

        let provisioned = negotiated.slot_mask();
        let digests: Vec<u8> =
            negotiated.slots.iter().flatten().flat_map(|slot| slot.digest.iter().copied()).collect();
        let response = encode(4 + digests.len(), |writer| {
            let supported = if version >= Version::V1_3 { provisioned } else { 0 };
            Digests { version, supported, provisioned, digests: &digests }.write(writer)
        })?;
        self.check_size(call, response.len())?;

        self.read_of_identity(call.origin, request, &response);
        Ok(response.into())
    }

    /// Takes a request and its response into M1/M2. What is read inside a session is proven by that.
    pub(super) fn read_of_identity(&mut self, origin: Origin, request: &[u8], response: &[u8]) {
        if origin == Origin::Clear
            && let Some(log) = self.transcript.authentication()
        {
            log.append(request);
            log.append(response);
        }
    }
}
