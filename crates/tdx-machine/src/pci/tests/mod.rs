//! A machine with devices.

mod attacks;
mod devices;
mod hot_plug;
mod mailbox;
mod streams;

use pcie::config::{ReadConfig, Width, offset};
use pcie::ide::{AddressAssociation, Ide, RidAssociation, StreamBlock, StreamControl, StreamState};
use pcie::{Bdf, BusAddress, FunctionId, Segment};
use spdm::Kind as Travel;
use spdm::ide_km::{IdeKey, Ifv, KeySet, KeySlot, StreamId};
use tdx_abi::PhysAddr;
use tdx_module::io::MmioWidth;

use super::*;
use crate::endpoint::OutsideError;
use crate::endpoint::mmio::reg;
use crate::{Event, Machine, presets};

/// Root port and function 0 of the first device of the default platform.
pub(super) const PORT: FunctionId = at(0x14, 1);
pub(super) const DEVICE: FunctionId = at(0x15, 0);
pub(super) const STREAM: StreamId = StreamId(5);

pub(super) const fn at(bus: u8, device: u8) -> FunctionId {
    FunctionId::new(Segment(0), Bdf::from_routing_id((bus as u16) << 8 | (device as u16) << 3))
}

pub(super) fn machine() -> Machine {
    let spec = presets::find("default").expect("a preset").spec().expect("valid");
    Machine::power_on(spec, 1).expect("valid")
}

/// A function's configuration space, as software reads it.
pub(super) struct Config<'a>(pub(super) &'a Machine, pub(super) FunctionId);

impl ReadConfig for Config<'_> {
    fn dword(&self, offset: u16) -> u32 {
        self.0.config_read(self.1, offset, Width::Dword)
    }
}

impl Config<'_> {
    pub(super) fn write(&self, at: u16, value: u32) {
        self.0.config_write(self.1, at, Width::Dword, value);
    }

    /// The first selective stream.
    pub(super) fn block(&self) -> StreamBlock {
        Ide::find(self).and_then(|ide| ide.selective(0)).expect("a port with IDE")
    }

    pub(super) fn state(&self) -> StreamState {
        Ide::find(self).expect("a port with IDE").stream_status(&self.block()).state()
    }

    pub(super) fn fail_message(&self) -> bool {
        Ide::find(self).expect("a port with IDE").stream_status(&self.block()).fail_message()
    }
}

/// A device security manager that nobody asks.
struct Mute;

impl OutsideDsm for Mute {
    fn exchange(&mut self, _: Travel, _: &[u8]) -> Result<(Travel, Vec<u8>), OutsideError> {
        Err(OutsideError::Silent)
    }
}

pub(super) fn key(slot: KeySlot, round: u8) -> IdeKey {
    IdeKey::new([u8::try_from(slot.index()).expect("below 12") ^ round << 4 ^ 0xa5; 32])
}

/// Programs a set at the root port and puts it to use.
pub(super) fn program(machine: &Machine, set: KeySet, round: u8) {
    let programmed = machine.with_root_port(PORT, |port| {
        for slot in KeySlot::of_set(set) {
            port.program(STREAM, slot, &key(slot, round), Ifv::INITIAL).expect("a stream");
            port.go(STREAM, slot).expect("a key");
        }
    });
    assert!(programmed.is_some());
}

/// A stream between root port and device, as the module and the host set one up; the device's keys are
/// those of the root port, as of a device whose security manager is outside.
pub(super) fn secure(machine: &Machine) {
    machine.with_endpoint(DEVICE, |device| device.set_outside(Box::new(Mute))).expect("a device");
    let window = machine.pci_plan().port(PORT).expect("a port").window;
    let (port, device) = (Config(machine, PORT), Config(machine, DEVICE));
    let on = StreamControl::new().with_stream_id(STREAM.0).with_enable(true);
    for (config, first, last) in [
        (&port, DEVICE.bdf, Bdf::from_routing_id(DEVICE.bdf.routing_id() | 0xff)),
        (&device, PORT.bdf, PORT.bdf),
    ] {
        let rid = RidAssociation::new(first, last, 0).expect("ascending").encode();
        let at = config.block().rid().expect("selective");
        config.write(at, rid[0]);
        config.write(at + 4, rid[1]);
    }
    let first = BusAddress(window.start().as_u64());
    let last = BusAddress(window.end().as_u64() - 1);
    let at = port.block().address(0).expect("a block");
    let registers = AddressAssociation::new(first, last).expect("whole MiB").encode();
    for (offset, value) in (0..).step_by(4).zip(registers) {
        port.write(at + offset, value);
    }
    port.write(port.block().control(), on.into_bits());
    program(machine, KeySet::K0, 1);
    device.write(device.block().control(), on.with_default(true).into_bits());
    assert_eq!((port.state(), device.state()), (StreamState::SECURE, StreamState::SECURE));
}

/// A register behind BAR 0 of a function.
pub(super) fn register(machine: &Machine, function: FunctionId, offset: u64) -> PhysAddr {
    let dword = |at| u64::from(machine.config_read(function, at, Width::Dword));
    let bar = dword(offset::BAR + 4) << 32 | dword(offset::BAR) & !0xf;
    PhysAddr::new(bar + offset)
}

pub(super) fn read(machine: &Machine, offset: u64) -> u64 {
    machine.mmio_read(register(machine, DEVICE, offset), MmioWidth::Qword)
}

pub(super) fn write(machine: &Machine, offset: u64, value: u64) {
    machine.mmio_write(register(machine, DEVICE, offset), MmioWidth::Qword, value);
}

/// Sealed and clear packets, both ways together.
pub(super) fn carried(machine: &Machine) -> (u64, u64) {
    let traffic = machine.link_traffic(PORT).expect("a port");
    (traffic.sealed.iter().sum(), traffic.clear.iter().sum())
}

pub(super) const SCRATCH: u64 = reg::SCRATCH;

/// Both ends say that the stream is not secure.
pub(super) fn insecure(machine: &Machine) -> bool {
    let states = [Config(machine, PORT).state(), Config(machine, DEVICE).state()];
    states == [StreamState::INSECURE; 2]
}

pub(super) fn has_failed(machine: &Machine) -> bool {
    machine.log().iter().any(|event| matches!(event, Event::StreamFailed { port: PORT, stream: STREAM, .. }))
}
