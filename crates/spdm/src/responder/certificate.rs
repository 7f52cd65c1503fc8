use super::Responder;
use super::dispatch::{Answer, Call, Incoming, encode};
use super::refusal::Refusal;
use crate::msg::{Certificate, GetCertificate};

/// Bytes of `CERTIFICATE` before the portion.
const FIXED: usize = 8;

impl Responder {
    /// `GET_CERTIFICATE`: a portion of a chain, or only its size.
    pub(super) fn get_certificate(
        &mut self,
        call: &mut Call<'_>,
        incoming: Incoming<'_>,
    ) -> Result<Answer, Refusal> {
        let negotiated = self.negotiated()?;
        let version = negotiated.layout.version;
        let (asked, request) = incoming.read(|reader| GetCertificate::read(reader, version))?;
        let chain = &negotiated.slot(asked.slot)?.chain;

        let (portion, behind): (&[u8], usize) = if asked.slot_size {
            (&[], chain.len())
        } else {
            let rest = chain.get(usize::from(asked.offset)..).filter(|rest| !rest.is_empty());
            let rest = rest.ok_or(Refusal::invalid())?;
            let size = rest.len().min(asked.length.into()).min(self.largest(call).saturating_sub(FIXED));
            let (portion, behind) = rest.split_at_checked(size).unwrap_or((rest, &[]));
            (portion, behind.len())
        };
        // A chain's size fits 16 bits, so does what is left of it.
        let remainder = u16::try_from(behind).unwrap_or(u16::MAX);
        let response = encode(FIXED + portion.len(), |writer| {
            Certificate { version, slot: asked.slot, model: 0, remainder, portion }.write(writer)
        })?;
        self.check_size(call, response.len())?;

        self.read_of_identity(call.origin, request, &response);
        Ok(response.into())
    }
}
