//! Somebody else's memory beside the model's own, and what only it does.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::event::Event;
use crate::memory::{Memory, PoisonCause};

const SHARED: KeyId = KeyId::TME;
const MKTME: KeyId = KeyId::new(5);
const PRIVATE: KeyId = KeyId::new(32);
const OTHER: KeyId = KeyId::new(33);
const LINE: PhysAddr = PhysAddr::new(0x1040);
const ONES: [u8; 64] = [0x11; 64];
const TWOS: [u8; 64] = [0x22; 64];
/// Bytes of the memory.
const SIZE: usize = 1 << 20;

/// Memory from address 0 on, which may go away.
struct Bytes {
    bytes: Mutex<Vec<u8>>,
    gone: AtomicBool,
}

impl Bytes {
    fn range(&self, pa: PhysAddr, len: usize) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(pa.as_u64()).ok()?;
        let end = start.checked_add(len).filter(|end| *end <= SIZE && !self.gone.load(Ordering::Relaxed))?;
        Some(start..end)
    }
}

impl Ram for Arc<Bytes> {
    fn read(&self, pa: PhysAddr, bytes: &mut [u8]) -> bool {
        let range = self.range(pa, bytes.len());
        range.is_some_and(|range| {
            bytes.copy_from_slice(&self.bytes.lock()[range]);
            true
        })
    }

    fn write(&self, pa: PhysAddr, bytes: &[u8]) -> bool {
        let range = self.range(pa, bytes.len());
        range.is_some_and(|range| {
            self.bytes.lock()[range].copy_from_slice(bytes);
            true
        })
    }
}

fn rules(integrity: bool, erratum: bool) -> Rules {
    Rules { integrity, partial_write_poison: erratum, write_back_within: 0, seed: 1 }
}

fn memory(integrity: bool, erratum: bool) -> (Foreign, Arc<Bytes>) {
    let ram = Arc::new(Bytes { bytes: Mutex::new(vec![0; SIZE]), gone: AtomicBool::new(false) });
    let keys = KeyIdPartitioning::new(31, 32);
    let rules = rules(integrity, erratum);
    (Foreign::new(rules, keys, 64, Arc::default(), Box::new(Arc::clone(&ram))), ram)
}

fn read(memory: &Foreign, pa: PhysAddr, key: KeyId) -> Result<[u8; 64], PhysAddr> {
    let mut bytes = [0xEE; 64];
    memory.read(pa, key, &mut bytes).map(|()| bytes)
}

fn in_ram(ram: &Arc<Bytes>, pa: PhysAddr) -> [u8; 64] {
    let mut bytes = [0; 64];
    assert!(Ram::read(ram, pa, &mut bytes));
    bytes
}

fn lines(first: PhysAddr, count: u64) -> PhysRange {
    PhysRange::from_size(first, count * 64).expect("a range")
}

fn cause(memory: &Foreign) -> Option<PoisonCause> {
    memory.poisoned_by(LINE).map(|record| record.cause)
}

#[test]
fn keyid_0_is_the_bytes_as_they_are() {
    let (memory, ram) = memory(true, false);
    memory.write(LINE, SHARED, &ONES, Store::Cached);
    assert_eq!(in_ram(&ram, LINE), ONES);
    assert!(Ram::write(&ram, LINE, &TWOS));
    assert_eq!(read(&memory, LINE, SHARED), Ok(TWOS));
    memory.write(PhysAddr::new(LINE.as_u64() + 7), SHARED, &[9; 3], Store::Cached);
    assert_eq!(in_ram(&ram, LINE)[6..11], [0x22, 9, 9, 9, 0x22]);
    assert_eq!(memory.footprint(), MemoryFootprint::default());
}

#[test]
fn other_keyids_leave_ciphertext_that_differs_from_line_to_line() {
    for key in [MKTME, PRIVATE] {
        let (memory, ram) = memory(true, false);
        let next = PhysAddr::new(LINE.as_u64() + 64);
        memory.write(LINE, key, &[ONES, ONES].concat(), Store::Cached);
        let (first, second) = (in_ram(&ram, LINE), in_ram(&ram, next));
        assert!(first != ONES && second != ONES && first != second, "{key}");
        assert_ne!(first[..16], first[16..32], "nor do the blocks of a line look alike");
        for pa in [LINE, next] {
            assert_eq!(read(&memory, pa, key), Ok(ONES), "{key}");
        }
        let owned = key == PRIVATE;
        assert_eq!(read(&memory, LINE, SHARED), Ok(if owned { [0; 64] } else { first }), "{key}");
    }
}
