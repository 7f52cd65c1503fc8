//! Key configuration units: where SEAM software puts the IDE keys of root ports.
//!
//! A unit has a block of registers for each stream, and slots for keys and IVs. Priming a set of a stream
//! takes the keys out of the slots that the block names; once the block is enabled they go on to the
//! [`Port`] of the root port whose selective stream has the block's stream id, and never come back.
//!
//! | register of a block | bits |
//! |---|---|
//! | control | enable 0, stream id 31:24 |
//! | Tx control | key set 1:0 (0 none, 1 set 0, 2 set 1), prime set 0 8, prime set 1 16 |
//! | Tx status | set that is sent with 1:0, set 0 ready 8, set 1 ready 9 |
//! | Rx control | prime set 0 8, prime set 1 16 |
//! | Rx status | last set received: posted 1:0, non-posted 3:2, completions 5:4; ready 8, 9 |
//! | slots of Tx set 0, Tx set 1, Rx set 0, Rx set 1 | posted 9:0, non-posted 19:10, completions 29:20 |
//!
//! Source: what is public of Intel's Root Complex IDE programming guide. Of the behaviour it leaves open:
//! prime bits read as 0 and act when 1 is written; a slot is empty once its key was taken, so that no key
//! is used twice; the stream id of an enabled block does not change, and no two enabled blocks have the
//! same; a set is ready while all three sub-streams have a key of it.

mod layout;
mod slots;
#[cfg(test)]
mod tests;

use parking_lot::Mutex;
use pcie::FunctionId;
use spdm::ide_km::{Direction, KeySet, KeySlot, StreamId, SubStream};
use tdx_module::io::MmioWidth;

use crate::ide::{Port, Stream};
pub(crate) use layout::Layout;
use layout::{BlockRegister, Register};
use slots::{Loaded, Slots};

const ENABLE: u32 = 1;
const STREAM_ID_SHIFT: u32 = 24;
const STREAM_ID: u32 = 0xFF << STREAM_ID_SHIFT;
/// Key set select in the Tx control register.
const SELECT: u32 = 0b11;
/// Prime bits of set 0 and set 1.
const PRIME: [u32; 2] = [1 << 8, 1 << 16];
/// Ready bits of set 0 and set 1.
const READY: [u32; 2] = [1 << 8, 1 << 9];
/// An index of a slot.
const INDEX: u32 = 0x3FF;
const INDEX_BITS: u32 = 10;
/// The three indices.
const INDICES: u32 = (1 << (3 * INDEX_BITS)) - 1;

/// The root ports' ends of their links.
pub(crate) trait Ports {
    /// Shows the end of a root port, if there is such a port.
    fn with_port(&self, root_port: FunctionId, act: &mut dyn FnMut(&mut Port));
}

/// Keys that were primed and did not go on to the port yet: by direction, set, sub-stream.
type Primed = [[[Option<Loaded>; 3]; 2]; 2];

/// The registers of a stream.
#[derive(Default)]
struct Block {
    control: u32,
    select: u32,
    /// By direction and set.
    indices: [[u32; 2]; 2],
    primed: Primed,
}

const fn slot(set: KeySet, direction: Direction, sub_stream: SubStream) -> KeySlot {
    KeySlot { set, direction, sub_stream }
}

/// The field of a set in select and status fields.
const fn set_code(set: KeySet) -> u32 {
    match set {
        KeySet::K0 => 1,
        KeySet::K1 => 2,
    }
}

impl Block {
    const fn is_enabled(&self) -> bool {
        self.control & ENABLE != 0
    }

    const fn stream(&self) -> StreamId {
        let [.., id] = self.control.to_le_bytes();
        StreamId(id)
    }

    fn selected(&self) -> Option<KeySet> {
        KeySet::ALL.into_iter().find(|set| set_code(*set) == self.select)
    }

    fn prime(&mut self, direction: Direction, set: KeySet, slots: &mut Slots) {
        let indices = self.indices[direction as usize][set as usize];
        for sub_stream in SubStream::ALL {
            let index = indices >> (u32::from(sub_stream.number()) * INDEX_BITS) & INDEX;
            // An index has 10 bits.
            if let Some(loaded) = slots.take(index as u16) {
                self.primed[direction as usize][set as usize][sub_stream as usize] = Some(loaded);
            }
        }
    }

    /// Whether every sub-stream of a set has a key, here or at the port.
    fn is_ready(&self, direction: Direction, set: KeySet, stream: Option<&Stream>) -> bool {
        SubStream::ALL.into_iter().all(|sub_stream| {
            let waits = self.primed[direction as usize][set as usize][sub_stream as usize].is_some();
            waits || stream.is_some_and(|stream| stream.has_key(slot(set, direction, sub_stream)))
        })
    }

    /// Gives whole sets on to the port and uses what is to be used. Nothing of a set that lacks a key.
    fn give_on(&mut self, stream: &mut Stream) {
        for direction in Direction::ALL {
            for set in KeySet::ALL {
                let primed = &mut self.primed[direction as usize][set as usize];
                if primed.iter().any(Option::is_none) {
                    continue;
                }
                for (sub_stream, loaded) in SubStream::ALL.into_iter().zip(primed) {
                    let slot = slot(set, direction, sub_stream);
                    let Some(Loaded { key, ifv }) = loaded.take() else { continue };
                    // A port that refuses a key has none, which the ready bit tells.
                    let refused = stream.program(slot, &key, ifv).is_err();
                    if !refused && direction == Direction::Rx {
                        // What arrives says which set it was sealed with: a set is taken from now on.
                        let _ = stream.go(slot);
                    }
                }
            }
        }
        let Some(set) = self.selected() else { return };
        let is_whole =
            SubStream::ALL.into_iter().all(|sub_stream| stream.has_key(slot(set, Direction::Tx, sub_stream)));
        for sub_stream in SubStream::ALL.into_iter().filter(|_| is_whole) {
            if stream.sends_with(sub_stream) != Some(set) {
                // The key is there: it was looked for above.
                let _ = stream.go(slot(set, Direction::Tx, sub_stream));
            }
        }
    }

    /// Key set select: 0 and 3 are no set, and nothing is sent then.
    fn select(&mut self, code: u32, stream: Option<&mut Stream>) {
        let before = self.selected();
        self.select = code;
        if let (Some(set), None, Some(stream)) = (before, self.selected(), stream) {
            for sub_stream in SubStream::ALL {
                stream.stop(slot(set, Direction::Tx, sub_stream));
            }
        }
    }

    /// Everything that the block knows of keys is gone, here and at the port.
    fn forget(&mut self, stream: Option<&mut Stream>) {
        self.primed = Primed::default();
        if let Some(stream) = stream {
            for slot in KeySet::ALL.into_iter().flat_map(KeySlot::of_set) {
                stream.stop(slot);
            }
        }
    }

    fn tx_status(stream: Option<&Stream>) -> u32 {
        let with = |set| {
            SubStream::ALL
                .into_iter()
                .all(|sub_stream| stream.is_some_and(|stream| stream.sends_with(sub_stream) == Some(set)))
        };
        KeySet::ALL.into_iter().find(|set| with(*set)).map_or(0, set_code)
    }

    fn rx_status(stream: Option<&Stream>) -> u32 {
        let last =
            |sub_stream| stream.and_then(|stream| stream.last_received(sub_stream)).map_or(0, set_code);
        let fields = SubStream::ALL.map(|sub_stream| last(sub_stream) << (2 * sub_stream.number()));
        fields.into_iter().fold(0, |all, field| all | field)
    }

    fn status(&self, direction: Direction, stream: Option<&Stream>) -> u32 {
        let ready = KeySet::ALL.into_iter().filter(|set| self.is_ready(direction, *set, stream));
        let in_use = match direction {
            Direction::Tx => Self::tx_status(stream),
            Direction::Rx => Self::rx_status(stream),
        };
        ready.fold(in_use, |status, set| status | READY[set as usize])
    }
}

struct State {
    blocks: Box<[Block]>,
    /// By direction.
    slots: [Slots; 2],
}

impl State {
    fn new(layout: Layout, left_enabled: bool) -> Self {
        let mut blocks: Box<[Block]> = (0..layout.streams()).map(|_| Block::default()).collect();
        if let Some(first) = blocks.first_mut().filter(|_| left_enabled) {
            first.control = ENABLE | 1 << STREAM_ID_SHIFT;
        }
        Self { blocks, slots: [Slots::new(layout.slots()), Slots::new(layout.slots())] }
    }
}

/// A key configuration unit.
pub(crate) struct KeyUnit {
    layout: Layout,
    root_ports: Vec<FunctionId>,
    state: Mutex<State>,
}

impl KeyUnit {
    pub(crate) fn new(layout: Layout, root_ports: Vec<FunctionId>, left_enabled: bool) -> Self {
        Self { layout, root_ports, state: Mutex::new(State::new(layout, left_enabled)) }
    }

    /// Power is cycled. Somebody may have left the first block enabled, without keys.
    pub(crate) fn reset(&self, left_enabled: bool) {
        *self.state.lock() = State::new(self.layout, left_enabled);
    }

    /// Somebody leaves the first block enabled, without keys.
    pub(crate) fn leave_enabled(&self) {
        if let Some(first) = self.state.lock().blocks.first_mut() {
            first.control = ENABLE | 1 << STREAM_ID_SHIFT;
        }
    }

    /// Shows the stream of an enabled block at its root port, if it is there.
    fn with_stream(
        &self,
        block: &mut Block,
        ports: &dyn Ports,
        mut act: impl FnMut(&mut Block, Option<&mut Stream>),
    ) {
        let (id, enabled) = (block.stream(), block.is_enabled());
        let mut found = false;
        for &root_port in self.root_ports.iter().filter(|_| enabled) {
            ports.with_port(root_port, &mut |port| {
                if let Some(stream) = port.stream_mut(id).filter(|_| !found) {
                    act(block, Some(stream));
                    found = true;
                }
            });
        }
        if !found {
            act(block, None);
        }
    }

    /// Reads at an offset from the base that is a multiple of the width.
    pub(crate) fn read(&self, offset: u32, width: MmioWidth, ports: &dyn Ports) -> u64 {
        let low = u64::from(self.read_dword(offset, ports));
        match width {
            MmioWidth::Dword => low,
            MmioWidth::Qword => u64::from(self.read_dword(offset.saturating_add(4), ports)) << 32 | low,
        }
    }

    fn read_dword(&self, offset: u32, ports: &dyn Ports) -> u32 {
        let (index, register) = match self.layout.find(offset) {
            Some(Register::Capability) => return self.layout.capability(),
            Some(Register::Block(index, register)) => (index, register),
            // Keys and IVs can only be written.
            Some(Register::Key(..) | Register::Iv(..)) | None => return 0,
        };
        let mut state = self.state.lock();
        let Some(block) = state.blocks.get_mut(index) else { return 0 };
        match register {
            BlockRegister::Control => block.control,
            BlockRegister::Keys(Direction::Tx) => block.select,
            BlockRegister::Keys(Direction::Rx) => 0,
            BlockRegister::Status(direction) => {
                let mut status = 0;
                self.with_stream(block, ports, |block, stream| {
                    status = block.status(direction, stream.as_deref());
                });
                status
            }
            BlockRegister::Slots(direction, set) => block.indices[direction as usize][set],
        }
    }

    /// Writes at an offset from the base that is a multiple of the width.
    pub(crate) fn write(&self, offset: u32, width: MmioWidth, value: u64, ports: &dyn Ports) {
        self.write_dword(offset, (value & 0xFFFF_FFFF) as u32, ports);
        if width == MmioWidth::Qword {
            self.write_dword(offset.saturating_add(4), (value >> 32) as u32, ports);
        }
    }

    fn write_dword(&self, offset: u32, value: u32, ports: &dyn Ports) {
        let mut state = self.state.lock();
        let State { blocks, slots } = &mut *state;
        let (index, register) = match self.layout.find(offset) {
            Some(Register::Block(index, register)) => (index, register),
            Some(Register::Key(direction, dword)) => {
                return slots[direction as usize].write_key(dword, value);
            }
            Some(Register::Iv(direction, dword)) => return slots[direction as usize].write_iv(dword, value),
            Some(Register::Capability) | None => return,
        };
        if register == BlockRegister::Control {
            let taken = value & ENABLE != 0
                && blocks.iter().enumerate().any(|(other, block)| {
                    other != index && block.is_enabled() && (block.control ^ value) & STREAM_ID == 0
                });
            if let Some(block) = blocks.get_mut(index) {
                self.control(block, if taken { value & !ENABLE } else { value }, ports);
            }
            return;
        }
        let Some(block) = blocks.get_mut(index) else { return };
        match register {
            BlockRegister::Control | BlockRegister::Status(_) => return,
            BlockRegister::Keys(direction) => {
                for set in KeySet::ALL.into_iter().filter(|set| value & PRIME[*set as usize] != 0) {
                    block.prime(direction, set, &mut slots[direction as usize]);
                }
                if direction == Direction::Tx {
                    self.with_stream(block, ports, |block, stream| block.select(value & SELECT, stream));
                }
            }
            BlockRegister::Slots(direction, set) => {
                block.indices[direction as usize][set] = value & INDICES;
            }
        }
        self.give_on(block, ports);
    }

    fn control(&self, block: &mut Block, value: u32, ports: &dyn Ports) {
        if block.is_enabled() {
            // The id stays, so the keys are where they were given on to.
            if value & ENABLE == 0 {
                self.with_stream(block, ports, Block::forget);
                block.control &= !ENABLE;
            }
            return;
        }
        block.control = value & (ENABLE | STREAM_ID);
        self.give_on(block, ports);
    }

    /// Gives keys on that were primed, now that the stream is there and the block enabled.
    fn give_on(&self, block: &mut Block, ports: &dyn Ports) {
        self.with_stream(block, ports, |block, stream| {
            if let Some(stream) = stream {
                block.give_on(stream);
            }
        });
    }
}
