//! One direction of a session: its key, its sequence numbers, and what came before a key update.

use alloc::boxed::Box;

use zeroize::Zeroizing;

use crate::algo::AeadAlgo;
use crate::crypto::{Aead, CryptoError, Secret};
use crate::key_schedule::KeySchedule;

/// A key in use.
pub(super) struct Key {
    pub(super) secret: Secret,
    aead: Box<dyn Aead>,
    iv: Zeroizing<[u8; AeadAlgo::IV_SIZE]>,
    /// Sequence number of the next message.
    pub(super) next: u64,
}

impl Key {
    pub(super) fn new(
        schedule: &KeySchedule<'_>,
        crypto: &dyn crate::crypto::Crypto,
        aead: AeadAlgo,
        secret: Secret,
    ) -> Result<Self, CryptoError> {
        let keys = schedule.traffic_keys(aead, &secret)?;
        Ok(Self { secret, aead: crypto.aead(aead, &keys.key)?, iv: keys.iv, next: 0 })
    }

    /// The IV of the next message: its number, little endian, over the lowest bytes (DSP0277).
    fn next_iv(&self) -> [u8; AeadAlgo::IV_SIZE] {
        let mut iv = *self.iv;
        for (byte, number) in iv.iter_mut().zip(self.next.to_le_bytes()) {
            *byte ^= number;
        }
        iv
    }

    /// Seals as the next message. Its number is used up even by a failure: nobody knows what the
    /// back end has done with it.
    pub(super) fn seal(
        &mut self,
        aad: &[u8],
        text: &mut [u8],
    ) -> Result<[u8; AeadAlgo::TAG_SIZE], CryptoError> {
        let iv = self.next_iv();
        self.next += 1;
        self.aead.seal(&iv, aad, text)
    }

    /// Opens as the next message; its number is used up only if it is that.
    pub(super) fn open(
        &mut self,
        aad: &[u8],
        text: &mut [u8],
        tag: &[u8; AeadAlgo::TAG_SIZE],
    ) -> Result<(), CryptoError> {
        self.aead.open(&self.next_iv(), aad, text, tag)?;
        self.next += 1;
        Ok(())
    }
}

/// One direction.
pub(super) struct Channel {
    pub(super) key: Key,
    /// The key before an update, until the new one has been used.
    pub(super) previous: Option<Key>,
    /// Sequence number of the last message.
    pub(super) last: Option<u64>,
    /// Updates so far that were not rolled back.
    pub(super) updates: u32,
}

impl Channel {
    pub(super) fn new(key: Key) -> Self {
        Self { key, previous: None, last: None, updates: 0 }
    }

    /// Puts the previous key back; `false` if there is none.
    pub(super) fn roll_back(&mut self) -> bool {
        let Some(previous) = self.previous.take() else { return false };
        self.key = previous;
        self.updates = self.updates.saturating_sub(1);
        true
    }
}
