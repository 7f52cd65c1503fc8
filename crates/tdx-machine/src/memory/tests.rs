//! Access by KeyID, row by row of the table that the memory follows.
//!
//! | row | access | line before |
//! |---|---|---|
//! | 1 | full-line write, shared | any |
//! | 2 | full-line write, private, in SEAM | any |
//! | 3 to 5 | partial write past the caches, shared | TD-owner 0; 1 with and without the erratum |
//! | 6 | ordinary store, shared | TD-owner 1 |
//! | 7 | private KeyID outside SEAM | – |
//! | 8, 9 | read, shared | TD-owner 0; 1 |
//! | 10 to 12 | read, private, in SEAM | same key; TD-owner 0; other key |
//! | 13, 14 | read | poison |
//! | 15, 16 | MOVDIR64B, shared; private | any |
//! | 17, 18 | late write-back of a shared line; of a private line | other owner |
//! | 21 | DMA with a private KeyID | – |
//!
//! Rows 7 and 19 to 21 are decided above memory: `machine/tests.rs` and `tests/machine/` have them.

use std::sync::Arc;

use super::*;
use crate::event::Event;
use tdx_abi::addr::SIZE_1G;

const SHARED: KeyId = KeyId::TME;
const MKTME: KeyId = KeyId::new(5);
const PRIVATE: KeyId = KeyId::new(32);
const OTHER: KeyId = KeyId::new(33);
const LINE: PhysAddr = PhysAddr::new(0x1_0000_0040);
const ONES: [u8; 64] = [0x11; 64];
const TWOS: [u8; 64] = [0x22; 64];

fn memory(integrity: bool, erratum: bool) -> Memory {
    let rules = Rules { integrity, partial_write_poison: erratum, write_back_within: 0, seed: 1 };
    Memory::new(rules, KeyIdPartitioning::new(31, 32), 64, 2, Arc::default())
}

/// Both modes, with and without the erratum.
fn platforms() -> impl Iterator<Item = (Memory, bool, bool)> {
    [(true, true), (true, false), (false, true), (false, false)]
        .into_iter()
        .map(|(integrity, erratum)| (memory(integrity, erratum), integrity, erratum))
}

fn read(memory: &Memory, key: KeyId) -> Result<[u8; 64], PhysAddr> {
    let mut bytes = [0xEE; 64];
    memory.read(LINE, key, &mut bytes).map(|()| bytes)
}

fn cause(memory: &Memory) -> Option<PoisonCause> {
    memory.poisoned_by(LINE).map(|record| record.cause)
}

fn line_range() -> PhysRange {
    PhysRange::from_size(LINE, 64).expect("a line")
}

/// Puts the line into each of its states: fresh, shared, TD-owned, poisoned.
fn states() -> [fn(&Memory); 4] {
    [
        |_| {},
        |memory| memory.write(LINE, SHARED, &TWOS, Store::Cached),
        |memory| memory.write(LINE, PRIVATE, &TWOS, Store::Cached),
        |memory| {
            memory.write(LINE, SHARED, &TWOS, Store::Cached);
            assert!(read(memory, PRIVATE).is_err());
        },
    ]
}

#[test]
fn row_1_a_full_line_write_with_a_shared_key_always_succeeds_and_heals() {
    for prepare in states() {
        for store in [Store::Cached, Store::Direct] {
            for (memory, ..) in platforms() {
                prepare(&memory);
                memory.write(LINE, SHARED, &ONES, store);
                assert_eq!(read(&memory, SHARED), Ok(ONES));
                assert_eq!(cause(&memory), None);
            }
        }
    }
}

#[test]
fn row_2_a_full_line_write_with_a_private_key_always_succeeds_and_heals() {
    for prepare in states() {
        for (memory, ..) in platforms() {
            prepare(&memory);
            memory.write(LINE, PRIVATE, &ONES, Store::Cached);
            assert_eq!(read(&memory, PRIVATE), Ok(ONES));
            assert_eq!(read(&memory, SHARED), Ok([0; 64]), "TD-owner is set");
            assert_eq!(cause(&memory), None);
        }
    }
}

#[test]
fn row_3_a_partial_write_to_shared_memory_merges() {
    for (memory, ..) in platforms() {
        memory.write(LINE, SHARED, &ONES, Store::Cached);
        memory.write(LINE, SHARED, &[9; 4], Store::Direct);
        let mut expected = ONES;
        expected[..4].fill(9);
        assert_eq!(read(&memory, SHARED), Ok(expected));
    }
}

#[test]
fn row_4_a_partial_write_to_td_memory_poisons_silently_with_the_erratum() {
    for integrity in [true, false] {
        let memory = memory(integrity, true);
        memory.write(LINE, PRIVATE, &ONES, Store::Cached);
        memory.write(PhysAddr::new(LINE.as_u64() + 8), SHARED, &[9; 4], Store::Direct);
        let expected =
            PoisonCause::PartialWrite { pa: PhysAddr::new(LINE.as_u64() + 8), bytes: 4, key: SHARED };
        assert_eq!(cause(&memory), Some(expected), "recorded before anybody reads");
        assert_eq!(read(&memory, SHARED), Err(LINE), "the host too gets the machine check");
        assert_eq!(read(&memory, PRIVATE), Err(LINE));
        assert_eq!(memory.events.snapshot().len(), 1, "one poison, however often it is read");
    }
}

#[test]
fn row_5_a_partial_write_to_td_memory_takes_the_line_without_the_erratum() {
    for integrity in [true, false] {
        let memory = memory(integrity, false);
        memory.write(LINE, PRIVATE, &ONES, Store::Cached);
        memory.write(LINE, SHARED, &[9; 4], Store::Direct);
        let mut expected = [0; 64];
        expected[..4].fill(9);
        assert_eq!(read(&memory, SHARED), Ok(expected));
        assert_eq!(cause(&memory), None);
    }
}

#[test]
fn row_6_an_ordinary_store_to_td_memory_gives_zeros_plus_the_new_bytes_on_every_cpu() {
    for (memory, ..) in platforms() {
        memory.write(LINE, PRIVATE, &ONES, Store::Cached);
        memory.write(LINE, SHARED, &[9; 4], Store::Cached);
        let mut expected = [0; 64];
        expected[..4].fill(9);
        assert_eq!(read(&memory, SHARED), Ok(expected));
        assert_eq!(cause(&memory), None);
    }
}

#[test]
fn row_8_a_shared_read_gives_the_data_or_with_another_shared_key_garbage() {
    for (memory, ..) in platforms() {
        memory.write(LINE, SHARED, &ONES, Store::Cached);
        assert_eq!(read(&memory, SHARED), Ok(ONES));
        let garbage = read(&memory, MKTME).expect("no fault");
        assert_ne!(garbage, ONES);
        assert_ne!(garbage, [0; 64]);
        assert_eq!(read(&memory, MKTME), Ok(garbage), "stable");
        assert_eq!(read(&memory, SHARED), Ok(ONES), "reading changed nothing");
    }
}

#[test]
fn row_9_a_shared_read_of_td_memory_gives_zeros_and_no_poison() {
    for (memory, ..) in platforms() {
        memory.write(LINE, PRIVATE, &ONES, Store::Cached);
        assert_eq!(read(&memory, SHARED), Ok([0; 64]));
        assert_eq!(cause(&memory), None);
        assert_eq!(read(&memory, PRIVATE), Ok(ONES));
    }
}

#[test]
fn row_10_a_private_read_with_the_same_key_gives_the_data() {
    for (memory, ..) in platforms() {
        memory.write(LINE, PRIVATE, &ONES, Store::Cached);
        assert_eq!(read(&memory, PRIVATE), Ok(ONES));
    }
}

#[test]
fn row_11_a_private_read_of_a_line_the_host_took_poisons_it_for_good() {
    for (memory, ..) in platforms() {
        memory.write(LINE, PRIVATE, &ONES, Store::Cached);
        memory.write(LINE, SHARED, &TWOS, Store::Cached);
        assert_eq!(read(&memory, PRIVATE), Err(LINE));
        assert_eq!(cause(&memory), Some(PoisonCause::NotTdOwned { reader: PRIVATE, written_with: SHARED }));
        assert_eq!(read(&memory, SHARED), Err(LINE), "kept in memory: the host meets it too");
    }
}

#[test]
fn row_12_a_private_read_with_another_key_poisons_with_integrity_and_is_garbage_without() {
    for (memory, integrity, _) in platforms() {
        memory.write(LINE, PRIVATE, &ONES, Store::Cached);
        if integrity {
            assert_eq!(read(&memory, OTHER), Err(LINE));
            assert_eq!(cause(&memory), Some(PoisonCause::WrongKey { reader: OTHER, written_with: PRIVATE }));
        } else {
            let garbage = read(&memory, OTHER).expect("not noticed");
            assert_ne!(garbage, ONES);
            assert_eq!(read(&memory, PRIVATE), Ok(ONES));
        }
    }
}

#[test]
fn row_12_a_reprogrammed_keyid_is_another_key() {
    for (memory, integrity, _) in platforms() {
        memory.write(LINE, PRIVATE, &ONES, Store::Cached);
        assert!(memory.program_key(PRIVATE));
        if integrity {
            assert_eq!(read(&memory, PRIVATE), Err(LINE));
            assert_eq!(
                cause(&memory),
                Some(PoisonCause::WrongKey { reader: PRIVATE, written_with: PRIVATE })
            );
        } else {
            assert_ne!(read(&memory, PRIVATE), Ok(ONES));
        }
        assert!(!memory.program_key(KeyId::new(64)));
    }
}

#[test]
fn rows_13_and_14_poison_reaches_every_reader_and_names_the_first_line() {
    for (memory, ..) in platforms() {
        memory.write(LINE, SHARED, &ONES, Store::Cached);
        assert!(read(&memory, PRIVATE).is_err());
        for key in [SHARED, MKTME, PRIVATE, OTHER] {
            assert_eq!(read(&memory, key), Err(LINE));
        }
        let mut wide = [0; 256];
        let before = PhysAddr::new(LINE.as_u64() - 64);
        assert_eq!(memory.read(before, SHARED, &mut wide), Err(LINE));
        memory.write(LINE, SHARED, &[7; 3], Store::Cached);
        assert_eq!(read(&memory, SHARED), Err(LINE), "less than a line does not heal");
        memory.write(LINE, SHARED, &[7; 3], Store::Direct);
        assert_eq!(read(&memory, SHARED), Err(LINE));
    }
}

#[test]
fn row_15_movdir64b_by_the_host_clears_every_state() {
    for prepare in states() {
        for (memory, ..) in platforms() {
            prepare(&memory);
            memory.initialise(line_range(), SHARED);
            assert_eq!(read(&memory, SHARED), Ok([0; 64]));
            assert_eq!(cause(&memory), None);
            memory.write(LINE, SHARED, &[9; 4], Store::Direct);
            assert!(read(&memory, SHARED).is_ok(), "TD-owner is clear: a partial write merges");
        }
    }
}

#[test]
fn row_16_movdir64b_by_the_module_takes_a_line_in_every_state() {
    for prepare in states() {
        for (memory, ..) in platforms() {
            prepare(&memory);
            memory.initialise(line_range(), PRIVATE);
            assert_eq!(read(&memory, PRIVATE), Ok([0; 64]));
            assert_eq!(cause(&memory), None);
        }
    }
}

#[test]
fn row_17_a_late_write_back_of_the_host_destroys_what_the_module_took() {
    for (memory, ..) in platforms() {
        memory.write(LINE, SHARED, &ONES, Store::Cached);
        memory.initialise(line_range(), PRIVATE);
        assert_eq!(read(&memory, PRIVATE), Ok([0; 64]), "the dirty line is still in its cache");
        memory.evict(line_range());
        assert_eq!(memory.events.snapshot(), [Event::LateWriteBack { line: LINE, key: SHARED }]);
        assert_eq!(read(&memory, PRIVATE), Err(LINE));
    }
}

#[test]
fn row_17_clflush_before_the_hand_over_prevents_it() {
    for (memory, ..) in platforms() {
        memory.write(LINE, SHARED, &ONES, Store::Cached);
        memory.flush(line_range(), SHARED);
        memory.initialise(line_range(), PRIVATE);
        memory.evict(line_range());
        assert_eq!(read(&memory, PRIVATE), Ok([0; 64]));
        assert_eq!(memory.events.snapshot(), []);
    }
}

#[test]
fn row_17_wbinvd_helps_only_on_every_package_and_only_before() {
    for (packages, survives) in [(&[0usize][..], false), (&[0, 1], true)] {
        let memory = memory(true, false);
        memory.write(LINE, SHARED, &ONES, Store::Cached);
        for &package in packages {
            memory.write_back_invalidate(package);
        }
        memory.initialise(line_range(), PRIVATE);
        memory.evict(line_range());
        assert_eq!(read(&memory, PRIVATE).is_ok(), survives);
    }
    let memory = memory(true, false);
    memory.write(LINE, SHARED, &ONES, Store::Cached);
    memory.initialise(line_range(), PRIVATE);
    memory.write_back_invalidate(0);
    memory.write_back_invalidate(1);
    assert_eq!(read(&memory, PRIVATE), Err(LINE), "WBINVD itself wrote the line back");
}

#[test]
fn row_18_a_late_write_back_of_a_private_line_turns_host_data_into_zeros() {
    for (memory, ..) in platforms() {
        memory.write(LINE, PRIVATE, &ONES, Store::Cached);
        memory.write(LINE, SHARED, &TWOS, Store::Direct);
        assert_eq!(read(&memory, SHARED), Ok(TWOS));
        memory.evict(line_range());
        assert_eq!(read(&memory, SHARED), Ok([0; 64]));
        assert_eq!(read(&memory, PRIVATE), Ok(ONES));
    }
}

#[test]
fn row_18_clflush_through_another_keyid_leaves_the_line_in_its_cache() {
    for (key, written_back) in [(SHARED, false), (PRIVATE, true)] {
        let memory = memory(true, false);
        memory.write(LINE, PRIVATE, &ONES, Store::Cached);
        memory.flush(line_range(), key);
        memory.write(LINE, SHARED, &TWOS, Store::Direct);
        memory.evict(line_range());
        assert_eq!(read(&memory, SHARED) == Ok(TWOS), written_back, "{key}");
    }
}

#[test]
fn wbinvd_of_the_last_package_writes_back_only_what_all_have_flushed() {
    let memory = memory(true, false);
    memory.write(PhysAddr::new(0x1_0000_2000), SHARED, &ONES, Store::Cached);
    memory.write_back_invalidate(0);
    memory.write(LINE, SHARED, &ONES, Store::Cached);
    memory.initialise(line_range(), PRIVATE);
    memory.write_back_invalidate(1);
    assert_eq!(read(&memory, PRIVATE), Ok([0; 64]), "package 0 may hold the line still");
    memory.write_back_invalidate(0);
    assert_eq!(read(&memory, PRIVATE), Err(LINE));
}

#[test]
fn a_partial_store_in_seam_to_a_line_of_another_owner_poisons_it() {
    for (memory, integrity, _) in platforms() {
        memory.write(LINE, SHARED, &ONES, Store::Cached);
        memory.write(LINE, PRIVATE, &[9; 4], Store::Cached);
        assert_eq!(cause(&memory), Some(PoisonCause::NotTdOwned { reader: PRIVATE, written_with: SHARED }));
        memory.write(LINE, OTHER, &ONES, Store::Cached);
        memory.write(LINE, PRIVATE, &[9; 4], Store::Cached);
        assert_eq!(cause(&memory).is_some(), integrity);
    }
}

#[test]
fn caches_write_back_by_themselves_when_the_seed_says_so() {
    let rules = Rules { integrity: true, partial_write_poison: false, write_back_within: 8, seed: 4 };
    let memory = Memory::new(rules, KeyIdPartitioning::new(31, 32), 64, 1, Arc::default());
    memory.write(LINE, SHARED, &ONES, Store::Cached);
    memory.initialise(line_range(), PRIVATE);
    let reads = (0..8).take_while(|_| read(&memory, PRIVATE).is_ok()).count();
    assert!(reads < 8, "written back within eight accesses");
}

#[test]
fn an_initialised_range_costs_one_entry_and_keeps_the_pages_around_it() {
    let memory = memory(true, false);
    let base = 0x2_0000_0000u64;
    let at = |offset: u64| PhysAddr::new(base + offset);
    memory.write(at(0x1FC0), SHARED, &ONES, Store::Cached);
    memory.write(at(0x9000), SHARED, &ONES, Store::Cached);
    for step in 0..4 {
        let range = PhysRange::from_size(at(0x2000 + step * 0x2000), 0x2000).expect("a range");
        memory.initialise(range, PRIVATE);
    }
    assert_eq!(memory.footprint(), MemoryFootprint { pages: 1, runs: 1 });
    let mut bytes = [0; 64];
    assert_eq!(memory.read(at(0x1FC0), SHARED, &mut bytes), Ok(()));
    assert_eq!(bytes, ONES, "the line before the range");
    assert_eq!(memory.read(at(0x9000), PRIVATE, &mut bytes), Ok(()));
    assert_eq!(bytes, [0; 64], "the page inside it");
    assert_eq!(memory.read(at(0xA000), PRIVATE, &mut bytes), Err(at(0xA000)), "the line behind it");
}

#[test]
fn a_range_may_cross_blocks_and_lines() {
    let memory = memory(true, false);
    let start = PhysAddr::new(0x3_FFFF_FFF0);
    memory.write(start, SHARED, &[7; 32], Store::Cached);
    let mut bytes = [0; 32];
    assert_eq!(memory.read(start, SHARED, &mut bytes), Ok(()));
    assert_eq!(bytes, [7; 32]);
    memory.initialise(PhysRange::from_size(start, 32).expect("a range"), PRIVATE);
    assert_eq!(memory.read(PhysAddr::new(0x3_FFFF_FFC0), PRIVATE, &mut bytes), Ok(()), "whole lines");
    assert_eq!(memory.read(PhysAddr::new(0x4_0000_0020), PRIVATE, &mut bytes), Ok(()));
}

#[test]
fn threads_initialise_side_by_side() {
    let memory = memory(true, false);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let memory = &memory;
            scope.spawn(move || {
                for step in 0..4096 {
                    let start = PhysAddr::new((thread * 3 + 1) * SIZE_1G / 2 + step * 16384);
                    memory.initialise(PhysRange::from_size(start, 16384).expect("a range"), PRIVATE);
                }
            });
        }
    });
    let mut bytes = [0; 64];
    for thread in 0..4u64 {
        let last = PhysAddr::new((thread * 3 + 1) * SIZE_1G / 2 + 4096 * 16384 - 64);
        assert_eq!(memory.read(last, PRIVATE, &mut bytes), Ok(()));
    }
    assert_eq!(memory.footprint(), MemoryFootprint { pages: 0, runs: 4 });
}

#[test]
fn power_loss_forgets_content_owners_and_keys() {
    let memory = memory(true, false);
    memory.program_key(PRIVATE);
    memory.write(LINE, PRIVATE, &ONES, Store::Cached);
    memory.reset();
    assert_eq!(read(&memory, SHARED), Ok([0; 64]));
    assert_eq!(memory.footprint(), MemoryFootprint::default());
}
