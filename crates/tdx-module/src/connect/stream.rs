//! IDE streams of root ports: what each has of the port and of its key unit.
//!
//! What a stream has does not change while it lives, so that whoever looks for room reads it without the
//! stream's lock. Only its state changes, with the lock held.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use arc_swap::ArcSwap;
use pcie::FunctionId;
use pcie::ide::{AddressAssociation, RidAssociation, StreamBlock, StreamControl};
use spdm::ide_km::KeySet;
use tdx_abi::PhysAddr;
use tdx_abi::connect::ids::{RootPortBlock, SpdmId};
use tdx_abi::status::{OperandId, StatusCode};

use super::key_unit::{KeyUnit, KeyUnitStream, SlotSet};
use super::root_port::RootPort;
use crate::call::{Call, Exit};
use crate::hardware::LockName;
use crate::lock::{MutexGuard, TryMutex};

/// Which stream: place of its unit in the table, and stream id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StreamKey {
    pub(crate) unit: u16,
    pub(crate) id: u8,
}

/// State of a stream that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamState {
    /// Its registers are set; it has no keys.
    Configured,
    /// It has keys at both ends.
    Secure,
    /// Its registers are cleared for good.
    Blocked,
}

impl StreamState {
    pub(crate) const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Configured),
            1 => Some(Self::Secure),
            2 => Some(Self::Blocked),
            _ => None,
        }
    }
}

/// What a stream has, from CREATE to DELETE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StreamFacts {
    pub(crate) key: StreamKey,
    pub(crate) session: SpdmId,
    pub(crate) port: FunctionId,
    pub(crate) block: RootPortBlock,
    /// Place of the key unit among those of the VT-d unit, and of the stream in it.
    pub(crate) key_unit: u16,
    pub(crate) number: u16,
    pub(crate) slots: SlotSet,
    pub(crate) rid: RidAssociation,
    pub(crate) addresses: Option<AddressAssociation>,
    /// As the root port has it, disabled.
    pub(crate) control: StreamControl,
    pub(crate) pages: Vec<PhysAddr>,
}

/// A stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) facts: StreamFacts,
    lock: TryMutex,
    state: AtomicU8,
    /// The set in use, once there is one.
    set: AtomicU8,
    /// A refresh ended in the middle: one end uses keys that the other may have lost.
    torn: AtomicBool,
}

impl Stream {
    pub(crate) fn new(facts: StreamFacts) -> Arc<Self> {
        Self::restored(facts, StreamState::Configured, KeySet::K0, false)
    }

    pub(crate) fn restored(facts: StreamFacts, state: StreamState, set: KeySet, torn: bool) -> Arc<Self> {
        Arc::new(Self {
            facts,
            lock: TryMutex::default(),
            state: AtomicU8::new(state as u8),
            set: AtomicU8::new(set as u8),
            torn: AtomicBool::new(torn),
        })
    }

    pub(crate) fn state(&self) -> StreamState {
        StreamState::from_number(self.state.load(Ordering::Acquire)).unwrap_or(StreamState::Blocked)
    }

    pub(crate) fn set_state(&self, state: StreamState) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// The set in use.
    pub(crate) fn set(&self) -> KeySet {
        if self.set.load(Ordering::Acquire) == KeySet::K0 as u8 { KeySet::K0 } else { KeySet::K1 }
    }

    pub(crate) fn use_set(&self, set: KeySet) {
        self.set.store(set as u8, Ordering::Release);
    }

    pub(crate) fn is_torn(&self) -> bool {
        self.torn.load(Ordering::Acquire)
    }

    pub(crate) fn set_torn(&self, torn: bool) {
        self.torn.store(torn, Ordering::Release);
    }

    /// Something that one stream of a unit has, the other has, too.
    pub(crate) fn collides(&self, other: &StreamFacts) -> bool {
        let one = &self.facts;
        let keys =
            one.key_unit == other.key_unit && (one.number == other.number || one.slots.meets(&other.slots));
        keys || one.port == other.port && one.block == other.block
    }

    /// No traffic can be in it.
    fn is_blocked(&self) -> bool {
        self.state() == StreamState::Blocked
    }
}

/// The streams of all units.
#[derive(Debug, Default)]
pub(crate) struct StreamTable(ArcSwap<BTreeMap<StreamKey, Arc<Stream>>>);

impl StreamTable {
    pub(crate) fn get(&self, key: StreamKey) -> Option<Arc<Stream>> {
        self.0.load().get(&key).cloned()
    }

    pub(crate) fn of_unit(&self, unit: u16) -> Vec<Arc<Stream>> {
        let all = self.0.load();
        let range = StreamKey { unit, id: 0 }..=StreamKey { unit, id: u8::MAX };
        all.range(range).map(|(_, stream)| Arc::clone(stream)).collect()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Stream>> {
        self.0.load().values().cloned().collect()
    }

    /// The caller holds the lock of the unit.
    pub(crate) fn insert(&self, stream: &Arc<Stream>) {
        self.0.rcu(|streams| {
            let mut streams = BTreeMap::clone(streams);
            streams.insert(stream.facts.key, Arc::clone(stream));
            streams
        });
    }

    /// The same.
    pub(crate) fn remove(&self, key: StreamKey) {
        self.0.rcu(|streams| {
            let mut streams = BTreeMap::clone(streams);
            streams.remove(&key);
            streams
        });
    }
}

/// Whether two streams of one port would have requests in common.
pub(crate) fn rid_overlap(stream: &Stream, rid: RidAssociation) -> bool {
    let (other, ours) = (stream.facts.rid, rid);
    !stream.is_blocked() && other.first() <= ours.last() && ours.first() <= other.last()
}

/// The same for addresses.
pub(crate) fn address_overlap(stream: &Stream, addresses: AddressAssociation) -> bool {
    !stream.is_blocked()
        && stream
            .facts
            .addresses
            .is_some_and(|other| other.first() <= addresses.last() && addresses.first() <= other.last())
}

/// The hardware of a stream.
pub(crate) struct StreamHardware<'a> {
    pub(crate) port: RootPort<'a>,
    pub(crate) block: StreamBlock,
    pub(crate) keys: KeyUnitStream<'a>,
    id: u8,
    control: StreamControl,
}

impl<'a> StreamHardware<'a> {
    /// `None` if hardware that was there when the stream was made does not answer any more.
    pub(crate) fn of(call: &Call<'a>, facts: &StreamFacts) -> Result<Option<Self>, Exit> {
        let (connect, io) = (call.connect()?, call.io()?);
        let unit = connect.units.iter().find(|unit| unit.index() == facts.key.unit);
        let key_unit = unit.and_then(|unit| unit.facts().key_units.get(usize::from(facts.key_unit)));
        let has_room = |unit: &KeyUnit<'_>| unit.has(facts.number, &facts.slots);
        let key_unit = key_unit.and_then(|key_unit| KeyUnit::new(io, key_unit)).filter(has_room);
        let Some(key_unit) = key_unit else { return Ok(None) };
        let port = RootPort::new(io, facts.port);
        let Some(block) = port.block(facts.block) else { return Ok(None) };
        Ok(Some(Self {
            port,
            block,
            keys: key_unit.stream(facts.number, facts.slots),
            id: facts.key.id,
            control: facts.control,
        }))
    }

    /// Lets both the key unit and the port use the stream.
    pub(crate) fn enable(&self) {
        self.keys.set_enabled(self.id, true);
        self.port.set_control(self.block, self.control.with_enable(true));
    }

    /// The port lets nothing secure through any more, and the key unit lets go of the keys.
    pub(crate) fn disable(&self) {
        self.port.set_control(self.block, self.control);
        self.keys.stop(self.id);
    }

    /// Nothing of the stream is left.
    pub(crate) fn clear(&self) {
        self.port.clear(self.block);
        self.keys.clear();
    }
}

impl Call<'_> {
    /// The lock of a stream, or OPERAND_BUSY with the operand that names it.
    pub(crate) fn lock_stream<'s>(
        &self,
        stream: &'s Stream,
        operand: OperandId,
    ) -> Result<MutexGuard<'s>, Exit> {
        let busy = || Exit::from(StatusCode::OPERAND_BUSY.with_operand(operand));
        if self.hw.contended(self.lp, LockName::Stream) {
            return Err(busy());
        }
        stream.lock.try_lock().ok_or_else(busy)
    }
}
