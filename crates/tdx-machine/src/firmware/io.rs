//! The I/O units of a platform: one table, from which firmware tells both the module and, by ACPI, the
//! host.

use pcie::{Bdf, FunctionId};
use tdx_abi::{PhysAddr, PhysRange};
use tdx_module::io::{KeyUnitFacts, UnitFacts};

use crate::fault::Fault;
use crate::key_unit::Layout;
use crate::spec::{BridgePlan, IommuSpec, PciPlan, PlatformSpec};

/// Bytes of the registers of a VT-d unit, with TDX mode and without.
const VTD_WINDOW: u64 = 64 << 10;
const PLAIN_VTD_WINDOW: u64 = 4 << 10;

/// Registers of a VT-d unit; empty if they do not fit the address space.
pub(crate) fn vtd_registers(unit: &IommuSpec) -> PhysRange {
    let size = if unit.tdx { VTD_WINDOW } else { PLAIN_VTD_WINDOW };
    PhysRange::from_size(PhysAddr::new(unit.reg_base.0), size).unwrap_or_default()
}

/// Registers of a key configuration unit with keys for that many streams.
pub(crate) fn key_unit_registers(registers: PhysAddr, streams: u16) -> PhysRange {
    PhysRange::from_size(registers, Layout::new(streams).size()).unwrap_or_default()
}

/// What firmware tells the module of VT-d units: of those that serve a host bridge.
pub(crate) fn units(spec: &PlatformSpec, plan: &PciPlan) -> Vec<UnitFacts> {
    let placed: Vec<_> = spec
        .iommus
        .iter()
        .filter_map(|unit| {
            let bridge = spec.bridge_below(unit, plan)?;
            Some((unit, bridge, u8::try_from(bridge.package).ok()?))
        })
        .collect();
    let mut taken: Vec<(u8, u8)> =
        placed.iter().filter_map(|(unit, _, socket)| Some((*socket, unit.stack?))).collect();
    let mut units: Vec<UnitFacts> = Vec::new();
    for (unit, bridge, socket) in placed {
        // By its place among the units of the package, if nobody says.
        let free = || (0..16).find(|stack| !taken.contains(&(socket, *stack)));
        let Some(stack) = unit.stack.or_else(free) else { continue };
        taken.push((socket, stack));
        units.push(UnitFacts {
            registers: vtd_registers(unit),
            socket,
            stack,
            segment: bridge.segment,
            root_bus: bridge.bus,
            buses: bridge.bus..=bridge.last_bus,
            key_units: key_units_of(bridge, plan),
        });
    }
    units
}

fn key_units_of(bridge: &BridgePlan, plan: &PciPlan) -> Vec<KeyUnitFacts> {
    plan.key_units
        .iter()
        .filter(|unit| plan.bridges.get(unit.bridge) == Some(bridge))
        .map(|unit| KeyUnitFacts {
            registers: key_unit_registers(unit.registers, unit.streams),
            root_ports: unit.root_ports.clone(),
        })
        .collect()
}

/// A row of KEYP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeypRow {
    pub(super) registers: PhysAddr,
    pub(super) root_ports: Vec<FunctionId>,
}

/// The rows of KEYP, with what faults make of them.
pub(super) fn keyp_rows(plan: &PciPlan, faults: &[Fault]) -> Vec<KeypRow> {
    let mut rows: Vec<KeypRow> = plan
        .key_units
        .iter()
        .map(|unit| KeypRow { registers: unit.registers, root_ports: unit.root_ports.clone() })
        .collect();
    let first_bridge = plan.key_units.first().and_then(|unit| plan.bridges.get(unit.bridge));
    for fault in faults {
        match fault {
            Fault::KeypPartialMatch => {
                if let (Some(row), Some(bridge)) = (rows.first_mut(), first_bridge) {
                    row.root_ports.push(outside(bridge, plan));
                }
            }
            Fault::KeypDoubleMatch => {
                if let Some(first) = rows.first().cloned() {
                    rows.push(first);
                }
            }
            _ => {}
        }
    }
    rows
}

/// A root port that is not below a host bridge: one of another bridge, else one where no bridge is.
fn outside(bridge: &BridgePlan, plan: &PciPlan) -> FunctionId {
    let other = plan.ports.iter().map(|port| port.id).find(|id| !bridge.has(*id));
    let nowhere = || {
        let bus = bridge.last_bus.checked_add(1).or_else(|| bridge.bus.checked_sub(1));
        // A bridge that has every bus of its segment has none of another.
        let segment = if bus.is_some() { bridge.segment } else { pcie::Segment(!bridge.segment.0) };
        FunctionId::new(segment, Bdf::from_ari(bus.unwrap_or(0), 0))
    };
    other.unwrap_or_else(nowhere)
}
