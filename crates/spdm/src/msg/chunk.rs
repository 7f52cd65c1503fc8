//! Large messages in chunks: `CHUNK_SEND`, `CHUNK_SEND_ACK`, `CHUNK_GET`, `CHUNK_RESPONSE`.

use crate::ids::Version;
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

use super::{Header, RequestCode, ResponseCode, zero};

/// A chunk with its place in the large message; both messages that carry one are alike: 12 bytes, 4
/// more in the first, and the chunk.
macro_rules! chunk_message {
    ($(#[$meta:meta])* $message:ident, $code:expr) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $message<'a> {
            /// Version of the message.
            pub version: Version,
            /// No chunk follows.
            pub last: bool,
            /// Which large message.
            pub handle: u8,
            /// Number of the chunk.
            pub sequence: u16,
            /// Size of the large message in bytes: `Some` in chunk 0.
            pub large_size: Option<u32>,
            /// The chunk.
            pub chunk: &'a [u8],
        }

        impl<'a> $message<'a> {
            /// Reads the message, which must be of that version.
            pub fn read(reader: &mut Reader<'a>, version: Version) -> Result<Self, DecodeError> {
                let header = Header::expect(reader, version, $code.0)?;
                zero(header.param1 & 0xfe, "Param1")?;
                let sequence = reader.u16("ChunkSeqNo")?;
                reader.reserved(2, "bytes 6 and 7")?;
                let size = reader.u32("ChunkSize")?;
                if size == 0 {
                    return Err(DecodeError::Value { field: "ChunkSize", value: 0 });
                }
                let large_size =
                    if sequence == 0 { Some(reader.u32("LargeMessageSize")?) } else { None };
                let chunk = reader.take(usize::try_from(size).unwrap_or(usize::MAX), "SPDMchunk")?;
                if let Some(large_size) = large_size.filter(|large_size| *large_size < size) {
                    return Err(DecodeError::Value { field: "LargeMessageSize", value: large_size.into() });
                }
                let (last, handle) = (header.param1 != 0, header.param2);
                Ok(Self { version, last, handle, sequence, large_size, chunk })
            }

            /// Writes the message.
            pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
                let size = u32::try_from(self.chunk.len()).map_err(|_| NoSpace(u32::MAX as usize))?;
                Header::write(writer, self.version, $code.0, self.last.into(), self.handle)?;
                writer.u16(self.sequence)?;
                writer.zeros(2)?;
                writer.u32(size)?;
                if let Some(large_size) = self.large_size {
                    writer.u32(large_size)?;
                }
                writer.bytes(self.chunk)
            }
        }
    };
}

chunk_message! {
    /// `CHUNK_SEND`: a part of a large request.
    ChunkSend, RequestCode::CHUNK_SEND
}

chunk_message! {
    /// `CHUNK_RESPONSE`: a part of a large response.
    ChunkResponse, ResponseCode::CHUNK_RESPONSE
}

/// `CHUNK_SEND_ACK`: 6 bytes, and the response to the large request once it is whole or wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkSendAck<'a> {
    /// Version of the message.
    pub version: Version,
    /// The response is an error that was found before the last chunk.
    pub early_error: bool,
    /// Which large request.
    pub handle: u8,
    /// Number of the chunk.
    pub sequence: u16,
    /// The response; nothing while chunks are missing.
    pub response: &'a [u8],
}

impl<'a> ChunkSendAck<'a> {
    /// Reads the message, which must be of that version. The response has no length of its own: it
    /// takes what is there.
    pub fn read(reader: &mut Reader<'a>, version: Version) -> Result<Self, DecodeError> {
        let header = Header::expect(reader, version, ResponseCode::CHUNK_SEND_ACK.0)?;
        zero(header.param1 & 0xfe, "Param1")?;
        Ok(Self {
            version,
            early_error: header.param1 != 0,
            handle: header.param2,
            sequence: reader.u16("ChunkSeqNo")?,
            response: reader.rest(),
        })
    }

    /// Writes the message.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        let code = ResponseCode::CHUNK_SEND_ACK.0;
        Header::write(writer, self.version, code, self.early_error.into(), self.handle)?;
        writer.u16(self.sequence)?;
        writer.bytes(self.response)
    }
}

/// `CHUNK_GET`: 6 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkGet {
    /// Version of the message.
    pub version: Version,
    /// Which large response.
    pub handle: u8,
    /// Number of the chunk.
    pub sequence: u16,
}

impl ChunkGet {
    /// Reads the message, which must be of that version.
    pub fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self, DecodeError> {
        let header = Header::expect(reader, version, RequestCode::CHUNK_GET.0)?;
        header.param1_reserved()?;
        Ok(Self { version, handle: header.param2, sequence: reader.u16("ChunkSeqNo")? })
    }

    /// Writes the message.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        Header::write(writer, self.version, RequestCode::CHUNK_GET.0, 0, self.handle)?;
        writer.u16(self.sequence)
    }
}
