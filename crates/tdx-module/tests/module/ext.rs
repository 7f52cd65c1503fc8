//! TDH.EXT.MEM.ADD and TDH.EXT.INIT.

use tdx_abi::hpa_list::HpaListInfo;
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::metadata::sys;
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_abi::{PAGE_SIZE, Registers};
use tdx_module::LockName;
use tdx_module::inspect::Owner;

use crate::common::connect::{
    LIST, POOL, POOL_PAGES, extended, list_of, opted_in, opted_in_with, setup_regs,
};
use crate::common::{Bench, Case, Facts, GIB, GLOBAL_KEY, Moment, SEAMRR, Stage, Trial, config, with_leaf};

const INTERRUPTED: Status = StatusCode::INTERRUPTED_RESUMABLE.plain();
const WRONG_STATE: Status = StatusCode::SYS_STATE_INCORRECT.plain();

fn invalid_rcx() -> Status {
    StatusCode::OPERAND_INVALID.with_operand(OperandId::RCX)
}

fn case(row: &'static str, status: Status, spoil: fn(&mut Facts, &mut Registers)) -> Case {
    Case { row, spoil, status, outputs: |_| {} }
}

/// A module whose pool needs pages, with a list of as many.
fn hungry() -> Bench {
    let bench = opted_in();
    let pages: Vec<u64> = (0..POOL_PAGES).map(|index| POOL + index * PAGE_SIZE).collect();
    bench.hw.set(|facts| facts.put_page(LIST, &pages));
    bench
}

fn add(count: usize) -> Registers {
    let regs = Registers { rcx: list_of(count), ..Registers::default() };
    with_leaf(SeamcallLeaf::EXT_MEM_ADD, 0, regs)
}

fn init() -> Registers {
    with_leaf(SeamcallLeaf::EXT_INIT, 0, Registers::default())
}

fn status(bench: &Bench, lp: u32, regs: Registers) -> Status {
    Status::from_raw(bench.raw(lp, regs).expect("an answer").rax)
}

fn read(bench: &Bench, id: u64) -> Registers {
    bench.call(0, SeamcallLeaf::SYS_RD, Registers { rdx: id, ..Registers::default() })
}

fn missing(bench: &Bench) -> u64 {
    read(bench, sys::MEMORY_POOL_REQUIRED_PAGES.raw()).r8
}

fn add_cases() -> Vec<Case> {
    let busy = StatusCode::OPERAND_BUSY.with_operand(OperandId::RCX);
    let page = StatusCode::PAGE_METADATA_INCORRECT.with_operand(OperandId::RCX);
    vec![
        case("TDH.EXT.MEM.ADD-7", busy, |facts, _| facts.contended.push(LockName::Extension)),
        case("TDH.EXT.MEM.ADD-4", invalid_rcx(), |_, regs| regs.rcx |= 1),
        case("TDH.EXT.MEM.ADD-4", invalid_rcx(), |_, regs| regs.rcx |= 1 << 52),
        case("TDH.EXT.MEM.ADD-4", invalid_rcx(), |_, regs| regs.rcx |= 64 << 3),
        case("TDH.EXT.MEM.ADD-4", invalid_rcx(), |_, regs| regs.rcx |= GLOBAL_KEY << 46),
        case("TDH.EXT.MEM.ADD-4", invalid_rcx(), |_, regs| {
            regs.rcx = HpaListInfo::of(tdx_abi::PhysAddr::new(SEAMRR), 1).expect("a list").into_bits();
        }),
        case("TDH.EXT.MEM.ADD-5", page, |facts, _| {
            facts.memory.insert(LIST + 63 * 8, 6 * GIB);
        }),
        case("TDH.EXT.MEM.ADD-5", page, |facts, _| {
            facts.memory.insert(LIST + 63 * 8, 0x40_0000);
        }),
        case("TDH.EXT.MEM.ADD-5", invalid_rcx(), |facts, _| {
            facts.memory.insert(LIST + 63 * 8, POOL);
        }),
        case("TDH.EXT.MEM.ADD-5", invalid_rcx(), |facts, _| {
            facts.memory.insert(LIST + 63 * 8, POOL + 0x100_0008);
        }),
        case("TDH.EXT.MEM.ADD-5", invalid_rcx(), |facts, _| {
            facts.memory.insert(LIST + 63 * 8, (POOL + 0x100_0000) | (GLOBAL_KEY << 46));
        }),
        case("TDH.EXT.MEM.ADD-6", invalid_rcx(), |facts, regs| {
            facts.memory.insert(LIST + 64 * 8, POOL + 0x100_0000);
            regs.rcx += 1 << 55;
        }),
    ]
}

#[test]
fn mem_add_refuses_with_its_status_and_takes_no_page() {
    let trial = Trial { bench: hungry, lp: 1, good: || add(64) };
    trial.refuses(&add_cases(), |_| {});
    trial.orders(
        &add_cases(),
        &[
            "TDH.EXT.MEM.ADD-7 before TDH.EXT.MEM.ADD-4",
            "TDH.EXT.MEM.ADD-4 before TDH.EXT.MEM.ADD-5",
            "TDH.EXT.MEM.ADD-5 before TDH.EXT.MEM.ADD-6",
        ],
    );
    let bench = hungry();
    bench.hw.set(|facts| {
        facts.interrupt = true;
        facts.memory.insert(LIST + 64 * 8, POOL + 0x100_0000);
    });
    // "TDH.EXT.MEM.ADD-6 before TDH.EXT.MEM.ADD-1"
    assert_eq!(status(&bench, 0, add(65)), invalid_rcx());
}

#[test]
fn a_page_that_is_in_use_is_no_page_for_the_pool() {
    let bench = hungry();
    assert_eq!(status(&bench, 0, add(1)), Status::SUCCESS);
    let expected = StatusCode::PAGE_METADATA_INCORRECT.with_operand(OperandId::RCX);
    assert_eq!(status(&bench, 0, add(2)), expected, "TDH.EXT.MEM.ADD-5: its first page is the pool's");
    assert_eq!(missing(&bench), POOL_PAGES - 1);
}

#[test]
fn a_pool_that_needs_nothing_takes_nothing() {
    let full = extended();
    // No opt-in: the pool asks for nothing, although the module would.
    let closed = Bench::at("connect", Stage::Ready);
    closed.initialise_first_tdmr();
    for bench in [full, closed] {
        assert_eq!(status(&bench, 0, add(1)), invalid_rcx(), "TDH.EXT.MEM.ADD-3");
        let spoiled = Registers { rcx: list_of(1) | 1, ..add(1) };
        // "TDH.EXT.MEM.ADD-3 before TDH.EXT.MEM.ADD-4": the same status, and nothing is read.
        assert_eq!(status(&bench, 0, spoiled), invalid_rcx());
        bench.hw.set(|facts| facts.contended.push(LockName::Extension));
        // "TDH.EXT.MEM.ADD-7 before TDH.EXT.MEM.ADD-3"
        assert_eq!(status(&bench, 0, add(1)), StatusCode::OPERAND_BUSY.with_operand(OperandId::RCX));
    }
}

#[test]
fn mem_add_goes_on_with_the_list_that_came_back() {
    let bench = hungry();
    bench.hw.set(|facts| facts.interrupt = true);
    let mut regs = add(64);
    let mut left = POOL_PAGES;
    for first in [8, 16, 24, 32, 40, 48, 56] {
        let after = bench.raw(0, regs).expect("an answer");
        assert_eq!(Status::from_raw(after.rax), INTERRUPTED, "TDH.EXT.MEM.ADD-1: {first}");
        let list = HpaListInfo::from_bits(after.rcx);
        assert_eq!((list.first_entry(), list.last_entry(), list.list().as_u64()), (first, 63, LIST));
        left -= 8;
        assert_eq!(missing(&bench), left, "the count is live");
        regs.rcx = after.rcx;
    }
    assert_eq!(status(&bench, 3, regs), Status::SUCCESS, "on another LP");
    assert_eq!(missing(&bench), 0);
    assert_eq!(bench.pages_of(Owner::Pool), POOL_PAGES);
    let given: u64 = bench
        .hw
        .initialised()
        .iter()
        .filter(|(range, _)| range.start().as_u64() >= POOL)
        .map(|(range, _)| range.size())
        .sum();
    assert_eq!(given, POOL_PAGES * PAGE_SIZE, "each page is initialised once");
}

#[test]
fn a_long_list_is_taken_in_bounded_pieces_without_any_interrupt() {
    let mut module = config("connect");
    module.connect.pool_pages = 12_800;
    let bench = opted_in_with(module);
    let pages: Vec<u64> = (0..512).map(|index| POOL + index * PAGE_SIZE).collect();
    bench.hw.set(|facts| facts.put_page(LIST, &pages));
    let mut regs = add(512);
    let mut calls = 0;
    loop {
        let after = bench.raw(0, regs).expect("an answer");
        calls += 1;
        if Status::from_raw(after.rax) != INTERRUPTED {
            assert_eq!(Status::from_raw(after.rax), Status::SUCCESS);
            break;
        }
        regs.rcx = after.rcx;
    }
    assert_eq!((calls, missing(&bench)), (8, 12_800 - 512));
    assert_eq!(bench.connect().pages.len(), 1, "neighbours are one range");
}

#[test]
fn two_lps_do_not_work_on_the_pool_at_once() {
    for (intruder, expected) in [
        (add(64), StatusCode::OPERAND_BUSY.with_operand(OperandId::RCX)),
        (init(), StatusCode::OPERAND_BUSY.plain()),
    ] {
        let bench = hungry();
        bench.hw.intrude(Moment::Read(LIST), &bench.software, tdx_module::LpIndex(2), intruder);
        assert_eq!(status(&bench, 0, add(64)), Status::SUCCESS);
        let met = bench.hw.intrusion().expect("an answer");
        assert_eq!(Status::from_raw(met.rax), expected, "TDH.EXT.INIT-3");
        assert_eq!(missing(&bench), 0);
    }
}

#[test]
fn init_refuses_while_pages_are_missing_or_nothing_is_to_be_started() {
    let hungry = opted_in();
    let mut module = config("connect");
    module.connect.ext_required = false;
    let not_required = opted_in_with(module);
    not_required.fill_pool();
    assert!(not_required.connect().ext_ready, "the pool is all that it needs");
    assert_eq!(read(&not_required, sys::EXT_REQUIRED.raw()).r8, 0);
    let not_opted_in = Bench::at("connect", Stage::Ready);
    for bench in [hungry, not_required, not_opted_in] {
        let before = bench.state();
        assert_eq!(status(&bench, 0, init()), WRONG_STATE, "TDH.EXT.INIT-2");
        assert_eq!(bench.state(), before);
        bench.hw.set(|facts| facts.contended.push(LockName::Extension));
        // "TDH.EXT.INIT-3 before TDH.EXT.INIT-2"
        assert_eq!(status(&bench, 0, init()), StatusCode::OPERAND_BUSY.plain());
    }
}

#[test]
fn init_stops_for_interrupts_and_goes_on() {
    let bench = opted_in();
    bench.fill_pool();
    bench.hw.set(|facts| facts.interrupt = true);
    for _ in 0..4 {
        assert_eq!(status(&bench, 0, init()), INTERRUPTED, "TDH.EXT.INIT-1");
        assert!(bench.connect().interrupted && !bench.connect().ext_ready);
    }
    assert_eq!(status(&bench, 2, init()), Status::SUCCESS, "the fifth step is the last");
    assert!(bench.connect().ext_ready && !bench.connect().interrupted);
    assert_eq!(status(&bench, 0, init()), Status::SUCCESS, "a second start does nothing");
    // A large pool takes more than one call without any interrupt.
    let mut module = config("connect");
    module.connect.pool_pages = 512;
    let bench = opted_in_with(module);
    let pages: Vec<u64> = (0..512).map(|index| POOL + index * PAGE_SIZE).collect();
    bench.hw.set(|facts| facts.put_page(LIST, &pages));
    let mut regs = add(512);
    while let Some(after) = bench.raw(0, regs)
        && Status::from_raw(after.rax) == INTERRUPTED
    {
        regs.rcx = after.rcx;
    }
    let (after, calls) = bench.resume(0, init());
    assert_eq!((Status::from_raw(after.rax), calls), (Status::SUCCESS, 5));
}

#[test]
fn the_fields_of_the_extensions_are_there_once_the_host_opted_in() {
    let closed = Bench::at("connect", Stage::Ready);
    for id in [sys::MEMORY_POOL_REQUIRED_PAGES, sys::EXT_REQUIRED, sys::SPDM_MT_PAGE_COUNT] {
        let answer = Status::from_raw(read(&closed, id.raw()).rax);
        assert_eq!(answer, StatusCode::METADATA_FIELD_ID_INCORRECT.plain(), "{id:?}");
    }
    let mut module = config("connect");
    module.connect.spdm_mt_pages = 1;
    let open = opted_in_with(module);
    for (id, value) in [
        (sys::MEMORY_POOL_REQUIRED_PAGES, 64),
        (sys::EXT_REQUIRED, 1),
        (sys::IDE_MT_PAGE_COUNT, 1),
        (sys::SPDM_MT_PAGE_COUNT, 1),
        (sys::IOMMU_MT_PAGE_COUNT, 8),
        (sys::SPDM_MAX_DEV_INFO_PAGES, 16),
    ] {
        let answer = read(&open, id.raw());
        assert_eq!((Status::from_raw(answer.rax), answer.r8), (Status::SUCCESS, value), "{id:?}");
    }
    open.fill_pool();
    // Earlier hosts know the field under a 16-bit identifier.
    assert_eq!(read(&open, 0x3100_0001_0000_0000).r8, 0);
}

#[test]
fn a_leaf_of_connect_is_unknown_to_a_host_that_did_not_opt_in() {
    let invalid_rax = StatusCode::OPERAND_INVALID.with_operand(OperandId::RAX);
    let closed = Bench::at("connect", Stage::Ready);
    for leaf in [SeamcallLeaf::IOMMU_SETUP, SeamcallLeaf::IOMMU_CLEAR] {
        assert_eq!(closed.status(0, leaf, setup_regs(0)), invalid_rax, "CONNECT-1: {leaf}");
    }
    let open = opted_in();
    open.table_of(0);
    open.ok(0, SeamcallLeaf::IOMMU_SETUP, setup_regs(0));
}
