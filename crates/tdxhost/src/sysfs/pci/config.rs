//! `config`: the configuration space as a file.

use pcie::config::{CONFIG_SIZE, Width};

use super::function::Device;
use crate::sysfs::Errno;
use crate::sysfs::tree::BinaryAttribute;

/// Its name.
pub(in crate::sysfs) const NAME: &str = "config";
/// Its permission bits.
pub(in crate::sysfs) const MODE: u16 = 0o644;
/// Bytes of a function that has no extended configuration space.
const CONVENTIONAL_SIZE: u16 = 256;

/// The space of one device.
pub(super) struct Config {
    pub(super) device: Device,
    pub(super) express: bool,
}

impl Config {
    const fn bytes(&self) -> u16 {
        if self.express { CONFIG_SIZE } else { CONVENTIONAL_SIZE }
    }

    /// Where an access of `size` bytes at `offset` begins and ends; cut at the end of the space.
    fn part(&self, offset: u64, size: usize) -> (u16, u16) {
        let bytes = self.bytes();
        let start = u16::try_from(offset).map_or(bytes, |start| start.min(bytes));
        let size = u16::try_from(size).unwrap_or(u16::MAX);
        (start, start.saturating_add(size).min(bytes))
    }
}

/// The widest aligned access at `at` that ends at or before `end`.
fn widest(at: u16, end: u16) -> Width {
    let fits = |width: &Width| at.is_multiple_of(width.bytes()) && end.saturating_sub(at) >= width.bytes();
    Width::ALL.into_iter().rev().find(fits).unwrap_or(Width::Byte)
}

impl BinaryAttribute for Config {
    fn mode(&self) -> u16 {
        MODE
    }

    fn read_at(&self, offset: u64, size: usize) -> Result<Vec<u8>, Errno> {
        self.device.get()?;
        let (mut at, end) = self.part(offset, size);
        let mut bytes = Vec::with_capacity(usize::from(end - at));
        while at < end {
            let width = widest(at, end);
            let value = self.device.host.config_read(self.device.id, at, width).to_le_bytes();
            bytes.extend(value.into_iter().take(width.bytes().into()));
            at += width.bytes();
        }
        Ok(bytes)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.device.get()?;
        let (mut at, end) = self.part(offset, bytes.len());
        if usize::from(end - at) != bytes.len() {
            return Err(Errno::EFBIG);
        }
        let mut rest = bytes;
        while at < end {
            let width = widest(at, end);
            let (now, later) = rest.split_at_checked(width.bytes().into()).ok_or(Errno::EINVAL)?;
            let value = now.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte));
            self.device.host.config_write(self.device.id, at, width, value);
            at += width.bytes();
            rest = later;
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.bytes().into()
    }

    fn is_live(&self) -> bool {
        self.device.get().is_ok()
    }
}
