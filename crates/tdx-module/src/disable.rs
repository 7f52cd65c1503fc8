//! Progress of TDH.SYS.DISABLE.

use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use tdx_abi::KeyId;

use crate::module::Module;
use crate::tdmrs::STEPS_PER_BLOCK;

/// GiBs of PAMT that one call retires.
const BLOCKS: u64 = 1024;
/// The same with an interrupt waiting.
const BLOCKS_INTERRUPTED: u64 = 64;
/// KeyIDs that one call frees.
const KEYS: u16 = 64;

/// How far the module has been taken down.
#[derive(Debug, Default)]
pub(crate) struct Disable {
    begun: AtomicBool,
    /// KeyIDs below this number are done.
    next_key: AtomicU16,
}

impl Disable {
    /// Once true, every other leaf is locked out.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::SeqCst)
    }

    /// See [`crate::lps::LpSlot::enter`] for the ordering.
    pub(crate) fn begin(&self) {
        self.begun.store(true, Ordering::SeqCst);
    }

    /// One bounded piece of work: GiBs of one TDMR, or some KeyIDs. False if nothing is left.
    pub(crate) fn step(&self, module: &Module, interrupted: bool) -> bool {
        let blocks = if interrupted { BLOCKS_INTERRUPTED } else { BLOCKS };
        let tdmrs = module.tdmrs.get();
        if let Some(tdmr) = tdmrs.and_then(|table| table.iter().find(|tdmr| tdmr.steps_done() != 0)) {
            tdmr.set_steps_done(tdmr.steps_done().saturating_sub(blocks * STEPS_PER_BLOCK));
            return true;
        }
        let Some((first, last)) = self.keys_left(module) else {
            return false;
        };
        let next = first.saturating_add(KEYS).min(last.saturating_add(1));
        for number in first..next {
            module.keys.free(KeyId::new(number));
        }
        self.next_key.store(next, Ordering::Release);
        true
    }

    /// True if [`Self::step`] would find work.
    pub(crate) fn work_left(&self, module: &Module) -> bool {
        let pamt = module.tdmrs.get().is_some_and(|table| table.iter().any(|tdmr| tdmr.steps_done() != 0));
        pamt || self.keys_left(module).is_some()
    }

    /// First and last private KeyID that was not looked at.
    fn keys_left(&self, module: &Module) -> Option<(u16, u16)> {
        let key_ids = module.platform.get()?.space.key_ids;
        let first = key_ids.first_private()?.number().max(self.next_key.load(Ordering::Acquire));
        let last = key_ids.last_private()?.number();
        (first <= last).then_some((first, last))
    }
}
