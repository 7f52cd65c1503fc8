use super::{KeySelector, PortIndex, StreamId};
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

/// What a message about a key is about: the fields that its acknowledgement echoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The stream.
    pub stream: StreamId,
    /// The slot, as it stands in the message.
    pub key: KeySelector,
    /// The port of the device.
    pub port: PortIndex,
}

/// A target as it arrived, with what stands between its fields.
pub(super) struct RawTarget {
    pub(super) target: Target,
    /// Two reserved bytes in front.
    pub(super) reserved: u16,
    /// Reserved, or the status of `KP_ACK`.
    pub(super) status: u8,
}

impl RawTarget {
    /// The six bytes behind the object id.
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let reserved = reader.u16("reserved")?;
        let stream = StreamId(reader.u8("stream id")?);
        let status = reader.u8("status or reserved")?;
        let key = KeySelector(reader.u8("key and sub-stream")?);
        let port = PortIndex(reader.u8("port index")?);
        Ok(Self { target: Target { stream, key, port }, reserved, status })
    }

    /// The reserved bytes in front must be 0.
    pub(super) fn checked(self) -> Result<(Target, u8), DecodeError> {
        if self.reserved != 0 {
            return Err(DecodeError::Reserved { field: "reserved", value: self.reserved.into() });
        }
        if self.target.key.slot().is_none() {
            return Err(DecodeError::Value { field: "key and sub-stream", value: self.target.key.0.into() });
        }
        Ok((self.target, self.status))
    }

    /// Like [`checked`](Self::checked), for messages without a status.
    pub(super) fn without_status(self) -> Result<Target, DecodeError> {
        match self.checked()? {
            (target, 0) => Ok(target),
            (_, value) => Err(DecodeError::Reserved { field: "reserved", value: value.into() }),
        }
    }
}

impl Target {
    /// The six bytes behind the object id.
    pub(super) fn write(self, writer: &mut Writer<'_>, status: u8) -> Result<(), NoSpace> {
        writer.zeros(2)?;
        writer.u8(self.stream.0)?;
        writer.u8(status)?;
        writer.u8(self.key.0)?;
        writer.u8(self.port.0)
    }
}
