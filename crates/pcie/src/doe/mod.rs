//! Data object exchange (DOE): objects, the mailbox of a device, and the driver of a host.
//!
//! A data object is what moves: a header of two dwords and a payload that is padded to a dword. The host
//! writes one dword by dword and says go; the device is busy, then has an object ready, which the host
//! reads dword by dword. [`Mailbox`] is the device, [`Driver`] the host, and neither knows who is on the
//! other side.
//!
//! Source: PCI Express 6.0, 6.30 and 7.9.24.

mod discovery;
mod driver;
mod mailbox;
mod object;
mod registers;
#[cfg(test)]
mod tests;
mod types;

pub use discovery::{DiscoveryRequest, DiscoveryResponse};
pub use driver::{
    Discovery, DiscoveryError, DoeError, DoeRegisters, Driver, Exchange, POLL_INTERVAL, Step, TIMEOUT,
};
pub use mailbox::{Discard, Fault, Mailbox, MailboxEvent, RespondError};
pub use object::{Header, Object, ObjectError, ObjectLength, ObjectType, VendorId};
pub use registers::{Capability, Control, DOE_SIZE, Status, offset};
pub use types::{SupportedTypes, TooManyTypes};
