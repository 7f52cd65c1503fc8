//! The memory below a machine: the model's own, or somebody else's.

use std::sync::Arc;

use tdx_abi::{KeyId, KeyIdPartitioning, PhysAddr, PhysRange};

use super::foreign::Foreign;
use super::{Memory, MemoryFootprint, PoisonRecord, Ram, Rules, Store};
use crate::event::EventLog;

/// The memory of a machine. What each method means stands at [`Memory`].
pub(crate) enum Dram {
    /// Content, owners and caches are the model's.
    Own(Memory),
    /// Content is somebody else's: only owners and poison are kept here.
    Foreign(Foreign),
}

impl Dram {
    pub(crate) fn new(
        rules: Rules,
        partitioning: KeyIdPartitioning,
        keys: usize,
        packages: usize,
        events: Arc<EventLog>,
        ram: Option<Box<dyn Ram>>,
    ) -> Self {
        match ram {
            None => Self::Own(Memory::new(rules, partitioning, keys, packages, events)),
            Some(ram) => Self::Foreign(Foreign::new(rules, partitioning, keys, events, ram)),
        }
    }

    pub(crate) fn reset(&self) {
        match self {
            Self::Own(memory) => memory.reset(),
            Self::Foreign(memory) => memory.reset(),
        }
    }

    pub(crate) fn program_key(&self, key: KeyId) -> bool {
        match self {
            Self::Own(memory) => memory.program_key(key),
            Self::Foreign(memory) => memory.program_key(key),
        }
    }

    pub(crate) fn read(&self, pa: PhysAddr, key: KeyId, bytes: &mut [u8]) -> Result<(), PhysAddr> {
        match self {
            Self::Own(memory) => memory.read(pa, key, bytes),
            Self::Foreign(memory) => memory.read(pa, key, bytes),
        }
    }

    pub(crate) fn write(&self, pa: PhysAddr, key: KeyId, bytes: &[u8], store: Store) {
        match self {
            Self::Own(memory) => memory.write(pa, key, bytes, store),
            Self::Foreign(memory) => memory.write(pa, key, bytes, store),
        }
    }

    pub(crate) fn initialise(&self, range: PhysRange, key: KeyId) {
        match self {
            Self::Own(memory) => memory.initialise(range, key),
            Self::Foreign(memory) => memory.initialise(range, key),
        }
    }

    /// The caches over somebody else's memory are theirs, so that this and the next two have
    /// nothing to write back there.
    pub(crate) fn flush(&self, range: PhysRange, key: KeyId) {
        if let Self::Own(memory) = self {
            memory.flush(range, key);
        }
    }

    pub(crate) fn evict(&self, range: PhysRange) {
        if let Self::Own(memory) = self {
            memory.evict(range);
        }
    }

    pub(crate) fn write_back_invalidate(&self, package: usize) {
        if let Self::Own(memory) = self {
            memory.write_back_invalidate(package);
        }
    }

    pub(crate) fn poisoned_by(&self, pa: PhysAddr) -> Option<PoisonRecord> {
        match self {
            Self::Own(memory) => memory.poisoned_by(pa),
            Self::Foreign(memory) => memory.poisoned_by(pa),
        }
    }

    pub(crate) fn footprint(&self) -> MemoryFootprint {
        match self {
            Self::Own(memory) => memory.footprint(),
            Self::Foreign(memory) => memory.footprint(),
        }
    }
}
