//! Encryption of lines.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aes::Aes128;
use aes::cipher::KeyInit;
use parking_lot::RwLock;
use tdx_abi::KeyId;
use xts_mode::{Xts128, get_tweak_default};

use crate::chaos::mix;
use crate::memory::blocks::LINE;
use crate::memory::line::KeyStamp;

/// Ciphers of one key and what they make of lines.
pub(super) struct LineCipher(Xts128<Aes128>);

impl LineCipher {
    fn new(seed: u64) -> Self {
        let half = |number: u64| {
            let mut key = [0; 16];
            let words = [mix(seed ^ mix(number)), mix(seed ^ mix(number + 1))];
            for (bytes, word) in key.chunks_exact_mut(8).zip(words) {
                bytes.copy_from_slice(&word.to_le_bytes());
            }
            Aes128::new(&key.into())
        };
        Self(Xts128::new(half(1), half(3)))
    }

    /// Encrypts whole lines of which the first has this number in all of memory.
    pub(super) fn encrypt(&self, lines: &mut [u8], first: u64) {
        self.0.encrypt_area(lines, LINE, u128::from(first), get_tweak_default);
    }

    /// The same backwards.
    pub(super) fn decrypt(&self, lines: &mut [u8], first: u64) {
        self.0.decrypt_area(lines, LINE, u128::from(first), get_tweak_default);
    }
}

/// The keys of a memory controller. Each follows from seed, power-on, KeyID and generation, so that
/// one which was replaced can still be had while something says that it was encrypted with it.
pub(super) struct Ciphers {
    seed: u64,
    power_ons: AtomicU64,
    made: RwLock<HashMap<KeyStamp, Arc<LineCipher>>>,
}

impl Ciphers {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, power_ons: AtomicU64::new(0), made: RwLock::default() }
    }

    /// Power lost: all keys are others.
    pub(super) fn reset(&self) {
        let mut made = self.made.write();
        self.power_ons.fetch_add(1, Ordering::Relaxed);
        made.clear();
    }

    /// The cipher of a key; `None` for KeyID 0, which leaves bytes as they are.
    pub(super) fn of(&self, stamp: KeyStamp) -> Option<Arc<LineCipher>> {
        if stamp.key == KeyId::TME {
            return None;
        }
        if let Some(cipher) = self.made.read().get(&stamp) {
            return Some(Arc::clone(cipher));
        }
        let mut made = self.made.write();
        // Runs of an older generation are rare, and each generation has its PCONFIG.
        made.retain(|other, _| other.key != stamp.key);
        let number = u64::from(stamp.key.number()) << 32 | u64::from(stamp.generation);
        let seed = mix(self.seed ^ mix(number) ^ mix(self.power_ons.load(Ordering::Relaxed)).rotate_left(1));
        Some(Arc::clone(made.entry(stamp).or_insert_with(|| Arc::new(LineCipher::new(seed)))))
    }
}
