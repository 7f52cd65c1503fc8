//! Whatever a host does with units, pool and updates: each page has one owner, and all but those of the pool
//! come back.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::status::{Status, StatusCode};
use tdx_abi::{PAGE_SIZE, Registers};
use tdx_module::inspect::{Owner, UnitMode};

use crate::common::connect::{
    LIST, POOL, POOL_PAGES, ROOT, TDX_CONNECT, clear_regs, list_of, opted_in, setup_regs, table,
};
use crate::common::fake_io::UNIT_IDS;
use crate::common::{Bench, config, with_leaf};
use crate::handoff::{successor, update};
use crate::sys_shutdown::shutdown;

#[derive(Clone, Copy, Debug)]
enum Move {
    /// Sets a unit up with the pages of a table.
    Setup {
        unit: u64,
        table: u64,
    },
    Clear {
        unit: u64,
    },
    /// Gives some of the pages that the pool still needs.
    Add {
        pages: u64,
    },
    Init,
    Update,
    /// An interrupt comes at this look of the next call.
    Interrupt {
        look: u32,
    },
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        3 => (0u64..2, 0u64..3).prop_map(|(unit, table)| Move::Setup { unit, table }),
        3 => (0u64..2).prop_map(|unit| Move::Clear { unit }),
        2 => (1u64..40).prop_map(|pages| Move::Add { pages }),
        1 => Just(Move::Init),
        1 => Just(Move::Update),
        2 => (0u32..5).prop_map(|look| Move::Interrupt { look }),
    ];
    proptest::collection::vec(one, 1..30)
}

/// What the host believes.
#[derive(Debug, Default)]
struct Host {
    /// Table that each unit in TDX mode has.
    units: BTreeMap<u64, u64>,
    pool: u64,
    extended: bool,
}

fn status(regs: Registers) -> Status {
    Status::from_raw(regs.rax)
}

fn play(bench: Bench, host: &mut Host, step: Move) -> Bench {
    match step {
        Move::Setup { unit, table: number } => {
            bench.hw.set(|facts| facts.put_page(ROOT + unit * PAGE_SIZE, &table(number)));
            let (after, _) = bench.resume(0, with_leaf(SeamcallLeaf::IOMMU_SETUP, 0, setup_regs(unit)));
            if host.units.contains_key(&unit) {
                assert_eq!(status(after), StatusCode::IOMMU_INVALID_STATE.plain());
            } else if host.units.values().any(|&used| used == number) {
                assert_eq!(status(after), StatusCode::IOMMU_MT_PAGE_IN_USE.plain());
            } else {
                assert_eq!(status(after), Status::SUCCESS);
                assert_eq!(after.rcx, UNIT_IDS[usize::try_from(unit).expect("small")]);
                host.units.insert(unit, number);
            }
        }
        Move::Clear { unit } => {
            bench.hw.set(|facts| facts.put_page(ROOT + unit * PAGE_SIZE, &[]));
            let id = UNIT_IDS[usize::try_from(unit).expect("small")];
            let (after, _) = bench.resume(0, with_leaf(SeamcallLeaf::IOMMU_CLEAR, 0, clear_regs(id, unit)));
            assert_eq!(status(after), Status::SUCCESS);
            if let Some(number) = host.units.remove(&unit) {
                let back: Vec<u64> =
                    (0..10).map(|index| bench.hw.word(ROOT + unit * PAGE_SIZE + 8 * index)).collect();
                assert_eq!(back, table(number), "every page back");
            }
        }
        Move::Add { pages } => {
            let pages = pages.min(POOL_PAGES - host.pool);
            let list: Vec<u64> = (host.pool..host.pool + pages).map(|page| POOL + page * PAGE_SIZE).collect();
            bench.hw.set(|facts| facts.put_page(LIST, &list));
            let count = usize::try_from(pages.max(1)).expect("small");
            let mut regs = with_leaf(
                SeamcallLeaf::EXT_MEM_ADD,
                0,
                Registers { rcx: list_of(count), ..Registers::default() },
            );
            let mut after = bench.raw(0, regs).expect("an answer");
            while status(after) == StatusCode::INTERRUPTED_RESUMABLE.plain() {
                regs.rcx = after.rcx;
                after = bench.raw(0, regs).expect("an answer");
            }
            assert_eq!(status(after) == Status::SUCCESS, pages != 0);
            host.pool += pages;
        }
        Move::Init => {
            let (after, _) = bench.resume(0, with_leaf(SeamcallLeaf::EXT_INIT, 0, Registers::default()));
            let ready = host.pool == POOL_PAGES;
            assert_eq!(status(after) == Status::SUCCESS, ready);
            host.extended = ready;
        }
        Move::Update => {
            bench.hw.set(|facts| facts.interrupt_after = None);
            assert_eq!(bench.raw(0, shutdown(2)).map(status), Some(Status::SUCCESS));
            let heir = successor(&bench, config("connect"));
            heir.hw.restore(bench.hw.facts());
            assert_eq!(heir.raw(0, update(1, TDX_CONNECT)).map(status), Some(Status::SUCCESS));
            host.extended = false;
            return heir;
        }
        Move::Interrupt { look } => bench.hw.set(|facts| facts.interrupt_after = Some(look)),
    }
    bench
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_page_has_one_owner_and_comes_back(moves in moves()) {
        let mut bench = opted_in();
        let mut host = Host::default();
        for step in moves {
            bench = play(bench, &mut host, step);
            let connect = bench.connect();
            prop_assert!(connect.pages.windows(2).all(|pair| pair[0].0.end() <= pair[1].0.start()));
            prop_assert_eq!(bench.pages_of(Owner::Pool), host.pool);
            prop_assert_eq!(u64::from(connect.pool_pages_missing), POOL_PAGES - host.pool);
            prop_assert_eq!(connect.ext_ready, host.extended);
            prop_assert!(!connect.interrupted);
            for unit in 0..2u16 {
                let trusted = host.units.contains_key(&unit.into());
                let found = &connect.units[usize::from(unit)];
                prop_assert_eq!(found.mode == UnitMode::Trusted, trusted);
                prop_assert_eq!(bench.pages_of(Owner::Unit(unit)), if trusted { 12 } else { 0 });
            }
            let protected = bench.hw.facts().io.protected;
            prop_assert_eq!(protected.len(), 7 * host.units.len());
        }
        for unit in 0..2 {
            bench = play(bench, &mut host, Move::Clear { unit });
        }
        let connect = bench.connect();
        prop_assert!(connect.pages.iter().all(|&(_, owner)| owner == Owner::Pool));
        prop_assert!(bench.hw.facts().io.protected.is_empty());
    }
}
