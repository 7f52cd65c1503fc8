//! TDH.SYS.INIT and TDH.SYS.LP.INIT of TDX 1.0.

use tdx_abi::Registers;
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::msr::MsrIndex;
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_module::{LockName, LpIndex};

use crate::common::{Bench, Case, Facts, Moment, Stage, Trial, with_leaf};

const LP: Option<u32> = Some(1);

fn good_init() -> Registers {
    let regs = Registers { rdx: 1, r8: 2, r9: 3, r10: 4, ..Registers::default() };
    with_leaf(SeamcallLeaf::SYS_INIT, 0, regs)
}

fn good_lp_init() -> Registers {
    with_leaf(SeamcallLeaf::SYS_LP_INIT, 0, Registers { rcx: 1, rdx: 2, r8: 3, ..Registers::default() })
}

fn case(row: &'static str, status: Status, spoil: fn(&mut Facts, &mut Registers)) -> Case {
    let outputs = |regs: &mut Registers| {
        (regs.rcx, regs.rdx, regs.r8, regs.r9, regs.r10) = (0, 0, 0, 0, 0);
    };
    Case { row, spoil, status, outputs }
}

fn lp_case(row: &'static str, status: Status, spoil: fn(&mut Facts, &mut Registers)) -> Case {
    Case { row, spoil, status, outputs: |regs| (regs.rcx, regs.rdx, regs.r8) = (0, 0, 0) }
}

const fn msr(index: u32) -> Status {
    StatusCode::INCORRECT_MSR_VALUE.with_detail(index)
}

const fn differs(index: u32) -> Status {
    StatusCode::INCONSISTENT_MSR.with_detail(index)
}

fn nt4(row: &'static str) -> Case {
    case(row, StatusCode::BOOT_NT4_SET.plain(), |facts, _| facts.flip_msr(None, 0x1A0, 1 << 22))
}

/// Rows that 1.0.01 and 1.0.03 share.
fn shared_cases() -> Vec<Case> {
    vec![
        case("1.0:TDH.SYS.INIT-1", StatusCode::SYS_BUSY.plain(), |facts, _| {
            facts.contended.push(LockName::Global);
        }),
        case("1.0:TDH.SYS.INIT-2", StatusCode::OPERAND_INVALID.with_operand(OperandId::RCX), |_, regs| {
            regs.rcx = 1;
        }),
        case("1.0:TDH.SYS.INIT-5", msr(0x10A), |facts, _| facts.flip_msr(None, 0x10A, 1 << 11)),
        case("1.0:TDH.SYS.INIT-8", StatusCode::CPUID_LEAF_NOT_SUPPORTED.with_detail(0x1F), |facts, _| {
            facts.cpuid(None, (0, 0), |regs| regs[0] = 0x1E);
        }),
        case("1.0:TDH.SYS.INIT-9", msr(0x489), |facts, _| facts.flip_msr(None, 0x489, 1 << 13)),
        case("1.0:TDH.SYS.INIT-10a", msr(0x981), |facts, _| facts.flip_msr(None, 0x981, 0b1010)),
        case("1.0:TDH.SYS.INIT-10b", msr(0x982), |facts, _| facts.flip_msr(None, 0x982, 0b1010 << 48)),
        case(
            "1.0:TDH.SYS.INIT-11",
            StatusCode::NUM_ACTIVATED_HKIDS_NOT_SUPPORTED.with_detail(128),
            |facts, _| facts.set_msr(0x87, 97 << 32 | 31),
        ),
        case("1.0:TDH.SYS.INIT-12", msr(0x99), |facts, _| facts.flip_msr(None, 0x99, 1)),
        case("1.0:TDH.SYS.INIT-13", StatusCode::CMR_LIST_INVALID.plain(), |facts, _| {
            facts.mcheck(|mcheck| mcheck.cmrs[0].size += 1);
        }),
        case("1.0:TDH.SYS.INIT-14", StatusCode::SMRR_NOT_LOCKED.with_detail(0), |facts, _| {
            facts.flip_msr(None, 0x1F3, 1 << 10);
        }),
        case("1.0:TDH.SYS.INIT-15", msr(0x345), |facts, _| facts.flip_msr(None, 0x345, 1 << 13)),
        case("1.0:TDH.SYS.INIT-16", StatusCode::SYS_BUSY.plain(), |facts, _| facts.entropy = None),
    ]
}

fn cases_1_0_01() -> Vec<Case> {
    let mut cases = shared_cases();
    cases.extend([
        nt4("1.0:TDH.SYS.INIT-4"),
        case("1.0:TDH.SYS.INIT-6a", msr(0x122), |facts, _| facts.flip_msr(None, 0x122, 1)),
        case("1.0:TDH.SYS.INIT-6b", msr(0x122), |facts, _| facts.flip_msr(None, 0x122, 2)),
        case(
            "1.0:TDH.SYS.INIT-8@1.0.01",
            StatusCode::CPUID_MAX_SUBLEAVES_UNRECOGNIZED.with_detail(7),
            |facts, _| facts.cpuid(None, (7, 0), |regs| regs[0] = 3),
        ),
    ]);
    cases
}

fn cases_1_0_03() -> Vec<Case> {
    let mut cases = shared_cases();
    cases.extend([
        case("1.0:TDH.SYS.INIT-5@1.0.03", msr(0x10A), |facts, _| facts.flip_msr(None, 0x10A, 1 << 15)),
        nt4("1.0:TDH.SYS.INIT-7"),
    ]);
    cases
}

const SHARED_ORDER: [&str; 9] = [
    "1.0:TDH.SYS.INIT-1 before 1.0:TDH.SYS.INIT-2",
    "1.0:TDH.SYS.INIT-8 before 1.0:TDH.SYS.INIT-9",
    "1.0:TDH.SYS.INIT-9 before 1.0:TDH.SYS.INIT-10a",
    "1.0:TDH.SYS.INIT-10a before 1.0:TDH.SYS.INIT-11",
    "1.0:TDH.SYS.INIT-11 before 1.0:TDH.SYS.INIT-12",
    "1.0:TDH.SYS.INIT-12 before 1.0:TDH.SYS.INIT-13",
    "1.0:TDH.SYS.INIT-13 before 1.0:TDH.SYS.INIT-14",
    "1.0:TDH.SYS.INIT-14 before 1.0:TDH.SYS.INIT-15",
    "1.0:TDH.SYS.INIT-15 before 1.0:TDH.SYS.INIT-16",
];

#[test]
fn init_of_1_0_01_refuses_in_order() {
    let trial = Trial { bench: || Bench::new("1.0"), lp: 1, good: good_init };
    trial.refuses(&cases_1_0_01(), |_| {});
    trial.orders(&cases_1_0_01(), &SHARED_ORDER);
    trial.orders(
        &cases_1_0_01(),
        &[
            "1.0:TDH.SYS.INIT-2 before 1.0:TDH.SYS.INIT-4",
            "1.0:TDH.SYS.INIT-4 before 1.0:TDH.SYS.INIT-5",
            "1.0:TDH.SYS.INIT-5 before 1.0:TDH.SYS.INIT-6a",
            "1.0:TDH.SYS.INIT-6a before 1.0:TDH.SYS.INIT-8",
            "1.0:TDH.SYS.INIT-8 before 1.0:TDH.SYS.INIT-8@1.0.01",
            "1.0:TDH.SYS.INIT-8@1.0.01 before 1.0:TDH.SYS.INIT-9",
        ],
    );
}

#[test]
fn init_of_1_0_03_refuses_in_order() {
    let trial = Trial { bench: || Bench::new("1.0.03"), lp: 1, good: good_init };
    trial.refuses(&cases_1_0_03(), |_| {});
    trial.orders(&cases_1_0_03(), &SHARED_ORDER);
    trial.orders(
        &cases_1_0_03(),
        &[
            "1.0:TDH.SYS.INIT-2 before 1.0:TDH.SYS.INIT-5",
            "1.0:TDH.SYS.INIT-5@1.0.03 before 1.0:TDH.SYS.INIT-7",
            "1.0:TDH.SYS.INIT-7 before 1.0:TDH.SYS.INIT-8",
        ],
    );
}

#[test]
fn a_kernel_that_turns_tsx_off_fails_up_to_1_0_01_only() {
    let init = |profile: &str| {
        let bench = Bench::new(profile);
        bench.hw.set(|facts| facts.flip_msr(None, 0x122, 3));
        bench.status(0, SeamcallLeaf::SYS_INIT, Registers::default())
    };
    assert_eq!(init("1.0").raw(), 0xC000_0921_0000_0122);
    assert_eq!(init("1.0.03"), Status::SUCCESS);
    assert_eq!(init("1.5.01"), Status::SUCCESS);
    // Without the capability there is no such MSR.
    let bench = Bench::new("1.0");
    bench.hw.set(|facts| {
        facts.flip_msr(None, 0x10A, 1 << 7);
        facts.flip_msr(None, 0x122, 3);
    });
    assert_eq!(bench.status(0, SeamcallLeaf::SYS_INIT, Registers::default()), Status::SUCCESS);
}

#[test]
fn init_runs_once_and_alone() {
    let bench = Bench::at("1.0", Stage::Initialised);
    let before = bench.state();
    let regs = Registers { rcx: 1, ..Registers::default() };
    // "1.0:TDH.SYS.INIT-2 before 1.0:TDH.SYS.INIT-3"
    let invalid = StatusCode::OPERAND_INVALID.with_operand(OperandId::RCX);
    assert_eq!(bench.status(2, SeamcallLeaf::SYS_INIT, regs), invalid);
    bench.hw.set(|facts| facts.flip_msr(None, 0x1A0, 1 << 22));
    // "1.0:TDH.SYS.INIT-3 before 1.0:TDH.SYS.INIT-4"
    let status = bench.status(2, SeamcallLeaf::SYS_INIT, Registers::default());
    assert_eq!(status, StatusCode::SYS_INIT_NOT_PENDING.plain(), "1.0:TDH.SYS.INIT-3");
    assert_eq!(bench.state(), before);

    let bench = Bench::new("1.0");
    bench.hw.intrude(Moment::Rdmsr(MsrIndex::IA32_VMX_BASIC), &bench.software, LpIndex(3), good_init());
    bench.ok(0, SeamcallLeaf::SYS_INIT, Registers::default());
    let intruder = bench.hw.intrusion().expect("an answer");
    assert_eq!(Status::from_raw(intruder.rax), StatusCode::SYS_BUSY.plain(), "1.0:TDH.SYS.INIT-1");
}

fn lp_cases() -> Vec<Case> {
    vec![
        lp_case("1.0:TDH.SYS.LP.INIT-1", StatusCode::SYS_BUSY.plain(), |facts, _| {
            facts.contended.push(LockName::Global);
        }),
        lp_case("1.0:TDH.SYS.LP.INIT-4", StatusCode::SYS_BUSY.plain(), |facts, _| facts.entropy = None),
        lp_case("1.0:TDH.SYS.LP.INIT-5", StatusCode::SEAMREPORT_NOT_AVAILABLE.plain(), |facts, _| {
            facts.seamops.insert(1, 0x7D);
        }),
        lp_case("1.0:TDH.SYS.LP.INIT-6a", differs(0xCF), |facts, _| facts.flip_msr(LP, 0xCF, 1)),
        lp_case("1.0:TDH.SYS.LP.INIT-6b", differs(0x10A), |facts, _| facts.flip_msr(LP, 0x10A, 1 << 40)),
        lp_case("1.0:TDH.SYS.LP.INIT-6c", differs(0x122), |facts, _| facts.flip_msr(LP, 0x122, 2)),
        lp_case("1.0:TDH.SYS.LP.INIT-7", StatusCode::BOOT_NT4_SET.plain(), |facts, _| {
            facts.flip_msr(LP, 0x1A0, 1 << 22);
        }),
        Case {
            row: "1.0:TDH.SYS.LP.INIT-8",
            spoil: |facts, _| facts.cpuid(LP, (4, 0), |regs| regs[3] ^= 1),
            status: StatusCode::INCONSISTENT_CPUID_FIELD.plain(),
            outputs: |regs| (regs.rcx, regs.rdx, regs.r8) = (4, u64::MAX, u64::MAX),
        },
        lp_case("1.0:TDH.SYS.LP.INIT-9", StatusCode::INVALID_PKG_ID.with_detail(9), |facts, _| {
            facts.packages[1] = 9;
        }),
        lp_case("1.0:TDH.SYS.LP.INIT-10", differs(0x3B), |facts, _| facts.flip_msr(LP, 0x3B, 1)),
        lp_case("1.0:TDH.SYS.LP.INIT-11", differs(0x1F2), |facts, _| facts.flip_msr(LP, 0x1F2, 1)),
        lp_case("1.0:TDH.SYS.LP.INIT-12", differs(0x480), |facts, _| facts.flip_msr(LP, 0x480, 1)),
        lp_case("1.0:TDH.SYS.LP.INIT-13", msr(0x345), |facts, _| facts.flip_msr(LP, 0x345, 1)),
        lp_case("1.0:TDH.SYS.LP.INIT-14", differs(0x99), |facts, _| facts.flip_msr(LP, 0x99, 1)),
    ]
}

#[test]
fn lp_init_compares_tsx_ctrl_only_where_it_exists() {
    for (arch_capabilities, status) in [(0xFDEB, differs(0x122)), (0xFD6B, Status::SUCCESS)] {
        let bench = Bench::new("1.0");
        bench.hw.set(|facts| facts.set_msr(0x10A, arch_capabilities));
        bench.ok(0, SeamcallLeaf::SYS_INIT, Registers::default());
        bench.hw.set(|facts| facts.flip_msr(LP, 0x122, 1));
        let answer = bench.status(1, SeamcallLeaf::SYS_LP_INIT, Registers::default());
        assert_eq!(answer, status, "{arch_capabilities:#x}");
    }
}

#[test]
fn lp_init_refuses_in_order() {
    let trial = Trial { bench: || Bench::at("1.0", Stage::Initialised), lp: 1, good: good_lp_init };
    trial.refuses(&lp_cases(), |_| {});
    trial.orders(
        &lp_cases(),
        &[
            "1.0:TDH.SYS.LP.INIT-1 before 1.0:TDH.SYS.LP.INIT-4",
            "1.0:TDH.SYS.LP.INIT-4 before 1.0:TDH.SYS.LP.INIT-5",
            "1.0:TDH.SYS.LP.INIT-5 before 1.0:TDH.SYS.LP.INIT-6a",
            "1.0:TDH.SYS.LP.INIT-6a before 1.0:TDH.SYS.LP.INIT-6b",
            "1.0:TDH.SYS.LP.INIT-6b before 1.0:TDH.SYS.LP.INIT-6c",
            "1.0:TDH.SYS.LP.INIT-6c before 1.0:TDH.SYS.LP.INIT-7",
            "1.0:TDH.SYS.LP.INIT-7 before 1.0:TDH.SYS.LP.INIT-8",
            "1.0:TDH.SYS.LP.INIT-8 before 1.0:TDH.SYS.LP.INIT-9",
            "1.0:TDH.SYS.LP.INIT-9 before 1.0:TDH.SYS.LP.INIT-10",
            "1.0:TDH.SYS.LP.INIT-10 before 1.0:TDH.SYS.LP.INIT-11",
            "1.0:TDH.SYS.LP.INIT-11 before 1.0:TDH.SYS.LP.INIT-12",
            "1.0:TDH.SYS.LP.INIT-12 before 1.0:TDH.SYS.LP.INIT-13",
            "1.0:TDH.SYS.LP.INIT-13 before 1.0:TDH.SYS.LP.INIT-14",
        ],
    );
}

#[test]
fn an_lp_is_initialised_once_and_after_init() {
    let not_pending = StatusCode::SYS_LP_INIT_NOT_PENDING.plain();
    let bench = Bench::new("1.0");
    bench.hw.set(|facts| facts.entropy = None);
    // "1.0:TDH.SYS.LP.INIT-2 before 1.0:TDH.SYS.LP.INIT-4"
    let status = bench.status(1, SeamcallLeaf::SYS_LP_INIT, Registers::default());
    assert_eq!(status, not_pending, "1.0:TDH.SYS.LP.INIT-2");
    // "1.0:TDH.SYS.LP.INIT-2 before 1.0:TDH.SYS.LP.INIT-3"
    let bench = Bench::at("1.0", Stage::Configured);
    assert_eq!(bench.status(1, SeamcallLeaf::SYS_LP_INIT, Registers::default()), not_pending);
    let bench = Bench::at("1.0", Stage::LpsInitialised);
    bench.hw.set(|facts| facts.entropy = None);
    // "1.0:TDH.SYS.LP.INIT-3 before 1.0:TDH.SYS.LP.INIT-4"
    let status = bench.status(1, SeamcallLeaf::SYS_LP_INIT, Registers::default());
    assert_eq!(status, StatusCode::SYS_LP_INIT_DONE.plain(), "1.0:TDH.SYS.LP.INIT-3");
}
