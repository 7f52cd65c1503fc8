//! TDH.SYS.LP.INIT of TDX 1.5 and later.

use tdx_abi::Registers;
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::status::{Status, StatusCode};
use tdx_module::{LockName, LpIndex};

use crate::common::{Bench, Case, Facts, Moment, Stage, Trial, with_leaf};

/// The LP under test; LP 0 ran SYS.INIT.
const LP: Option<u32> = Some(1);

fn good() -> Registers {
    let regs = Registers { rcx: 1, rdx: 2, r8: 3, r9: 4, ..Registers::default() };
    with_leaf(SeamcallLeaf::SYS_LP_INIT, 0, regs)
}

fn trial() -> Trial {
    Trial { bench: || Bench::at("1.5.05", Stage::Initialised), lp: 1, good }
}

fn case(row: &'static str, status: Status, spoil: fn(&mut Facts, &mut Registers)) -> Case {
    Case { row, spoil, status, outputs: |regs| (regs.rcx, regs.rdx, regs.r8) = (0, 0, 0) }
}

const fn differs(msr: u32) -> Status {
    StatusCode::INCONSISTENT_MSR.with_detail(msr)
}

fn cases() -> Vec<Case> {
    vec![
        case("TDH.SYS.LP.INIT-1", StatusCode::SYS_BUSY.plain(), |facts, _| {
            facts.contended.push(LockName::Global);
        }),
        case("TDH.SYS.LP.INIT-4a", StatusCode::RND_NO_ENTROPY.plain(), |facts, _| facts.entropy = None),
        case("TDH.SYS.LP.INIT-4b", StatusCode::RND_NO_ENTROPY.plain(), |facts, _| {
            facts.entropy = Some(0);
        }),
        case("TDH.SYS.LP.INIT-5", StatusCode::INCOMPATIBLE_SEAM_CAPABILITIES.plain(), |facts, _| {
            facts.seamops.insert(1, 0xFF);
        }),
        case("TDH.SYS.LP.INIT-6a", differs(0xCF), |facts, _| facts.flip_msr(LP, 0xCF, 1)),
        case("TDH.SYS.LP.INIT-6b", differs(0x10A), |facts, _| facts.flip_msr(LP, 0x10A, 1 << 30)),
        case("TDH.SYS.LP.INIT-6c", differs(0xBC), |facts, _| facts.flip_msr(LP, 0xBC, 2)),
        case("TDH.SYS.LP.INIT-6d", differs(0xBD), |facts, _| facts.flip_msr(LP, 0xBD, 2)),
        case("TDH.SYS.LP.INIT-7", StatusCode::LIMIT_CPUID_MAXVAL_SET.plain(), |facts, _| {
            facts.flip_msr(LP, 0x1A0, 1 << 22);
        }),
        Case {
            row: "TDH.SYS.LP.INIT-8",
            spoil: |facts, _| facts.cpuid(LP, (0xD, 1), |regs| regs[2] ^= 1 << 8),
            status: StatusCode::INCONSISTENT_CPUID_FIELD.plain(),
            outputs: |regs| {
                (regs.rcx, regs.rdx, regs.r8) = (1 << 32 | 0xD, 0xFFFF_FFFF, u64::MAX);
            },
        },
        case("TDH.SYS.LP.INIT-9", StatusCode::INVALID_PKG_ID.with_detail(8), |facts, _| {
            facts.packages[1] = 8;
        }),
        case("TDH.SYS.LP.INIT-10", differs(0x3B), |facts, _| facts.flip_msr(LP, 0x3B, 1)),
        case("TDH.SYS.LP.INIT-11a", differs(0xFE), |facts, _| facts.flip_msr(LP, 0xFE, 1)),
        case("TDH.SYS.LP.INIT-11b", differs(0x1F3), |facts, _| facts.flip_msr(LP, 0x1F3, 1 << 23)),
        case("TDH.SYS.LP.INIT-12", differs(0x489), |facts, _| facts.flip_msr(LP, 0x489, 1 << 40)),
        case("TDH.SYS.LP.INIT-13", differs(0x345), |facts, _| facts.flip_msr(LP, 0x345, 1)),
        case("TDH.SYS.LP.INIT-14", differs(0x981), |facts, _| facts.flip_msr(LP, 0x981, 1 << 31)),
    ]
}

#[test]
fn each_row_answers_with_its_status_and_changes_nothing() {
    trial().refuses(&cases(), |_| {});
}

#[test]
fn the_upper_of_two_violated_rows_answers() {
    trial().orders(
        &cases(),
        &[
            "TDH.SYS.LP.INIT-1 before TDH.SYS.LP.INIT-4a",
            "TDH.SYS.LP.INIT-4a before TDH.SYS.LP.INIT-5",
            "TDH.SYS.LP.INIT-5 before TDH.SYS.LP.INIT-6a",
            "TDH.SYS.LP.INIT-6a before TDH.SYS.LP.INIT-6b",
            "TDH.SYS.LP.INIT-6b before TDH.SYS.LP.INIT-6c",
            "TDH.SYS.LP.INIT-6c before TDH.SYS.LP.INIT-6d",
            "TDH.SYS.LP.INIT-6d before TDH.SYS.LP.INIT-7",
            "TDH.SYS.LP.INIT-7 before TDH.SYS.LP.INIT-8",
            "TDH.SYS.LP.INIT-8 before TDH.SYS.LP.INIT-9",
            "TDH.SYS.LP.INIT-9 before TDH.SYS.LP.INIT-10",
            "TDH.SYS.LP.INIT-10 before TDH.SYS.LP.INIT-11a",
            "TDH.SYS.LP.INIT-11a before TDH.SYS.LP.INIT-11b",
            "TDH.SYS.LP.INIT-11b before TDH.SYS.LP.INIT-12",
            "TDH.SYS.LP.INIT-12 before TDH.SYS.LP.INIT-13",
            "TDH.SYS.LP.INIT-13 before TDH.SYS.LP.INIT-14",
        ],
    );
}

#[test]
fn compared_msrs_are_named_in_their_order() {
    let order = [
        0xFE, 0x1F2, 0x1F3, 0x1F6, 0x1F7, 0x480, 0x48D, 0x48E, 0x48B, 0x492, 0x48F, 0x490, 0x485, 0x48C,
        0x486, 0x487, 0x488, 0x489, 0x345, 0x981, 0x982, 0x87, 0x98, 0x99,
    ];
    for (index, first) in order.into_iter().enumerate() {
        let bench = Bench::at("1.5.01", Stage::Initialised);
        bench.hw.set(|facts| {
            for msr in order.into_iter().skip(index) {
                facts.flip_msr(LP, msr, 1 << 62);
            }
        });
        let status = bench.status(1, SeamcallLeaf::SYS_LP_INIT, Registers::default());
        assert_eq!(status, differs(first), "{first:#x}");
    }
}

#[test]
fn an_lp_is_initialised_once_and_only_between_init_and_config() {
    for (stage, lp, expected, row) in [
        (Stage::Loaded, 0, StatusCode::SYS_LP_INIT_NOT_PENDING, "TDH.SYS.LP.INIT-2"),
        (Stage::Configured, 0, StatusCode::SYS_LP_INIT_NOT_PENDING, "TDH.SYS.LP.INIT-2"),
        (Stage::LpsInitialised, 2, StatusCode::SYS_LP_INIT_DONE, "TDH.SYS.LP.INIT-3"),
    ] {
        let bench = Bench::at("1.5.05", stage);
        let before = bench.state();
        assert_eq!(
            bench.status(lp, SeamcallLeaf::SYS_LP_INIT, Registers::default()),
            expected.plain(),
            "{row}"
        );
        assert_eq!(bench.state(), before, "{row}");
    }
    // "TDH.SYS.LP.INIT-2 before TDH.SYS.LP.INIT-3": configured, and every LP initialised.
    // "TDH.SYS.LP.INIT-3 before TDH.SYS.LP.INIT-4a"
    let bench = Bench::at("1.5.05", Stage::LpsInitialised);
    bench.hw.set(|facts| facts.entropy = None);
    let status = bench.status(2, SeamcallLeaf::SYS_LP_INIT, Registers::default());
    assert_eq!(status, StatusCode::SYS_LP_INIT_DONE.plain());
    // "TDH.SYS.LP.INIT-1 before TDH.SYS.LP.INIT-2"
    let bench = Bench::new("1.5.05");
    bench.hw.set(|facts| facts.contended.push(LockName::Global));
    assert_eq!(
        bench.status(0, SeamcallLeaf::SYS_LP_INIT, Registers::default()),
        StatusCode::SYS_BUSY.plain()
    );
}

#[test]
fn lps_may_be_initialised_at_the_same_time_but_not_during_config() {
    let lp_init = || with_leaf(SeamcallLeaf::SYS_LP_INIT, 0, Registers::default());
    let bench = Bench::at("1.5.05", Stage::Initialised);
    bench.hw.intrude(Moment::Random, &bench.software, LpIndex(3), lp_init());
    bench.ok(1, SeamcallLeaf::SYS_LP_INIT, Registers::default());
    let intruder = bench.hw.intrusion().expect("an answer");
    assert_eq!(Status::from_raw(intruder.rax), Status::SUCCESS, "the lock is shared");
    assert_eq!(bench.state().initialised_lps, [LpIndex(1), LpIndex(3)]);

    let bench = Bench::at("1.5.05", Stage::LpsInitialised);
    bench.hw.intrude(Moment::Read(crate::common::TDMR_ARRAY), &bench.software, LpIndex(3), lp_init());
    bench.ok(0, SeamcallLeaf::SYS_CONFIG, crate::common::config_regs());
    let intruder = bench.hw.intrusion().expect("an answer");
    assert_eq!(Status::from_raw(intruder.rax), StatusCode::SYS_BUSY.plain(), "TDH.SYS.LP.INIT-1");
}

#[test]
fn an_lp_inside_keeps_writers_out() {
    let bench = Bench::at("1.5.05", Stage::Initialised);
    let config = with_leaf(SeamcallLeaf::SYS_CONFIG, 0, crate::common::config_regs());
    bench.hw.intrude(Moment::Random, &bench.software, LpIndex(3), config);
    bench.ok(1, SeamcallLeaf::SYS_LP_INIT, Registers::default());
    let intruder = bench.hw.intrusion().expect("an answer");
    assert_eq!(Status::from_raw(intruder.rax), StatusCode::SYS_BUSY.plain(), "TDH.SYS.CONFIG-1");
}

#[test]
fn hidden_transactional_memory_is_no_difference() {
    let hide = |facts: &mut Facts| {
        facts.flip_msr(LP, 0x122, 2);
        facts.cpuid(LP, (7, 0), |regs| regs[1] &= !(1 << 11));
    };
    let start = || {
        let bench = Bench::new("1.5.05");
        bench.hw.set(|facts| facts.cpuid(None, (7, 0), |regs| regs[1] |= 1 << 11));
        bench.advance(Stage::Initialised);
        bench
    };
    let bench = start();
    bench.hw.set(hide);
    bench.ok(1, SeamcallLeaf::SYS_LP_INIT, Registers::default());
    let bench = start();
    bench.hw.set(|facts| facts.cpuid(LP, (7, 0), |regs| regs[1] &= !(1 << 11)));
    let status = bench.status(1, SeamcallLeaf::SYS_LP_INIT, Registers::default());
    assert_eq!(status, StatusCode::INCONSISTENT_CPUID_FIELD.plain(), "missing, not hidden");
}
