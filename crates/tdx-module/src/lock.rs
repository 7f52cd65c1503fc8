//! Locks that are tried and never waited for.

use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

/// The global lock: bit 0 writer, bits 15:1 number of readers.
#[derive(Debug, Default)]
pub(crate) struct SharedExclusiveLock {
    word: AtomicU16,
}

const WRITER: u16 = 1;
const READER: u16 = 2;

impl SharedExclusiveLock {
    /// The lock for this LP alone, if nobody holds it.
    pub(crate) fn try_exclusive(&self) -> Option<ExclusiveGuard<'_>> {
        self.word
            .compare_exchange(0, WRITER, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
            .then(|| ExclusiveGuard { word: &self.word })
    }

    /// The lock together with other readers, if no writer holds it.
    pub(crate) fn try_shared(&self) -> Option<SharedGuard<'_>> {
        self.word
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |word| {
                if word & WRITER == 0 { word.checked_add(READER) } else { None }
            })
            .is_ok()
            .then(|| SharedGuard { word: &self.word })
    }
}

/// Held by one LP.
#[derive(Debug)]
pub(crate) struct ExclusiveGuard<'a> {
    word: &'a AtomicU16,
}

impl Drop for ExclusiveGuard<'_> {
    fn drop(&mut self) {
        self.word.store(0, Ordering::Release);
    }
}

/// Held by one of several readers.
#[derive(Debug)]
pub(crate) struct SharedGuard<'a> {
    word: &'a AtomicU16,
}

impl Drop for SharedGuard<'_> {
    fn drop(&mut self) {
        self.word.fetch_sub(READER, Ordering::Release);
    }
}

/// A lock with one holder.
#[derive(Debug, Default)]
pub(crate) struct TryMutex {
    held: AtomicBool,
}

impl TryMutex {
    /// The lock, if nobody holds it.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_>> {
        self.held
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
            .then(|| MutexGuard { held: &self.held })
    }
}

/// The holder of a [`TryMutex`].
#[derive(Debug)]
pub(crate) struct MutexGuard<'a> {
    held: &'a AtomicBool,
}

impl Drop for MutexGuard<'_> {
    fn drop(&mut self) {
        self.held.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_share_and_a_writer_is_alone() {
        let lock = SharedExclusiveLock::default();
        let first = lock.try_shared().expect("free");
        let second = lock.try_shared().expect("shared");
        assert!(lock.try_exclusive().is_none());
        drop(first);
        assert!(lock.try_exclusive().is_none());
        drop(second);
        let writer = lock.try_exclusive().expect("free again");
        assert!(lock.try_shared().is_none());
        assert!(lock.try_exclusive().is_none());
        drop(writer);
        assert!(lock.try_shared().is_some());
    }

    #[test]
    fn a_mutex_has_one_holder() {
        let lock = TryMutex::default();
        let holder = lock.try_lock().expect("free");
        assert!(lock.try_lock().is_none());
        drop(holder);
        assert!(lock.try_lock().is_some());
    }
}
