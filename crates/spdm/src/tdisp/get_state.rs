use open_enum::open_enum;

use crate::wire::{DecodeError, NoSpace, Reader, Writer};

open_enum! {
    /// State of an interface.
    pub struct TdiState(u8) {
        /// Anything goes; nothing is trusted.
        UNLOCKED = 0 => "CONFIG_UNLOCKED",
        /// Configuration is locked and can be attested.
        LOCKED = 1 => "CONFIG_LOCKED",
        /// Works for a trusted VM.
        RUN = 2 => "RUN",
        /// Something happened that must not: nothing trusted is left.
        ERROR = 3 => "ERROR",
    }
}

/// `DEVICE_INTERFACE_STATE`. 1 byte behind the header; `GET_DEVICE_INTERFACE_STATE` is a header alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceState {
    /// The state.
    pub state: TdiState,
}

impl InterfaceState {
    /// Size of the body in bytes.
    pub const SIZE: usize = 1;

    /// Reads the body.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { state: TdiState(reader.u8("TDI_STATE")?) })
    }

    /// Writes the body.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        writer.u8(self.state.0)
    }
}
