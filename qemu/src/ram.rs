//! The guest's RAM as the machine below it sees it.

use tdx_abi::{PhysAddr, PhysRange};
use tdx_machine::Ram;

use crate::api::{Api, OnVcpu};

/// Largest piece in one call. QEMU looks the place up anew for each, and marks whole pages dirty.
const PIECE: u64 = 0x1000;

/// RAM of the guest, as far as the map of QEMU lists it: device registers are never touched.
pub(crate) struct GuestRam {
    api: &'static Api,
    ranges: Vec<PhysRange>,
}

impl GuestRam {
    pub(crate) fn new(api: &'static Api, ranges: Vec<PhysRange>) -> Self {
        Self { api, ranges }
    }

    /// True if every byte is RAM.
    fn holds(&self, pa: PhysAddr, len: usize) -> bool {
        u64::try_from(len).ok().and_then(|len| PhysRange::from_size(pa, len)).is_some_and(|wanted| {
            self.ranges.iter().any(|range| range.start() <= wanted.start() && wanted.end() <= range.end())
        })
    }
}

impl Ram for GuestRam {
    fn read(&self, pa: PhysAddr, bytes: &mut [u8]) -> bool {
        let Some(cpu) = OnVcpu::again(self.api).filter(|_| self.holds(pa, bytes.len())) else { return false };
        let mut left = bytes;
        for (address, len) in pieces(pa, left.len()) {
            let (piece, rest) = left.split_at_mut(len);
            if !cpu.read_physical(address, piece) {
                return false;
            }
            left = rest;
        }
        true
    }

    fn write(&self, pa: PhysAddr, bytes: &[u8]) -> bool {
        let Some(cpu) = OnVcpu::again(self.api).filter(|_| self.holds(pa, bytes.len())) else { return false };
        let mut left = bytes;
        for (address, len) in pieces(pa, left.len()) {
            let (piece, rest) = left.split_at(len);
            if !cpu.write_physical(address, piece) {
                return false;
            }
            left = rest;
        }
        true
    }
}

/// An access cut at multiples of [`PIECE`].
fn pieces(pa: PhysAddr, len: usize) -> impl Iterator<Item = (u64, usize)> {
    let (mut address, mut left) = (pa.as_u64(), len);
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let room = PIECE - address % PIECE;
        let size = usize::try_from(room).map_or(left, |room| room.min(left));
        let piece = (address, size);
        address += room;
        left -= size;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fake;

    fn ram() -> GuestRam {
        let range = |start, end| PhysRange::new(PhysAddr::new(start), PhysAddr::new(end)).unwrap();
        GuestRam::new(fake::api(), vec![range(0, 0xA_0000), range(0x10_0000, 0x20_0000)])
    }

    #[test]
    fn accesses_are_cut_at_pages() {
        let cut = |pa, len| pieces(PhysAddr::new(pa), len).collect::<Vec<_>>();
        assert_eq!(cut(0x1000, 0), []);
        assert_eq!(cut(0x1000, 0x1000), [(0x1000, 0x1000)]);
        assert_eq!(cut(0x1ff0, 0x20), [(0x1ff0, 0x10), (0x2000, 0x10)]);
        assert_eq!(cut(0x1800, 0x2000), [(0x1800, 0x800), (0x2000, 0x1000), (0x3000, 0x800)]);
    }

    #[test]
    fn what_is_written_over_several_pages_is_read_back() {
        let _cpu = fake::on_vcpu();
        let bytes: Vec<u8> = (0..0x2345_u32).map(|n| n.to_le_bytes()[0]).collect();
        assert!(ram().write(PhysAddr::new(0x10_0ff0), &bytes));
        let mut back = vec![0; bytes.len()];
        assert!(ram().read(PhysAddr::new(0x10_0ff0), &mut back));
        assert_eq!(back, bytes);
    }

    #[test]
    fn nothing_answers_outside_of_ram_nor_across_its_end() {
        let _cpu = fake::on_vcpu();
        let mut bytes = [0; 16];
        for pa in [0x9_fff8, 0xB_8000, 0x1f_fff8, u64::MAX - 3] {
            assert!(!ram().read(PhysAddr::new(pa), &mut bytes), "{pa:#x}");
            assert!(!ram().write(PhysAddr::new(pa), &bytes), "{pa:#x}");
        }
        assert!(ram().read(PhysAddr::new(0x1f_fff0), &mut bytes));
    }

    #[test]
    fn a_thread_that_is_no_vcpu_gets_no_memory() {
        let answered = std::thread::spawn(|| ram().read(PhysAddr::new(0x1000), &mut [0; 4])).join();
        assert_eq!(answered.ok(), Some(false));
    }
}
