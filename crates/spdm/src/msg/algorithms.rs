//! `NEGOTIATE_ALGORITHMS` (32 bytes and its lists) and `ALGORITHMS` (36 bytes and its tables).

use bitfield_struct::bitfield;

use crate::ids::Version;
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

use super::{Header, RequestCode, ResponseCode, known_bits, zero};

/// The measurement specification of DMTF, bit 0: the only one.
pub const MEASUREMENT_SPEC_DMTF: u8 = 1;
/// The SPDM key schedule, bit 0 of its table: the only one.
pub const KEY_SCHEDULE_SPDM: u16 = 1;

/// Largest `NEGOTIATE_ALGORITHMS`.
const MAX_REQUEST: usize = 128;
/// Most extended algorithms in a request, in all lists together.
const MAX_EXTENDED: usize = 20;
const EXTENDED_SIZE: usize = 4;

/// Bits with a meaning in 1.2 and 1.3.
const KNOWN_ASYM: u32 = 0x0fff;
const KNOWN_HASH: u32 = 0x007f;
const KNOWN_MEASUREMENT_HASH: u32 = 0x00ff;

/// Offers and selections of other parameters (`OtherParamsSupport`, `OtherParamsSelection`).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct OtherParams {
    /// OpaqueDataFmt0: opaque data are the vendor's.
    pub opaque_format_0: bool,
    /// OpaqueDataFmt1: opaque data are elements of the general format.
    pub opaque_format_1: bool,
    #[bits(2)]
    __: u8,
    /// MULTI_KEY_CONN: more than one key pair per side. 1.3.
    pub multi_key: bool,
    #[bits(3)]
    __: u8,
}

impl OtherParams {
    fn read(reader: &mut Reader<'_>, version: Version, field: &'static str) -> Result<Self, DecodeError> {
        let bits = reader.u8(field)?;
        let known = if version >= Version::V1_3 { 0x13 } else { 0x03 };
        zero(bits & !known, field)?;
        Ok(Self::from(bits))
    }
}

/// Algorithms of registries other than DMTF's: 4 bytes each. Kept, never chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExtendedAlgorithms<'a>(&'a [u8]);

impl<'a> ExtendedAlgorithms<'a> {
    fn read(reader: &mut Reader<'a>, count: u8, field: &'static str) -> Result<Self, DecodeError> {
        let bytes = reader.take(usize::from(count) * EXTENDED_SIZE, field)?;
        for entry in bytes.chunks_exact(EXTENDED_SIZE) {
            zero(entry.get(1).copied().unwrap_or_default(), "byte 1 of an extended algorithm")?;
        }
        Ok(Self(bytes))
    }

    /// How many.
    pub const fn count(&self) -> usize {
        self.0.len() / EXTENDED_SIZE
    }

    /// Registry and number of each.
    pub fn iter(&self) -> impl Iterator<Item = (u8, u16)> + 'a {
        self.0
            .as_chunks::<EXTENDED_SIZE>()
            .0
            .iter()
            .map(|[registry, _, low, high]| (*registry, u16::from_le_bytes([*low, *high])))
    }

    /// The count as its field holds it; by construction at most 255.
    fn count_byte(&self) -> u8 {
        u8::try_from(self.count()).unwrap_or(u8::MAX)
    }
}

/// One structure table: algorithms of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AlgorithmTable<'a> {
    /// One bit per algorithm.
    pub algorithms: u16,
    /// Algorithms of other registries.
    pub extended: ExtendedAlgorithms<'a>,
}

impl AlgorithmTable<'_> {
    /// A table of DMTF's algorithms alone.
    pub const fn new(algorithms: u16) -> Self {
        Self { algorithms, extended: ExtendedAlgorithms(&[]) }
    }

    const fn size(&self) -> usize {
        4 + self.extended.0.len()
    }
}

/// The structure tables, each of which is there or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AlgorithmTables<'a> {
    /// Groups of the key agreement, type 2.
    pub dhe: Option<AlgorithmTable<'a>>,
    /// Ciphers of sessions, type 3.
    pub aead: Option<AlgorithmTable<'a>>,
    /// Signatures of the requester, type 4.
    pub requester_asym: Option<AlgorithmTable<'a>>,
    /// Key schedules, type 5.
    pub key_schedule: Option<AlgorithmTable<'a>>,
}

impl<'a> AlgorithmTables<'a> {
    /// Each table with its type, in the order of the wire.
    fn all(&self) -> [(u8, Option<AlgorithmTable<'a>>); 4] {
        [(2, self.dhe), (3, self.aead), (4, self.requester_asym), (5, self.key_schedule)]
    }

    fn count(&self) -> u8 {
        self.all().iter().fold(0, |count, (_, table)| count + u8::from(table.is_some()))
    }

    fn size(&self) -> usize {
        self.all().iter().filter_map(|(_, table)| *table).map(|table| table.size()).sum()
    }

    fn extended(&self) -> usize {
        self.all().iter().filter_map(|(_, table)| *table).map(|table| table.extended.count()).sum()
    }

    /// Reads `count` tables, whose types must ascend.
    fn read(reader: &mut Reader<'a>, count: u8) -> Result<Self, DecodeError> {
        let mut tables = Self::default();
        let mut last = 0;
        for _ in 0..count {
            let kind = reader.u8("AlgType")?;
            let (table, known) = match kind {
                2 => (&mut tables.dhe, 0x007f),
                3 => (&mut tables.aead, 0x000f),
                4 => (&mut tables.requester_asym, 0x0fff),
                5 => (&mut tables.key_schedule, 0x0001),
                _ => return Err(DecodeError::Value { field: "AlgType", value: kind.into() }),
            };
            if kind <= last {
                let field = "AlgType behind one that is not lower";
                return Err(DecodeError::Value { field, value: kind.into() });
            }
            last = kind;
            let counts = reader.u8("AlgCount")?;
            if counts >> 4 != 2 {
                return Err(DecodeError::Value { field: "FixedAlgCount", value: (counts >> 4).into() });
            }
            let algorithms = reader.u16("AlgSupported")?;
            known_bits(algorithms.into(), known, "AlgSupported")?;
            let extended = ExtendedAlgorithms::read(reader, counts & 0xf, "AlgExternal")?;
            *table = Some(AlgorithmTable { algorithms, extended });
        }
        Ok(tables)
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        for (kind, table) in self.all() {
            if let Some(table) = table {
                writer.bytes(&[kind, 0x20 | table.extended.count_byte()])?;
                writer.u16(table.algorithms)?;
                writer.bytes(table.extended.0)?;
            }
        }
        Ok(())
    }
}

/// `Length` must be what was read since `before` bytes were left.
fn check_length(reader: &Reader<'_>, before: usize, length: u16) -> Result<(), DecodeError> {
    let read = before - reader.left();
    if usize::from(length) == read {
        Ok(())
    } else {
        Err(DecodeError::Length { field: "Length", value: length.into(), limit: read })
    }
}

fn length_field(size: usize) -> Result<u16, NoSpace> {
    u16::try_from(size).map_err(|_| NoSpace(usize::from(u16::MAX)))
}

/// `NEGOTIATE_ALGORITHMS`: what the requester can use, one bit per algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NegotiateAlgorithms<'a> {
    /// Version of the message.
    pub version: Version,
    /// Measurement specifications: 0 or [`MEASUREMENT_SPEC_DMTF`].
    pub measurement_spec: u8,
    /// Formats of opaque data, and whether the responder may use several keys.
    pub other_params: OtherParams,
    /// Signatures of the responder, [`crate::algo::AsymAlgo::bit`].
    pub base_asym: u32,
    /// Hashes, [`crate::algo::HashAlgo::bit`].
    pub base_hash: u32,
    /// Specifications of measurement extension logs: 0 or 1. 1.3.
    pub mel_spec: u8,
    /// Signatures of other registries.
    pub extended_asym: ExtendedAlgorithms<'a>,
    /// Hashes of other registries.
    pub extended_hash: ExtendedAlgorithms<'a>,
    /// The structure tables.
    pub tables: AlgorithmTables<'a>,
}

impl<'a> NegotiateAlgorithms<'a> {
    const FIXED_SIZE: usize = 32;

    /// Reads the message, which must be of that version.
    pub fn read(reader: &mut Reader<'a>, version: Version) -> Result<Self, DecodeError> {
        let before = reader.left();
        let header = Header::expect(reader, version, RequestCode::NEGOTIATE_ALGORITHMS.0)?;
        header.param2_reserved()?;
        let length = reader.u16("Length")?;
        if usize::from(length) > MAX_REQUEST {
            return Err(DecodeError::Length { field: "Length", value: length.into(), limit: MAX_REQUEST });
        }
        let measurement_spec = reader.u8("MeasurementSpecification")?;
        zero(measurement_spec & !MEASUREMENT_SPEC_DMTF, "MeasurementSpecification")?;
        let other_params = OtherParams::read(reader, version, "OtherParamsSupport")?;
        let base_asym = reader.u32("BaseAsymAlgo")?;
        known_bits(base_asym, KNOWN_ASYM, "BaseAsymAlgo")?;
        let base_hash = reader.u32("BaseHashAlgo")?;
        known_bits(base_hash, KNOWN_HASH, "BaseHashAlgo")?;
        // In 1.4, the first four are post-quantum algorithms.
        reader.reserved(4, "bytes 16 to 19")?;
        reader.reserved(8, "bytes 20 to 27")?;
        let extended_asym_count = reader.u8("ExtAsymCount")?;
        let extended_hash_count = reader.u8("ExtHashCount")?;
        reader.reserved(1, "byte 30")?;
        let mel_spec = reader.u8("MELspecification")?;
        zero(mel_spec & !u8::from(version >= Version::V1_3), "MELspecification")?;
        let extended_asym = ExtendedAlgorithms::read(reader, extended_asym_count, "ExtAsym")?;
        let extended_hash = ExtendedAlgorithms::read(reader, extended_hash_count, "ExtHash")?;
        let tables = AlgorithmTables::read(reader, header.param1)?;
        check_length(reader, before, length)?;
        let extended = extended_asym.count() + extended_hash.count() + tables.extended();
        if extended > MAX_EXTENDED {
            let field = "the list of extended algorithms";
            let (value, limit) = (extended * EXTENDED_SIZE, MAX_EXTENDED * EXTENDED_SIZE);
            return Err(DecodeError::Length { field, value, limit });
        }
        Ok(Self {
            version,
            measurement_spec,
            other_params,
            base_asym,
            base_hash,
            mel_spec,
            extended_asym,
            extended_hash,
            tables,
        })
    }

    /// Writes the message.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        let lists = self.extended_asym.0.len() + self.extended_hash.0.len();
        let code = RequestCode::NEGOTIATE_ALGORITHMS.0;
        Header::write(writer, self.version, code, self.tables.count(), 0)?;
        writer.u16(length_field(Self::FIXED_SIZE + lists + self.tables.size())?)?;
        writer.bytes(&[self.measurement_spec, self.other_params.into()])?;
        writer.u32(self.base_asym)?;
        writer.u32(self.base_hash)?;
        writer.zeros(12)?;
        writer.bytes(&[self.extended_asym.count_byte(), self.extended_hash.count_byte()])?;
        writer.bytes(&[0, self.mel_spec])?;
        writer.bytes(self.extended_asym.0)?;
        writer.bytes(self.extended_hash.0)?;
        self.tables.write(writer)
    }
}

/// `ALGORITHMS`: what the responder has chosen, at most one bit of each kind and no extended
/// algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Algorithms<'a> {
    /// Version of the message.
    pub version: Version,
    /// Measurement specification: 0 or [`MEASUREMENT_SPEC_DMTF`].
    pub measurement_spec: u8,
    /// Format of opaque data, and whether the requester may use several keys.
    pub other_params: OtherParams,
    /// Digests of measurements, [`crate::algo::HashAlgo::measurement_bit`]; 1 for raw bit streams
    /// only, 0 without measurements.
    pub measurement_hash: u32,
    /// Signature of the responder, [`crate::algo::AsymAlgo::bit`].
    pub base_asym: u32,
    /// Hash, [`crate::algo::HashAlgo::bit`].
    pub base_hash: u32,
    /// Specification of measurement extension logs: 0 or 1. 1.3.
    pub mel_spec: u8,
    /// The structure tables: one for each of the request whose kind the responder has.
    pub tables: AlgorithmTables<'a>,
}

/// Refuses more than one selected algorithm.
fn one_bit(value: u32, field: &'static str) -> Result<(), DecodeError> {
    if value.count_ones() > 1 { Err(DecodeError::Value { field, value: value.into() }) } else { Ok(()) }
}

impl<'a> Algorithms<'a> {
    const FIXED_SIZE: usize = 36;

    /// Reads the message, which must be of that version.
    pub fn read(reader: &mut Reader<'a>, version: Version) -> Result<Self, DecodeError> {
        let before = reader.left();
        let header = Header::expect(reader, version, ResponseCode::ALGORITHMS.0)?;
        header.param2_reserved()?;
        let length = reader.u16("Length")?;
        let measurement_spec = reader.u8("MeasurementSpecificationSel")?;
        zero(measurement_spec & !MEASUREMENT_SPEC_DMTF, "MeasurementSpecificationSel")?;
        let other_params = OtherParams::read(reader, version, "OtherParamsSelection")?;
        if other_params.opaque_format_0() && other_params.opaque_format_1() {
            let value = u8::from(other_params).into();
            return Err(DecodeError::Value { field: "OtherParamsSelection", value });
        }
        let mut selection = |known, field| {
            let value = reader.u32(field)?;
            known_bits(value, known, field)?;
            one_bit(value, field)?;
            Ok(value)
        };
        let measurement_hash = selection(KNOWN_MEASUREMENT_HASH, "MeasurementHashAlgo")?;
        let base_asym = selection(KNOWN_ASYM, "BaseAsymSel")?;
        let base_hash = selection(KNOWN_HASH, "BaseHashSel")?;
        // In 1.4, the first four are the post-quantum algorithm.
        reader.reserved(4, "bytes 20 to 23")?;
        reader.reserved(7, "bytes 24 to 30")?;
        let mel_spec = reader.u8("MELspecificationSel")?;
        zero(mel_spec & !u8::from(version >= Version::V1_3), "MELspecificationSel")?;
        for field in ["ExtAsymSelCount", "ExtHashSelCount"] {
            let count = reader.u8(field)?;
            if count != 0 {
                return Err(DecodeError::Value { field, value: count.into() });
            }
        }
        reader.reserved(2, "bytes 34 and 35")?;
        let tables = AlgorithmTables::read(reader, header.param1)?;
        check_length(reader, before, length)?;
        for (_, table) in tables.all() {
            let table = table.unwrap_or_default();
            one_bit(table.algorithms.into(), "AlgSupported")?;
            let value = table.extended.count() as u64;
            if value != 0 {
                return Err(DecodeError::Value { field: "ExtAlgCount", value });
            }
        }
        Ok(Self {
            version,
            measurement_spec,
            other_params,
            measurement_hash,
            base_asym,
            base_hash,
            mel_spec,
            tables,
        })
    }

    /// Writes the message.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        Header::write(writer, self.version, ResponseCode::ALGORITHMS.0, self.tables.count(), 0)?;
        writer.u16(length_field(Self::FIXED_SIZE + self.tables.size())?)?;
        writer.bytes(&[self.measurement_spec, self.other_params.into()])?;
        writer.u32(self.measurement_hash)?;
        writer.u32(self.base_asym)?;
        writer.u32(self.base_hash)?;
        writer.zeros(11)?;
        writer.u8(self.mel_spec)?;
        writer.zeros(4)?;
        self.tables.write(writer)
    }
}
