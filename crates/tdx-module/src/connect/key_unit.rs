//! Key configuration units: the registers through which the keys of a root port's streams are set.
//!
//! Source: Root Complex IDE Programming Guide. All registers are dwords.

use std::collections::BTreeSet;

use spdm::ide_km::{Direction, IdeKey, Ifv, KeySet, KeySlot};
use tdx_abi::PhysAddr;

use crate::io::{ConnectHardware, KeyUnitFacts, MmioWidth};

/// Bytes of a stream's registers, of a key slot and of an initialisation vector.
const STREAM_BYTES: u64 = 36;
const KEY_BYTES: u64 = 32;
const IV_BYTES: u64 = 8;
const STREAMS: u64 = 4;
/// Offsets in the registers of a stream.
const CONTROL: u64 = 0;
const TX_CONTROL: u64 = 4;
const TX_STATUS: u64 = 8;
const RX_CONTROL: u64 = 12;
const RX_STATUS: u64 = 16;
const TX_SLOTS: [u64; 2] = [20, 24];
const RX_SLOTS: [u64; 2] = [28, 32];
/// Stream control.
const ENABLE: u32 = 1;
const STREAM_ID_SHIFT: u32 = 24;
/// Tx control: key set that is sent with.
const SELECT: u32 = 3;
/// Tx and Rx control, by key set.
const PRIME: [u32; 2] = [1 << 8, 1 << 16];
/// Tx and Rx status, by key set.
const READY: [u32; 2] = [1 << 8, 1 << 9];

/// Key slots that a stream has per direction: three sub-streams in each of two sets.
pub(crate) const SLOTS: usize = 6;

/// The slots of one stream. Both sets have their own for as long as the stream lives: a refresh never has
/// to look for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotSet {
    pub(crate) tx: [u16; SLOTS],
    pub(crate) rx: [u16; SLOTS],
}

impl SlotSet {
    /// No slot is there twice.
    pub(crate) fn is_sound(&self) -> bool {
        let sound = |slots: &[u16; SLOTS]| slots.iter().collect::<BTreeSet<_>>().len() == SLOTS;
        sound(&self.tx) && sound(&self.rx)
    }

    /// A slot is in both sets.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        let meet = |one: &[u16; SLOTS], other: &[u16; SLOTS]| one.iter().any(|slot| other.contains(slot));
        meet(&self.tx, &other.tx) || meet(&self.rx, &other.rx)
    }

    /// By place in the set: set 0 first.
    fn of(&self, direction: Direction) -> &[u16; SLOTS] {
        match direction {
            Direction::Tx => &self.tx,
            Direction::Rx => &self.rx,
        }
    }

    /// The slot of a key, as the root port sees its direction.
    fn slot(&self, key: KeySlot) -> Option<u16> {
        let place = key.set as usize * 3 + key.sub_stream as usize;
        self.of(key.direction).get(place).copied()
    }
}

/// A unit with its figures.
#[derive(Clone, Copy)]
pub(crate) struct KeyUnit<'a> {
    io: &'a dyn ConnectHardware,
    base: PhysAddr,
    pub(crate) streams: u16,
    pub(crate) tx_slots: u16,
    pub(crate) rx_slots: u16,
}

impl<'a> KeyUnit<'a> {
    /// `None` if its registers do not hold what its capability register says.
    pub(crate) fn new(io: &'a dyn ConnectHardware, facts: &KeyUnitFacts) -> Option<Self> {
        let base = facts.registers.start();
        let capability = io.mmio_read(base, MmioWidth::Dword);
        let count = |shift: u32, mask: u64| u16::try_from((capability >> shift & mask) + 1).ok();
        let unit = Self {
            io,
            base,
            streams: count(0, 0x1FF)?,
            tx_slots: count(10, 0x3FF)?,
            rx_slots: count(20, 0x3FF)?,
        };
        (unit.rx_ivs() + IV_BYTES * u64::from(unit.rx_slots) <= facts.registers.size()).then_some(unit)
    }

    /// Whether there are such a stream and such slots.
    pub(crate) fn has(&self, number: u16, slots: &SlotSet) -> bool {
        number < self.streams
            && slots.tx.iter().all(|&slot| slot < self.tx_slots)
            && slots.rx.iter().all(|&slot| slot < self.rx_slots)
    }

    fn tx_keys(&self) -> u64 {
        STREAMS + STREAM_BYTES * u64::from(self.streams)
    }

    fn tx_ivs(&self) -> u64 {
        self.tx_keys() + KEY_BYTES * u64::from(self.tx_slots)
    }

    fn rx_keys(&self) -> u64 {
        self.tx_ivs() + IV_BYTES * u64::from(self.tx_slots)
    }

    fn rx_ivs(&self) -> u64 {
        self.rx_keys() + KEY_BYTES * u64::from(self.rx_slots)
    }

    fn read(&self, offset: u64) -> u32 {
        let value = self.base.checked_add(offset).map(|pa| self.io.mmio_read(pa, MmioWidth::Dword));
        // The upper half of a dword read is nothing.
        value.map_or(u32::MAX, |value| u32::try_from(value & 0xFFFF_FFFF).unwrap_or(u32::MAX))
    }

    fn write(&self, offset: u64, value: u32) {
        if let Some(pa) = self.base.checked_add(offset) {
            self.io.mmio_write(pa, MmioWidth::Dword, value.into());
        }
    }

    /// Bytes, a whole number of dwords, to the front of which the lowest address belongs.
    fn write_bytes(&self, offset: u64, bytes: &[u8]) {
        let (dwords, _) = bytes.as_chunks();
        for (at, dword) in (offset..).step_by(4).zip(dwords) {
            self.write(at, u32::from_le_bytes(*dword));
        }
    }

    /// The registers of one stream.
    pub(crate) fn stream(&self, number: u16, slots: SlotSet) -> KeyUnitStream<'a> {
        let at = STREAMS + STREAM_BYTES * u64::from(number);
        KeyUnitStream { unit: *self, at, slots }
    }
}

/// One stream of a unit.
#[derive(Clone, Copy)]
pub(crate) struct KeyUnitStream<'a> {
    unit: KeyUnit<'a>,
    at: u64,
    slots: SlotSet,
}

impl KeyUnitStream<'_> {
    fn read(&self, register: u64) -> u32 {
        self.unit.read(self.at + register)
    }

    fn write(&self, register: u64, value: u32) {
        self.unit.write(self.at + register, value);
    }

    /// Names the stream, disabled or enabled.
    pub(crate) fn set_enabled(&self, stream_id: u8, enabled: bool) {
        let enable = if enabled { ENABLE } else { 0 };
        self.write(CONTROL, u32::from(stream_id) << STREAM_ID_SHIFT | enable);
    }

    /// Says which slots hold the keys of a set.
    pub(crate) fn assign(&self, set: KeySet) {
        let packed = |slots: &[u16; SLOTS]| {
            let of_set = slots.iter().skip(set as usize * 3).take(3);
            of_set.zip([0, 10, 20]).fold(0, |register, (&slot, shift)| register | u32::from(slot) << shift)
        };
        for (registers, slots) in [(TX_SLOTS, &self.slots.tx), (RX_SLOTS, &self.slots.rx)] {
            if let Some(&register) = registers.get(set as usize) {
                self.write(register, packed(slots));
            }
        }
    }

    /// Puts a key into its slot. `key_slot` as the root port sees it.
    pub(crate) fn set_key(&self, key_slot: KeySlot, key: &IdeKey) {
        self.fill(key_slot, &*key.to_root_port_slot(), Ifv::INITIAL.0);
    }

    fn fill(&self, key_slot: KeySlot, key: &[u8], ifv: u64) {
        let Some(slot) = self.slots.slot(key_slot).map(u64::from) else { return };
        let (keys, ivs) = match key_slot.direction {
            Direction::Tx => (self.unit.tx_keys(), self.unit.tx_ivs()),
            Direction::Rx => (self.unit.rx_keys(), self.unit.rx_ivs()),
        };
        self.unit.write_bytes(keys + KEY_BYTES * slot, key);
        self.unit.write_bytes(ivs + IV_BYTES * slot, &ifv.to_le_bytes());
    }

    /// Loads the keys of a set in both directions.
    pub(crate) fn prime(&self, set: KeySet) {
        let bit = PRIME.get(set as usize).copied().unwrap_or_default();
        for register in [TX_CONTROL, RX_CONTROL] {
            self.write(register, self.read(register) | bit);
        }
    }

    /// Sends with a set from now on.
    pub(crate) fn select(&self, set: KeySet) {
        self.write(TX_CONTROL, self.read(TX_CONTROL) & !SELECT | (set as u32 + 1));
    }

    /// Whether the keys of a set are loaded in both directions.
    pub(crate) fn is_ready(&self, set: KeySet) -> bool {
        let bit = READY.get(set as usize).copied().unwrap_or_default();
        [TX_STATUS, RX_STATUS].into_iter().all(|register| self.read(register) & bit != 0)
    }

    /// Disables the stream and wipes its keys; the stream keeps its id.
    pub(crate) fn stop(&self, stream_id: u8) {
        self.set_enabled(stream_id, false);
        self.write(TX_CONTROL, 0);
        self.write(RX_CONTROL, 0);
        for slot in KeySet::ALL.into_iter().flat_map(KeySlot::of_set) {
            self.fill(slot, &[0; IdeKey::SIZE], 0);
        }
    }

    /// Wipes everything.
    pub(crate) fn clear(&self) {
        self.stop(0);
        for register in TX_SLOTS.into_iter().chain(RX_SLOTS) {
            self.write(register, 0);
        }
    }
}
