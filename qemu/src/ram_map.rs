//! Where the machine has RAM. The plugin interface does not say; the table that QEMU hands to its
//! firmware does.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};

use tdx_abi::{PhysAddr, PhysRange};

use crate::api::Lookup;

/// Why there is no map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RamMapError {
    /// QEMU keeps the function to itself.
    #[error(
        "this build of QEMU does not export e820_get_entry, which tells where RAM is: use a build with modules, such as Debian's"
    )]
    NotExported,
    /// A machine without the table.
    #[error("this machine type has no RAM in its e820 table: use -machine q35")]
    Empty,
}

/// Type of RAM in the table.
const E820_RAM: u32 = 1;
/// More rows than any machine of QEMU has; the function does not tell an end from another type.
const ROWS: c_int = 256;

/// One page: the unit of the map.
const PAGE: u64 = 0x1000;
/// Video memory and ROMs, which the table lists as RAM.
const LEGACY: (u64, u64) = (0xA_0000, 0x10_0000);

type GetEntry = unsafe extern "C" fn(c_int, u32, *mut u64, *mut u64) -> bool;

/// The ranges of RAM, ascending, in whole pages, without the legacy area below 1 MiB.
pub(crate) fn ram_ranges(lookup: Lookup) -> Result<Vec<PhysRange>, RamMapError> {
    let symbol = lookup(c"e820_get_entry");
    if symbol.is_null() {
        return Err(RamMapError::NotExported);
    }
    // SAFETY: QEMU's own function of that name: index, type, and where to put address and size.
    let get_entry = unsafe { std::mem::transmute::<*mut c_void, GetEntry>(symbol) };
    let rows = (0..ROWS).filter_map(|row| {
        let (mut start, mut size) = (0, 0);
        // SAFETY: both results are written before `true` comes back; any index is answered.
        unsafe { get_entry(row, E820_RAM, &raw mut start, &raw mut size) }.then_some((start, size))
    });
    let ranges = usable(rows);
    if ranges.is_empty() { Err(RamMapError::Empty) } else { Ok(ranges) }
}

fn usable(rows: impl Iterator<Item = (u64, u64)>) -> Vec<PhysRange> {
    let mut ranges: Vec<PhysRange> = rows
        .filter_map(|(start, size)| Some((start, start.checked_add(size)?)))
        .flat_map(|(start, end)| [(start, end.min(LEGACY.0)), (start.max(LEGACY.1), end)])
        .filter_map(|(start, end)| whole_pages(start, end))
        .collect();
    ranges.sort_by_key(|range| range.start());
    ranges
}

fn whole_pages(start: u64, end: u64) -> Option<PhysRange> {
    let (start, end) = (start.checked_next_multiple_of(PAGE)?, end & !(PAGE - 1));
    if start < end { PhysRange::new(PhysAddr::new(start), PhysAddr::new(end)) } else { None }
}

#[cfg(test)]
mod tests {
    use std::ptr::null_mut;

    use super::*;

    fn bounds(rows: &[(u64, u64)]) -> Vec<(u64, u64)> {
        usable(rows.iter().copied()).iter().map(|r| (r.start().as_u64(), r.end().as_u64())).collect()
    }

    #[test]
    fn ram_is_sorted_in_whole_pages_and_without_the_legacy_area() {
        assert_eq!(
            bounds(&[(1 << 32, 0x8000_0000), (0, 0x8000_0000)]),
            [(0, 0xA_0000), (0x10_0000, 0x8000_0000), (1 << 32, 0x1_8000_0000)]
        );
        assert_eq!(bounds(&[(0x10_0800, 0x2000)]), [(0x10_1000, 0x10_2000)]);
        assert_eq!(bounds(&[(0xA_0000, 0x6_0000), (0x20_0000, 0x10), (u64::MAX, 2)]), []);
    }

    #[test]
    fn a_qemu_that_hides_its_table_is_told_apart_from_an_empty_one() {
        extern "C" fn none(_: c_int, _: u32, _: *mut u64, _: *mut u64) -> bool {
            false
        }
        assert_eq!(ram_ranges(|_| null_mut()), Err(RamMapError::NotExported));
        assert_eq!(ram_ranges(|_| none as *mut c_void), Err(RamMapError::Empty));
    }

    #[test]
    fn rows_of_ram_are_found_between_others() {
        extern "C" fn third(row: c_int, kind: u32, start: *mut u64, size: *mut u64) -> bool {
            if row != 2 || kind != E820_RAM {
                return false;
            }
            // SAFETY: the caller's variables.
            unsafe {
                *start = 0x10_0000;
                *size = 0x10_0000;
            }
            true
        }
        let ranges = ram_ranges(|_| third as *mut c_void);
        assert_eq!(ranges.map(|ranges| ranges.len()), Ok(1));
    }
}
