//! Memory as the memory controllers of a TDX platform keep it: content, TD-owner bit, poison and
//! (in Ci mode) a MAC for each 64-byte line, and caches that write back late.
//!
//! Only touched pages exist. Ranges that the module initialises by MOVDIR64B are kept as runs, so
//! that the PAMT of a machine of many TiB costs a few entries. Blocks of 1 GiB lock independently.
//!
//! One tag per line is enough: the key it was written with (KeyID and generation), TD-owner,
//! poison. Writes never fail; reads decide.

mod blocks;
mod dram;
mod foreign;
mod line;
mod region;
mod runs;
mod view;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tdx_abi::addr::LINE_SIZE;
use tdx_abi::{KeyId, KeyIdPartitioning, PhysAddr, PhysRange};

pub(crate) use dram::Dram;
pub use foreign::Ram;
pub use line::{PoisonCause, PoisonRecord};
pub(crate) use view::{Rules, Store};

use crate::event::EventLog;
use blocks::{Blocks, spans, split};
use region::{Context, Region};
use view::Keys;

/// The memory of one machine, content and all.
pub(crate) struct Memory {
    rules: Rules,
    keys: Keys,
    blocks: Blocks<Region>,
    /// Number of the last cached write.
    writes: AtomicU64,
    /// For each package the write up to which its caches are clean.
    flushed_by_package: Box<[AtomicU64]>,
    /// The smallest of them.
    flushed: AtomicU64,
    /// Blocks that may hold displaced lines: a hint that saves a walk.
    displaced_blocks: AtomicU64,
    events: Arc<EventLog>,
}

/// Pages and runs that a memory keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryFootprint {
    /// Pages with content of their own.
    pub pages: usize,
    /// Runs of initialised lines.
    pub runs: usize,
}

impl Memory {
    pub(crate) fn new(
        rules: Rules,
        partitioning: KeyIdPartitioning,
        keys: usize,
        packages: usize,
        events: Arc<EventLog>,
    ) -> Self {
        Self {
            rules,
            keys: Keys::new(partitioning, keys),
            blocks: Blocks::new(),
            writes: AtomicU64::new(0),
            flushed_by_package: (0..packages.max(1)).map(|_| AtomicU64::new(0)).collect(),
            flushed: AtomicU64::new(0),
            displaced_blocks: AtomicU64::new(0),
            events,
        }
    }

    /// Power lost: no content, no owner, no poison, no keys.
    pub(crate) fn reset(&self) {
        self.blocks.for_each_existing(|_, region| *region = Region::default());
        self.keys.reset();
        self.displaced_blocks.store(0, Ordering::Relaxed);
    }

    /// PCONFIG: from now on `key` is another key. False if the machine has no such KeyID.
    pub(crate) fn program_key(&self, key: KeyId) -> bool {
        self.keys.program(key)
    }

    /// Reads memory. `Err`: the first poisoned line.
    pub(crate) fn read(&self, pa: PhysAddr, key: KeyId, bytes: &mut [u8]) -> Result<(), PhysAddr> {
        let reader = self.keys.accessor(key);
        for span in spans(pa, bytes.len()) {
            let Some(now) = bytes.get_mut(span.place) else { break };
            match self.blocks.get(span.base) {
                Some(region) => {
                    let ctx = self.context(span.base);
                    region.lock().read(&ctx, span.offset, reader, now)?;
                }
                None => now.fill(0xFF),
            }
        }
        Ok(())
    }

    /// Writes memory.
    pub(crate) fn write(&self, pa: PhysAddr, key: KeyId, bytes: &[u8], store: Store) {
        let writer = self.keys.accessor(key);
        for span in spans(pa, bytes.len()) {
            let (Some(now), Some(region)) = (bytes.get(span.place), self.blocks.get(span.base)) else {
                continue;
            };
            if store == Store::Cached {
                self.writes.fetch_add(1, Ordering::Relaxed);
            }
            let ctx = self.context(span.base);
            let mut region = region.lock();
            region.write(&ctx, span.offset, writer, now, store);
            self.note_displaced(&region);
        }
    }

    /// Fills whole lines with zeros by MOVDIR64B. Lines that `range` touches in part are filled
    /// whole: the instruction has no other size.
    pub(crate) fn initialise(&self, range: PhysRange, key: KeyId) {
        let writer = self.keys.accessor(key);
        self.for_each_block(range, |ctx, region, start, end| {
            region.initialise(ctx, start, end, writer);
            self.note_displaced(region);
        });
    }

    /// CLFLUSH of every line of `range` through `key`.
    pub(crate) fn flush(&self, range: PhysRange, key: KeyId) {
        self.for_each_block(range, |ctx, region, start, end| region.flush(ctx, start, end, key));
    }

    /// Caches write displaced lines of `range` back, as they do when they need room.
    pub(crate) fn evict(&self, range: PhysRange) {
        self.for_each_block(range, |ctx, region, start, end| region.evict(ctx, start, end));
    }

    /// WBINVD on a package. Lines written before it are clean once every package has done so:
    /// which package holds a line is not tracked.
    pub(crate) fn write_back_invalidate(&self, package: usize) {
        let Some(slot) = self.flushed_by_package.get(package) else { return };
        slot.store(self.writes.load(Ordering::Acquire), Ordering::Release);
        let flushed =
            self.flushed_by_package.iter().map(|slot| slot.load(Ordering::Acquire)).min().unwrap_or(0);
        if self.flushed.fetch_max(flushed, Ordering::AcqRel) >= flushed
            || self.displaced_blocks.load(Ordering::Acquire) == 0
        {
            return;
        }
        self.displaced_blocks.store(0, Ordering::Release);
        self.blocks.for_each_existing(|base, region| {
            region.flush_older(&self.context(base));
            self.note_displaced(region);
        });
    }

    /// Why the line of `pa` is poisoned.
    pub(crate) fn poisoned_by(&self, pa: PhysAddr) -> Option<PoisonRecord> {
        let (block, offset) = split(pa.as_u64());
        let cause = self.blocks.existing(block)?.lock().poisoned_by(offset / 64)?;
        Some(PoisonRecord { line: pa.align_down(LINE_SIZE), cause })
    }

    pub(crate) fn footprint(&self) -> MemoryFootprint {
        let mut sum = MemoryFootprint::default();
        self.blocks.for_each_existing(|_, region| {
            let (pages, runs) = region.footprint();
            sum.pages += pages;
            sum.runs += runs;
        });
        sum
    }

    fn context(&self, base: u64) -> Context<'_> {
        Context {
            rules: self.rules,
            base,
            now: self.writes.load(Ordering::Relaxed),
            flushed: self.flushed.load(Ordering::Relaxed),
            events: &self.events,
        }
    }

    fn note_displaced(&self, region: &Region) {
        if region.holds_displaced_lines() {
            self.displaced_blocks.store(1, Ordering::Release);
        }
    }

    fn for_each_block(&self, range: PhysRange, mut act: impl FnMut(&Context<'_>, &mut Region, u32, u32)) {
        self.blocks
            .for_each_in(range, |base, region, first, last| act(&self.context(base), region, first, last));
    }
}

#[cfg(test)]
mod tests;
