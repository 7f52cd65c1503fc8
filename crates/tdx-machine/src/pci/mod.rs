//! PCIe: host bridges, root ports, links and the devices below them.
//!
//! Each root port is locked together with its link and its device, so that devices do not wait for each
//! other. Accesses go where the registers of the port say: configuration requests by bus number, memory
//! requests by address. Requests to a device and requests of it travel over the link as TLPs: sealed when a
//! secure stream of the port that sends them is associated with where they go, in the clear otherwise.
//!
//! | modelled | how |
//! |---|---|
//! | addresses | as firmware gives them at power-on; a device answers at the bus that it had then |
//! | windows | each port has the part of its host bridge's memory that its device needs, in whole MiB |
//! | reset, link loss, replug | the device comes back as after power-on, with its windows set, as an operating system would restore it |
//! | identity of a device | made at the first data object; a device without costs the registers of its functions, 28 KiB each |
//! | attackers | [`LinkAttack`]: what is done to single packets; fail messages are left alone |
//! | answers | over the stream of their request, or in the clear as it was; any other is nobody's |
//! | requests of devices with the T bit | refused: no trusted translation table exists |
//! | an unprotected request that a secure stream is responsible for | passed on, without the T bit |
//! | not modelled | switches, legacy interrupts and MSI, root error messages, translation by the IOMMU, keys of a security manager outside: those of the root port are copied when the stream is enabled |

mod access;
mod facts;
mod link;
mod memory;
mod observer;
mod root_port;
mod slot;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, RwLock};
use pcie::config::Width;
use pcie::{FunctionId, Segment};
use tdx_module::io::LinkStatus;

pub use facts::{DeviceError, DeviceMove, PciFunctionFacts};
pub use link::{LinkAttack, LinkDirection, LinkMove, LinkTraffic};
pub use observer::DeviceObserver;

use crate::endpoint::{Endpoint, OutsideDsm};
use crate::event::EventLog;
use crate::ide::Port;
use crate::spec::{PciPlan, PlatformSpec, SpecIssue};
pub(crate) use slot::PowerFails;
use slot::{ConfigWrite, Slot};

pub(crate) use memory::HostMemory;

/// Makes the connection to a device security manager outside; the argument is the address of the platform
/// file.
pub type Dial<'a> = dyn FnMut(&str) -> Result<Box<dyn OutsideDsm>, String> + 'a;

/// The PCIe hierarchy of a machine.
pub(crate) struct Topology {
    plan: PciPlan,
    /// By place in the plan.
    slots: Box<[Mutex<Slot>]>,
    /// Which port a bus is below, ascending.
    buses: Vec<((Segment, u8), usize)>,
    /// Which port has which addresses at power-on, ascending.
    windows: Vec<(u64, usize)>,
    events: Arc<EventLog>,
    observer: RwLock<Option<Arc<dyn DeviceObserver>>>,
    /// Nanoseconds since power-on.
    clock: AtomicU64,
}

impl Topology {
    /// The hierarchy of a platform, its devices powered on and without an identity.
    pub(crate) fn new(
        spec: &PlatformSpec,
        seed: u64,
        events: Arc<EventLog>,
        dial: Option<&mut Dial<'_>>,
    ) -> Result<Self, SpecIssue> {
        let plan = spec.pci_plan()?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut dial = dial;
        let mut slots = Vec::with_capacity(plan.ports.len());
        for (number, port) in (0..).zip(&plan.ports) {
            let refused = |reason: String| SpecIssue::NotBuilt { port: port.id, reason };
            let mut device = None;
            if let Some(planned) = &port.device {
                let made = Endpoint::without_identity(&planned.spec, seed.wrapping_add(number), now);
                let mut made = made.map_err(|error| refused(error.to_string()))?;
                if let Some(socket) = &planned.socket {
                    let dial = dial.as_deref_mut();
                    let outside = dial.ok_or_else(|| "nobody dials".to_owned()).and_then(|dial| dial(socket));
                    let unreachable =
                        |reason| SpecIssue::OutsideDsm { port: port.id, socket: socket.clone(), reason };
                    made.set_outside(outside.map_err(unreachable)?);
                }
                device = Some(Box::new(made));
            }
            let same_device = |other: &FunctionId| {
                other.segment == port.id.segment
                    && other.bdf.routing_id() >> 3 == port.id.bdf.routing_id() >> 3
            };
            let several = plan.ports.iter().filter(|other| same_device(&other.id)).count() > 1;
            let slot = Slot::new(port.clone(), several, device);
            slots.push(Mutex::new(slot.map_err(|error| refused(error.to_string()))?));
        }
        let ports = || plan.ports.iter().enumerate();
        let mut buses: Vec<_> = ports()
            .flat_map(|(at, port)| {
                (port.secondary..=port.subordinate).map(move |bus| ((port.id.segment, bus), at))
            })
            .collect();
        buses.sort_unstable();
        let mut windows: Vec<_> = ports()
            .filter(|(_, port)| !port.window.is_empty())
            .map(|(at, port)| (port.window.start().as_u64(), at))
            .collect();
        windows.sort_unstable();
        let (observer, clock) = (RwLock::default(), AtomicU64::new(0));
        Ok(Self { plan, slots: slots.into(), buses, windows, events, observer, clock })
    }

    /// Power is cycled.
    pub(crate) fn power_cycle(&self) {
        self.clock.store(0, Ordering::Release);
        self.slots.iter().for_each(|slot| slot.lock().power_cycle());
    }

    /// The hierarchy as firmware made it.
    pub(crate) const fn plan(&self) -> &PciPlan {
        &self.plan
    }

    fn port_slot(&self, id: FunctionId) -> Option<&Mutex<Slot>> {
        let index = self.plan.ports.binary_search_by_key(&id, |port| port.id).ok()?;
        self.slots.get(index)
    }

    fn device_slot(&self, id: FunctionId) -> Option<&Mutex<Slot>> {
        let bus = (id.segment, id.bdf.bus());
        let found = self.buses.binary_search_by_key(&bus, |(bus, _)| *bus).ok()?;
        self.slots.get(self.buses.get(found)?.1)
    }

    /// The slot of a root port, or of a device below one.
    fn slot(&self, id: FunctionId) -> Option<&Mutex<Slot>> {
        self.port_slot(id).or_else(|| self.device_slot(id))
    }

    /// Reads configuration space; all ones where nothing answers.
    pub(crate) fn config_read(&self, function: FunctionId, at: u16, width: Width) -> u32 {
        let read = match self.port_slot(function) {
            Some(slot) => slot.lock().read_port(at, width),
            None => match self.device_slot(function) {
                Some(slot) => slot.lock().read_device(function, at, width),
                None => Ok(width.mask()),
            },
        };
        read.unwrap_or(width.mask())
    }

    /// Writes configuration space, whoever does so. What cannot be written is lost.
    pub(crate) fn config_write(
        &self,
        function: FunctionId,
        at: u16,
        width: Width,
        value: u32,
    ) -> Option<PowerFails> {
        let write = ConfigWrite { at, width, value };
        if let Some(slot) = self.port_slot(function) {
            // An access that is none goes nowhere.
            let _ = slot.lock().write_port(write, &self.events);
            return None;
        }
        let slot = self.device_slot(function)?;
        let observer = self.observer.read().clone();
        let now = self.now();
        slot.lock().write_device(function, write, now, observer.as_deref(), &self.events).ok().flatten()
    }

    /// The functions that are there, ascending.
    pub(crate) fn functions(&self) -> Vec<PciFunctionFacts> {
        let mut functions = Vec::new();
        for (port, slot) in self.plan.ports.iter().zip(&self.slots) {
            let Some(&bridge) = self.plan.bridges.get(port.bridge) else { continue };
            functions.push(PciFunctionFacts { id: port.id, root_port: None, physical: None, bridge });
            functions.extend(slot.lock().functions().into_iter().map(|function| PciFunctionFacts {
                id: function.id,
                root_port: Some(port.id),
                physical: function.physical,
                bridge,
            }));
        }
        functions.sort_unstable_by_key(|function| function.id);
        functions
    }

    /// The link below a root port.
    pub(crate) fn link(&self, root_port: FunctionId) -> Option<LinkStatus> {
        self.port_slot(root_port).map(|slot| slot.lock().link())
    }

    /// Lets `act` work on the end of the link that a root port has: its streams are those of its registers,
    /// which say afterwards what has become of them.
    pub(crate) fn with_port<R>(&self, root_port: FunctionId, act: impl FnOnce(&mut Port) -> R) -> Option<R> {
        let mut slot = self.port_slot(root_port)?.lock();
        let result = act(slot.port_mut());
        slot.streams_changed();
        Some(result)
    }

    /// Lets `act` work on the device that has, or is below, a function, whether it is plugged in or not.
    pub(crate) fn with_endpoint<R>(
        &self,
        function: FunctionId,
        act: impl FnOnce(&mut Endpoint) -> R,
    ) -> Option<R> {
        let mut slot = self.slot(function)?.lock();
        slot.device_mut().map(act)
    }

    /// Time since power-on.
    pub(crate) fn now(&self) -> Duration {
        Duration::from_nanos(self.clock.load(Ordering::Acquire))
    }

    /// Lets time pass.
    pub(crate) fn advance(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // The closure never gives up.
        let _ = self
            .clock
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| Some(now.saturating_add(nanoseconds)));
        let now = self.now();
        self.slots.iter().for_each(|slot| slot.lock().tick(now));
    }

    /// The port that passes accesses to an address on.
    fn at_address(&self, address: u64) -> Option<&Mutex<Slot>> {
        let behind = self.windows.partition_point(|(start, _)| *start <= address);
        let usual = behind.checked_sub(1).and_then(|at| self.windows.get(at));
        let usual = usual.and_then(|(_, at)| self.slots.get(*at));
        // Software may have moved a window.
        usual
            .filter(|slot| slot.lock().has_address(address))
            .or_else(|| self.slots.iter().find(|slot| slot.lock().has_address(address)))
    }

    /// The host reads `dwords` of memory of a device; `None` where nobody answers.
    pub(crate) fn read_memory(&self, address: u64, dwords: u16, memory: &dyn HostMemory) -> Option<Vec<u8>> {
        self.at_address(address)?.lock().host_read(address, dwords, memory, &self.events)
    }

    /// The host writes memory of a device.
    pub(crate) fn write_memory(&self, address: u64, bytes: Vec<u8>, memory: &dyn HostMemory) {
        if let Some(slot) = self.at_address(address) {
            slot.lock().host_write(address, bytes, memory, &self.events);
        }
    }
}
