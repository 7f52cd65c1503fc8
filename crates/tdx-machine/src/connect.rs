//! The hardware of TDX Connect on the board, as SEAM mode and as the host reach it.

#[cfg(test)]
mod tests;

use pcie::FunctionId;
use pcie::config::Width;
use tdx_abi::{PhysAddr, PhysRange};
use tdx_module::io::{ConnectHardware, LinkStatus, MmioWidth, UnitFacts};

use crate::board::Board;
use crate::event::{Event, EventLog};
use crate::fault::Fault;
use crate::firmware::io;
use crate::ide::Port;
use crate::key_unit::{KeyUnit, Layout, Ports};
use crate::machine::Machine;
use crate::protection::{Origin, Protection};
use crate::spec::PlatformSpec;
use crate::vtd::registers::CAP_ND_16_BITS;
use crate::vtd::{Behaviour, VtdUnit};

/// The first domain id of the upper half, of all those that the capability register tells.
const FIRST_UPPER_DOMAIN_ID: u32 = 1 << (3 + 2 * CAP_ND_16_BITS);

/// A unit with registers, by its place in the platform file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Vtd(usize),
    Key(usize),
}

/// VT-d units and key configuration units, and what of all registers SEAM mode keeps for itself.
pub(crate) struct Devices {
    facts: Vec<UnitFacts>,
    vtd: Vec<VtdUnit>,
    key_units: Vec<KeyUnit>,
    /// Registers, ascending.
    windows: Vec<(PhysRange, Unit)>,
    protection: Protection,
}

/// How a unit is at power-on, and what faults make of it.
fn behaviour(tdx: bool, index: usize, faults: &[Fault]) -> Behaviour {
    let mut behaviour = Behaviour::new(tdx);
    for fault in faults {
        bend(&mut behaviour, index, fault);
    }
    behaviour
}

fn bend(behaviour: &mut Behaviour, index: usize, fault: &Fault) {
    match *fault {
        Fault::IommuWithoutTdxMode { unit } if unit as usize == index => behaviour.tdx = false,
        Fault::IommuLegacyMode { unit } if unit as usize == index => behaviour.legacy = true,
        Fault::IommuQueueOff { unit } if unit as usize == index => behaviour.queue_off = true,
        Fault::SetTdxModeTimesOut { unit, polls } if unit as usize == index => behaviour.polls = polls,
        Fault::SetTdxModeFails { unit, status } if unit as usize == index => {
            behaviour.refuses_with = Some(status);
        }
        _ => {}
    }
}

fn left_enabled(index: usize, faults: &[Fault]) -> bool {
    faults.iter().any(|fault| matches!(*fault, Fault::KeyUnitLeftEnabled { unit } if unit as usize == index))
}

impl Devices {
    /// The units of a platform at power-on.
    pub(crate) fn new(spec: &PlatformSpec, faults: &[Fault]) -> Self {
        // The platform file was checked.
        let plan = spec.pci_plan().unwrap_or_default();
        let vtd = spec.iommus.iter().enumerate();
        let key_units = plan.key_units.iter().enumerate();
        let vtd_windows = vtd.clone().map(|(index, unit)| (io::vtd_registers(unit), Unit::Vtd(index)));
        let key_windows = key_units
            .clone()
            .map(|(index, unit)| (io::key_unit_registers(unit.registers, unit.streams), Unit::Key(index)));
        let mut windows: Vec<_> = vtd_windows.chain(key_windows).collect();
        windows.sort_unstable_by_key(|(range, _)| *range);
        Self {
            facts: io::units(spec, &plan),
            vtd: vtd.map(|(index, unit)| VtdUnit::new(behaviour(unit.tdx, index, faults))).collect(),
            key_units: key_units
                .map(|(index, unit)| {
                    let enabled = left_enabled(index, faults);
                    KeyUnit::new(Layout::new(unit.streams), unit.root_ports.clone(), enabled)
                })
                .collect(),
            windows,
            protection: Protection::default(),
        }
    }

    /// Power is cycled.
    pub(crate) fn reset(&self, spec: &PlatformSpec, faults: &[Fault]) {
        for (index, (unit, vtd)) in spec.iommus.iter().zip(&self.vtd).enumerate() {
            vtd.reset(behaviour(unit.tdx, index, faults));
        }
        for (index, unit) in self.key_units.iter().enumerate() {
            unit.reset(left_enabled(index, faults));
        }
        self.protection.reset();
    }

    /// A fault begins while the machine runs.
    pub(crate) fn inject(&self, fault: &Fault) {
        for (index, unit) in self.vtd.iter().enumerate() {
            unit.bend(|behaviour| bend(behaviour, index, fault));
        }
        if let Fault::KeyUnitLeftEnabled { unit } = *fault
            && let Some(unit) = self.key_units.get(unit as usize)
        {
            unit.leave_enabled();
        }
    }

    /// What SEAM mode keeps for itself.
    pub(crate) fn protection(&self) -> &Protection {
        &self.protection
    }

    fn find(&self, pa: PhysAddr) -> Option<(Unit, u64)> {
        let after = self.windows.partition_point(|(range, _)| range.start() <= pa);
        let (range, unit) = self.windows.get(after.checked_sub(1)?)?;
        range.contains(pa).then(|| (*unit, pa.as_u64() - range.start().as_u64()))
    }

    /// Reads a register; `None` where no unit has any. An access that is not aligned gets all ones.
    pub(crate) fn read(
        &self,
        pa: PhysAddr,
        width: MmioWidth,
        origin: Origin,
        ports: &dyn Ports,
    ) -> Option<u64> {
        let (unit, offset) = self.find(pa)?;
        if !pa.is_aligned(bytes(width)) {
            return Some(all_ones(width));
        }
        let value = match unit {
            Unit::Vtd(index) => {
                let offset = u16::try_from(offset).ok()?;
                self.vtd.get(index)?.read(offset, width, origin)
            }
            Unit::Key(index) => {
                let offset = u32::try_from(offset).ok()?;
                self.key_units.get(index)?.read(offset, width, ports)
            }
        };
        Some(value)
    }

    /// Writes a register; false where no unit has any. A write of the host to a register that SEAM mode
    /// keeps for itself is dropped and shows in the log.
    pub(crate) fn write(
        &self,
        pa: PhysAddr,
        width: MmioWidth,
        value: u64,
        (origin, log): (Origin, &EventLog),
        ports: &dyn Ports,
    ) -> bool {
        let Some((unit, offset)) = self.find(pa) else { return false };
        if !pa.is_aligned(bytes(width)) {
            return true;
        }
        let range = PhysRange::from_size(pa, bytes(width)).unwrap_or_default();
        if origin == Origin::Host && self.protection.covers(range) {
            log.push(Event::ProtectedWrite { pa });
            return true;
        }
        match unit {
            Unit::Vtd(index) => {
                if let (Some(unit), Ok(offset)) = (self.vtd.get(index), u16::try_from(offset)) {
                    unit.write(offset, width, value, origin);
                }
            }
            Unit::Key(index) => {
                if let (Some(unit), Ok(offset)) = (self.key_units.get(index), u32::try_from(offset)) {
                    unit.write(offset, width, value, ports);
                }
            }
        }
        true
    }
}

const fn bytes(width: MmioWidth) -> u64 {
    match width {
        MmioWidth::Dword => 4,
        MmioWidth::Qword => 8,
    }
}

impl Machine {
    /// A domain id of the upper half that the operating system has in use at the VT-d unit with these
    /// registers. Domain ids are the operating system's: the machine knows of what a fault puts there.
    pub fn upper_domain_id_in_use(&self, registers: PhysAddr) -> Option<u32> {
        let board = self.board();
        let is_meant = |fault: &Fault| match *fault {
            Fault::DomainIdsInUse { unit } => {
                let unit = board.spec().iommus.get(unit as usize);
                unit.is_some_and(|unit| unit.reg_base.0 == registers.as_u64())
            }
            _ => false,
        };
        board.active_faults().iter().any(is_meant).then_some(FIRST_UPPER_DOMAIN_ID)
    }
}

/// What a read gets where nothing answers.
pub(crate) const fn all_ones(width: MmioWidth) -> u64 {
    match width {
        MmioWidth::Dword => u32::MAX as u64,
        MmioWidth::Qword => u64::MAX,
    }
}

impl Ports for Board {
    fn with_port(&self, root_port: FunctionId, act: &mut dyn FnMut(&mut Port)) {
        // A key unit lists only root ports that there are.
        let _ = self.pci().with_port(root_port, |port| act(port));
    }
}

impl ConnectHardware for Board {
    fn units(&self) -> &[UnitFacts] {
        &self.io().facts
    }

    fn mmio_read(&self, pa: PhysAddr, width: MmioWidth) -> u64 {
        self.io().read(pa, width, Origin::Seam, self).unwrap_or(all_ones(width))
    }

    fn mmio_write(&self, pa: PhysAddr, width: MmioWidth, value: u64) {
        self.io().write(pa, width, value, (Origin::Seam, self.events()), self);
    }

    fn config_read(&self, function: FunctionId, offset: u16) -> u32 {
        self.pci().config_read(function, offset, Width::Dword)
    }

    fn config_write(&self, function: FunctionId, offset: u16, value: u32) {
        if self.pci().config_write(function, offset, Width::Dword, value).is_some() {
            self.cut_power();
        }
    }

    fn protect(&self, range: PhysRange, protected: bool) {
        self.io().protection.protect(range, protected);
    }

    fn protect_config(&self, function: FunctionId, offset: u16, length: u16, protected: bool) {
        self.io().protection.protect_config(function, offset, length, protected);
    }

    fn link(&self, root_port: FunctionId) -> Option<LinkStatus> {
        self.pci().link(root_port)
    }
}
