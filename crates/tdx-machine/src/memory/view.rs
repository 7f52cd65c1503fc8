//! What an access gets of a line: the rules that every kind of memory follows.

use tdx_abi::{KeyId, KeyIdPartitioning};

use super::line::{KeyStamp, LineTag, PoisonCause};

use std::sync::atomic::{AtomicU32, Ordering};

/// How the platform treats lines; the two switches of the model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Ci mode: a MAC over each private line. Otherwise Li: the TD-owner bit only.
    pub(crate) integrity: bool,
    /// Partial writes to TD-owned lines poison them.
    pub(crate) partial_write_poison: bool,
    /// Accesses to a block after which a displaced dirty line is written back; 0: never by itself.
    pub(crate) write_back_within: u32,
    pub(crate) seed: u64,
}

/// Who reads or writes, and with which key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accessor {
    pub(super) stamp: KeyStamp,
    /// The KeyID belongs to TDX.
    pub(super) private: bool,
}

/// How a store reaches memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// Through a write-back cache: the line is fetched, changed and written back later.
    Cached,
    /// Straight to the memory controller: whole lines as such, less than a line as partial write.
    Direct,
}

/// The KeyIDs of a memory controller.
pub(super) struct Keys {
    partitioning: KeyIdPartitioning,
    /// Times that PCONFIG has programmed each KeyID.
    generations: Box<[AtomicU32]>,
}

impl Keys {
    pub(super) fn new(partitioning: KeyIdPartitioning, count: usize) -> Self {
        Self { partitioning, generations: (0..count.max(1)).map(|_| AtomicU32::new(0)).collect() }
    }

    pub(super) fn reset(&self) {
        for generation in &self.generations {
            generation.store(0, Ordering::Relaxed);
        }
    }

    /// PCONFIG: from now on `key` is another key. False if the machine has no such KeyID.
    pub(super) fn program(&self, key: KeyId) -> bool {
        let Some(generation) = self.generations.get(usize::from(key.number())) else { return false };
        generation.fetch_add(1, Ordering::AcqRel);
        true
    }

    /// An access with this KeyID, now.
    pub(super) fn accessor(&self, key: KeyId) -> Accessor {
        let generation = self
            .generations
            .get(usize::from(key.number()))
            .map_or(0, |generation| generation.load(Ordering::Acquire));
        Accessor { stamp: KeyStamp { key, generation }, private: self.partitioning.is_private(key) }
    }
}

/// What an accessor gets of a line.
#[derive(Clone, Copy)]
pub(super) enum View {
    Data,
    Zeros,
    /// Decrypted with a key it was not encrypted with.
    Garbage,
    Poison,
    /// The check fails: the line becomes poisoned.
    Mismatch(PoisonCause),
}

pub(super) fn view(tag: LineTag, accessor: Accessor, integrity: bool) -> View {
    if tag.is_poisoned() {
        return View::Poison;
    }
    let (reader, written_with) = (accessor.stamp.key, tag.writer.key);
    if !accessor.private {
        return match tag.is_td_owned() {
            true => View::Zeros,
            false if tag.writer == accessor.stamp => View::Data,
            false => View::Garbage,
        };
    }
    if !tag.is_td_owned() {
        return View::Mismatch(PoisonCause::NotTdOwned { reader, written_with });
    }
    if tag.writer == accessor.stamp {
        View::Data
    } else if integrity {
        View::Mismatch(PoisonCause::WrongKey { reader, written_with })
    } else {
        View::Garbage
    }
}
