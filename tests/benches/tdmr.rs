//! TDMR construction: 24 TiB with 4,000 free ranges under both rule sets, and the curve over memory size.

use std::cell::Cell;
use std::hint::black_box;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion};
use tdx_abi::{PAGE_SIZE, PhysAddr, PhysRange};
use tdx_host::TdmrRules;
use tdx_host::memory::{CmrSet, MemoryBlock};
use tdx_host::tdmr::{TdmrLimits, TdmrTable};
use tdx_host::traits::{AllocRequest, LeakCounter, MemoryFault, NodeId, OwnedPages, Pages};

const GIB: u64 = 1 << 30;
const LIMITS: TdmrLimits = TdmrLimits { max_tdmrs: 64, max_reserved: 16, entry_sizes: [16; 3] };

/// An allocator that costs nothing: it takes from the top of a range downwards.
struct Bump {
    bottom: u64,
    top: Cell<u64>,
}

#[derive(Clone)]
struct NoLeaks;

impl LeakCounter for NoLeaks {
    fn leaked(&self, _: PhysRange) {}
}

impl Pages for Bump {
    type Leaks = NoLeaks;

    fn alloc_contiguous(&self, request: AllocRequest<'_>) -> Option<OwnedPages<NoLeaks>> {
        let bytes = request.bytes.next_multiple_of(PAGE_SIZE);
        let start = self.top.get().checked_sub(bytes)? & !(request.align - 1);
        let range = PhysRange::from_size(PhysAddr::new(start), bytes)?;
        if start < self.bottom || request.avoid.iter().any(|avoid| avoid.overlaps(range)) {
            return None;
        }
        self.top.set(start);
        Some(OwnedPages::from_allocator(range, NoLeaks))
    }

    fn free(&self, pages: OwnedPages<NoLeaks>) {
        pages.into_allocator();
    }

    fn read(&self, pages: &OwnedPages<NoLeaks>, _: u64, _: &mut [u8]) -> Result<(), MemoryFault> {
        Err(MemoryFault::NotMemory(pages.start()))
    }

    fn write(&self, pages: &OwnedPages<NoLeaks>, _: u64, _: &[u8]) -> Result<(), MemoryFault> {
        Err(MemoryFault::NotMemory(pages.start()))
    }

    fn clear(&self, _: PhysRange) {}

    fn flush(&self, _: PhysRange) {}
}

/// `tib` TiB from 4 GiB up in `ranges` ranges, a page in use behind each. The last eighth is one piece,
/// so that there is room for PAMTs.
fn memory(tib: u64, ranges: u64) -> Vec<MemoryBlock> {
    let bytes = tib * 1024 * GIB;
    let (free, broken) = (bytes / 8, bytes - bytes / 8);
    let each = broken / ranges / PAGE_SIZE * PAGE_SIZE;
    let block = |start: u64, size: u64| MemoryBlock {
        range: PhysRange::from_size(PhysAddr::new(start), size).expect("far below 2^64"),
        node: NodeId(0),
    };
    let mut blocks: Vec<_> = (0..ranges).map(|i| block(4 * GIB + i * each, each - PAGE_SIZE)).collect();
    blocks.push(block(4 * GIB + broken, free));
    blocks
}

/// One construction; true if it ended well rather than in a named limit.
fn build(rules: TdmrRules, tib: u64, blocks: &[MemoryBlock], cmrs: &CmrSet) -> bool {
    let top = 4 * GIB + tib * 1024 * GIB;
    let pages = Bump { bottom: top - tib * 128 * GIB, top: Cell::new(top) };
    let mut table = TdmrTable::new();
    let built = table.build(rules, black_box(blocks), cmrs, &LIMITS, &pages);
    built.is_ok()
}

fn cmrs(tib: u64) -> CmrSet {
    CmrSet::new(PhysRange::from_size(PhysAddr::new(4 * GIB), tib * 1024 * GIB)).expect("one range")
}

/// Memory sizes of the curve in TiB. The number of free ranges grows with the memory.
const CURVE: [u64; 4] = [1, 4, 16, 64];
const RANGES_PER_TIB: u64 = 160;

fn construction(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tdmr/24 TiB, 4000 ranges");
    for (name, rules) in [("tdxhost", TdmrRules::Tdxhost), ("linux-7.3", TdmrRules::Linux73)] {
        let (blocks, cmrs) = (memory(24, 4000), cmrs(24));
        println!(
            "{name}: {}",
            if build(rules, 24, &blocks, &cmrs) { "built" } else { "ends in its named limit" }
        );
        group.bench_function(name, |bench| bench.iter(|| build(rules, 24, &blocks, &cmrs)));
    }
    group.finish();
    let mut group = criterion.benchmark_group("tdmr/curve");
    for tib in CURVE {
        let (blocks, cmrs) = (memory(tib, tib * RANGES_PER_TIB), cmrs(tib));
        group.bench_with_input(BenchmarkId::new("tdxhost", format!("{tib} TiB")), &tib, |bench, &tib| {
            bench.iter(|| build(TdmrRules::Tdxhost, tib, &blocks, &cmrs));
        });
    }
    group.finish();
}

/// Fails if the curve grows faster than n log n, with half as much again for noise.
fn check_growth() {
    let best = |tib: u64| {
        let (blocks, cmrs) = (memory(tib, tib * RANGES_PER_TIB), cmrs(tib));
        let run = || {
            let started = Instant::now();
            assert!(build(TdmrRules::Tdxhost, tib, &blocks, &cmrs), "{tib} TiB are built");
            started.elapsed().as_secs_f64()
        };
        std::iter::repeat_with(run).take(200).fold(f64::INFINITY, f64::min)
    };
    let cost = |tib: u64| {
        let ranges = f64::from(u32::try_from(tib * RANGES_PER_TIB).expect("few ranges"));
        ranges * ranges.log2()
    };
    let first = best(CURVE[0]) / cost(CURVE[0]);
    for tib in CURVE {
        let relative = best(tib) / cost(tib) / first;
        println!("{tib} TiB: {relative:.2} of n log n as measured at {} TiB", CURVE[0]);
        assert!(relative <= 1.5, "{tib} TiB: {relative:.2} times what n log n allows");
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    construction(&mut criterion);
    criterion.final_summary();
    check_growth();
}
