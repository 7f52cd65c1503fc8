/// The buffer for a message is too small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message does not fit a buffer of {0} bytes")]
pub struct NoSpace(pub usize);

/// Puts fields behind each other into a buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    buffer: &'a mut [u8],
    written: usize,
}

impl<'a> Writer<'a> {
    /// Writes to `buffer` from its start.
    pub const fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, written: 0 }
    }

    /// Bytes written so far.
    pub const fn written(&self) -> usize {
        self.written
    }

    /// Room that is left.
    pub const fn room(&self) -> usize {
        self.buffer.len() - self.written
    }

    /// What was written.
    pub fn finish(self) -> &'a mut [u8] {
        &mut self.buffer[..self.written]
    }

    /// Bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), NoSpace> {
        let full = NoSpace(self.buffer.len());
        let room = self.buffer.get_mut(self.written..).and_then(|room| room.get_mut(..bytes.len()));
        room.ok_or(full)?.copy_from_slice(bytes);
        self.written += bytes.len();
        Ok(())
    }

    /// `count` zeros.
    pub fn zeros(&mut self, count: usize) -> Result<(), NoSpace> {
        let full = NoSpace(self.buffer.len());
        self.buffer.get_mut(self.written..).and_then(|room| room.get_mut(..count)).ok_or(full)?.fill(0);
        self.written += count;
        Ok(())
    }

    /// A byte.
    pub fn u8(&mut self, value: u8) -> Result<(), NoSpace> {
        self.bytes(&[value])
    }

    /// Two bytes.
    pub fn u16(&mut self, value: u16) -> Result<(), NoSpace> {
        self.bytes(&value.to_le_bytes())
    }

    /// Three bytes: bits 23:0 of `value`.
    pub fn u24(&mut self, value: u32) -> Result<(), NoSpace> {
        let [a, b, c, _] = value.to_le_bytes();
        self.bytes(&[a, b, c])
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) -> Result<(), NoSpace> {
        self.bytes(&value.to_le_bytes())
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) -> Result<(), NoSpace> {
        self.bytes(&value.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_behind_each_other() {
        let mut buffer = [0xff; 20];
        let mut writer = Writer::new(&mut buffer);
        writer.u8(1).unwrap();
        writer.u16(0x0302).unwrap();
        writer.u24(0x06_0504).unwrap();
        writer.u32(0x0a09_0807).unwrap();
        writer.u64(0x1211_100f_0e0d_0c0b).unwrap();
        writer.zeros(1).unwrap();
        assert_eq!(writer.room(), 1);
        assert_eq!(writer.finish(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 0]);
    }

    #[test]
    fn a_full_buffer_refuses_and_stays_as_it_is() {
        let mut buffer = [0; 3];
        let mut writer = Writer::new(&mut buffer);
        writer.u16(0xabcd).unwrap();
        assert_eq!(writer.u16(1), Err(NoSpace(3)));
        assert_eq!(writer.zeros(2), Err(NoSpace(3)));
        assert_eq!(writer.finish(), [0xcd, 0xab]);
    }
}
