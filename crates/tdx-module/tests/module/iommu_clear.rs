//! TDH.IOMMU.CLEAR.

use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_abi::{PAGE_SIZE, Registers};
use tdx_module::inspect::{Owner, UnitMode};
use tdx_module::{LockName, LpIndex};

use crate::common::connect::{POOL, ROOT, clear_regs, extended, setup_regs, table, trusted};
use crate::common::fake_io::{ECMD, ESTS0, IoFacts, T_IQA, T_RTADDR, TDX_MODE, UNIT_IDS, UNITS};
use crate::common::{Bench, Case, Facts, GLOBAL_KEY, Moment, SEAMRR, Trial, with_leaf};

const INTERRUPTED: Status = StatusCode::INTERRUPTED_RESUMABLE.plain();
fn busy() -> Status {
    StatusCode::OPERAND_BUSY.with_operand(OperandId::RCX)
}

fn clear(unit: u64) -> Registers {
    let id = UNIT_IDS[usize::try_from(unit).expect("a unit")];
    with_leaf(SeamcallLeaf::IOMMU_CLEAR, 0, clear_regs(id, unit))
}

fn status(bench: &Bench, lp: u32, regs: Registers) -> Status {
    Status::from_raw(bench.raw(lp, regs).expect("an answer").rax)
}

fn case(row: &'static str, status: Status, spoil: fn(&mut Facts, &mut Registers)) -> Case {
    Case { row, spoil, status, outputs: |_| {} }
}

fn cases() -> Vec<Case> {
    let invalid = |operand| StatusCode::OPERAND_INVALID.with_operand(operand);
    let (rcx, rdx) = (invalid(OperandId::RCX), invalid(OperandId::RDX));
    vec![
        case("TDH.IOMMU.CLEAR-1", rcx, |_, regs| regs.rcx = 0x22),
        case("TDH.IOMMU.CLEAR-1", rcx, |_, regs| regs.rcx |= 1 << 8),
        case("TDH.IOMMU.CLEAR-1", rcx, |_, regs| regs.rcx = u64::MAX),
        case("TDH.IOMMU.CLEAR-4", busy(), |facts, _| facts.contended.push(LockName::Iommu)),
        case("TDH.IOMMU.CLEAR-6", rdx, |_, regs| regs.rdx += 8),
        case("TDH.IOMMU.CLEAR-6", rdx, |_, regs| regs.rdx |= GLOBAL_KEY << 46),
        case("TDH.IOMMU.CLEAR-6", rdx, |_, regs| regs.rdx = SEAMRR),
        case("TDH.IOMMU.CLEAR-6", rdx, |_, regs| regs.rdx = POOL),
        case("TDH.IOMMU.CLEAR-6", rdx, |_, regs| regs.rdx = u64::MAX),
    ]
}

#[test]
fn clear_refuses_with_its_status_and_changes_nothing() {
    let trial = Trial { bench: trusted, lp: 1, good: || clear(0) };
    trial.refuses(&cases(), |_| {});
    trial.orders(
        &cases(),
        &["TDH.IOMMU.CLEAR-1 before TDH.IOMMU.CLEAR-4", "TDH.IOMMU.CLEAR-4 before TDH.IOMMU.CLEAR-6"],
    );
    let bench = trusted();
    bench.hw.set(|facts| facts.interrupt = true);
    // "TDH.IOMMU.CLEAR-6 before TDH.IOMMU.CLEAR-3"
    let expected = StatusCode::OPERAND_INVALID.with_operand(OperandId::RDX);
    assert_eq!(status(&bench, 0, Registers { rdx: 8, ..clear(0) }), expected);
}

/// Registers of both units, and what is protected.
fn hardware(bench: &Bench) -> impl PartialEq + std::fmt::Debug + use<> {
    let IoFacts { registers, protected, commands, .. } = bench.hw.facts().io;
    (registers, protected, commands)
}

#[test]
fn a_cleared_unit_gives_its_pages_back_and_can_be_set_up_again() {
    let bench = trusted();
    bench.hw.set(|facts| facts.put_page(ROOT, &[7; 512]));
    bench.ok(0, SeamcallLeaf::IOMMU_CLEAR, clear_regs(UNIT_IDS[0], 0));
    let mut words = table(0);
    words.resize(512, 0);
    let root: Vec<u64> = (0..512).map(|index| bench.hw.word(ROOT + 8 * index)).collect();
    assert_eq!(root, words, "the list as it was given, and nothing else");
    assert_eq!((bench.pages_of(Owner::Unit(0)), bench.pages_of(Owner::Unit(1))), (0, 12));
    let io = bench.hw.facts().io;
    for register in [TDX_MODE, T_RTADDR, T_IQA, ESTS0] {
        assert_eq!(io.register(UNITS[0] + register), 0, "{register:#x}");
    }
    assert!(io.protected.iter().all(|range| range.start().as_u64() >= UNITS[1]), "unit 1 keeps its own");
    let unit = &bench.connect().units[0];
    assert_eq!((unit.mode, unit.generation), (UnitMode::Ordinary, 1));
    bench.ok(0, SeamcallLeaf::IOMMU_SETUP, setup_regs(0));
    assert_eq!(bench.connect().units[0].generation, 1);
}

#[test]
fn clearing_a_unit_that_was_never_set_up_makes_old_metadata_worthless() {
    let bench = extended();
    for generation in 1..3 {
        let nowhere = Registers { rdx: u64::MAX, ..clear(1) };
        assert_eq!(status(&bench, 0, nowhere), Status::SUCCESS, "it has nothing to give back");
        assert_eq!(bench.connect().units[1].generation, generation);
    }
    assert!(bench.hw.facts().io.commands.is_empty());
}

#[test]
fn clear_stops_at_every_look_and_goes_on_without_doing_anything_twice() {
    let straight = trusted();
    assert_eq!(status(&straight, 0, clear(0)), Status::SUCCESS);
    let mut stops = 0;
    for look in 0.. {
        let bench = trusted();
        bench.hw.set(|facts| facts.interrupt_after = Some(look));
        let first = status(&bench, 0, clear(0));
        if first == Status::SUCCESS {
            break;
        }
        assert_eq!(first, INTERRUPTED, "TDH.IOMMU.CLEAR-3: look {look}");
        stops += 1;
        assert!(bench.connect().interrupted);
        assert_eq!(bench.pages_of(Owner::Unit(0)), 12, "all or nothing");
        let setup = with_leaf(SeamcallLeaf::IOMMU_SETUP, 0, setup_regs(0));
        assert_eq!(status(&bench, 0, setup), StatusCode::IOMMU_INVALID_STATE.plain(), "TDH.IOMMU.SETUP-2");
        assert_eq!(status(&bench, 2, clear(0)), Status::SUCCESS);
        assert_eq!(hardware(&bench), hardware(&straight), "look {look}");
        assert!(!bench.connect().interrupted);
    }
    assert_eq!(stops, 4, "behind the command, and three looks at it");
}

#[test]
fn a_unit_that_stays_in_tdx_mode_keeps_its_pages() {
    let bench = trusted();
    bench.hw.set(|facts| facts.io.polls = 100);
    assert_eq!(status(&bench, 0, clear(0)), StatusCode::IOMMU_ECMD_TIMEOUT.plain(), "TDH.IOMMU.CLEAR-7");
    assert_eq!(bench.pages_of(Owner::Unit(0)), 12);
    assert_eq!(status(&bench, 0, clear(0)), Status::SUCCESS, "the same command, later");
    assert_eq!(bench.hw.facts().io.commands.len(), 3, "two units set up, one cleared");

    let bench = trusted();
    bench.hw.set(|facts| facts.io.command_status = 1);
    for _ in 0..2 {
        assert_eq!(status(&bench, 0, clear(0)), StatusCode::IOMMU_ECMD_ERROR.plain(), "TDH.IOMMU.CLEAR-8");
        assert_eq!(bench.pages_of(Owner::Unit(0)), 12);
        assert!(!bench.hw.facts().io.protected.is_empty());
    }
    bench.hw.set(|facts| facts.io.command_status = 0);
    assert_eq!(status(&bench, 0, clear(0)), Status::SUCCESS);
    assert_eq!(bench.pages_of(Owner::Unit(0)), 0);
}

#[test]
fn another_lp_meets_a_locked_unit() {
    let bench = trusted();
    let moment = Moment::MmioWrite(UNITS[0] + ECMD);
    bench.hw.intrude(moment, &bench.software, LpIndex(2), clear(0));
    assert_eq!(status(&bench, 0, clear(0)), Status::SUCCESS);
    let met = bench.hw.intrusion().expect("an answer");
    assert_eq!(Status::from_raw(met.rax), busy(), "TDH.IOMMU.CLEAR-4");
    bench.hw.set(|facts| facts.put_page(ROOT + PAGE_SIZE, &[]));
    assert_eq!(status(&bench, 2, clear(1)), Status::SUCCESS);
}
