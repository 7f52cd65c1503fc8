use super::DecodeError;

/// Takes fields off the front of a message. Each method names the field, for the reason of a refusal.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `bytes` from their start.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }

    /// Bytes that were not read yet.
    pub const fn left(&self) -> usize {
        self.left.len()
    }

    /// The next `size` bytes.
    pub fn take(&mut self, size: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let truncated = DecodeError::Truncated { field, needed: size, left: self.left.len() };
        let (taken, left) = self.left.split_at_checked(size).ok_or(truncated)?;
        self.left = left;
        Ok(taken)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let truncated = DecodeError::Truncated { field, needed: N, left: self.left.len() };
        let (taken, left) = self.left.split_first_chunk::<N>().ok_or(truncated)?;
        self.left = left;
        Ok(*taken)
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.left)
    }

    /// A byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    /// A byte that is 0 or 1.
    pub fn flag(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(DecodeError::Value { field, value: other.into() }),
        }
    }

    /// Two bytes.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.array(field).map(u16::from_le_bytes)
    }

    /// Three bytes.
    pub fn u24(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array(field).map(|[a, b, c]| u32::from_le_bytes([a, b, c, 0]))
    }

    /// Four bytes.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array(field).map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        self.array(field).map(u64::from_le_bytes)
    }

    /// `size` bytes (at most 8) that must be 0.
    pub fn reserved(&mut self, size: usize, field: &'static str) -> Result<(), DecodeError> {
        let value = self.take(size, field)?.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
        if value == 0 { Ok(()) } else { Err(DecodeError::Reserved { field, value }) }
    }

    /// The message must end here.
    pub const fn finish(self) -> Result<(), DecodeError> {
        if self.left.is_empty() { Ok(()) } else { Err(DecodeError::Trailing { extra: self.left.len() }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_little_endian() {
        let mut reader = Reader::new(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]);
        assert_eq!(reader.u8("a"), Ok(1));
        assert_eq!(reader.u16("b"), Ok(0x0302));
        assert_eq!(reader.u24("c"), Ok(0x06_0504));
        assert_eq!(reader.u32("d"), Ok(0x0a09_0807));
        assert_eq!(reader.u64("e"), Ok(0x1211_100f_0e0d_0c0b));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn a_field_behind_the_end_is_named_and_nothing_is_consumed() {
        let mut reader = Reader::new(&[1, 2]);
        let truncated = DecodeError::Truncated { field: "nonce", needed: 4, left: 2 };
        assert_eq!(reader.u32("nonce"), Err(truncated));
        assert_eq!(reader.left(), 2);
    }

    #[test]
    fn a_reserved_field_that_is_set_is_refused_with_its_value() {
        assert_eq!(Reader::new(&[0, 0]).reserved(2, "param1"), Ok(()));
        let refused = DecodeError::Reserved { field: "param1", value: 0x0100 };
        assert_eq!(Reader::new(&[0, 1]).reserved(2, "param1"), Err(refused));
    }

    #[test]
    fn a_flag_is_0_or_1() {
        let mut reader = Reader::new(&[0, 1, 2]);
        assert_eq!((reader.flag("a"), reader.flag("b")), (Ok(false), Ok(true)));
        assert_eq!(reader.flag("c"), Err(DecodeError::Value { field: "c", value: 2 }));
    }

    #[test]
    fn bytes_behind_the_message_are_refused() {
        assert_eq!(Reader::new(&[0]).finish(), Err(DecodeError::Trailing { extra: 1 }));
    }
}
