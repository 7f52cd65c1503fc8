use spdm::ide_km::{KeySet, StreamId, SubStream};

use super::cipher::Mac;
use super::tlp::{BadTlp, HEAD, TlpHeader, decode, encode};

/// Most TLPs under one MAC.
pub(super) const MOST: usize = 8;

/// One TLP, or several aggregated ones, as they are on a link: prefixes and headers in the clear,
/// payloads encrypted, a MAC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    heads: Heads,
    pub(super) text: Vec<u8>,
    pub(super) mac: Mac,
}

/// Prefixes and headers of up to 8 TLPs, 20 bytes each.
///
/// Prefix: byte 0 has M in bit 7 (the MAC follows), K in bit 6 (key set 1) and T in bit 5 (trusted);
/// byte 1 the sub-stream, byte 2 the stream id; the rest is 0.
///
/// One TLP is the usual case, and has no place on the heap for its own.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Heads {
    One([u8; HEAD]),
    Several(Vec<u8>),
}

impl Heads {
    /// All bytes: of at least one TLP.
    fn bytes(&self) -> &[u8] {
        match self {
            Self::One(head) => head,
            Self::Several(heads) => heads,
        }
    }

    const fn count(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Several(heads) => heads.len() / HEAD,
        }
    }

    /// A byte of the first prefix.
    fn prefix(&self, at: usize) -> u8 {
        self.bytes().get(at).copied().unwrap_or(0)
    }
}

const M: u8 = 0x80;
const K: u8 = 0x40;
const T: u8 = 0x20;

/// Bytes that are no sealed TLPs, whatever the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSealed {
    /// They end too early or too late.
    #[error("{bytes} bytes of sealed TLPs: {expected} expected")]
    Length {
        /// How many there are.
        bytes: usize,
        /// How many the headers speak of.
        expected: usize,
    },
    /// A prefix has a value that it cannot have, or differs from the one in front.
    #[error("prefix {0} is malformed")]
    Prefix(usize),
    /// More TLPs than any stream puts under one MAC.
    #[error("no MAC follows the eighth TLP")]
    NoMac,
    /// A header is none.
    #[error(transparent)]
    Tlp(#[from] BadTlp),
}

impl Sealed {
    /// What goes in front of the payloads: nothing is sealed yet.
    pub(super) fn heads(
        stream: StreamId,
        set: KeySet,
        mut tlps: impl ExactSizeIterator<Item = (bool, TlpHeader, usize)>,
        text: Vec<u8>,
    ) -> Self {
        let k = if set == KeySet::K1 { K } else { 0 };
        let head = |last: bool, (trusted, header, payload): (bool, TlpHeader, usize)| {
            let mut head = [0; HEAD];
            head[0] = k | if last { M } else { 0 } | if trusted { T } else { 0 };
            head[1] = header.sub_stream().number();
            head[2] = stream.0;
            head[4..].copy_from_slice(&encode(&header, payload));
            head
        };
        let count = tlps.len();
        let heads = match tlps.next() {
            Some(only) if count == 1 => Heads::One(head(true, only)),
            first => {
                let all = first.into_iter().chain(tlps).zip(1..);
                Heads::Several(all.flat_map(|(tlp, at)| head(at == count, tlp)).collect())
            }
        };
        Self { heads, text, mac: Mac([0; Mac::SIZE]) }
    }

    /// The stream.
    pub fn stream(&self) -> StreamId {
        StreamId(self.heads.prefix(2))
    }

    /// The key set: K bit.
    pub fn set(&self) -> KeySet {
        if self.heads.prefix(0) & K == 0 { KeySet::K0 } else { KeySet::K1 }
    }

    /// The sub-stream.
    pub fn sub_stream(&self) -> SubStream {
        match self.heads.prefix(1) {
            0 => SubStream::Posted,
            1 => SubStream::NonPosted,
            _ => SubStream::Completion,
        }
    }

    /// How many TLPs are under the MAC.
    pub const fn count(&self) -> usize {
        self.heads.count()
    }

    /// The MAC.
    pub const fn mac(&self) -> &Mac {
        &self.mac
    }

    /// The encrypted payloads, one after the other.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// What is authenticated and not encrypted.
    pub(super) fn aad(&self) -> &[u8] {
        self.heads.bytes()
    }

    /// The parts for sealing and opening: heads, payloads.
    pub(super) fn parts(&mut self) -> (&[u8], &mut [u8]) {
        (self.heads.bytes(), &mut self.text)
    }

    /// T bit, header and payload size of each TLP.
    pub(super) fn tlps(&self) -> impl Iterator<Item = Result<(bool, TlpHeader, usize), BadTlp>> + '_ {
        self.aad().as_chunks::<HEAD>().0.iter().map(|head| {
            let (_, header) = head.split_last_chunk::<16>().ok_or(BadTlp::Type(head[4]))?;
            let (header, payload) = decode(header)?;
            Ok((head[0] & T != 0, header, payload))
        })
    }

    /// The payloads, encrypted or, once they were opened, not.
    pub(super) fn into_text(self) -> Vec<u8> {
        self.text
    }

    /// The bytes: prefixes and headers, payloads, MAC.
    pub fn to_bytes(&self) -> Vec<u8> {
        [self.aad(), &self.text, &self.mac.0].concat()
    }

    /// The sealed TLPs of those bytes. Only what a port can see without keys is checked.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadSealed> {
        let mut heads = Vec::new();
        let mut payloads = 0;
        let mut rest = bytes;
        loop {
            let count = heads.len() / HEAD;
            let short = BadSealed::Length { bytes: bytes.len(), expected: (count + 1) * HEAD + Mac::SIZE };
            let (head, behind) = rest.split_first_chunk::<HEAD>().ok_or(short)?;
            rest = behind;
            if count == MOST {
                return Err(BadSealed::NoMac);
            }
            heads.extend_from_slice(head);
            let (_, header) = head.split_last_chunk::<16>().ok_or(short)?;
            let (header, payload) = decode(header)?;
            let first = &bytes[..4];
            let differs = head[0] & K != first[0] & K || head[1..4] != first[1..4];
            let malformed =
                head[0] & !(M | K | T) != 0 || head[3] != 0 || head[1] != header.sub_stream().number();
            if differs || malformed {
                return Err(BadSealed::Prefix(count));
            }
            payloads += payload;
            if head[0] & M != 0 {
                break;
            }
        }
        let expected = heads.len() + payloads + Mac::SIZE;
        let heads = <[u8; HEAD]>::try_from(&heads[..]).map_or(Heads::Several(heads), Heads::One);
        let (text, mac) =
            rest.split_at_checked(payloads).ok_or(BadSealed::Length { bytes: bytes.len(), expected })?;
        let mac = mac.try_into().map_err(|_| BadSealed::Length { bytes: bytes.len(), expected })?;
        Ok(Self { heads, text: text.to_vec(), mac: Mac(mac) })
    }
}
