//! TDX memory blocks: the memory that the page allocator owns and that TDX must therefore be able to use.

use core::ops::ControlFlow;

use tdx_abi::cmr::MAX_CMRS;
use tdx_abi::{PAGE_SIZE, PhysAddr, PhysRange};

use crate::error::HostError;
use crate::traits::{Firmware, NodeId};

/// Memory below is never TDX memory: firmware and legacy devices use it.
pub const LOWEST_TDX_MEMORY: PhysAddr = PhysAddr::new(1 << 20);

/// No physical address reaches as far.
const HIGHEST_ADDRESS: PhysAddr = PhysAddr::new(1 << 52);

/// A range of memory of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct MemoryBlock {
    /// Where it is; 4 KiB aligned.
    pub range: PhysRange,
    /// Its node.
    pub node: NodeId,
}

/// The TDX memory blocks, ascending and disjoint, in storage that the embedder lends.
#[derive(Debug, Default)]
pub struct TdxMemory<B> {
    storage: B,
    len: usize,
}

impl<B: AsRef<[MemoryBlock]> + AsMut<[MemoryBlock]>> TdxMemory<B> {
    /// No blocks; as many fit as `storage` has room for.
    pub const fn new(storage: B) -> Self {
        Self { storage, len: 0 }
    }

    /// The blocks.
    pub fn blocks(&self) -> &[MemoryBlock] {
        self.storage.as_ref().get(..self.len).unwrap_or_default()
    }

    /// Forgets all blocks: TDX is off.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Takes the memory ranges of `firmware` over, cut to whole pages from 1 MiB up.
    pub fn collect<F: Firmware + ?Sized>(&mut self, firmware: &F) -> Result<(), HostError> {
        self.len = 0;
        let mut result = Ok(());
        firmware.memory_ranges(&mut |range, node| {
            result = self.add(range, node);
            if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        if result.is_ok() && self.len == 0 {
            result = Err(HostError::NoTdxMemory);
        }
        if result.is_err() {
            self.clear();
        }
        result
    }

    /// Adds a range above all others.
    fn add(&mut self, range: PhysRange, node: NodeId) -> Result<(), HostError> {
        let start = range.start().max(LOWEST_TDX_MEMORY).align_up(PAGE_SIZE);
        let Some(start) = start else { return Ok(()) };
        let Some(usable) = PhysRange::new(start, range.end().align_down(PAGE_SIZE)) else { return Ok(()) };
        if usable.is_empty() {
            return Ok(());
        }
        // No CMR, and no TDMR, can lie there.
        if usable.end() > HIGHEST_ADDRESS {
            return Err(HostError::RamOutsideCmrs { range: usable });
        }
        let used = self.len;
        let storage = self.storage.as_mut();
        if let Some(last) = used.checked_sub(1).and_then(|last| storage.get_mut(last)) {
            if usable.start() < last.range.end() {
                return Err(HostError::MemoryRangesOverlap { range });
            }
            let joined = PhysRange::new(last.range.start(), usable.end());
            if let (true, Some(joined)) = (usable.start() == last.range.end() && node == last.node, joined) {
                last.range = joined;
                return Ok(());
            }
        }
        let limit = storage.len();
        let place = storage.get_mut(used).ok_or(HostError::TooManyMemoryRanges { limit })?;
        *place = MemoryBlock { range: usable, node };
        self.len += 1;
        Ok(())
    }

    /// Judges memory that is about to go online: while TDX is on it must lie inside one block.
    pub fn may_go_online(&self, range: PhysRange) -> Result<(), HostError> {
        let blocks = self.blocks();
        if blocks.is_empty() {
            return Ok(());
        }
        let behind = blocks.partition_point(|block| block.range.start() <= range.start());
        let inside = behind.checked_sub(1).and_then(|i| blocks.get(i));
        match inside {
            Some(block) if block.range.covers(range) => Ok(()),
            _ => Err(HostError::HotplugOutsideTdxMemory { range }),
        }
    }
}

/// Convertible memory ranges in order, those that touch joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CmrSet {
    ranges: [PhysRange; MAX_CMRS],
    len: usize,
}

impl Default for CmrSet {
    fn default() -> Self {
        Self { ranges: [PhysRange::default(); MAX_CMRS], len: 0 }
    }
}

impl CmrSet {
    /// The set of the ranges that the module reports, in any order; empty ones are skipped. More than
    /// [`MAX_CMRS`] are `None`.
    pub fn new(reported: impl IntoIterator<Item = PhysRange>) -> Option<Self> {
        let mut set = Self::default();
        for range in reported.into_iter().filter(|range| !range.is_empty()) {
            *set.ranges.get_mut(set.len)? = range;
            set.len += 1;
        }
        let used = set.ranges.get_mut(..set.len)?;
        used.sort_unstable();
        let mut kept = 0;
        for i in 0..used.len() {
            let next = *used.get(i)?;
            match kept {
                0 => {}
                _ if used.get(kept - 1)?.end() >= next.start() => {
                    let last = used.get_mut(kept - 1)?;
                    *last = PhysRange::new(last.start(), last.end().max(next.end()))?;
                    continue;
                }
                _ => {}
            }
            *used.get_mut(kept)? = next;
            kept += 1;
        }
        set.len = kept;
        Some(set)
    }

    /// The ranges, ascending; between two of them there is always a gap.
    pub fn ranges(&self) -> &[PhysRange] {
        self.ranges.get(..self.len).unwrap_or_default()
    }

    /// True if all of `range` is convertible.
    pub fn covers(&self, range: PhysRange) -> bool {
        self.uncovered(range).next().is_none()
    }

    /// The parts of `range` that no CMR covers, ascending.
    pub fn uncovered(&self, range: PhysRange) -> impl Iterator<Item = PhysRange> + '_ {
        let ranges = self.ranges();
        let mut next = ranges.partition_point(|cmr| cmr.end() <= range.start());
        let mut at = range.start();
        core::iter::from_fn(move || {
            while at < range.end() {
                let cmr = ranges.get(next).copied();
                let gap_end = cmr.map_or(range.end(), |cmr| cmr.start().min(range.end()));
                let gap = PhysRange::new(at, gap_end).filter(|gap| !gap.is_empty());
                at = cmr.map_or(range.end(), |cmr| cmr.end().max(at));
                next += 1;
                if gap.is_some() {
                    return gap;
                }
            }
            None
        })
    }

    /// Fails with the first range of `blocks` that lies outside.
    pub fn check(&self, blocks: &[MemoryBlock]) -> Result<(), HostError> {
        match blocks.iter().find_map(|block| self.uncovered(block.range).next()) {
            Some(range) => Err(HostError::RamOutsideCmrs { range }),
            None => Ok(()),
        }
    }
}
