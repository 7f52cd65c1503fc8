//! KeyIDs and their split between MKTME (shared) and TDX (private).

use core::fmt;

/// Number of a memory encryption key. 0 is the platform's own (TME) key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct KeyId(u16);

impl KeyId {
    /// The key of ordinary memory.
    pub const TME: Self = Self(0);

    /// A KeyID from its number.
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyID {}", self.0)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// IA32_MKTME_KEYID_PARTITIONING (MSR 0x87): bits 31:0 number of MKTME KeyIDs, 63:32 number of
/// TDX KeyIDs. The first TDX KeyID is the number of MKTME KeyIDs plus one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyIdPartitioning {
    mktme: u32,
    tdx: u32,
}

impl KeyIdPartitioning {
    /// The split that the MSR value describes.
    pub const fn from_msr(value: u64) -> Self {
        // Both halves are taken whole.
        #[allow(clippy::cast_possible_truncation)]
        Self { mktme: value as u32, tdx: (value >> 32) as u32 }
    }

    /// A split from its two numbers.
    pub const fn new(mktme: u32, tdx: u32) -> Self {
        Self { mktme, tdx }
    }

    /// The MSR value.
    pub fn to_msr(self) -> u64 {
        u64::from(self.mktme) | (u64::from(self.tdx) << 32)
    }

    /// Number of MKTME (shared) KeyIDs, KeyID 0 not counted.
    pub const fn mktme_count(self) -> u32 {
        self.mktme
    }

    /// Number of TDX (private) KeyIDs.
    pub const fn tdx_count(self) -> u32 {
        self.tdx
    }

    /// The first private KeyID; `None` if there is none, or its number leaves 16 bits.
    pub fn first_private(self) -> Option<KeyId> {
        if self.tdx == 0 {
            return None;
        }
        u16::try_from(self.mktme.checked_add(1)?).ok().map(KeyId)
    }

    /// The last private KeyID; `None` as for [`Self::first_private`].
    pub fn last_private(self) -> Option<KeyId> {
        self.first_private()?;
        u16::try_from(self.mktme.checked_add(self.tdx)?).ok().map(KeyId)
    }

    /// True if `key` belongs to TDX.
    pub fn is_private(self, key: KeyId) -> bool {
        match (self.first_private(), self.last_private()) {
            (Some(first), Some(last)) => first <= key && key <= last,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_private_keyid_follows_the_shared_ones() {
        let split = KeyIdPartitioning::from_msr(32 << 32 | 31);
        assert_eq!(split.first_private(), Some(KeyId::new(32)));
        assert_eq!(split.last_private(), Some(KeyId::new(63)));
        assert!(!split.is_private(KeyId::new(31)));
        assert!(split.is_private(KeyId::new(32)));
        assert!(split.is_private(KeyId::new(63)));
        assert!(!split.is_private(KeyId::new(64)));
        assert_eq!(split.to_msr(), 32 << 32 | 31);
    }

    #[test]
    fn without_tdx_keyids_none_is_private() {
        let split = KeyIdPartitioning::new(63, 0);
        assert_eq!(split.first_private(), None);
        assert!(!split.is_private(KeyId::new(64)));
    }

    #[test]
    fn counts_beyond_sixteen_bits_give_no_keyid() {
        assert_eq!(KeyIdPartitioning::new(u32::MAX, 1).first_private(), None);
        assert_eq!(KeyIdPartitioning::new(1, u32::MAX).last_private(), None);
    }
}
