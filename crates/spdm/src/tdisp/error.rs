use open_enum::open_enum;

use super::Vdm;
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

open_enum! {
    /// Why a request is refused.
    pub struct ErrorCode(u32) {
        /// A field has a value that it must not have.
        INVALID_REQUEST = 0x01 => "INVALID_REQUEST",
        /// Ask again later.
        BUSY = 0x03 => "BUSY",
        /// Not in this state.
        INVALID_INTERFACE_STATE = 0x04 => "INVALID_INTERFACE_STATE",
        /// Anything else.
        UNSPECIFIED = 0x05 => "UNSPECIFIED",
        /// The device does not answer this request; its code is the error data.
        UNSUPPORTED_REQUEST = 0x07 => "UNSUPPORTED_REQUEST",
        /// Another version of TDISP.
        VERSION_MISMATCH = 0x41 => "VERSION_MISMATCH",
        /// The device has no such interface.
        INVALID_INTERFACE = 0x101 => "INVALID_INTERFACE",
        /// Not the nonce of the lock.
        INVALID_NONCE = 0x102 => "INVALID_NONCE",
        /// No random numbers at the moment.
        INSUFFICIENT_ENTROPY = 0x103 => "INSUFFICIENT_ENTROPY",
        /// The device is set up in a way that cannot be locked.
        INVALID_DEVICE_CONFIGURATION = 0x104 => "INVALID_DEVICE_CONFIGURATION",
    }
}

/// `TDISP_ERROR`. 8 bytes behind the header, and what a vendor has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorResponse<'a> {
    /// Why.
    pub code: ErrorCode,
    /// Depends on the code.
    pub data: u32,
    /// Extended data.
    pub extended: Option<Vdm<'a>>,
}

impl<'a> ErrorResponse<'a> {
    /// Size of the body without extended data, in bytes.
    pub const MIN_SIZE: usize = 8;

    /// Reads the body, which takes all bytes that are left.
    pub fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let code = ErrorCode(reader.u32("error code")?);
        let data = reader.u32("error data")?;
        let extended = if reader.left() == 0 { None } else { Some(Vdm::read(reader)?) };
        Ok(Self { code, data, extended })
    }

    /// Writes the body.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        writer.u32(self.code.0)?;
        writer.u32(self.data)?;
        self.extended.map_or(Ok(()), |extended| extended.write(writer))
    }
}
