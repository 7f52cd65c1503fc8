//! The dispatcher, the P-SEAMLDR, and what an LP that does not exist gets.

use tdx_abi::Registers;
use tdx_abi::leaf::{LeafWord, SeamcallLeaf, SeamldrLeaf};
use tdx_abi::status::{OperandId, SeamldrStatus, Status, StatusCode};
use tdx_module::{LockName, LpIndex, MODELLED_LEAVES, ModuleState};

use crate::common::{Bench, Moment, SEAMRR, Stage, config_regs, with_leaf};

const CREATE: u64 = 9;
const MNG_RD: u64 = 11;
const INIT: u64 = 33;
const RD: u64 = 34;
const CONFIG: u64 = 45;
const INVALID_RAX: Status = StatusCode::OPERAND_INVALID.with_detail(0);
const NOT_READY: Status = StatusCode::SYS_NOT_READY.plain();
const SHUT_DOWN: Status = StatusCode::SYS_SHUTDOWN.plain();

/// Calls with `rax` and checks that a refusal changes neither registers nor state.
fn refused(bench: &Bench, rax: u64, status: Status, row: &str) {
    let before = bench.state();
    let regs = Registers { rax, rcx: 1, rdx: 2, r8: 3, r9: 4, ..Registers::default() };
    let after = bench.raw(1, regs).expect("an answer");
    assert_eq!(Status::from_raw(after.rax), status, "{row}: {rax:#x}");
    assert_eq!(after, Registers { rax: after.rax, ..regs }, "{row}: {rax:#x}");
    assert_eq!(bench.state(), before, "{row}: {rax:#x}");
}

#[test]
fn reserved_bits_of_rax_are_refused_in_every_state() {
    for stage in [Stage::Loaded, Stage::Ready] {
        let bench = Bench::at("2.0.08", stage);
        for bit in [24, 40, 62] {
            refused(&bench, 1 << bit | INIT, INVALID_RAX, "DISPATCH-1");
            // Not an early leaf: "DISPATCH-1 before DISPATCH-5".
            refused(&bench, 1 << bit | MNG_RD, INVALID_RAX, "DISPATCH-1");
        }
    }
}

#[test]
fn a_connect_leaf_is_refused_before_the_state_is_looked_at() {
    let bench = Bench::new("2.0.14");
    for leaf in [128, 140, 150, 166] {
        refused(&bench, leaf, INVALID_RAX, "DISPATCH-2");
    }
    // "DISPATCH-2 before DISPATCH-5": 127 is no Connect leaf, and neither is 141 there.
    refused(&bench, 127, NOT_READY, "DISPATCH-5");
    refused(&bench, 141, NOT_READY, "DISPATCH-5");
    // A release that does not know the numbers, and one that has Connect.
    refused(&Bench::new("1.5.34"), 128, NOT_READY, "DISPATCH-5");
    refused(&Bench::new("connect"), 128, NOT_READY, "DISPATCH-5");
}

#[test]
fn a_version_is_refused_where_the_leaf_has_none() {
    let bench = Bench::new("1.5.16");
    refused(&bench, 1 << 16 | CONFIG, INVALID_RAX, "DISPATCH-3");
    refused(&bench, 1 << 16 | RD, INVALID_RAX, "DISPATCH-3");
    // "DISPATCH-3 before DISPATCH-5"
    refused(&bench, 1 << 16 | CREATE, INVALID_RAX, "DISPATCH-3");
    refused(&bench, 1 << 16 | MNG_RD, NOT_READY, "DISPATCH-5");
    refused(&bench, 9, NOT_READY, "DISPATCH-5");
}

#[test]
fn before_it_is_ready_a_module_takes_the_early_leaves_only() {
    for stage in [Stage::Loaded, Stage::LpsInitialised, Stage::Configured] {
        let bench = Bench::at("1.5.05", stage);
        // Some of them are unknown to the release: "DISPATCH-5 before DISPATCH-6".
        for leaf in [0, 9, 36, 42, 52, 60, 69, 127, 191, 192, 0xFFFF] {
            refused(&bench, leaf, NOT_READY, "DISPATCH-5");
        }
        for leaf in [31, 32, 33, 34, 35, 37, 44, 45, 53] {
            let status = bench.status(3, SeamcallLeaf(leaf), Registers::default());
            assert!(status != NOT_READY && status != INVALID_RAX, "leaf {leaf}: {status}");
        }
    }
}

#[test]
fn a_ready_module_refuses_unknown_and_unmodelled_numbers_alike() {
    let bench = Bench::at("1.5.05", Stage::Ready);
    for leaf in (0..300).chain([0xFFFF]).filter(|leaf| !MODELLED_LEAVES.contains(&SeamcallLeaf(*leaf))) {
        refused(&bench, u64::from(leaf), INVALID_RAX, "DISPATCH-6");
    }
}

#[test]
fn tdx_1_0_compares_all_of_rax() {
    let bench = Bench::new("1.0");
    for rax in [1 << 16 | INIT, 1 << 24 | INIT, 34, 37, 52, 53, 128, 69] {
        refused(&bench, rax, NOT_READY, "DISPATCH-5");
    }
    let bench = Bench::at("1.0", Stage::Ready);
    for rax in [1 << 16 | INIT, 1 << 24 | INIT, 34, 37, 52, 53, 128, 69] {
        refused(&bench, rax, INVALID_RAX, "DISPATCH-6");
    }
}

#[test]
fn a_shut_down_module_of_tdx_1_0_answers_nothing_else() {
    let bench = Bench::at("1.0", Stage::Ready);
    bench.hw.set(|facts| facts.contended.push(LockName::Global));
    let status = bench.status(0, SeamcallLeaf::SYS_LP_SHUTDOWN, Registers::default());
    assert_eq!(status, StatusCode::SYS_BUSY.plain(), "1.0:TDH.SYS.LP.SHUTDOWN-1");
    assert_eq!(bench.state().state, ModuleState::SysReady);
    bench.hw.set(|facts| facts.contended.clear());
    bench.ok(0, SeamcallLeaf::SYS_LP_SHUTDOWN, Registers::default());
    // "DISPATCH-4 before DISPATCH-5" and "DISPATCH-4 before DISPATCH-6"
    for rax in [33, 32, 36, 34, 9, 200] {
        refused(&bench, rax, SHUT_DOWN, "DISPATCH-4");
    }
    assert!(bench.raw(0, Registers { rax: 33, ..Registers::default() }).is_none(), "the LP that shut down");
    bench.ok(1, SeamcallLeaf::SYS_LP_SHUTDOWN, Registers::default());
}

#[test]
fn lp_shutdown_does_nothing_since_1_5() {
    let bench = Bench::new("1.5.01");
    bench.hw.set(|facts| facts.contended.push(LockName::Global));
    let before = bench.state();
    bench.ok(0, SeamcallLeaf::SYS_LP_SHUTDOWN, Registers::default());
    assert_eq!(bench.state(), before);
}

#[test]
fn an_lp_that_mcheck_has_not_counted_reaches_no_module() {
    let bench = Bench::new("1.5.05");
    assert!(bench.raw(4, Registers { rax: 33, ..Registers::default() }).is_none());
    assert!(bench.raw(3, Registers { rax: 33, ..Registers::default() }).is_some());
}

fn info() -> Registers {
    Registers { rax: LeafWord::seamldr(SeamldrLeaf::INFO).raw(), rcx: 0x30_0000, ..Registers::default() }
}

#[test]
fn the_loader_takes_one_lp_at_a_time() {
    let bench = Bench::new("2.0.08");
    bench.hw.intrude(Moment::Write(0x30_0000), &bench.software, LpIndex(1), info());
    assert_eq!(bench.raw(0, info()).map(|regs| regs.rax), Some(0));
    assert!(bench.hw.intrusion().is_err(), "SEAMLDR-1");
    bench.hw.set(|facts| facts.contended.push(LockName::Seamldr));
    assert!(bench.raw(0, info()).is_none(), "SEAMLDR-1");
    // "SEAMLDR-1 before SEAMLDR-2": in use, and without entropy for its first call.
    let fresh = Bench::new("2.0.08");
    fresh.hw.set(|facts| {
        facts.contended.push(LockName::Seamldr);
        facts.entropy = None;
    });
    assert!(fresh.raw(0, info()).is_none(), "SEAMLDR-1");
    bench.hw.set(|facts| facts.contended.clear());
    assert!(bench.raw(0, info()).is_some());
}

#[test]
fn the_loader_needs_entropy_for_its_first_call_only() {
    let bench = Bench::new("2.0.08");
    bench.hw.set(|facts| facts.entropy = None);
    // "SEAMLDR-2 before SEAMLDR-3"
    for rax in [info().rax, 1 << 63 | 0x63] {
        let regs = bench.raw(0, Registers { rax, ..info() }).expect("an answer");
        assert_eq!(regs.rax, SeamldrStatus::EUNSPECERR.0, "SEAMLDR-2");
    }
    bench.hw.set(|facts| facts.entropy = Some(1));
    assert_eq!(bench.raw(0, info()).map(|regs| regs.rax), Some(0));
    bench.hw.set(|facts| facts.entropy = None);
    assert_eq!(bench.raw(0, info()).map(|regs| regs.rax), Some(0));
}

#[test]
fn the_loader_refuses_other_leaves_and_bad_buffers() {
    let bench = Bench::new("2.0.08");
    let before = bench.hw.facts();
    // "SEAMLDR-3 before SEAMLDR.INFO-1"
    for rax in [
        1u64 << 63 | 5,
        1 << 63 | 0xFFFF,
        1 << 63 | 1 << 16,
        1 << 63 | 1 << 16 | 1,
        1 << 63 | 1 << 16 | 2,
        1 << 63 | 1 << 24 | 3,
        1 << 63 | 1 << 32 | 4,
        1 << 63 | 1 << 62,
    ] {
        let regs = bench.raw(0, Registers { rax, ..info() }).expect("an answer");
        assert_eq!(regs.rax, SeamldrStatus::EBADPARAM.0, "SEAMLDR-3: {rax:#x}");
    }
    for rcx in [0x30_0080, 32 << 46 | 0x30_0000, 1 << 52, SEAMRR] {
        let regs = bench.raw(0, Registers { rcx, ..info() }).expect("an answer");
        assert_eq!(
            regs,
            Registers { rcx, rax: SeamldrStatus::EBADPARAM.0, ..Registers::default() },
            "SEAMLDR.INFO-1"
        );
    }
    assert_eq!(bench.hw.facts(), before, "nothing was written");
    assert_eq!(bench.raw(0, info()).map(|regs| regs.rax), Some(0));
}

#[test]
fn the_loader_says_that_a_disabled_module_is_not_ready() {
    let bench = Bench::new("connect");
    bench.ok(0, SeamcallLeaf::SYS_DISABLE, Registers::default());
    assert_eq!(bench.raw(0, info()).map(|regs| regs.rax), Some(0));
    assert_eq!(bench.hw.word(0x30_0000 + 160), 1 << 16);
}

#[test]
fn an_unknown_operand_status_names_rax() {
    assert_eq!(INVALID_RAX.operand(), Some(OperandId::RAX));
    let bench = Bench::at("1.5.05", Stage::LpsInitialised);
    let rax = with_leaf(SeamcallLeaf::SYS_CONFIG, 1, config_regs()).rax;
    refused(&bench, rax, INVALID_RAX, "DISPATCH-3");
}
