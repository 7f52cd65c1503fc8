//! The key ownership table: what each KeyID is used for.

use std::sync::atomic::{AtomicU8, Ordering};

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
    const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Assigned,
            2 => Self::Flushed,
            3 => Self::Reserved,
            _ => Self::Free,
        }
    }
}

/// States of all KeyIDs that a module can manage.
#[derive(Debug)]
pub(crate) struct KeyTable(Box<[AtomicU8]>);

impl KeyTable {
    pub(crate) fn new(count: usize) -> Self {
        Self((0..count).map(|_| AtomicU8::new(0)).collect())
    }

    fn set(&self, key: KeyId, state: u8) {
        if let Some(entry) = self.0.get(usize::from(key.number())) {
            entry.store(state, Ordering::Release);
        }
    }

    pub(crate) fn reserve(&self, key: KeyId) {
        self.set(key, 3);
    }

    pub(crate) fn free(&self, key: KeyId) {
        self.set(key, 0);
    }

    /// KeyIDs that are not free, as ranges of the same state: first, last, state.
    pub(crate) fn in_use(&self) -> Vec<(KeyId, KeyId, KeyState)> {
        let mut ranges: Vec<(KeyId, KeyId, KeyState)> = Vec::new();
        for (number, entry) in (0u16..).zip(&self.0) {
            let state = KeyState::from_number(entry.load(Ordering::Acquire));
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
}
