//! A module whose host opted into TDX Connect, and the pages that it is given.

use tdx_abi::Registers;
use tdx_abi::connect::pages::IommuBlock;
use tdx_abi::hpa_list::HpaListInfo;
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::status::{Status, StatusCode};
use tdx_abi::{PAGE_SIZE, PhysAddr};
use tdx_module::inspect::{ConnectInspection, Owner};
use tdx_module::{LoaderConfig, ModuleConfig};

use super::fake_io::UNITS;
use super::{Bench, Facts, GIB, Stage, TDMRS, config, config_regs, with_leaf};

/// The opt-in of TDX Connect.
pub(crate) const TDX_CONNECT: u64 = 1 << 6;
/// Pages of the default module's memory pool.
pub(crate) const POOL_PAGES: u64 = 64;
/// First page of the pool; the others follow.
pub(crate) const POOL: u64 = 4 * GIB + 0x10_0000;
/// First page of the table of unit 0; that of unit i lies `i * TABLE_STEP` further.
pub(crate) const TABLE: u64 = 4 * GIB + 0x100_0000;
pub(crate) const TABLE_STEP: u64 = 0x10_0000;
/// Where tests put pages for other objects.
pub(crate) const OBJECTS: u64 = 4 * GIB + 0x800_0000;
/// A list page of the host.
pub(crate) const LIST: u64 = 0x30_0000;
/// Root page of the table of unit i: `ROOT + i * PAGE_SIZE`.
pub(crate) const ROOT: u64 = 0x31_0000;
/// Single pages of the table of a default module.
pub(crate) const SINGLES: u64 = 8;

/// A module that is ready with one TDMR, GiB 4 to 5, initialised.
pub(crate) fn opted_in_with(module: ModuleConfig) -> Bench {
    opted_in_below(module, LoaderConfig::default())
}

/// The same below this loader.
pub(crate) fn opted_in_below(module: ModuleConfig, loader: LoaderConfig) -> Bench {
    let bench = Bench::with_loader(Some(module), loader);
    bench.advance(Stage::LpsInitialised);
    let regs = Registers { r9: TDX_CONNECT, ..config_regs() };
    let after = bench.raw(0, with_leaf(SeamcallLeaf::SYS_CONFIG, 1, regs)).expect("an answer");
    assert_eq!(Status::from_raw(after.rax), Status::SUCCESS);
    bench.program_keys();
    bench.initialise_first_tdmr();
    bench
}

pub(crate) fn opted_in() -> Bench {
    opted_in_with(config("connect"))
}

/// The same with its extensions started.
pub(crate) fn extended() -> Bench {
    let bench = opted_in();
    bench.fill_pool();
    bench.ok(0, SeamcallLeaf::EXT_INIT, Registers::default());
    bench
}

/// The same with units 0 and 1 in TDX mode.
pub(crate) fn trusted() -> Bench {
    let bench = extended();
    for unit in 0..2 {
        bench.ok(0, SeamcallLeaf::IOMMU_SETUP, bench.table_of(unit));
    }
    bench
}

/// Operand that names the first `count` entries of the list page.
pub(crate) fn list_of(count: usize) -> u64 {
    HpaListInfo::of(PhysAddr::new(LIST), count).expect("a list").into_bits()
}

impl Facts {
    /// Writes a page of words.
    pub(crate) fn put_page(&mut self, page: u64, words: &[u64]) {
        for index in 0..512 {
            let word = words.get(index).copied().unwrap_or(0);
            self.memory.insert(page + 8 * index as u64, word);
        }
    }

    /// The root page of a sound table of a unit with blocks of two pages; its pages are a megabyte of
    /// their own.
    pub(crate) fn put_table(&mut self, unit: u64) {
        self.put_page(ROOT + unit * PAGE_SIZE, &table(unit));
    }
}

/// Entries of that table.
pub(crate) fn table(unit: u64) -> Vec<u64> {
    let base = TABLE + unit * TABLE_STEP;
    let block = |index: u64| {
        let start = PhysAddr::new(base + 2 * index * PAGE_SIZE);
        IommuBlock { start, pages: 2 }.entry().expect("a block")
    };
    let singles = (0..SINGLES).map(|index| base + (4 + index) * PAGE_SIZE);
    [block(0), block(1)].into_iter().chain(singles).collect()
}

impl Bench {
    pub(crate) fn initialise_first_tdmr(&self) {
        let (base, size) = TDMRS[0];
        for _ in 0..size >> 22 {
            self.ok(0, SeamcallLeaf::SYS_TDMR_INIT, Registers { rcx: base, ..Registers::default() });
        }
    }

    /// Gives the pool of a default module all its pages.
    pub(crate) fn fill_pool(&self) {
        let pages: Vec<u64> = (0..POOL_PAGES).map(|index| POOL + index * PAGE_SIZE).collect();
        self.hw.set(|facts| facts.put_page(LIST, &pages));
        let regs = Registers { rcx: list_of(pages.len()), ..Registers::default() };
        self.ok(0, SeamcallLeaf::EXT_MEM_ADD, regs);
    }

    /// Writes a sound table for a unit and returns the operands of SETUP.
    pub(crate) fn table_of(&self, unit: u64) -> Registers {
        self.hw.set(|facts| facts.put_table(unit));
        setup_regs(unit)
    }

    /// Calls until the status is another one than INTERRUPTED_RESUMABLE, with the same operands.
    pub(crate) fn resume(&self, lp: u32, regs: Registers) -> (Registers, u32) {
        for calls in 1..1000 {
            let after = self.raw(lp, regs).expect("an answer");
            if Status::from_raw(after.rax) != StatusCode::INTERRUPTED_RESUMABLE.plain() {
                return (after, calls);
            }
        }
        panic!("no end");
    }

    pub(crate) fn connect(&self) -> ConnectInspection {
        self.state().connect.expect("a configured module")
    }

    /// Pages of an owner.
    pub(crate) fn pages_of(&self, owner: Owner) -> u64 {
        let of = |(range, _): &(tdx_abi::PhysRange, Owner)| range.size() / PAGE_SIZE;
        self.connect().pages.iter().filter(|&&(_, one)| one == owner).map(of).sum()
    }
}

/// Operands of SETUP for unit i.
pub(crate) fn setup_regs(unit: u64) -> Registers {
    let base = UNITS[usize::try_from(unit).expect("a unit")];
    Registers { rcx: base, rdx: ROOT + unit * PAGE_SIZE, ..Registers::default() }
}

/// Operands of CLEAR for a unit with this id.
pub(crate) fn clear_regs(id: u64, unit: u64) -> Registers {
    Registers { rcx: id, rdx: ROOT + unit * PAGE_SIZE, ..Registers::default() }
}
