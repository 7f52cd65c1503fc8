use core::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::crypto::{Crypto, CryptoError, equal};

/// An AES-256 key of a stream, in the order in which a cipher takes it. Overwritten when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct IdeKey([u8; 32]);

impl IdeKey {
    /// Size in bytes.
    pub const SIZE: usize = 32;

    /// The key of those bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A random key.
    pub fn generate(crypto: &dyn Crypto) -> Result<Self, CryptoError> {
        let mut key = Self([0; 32]);
        crypto.random(&mut key.0)?;
        Ok(key)
    }

    /// The bytes, for a cipher.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key from its order in `KEY_PROG`: the dwords of the key one after the other, each little
    /// endian, while a cipher takes them big endian.
    pub fn from_wire(mut wire: [u8; 32]) -> Self {
        let mut key = Self(wire);
        wire.zeroize();
        key.swap_dwords();
        key
    }

    /// The key in its order in `KEY_PROG`.
    pub fn to_wire(&self) -> Zeroizing<[u8; 32]> {
        let mut key = self.clone();
        key.swap_dwords();
        Zeroizing::new(key.0)
    }

    /// The key in its order in the key slot of an Intel root port: all bytes reversed.
    pub fn to_root_port_slot(&self) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new(self.0);
        key.reverse();
        key
    }

    fn swap_dwords(&mut self) {
        let (dwords, _) = self.0.as_chunks_mut::<4>();
        for dword in dwords {
            dword.reverse();
        }
    }
}

impl PartialEq for IdeKey {
    fn eq(&self, other: &Self) -> bool {
        equal(&self.0, &other.0)
    }
}

impl Eq for IdeKey {}

impl fmt::Debug for IdeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdeKey(..)")
    }
}

/// Invocation field: the part of the initialisation vector that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ifv(pub u64);

impl Ifv {
    /// Size in bytes.
    pub const SIZE: usize = 8;
    /// The value that keys start with.
    pub const INITIAL: Self = Self(1);

    /// The value from its order in `KEY_PROG`: dword 1, then dword 0, each little endian.
    pub const fn from_wire(wire: [u8; 8]) -> Self {
        Self(u64::from_le_bytes(wire).rotate_left(32))
    }

    /// The value in its order in `KEY_PROG`.
    pub const fn to_wire(self) -> [u8; 8] {
        self.0.rotate_left(32).to_le_bytes()
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

    #[test]
    fn the_wire_has_the_bytes_of_each_dword_reversed() {
        let key = IdeKey::new(KEY);
        let wire = key.to_wire();
        assert_eq!(wire[..8], [0x52, 0x41, 0x25, 0xdf, 0xe0, 0x02, 0x6e, 0x05]);
        assert_eq!(wire[28..], [0x20, 0x27, 0xcd, 0x9c]);
        assert_eq!(IdeKey::from_wire(*wire), key);
    }

    #[test]
    fn a_root_port_has_the_whole_key_reversed() {
        let slot = IdeKey::new(KEY).to_root_port_slot();
        assert_eq!(slot[..5], [0x20, 0x27, 0xcd, 0x9c, 0xb4]);
        assert_eq!(slot[31], 0xdf);
    }

    #[test]
    fn the_invocation_field_has_its_upper_dword_first() {
        assert_eq!(Ifv::INITIAL.to_wire(), [0, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(Ifv(0x1122_3344_5566_7788).to_wire(), [0x44, 0x33, 0x22, 0x11, 0x88, 0x77, 0x66, 0x55]);
        assert_eq!(
            Ifv::from_wire([0x44, 0x33, 0x22, 0x11, 0x88, 0x77, 0x66, 0x55]),
            Ifv(0x1122_3344_5566_7788)
        );
    }

    #[test]
    fn a_key_does_not_print_itself() {
        assert_eq!(alloc::format!("{:?}", IdeKey::new(KEY)), "IdeKey(..)");
    }
}
