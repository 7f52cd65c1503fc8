//! Memory as the memory controllers of a TDX platform keep it: content, TD-owner bit, poison and
//! (in Ci mode) a MAC for each 64-byte line, and caches that write back late.
//!
//! Only touched pages exist. Ranges that the module initialises by MOVDIR64B are kept as runs, so
//! that the PAMT of a machine of many TiB costs a few entries. Blocks of 1 GiB lock independently.
//!
//! One tag per line is enough: the key it was written with (KeyID and generation), TD-owner,
//! poison. Writes never fail; reads decide.

mod line;
mod region;
mod runs;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;
use tdx_abi::addr::{LINE_SIZE, SIZE_1G};
use tdx_abi::{KeyId, KeyIdPartitioning, PhysAddr, PhysRange};

pub(crate) use line::KeyStamp;
pub use line::{PoisonCause, PoisonRecord};
pub(crate) use region::{Rules, Store};

use crate::event::EventLog;
use region::{Accessor, Context, Region};

/// Blocks of 1 GiB that one table of the second level names.
const BLOCKS_PER_TABLE: u64 = 4096;
/// Tables of the first level: 2^52 bytes in all.
const TABLES: usize = 1024;

type Table = Box<[OnceLock<Box<Mutex<Region>>>]>;

/// The memory of one machine.
pub(crate) struct Memory {
    rules: Rules,
    partitioning: KeyIdPartitioning,
    tables: Box<[OnceLock<Table>]>,
    /// Times that PCONFIG has programmed each KeyID.
    generations: Box<[AtomicU32]>,
    /// Number of the last cached write.
    writes: AtomicU64,
    /// For each package the write up to which its caches are clean.
    flushed_by_package: Box<[AtomicU64]>,
    /// The smallest of them.
    flushed: AtomicU64,
    /// Blocks that may hold displaced lines: a hint that saves a walk.
    displaced_blocks: AtomicU64,
    events: std::sync::Arc<EventLog>,
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
        events: std::sync::Arc<EventLog>,
    ) -> Self {
        Self {
            rules,
            partitioning,
            tables: (0..TABLES).map(|_| OnceLock::new()).collect(),
            generations: (0..keys.max(1)).map(|_| AtomicU32::new(0)).collect(),
            writes: AtomicU64::new(0),
            flushed_by_package: (0..packages.max(1)).map(|_| AtomicU64::new(0)).collect(),
            flushed: AtomicU64::new(0),
            displaced_blocks: AtomicU64::new(0),
            events,
        }
    }

    /// Power lost: no content, no owner, no poison, no keys.
    pub(crate) fn reset(&self) {
        self.for_each_existing(|_, region| *region = Region::default());
        for generation in &self.generations {
            generation.store(0, Ordering::Relaxed);
        }
        self.displaced_blocks.store(0, Ordering::Relaxed);
    }

    /// PCONFIG: from now on `key` is another key. False if the machine has no such KeyID.
    pub(crate) fn program_key(&self, key: KeyId) -> bool {
        let Some(generation) = self.generations.get(usize::from(key.number())) else { return false };
        generation.fetch_add(1, Ordering::AcqRel);
        true
    }

    /// Reads memory. `Err`: the first poisoned line.
    pub(crate) fn read(&self, pa: PhysAddr, key: KeyId, bytes: &mut [u8]) -> Result<(), PhysAddr> {
        let reader = self.accessor(key);
        let mut rest = bytes;
        let mut at = pa.as_u64();
        while !rest.is_empty() {
            let (block, offset, len) = split(at, rest.len());
            let (now, later) = rest.split_at_mut(len);
            match self.block(block) {
                Some(region) => {
                    let ctx = self.context(block);
                    region.lock().read(&ctx, offset, reader, now)?;
                }
                None => now.fill(0xFF),
            }
            rest = later;
            at += len as u64;
        }
        Ok(())
    }

    /// Writes memory.
    pub(crate) fn write(&self, pa: PhysAddr, key: KeyId, bytes: &[u8], store: Store) {
        let writer = self.accessor(key);
        let mut rest = bytes;
        let mut at = pa.as_u64();
        while !rest.is_empty() {
            let (block, offset, len) = split(at, rest.len());
            let (now, later) = rest.split_at(len);
            if let Some(region) = self.block(block) {
                if store == Store::Cached {
                    self.writes.fetch_add(1, Ordering::Relaxed);
                }
                let ctx = self.context(block);
                let mut region = region.lock();
                region.write(&ctx, offset, writer, now, store);
                self.note_displaced(&region);
            }
            rest = later;
            at += len as u64;
        }
    }

    /// Fills whole lines with zeros by MOVDIR64B. Lines that `range` touches in part are filled
    /// whole: the instruction has no other size.
    pub(crate) fn initialise(&self, range: PhysRange, key: KeyId) {
        let writer = self.accessor(key);
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
        self.for_each_existing(|base, region| {
            region.flush_older(&self.context(base));
            self.note_displaced(region);
        });
    }

    /// Why the line of `pa` is poisoned.
    pub(crate) fn poisoned_by(&self, pa: PhysAddr) -> Option<PoisonRecord> {
        let (block, offset, _) = split(pa.as_u64(), 1);
        let cause = self.existing(block)?.lock().poisoned_by(offset / 64)?;
        Some(PoisonRecord { line: pa.align_down(LINE_SIZE), cause })
    }

    pub(crate) fn footprint(&self) -> MemoryFootprint {
        let mut sum = MemoryFootprint::default();
        self.for_each_existing(|_, region| {
            let (pages, runs) = region.footprint();
            sum.pages += pages;
            sum.runs += runs;
        });
        sum
    }

    fn accessor(&self, key: KeyId) -> Accessor {
        let generation = self
            .generations
            .get(usize::from(key.number()))
            .map_or(0, |generation| generation.load(Ordering::Acquire));
        Accessor { stamp: KeyStamp { key, generation }, private: self.partitioning.is_private(key) }
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
        let end = range.end().as_u64();
        let mut at = range.start().as_u64();
        while at < end {
            let base = at & !(SIZE_1G - 1);
            let stop = end.min(base + SIZE_1G);
            if let (Some(region), Ok(first), Ok(last)) = (
                self.block(base),
                u32::try_from((at - base) / LINE_SIZE),
                u32::try_from((stop - base).div_ceil(LINE_SIZE)),
            ) {
                act(&self.context(base), &mut region.lock(), first, last);
            }
            at = stop;
        }
    }

    fn for_each_existing(&self, mut act: impl FnMut(u64, &mut Region)) {
        for (index, table) in (0u64..).zip(&self.tables) {
            for (slot, block) in (0u64..).zip(table.get().into_iter().flatten()) {
                if let Some(region) = block.get() {
                    act((index * BLOCKS_PER_TABLE + slot) * SIZE_1G, &mut region.lock());
                }
            }
        }
    }

    fn block(&self, address: u64) -> Option<&Mutex<Region>> {
        let number = address / SIZE_1G;
        let table = self.tables.get(usize::try_from(number / BLOCKS_PER_TABLE).ok()?)?;
        let table = table.get_or_init(|| (0..BLOCKS_PER_TABLE).map(|_| OnceLock::new()).collect());
        let slot = table.get(usize::try_from(number % BLOCKS_PER_TABLE).ok()?)?;
        Some(slot.get_or_init(Box::default))
    }

    fn existing(&self, address: u64) -> Option<&Mutex<Region>> {
        let number = address / SIZE_1G;
        let table = self.tables.get(usize::try_from(number / BLOCKS_PER_TABLE).ok()?)?.get()?;
        Some(table.get(usize::try_from(number % BLOCKS_PER_TABLE).ok()?)?.get()?)
    }
}

/// Block of an address, offset inside it, and how many of `len` bytes lie in that block.
fn split(address: u64, len: usize) -> (u64, u32, usize) {
    let offset = address & (SIZE_1G - 1);
    let here = usize::try_from(SIZE_1G - offset).map_or(len, |room| room.min(len));
    (address - offset, u32::try_from(offset).unwrap_or(0), here)
}

#[cfg(test)]
mod tests;
