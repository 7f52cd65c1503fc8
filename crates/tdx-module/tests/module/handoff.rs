//! The hand-off: its bytes, and what goes through them from one module instance to the next.

use proptest::prelude::*;
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::metadata::{FieldId, ListReader, sys};
use tdx_abi::status::{Status, StatusCode};
use tdx_abi::{KeyId, Registers};
use tdx_module::inspect::{HandoffInspection, KeyState, ModuleInspection};
use tdx_module::{ModuleConfig, ModuleState};

use crate::common::{Bench, GIB, GLOBAL_KEY, LPS, Stage, TDMRS, config, with_leaf};
use crate::sys_shutdown::{AVOID, COMPATIBILITY, opted_in, shutdown};

/// Offsets in the hand-off area, as published.
pub(crate) const KOT: usize = 0x0008;
pub(crate) const WBT: usize = 0x4008;
pub(crate) const TDMR_TABLE: usize = 0x8088;
pub(crate) const TDMR_COUNT: usize = 0xD088;
pub(crate) const GLOBAL_HKID: usize = 0xD08C;
pub(crate) const PACKAGES: usize = 0xD08E;
pub(crate) const DYNAMIC_PAMT: usize = 0xD092;
const TD_BUILDS: usize = 0xD093;
const MIGRATIONS: usize = 0xD095;
const END_V0: usize = 0xD092;
const END_V1: usize = 0xD097;
pub(crate) const WBT_ENTRY: usize = 2064;
pub(crate) const TDMR_ENTRY: usize = 320;
/// Offset of the progress in an entry of the TDMR table.
pub(crate) const PROGRESS: usize = 56;

pub(crate) fn update(version: u8, features: u64) -> Registers {
    with_leaf(SeamcallLeaf::SYS_UPDATE, version, Registers { r9: features, ..Registers::default() })
}

/// A module on the machine of `old` that only the bytes of the hand-off area connect with it, as far
/// as SYS.UPDATE needs it.
pub(crate) fn successor(old: &Bench, config: ModuleConfig) -> Bench {
    heir(&old.software.handoff_area(), config)
}

fn heir(area: &[u8], config: ModuleConfig) -> Bench {
    let bench = Bench::with(Some(config));
    bench.software.set_handoff_area(area);
    bench.advance(Stage::LpsInitialised);
    bench
}

/// A module that was used for a while and shut down with hand-off version `version`.
pub(crate) fn shut_down(profile: &str, version: u64) -> Bench {
    let bench = Bench::at(profile, Stage::Ready);
    initialise_some(&bench);
    assert_eq!(bench.raw(1, shutdown(version)).map(|regs| regs.rax), Some(0));
    bench
}

/// All of the first TDMR and a bit more than a GiB of the second.
fn initialise_some(bench: &Bench) {
    for (tdmr, calls) in [(0, 256), (1, 300)] {
        for _ in 0..calls {
            let (base, _): (u64, u64) = TDMRS[tdmr];
            bench.ok(0, SeamcallLeaf::SYS_TDMR_INIT, Registers { rcx: base, ..Registers::default() });
        }
    }
}

fn answer(bench: &Bench, regs: Registers) -> Status {
    Status::from_raw(bench.raw(0, regs).expect("an answer").rax)
}

/// What must be the same in both instances.
fn inherited(state: &ModuleInspection) -> impl PartialEq + std::fmt::Debug + use<> {
    (state.key_ids.clone(), state.tdmrs.clone(), state.configured_packages.clone(), state.global_key)
}

fn word(bytes: &[u8], offset: usize, length: usize) -> u64 {
    let mut word = [0; 8];
    word[..length].copy_from_slice(&bytes[offset..offset + length]);
    u64::from_le_bytes(word)
}

#[test]
fn the_bytes_are_where_the_layout_says() {
    let bench = opted_in("2.0.16", COMPATIBILITY);
    bench.software.set_td_builds(0x102);
    bench.software.set_interrupted_migrations(0x304);
    initialise_some(&bench);
    assert_eq!(answer(&bench, shutdown(1)), Status::SUCCESS);
    let bytes = bench.software.handoff_area();
    assert_eq!(bytes.len(), 25 * 4096, "NUM_HANDOFF_PAGES + 1");
    for (name, offset, length, value) in [
        ("valid", 0, 1, 1),
        ("reserved", 1, 1, 0),
        ("version", 2, 2, 1),
        ("size", 4, 4, 0xD08F),
        ("KOT entry 31", KOT + 31 * 8, 8, 0),
        ("KOT entry 32: reserved", KOT + 32 * 8, 8, 3 << 32),
        ("KOT entry 33", KOT + 33 * 8, 8, 0),
        ("WBT", WBT, 8, 0),
        ("TDMR 0: base", TDMR_TABLE, 8, 4 * GIB),
        ("TDMR 0: size", TDMR_TABLE + 8, 8, GIB),
        ("TDMR 0: progress", TDMR_TABLE + PROGRESS, 8, GIB),
        ("TDMR 1: base", TDMR_TABLE + TDMR_ENTRY, 8, 6 * GIB),
        ("TDMR 1: progress", TDMR_TABLE + TDMR_ENTRY + PROGRESS, 8, 300 * (4 << 20)),
        ("TDMR 2: base", TDMR_TABLE + 2 * TDMR_ENTRY, 8, 0),
        ("number of TDMRs", TDMR_COUNT, 4, 2),
        ("global HKID", GLOBAL_HKID, 2, GLOBAL_KEY),
        ("packages", PACKAGES, 4, 0b11),
        ("dynamic PAMT", DYNAMIC_PAMT, 1, 0),
        ("TD builds", TD_BUILDS, 2, 0x102),
        ("interrupted migrations", MIGRATIONS, 2, 0x304),
    ] {
        assert_eq!(word(&bytes, offset, length), value, "{name}");
    }
    assert!(bytes[END_V1..].iter().all(|&byte| byte == 0));
}

#[test]
fn version_0_ends_behind_the_package_bitmap() {
    let bench = opted_in("2.0.16", COMPATIBILITY);
    bench.software.set_td_builds(7);
    bench.software.set_interrupted_migrations(7);
    assert_eq!(answer(&bench, shutdown(0)), Status::SUCCESS);
    let bytes = bench.software.handoff_area();
    assert_eq!((word(&bytes, 2, 2), word(&bytes, 4, 4)), (0, 0xD08A));
    assert_eq!(word(&bytes, PACKAGES, 4), 0b11);
    assert!(bytes[END_V0..].iter().all(|&byte| byte == 0));
    assert_eq!(bench.state().handoff, Some(HandoffInspection { version: 0, size: 0xD08A }));
}

#[test]
fn a_successor_takes_everything_over_through_the_bytes() {
    for (old, version, new) in [
        ("1.5.01", 0, "1.5.05"),
        ("1.5.05", 0, "1.5.34"),
        ("2.0.02", 0, "2.0.08"),
        ("2.0.08", 0, "2.0.18"),
        ("2.0.14", 1, "2.0.18"),
        ("2.0.18", 1, "2.0.18"),
    ] {
        let before = shut_down(old, version);
        let after = successor(&before, config(new));
        let (left, fresh) = (before.state(), after.state());
        assert_eq!((fresh.state, fresh.global_key), (ModuleState::SysInitDone, None));
        assert!(fresh.tdmrs.is_empty() && fresh.key_ids.is_empty(), "nothing but the bytes is there");
        assert_eq!(fresh.handoff, left.handoff);
        assert_eq!(answer(&after, update(0, 0)), Status::SUCCESS, "{old} to {new}");
        let state = after.state();
        assert_eq!(state.state, ModuleState::SysReady);
        assert_eq!(state.handoff, None, "the header is invalid");
        assert_eq!(inherited(&state), inherited(&left), "{old} to {new}");
        assert_eq!(state.tdmrs[1].initialised_bytes, 300 * (4 << 20));
        assert_eq!(state.global_key, Some(KeyId::new(32)));
    }
}

#[test]
fn a_successor_goes_on_where_the_module_before_stopped() {
    let before = shut_down("2.0.14", 1);
    let after = successor(&before, config("2.0.16"));
    after.hw.restore(before.hw.facts());
    assert_eq!(answer(&after, update(0, 0)), Status::SUCCESS);
    let (base, _) = TDMRS[1];
    let next =
        || after.status(0, SeamcallLeaf::SYS_TDMR_INIT, Registers { rcx: base, ..Registers::default() });
    for _ in 300..512 {
        assert_eq!(next(), Status::SUCCESS);
    }
    assert_eq!(next(), StatusCode::TDMR_ALREADY_INITIALIZED.plain());
    let keys: Vec<u16> = after.hw.initialised().iter().map(|(_, key)| key.number()).collect();
    assert!(keys.iter().all(|&key| u64::from(key) == GLOBAL_KEY), "PAMT is written with the same key");
    // What brings up a fresh module must not be run again.
    let late = [
        (SeamcallLeaf::SYS_CONFIG, StatusCode::SYS_CONFIG_NOT_PENDING),
        (SeamcallLeaf::SYS_KEY_CONFIG, StatusCode::SYS_KEY_CONFIG_NOT_PENDING),
        (SeamcallLeaf::SYS_UPDATE, StatusCode::SYS_STATE_INCORRECT),
    ];
    for (leaf, code) in late {
        assert_eq!(after.status(0, leaf, Registers::default()), code.plain(), "{leaf}");
    }
}

#[test]
fn many_updates_follow_each_other() {
    let mut bench = shut_down("1.5.01", 0);
    let first = inherited(&bench.state());
    for profile in ["1.5.05", "1.5.06", "1.5.16", "1.5.28", "1.5.28", "1.5.34"] {
        bench = successor(&bench, config(profile));
        assert_eq!(answer(&bench, update(0, 0)), Status::SUCCESS, "{profile}");
        assert_eq!(inherited(&bench.state()), first, "{profile}");
        assert_eq!(answer(&bench, shutdown(0)), Status::SUCCESS, "{profile}");
    }
}

#[test]
fn reserved_areas_and_large_pamts_go_over() {
    let bench = Bench::at("2.0.14", Stage::LpsInitialised);
    bench.reserve(1, &[(0, 0x1000), (0x1000, 0x20_0000), (2 * GIB - 0x1000, 0x1000)]);
    bench.hw.set(|facts| facts.tdmr(0, 7, 0x80_0000));
    bench.advance_from_lps();
    assert_eq!(answer(&bench, shutdown(1)), Status::SUCCESS);
    let after = successor(&bench, config("2.0.14"));
    assert_eq!(answer(&after, update(0, 0)), Status::SUCCESS);
    let state = after.state();
    assert_eq!(state.tdmrs, bench.state().tdmrs);
    assert_eq!((state.tdmrs[1].reserved.len(), state.tdmrs[0].pamt[0].size()), (3, 0x80_0000));
}

#[test]
fn a_keyid_that_a_refused_config_reserved_stays_reserved() {
    let bench = Bench::at("1.5.05", Stage::LpsInitialised);
    let other = Registers { rcx: crate::common::TDMR_ARRAY, rdx: 2, r8: 40, ..Registers::default() };
    bench.hw.set(|facts| facts.tdmr(1, 0, 1));
    assert!(bench.status(0, SeamcallLeaf::SYS_CONFIG, other).is_error());
    bench.put_tdmr(1, TDMRS[1].0, TDMRS[1].1);
    bench.advance_from_lps();
    assert_eq!(answer(&bench, shutdown(0)), Status::SUCCESS);
    let after = successor(&bench, config("1.5.05"));
    assert_eq!(answer(&after, update(0, 0)), Status::SUCCESS);
    let keys: Vec<_> =
        after.state().key_ids.iter().map(|range| (range.first.number(), range.state)).collect();
    assert_eq!(keys, [(32, KeyState::Reserved), (40, KeyState::Reserved)]);
}

#[test]
fn features_are_those_of_the_update_call() {
    let compatible = |version, features| {
        let before = opted_in("2.0.16", COMPATIBILITY);
        before.software.set_td_builds(5);
        assert_eq!(answer(&before, shutdown(1)), Status::SUCCESS);
        let after = successor(&before, config("2.0.16"));
        assert_eq!(answer(&after, update(version, features)), Status::SUCCESS);
        after
    };
    // The opt-in has to be repeated.
    for after in [compatible(0, COMPATIBILITY), compatible(1, 0)] {
        assert!(after.state().opted_in.is_empty());
        assert_eq!(answer(&after, shutdown(AVOID | 1)), Status::SUCCESS);
    }
    let after = compatible(1, COMPATIBILITY);
    assert_eq!((after.state().opted_in.bits(), after.state().td_builds), (COMPATIBILITY, 5));
    assert_eq!(
        answer(&after, shutdown(AVOID | 1)),
        StatusCode::UPDATE_COMPATIBILITY_SENSITIVE.with_detail(5 << 16),
        "TDH.SYS.SHUTDOWN-4"
    );
    // 2.0.14 has no version 1 of SYS.CONFIG: its host opts in with the update.
    let after = successor(&shut_down("2.0.14", 1), config("2.0.14"));
    assert_eq!(answer(&after, update(1, COMPATIBILITY)), Status::SUCCESS);
    after.software.set_interrupted_migrations(2);
    assert_eq!(
        answer(&after, shutdown(AVOID | 1)),
        StatusCode::UPDATE_COMPATIBILITY_SENSITIVE.with_detail(2 << 16 | 1),
        "TDH.SYS.SHUTDOWN-5"
    );
}

#[test]
fn tdx_connect_is_opted_into_again_with_the_update() {
    let before = opted_in("connect", 1 << 6 | 1 << 39);
    assert_eq!(answer(&before, shutdown(1)), Status::SUCCESS);
    for (features, open) in [(0, false), (1 << 6 | 1 << 39, true)] {
        let after = successor(&before, config("connect"));
        assert_eq!(answer(&after, update(1, features)), Status::SUCCESS);
        assert_eq!(after.state().opted_in.bits(), if open { 1 << 6 } else { 0 }, "EXT has no effect");
        assert_eq!(rd(&after, sys::TDX_CONNECT_FEATURES).is_some(), open);
    }
}

fn rd(bench: &Bench, id: FieldId) -> Option<u64> {
    let regs = bench.call(3, SeamcallLeaf::SYS_RD, Registers { rdx: id.raw(), ..Registers::default() });
    (Status::from_raw(regs.rax) == Status::SUCCESS).then_some(regs.r8)
}

#[test]
fn metadata_show_the_header_until_it_was_taken_over() {
    const FIELDS: [FieldId; 3] = [sys::HANDOFF_DATA_VALID, sys::HANDOFF_DATA_HV, sys::HANDOFF_DATA_SIZE];
    let rdall = |bench: &Bench| {
        let regs = Registers { rdx: 0x30_0000, r8: u64::MAX, ..Registers::default() };
        bench.ok(0, SeamcallLeaf::SYS_RDALL, regs);
        let page = bench.hw.bytes(0x30_0000, 4096);
        let mut found = [None; 3];
        for sequence in ListReader::new(&page).expect("a list") {
            let sequence = sequence.expect("a sequence");
            for (field, value) in FIELDS.iter().zip(&mut found) {
                if sequence.id.field_code() == field.field_code() && sequence.id.class() == field.class() {
                    *value = sequence.values.clone().next();
                }
            }
        }
        found
    };
    let after = successor(&shut_down("2.0.14", 1), config("2.0.16"));
    let waiting = [Some(1), Some(1), Some(0xD08F)];
    assert_eq!(FIELDS.map(|field| rd(&after, field)), waiting);
    assert_eq!(rdall(&after), waiting);
    assert_eq!(answer(&after, update(0, 0)), Status::SUCCESS);
    let taken = [Some(0), Some(1), Some(0xD08F)];
    assert_eq!(FIELDS.map(|field| rd(&after, field)), taken);
    assert_eq!(rdall(&after), taken);
    let fresh = Bench::at("2.0.16", Stage::LpsInitialised);
    assert_eq!(FIELDS.map(|field| rd(&fresh, field)), [Some(0); 3]);
}

#[test]
fn metadata_give_the_hand_off_versions_that_the_module_goes_by() {
    let mut config = config("2.0.14");
    (config.sigstruct.min_update_hv, config.sigstruct.no_downgrade, config.sigstruct.pages) = (1, true, 30);
    let bench = Bench::with(Some(config));
    bench.advance(Stage::LpsInitialised);
    let fields = [sys::MODULE_HV, sys::MIN_UPDATE_HV, sys::NO_DOWNGRADE, sys::NUM_HANDOFF_PAGES];
    assert_eq!(fields.map(|field| rd(&bench, field)), [Some(1), Some(1), Some(1), Some(30)]);
    assert_eq!(bench.software.handoff_area().len(), 31 * 4096);
}

/// Bytes that any module could leave on this machine: any KeyIDs, progress, write-back state, counters.
fn estate() -> impl Strategy<Value = (u64, Vec<u8>)> {
    let key = (33usize..64, 0u8..4, any::<u32>());
    let flush = (0usize..8, any::<u64>(), prop::collection::vec(0usize..2048, 0..6));
    (
        0u64..2,
        prop::collection::vec(key, 0..12),
        prop::collection::vec(flush, 0..4),
        (0u64..=256, 0u64..=512),
        any::<[u16; 2]>(),
    )
        .prop_map(|(version, keys, flushes, progress, counters)| {
            let bench = Bench::at("2.0.16", Stage::Ready);
            assert_eq!(answer(&bench, shutdown(version)), Status::SUCCESS);
            let mut bytes = bench.software.handoff_area();
            for (number, state, packages) in keys {
                bytes[KOT + number * 8..][..4].copy_from_slice(&packages.to_le_bytes());
                bytes[KOT + number * 8 + 4] = state;
            }
            for (package, point, flags) in flushes {
                let entry = &mut bytes[WBT + package * WBT_ENTRY..][..WBT_ENTRY];
                entry[..8].copy_from_slice(&point.to_le_bytes());
                for flag in flags {
                    entry[8 + flag] = 1;
                }
            }
            for (tdmr, steps) in [progress.0, progress.1].into_iter().enumerate() {
                let offset = TDMR_TABLE + tdmr * TDMR_ENTRY + PROGRESS;
                bytes[offset..][..8].copy_from_slice(&(steps * (4 << 20)).to_le_bytes());
            }
            if version == 1 {
                bytes[TD_BUILDS..][..2].copy_from_slice(&counters[0].to_le_bytes());
                bytes[MIGRATIONS..][..2].copy_from_slice(&counters[1].to_le_bytes());
            }
            (version, bytes)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_taken_over_is_handed_on_byte_for_byte((version, bytes) in estate()) {
        let bench = heir(&bytes, config("2.0.16"));
        prop_assert_eq!(answer(&bench, update(1, COMPATIBILITY)), Status::SUCCESS);
        prop_assert_eq!(answer(&bench, shutdown(version)), Status::SUCCESS);
        prop_assert!(bench.software.handoff_area() == bytes, "the same bytes");
    }

    #[test]
    fn damaged_bytes_are_refused_or_are_a_valid_state(
        (_, mut bytes) in estate(),
        damage in prop::collection::vec(
            (prop_oneof![0..END_V1, 0..8usize, TDMR_TABLE..TDMR_TABLE + 700, TDMR_COUNT..END_V1], any::<u8>()),
            1..6,
        ),
    ) {
        for (offset, byte) in damage {
            bytes[offset] = byte;
        }
        refused_or_valid(&bytes)?;
    }

    #[test]
    fn any_bytes_are_refused_or_are_a_valid_state(
        seed in prop::collection::vec(any::<u8>(), 1..4096),
        header in prop_oneof![
            Just([1u8, 0, 0, 0, 0x8A, 0xD0, 0, 0]),
            Just([1u8, 0, 1, 0, 0x8F, 0xD0, 0, 0]),
            any::<[u8; 8]>(),
        ],
    ) {
        let bytes: Vec<u8> = header.into_iter().chain(seed.into_iter().cycle().take(25 * 4096)).collect();
        refused_or_valid(&bytes)?;
    }
}

/// SYS.UPDATE on any bytes: refused, with nothing changed, or a state that can be handed on.
fn refused_or_valid(bytes: &[u8]) -> Result<(), TestCaseError> {
    let bench = heir(bytes, config("2.0.16"));
    let before = bench.state();
    let status = answer(&bench, update(0, 0));
    if status != Status::SUCCESS {
        prop_assert_eq!(status, StatusCode::SYS_INVALID_HANDOFF.plain(), "TDH.SYS.UPDATE-9");
        prop_assert_eq!(bench.state(), before);
        return Ok(());
    }
    let state = bench.state();
    prop_assert_eq!(state.state, ModuleState::SysReady);
    prop_assert_eq!(state.initialised_lps.len(), LPS as usize);
    for tdmr in &state.tdmrs {
        prop_assert!(tdmr.initialised_bytes <= tdmr.range.size());
    }
    prop_assert_eq!(answer(&bench, shutdown(1)), Status::SUCCESS);
    let next = successor(&bench, config("2.0.16"));
    prop_assert_eq!(answer(&next, update(0, 0)), Status::SUCCESS);
    prop_assert_eq!(format!("{:?}", inherited(&next.state())), format!("{:?}", inherited(&state)));
    Ok(())
}
