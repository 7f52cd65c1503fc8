//! A root port with its link and what is plugged in: what is locked together.

use std::collections::VecDeque;
use std::time::Duration;

use pcie::FunctionId;
use pcie::cap;
use pcie::config::{AccessError, BuildError, Width, offset};
use spdm::ide_km::StreamId;
use tdx_module::io::LinkStatus;

use super::facts::{DeviceError, DeviceMove};
use super::link::{Link, LinkAttack, LinkDirection, LinkTraffic};
use super::memory::HostMemory;
use super::observer::{At, DeviceObserver};
use super::root_port::RootPort;
use crate::endpoint::link::packet;
use crate::endpoint::{DeviceFault, Endpoint, FunctionFacts, Upstream};
use crate::event::{Event, EventLog, LinkLoss};
use crate::ide::{ByteEnables, CompletionStatus, Packet, Port, Tlp, TlpHeader};
use crate::spec::PortPlan;

/// A root port and what is below it.
pub(super) struct Slot {
    plan: PortPlan,
    /// The device number of the port has other functions.
    several: bool,
    port: RootPort,
    link: Link,
    device: Option<Box<Endpoint>>,
    /// The device is in the slot.
    plugged: bool,
    /// Software holds the bus in reset.
    in_reset: bool,
    losses: u32,
    /// What happens to the device in front of an answer that it was told to keep back.
    due: Option<DeviceMove>,
}

/// A write to configuration space.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConfigWrite {
    pub(super) at: u16,
    pub(super) width: Width,
    pub(super) value: u32,
}

/// What the machine itself has to do after an access to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PowerFails;

impl Slot {
    pub(super) fn new(
        plan: PortPlan,
        several: bool,
        device: Option<Box<Endpoint>>,
    ) -> Result<Self, BuildError> {
        let plugged = device.is_some();
        let port = RootPort::new(&plan, several)?;
        let link = Link::default();
        let mut slot =
            Self { plan, several, port, link, device, plugged, in_reset: false, losses: 0, due: None };
        slot.show();
        slot.port.forget_news();
        Ok(slot)
    }

    /// Everything is as at power-on; the device keeps its identity.
    pub(super) fn power_cycle(&mut self) {
        if let Some(device) = &mut self.device {
            device.reset();
            device.stop_at(None);
        }
        self.set_file_faults();
        let device = self.device.take();
        // What could be built once can be built again.
        if let Ok(fresh) = Self::new(self.plan.clone(), self.several, device) {
            *self = fresh;
        }
    }

    /// The device has the faults of its file again, and no others.
    fn set_file_faults(&mut self) {
        let faults = self.plan.device.as_ref().map(|device| device.spec.faults.clone()).unwrap_or_default();
        if let Some(device) = self.device.as_mut().filter(|device| device.faults() != faults) {
            // The authority that has certified the device once does so again.
            let _ = device.set_faults(&faults);
        }
    }

    pub(super) fn link(&self) -> LinkStatus {
        LinkStatus { up: self.is_up(), losses: self.losses }
    }

    fn is_up(&self) -> bool {
        self.plugged && !self.in_reset
    }

    /// The registers of the port say what is in the slot.
    fn show(&mut self) {
        self.port.set_slot(cap::Slot { link_up: self.is_up(), present: self.plugged });
    }

    pub(super) fn port_mut(&mut self) -> &mut Port {
        &mut self.port.ide
    }

    /// Somebody has done something to the streams of the port.
    pub(super) fn streams_changed(&mut self) {
        self.port.registers_from_streams();
        self.copy_keys();
    }

    /// A device whose keys nobody sees has those of the port.
    fn copy_keys(&mut self) {
        if let Some(device) = self.device.as_mut().filter(|device| device.is_outside()) {
            device.copy_keys(&self.port.ide);
        }
    }

    pub(super) fn device_mut(&mut self) -> Option<&mut Endpoint> {
        self.device.as_deref_mut()
    }

    pub(super) fn functions(&self) -> Vec<FunctionFacts> {
        let device = self.device.as_ref().filter(|_| self.is_up());
        device.map(|device| device.functions().collect()).unwrap_or_default()
    }

    /// The device, if an access to a bus gets to it.
    fn reached(&self, function: FunctionId) -> Option<&Endpoint> {
        let passes = self.is_up() && self.port.has_bus(function.bdf.bus());
        self.device.as_deref().filter(|_| passes)
    }

    pub(super) fn read_port(&self, at: u16, width: Width) -> Result<u32, AccessError> {
        self.port.config.read(at, width)
    }

    pub(super) fn read_device(
        &self,
        function: FunctionId,
        at: u16,
        width: Width,
    ) -> Result<u32, AccessError> {
        self.reached(function).map_or(Ok(width.mask()), |device| device.config_read(function, at, width))
    }

    pub(super) fn write_port(&mut self, write: ConfigWrite, events: &EventLog) -> Result<(), AccessError> {
        let ConfigWrite { at, width, value } = write;
        let change = self.port.config.write(at, width, value)?;
        if change.offset == offset::INTERRUPT {
            match (self.in_reset, self.port.resets_bus()) {
                (false, true) => self.hold_in_reset(events),
                (true, false) => self.release(events),
                _ => {}
            }
        }
        self.port.status_written(change.offset);
        if change.before != change.after {
            self.port.streams_from_registers();
            self.copy_keys();
        }
        Ok(())
    }

    pub(super) fn write_device(
        &mut self,
        function: FunctionId,
        write: ConfigWrite,
        now: Duration,
        observer: Option<&dyn DeviceObserver>,
        events: &EventLog,
    ) -> Result<Option<PowerFails>, AccessError> {
        if self.reached(function).is_none() {
            return Ok(None);
        }
        let Some(device) = &mut self.device else { return Ok(None) };
        let ConfigWrite { at, width, value } = write;
        device.config_write(function, at, width, value, now, &mut At { function, observer })?;
        let stopped = device.take_stop();
        self.copy_keys();
        Ok(if stopped { self.strike(events) } else { None })
    }

    /// What was to happen to the device happens.
    fn strike(&mut self, events: &EventLog) -> Option<PowerFails> {
        match self.due.take()? {
            DeviceMove::Remove => {
                self.remove(events);
            }
            DeviceMove::KillMailbox => {
                if let Some(device) = &mut self.device {
                    device.kill_mailbox();
                }
            }
            DeviceMove::ResetLink => self.reset_link(events),
            DeviceMove::PowerLoss => return Some(PowerFails),
        }
        None
    }

    /// Something happens to the device when it is given one more object than `passing`; false if there is
    /// none.
    pub(super) fn schedule(&mut self, passing: u64, due: DeviceMove) -> bool {
        let Some(device) = &mut self.device else { return false };
        let at = device.exchanges().saturating_add(passing);
        device.stop_at(Some(at));
        self.due = Some(due);
        true
    }

    pub(super) fn set_faults(&mut self, faults: &[DeviceFault]) -> Result<(), DeviceError> {
        let device = self.device.as_mut().ok_or(DeviceError::NoDevice(self.plan.id))?;
        let function = device.spec().pci.address.0;
        device.set_faults(faults).map_err(|source| DeviceError::Endpoint { function, source })
    }

    pub(super) fn tick(&mut self, now: Duration) {
        if let Some(device) = &mut self.device {
            device.tick(now);
        }
    }

    /// Pulls the device out; false if none was there.
    pub(super) fn remove(&mut self, events: &EventLog) -> bool {
        let was_up = self.is_up();
        let was_there = std::mem::replace(&mut self.plugged, false);
        if was_up {
            self.lose(LinkLoss::Removed, events);
        } else {
            self.show();
        }
        was_there
    }

    /// Plugs the device in again, as after its power-on; false if it was there.
    pub(super) fn replug(&mut self, events: &EventLog) -> bool {
        let Some(device) = self.device.as_mut().filter(|_| !self.plugged) else { return false };
        device.reset();
        self.plugged = true;
        self.show();
        if self.is_up() {
            events.push(Event::LinkUp { port: self.plan.id });
        }
        true
    }

    /// The link goes down and comes up again by itself.
    pub(super) fn reset_link(&mut self, events: &EventLog) {
        if self.is_up() {
            // Down for as long as the port notices.
            self.plugged = false;
            self.lose(LinkLoss::Reset, events);
            self.plugged = true;
            self.restart(events);
        }
    }

    fn hold_in_reset(&mut self, events: &EventLog) {
        let was_up = self.is_up();
        self.in_reset = true;
        if was_up {
            self.lose(LinkLoss::SecondaryBusReset, events);
        }
    }

    fn release(&mut self, events: &EventLog) {
        self.in_reset = false;
        if self.is_up() {
            self.restart(events);
        }
    }

    /// The device is as after power-on, and its link comes up.
    fn restart(&mut self, events: &EventLog) {
        if let Some(device) = &mut self.device {
            device.reset();
        }
        self.show();
        events.push(Event::LinkUp { port: self.plan.id });
    }

    /// The link is down: nothing is on its way, and no stream is secure.
    fn lose(&mut self, why: LinkLoss, events: &EventLog) {
        self.losses = self.losses.saturating_add(1);
        self.link.down();
        self.port.ide.link_down();
        self.port.registers_from_streams();
        self.show();
        events.push(Event::LinkDown { port: self.plan.id, why });
    }

    pub(super) fn attack(&mut self, attack: LinkAttack) {
        self.link.attack(attack);
    }

    pub(super) fn watch(&mut self, on: bool) {
        self.link.watch(on);
    }

    pub(super) fn watched(&mut self) -> Vec<(LinkDirection, Packet)> {
        self.link.watched()
    }

    pub(super) const fn traffic(&self) -> LinkTraffic {
        self.link.traffic
    }

    /// Whether the port passes accesses to an address on.
    pub(super) fn has_address(&self, address: u64) -> bool {
        self.port.has_address(address)
    }

    /// The host reads memory of the device; `None`: nobody answered, or not with data.
    pub(super) fn host_read(
        &mut self,
        address: u64,
        dwords: u16,
        memory: &dyn HostMemory,
        events: &EventLog,
    ) -> Option<Vec<u8>> {
        if !self.is_up() {
            return None;
        }
        let (requester, tag) = (self.plan.id.bdf, self.port.tag());
        let header = TlpHeader::Read { requester, tag, address, dwords };
        let over = self.down(Tlp { trusted: false, header, payload: Vec::new() }, memory, events);
        let answer = self.port.answer(over, tag)?;
        let succeeded =
            matches!(answer.header, TlpHeader::Completion { status: CompletionStatus::Success, .. });
        Some(answer.payload).filter(|payload| succeeded && payload.len() == usize::from(dwords) * 4)
    }

    /// The host writes memory of the device: whole dwords.
    pub(super) fn host_write(
        &mut self,
        address: u64,
        payload: Vec<u8>,
        memory: &dyn HostMemory,
        events: &EventLog,
    ) {
        if self.is_up() {
            let requester = self.plan.id.bdf;
            let header = TlpHeader::Write { requester, address, enables: ByteEnables::ALL };
            self.down(Tlp { trusted: false, header, payload }, memory, events);
            self.port.forget_completions();
        }
    }

    /// Sends a request to the device, and carries all that follows from it. The stream that it went over.
    fn down(&mut self, tlp: Tlp, memory: &dyn HostMemory, events: &EventLog) -> Option<StreamId> {
        let Self { port, link, device: Some(device), .. } = self else { return None };
        let routes = port.routes();
        let first = packet(Some(&mut port.ide), &routes, tlp);
        let over = first.as_ref().and_then(Packet::stream);
        let mut sent: VecDeque<_> = first.map(|packet| (LinkDirection::Down, packet)).into_iter().collect();
        while let Some((direction, packet)) = sent.pop_front() {
            for arrived in link.carry(direction, packet) {
                let (back, answers) = match direction {
                    LinkDirection::Down => {
                        let mut root = RootSide { port, link, memory, events };
                        (LinkDirection::Up, device.arrive(arrived, &mut root))
                    }
                    LinkDirection::Up => (LinkDirection::Down, port.arrive(arrived, memory, events)),
                };
                sent.extend(answers.into_iter().map(|answer| (back, answer)));
            }
        }
        over
    }
}

/// The link and the port at its other end, as the device reaches them.
struct RootSide<'a> {
    port: &'a mut RootPort,
    link: &'a mut Link,
    memory: &'a dyn HostMemory,
    events: &'a EventLog,
}

impl Upstream for RootSide<'_> {
    fn send(&mut self, packet: Packet) -> Vec<Packet> {
        let mut back = Vec::new();
        for arrived in self.link.carry(LinkDirection::Up, packet) {
            for answer in self.port.arrive(arrived, self.memory, self.events) {
                back.extend(self.link.carry(LinkDirection::Down, answer));
            }
        }
        back
    }
}
