//! TDH.IOMMU.SETUP.

use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_abi::{PAGE_SIZE, PhysAddr, PhysRange, Registers};
use tdx_module::inspect::{Owner, UnitMode};
use tdx_module::{LockName, LpIndex};

use crate::common::connect::{POOL, ROOT, SINGLES, TABLE, clear_regs, extended, setup_regs, table, trusted};
use crate::common::fake_io::{
    ECAP, ECMD, ECRSP, ESTS0, GSTS, IoFacts, KEY_UNITS, PMEN, RTADDR, T_IQA, T_RTADDR, TDX_MODE, TDXC, TMS,
    UNIT_IDS, UNITS,
};
use crate::common::{Bench, Case, Facts, GIB, GLOBAL_KEY, Moment, SEAMRR, Trial, with_leaf};

const INTERRUPTED: Status = StatusCode::INTERRUPTED_RESUMABLE.plain();
const WRONG_STATE: Status = StatusCode::IOMMU_INVALID_STATE.plain();
fn busy() -> Status {
    StatusCode::OPERAND_BUSY.with_operand(OperandId::RCX)
}

/// A module with its extensions and a sound table for unit 0.
fn prepared() -> Bench {
    let bench = extended();
    bench.table_of(0);
    bench
}

fn setup(unit: u64) -> Registers {
    with_leaf(SeamcallLeaf::IOMMU_SETUP, 0, setup_regs(unit))
}

fn status(bench: &Bench, lp: u32, regs: Registers) -> Status {
    Status::from_raw(bench.raw(lp, regs).expect("an answer").rax)
}

fn invalid(operand: OperandId) -> Status {
    StatusCode::OPERAND_INVALID.with_operand(operand)
}

fn case(row: &'static str, status: Status, spoil: fn(&mut Facts, &mut Registers)) -> Case {
    Case { row, spoil, status, outputs: |_| {} }
}

/// Writes an entry of the table of unit 0.
fn entry(facts: &mut Facts, index: u64, value: u64) {
    facts.memory.insert(ROOT + 8 * index, value);
}

fn cases() -> Vec<Case> {
    let (rcx, rdx) = (invalid(OperandId::RCX), invalid(OperandId::RDX));
    let not_ready = StatusCode::PAGE_METADATA_INCORRECT.with_operand(OperandId::RDX);
    let in_use = StatusCode::IOMMU_MT_PAGE_IN_USE.plain();
    let enabled = StatusCode::IOMMU_KCB_MUST_BE_DISABLED.plain();
    let failed = StatusCode::IOMMU_ECMD_ERROR.plain();
    vec![
        case("TDH.IOMMU.SETUP-1a", rcx, |_, regs| regs.rcx += 8),
        case("TDH.IOMMU.SETUP-1a", rcx, |_, regs| regs.rcx |= GLOBAL_KEY << 46),
        case("TDH.IOMMU.SETUP-1b", rcx, |_, regs| regs.rcx += 0x1000),
        case("TDH.IOMMU.SETUP-1c", rcx, |_, regs| regs.rcx = UNITS[2]),
        case("TDH.IOMMU.SETUP-1c", rcx, |facts, _| facts.io.flip(UNITS[0] + ECAP, TDXC)),
        case("TDH.IOMMU.SETUP-1c", rcx, |facts, _| facts.io.set(UNITS[0] + ECAP, u64::MAX)),
        case("TDH.IOMMU.SETUP-9", busy(), |facts, _| facts.contended.push(LockName::Iommu)),
        case("TDH.IOMMU.SETUP-3a", rdx, |_, regs| regs.rdx += 8),
        case("TDH.IOMMU.SETUP-3a", rdx, |_, regs| regs.rdx |= 1 << 55),
        case("TDH.IOMMU.SETUP-3a", rdx, |_, regs| regs.rdx = SEAMRR),
        case("TDH.IOMMU.SETUP-3a", rdx, |_, regs| regs.rdx = POOL),
        case("TDH.IOMMU.SETUP-3b", rdx, |facts, _| entry(facts, 0, TABLE | 3)),
        case("TDH.IOMMU.SETUP-3b", rdx, |facts, _| entry(facts, 1, (TABLE + 0x10_0000) | 256)),
        case("TDH.IOMMU.SETUP-3b", rdx, |facts, _| entry(facts, 0, (TABLE + 0x1000) | 2)),
        case("TDH.IOMMU.SETUP-3b", rdx, |facts, _| entry(facts, 1, 0)),
        case("TDH.IOMMU.SETUP-3c", rdx, |facts, _| entry(facts, 1, TABLE + 2 * PAGE_SIZE)),
        case("TDH.IOMMU.SETUP-3d", rdx, |facts, _| entry(facts, 4, TABLE + 0x1_0008)),
        case("TDH.IOMMU.SETUP-3d", rdx, |facts, _| entry(facts, 1 + SINGLES, 0)),
        case("TDH.IOMMU.SETUP-3d", rdx, |facts, _| entry(facts, 2 + SINGLES, TABLE + 0x1_0000)),
        case("TDH.IOMMU.SETUP-3d", rdx, |facts, _| entry(facts, 511, TABLE + 0x1_0000)),
        case("TDH.IOMMU.SETUP-3e", not_ready, |facts, _| entry(facts, 4, 6 * GIB)),
        case("TDH.IOMMU.SETUP-3e", not_ready, |facts, _| entry(facts, 1, (5 * GIB) | 2)),
        case("TDH.IOMMU.SETUP-3e", not_ready, |facts, _| entry(facts, 4, 0x40_0000)),
        case("TDH.IOMMU.SETUP-3f", in_use, |facts, _| entry(facts, 4, POOL)),
        case("TDH.IOMMU.SETUP-3f", in_use, |facts, _| entry(facts, 0, POOL | 2)),
        case("TDH.IOMMU.SETUP-3f", in_use, |facts, _| entry(facts, 4, TABLE)),
        case("TDH.IOMMU.SETUP-4", enabled, |facts, _| facts.io.set(KEY_UNITS[0] + 4 + 36 * 3, 1)),
        case("TDH.IOMMU.SETUP-5a", WRONG_STATE, |facts, _| facts.io.set(UNITS[0] + ECRSP, 1)),
        case("TDH.IOMMU.SETUP-5b", WRONG_STATE, |facts, _| facts.io.set(UNITS[0] + ESTS0, TMS)),
        case("TDH.IOMMU.SETUP-5c", WRONG_STATE, |facts, _| facts.io.flip(UNITS[0] + GSTS, 1 << 30)),
        case("TDH.IOMMU.SETUP-5d", WRONG_STATE, |facts, _| facts.io.flip(UNITS[0] + GSTS, 1 << 26)),
        case("TDH.IOMMU.SETUP-5e", WRONG_STATE, |facts, _| facts.io.flip(UNITS[0] + GSTS, 1 << 31)),
        case("TDH.IOMMU.SETUP-5f", WRONG_STATE, |facts, _| facts.io.set(UNITS[0] + PMEN, 1)),
        case("TDH.IOMMU.SETUP-5g", WRONG_STATE, |facts, _| facts.io.flip(UNITS[0] + RTADDR, 1 << 10)),
        case("TDH.IOMMU.SETUP-5g", WRONG_STATE, |facts, _| facts.io.flip(UNITS[0] + RTADDR, 1 << 11)),
        Case {
            outputs: |regs| regs.rcx = UNIT_IDS[0],
            ..case("TDH.IOMMU.SETUP-7a", failed, |facts, _| facts.io.command_status = 5)
        },
        Case {
            outputs: |regs| regs.rcx = UNIT_IDS[0],
            ..case("TDH.IOMMU.SETUP-7b", failed, |facts, _| facts.io.stubborn = true)
        },
    ]
}

#[test]
fn setup_refuses_with_its_status_and_keeps_no_page() {
    let trial = Trial { bench: prepared, lp: 1, good: || setup(0) };
    trial.refuses(&cases(), |_| {});
    trial.orders(
        &cases(),
        &[
            "TDH.IOMMU.SETUP-1c before TDH.IOMMU.SETUP-9",
            "TDH.IOMMU.SETUP-9 before TDH.IOMMU.SETUP-3a",
            "TDH.IOMMU.SETUP-3a before TDH.IOMMU.SETUP-3b",
            "TDH.IOMMU.SETUP-3d before TDH.IOMMU.SETUP-4",
            "TDH.IOMMU.SETUP-3e before TDH.IOMMU.SETUP-4",
            "TDH.IOMMU.SETUP-3f before TDH.IOMMU.SETUP-4",
            "TDH.IOMMU.SETUP-4 before TDH.IOMMU.SETUP-5a",
            "TDH.IOMMU.SETUP-5g before TDH.IOMMU.SETUP-7a",
        ],
    );
    let bench = prepared();
    bench.hw.set(|facts| {
        facts.interrupt = true;
        facts.io.set(UNITS[0] + PMEN, 1);
    });
    // "TDH.IOMMU.SETUP-5 before TDH.IOMMU.SETUP-8"
    assert_eq!(status(&bench, 0, setup(0)), WRONG_STATE);
}

#[test]
fn a_unit_without_registers_there_reads_as_enabled() {
    let bench = prepared();
    bench.hw.set(|facts| {
        for offset in (0..0x2_0000).step_by(4) {
            facts.io.set(KEY_UNITS[0] + offset, u64::MAX);
        }
    });
    let expected = StatusCode::IOMMU_KCB_MUST_BE_DISABLED.plain();
    assert_eq!(status(&bench, 0, setup(0)), expected, "TDH.IOMMU.SETUP-4");
}

/// Registers that the module wrote, and what is protected.
fn hardware(bench: &Bench) -> impl PartialEq + std::fmt::Debug + use<> {
    let IoFacts { registers, protected, commands, .. } = bench.hw.facts().io;
    (registers, protected, commands)
}

#[test]
fn a_unit_in_tdx_mode_has_its_tables_and_keeps_its_registers() {
    let bench = prepared();
    let after = bench.ok(0, SeamcallLeaf::IOMMU_SETUP, setup_regs(0));
    assert_eq!(after.rcx, UNIT_IDS[0]);
    let io = bench.hw.facts().io;
    let key = GLOBAL_KEY << 46;
    let first_single = TABLE + 4 * PAGE_SIZE;
    for (register, value) in
        [(TDX_MODE, 1), (T_RTADDR, first_single | key), (T_IQA, TABLE | key | 1 << 11 | 1), (ESTS0, TMS)]
    {
        assert_eq!(io.register(UNITS[0] + register), value, "{register:#x}");
    }
    assert_eq!(io.commands, [UNITS[0]]);
    let covers = |offset: u64| {
        let pa = PhysAddr::new(UNITS[0] + offset);
        io.protected.iter().any(|range| range.contains(pa))
    };
    for offset in [0x18, 0x20, 0x64, 0x7F, 0x90, 0x220, 0x228, 0x230, 0x238, 0x240, 0x247, ECMD] {
        assert!(covers(offset), "{offset:#x}");
    }
    for offset in [0x10, 0x1C, 0x34, 0x80, 0x88, 0x248, 0x410, 0x1000] {
        assert!(!covers(offset), "{offset:#x}: the host still needs it");
    }
    let key_unit = PhysRange::from_size(PhysAddr::new(KEY_UNITS[0]), 0x2_0000).expect("a range");
    assert!(io.protected.contains(&key_unit));
    let own: Vec<_> =
        bench.connect().pages.into_iter().filter(|&(_, owner)| owner == Owner::Unit(0)).collect();
    let all = PhysRange::from_size(PhysAddr::new(TABLE), 12 * PAGE_SIZE).expect("a range");
    assert_eq!(own, [(all, Owner::Unit(0))]);
    assert!(bench.hw.initialised().contains(&(all, tdx_abi::KeyId::new(32))));
    let unit = &bench.connect().units[0];
    assert_eq!((unit.mode, unit.id.0, unit.generation), (UnitMode::Trusted, UNIT_IDS[0], 0));
}

#[test]
fn blocks_of_one_page_and_of_128_do() {
    for (pages, raw, size) in [(1u64, 0, 0), (128, 128, 7)] {
        let bench = prepared();
        bench.hw.set(|facts| {
            entry(facts, 0, TABLE | raw);
            entry(facts, 1, (TABLE + pages * PAGE_SIZE) | raw);
            for single in 0..SINGLES {
                entry(facts, 2 + single, TABLE + (2 * pages + single) * PAGE_SIZE);
            }
        });
        assert_eq!(status(&bench, 0, setup(0)), Status::SUCCESS, "{pages}");
        assert_eq!(bench.hw.facts().io.register(UNITS[0] + T_IQA) & 7, size);
        assert_eq!(bench.pages_of(Owner::Unit(0)), 2 * pages + SINGLES);
    }
}

#[test]
fn a_unit_is_set_up_once() {
    let bench = trusted();
    let before = bench.state();
    assert_eq!(status(&bench, 0, setup(0)), WRONG_STATE, "TDH.IOMMU.SETUP-2");
    let broken = Registers { rdx: 8, ..setup(0) };
    // "TDH.IOMMU.SETUP-2 before TDH.IOMMU.SETUP-3"
    assert_eq!(status(&bench, 0, broken), WRONG_STATE);
    bench.hw.set(|facts| facts.contended.push(LockName::Iommu));
    // "TDH.IOMMU.SETUP-9 before TDH.IOMMU.SETUP-2"
    assert_eq!(status(&bench, 0, setup(0)), busy());
    assert_eq!(bench.state(), before);
    assert_eq!(bench.connect().units.iter().filter(|unit| unit.mode == UnitMode::Trusted).count(), 2);
}

#[test]
fn pages_of_one_unit_are_none_for_another() {
    let bench = prepared();
    assert_eq!(status(&bench, 0, setup(0)), Status::SUCCESS);
    bench.hw.set(|facts| facts.put_page(ROOT + PAGE_SIZE, &table(0)));
    let expected = StatusCode::IOMMU_MT_PAGE_IN_USE.plain();
    assert_eq!(status(&bench, 0, setup(1)), expected, "TDH.IOMMU.SETUP-3f");
}

#[test]
fn setup_stops_at_every_look_and_goes_on_without_doing_anything_twice() {
    let straight = prepared();
    assert_eq!(status(&straight, 0, setup(0)), Status::SUCCESS);
    let mut stops = 0;
    for look in 0.. {
        let bench = prepared();
        bench.hw.set(|facts| facts.interrupt_after = Some(look));
        let first = status(&bench, 0, setup(0));
        if first == Status::SUCCESS {
            break;
        }
        assert_eq!(first, INTERRUPTED, "TDH.IOMMU.SETUP-8: look {look}");
        stops += 1;
        assert!(bench.connect().interrupted);
        assert_eq!(bench.connect().units[0].mode, UnitMode::SettingUp);
        assert_eq!(bench.pages_of(Owner::Unit(0)), 12, "its pages are taken once");
        let other_root = Registers { rdx: ROOT + PAGE_SIZE, ..setup(0) };
        assert_eq!(status(&bench, 0, other_root), invalid(OperandId::RDX), "TDH.IOMMU.SETUP-3a");
        let after = bench.raw(3, setup(0)).expect("an answer");
        assert_eq!((Status::from_raw(after.rax), after.rcx), (Status::SUCCESS, UNIT_IDS[0]), "look {look}");
        assert_eq!(hardware(&bench), hardware(&straight), "look {look}");
        assert!(!bench.connect().interrupted);
    }
    assert_eq!(stops, 6, "three steps, and three looks at a command under way");
    let bench = prepared();
    bench.hw.set(|facts| facts.interrupt = true);
    let (after, calls) = bench.resume(0, setup(0));
    assert_eq!((Status::from_raw(after.rax), calls), (Status::SUCCESS, 7), "every call gets on");
}

#[test]
fn a_slow_unit_is_asked_again_and_not_commanded_again() {
    let timeout = StatusCode::IOMMU_ECMD_TIMEOUT.plain();
    let bench = prepared();
    bench.hw.set(|facts| facts.io.polls = 150);
    for _ in 0..2 {
        let after = bench.raw(0, setup(0)).expect("an answer");
        assert_eq!(Status::from_raw(after.rax), timeout, "TDH.IOMMU.SETUP-6");
        assert_eq!(after.rcx, UNIT_IDS[0]);
        assert_eq!(bench.connect().units[0].mode, UnitMode::SettingUp);
    }
    assert_eq!(status(&bench, 0, setup(0)), Status::SUCCESS);
    assert_eq!(bench.hw.facts().io.commands, [UNITS[0]], "one command");
}

#[test]
fn a_host_that_gives_a_slow_unit_up_gets_its_pages_back() {
    let bench = prepared();
    bench.hw.set(|facts| facts.io.polls = 70);
    let after = bench.raw(0, setup(0)).expect("an answer");
    assert_eq!(Status::from_raw(after.rax), StatusCode::IOMMU_ECMD_TIMEOUT.plain(), "TDH.IOMMU.SETUP-6");
    bench.hw.set(|facts| {
        facts.io.polls = 1;
        facts.put_page(ROOT, &[]);
    });
    bench.ok(0, SeamcallLeaf::IOMMU_CLEAR, clear_regs(after.rcx, 0));
    assert_eq!(bench.pages_of(Owner::Unit(0)), 0);
    let io = bench.hw.facts().io;
    assert!(io.protected.is_empty());
    assert_eq!(io.register(UNITS[0] + ESTS0), 0, "it went into TDX mode late, and out again");
}

#[test]
fn a_unit_that_is_odd_behind_the_command_is_taken_out_again() {
    for spoil in [|io: &mut IoFacts| io.head = 2 * PAGE_SIZE, |io: &mut IoFacts| io.spoils_status = true] {
        for stuck in [false, true] {
            let bench = prepared();
            bench.hw.set(|facts| {
                spoil(&mut facts.io);
                facts.io.stuck = stuck;
            });
            let after = bench.raw(0, setup(0)).expect("an answer");
            // "TDH.IOMMU.SETUP-7c", "TDH.IOMMU.SETUP-7d"
            assert_eq!(Status::from_raw(after.rax), StatusCode::IOMMU_ECMD_ERROR.plain());
            assert_eq!(after.rcx, UNIT_IDS[0]);
            let (mode, pages) = if stuck { (UnitMode::Clearing, 12) } else { (UnitMode::Ordinary, 0) };
            assert_eq!((bench.connect().units[0].mode, bench.pages_of(Owner::Unit(0))), (mode, pages));
            assert_eq!(bench.hw.facts().io.protected.is_empty(), !stuck);
            if stuck {
                assert_eq!(status(&bench, 0, setup(0)), WRONG_STATE, "TDH.IOMMU.SETUP-2");
                bench.hw.set(|facts| facts.io.stuck = false);
            }
            bench.ok(0, SeamcallLeaf::IOMMU_CLEAR, clear_regs(after.rcx, 0));
            assert_eq!(
                (bench.connect().units[0].mode, bench.pages_of(Owner::Unit(0))),
                (UnitMode::Ordinary, 0)
            );
        }
    }
}

#[test]
fn another_lp_meets_a_locked_unit_and_free_neighbours() {
    let clear = with_leaf(SeamcallLeaf::IOMMU_CLEAR, 0, clear_regs(UNIT_IDS[0], 0));
    for (regs, expected) in [(setup(0), busy()), (clear, busy()), (setup(1), Status::SUCCESS)] {
        let bench = prepared();
        bench.table_of(1);
        let moment = Moment::MmioWrite(UNITS[0] + ECMD);
        bench.hw.intrude(moment, &bench.software, LpIndex(2), regs);
        assert_eq!(status(&bench, 0, setup(0)), Status::SUCCESS);
        let met = bench.hw.intrusion().expect("an answer");
        assert_eq!(Status::from_raw(met.rax), expected, "TDH.IOMMU.SETUP-9");
    }
}
