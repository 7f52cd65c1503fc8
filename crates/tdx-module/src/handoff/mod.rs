//! The hand-off area at the start of a module's data region: what an update carries from one module
//! instance to the next, and all that it carries.
//!
//! SYS.SHUTDOWN writes header and data, the P-SEAMLDR copies the area into the new instance, and
//! SYS.UPDATE reads the data and invalidates the header.

mod layout;

use std::sync::{Mutex, MutexGuard, PoisonError};

use tdx_abi::PAGE_SIZE;
use zerocopy::{FromBytes, IntoBytes};

use layout::{HEADER_SIZE, RawHeader};

/// Header of a hand-off area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HandoffHeader {
    /// True from SYS.SHUTDOWN until SYS.UPDATE has taken the data over.
    pub(crate) valid: bool,
    /// Hand-off version of the data.
    pub(crate) version: u16,
    /// Bytes of the data, the header left out.
    pub(crate) size: u32,
}

impl HandoffHeader {
    /// Bytes of header and data.
    pub(crate) const fn total(self) -> u64 {
        // 8 bytes of header; the sum of two 32-bit numbers fits.
        self.size as u64 + HEADER_SIZE as u64
    }
}

/// Bytes of the hand-off area of one module instance. A fresh one is all zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HandoffRegion {
    bytes: Box<[u8]>,
}

impl HandoffRegion {
    /// An area of `pages` + 1 pages, the form in which the SIGSTRUCT gives the size.
    pub(crate) fn new(pages: u16) -> Self {
        let size = (u64::from(pages) + 1) * PAGE_SIZE;
        Self { bytes: vec![0; usize::try_from(size).unwrap_or(usize::MAX)].into_boxed_slice() }
    }

    /// Bytes that the area has room for, header included.
    pub(crate) fn capacity(&self) -> u64 {
        u64::try_from(self.bytes.len()).unwrap_or(u64::MAX)
    }

    pub(crate) fn header(&self) -> HandoffHeader {
        let raw =
            RawHeader::ref_from_prefix(&self.bytes).map_or_else(|_| RawHeader::default(), |(raw, _)| *raw);
        HandoffHeader { valid: raw.valid != 0, version: raw.version.get(), size: raw.size.get() }
    }

    /// Takes over header and data of another instance, as the P-SEAMLDR does in an update. What
    /// does not fit is cut off.
    pub(crate) fn copy_from(&mut self, old: &Self) {
        let total = usize::try_from(old.header().total()).unwrap_or(usize::MAX);
        let length = total.min(old.bytes.len()).min(self.bytes.len());
        if let (Some(to), Some(from)) = (self.bytes.get_mut(..length), old.bytes.get(..length)) {
            to.copy_from_slice(from);
        }
    }

    /// From here nobody takes the data over.
    pub(crate) fn invalidate(&mut self) {
        if let Ok((header, _)) = RawHeader::mut_from_prefix(&mut self.bytes) {
            header.valid = 0;
        }
    }
}

/// The hand-off area of a module. The lock is there for the memory model alone: callers hold the
/// module's global lock or the session lock of the P-SEAMLDR.
#[derive(Debug)]
pub(crate) struct Handoff(Mutex<HandoffRegion>);

impl Handoff {
    pub(crate) fn new(pages: u16) -> Self {
        Self(Mutex::new(HandoffRegion::new(pages)))
    }

    /// The area.
    pub(crate) fn region(&self) -> MutexGuard<'_, HandoffRegion> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
