//! Measurement blocks, as the record of `MEASUREMENTS` holds them: 4 bytes of header, 3 bytes of
//! DMTF's header, and the value.

use open_enum::open_enum;

use crate::algo::MeasurementHash;
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

use super::algorithms::MEASUREMENT_SPEC_DMTF;

/// Index of the block with the measurement manifest.
pub const INDEX_MANIFEST: u8 = 0xfd;
/// Index of the block with the device mode.
pub const INDEX_DEVICE_MODE: u8 = 0xfe;
/// Largest record: its length has three bytes.
pub const MAX_RECORD: u32 = 0xff_ffff;

const DMTF_HEADER: usize = 3;
const RAW: u8 = 0x80;

open_enum! {
    /// What is measured (`DMTFSpecMeasurementValueType`, bits 6:0).
    pub struct MeasurementKind(u8) {
        /// Immutable ROM.
        IMMUTABLE_ROM = 0 => "immutable ROM",
        /// Mutable firmware.
        MUTABLE_FIRMWARE = 1 => "mutable firmware",
        /// Hardware configuration.
        HARDWARE_CONFIGURATION = 2 => "hardware configuration",
        /// Firmware configuration.
        FIRMWARE_CONFIGURATION = 3 => "firmware configuration",
        /// Measurement manifest in free form.
        MANIFEST = 4 => "measurement manifest",
        /// Device mode: operational modes and debug state.
        DEVICE_MODE = 5 => "device mode",
        /// Version of mutable firmware.
        FIRMWARE_VERSION = 6 => "firmware version",
        /// Secure version number of mutable firmware.
        SECURE_VERSION_NUMBER = 7 => "secure version number",
        /// 1.3: a digest that was extended.
        HASH_EXTENDED = 8 => "hash-extended measurement",
        /// 1.3: informational.
        INFORMATIONAL = 9 => "informational",
        /// 1.3: measurement manifest in a structure.
        STRUCTURED_MANIFEST = 10 => "structured measurement manifest",
    }
}

/// The value of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MeasurementValue<'a> {
    /// The bits themselves.
    Raw(&'a [u8]),
    /// Their digest, with the hash of `MeasurementHashAlgo`.
    Digest(&'a [u8]),
}

impl<'a> MeasurementValue<'a> {
    /// The bytes.
    pub const fn bytes(self) -> &'a [u8] {
        match self {
            Self::Raw(bytes) | Self::Digest(bytes) => bytes,
        }
    }
}

/// A block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeasurementBlock<'a> {
    /// Index, 1 to 254.
    pub index: u8,
    /// What is measured.
    pub kind: MeasurementKind,
    /// The value.
    pub value: MeasurementValue<'a>,
}

impl<'a> MeasurementBlock<'a> {
    /// Size in bytes.
    pub const fn size(&self) -> usize {
        4 + DMTF_HEADER + self.value.bytes().len()
    }

    /// Reads a block.
    pub fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let index = reader.u8("measurement Index")?;
        if index == 0 || index == 0xff {
            return Err(DecodeError::Value { field: "measurement Index", value: index.into() });
        }
        let spec = reader.u8("MeasurementSpecification")?;
        if spec != MEASUREMENT_SPEC_DMTF {
            return Err(DecodeError::Value { field: "MeasurementSpecification", value: spec.into() });
        }
        let size = usize::from(reader.u16("MeasurementSize")?);
        let mut reader = Reader::new(reader.take(size, "Measurement")?);
        let kind = reader.u8("DMTFSpecMeasurementValueType")?;
        let length = usize::from(reader.u16("DMTFSpecMeasurementValueSize")?);
        if reader.left() != length {
            let field = "DMTFSpecMeasurementValue";
            return Err(DecodeError::Length { field, value: length, limit: reader.left() });
        }
        let bytes = reader.rest();
        let value =
            if kind & RAW != 0 { MeasurementValue::Raw(bytes) } else { MeasurementValue::Digest(bytes) };
        Ok(Self { index, kind: MeasurementKind(kind & !RAW), value })
    }

    /// Writes the block.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        let too_large = |_| NoSpace(usize::from(u16::MAX));
        let bytes = self.value.bytes();
        let length = u16::try_from(bytes.len()).map_err(too_large)?;
        let size = u16::try_from(bytes.len() + DMTF_HEADER).map_err(too_large)?;
        let raw = if matches!(self.value, MeasurementValue::Raw(_)) { RAW } else { 0 };
        writer.bytes(&[self.index, MEASUREMENT_SPEC_DMTF])?;
        writer.u16(size)?;
        writer.u8(self.kind.0 & !RAW | raw)?;
        writer.u16(length)?;
        writer.bytes(bytes)
    }
}

/// The blocks of a record, one after another; ends behind the first that is refused.
#[derive(Clone, Debug)]
pub struct MeasurementBlocks<'a> {
    reader: Reader<'a>,
}

impl<'a> MeasurementBlocks<'a> {
    /// The blocks of that record.
    pub const fn new(record: &'a [u8]) -> Self {
        Self { reader: Reader::new(record) }
    }

    /// Checks a whole record: sound blocks, no index twice, digests of the right size (of any if the
    /// hash is not one of this stack), and `count` blocks.
    pub fn check(record: &'a [u8], count: u8, hash: Option<MeasurementHash>) -> Result<(), DecodeError> {
        let digest = hash.map(|hash| match hash {
            MeasurementHash::Hash(hash) => hash.size(),
            MeasurementHash::RawOnly => 0,
        });
        let mut seen = [false; 256];
        let mut found = 0;
        for block in Self::new(record) {
            let block = block?;
            if core::mem::replace(&mut seen[usize::from(block.index)], true) {
                return Err(DecodeError::Value {
                    field: "the Index of a second block",
                    value: block.index.into(),
                });
            }
            if let MeasurementValue::Digest(bytes) = block.value
                && let Some(limit) = digest.filter(|size| *size != bytes.len())
            {
                let field = "the digest of a measurement";
                return Err(DecodeError::Length { field, value: bytes.len(), limit });
            }
            found += 1;
        }
        if found == usize::from(count) {
            Ok(())
        } else {
            Err(DecodeError::Value { field: "NumberOfBlocks", value: count.into() })
        }
    }
}

impl<'a> Iterator for MeasurementBlocks<'a> {
    type Item = Result<MeasurementBlock<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.left() == 0 {
            return None;
        }
        let block = MeasurementBlock::read(&mut self.reader);
        if block.is_err() {
            self.reader.rest();
        }
        Some(block)
    }
}
