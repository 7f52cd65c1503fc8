use super::{ObjectId, PortIndex, object};
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

/// `QUERY`: asks for the IDE registers of a port. 3 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// The port.
    pub port: PortIndex,
}

impl Query {
    /// Size of the message in bytes.
    pub const SIZE: usize = 3;

    /// Reads the message.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        object(reader, ObjectId::QUERY)?;
        reader.reserved(1, "reserved")?;
        Ok(Self { port: PortIndex(reader.u8("port index")?) })
    }

    /// Writes the message.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        writer.u8(ObjectId::QUERY.0)?;
        writer.zeros(1)?;
        writer.u8(self.port.0)
    }
}
