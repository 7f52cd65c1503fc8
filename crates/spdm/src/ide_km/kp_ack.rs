use super::target::RawTarget;
use super::{KpStatus, ObjectId, Target, object};
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

/// `KP_ACK`: what became of a key. 7 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KpAck {
    /// As in the request, even if it names nothing.
    pub target: Target,
    /// What became of the key.
    pub status: KpStatus,
}

impl KpAck {
    /// Size of the message in bytes.
    pub const SIZE: usize = 7;

    /// Reads the message. The target is taken as it is: a refusal may echo one that does not exist.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        object(reader, ObjectId::KP_ACK)?;
        let RawTarget { target, reserved, status } = RawTarget::read(reader)?;
        if reserved != 0 {
            return Err(DecodeError::Reserved { field: "reserved", value: reserved.into() });
        }
        Ok(Self { target, status: KpStatus(status) })
    }

    /// Writes the message.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        writer.u8(ObjectId::KP_ACK.0)?;
        self.target.write(writer, self.status.0)
    }
}
