//! What a platform file says of PCIe, resolved: every function at its address, every window in its place.

use std::collections::BTreeMap;

use pcie::{Bdf, FunctionId, Segment};
use tdx_abi::addr::PAGE_SIZE;
use tdx_abi::{PhysAddr, PhysRange};

use super::{EndpointEntry, HostBridgeSpec, IommuSpec, KeyUnitSpec, RootPortSpec};
use crate::endpoint::spec::Named;
use crate::endpoint::{EndpointSpec, devices};
use crate::firmware::{io, layout};
use crate::spec::{Hex, PlatformSpec, SpecIssue};

/// Granularity of the memory windows of a bridge, and of what an IDE stream is associated with.
const MIB: u64 = 1 << 20;
/// Selective streams that fit the configuration space of a root port beside its other capabilities.
const MAX_PORT_STREAMS: u16 = 96;
/// Streams that the capability register of a key configuration unit can tell.
const MAX_UNIT_STREAMS: u16 = 256;
/// Most I/O stacks of a package: the module's unit ids have four bits for one.
const MAX_STACKS: u8 = 16;

/// The hierarchy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PciPlan {
    /// Host bridges, ascending.
    pub bridges: Vec<BridgePlan>,
    /// Root ports, ascending.
    pub ports: Vec<PortPlan>,
    /// Key configuration units, as listed.
    pub key_units: Vec<KeyUnitPlan>,
}

/// A host bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgePlan {
    /// Segment.
    pub segment: Segment,
    /// Root bus.
    pub bus: u8,
    /// Last bus.
    pub last_bus: u8,
    /// Its package.
    pub package: u32,
    /// Prefetchable memory below it.
    pub window: Option<PhysRange>,
}

/// A root port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortPlan {
    /// Its address.
    pub id: FunctionId,
    /// Its host bridge, by place in [`PciPlan::bridges`].
    pub bridge: usize,
    /// First bus below it.
    pub secondary: u8,
    /// Last bus below it.
    pub subordinate: u8,
    /// Selective streams of its IDE capability; 0 without the capability.
    pub selective_streams: u16,
    /// Prefetchable memory below it, whole MiB; empty if nothing below needs any.
    pub window: PhysRange,
    /// What is plugged in.
    pub device: Option<DevicePlan>,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePlan {
    /// The device file, with its address and its window.
    pub spec: EndpointSpec,
    /// Where somebody else's device security manager answers.
    pub socket: Option<String>,
}

/// A key configuration unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyUnitPlan {
    /// Register base.
    pub registers: PhysAddr,
    /// Streams that it has keys for.
    pub streams: u16,
    /// Its host bridge, by place in [`PciPlan::bridges`].
    pub bridge: usize,
    /// Its root ports, ascending.
    pub root_ports: Vec<FunctionId>,
}

impl BridgePlan {
    /// Whether a function is on one of its buses.
    pub fn has(&self, id: FunctionId) -> bool {
        self.segment == id.segment && (self.bus..=self.last_bus).contains(&id.bdf.bus())
    }
}

impl PciPlan {
    /// The host bridge with this root bus.
    pub fn bridge(&self, segment: Segment, bus: u8) -> Option<&BridgePlan> {
        self.bridges.iter().find(|bridge| bridge.segment == segment && bridge.bus == bus)
    }

    /// A root port.
    pub fn port(&self, id: FunctionId) -> Option<&PortPlan> {
        self.ports.binary_search_by_key(&id, |port| port.id).ok().and_then(|index| self.ports.get(index))
    }
}

impl PlatformSpec {
    /// The PCIe hierarchy of the platform, or why there can be none such.
    pub fn pci_plan(&self) -> Result<PciPlan, SpecIssue> {
        let mut plan = PciPlan { bridges: bridges(self)?, ..PciPlan::default() };
        for entry in &self.root_ports {
            for number in 0..entry.count {
                add_port(&mut plan, entry, number)?;
            }
        }
        plan.ports.sort_unstable_by_key(|port| port.id);
        buses_apart(&plan)?;
        for entry in &self.endpoints {
            for number in 0..entry.count {
                add_device(&mut plan, entry, number)?;
            }
        }
        place_windows(&mut plan)?;
        registers_apart(self)?;
        plan.key_units = self.key_units.iter().map(|unit| key_unit(&plan, unit)).collect::<Result<_, _>>()?;
        ports_of_one_unit(&plan)?;
        iommus(self, &plan)?;
        Ok(plan)
    }

    /// The host bridge below a VT-d unit: the one it names by `bus` or in its scope; for a unit that takes
    /// all others, the first of the segment that no unit names.
    pub fn bridge_below<'p>(&self, unit: &IommuSpec, plan: &'p PciPlan) -> Option<&'p BridgePlan> {
        let named = |unit: &IommuSpec| unit.bus.or_else(|| unit.scope.first().map(|function| function.bus));
        let segment = Segment(unit.segment);
        if let Some(bus) = named(unit) {
            return plan
                .bridges
                .iter()
                .find(|bridge| bridge.segment == segment && (bridge.bus..=bridge.last_bus).contains(&bus));
        }
        let others = || self.iommus.iter().filter(|other| other.segment == unit.segment).filter_map(named);
        plan.bridges.iter().find(|bridge| {
            let is_named = others().any(|bus| (bridge.bus..=bridge.last_bus).contains(&bus));
            bridge.segment == segment && !is_named
        })
    }
}

fn bridges(spec: &PlatformSpec) -> Result<Vec<BridgePlan>, SpecIssue> {
    let mut listed: Vec<&HostBridgeSpec> = spec.host_bridges.iter().collect();
    listed.sort_unstable_by_key(|bridge| (bridge.segment, bridge.bus));
    let mut bridges: Vec<BridgePlan> = Vec::new();
    for (index, bridge) in listed.iter().enumerate() {
        let HostBridgeSpec { segment, bus, package, .. } = **bridge;
        let next = listed.get(index + 1).filter(|next| next.segment == segment);
        if let Some(other) = next.filter(|next| next.bus <= bridge.last_bus.unwrap_or(bus)) {
            return Err(SpecIssue::OverlappingBridges { segment, bus, other: other.bus });
        }
        let free = next.map_or(u8::MAX, |next| next.bus - 1);
        let last_bus = bridge.last_bus.unwrap_or(free);
        if last_bus < bus {
            return Err(SpecIssue::BridgeBuses { segment, bus, last_bus });
        }
        let window = bridge.window.map(|window| {
            let aligned = |window: &PhysRange| {
                !window.is_empty() && window.start().is_aligned(MIB) && window.end().is_aligned(MIB)
            };
            window.range().filter(aligned).ok_or(SpecIssue::BridgeWindow { segment, bus })
        });
        let window = window.transpose()?;
        if let Some(window) = window {
            window_is_free(spec, &bridges, window)?;
        }
        bridges.push(BridgePlan { segment: Segment(segment), bus, last_bus, package, window });
    }
    Ok(bridges)
}

/// Nothing else answers in the window of a host bridge.
fn window_is_free(spec: &PlatformSpec, bridges: &[BridgePlan], window: PhysRange) -> Result<(), SpecIssue> {
    super::super::validate::within_width(spec, "host_bridge.window", window)?;
    let overlap = |what| Err(SpecIssue::WindowOverlap { window, what });
    let memory = layout::Memory::of(spec);
    let is_ram = memory.e820.iter().any(|entry| entry.range.overlaps(window) && entry.kind.is_memory());
    if is_ram || memory.cmrs.iter().any(|range| range.overlaps(window)) {
        return overlap("memory");
    }
    if spec.seamrr.range().overlaps(window) {
        return overlap("the SEAM range");
    }
    if bridges.iter().filter_map(|bridge| bridge.window).any(|other| other.overlaps(window)) {
        return overlap("the window of another host bridge");
    }
    if registers(spec).any(|(_, registers)| registers.overlaps(window)) {
        return overlap("registers of an IOMMU or a key unit");
    }
    Ok(())
}

/// Registers of VT-d units and key units, each with its key.
fn registers(spec: &PlatformSpec) -> impl Iterator<Item = (&'static str, PhysRange)> + '_ {
    let iommus = spec.iommus.iter().map(|unit| ("iommu", io::vtd_registers(unit)));
    let key_units = spec
        .key_units
        .iter()
        .map(|unit| ("key_unit", io::key_unit_registers(PhysAddr::new(unit.reg_base.0), unit.streams)));
    iommus.chain(key_units)
}

/// Each register belongs to one unit, and can be addressed.
fn registers_apart(spec: &PlatformSpec) -> Result<(), SpecIssue> {
    let mut taken: Vec<PhysRange> = Vec::new();
    for (key, range) in registers(spec) {
        // Empty is what does not fit 64 bits.
        if range.is_empty() {
            return Err(SpecIssue::RegistersBeyond { key });
        }
        super::super::validate::within_width(spec, key, range)?;
        if let Some(&other) = taken.iter().find(|other| other.overlaps(range)) {
            return Err(SpecIssue::OverlappingRegisters { range, other });
        }
        taken.push(range);
    }
    Ok(())
}

fn add_port(plan: &mut PciPlan, entry: &RootPortSpec, number: u8) -> Result<(), SpecIssue> {
    let RootPortSpec { segment, bus, device, function, selective_streams, .. } = *entry;
    let bad = SpecIssue::RootPortAddress { segment, bus, device, function, number };
    let device = device.checked_add(number).ok_or_else(|| bad.clone())?;
    let id = FunctionId::new(Segment(segment), Bdf::new(bus, device, function).ok_or(bad)?);
    let bridge = plan
        .bridges
        .iter()
        .position(|bridge| bridge.segment == id.segment && bridge.bus == bus)
        .ok_or(SpecIssue::PortWithoutBridge { port: id })?;
    if plan.ports.iter().any(|port| port.id == id) {
        return Err(SpecIssue::DuplicatePort { port: id });
    }
    if entry.ide && !(1..=MAX_PORT_STREAMS).contains(&selective_streams) {
        return Err(SpecIssue::PortStreams { port: id, streams: selective_streams, most: MAX_PORT_STREAMS });
    }
    let (first, last) = (entry.secondary, entry.subordinate.unwrap_or(entry.secondary));
    let buses = SpecIssue::PortBuses { port: id, secondary: first, subordinate: last };
    let each = last.checked_sub(first).ok_or_else(|| buses.clone())?.saturating_add(1);
    let shift = each.checked_mul(number).ok_or_else(|| buses.clone())?;
    let (Some(secondary), Some(subordinate)) = (first.checked_add(shift), last.checked_add(shift)) else {
        return Err(buses);
    };
    let inside = plan.bridges.get(bridge).is_some_and(|bridge| subordinate <= bridge.last_bus);
    if secondary <= bus || !inside {
        return Err(SpecIssue::PortBuses { port: id, secondary, subordinate });
    }
    plan.ports.push(PortPlan {
        id,
        bridge,
        secondary,
        subordinate,
        selective_streams: if entry.ide { selective_streams } else { 0 },
        window: PhysRange::default(),
        device: None,
    });
    Ok(())
}

/// No bus is below two ports.
fn buses_apart(plan: &PciPlan) -> Result<(), SpecIssue> {
    let mut taken: BTreeMap<(Segment, u8), FunctionId> = BTreeMap::new();
    for port in &plan.ports {
        for bus in port.secondary..=port.subordinate {
            if let Some(other) = taken.insert((port.id.segment, bus), port.id) {
                return Err(SpecIssue::OverlappingPorts { port: port.id, other, bus });
            }
        }
    }
    Ok(())
}

fn add_device(plan: &mut PciPlan, entry: &EndpointEntry, number: u8) -> Result<(), SpecIssue> {
    let first = entry.port.0;
    let device = first.bdf.device().checked_add(number);
    let bdf = device.and_then(|device| Bdf::new(first.bdf.bus(), device, first.bdf.function()));
    let place = bdf.map(|bdf| FunctionId::new(first.segment, bdf));
    let found = place.and_then(|id| plan.ports.iter_mut().find(|port| port.id == id));
    let port = found.ok_or(SpecIssue::EndpointWithoutPort { port: place.unwrap_or(first) })?;
    if port.device.is_some() {
        return Err(SpecIssue::TwoEndpoints { port: port.id });
    }
    let mut spec = match &entry.own {
        Some(_) if entry.device != super::default_device() => {
            return Err(SpecIssue::TwoDevices { port: port.id, device: entry.device.clone() });
        }
        Some(own) => (**own).clone(),
        None => {
            let unknown = || SpecIssue::UnknownDevice {
                device: entry.device.clone(),
                known: devices::ALL.iter().map(|device| device.name).collect::<Vec<_>>().join(", "),
            };
            let built_in = devices::find(&entry.device).ok_or_else(unknown)?;
            built_in.spec().map_err(|error| device_refused(port.id, error))?
        }
    };
    spec.faults.extend(&entry.faults);
    spec.pci.address = Named(FunctionId::new(port.id.segment, Bdf::from_ari(port.secondary, 0)));
    spec.validate().map_err(|error| device_refused(port.id, error))?;
    let socket = entry.dsm.as_ref().map(|dsm| dsm.socket.clone());
    if socket.as_ref().is_some_and(String::is_empty) {
        return Err(SpecIssue::NoSocket { port: port.id });
    }
    port.device = Some(DevicePlan { spec, socket });
    Ok(())
}

fn device_refused(port: FunctionId, error: crate::endpoint::EndpointSpecError) -> SpecIssue {
    SpecIssue::Device { port, error: Box::new(error) }
}

/// Gives each port the part of its bridge's window that the device below it needs.
fn place_windows(plan: &mut PciPlan) -> Result<(), SpecIssue> {
    let mut next: Vec<Option<u64>> =
        plan.bridges.iter().map(|bridge| bridge.window.map(|window| window.start().as_u64())).collect();
    for port in &mut plan.ports {
        let Some(device) = &mut port.device else { continue };
        let Some(bridge) = plan.bridges.get(port.bridge) else { continue };
        let no_room = || SpecIssue::WindowFull { port: port.id, window: bridge.window };
        let cursor = next.get_mut(port.bridge).ok_or_else(no_room)?;
        let start = cursor.and_then(|next| next.checked_next_multiple_of(device.spec.alignment().max(MIB)));
        let start = start.ok_or_else(no_room)?;
        let end = device.spec.windows_end(start).and_then(|end| end.checked_next_multiple_of(MIB));
        let range = end.and_then(|end| PhysRange::new(PhysAddr::new(start), PhysAddr::new(end)));
        let range = range.filter(|&range| bridge.window.is_some_and(|window| window.covers(range)));
        port.window = range.ok_or_else(no_room)?;
        device.spec.pci.window = Hex(start);
        device.spec.validate().map_err(|error| device_refused(port.id, error))?;
        *cursor = end;
    }
    Ok(())
}

fn key_unit(plan: &PciPlan, unit: &KeyUnitSpec) -> Result<KeyUnitPlan, SpecIssue> {
    let base = unit.reg_base.0;
    if !base.is_multiple_of(PAGE_SIZE) {
        return Err(SpecIssue::UnalignedRegisters { key: "key_unit", base });
    }
    if !(1..=MAX_UNIT_STREAMS).contains(&unit.streams) {
        return Err(SpecIssue::UnitStreams { base, streams: unit.streams });
    }
    let (segment, bus) = (Segment(unit.segment), unit.bus);
    let bridge = plan.bridges.iter().position(|bridge| bridge.segment == segment && bridge.bus == bus);
    let bridge = bridge.ok_or(SpecIssue::UnitWithoutBridge { base, segment: unit.segment, bus })?;
    let of_bridge = plan.ports.iter().filter(|port| port.bridge == bridge && port.selective_streams > 0);
    let mut root_ports: Vec<FunctionId> = if unit.root_ports.is_empty() {
        of_bridge.map(|port| port.id).collect()
    } else {
        unit.root_ports.iter().map(|port| port.0).collect()
    };
    root_ports.sort_unstable();
    root_ports.dedup();
    for &id in &root_ports {
        let port = plan.port(id).ok_or(SpecIssue::UnitWithoutPort { base, port: id })?;
        if port.bridge != bridge {
            return Err(SpecIssue::UnitOfTwoBridges { base, port: id });
        }
        if port.selective_streams == 0 {
            return Err(SpecIssue::UnitPortWithoutIde { base, port: id });
        }
        if port.selective_streams > unit.streams {
            let (streams, most) = (port.selective_streams, unit.streams);
            return Err(SpecIssue::MoreStreamsThanUnit { base, port: id, streams, most });
        }
    }
    Ok(KeyUnitPlan { registers: PhysAddr::new(base), streams: unit.streams, bridge, root_ports })
}

/// No root port gets its keys from two units.
fn ports_of_one_unit(plan: &PciPlan) -> Result<(), SpecIssue> {
    let mut seen: BTreeMap<FunctionId, PhysAddr> = BTreeMap::new();
    for unit in &plan.key_units {
        for &port in &unit.root_ports {
            if let Some(first) = seen.insert(port, unit.registers) {
                let (first, second) = (first.as_u64(), unit.registers.as_u64());
                return Err(SpecIssue::PortOfTwoUnits { port, first, second });
            }
        }
    }
    Ok(())
}

fn iommus(spec: &PlatformSpec, plan: &PciPlan) -> Result<(), SpecIssue> {
    for unit in &spec.iommus {
        let base = unit.reg_base.0;
        if let Some(stack) = unit.stack.filter(|&stack| stack >= MAX_STACKS) {
            return Err(SpecIssue::IommuStack { base, stack });
        }
        if let Some(bus) = unit.bus
            && plan.bridge(Segment(unit.segment), bus).is_none()
        {
            return Err(SpecIssue::IommuWithoutBridge { base, segment: unit.segment, bus });
        }
    }
    stacks(spec, plan)
}

/// The module tells units apart by package and stack: no two have the same, and none is without.
fn stacks(spec: &PlatformSpec, plan: &PciPlan) -> Result<(), SpecIssue> {
    let mut named: BTreeMap<(u32, u8), u64> = BTreeMap::new();
    let mut count: BTreeMap<u32, usize> = BTreeMap::new();
    for unit in &spec.iommus {
        let Some(bridge) = spec.bridge_below(unit, plan) else { continue };
        let (package, base) = (bridge.package, unit.reg_base.0);
        if let Some(stack) = unit.stack
            && let Some(other) = named.insert((package, stack), base)
        {
            return Err(SpecIssue::SameStack { base, other, package, stack });
        }
        let units = count.entry(package).or_default();
        *units += 1;
        if *units > MAX_STACKS.into() {
            return Err(SpecIssue::TooManyStacks { package, most: MAX_STACKS });
        }
    }
    Ok(())
}
