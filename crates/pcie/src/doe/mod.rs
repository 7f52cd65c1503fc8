//! Data object exchange (DOE): objects, the mailbox of a device, and the driver of a host.
//!
//! A data object is what moves: a header of two dwords and a payload that is padded to a dword.
//!
//! Source: PCI Express 6.0, 6.30 and 7.9.24.

mod discovery;
mod object;

pub use discovery::{DiscoveryRequest, DiscoveryResponse};
pub use object::{Header, Object, ObjectError, ObjectLength, ObjectType, VendorId};
