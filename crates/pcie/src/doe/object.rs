use core::fmt;

use open_enum::open_enum;

open_enum! {
    /// Who defines the types of data objects: a vendor id of the PCI-SIG.
    pub struct VendorId(u16) {
        /// The PCI-SIG itself.
        PCI_SIG = 0x0001 => "PCI-SIG",
        /// Nobody: answers a discovery of an index behind the last one.
        NONE = 0xffff => "none",
    }
}

/// What a data object holds: a vendor and a number that the vendor gives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectType {
    /// Who defines the number.
    pub vendor: VendorId,
    /// The number.
    pub kind: u8,
}

impl ObjectType {
    /// DOE discovery.
    pub const DISCOVERY: Self = Self::pci_sig(0);
    /// An SPDM message in the clear (CMA/SPDM).
    pub const SPDM: Self = Self::pci_sig(1);
    /// A secured SPDM message.
    pub const SECURED_SPDM: Self = Self::pci_sig(2);
    /// An SPDM message with a connection id.
    pub const SPDM_CONNECTION: Self = Self::pci_sig(3);
    /// A secured SPDM message with a connection id.
    pub const SECURED_SPDM_CONNECTION: Self = Self::pci_sig(4);

    /// The PCI-SIG's type of that number.
    pub const fn pci_sig(kind: u8) -> Self {
        Self { vendor: VendorId::PCI_SIG, kind }
    }

    /// The name of a known type.
    pub const fn name(self) -> Option<&'static str> {
        if self.vendor.0 != VendorId::PCI_SIG.0 {
            return None;
        }
        match self.kind {
            0 => Some("discovery"),
            1 => Some("SPDM"),
            2 => Some("secured SPDM"),
            3 => Some("SPDM with connection id"),
            4 => Some("secured SPDM with connection id"),
            _ => None,
        }
    }

    /// Bits 23:0 of the dwords that name a type: vendor in 15:0, number in 23:16.
    pub(super) const fn to_bits(self) -> u32 {
        (self.kind as u32) << 16 | self.vendor.0 as u32
    }

    /// The type in bits 23:0.
    pub(super) const fn from_bits(dword: u32) -> Self {
        let [a, b, kind, _] = dword.to_le_bytes();
        Self { vendor: VendorId(u16::from_le_bytes([a, b])), kind }
    }
}

impl fmt::Display for ObjectType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "type {:#04x} of vendor {:#06x}", self.kind, self.vendor.0),
        }
    }
}

impl fmt::Debug for ObjectType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why dwords or bytes are no data object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// The object has not even a header.
    #[error("{0} bytes are too few for the header of a data object")]
    NoHeader(usize),
    /// Reserved bits of the header are set.
    #[error("reserved bits {bits:#010x} of dword {dword} of a data object are set")]
    Reserved {
        /// Which dword of the header.
        dword: u8,
        /// The bits, at their places.
        bits: u32,
    },
    /// The length does not even cover the header.
    #[error("a data object of {0} dwords is shorter than its header")]
    TooShort(u32),
    /// More than 2^18 dwords.
    #[error("{0} bytes are too many for a data object")]
    TooLong(usize),
    /// The bytes are not as many as the header says.
    #[error("a data object of {expected} bytes is given as {found} bytes")]
    Length {
        /// As the header says.
        expected: usize,
        /// As given.
        found: usize,
    },
    /// The buffer is too small.
    #[error("a data object of {needed} bytes does not fit a buffer of {room} bytes")]
    NoSpace {
        /// Size of the object.
        needed: usize,
        /// Size of the buffer.
        room: usize,
    },
}

/// Length of a data object in dwords, the two of its header included: 2 to 2^18.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectLength(u32);

impl ObjectLength {
    /// Dwords of the longest object.
    pub const MAX_DWORDS: u32 = 1 << 18;
    /// Dwords of the header.
    pub const HEADER_DWORDS: u32 = 2;

    /// A length of that many dwords; `None` below 2 and above 2^18.
    pub const fn from_dwords(dwords: u32) -> Option<Self> {
        if dwords < Self::HEADER_DWORDS || dwords > Self::MAX_DWORDS { None } else { Some(Self(dwords)) }
    }

    /// The length of an object with a payload of that many bytes, which are padded to a dword; `None` if
    /// the object would be too long.
    pub fn of_payload(bytes: usize) -> Option<Self> {
        let dwords = u32::try_from(bytes.div_ceil(4)).ok()?;
        dwords.checked_add(Self::HEADER_DWORDS).and_then(Self::from_dwords)
    }

    /// Dwords, header included.
    pub const fn dwords(self) -> u32 {
        self.0
    }

    /// Dwords as a count of elements.
    pub(super) const fn count(self) -> usize {
        self.0 as usize
    }

    /// Bytes, header included.
    pub const fn bytes(self) -> usize {
        self.0 as usize * 4
    }

    /// Bytes of the padded payload.
    pub const fn payload_bytes(self) -> usize {
        (self.0 - Self::HEADER_DWORDS) as usize * 4
    }

    /// The length field: 0 stands for 2^18.
    const fn to_field(self) -> u32 {
        self.0 & (Self::MAX_DWORDS - 1)
    }

    const fn from_field(field: u32) -> Option<Self> {
        if field == 0 { Some(Self(Self::MAX_DWORDS)) } else { Self::from_dwords(field) }
    }
}

impl fmt::Display for ObjectLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dwords", self.0)
    }
}

impl fmt::Debug for ObjectLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Header of a data object, two dwords: vendor 15:0 and type 23:16; length in dwords 17:0.
///
/// Source: PCI Express 6.0, 6.30.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the object holds.
    pub object_type: ObjectType,
    /// How long it is.
    pub length: ObjectLength,
}

impl Header {
    /// Bytes of a header.
    pub const BYTES: usize = 8;

    /// The header of an object with a payload of that many bytes.
    pub fn new(object_type: ObjectType, payload_bytes: usize) -> Result<Self, ObjectError> {
        let too_long = ObjectError::TooLong(payload_bytes.saturating_add(Self::BYTES));
        let length = ObjectLength::of_payload(payload_bytes).ok_or(too_long)?;
        Ok(Self { object_type, length })
    }

    /// The two dwords.
    pub const fn encode(self) -> [u32; 2] {
        [self.object_type.to_bits(), self.length.to_field()]
    }

    /// Reads the two dwords; reserved bits must be 0.
    pub const fn decode(dwords: [u32; 2]) -> Result<Self, ObjectError> {
        let [first, second] = dwords;
        if first >> 24 != 0 {
            return Err(ObjectError::Reserved { dword: 0, bits: first & 0xff00_0000 });
        }
        if second >= ObjectLength::MAX_DWORDS {
            let bits = second & !(ObjectLength::MAX_DWORDS - 1);
            return Err(ObjectError::Reserved { dword: 1, bits });
        }
        match ObjectLength::from_field(second) {
            Some(length) => Ok(Self { object_type: ObjectType::from_bits(first), length }),
            None => Err(ObjectError::TooShort(second)),
        }
    }

    /// The header as bytes.
    pub const fn to_bytes(self) -> [u8; Self::BYTES] {
        let [first, second] = self.encode();
        ((second as u64) << 32 | first as u64).to_le_bytes()
    }

    /// Reads a header from bytes.
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Result<Self, ObjectError> {
        let both = u64::from_le_bytes(bytes);
        Self::decode([(both & 0xffff_ffff) as u32, (both >> 32) as u32])
    }
}

/// A data object: the unit that DOE moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object<'a> {
    /// What the payload holds.
    pub object_type: ObjectType,
    /// The payload. In an object that was read it includes up to three bytes of padding, and only who
    /// knows the message in it can tell how many.
    pub payload: &'a [u8],
}

impl<'a> Object<'a> {
    /// The header.
    pub fn header(&self) -> Result<Header, ObjectError> {
        Header::new(self.object_type, self.payload.len())
    }

    /// Reads an object that fills `bytes` exactly.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ObjectError> {
        let (header, payload) = bytes.split_first_chunk().ok_or(ObjectError::NoHeader(bytes.len()))?;
        let Header { object_type, length } = Header::from_bytes(*header)?;
        if length.bytes() != bytes.len() {
            return Err(ObjectError::Length { expected: length.bytes(), found: bytes.len() });
        }
        Ok(Self { object_type, payload })
    }

    /// Writes the object to the front of `buffer`, padded with zeros, and returns its size in bytes.
    pub fn write(&self, buffer: &mut [u8]) -> Result<usize, ObjectError> {
        let header = self.header()?;
        let (needed, room) = (header.length.bytes(), buffer.len());
        let object = buffer.get_mut(..needed).ok_or(ObjectError::NoSpace { needed, room })?;
        let mut bytes = header.to_bytes().into_iter().chain(self.payload.iter().copied());
        object.fill_with(|| bytes.next().unwrap_or(0));
        Ok(needed)
    }

    /// The dwords of the object, header first, the last one padded with zeros.
    pub fn dwords(&self) -> Result<impl Iterator<Item = u32> + use<'a>, ObjectError> {
        let header = self.header()?.encode();
        Ok(header.into_iter().chain(payload_dwords(self.payload)))
    }
}

/// The dwords of a payload, the last one padded with zeros.
pub(super) fn payload_dwords(payload: &[u8]) -> impl Iterator<Item = u32> + use<'_> {
    payload.chunks(4).map(|chunk| chunk.iter().rev().fold(0, |dword, &byte| dword << 8 | u32::from(byte)))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;
    use std::vec::Vec;
    use std::{format, vec};

    #[test]
    fn a_header_has_vendor_type_and_length_at_their_places() {
        let header = Header::new(ObjectType::SECURED_SPDM, 9).unwrap();
        assert_eq!(header.encode(), [0x0002_0001, 5]);
        assert_eq!(header.to_bytes(), [1, 0, 2, 0, 5, 0, 0, 0]);
        assert_eq!((header.length.bytes(), header.length.payload_bytes()), (20, 12));
    }

    #[test]
    fn a_length_of_0_stands_for_the_longest_object() {
        let header = Header::decode([0x0001_0001, 0]).unwrap();
        assert_eq!(header.length.dwords(), 1 << 18);
        assert_eq!(header.encode(), [0x0001_0001, 0]);
        let most = (1 << 20) - 8;
        assert_eq!(Header::new(ObjectType::SPDM, most), Ok(header));
        assert_eq!(Header::new(ObjectType::SPDM, most + 1), Err(ObjectError::TooLong((1 << 20) + 1)));
        assert_eq!(Header::new(ObjectType::SPDM, usize::MAX), Err(ObjectError::TooLong(usize::MAX)));
    }

    #[test]
    fn a_length_below_the_header_is_refused_and_the_header_alone_is_not() {
        assert_eq!(Header::decode([0x0001_0001, 1]), Err(ObjectError::TooShort(1)));
        assert_eq!(Header::decode([0x0001_0001, 2]), Header::new(ObjectType::SPDM, 0));
        assert_eq!(ObjectLength::from_dwords(1), None);
        assert_eq!(ObjectLength::from_dwords((1 << 18) + 1), None);
    }

    #[test]
    fn reserved_bits_of_a_header_are_refused_with_their_dword() {
        let error = ObjectError::Reserved { dword: 0, bits: 0x0100_0000 };
        assert_eq!(Header::decode([0x0101_0001, 2]), Err(error));
        let error = ObjectError::Reserved { dword: 1, bits: 1 << 18 };
        assert_eq!(Header::decode([0x0001_0001, 1 << 18 | 2]), Err(error));
    }

    #[test]
    fn an_object_is_as_long_as_its_header_says() {
        let bytes = [1, 0, 1, 0, 3, 0, 0, 0, 0x12, 0x84, 0, 0];
        let object = Object { object_type: ObjectType::SPDM, payload: &[0x12, 0x84, 0, 0] };
        assert_eq!(Object::parse(&bytes), Ok(object));
        let mut longer = bytes.to_vec();
        longer.extend([0; 4]);
        assert_eq!(Object::parse(&longer), Err(ObjectError::Length { expected: 12, found: 16 }));
        assert_eq!(Object::parse(&bytes[..11]), Err(ObjectError::Length { expected: 12, found: 11 }));
        assert_eq!(Object::parse(&bytes[..7]), Err(ObjectError::NoHeader(7)));
    }

    #[test]
    fn padding_is_zero_and_behind_the_payload() {
        let object = Object { object_type: ObjectType::SPDM, payload: &[1, 2, 3, 4, 5] };
        let mut buffer = [0xff; 17];
        assert_eq!(object.write(&mut buffer), Ok(16));
        assert_eq!(buffer, [1, 0, 1, 0, 4, 0, 0, 0, 1, 2, 3, 4, 5, 0, 0, 0, 0xff]);
        assert_eq!(object.dwords().unwrap().collect::<Vec<_>>(), [0x0001_0001, 4, 0x0403_0201, 5]);
    }

    #[test]
    fn a_buffer_that_is_too_small_stays_as_it_is() {
        let object = Object { object_type: ObjectType::SPDM, payload: &[1] };
        let mut buffer = [0xff; 11];
        assert_eq!(object.write(&mut buffer), Err(ObjectError::NoSpace { needed: 12, room: 11 }));
        assert_eq!(buffer, [0xff; 11]);
    }

    #[test]
    fn types_that_nobody_knows_are_shown_with_their_numbers() {
        assert_eq!(ObjectType::SECURED_SPDM.to_string(), "secured SPDM");
        assert_eq!(ObjectType::pci_sig(9).to_string(), "type 0x09 of vendor 0x0001");
        let vendor = ObjectType { vendor: VendorId(0x8086), kind: 1 };
        assert_eq!(format!("{vendor:?}"), "type 0x01 of vendor 0x8086");
    }

    proptest! {
        #[test]
        fn an_object_that_was_written_is_read_back(vendor: u16, kind: u8, payload in prop::collection::vec(any::<u8>(), 0..80)) {
            let object_type = ObjectType { vendor: VendorId(vendor), kind };
            let mut buffer = vec![0; 100];
            let size = Object { object_type, payload: &payload }.write(&mut buffer).unwrap();
            let read = Object::parse(&buffer[..size]).unwrap();
            prop_assert_eq!(read.object_type, object_type);
            let (message, padding) = read.payload.split_at(payload.len());
            prop_assert_eq!(message, &payload[..]);
            prop_assert!(padding.len() < 4 && padding.iter().all(|&byte| byte == 0));
        }

        #[test]
        fn bytes_that_are_read_are_written_as_they_were(bytes in prop::collection::vec(any::<u8>(), 0..40), dwords in 0u8..12) {
            let mut bytes = bytes;
            if let [_, _, _, reserved, length, rest @ ..] = &mut bytes[..] {
                (*reserved, *length) = (0, dwords);
                rest.iter_mut().take(3).for_each(|byte| *byte = 0);
            }
            if let Ok(object) = Object::parse(&bytes) {
                let mut written = vec![0; bytes.len()];
                prop_assert_eq!(object.write(&mut written), Ok(bytes.len()));
                prop_assert_eq!(written, bytes);
            }
        }
    }
}
