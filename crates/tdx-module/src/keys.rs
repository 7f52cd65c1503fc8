//! The key ownership table: what each KeyID is used for.

use std::sync::atomic::{AtomicU64, Ordering};

use tdx_abi::KeyId;

/// State of a KeyID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Nobody uses it.
    Free,
    /// It belongs to a TD.
    Assigned,
    /// No cached translation of its TD is left; caches must still be written back.
    Flushed,
    /// It is, or was meant to be, the module's own (global) KeyID.
    Reserved,
}

impl KeyState {
    /// The state with this number in a key ownership table.
    pub(crate) const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Free),
            1 => Some(Self::Assigned),
            2 => Some(Self::Flushed),
            3 => Some(Self::Reserved),
            _ => None,
        }
    }

    /// Its number there.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Free => 0,
            Self::Assigned => 1,
            Self::Flushed => 2,
            Self::Reserved => 3,
        }
    }
}

/// What the table says of one KeyID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyEntry {
    pub(crate) state: KeyState,
    /// Bit per package whose caches must still be written back.
    pub(crate) packages: u32,
}

impl KeyEntry {
    pub(crate) const FREE: Self = Self { state: KeyState::Free, packages: 0 };

    /// State and packages change together, hence one word: packages low, state above.
    fn from_word(word: u64) -> Self {
        let [p0, p1, p2, p3, state, ..] = word.to_le_bytes();
        Self {
            state: KeyState::from_number(state).unwrap_or(KeyState::Free),
            packages: u32::from_le_bytes([p0, p1, p2, p3]),
        }
    }

    fn word(self) -> u64 {
        u64::from(self.packages) | u64::from(self.state.number()) << 32
    }
}

/// Entries of all KeyIDs that a module can manage.
#[derive(Debug)]
pub(crate) struct KeyTable(Box<[AtomicU64]>);

impl KeyTable {
    pub(crate) fn new(count: usize) -> Self {
        Self((0..count).map(|_| AtomicU64::new(KeyEntry::FREE.word())).collect())
    }

    fn set(&self, key: KeyId, entry: KeyEntry) {
        if let Some(word) = self.0.get(usize::from(key.number())) {
            word.store(entry.word(), Ordering::Release);
        }
    }

    pub(crate) fn reserve(&self, key: KeyId) {
        self.set(key, KeyEntry { state: KeyState::Reserved, packages: 0 });
    }

    pub(crate) fn free(&self, key: KeyId) {
        self.set(key, KeyEntry::FREE);
    }

    /// All entries, from KeyID 0.
    pub(crate) fn entries(&self) -> impl Iterator<Item = KeyEntry> {
        self.0.iter().map(|word| KeyEntry::from_word(word.load(Ordering::Acquire)))
    }

    /// Puts what another instance knew in place of every entry.
    pub(crate) fn restore(&self, entries: &[KeyEntry]) {
        for (word, entry) in self.0.iter().zip(entries) {
            word.store(entry.word(), Ordering::Release);
        }
    }

    /// KeyIDs that are not free, as ranges of the same state: first, last, state.
    pub(crate) fn in_use(&self) -> Vec<(KeyId, KeyId, KeyState)> {
        let mut ranges: Vec<(KeyId, KeyId, KeyState)> = Vec::new();
        for (number, KeyEntry { state, .. }) in (0u16..).zip(self.entries()) {
            if state == KeyState::Free {
                continue;
            }
            let key = KeyId::new(number);
            match ranges.last_mut() {
                Some((_, last, same)) if *same == state && last.number() + 1 == number => *last = key,
                _ => ranges.push((key, key, state)),
            }
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_the_same_state_are_one_range() {
        let table = KeyTable::new(64);
        for number in [32, 33, 40] {
            table.reserve(KeyId::new(number));
        }
        let key = KeyId::new;
        assert_eq!(
            table.in_use(),
            [(key(32), key(33), KeyState::Reserved), (key(40), key(40), KeyState::Reserved)]
        );
        table.free(key(33));
        assert_eq!(table.in_use().first(), Some(&(key(32), key(32), KeyState::Reserved)));
    }

    #[test]
    fn a_keyid_beyond_the_table_is_free_and_stays_so() {
        let table = KeyTable::new(4);
        table.reserve(KeyId::new(4));
        assert!(table.in_use().is_empty());
    }

    #[test]
    fn an_entry_is_state_and_packages() {
        for number in 0..4 {
            let state = KeyState::from_number(number).expect("a state");
            let entry = KeyEntry { state, packages: 0x8000_0001 };
            assert_eq!((state.number(), KeyEntry::from_word(entry.word())), (number, entry));
        }
        assert_eq!(KeyState::from_number(4), None);
        let table = KeyTable::new(2);
        let entries = [KeyEntry::FREE, KeyEntry { state: KeyState::Flushed, packages: 3 }];
        table.restore(&entries);
        assert_eq!(table.entries().collect::<Vec<_>>(), entries);
    }
}
