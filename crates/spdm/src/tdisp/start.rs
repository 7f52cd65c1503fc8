use super::Nonce;
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

/// `START_INTERFACE_REQUEST`. 32 bytes behind the header; the response is a header alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartInterface {
    /// The nonce of `LOCK_INTERFACE_RESPONSE`.
    pub nonce: Nonce,
}

impl StartInterface {
    /// Size of the body in bytes.
    pub const SIZE: usize = Nonce::SIZE;

    /// Reads the body.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { nonce: Nonce::new(reader.array("START_INTERFACE_NONCE")?) })
    }

    /// Writes the body.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        writer.bytes(self.nonce.bytes())
    }
}
