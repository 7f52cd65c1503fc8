//! Private KeyIDs: the module's own and those of TDs.

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use tdx_abi::{KeyId, KeyIdPartitioning};

use crate::error::HostError;

/// Guest KeyIDs that are kept track of; a module takes no KeyID beyond 2047.
pub const MAX_GUEST_KEYIDS: u32 = 2048;

const WORD_BITS: u32 = u64::BITS;
const WORDS: usize = (MAX_GUEST_KEYIDS / WORD_BITS) as usize;

/// The private KeyIDs of a machine. The first is the module's own (global) one, the others are for TDs.
#[derive(Debug)]
pub struct KeyIdPool {
    // Number of the global KeyID; 0 before the split is known, as KeyID 0 is never private.
    global: AtomicU32,
    guests: AtomicU32,
    taken: [AtomicU64; WORDS],
    in_use: AtomicU32,
}

impl KeyIdPool {
    /// A pool of which the split is not known yet.
    pub const fn new() -> Self {
        Self {
            global: AtomicU32::new(0),
            guests: AtomicU32::new(0),
            taken: [const { AtomicU64::new(0) }; WORDS],
            in_use: AtomicU32::new(0),
        }
    }

    /// Takes the split of the machine over.
    pub(crate) fn configure(&self, split: KeyIdPartitioning) -> Result<(), HostError> {
        let (mktme, tdx) = (split.mktme_count(), split.tdx_count());
        if tdx < 2 {
            return Err(HostError::TooFewKeyIds { count: tdx });
        }
        let range = split.first_private().zip(split.last_private());
        let (first, _) = range.ok_or(HostError::KeyIdsOutOfRange { mktme, tdx })?;
        self.guests.store((tdx - 1).min(MAX_GUEST_KEYIDS), Ordering::Relaxed);
        self.global.store(u32::from(first.number()), Ordering::Release);
        Ok(())
    }

    /// The module's own KeyID; `None` before the split is known.
    pub fn global(&self) -> Option<KeyId> {
        match u16::try_from(self.global.load(Ordering::Acquire)) {
            Ok(0) | Err(_) => None,
            Ok(number) => Some(KeyId::new(number)),
        }
    }

    /// How many TDs can have a KeyID at the same time.
    pub fn guest_count(&self) -> u32 {
        self.guests.load(Ordering::Relaxed)
    }

    /// How many have one.
    pub fn in_use(&self) -> u32 {
        self.in_use.load(Ordering::Acquire)
    }

    /// Gives out the lowest free guest KeyID.
    pub fn allocate(&self) -> Result<KeyId, HostError> {
        let global = self.global().ok_or(HostError::NotInitialised)?;
        let total = self.guest_count();
        // Counted first: whoever sees no KeyID in use may rely on it.
        self.in_use.fetch_add(1, Ordering::AcqRel);
        for (index, word) in (0u32..).zip(&self.taken) {
            let mut bits = word.load(Ordering::Relaxed);
            loop {
                let position = index * WORD_BITS + bits.trailing_ones();
                if bits == u64::MAX {
                    break;
                }
                if position >= total {
                    self.in_use.fetch_sub(1, Ordering::AcqRel);
                    return Err(HostError::NoFreeKeyId { total });
                }
                let more = bits | 1 << bits.trailing_ones();
                match word.compare_exchange_weak(bits, more, Ordering::AcqRel, Ordering::Relaxed) {
                    Ok(_) => {
                        // `configure` made sure that the last private KeyID has a number.
                        #[allow(clippy::cast_possible_truncation)]
                        let offset = position as u16 + 1;
                        return Ok(KeyId::new(global.number() + offset));
                    }
                    Err(found) => bits = found,
                }
            }
        }
        self.in_use.fetch_sub(1, Ordering::AcqRel);
        Err(HostError::NoFreeKeyId { total })
    }

    /// Takes a guest KeyID back.
    pub fn free(&self, key: KeyId) -> Result<(), HostError> {
        let refused = HostError::KeyIdNotAllocated { key };
        let global = self.global().ok_or(refused)?;
        let position = key.number().checked_sub(global.number()).and_then(|offset| offset.checked_sub(1));
        let position = u32::from(position.ok_or(refused)?);
        let word = self.taken.get((position / WORD_BITS) as usize).ok_or(refused)?;
        let bit = 1 << (position % WORD_BITS);
        if word.fetch_and(!bit, Ordering::AcqRel) & bit == 0 {
            return Err(refused);
        }
        self.in_use.fetch_sub(1, Ordering::AcqRel);
        Ok(())
    }
}

impl Default for KeyIdPool {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::vec::Vec;

    fn pool(mktme: u32, tdx: u32) -> KeyIdPool {
        let pool = KeyIdPool::new();
        pool.configure(KeyIdPartitioning::new(mktme, tdx)).unwrap();
        pool
    }

    #[test]
    fn the_first_private_keyid_is_the_modules_own() {
        let pool = pool(31, 32);
        assert_eq!(pool.global(), Some(KeyId::new(32)));
        assert_eq!(pool.guest_count(), 31);
        let all: Vec<u16> = (0..31).map(|_| pool.allocate().unwrap().number()).collect();
        assert_eq!(all, (33..64).collect::<Vec<_>>());
        assert_eq!(pool.allocate(), Err(HostError::NoFreeKeyId { total: 31 }));
        assert_eq!(pool.in_use(), 31);
    }

    #[test]
    fn a_keyid_is_freed_once() {
        let pool = pool(0, 3);
        let key = pool.allocate().unwrap();
        assert_eq!(pool.free(key), Ok(()));
        assert_eq!(pool.free(key), Err(HostError::KeyIdNotAllocated { key }));
        for number in [0, 1, 4, 2047, u16::MAX] {
            let key = KeyId::new(number);
            assert_eq!(pool.free(key), Err(HostError::KeyIdNotAllocated { key }));
        }
        assert_eq!(pool.in_use(), 0);
        assert_eq!(pool.allocate(), Ok(key));
    }

    #[test]
    fn more_than_2048_guest_keyids_are_not_given_out() {
        let pool = pool(0, 5000);
        for _ in 0..MAX_GUEST_KEYIDS {
            pool.allocate().unwrap();
        }
        assert_eq!(pool.allocate(), Err(HostError::NoFreeKeyId { total: MAX_GUEST_KEYIDS }));
        assert_eq!(pool.in_use(), MAX_GUEST_KEYIDS);
    }

    #[test]
    fn splits_that_cannot_work_are_refused() {
        for count in [0, 1] {
            let result = KeyIdPool::new().configure(KeyIdPartitioning::new(63, count));
            assert_eq!(result, Err(HostError::TooFewKeyIds { count }));
        }
        let result = KeyIdPool::new().configure(KeyIdPartitioning::new(65_000, 1000));
        assert_eq!(result, Err(HostError::KeyIdsOutOfRange { mktme: 65_000, tdx: 1000 }));
        assert_eq!(KeyIdPool::new().allocate(), Err(HostError::NotInitialised));
    }
}
