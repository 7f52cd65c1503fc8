use open_enum::open_enum;

use crate::wire::{DecodeError, NoSpace, Reader, Writer};

open_enum! {
    /// Who gives out the vendor's id.
    pub struct RegistryId(u8) {
        /// PCI-SIG: two bytes.
        PCI_SIG = 0 => "PCI-SIG",
        /// CXL: two bytes.
        CXL = 1 => "CXL",
    }
}

/// `VDM_REQUEST`, `VDM_RESPONSE` and the extended data of an error: something of a vendor. At least 2
/// bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vdm<'a> {
    /// Who gives out the vendor's id.
    pub registry: RegistryId,
    /// The vendor.
    pub vendor: &'a [u8],
    /// The vendor's bytes.
    pub data: &'a [u8],
}

impl<'a> Vdm<'a> {
    /// Size of the body without vendor and data, in bytes.
    pub const MIN_SIZE: usize = 2;

    /// Reads the body, which takes all bytes that are left.
    pub fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let registry = RegistryId(reader.u8("registry id")?);
        let size = reader.u8("vendor id length")?;
        let vendor = reader.take(size.into(), "vendor id")?;
        Ok(Self { registry, vendor, data: reader.rest() })
    }

    /// Size of the body in bytes.
    pub const fn size(&self) -> usize {
        Self::MIN_SIZE + self.vendor.len() + self.data.len()
    }

    /// Writes the body. The vendor has at most 255 bytes.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        writer.u8(self.registry.0)?;
        writer.u8(u8::try_from(self.vendor.len()).map_err(|_| NoSpace(u8::MAX.into()))?)?;
        writer.bytes(self.vendor)?;
        writer.bytes(self.data)
    }
}
