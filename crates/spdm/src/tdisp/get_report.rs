use crate::wire::{DecodeError, NoSpace, Reader, Writer};

/// `GET_DEVICE_INTERFACE_REPORT`. 4 bytes behind the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetReport {
    /// First byte of the report that is wanted.
    pub offset: u16,
    /// How many bytes are wanted at most.
    pub length: u16,
}

impl GetReport {
    /// Size of the body in bytes.
    pub const SIZE: usize = 4;

    /// Reads the body.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { offset: reader.u16("offset")?, length: reader.u16("length")? })
    }

    /// Writes the body.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        writer.u16(self.offset)?;
        writer.u16(self.length)
    }
}

/// `DEVICE_INTERFACE_REPORT`: a portion of the report. 4 bytes behind the header, and the portion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportPortion<'a> {
    /// Bytes of the report behind this portion.
    pub remainder: u16,
    /// The portion.
    pub bytes: &'a [u8],
}

impl<'a> ReportPortion<'a> {
    /// Size of the body without the portion, in bytes.
    pub const MIN_SIZE: usize = 4;

    /// Reads the body.
    pub fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let portion = reader.u16("portion length")?;
        let remainder = reader.u16("remainder length")?;
        Ok(Self { remainder, bytes: reader.take(portion.into(), "report")? })
    }

    /// Writes the body. The portion has at most 65,535 bytes.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        writer.u16(u16::try_from(self.bytes.len()).map_err(|_| NoSpace(u16::MAX.into()))?)?;
        writer.u16(self.remainder)?;
        writer.bytes(self.bytes)
    }
}
