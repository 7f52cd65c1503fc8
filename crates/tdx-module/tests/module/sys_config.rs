//! TDH.SYS.CONFIG.

use tdx_abi::Registers;
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_module::inspect::{KeyRange, KeyState, ModuleInspection};
use tdx_module::{LockName, LpIndex, MachineCheck, ModuleState};

use crate::common::{
    Bench, CMRS, Case, Facts, GIB, GLOBAL_KEY, Moment, PAMT, PAMT_1G, PAMT_2M, PAMT_STEP, SEAMRR, Stage,
    TDMR_ARRAY, TDMR_INFO, Trial, config, config_regs, with_leaf,
};

/// PAMT of the second TDMR.
const PAMT1: u64 = PAMT + PAMT_STEP;

fn good() -> Registers {
    with_leaf(SeamcallLeaf::SYS_CONFIG, 0, config_regs())
}

/// Two TDMRs; the second has two reserved areas.
fn bench() -> Bench {
    let bench = Bench::at("1.5.05", Stage::LpsInitialised);
    bench.reserve(1, &[(0x10_0000, 0x1000), (0x20_0000, 0x1000)]);
    bench
}

fn trial() -> Trial {
    Trial { bench, lp: 3, good }
}

fn case(row: &'static str, status: Status, spoil: fn(&mut Facts, &mut Registers)) -> Case {
    Case { row, spoil, status, outputs: |_| {} }
}

const fn named(code: StatusCode, first: u32, second: u32, third: u32) -> Status {
    code.with_detail(first | second << 8 | third << 16)
}

fn invalid(operand: OperandId) -> Status {
    StatusCode::OPERAND_INVALID.with_operand(operand)
}

/// Rows that answer before the KeyID is taken.
fn operand_cases() -> Vec<Case> {
    vec![
        case("TDH.SYS.CONFIG-1", StatusCode::SYS_BUSY.plain(), |facts, _| {
            facts.contended.push(LockName::Global);
        }),
        case("TDH.SYS.CONFIG-4", invalid(OperandId::RCX), |_, regs| regs.rcx += 8),
        case("TDH.SYS.CONFIG-5a", invalid(OperandId::RDX), |_, regs| regs.rdx = 65),
        case("TDH.SYS.CONFIG-5b", invalid(OperandId::RDX), |_, regs| regs.rdx = 0),
        case("TDH.SYS.CONFIG-6a", invalid(OperandId::R8), |_, regs| regs.r8 |= 1 << 16),
        case("TDH.SYS.CONFIG-6b", invalid(OperandId::R8), |_, regs| regs.r8 = 31),
        case("TDH.SYS.CONFIG-6b", invalid(OperandId::R8), |_, regs| regs.r8 = 64),
        case("TDH.SYS.CONFIG-6a", invalid(OperandId::R8), |_, regs| regs.r8 |= 1 << 63),
    ]
}

/// Rows of the loop, on the second TDMR. Words: base, size, then base and size of the PAMT for 1G,
/// 2M and 4K, then offset and size of each reserved area.
fn tdmr_cases() -> Vec<Case> {
    let invalid_tdmr = named(StatusCode::INVALID_TDMR, 1, 0, 0);
    let invalid_area = named(StatusCode::INVALID_RESERVED_IN_TDMR, 1, 1, 0);
    let invalid_pamt = |level| named(StatusCode::INVALID_PAMT, 1, level, 0);
    let overlap = |of, level, with| named(StatusCode::PAMT_OVERLAP, of, level, with);
    vec![
        case("TDH.SYS.CONFIG-8", invalid(OperandId::RCX), |facts, _| {
            facts.memory.insert(TDMR_ARRAY + 8, TDMR_INFO + 512 + 64);
        }),
        case("TDH.SYS.CONFIG-9", invalid_tdmr, |facts, _| facts.tdmr(1, 1, u64::MAX - GIB + 1)),
        case("TDH.SYS.CONFIG-10", named(StatusCode::NON_ORDERED_TDMR, 1, 0, 0), |facts, _| {
            facts.tdmr(1, 0, 4 * GIB);
        }),
        case("TDH.SYS.CONFIG-11b", invalid_tdmr, |facts, _| facts.tdmr(1, 1, GIB + 0x1000)),
        case("TDH.SYS.CONFIG-11a", invalid_tdmr, |facts, _| facts.tdmr(1, 0, 6 * GIB + 0x1000)),
        case("TDH.SYS.CONFIG-11c", invalid_tdmr, |facts, _| facts.tdmr(1, 1, 0)),
        case("TDH.SYS.CONFIG-12", invalid_tdmr, |facts, _| facts.tdmr(1, 0, 1 << 46)),
        case("TDH.SYS.CONFIG-12", invalid_tdmr, |facts, _| facts.tdmr(1, 0, 1 << 52)),
        case("TDH.SYS.CONFIG-12", invalid_tdmr, |facts, _| facts.tdmr(1, 1, 1 << 46)),
        case("TDH.SYS.CONFIG-13", named(StatusCode::NON_ORDERED_RESERVED_IN_TDMR, 1, 0, 0), |facts, _| {
            facts.tdmr(1, 9, 0);
        }),
        case("TDH.SYS.CONFIG-14", invalid_area, |facts, _| facts.tdmr(1, 11, u64::MAX - 0xFFF)),
        case("TDH.SYS.CONFIG-15", named(StatusCode::NON_ORDERED_RESERVED_IN_TDMR, 1, 1, 0), |facts, _| {
            facts.tdmr(1, 10, 0x8_0000);
        }),
        case("TDH.SYS.CONFIG-16a", invalid_area, |facts, _| facts.tdmr(1, 10, 0x20_0800)),
        case("TDH.SYS.CONFIG-16b", invalid_area, |facts, _| facts.tdmr(1, 11, 0x1800)),
        case("TDH.SYS.CONFIG-17", invalid_area, |facts, _| facts.tdmr(1, 11, 2 * GIB)),
        case("TDH.SYS.CONFIG-17", invalid_area, |facts, _| facts.tdmr(1, 11, 2 * GIB - 0x1F_F000)),
        case("TDH.SYS.CONFIG-18", invalid_pamt(2), |facts, _| facts.tdmr(1, 3, 0)),
        case("TDH.SYS.CONFIG-18", invalid_pamt(2), |facts, _| facts.tdmr(1, 2, PAMT1 + 8)),
        case("TDH.SYS.CONFIG-18", invalid_pamt(1), |facts, _| facts.tdmr(1, 5, 2 * 8192 - 4096)),
        case("TDH.SYS.CONFIG-18", invalid_pamt(1), |facts, _| facts.tdmr(1, 4, 1 << 46)),
        case("TDH.SYS.CONFIG-18", invalid_pamt(0), |facts, _| facts.tdmr(1, 7, 8 << 20 | 8)),
        case("TDH.SYS.CONFIG-18", invalid_pamt(0), |facts, _| facts.tdmr(1, 7, u64::MAX - 0xFFF)),
        case("TDH.SYS.CONFIG-19", overlap(1, 0, 0), |facts, _| facts.tdmr(1, 6, PAMT)),
        case("TDH.SYS.CONFIG-19", overlap(1, 2, 0), |facts, _| facts.tdmr(1, 2, PAMT + PAMT_2M)),
        case("TDH.SYS.CONFIG-20a", overlap(1, 0, 1), |facts, _| facts.tdmr(1, 4, PAMT1 + 0x1000)),
        case("TDH.SYS.CONFIG-20b", overlap(1, 0, 1), |facts, _| facts.tdmr(1, 2, PAMT1)),
        case("TDH.SYS.CONFIG-20c", overlap(1, 1, 1), |facts, _| facts.tdmr(1, 2, PAMT1 + PAMT_2M)),
        case("TDH.SYS.CONFIG-21", overlap(1, 1, 0), |facts, _| facts.tdmr(1, 4, 4 * GIB)),
        case("TDH.SYS.CONFIG-21", overlap(1, 2, 1), |facts, _| facts.tdmr(1, 2, 7 * GIB)),
        case("TDH.SYS.CONFIG-22", overlap(0, 1, 1), |facts, _| facts.tdmr(0, 4, 6 * GIB)),
        case("TDH.SYS.CONFIG-23", named(StatusCode::PAMT_OUTSIDE_CMRS, 1, 2, 0), |facts, _| {
            facts.tdmr(1, 2, 0x9800_0000);
        }),
        case("TDH.SYS.CONFIG-24", named(StatusCode::TDMR_OUTSIDE_CMRS, 1, 0, 0), |facts, _| {
            facts.tdmr(1, 0, 11 * GIB);
        }),
    ]
}

/// The KeyID was marked reserved before the TDMRs were looked at.
fn forget_reservation(state: &mut ModuleInspection) {
    state.key_ids.clear();
}

#[test]
fn each_operand_row_answers_with_its_status_and_changes_nothing() {
    trial().refuses(&operand_cases(), |_| {});
}

#[test]
fn each_tdmr_row_answers_with_its_status_and_leaves_only_the_keyid_reserved() {
    trial().refuses(&tdmr_cases(), forget_reservation);
}

#[test]
fn the_upper_of_two_violated_rows_answers() {
    let cases: Vec<Case> = operand_cases().into_iter().chain(tdmr_cases()).collect();
    trial().orders(
        &cases,
        &[
            "TDH.SYS.CONFIG-1 before TDH.SYS.CONFIG-4",
            "TDH.SYS.CONFIG-4 before TDH.SYS.CONFIG-5a",
            "TDH.SYS.CONFIG-5a before TDH.SYS.CONFIG-6a",
            "TDH.SYS.CONFIG-6a before TDH.SYS.CONFIG-8",
            "TDH.SYS.CONFIG-9 before TDH.SYS.CONFIG-10",
            "TDH.SYS.CONFIG-10 before TDH.SYS.CONFIG-11b",
            "TDH.SYS.CONFIG-11b before TDH.SYS.CONFIG-12",
            "TDH.SYS.CONFIG-12 before TDH.SYS.CONFIG-13",
            "TDH.SYS.CONFIG-13 before TDH.SYS.CONFIG-14",
            "TDH.SYS.CONFIG-14 before TDH.SYS.CONFIG-15",
            "TDH.SYS.CONFIG-15 before TDH.SYS.CONFIG-16b",
            "TDH.SYS.CONFIG-16a before TDH.SYS.CONFIG-17",
            "TDH.SYS.CONFIG-17 before TDH.SYS.CONFIG-18",
            "TDH.SYS.CONFIG-18 before TDH.SYS.CONFIG-19",
            "TDH.SYS.CONFIG-19 before TDH.SYS.CONFIG-20c",
            "TDH.SYS.CONFIG-20b before TDH.SYS.CONFIG-21",
            "TDH.SYS.CONFIG-21 before TDH.SYS.CONFIG-22",
            "TDH.SYS.CONFIG-22 before TDH.SYS.CONFIG-23",
            "TDH.SYS.CONFIG-23 before TDH.SYS.CONFIG-24",
        ],
    );
}

#[test]
fn row_8_of_the_second_entry_comes_before_its_row_9_and_after_row_24_of_the_first() {
    // "TDH.SYS.CONFIG-8 before TDH.SYS.CONFIG-9": an address that is refused is not followed.
    let bench = bench();
    bench.hw.set(|facts| {
        facts.tdmr(1, 1, u64::MAX - GIB + 1);
        facts.memory.insert(TDMR_ARRAY + 8, 32 << 46 | (TDMR_INFO + 512));
    });
    let status = bench.status(3, SeamcallLeaf::SYS_CONFIG, config_regs());
    assert_eq!(status, invalid(OperandId::RCX));
    // All rows of TDMR 0 come before any row of TDMR 1.
    bench.hw.set(|facts| facts.tdmr(0, 0, 2 * GIB));
    let status = bench.status(3, SeamcallLeaf::SYS_CONFIG, config_regs());
    assert_eq!(status, named(StatusCode::TDMR_OUTSIDE_CMRS, 0, 0, 0));
}

#[test]
fn config_comes_after_init_and_every_lp_init_and_runs_once() {
    for (stage, lps, expected, row) in [
        (Stage::Loaded, 0, StatusCode::SYS_CONFIG_NOT_PENDING, "TDH.SYS.CONFIG-2"),
        (Stage::Configured, 0, StatusCode::SYS_CONFIG_NOT_PENDING, "TDH.SYS.CONFIG-2"),
        (Stage::Initialised, 3, StatusCode::SYS_CONFIG_NOT_PENDING, "TDH.SYS.CONFIG-3"),
    ] {
        let bench = Bench::at("1.5.05", stage);
        for lp in 0..lps {
            bench.ok(lp, SeamcallLeaf::SYS_LP_INIT, Registers::default());
        }
        let before = bench.state();
        // "TDH.SYS.CONFIG-2 before TDH.SYS.CONFIG-3" answers the same; "TDH.SYS.CONFIG-3 before TDH.SYS.CONFIG-4"
        for rcx in [TDMR_ARRAY, TDMR_ARRAY + 1] {
            let status = bench.status(0, SeamcallLeaf::SYS_CONFIG, Registers { rcx, ..config_regs() });
            assert_eq!(status, expected.plain(), "{row}");
            assert_eq!(bench.state(), before, "{row}");
        }
    }
    // "TDH.SYS.CONFIG-1 before TDH.SYS.CONFIG-2"
    let bench = Bench::at("1.5.05", Stage::Configured);
    bench.hw.set(|facts| facts.contended.push(LockName::Global));
    assert_eq!(bench.status(0, SeamcallLeaf::SYS_CONFIG, config_regs()), StatusCode::SYS_BUSY.plain());
}

#[test]
fn addresses_of_array_and_entries_are_shared_ones() {
    for bad in [TDMR_ARRAY + 256, 32 << 46 | TDMR_ARRAY, 1 << 52 | TDMR_ARRAY, SEAMRR] {
        let bench = bench();
        let status = bench.status(0, SeamcallLeaf::SYS_CONFIG, Registers { rcx: bad, ..config_regs() });
        assert_eq!(status, invalid(OperandId::RCX), "{bad:#x}");
        bench.hw.set(|facts| facts.memory.insert(TDMR_ARRAY, bad).map_or((), drop));
        let status = bench.status(0, SeamcallLeaf::SYS_CONFIG, config_regs());
        assert_eq!(status, invalid(OperandId::RCX), "{bad:#x}");
    }
    let bench = bench();
    let rcx = 31 << 46 | TDMR_ARRAY;
    bench.ok(0, SeamcallLeaf::SYS_CONFIG, Registers { rcx, ..config_regs() });
}

#[test]
fn a_refused_call_keeps_the_keyid_reserved_and_another_one_is_reserved_too() {
    let bench = bench();
    bench.hw.set(|facts| facts.tdmr(1, 1, 0));
    for key in [GLOBAL_KEY, GLOBAL_KEY + 3] {
        bench.status(0, SeamcallLeaf::SYS_CONFIG, Registers { r8: key, ..config_regs() });
    }
    let reserved = |number| {
        let key = tdx_abi::KeyId::new(number);
        KeyRange { first: key, last: key, state: KeyState::Reserved }
    };
    assert_eq!(bench.state().key_ids, [reserved(32), reserved(35)]);
    assert_eq!(bench.state().global_key, None);
    bench.hw.set(|facts| facts.tdmr(1, 1, 2 * GIB));
    bench.ok(0, SeamcallLeaf::SYS_CONFIG, config_regs());
    assert_eq!(bench.state().global_key, Some(tdx_abi::KeyId::new(32)));
}

#[test]
fn the_module_never_reads_the_array_again() {
    let bench = bench();
    bench.ok(0, SeamcallLeaf::SYS_CONFIG, config_regs());
    let before = bench.state();
    bench.hw.set(|facts| facts.memory.clear());
    assert_eq!(bench.state(), before);
    assert_eq!(before.tdmrs.len(), 2);
    assert_eq!(before.tdmrs[1].reserved.len(), 2);
    // One GiB and two GiB: 4,104 KiB per GiB and a page for each 1G level.
    assert_eq!(before.pamt_bytes(), (3 * 4104 + 2 * 4) << 10);
}

#[test]
fn touching_cmrs_count_as_one() {
    assert_eq!(CMRS[1].0 + CMRS[1].1, CMRS[2].0);
    let bench = bench();
    bench.hw.set(|facts| facts.tdmr(1, 0, 7 * GIB));
    bench.ok(0, SeamcallLeaf::SYS_CONFIG, config_regs());
}

#[test]
fn a_hole_in_memory_must_be_reserved() {
    let put = |reserved: &[(u64, u64)]| {
        let bench = Bench::at("1.5.05", Stage::LpsInitialised);
        // From 11 to 13 GiB; memory ends at 12 GiB.
        bench.put_tdmr(1, 11 * GIB, 2 * GIB);
        bench.reserve(1, reserved);
        bench.status(0, SeamcallLeaf::SYS_CONFIG, config_regs())
    };
    assert_eq!(put(&[(GIB, GIB)]), Status::SUCCESS);
    assert_eq!(put(&[(GIB + 0x1000, GIB - 0x1000)]), named(StatusCode::TDMR_OUTSIDE_CMRS, 1, 0, 0));
}

#[test]
fn only_tdx_1_0_looks_at_gaps_without_a_byte() {
    // The last area ends with the TDMR, a GiB behind the end of memory; then two areas that touch there.
    for areas in [&[(GIB, GIB)][..], &[(GIB, GIB / 2), (3 * GIB / 2, GIB / 2)]] {
        for (profile, expected) in
            [("1.0", named(StatusCode::TDMR_OUTSIDE_CMRS, 1, 0, 0)), ("1.5.01", Status::SUCCESS)]
        {
            let bench = Bench::at(profile, Stage::LpsInitialised);
            bench.put_tdmr(1, 11 * GIB, 2 * GIB);
            bench.reserve(1, areas);
            let status = bench.status(0, SeamcallLeaf::SYS_CONFIG, config_regs());
            assert_eq!(status, expected, "TDH.SYS.CONFIG-24@1.0: {profile}");
        }
    }
    let bench = Bench::at("1.0", Stage::LpsInitialised);
    // Touching areas inside memory are fine.
    bench.reserve(1, &[(0, 0x1000), (0x1000, 0x1000)]);
    bench.ok(0, SeamcallLeaf::SYS_CONFIG, config_regs());
}

#[test]
fn config_holds_the_global_lock_alone() {
    let bench = bench();
    let config = with_leaf(SeamcallLeaf::SYS_CONFIG, 0, config_regs());
    bench.hw.intrude(Moment::Read(TDMR_INFO), &bench.software, LpIndex(1), config);
    bench.ok(0, SeamcallLeaf::SYS_CONFIG, config_regs());
    let intruder = bench.hw.intrusion().expect("an answer");
    assert_eq!(Status::from_raw(intruder.rax), StatusCode::SYS_BUSY.plain(), "TDH.SYS.CONFIG-1");
}

#[test]
fn poison_in_a_tdmr_info_takes_tdx_down() {
    let bench = bench();
    let poison = TDMR_INFO + 512 + 64;
    bench.hw.set(|facts| facts.poison = Some(poison));
    assert_eq!(bench.raw(0, good()), None);
    let inspection = bench.software.inspect();
    assert_eq!(inspection.machine_check, Some(MachineCheck { pa: tdx_abi::PhysAddr::new(poison) }.pa));
    bench.hw.set(|facts| facts.poison = None);
    assert_eq!(bench.raw(0, good()), None);
    let info = Registers { rax: 1 << 63, rcx: 0x30_0000, ..Registers::default() };
    assert_eq!(bench.raw(1, info), None, "the loader is gone too");
}

fn v1(profile: &str, change: fn(&mut Registers)) -> (Bench, Status) {
    let bench = Bench::at(profile, Stage::LpsInitialised);
    let mut regs = with_leaf(SeamcallLeaf::SYS_CONFIG, 1, config_regs());
    change(&mut regs);
    let status = Status::from_raw(bench.raw(0, regs).expect("an answer").rax);
    (bench, status)
}

const CONNECT: u64 = 1 << 6;
const EXT: u64 = 1 << 39;

fn good_v1() -> Registers {
    let regs = Registers { r9: CONNECT, r11: 1, ..config_regs() };
    with_leaf(SeamcallLeaf::SYS_CONFIG, 1, regs)
}

fn v1_cases() -> Vec<Case> {
    vec![
        case("TDH.SYS.CONFIG-25", invalid(OperandId::RAX), |_, regs| regs.rax += 1 << 16),
        case("TDH.SYS.CONFIG-26", invalid(OperandId::R9), |_, regs| regs.r9 |= 1 << 63),
        case("TDH.SYS.CONFIG-27", invalid(OperandId::R10), |_, regs| regs.r10 = 1),
        case("TDH.SYS.CONFIG-28", invalid(OperandId::R11), |_, regs| regs.r11 = 0),
        case("TDH.SYS.CONFIG-1", StatusCode::SYS_BUSY.plain(), |facts, _| {
            facts.contended.push(LockName::Global);
        }),
    ]
}

#[test]
fn version_one_checks_its_operands_before_the_lock() {
    let trial = Trial { bench: || Bench::at("connect-clock", Stage::LpsInitialised), lp: 0, good: good_v1 };
    trial.refuses(&v1_cases(), |_| {});
    trial.orders(
        &v1_cases(),
        &[
            "TDH.SYS.CONFIG-25 before TDH.SYS.CONFIG-26",
            "TDH.SYS.CONFIG-26 before TDH.SYS.CONFIG-27",
            "TDH.SYS.CONFIG-27 before TDH.SYS.CONFIG-28",
            "TDH.SYS.CONFIG-28 before TDH.SYS.CONFIG-1",
        ],
    );
}

#[test]
fn a_module_without_version_one_refuses_it_whatever_r9_holds() {
    for profile in ["1.5.16", "2.0.08", "2.0.14"] {
        let (bench, status) = v1(profile, |_| {});
        assert_eq!(status, invalid(OperandId::RAX), "DISPATCH-3: {profile}");
        assert!(bench.state().key_ids.is_empty());
    }
    for profile in ["1.5.28", "connect"] {
        let (bench, status) = v1(profile, |_| {});
        assert_eq!(status, Status::SUCCESS, "{profile}");
        assert_eq!(bench.state().opted_in.bits(), 0);
    }
}

#[test]
fn connect_ignores_the_clock_and_the_bit_of_the_extensions() {
    let (bench, status) = v1("connect", |regs| regs.r9 = CONNECT | EXT);
    assert_eq!(status, Status::SUCCESS);
    assert_eq!(bench.state().opted_in.bits(), CONNECT);
    assert_eq!(bench.state().state, ModuleState::SysConfigDone);
    let (bench, status) = v1("connect", |regs| regs.r9 = EXT);
    assert_eq!((status, bench.state().opted_in.bits()), (Status::SUCCESS, 0));
    // A feature that is not reported cannot be opted into.
    let (_, status) = v1("connect", |regs| regs.r9 = 1);
    assert_eq!(status, invalid(OperandId::R9));
}

#[test]
fn after_a_refused_version_one_version_zero_takes_the_same_keyid() {
    let (bench, status) = v1("connect-clock", |_| {});
    assert_eq!(status, invalid(OperandId::R11));
    assert!(bench.state().key_ids.is_empty());
    bench.ok(0, SeamcallLeaf::SYS_CONFIG, config_regs());
    assert_eq!(bench.state().key_ids.len(), 1);
    let mut lenient = config("connect-clock");
    lenient.set_switch("TDH.SYS.CONFIG-28", false).expect("a switch");
    let bench = Bench::with(Some(lenient));
    bench.advance(Stage::LpsInitialised);
    let regs = with_leaf(SeamcallLeaf::SYS_CONFIG, 1, config_regs());
    assert_eq!(bench.raw(0, regs).map(|regs| regs.rax), Some(0));
}

#[test]
fn pamt_of_the_largest_pages_is_looked_at_first() {
    let bench = bench();
    bench.hw.set(|facts| {
        facts.tdmr(1, 2, 0x9800_0000);
        facts.tdmr(1, 4, 0x9900_0000);
    });
    let status = bench.status(0, SeamcallLeaf::SYS_CONFIG, config_regs());
    assert_eq!(status, named(StatusCode::PAMT_OUTSIDE_CMRS, 1, 2, 0));
    bench.hw.set(|facts| facts.tdmr(1, 2, PAMT1 + PAMT_1G));
    let status = bench.status(0, SeamcallLeaf::SYS_CONFIG, config_regs());
    assert_eq!(status, named(StatusCode::PAMT_OUTSIDE_CMRS, 1, 1, 0));
}
