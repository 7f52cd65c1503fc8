//! Records of a device information blob. The layout of the real module's blob is not public: this one is
//! assumed, and hosts treat all of them as opaque.
//!
//! Each record is `{ type u16, index u16, length u32, bytes }`, padded with zeros to 4 bytes.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

open_enum::open_enum! {
    /// What a record holds.
    pub struct RecordType(u16) {
        /// GET_VERSION to ALGORITHMS, exact messages.
        VCA = 1 => "VCA",
        /// The certificate chain of the slot in `index`, with the SPDM header.
        CERTIFICATE_CHAIN = 2 => "certificate chain",
        /// GET_MEASUREMENTS and MEASUREMENTS with the signature, exact messages.
        MEASUREMENTS = 3 => "measurements",
        /// What IDE_KM and TDISP tell of the device.
        CAPABILITIES = 4 => "capabilities",
    }
}

/// Header of a record (8 bytes).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct RecordHeader {
    /// A [`RecordType`].
    pub kind: U16,
    /// Slot of a certificate chain, else 0.
    pub index: U16,
    /// Bytes behind the header, padding left out.
    pub length: U32,
}

const _: () = assert!(size_of::<RecordHeader>() == 8);

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it holds.
    pub kind: RecordType,
    /// Slot of a certificate chain, else 0.
    pub index: u16,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// A blob that breaks off or is padded with something else than zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("device information breaks off at byte {0}")]
pub struct BrokenRecord(pub usize);

/// The records of a blob, in order.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    blob: &'a [u8],
    at: usize,
}

impl<'a> Records<'a> {
    /// Reads `blob`.
    pub const fn new(blob: &'a [u8]) -> Self {
        Self { blob, at: 0 }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, BrokenRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.blob.get(self.at..).filter(|rest| !rest.is_empty())?;
        let read = || -> Option<(Record<'a>, usize)> {
            let (header, behind) = RecordHeader::read_from_prefix(rest).ok()?;
            let length = usize::try_from(header.length.get()).ok()?;
            let bytes = behind.get(..length)?;
            let padded = length.checked_next_multiple_of(4)?;
            let padding = behind.get(length..padded)?;
            let record = Record { kind: RecordType(header.kind.get()), index: header.index.get(), bytes };
            padding.iter().all(|&byte| byte == 0).then_some((record, size_of::<RecordHeader>() + padded))
        };
        let at = self.at;
        let Some((record, size)) = read() else {
            self.at = self.blob.len();
            return Some(Err(BrokenRecord(at)));
        };
        self.at += size;
        Some(Ok(record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_follow_each_other_at_dwords() {
        let blob = [1, 0, 0, 0, 3, 0, 0, 0, b'v', b'c', b'a', 0, 2, 0, 7, 0, 0, 0, 0, 0];
        let mut records = Records::new(&blob);
        let vca = Record { kind: RecordType::VCA, index: 0, bytes: b"vca" };
        assert_eq!(records.next(), Some(Ok(vca)));
        let chain = Record { kind: RecordType::CERTIFICATE_CHAIN, index: 7, bytes: b"" };
        assert_eq!(records.next(), Some(Ok(chain)));
        assert_eq!(records.next(), None);
    }

    #[test]
    fn a_record_that_breaks_off_ends_the_reading() {
        for blob in [
            &[1, 0, 0, 0, 3, 0, 0][..],
            &[1, 0, 0, 0, 3, 0, 0, 0, b'v', b'c'],
            &[1, 0, 0, 0, 3, 0, 0, 0, b'v', b'c', b'a'],
            &[1, 0, 0, 0, 3, 0, 0, 0, b'v', b'c', b'a', 1],
            &[1, 0, 0, 0, 255, 255, 255, 255],
        ] {
            let mut records = Records::new(blob);
            assert_eq!(records.next(), Some(Err(BrokenRecord(0))), "{blob:?}");
            assert_eq!(records.next(), None);
        }
    }
}
