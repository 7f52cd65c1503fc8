//! PCIe as those who have a machine reach it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::MutexGuard;
use pcie::FunctionId;
use pcie::config::Width;
use tdx_abi::PhysAddr;
use tdx_module::io::{LinkStatus, MmioWidth};

use super::slot::Slot;
use super::{
    DeviceError, DeviceMove, DeviceObserver, LinkAttack, LinkDirection, LinkTraffic, PciFunctionFacts,
};
use crate::Machine;
use crate::endpoint::{DeviceFault, Endpoint};
use crate::event::Event;
use crate::ide::{Packet, Port};
use crate::protection::Origin;
use crate::spec::PciPlan;

impl Machine {
    /// Reads configuration space; all ones where nothing answers.
    pub fn config_read(&self, function: FunctionId, offset: u16, width: Width) -> u32 {
        self.board().pci().config_read(function, offset, width)
    }

    /// Writes configuration space. What follows from it has happened when this returns: a data object that
    /// was given to a mailbox is answered.
    pub fn config_write(&self, function: FunctionId, offset: u16, width: Width, value: u32) {
        let board = self.board();
        if board.io().protection().covers_config(function, offset, width.bytes()) {
            board.events().push(Event::ProtectedConfigWrite { function, offset });
        } else if board.pci().config_write(function, offset, width, value).is_some() {
            self.cut_power();
        }
    }

    /// The PCIe functions that are there, ascending.
    pub fn pci_functions(&self) -> Vec<PciFunctionFacts> {
        self.board().pci().functions()
    }

    /// Host bridges, root ports, devices and key units as firmware has found them.
    pub fn pci_plan(&self) -> &PciPlan {
        self.board().pci().plan()
    }

    /// Reads memory-mapped registers outside SEAM mode; all ones where nothing answers. What belongs to a
    /// device goes over its link.
    pub fn mmio_read(&self, pa: PhysAddr, width: MmioWidth) -> u64 {
        if let Some(value) = self.board().io().read(pa, width, Origin::Host, self.board()) {
            return value;
        }
        let (dwords, ones) = shape(width);
        if !pa.is_aligned(u64::from(dwords) * 4) {
            return ones;
        }
        let read = self.board().pci().read_memory(pa.as_u64(), dwords, self.board());
        let value = |bytes: Vec<u8>| bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
        read.map_or(ones, value)
    }

    /// Writes memory-mapped registers outside SEAM mode. What belongs to a device goes over its link.
    pub fn mmio_write(&self, pa: PhysAddr, width: MmioWidth, value: u64) {
        let board = self.board();
        let bytes = usize::from(shape(width).0) * 4;
        if board.io().write(pa, width, value, (Origin::Host, board.events()), board) {
            return;
        }
        if pa.is_aligned(bytes as u64) {
            let payload = value.to_le_bytes().into_iter().take(bytes).collect();
            self.board().pci().write_memory(pa.as_u64(), payload, self.board());
        }
    }

    /// The link below a root port; `None` if there is no such port.
    pub fn link(&self, root_port: FunctionId) -> Option<LinkStatus> {
        self.board().pci().link(root_port)
    }

    /// Time of the devices since power-on. It passes only by [`Self::advance`].
    pub fn now(&self) -> Duration {
        self.board().pci().now()
    }

    /// Lets time pass for the devices: sessions without a heartbeat end.
    pub fn advance(&self, time: Duration) {
        self.board().pci().advance(time);
    }

    /// Pulls a device out, or what is below a root port. Nothing of it answers until it is
    /// [plugged in](Self::replug) again. True if it was there.
    pub fn remove_device(&self, function: FunctionId) -> bool {
        self.with_slot(function, |slot, events| slot.remove(events)).unwrap_or(false)
    }

    /// Plugs a device in again that was pulled out, at the same address and as after power-on. True if it
    /// was not there.
    pub fn replug(&self, function: FunctionId) -> bool {
        self.with_slot(function, |slot, events| slot.replug(events)).unwrap_or(false)
    }

    /// The link below a root port goes down and comes up again: the device is as after power-on.
    pub fn reset_link(&self, root_port: FunctionId) {
        self.with_slot(root_port, |slot, events| slot.reset_link(events));
    }

    /// Something happens to a device when, after `passing` more exchanges of data objects, it is given
    /// another object: before that one is answered. Replaces what was to happen before.
    pub fn schedule_device(
        &self,
        function: FunctionId,
        passing: u64,
        what: DeviceMove,
    ) -> Result<(), DeviceError> {
        let scheduled = self.with_slot(function, |slot, _| slot.schedule(passing, what));
        scheduled.unwrap_or(false).then_some(()).ok_or(DeviceError::NoDevice(function))
    }

    /// Other faults of a device, or none, from now on until power is cycled.
    pub fn set_device_faults(&self, function: FunctionId, faults: &[DeviceFault]) -> Result<(), DeviceError> {
        let set = self.with_slot(function, |slot, _| slot.set_faults(faults));
        set.ok_or(DeviceError::NoDevice(function))?
    }

    /// Lets `act` look at a device, or work on it, past link and registers. White box; `None` if there is no
    /// such device.
    pub fn with_endpoint<R>(&self, function: FunctionId, act: impl FnOnce(&mut Endpoint) -> R) -> Option<R> {
        self.board().pci().with_endpoint(function, act)
    }

    /// Lets `act` look at the end of the link that a root port has. White box; `None` if there is no such
    /// port.
    pub fn with_root_port<R>(&self, root_port: FunctionId, act: impl FnOnce(&mut Port) -> R) -> Option<R> {
        self.board().pci().with_port(root_port, act)
    }

    /// Who looks at what devices say from now on; nobody with `None`.
    pub fn observe_devices(&self, observer: Option<Arc<dyn DeviceObserver>>) {
        *self.board().pci().observer.write() = observer;
    }

    /// Somebody on the link below a root port does something to a packet.
    pub fn attack_link(&self, root_port: FunctionId, attack: LinkAttack) -> Result<(), DeviceError> {
        self.with_slot(root_port, |slot, _| slot.attack(attack)).ok_or(DeviceError::NoRootPort(root_port))
    }

    /// Whether the packets on a link are kept to look at, the newest 4096 of them.
    pub fn watch_link(&self, root_port: FunctionId, on: bool) {
        self.with_slot(root_port, |slot, _| slot.watch(on));
    }

    /// The packets that a watched link has carried since the last look, as they were sent.
    pub fn watched_packets(&self, root_port: FunctionId) -> Vec<(LinkDirection, Packet)> {
        self.with_slot(root_port, |slot, _| slot.watched()).unwrap_or_default()
    }

    /// How much a link has carried since power-on.
    pub fn link_traffic(&self, root_port: FunctionId) -> Option<LinkTraffic> {
        self.with_slot(root_port, |slot, _| slot.traffic())
    }

    fn with_slot<R>(
        &self,
        function: FunctionId,
        act: impl FnOnce(&mut MutexGuard<'_, Slot>, &crate::event::EventLog) -> R,
    ) -> Option<R> {
        let pci = self.board().pci();
        let mut slot = pci.slot(function)?.lock();
        Some(act(&mut slot, &pci.events))
    }
}

/// Dwords of an access, and its value where nobody answers.
const fn shape(width: MmioWidth) -> (u16, u64) {
    match width {
        MmioWidth::Dword => (1, 0xffff_ffff),
        MmioWidth::Qword => (2, u64::MAX),
    }
}
