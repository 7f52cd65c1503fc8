use super::MmioRange;
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

/// `SET_MMIO_ATTRIBUTE_REQUEST`. 16 bytes behind the header; the response is a header alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetMmioAttribute {
    /// Pages as the report has them, and the attribute that they get.
    pub range: MmioRange,
}

impl SetMmioAttribute {
    /// Size of the body in bytes.
    pub const SIZE: usize = MmioRange::SIZE;

    /// Reads the body.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { range: MmioRange::read(reader)? })
    }

    /// Writes the body.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        self.range.write(writer)
    }
}
