use super::super::{DsmCapabilities, LockFlags, RequestSet};

/// What a device's interfaces can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TdiConfig {
    /// Flags that a lock may have.
    pub lock_flags: LockFlags,
    /// Width of addresses in bits.
    pub address_width: u8,
    /// Requests that may be outstanding for one interface, as it is reported.
    pub requests_this: u8,
    /// Requests that may be outstanding for all interfaces, as it is reported.
    pub requests_all: u8,
    /// Requests that are answered besides the mandatory ones.
    pub optional: RequestSet,
    /// The longest portion of a report that is sent at once, in bytes.
    pub max_portion: u16,
    /// An interface is locked only to a stream that got new keys since an interface on it was stopped.
    /// No specification wants that; Intel's validator expects it of a device when it locks once more
    /// after a stop.
    pub fresh_keys: bool,
}

impl Default for TdiConfig {
    fn default() -> Self {
        Self {
            lock_flags: LockFlags::NO_FIRMWARE_UPDATE
                .union(LockFlags::CACHE_LINE_128)
                .union(LockFlags::LOCK_MSIX),
            address_width: 52,
            requests_this: 1,
            requests_all: 1,
            optional: RequestSet::NONE,
            max_portion: 1024,
            fresh_keys: false,
        }
    }
}

impl TdiConfig {
    /// The requests that are answered.
    pub const fn requests(&self) -> RequestSet {
        RequestSet(RequestSet::MANDATORY.0 | self.optional.0)
    }

    /// What `TDISP_CAPABILITIES` says.
    pub const fn capabilities(&self) -> DsmCapabilities {
        DsmCapabilities {
            dsm_capabilities: 0,
            requests: self.requests(),
            lock_flags: self.lock_flags,
            address_width: self.address_width,
            requests_this: self.requests_this,
            requests_all: self.requests_all,
        }
    }
}
