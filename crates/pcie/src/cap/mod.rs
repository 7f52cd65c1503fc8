//! Capabilities as typed values: each can be put into a [`ConfigBuilder`](crate::config::ConfigBuilder)
//! and read from any configuration space.

mod aer;
mod device3;
mod doe;
mod express;
mod msix;
mod sriov;
#[cfg(test)]
mod tests;

pub use aer::{Aer, UncorrectableErrors};
pub use device3::Device3;
pub use doe::DoeCapability;
pub use express::{DeviceCapabilities, DeviceControl, Express, MaxPayload, PortType, Slot};
pub use msix::{Msix, TableAt};
pub use sriov::{SrIov, SrIovRegisters};
