//! What memory remembers of each 64-byte line beside its content.

use std::fmt;

use tdx_abi::{KeyId, PhysAddr};

/// A key as it was when it was used: the KeyID and how often PCONFIG had programmed it.
///
/// Two stamps of one KeyID with different generations are different keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct KeyStamp {
    pub(crate) key: KeyId,
    pub(crate) generation: u32,
}

/// State of a line in memory: who wrote it last, TD-owner bit, poison, and whether a cache may
/// still hold it dirty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LineTag {
    pub(crate) writer: KeyStamp,
    flags: u8,
}

impl LineTag {
    const OWNER: u8 = 1;
    const POISON: u8 = 2;
    const CACHED: u8 = 4;

    /// A line written whole with a key; `private` sets the TD-owner bit.
    pub(crate) fn written(writer: KeyStamp, private: bool) -> Self {
        Self { writer, flags: if private { Self::OWNER } else { 0 } }
    }

    pub(crate) fn is_td_owned(self) -> bool {
        self.flags & Self::OWNER != 0
    }

    pub(crate) fn is_poisoned(self) -> bool {
        self.flags & Self::POISON != 0
    }

    /// True if the last write may still sit in a cache.
    pub(crate) fn is_cached(self) -> bool {
        self.flags & Self::CACHED != 0
    }

    pub(crate) fn with_poison(self) -> Self {
        Self { flags: (self.flags | Self::POISON) & !Self::CACHED, ..self }
    }

    pub(crate) fn with_cached(self, cached: bool) -> Self {
        let flags = if cached { self.flags | Self::CACHED } else { self.flags & !Self::CACHED };
        Self { flags, ..self }
    }
}

/// Why a line is poisoned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoisonCause {
    /// A store of less than a line reached a line that a TD or the module owns, on a CPU with the
    /// partial-write erratum.
    PartialWrite {
        /// First byte written.
        pa: PhysAddr,
        /// Bytes written into this line.
        bytes: u8,
        /// KeyID of the store.
        key: KeyId,
    },
    /// SEAM software used a private KeyID on a line last written with a shared one.
    NotTdOwned {
        /// KeyID of the access that found it.
        reader: KeyId,
        /// KeyID that wrote the line last.
        written_with: KeyId,
    },
    /// SEAM software used another private key than the one the line was written with.
    WrongKey {
        /// KeyID of the access that found it.
        reader: KeyId,
        /// KeyID that wrote the line last; the same number means that its key was changed since.
        written_with: KeyId,
    },
}

impl fmt::Display for PoisonCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PartialWrite { pa, bytes, key } => {
                write!(f, "partial write of {bytes} bytes at {pa} with KeyID {key} to TD-owned memory")
            }
            Self::NotTdOwned { reader, written_with } => write!(
                f,
                "access with private KeyID {reader} to a line that a write with shared KeyID {written_with} took away"
            ),
            Self::WrongKey { reader, written_with } if reader == written_with => {
                write!(f, "access with KeyID {reader} to a line written before its key was changed")
            }
            Self::WrongKey { reader, written_with } => {
                write!(f, "access with KeyID {reader} to a line written with private KeyID {written_with}")
            }
        }
    }
}

/// A poisoned line and how it came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoisonRecord {
    /// The line, 64-byte aligned.
    pub line: PhysAddr,
    /// What poisoned it.
    pub cause: PoisonCause,
}

impl fmt::Display for PoisonRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} poisoned: {}", self.line, self.cause)
    }
}
