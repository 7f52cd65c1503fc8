//! What firmware hands over: the memory map, convertible ranges and ACPI tables.

mod acpi;
pub(crate) mod io;
pub(crate) mod layout;

use tdx_abi::PhysRange;
use tdx_module::hardware::{LpIndex, PackageIndex};

use crate::spec::E820Kind;

/// Number of a NUMA node (proximity domain).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

/// An entry of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E820Entry {
    /// Where.
    pub range: PhysRange,
    /// What.
    pub kind: E820Kind,
}

/// A logical processor as firmware tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogicalProcessor {
    /// Its number.
    pub index: LpIndex,
    /// Its package.
    pub package: PackageIndex,
    /// Core inside the package.
    pub core: u32,
    /// Thread inside the core.
    pub thread: u32,
    /// Its x2APIC id.
    pub x2apic_id: u32,
    /// Its NUMA node.
    pub node: NodeId,
}
