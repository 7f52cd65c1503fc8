//! Locks and lock-free cells, without a lock of their own where one can be had from the embedder.

// A model checker puts its own in their place, so that it can stop a thread at each of them.
#[cfg(not(feature = "shuttle"))]
pub(crate) use core::{hint, sync::atomic};
#[cfg(feature = "shuttle")]
pub(crate) use shuttle::{hint, sync::atomic};

use atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

/// A lock that may be taken with interrupts off.
pub trait RawLock {
    /// Waits until the lock is free and takes it.
    fn lock(&self);

    /// Gives it back.
    ///
    /// Only the holder calls it, once for each [`RawLock::lock`].
    fn unlock(&self);
}

/// Runs `inside` with `lock` held.
pub fn with_lock<K: RawLock + ?Sized, R>(lock: &K, inside: impl FnOnce() -> R) -> R {
    struct Guard<'a, K: RawLock + ?Sized>(&'a K);
    impl<K: RawLock + ?Sized> Drop for Guard<'_, K> {
        fn drop(&mut self) {
            self.0.unlock();
        }
    }
    lock.lock();
    let _guard = Guard(lock);
    inside()
}

/// A spinning [`RawLock`] for embedders that have none.
#[derive(Debug, Default)]
pub struct Spin(AtomicBool);

impl Spin {
    /// A lock that nobody holds.
    pub const fn new() -> Self {
        Self(AtomicBool::new(false))
    }
}

impl RawLock for Spin {
    fn lock(&self) {
        while self.0.swap(true, Ordering::Acquire) {
            hint::spin_loop();
        }
    }

    fn unlock(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// `N` words that are published together: readers take no lock and never see a mix of two values.
#[derive(Debug)]
pub struct SeqCell<const N: usize> {
    // Odd while a writer is at work; 0 means that nothing was published yet.
    sequence: AtomicU32,
    words: [AtomicU64; N],
}

impl<const N: usize> SeqCell<N> {
    /// A cell in which nothing was published.
    pub const fn new() -> Self {
        Self { sequence: AtomicU32::new(0), words: [const { AtomicU64::new(0) }; N] }
    }

    /// Publishes `value`. Writers wait for each other.
    pub fn publish(&self, value: &[u64; N]) {
        let mut before = self.sequence.load(Ordering::Relaxed);
        loop {
            let even = before & !1;
            match self.sequence.compare_exchange_weak(even, even | 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => {
                    before = even;
                    break;
                }
                Err(found) => before = found,
            }
            hint::spin_loop();
        }
        // Orders the odd sequence before the words for readers.
        fence(Ordering::Release);
        for (word, &new) in self.words.iter().zip(value) {
            word.store(new, Ordering::Relaxed);
        }
        // 0 is kept for "never published".
        let after = match before.wrapping_add(2) {
            0 => 2,
            after => after,
        };
        self.sequence.store(after, Ordering::Release);
    }

    /// The value published last; `None` if there was none.
    pub fn read(&self) -> Option<[u64; N]> {
        loop {
            let before = self.sequence.load(Ordering::Acquire);
            if before == 0 {
                return None;
            }
            if before & 1 == 0 {
                let value = core::array::from_fn(|i| self.words[i].load(Ordering::Relaxed));
                fence(Ordering::Acquire);
                if self.sequence.load(Ordering::Relaxed) == before {
                    return Some(value);
                }
            }
            hint::spin_loop();
        }
    }
}

impl<const N: usize> Default for SeqCell<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// Words that are worked out once; whoever comes meanwhile waits.
#[derive(Debug)]
pub struct SpinOnce<const N: usize> {
    state: AtomicU8,
    words: [AtomicU64; N],
}

impl<const N: usize> SpinOnce<N> {
    const FRESH: u8 = 0;
    const BUSY: u8 = 1;
    const DONE: u8 = 2;

    /// Not worked out yet.
    pub const fn new() -> Self {
        Self { state: AtomicU8::new(Self::FRESH), words: [const { AtomicU64::new(0) }; N] }
    }

    /// The words; the first caller works them out by `work`.
    pub fn get_or_init(&self, work: impl FnOnce() -> [u64; N]) -> [u64; N] {
        let claim =
            self.state.compare_exchange(Self::FRESH, Self::BUSY, Ordering::Acquire, Ordering::Acquire);
        if claim.is_ok() {
            let value = work();
            for (word, new) in self.words.iter().zip(value) {
                word.store(new, Ordering::Relaxed);
            }
            self.state.store(Self::DONE, Ordering::Release);
            return value;
        }
        while self.state.load(Ordering::Acquire) != Self::DONE {
            hint::spin_loop();
        }
        core::array::from_fn(|i| self.words[i].load(Ordering::Relaxed))
    }

    /// Forgets the words, so that they are worked out anew. For a time when nobody asks for them.
    pub fn reset(&self) {
        self.state.store(Self::FRESH, Ordering::Release);
    }

    /// True once somebody began.
    pub fn was_begun(&self) -> bool {
        self.state.load(Ordering::Acquire) != Self::FRESH
    }
}

impl<const N: usize> Default for SpinOnce<N> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::thread;

    #[test]
    fn an_unpublished_cell_has_no_value() {
        let cell = SeqCell::<4>::new();
        assert_eq!(cell.read(), None);
        cell.publish(&[1, 2, 3, 4]);
        assert_eq!(cell.read(), Some([1, 2, 3, 4]));
    }

    #[test]
    fn readers_never_see_a_torn_value() {
        let cell = SeqCell::<16>::new();
        thread::scope(|scope| {
            for writer in 0..2u64 {
                let cell = &cell;
                scope.spawn(move || {
                    for round in 0..20_000 {
                        cell.publish(&[round * 2 + writer; 16]);
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..20_000 {
                    if let Some(value) = cell.read() {
                        assert!(value.iter().all(|&word| word == value[0]), "{value:?}");
                    }
                }
            });
        });
        assert!(cell.read().is_some());
    }

    #[test]
    fn the_first_result_is_everybodys() {
        let once = SpinOnce::<2>::new();
        assert!(!once.was_begun());
        let results: std::vec::Vec<_> = thread::scope(|scope| {
            let once = &once;
            let threads: std::vec::Vec<_> =
                (0..4).map(|i| scope.spawn(move || once.get_or_init(|| [i, i]))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(results.iter().all(|result| *result == results[0]));
        assert!(once.was_begun());
    }

    #[test]
    fn a_spin_lock_lets_one_in_at_a_time() {
        let lock = Spin::default();
        let inside = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        with_lock(&lock, || {
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                            inside.fetch_sub(1, Ordering::SeqCst);
                        });
                    }
                });
            }
        });
        assert_eq!(inside.load(Ordering::SeqCst), 0);
    }
}
