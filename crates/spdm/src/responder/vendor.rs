use alloc::vec::Vec;

use super::dispatch::{Answer, Call, Incoming, Origin, encode};
use super::refusal::Refusal;
use super::{Responder, VendorError};
use crate::msg::{RequestCode, VendorDefined};

/// Bytes of a vendor-defined response besides its payload, at most.
const FIXED: usize = 9 + 255;

impl Responder {
    /// `VENDOR_DEFINED_REQUEST`: the device answers.
    pub(super) fn vendor_defined(
        &mut self,
        call: &mut Call<'_>,
        incoming: Incoming<'_>,
    ) -> Result<Answer, Refusal> {
        let version = self.negotiated()?.layout.version;
        let (asked, _) = incoming.read(|reader| VendorDefined::read_request(reader, version))?;
        let Origin::Session(id) = call.origin else { return Err(Refusal::unexpected()) };
        let mut payload = Vec::new();
        call.device.vendor(id, &asked, &mut payload).map_err(|error| match error {
            VendorError::Unsupported => Refusal::unsupported(RequestCode::VENDOR_DEFINED),
            error => Refusal::new(error.code()),
        })?;
        let response = VendorDefined { payload: &payload, ..asked };
        Ok(encode(FIXED + payload.len(), |writer| response.write_response(writer))?.into())
    }
}
