//! The I/O hardware that TDX Connect works on: VT-d units, key configuration units, root ports.

use std::ops::RangeInclusive;

use pcie::{FunctionId, Segment};
use tdx_abi::{PhysAddr, PhysRange};

/// A VT-d unit as firmware reported it to the module.
///
/// Firmware tells the module of all units, whatever ACPI tells the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitFacts {
    /// Its registers.
    pub registers: PhysRange,
    /// The socket that it is on.
    pub socket: u8,
    /// Its I/O stack on that socket.
    pub stack: u8,
    /// Segment of the functions below it.
    pub segment: Segment,
    /// Root bus of the host bridge below it.
    pub root_bus: u8,
    /// Buses of that host bridge.
    pub buses: RangeInclusive<u8>,
    /// Key configuration units of the root ports below it.
    pub key_units: Vec<KeyUnitFacts>,
}

/// A key configuration unit as firmware reported it to the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyUnitFacts {
    /// Its registers.
    pub registers: PhysRange,
    /// The root ports whose keys it holds.
    pub root_ports: Vec<FunctionId>,
}

/// Width of an access to memory-mapped registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MmioWidth {
    /// 32 bits.
    Dword,
    /// 64 bits.
    Qword,
}

/// The link below a root port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStatus {
    /// A device answers at its other end.
    pub up: bool,
    /// Times that the link went down or its device was reset since power-on: a session that began before
    /// the last one is gone on the device.
    pub losses: u32,
}

/// I/O as a SEAM program reaches it. All methods are called by the LP that runs the program.
pub trait ConnectHardware: Send + Sync {
    /// The VT-d units.
    fn units(&self) -> &[UnitFacts];

    /// Reads a register in SEAM mode. Where nothing answers, all ones.
    fn mmio_read(&self, pa: PhysAddr, width: MmioWidth) -> u64;

    /// Writes a register in SEAM mode: also those that are kept from everybody else.
    fn mmio_write(&self, pa: PhysAddr, width: MmioWidth, value: u64);

    /// Reads a dword of the configuration space of a function; all ones where nothing answers.
    fn config_read(&self, function: FunctionId, offset: u16) -> u32;

    /// Writes a dword of the configuration space of a function in SEAM mode.
    fn config_write(&self, function: FunctionId, offset: u16, value: u32);

    /// From now on only SEAM mode may write the registers of `range`, or again everybody. Others' writes
    /// to a protected register are dropped.
    fn protect(&self, range: PhysRange, protected: bool);

    /// The same for `length` bytes of a function's configuration space from `offset` on.
    fn protect_config(&self, function: FunctionId, offset: u16, length: u16, protected: bool);

    /// The link below a root port; `None` if there is no such port.
    fn link(&self, root_port: FunctionId) -> Option<LinkStatus>;
}
