use core::fmt;

use super::{ObjectId, PortIndex, object};
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

/// Where a port sits: the function that carries its IDE capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortLocation {
    /// Segment.
    pub segment: u8,
    /// Bus.
    pub bus: u8,
    /// Device in bits 7:3, function in bits 2:0.
    pub device_function: u8,
}

impl fmt::Display for PortLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, bus, device_function } = self;
        write!(f, "{segment:04x}:{bus:02x}:{:02x}.{}", device_function >> 3, device_function & 7)
    }
}

/// The IDE extended capability from its capability register on: capability, control, link stream
/// blocks, selective stream blocks; dwords.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers<'a>(&'a [u8]);

impl<'a> Registers<'a> {
    /// Registers as they stand in a message: little endian; `None` if that is no whole number of dwords.
    pub const fn from_bytes(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len().is_multiple_of(4) { Some(Self(bytes)) } else { None }
    }

    /// The registers, lowest offset first.
    pub fn dwords(&self) -> impl ExactSizeIterator<Item = u32> + 'a {
        self.0.as_chunks().0.iter().map(|&dword| u32::from_le_bytes(dword))
    }
}

/// `QUERY_RESP`: the IDE registers of a port. 7 bytes and the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryResp<'a> {
    /// The port.
    pub port: PortIndex,
    /// Where it sits.
    pub location: PortLocation,
    /// The highest port of the device.
    pub max_port: PortIndex,
    /// Its registers.
    pub registers: Registers<'a>,
}

impl<'a> QueryResp<'a> {
    /// Size of the message without registers, in bytes.
    pub const MIN_SIZE: usize = 7;

    /// Reads the message, which takes all bytes that are left.
    pub fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        object(reader, ObjectId::QUERY_RESP)?;
        reader.reserved(1, "reserved")?;
        let port = PortIndex(reader.u8("port index")?);
        let device_function = reader.u8("device and function")?;
        let bus = reader.u8("bus")?;
        let segment = reader.u8("segment")?;
        let max_port = PortIndex(reader.u8("maximum port index")?);
        let bytes = reader.rest();
        let registers = Registers::from_bytes(bytes).ok_or(DecodeError::Length {
            field: "IDE registers",
            value: bytes.len(),
            limit: bytes.len() / 4 * 4,
        })?;
        Ok(Self { port, location: PortLocation { segment, bus, device_function }, max_port, registers })
    }

    /// Writes the message.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        writer.u8(ObjectId::QUERY_RESP.0)?;
        writer.zeros(1)?;
        writer.u8(self.port.0)?;
        writer.u8(self.location.device_function)?;
        writer.u8(self.location.bus)?;
        writer.u8(self.location.segment)?;
        writer.u8(self.max_port.0)?;
        writer.bytes(self.registers.0)
    }
}
