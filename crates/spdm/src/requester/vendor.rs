//! `VENDOR_DEFINED` of the PCI-SIG: IDE_KM and TDISP, inside a session only.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;

use zeroize::Zeroizing;

use super::exchange::{self, Message};
use super::{Next, Outcome, Requester, RequesterError, Step};
use crate::msg::VendorDefined;

/// Protocol id and message of IDE_KM or TDISP. They may hold a key: they are wiped when they are
/// dropped, and not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct VendorPayload(Zeroizing<Vec<u8>>);

impl From<Vec<u8>> for VendorPayload {
    fn from(payload: Vec<u8>) -> Self {
        Self(Zeroizing::new(payload))
    }
}

impl Deref for VendorPayload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for VendorPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VendorPayload({} bytes)", self.len())
    }
}

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
        Ok(Next::Done(Outcome::Vendor(response.payload.to_vec().into())))
    }
}
