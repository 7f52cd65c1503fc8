use std::sync::Arc;

use spdm::ide_km::{IdeKey, Ifv, KeySet, SubStream};

use super::cipher::{Cipher, CipherFailed};

/// A key with its counter.
#[derive(Debug)]
struct LaneKey {
    cipher: Arc<Cipher>,
    next: u64,
    /// `K_SET_GO` came.
    ready: bool,
}

/// One direction of one sub-stream.
#[derive(Debug, Default)]
pub(super) struct Lane {
    keys: [Option<LaneKey>; 2],
    /// The set that `K_SET_GO` came for last.
    current: Option<KeySet>,
    /// The set of the last TLP.
    last: Option<KeySet>,
}

/// Why a lane gives no cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LaneError {
    NotKeyed,
    Exhausted,
}

impl Lane {
    pub(super) fn program(
        &mut self,
        set: KeySet,
        key: &IdeKey,
        ifv: Ifv,
        of: SubStream,
    ) -> Result<(), CipherFailed> {
        self.stop(set);
        let cipher = Arc::new(Cipher::new(key, of)?);
        self.keys[set as usize] = Some(LaneKey { cipher, next: ifv.0, ready: false });
        Ok(())
    }

    /// Takes over the keys of the lane at the other end of the link, as they come and are put to use there. A
    /// key that the other end has no use for any more stays.
    pub(super) fn mirror(&mut self, other: &Self, receiving: bool) {
        for set in KeySet::ALL {
            let Some(theirs) = &other.keys[set as usize] else { continue };
            let ours = &mut self.keys[set as usize];
            if ours.as_ref().is_none_or(|ours| !Arc::ptr_eq(&ours.cipher, &theirs.cipher)) {
                let cipher = Arc::clone(&theirs.cipher);
                *ours = Some(LaneKey { cipher, next: theirs.next, ready: false });
            }
        }
        if let Some(set) = other.current.filter(|&set| self.current != Some(set)) {
            if receiving {
                self.go_receiving(set);
            } else {
                self.go_sending(set);
            }
        }
    }

    /// A sender changes over at once and forgets the old key.
    pub(super) fn go_sending(&mut self, set: KeySet) -> bool {
        let gone = self.go_receiving(set);
        if gone {
            self.forget_retired();
        }
        gone
    }

    /// A receiver takes both sets until the first TLP of the new one.
    pub(super) fn go_receiving(&mut self, set: KeySet) -> bool {
        let Some(key) = &mut self.keys[set as usize] else { return false };
        key.ready = true;
        self.current = Some(set);
        true
    }

    pub(super) fn stop(&mut self, set: KeySet) {
        self.keys[set as usize] = None;
        if self.current == Some(set) {
            self.current = None;
        }
    }

    /// The set that is sent with, and received with sooner or later.
    pub(super) const fn current(&self) -> Option<KeySet> {
        self.current
    }

    /// The set of the last TLP that was sent or received.
    pub(super) const fn last(&self) -> Option<KeySet> {
        self.last
    }

    /// Whether a set has a key, in use or not.
    pub(super) const fn has_key(&self, set: KeySet) -> bool {
        self.keys[set as usize].is_some()
    }

    /// Cipher and invocation of a set; the lane stays as it is until [`advance`](Self::advance).
    pub(super) fn next(&self, set: KeySet, limit: u64) -> Result<(&Cipher, u64), LaneError> {
        let key = self.keys[set as usize].as_ref().filter(|key| key.ready).ok_or(LaneError::NotKeyed)?;
        if key.next >= limit {
            return Err(LaneError::Exhausted);
        }
        Ok((&key.cipher, key.next))
    }

    /// Something was sealed or opened with a set. Nothing of the old set follows the new one.
    pub(super) fn advance(&mut self, set: KeySet) {
        self.last = Some(set);
        if let Some(key) = &mut self.keys[set as usize] {
            key.next += 1;
        }
        if self.current == Some(set) {
            self.forget_retired();
        }
    }

    /// Wipes the key that was in use before the current one; not one that waits for its turn.
    fn forget_retired(&mut self) {
        for set in KeySet::ALL {
            let key = &mut self.keys[set as usize];
            if self.current != Some(set) && key.as_ref().is_some_and(|key| key.ready) {
                *key = None;
            }
        }
    }
}
