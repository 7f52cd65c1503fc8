//! TDH.SYS.SHUTDOWN.

use tdx_abi::Registers;
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_module::{LockName, LpIndex, ModuleConfig, ModuleState};

use crate::common::{Bench, Case, Facts, LPS, Moment, Stage, TDMRS, Trial, config, config_regs, with_leaf};

/// R9 of version 1: UPDATE_COMPATIBILITY.
pub(crate) const COMPATIBILITY: u64 = 1 << 47;
/// RCX: AVOID_COMPAT_SENSITIVE.
pub(crate) const AVOID: u64 = 1 << 16;
const BUSY: Status = StatusCode::SYS_BUSY.plain();

pub(crate) fn shutdown(rcx: u64) -> Registers {
    with_leaf(SeamcallLeaf::SYS_SHUTDOWN, 0, Registers { rcx, ..Registers::default() })
}

/// A ready module whose host opted into `features` by version 1 of SYS.CONFIG.
pub(crate) fn opted_in(profile: &str, features: u64) -> Bench {
    let bench = Bench::at(profile, Stage::LpsInitialised);
    let regs = with_leaf(SeamcallLeaf::SYS_CONFIG, 1, Registers { r9: features, ..config_regs() });
    assert_eq!(bench.raw(0, regs).map(|regs| regs.rax), Some(0));
    for lp in [0, 2] {
        bench.ok(lp, SeamcallLeaf::SYS_KEY_CONFIG, Registers::default());
    }
    bench
}

fn status(bench: &Bench, lp: u32, rcx: u64) -> Status {
    Status::from_raw(bench.raw(lp, shutdown(rcx)).expect("an answer").rax)
}

fn invalid_rcx() -> Status {
    StatusCode::OPERAND_INVALID.with_operand(OperandId::RCX)
}

/// UPDATE_COMPATIBILITY_SENSITIVE with the number `raw` in its lower half.
fn sensitive(raw: u32) -> Status {
    Status::from_raw(0x8000_0512_0000_0000 | u64::from(raw))
}

fn cases() -> Vec<Case> {
    let case =
        |row, status, spoil: fn(&mut Facts, &mut Registers)| Case { row, spoil, status, outputs: |_| {} };
    vec![
        case("TDH.SYS.SHUTDOWN-1b", invalid_rcx(), |_, regs| regs.rcx = 2),
        case("TDH.SYS.SHUTDOWN-1b", invalid_rcx(), |_, regs| regs.rcx = 0xFFFF),
        case("TDH.SYS.SHUTDOWN-1d", invalid_rcx(), |_, regs| regs.rcx |= 1 << 17),
        case("TDH.SYS.SHUTDOWN-1d", invalid_rcx(), |_, regs| regs.rcx |= 1 << 32),
        case("TDH.SYS.SHUTDOWN-1d", invalid_rcx(), |_, regs| regs.rcx |= 1 << 63),
        case("TDH.SYS.SHUTDOWN-2", BUSY, |facts, _| facts.contended.push(LockName::Global)),
    ]
}

#[test]
fn shutdown_refuses_with_its_status_and_changes_nothing() {
    for bench in [|| Bench::at("2.0.14", Stage::Ready), || opted_in("2.0.16", COMPATIBILITY)] {
        let trial = Trial { bench, lp: 1, good: || shutdown(1) };
        trial.refuses(&cases(), |_| {});
        trial.orders(
            &cases(),
            &[
                "TDH.SYS.SHUTDOWN-1b before TDH.SYS.SHUTDOWN-2",
                "TDH.SYS.SHUTDOWN-1d before TDH.SYS.SHUTDOWN-2",
            ],
        );
    }
}

/// Row, module, answers to versions 0, 1 and 2.
type Range = (&'static str, fn(&mut ModuleConfig), [Status; 3]);

#[test]
fn the_version_lies_in_the_range_of_the_module() {
    let with = |change: fn(&mut ModuleConfig)| {
        let mut config = config("2.0.14");
        change(&mut config);
        let bench = Bench::with(Some(config));
        bench.advance(Stage::Ready);
        bench
    };
    let ok = Status::SUCCESS;
    let table: [Range; 3] = [
        ("TDH.SYS.SHUTDOWN-1b", |_| {}, [ok, ok, invalid_rcx()]),
        ("TDH.SYS.SHUTDOWN-1a", |one| one.sigstruct.min_update_hv = 1, [invalid_rcx(), ok, invalid_rcx()]),
        ("TDH.SYS.SHUTDOWN-1c", |one| one.sigstruct.no_downgrade = true, [invalid_rcx(), ok, invalid_rcx()]),
    ];
    for (row, change, answers) in table {
        for (version, expected) in (0..).zip(answers) {
            let bench = with(change);
            assert_eq!(status(&bench, 0, version), expected, "{row}: {version}");
            let left = bench.state().handoff.map(|handoff| u64::from(handoff.version));
            assert_eq!(left, (expected == ok).then_some(version), "{row}: {version}");
        }
    }
}

#[test]
fn bit_16_is_reserved_where_update_compatibility_is_not_offered() {
    for profile in ["1.5.01", "1.5.20", "2.0.12"] {
        let bench = Bench::at(profile, Stage::Ready);
        assert_eq!(status(&bench, 0, AVOID), invalid_rcx(), "TDH.SYS.SHUTDOWN-1d: {profile}");
        assert_eq!(bench.state().state, ModuleState::SysReady);
        assert_eq!(status(&bench, 0, 0), Status::SUCCESS);
    }
    for profile in ["1.5.24", "1.5.34", "2.0.14", "connect"] {
        let bench = Bench::at(profile, Stage::Ready);
        assert_eq!(status(&bench, 0, AVOID), Status::SUCCESS, "{profile}");
    }
}

#[test]
fn a_withheld_update_compatibility_reserves_the_bit_again() {
    let mut config = config("2.0.14");
    config.withheld = tdx_abi::features::Features0::UPDATE_COMPATIBILITY;
    let bench = Bench::with(Some(config));
    bench.advance(Stage::Ready);
    assert_eq!(status(&bench, 0, AVOID | 1), invalid_rcx(), "TDH.SYS.SHUTDOWN-1d");
}

#[test]
fn an_lp_inside_puts_the_state_back() {
    let bench = Bench::at("1.5.05", Stage::Ready);
    bench.hw.intrude(Moment::Initialise, &bench.software, LpIndex(1), shutdown(0));
    bench.ok(0, SeamcallLeaf::SYS_TDMR_INIT, Registers { rcx: TDMRS[0].0, ..Registers::default() });
    let answer = bench.hw.intrusion().expect("an answer");
    assert_eq!(Status::from_raw(answer.rax), BUSY, "TDH.SYS.SHUTDOWN-3");
    let state = bench.state();
    assert_eq!((state.state, state.handoff), (ModuleState::SysReady, None));
    assert_eq!(status(&bench, 1, 0), Status::SUCCESS);
}

#[test]
fn a_busy_lp_answers_before_the_counters_do() {
    let bench = opted_in("1.5.28", COMPATIBILITY);
    bench.software.set_td_builds(1);
    bench.software.set_interrupted_migrations(1);
    bench.hw.intrude(Moment::Initialise, &bench.software, LpIndex(1), shutdown(AVOID));
    bench.ok(0, SeamcallLeaf::SYS_TDMR_INIT, Registers { rcx: TDMRS[0].0, ..Registers::default() });
    let answer = bench.hw.intrusion().expect("an answer");
    // "TDH.SYS.SHUTDOWN-3 before TDH.SYS.SHUTDOWN-4"
    assert_eq!(Status::from_raw(answer.rax), BUSY, "TDH.SYS.SHUTDOWN-3");
    bench.hw.set(|facts| facts.contended.push(LockName::Global));
    // "TDH.SYS.SHUTDOWN-2 before TDH.SYS.SHUTDOWN-4"
    assert_eq!(status(&bench, 0, AVOID), BUSY);
}

#[test]
fn td_builds_and_then_interrupted_migrations_refuse_a_careful_host() {
    for (profile, rcx) in [("1.5.24", AVOID), ("1.5.34", AVOID), ("2.0.16", AVOID | 1)] {
        let bench = opted_in(profile, COMPATIBILITY);
        bench.software.set_td_builds(3);
        bench.software.set_interrupted_migrations(0x1_23);
        let before = bench.state();
        // "TDH.SYS.SHUTDOWN-4 before TDH.SYS.SHUTDOWN-5"
        assert_eq!(status(&bench, 0, rcx), sensitive(3 << 16), "TDH.SYS.SHUTDOWN-4: {profile}");
        assert_eq!(bench.state(), before, "the state went back");
        bench.software.set_td_builds(0);
        assert_eq!(status(&bench, 0, rcx), sensitive(0x0123_0001), "TDH.SYS.SHUTDOWN-5: {profile}");
        assert_eq!(bench.state().state, ModuleState::SysReady);
        bench.software.set_interrupted_migrations(0);
        assert_eq!(status(&bench, 0, rcx), Status::SUCCESS, "{profile}");
    }
}

#[test]
fn the_counters_refuse_nobody_who_did_not_ask() {
    // Without the bit.
    let bench = opted_in("2.0.16", COMPATIBILITY);
    bench.software.set_td_builds(u16::MAX);
    bench.software.set_interrupted_migrations(u16::MAX);
    assert_eq!(status(&bench, 0, 1), Status::SUCCESS);
    // With the bit, but without the opt-in: the module has counted nothing.
    let bench = Bench::at("2.0.16", Stage::Ready);
    bench.software.set_td_builds(u16::MAX);
    bench.software.set_interrupted_migrations(u16::MAX);
    assert_eq!(status(&bench, 0, AVOID | 1), Status::SUCCESS);
}

#[test]
fn shutdown_is_for_a_ready_module() {
    for stage in [Stage::Loaded, Stage::LpsInitialised, Stage::Configured] {
        let bench = Bench::at("2.0.08", stage);
        assert_eq!(status(&bench, 0, 0), StatusCode::SYS_NOT_READY.plain(), "DISPATCH-5");
        assert_eq!(bench.state().handoff, None);
    }
    let bench = Bench::at("2.0.08", Stage::Ready);
    let versioned = with_leaf(SeamcallLeaf::SYS_SHUTDOWN, 1, Registers::default());
    let answer = bench.raw(0, versioned).map(|regs| Status::from_raw(regs.rax));
    assert_eq!(answer, Some(StatusCode::OPERAND_INVALID.with_detail(0)), "DISPATCH-3");
}

#[test]
fn after_shutdown_only_lp_shutdown_and_disable_answer() {
    for (profile, disable) in [("1.5.01", false), ("2.0.18", false), ("connect", true)] {
        let bench = Bench::at(profile, Stage::Ready);
        assert_eq!(status(&bench, 3, 0), Status::SUCCESS);
        let state = bench.state();
        assert_eq!(state.state, ModuleState::SysShutdown);
        for lp in 0..LPS {
            for leaf in (0..200).filter(|leaf| ![44, 69].contains(leaf) && !(128..=166).contains(leaf)) {
                let answer = bench.status(lp, SeamcallLeaf(leaf), Registers::default());
                assert_eq!(answer, StatusCode::SYS_SHUTDOWN.plain(), "DISPATCH-4: {profile} {leaf}");
            }
            bench.ok(lp, SeamcallLeaf::SYS_LP_SHUTDOWN, Registers::default());
        }
        assert_eq!(bench.state(), state, "{profile}");
        let answer = bench.status(0, SeamcallLeaf::SYS_DISABLE, Registers::default());
        if disable {
            assert_eq!(answer, Status::SUCCESS);
            assert_eq!(bench.state().handoff, None, "nobody takes over what was disabled");
        } else {
            assert_eq!(answer, StatusCode::SYS_SHUTDOWN.plain(), "DISPATCH-4: {profile}");
        }
    }
}
