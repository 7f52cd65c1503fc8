use core::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::crypto::equal;
use crate::ide_km::StreamId;
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

/// How an interface is locked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LockFlags(pub u16);

impl LockFlags {
    /// No update of firmware while the interface is locked.
    pub const NO_FIRMWARE_UPDATE: Self = Self(1 << 0);
    /// Cache lines of the system have 128 bytes, not 64.
    pub const CACHE_LINE_128: Self = Self(1 << 1);
    /// MSI-X table and PBA are locked too.
    pub const LOCK_MSIX: Self = Self(1 << 2);
    /// Peer-to-peer streams may be bound.
    pub const BIND_P2P: Self = Self(1 << 3);
    /// All requests go through the root complex.
    pub const ALL_REQUEST_REDIRECT: Self = Self(1 << 4);

    /// Whether all flags of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The flags of both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// `LOCK_INTERFACE_REQUEST`. 20 bytes behind the header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockInterface {
    /// How it is locked.
    pub flags: LockFlags,
    /// The stream that the interface's requests go over.
    pub default_stream: StreamId,
    /// What the report adds to addresses of MMIO, modulo 2^64: the real ones stay secret.
    pub mmio_reporting_offset: u64,
    /// Which bits of an address tell whether a peer is meant.
    pub bind_p2p_address_mask: u64,
}

impl LockInterface {
    /// Size of the body in bytes.
    pub const SIZE: usize = 20;

    /// Reads the body.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let flags = LockFlags(reader.u16("flags")?);
        let default_stream = StreamId(reader.u8("default stream id")?);
        reader.reserved(1, "reserved")?;
        Ok(Self {
            flags,
            default_stream,
            mmio_reporting_offset: reader.u64("MMIO reporting offset")?,
            bind_p2p_address_mask: reader.u64("bind P2P address mask")?,
        })
    }

    /// Writes the body.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        writer.u16(self.flags.0)?;
        writer.u8(self.default_stream.0)?;
        writer.zeros(1)?;
        writer.u64(self.mmio_reporting_offset)?;
        writer.u64(self.bind_p2p_address_mask)
    }
}

/// What ties a start to the lock before it. Overwritten when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Nonce([u8; 32]);

impl Nonce {
    /// Size in bytes.
    pub const SIZE: usize = 32;

    /// The nonce of those bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for Nonce {
    fn eq(&self, other: &Self) -> bool {
        equal(&self.0, &other.0)
    }
}

impl Eq for Nonce {}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce(..)")
    }
}

/// `LOCK_INTERFACE_RESPONSE`. 32 bytes behind the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockResponse {
    /// What `START_INTERFACE_REQUEST` has to bring.
    pub nonce: Nonce,
}

impl LockResponse {
    /// Size of the body in bytes.
    pub const SIZE: usize = Nonce::SIZE;

    /// Reads the body.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { nonce: Nonce(reader.array("START_INTERFACE_NONCE")?) })
    }

    /// Writes the body.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        writer.bytes(&self.nonce.0)
    }
}
