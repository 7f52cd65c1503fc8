//! The memory pool of the extensions, and how far they are initialised.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::lock::TryMutex;

/// Pages of the pool that one step of TDH.EXT.INIT takes into use.
pub(crate) const PAGES_PER_STEP: u32 = 16;

/// Memory pool and start of the extensions.
#[derive(Debug)]
pub(crate) struct Pool {
    required: u32,
    ext_required: bool,
    /// Held by the leaf that works on the pool.
    pub(crate) lock: TryMutex,
    given: AtomicU32,
    steps_done: AtomicU32,
    initialised: AtomicBool,
}

impl Pool {
    pub(crate) fn new(required: u32, ext_required: bool) -> Self {
        Self {
            required,
            ext_required,
            lock: TryMutex::default(),
            given: AtomicU32::new(0),
            steps_done: AtomicU32::new(0),
            initialised: AtomicBool::new(false),
        }
    }

    /// Pages that are still to be given: MEMORY_POOL_REQUIRED_PAGES.
    pub(crate) fn missing(&self) -> u32 {
        self.required.saturating_sub(self.given())
    }

    /// Pages that were given.
    pub(crate) fn given(&self) -> u32 {
        self.given.load(Ordering::Acquire)
    }

    /// EXT_REQUIRED.
    pub(crate) const fn ext_required(&self) -> bool {
        self.ext_required
    }

    /// Counts pages that belong to the pool from now on.
    pub(crate) fn add(&self, pages: u32) {
        self.given.fetch_add(pages, Ordering::AcqRel);
    }

    /// Leaves that need the extension work: TDH.EXT.INIT is through or not needed, and nothing is missing.
    pub(crate) fn ext_ready(&self) -> bool {
        self.missing() == 0 && (!self.ext_required || self.is_initialised())
    }

    pub(crate) fn is_initialised(&self) -> bool {
        self.initialised.load(Ordering::Acquire)
    }

    /// TDH.EXT.INIT was begun and is not through.
    pub(crate) fn is_interrupted(&self) -> bool {
        !self.is_initialised() && self.steps_done.load(Ordering::Acquire) != 0
    }

    /// Up to `steps` pieces of TDH.EXT.INIT, with the lock held. True once nothing is left.
    pub(crate) fn advance(&self, steps: u32) -> bool {
        // The last step starts the extensions.
        let all = self.given().div_ceil(PAGES_PER_STEP).saturating_add(1);
        let done = self.steps_done.load(Ordering::Acquire).saturating_add(steps).min(all);
        self.steps_done.store(done, Ordering::Release);
        if done == all {
            self.initialised.store(true, Ordering::Release);
        }
        done == all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_missing_no_more() {
        let pool = Pool::new(64, true);
        pool.add(60);
        assert_eq!((pool.missing(), pool.given()), (4, 60));
        pool.add(8);
        assert_eq!(pool.missing(), 0);
        assert!(!pool.ext_ready(), "not initialised");
    }

    #[test]
    fn the_extension_starts_once_all_steps_are_done() {
        let pool = Pool::new(33, true);
        pool.add(33);
        assert!(!pool.is_interrupted());
        for _ in 0..3 {
            assert!(!pool.advance(1));
            assert!(pool.is_interrupted() && !pool.ext_ready());
        }
        assert!(pool.advance(1));
        assert!(pool.ext_ready() && !pool.is_interrupted());
    }

    #[test]
    fn an_extension_that_needs_no_start_needs_its_memory() {
        let pool = Pool::new(1, false);
        assert!(!pool.ext_ready());
        pool.add(1);
        assert!(pool.ext_ready());
    }
}
