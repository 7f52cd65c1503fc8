//! Small numbers of the protocol that must not be mixed up.

use core::fmt;

use open_enum::open_enum;

open_enum! {
    /// Version of SPDM: major in bits 7:4, minor in bits 3:0. The first byte of every message.
    pub struct Version(u8) {
        /// 1.0: only in `GET_VERSION` and `VERSION`.
        V1_0 = 0x10 => "1.0",
        /// 1.1, not spoken.
        V1_1 = 0x11 => "1.1",
        /// 1.2.
        V1_2 = 0x12 => "1.2",
        /// 1.3.
        V1_3 = 0x13 => "1.3",
        /// 1.4, not spoken.
        V1_4 = 0x14 => "1.4",
    }
}

impl Version {
    /// The versions that this stack speaks, oldest first.
    pub const SPOKEN: [Self; 2] = [Self::V1_2, Self::V1_3];

    /// Whether this stack speaks the version.
    pub const fn is_spoken(self) -> bool {
        self.0 == Self::V1_2.0 || self.0 == Self::V1_3.0
    }
}

/// Session id: the requester's half in bits 15:0, the responder's in bits 31:16.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u32);

impl SessionId {
    /// The id that the halves of the two sides make.
    pub const fn new(requester: u16, responder: u16) -> Self {
        Self((responder as u32) << 16 | requester as u32)
    }

    /// The requester's half.
    pub const fn requester(self) -> u16 {
        (self.0 & 0xffff) as u16
    }

    /// The responder's half.
    pub const fn responder(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Certificate slot, 0 to 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(u8);

impl SlotId {
    /// Slot 0, the one that a device leaves its factory with.
    pub const ZERO: Self = Self(0);
    /// Number of slots.
    pub const COUNT: usize = 8;

    /// The slot of that number; `None` above 7.
    pub const fn new(number: u8) -> Option<Self> {
        if number < 8 { Some(Self(number)) } else { None }
    }

    /// The number.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The number as an index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
