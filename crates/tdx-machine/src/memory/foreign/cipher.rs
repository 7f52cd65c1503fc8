//! Encryption of lines.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes128, Block};
use parking_lot::RwLock;
use tdx_abi::KeyId;

use crate::chaos::mix;
use crate::memory::blocks::LINE;
use crate::memory::line::KeyStamp;

/// Lines whose blocks go through the cipher together, which is several times as fast as one by one.
const BATCH: usize = 8;
const BLOCKS_PER_LINE: usize = LINE / 16;

/// XTS-AES-128 with the number of a line as its tweak.
///
/// The ciphers are those of the crate `aes`; only the mode is written out here. `xts-mode`, with
/// which a test compares it, goes block by block and needs four times as long for a page, and a
/// guest that boots waits for 4 MiB per GiB of its memory.
pub(super) struct LineCipher {
    data: Aes128,
    tweak: Aes128,
}

impl LineCipher {
    fn new(seed: u64) -> Self {
        Self { data: Aes128::new(&key(seed, 1).into()), tweak: Aes128::new(&key(seed, 3).into()) }
    }

    /// Encrypts whole lines, of which the first has this number in all of memory.
    pub(super) fn encrypt(&self, lines: &mut [u8], first: u64) {
        self.apply(lines, first, |blocks| self.data.encrypt_blocks(blocks));
    }

    /// The same backwards.
    pub(super) fn decrypt(&self, lines: &mut [u8], first: u64) {
        self.apply(lines, first, |blocks| self.data.decrypt_blocks(blocks));
    }

    fn apply(&self, lines: &mut [u8], first: u64, cipher: impl Fn(&mut [Block])) {
        for (batch, first) in lines.chunks_mut(BATCH * LINE).zip((first..).step_by(BATCH)) {
            let masks = self.masks(first);
            let mut blocks = [Block::default(); BATCH * BLOCKS_PER_LINE];
            let (content, _) = batch.as_chunks_mut::<16>();
            let Some(blocks) = blocks.get_mut(..content.len()) else { return };
            for ((block, bytes), mask) in blocks.iter_mut().zip(content.iter()).zip(masks) {
                *block = (u128::from_le_bytes(*bytes) ^ mask).to_le_bytes().into();
            }
            cipher(blocks);
            for ((bytes, block), mask) in content.iter_mut().zip(blocks.iter()).zip(masks) {
                *bytes = (u128::from_le_bytes((*block).into()) ^ mask).to_le_bytes();
            }
        }
    }

    /// What the blocks of a batch are masked with: the encrypted tweak of each line, multiplied by x
    /// from block to block.
    fn masks(&self, first: u64) -> [u128; BATCH * BLOCKS_PER_LINE] {
        let mut tweaks = [Block::default(); BATCH];
        for (tweak, line) in tweaks.iter_mut().zip(first..) {
            *tweak = u128::from(line).to_le_bytes().into();
        }
        self.tweak.encrypt_blocks(&mut tweaks);
        let mut masks = [0; BATCH * BLOCKS_PER_LINE];
        for (line, tweak) in masks.chunks_exact_mut(BLOCKS_PER_LINE).zip(tweaks) {
            let mut mask = u128::from_le_bytes(tweak.into());
            for slot in line {
                *slot = mask;
                mask = (mask << 1) ^ ((mask >> 127) * 0x87);
            }
        }
        masks
    }
}

fn key(seed: u64, number: u64) -> [u8; 16] {
    let words = [mix(seed ^ mix(number)), mix(seed ^ mix(number + 1))];
    let mut key = [0; 16];
    for (bytes, word) in key.chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    key
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use xts_mode::{Xts128, get_tweak_default};

    proptest! {
        #[test]
        fn lines_are_encrypted_by_xts_and_come_back(seed: u64, first in 0..u64::MAX / 2, count in 1usize..40) {
            let plain: Vec<u8> = (0..=255).cycle().take(count * LINE).collect();
            let (mut ours, mut reference) = (plain.clone(), plain.clone());
            let cipher = LineCipher::new(seed);
            cipher.encrypt(&mut ours, first);
            let [data, tweak] = [1, 3].map(|number| Aes128::new(&key(seed, number).into()));
            Xts128::new(data, tweak).encrypt_area(&mut reference, LINE, first.into(), get_tweak_default);
            prop_assert_eq!(&ours, &reference);
            cipher.decrypt(&mut ours, first);
            prop_assert_eq!(&ours, &plain);
        }
    }

    #[test]
    fn keys_differ_by_keyid_generation_power_on_and_seed() {
        let stamp = |key, generation| KeyStamp { key: KeyId::new(key), generation };
        let ciphertext = |ciphers: &Ciphers, stamp| {
            let mut line = [0; LINE];
            ciphers.of(stamp).expect("not KeyID 0").encrypt(&mut line, 0);
            line
        };
        let ciphers = Ciphers::new(1);
        let mut all = vec![
            ciphertext(&ciphers, stamp(32, 0)),
            ciphertext(&ciphers, stamp(32, 1)),
            ciphertext(&ciphers, stamp(33, 0)),
            ciphertext(&Ciphers::new(2), stamp(32, 0)),
        ];
        assert_eq!(ciphertext(&ciphers, stamp(32, 0)), all[0], "an older one can still be had");
        assert_eq!(ciphers.made.read().len(), 2, "one of each KeyID is kept");
        assert!(ciphers.of(stamp(0, 0)).is_none());
        ciphers.reset();
        all.push(ciphertext(&ciphers, stamp(32, 0)));
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
