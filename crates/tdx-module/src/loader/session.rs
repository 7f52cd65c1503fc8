//! Which LPs have called, and the INSTALL that is under way.

use std::collections::BTreeMap;

use super::SeamExtend;

/// Ids in one word of a bitmap.
const WORD: u32 = u64::BITS;

/// A set of x2APIC ids. Ids have gaps of any width between packages, so words without a bit do not
/// exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct IdBitmap {
    words: BTreeMap<u32, u64>,
    count: u32,
}

impl IdBitmap {
    /// False if the id was in the set before.
    pub(super) fn insert(&mut self, id: u32) -> bool {
        let word = self.words.entry(id / WORD).or_default();
        let bit = 1 << (id % WORD);
        let is_new = *word & bit == 0;
        *word |= bit;
        self.count += u32::from(is_new);
        is_new
    }

    pub(super) fn contains(&self, id: u32) -> bool {
        self.words.get(&(id / WORD)).is_some_and(|word| word >> (id % WORD) & 1 != 0)
    }

    pub(super) const fn count(&self) -> u32 {
        self.count
    }
}

/// From the first LP that calls INSTALL until the last one did.
#[derive(Debug)]
pub(super) struct Session {
    /// LPs that called.
    pub(super) called: IdBitmap,
    /// LPs whose SEAM VMCS was cleared.
    pub(super) vmcs_cleared: u32,
    /// SEAMEXTEND as it was, for a failure that changes nothing.
    pub(super) snapshot: SeamExtend,
}

impl Session {
    pub(super) fn new(snapshot: SeamExtend) -> Self {
        Self { called: IdBitmap::default(), vmcs_cleared: 0, snapshot }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bitmap_takes_each_id_once_however_far_apart_they_are() {
        let mut ids = IdBitmap::default();
        for id in [0, 63, 64, 1023, u32::MAX] {
            assert!(!ids.contains(id), "{id}");
            assert!(ids.insert(id) && ids.contains(id), "{id}");
            assert!(!ids.insert(id), "{id} again");
        }
        assert_eq!(ids.count(), 5);
    }
}
