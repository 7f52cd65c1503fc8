use crate::ide_km::StreamId;
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

/// `BIND_P2P_STREAM_REQUEST` and `UNBIND_P2P_STREAM_REQUEST`. 1 byte behind the header; the responses
/// are headers alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct P2pStream {
    /// The stream to the other device.
    pub stream: StreamId,
}

impl P2pStream {
    /// Size of the body in bytes.
    pub const SIZE: usize = 1;

    /// Reads the body.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { stream: StreamId(reader.u8("P2P stream id")?) })
    }

    /// Writes the body.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        writer.u8(self.stream.0)
    }
}
