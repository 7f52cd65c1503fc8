//! Memory whose content is somebody else's, such as the RAM of a virtual machine.
//!
//! Their memory holds what DRAM would hold: with KeyID 0 the bytes as they are, with any other the
//! ciphertext (XTS-AES-128 for each 64-byte line, whatever algorithm PCONFIG was told, under a key
//! that follows from seed, KeyID, generation and power-on). Beside it the model keeps, for each line
//! written with a private KeyID, who wrote it and a digest of the ciphertext, and one run for each
//! range that was initialised.
//!
//! Their own stores pass the model by. It finds them when a line is used the next time: content
//! that is not what was written means that a shared write took the line. From there on the rules
//! are those of the model's own memory. What this cannot see: a store that leaves every byte of the
//! line as it was, which KeyID or how many bytes a store had (it counts as a whole line with KeyID
//! 0), and caches that write back late. Their loads of private lines give ciphertext.

mod cipher;
mod region;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tdx_abi::addr::LINE_SIZE;
use tdx_abi::{KeyId, KeyIdPartitioning, PhysAddr, PhysRange};

use self::cipher::Ciphers;
use self::region::{Context, Region};
use super::blocks::{Blocks, spans, split};
use super::view::Keys;
use super::{MemoryFootprint, PoisonRecord, Rules, Store};
use crate::event::EventLog;

/// DRAM that belongs to somebody else. Addresses are without KeyID bits.
pub trait Ram: Send + Sync {
    /// Copies memory from `pa` on into `bytes`. False if nothing answers at one of the addresses;
    /// `bytes` may then hold anything.
    fn read(&self, pa: PhysAddr, bytes: &mut [u8]) -> bool;

    /// Copies `bytes` to memory from `pa` on. False if nothing answers at one of the addresses.
    fn write(&self, pa: PhysAddr, bytes: &[u8]) -> bool;
}

/// Owners and poison of memory whose content is somebody else's.
pub(crate) struct Foreign {
    rules: Rules,
    keys: Keys,
    ciphers: Ciphers,
    blocks: Blocks<Region>,
    ram: Box<dyn Ram>,
    events: Arc<EventLog>,
}

impl Foreign {
    pub(super) fn new(
        rules: Rules,
        partitioning: KeyIdPartitioning,
        keys: usize,
        events: Arc<EventLog>,
        ram: Box<dyn Ram>,
    ) -> Self {
        Self {
            rules,
            keys: Keys::new(partitioning, keys),
            ciphers: Ciphers::new(rules.seed),
            blocks: Blocks::new(),
            ram,
            events,
        }
    }

    /// Power lost: no owner, no poison, no keys. What their memory holds after it is their business.
    pub(super) fn reset(&self) {
        self.blocks.for_each_existing(|_, region| *region = Region::default());
        self.keys.reset();
        self.ciphers.reset();
    }

    pub(super) fn program_key(&self, key: KeyId) -> bool {
        self.keys.program(key)
    }

    pub(super) fn read(&self, pa: PhysAddr, key: KeyId, bytes: &mut [u8]) -> Result<(), PhysAddr> {
        let reader = self.keys.accessor(key);
        for span in spans(pa, bytes.len()) {
            let Some(now) = bytes.get_mut(span.place) else { break };
            match self.blocks.get(span.base) {
                Some(region) => region.lock().read(&self.context(span.base), span.offset, reader, now)?,
                None => now.fill(0xFF),
            }
        }
        Ok(())
    }

    pub(super) fn write(&self, pa: PhysAddr, key: KeyId, bytes: &[u8], store: Store) {
        let writer = self.keys.accessor(key);
        for span in spans(pa, bytes.len()) {
            let (Some(now), Some(region)) = (bytes.get(span.place), self.blocks.get(span.base)) else {
                continue;
            };
            region.lock().write(&self.context(span.base), span.offset, writer, now, store);
        }
    }

    pub(super) fn initialise(&self, range: PhysRange, key: KeyId) {
        let writer = self.keys.accessor(key);
        self.blocks.for_each_in(range, |base, region, first, last| {
            region.initialise(&self.context(base), first, last, writer);
        });
    }

    pub(super) fn poisoned_by(&self, pa: PhysAddr) -> Option<PoisonRecord> {
        let (base, offset) = split(pa.as_u64());
        let cause = self.blocks.existing(base)?.lock().poisoned_by(&self.context(base), offset / 64)?;
        Some(PoisonRecord { line: pa.align_down(LINE_SIZE), cause })
    }

    pub(super) fn footprint(&self) -> MemoryFootprint {
        let mut sum = MemoryFootprint::default();
        self.blocks.for_each_existing(|_, region| {
            let (pages, runs) = region.footprint();
            sum.pages += pages;
            sum.runs += runs;
        });
        sum
    }

    fn context(&self, base: u64) -> Context<'_> {
        Context { rules: self.rules, base, ram: &*self.ram, ciphers: &self.ciphers, events: &self.events }
    }
}
