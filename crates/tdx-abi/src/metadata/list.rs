//! The list of metadata fields in a 4 KiB page: TDH.SYS.RDALL and migration write and read it.
//!
//! A header of eight bytes (u16 size of the list in bytes, header included, u16 number of
//! sequences, u32 reserved), then sequences: a header of eight bytes ([`FieldId`] with counts)
//! and eight bytes per element, the first of which is a write mask if the header says so.

use super::FieldId;

/// Bytes of the list header.
pub const LIST_HEADER_BYTES: usize = 8;

const ELEMENT_BYTES: usize = 8;

/// Why bytes are not a metadata list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// The buffer cannot hold a header.
    #[error("metadata list: {have} bytes cannot hold the header of {LIST_HEADER_BYTES}")]
    NoHeader {
        /// Bytes there are.
        have: usize,
    },
    /// Reserved bits of the header.
    #[error("metadata list: reserved bits {reserved:#x} set in the header")]
    Reserved {
        /// The bits.
        reserved: u32,
    },
    /// The list has no sequence.
    #[error("metadata list: no sequences")]
    Empty,
    /// The list claims to be smaller than its header.
    #[error("metadata list: size {size} does not cover its own header")]
    TooSmall {
        /// Claimed size in bytes.
        size: u16,
    },
    /// The list claims to be larger than the buffer.
    #[error("metadata list: size {size} exceeds the buffer of {have} bytes")]
    BeyondBuffer {
        /// Claimed size in bytes.
        size: u16,
        /// Bytes there are.
        have: usize,
    },
    /// A sequence ends outside the list.
    #[error("metadata list: sequence {sequence} needs {need} bytes at offset {offset}, {have} are left")]
    Truncated {
        /// Number of the sequence, from 0.
        sequence: u16,
        /// Its offset in the list.
        offset: usize,
        /// Bytes it needs.
        need: usize,
        /// Bytes left in the list.
        have: usize,
    },
    /// Reserved bits of a sequence header.
    #[error("metadata list: sequence {sequence} has reserved bits set in {id:#018x}")]
    ReservedInSequence {
        /// Number of the sequence, from 0.
        sequence: u16,
        /// Its header.
        id: u64,
    },
    /// Bytes follow the last sequence.
    #[error("metadata list: {bytes} bytes after the last sequence")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}

/// Header of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListHeader {
    /// Bytes of the list, this header included.
    pub size: u16,
    /// Sequences that follow.
    pub sequences: u16,
}

impl ListHeader {
    /// Reads the header at the start of `buffer` and checks it against the buffer.
    pub fn decode(buffer: &[u8]) -> Result<Self, ListError> {
        let Some(&word) = buffer.first_chunk::<LIST_HEADER_BYTES>() else {
            return Err(ListError::NoHeader { have: buffer.len() });
        };
        let [size_low, size_high, sequences_low, sequences_high, reserved @ ..] = word;
        let reserved = u32::from_le_bytes(reserved);
        if reserved != 0 {
            return Err(ListError::Reserved { reserved });
        }
        let header = Self {
            size: u16::from_le_bytes([size_low, size_high]),
            sequences: u16::from_le_bytes([sequences_low, sequences_high]),
        };
        if header.sequences == 0 {
            return Err(ListError::Empty);
        }
        if usize::from(header.size) < LIST_HEADER_BYTES {
            return Err(ListError::TooSmall { size: header.size });
        }
        if usize::from(header.size) > buffer.len() {
            return Err(ListError::BeyondBuffer { size: header.size, have: buffer.len() });
        }
        Ok(header)
    }

    /// The bytes of the header.
    pub const fn encode(self) -> [u8; LIST_HEADER_BYTES] {
        let [a, b] = self.size.to_le_bytes();
        let [c, d] = self.sequences.to_le_bytes();
        [a, b, c, d, 0, 0, 0, 0]
    }
}

/// Iterates over the sequences of a list. After an error it ends.
#[derive(Clone, Debug)]
pub struct ListReader<'a> {
    rest: &'a [u8],
    offset: usize,
    next: u16,
    sequences: u16,
}

impl<'a> ListReader<'a> {
    /// A reader of the list at the start of `buffer`.
    pub fn new(buffer: &'a [u8]) -> Result<Self, ListError> {
        let header = ListHeader::decode(buffer)?;
        let rest = buffer.get(LIST_HEADER_BYTES..usize::from(header.size)).unwrap_or_default();
        Ok(Self { rest, offset: LIST_HEADER_BYTES, next: 0, sequences: header.sequences })
    }

    fn read(&mut self, sequence: u16) -> Result<Sequence<'a>, ListError> {
        let truncated =
            |need| ListError::Truncated { sequence, offset: self.offset, need, have: self.rest.len() };
        let (&id, values) = self.rest.split_first_chunk().ok_or_else(|| truncated(ELEMENT_BYTES))?;
        let id = FieldId(u64::from_le_bytes(id));
        if id.has_reserved_bits() {
            return Err(ListError::ReservedInSequence { sequence, id: id.0 });
        }
        // At most 16 * 512 elements and a mask: no overflow.
        let elements = usize::try_from(id.element_count()).unwrap_or(usize::MAX);
        let bytes = (elements + usize::from(id.write_mask_valid())) * ELEMENT_BYTES;
        let (values, rest) =
            values.split_at_checked(bytes).ok_or_else(|| truncated(bytes + ELEMENT_BYTES))?;
        self.offset += bytes + ELEMENT_BYTES;
        self.rest = rest;
        let mut values = Values(values);
        let write_mask = if id.write_mask_valid() { values.next() } else { None };
        Ok(Sequence { id, write_mask, values })
    }
}

impl<'a> Iterator for ListReader<'a> {
    type Item = Result<Sequence<'a>, ListError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next < self.sequences {
            let result = self.read(self.next);
            self.next = if result.is_ok() { self.next + 1 } else { self.sequences };
            if result.is_err() {
                self.rest = &[];
            }
            return Some(result);
        }
        let trailing = core::mem::take(&mut self.rest).len();
        (trailing != 0).then_some(Err(ListError::Trailing { bytes: trailing }))
    }
}

/// One sequence of a list.
#[derive(Clone, Debug)]
pub struct Sequence<'a> {
    /// Header: the identifier of the first element, with the counts.
    pub id: FieldId,
    /// Write mask, if the header has one.
    pub write_mask: Option<u64>,
    /// Values, one per element.
    pub values: Values<'a>,
}

/// Values of a sequence, in element order.
#[derive(Clone, Debug)]
pub struct Values<'a>(&'a [u8]);

impl Iterator for Values<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let (&value, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(value))
    }
}

/// Writes a list into a buffer, a whole sequence at a time.
#[derive(Debug)]
pub struct ListWriter<'a> {
    buffer: &'a mut [u8],
    used: u16,
    sequences: u16,
}

impl<'a> ListWriter<'a> {
    /// A writer of an empty list; `None` if the buffer cannot hold the header.
    pub fn new(buffer: &'a mut [u8]) -> Option<Self> {
        let used = u16::try_from(LIST_HEADER_BYTES).ok()?;
        (buffer.len() >= LIST_HEADER_BYTES).then_some(Self { buffer, used, sequences: 0 })
    }

    /// Appends a sequence; `values` gives the write mask first if the header has one. False, with
    /// the list as it was, if the sequence does not fit or has another number of values than its
    /// header says.
    pub fn push(&mut self, id: FieldId, values: impl IntoIterator<Item = u64>) -> bool {
        self.try_push(id, values).is_some()
    }

    fn try_push(&mut self, id: FieldId, values: impl IntoIterator<Item = u64>) -> Option<()> {
        let elements = usize::try_from(id.element_count()).ok()?;
        let need = (elements + usize::from(id.write_mask_valid()) + 1) * ELEMENT_BYTES;
        let end = u16::try_from(usize::from(self.used).checked_add(need)?).ok()?;
        let sequences = self.sequences.checked_add(1)?;
        let room = self.buffer.get_mut(usize::from(self.used)..usize::from(end))?;
        let mut words = core::iter::once(id.0).chain(values);
        for slot in room.chunks_exact_mut(ELEMENT_BYTES) {
            slot.copy_from_slice(&words.next()?.to_le_bytes());
        }
        if words.next().is_some() {
            return None;
        }
        self.used = end;
        self.sequences = sequences;
        Some(())
    }

    /// Writes the header and returns it. A list without a sequence has a header too, which
    /// [`ListHeader::decode`] refuses.
    pub fn finish(self) -> ListHeader {
        let header = ListHeader { size: self.used, sequences: self.sequences };
        if let Some(start) = self.buffer.first_chunk_mut() {
            *start = header.encode();
        }
        header
    }
}
