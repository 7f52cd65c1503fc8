//! Somebody else's memory beside the model's own, and what only it does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

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

#[test]
fn a_store_between_two_private_reads_is_found() {
    for integrity in [true, false] {
        let (memory, ram) = memory(integrity, false);
        memory.write(LINE, PRIVATE, &ONES, Store::Cached);
        assert_eq!(read(&memory, LINE, PRIVATE), Ok(ONES));
        let mut changed = in_ram(&ram, LINE);
        changed[63] ^= 1;
        assert!(Ram::write(&ram, LINE, &changed));
        assert_eq!(read(&memory, LINE, PRIVATE), Err(LINE));
        let expected = PoisonCause::NotTdOwned { reader: PRIVATE, written_with: SHARED };
        assert_eq!(cause(&memory), Some(expected));
        assert_eq!(read(&memory, LINE, SHARED), Err(LINE), "kept in memory");
        let poisoned = Event::Poisoned(PoisonRecord { line: LINE, cause: expected });
        assert_eq!(memory.events.snapshot(), [poisoned]);

        assert!(Ram::write(&ram, LINE, &TWOS));
        assert_eq!((cause(&memory), read(&memory, LINE, SHARED)), (None, Ok(TWOS)), "a whole line heals");
    }
}

#[test]
fn memory_that_nobody_gave_away_is_not_td_owned() {
    let (memory, _) = memory(true, false);
    assert_eq!(read(&memory, LINE, PRIVATE), Err(LINE));
    memory.write(LINE, PRIVATE, &ONES, Store::Cached);
    memory.write(PhysAddr::new(LINE.as_u64() + 64), PRIVATE, &[1; 8], Store::Cached);
    assert_eq!(read(&memory, LINE, PRIVATE), Ok(ONES), "a whole line takes it, part of one does not");
    assert!(memory.poisoned_by(PhysAddr::new(LINE.as_u64() + 64)).is_some());
}

#[test]
fn another_key_makes_old_content_unreadable() {
    for integrity in [true, false] {
        for reader in [PRIVATE, OTHER] {
            let (memory, _) = memory(integrity, false);
            memory.write(LINE, PRIVATE, &ONES, Store::Cached);
            assert!(memory.program_key(reader) && !memory.program_key(KeyId::new(64)));
            if integrity {
                assert_eq!(read(&memory, LINE, reader), Err(LINE));
                assert_eq!(cause(&memory), Some(PoisonCause::WrongKey { reader, written_with: PRIVATE }));
            } else {
                let garbage = read(&memory, LINE, reader).expect("not noticed");
                assert!(garbage != ONES && garbage != [0; 64]);
            }
        }
    }
}

#[test]
fn power_loss_forgets_owners_poison_and_keys_and_leaves_content_alone() {
    let (memory, ram) = memory(true, false);
    let poisoned = PhysAddr::new(LINE.as_u64() + 64);
    memory.program_key(PRIVATE);
    memory.write(LINE, PRIVATE, &ONES, Store::Cached);
    assert!(read(&memory, poisoned, PRIVATE).is_err());
    let before = in_ram(&ram, LINE);
    memory.reset();
    assert_eq!(memory.footprint(), MemoryFootprint::default());
    assert_eq!((read(&memory, LINE, SHARED), read(&memory, poisoned, SHARED)), (Ok(before), Ok([0; 64])));
    memory.program_key(PRIVATE);
    memory.write(LINE, PRIVATE, &ONES, Store::Cached);
    assert_ne!(in_ram(&ram, LINE), before, "as often programmed, and yet another key");
}

#[test]
fn an_initialised_range_costs_one_entry_and_hides_its_zeros() {
    let (memory, ram) = memory(true, false);
    assert!(Ram::write(&ram, PhysAddr::new(0x1FC0), &ONES));
    assert!(Ram::write(&ram, PhysAddr::new(0x8_2000), &ONES));
    for step in 0..4 {
        memory.initialise(lines(PhysAddr::new(0x2000 + step * 0x2_0000), 0x2_0000 / 64), PRIVATE);
    }
    assert_eq!(memory.footprint(), MemoryFootprint { pages: 0, runs: 1 });
    let (first, last) = (PhysAddr::new(0x2000), PhysAddr::new(0x8_1FC0));
    let content = [in_ram(&ram, first), in_ram(&ram, last)];
    assert!(!content.contains(&[0; 64]) && content[0] != content[1]);
    for pa in [first, last] {
        assert_eq!((read(&memory, pa, PRIVATE), read(&memory, pa, SHARED)), (Ok([0; 64]), Ok([0; 64])));
    }
    for beside in [0x1FC0, 0x8_2000] {
        assert_eq!(read(&memory, PhysAddr::new(beside), SHARED), Ok(ONES), "{beside:#x}");
    }
    // A host that has its memory back need not tell anybody.
    assert!(Ram::write(&ram, PhysAddr::new(0x4000), &TWOS));
    assert_eq!(read(&memory, PhysAddr::new(0x4000), SHARED), Ok(TWOS));
    assert_eq!(memory.footprint(), MemoryFootprint { pages: 0, runs: 2 });
    memory.initialise(lines(PhysAddr::new(0x2000), 0x8_0000 / 64), SHARED);
    assert_eq!(memory.footprint(), MemoryFootprint::default());
    assert_eq!(in_ram(&ram, last), [0; 64]);
}

#[test]
fn a_partial_write_of_the_model_itself_follows_the_erratum() {
    let at = PhysAddr::new(LINE.as_u64() + 8);
    for erratum in [true, false] {
        let (memory, ram) = memory(true, erratum);
        memory.write(LINE, PRIVATE, &ONES, Store::Cached);
        memory.write(at, SHARED, &[9; 4], Store::Direct);
        if erratum {
            assert_eq!(cause(&memory), Some(PoisonCause::PartialWrite { pa: at, bytes: 4, key: SHARED }));
        } else {
            let mut expected = [0; 64];
            expected[8..12].fill(9);
            assert_eq!(in_ram(&ram, LINE), expected);
        }
    }
}

#[test]
fn memory_that_does_not_answer_reads_as_ones_and_loses_writes() {
    let (memory, ram) = memory(true, false);
    memory.write(LINE, PRIVATE, &ONES, Store::Cached);
    let beyond = PhysAddr::new(SIZE as u64);
    for gone in [false, true] {
        ram.gone.store(gone, Ordering::Relaxed);
        let pa = if gone { LINE } else { beyond };
        memory.events.clear();
        for key in [SHARED, PRIVATE, MKTME] {
            assert_eq!(read(&memory, pa, key), Ok([0xFF; 64]));
            memory.write(pa, key, &TWOS, Store::Cached);
            memory.write(pa, key, &[2; 3], Store::Direct);
        }
        assert_eq!(memory.footprint().pages, 1, "that of the line before");
        memory.initialise(lines(pa, 65), OTHER);
        let lost = |event: &Event| matches!(event, Event::DroppedWrite { .. });
        let events = memory.events.snapshot();
        assert!(events.iter().all(lost));
        assert_eq!(events.len(), 8, "two for each KeyID, one for each page of a range");
    }
    assert_eq!(memory.footprint(), MemoryFootprint::default(), "nothing is kept of what was lost");
    ram.gone.store(false, Ordering::Relaxed);
    let last = PhysAddr::new(SIZE as u64 - 64);
    memory.initialise(lines(last, 64), PRIVATE);
    assert_eq!(memory.footprint().runs, 1, "up to where it ends");
    assert_eq!(read(&memory, last, PRIVATE), Ok([0; 64]));
    assert_eq!(read(&memory, PhysAddr::new(1 << 53), SHARED), Ok([0xFF; 64]), "no such address");
}

#[test]
fn an_access_may_cross_blocks() {
    struct Everywhere;
    impl Ram for Everywhere {
        fn read(&self, pa: PhysAddr, bytes: &mut [u8]) -> bool {
            bytes.fill(pa.as_u64().to_le_bytes()[0]);
            true
        }
        fn write(&self, _pa: PhysAddr, _bytes: &[u8]) -> bool {
            true
        }
    }
    let keys = KeyIdPartitioning::new(31, 32);
    let memory = Foreign::new(rules(true, false), keys, 64, Arc::default(), Box::new(Everywhere));
    let mut bytes = [9; 32];
    assert_eq!(memory.read(PhysAddr::new((1 << 30) - 16), SHARED, &mut bytes), Ok(()));
    assert_eq!((bytes[..16].to_vec(), bytes[16..].to_vec()), (vec![0xF0; 16], vec![0; 16]));
    memory.initialise(lines(PhysAddr::new((1 << 30) - 64), 2), PRIVATE);
    assert_eq!(memory.footprint().runs, 2);
}

#[test]
fn a_store_with_keyid_0_leaves_bytes_beside_it_to_those_who_may_be_writing_them() {
    /// Notes what is written where.
    struct Notes(Arc<Mutex<Vec<(u64, usize)>>>);
    impl Ram for Notes {
        fn read(&self, _pa: PhysAddr, bytes: &mut [u8]) -> bool {
            bytes.fill(3);
            true
        }
        fn write(&self, pa: PhysAddr, bytes: &[u8]) -> bool {
            self.0.lock().push((pa.as_u64(), bytes.len()));
            true
        }
    }
    let notes = Arc::default();
    let keys = KeyIdPartitioning::new(31, 32);
    let ram = Box::new(Notes(Arc::clone(&notes)));
    let memory = Foreign::new(rules(true, false), keys, 64, Arc::default(), ram);
    memory.write(PhysAddr::new(0x1008), SHARED, &[1; 300], Store::Cached);
    // A line that something is known of, so that the next access looks at each line.
    memory.write(PhysAddr::new(0x1040), PRIVATE, &ONES, Store::Cached);
    memory.write(PhysAddr::new(0x1038), SHARED, &[1; 80], Store::Cached);
    let lines = [(0x1008, 300), (0x1040, 64), (0x1038, 8), (0x1040, 64), (0x1080, 8)];
    assert_eq!(*notes.lock(), lines);
}

#[test]
fn lps_and_the_host_at_the_same_time_give_whole_lines_or_poison() {
    let (memory, ram) = memory(true, false);
    let next = PhysAddr::new(LINE.as_u64() + 64);
    memory.write(LINE, PRIVATE, &ONES, Store::Cached);
    thread::scope(|scope| {
        for content in [ONES, TWOS] {
            let memory = &memory;
            scope.spawn(move || {
                for _ in 0..1000 {
                    memory.write(LINE, PRIVATE, &content, Store::Cached);
                    let seen = read(memory, LINE, PRIVATE).expect("no host");
                    assert!(seen == ONES || seen == TWOS);
                }
            });
        }
        // The host stores word by word, into a line that the module goes on using.
        scope.spawn(|| {
            for number in 0..8000u64 {
                let word = PhysAddr::new(next.as_u64() + number % 8 * 8);
                assert!(Ram::write(&ram, word, &number.to_le_bytes()));
            }
        });
        for _ in 0..1000 {
            memory.write(next, PRIVATE, &ONES, Store::Cached);
            let seen = read(&memory, next, PRIVATE);
            assert!(seen == Ok(ONES) || seen == Err(next), "{seen:?}");
        }
    });
    assert_eq!(cause(&memory), None);
}

/// What somebody does to memory.
#[derive(Clone, Debug)]
enum Step {
    /// A store of the host to a whole line: the own memory is told of it, the foreign one changes.
    Host {
        line: u64,
    },
    Write {
        at: u64,
        len: usize,
        key: KeyId,
        store: Store,
    },
    Read {
        at: u64,
        len: usize,
        key: KeyId,
    },
    Initialise {
        line: u64,
        count: u64,
        key: KeyId,
    },
    Program {
        key: KeyId,
    },
}

/// Lines that the steps use.
const LINES: u64 = 12;

fn step() -> impl Strategy<Value = Step> {
    let key = || prop::sample::select(vec![SHARED, PRIVATE, OTHER]);
    let store = prop::sample::select(vec![Store::Cached, Store::Direct]);
    let place =
        || prop_oneof![(0..LINES).prop_map(|line| (line * 64, 64)), (0..(LINES - 3) * 64, 1usize..150)];
    prop_oneof![
        (0..LINES).prop_map(|line| Step::Host { line }),
        (place(), key(), store).prop_map(|((at, len), key, store)| Step::Write { at, len, key, store }),
        (place(), key()).prop_map(|((at, len), key)| Step::Read { at, len, key }),
        (0..LINES, 1..5u64, key()).prop_map(|(line, count, key)| {
            Step::Initialise { line, count: count.min(LINES - line), key }
        }),
        prop::sample::select(vec![PRIVATE, OTHER]).prop_map(|key| Step::Program { key }),
    ]
}

/// What decides whether two memories must agree on the bytes of a line: garbage differs.
#[derive(Clone, Copy, Default)]
struct Known {
    writer: (KeyId, u32),
    is_garbage: bool,
}

proptest! {
    #[test]
    fn both_kinds_of_memory_answer_alike(
        steps in prop::collection::vec(step(), 1..80),
        integrity: bool,
        erratum: bool,
    ) {
        let (foreign, ram) = memory(integrity, erratum);
        let keys = KeyIdPartitioning::new(31, 32);
        let own = Memory::new(rules(integrity, erratum), keys, 64, 1, Arc::default());
        let base = 0x4000;
        let mut known = BTreeMap::<u64, Known>::new();
        let mut generations = [0; 64];
        for (number, step) in (1u64..).zip(&steps) {
            // Never the same content twice.
            let content = number.to_le_bytes().repeat(32);
            match *step {
                Step::Host { line } => {
                    let pa = PhysAddr::new(base + line * 64);
                    own.write(pa, SHARED, &content[..64], Store::Direct);
                    prop_assert!(Ram::write(&ram, pa, &content[..64]));
                    known.remove(&line);
                }
                Step::Write { at, len, key, store } => {
                    let pa = PhysAddr::new(base + at);
                    own.write(pa, key, &content[..len], store);
                    foreign.write(pa, key, &content[..len], store);
                    let writer = (key, generations[usize::from(key.number())]);
                    let end = at + len as u64;
                    for line in at / 64..end.div_ceil(64) {
                        let known = known.entry(line).or_default();
                        let whole = at <= line * 64 && line * 64 + 64 <= end;
                        let fetched = *known;
                        if whole || own.poisoned_by(PhysAddr::new(base + line * 64)).is_none() {
                            // A store with a shared KeyID to a private line begins with zeros.
                            let wrong = key != SHARED && fetched.writer != writer;
                            let kept = fetched.writer == writer && fetched.is_garbage;
                            *known = Known { writer, is_garbage: !whole && (wrong || kept) };
                        }
                    }
                }
                Step::Read { at, len, key } => {
                    let pa = PhysAddr::new(base + at);
                    let (mut left, mut right) = (vec![7; len], vec![7; len]);
                    prop_assert_eq!(own.read(pa, key, &mut left), foreign.read(pa, key, &mut right));
                    let reader = (key, generations[usize::from(key.number())]);
                    for (at, (left, right)) in (at..).zip(left.iter().zip(&right)) {
                        let known = known.get(&(at / 64)).copied().unwrap_or_default();
                        let zeros = key == SHARED && known.writer.0 != SHARED;
                        if zeros || (known.writer == reader && !known.is_garbage) {
                            prop_assert_eq!(left, right, "byte {:#x}", at);
                        }
                    }
                }
                Step::Initialise { line, count, key } => {
                    let range = lines(PhysAddr::new(base + line * 64), count);
                    own.initialise(range, key);
                    foreign.initialise(range, key);
                    let writer = (key, generations[usize::from(key.number())]);
                    for line in line..line + count {
                        known.insert(line, Known { writer, is_garbage: false });
                    }
                }
                Step::Program { key } => {
                    prop_assert!(own.program_key(key) && foreign.program_key(key));
                    generations[usize::from(key.number())] += 1;
                }
            }
            for line in 0..LINES {
                let pa = PhysAddr::new(base + line * 64);
                prop_assert_eq!(own.poisoned_by(pa), foreign.poisoned_by(pa));
            }
        }
        prop_assert_eq!(own.events.snapshot(), foreign.events.snapshot());
    }
}
