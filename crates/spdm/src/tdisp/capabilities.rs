use super::{LockFlags, MessageType};
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

/// `GET_TDISP_CAPABILITIES`. 4 bytes behind the header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GetCapabilities {
    /// Capabilities of the requester; none are defined.
    pub tsm_capabilities: u32,
}

impl GetCapabilities {
    /// Size of the body in bytes.
    pub const SIZE: usize = 4;

    /// Reads the body.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { tsm_capabilities: reader.u32("TSM_CAPS")? })
    }

    /// Writes the body.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        writer.u32(self.tsm_capabilities)
    }
}

/// A set of requests: bit n stands for request code 0x80 + n.
///
/// There are devices that count from 0x81. Nothing should be decided on this field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestSet(pub u128);

impl RequestSet {
    /// No request.
    pub const NONE: Self = Self(0);
    /// The requests of peer-to-peer streams.
    pub const P2P: Self =
        Self::NONE.with(MessageType::BIND_P2P_STREAM_REQUEST).with(MessageType::UNBIND_P2P_STREAM_REQUEST);
    /// The seven requests that every device answers.
    pub const MANDATORY: Self = Self(0xfe);

    /// The set with one request more.
    #[must_use]
    pub const fn with(self, request: MessageType) -> Self {
        Self(self.0 | 1 << (request.0 & 0x7f))
    }

    /// Whether a request is in the set.
    pub const fn contains(self, request: MessageType) -> bool {
        self.0 & 1 << (request.0 & 0x7f) != 0
    }
}

/// `TDISP_CAPABILITIES`. 28 bytes behind the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DsmCapabilities {
    /// Capabilities of the device; none are defined.
    pub dsm_capabilities: u32,
    /// Requests that the device answers.
    pub requests: RequestSet,
    /// Flags that `LOCK_INTERFACE_REQUEST` may have.
    pub lock_flags: LockFlags,
    /// Width of the addresses that the device can use, in bits.
    pub address_width: u8,
    /// Requests that may be outstanding for the interface.
    pub requests_this: u8,
    /// Requests that may be outstanding for all interfaces of the device.
    pub requests_all: u8,
}

impl DsmCapabilities {
    /// Size of the body in bytes.
    pub const SIZE: usize = 28;

    /// Reads the body.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let dsm_capabilities = reader.u32("DSM_CAPS")?;
        let requests = RequestSet(u128::from_le_bytes(reader.array("REQ_MSGS_SUPPORTED")?));
        let lock_flags = LockFlags(reader.u16("LOCK_INTERFACE_FLAGS_SUPPORTED")?);
        reader.reserved(3, "reserved")?;
        Ok(Self {
            dsm_capabilities,
            requests,
            lock_flags,
            address_width: reader.u8("DEV_ADDR_WIDTH")?,
            requests_this: reader.u8("NUM_REQ_THIS")?,
            requests_all: reader.u8("NUM_REQ_ALL")?,
        })
    }

    /// Writes the body.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        writer.u32(self.dsm_capabilities)?;
        writer.bytes(&self.requests.0.to_le_bytes())?;
        writer.u16(self.lock_flags.0)?;
        writer.zeros(3)?;
        writer.u8(self.address_width)?;
        writer.u8(self.requests_this)?;
        writer.u8(self.requests_all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mandatory_requests_are_81_to_87() {
        for code in 0x80..=0xff {
            let mandatory = (0x81..=0x87).contains(&code);
            assert_eq!(RequestSet::MANDATORY.contains(MessageType(code)), mandatory, "{code:#x}");
        }
        let with_vdm = RequestSet::MANDATORY.with(MessageType::VDM_REQUEST);
        assert_eq!(with_vdm.0, 0x8fe);
    }
}
