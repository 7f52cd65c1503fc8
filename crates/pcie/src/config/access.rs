/// Bytes of the configuration space of a function.
pub const CONFIG_SIZE: u16 = 4096;

/// How many bytes an access moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Width {
    /// One byte.
    Byte,
    /// Two bytes.
    Word,
    /// Four bytes.
    Dword,
}

impl Width {
    /// All widths, narrow first.
    pub const ALL: [Self; 3] = [Self::Byte, Self::Word, Self::Dword];

    /// Bytes moved.
    pub const fn bytes(self) -> u16 {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Dword => 4,
        }
    }

    /// A value with exactly the bits of this width set.
    pub const fn mask(self) -> u32 {
        match self {
            Self::Byte => 0xff,
            Self::Word => 0xffff,
            Self::Dword => 0xffff_ffff,
        }
    }
}

/// Why an access moves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// The offset is no multiple of the width.
    #[error("an access of {} bytes at offset {offset:#x} is not aligned", width.bytes())]
    Misaligned {
        /// Where.
        offset: u16,
        /// How wide.
        width: Width,
    },
    /// The bytes lie outside the space.
    #[error("offset {offset:#x} lies outside {size:#x} bytes of registers")]
    Outside {
        /// Where.
        offset: u16,
        /// Size of the space.
        size: u16,
    },
}

/// An access that is aligned and inside its space: the dword that it touches and the lanes in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lanes {
    /// Offset of the dword.
    pub(crate) dword: u16,
    /// Bits of the dword below the access.
    shift: u32,
    width: Width,
}

impl Lanes {
    /// The lanes of an access to a space of `size` bytes, a multiple of 4.
    pub(crate) const fn new(offset: u16, width: Width, size: u16) -> Result<Self, AccessError> {
        if !offset.is_multiple_of(width.bytes()) {
            return Err(AccessError::Misaligned { offset, width });
        }
        if offset >= size {
            return Err(AccessError::Outside { offset, size });
        }
        Ok(Self { dword: offset & !3, shift: (offset & 3) as u32 * 8, width })
    }

    /// Bits of the dword that the access touches.
    pub(crate) const fn mask(self) -> u32 {
        self.width.mask() << self.shift
    }

    /// What a read gives of the dword.
    pub(crate) const fn extract(self, dword: u32) -> u32 {
        dword >> self.shift & self.width.mask()
    }

    /// The value at its place in the dword, 0 elsewhere.
    pub(crate) const fn place(self, value: u32) -> u32 {
        (value & self.width.mask()) << self.shift
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_is_aligned_to_its_width() {
        assert!(Lanes::new(3, Width::Byte, 8).is_ok());
        assert!(Lanes::new(2, Width::Word, 8).is_ok());
        assert!(Lanes::new(4, Width::Dword, 8).is_ok());
        for (offset, width) in [(3, Width::Word), (2, Width::Dword), (1, Width::Dword)] {
            assert_eq!(Lanes::new(offset, width, 8).err(), Some(AccessError::Misaligned { offset, width }));
        }
    }

    #[test]
    fn an_access_behind_the_end_is_outside() {
        assert!(Lanes::new(7, Width::Byte, 8).is_ok());
        let outside = AccessError::Outside { offset: 8, size: 8 };
        assert_eq!(Lanes::new(8, Width::Byte, 8).err(), Some(outside));
    }

    #[test]
    fn lanes_pick_their_bytes_of_the_dword() {
        let lanes = Lanes::new(6, Width::Word, 8).unwrap();
        assert_eq!((lanes.dword, lanes.mask()), (4, 0xffff_0000));
        assert_eq!(lanes.extract(0x1234_5678), 0x1234);
        assert_eq!(lanes.place(0xabcd_1234), 0x1234_0000);
    }
}
