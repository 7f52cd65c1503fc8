//! PCIe, IOMMUs and ACPI as an operating system has them.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::thread;
use std::time::Duration;

use pcie::config::Width;
use pcie::{FunctionId, Segment};
use tdx_abi::PhysAddr;
use tdx_host::traits::{Acpi, DmarUnit, DomainIdsInUse, HostBridge, Iommus, PciBus, PciFunction};
use tdx_machine::MmioWidth;
use tdx_machine::pci::PciFunctionFacts;

use crate::platform::Platform;

/// Units of which the upper domain ids are kept for the module, by the base of their registers.
pub(crate) type ReservedIds = BTreeSet<PhysAddr>;

/// DMAR: header, host address width, flags, reserved bytes; then its structures.
const DMAR_STRUCTURES: usize = 48;
const TYPE_DRHD: u16 = 0;

/// The remapping units of a DMAR table, in its order; what does not fit ends it.
fn drhds(table: &[u8]) -> Vec<DmarUnit> {
    let mut units = Vec::new();
    let mut rest = table.get(DMAR_STRUCTURES..).unwrap_or_default();
    while let Some(&[kind_low, kind_high, length_low, length_high]) = rest.first_chunk() {
        let length = usize::from(u16::from_le_bytes([length_low, length_high]));
        let Some((structure, behind)) = rest.split_at_checked(length).filter(|_| length >= 4) else { break };
        if u16::from_le_bytes([kind_low, kind_high]) == TYPE_DRHD
            && let Some(&[_, _, _, _, _, _, segment_low, segment_high, ref base @ ..]) =
                structure.first_chunk::<16>()
        {
            units.push(DmarUnit {
                reg_base: PhysAddr::new(u64::from_le_bytes(*base)),
                segment: Segment(u16::from_le_bytes([segment_low, segment_high])),
            });
        }
        rest = behind;
    }
    units
}

fn function(facts: &PciFunctionFacts) -> PciFunction {
    let PciFunctionFacts { id, root_port, physical, bridge } = *facts;
    PciFunction {
        id,
        root_port,
        physical: physical.map(|physical| physical.bdf),
        bridge: HostBridge { segment: bridge.segment, bus: bridge.bus, last_bus: bridge.last_bus },
    }
}

impl PciBus for Platform {
    fn functions(&self, each: &mut dyn FnMut(PciFunction) -> ControlFlow<()>) {
        // Whoever breaks off has what it wants.
        let _ = self.machine().pci_functions().iter().map(function).try_for_each(each);
    }

    fn config_read(&self, function: FunctionId, offset: u16, width: Width) -> u32 {
        self.machine().config_read(function, offset, width)
    }

    fn config_write(&self, function: FunctionId, offset: u16, width: Width, value: u32) {
        self.machine().config_write(function, offset, width, value);
    }

    fn now(&self) -> Duration {
        self.machine().now()
    }

    /// Time passes at once: nobody waits for a model.
    fn wait(&self, time: Duration) {
        self.machine().advance(time);
        thread::yield_now();
    }
}

impl Iommus for Platform {
    fn units(&self, each: &mut dyn FnMut(DmarUnit) -> ControlFlow<()>) {
        let units = self.machine().acpi_table("DMAR").map(drhds).unwrap_or_default();
        let _ = units.into_iter().try_for_each(each);
    }

    fn mmio_read32(&self, address: PhysAddr) -> u32 {
        let value = self.machine().mmio_read(address, MmioWidth::Dword);
        u32::try_from(value).unwrap_or(u32::MAX)
    }

    fn reserve_upper_domain_ids(&self, unit: DmarUnit) -> Result<(), DomainIdsInUse> {
        if let Some(first) = self.machine().upper_domain_id_in_use(unit.reg_base) {
            return Err(DomainIdsInUse { first });
        }
        self.reserved_ids().insert(unit.reg_base);
        Ok(())
    }

    fn release_upper_domain_ids(&self, unit: DmarUnit) {
        self.reserved_ids().remove(&unit.reg_base);
    }
}

impl Acpi for Platform {
    fn table(&self, signature: [u8; 4], show: &mut dyn FnMut(&[u8])) -> bool {
        let name = str::from_utf8(&signature).ok();
        name.and_then(|name| self.machine().acpi_table(name)).map(show).is_some()
    }
}

impl Platform {
    /// Units of which the upper half of the domain ids is kept for the module.
    pub fn units_with_reserved_ids(&self) -> Vec<PhysAddr> {
        self.reserved_ids().iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn structure(kind: u16, length: u16, segment: u16, base: u64) -> Vec<u8> {
        let mut bytes = [kind.to_le_bytes(), length.to_le_bytes(), [1, 0], segment.to_le_bytes()].concat();
        bytes.extend(base.to_le_bytes());
        bytes.resize(usize::from(length).max(16), 0);
        bytes
    }

    #[test]
    fn units_are_found_among_other_structures() {
        let table = [
            vec![0; 48],
            structure(0, 24, 0, 0xFED9_0000),
            structure(1, 32, 0, 7),
            structure(0, 16, 1, 0x1000),
        ];
        let table = table.concat();
        let found: Vec<_> =
            drhds(&table).into_iter().map(|unit| (unit.reg_base.as_u64(), unit.segment.0)).collect();
        assert_eq!(found, [(0xFED9_0000, 0), (0x1000, 1)]);
    }

    #[test]
    fn a_table_that_breaks_off_ends_with_its_last_whole_structure() {
        let table = [vec![0; 48], structure(0, 16, 0, 0x1000), structure(0, 16, 0, 0x2000)].concat();
        for length in 0..table.len() {
            let whole = length.saturating_sub(48) / 16;
            assert_eq!(drhds(&table[..length]).len(), whole, "{length} bytes");
        }
        let endless = [vec![0; 48], structure(0, 0, 0, 0x1000)].concat();
        assert_eq!(drhds(&endless), []);
    }
}
