use core::fmt;

use open_enum::open_enum;
use pcie::FuncId;

use super::TDISP_1_0;
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

open_enum! {
    /// What a message is. Requests have bit 7 set; a response has the request's number without it.
    pub struct MessageType(u8) {
        /// Versions.
        TDISP_VERSION = 0x01 => "TDISP_VERSION",
        /// What the device can do.
        TDISP_CAPABILITIES = 0x02 => "TDISP_CAPABILITIES",
        /// The interface is locked.
        LOCK_INTERFACE_RESPONSE = 0x03 => "LOCK_INTERFACE_RESPONSE",
        /// A portion of the report.
        DEVICE_INTERFACE_REPORT = 0x04 => "DEVICE_INTERFACE_REPORT",
        /// The state.
        DEVICE_INTERFACE_STATE = 0x05 => "DEVICE_INTERFACE_STATE",
        /// The interface runs.
        START_INTERFACE_RESPONSE = 0x06 => "START_INTERFACE_RESPONSE",
        /// The interface is unlocked.
        STOP_INTERFACE_RESPONSE = 0x07 => "STOP_INTERFACE_RESPONSE",
        /// A peer-to-peer stream is bound.
        BIND_P2P_STREAM_RESPONSE = 0x08 => "BIND_P2P_STREAM_RESPONSE",
        /// A peer-to-peer stream is bound no more.
        UNBIND_P2P_STREAM_RESPONSE = 0x09 => "UNBIND_P2P_STREAM_RESPONSE",
        /// The attribute is set.
        SET_MMIO_ATTRIBUTE_RESPONSE = 0x0a => "SET_MMIO_ATTRIBUTE_RESPONSE",
        /// A vendor's response.
        VDM_RESPONSE = 0x0b => "VDM_RESPONSE",
        /// A refusal.
        TDISP_ERROR = 0x7f => "TDISP_ERROR",
        /// Asks for versions.
        GET_TDISP_VERSION = 0x81 => "GET_TDISP_VERSION",
        /// Asks what the device can do.
        GET_TDISP_CAPABILITIES = 0x82 => "GET_TDISP_CAPABILITIES",
        /// Locks the interface.
        LOCK_INTERFACE_REQUEST = 0x83 => "LOCK_INTERFACE_REQUEST",
        /// Asks for a portion of the report.
        GET_DEVICE_INTERFACE_REPORT = 0x84 => "GET_DEVICE_INTERFACE_REPORT",
        /// Asks for the state.
        GET_DEVICE_INTERFACE_STATE = 0x85 => "GET_DEVICE_INTERFACE_STATE",
        /// Lets the locked interface run.
        START_INTERFACE_REQUEST = 0x86 => "START_INTERFACE_REQUEST",
        /// Unlocks the interface.
        STOP_INTERFACE_REQUEST = 0x87 => "STOP_INTERFACE_REQUEST",
        /// Binds a stream to another device.
        BIND_P2P_STREAM_REQUEST = 0x88 => "BIND_P2P_STREAM_REQUEST",
        /// Takes such a binding back.
        UNBIND_P2P_STREAM_REQUEST = 0x89 => "UNBIND_P2P_STREAM_REQUEST",
        /// Says whether a range of MMIO is TEE memory.
        SET_MMIO_ATTRIBUTE_REQUEST = 0x8a => "SET_MMIO_ATTRIBUTE_REQUEST",
        /// A vendor's request.
        VDM_REQUEST = 0x8b => "VDM_REQUEST",
    }
}

impl MessageType {
    /// Whether it is a request.
    pub const fn is_request(self) -> bool {
        self.0 & 0x80 != 0
    }

    /// The positive response to this request.
    #[must_use]
    pub const fn response(self) -> Self {
        Self(self.0 & 0x7f)
    }
}

/// Interface of a device: a function, by its [`FuncId`]; 8 reserved bytes follow on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceId(pub FuncId);

impl InterfaceId {
    /// Size in bytes.
    pub const SIZE: usize = 12;
}

impl From<FuncId> for InterfaceId {
    fn from(function: FuncId) -> Self {
        Self(function)
    }
}

impl fmt::Display for InterfaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What every message begins with. 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Version of TDISP: major in bits 7:4, minor in bits 3:0.
    pub version: u8,
    /// What the message is.
    pub message: MessageType,
    /// The interface that it is about.
    pub interface: InterfaceId,
}

/// A header as it arrived.
pub(super) struct RawHeader {
    pub(super) header: Header,
    /// Two bytes behind the type.
    pub(super) reserved: u16,
    /// Eight bytes behind the function.
    pub(super) interface_reserved: u64,
}

impl RawHeader {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let version = reader.u8("TDISP version")?;
        let message = MessageType(reader.u8("message type")?);
        let reserved = reader.u16("reserved")?;
        let interface = InterfaceId(FuncId(reader.u32("function id")?));
        let interface_reserved = reader.u64("interface id")?;
        Ok(Self { header: Header { version, message, interface }, reserved, interface_reserved })
    }
}

impl Header {
    /// Size in bytes.
    pub const SIZE: usize = 16;

    /// Header of a message that this stack sends.
    pub const fn new(message: MessageType, interface: InterfaceId) -> Self {
        Self { version: TDISP_1_0, message, interface }
    }

    /// Reads the header. Any version and type are taken.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let RawHeader { header, reserved, interface_reserved } = RawHeader::read(reader)?;
        if reserved != 0 {
            return Err(DecodeError::Reserved { field: "reserved", value: reserved.into() });
        }
        if interface_reserved != 0 {
            return Err(DecodeError::Reserved { field: "interface id", value: interface_reserved });
        }
        Ok(header)
    }

    /// Writes the header.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        writer.u8(self.version)?;
        writer.u8(self.message.0)?;
        writer.zeros(2)?;
        writer.u32(self.interface.0.0)?;
        writer.zeros(8)
    }
}
