use crate::wire::{DecodeError, NoSpace, Reader, Writer};

/// TDISP 1.0, the only version.
pub const TDISP_1_0: u8 = 0x10;

/// `TDISP_VERSION`: the versions that a device speaks. `GET_TDISP_VERSION` is a header alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionList<'a>(pub &'a [u8]);

impl<'a> VersionList<'a> {
    /// Reads the body: a count and as many versions.
    pub fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let count = reader.u8("version count")?;
        if count == 0 {
            return Err(DecodeError::Value { field: "version count", value: 0 });
        }
        Ok(Self(reader.take(count.into(), "versions")?))
    }

    /// Writes the body. At most 255 versions.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        writer.u8(u8::try_from(self.0.len()).map_err(|_| NoSpace(u8::MAX.into()))?)?;
        writer.bytes(self.0)
    }
}
