use core::fmt;

/// One of the two sets of keys that each stream has, so that keys can be refreshed without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeySet {
    /// Set 0: the K bit of a TLP is 0.
    K0,
    /// Set 1: the K bit of a TLP is 1.
    K1,
}

impl KeySet {
    /// Both sets.
    pub const ALL: [Self; 2] = [Self::K0, Self::K1];

    /// The set that keys are refreshed into while this one is in use.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::K0 => Self::K1,
            Self::K1 => Self::K0,
        }
    }
}

/// Direction, as the device sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// TLPs that the device receives.
    Rx,
    /// TLPs that the device sends.
    Tx,
}

impl Direction {
    /// Both directions.
    pub const ALL: [Self; 2] = [Self::Rx, Self::Tx];

    /// The same direction as the other end of the link sees it.
    #[must_use]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Rx => Self::Tx,
            Self::Tx => Self::Rx,
        }
    }
}

/// Sub-stream: each has its own key, counter and order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SubStream {
    /// Posted requests: writes and messages.
    Posted,
    /// Non-posted requests: reads.
    NonPosted,
    /// Completions.
    Completion,
}

impl SubStream {
    /// All sub-streams in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Posted, Self::NonPosted, Self::Completion];

    /// Its number: bits 7:4 of a key selector, and top nibble of the initialisation vector.
    pub const fn number(self) -> u8 {
        match self {
            Self::Posted => 0,
            Self::NonPosted => 1,
            Self::Completion => 2,
        }
    }
}

/// Where a key belongs within a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeySlot {
    /// The set.
    pub set: KeySet,
    /// The direction, as the device sees it.
    pub direction: Direction,
    /// The sub-stream.
    pub sub_stream: SubStream,
}

impl KeySlot {
    /// Slots of a stream.
    pub const COUNT: usize = 12;

    /// The six slots of a set in the order in which keys are programmed: received first.
    pub const fn of_set(set: KeySet) -> [Self; 6] {
        const fn slot(set: KeySet, direction: Direction, sub_stream: SubStream) -> KeySlot {
            KeySlot { set, direction, sub_stream }
        }
        [
            slot(set, Direction::Rx, SubStream::Posted),
            slot(set, Direction::Rx, SubStream::NonPosted),
            slot(set, Direction::Rx, SubStream::Completion),
            slot(set, Direction::Tx, SubStream::Posted),
            slot(set, Direction::Tx, SubStream::NonPosted),
            slot(set, Direction::Tx, SubStream::Completion),
        ]
    }

    /// The slot as the other end of the link sees it: what the device receives is what that end sends.
    #[must_use]
    pub const fn at_the_other_end(self) -> Self {
        Self { direction: self.direction.opposite(), ..self }
    }

    /// A number below [`COUNT`](Self::COUNT).
    pub const fn index(self) -> usize {
        self.set as usize * 6 + self.lane()
    }

    /// A number below 6, the same for both sets.
    pub const fn lane(self) -> usize {
        self.direction as usize * 3 + self.sub_stream as usize
    }
}

impl fmt::Display for KeySlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = match self.set {
            KeySet::K0 => "K0",
            KeySet::K1 => "K1",
        };
        let direction = match self.direction {
            Direction::Rx => "Rx",
            Direction::Tx => "Tx",
        };
        let sub_stream = match self.sub_stream {
            SubStream::Posted => "PR",
            SubStream::NonPosted => "NPR",
            SubStream::Completion => "CPL",
        };
        write!(f, "{set}|{direction}|{sub_stream}")
    }
}

/// The byte that names a slot: key set in bit 0, direction in bit 1 (1 = Tx), bits 3:2 reserved,
/// sub-stream in bits 7:4. Any value can arrive.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeySelector(pub u8);

impl KeySelector {
    /// The slot; `None` if a reserved bit is set or the sub-stream does not exist.
    pub const fn slot(self) -> Option<KeySlot> {
        if self.0 & 0x0c != 0 {
            return None;
        }
        let sub_stream = match self.0 >> 4 {
            0 => SubStream::Posted,
            1 => SubStream::NonPosted,
            2 => SubStream::Completion,
            _ => return None,
        };
        let set = if self.0 & 1 == 0 { KeySet::K0 } else { KeySet::K1 };
        let direction = if self.0 & 2 == 0 { Direction::Rx } else { Direction::Tx };
        Some(KeySlot { set, direction, sub_stream })
    }
}

impl From<KeySlot> for KeySelector {
    fn from(slot: KeySlot) -> Self {
        Self(slot.set as u8 | (slot.direction as u8) << 1 | slot.sub_stream.number() << 4)
    }
}

impl fmt::Display for KeySelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.slot() {
            Some(slot) => slot.fmt(f),
            None => write!(f, "{:#04x}", self.0),
        }
    }
}

impl fmt::Debug for KeySelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twelve_selectors_name_a_slot_and_no_other_byte_does() {
        let named: alloc::vec::Vec<u8> =
            (0..=255).filter(|&byte| KeySelector(byte).slot().is_some()).collect();
        assert_eq!(named, [0x00, 0x01, 0x02, 0x03, 0x10, 0x11, 0x12, 0x13, 0x20, 0x21, 0x22, 0x23]);
        for byte in named {
            let slot = KeySelector(byte).slot().unwrap();
            assert_eq!(KeySelector::from(slot), KeySelector(byte), "{slot}");
        }
    }

    #[test]
    fn the_slots_of_both_sets_have_twelve_indices() {
        let mut indices: alloc::vec::Vec<usize> =
            KeySet::ALL.into_iter().flat_map(KeySlot::of_set).map(KeySlot::index).collect();
        indices.sort_unstable();
        assert!(indices.into_iter().eq(0..KeySlot::COUNT));
    }
}
