//! `GET_VERSION` and `VERSION`: the only messages that are of version 1.0 forever.

use core::fmt;

use crate::ids::Version;
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

use super::{Header, RequestCode, ResponseCode};

/// `GET_VERSION`: 4 bytes. Starts a connection, whatever was before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GetVersion;

impl GetVersion {
    /// Reads the message.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Header::expect_bare(reader, Version::V1_0, RequestCode::GET_VERSION.0)?;
        Ok(Self)
    }

    /// Writes the message.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        Header::write(writer, Version::V1_0, RequestCode::GET_VERSION.0, 0, 0)
    }
}

/// A version as lists hold it: major in bits 15:12, minor in bits 11:8, update in bits 7:4, alpha in
/// bits 3:0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionNumber(pub u16);

impl VersionNumber {
    /// The released version, update 0.
    pub const fn released(version: Version) -> Self {
        Self((version.0 as u16) << 8)
    }

    /// Major and minor, as messages carry them.
    pub const fn version(self) -> Version {
        Version((self.0 >> 8) as u8)
    }

    /// Update number.
    pub const fn update(self) -> u8 {
        (self.0 >> 4 & 0xf) as u8
    }

    /// Number of a work in progress; 0 in a release.
    pub const fn alpha(self) -> u8 {
        (self.0 & 0xf) as u8
    }
}

impl fmt::Display for VersionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}.{}", self.0 >> 12, self.0 >> 8 & 0xf, self.update(), self.alpha())
    }
}

/// Up to 16 version numbers, none twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VersionList {
    numbers: [VersionNumber; Self::MAX],
    count: usize,
}

impl VersionList {
    /// Numbers that a list can hold: one for each minor version of a major one.
    pub const MAX: usize = 16;

    /// The released numbers of `versions`. `None` if one is there twice or there are more than 16.
    pub fn released(versions: &[Version]) -> Option<Self> {
        let mut list = Self::default();
        for version in versions {
            list.push(VersionNumber::released(*version)).ok()?;
        }
        Some(list)
    }

    /// The numbers, in their order.
    pub fn as_slice(&self) -> &[VersionNumber] {
        self.numbers.get(..self.count).unwrap_or_default()
    }

    /// The numbers, in their order.
    pub fn iter(&self) -> impl Iterator<Item = VersionNumber> + '_ {
        self.as_slice().iter().copied()
    }

    /// Whether the list has a released or updated number of that version.
    pub fn has(&self, version: Version) -> bool {
        self.iter().any(|number| number.version() == version)
    }

    /// Adds a number at the end.
    pub fn push(&mut self, number: VersionNumber) -> Result<(), DecodeError> {
        if self.as_slice().contains(&number) {
            return Err(DecodeError::Value { field: "a second VersionNumberEntry", value: number.0.into() });
        }
        let full =
            DecodeError::Length { field: "VersionNumberEntry list", value: self.count + 1, limit: Self::MAX };
        *self.numbers.get_mut(self.count).ok_or(full)? = number;
        self.count += 1;
        Ok(())
    }

    /// Reads the numbers behind their one-byte count, which must not be 0.
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = reader.u8("VersionNumberEntryCount")?;
        if count == 0 {
            return Err(DecodeError::Value { field: "VersionNumberEntryCount", value: 0 });
        }
        let mut list = Self::default();
        for _ in 0..count {
            list.push(VersionNumber(reader.u16("VersionNumberEntry")?))?;
        }
        Ok(list)
    }

    pub(super) fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        // At most 16 by construction.
        writer.u8(u8::try_from(self.count).unwrap_or(u8::MAX))?;
        self.iter().try_for_each(|number| writer.u16(number.0))
    }
}

/// `VERSION`: header, reserved byte, count, two bytes per version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionResponse {
    /// The versions that the responder speaks.
    pub versions: VersionList,
}

impl VersionResponse {
    /// Reads the message.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Header::expect_bare(reader, Version::V1_0, ResponseCode::VERSION.0)?;
        reader.reserved(1, "byte 4")?;
        Ok(Self { versions: VersionList::read(reader)? })
    }

    /// Writes the message.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        Header::write(writer, Version::V1_0, ResponseCode::VERSION.0, 0, 0)?;
        writer.zeros(1)?;
        self.versions.write(writer)
    }
}
