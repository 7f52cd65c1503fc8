//! Where a function is: segment, bus, device and function, and the forms that protocols give it.

use core::fmt;
use core::str::FromStr;

/// Segment (domain) number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Segment(pub u16);

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}", self.0)
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Bus, device and function inside a segment: bits 15:8, 7:3 and 2:0 of the routing id (also called
/// requester id, RID).
///
/// With alternative routing ids (ARI) there is no device number, and a function number has bits 7:0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Bdf(u16);

impl Bdf {
    /// The function of these numbers; `None` for a device above 31 or a function above 7.
    pub const fn new(bus: u8, device: u8, function: u8) -> Option<Self> {
        if device > 31 || function > 7 {
            return None;
        }
        Some(Self((bus as u16) << 8 | (device as u16) << 3 | function as u16))
    }

    /// The function behind a routing id.
    pub const fn from_routing_id(routing_id: u16) -> Self {
        Self(routing_id)
    }

    /// The function that an ARI device numbers so.
    pub const fn from_ari(bus: u8, function: u8) -> Self {
        Self((bus as u16) << 8 | function as u16)
    }

    /// The routing id.
    pub const fn routing_id(self) -> u16 {
        self.0
    }

    /// Bus number.
    pub const fn bus(self) -> u8 {
        self.0.to_be_bytes()[0]
    }

    /// Device number, 0 to 31.
    pub const fn device(self) -> u8 {
        self.devfn() >> 3
    }

    /// Function number, 0 to 7.
    pub const fn function(self) -> u8 {
        self.devfn() & 7
    }

    /// Bits 7:0 of the routing id: device and function, or the function number of an ARI device.
    pub const fn devfn(self) -> u8 {
        self.0.to_be_bytes()[1]
    }

    /// The function whose routing id is `distance` higher; `None` beyond the last bus.
    pub const fn checked_add(self, distance: u16) -> Option<Self> {
        match self.0.checked_add(distance) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus(), self.device(), self.function())
    }
}

impl fmt::Debug for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A function in the whole machine, `0000:3b:00.0`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FunctionId {
    /// The segment.
    pub segment: Segment,
    /// The place in it.
    pub bdf: Bdf,
}

impl FunctionId {
    /// The function at `bdf` of `segment`.
    pub const fn new(segment: Segment, bdf: Bdf) -> Self {
        Self { segment, bdf }
    }
}

impl fmt::Display for FunctionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment, self.bdf)
    }
}

impl fmt::Debug for FunctionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An address in the memory space of a bus, in bytes: what a base address register holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct BusAddress(pub u64);

impl fmt::Display for BusAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for BusAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text names no function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Colons and the dot are not where they belong.
    #[error("a function is written as bus:device.function or segment:bus:device.function")]
    Shape,
    /// No segment of up to four hexadecimal digits.
    #[error("the segment is no hexadecimal number up to ffff")]
    Segment,
    /// No bus of up to two hexadecimal digits.
    #[error("the bus is no hexadecimal number up to ff")]
    Bus,
    /// No device of up to two hexadecimal digits, or one above 1f.
    #[error("the device is no hexadecimal number up to 1f")]
    Device,
    /// No single digit, or one above 7.
    #[error("the function is no digit up to 7")]
    Function,
}

/// Up to `digits` hexadecimal digits, and nothing else.
fn hex(text: &str, digits: usize) -> Option<u16> {
    let fits = !text.is_empty() && text.len() <= digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    fits.then(|| u16::from_str_radix(text, 16).ok()).flatten()
}

fn hex_byte(text: &str, digits: usize) -> Option<u8> {
    hex(text, digits).and_then(|value| u8::try_from(value).ok())
}

impl FromStr for Bdf {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (bus, rest) = text.split_once(':').ok_or(ParseError::Shape)?;
        let (device, function) = rest.split_once('.').ok_or(ParseError::Shape)?;
        let bus = hex_byte(bus, 2).ok_or(ParseError::Bus)?;
        let device = hex_byte(device, 2).filter(|&device| device <= 31).ok_or(ParseError::Device)?;
        let function = hex_byte(function, 1).ok_or(ParseError::Function)?;
        Self::new(bus, device, function).ok_or(ParseError::Function)
    }
}

impl FromStr for FunctionId {
    type Err = ParseError;

    /// The segment may be left out, and is 0 then.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut colons = text.match_indices(':').map(|(at, _)| at);
        let (first, second) = (colons.next(), colons.next());
        let (segment, bdf) = match (first, second) {
            (Some(at), Some(_)) => {
                let (segment, rest) = text.split_at_checked(at).ok_or(ParseError::Shape)?;
                let bdf = rest.strip_prefix(':').ok_or(ParseError::Shape)?;
                (hex(segment, 4).ok_or(ParseError::Segment)?, bdf)
            }
            _ => (0, text),
        };
        Ok(Self::new(Segment(segment), bdf.parse()?))
    }
}

/// FUNCTION_ID of the protocols, 4 bytes: the first dword of a TDISP `INTERFACE_ID`.
///
/// Routing id in bits 15:0, segment in 23:16, "segment is valid" in 24, the rest reserved. Source:
/// PCI Express 6.1, 11.3.2.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct FuncId(pub u32);

/// A segment has no place in a [`FuncId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("segment {0} has no place in a function id, which has 8 bits for it")]
pub struct SegmentTooLarge(pub Segment);

impl FuncId {
    const SEGMENT_VALID: u32 = 1 << 24;
    const RESERVED: u32 = 0xfe00_0000;

    /// The id of `function`. The segment is said to be valid only when it is not 0, as Linux does it.
    pub const fn new(function: FunctionId) -> Result<Self, SegmentTooLarge> {
        let segment = function.segment.0;
        if segment > 0xff {
            return Err(SegmentTooLarge(function.segment));
        }
        let valid = if segment == 0 { 0 } else { Self::SEGMENT_VALID };
        Ok(Self(valid | (segment as u32) << 16 | function.bdf.0 as u32))
    }

    /// The place in the segment.
    pub const fn bdf(self) -> Bdf {
        Bdf((self.0 & 0xffff) as u16)
    }

    /// The segment, if the id has a valid one.
    pub const fn segment(self) -> Option<Segment> {
        if self.0 & Self::SEGMENT_VALID == 0 {
            return None;
        }
        Some(Segment((self.0 >> 16 & 0xff) as u16))
    }

    /// The function; in segment 0 if the id has no valid segment.
    pub const fn function(self) -> FunctionId {
        let segment = match self.segment() {
            Some(segment) => segment,
            None => Segment(0),
        };
        FunctionId { segment, bdf: self.bdf() }
    }

    /// The reserved bits that are set, at their places.
    pub const fn reserved(self) -> u32 {
        self.0 & Self::RESERVED
    }
}

impl fmt::Display for FuncId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reserved() {
            0 => fmt::Display::fmt(&self.function(), f),
            _ => write!(f, "{:#010x}", self.0),
        }
    }
}

impl fmt::Debug for FuncId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;

    fn function(text: &str) -> FunctionId {
        text.parse().unwrap()
    }

    #[test]
    fn a_function_is_written_as_tools_write_it() {
        let bdf = Bdf::new(0x3b, 0x1f, 7).unwrap();
        assert_eq!(bdf.to_string(), "3b:1f.7");
        assert_eq!(FunctionId::new(Segment(0x12), bdf).to_string(), "0012:3b:1f.7");
        assert_eq!((bdf.bus(), bdf.device(), bdf.function()), (0x3b, 0x1f, 7));
        assert_eq!(bdf.routing_id(), 0x3bff);
    }

    #[test]
    fn device_and_function_numbers_have_an_end() {
        assert!(Bdf::new(255, 31, 7).is_some());
        assert_eq!(Bdf::new(0, 32, 0), None);
        assert_eq!(Bdf::new(0, 0, 8), None);
    }

    #[test]
    fn a_function_of_an_ari_device_has_eight_bits() {
        let bdf = Bdf::from_ari(2, 9);
        assert_eq!((bdf.device(), bdf.function(), bdf.devfn()), (1, 1, 9));
    }

    #[test]
    fn a_routing_id_does_not_go_beyond_the_last_bus() {
        let bdf = Bdf::from_routing_id(0xfffe);
        assert_eq!(bdf.checked_add(1), Some(Bdf::from_routing_id(0xffff)));
        assert_eq!(bdf.checked_add(2), None);
    }

    #[test]
    fn a_text_without_segment_means_segment_0() {
        assert_eq!(function("3b:00.0"), function("0000:3b:00.0"));
        assert_eq!(function("1:3b:00.0").segment, Segment(1));
    }

    #[test]
    fn a_wrong_text_is_refused_with_its_part() {
        for (text, error) in [
            ("", ParseError::Shape),
            ("3b", ParseError::Shape),
            ("3b:00", ParseError::Shape),
            ("00.0", ParseError::Shape),
            ("10000:3b:00.0", ParseError::Segment),
            (":3b:00.0", ParseError::Segment),
            ("+1:3b:00.0", ParseError::Segment),
            ("0:100:00.0", ParseError::Bus),
            ("0::00.0", ParseError::Bus),
            ("3b:20.0", ParseError::Device),
            ("3b:.0", ParseError::Device),
            ("0:0:3b:00.0", ParseError::Device),
            ("3b:00.8", ParseError::Function),
            ("3b:00.", ParseError::Function),
            ("3b:00.0 ", ParseError::Function),
            ("3b:00.é", ParseError::Function),
        ] {
            assert_eq!(text.parse::<FunctionId>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_function_id_of_segment_0_has_no_valid_segment() {
        let id = FuncId::new(function("0:3b:01.2")).unwrap();
        assert_eq!(id, FuncId(0x3b0a));
        assert_eq!(id.segment(), None);
        assert_eq!(id.function(), function("0:3b:01.2"));
    }

    #[test]
    fn a_function_id_keeps_a_segment_of_8_bits_and_refuses_a_wider_one() {
        let id = FuncId::new(function("ff:3b:01.2")).unwrap();
        assert_eq!(id, FuncId(0x1ff_3b0a));
        assert_eq!(id.function(), function("ff:3b:01.2"));
        assert_eq!(FuncId::new(function("100:3b:01.2")), Err(SegmentTooLarge(Segment(0x100))));
    }

    #[test]
    fn a_segment_that_is_not_said_to_be_valid_does_not_count() {
        assert_eq!(FuncId(0x00ff_3b0a).function(), function("0:3b:01.2"));
    }

    #[test]
    fn a_function_id_with_reserved_bits_is_shown_as_a_number() {
        assert_eq!(FuncId(0x0200_0000).reserved(), 0x0200_0000);
        assert_eq!(FuncId(0x0200_0000).to_string(), "0x02000000");
        assert_eq!(FuncId(0x0101_0000).to_string(), "0001:00:00.0");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(segment: u16, routing_id: u16) {
            let id = FunctionId::new(Segment(segment), Bdf::from_routing_id(routing_id));
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            prop_assert_eq!(id.bdf.to_string().parse(), Ok(id.bdf));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,16}|[0-9a-f]{0,5}:[0-9a-f]{0,3}:[0-9a-f]{0,3}\\.[0-9a-f]{0,2}") {
            if let Ok(id) = text.parse::<FunctionId>() {
                prop_assert_eq!(id.to_string().parse(), Ok(id));
            }
        }
    }
}
