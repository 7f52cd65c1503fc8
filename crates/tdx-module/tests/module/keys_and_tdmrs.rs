//! TDH.SYS.KEY.CONFIG, TDH.SYS.TDMR.INIT and TDH.SYS.DISABLE.

use tdx_abi::Registers;
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_module::{LockName, LpIndex, ModuleState, PconfigError};

use crate::common::{
    Bench, Case, Facts, GIB, Moment, PAMT, PAMT_1G, PAMT_STEP, Stage, TDMRS, Trial, config, config_regs,
    with_leaf,
};

const BASE: u64 = TDMRS[0].0;

fn key_config() -> Registers {
    with_leaf(SeamcallLeaf::SYS_KEY_CONFIG, 0, Registers::default())
}

fn tdmr_init() -> Registers {
    let regs = Registers { rcx: BASE, rdx: 0xDEAD, ..Registers::default() };
    with_leaf(SeamcallLeaf::SYS_TDMR_INIT, 0, regs)
}

fn case(row: &'static str, status: Status, spoil: fn(&mut Facts, &mut Registers)) -> Case {
    Case { row, spoil, status, outputs: |_| {} }
}

fn key_cases() -> Vec<Case> {
    let busy = StatusCode::OPERAND_BUSY.with_operand(OperandId::KET);
    let failed = StatusCode::KEY_GENERATION_FAILED.plain();
    vec![
        case("TDH.SYS.KEY.CONFIG-1", StatusCode::SYS_BUSY.plain(), |facts, _| {
            facts.contended.push(LockName::Global);
        }),
        case("TDH.SYS.KEY.CONFIG-4", busy, |facts, _| facts.contended.push(LockName::KeyTable)),
        case("TDH.SYS.KEY.CONFIG-4", busy, |facts, _| facts.pconfig = Some(PconfigError::DeviceBusy)),
        case("TDH.SYS.KEY.CONFIG-5", failed, |facts, _| facts.pconfig = Some(PconfigError::Entropy)),
        case("TDH.SYS.KEY.CONFIG-5", failed, |facts, _| facts.pconfig = Some(PconfigError::InvalidKeyId)),
    ]
}

#[test]
fn key_config_refuses_with_its_status_and_changes_nothing() {
    let trial = Trial { bench: || Bench::at("1.5.05", Stage::Configured), lp: 1, good: key_config };
    trial.refuses(&key_cases(), |_| {});
    trial.orders(&key_cases(), &["TDH.SYS.KEY.CONFIG-4 before TDH.SYS.KEY.CONFIG-5"]);
    // Both push a lock that is held: the order of the list does not matter.
    let bench = Bench::at("1.5.05", Stage::Configured);
    bench.hw.set(|facts| facts.contended = vec![LockName::KeyTable, LockName::Global]);
    // "TDH.SYS.KEY.CONFIG-1 before TDH.SYS.KEY.CONFIG-4"
    assert_eq!(
        bench.status(0, SeamcallLeaf::SYS_KEY_CONFIG, Registers::default()),
        StatusCode::SYS_BUSY.plain()
    );
}

#[test]
fn key_config_waits_for_config_and_ends_with_the_last_package() {
    for stage in [Stage::Loaded, Stage::LpsInitialised, Stage::Ready] {
        let bench = Bench::at("1.5.05", stage);
        let before = bench.state();
        let status = bench.status(0, SeamcallLeaf::SYS_KEY_CONFIG, Registers::default());
        assert_eq!(status, StatusCode::SYS_KEY_CONFIG_NOT_PENDING.plain(), "TDH.SYS.KEY.CONFIG-2");
        assert_eq!(bench.state(), before);
        bench.hw.set(|facts| facts.contended.push(LockName::Global));
        // "TDH.SYS.KEY.CONFIG-1 before TDH.SYS.KEY.CONFIG-2"
        let status = bench.status(0, SeamcallLeaf::SYS_KEY_CONFIG, Registers::default());
        assert_eq!(status, StatusCode::SYS_BUSY.plain());
    }
    // "TDH.SYS.KEY.CONFIG-2 before TDH.SYS.KEY.CONFIG-3": ready, and every package done.
}

#[test]
fn a_second_lp_of_the_package_is_told_that_the_key_is_there() {
    let bench = Bench::at("1.5.05", Stage::Configured);
    bench.ok(1, SeamcallLeaf::SYS_KEY_CONFIG, Registers::default());
    let before = bench.state();
    // "TDH.SYS.KEY.CONFIG-3 before TDH.SYS.KEY.CONFIG-4"
    bench.hw.set(|facts| facts.contended.push(LockName::KeyTable));
    let status = bench.status(0, SeamcallLeaf::SYS_KEY_CONFIG, Registers::default());
    assert_eq!(status, StatusCode::KEY_CONFIGURED.plain(), "TDH.SYS.KEY.CONFIG-3");
    assert!(!status.is_error());
    assert_eq!(bench.state(), before);
    assert_eq!(before.state, ModuleState::SysConfigDone);
    bench.hw.set(|facts| facts.contended.clear());
    bench.ok(3, SeamcallLeaf::SYS_KEY_CONFIG, Registers::default());
    assert_eq!(bench.state().state, ModuleState::SysReady);
}

#[test]
fn key_config_holds_the_global_lock_alone() {
    let bench = Bench::at("1.5.05", Stage::Configured);
    bench.hw.intrude(Moment::ProgramKey, &bench.software, LpIndex(3), key_config());
    bench.ok(0, SeamcallLeaf::SYS_KEY_CONFIG, Registers::default());
    let intruder = bench.hw.intrusion().expect("an answer");
    assert_eq!(Status::from_raw(intruder.rax), StatusCode::SYS_BUSY.plain(), "TDH.SYS.KEY.CONFIG-1");
}

fn tdmr_cases() -> Vec<Case> {
    let case = |row, status, spoil: fn(&mut Facts, &mut Registers)| Case {
        row,
        spoil,
        status,
        outputs: |regs| regs.rdx = 0,
    };
    let invalid = StatusCode::OPERAND_INVALID.with_operand(OperandId::RCX);
    vec![
        case("TDH.SYS.TDMR.INIT-1a", invalid, |_, regs| regs.rcx += 0x1000),
        case("TDH.SYS.TDMR.INIT-1b", invalid, |_, regs| regs.rcx |= 1 << 52),
        case("TDH.SYS.TDMR.INIT-1c", invalid, |_, regs| regs.rcx |= 1 << 46),
        case("TDH.SYS.TDMR.INIT-2", invalid, |_, regs| regs.rcx = 7 * GIB),
        case("TDH.SYS.TDMR.INIT-3", StatusCode::OPERAND_BUSY.with_operand(OperandId::RCX), |facts, _| {
            facts.contended.push(LockName::Tdmr);
        }),
    ]
}

#[test]
fn tdmr_init_refuses_with_its_status_and_changes_nothing() {
    let trial = Trial { bench: || Bench::at("1.5.05", Stage::Ready), lp: 1, good: tdmr_init };
    trial.refuses(&tdmr_cases(), |_| {});
    // Rows 1 and 2 look at the same operand and answer the same.
    trial.orders(
        &tdmr_cases(),
        &[
            "TDH.SYS.TDMR.INIT-1a before TDH.SYS.TDMR.INIT-3",
            "TDH.SYS.TDMR.INIT-2 before TDH.SYS.TDMR.INIT-3",
        ],
    );
}

fn finish_first_tdmr(bench: &Bench) {
    for _ in 0..256 {
        assert_eq!(bench.raw(0, tdmr_init()).map(|regs| regs.rax), Some(0));
    }
}

#[test]
fn a_finished_tdmr_says_so_and_gives_no_address() {
    let bench = Bench::at("1.5.05", Stage::Ready);
    finish_first_tdmr(&bench);
    let before = bench.state();
    let regs = bench.raw(0, tdmr_init()).expect("an answer");
    assert_eq!(
        Status::from_raw(regs.rax),
        StatusCode::TDMR_ALREADY_INITIALIZED.plain(),
        "TDH.SYS.TDMR.INIT-4"
    );
    assert_eq!(regs.rdx, 0);
    assert_eq!(bench.state(), before);
    bench.hw.set(|facts| facts.contended.push(LockName::Tdmr));
    // "TDH.SYS.TDMR.INIT-3 before TDH.SYS.TDMR.INIT-4"
    let regs = bench.raw(0, tdmr_init()).expect("an answer");
    assert_eq!(Status::from_raw(regs.rax), StatusCode::OPERAND_BUSY.with_operand(OperandId::RCX));
}

#[test]
fn one_tdmr_takes_one_lp_and_two_tdmrs_two() {
    let bench = Bench::at("1.5.05", Stage::Ready);
    bench.hw.intrude(Moment::Initialise, &bench.software, LpIndex(3), tdmr_init());
    bench.ok(0, SeamcallLeaf::SYS_TDMR_INIT, tdmr_init());
    let intruder = bench.hw.intrusion().expect("an answer");
    let busy = StatusCode::OPERAND_BUSY.with_operand(OperandId::RCX);
    assert_eq!(Status::from_raw(intruder.rax), busy, "TDH.SYS.TDMR.INIT-3");
    let second = Registers { rcx: TDMRS[1].0, ..tdmr_init() };
    bench.hw.intrude(Moment::Initialise, &bench.software, LpIndex(3), second);
    bench.ok(0, SeamcallLeaf::SYS_TDMR_INIT, tdmr_init());
    let intruder = bench.hw.intrusion().expect("an answer");
    assert_eq!(Status::from_raw(intruder.rax), Status::SUCCESS);
    let done: Vec<u64> = bench.state().tdmrs.iter().map(|tdmr| tdmr.initialised_bytes >> 20).collect();
    assert_eq!(done, [8, 4]);
}

fn disable(bench: &Bench) -> Status {
    bench.status(0, SeamcallLeaf::SYS_DISABLE, Registers::default())
}

#[test]
fn disable_meets_leaves_that_run_and_locks_out_those_that_come() {
    let bench = Bench::at("connect", Stage::Ready);
    let regs = with_leaf(SeamcallLeaf::SYS_DISABLE, 0, Registers::default());
    bench.hw.intrude(Moment::Initialise, &bench.software, LpIndex(3), regs);
    bench.ok(1, SeamcallLeaf::SYS_TDMR_INIT, tdmr_init());
    let intruder = bench.hw.intrusion().expect("an answer");
    assert_eq!(Status::from_raw(intruder.rax), StatusCode::SYS_BUSY.plain(), "TDH.SYS.DISABLE-1");
    let state = bench.state();
    assert!(state.disabling && !state.disabled);
    assert_eq!(state.tdmrs[0].initialised_bytes, 4 << 20, "the leaf that ran has ended its work");
    let status = bench.status(1, SeamcallLeaf::SYS_TDMR_INIT, tdmr_init());
    assert_eq!(status, StatusCode::SYS_BUSY.plain());
    bench.hw.set(|facts| facts.contended.push(LockName::Global));
    // "TDH.SYS.DISABLE-1 before TDH.SYS.DISABLE-2"
    assert_eq!(disable(&bench), StatusCode::SYS_BUSY.plain());
    bench.hw.set(|facts| facts.contended.clear());
    assert_eq!(disable(&bench), StatusCode::INTERRUPTED_RESUMABLE.plain(), "TDH.SYS.DISABLE-2");
    assert_eq!(disable(&bench), Status::SUCCESS);
}

#[test]
fn an_interrupt_makes_the_pieces_smaller() {
    let calls = |interrupt| {
        let bench = Bench::new("connect");
        // 70 GiB of memory behind the first TDMR, and one TDMR over it.
        bench.hw.set(|facts| facts.mcheck(|mcheck| mcheck.cmrs[2].size = 70 * GIB));
        bench.put_tdmr(1, 8 * GIB, 66 * GIB);
        bench.hw.set(|facts| {
            // The PAMT of so many pages has no room below 2 GiB: it lies behind the TDMR.
            facts.tdmr(1, 6, 74 * GIB);
        });
        bench.advance(Stage::Ready);
        for _ in 0..66 * 256 {
            bench.ok(0, SeamcallLeaf::SYS_TDMR_INIT, Registers { rcx: 8 * GIB, ..Registers::default() });
        }
        bench.hw.set(|facts| facts.interrupt = interrupt);
        let mut calls = 1;
        while disable(&bench) != Status::SUCCESS {
            calls += 1;
        }
        calls
    };
    assert_eq!((calls(false), calls(true)), (2, 3));
}

#[test]
fn disable_works_in_every_state_where_the_release_has_it() {
    for stage in [Stage::Loaded, Stage::Initialised, Stage::LpsInitialised, Stage::Configured, Stage::Ready] {
        let bench = Bench::at("connect", stage);
        let mut calls = 1;
        while disable(&bench) != Status::SUCCESS {
            calls += 1;
            assert!(calls < 10, "{stage:?}");
        }
        assert!(bench.state().disabled, "{stage:?}");
        assert!(bench.raw(0, key_config()).is_none(), "{stage:?}");
    }
}

#[test]
fn the_leaf_of_disable_is_a_switch() {
    let with = |profile: &str, on| {
        let mut config = config(profile);
        config.set_switch("TDH.SYS.DISABLE-1", on).expect("a switch");
        let bench = Bench::with(Some(config));
        disable(&bench)
    };
    assert_eq!(with("1.5.34", true), Status::SUCCESS);
    assert_eq!(with("connect", false), StatusCode::SYS_NOT_READY.plain());
    let unknown = StatusCode::OPERAND_INVALID.with_operand(OperandId::RAX);
    assert_eq!(disable(&Bench::at("2.0.18", Stage::Ready)), unknown);
    assert_eq!(disable(&Bench::new("2.0.18")), StatusCode::SYS_NOT_READY.plain());
}

#[test]
fn lps_in_parallel_neither_lose_nor_repeat_a_step() {
    let bench = Bench::at("1.5.05", Stage::Ready);
    let successes: u64 = std::thread::scope(|scope| {
        let run = |lp: u32| {
            let bench = &bench;
            move || {
                let mut successes = 0;
                for (base, _) in TDMRS {
                    loop {
                        let regs = Registers { rcx: base, ..Registers::default() };
                        let status = bench.status(lp, SeamcallLeaf::SYS_TDMR_INIT, regs);
                        if status == StatusCode::TDMR_ALREADY_INITIALIZED.plain() {
                            break;
                        }
                        let busy = StatusCode::OPERAND_BUSY.with_operand(OperandId::RCX);
                        assert!(status == Status::SUCCESS || status == busy, "{status}");
                        successes += u64::from(status == Status::SUCCESS);
                    }
                }
                successes
            }
        };
        let threads: Vec<_> = (0..4).map(|lp| scope.spawn(run(lp))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    assert_eq!(successes, 3 * 256);
    let mut pieces: Vec<_> = bench.hw.initialised().into_iter().map(|(range, _)| range).collect();
    pieces.sort_unstable();
    let written = pieces.len();
    pieces.dedup();
    assert_eq!(pieces.len(), written);
}

#[test]
fn the_line_of_four_1g_entries_is_written_with_the_first_of_them() {
    const BASE: u64 = 6 * GIB;
    let bench = Bench::at("1.5.05", Stage::LpsInitialised);
    bench.put_tdmr(1, BASE, 5 * GIB);
    bench.ok(0, SeamcallLeaf::SYS_CONFIG, config_regs());
    for lp in [0, 2] {
        bench.ok(lp, SeamcallLeaf::SYS_KEY_CONFIG, Registers::default());
    }
    for _ in 0..5 * 256 {
        bench.ok(0, SeamcallLeaf::SYS_TDMR_INIT, Registers { rcx: BASE, ..Registers::default() });
    }
    let lines = bench.hw.initialised().into_iter().map(|(range, _)| range).filter(|range| range.size() == 64);
    let first = PAMT + PAMT_STEP + PAMT_1G;
    let starts: Vec<_> = lines.map(|range| range.start().as_u64()).collect();
    assert_eq!(starts, [first, first + 64], "five GiB have five entries, in two lines");
}
