//! TDH.SYS.UPDATE.

use tdx_abi::Registers;
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_module::{LockName, ModuleState};

use crate::common::{Bench, Case, Facts, GIB, LPS, Stage, Trial, config, with_leaf};
use crate::handoff::{
    DYNAMIC_PAMT, GLOBAL_HKID, KOT, PACKAGES, PROGRESS, TDMR_COUNT, TDMR_ENTRY, TDMR_TABLE, WBT, WBT_ENTRY,
    shut_down, successor, update,
};
use crate::sys_shutdown::COMPATIBILITY;

const INVALID_HANDOFF: Status = StatusCode::SYS_INVALID_HANDOFF.plain();
const INCORRECT: Status = StatusCode::SYS_STATE_INCORRECT.plain();
const BUSY: Status = StatusCode::SYS_BUSY.plain();

fn invalid(operand: OperandId) -> Status {
    StatusCode::OPERAND_INVALID.with_operand(operand)
}

/// A module that waits for SYS.UPDATE, with good hand-off data.
fn waiting(profile: &str, version: u64) -> Bench {
    successor(&shut_down(profile, version), config(profile))
}

fn answer(bench: &Bench, regs: Registers) -> Status {
    Status::from_raw(bench.raw(1, regs).expect("an answer").rax)
}

fn cases() -> Vec<Case> {
    let case =
        |row, status, spoil: fn(&mut Facts, &mut Registers)| Case { row, spoil, status, outputs: |_| {} };
    vec![
        case("TDH.SYS.UPDATE-4", invalid(OperandId::RAX), |_, regs| regs.rax = 0x2_0035),
        case("TDH.SYS.UPDATE-4", invalid(OperandId::RAX), |_, regs| regs.rax = 0xFF_0035),
        case("TDH.SYS.UPDATE-5", invalid(OperandId::R9), |_, regs| regs.r9 |= 1),
        case("TDH.SYS.UPDATE-5", invalid(OperandId::R9), |_, regs| regs.r9 |= 1 << 41),
        case("TDH.SYS.UPDATE-6", invalid(OperandId::R10), |_, regs| regs.r10 = 1 << 63),
        case("TDH.SYS.UPDATE-1", BUSY, |facts, _| facts.contended.push(LockName::Global)),
    ]
}

#[test]
fn update_refuses_with_its_status_and_can_be_called_again() {
    for bench in [|| waiting("1.5.28", 0), || waiting("2.0.14", 1)] {
        let trial = Trial { bench, lp: 2, good: || update(1, COMPATIBILITY) };
        trial.refuses(&cases(), |_| {});
        trial.orders(
            &cases(),
            &[
                "TDH.SYS.UPDATE-4 before TDH.SYS.UPDATE-5",
                "TDH.SYS.UPDATE-4 before TDH.SYS.UPDATE-6",
                "TDH.SYS.UPDATE-5 before TDH.SYS.UPDATE-6",
                "TDH.SYS.UPDATE-6 before TDH.SYS.UPDATE-1",
            ],
        );
    }
}

#[test]
fn version_0_looks_at_no_operand() {
    let bench = waiting("1.5.28", 0);
    let regs = Registers { rcx: u64::MAX, r9: u64::MAX, r10: u64::MAX, ..update(0, 0) };
    assert_eq!(bench.raw(0, regs), Some(Registers { rax: 0, ..regs }));
    assert!(bench.state().opted_in.is_empty());
}

#[test]
fn releases_without_version_1_refuse_it_in_the_dispatcher() {
    for profile in ["1.5.01", "1.5.20", "2.0.12"] {
        let bench = waiting(profile, 0);
        assert_eq!(answer(&bench, update(1, 0)), invalid(OperandId::RAX), "DISPATCH-3: {profile}");
        assert_eq!(answer(&bench, update(0, 0)), Status::SUCCESS, "{profile}");
    }
}

#[test]
fn update_is_for_a_module_whose_lps_are_all_initialised() {
    let row = "TDH.SYS.UPDATE-2a";
    for stage in [Stage::Loaded, Stage::Configured, Stage::Ready] {
        let bench = Bench::at("2.0.14", stage);
        let before = bench.state();
        // "TDH.SYS.UPDATE-2a before TDH.SYS.UPDATE-3": no module was there before.
        assert_eq!(answer(&bench, update(0, 0)), INCORRECT, "{row}: {stage:?}");
        bench.hw.set(|facts| facts.contended.push(LockName::Global));
        // "TDH.SYS.UPDATE-1 before TDH.SYS.UPDATE-2a"
        assert_eq!(answer(&bench, update(0, 0)), BUSY, "{row}: {stage:?}");
        // "TDH.SYS.UPDATE-6 before TDH.SYS.UPDATE-2a"
        let regs = Registers { r10: 1, ..update(1, 0) };
        assert_eq!(answer(&bench, regs), invalid(OperandId::R10));
        assert_eq!(bench.state(), before);
    }
    let area = shut_down("2.0.14", 1).software.handoff_area();
    let bench = Bench::at("2.0.14", Stage::Initialised);
    bench.software.set_handoff_area(&area);
    for lp in 0..LPS {
        assert_eq!(answer(&bench, update(0, 0)), INCORRECT, "TDH.SYS.UPDATE-2b: before LP {lp}");
        bench.ok(lp, SeamcallLeaf::SYS_LP_INIT, Registers::default());
    }
    assert_eq!(answer(&bench, update(0, 0)), Status::SUCCESS);
}

#[test]
fn missing_lps_are_noticed_before_the_header_is_read() {
    let bench = Bench::at("2.0.14", Stage::Initialised);
    // "TDH.SYS.UPDATE-2b before TDH.SYS.UPDATE-3"
    assert_eq!(answer(&bench, update(0, 0)), INCORRECT);
}

#[test]
fn without_a_valid_header_of_a_known_version_nothing_is_taken_over() {
    let refused = |bench: &Bench, row: &str| {
        let before = bench.state();
        assert_eq!(answer(bench, update(0, 0)), INVALID_HANDOFF, "{row}");
        assert_eq!(bench.state(), before, "{row}");
    };
    // A fresh LOAD: it can still be configured.
    let bench = Bench::at("2.0.14", Stage::LpsInitialised);
    refused(&bench, "TDH.SYS.UPDATE-3a");
    bench.ok(0, SeamcallLeaf::SYS_CONFIG, crate::common::config_regs());
    // Data that were taken over before.
    let bench = waiting("2.0.14", 1);
    let mut area = bench.software.handoff_area();
    area[0] = 0;
    bench.software.set_handoff_area(&area);
    refused(&bench, "TDH.SYS.UPDATE-3a");
    area[0] = 1;
    bench.software.set_handoff_area(&area);
    assert_eq!(answer(&bench, update(0, 0)), Status::SUCCESS);
    // Version 0 for a module that wants 1, version 1 for one that knows 0.
    let mut strict = config("2.0.14");
    strict.sigstruct.min_update_hv = 1;
    refused(&successor(&shut_down("2.0.14", 0), strict.clone()), "TDH.SYS.UPDATE-3b");
    assert_eq!(answer(&successor(&shut_down("2.0.14", 1), strict), update(0, 0)), Status::SUCCESS);
    refused(&successor(&shut_down("2.0.14", 1), config("2.0.08")), "TDH.SYS.UPDATE-3c");
    assert_eq!(answer(&successor(&shut_down("2.0.14", 0), config("2.0.08")), update(0, 0)), Status::SUCCESS);
}

#[test]
fn the_version_is_looked_at_before_the_state() {
    let bench = Bench::new("1.5.28");
    let regs = with_leaf(SeamcallLeaf::SYS_UPDATE, 2, Registers::default());
    // "TDH.SYS.UPDATE-4 before TDH.SYS.UPDATE-2"
    assert_eq!(answer(&bench, regs), invalid(OperandId::RAX), "TDH.SYS.UPDATE-4");
}

/// A change of good data (version 1, two TDMRs, global KeyID 32) after which no module takes them.
type Damage = (&'static str, fn(&mut [u8]));

fn put(bytes: &mut [u8], offset: usize, value: u64) {
    bytes[offset..][..8].copy_from_slice(&value.to_le_bytes());
}

const DAMAGES: &[Damage] = &[
    ("size one too small", |bytes| bytes[4] -= 1),
    ("size one too large", |bytes| bytes[4] += 1),
    ("size of version 0", |bytes| bytes[4] = 0x8A),
    ("KeyID in no known state", |bytes| bytes[KOT + 33 * 8 + 4] = 4),
    ("KeyID 0 in use", |bytes| bytes[KOT + 4] = 1),
    ("last MKTME KeyID in use", |bytes| bytes[KOT + 31 * 8 + 4] = 2),
    ("KeyID beyond the private ones in use", |bytes| bytes[KOT + 64 * 8 + 4] = 1),
    ("last KeyID in use", |bytes| bytes[KOT + 2047 * 8 + 4] = 1),
    ("write-back table locked", |bytes| bytes[WBT + 2056] = 1),
    ("last write-back table locked", |bytes| bytes[WBT + 7 * WBT_ENTRY + 2056] = 1),
    ("flag that is no flag", |bytes| bytes[WBT + 8 + 40] = 2),
    ("no TDMR", |bytes| bytes[TDMR_COUNT] = 0),
    ("a TDMR that is empty", |bytes| bytes[TDMR_COUNT] = 3),
    ("65 TDMRs", |bytes| bytes[TDMR_COUNT] = 65),
    ("2^24 TDMRs and 2", |bytes| bytes[TDMR_COUNT + 3] = 1),
    ("TDMR not aligned", |bytes| bytes[TDMR_TABLE + 1] = 0x10),
    ("TDMRs out of order", |bytes| put(bytes, TDMR_TABLE + TDMR_ENTRY, 4 * GIB)),
    ("TDMR beyond the address space", |bytes| put(bytes, TDMR_TABLE + TDMR_ENTRY, 1 << 51)),
    ("TDMR outside the CMRs", |bytes| put(bytes, TDMR_TABLE + TDMR_ENTRY, 64 * GIB)),
    ("PAMT of no size", |bytes| put(bytes, TDMR_TABLE + 40, 0)),
    ("PAMT that is not aligned", |bytes| bytes[TDMR_TABLE + 16] = 1),
    ("reserved area of half a page", |bytes| put(bytes, TDMR_TABLE + 64 + 8, 0x800)),
    ("progress beyond the TDMR", |bytes| put(bytes, TDMR_TABLE + PROGRESS, GIB + (4 << 20))),
    ("progress of half a step", |bytes| put(bytes, TDMR_TABLE + PROGRESS, 2 << 20)),
    ("global KeyID that nobody reserved", |bytes| bytes[GLOBAL_HKID] = 33),
    ("global KeyID that is not private", |bytes| bytes[GLOBAL_HKID] = 0),
    ("global KeyID beyond the table", |bytes| bytes[GLOBAL_HKID + 1] = 0xFF),
    ("global KeyID that is free", |bytes| bytes[KOT + 32 * 8 + 4] = 0),
    ("global key on one package only", |bytes| bytes[PACKAGES] = 0b01),
    ("global key on three packages", |bytes| bytes[PACKAGES] = 0b111),
    ("global key on a package that is not there", |bytes| bytes[PACKAGES] = 0b101),
    ("global key on package 8", |bytes| (bytes[PACKAGES], bytes[PACKAGES + 1]) = (1, 1)),
    ("dynamic PAMT", |bytes| bytes[DYNAMIC_PAMT] = 1),
];

#[test]
fn data_that_no_configured_module_left_are_refused_and_kept() {
    let bench = waiting("2.0.14", 1);
    let good = bench.software.handoff_area();
    let before = bench.state();
    for (what, damage) in DAMAGES {
        let mut bytes = good.clone();
        damage(&mut bytes);
        assert_ne!(bytes, good, "{what}");
        bench.software.set_handoff_area(&bytes);
        assert_eq!(answer(&bench, update(0, 0)), INVALID_HANDOFF, "TDH.SYS.UPDATE-9: {what}");
        assert_eq!(bench.software.handoff_area(), bytes, "{what}: the data stay as they are");
        assert_eq!(bench.state().state, ModuleState::SysInitDone, "{what}");
        // "TDH.SYS.UPDATE-1 before TDH.SYS.UPDATE-9"
        bench.hw.set(|facts| facts.contended.push(LockName::Global));
        assert_eq!(answer(&bench, update(0, 0)), BUSY, "{what}");
        bench.hw.set(|facts| facts.contended.clear());
    }
    bench.software.set_handoff_area(&good);
    assert_eq!(bench.state(), before);
    assert_eq!(answer(&bench, update(0, 0)), Status::SUCCESS);
}

#[test]
fn reserved_bytes_of_the_data_do_not_matter() {
    let bench = waiting("2.0.14", 1);
    let mut bytes = bench.software.handoff_area();
    for offset in [1, KOT + 5, WBT + 2057, TDMR_TABLE + 52, TDMR_TABLE + 2 * TDMR_ENTRY, 0xD097] {
        bytes[offset] = 0xA5;
    }
    bench.software.set_handoff_area(&bytes);
    assert_eq!(answer(&bench, update(0, 0)), Status::SUCCESS);
}
