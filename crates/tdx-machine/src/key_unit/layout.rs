//! Which register of a key configuration unit is where.

use spdm::ide_km::Direction;
use tdx_abi::addr::PAGE_SIZE;

/// Offset of the first stream block.
const BLOCKS: u32 = 4;
/// Bytes of a stream block.
const BLOCK: u32 = 36;
/// Bytes of a key slot.
pub(crate) const KEY_SLOT: u32 = 32;
/// Bytes of an IV slot.
pub(crate) const IV_SLOT: u32 = 8;
/// Key slots that the capability register can tell, and an index has bits for.
const MAX_SLOTS: u16 = 1024;
/// Slots that a stream needs for one direction, both sets.
const SLOTS_PER_STREAM: u16 = 6;

/// Register of a stream block, by its offset in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockRegister {
    /// Enable and stream id.
    Control,
    /// Tx or Rx: prime, and for Tx the key set.
    Keys(Direction),
    /// Tx or Rx: which sets are ready and in use.
    Status(Direction),
    /// Slots of a direction's key set 0 or 1.
    Slots(Direction, usize),
}

impl BlockRegister {
    const fn at(offset: u32) -> Self {
        match offset {
            0 => Self::Control,
            4 => Self::Keys(Direction::Tx),
            8 => Self::Status(Direction::Tx),
            12 => Self::Keys(Direction::Rx),
            16 => Self::Status(Direction::Rx),
            20 => Self::Slots(Direction::Tx, 0),
            24 => Self::Slots(Direction::Tx, 1),
            28 => Self::Slots(Direction::Rx, 0),
            _ => Self::Slots(Direction::Rx, 1),
        }
    }
}

/// A dword of the unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Register {
    /// What the unit has.
    Capability,
    /// A register of a stream block.
    Block(usize, BlockRegister),
    /// A dword of all key slots of a direction.
    Key(Direction, usize),
    /// A dword of all IV slots of a direction.
    Iv(Direction, usize),
}

/// How much of everything a unit has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    streams: u16,
    slots: u16,
}

impl Layout {
    /// A unit for that many streams, with slots for both key sets of each as far as there can be so many.
    pub(crate) fn new(streams: u16) -> Self {
        let streams = streams.clamp(1, 256);
        Self { streams, slots: (streams * SLOTS_PER_STREAM).min(MAX_SLOTS) }
    }

    pub(crate) const fn streams(self) -> u16 {
        self.streams
    }

    /// Slots of each direction.
    pub(crate) const fn slots(self) -> u16 {
        self.slots
    }

    /// The capability register: streams, Tx slots, Rx slots, each less one.
    pub(crate) fn capability(self) -> u32 {
        let slots = u32::from(self.slots - 1);
        u32::from(self.streams - 1) | slots << 10 | slots << 20
    }

    /// First bytes of Tx keys, Tx IVs, Rx keys, Rx IVs, and of what is behind.
    fn borders(self) -> [u32; 5] {
        let slots = u32::from(self.slots);
        let tx_keys = BLOCKS + u32::from(self.streams) * BLOCK;
        let tx_ivs = tx_keys + slots * KEY_SLOT;
        let rx_keys = tx_ivs + slots * IV_SLOT;
        let rx_ivs = rx_keys + slots * KEY_SLOT;
        [tx_keys, tx_ivs, rx_keys, rx_ivs, rx_ivs + slots * IV_SLOT]
    }

    /// Bytes of the registers, in whole pages.
    pub(crate) fn size(self) -> u64 {
        let [.., end] = self.borders();
        u64::from(end).next_multiple_of(PAGE_SIZE)
    }

    /// The dword at an offset that is a multiple of 4.
    pub(crate) fn find(self, offset: u32) -> Option<Register> {
        let [tx_keys, tx_ivs, rx_keys, rx_ivs, end] = self.borders();
        let dword = |start: u32| ((offset - start) / 4) as usize;
        Some(match offset {
            0 => Register::Capability,
            _ if offset < tx_keys => {
                let inside = offset - BLOCKS;
                Register::Block((inside / BLOCK) as usize, BlockRegister::at(inside % BLOCK))
            }
            _ if offset < tx_ivs => Register::Key(Direction::Tx, dword(tx_keys)),
            _ if offset < rx_keys => Register::Iv(Direction::Tx, dword(tx_ivs)),
            _ if offset < rx_ivs => Register::Key(Direction::Rx, dword(rx_keys)),
            _ if offset < end => Register::Iv(Direction::Rx, dword(rx_ivs)),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capability_register_tells_everything_less_one() {
        assert_eq!(Layout::new(4).capability(), 3 | 23 << 10 | 23 << 20);
        // 9 bits of streams, 10 of slots.
        assert_eq!(Layout::new(256).capability(), 255 | 1023 << 10 | 1023 << 20);
    }

    #[test]
    fn registers_follow_each_other_without_holes() {
        let layout = Layout::new(2);
        let tx_keys = 4 + 2 * 36;
        let tx_ivs = tx_keys + 12 * 32;
        let rx_keys = tx_ivs + 12 * 8;
        let rx_ivs = rx_keys + 12 * 32;
        for (offset, expected) in [
            (0, Some(Register::Capability)),
            (4, Some(Register::Block(0, BlockRegister::Control))),
            (8, Some(Register::Block(0, BlockRegister::Keys(Direction::Tx)))),
            (12, Some(Register::Block(0, BlockRegister::Status(Direction::Tx)))),
            (16, Some(Register::Block(0, BlockRegister::Keys(Direction::Rx)))),
            (20, Some(Register::Block(0, BlockRegister::Status(Direction::Rx)))),
            (24, Some(Register::Block(0, BlockRegister::Slots(Direction::Tx, 0)))),
            (28, Some(Register::Block(0, BlockRegister::Slots(Direction::Tx, 1)))),
            (32, Some(Register::Block(0, BlockRegister::Slots(Direction::Rx, 0)))),
            (36, Some(Register::Block(0, BlockRegister::Slots(Direction::Rx, 1)))),
            (40, Some(Register::Block(1, BlockRegister::Control))),
            (tx_keys - 4, Some(Register::Block(1, BlockRegister::Slots(Direction::Rx, 1)))),
            (tx_keys, Some(Register::Key(Direction::Tx, 0))),
            (tx_ivs - 4, Some(Register::Key(Direction::Tx, 95))),
            (tx_ivs, Some(Register::Iv(Direction::Tx, 0))),
            (rx_keys - 4, Some(Register::Iv(Direction::Tx, 23))),
            (rx_keys, Some(Register::Key(Direction::Rx, 0))),
            (rx_ivs, Some(Register::Iv(Direction::Rx, 0))),
            (rx_ivs + 12 * 8 - 4, Some(Register::Iv(Direction::Rx, 23))),
            (rx_ivs + 12 * 8, None),
        ] {
            assert_eq!(layout.find(offset), expected, "{offset}");
        }
    }

    #[test]
    fn registers_take_whole_pages_and_fit_the_window_of_a_server() {
        assert_eq!(Layout::new(4).size(), 0x1000);
        assert_eq!(Layout::new(256).size(), 0x17000);
        assert!(Layout::new(256).size() <= 128 << 10);
    }
}
