//! Packet captures of data objects, for Wireshark and `spdm_dump`.

use std::io::{self, Write};
use std::time::Duration;

/// Link type of a packet that is one DOE data object, header included.
pub const LINKTYPE_PCI_DOE: u32 = 292;
/// Longest packet that is kept whole, in bytes; also the longest that `spdm_dump` takes.
pub const SNAP_LENGTH: u32 = 0x1_0000;

/// Magic of a little-endian file with times in microseconds.
const MAGIC: u32 = 0xa1b2_c3d4;
const VERSION: [u16; 2] = [2, 4];

/// A capture that is written packet by packet.
#[derive(Debug)]
pub struct Pcap<W> {
    out: W,
}

impl<W: Write> Pcap<W> {
    /// Writes the header of the file.
    pub fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&MAGIC.to_le_bytes())?;
        for half in VERSION {
            out.write_all(&half.to_le_bytes())?;
        }
        // Offset of the time zone and accuracy of the times: 0 in every file.
        for word in [0, 0, SNAP_LENGTH, LINKTYPE_PCI_DOE] {
            out.write_all(&word.to_le_bytes())?;
        }
        out.flush()?;
        Ok(Self { out })
    }

    /// Appends one data object that was seen at `time` since 1970. Behind [`SNAP_LENGTH`] bytes it
    /// is cut; its true length is kept.
    pub fn object(&mut self, time: Duration, object: &[u8]) -> io::Result<()> {
        let length = u32::try_from(object.len()).unwrap_or(u32::MAX);
        let kept = length.min(SNAP_LENGTH);
        // The format ends in 2106.
        let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        let mut packet = Vec::with_capacity(16 + kept as usize);
        for word in [seconds, time.subsec_micros(), kept, length] {
            packet.extend_from_slice(&word.to_le_bytes());
        }
        packet.extend(object.iter().take(kept as usize));
        self.out.write_all(&packet)?;
        // Whatever ends the program, every packet so far can be looked at.
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_says_what_its_packets_are() {
        let mut file = Vec::new();
        Pcap::new(&mut file).unwrap();
        let expected =
            [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0x24, 1, 0, 0];
        assert_eq!(file, expected);
    }

    #[test]
    fn a_packet_is_a_whole_object_with_its_time() {
        let mut file = Vec::new();
        let mut pcap = Pcap::new(&mut file).unwrap();
        pcap.object(Duration::new(0x0102_0304, 5_000_999), &[1, 0, 0, 0, 3, 0, 0, 0, 9, 9, 9, 9]).unwrap();
        let packet = &file[24..];
        assert_eq!(packet[..8], [4, 3, 2, 1, 0x88, 0x13, 0, 0]);
        assert_eq!(packet[8..16], [12, 0, 0, 0, 12, 0, 0, 0]);
        assert_eq!(packet[16..], [1, 0, 0, 0, 3, 0, 0, 0, 9, 9, 9, 9]);
    }

    #[test]
    fn a_long_object_is_cut_and_its_length_kept() {
        let mut file = Vec::new();
        let mut pcap = Pcap::new(&mut file).unwrap();
        pcap.object(Duration::ZERO, &vec![0; 0x1_0004]).unwrap();
        assert_eq!(file[24 + 8..24 + 16], [0, 0, 1, 0, 4, 0, 1, 0]);
        assert_eq!(file.len(), 24 + 16 + 0x1_0000);
    }
}
