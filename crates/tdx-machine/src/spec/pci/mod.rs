//! PCIe in a platform file: host bridges, root ports, endpoints, key configuration units, VT-d units.

mod plan;
#[cfg(test)]
mod tests;

use pcie::FunctionId;
use serde::{Deserialize, Serialize};

pub use plan::{BridgePlan, DevicePlan, KeyUnitPlan, PciPlan, PortPlan};

use super::{Hex, PlatformSpec, RangeSpec, is_default, yes};
use crate::endpoint::EndpointSpec;
use crate::endpoint::fault::DeviceFault;
use crate::endpoint::spec::Named;

/// A PCI function by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionSpec {
    /// Bus.
    pub bus: u8,
    /// Device, 0 to 31.
    pub device: u8,
    /// Function, 0 to 7.
    pub function: u8,
    /// True for a bridge: everything below it belongs to the scope too.
    #[serde(default, skip_serializing_if = "is_default")]
    pub bridge: bool,
}

/// A VT-d unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IommuSpec {
    /// PCI segment.
    pub segment: u16,
    /// Register base, 4 KiB aligned.
    pub reg_base: Hex,
    /// Every function of the segment that no other unit names belongs to it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub include_all: bool,
    /// Root bus of the host bridge that it serves: all root ports of the bridge belong to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus: Option<u8>,
    /// It has the TDX mode that TDX Connect needs (ECAP.TDXC).
    #[serde(default, skip_serializing_if = "is_default")]
    pub tdx: bool,
    /// Its I/O stack on its package, 0 to 15; by its place among the units of the package if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<u8>,
    /// Functions it serves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scope: Vec<FunctionSpec>,
}

/// A PCI host bridge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostBridgeSpec {
    /// PCI segment.
    pub segment: u16,
    /// Root bus.
    pub bus: u8,
    /// Last bus; up to the next host bridge of the segment if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_bus: Option<u8>,
    /// Package it belongs to.
    pub package: u32,
    /// Addresses of prefetchable memory below it, whole MiB. Devices need some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<RangeSpec>,
}

/// Root ports: one, or several that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootPortSpec {
    /// PCI segment.
    pub segment: u16,
    /// Root bus that it is on.
    pub bus: u8,
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    #[serde(default, skip_serializing_if = "is_default")]
    pub function: u8,
    /// First bus below it.
    pub secondary: u8,
    /// Last bus below it; the first if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subordinate: Option<u8>,
    /// It has the IDE capability.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub ide: bool,
    /// Selective streams of its IDE capability, each with one address association block.
    #[serde(default = "default_streams")]
    pub selective_streams: u16,
    /// How many there are: each at the next device number, and the buses below it behind those of the one
    /// before.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub count: u8,
}

/// Endpoints below root ports: one, or the same below several ports that follow each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointEntry {
    /// The root port above it, such as `0000:15:01.0`.
    pub port: Named<FunctionId>,
    /// Which of the devices that are built in.
    #[serde(default = "default_device", skip_serializing_if = "is_default_device")]
    pub device: String,
    /// A device file in place of one that is built in. Address and window are the platform's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<Box<EndpointSpec>>,
    /// What is wrong with it, beside what its device file says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<DeviceFault>,
    /// Somebody else's device security manager answers in place of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dsm: Option<DsmSpec>,
    /// How many there are: each below the port at the next device number.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub count: u8,
}

/// Where the device security manager of an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DsmSpec {
    /// Address and port of a responder that speaks the socket protocol of the SPDM emulators.
    pub socket: String,
}

/// A key configuration unit: the registers that take IDE keys for the root ports of a bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyUnitSpec {
    /// PCI segment of its root ports.
    pub segment: u16,
    /// Root bus of its host bridge.
    pub bus: u8,
    /// Register base, 4 KiB aligned.
    pub reg_base: Hex,
    /// IDE streams it has keys for, 1 to 256.
    pub streams: u16,
    /// Its root ports; all of the host bridge that have the IDE capability if left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub root_ports: Vec<Named<FunctionId>>,
}

const fn one() -> u8 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde calls it with a reference.
const fn is_one(count: &u8) -> bool {
    *count == 1
}

#[allow(clippy::trivially_copy_pass_by_ref)] // As above.
const fn is_yes(value: &bool) -> bool {
    *value
}

const fn default_streams() -> u16 {
    4
}

fn default_device() -> String {
    "default".to_owned()
}

fn is_default_device(name: &str) -> bool {
    name == "default"
}

impl Default for RootPortSpec {
    fn default() -> Self {
        Self {
            segment: 0,
            bus: 0,
            device: 0,
            function: 0,
            secondary: 1,
            subordinate: None,
            ide: true,
            selective_streams: default_streams(),
            count: 1,
        }
    }
}

impl PlatformSpec {
    /// The scope of a VT-d unit: the functions it lists, and the root ports of the host bridge that it
    /// serves.
    pub fn scope_of(&self, unit: &IommuSpec) -> Vec<FunctionSpec> {
        let mut scope = unit.scope.clone();
        let ports = self
            .root_ports
            .iter()
            .filter(|port| port.segment == unit.segment && unit.bus == Some(port.bus) && !unit.include_all);
        scope.extend(ports.flat_map(|port| {
            let &RootPortSpec { bus, function, device, count, .. } = port;
            let devices = (0..count).filter_map(move |number| device.checked_add(number));
            devices.map(move |device| FunctionSpec { bus, device, function, bridge: true })
        }));
        scope
    }
}

impl EndpointEntry {
    /// The default device below a port.
    pub fn below(port: FunctionId) -> Self {
        Self {
            port: Named(port),
            device: default_device(),
            own: None,
            faults: Vec::new(),
            dsm: None,
            count: 1,
        }
    }
}
