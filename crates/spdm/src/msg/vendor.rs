//! `VENDOR_DEFINED_REQUEST` and `VENDOR_DEFINED_RESPONSE`: 7 bytes, the vendor's id, a length and
//! the payload. The large form of 1.4 is not known.

use open_enum::open_enum;

use crate::ids::Version;
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

use super::{Header, RequestCode, ResponseCode, write_sized};

/// Vendor id of PCI-SIG itself in its registry.
pub const PCI_SIG_VENDOR: [u8; 2] = [1, 0];

open_enum! {
    /// Registry or standards body (`StandardID`; in opaque data the `ID` of an element).
    pub struct StandardId(u16) {
        /// DMTF, no vendor id.
        DMTF = 0 => "DMTF",
        /// TCG, 2 bytes of vendor id.
        TCG = 1 => "TCG",
        /// USB, 2 bytes.
        USB = 2 => "USB",
        /// PCI-SIG, 2 bytes.
        PCI_SIG = 3 => "PCI-SIG",
        /// IANA, 4 bytes.
        IANA = 4 => "IANA",
        /// HDBaseT, 4 bytes.
        HDBASET = 5 => "HDBaseT",
        /// MIPI, 2 bytes.
        MIPI = 6 => "MIPI",
        /// CXL, 2 bytes.
        CXL = 7 => "CXL",
        /// JEDEC, 2 bytes.
        JEDEC = 8 => "JEDEC",
        /// VESA, no vendor id.
        VESA = 9 => "VESA",
        /// IANA's CBOR tags, up to 9 bytes.
        IANA_CBOR = 10 => "IANA CBOR",
        /// A specification of DMTF, 2 bytes.
        DMTF_DSP = 11 => "DMTF DSP",
    }
}

impl StandardId {
    /// Size of its vendor ids in bytes, if there is only one.
    pub const fn vendor_id_size(self) -> Option<usize> {
        match self {
            Self::DMTF | Self::VESA => Some(0),
            Self::TCG | Self::USB | Self::PCI_SIG | Self::MIPI | Self::CXL | Self::JEDEC | Self::DMTF_DSP => {
                Some(2)
            }
            Self::IANA | Self::HDBASET => Some(4),
            _ => None,
        }
    }

    /// Refuses a vendor id of another size than the registry has.
    pub(super) fn check_vendor_id(self, size: usize) -> Result<(), DecodeError> {
        match self.vendor_id_size() {
            Some(limit) if size != limit => {
                Err(DecodeError::Length { field: "VendorID", value: size, limit })
            }
            _ => Ok(()),
        }
    }
}

/// A vendor-defined request or response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VendorDefined<'a> {
    /// Version of the message.
    pub version: Version,
    /// Registry of the vendor id.
    pub standard_id: StandardId,
    /// The vendor in that registry, little endian.
    pub vendor_id: &'a [u8],
    /// What the vendor defines.
    pub payload: &'a [u8],
}

impl<'a> VendorDefined<'a> {
    /// A message of a PCI-SIG protocol: protocol id and message are the payload.
    pub const fn pci_sig(version: Version, payload: &'a [u8]) -> Self {
        Self { version, standard_id: StandardId::PCI_SIG, vendor_id: &PCI_SIG_VENDOR, payload }
    }

    /// Whether it belongs to a PCI-SIG protocol.
    pub fn is_pci_sig(&self) -> bool {
        self.standard_id == StandardId::PCI_SIG && self.vendor_id == PCI_SIG_VENDOR
    }

    /// Reads the request, which must be of that version.
    pub fn read_request(reader: &mut Reader<'a>, version: Version) -> Result<Self, DecodeError> {
        Self::read(reader, version, RequestCode::VENDOR_DEFINED.0)
    }

    /// Reads the response, which must be of that version.
    pub fn read_response(reader: &mut Reader<'a>, version: Version) -> Result<Self, DecodeError> {
        Self::read(reader, version, ResponseCode::VENDOR_DEFINED.0)
    }

    /// Writes the request.
    pub fn write_request(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        self.write(writer, RequestCode::VENDOR_DEFINED.0)
    }

    /// Writes the response.
    pub fn write_response(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        self.write(writer, ResponseCode::VENDOR_DEFINED.0)
    }

    fn read(reader: &mut Reader<'a>, version: Version, code: u8) -> Result<Self, DecodeError> {
        Header::expect_bare(reader, version, code)?;
        let standard_id = StandardId(reader.u16("StandardID")?);
        let size = usize::from(reader.u8("VendorIDLen")?);
        standard_id.check_vendor_id(size)?;
        let vendor_id = reader.take(size, "VendorID")?;
        let length = usize::from(reader.u16("PayloadLength")?);
        let payload = reader.take(length, "VendorDefinedPayload")?;
        Ok(Self { version, standard_id, vendor_id, payload })
    }

    fn write(&self, writer: &mut Writer<'_>, code: u8) -> Result<(), NoSpace> {
        let size = u8::try_from(self.vendor_id.len()).map_err(|_| NoSpace(usize::from(u8::MAX)))?;
        Header::write(writer, self.version, code, 0, 0)?;
        writer.u16(self.standard_id.0)?;
        writer.u8(size)?;
        writer.bytes(self.vendor_id)?;
        write_sized(writer, self.payload)
    }
}
