use alloc::vec;
use alloc::vec::Vec;

use crate::wire::{DecodeError, NoSpace, Reader, Writer};

/// What an interface does: `INTERFACE_INFO` of its report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct InterfaceInfo(pub u16);

impl InterfaceInfo {
    /// Firmware is not updated while the interface is locked.
    pub const NO_FIRMWARE_UPDATE: Self = Self(1 << 0);
    /// DMA without PASID.
    pub const DMA_WITHOUT_PASID: Self = Self(1 << 1);
    /// DMA with PASID.
    pub const DMA_WITH_PASID: Self = Self(1 << 2);
    /// ATS is on.
    pub const ATS: Self = Self(1 << 3);
    /// PRS is on.
    pub const PRS: Self = Self(1 << 4);
    /// Bits that have a meaning.
    pub const DEFINED: u16 = 0x1f;

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits of both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What a range of MMIO is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RangeAttributes(pub u16);

impl RangeAttributes {
    /// The MSI-X table is in it.
    pub const MSIX_TABLE: Self = Self(1 << 0);
    /// The MSI-X pending bits are in it.
    pub const MSIX_PBA: Self = Self(1 << 1);
    /// It is not TEE memory.
    pub const NON_TEE: Self = Self(1 << 2);
    /// Whether it is TEE memory can be changed.
    pub const UPDATABLE: Self = Self(1 << 3);
    /// Bits that have a meaning.
    pub const DEFINED: u16 = 0xf;

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits of both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A range of MMIO pages. 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioRange {
    /// Address of the first 4 KiB page; in a report with the reporting offset added, modulo 2^64.
    pub first_page: u64,
    /// Number of 4 KiB pages.
    pub pages: u32,
    /// What it is.
    pub attributes: RangeAttributes,
    /// Which one it is; below 6 the number of its BAR.
    pub id: u16,
}

impl MmioRange {
    /// Size in bytes.
    pub const SIZE: usize = 16;
    /// Size of a page in bytes.
    pub const PAGE: u64 = 4096;

    /// Reads a range.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            first_page: reader.u64("first page")?,
            pages: reader.u32("number of pages")?,
            attributes: RangeAttributes(reader.u16("range attributes")?),
            id: reader.u16("range id")?,
        })
    }

    /// Writes the range.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        writer.u64(self.first_page)?;
        writer.u32(self.pages)?;
        writer.u16(self.attributes.0)?;
        writer.u16(self.id)
    }

    /// Whether all pages of `other` are pages of this range of the same id. Addresses may wrap around.
    pub const fn covers(&self, other: &Self) -> bool {
        let start = other.first_page.wrapping_sub(self.first_page);
        let Some(end) = (other.pages as u64 * Self::PAGE).checked_add(start) else { return false };
        self.id == other.id && end <= self.pages as u64 * Self::PAGE
    }
}

/// The device interface report: what a trusted VM has to know before it lets the interface run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What the interface does.
    pub info: InterfaceInfo,
    /// Message control register of MSI-X, or 0.
    pub msix_control: u16,
    /// LN requester control register, or 0.
    pub lnr_control: u16,
    /// TPH requester control register, or 0.
    pub tph_control: u32,
    /// Its MMIO: by BAR, ascending within a BAR.
    pub ranges: Vec<MmioRange>,
    /// What only the device's driver understands.
    pub device_specific: Vec<u8>,
}

/// A report of more than 65,535 bytes cannot be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a report of {0} bytes is longer than 65535")]
pub struct ReportTooLong(pub usize);

impl Report {
    /// Size without ranges and device specific information, in bytes.
    pub const MIN_SIZE: usize = 20;

    /// The report's bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ReportTooLong> {
        let ranges = self.ranges.len().saturating_mul(MmioRange::SIZE);
        let size = Self::MIN_SIZE.saturating_add(ranges).saturating_add(self.device_specific.len());
        if size > u16::MAX.into() {
            return Err(ReportTooLong(size));
        }
        let mut bytes = vec![0; size];
        self.write(&mut Writer::new(&mut bytes)).map_err(|_| ReportTooLong(size))?;
        Ok(bytes)
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        let count = |length: usize| u32::try_from(length).map_err(|_| NoSpace(length));
        writer.u16(self.info.0)?;
        writer.zeros(2)?;
        writer.u16(self.msix_control)?;
        writer.u16(self.lnr_control)?;
        writer.u32(self.tph_control)?;
        writer.u32(count(self.ranges.len())?)?;
        for range in &self.ranges {
            range.write(writer)?;
        }
        writer.u32(count(self.device_specific.len())?)?;
        writer.bytes(&self.device_specific)
    }

    /// Reads a report that fills `bytes`. Undefined bits, unaligned pages and empty ranges are refused.
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let info = reader.u16("INTERFACE_INFO")?;
        if info & !InterfaceInfo::DEFINED != 0 {
            return Err(DecodeError::Reserved { field: "INTERFACE_INFO", value: info.into() });
        }
        reader.reserved(2, "reserved")?;
        let msix_control = reader.u16("MSI-X message control")?;
        let lnr_control = reader.u16("LNR control")?;
        let tph_control = reader.u32("TPH control")?;
        let count = reader.u32("MMIO range count")?;
        let mut ranges = Vec::new();
        for _ in 0..count {
            // A count that lies ends here, where the bytes do.
            let range = MmioRange::read(&mut reader)?;
            if range.attributes.0 & !RangeAttributes::DEFINED != 0 {
                let value = range.attributes.0.into();
                return Err(DecodeError::Reserved { field: "range attributes", value });
            }
            if !range.first_page.is_multiple_of(MmioRange::PAGE) {
                return Err(DecodeError::Value { field: "first page", value: range.first_page });
            }
            if range.pages == 0 {
                return Err(DecodeError::Value { field: "number of pages", value: 0 });
            }
            ranges.push(range);
        }
        let length = reader.u32("device specific length")?;
        let limit = reader.left();
        let value = usize::try_from(length).unwrap_or(usize::MAX);
        if value > limit {
            return Err(DecodeError::Length { field: "device specific information", value, limit });
        }
        let device_specific = reader.take(value, "device specific information")?.to_vec();
        reader.finish()?;
        Ok(Self {
            info: InterfaceInfo(info),
            msix_control,
            lnr_control,
            tph_control,
            ranges,
            device_specific,
        })
    }

    /// The report with `offset` added to every address, modulo 2^64.
    #[must_use]
    pub fn shifted(mut self, offset: u64) -> Self {
        for range in &mut self.ranges {
            range.first_page = range.first_page.wrapping_add(offset);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            info: InterfaceInfo::NO_FIRMWARE_UPDATE.union(InterfaceInfo::DMA_WITHOUT_PASID),
            msix_control: 0x8007,
            lnr_control: 2,
            tph_control: 0x0102_0304,
            ranges: vec![
                MmioRange { first_page: 0xd000_0000, pages: 4, attributes: RangeAttributes::NON_TEE, id: 0 },
                MmioRange {
                    first_page: 0xd000_4000,
                    pages: 1,
                    attributes: RangeAttributes::MSIX_TABLE,
                    id: 2,
                },
            ],
            device_specific: b"nic".to_vec(),
        }
    }

    #[test]
    fn a_report_has_the_layout_of_the_tables_and_reads_as_written() {
        let bytes = report().to_bytes().unwrap();
        assert_eq!(bytes.len(), 16 + 2 * 16 + 4 + 3);
        assert_eq!(bytes[..16], [3, 0, 0, 0, 7, 0x80, 2, 0, 4, 3, 2, 1, 2, 0, 0, 0]);
        assert_eq!(bytes[16..32], [0, 0, 0, 0xd0, 0, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0]);
        assert_eq!(bytes[44..], [1, 0, 2, 0, 3, 0, 0, 0, b'n', b'i', b'c']);
        assert_eq!(Report::parse(&bytes), Ok(report()));
    }

    #[test]
    fn a_report_that_ends_early_or_late_is_refused() {
        let bytes = report().to_bytes().unwrap();
        for end in 0..bytes.len() {
            assert!(Report::parse(&bytes[..end]).is_err(), "{end} bytes");
        }
        assert_eq!(Report::parse(&[&bytes[..], &[0]].concat()), Err(DecodeError::Trailing { extra: 1 }));
    }

    #[test]
    fn a_report_that_lies_is_refused_with_the_field() {
        let bytes = report().to_bytes().unwrap();
        let changed = |at: usize, value: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            Report::parse(&bytes).unwrap_err()
        };
        assert_eq!(changed(0, 0x23), DecodeError::Reserved { field: "INTERFACE_INFO", value: 0x23 });
        assert_eq!(changed(2, 1), DecodeError::Reserved { field: "reserved", value: 1 });
        assert!(matches!(changed(15, 0xff), DecodeError::Truncated { .. }), "4 thousand million ranges");
        assert_eq!(changed(16, 1), DecodeError::Value { field: "first page", value: 0xd000_0001 });
        assert_eq!(changed(24, 0), DecodeError::Value { field: "number of pages", value: 0 });
        assert_eq!(changed(28, 0x14), DecodeError::Reserved { field: "range attributes", value: 0x14 });
        let longer = DecodeError::Length { field: "device specific information", value: 4, limit: 3 };
        assert_eq!(changed(48, 4), longer);
    }

    #[test]
    fn a_report_that_cannot_be_asked_for_is_not_made() {
        let mut report = Report { device_specific: vec![0; 65_515], ..Report::default() };
        assert_eq!(report.to_bytes().map(|bytes| bytes.len()), Ok(65_535));
        report.device_specific.push(0);
        assert_eq!(report.to_bytes(), Err(ReportTooLong(65_536)));
    }

    #[test]
    fn the_reporting_offset_wraps_around() {
        let shifted = report().shifted(0xffff_ffff_4000_0000);
        assert_eq!(
            shifted.ranges.iter().map(|range| range.first_page).collect::<Vec<_>>(),
            [0x1000_0000, 0x1000_4000]
        );
    }

    #[test]
    fn a_range_covers_its_own_pages_only() {
        let range = |first_page, pages| MmioRange {
            first_page,
            pages,
            attributes: RangeAttributes::default(),
            id: 1,
        };
        let whole = range(0x4000, 4);
        for (first, pages, covered) in [
            (0x4000, 4, true),
            (0x7000, 1, true),
            (0x7000, 2, false),
            (0x3000, 1, false),
            (0x8000, 0, true),
            (0x9000, 0, false),
        ] {
            assert_eq!(whole.covers(&range(first, pages)), covered, "{first:#x} + {pages}");
        }
        assert!(!whole.covers(&MmioRange { id: 2, ..whole }));
    }
}
