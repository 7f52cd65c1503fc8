//! PCIe, IOMMUs, ACPI and events.

use core::fmt;
use core::ops::ControlFlow;
use core::time::Duration;

use pcie::config::Width;
use pcie::{Bdf, FunctionId, Segment};
use tdx_abi::PhysAddr;

/// Where an enumerated function hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciFunction {
    /// Its address.
    pub id: FunctionId,
    /// The root port above it; `None` for functions on a root bus, such as root ports themselves.
    pub root_port: Option<FunctionId>,
    /// The physical function, for a virtual one.
    pub physical: Option<Bdf>,
    /// Segment and root bus of its host bridge.
    pub bridge: HostBridge,
}

/// A host bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostBridge {
    /// Segment.
    pub segment: Segment,
    /// Its root bus.
    pub bus: u8,
    /// The last bus below it.
    pub last_bus: u8,
}

impl fmt::Display for HostBridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pci{:04x}:{:02x}", self.segment.0, self.bus)
    }
}

/// The PCIe hierarchy as the operating system enumerated it, and time for those who wait for devices.
pub trait PciBus {
    /// Hands out every function that is there, ascending.
    fn functions(&self, each: &mut dyn FnMut(PciFunction) -> ControlFlow<()>);

    /// Reads configuration space; all ones where nothing answers.
    fn config_read(&self, function: FunctionId, offset: u16, width: Width) -> u32;

    /// Writes configuration space.
    fn config_write(&self, function: FunctionId, offset: u16, width: Width, value: u32);

    /// Time since some moment in the past; never goes back.
    fn now(&self) -> Duration;

    /// Sleeps for about `time`.
    fn wait(&self, time: Duration);
}

/// An active VT-d unit as the IOMMU layer knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmarUnit {
    /// Base of its registers, as DMAR tells it.
    pub reg_base: PhysAddr,
    /// Segment of the functions below it.
    pub segment: Segment,
}

/// Domain ids of the upper half are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("domain ids of the upper half are in use, the first is {first:#x}")]
pub struct DomainIdsInUse {
    /// The first of them.
    pub first: u32,
}

/// Services of the operating system's IOMMU layer.
pub trait Iommus {
    /// Hands out the active units, in the order of DMAR.
    fn units(&self, each: &mut dyn FnMut(DmarUnit) -> ControlFlow<()>);

    /// Reads 32 bits of memory-mapped registers; all ones where nothing answers.
    fn mmio_read32(&self, address: PhysAddr) -> u32;

    /// Keeps the upper half of a unit's domain ids for the module from now on; refused if one is in use.
    fn reserve_upper_domain_ids(&self, unit: DmarUnit) -> Result<(), DomainIdsInUse>;

    /// Takes [`Iommus::reserve_upper_domain_ids`] back.
    fn release_upper_domain_ids(&self, unit: DmarUnit);
}

/// ACPI tables. Readable at any time, not only while booting.
pub trait Acpi {
    /// Shows the table with this signature; false if there is none.
    fn table(&self, signature: [u8; 4], show: &mut dyn FnMut(&[u8])) -> bool;
}

/// What happened to a device of the kernel's device tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UeventAction {
    /// KOBJ_ADD.
    Add,
    /// KOBJ_CHANGE.
    Change,
    /// KOBJ_REMOVE.
    Remove,
}

impl UeventAction {
    /// The word that user space sees.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Change => "change",
            Self::Remove => "remove",
        }
    }
}

/// Where uevents go.
pub trait Uevents {
    /// Tells user space: what happened, to which device (its path below `/sys`), in which subsystem, and one
    /// more `KEY=value` line if there is one.
    fn uevent(
        &self,
        action: UeventAction,
        devpath: fmt::Arguments<'_>,
        subsystem: &str,
        extra: Option<fmt::Arguments<'_>>,
    );
}

/// What TDX Connect needs beside a [`Platform`](super::Platform).
pub trait ConnectPlatform: super::Platform + PciBus + Iommus + Acpi + Uevents {}

impl<P: super::Platform + PciBus + Iommus + Acpi + Uevents + ?Sized> ConnectPlatform for P {}
