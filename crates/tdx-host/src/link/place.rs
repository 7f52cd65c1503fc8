//! Where a stream is: its numbers, and what belongs to it.

use core::fmt;

use pcie::cap::{Device3, SrIovRegisters};
use pcie::config::{ReadConfig, offset};
use pcie::ide::{AddressAssociation, RidAssociation};
use pcie::{BusAddress, FunctionId};

use super::pool::Pools;
use crate::traits::{HostBridge, PciBus};
use crate::tsm::{Config, TsmError};

/// Numbers of a stream on its bridge, its root port and its endpoint, all of them taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The bridge.
    pub bridge: HostBridge,
    /// Place on the bridge.
    pub number: u8,
    /// The root port.
    pub root_port: FunctionId,
    /// Its register block.
    pub root_port_block: u8,
    /// The endpoint.
    pub endpoint: FunctionId,
    /// Its register block.
    pub endpoint_block: u8,
}

impl fmt::Display for Place {
    /// As the link in the bridge's directory is named.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream{}.{}.{}", self.number, self.root_port_block, self.endpoint_block)
    }
}

impl Place {
    /// Takes a number on the bridge, the root port and the endpoint, in this order; after an error none is
    /// taken.
    pub(crate) fn take(device: FunctionId, pools: &Pools<'_>) -> Result<Self, TsmError> {
        let Pools { bridge, root_port, endpoint } = *pools;
        for port in [endpoint, root_port] {
            if port.blocks() == 0 {
                return Err(TsmError::NoIde { device, port: port.port() });
            }
        }
        let no_place =
            TsmError::NoStreamOnBridge { device, bridge: bridge.bridge(), streams: bridge.streams() };
        let number = bridge.take_place().ok_or(no_place)?;
        let Some(root_port_block) = root_port.take_block() else {
            bridge.give_place_back(number);
            return Err(TsmError::NoStreamOnRootPort { device, port: root_port.port() });
        };
        let Some(endpoint_block) = endpoint.take_block() else {
            root_port.give_block_back(root_port_block);
            bridge.give_place_back(number);
            return Err(TsmError::NoStreamOnEndpoint { device });
        };
        Ok(Self {
            bridge: bridge.bridge(),
            number,
            root_port: root_port.port(),
            root_port_block,
            endpoint: endpoint.port(),
            endpoint_block,
        })
    }

    /// Gives the numbers back.
    pub(crate) fn give_back(self, pools: &Pools<'_>) {
        pools.endpoint.give_block_back(self.endpoint_block);
        pools.root_port.give_block_back(self.root_port_block);
        pools.bridge.give_place_back(self.number);
    }
}

/// True for ports that see segments: those in flit mode.
fn sees_segments(config: &impl ReadConfig) -> bool {
    Device3::find(config).is_some_and(|device| device.segment_captured)
}

/// Segment of an association register of a port.
pub(super) fn segment_of<P: PciBus + ?Sized>(bus: &P, port: FunctionId) -> u8 {
    let config = Config::new(bus, port);
    // The register has 8 bits, as function ids have.
    if sees_segments(&config) { port.segment.0.to_le_bytes()[0] } else { 0 }
}

/// Shows the functions of the device whose DSM is in `device`: each physical one that answers, itself
/// first, followed by its virtual ones.
pub(crate) fn walk_functions<P: PciBus + ?Sized>(
    bus: &P,
    device: FunctionId,
    mut each: impl FnMut(FunctionId),
) {
    let functions = if is_multi_function(&Config::new(bus, device)) { 8 } else { 1 };
    for number in 0..functions {
        let Some(physical) = device.bdf.checked_add(number) else { return };
        let id = FunctionId::new(device.segment, physical);
        let config = Config::new(bus, id);
        if !config.is_there() {
            continue;
        }
        each(id);
        let Some(registers) = SrIovRegisters::find(&config) else { continue };
        (0..registers.count())
            .map_while(|index| registers.virtual_function(physical, index))
            .for_each(|function| each(FunctionId::new(device.segment, function)));
    }
}

fn is_multi_function(config: &impl ReadConfig) -> bool {
    config.dword(offset::HEADER_TYPE) & 1 << 23 != 0
}

/// Routing ids of the device whose DSM is in `device`: from itself to the last function of the device,
/// virtual ones included.
pub(super) fn functions_of<P: PciBus + ?Sized>(
    bus: &P,
    device: FunctionId,
    root_port: FunctionId,
) -> RidAssociation {
    let mut last = device.bdf;
    walk_functions(bus, device, |function| last = last.max(function.bdf));
    RidAssociation::between(device.bdf, last, segment_of(bus, root_port))
}

/// Memory of the device: the prefetchable window of the port above it.
pub(super) fn memory_of<P: PciBus + ?Sized>(
    bus: &P,
    device: FunctionId,
    port: FunctionId,
) -> Result<AddressAssociation, TsmError> {
    let config = Config::new(bus, port);
    let window = config.dword(offset::PREFETCHABLE);
    let [base_low, limit_low] = [window & 0xfff0, window >> 16 & 0xfff0];
    let upper = |at| u64::from(config.dword(at)) << 32;
    let wide = window & 0xf == 1;
    let base = u64::from(base_low) << 16 | if wide { upper(offset::PREFETCHABLE_UPPER) } else { 0 };
    let limit =
        u64::from(limit_low) << 16 | if wide { upper(offset::PREFETCHABLE_UPPER + 4) } else { 0 } | 0xf_ffff;
    let none = TsmError::NoAddressWindow { device, port };
    // A window that was never set up is 0 up to the first MiB, or ends below its start.
    if window == u32::MAX || base == 0 {
        return Err(none);
    }
    AddressAssociation::new(BusAddress(base), BusAddress(limit)).map_err(|_| none)
}
