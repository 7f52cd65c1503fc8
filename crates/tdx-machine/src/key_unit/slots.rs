//! Key and IV slots of one direction.

use spdm::crypto::Secret;
use spdm::ide_km::{IdeKey, Ifv};

use super::layout::KEY_SLOT;

/// Dwords of a key.
const KEY_DWORDS: usize = 8;
/// Dwords of an IV.
const IV_DWORDS: usize = 2;
/// All dwords of a slot were written: eight of the key, two of the IV.
const COMPLETE: u16 = (1 << (KEY_DWORDS + IV_DWORDS)) - 1;

/// A key with what its counter starts with.
pub(super) struct Loaded {
    pub(super) key: IdeKey,
    pub(super) ifv: Ifv,
}

/// The slots. What is written can never be read.
pub(super) struct Slots {
    keys: Secret,
    ivs: Vec<u64>,
    /// Dwords of each slot that were written since it was emptied.
    written: Vec<u16>,
}

impl Slots {
    pub(super) fn new(count: u16) -> Self {
        let count = usize::from(count);
        let keys = Secret::new(vec![0; count * KEY_SLOT as usize]);
        Self { keys, ivs: vec![0; count], written: vec![0; count] }
    }

    /// Writes a dword of the key slots.
    pub(super) fn write_key(&mut self, dword: usize, value: u32) {
        let at = dword * 4;
        let Some(bytes) = self.keys.get_mut(at..at + 4) else { return };
        bytes.copy_from_slice(&value.to_le_bytes());
        self.wrote(dword / KEY_DWORDS, dword % KEY_DWORDS);
    }

    /// Writes a dword of the IV slots.
    pub(super) fn write_iv(&mut self, dword: usize, value: u32) {
        let Some(iv) = self.ivs.get_mut(dword / IV_DWORDS) else { return };
        let shift = 32 * (dword % IV_DWORDS);
        *iv = *iv & !(0xFFFF_FFFF << shift) | u64::from(value) << shift;
        self.wrote(dword / IV_DWORDS, KEY_DWORDS + dword % IV_DWORDS);
    }

    fn wrote(&mut self, slot: usize, bit: usize) {
        if let Some(written) = self.written.get_mut(slot) {
            *written |= 1 << bit;
        }
    }

    /// Takes the key of a slot that was written as a whole, and empties the slot. Zeros are what software
    /// wipes a slot with, and no key.
    pub(super) fn take(&mut self, slot: u16) -> Option<Loaded> {
        let slot = usize::from(slot);
        let written = self.written.get_mut(slot).filter(|written| **written == COMPLETE)?;
        let start = slot * KEY_SLOT as usize;
        let bytes = self.keys.get_mut(start..start + KEY_SLOT as usize)?;
        let iv = self.ivs.get_mut(slot)?;
        *written = 0;
        let ifv = Ifv(std::mem::take(iv));
        if bytes.iter().all(|byte| *byte == 0) {
            return None;
        }
        // The slot has the key from its last byte to its first.
        let mut key = [0; KEY_SLOT as usize];
        for (to, from) in key.iter_mut().zip(bytes.iter_mut().rev()) {
            *to = std::mem::take(from);
        }
        Some(Loaded { key: IdeKey::new(key), ifv })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the byte order: the key as a cipher takes it.
    const KEY: [u8; 32] = [
        0xdf, 0x25, 0x41, 0x52, 0x05, 0x6e, 0x02, 0xe0, 0xef, 0x8b, 0x7f, 0xeb, 0x97, 0x39, 0xd4, 0xd9, 0x6a,
        0x4e, 0xb8, 0x01, 0x03, 0x24, 0x1d, 0xf7, 0xcd, 0x5e, 0x24, 0xb4, 0x9c, 0xcd, 0x27, 0x20,
    ];
    /// The same in the slot, dword by dword from the lowest address: bytes 20 27 cd 9c first, df last.
    const SLOT: [u32; 8] =
        [0x9ccd2720, 0xcd5e24b4, 0x03241df7, 0x6a4eb801, 0x9739d4d9, 0xef8b7feb, 0x056e02e0, 0xdf254152];

    fn filled(slots: &mut Slots, slot: usize) {
        for (dword, value) in SLOT.into_iter().enumerate() {
            slots.write_key(slot * 8 + dword, value);
        }
        slots.write_iv(slot * 2, 1);
        slots.write_iv(slot * 2 + 1, 0);
    }

    #[test]
    fn a_slot_has_the_last_byte_of_the_key_first() {
        let mut slots = Slots::new(4);
        filled(&mut slots, 2);
        let bytes: Vec<u8> = SLOT.iter().flat_map(|dword| dword.to_le_bytes()).collect();
        assert_eq!(bytes[..], IdeKey::new(KEY).to_root_port_slot()[..]);
        let loaded = slots.take(2).expect("complete");
        assert_eq!(loaded.key, IdeKey::new(KEY));
        assert_eq!(loaded.ifv, Ifv::INITIAL);
    }

    #[test]
    fn an_iv_slot_has_dword_0_first() {
        let mut slots = Slots::new(1);
        filled(&mut slots, 0);
        slots.write_iv(0, 0x5566_7788);
        slots.write_iv(1, 0x1122_3344);
        assert_eq!(slots.take(0).expect("complete").ifv, Ifv(0x1122_3344_5566_7788));
    }

    #[test]
    fn a_slot_with_a_dword_missing_has_no_key() {
        for missing in 0..10 {
            let mut slots = Slots::new(1);
            for dword in (0..8).filter(|dword| *dword != missing) {
                slots.write_key(dword, SLOT[dword]);
            }
            for dword in (0..2).filter(|dword| dword + 8 != missing) {
                slots.write_iv(dword, 1);
            }
            assert!(slots.take(0).is_none(), "without {missing}");
        }
    }

    #[test]
    fn a_key_is_taken_once_and_zeros_are_none() {
        let mut slots = Slots::new(2);
        filled(&mut slots, 0);
        assert!(slots.take(0).is_some());
        assert!(slots.take(0).is_none());
        for dword in 0..8 {
            slots.write_key(8 + dword, 0);
        }
        slots.write_iv(2, 1);
        slots.write_iv(3, 0);
        assert!(slots.take(1).is_none());
        assert!(slots.take(2).is_none(), "there is no such slot");
    }
}
