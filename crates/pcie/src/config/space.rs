use super::header::{BarView, Command, HeaderType, offset};
use super::{AccessError, CONFIG_SIZE, Lanes, Width};

const DWORDS: usize = CONFIG_SIZE as usize / 4;

/// Something that has the configuration space of a function: a model, an image, or a way to a device.
pub trait ReadConfig {
    /// The dword at `offset`, a multiple of 4 below 4096.
    fn dword(&self, offset: u16) -> u32;
}

impl<C: ReadConfig + ?Sized> ReadConfig for &C {
    fn dword(&self, offset: u16) -> u32 {
        (**self).dword(offset)
    }
}

/// The register at `register` of a capability at `base`; all ones behind the end of the space, as a read
/// that nobody answers.
pub(crate) fn register(config: &(impl ReadConfig + ?Sized), base: u16, register: u16) -> u32 {
    match base.checked_add(register) {
        Some(offset) if offset < CONFIG_SIZE => config.dword(offset & !3),
        _ => u32::MAX,
    }
}

/// What a write has done to the dword that it touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Offset of the dword.
    pub offset: u16,
    /// The dword before.
    pub before: u32,
    /// The dword after.
    pub after: u32,
}

/// The 4096 bytes of the configuration space of a function, and what software may do to each bit.
///
/// A bit is read-only, writable, or cleared by a 1 (RW1C). What else a write leads to is its owner's:
/// [`Self::write`] tells what has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSpace {
    values: [u32; DWORDS],
    writable: [u32; DWORDS],
    clearable: [u32; DWORDS],
}

impl ConfigSpace {
    /// All zeros, read-only.
    pub(super) const fn new() -> Self {
        Self { values: [0; DWORDS], writable: [0; DWORDS], clearable: [0; DWORDS] }
    }

    /// An image of a configuration space, read-only. Bytes that are missing read as ones.
    pub fn from_image(bytes: &[u8]) -> Self {
        let mut space = Self::new();
        let mut bytes = bytes.iter().copied();
        for value in &mut space.values {
            *value = u32::from_le_bytes(core::array::from_fn(|_| bytes.next().unwrap_or(0xff)));
        }
        space
    }

    /// A read of software.
    pub fn read(&self, offset: u16, width: Width) -> Result<u32, AccessError> {
        let lanes = Lanes::new(offset, width, CONFIG_SIZE)?;
        Ok(lanes.extract(self.dword(lanes.dword)))
    }

    /// A byte, as software reads it.
    pub fn read8(&self, offset: u16) -> Result<u8, AccessError> {
        self.read(offset, Width::Byte).map(|value| value.to_le_bytes()[0])
    }

    /// A word, as software reads it.
    pub fn read16(&self, offset: u16) -> Result<u16, AccessError> {
        self.read(offset, Width::Word).map(|value| (value & 0xffff) as u16)
    }

    /// A dword, as software reads it.
    pub fn read32(&self, offset: u16) -> Result<u32, AccessError> {
        self.read(offset, Width::Dword)
    }

    /// A write of software: read-only bits stay as they are.
    pub fn write(&mut self, offset: u16, width: Width, value: u32) -> Result<Change, AccessError> {
        let lanes = Lanes::new(offset, width, CONFIG_SIZE)?;
        let index = usize::from(lanes.dword / 4);
        let (writable, clearable) = (mask(&self.writable, index), mask(&self.clearable, index));
        Ok(self.change(lanes, |before| {
            let value = lanes.place(value);
            let writable = writable & lanes.mask();
            (before & !writable | value & writable) & !(value & clearable)
        }))
    }

    /// A change by the device itself, whatever software may do.
    pub fn set(&mut self, offset: u16, width: Width, value: u32) -> Result<Change, AccessError> {
        let lanes = Lanes::new(offset, width, CONFIG_SIZE)?;
        Ok(self.change(lanes, |before| before & !lanes.mask() | lanes.place(value)))
    }

    /// The bits of the dword at `offset` that software may write.
    pub fn writable(&self, offset: u16) -> u32 {
        mask(&self.writable, usize::from(offset / 4))
    }

    /// The command register.
    pub fn command(&self) -> Command {
        Command::from_bits((self.dword(offset::COMMAND) & 0xffff) as u16)
    }

    /// The layout of the header.
    pub fn header_type(&self) -> HeaderType {
        HeaderType::of(self)
    }

    /// The base address register `index`; `None` where there is none, or the upper half of one.
    pub fn bar(&self, index: u8) -> Option<BarView> {
        BarView::of(self, index)
    }

    fn change(&mut self, lanes: Lanes, edit: impl FnOnce(u32) -> u32) -> Change {
        let offset = lanes.dword;
        match self.values.get_mut(usize::from(offset / 4)) {
            Some(value) => {
                let before = *value;
                *value = edit(before);
                Change { offset, before, after: *value }
            }
            // Lanes lie inside the space.
            None => Change { offset, before: u32::MAX, after: u32::MAX },
        }
    }

    /// Gives bits of a dword their value and kind.
    pub(super) fn define(&mut self, offset: u16, bits: u32, value: u32, writable: u32, clearable: u32) {
        let index = usize::from(offset / 4);
        for (dwords, new) in
            [(&mut self.values, value), (&mut self.writable, writable), (&mut self.clearable, clearable)]
        {
            if let Some(dword) = dwords.get_mut(index) {
                *dword = *dword & !bits | new & bits;
            }
        }
    }
}

fn mask(masks: &[u32; DWORDS], index: usize) -> u32 {
    masks.get(index).copied().unwrap_or(0)
}

impl ReadConfig for ConfigSpace {
    fn dword(&self, offset: u16) -> u32 {
        self.values.get(usize::from(offset / 4)).copied().unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn space() -> ConfigSpace {
        let mut space = ConfigSpace::new();
        space.define(0x40, u32::MAX, 0x1234_5678, 0x00ff_00ff, 0xf000_0000);
        space
    }

    #[test]
    fn reads_of_each_width_see_little_endian_bytes() {
        let space = space();
        assert_eq!(space.read32(0x40), Ok(0x1234_5678));
        assert_eq!(space.read16(0x42), Ok(0x1234));
        assert_eq!(space.read8(0x41), Ok(0x56));
    }

    #[test]
    fn accesses_across_their_width_or_behind_the_end_are_refused() {
        let mut space = space();
        let misaligned = AccessError::Misaligned { offset: 0x41, width: Width::Word };
        assert_eq!(space.read16(0x41), Err(misaligned));
        assert_eq!(space.write(0x41, Width::Word, 0), Err(misaligned));
        assert!(space.read32(0xffc).is_ok());
        let outside = AccessError::Outside { offset: 0x1000, size: 0x1000 };
        assert_eq!(space.read32(0x1000), Err(outside));
        assert_eq!(space.set(0x1000, Width::Dword, 0), Err(outside));
        assert_eq!(space.read8(0xffff), Err(AccessError::Outside { offset: 0xffff, size: 0x1000 }));
    }

    #[test]
    fn a_write_changes_writable_bits_and_clears_those_that_a_1_clears() {
        let mut space = space();
        let change = space.write(0x40, Width::Dword, 0xffff_ffff).unwrap();
        assert_eq!(change, Change { offset: 0x40, before: 0x1234_5678, after: 0x02ff_56ff });
        space.write(0x40, Width::Dword, 0).unwrap();
        assert_eq!(space.read32(0x40), Ok(0x0200_5600));
    }

    #[test]
    fn a_narrow_write_leaves_the_other_bytes_alone() {
        let mut space = space();
        space.write(0x42, Width::Byte, 0xaa).unwrap();
        assert_eq!(space.read32(0x40), Ok(0x12aa_5678));
        space.write(0x43, Width::Byte, 0x10).unwrap();
        assert_eq!(space.read32(0x40), Ok(0x02aa_5678));
    }

    #[test]
    fn the_device_itself_changes_any_bit() {
        let mut space = space();
        space.set(0x41, Width::Byte, 0xff).unwrap();
        assert_eq!(space.read32(0x40), Ok(0x1234_ff78));
    }

    #[test]
    fn bytes_that_an_image_lacks_read_as_ones() {
        let space = ConfigSpace::from_image(&[0x86, 0x80, 0x01]);
        assert_eq!(space.read32(0), Ok(0xff01_8086));
        assert_eq!(space.read32(4), Ok(0xffff_ffff));
        assert_eq!(space.clone().write(0, Width::Dword, 0).map(|change| change.after), Ok(0xff01_8086));
    }

    proptest! {
        #[test]
        fn bits_that_software_may_not_touch_stay(
            value: u32, writable: u32, clearable: u32, written: u32, byte in 0u16..4, width in prop::sample::select(&Width::ALL[..]),
        ) {
            let clearable = clearable & !writable;
            let mut space = ConfigSpace::new();
            space.define(0x40, u32::MAX, value, writable, clearable);
            let result = space.write(0x40 + byte, width, written);
            prop_assert_eq!(result.is_ok(), byte.is_multiple_of(width.bytes()));
            let Ok(change) = result else { return Ok(()) };
            let touched = width.mask() << (byte * 8);
            let written = written << (byte * 8);
            prop_assert_eq!((change.before ^ change.after) & !(touched & (writable | clearable)), 0);
            prop_assert_eq!((change.after ^ written) & writable & touched, 0);
            prop_assert_eq!(change.after & clearable & touched, value & clearable & touched & !written);
        }
    }
}
