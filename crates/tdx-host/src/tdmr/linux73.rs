//! TDMRs as Linux 7.3 makes them: one pass over the memory blocks, every hole reserved, nothing merged.

use tdx_abi::PhysRange;

use super::{Pamt, ReservedList, Tdmr, TdmrLimits, TdmrTable, allocate_pamt, blocks_in, gib_around};
use crate::error::HostError;
use crate::memory::MemoryBlock;
use crate::traits::{LeakCounter, Pages};

pub(super) fn build<L: LeakCounter, P: Pages<Leaks = L> + ?Sized>(
    table: &mut TdmrTable<L>,
    blocks: &[MemoryBlock],
    limits: &TdmrLimits,
    pages: &P,
) -> Result<(), HostError> {
    fill(table, blocks, limits)?;
    for tdmr in table.entries.iter_mut().flatten() {
        let bytes = limits.pamt_bytes(tdmr.range.size());
        let failed = HostError::NoContiguousPamt { bytes, tdmr: tdmr.range, node: tdmr.node };
        tdmr.pamt = Pamt::Owned(allocate_pamt(tdmr.range, tdmr.node, &[], limits, pages).ok_or(failed)?);
    }
    let (pamts, count) = table.sorted_pamts();
    for tdmr in table.entries.iter_mut().flatten() {
        let mut reserved = ReservedList::default();
        holes(blocks, tdmr.range, |hole| reserved.push(hole));
        for part in pamts.iter().take(count).filter_map(|pamt| pamt.intersection(tdmr.range)) {
            reserved.push(part);
        }
        if reserved.needed() > usize::from(limits.max_reserved) {
            return Err(HostError::TooManyReservedAreas {
                tdmr: tdmr.range,
                needed: reserved.needed(),
                limit: limits.max_reserved,
            });
        }
        reserved.sort();
        tdmr.reserved = reserved;
    }
    Ok(())
}

/// Cuts the blocks into TDMRs.
fn fill<L: LeakCounter>(
    table: &mut TdmrTable<L>,
    blocks: &[MemoryBlock],
    limits: &TdmrLimits,
) -> Result<(), HostError> {
    let mut last: Option<PhysRange> = None;
    for block in blocks {
        let around = gib_around(block.range);
        let start = match last {
            Some(last) if around.end() <= last.end() => continue,
            Some(last) => around.start().max(last.end()),
            None => around.start(),
        };
        let Some(range) = PhysRange::new(start, around.end()) else { continue };
        // The PAMT goes to the node of the first block that ends behind the TDMR's base: this one, as all
        // blocks before it lie in the TDMRs before.
        table.push(Tdmr::new(range, block.node), limits)?;
        last = Some(range);
    }
    Ok(())
}

/// The parts of `range` that belong to no block.
fn holes(blocks: &[MemoryBlock], range: PhysRange, mut each: impl FnMut(PhysRange)) {
    let mut at = range.start();
    for block in blocks_in(blocks, range) {
        if let Some(hole) = PhysRange::new(at, block.range.start()).filter(|hole| !hole.is_empty()) {
            each(hole);
        }
        at = at.max(block.range.end());
    }
    if let Some(hole) = PhysRange::new(at, range.end()).filter(|hole| !hole.is_empty()) {
        each(hole);
    }
}
