//! The part of hand-off version 2 that speaks of TDX Connect and of the extensions: behind the data of
//! version 1 a header, units, single pages of their tables, owned ranges, and what the sessions saved.
//!
//! The arrangement is this project's own: no published module has such a version.

use core::mem::size_of;

use tdx_abi::connect::ids::SpdmId;
use tdx_abi::connect::pages::{IOMMU_MT_MAX_PAGES, IommuBlock};
use tdx_abi::{PAGE_SIZE, PhysAddr, PhysRange};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use zeroize::Zeroizing;

use super::estate::HandoffError;
use crate::connect::{IommuTable, Owner};

/// What lies before the entries (16 bytes).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
struct Header {
    units: U32,
    singles: U32,
    ranges: U32,
    /// Bytes that the sessions saved.
    sessions: U32,
}

/// One VT-d unit (40 bytes).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
struct UnitEntry {
    registers: U64,
    generation: U64,
    /// Entry 0 of its IOMMU_MT; 0 if it is not in TDX mode.
    queue: U64,
    /// Entry 1.
    context: U64,
    /// Entries behind them.
    singles: U16,
    /// 1 if it is in TDX mode.
    trusted: u8,
    reserved: [u8; 5],
}

/// Neighbouring pages of one owner (24 bytes).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
struct RangeEntry {
    start: U64,
    pages: U32,
    kind: u8,
    stream: u8,
    /// Place among the units.
    unit: U16,
    session: U64,
}

const _: () = {
    assert!(size_of::<Header>() == 16);
    assert!(size_of::<UnitEntry>() == 40);
    assert!(size_of::<RangeEntry>() == 24);
};

const KIND_POOL: u8 = 0;
const KIND_UNIT: u8 = 1;
const KIND_SESSION: u8 = 2;
const KIND_STREAM: u8 = 3;

/// What one module instance leaves to the next of TDX Connect and the extensions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConnectEstate {
    pub(crate) units: Vec<UnitEstate>,
    /// Owners name units by their place in `units`.
    pub(crate) ranges: Vec<(PhysRange, Owner)>,
    /// Opaque here, and secret: keys are among it.
    pub(crate) sessions: Zeroizing<Vec<u8>>,
}

/// A unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnitEstate {
    pub(crate) registers: PhysAddr,
    pub(crate) generation: u64,
    /// Its pages, if it is in TDX mode.
    pub(crate) table: Option<IommuTable>,
}

impl ConnectEstate {
    /// The bytes.
    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let count = |len: usize| U32::new(u32::try_from(len).unwrap_or(u32::MAX));
        let tables = self.units.iter().filter_map(|unit| unit.table.as_ref());
        let singles: Vec<U64> =
            tables.flat_map(|table| table.singles.iter().map(|page| page.as_u64().into())).collect();
        let units: Vec<UnitEntry> = self.units.iter().map(UnitEntry::new).collect();
        let ranges: Vec<RangeEntry> = self.ranges.iter().map(RangeEntry::new).collect();
        let header = Header {
            units: count(units.len()),
            singles: count(singles.len()),
            ranges: count(ranges.len()),
            sessions: count(self.sessions.len()),
        };
        let parts =
            [header.as_bytes(), units.as_bytes(), singles.as_bytes(), ranges.as_bytes(), &self.sessions];
        // Sized before it is filled: a vector that grows leaves copies of the keys behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len()).sum()));
        for part in parts {
            bytes.extend_from_slice(part);
        }
        bytes
    }

    /// Reads all of `bytes`, whatever they are. Only their form is checked.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HandoffError> {
        let short = || HandoffError::Connect;
        let length = |count: U32| usize::try_from(count.get()).map_err(|_| short());
        let (header, rest) = Header::ref_from_prefix(bytes).map_err(|_| short())?;
        let (units, rest) =
            <[UnitEntry]>::ref_from_prefix_with_elems(rest, length(header.units)?).map_err(|_| short())?;
        let (mut singles, rest) =
            <[U64]>::ref_from_prefix_with_elems(rest, length(header.singles)?).map_err(|_| short())?;
        let (ranges, sessions) =
            <[RangeEntry]>::ref_from_prefix_with_elems(rest, length(header.ranges)?).map_err(|_| short())?;
        if sessions.len() != length(header.sessions)? {
            return Err(short());
        }
        let units = units
            .iter()
            .enumerate()
            .map(|(index, entry)| entry.estate(&mut singles).ok_or(HandoffError::Unit(index)))
            .collect::<Result<_, _>>()?;
        if !singles.is_empty() {
            return Err(short());
        }
        let ranges = ranges.iter().map(RangeEntry::range).collect::<Result<_, _>>()?;
        Ok(Self { units, ranges, sessions: Zeroizing::new(sessions.to_vec()) })
    }
}

impl UnitEntry {
    fn new(unit: &UnitEstate) -> Self {
        let entry = Self {
            registers: unit.registers.as_u64().into(),
            generation: unit.generation.into(),
            ..Self::default()
        };
        let Some(table) = &unit.table else {
            return entry;
        };
        let block = |block: IommuBlock| block.entry().unwrap_or_default().into();
        Self {
            queue: block(table.queue),
            context: block(table.context),
            singles: u16::try_from(table.singles.len()).unwrap_or(u16::MAX).into(),
            trusted: 1,
            ..entry
        }
    }

    /// The unit, with its share of `singles`.
    fn estate(&self, singles: &mut &[U64]) -> Option<UnitEstate> {
        let count = usize::from(self.singles.get());
        let (own, rest) = singles.split_at_checked(count).filter(|_| count <= IOMMU_MT_MAX_PAGES)?;
        *singles = rest;
        let table = match self.trusted {
            0 => None,
            1 => {
                let queue = IommuBlock::from_entry(self.queue.get())?;
                let context = IommuBlock::from_entry(self.context.get())?;
                let singles = own.iter().map(|page| PhysAddr::new(page.get())).collect();
                Some(IommuTable { queue, context, singles })
            }
            _ => return None,
        };
        let registers = PhysAddr::new(self.registers.get());
        Some(UnitEstate { registers, generation: self.generation.get(), table })
    }
}

impl RangeEntry {
    fn new(&(range, owner): &(PhysRange, Owner)) -> Self {
        let entry = Self {
            start: range.start().as_u64().into(),
            pages: u32::try_from(range.size() / PAGE_SIZE).unwrap_or(u32::MAX).into(),
            ..Self::default()
        };
        match owner {
            Owner::Pool => Self { kind: KIND_POOL, ..entry },
            Owner::Unit(unit) => Self { kind: KIND_UNIT, unit: unit.into(), ..entry },
            Owner::Session(session) => Self { kind: KIND_SESSION, session: session.0.into(), ..entry },
            Owner::Stream(session, stream) => {
                Self { kind: KIND_STREAM, session: session.0.into(), stream, ..entry }
            }
        }
    }

    fn range(&self) -> Result<(PhysRange, Owner), HandoffError> {
        let start = PhysAddr::new(self.start.get());
        let bad = || HandoffError::Page(start);
        let size = u64::from(self.pages.get()) * PAGE_SIZE;
        let range = PhysRange::from_size(start, size).filter(|_| start.is_aligned(PAGE_SIZE) && size != 0);
        let session = SpdmId(self.session.get());
        let owner = match self.kind {
            KIND_POOL => Owner::Pool,
            KIND_UNIT => Owner::Unit(self.unit.get()),
            KIND_SESSION => Owner::Session(session),
            KIND_STREAM => Owner::Stream(session, self.stream),
            _ => return Err(bad()),
        };
        Ok((range.ok_or_else(bad)?, owner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(start: u64) -> IommuBlock {
        IommuBlock { start: PhysAddr::new(start), pages: 2 }
    }

    fn estate() -> ConnectEstate {
        let range =
            |start, pages| PhysRange::from_size(PhysAddr::new(start), pages * PAGE_SIZE).expect("a range");
        let table = IommuTable {
            queue: block(0x2000),
            context: block(0x4000),
            singles: [0x9000, 0x8000].map(PhysAddr::new).to_vec(),
        };
        ConnectEstate {
            units: vec![
                UnitEstate { registers: PhysAddr::new(0xD000_0000), generation: 3, table: None },
                UnitEstate { registers: PhysAddr::new(0xD001_0000), generation: 4, table: Some(table) },
            ],
            ranges: vec![
                (range(0x2000, 4), Owner::Unit(1)),
                (range(0x8000, 2), Owner::Unit(1)),
                (range(0x10_0000, 64), Owner::Pool),
                (range(0x20_0000, 2), Owner::Session(SpdmId(7))),
                (range(0x20_2000, 1), Owner::Stream(SpdmId(7), 9)),
            ],
            sessions: Zeroizing::new(vec![1, 2, 3]),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for estate in [estate(), ConnectEstate::default()] {
            assert_eq!(ConnectEstate::decode(&estate.encode()), Ok(estate));
        }
    }

    #[test]
    fn neither_less_nor_more_than_all_is_read() {
        let bytes = estate().encode();
        for length in 0..bytes.len() {
            assert!(ConnectEstate::decode(bytes.get(..length).expect("shorter")).is_err(), "{length}");
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert_eq!(ConnectEstate::decode(&longer), Err(HandoffError::Connect));
    }

    #[test]
    fn entries_that_no_module_writes_are_refused() {
        let header = size_of::<Header>();
        let ranges = header + 2 * size_of::<UnitEntry>() + 2 * size_of::<U64>();
        let second = header + size_of::<UnitEntry>();
        for (at, value, error) in [
            // TDX mode 2, and a block of three pages.
            (second + 34, 2, HandoffError::Unit(1)),
            (second + 16, 3, HandoffError::Unit(1)),
            // An unaligned start, no page, an unknown owner.
            (ranges, 1, HandoffError::Page(PhysAddr::new(0x2001))),
            (ranges + 8, 0, HandoffError::Page(PhysAddr::new(0x2000))),
            (ranges + 12, 4, HandoffError::Page(PhysAddr::new(0x2000))),
        ] {
            let mut bytes = estate().encode();
            *bytes.get_mut(at).expect("inside") = value;
            assert_eq!(ConnectEstate::decode(&bytes), Err(error), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(estate) = ConnectEstate::decode(&bytes) {
                prop_assert_eq!(ConnectEstate::decode(&estate.encode()), Ok(estate));
            }
        }
    }
}
