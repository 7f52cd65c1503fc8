//! TDMRs by the default rules: as few reserved areas as the CMRs allow, as near to the nodes as the number
//! of TDMRs allows.

use tdx_abi::addr::SIZE_1G;
use tdx_abi::tdmr::MAX_TDMRS;
use tdx_abi::{PhysAddr, PhysRange};

use super::{Pamt, ReservedList, Tdmr, TdmrLimits, TdmrTable, allocate_pamt, blocks_in, gib_around};
use crate::error::HostError;
use crate::memory::{CmrSet, MemoryBlock};
use crate::traits::{LeakCounter, Pages};

/// A place between two memory blocks where one TDMR may end and the next begin.
#[derive(Clone, Copy, Default)]
struct Border {
    /// End of the TDMR before.
    end: PhysAddr,
    /// Start of the TDMR behind.
    start: PhysAddr,
}

impl Border {
    /// Bytes of PAMT-covered hole that the border saves; 0 where it only parts two nodes.
    fn gap(&self) -> u64 {
        self.start.as_u64() - self.end.as_u64()
    }
}

pub(super) fn build<L: LeakCounter, P: Pages<Leaks = L> + ?Sized>(
    table: &mut TdmrTable<L>,
    blocks: &[MemoryBlock],
    cmrs: &CmrSet,
    limits: &TdmrLimits,
    pages: &P,
) -> Result<(), HostError> {
    lay_out(table, blocks, limits)?;
    let mut moves = 0;
    loop {
        place_pamts(table, blocks, limits, pages)?;
        let Some((index, needed)) = reserve(table, cmrs, limits) else { return Ok(()) };
        let Some(range) = table.get(index).map(Tdmr::range) else { return Ok(()) };
        // Splitting ends by itself, as TDMRs run out; moving ends when each PAMT has been moved once.
        if split_in_two(table, index, cmrs, limits, pages) {
            continue;
        }
        if moves < MAX_TDMRS && move_pamt_out(table, range, cmrs, limits, pages) {
            moves += 1;
            continue;
        }
        return Err(HostError::TooManyReservedAreas { tdmr: range, needed, limit: limits.max_reserved });
    }
}

/// Makes TDMRs of the blocks, without PAMTs.
///
/// Blocks whose GiB touch share a TDMR unless their nodes differ. If there are too many TDMRs, the
/// narrowest gaps are bridged: a bridged gap costs PAMT for memory that is not there, so that all of them
/// together may be as large as the memory itself and no larger.
fn lay_out<L: LeakCounter>(
    table: &mut TdmrTable<L>,
    blocks: &[MemoryBlock],
    limits: &TdmrLimits,
) -> Result<(), HostError> {
    let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else {
        return Err(HostError::NoTdxMemory);
    };
    let memory: u64 = blocks.iter().map(|block| block.range.size()).sum();
    let max = usize::from(limits.max_tdmrs).min(MAX_TDMRS);
    // A quarter stays free for splits, if the memory does not need it.
    let mut borders = Borders::choose(blocks, max - 1 - max / 4);
    if borders.bridged > memory {
        borders = Borders::choose(blocks, max - 1);
    }
    if borders.bridged > memory {
        return Err(HostError::TooManyTdmrs { limit: limits.max_tdmrs, at: borders.highest_bridged });
    }
    let mut start = gib_around(first.range).start();
    for border in borders.ascending() {
        push(table, blocks, start, border.end, limits)?;
        start = border.start;
    }
    push(table, blocks, start, gib_around(last.range).end(), limits)
}

/// The borders between TDMRs, chosen by the width of their gaps.
struct Borders {
    kept: [Border; MAX_TDMRS],
    count: usize,
    /// Bytes of all gaps that are no border.
    bridged: u64,
    /// Where the memory behind the highest of them begins.
    highest_bridged: PhysAddr,
}

impl Borders {
    /// Keeps the `budget` widest.
    fn choose(blocks: &[MemoryBlock], budget: usize) -> Self {
        let mut borders = Self {
            kept: [Border::default(); MAX_TDMRS],
            count: 0,
            bridged: 0,
            highest_bridged: PhysAddr::default(),
        };
        let Some((&first, rest)) = blocks.split_first() else { return borders };
        let mut before = first;
        for &block in rest {
            let border = border_between(before, block);
            // A block that ends in the GiB where the one before ends belongs to that one's TDMR.
            let inside = gib_around(block.range).end() == gib_around(before.range).end();
            before = if inside { MemoryBlock { range: block.range, node: before.node } } else { block };
            if let Some(border) = border {
                borders.offer(border, budget);
            }
        }
        borders
    }

    fn offer(&mut self, border: Border, budget: usize) {
        if self.count < budget {
            if let Some(place) = self.kept.get_mut(self.count) {
                *place = border;
                self.count += 1;
            }
            return;
        }
        let narrowest = self.kept.iter_mut().take(self.count).min_by_key(|kept| kept.gap());
        let dropped = match narrowest.filter(|kept| kept.gap() < border.gap()) {
            Some(narrowest) => core::mem::replace(narrowest, border),
            None => border,
        };
        self.bridged = self.bridged.saturating_add(dropped.gap());
        self.highest_bridged = self.highest_bridged.max(dropped.start);
    }

    fn ascending(&mut self) -> &[Border] {
        let kept = self.kept.get_mut(..self.count).unwrap_or_default();
        kept.sort_unstable_by_key(|border| border.start);
        kept
    }
}

fn border_between(before: MemoryBlock, behind: MemoryBlock) -> Option<Border> {
    let (around, next) = (gib_around(before.range), gib_around(behind.range));
    if next.start() > around.end() {
        return Some(Border { end: around.end(), start: next.start() });
    }
    let parts_nodes = before.node != behind.node && next.end() > around.end();
    parts_nodes.then_some(Border { end: around.end(), start: around.end() })
}

fn push<L: LeakCounter>(
    table: &mut TdmrTable<L>,
    blocks: &[MemoryBlock],
    start: PhysAddr,
    end: PhysAddr,
    limits: &TdmrLimits,
) -> Result<(), HostError> {
    let Some(range) = PhysRange::new(start, end) else { return Ok(()) };
    let node = blocks_in(blocks, range).first().map_or_else(Default::default, |block| block.node);
    table.push(Tdmr::new(range, node), limits)
}

/// Gives a PAMT to each TDMR that has none. Where no range is large enough the TDMR is halved.
fn place_pamts<L: LeakCounter, P: Pages<Leaks = L> + ?Sized>(
    table: &mut TdmrTable<L>,
    blocks: &[MemoryBlock],
    limits: &TdmrLimits,
    pages: &P,
) -> Result<(), HostError> {
    let mut index = 0;
    while let Some(tdmr) = table.get_mut(index) {
        // The second half of a split TDMR may begin on another node.
        let node = blocks_in(blocks, tdmr.range).first().map_or(tdmr.node, |block| block.node);
        tdmr.node = node;
        let range = tdmr.range;
        if !matches!(tdmr.pamt, Pamt::Missing) {
            index += 1;
        } else if let Some(pamt) = allocate_pamt(range, node, &[], limits, pages) {
            tdmr.pamt = Pamt::Owned(pamt);
            index += 1;
        } else {
            let half = range.start().checked_add(range.size() / 2).unwrap_or(range.end());
            if !table.split(index, half.align_down(SIZE_1G), limits, pages) {
                let bytes = limits.pamt_bytes(range.size());
                return Err(HostError::NoContiguousPamt { bytes, tdmr: range, node });
            }
        }
    }
    Ok(())
}

/// Works the reserved areas out; the first TDMR that needs too many, with how many.
fn reserve<L: LeakCounter>(
    table: &mut TdmrTable<L>,
    cmrs: &CmrSet,
    limits: &TdmrLimits,
) -> Option<(usize, usize)> {
    let (pamts, count) = table.sorted_pamts();
    let pamts = pamts.get(..count).unwrap_or_default();
    for (index, tdmr) in table.entries.iter_mut().flatten().enumerate() {
        tdmr.reserved = reserved_areas(tdmr.range, cmrs, pamts);
        let needed = tdmr.reserved.needed();
        if needed > usize::from(limits.max_reserved) {
            return Some((index, needed));
        }
    }
    None
}

/// The TDMRs in which no reserved area is free, and how many they are.
fn full_tdmrs<L: LeakCounter>(
    table: &TdmrTable<L>,
    cmrs: &CmrSet,
    limits: &TdmrLimits,
) -> ([PhysRange; MAX_TDMRS], usize) {
    let (pamts, count) = table.sorted_pamts();
    let pamts = pamts.get(..count).unwrap_or_default();
    let is_full = |range: &PhysRange| needed(*range, cmrs, pamts) >= usize::from(limits.max_reserved);
    let mut full = [PhysRange::default(); MAX_TDMRS];
    let mut count = 0;
    for (place, range) in full.iter_mut().zip(table.iter().map(Tdmr::range).filter(is_full)) {
        *place = range;
        count += 1;
    }
    (full, count)
}

/// The reserved areas of a TDMR over `range`: what no CMR covers, and the parts of PAMTs.
fn reserved_areas(range: PhysRange, cmrs: &CmrSet, pamts: &[PhysRange]) -> ReservedList {
    let inside = pamts.iter().filter_map(|pamt| pamt.intersection(range));
    ReservedList::merged(cmrs.uncovered(range), inside)
}

/// How many reserved areas a TDMR over `range` needs.
fn needed(range: PhysRange, cmrs: &CmrSet, pamts: &[PhysRange]) -> usize {
    reserved_areas(range, cmrs, pamts).needed()
}

/// Splits a TDMR at the GiB border that shares its areas out best; false if none does.
fn split_in_two<L: LeakCounter, P: Pages<Leaks = L> + ?Sized>(
    table: &mut TdmrTable<L>,
    index: usize,
    cmrs: &CmrSet,
    limits: &TdmrLimits,
    pages: &P,
) -> bool {
    let (pamts, count) = table.sorted_pamts();
    let Some(range) = table.get(index).map(Tdmr::range) else { return false };
    let pamts = pamts.get(..count).unwrap_or_default();
    let needed = |part: PhysRange| needed(part, cmrs, pamts);
    let whole = needed(range);
    // The larger half shrinks as the border moves right until both are even: halve the interval.
    let (mut low, mut high) = (0, range.size() / SIZE_1G);
    let mut best: Option<(usize, PhysAddr)> = None;
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        let Some(border) = range.start().checked_add(middle * SIZE_1G) else { break };
        let halves = PhysRange::new(range.start(), border).zip(PhysRange::new(border, range.end()));
        let Some((left, right)) = halves else { break };
        let (left, right) = (needed(left), needed(right));
        let larger = left.max(right);
        if best.is_none_or(|(fewest, _)| larger < fewest) {
            best = Some((larger, border));
        }
        if left < right {
            low = middle;
        } else {
            high = middle;
        }
    }
    match best {
        Some((fewest, border)) if fewest < whole => table.split(index, border, limits, pages),
        _ => false,
    }
}

/// Moves one PAMT that lies in `range` to a place outside; false if none can be moved.
fn move_pamt_out<L: LeakCounter, P: Pages<Leaks = L> + ?Sized>(
    table: &mut TdmrTable<L>,
    range: PhysRange,
    cmrs: &CmrSet,
    limits: &TdmrLimits,
    pages: &P,
) -> bool {
    let (full, count) = full_tdmrs(table, cmrs, limits);
    let full = full.get(..count).unwrap_or_default();
    let inside = |tdmr: &&mut Tdmr<L>| tdmr.pamt().is_some_and(|pamt| pamt.overlaps(range));
    for tdmr in table.entries.iter_mut().flatten().filter(inside) {
        // Not to where it would be one too many again. If all of them are full, a place that touches an
        // area may still do.
        let new = allocate_pamt(tdmr.range, tdmr.node, full, limits, pages)
            .or_else(|| allocate_pamt(tdmr.range, tdmr.node, &[range], limits, pages));
        let Some(new) = new else { continue };
        if let Pamt::Owned(old) = core::mem::replace(&mut tdmr.pamt, Pamt::Owned(new)) {
            pages.free(old);
        }
        return true;
    }
    false
}
