//! TDH.SYS.INIT of TDX 1.5 and later.

use tdx_abi::Registers;
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::msr::MsrIndex;
use tdx_abi::status::{OperandId, Status, StatusCode};

use crate::common::{Bench, CMRS, Case, Facts, GIB, Moment, Stage, Trial, config, with_leaf};

/// Registers that the leaf clears hold something before the call.
fn good() -> Registers {
    let regs = Registers { rdx: 1, r8: 2, r9: 3, r10: 4, r11: 5, ..Registers::default() };
    with_leaf(SeamcallLeaf::SYS_INIT, 0, regs)
}

fn good_v1() -> Registers {
    with_leaf(SeamcallLeaf::SYS_INIT, 1, Registers { r8: u64::MAX, ..Registers::default() })
}

fn cleared(regs: &mut Registers) {
    (regs.rcx, regs.rdx, regs.r8, regs.r9, regs.r10) = (0, 0, 0, 0, 0);
}

fn trial_1_5_01() -> Trial {
    Trial { bench: || Bench::new("1.5.01"), lp: 1, good }
}

fn trial_1_5_05() -> Trial {
    Trial { bench: || Bench::new("1.5.05"), lp: 1, good }
}

fn trial_2_0() -> Trial {
    Trial { bench: || Bench::new("2.0.08"), lp: 1, good: good_v1 }
}

const fn msr(msr: u32) -> Status {
    StatusCode::INCORRECT_MSR_VALUE.with_detail(msr)
}

fn case(row: &'static str, status: Status, spoil: fn(&mut Facts, &mut Registers)) -> Case {
    Case { row, spoil, status, outputs: cleared }
}

fn cpuid_case(row: &'static str, spoil: fn(&mut Facts, &mut Registers), outputs: fn(&mut Registers)) -> Case {
    Case { row, spoil, status: StatusCode::INCORRECT_CPUID_VALUE.plain(), outputs }
}

fn perfmon_leaf(regs: &mut Registers) {
    regs.rcx = 0xFFFF_FFFF << 32 | 0xA;
    (regs.rdx, regs.r8) = (0xFF00, 0x8000 << 32 | 0xFFFF_FF80);
    (regs.r9, regs.r10) = (0x800, 0x8000 << 32);
}

/// Rows of every 1.5 release, in the order of evaluation.
fn cases() -> Vec<Case> {
    let missing = |leaf| StatusCode::CPUID_LEAF_NOT_SUPPORTED.with_detail(leaf);
    vec![
        case("TDH.SYS.INIT-2", StatusCode::SYS_BUSY.plain(), |facts, _| {
            facts.contended.push(tdx_module::LockName::Global);
        }),
        case("TDH.SYS.INIT-3", StatusCode::OPERAND_INVALID.with_operand(OperandId::RCX), |_, regs| {
            regs.rcx = 1 << 63;
        }),
        case("TDH.SYS.INIT-5a", msr(0x10A), |facts, _| facts.flip_msr(None, 0x10A, 1 << 21)),
        case("TDH.SYS.INIT-5b", msr(0x10A), |facts, _| facts.flip_msr(None, 0x10A, 1 << 2)),
        case("TDH.SYS.INIT-6a", msr(0xBD), |facts, _| facts.flip_msr(None, 0xBD, 1)),
        case("TDH.SYS.INIT-6b", msr(0xBD), |facts, _| facts.flip_msr(None, 0xBD, 1 << 63)),
        case("TDH.SYS.INIT-7", msr(0xBC), |facts, _| facts.flip_msr(None, 0xBC, 1)),
        case("TDH.SYS.INIT-8", msr(0x345), |facts, _| facts.flip_msr(None, 0x345, 1 << 13)),
        case("TDH.SYS.INIT-9", StatusCode::LIMIT_CPUID_MAXVAL_SET.plain(), |facts, _| {
            facts.flip_msr(None, 0x1A0, 1 << 22);
        }),
        case("TDH.SYS.INIT-10", missing(0x1F), |facts, _| {
            facts.cpuid(None, (0, 0), |regs| regs[0] = 0x1E);
        }),
        case("TDH.SYS.INIT-11", missing(0x8000_0008), |facts, _| {
            facts.cpuid(None, (0x8000_0000, 0), |regs| regs[0] = 0x8000_0007);
        }),
        cpuid_case(
            "TDH.SYS.INIT-12",
            |facts, _| facts.cpuid(None, (0xA, 0), |regs| regs[3] ^= 0x8000),
            perfmon_leaf,
        ),
        cpuid_case(
            "TDH.SYS.INIT-13a",
            |facts, _| facts.cpuid(None, (0xA, 0), |regs| regs[0] ^= 1),
            perfmon_leaf,
        ),
        cpuid_case(
            "TDH.SYS.INIT-13b",
            |facts, _| facts.cpuid(None, (0xA, 0), |regs| regs[3] ^= 0xC),
            perfmon_leaf,
        ),
        cpuid_case(
            "TDH.SYS.INIT-18",
            |facts, _| facts.cpuid(None, (0x8000_0008, 0), |regs| regs[0] ^= 0x3000 ^ 0x3900),
            |regs| {
                regs.rcx = 0xFFFF_FFFF << 32 | 0x8000_0008;
                (regs.rdx, regs.r8) = (0x200 << 32 | 0xFF, 0);
                (regs.r9, regs.r10) = (0x200 << 32 | 0x34, 0);
            },
        ),
        case("TDH.SYS.INIT-14", missing(0x15), |facts, _| {
            facts.cpuid(None, (0x15, 0), |regs| regs[1] = 0);
        }),
        case("TDH.SYS.INIT-15a", StatusCode::CPUID_LEAF_1F_FORMAT_UNRECOGNIZED.plain(), |facts, _| {
            facts.cpuid(None, (0x1F, 1), |regs| regs[2] ^= 0x200 ^ 0x100);
        }),
        case("TDH.SYS.INIT-15b", StatusCode::CPUID_LEAF_1F_FORMAT_UNRECOGNIZED.plain(), |facts, _| {
            facts.cpuid(None, (0x1F, 1), |regs| regs[2] ^= 0x200 ^ 0x600);
        }),
        case("TDH.SYS.INIT-16a", missing(0), |facts, _| {
            facts.cpuid(None, (0x1F, 0), |regs| regs[2] ^= 0x100);
        }),
        case("TDH.SYS.INIT-16b", missing(0), |facts, _| {
            facts.cpuid(None, (0x1F, 1), |regs| regs[2] ^= 0x200);
        }),
        case("TDH.SYS.INIT-17", StatusCode::INVALID_WBINVD_SCOPE.plain(), |facts, _| {
            facts.cpuid(None, (4, 3), |regs| regs[0] ^= 1 << 14);
        }),
        case("TDH.SYS.INIT-19", msr(0x480), |facts, _| facts.flip_msr(None, 0x480, 1 << 54)),
        case("TDH.SYS.INIT-20a", msr(0x981), |facts, _| facts.flip_msr(None, 0x981, 0b1010)),
        case("TDH.SYS.INIT-20b", msr(0x982), |facts, _| facts.flip_msr(None, 0x982, 0b1010 << 48)),
        case(
            "TDH.SYS.INIT-21",
            StatusCode::NUM_ACTIVATED_HKIDS_NOT_SUPPORTED.with_detail(2048),
            |facts, _| facts.set_msr(0x87, 2017 << 32 | 31),
        ),
        case("TDH.SYS.INIT-22", msr(0x99), |facts, _| facts.flip_msr(None, 0x99, 1)),
        case("TDH.SYS.INIT-23", StatusCode::CMR_LIST_INVALID.plain(), |facts, _| {
            facts.mcheck(|mcheck| mcheck.cmrs[1].base += 8);
        }),
        case("TDH.SYS.INIT-24", StatusCode::SMRR_NOT_SUPPORTED.plain(), |facts, _| {
            facts.flip_msr(None, 0xFE, 1 << 11);
        }),
        case("TDH.SYS.INIT-25", StatusCode::SMRR_LOCK_NOT_SUPPORTED.plain(), |facts, _| {
            facts.flip_msr(None, 0xFE, 1 << 14);
        }),
        case("TDH.SYS.INIT-26", StatusCode::SMRR_NOT_LOCKED.with_detail(1), |facts, _| {
            facts.flip_msr(None, 0x1F7, 1 << 10);
        }),
        case("TDH.SYS.INIT-27", StatusCode::INVALID_SMRR_CONFIGURATION.with_detail(0), |facts, _| {
            facts.flip_msr(None, 0x1F3, 1 << 12);
        }),
        case("TDH.SYS.INIT-28", StatusCode::SMRR_OVERLAPS_CMR.with_detail(1 | 2 << 8), |facts, _| {
            // SMRR2 of 4 KiB, in the third CMR.
            facts.flip_msr(None, 0x1F7, 0xFFFF_F800);
            facts.mcheck(|mcheck| {
                mcheck.cmrs[1].size = 0;
                (mcheck.cmrs[2].base, mcheck.cmrs[2].size) = (0xA000_0000, 0x1000);
            });
            facts.flip_msr(None, 0x1F6, 0xA000_0000);
        }),
        case("TDH.SYS.INIT-29", StatusCode::INCOMPATIBLE_SEAM_CAPABILITIES.plain(), |facts, _| {
            facts.seamops.insert(1, 0x7F ^ 1 << 5);
        }),
        case("TDH.SYS.INIT-32", StatusCode::RND_NO_ENTROPY.plain(), |facts, _| facts.entropy = None),
    ]
}

#[test]
fn each_row_answers_with_its_status_and_changes_nothing() {
    trial_1_5_01().refuses(&cases(), |_| {});
}

#[test]
fn the_upper_of_two_violated_rows_answers() {
    trial_1_5_01().orders(
        &cases(),
        &[
            "TDH.SYS.INIT-2 before TDH.SYS.INIT-3",
            "TDH.SYS.INIT-3 before TDH.SYS.INIT-5a",
            "TDH.SYS.INIT-5a before TDH.SYS.INIT-6a",
            "TDH.SYS.INIT-6a before TDH.SYS.INIT-7",
            "TDH.SYS.INIT-7 before TDH.SYS.INIT-8",
            "TDH.SYS.INIT-8 before TDH.SYS.INIT-9",
            "TDH.SYS.INIT-9 before TDH.SYS.INIT-10",
            "TDH.SYS.INIT-10 before TDH.SYS.INIT-11",
            "TDH.SYS.INIT-11 before TDH.SYS.INIT-12",
            "TDH.SYS.INIT-12 before TDH.SYS.INIT-13a",
            "TDH.SYS.INIT-13a before TDH.SYS.INIT-18",
            "TDH.SYS.INIT-18 before TDH.SYS.INIT-14",
            "TDH.SYS.INIT-14 before TDH.SYS.INIT-15a",
            "TDH.SYS.INIT-16a before TDH.SYS.INIT-15b",
            "TDH.SYS.INIT-15b before TDH.SYS.INIT-17",
            "TDH.SYS.INIT-16b before TDH.SYS.INIT-17",
            "TDH.SYS.INIT-17 before TDH.SYS.INIT-19",
            "TDH.SYS.INIT-19 before TDH.SYS.INIT-20a",
            "TDH.SYS.INIT-20a before TDH.SYS.INIT-20b",
            "TDH.SYS.INIT-20b before TDH.SYS.INIT-21",
            "TDH.SYS.INIT-21 before TDH.SYS.INIT-22",
            "TDH.SYS.INIT-22 before TDH.SYS.INIT-23",
            "TDH.SYS.INIT-23 before TDH.SYS.INIT-24",
            "TDH.SYS.INIT-24 before TDH.SYS.INIT-25",
            "TDH.SYS.INIT-25 before TDH.SYS.INIT-26",
            "TDH.SYS.INIT-26 before TDH.SYS.INIT-27",
            "TDH.SYS.INIT-27 before TDH.SYS.INIT-28",
            "TDH.SYS.INIT-28 before TDH.SYS.INIT-29",
            "TDH.SYS.INIT-29 before TDH.SYS.INIT-32",
        ],
    );
}

fn cases_1_5_05() -> Vec<Case> {
    vec![
        case("TDH.SYS.INIT-5@1.5.05", msr(0x10A), |facts, _| facts.flip_msr(None, 0x10A, 1 << 18)),
        case("TDH.SYS.INIT-6", msr(0xBD), |facts, _| facts.flip_msr(None, 0xBD, 1)),
        case("TDH.SYS.INIT-8@1.5.05", msr(0x345), |facts, _| facts.flip_msr(None, 0x345, 1 << 12)),
        case("TDH.SYS.INIT-9", StatusCode::LIMIT_CPUID_MAXVAL_SET.plain(), |facts, _| {
            facts.flip_msr(None, 0x1A0, 1 << 22);
        }),
        case("TDH.SYS.INIT-33a", msr(0x1A0), |facts, _| facts.flip_msr(None, 0x1A0, 1 << 7)),
        case("TDH.SYS.INIT-33b", msr(0x1A0), |facts, _| facts.flip_msr(None, 0x1A0, 1 << 11)),
        case("TDH.SYS.INIT-10", StatusCode::CPUID_LEAF_NOT_SUPPORTED.with_detail(0x1F), |facts, _| {
            facts.cpuid(None, (0, 0), |regs| regs[0] = 0x1E);
        }),
        case("TDH.SYS.INIT-19@1.5.05", msr(0x492), |facts, _| {
            facts.cpuid(None, (7, 2), |regs| regs[3] ^= 1 << 3);
            facts.flip_msr(None, 0x492, 1 << 7);
        }),
        case("TDH.SYS.INIT-20a", msr(0x981), |facts, _| facts.flip_msr(None, 0x981, 0b1010)),
    ]
}

#[test]
fn rows_of_1_5_05_answer_since_then() {
    trial_1_5_05().refuses(&cases_1_5_05(), |_| {});
    trial_1_5_05().orders(
        &cases_1_5_05(),
        &[
            "TDH.SYS.INIT-5@1.5.05 before TDH.SYS.INIT-6",
            "TDH.SYS.INIT-8@1.5.05 before TDH.SYS.INIT-9",
            "TDH.SYS.INIT-9 before TDH.SYS.INIT-33a",
            "TDH.SYS.INIT-33a before TDH.SYS.INIT-10",
            "TDH.SYS.INIT-19@1.5.05 before TDH.SYS.INIT-20a",
        ],
    );
}

#[test]
fn rows_of_1_5_05_do_not_exist_in_1_5_01_and_can_be_switched_off() {
    for case in cases_1_5_05().iter().filter(|case| case.row.contains("@1.5.05") || case.row.contains("-33"))
    {
        let spoiled = |bench: &Bench| {
            let mut regs = good();
            bench.hw.set(|facts| (case.spoil)(facts, &mut regs));
            if case.row == "TDH.SYS.INIT-19@1.5.05" {
                // 1.5.01 wants the control anyway.
                bench.hw.set(|facts| facts.cpuid(None, (7, 2), |regs| regs[3] ^= 1 << 3));
                bench.hw.set(|facts| facts.flip_msr(None, 0x492, 1 << 7));
            }
            Status::from_raw(bench.raw(1, regs).expect("an answer").rax)
        };
        assert_eq!(spoiled(&Bench::new("1.5.01")), Status::SUCCESS, "{}", case.row);
        let mut without = config("1.5.05");
        let row = case.row.trim_end_matches(['a', 'b']);
        without.set_switch(row, false).expect("a switch");
        assert_eq!(spoiled(&Bench::with(Some(without))), Status::SUCCESS, "{}", case.row);
    }
    assert!(config("1.5.05").set_switch("TDH.SYS.INIT-3", false).is_err());
}

fn cases_v1() -> Vec<Case> {
    let invalid_r8 = StatusCode::OPERAND_INVALID.with_operand(OperandId::R8);
    vec![
        Case {
            row: "TDH.SYS.INIT-1",
            spoil: |_, regs| regs.rax ^= 1 << 16 ^ 2 << 16,
            status: StatusCode::OPERAND_INVALID.with_operand(OperandId::RAX),
            outputs: |_| {},
        },
        case("TDH.SYS.INIT-2", StatusCode::SYS_BUSY.plain(), |facts, _| {
            facts.contended.push(tdx_module::LockName::Global);
        }),
        case("TDH.SYS.INIT-29", StatusCode::INCOMPATIBLE_SEAM_CAPABILITIES.plain(), |facts, _| {
            facts.seamops.insert(1, 0x7F ^ 1 << 2);
        }),
        // Reserved bits, an interrupt vector that is too low, a vector without an interrupt, a
        // private KeyID.
        case("TDH.SYS.INIT-31", invalid_r8, |_, regs| regs.r8 = 0x1004),
        case("TDH.SYS.INIT-31", invalid_r8, |_, regs| regs.r8 = 15 << 52 | 0x1001),
        case("TDH.SYS.INIT-31", invalid_r8, |_, regs| regs.r8 = 16 << 52 | 0x1002),
        case("TDH.SYS.INIT-31", invalid_r8, |_, regs| regs.r8 = 32 << 46 | 0x1000),
        case("TDH.SYS.INIT-31", invalid_r8, |_, regs| regs.r8 = 1 << 60 | 0x1000),
        case("TDH.SYS.INIT-32", StatusCode::RND_NO_ENTROPY.plain(), |facts, _| facts.entropy = None),
    ]
}

#[test]
fn version_one_checks_its_own_operands() {
    trial_2_0().refuses(&cases_v1(), |_| {});
    trial_2_0().orders(
        &cases_v1(),
        &[
            "TDH.SYS.INIT-1 before TDH.SYS.INIT-2",
            "TDH.SYS.INIT-29 before TDH.SYS.INIT-31",
            "TDH.SYS.INIT-31 before TDH.SYS.INIT-32",
        ],
    );
    for r8 in [u64::MAX, 0x1000, 0x1002, 0x1003, 16 << 52 | 0x1001, 31 << 46 | 0x1000] {
        let bench = Bench::new("2.0.08");
        let regs = bench.raw(1, Registers { r8, ..good_v1() }).expect("an answer");
        assert_eq!(Status::from_raw(regs.rax), Status::SUCCESS, "{r8:#x}");
    }
}

#[test]
fn every_needed_bit_of_arch_capabilities_is_missed() {
    for bit in [0, 1, 3, 5, 6, 8, 10, 11, 12, 13, 14, 15, 21] {
        let bench = Bench::new("1.5.01");
        bench.hw.set(|facts| facts.flip_msr(None, 0x10A, 1 << bit));
        assert_eq!(bench.status(0, SeamcallLeaf::SYS_INIT, Registers::default()), msr(0x10A), "bit {bit}");
    }
}

#[test]
fn an_msr_that_the_cpu_lacks_is_refused_like_one_of_zero() {
    for index in [0x10A, 0xBD, 0xBC, 0x345, 0x480, 0x48C, 0x981] {
        let bench = Bench::new("2.0.08");
        bench.hw.set(|facts| facts.remove_msr(index));
        assert_eq!(bench.status(0, SeamcallLeaf::SYS_INIT, Registers::default()), msr(index), "{index:#x}");
    }
}

/// MSR, bits to flip so that the L1 pass refuses it.
const VMX: [(u32, u64); 14] = [
    (0x480, 1 << 55),
    (0x48D, 1 << 7),
    (0x48E, 1 << 10),
    (0x48B, 1 << 10),
    (0x492, 1 << 5),
    (0x48F, 1 << 30),
    (0x490, 1 << 9),
    (0x485, 1 << 5),
    (0x48C, 1),
    (0x486, 2),
    (0x487, 1 << 5),
    (0x488, 1),
    (0x489, 1 << 13),
    (0x489, 1 << 6),
];

#[test]
fn vmx_msrs_are_refused_in_their_order() {
    for (index, (number, bits)) in VMX.into_iter().enumerate() {
        let bench = Bench::new("1.5.01");
        bench.hw.set(|facts| {
            for (number, bits) in VMX.into_iter().skip(index) {
                facts.flip_msr(None, number, bits);
            }
        });
        let status = bench.status(0, SeamcallLeaf::SYS_INIT, Registers::default());
        assert_eq!(status, msr(number), "TDH.SYS.INIT-19: {number:#x} {bits:#x}");
    }
}

#[test]
fn controls_of_l2_vms_are_checked_after_all_of_l1() {
    // MSR to flip, bits that only an L2 VM changes, MSR named.
    for (number, bits, named) in
        [(0x48E, 1u64 << 34, 0x48E), (0x48B, 1 << 34, 0x48B), (0x492, 1 << 1, 0x492), (0x487, 1 << 1, 0x486)]
    {
        let bench = Bench::new("1.5.01");
        bench.hw.set(|facts| facts.flip_msr(None, number, bits));
        assert_eq!(bench.status(0, SeamcallLeaf::SYS_INIT, Registers::default()), msr(named), "{number:#x}");
        bench.hw.set(|facts| facts.flip_msr(None, 0x489, 1 << 13));
        let status = bench.status(0, SeamcallLeaf::SYS_INIT, Registers::default());
        assert_eq!(status, msr(0x489), "the last MSR of L1 comes before {number:#x} of L2");
        let old = Bench::new("1.0.03");
        old.hw.set(|facts| facts.flip_msr(None, number, bits));
        assert_eq!(old.status(0, SeamcallLeaf::SYS_INIT, Registers::default()), Status::SUCCESS);
    }
}

#[test]
fn secondary_controls_follow_waitpkg_and_enclv() {
    let init = |waitpkg: bool, may_cleared: u64| {
        let bench = Bench::new("1.5.01");
        bench.hw.set(|facts| {
            facts.flip_msr(None, 0x48B, may_cleared << 32);
            facts.cpuid(None, (7, 0), |regs| regs[2] |= u32::from(waitpkg) << 5);
        });
        bench.status(0, SeamcallLeaf::SYS_INIT, Registers::default())
    };
    assert_eq!(init(true, 0), Status::SUCCESS);
    assert_eq!(init(false, 1 << 28), Status::SUCCESS, "ENCLV exiting is dropped");
    assert_eq!(init(false, 1 << 27), msr(0x48B));
}

#[test]
fn a_leaf_above_the_highest_one_counts_as_zeros() {
    // Leaf 0x23 would be refused if it were read.
    let bench = Bench::new("1.5.01");
    bench.hw.set(|facts| {
        facts.cpuid(None, (0x23, 1), |regs| regs[0] = 0x100);
        facts.cpuid(None, (0, 0), |regs| regs[0] = 0x1F);
    });
    assert_eq!(bench.status(0, SeamcallLeaf::SYS_INIT, Registers::default()), Status::SUCCESS);
    let bench = Bench::new("1.5.01");
    bench.hw.set(|facts| facts.cpuid(None, (0x23, 1), |regs| regs[0] = 0x100));
    let regs = bench.call(0, SeamcallLeaf::SYS_INIT, Registers::default());
    assert_eq!(Status::from_raw(regs.rax), StatusCode::INCORRECT_CPUID_VALUE.plain());
    assert_eq!((regs.rcx, regs.rdx), (1 << 32 | 0x23, 0xFFFF_FFF0 << 32 | 0xFFFF_FF00));
}

#[test]
fn a_later_entry_is_reached_only_when_the_earlier_ones_passed() {
    let bench = Bench::new("1.5.01");
    bench.hw.set(|facts| {
        facts.cpuid(None, (0x8000_0007, 0), |regs| regs[3] = 0);
        facts.cpuid(None, (0x1F, 1), |regs| regs[2] = 0x100);
    });
    let status = bench.status(0, SeamcallLeaf::SYS_INIT, Registers::default());
    assert_eq!(status, StatusCode::CPUID_LEAF_1F_FORMAT_UNRECOGNIZED.plain());
    bench.hw.set(|facts| facts.cpuid(None, (0x1F, 1), |regs| regs[2] = 0x201));
    let regs = bench.call(0, SeamcallLeaf::SYS_INIT, Registers::default());
    assert_eq!(Status::from_raw(regs.rax), StatusCode::INCORRECT_CPUID_VALUE.plain());
    assert_eq!((regs.rcx, regs.r8, regs.r10), (0xFFFF_FFFF_8000_0007, 0x100 << 32, 0x100 << 32));
}

#[test]
fn the_linear_width_follows_la57() {
    let bench = Bench::new("1.5.01");
    bench.hw.set(|facts| {
        facts.cpuid(None, (7, 0), |regs| regs[2] |= 1 << 16);
        facts.cpuid(None, (0x8000_0008, 0), |regs| regs[0] = 0x3934);
    });
    assert_eq!(bench.status(0, SeamcallLeaf::SYS_INIT, Registers::default()), Status::SUCCESS);
}

#[test]
fn the_cmr_list_is_refused_for_each_of_its_rules() {
    let lists: [[(u64, u64); 2]; 6] = [
        [CMRS[0], (u64::MAX - 0xFFF, 0x2000)],
        [CMRS[0], (1 << 46, GIB)],
        [CMRS[0], (1 << 52, GIB)],
        [CMRS[0], (4 * GIB, 0x800)],
        [CMRS[1], CMRS[0]],
        [CMRS[1], (5 * GIB, GIB)],
    ];
    for list in lists {
        let bench = Bench::new("1.5.01");
        bench.hw.set(|facts| {
            facts.mcheck(|mcheck| {
                for (entry, (base, size)) in mcheck.cmrs.iter_mut().zip(list) {
                    (entry.base, entry.size) = (base, size);
                }
                mcheck.cmrs[2].size = 0;
            });
        });
        let status = bench.status(0, SeamcallLeaf::SYS_INIT, Registers::default());
        assert_eq!(status, StatusCode::CMR_LIST_INVALID.plain(), "TDH.SYS.INIT-23: {list:x?}");
    }
}

#[test]
fn a_second_smrr_counts_only_where_it_exists() {
    let init = |change: fn(&mut Facts)| {
        let bench = Bench::new("1.5.01");
        bench.hw.set(|facts| facts.flip_msr(None, 0x1F7, 1 << 10));
        bench.hw.set(change);
        bench.status(0, SeamcallLeaf::SYS_INIT, Registers::default())
    };
    assert_eq!(init(|_| {}), StatusCode::SMRR_NOT_LOCKED.with_detail(1));
    assert_eq!(init(|facts| facts.mcheck(|mcheck| mcheck.smrr2_unsupported = true)), Status::SUCCESS);
    assert_eq!(init(|facts| facts.flip_msr(None, 0xFE, 1 << 13)), Status::SUCCESS);
}

#[test]
fn init_runs_once() {
    let bench = Bench::at("1.5.05", Stage::Initialised);
    let before = bench.state();
    let status = bench.status(2, SeamcallLeaf::SYS_INIT, Registers::default());
    assert_eq!(status, StatusCode::SYS_INIT_NOT_PENDING.plain(), "TDH.SYS.INIT-4");
    assert_eq!(bench.state(), before);
    for (rcx, contended, expected) in [
        (1, false, StatusCode::OPERAND_INVALID.with_operand(OperandId::RCX)),
        (0, true, StatusCode::SYS_BUSY.plain()),
    ] {
        bench.hw.set(|facts| facts.contended = vec![tdx_module::LockName::Global; contended.into()]);
        let status = bench.status(2, SeamcallLeaf::SYS_INIT, Registers { rcx, ..Registers::default() });
        // "TDH.SYS.INIT-3 before TDH.SYS.INIT-4"
        assert_eq!(status, expected);
    }
    bench.hw.set(|facts| {
        facts.contended.clear();
        facts.flip_msr(None, 0x10A, 1);
    });
    // "TDH.SYS.INIT-4 before TDH.SYS.INIT-5a"
    let status = bench.status(2, SeamcallLeaf::SYS_INIT, Registers::default());
    assert_eq!(status, StatusCode::SYS_INIT_NOT_PENDING.plain());
}

#[test]
fn handoff_values_of_the_sigstruct_must_fit_the_module() {
    let init = |change: fn(&mut tdx_module::profile::HandoffVersions)| {
        let mut config = config("2.0.14");
        change(&mut config.sigstruct);
        let bench = Bench::with(Some(config));
        let before = bench.state();
        let status = bench.status(0, SeamcallLeaf::SYS_INIT, Registers::default());
        assert!(status == Status::SUCCESS || bench.state() == before);
        status
    };
    let refused = StatusCode::SYS_INCOMPATIBLE_SIGSTRUCT.plain();
    assert_eq!(init(|signed| signed.module_hv = 0), refused, "TDH.SYS.INIT-30");
    assert_eq!(init(|signed| signed.module_hv = 2), refused);
    assert_eq!(init(|signed| signed.pages -= 1), refused);
    assert_eq!(init(|signed| signed.pages += 1), Status::SUCCESS);
    assert_eq!(init(|signed| signed.no_downgrade = true), Status::SUCCESS);
    assert_eq!(init(|signed| signed.min_update_hv = 1), Status::SUCCESS);
}

#[test]
fn row_30_stands_between_29_and_31() {
    let mut config = config("2.0.14");
    config.sigstruct.module_hv = 9;
    let bench = Bench::with(Some(config));
    // "TDH.SYS.INIT-30 before TDH.SYS.INIT-31"
    let regs = bench.raw(0, Registers { r8: 4, ..good_v1() }).expect("an answer");
    assert_eq!(Status::from_raw(regs.rax), StatusCode::SYS_INCOMPATIBLE_SIGSTRUCT.plain());
    bench.hw.set(|facts| facts.seamops.insert(0, 0).map_or((), drop));
    // "TDH.SYS.INIT-29 before TDH.SYS.INIT-30"
    let status = bench.status(0, SeamcallLeaf::SYS_INIT, Registers::default());
    assert_eq!(status, StatusCode::INCOMPATIBLE_SEAM_CAPABILITIES.plain());
}

#[test]
fn init_holds_the_global_lock_alone() {
    let bench = Bench::new("1.5.05");
    let other = with_leaf(SeamcallLeaf::SYS_INIT, 0, Registers::default());
    bench.hw.intrude(Moment::Rdmsr(MsrIndex::IA32_VMX_BASIC), &bench.software, tdx_module::LpIndex(3), other);
    bench.ok(0, SeamcallLeaf::SYS_INIT, Registers::default());
    let intruder = bench.hw.intrusion().expect("an answer");
    assert_eq!(Status::from_raw(intruder.rax), StatusCode::SYS_BUSY.plain(), "TDH.SYS.INIT-2");
}
