//! Physical memory by page, and an allocator that knows where each of its pages is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tdx_abi::{PAGE_SIZE, PhysAddr, PhysRange};
use tdx_host::traits::{AllocRequest, LeakCounter};

const PAGE: usize = 4096;

/// Counts lost pages.
#[derive(Clone, Debug, Default)]
pub struct Leaks(Arc<AtomicU64>);

impl Leaks {
    /// Pages that were lost.
    pub fn pages(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl LeakCounter for Leaks {
    fn leaked(&self, range: PhysRange) {
        self.0.fetch_add(range.size() / PAGE_SIZE, Ordering::Relaxed);
    }
}

/// RAM and who holds it.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) ram: PhysRange,
    held: BTreeSet<(PhysAddr, PhysAddr)>,
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
}

impl Memory {
    pub(crate) fn new(ram: PhysRange) -> Self {
        Self { ram, held: BTreeSet::new(), pages: BTreeMap::new() }
    }

    /// Bytes that somebody holds.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.held.iter().map(|(start, end)| end.as_u64() - start.as_u64()).sum()
    }

    /// The highest free place: what is tried first lies above what the host collected as its memory.
    pub(crate) fn allocate(&mut self, request: &AllocRequest<'_>) -> Option<PhysRange> {
        let bytes = request.bytes.next_multiple_of(PAGE_SIZE);
        let mut top = self.ram.end().as_u64();
        loop {
            let start = PhysAddr::new(top.checked_sub(bytes)?).align_down(request.align);
            let place = PhysRange::from_size(start, bytes)?;
            if start < self.ram.start() {
                return None;
            }
            let held = self.held.iter().filter_map(|&(start, end)| PhysRange::new(start, end));
            let taken = held.chain(request.avoid.iter().copied()).find(|taken| taken.overlaps(place));
            let Some(taken) = taken else {
                self.held.insert((place.start(), place.end()));
                return Some(place);
            };
            top = taken.start().as_u64();
        }
    }

    /// True if the range was held as it is.
    pub(crate) fn give_back(&mut self, range: PhysRange) -> bool {
        self.held.remove(&(range.start(), range.end()))
    }

    pub(crate) fn read(&self, start: u64, bytes: &mut [u8]) {
        for (at, byte) in (start..).zip(bytes) {
            let page = self.pages.get(&(at / PAGE_SIZE));
            *byte = page.map_or(0, |page| page[place(at)]);
        }
    }

    pub(crate) fn write(&mut self, start: u64, bytes: &[u8]) {
        for (at, &byte) in (start..).zip(bytes) {
            self.pages.entry(at / PAGE_SIZE).or_insert_with(|| Box::new([0; PAGE]))[place(at)] = byte;
        }
    }

    pub(crate) fn word(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes);
        u64::from_le_bytes(bytes)
    }
}

fn place(at: u64) -> usize {
    usize::try_from(at % PAGE_SIZE).unwrap_or(0)
}
