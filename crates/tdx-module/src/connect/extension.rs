//! The slot of the module extension: one call of an extension leaf for the whole machine.
//!
//! Whoever holds the slot runs; whoever was interrupted in it still owns it, so that only the same call
//! gets in, on whichever LP. A message that goes out and every final status give it back.

use std::sync::{Mutex, MutexGuard, TryLockError};

use tdx_abi::connect::ids::SpdmId;

use super::session::Task;

/// A call of an extension leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExtensionCall {
    pub(crate) task: Task,
    pub(crate) session: SpdmId,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct ExtensionSlot {
    owner: Mutex<Option<ExtensionCall>>,
}

impl ExtensionSlot {
    /// The slot for `call`, unless another call runs or was interrupted in it.
    pub(crate) fn enter(&self, call: ExtensionCall) -> Option<HeldSlot<'_>> {
        let mut owner = match self.owner.try_lock() {
            Ok(owner) => owner,
            Err(TryLockError::Poisoned(owner)) => owner.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        if owner.is_some_and(|owner| owner != call) {
            return None;
        }
        *owner = Some(call);
        Some(HeldSlot { owner })
    }

    /// A session is gone: nobody will resume what was interrupted in it.
    pub(crate) fn forget(&self, session: SpdmId) {
        let mut owner = match self.owner.try_lock() {
            Ok(owner) => owner,
            Err(TryLockError::Poisoned(owner)) => owner.into_inner(),
            // Who runs there is at work on another session.
            Err(TryLockError::WouldBlock) => return,
        };
        owner.take_if(|owner| owner.session == session);
    }

    /// Whether a call runs or was interrupted.
    pub(crate) fn is_taken(&self) -> bool {
        match self.owner.try_lock() {
            Ok(owner) => owner.is_some(),
            Err(TryLockError::Poisoned(owner)) => owner.into_inner().is_some(),
            Err(TryLockError::WouldBlock) => true,
        }
    }
}

/// The slot while a call runs. It stays taken unless it is given back.
#[derive(Debug)]
pub(crate) struct HeldSlot<'a> {
    owner: MutexGuard<'a, Option<ExtensionCall>>,
}

impl HeldSlot<'_> {
    pub(crate) fn give_back(mut self) {
        *self.owner = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECT: ExtensionCall = ExtensionCall { task: Task::Connect, session: SpdmId(1) };

    #[test]
    fn an_interrupted_call_keeps_the_slot_for_itself() {
        let slot = ExtensionSlot::default();
        let held = slot.enter(CONNECT).expect("free");
        assert!(slot.enter(CONNECT).is_none(), "it runs");
        drop(held);
        assert!(slot.is_taken());
        for other in [
            ExtensionCall { session: SpdmId(2), ..CONNECT },
            ExtensionCall { task: Task::Heartbeat, ..CONNECT },
        ] {
            assert!(slot.enter(other).is_none(), "{other:?}");
        }
        slot.enter(CONNECT).expect("its own").give_back();
        assert!(!slot.is_taken());
        assert!(slot.enter(ExtensionCall { session: SpdmId(2), ..CONNECT }).is_some());
    }
}
