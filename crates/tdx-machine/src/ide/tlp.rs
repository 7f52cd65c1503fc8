use pcie::Bdf;
use spdm::ide_km::SubStream;

/// Largest payload of a TLP (`Max_Payload_Size`): 128 to 4096 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MaxPayload(u16);

impl MaxPayload {
    /// 128 bytes, what every port can do.
    pub const MIN: Self = Self(128);
    /// 4096 bytes.
    pub const MAX: Self = Self(4096);

    /// A power of two from 128 to 4096.
    pub const fn new(bytes: u16) -> Option<Self> {
        if bytes >= 128 && bytes <= 4096 && bytes.is_power_of_two() { Some(Self(bytes)) } else { None }
    }

    /// In bytes.
    pub const fn bytes(self) -> usize {
        self.0 as usize
    }
}

/// Status of a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CompletionStatus {
    /// Successful.
    Success,
    /// Unsupported request.
    UnsupportedRequest,
    /// Completer abort.
    CompleterAbort,
}

/// Which bytes of a write's first and last dword are written. Those in between are contiguous.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ByteEnables {
    /// Bytes at the front of the payload that are not written, 0 to 3.
    pub skip: u8,
    /// Bytes at its end that are not written, 0 to 3.
    pub cut: u8,
}

impl ByteEnables {
    /// All bytes are written.
    pub const ALL: Self = Self { skip: 0, cut: 0 };

    /// First and last byte enables of a request of that many dwords, the first in bits 3:0.
    const fn encode(self, dwords: usize) -> u8 {
        let (first, last) = (0xf << (self.skip & 3) & 0xf, 0xf >> (self.cut & 3));
        if dwords == 1 { first & last } else { last << 4 | first }
    }

    /// What they say, if the bytes are contiguous.
    fn decode(bits: u8, dwords: usize) -> Option<Self> {
        let all = (0..4).flat_map(|skip| (0..4).map(move |cut| Self { skip, cut }));
        all.filter(|enables| enables.fits(dwords)).find(|enables| enables.encode(dwords) == bits)
    }

    /// Whether at least one byte is written.
    const fn fits(self, dwords: usize) -> bool {
        self.skip < 4 && self.cut < 4 && (dwords != 1 || self.skip + self.cut < 4)
    }
}

/// What a TLP does, without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlpHeader {
    /// Memory read.
    Read {
        /// Who asks.
        requester: Bdf,
        /// Tells completions apart.
        tag: u8,
        /// Multiple of 4.
        address: u64,
        /// How many dwords, 1 to 1024.
        dwords: u16,
    },
    /// Memory write of whole dwords, less some bytes of the first and the last one.
    Write {
        /// Who writes.
        requester: Bdf,
        /// Multiple of 4.
        address: u64,
        /// Which bytes.
        enables: ByteEnables,
    },
    /// Completion, with data if there is a payload.
    Completion {
        /// Who answers.
        completer: Bdf,
        /// Who asked.
        requester: Bdf,
        /// Of the request.
        tag: u8,
        /// How it went.
        status: CompletionStatus,
        /// Bytes of the request that are still to come, this payload included, up to 4096.
        byte_count: u16,
        /// Bits 6:0 of the address of the first byte.
        lower_address: u8,
    },
}

impl TlpHeader {
    /// The sub-stream that such TLPs belong to.
    pub const fn sub_stream(&self) -> SubStream {
        match self {
            Self::Write { .. } => SubStream::Posted,
            Self::Read { .. } => SubStream::NonPosted,
            Self::Completion { .. } => SubStream::Completion,
        }
    }

    /// Who sent it: requester of a request, completer of a completion.
    pub const fn sender(&self) -> Bdf {
        match *self {
            Self::Read { requester, .. } | Self::Write { requester, .. } => requester,
            Self::Completion { completer, .. } => completer,
        }
    }
}

/// A TLP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tlp {
    /// T bit: it belongs to a trusted VM.
    pub trusted: bool,
    /// What it does.
    pub header: TlpHeader,
    /// Whole dwords; none for a read.
    pub payload: Vec<u8>,
}

/// Bytes or fields that make no TLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTlp {
    /// No whole number of dwords, nothing to write, or data where there is none.
    #[error("a TLP cannot have a payload of {0} bytes")]
    Payload(usize),
    /// More than the port takes.
    #[error("a payload of {bytes} bytes is more than the maximum of {max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// `Max_Payload_Size`.
        max: usize,
    },
    /// A read of nothing or of more than 4 KiB.
    #[error("a read of {0} dwords")]
    ReadSize(u16),
    /// An address that is no multiple of 4, or a request across a 4 KiB boundary.
    #[error("{bytes} bytes at {address:#x}: not aligned to 4, or across a boundary of 4 KiB")]
    Address {
        /// The address.
        address: u64,
        /// The size of the request.
        bytes: usize,
    },
    /// A field of a completion has a value that it cannot have.
    #[error("a completion with a byte count of {byte_count} and a lower address of {lower_address:#x}")]
    Completion {
        /// Its byte count.
        byte_count: u16,
        /// Its lower address.
        lower_address: u8,
    },
    /// The type is none of the modelled ones, or a fixed field has another value.
    #[error("TLP type {0:#04x} is not modelled")]
    Type(u8),
}

/// Prefix and header of a TLP as they are authenticated: 4 + 16 bytes.
pub(super) const HEAD: usize = 20;

const READ: u8 = 0x20;
const WRITE: u8 = 0x60;
const COMPLETION: u8 = 0x0a;
const COMPLETION_WITH_DATA: u8 = 0x4a;
const PAGE: u64 = 4096;

impl Tlp {
    /// The sub-stream that it belongs to.
    pub const fn sub_stream(&self) -> SubStream {
        self.header.sub_stream()
    }

    /// Checks that there can be such a TLP and that it is not larger than `max`.
    pub fn check(&self, max: MaxPayload) -> Result<(), BadTlp> {
        let bytes = self.payload.len();
        if bytes > max.bytes() {
            return Err(BadTlp::TooLarge { bytes, max: max.bytes() });
        }
        check(&self.header, bytes)
    }
}

/// What [`Tlp::check`] looks at besides the largest payload.
fn check(header: &TlpHeader, payload: usize) -> Result<(), BadTlp> {
    if !payload.is_multiple_of(4) {
        return Err(BadTlp::Payload(payload));
    }
    match *header {
        TlpHeader::Read { address, dwords, .. } => {
            if payload != 0 {
                return Err(BadTlp::Payload(payload));
            }
            if dwords == 0 || dwords > 1024 {
                return Err(BadTlp::ReadSize(dwords));
            }
            within_a_page(address, usize::from(dwords) * 4)
        }
        TlpHeader::Write { address, enables, .. } => {
            if payload == 0 || !enables.fits(payload / 4) {
                return Err(BadTlp::Payload(payload));
            }
            within_a_page(address, payload)
        }
        TlpHeader::Completion { status, byte_count, lower_address, .. } => {
            if payload != 0 && status != CompletionStatus::Success {
                return Err(BadTlp::Payload(payload));
            }
            if byte_count > 4096 || byte_count == 0 || payload > byte_count.into() || lower_address > 0x7f {
                return Err(BadTlp::Completion { byte_count, lower_address });
            }
            Ok(())
        }
    }
}

fn within_a_page(address: u64, bytes: usize) -> Result<(), BadTlp> {
    if !address.is_multiple_of(4) || address % PAGE + bytes as u64 > PAGE {
        return Err(BadTlp::Address { address, bytes });
    }
    Ok(())
}

/// Length field: dwords modulo 1024, in the low bits of two bytes.
const fn length_field(dwords: usize) -> [u8; 2] {
    let [low, high, ..] = (dwords % 1024).to_le_bytes();
    [high, low]
}

/// The header's 16 bytes. A completion has 12; the rest is 0.
pub(super) fn encode(header: &TlpHeader, payload: usize) -> [u8; 16] {
    let mut bytes = [0; 16];
    let (kind, dwords) = match *header {
        TlpHeader::Read { requester, tag, address, dwords } => {
            let enables = ByteEnables::ALL.encode(dwords.into());
            request(&mut bytes, requester, tag, address, enables);
            (READ, usize::from(dwords))
        }
        TlpHeader::Write { requester, address, enables } => {
            request(&mut bytes, requester, 0, address, enables.encode(payload / 4));
            (WRITE, payload / 4)
        }
        TlpHeader::Completion { completer, requester, tag, status, byte_count, lower_address } => {
            let status = match status {
                CompletionStatus::Success => 0,
                CompletionStatus::UnsupportedRequest => 1,
                CompletionStatus::CompleterAbort => 4,
            };
            bytes[4..6].copy_from_slice(&completer.routing_id().to_be_bytes());
            bytes[6..8].copy_from_slice(&((status << 13) | (byte_count % 4096)).to_be_bytes());
            bytes[8..10].copy_from_slice(&requester.routing_id().to_be_bytes());
            bytes[10] = tag;
            bytes[11] = lower_address;
            (if payload == 0 { COMPLETION } else { COMPLETION_WITH_DATA }, payload / 4)
        }
    };
    bytes[0] = kind;
    bytes[2..4].copy_from_slice(&length_field(dwords));
    bytes
}

fn request(bytes: &mut [u8; 16], requester: Bdf, tag: u8, address: u64, enables: u8) {
    bytes[4..6].copy_from_slice(&requester.routing_id().to_be_bytes());
    bytes[6] = tag;
    bytes[7] = enables;
    bytes[8..16].copy_from_slice(&address.to_be_bytes());
}

/// The header in `bytes` and the size of its payload.
pub(super) fn decode(bytes: &[u8; 16]) -> Result<(TlpHeader, usize), BadTlp> {
    let kind = bytes[0];
    let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let length = word(2);
    let dwords = if length == 0 { 1024 } else { length };
    if bytes[1] != 0 || length >= 1024 {
        return Err(BadTlp::Type(kind));
    }
    let address = u64::from_be_bytes([
        bytes[8], bytes[9], bytes[10], bytes[11], bytes[12], bytes[13], bytes[14], bytes[15],
    ]);
    let requester = Bdf::from_routing_id(word(4));
    let (header, payload) = match kind {
        READ if bytes[7] == ByteEnables::ALL.encode(dwords.into()) => {
            (TlpHeader::Read { requester, tag: bytes[6], address, dwords }, 0)
        }
        WRITE if bytes[6] == 0 => {
            let enables = ByteEnables::decode(bytes[7], dwords.into()).ok_or(BadTlp::Type(kind))?;
            (TlpHeader::Write { requester, address, enables }, usize::from(dwords) * 4)
        }
        COMPLETION | COMPLETION_WITH_DATA if bytes[12..] == [0; 4] => {
            let status = match word(6) >> 13 {
                0 => CompletionStatus::Success,
                1 => CompletionStatus::UnsupportedRequest,
                4 => CompletionStatus::CompleterAbort,
                _ => return Err(BadTlp::Type(kind)),
            };
            let byte_count = match word(6) & 0x1fff {
                0 => 4096,
                count => count,
            };
            let header = TlpHeader::Completion {
                completer: requester,
                requester: Bdf::from_routing_id(word(8)),
                tag: bytes[10],
                status,
                byte_count,
                lower_address: bytes[11],
            };
            let payload = match (kind, length) {
                (COMPLETION, 0) => 0,
                (COMPLETION, _) => return Err(BadTlp::Type(kind)),
                _ => usize::from(dwords) * 4,
            };
            (header, payload)
        }
        _ => return Err(BadTlp::Type(kind)),
    };
    check(&header, payload)?;
    Ok((header, payload))
}
