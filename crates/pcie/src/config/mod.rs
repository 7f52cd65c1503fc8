//! Configuration space: 4096 bytes per function, what software may change in them, and the two chains of
//! capabilities.
//!
//! [`ConfigBuilder`] puts one together and refuses what no device could be; [`capabilities`] and
//! [`extended_capabilities`] walk through any, and end whatever they find.
//!
//! Source: PCI Express 6.0, 7.2 to 7.6.

mod access;
mod builder;
mod header;
mod space;
#[cfg(test)]
mod tests;
mod walk;

pub(crate) use access::Lanes;
pub use access::{AccessError, CONFIG_SIZE, Width};
pub use builder::{
    BuildError, CapabilityError, ConfigBuilder, ExtendedCapability, FunctionIds, Layout, PciCapability,
};
pub use header::{Bar, BarError, BarView, Command, HeaderType, offset};
pub(crate) use space::register;
pub use space::{Change, ConfigSpace, ReadConfig};
pub use walk::{
    Capabilities, Capability, CapabilityId, ChainError, Extended, ExtendedCapabilities, ExtendedId,
    capabilities, extended_capabilities, find, find_extended,
};
