//! Opaque data of the general format (OpaqueDataFmt1), and what secured messages (DSP0277) put into
//! those of a key exchange: the versions that are spoken, and the one that was chosen.

use crate::wire::{DecodeError, NoSpace, Reader, Writer};

use super::vendor::StandardId;
use super::{MAX_OPAQUE, VersionList, VersionNumber, zero};

const HEADER: usize = 4;

/// Version of the elements of secured messages (`SMDataVersion`).
const SM_DATA_VERSION: u8 = 1;
const SM_VERSION_SELECTION: u8 = 0;
const SM_SUPPORTED_VERSIONS: u8 = 1;

/// Opaque data whose elements are sound: 4 bytes of header, then elements of a multiple of 4 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpaqueData<'a> {
    elements: &'a [u8],
    count: u8,
}

/// An element of opaque data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpaqueElement<'a> {
    /// Registry of the vendor id.
    pub registry: StandardId,
    /// The vendor.
    pub vendor_id: &'a [u8],
    /// What the vendor defines.
    pub data: &'a [u8],
}

impl<'a> OpaqueElement<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let before = reader.left();
        let registry = StandardId(reader.u8("the ID of an opaque element")?.into());
        if registry.name().is_none() {
            let field = "the ID of an opaque element";
            return Err(DecodeError::Value { field, value: registry.0.into() });
        }
        let size = usize::from(reader.u8("VendorLen")?);
        registry.check_vendor_id(size)?;
        let vendor_id = reader.take(size, "VendorID")?;
        let length = usize::from(reader.u16("OpaqueElementDataLen")?);
        let data = reader.take(length, "OpaqueElementData")?;
        let padding = (before - reader.left()).wrapping_neg() % 4;
        reader.reserved(padding, "AlignPadding")?;
        Ok(Self { registry, vendor_id, data })
    }

    /// Writes the element with its padding.
    fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        let one_byte = |value: usize| u8::try_from(value).map_err(|_| NoSpace(usize::from(u8::MAX)));
        let before = writer.written();
        writer.bytes(&[one_byte(self.registry.0.into())?, one_byte(self.vendor_id.len())?])?;
        writer.bytes(self.vendor_id)?;
        super::write_sized(writer, self.data)?;
        writer.zeros((writer.written() - before).wrapping_neg() % 4)
    }
}

impl<'a> OpaqueData<'a> {
    /// Checks all elements of opaque data that were agreed to be of the general format.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_OPAQUE {
            return Err(DecodeError::Length { field: "OpaqueData", value: bytes.len(), limit: MAX_OPAQUE });
        }
        let mut reader = Reader::new(bytes);
        let [count, reserved @ ..] = reader.array::<HEADER>("the header of opaque data")?;
        if count == 0 {
            return Err(DecodeError::Value { field: "TotalElements", value: 0 });
        }
        for byte in reserved {
            zero(byte, "bytes 1 to 3 of opaque data")?;
        }
        let elements = reader.clone().rest();
        for _ in 0..count {
            OpaqueElement::read(&mut reader)?;
        }
        reader.finish()?;
        Ok(Self { elements, count })
    }

    /// The elements.
    pub fn elements(&self) -> impl Iterator<Item = OpaqueElement<'a>> + 'a {
        let mut reader = Reader::new(self.elements);
        (0..self.count).map_while(move |_| OpaqueElement::read(&mut reader).ok())
    }

    /// Writes opaque data of those elements.
    pub fn write(writer: &mut Writer<'_>, elements: &[OpaqueElement<'_>]) -> Result<(), NoSpace> {
        writer.u8(u8::try_from(elements.len()).map_err(|_| NoSpace(usize::from(u8::MAX)))?)?;
        writer.zeros(3)?;
        elements.iter().try_for_each(|element| element.write(writer))
    }

    /// The data of the only element of secured messages with that id, behind version and id.
    fn secured(&self, id: u8) -> Result<Option<&'a [u8]>, DecodeError> {
        let mut found = None;
        for element in self.elements().filter(|element| element.registry == StandardId::DMTF) {
            let mut reader = Reader::new(element.data);
            if reader.u8("SMDataVersion")? != SM_DATA_VERSION || reader.u8("SMDataID")? != id {
                continue;
            }
            if found.replace(reader.rest()).is_some() {
                return Err(DecodeError::Value {
                    field: "the SMDataID of a second element",
                    value: id.into(),
                });
            }
        }
        Ok(found)
    }

    /// The versions of secured messages that a requester speaks, in `KEY_EXCHANGE`; `None` if it
    /// does not tell.
    pub fn supported_versions(&self) -> Result<Option<VersionList>, DecodeError> {
        let Some(data) = self.secured(SM_SUPPORTED_VERSIONS)? else { return Ok(None) };
        super::exact(data, VersionList::read).map(Some)
    }

    /// The version of secured messages that a responder has chosen, in `KEY_EXCHANGE_RSP`; `None` if
    /// it does not tell.
    pub fn selected_version(&self) -> Result<Option<VersionNumber>, DecodeError> {
        let Some(data) = self.secured(SM_VERSION_SELECTION)? else { return Ok(None) };
        super::exact(data, |reader| reader.u16("SelectedVersion")).map(|number| Some(VersionNumber(number)))
    }
}

/// Largest element of the supported versions: version, id, count and 16 numbers.
const MAX_SUPPORTED: usize = 3 + 2 * VersionList::MAX;

/// Writes opaque data with the versions of secured messages that are spoken.
pub fn write_supported_versions(writer: &mut Writer<'_>, versions: &VersionList) -> Result<(), NoSpace> {
    let mut buffer = [0; MAX_SUPPORTED];
    let data = super::encode(&mut buffer, |writer| {
        writer.bytes(&[SM_DATA_VERSION, SM_SUPPORTED_VERSIONS])?;
        versions.write(writer)
    })?;
    OpaqueData::write(writer, &[OpaqueElement { registry: StandardId::DMTF, vendor_id: &[], data }])
}

/// Writes opaque data with the version of secured messages that was chosen.
pub fn write_selected_version(writer: &mut Writer<'_>, version: VersionNumber) -> Result<(), NoSpace> {
    let [low, high] = version.0.to_le_bytes();
    let data = &[SM_DATA_VERSION, SM_VERSION_SELECTION, low, high];
    OpaqueData::write(writer, &[OpaqueElement { registry: StandardId::DMTF, vendor_id: &[], data }])
}
