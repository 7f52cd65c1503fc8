//! A unit with two root ports, seen through its registers.

mod keys;
mod model;

use std::collections::BTreeMap;

use parking_lot::Mutex;
use pcie::{Bdf, Segment};
use spdm::ide_km::{IdeKey, Ifv};

use super::*;
use crate::ide::{Association, MaxPayload, StreamSettings, StreamState};

/// Streams of the unit.
const STREAMS: u16 = 2;
const SLOTS: u32 = 12;
const TX_KEYS: u32 = 4 + 36 * STREAMS as u32;
const TX_IVS: u32 = TX_KEYS + 32 * SLOTS;
const RX_KEYS: u32 = TX_IVS + 8 * SLOTS;
const RX_IVS: u32 = RX_KEYS + 32 * SLOTS;
const ID: StreamId = StreamId(3);
const OTHER: StreamId = StreamId(9);

/// Registers of the first block.
const CONTROL: u32 = 4;
const TX_CONTROL: u32 = CONTROL + 4;
const TX_STATUS: u32 = CONTROL + 8;
const RX_CONTROL: u32 = CONTROL + 12;
const RX_STATUS: u32 = CONTROL + 16;
const TX_SLOTS: u32 = CONTROL + 20;
const RX_SLOTS: u32 = CONTROL + 28;
const BLOCK: u32 = 36;

const PRIME_0: u64 = 1 << 8;
const PRIME_1: u64 = 1 << 16;
const READY_0: u64 = 1 << 8;
const READY_1: u64 = 1 << 9;

/// Root ports with one stream each, stream 3 below the first and stream 9 below the second.
struct Bench {
    unit: KeyUnit,
    ports: RootPorts,
}

struct RootPorts(Mutex<BTreeMap<FunctionId, Port>>);

impl Ports for RootPorts {
    fn with_port(&self, root_port: FunctionId, act: &mut dyn FnMut(&mut Port)) {
        self.0.lock().get_mut(&root_port).into_iter().for_each(act);
    }
}

fn root_port(number: u8) -> FunctionId {
    FunctionId::new(Segment(0), Bdf::new(0x10, number, 0).unwrap())
}

fn port(id: StreamId) -> Port {
    let mut port = Port::new(MaxPayload::MAX);
    port.add(StreamSettings { id, association: Association::EVERYBODY });
    port
}

/// The key of a slot; never zero.
fn key(slot: KeySlot, round: u8) -> IdeKey {
    let mut bytes = [0x11; 32];
    bytes[0] = u8::try_from(slot.index()).unwrap();
    bytes[31] = round;
    IdeKey::new(bytes)
}

/// Which slot of the unit a key is put into.
fn place(slot: KeySlot) -> u32 {
    slot.set as u32 * 3 + u32::from(slot.sub_stream.number())
}

impl Bench {
    fn new() -> Self {
        let ports =
            RootPorts(Mutex::new(BTreeMap::from([(root_port(1), port(ID)), (root_port(2), port(OTHER))])));
        let unit = KeyUnit::new(Layout::new(STREAMS), vec![root_port(1), root_port(2)], false);
        Self { unit, ports }
    }

    fn read(&self, offset: u32) -> u64 {
        self.unit.read(offset, MmioWidth::Dword, &self.ports)
    }

    fn write(&self, offset: u32, value: u64) {
        self.unit.write(offset, MmioWidth::Dword, value, &self.ports);
    }

    fn stream<R>(&self, number: u8, id: StreamId, act: impl FnOnce(&mut Stream) -> R) -> R {
        act(self.ports.0.lock().get_mut(&root_port(number)).unwrap().stream_mut(id).unwrap())
    }

    fn is_secure(&self) -> bool {
        self.stream(1, ID, |stream| stream.status().state == StreamState::Secure)
    }

    /// Names the slots of a set, as `place` has them.
    fn name_slots(&self, set: KeySet) {
        let first = set as u32 * 3;
        let indices = u64::from(first | (first + 1) << 10 | (first + 2) << 20);
        self.write(TX_SLOTS + set as u32 * 4, indices);
        self.write(RX_SLOTS + set as u32 * 4, indices);
    }

    /// Puts a key into its slot, the bytes in the order of a root port.
    fn put(&self, slot: KeySlot, key: &IdeKey) {
        let (keys, ivs) = match slot.direction {
            Direction::Tx => (TX_KEYS, TX_IVS),
            Direction::Rx => (RX_KEYS, RX_IVS),
        };
        let bytes = key.to_root_port_slot();
        for (dword, value) in (0..).zip(bytes.as_chunks::<4>().0) {
            self.write(keys + place(slot) * 32 + dword * 4, u32::from_le_bytes(*value).into());
        }
        self.write(ivs + place(slot) * 8, 1);
        self.write(ivs + place(slot) * 8 + 4, 0);
    }

    fn put_all(&self, set: KeySet, round: u8) {
        self.name_slots(set);
        for slot in KeySlot::of_set(set) {
            self.put(slot, &key(slot, round));
        }
    }

    fn prime(&self, bit: u64) {
        let select = self.read(TX_CONTROL);
        self.write(TX_CONTROL, select | bit);
        self.write(RX_CONTROL, bit);
    }

    /// Everything that makes the stream secure.
    fn set_up(&self) {
        self.write(CONTROL, u64::from(ID.0) << 24);
        self.put_all(KeySet::K0, 0);
        self.prime(PRIME_0);
        self.write(TX_CONTROL, 1);
        self.write(CONTROL, u64::from(ID.0) << 24 | 1);
        self.stream(1, ID, |stream| stream.set_enabled(true));
    }
}

/// The device's end, with the same keys.
fn device_end(set: KeySet, round: u8) -> Port {
    let mut device = port(ID);
    let stream = device.stream_mut(ID).unwrap();
    stream.set_enabled(true);
    for slot in KeySlot::of_set(set) {
        let there = slot.at_the_other_end();
        stream.program(there, &key(slot, round), Ifv::INITIAL).unwrap();
        stream.go(there).unwrap();
    }
    device
}
