//! The hand-off area at the start of a module's data region: what an update carries from one module
//! instance to the next, and all that it carries.
//!
//! SYS.SHUTDOWN writes header and data, the P-SEAMLDR copies the area into the new instance, and
//! SYS.UPDATE reads the data and invalidates the header.

mod connect;
mod estate;
mod layout;

pub(crate) use connect::{ConnectEstate, UnitEstate};
pub(crate) use estate::{Counters, Estate, HandoffError, Machine, idle_write_back};
pub(crate) use layout::WbtEntry;

use core::mem::size_of;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tdx_abi::PAGE_SIZE;
use zerocopy::FromBytes;
use zeroize::Zeroize;

use layout::{DataV0, HEADER_SIZE, RawHeader, TailV1};

/// The hand-off version from which on the data speak of TDX Connect.
pub(crate) const CONNECT_VERSION: u16 = 2;
/// Bytes of the data of version 1, behind which version 2 has its own.
const SIZE_V1: usize = size_of::<DataV0>() + size_of::<TailV1>();

/// Bytes of the data of a hand-off version with `connect` bytes of TDX Connect.
fn data_size(version: u16, connect: usize) -> Option<u32> {
    let size = match version {
        0 => size_of::<DataV0>(),
        1 => SIZE_V1,
        CONNECT_VERSION => SIZE_V1.checked_add(connect)?,
        _ => return None,
    };
    u32::try_from(size).ok()
}

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
        self.overwrite(old.bytes.get(..total).unwrap_or(&old.bytes));
    }

    /// Writes header and data.
    pub(crate) fn write(&mut self, version: u16, estate: &Estate) -> Result<(), HandoffError> {
        let connect = estate.connect.encode();
        let size = data_size(version, connect.len()).ok_or(HandoffError::Version(version))?;
        let too_small = || HandoffError::Size(size);
        let room = self.bytes.len().saturating_sub(HEADER_SIZE);
        if usize::try_from(size).map_or(true, |size| size > room) {
            return Err(too_small());
        }
        let (header, data) = RawHeader::mut_from_prefix(&mut self.bytes).map_err(|_| too_small())?;
        let (v0, rest) = DataV0::mut_from_prefix(data).map_err(|_| too_small())?;
        if version != 0 {
            let (tail, rest) = TailV1::mut_from_prefix(rest).map_err(|_| too_small())?;
            *tail = estate.counters.encode();
            if version == CONNECT_VERSION {
                rest.get_mut(..connect.len()).ok_or_else(too_small)?.copy_from_slice(&connect);
            }
        }
        estate.encode(v0);
        *header = RawHeader { valid: 1, reserved: 0, version: version.into(), size: size.into() };
        Ok(())
    }

    /// Reads the data, whatever bytes they are. The caller has looked at the valid byte.
    pub(crate) fn read(&self, machine: Machine<'_>) -> Result<Estate, HandoffError> {
        let HandoffHeader { version, size, .. } = self.header();
        let wrong_size = || HandoffError::Size(size);
        let length = usize::try_from(size).map_err(|_| wrong_size())?;
        let connect = length.saturating_sub(SIZE_V1);
        if size != data_size(version, connect).ok_or(HandoffError::Version(version))? {
            return Err(wrong_size());
        }
        let data =
            self.bytes.get(HEADER_SIZE..).and_then(|data| data.get(..length)).ok_or_else(wrong_size)?;
        let (v0, rest) = DataV0::ref_from_prefix(data).map_err(|_| wrong_size())?;
        let (counters, rest) = if version == 0 {
            (Counters::default(), rest)
        } else {
            let (tail, rest) = TailV1::read_from_prefix(rest).map_err(|_| wrong_size())?;
            (Counters::decode(tail)?, rest)
        };
        let connect =
            if version == CONNECT_VERSION { ConnectEstate::decode(rest)? } else { ConnectEstate::default() };
        Estate::decode(v0, counters, connect, machine)
    }

    /// The whole area.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Puts `bytes` at the start of the area; what does not fit is cut off.
    pub(crate) fn overwrite(&mut self, bytes: &[u8]) {
        let length = bytes.len().min(self.bytes.len());
        if let (Some(to), Some(from)) = (self.bytes.get_mut(..length), bytes.get(..length)) {
            to.copy_from_slice(from);
        }
    }

    /// From here nobody takes the data over. Keys of sessions do not stay behind.
    pub(crate) fn invalidate(&mut self) {
        self.wipe_connect();
        if let Ok((header, _)) = RawHeader::mut_from_prefix(&mut self.bytes) {
            header.valid = 0;
        }
    }

    /// Zeros in place of what the header says lies behind the data of version 1.
    fn wipe_connect(&mut self) {
        let total = usize::try_from(self.header().total()).unwrap_or(usize::MAX).min(self.bytes.len());
        if let Some(connect) = self.bytes.get_mut(HEADER_SIZE + SIZE_V1..total) {
            connect.zeroize();
        }
    }
}

impl Drop for HandoffRegion {
    fn drop(&mut self) {
        self.wipe_connect();
    }
}

/// The hand-off area of a module. Who writes it holds the module's global lock or the lock of the
/// P-SEAMLDR already; this lock is for those who only look: SYS.RD, SYS.RDALL and inspection.
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

#[cfg(test)]
mod tests {
    use super::*;
    use tdx_abi::KeyId;

    fn estate() -> Estate {
        Estate {
            keys: Vec::new(),
            write_back: idle_write_back(),
            tdmrs: Vec::new(),
            global_key: KeyId::new(32),
            packages: 1,
            counters: Counters { td_builds: 1, interrupted_migrations: 2 },
            connect: ConnectEstate::default(),
        }
    }

    #[test]
    fn a_fresh_area_is_whole_pages_of_zeros() {
        let region = HandoffRegion::new(13);
        assert_eq!(region.capacity(), 14 * PAGE_SIZE);
        assert!(region.bytes().iter().all(|&byte| byte == 0));
        assert_eq!(region.header(), HandoffHeader { valid: false, version: 0, size: 0 });
    }

    #[test]
    fn the_header_tells_version_and_size() {
        let mut region = HandoffRegion::new(13);
        for (version, end) in [(0, 0xD092), (1, 0xD097)] {
            assert_eq!(region.write(version, &estate()), Ok(()));
            let header = region.header();
            assert_eq!((header.valid, header.version, header.total()), (true, version, end));
        }
        region.invalidate();
        assert_eq!(region.header(), HandoffHeader { valid: false, version: 1, size: 0xD08F });
        assert_eq!(HandoffHeader { size: u32::MAX, ..region.header() }.total(), 0x1_0000_0007);
    }

    #[test]
    fn neither_an_unknown_version_nor_a_small_area_is_written() {
        let mut region = HandoffRegion::new(24);
        assert_eq!(region.write(3, &estate()), Err(HandoffError::Version(3)));
        let mut small = HandoffRegion::new(12);
        assert_eq!(small.write(0, &estate()), Err(HandoffError::Size(0xD08A)));
        for region in [region, small] {
            assert!(region.bytes().iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn the_copy_of_an_area_is_header_and_data() {
        let mut old = HandoffRegion::new(13);
        old.overwrite(&vec![0xA5; 14 * 4096]);
        assert_eq!(old.write(0, &estate()), Ok(()));
        let mut new = HandoffRegion::new(24);
        new.copy_from(&old);
        assert_eq!(new.header(), old.header());
        let (data, rest) = new.bytes().split_at(0xD092);
        assert_eq!(Some(data), old.bytes().get(..0xD092));
        assert!(rest.iter().all(|&byte| byte == 0), "what lies behind the data stays behind");
    }

    #[test]
    fn a_copy_goes_as_far_as_both_areas_do() {
        let mut old = HandoffRegion::new(0);
        old.overwrite(&[0xFF; 4096]);
        let mut new = HandoffRegion::new(1);
        new.copy_from(&old);
        assert_eq!(new.bytes().get(..4096), Some(old.bytes()));
        assert_eq!(new.bytes().get(4096), Some(&0));
        let mut small = HandoffRegion::new(0);
        small.copy_from(&new);
        assert_eq!(small, old);
    }
}
