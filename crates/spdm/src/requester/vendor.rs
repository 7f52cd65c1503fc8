//! `VENDOR_DEFINED` of the PCI-SIG: IDE_KM and TDISP, inside a session only.

use alloc::vec::Vec;

use super::exchange::{self, Message};
use super::{Next, Outcome, Requester, RequesterError, Step};
use crate::msg::VendorDefined;

impl Requester {
    pub(super) fn vendor(&mut self, payload: &[u8]) -> Result<(Step, Vec<u8>), RequesterError> {
        self.active()?;
        let version = self.version;
        let request =
            exchange::bytes(|writer| VendorDefined::pci_sig(version, payload).write_request(writer))?;
        Ok((Step::Vendor, request))
    }

    pub(super) fn on_vendor(&self, message: &Message<'_>) -> Result<Next, RequesterError> {
        let (response, _) = message.read(|reader| VendorDefined::read_response(reader, self.version))?;
        if !response.is_pci_sig() {
            return Err(RequesterError::WrongVendor);
        }
        Ok(Next::Done(Outcome::Vendor(response.payload.to_vec())))
    }
}
