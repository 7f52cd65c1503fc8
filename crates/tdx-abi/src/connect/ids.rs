//! Ids that the module gives out, and operations.

use core::fmt;

/// A VT-d unit in TDX mode, as TDH.IOMMU.SETUP names it. Opaque to hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TdxIommuId(pub u64);

impl fmt::Display for TdxIommuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// An SPDM session object, as TDH.SPDM.CREATE names it. Opaque to hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpdmId(pub u64);

impl fmt::Display for SpdmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Index of a selective stream register block of a root port (`rp_ide_id`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootPortBlock(pub u8);

open_enum::open_enum! {
    /// Operation of TDH.SPDM.MNG.
    pub struct MngOperation(u64) {
        /// Heartbeat.
        HEARTBEAT = 0 => "HEARTBEAT",
        /// New keys for both directions of the session.
        KEY_UPDATE = 1 => "KEY_UPDATE",
        /// Device information anew.
        DEV_INFO_RECOLLECTION = 2 => "DEV_INFO_RECOLLECTION",
    }
}

open_enum::open_enum! {
    /// Operation of TDH.IDE.STREAM.KM.
    pub struct KmOperation(u64) {
        /// First keys, and the stream goes secure.
        SETUP = 0 => "SETUP",
        /// The other key set, while traffic runs.
        REFRESH = 1 => "REFRESH",
        /// The device forgets its keys.
        STOP = 2 => "STOP",
    }
}
