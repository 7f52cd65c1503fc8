//! TDMRs by both rule sets, judged by a checker that knows only the rules of the structure.

use std::cell::Cell;

use proptest::prelude::*;
use tdx_abi::PhysRange;
use tdx_abi::tdmr::TdmrInfo;
use tdx_host::HostError;
use tdx_host::TdmrRules;
use tdx_host::TdmrRules::{Linux73, Tdxhost};
use tdx_host::memory::{CmrSet, MemoryBlock};
use tdx_host::tdmr::{TdmrLimits, TdmrTable};
use tdx_host::traits::{AllocRequest, NodeId, OwnedPages, Pages};

use crate::fake::{Fake, GIB, Leaks, MIB, range};

const LIMITS: TdmrLimits = TdmrLimits { max_tdmrs: 64, max_reserved: 16, entry_sizes: [16; 3] };

fn block(start: u64, end: u64, node: u32) -> MemoryBlock {
    MemoryBlock { range: range(start, end), node: NodeId(node) }
}

fn blocks_of(ranges: &[(u64, u64)]) -> Vec<MemoryBlock> {
    ranges.iter().map(|&(start, end)| block(start, end, 0)).collect()
}

fn fake_with(blocks: &[MemoryBlock]) -> Fake {
    let fake = Fake::new(1);
    fake.set_memory(blocks.iter().map(|block| (block.range, block.node)).collect());
    fake
}

struct Built {
    infos: Vec<TdmrInfo>,
    pamt_kb: u64,
    tdmrs: Vec<PhysRange>,
    reserved: usize,
}

/// Builds, checks that no page is lost either way, and checks a success by the rules.
fn build(
    rules: TdmrRules,
    blocks: &[MemoryBlock],
    cmrs: &[PhysRange],
    limits: &TdmrLimits,
    fake: &Fake,
) -> Result<Built, HostError> {
    let before = fake.free_bytes();
    let set = CmrSet::new(cmrs.iter().copied()).unwrap();
    let mut table = Box::new(TdmrTable::<Leaks>::new());
    let result = table.build(rules, blocks, &set, limits, fake);
    let built = Built {
        infos: table.iter().map(|tdmr| tdmr.info(limits)).collect(),
        pamt_kb: table.pamt_bytes() / 1024,
        tdmrs: table.iter().map(tdx_host::tdmr::Tdmr::range).collect(),
        reserved: table.iter().map(|tdmr| tdmr.reserved().len()).sum(),
    };
    if result.is_ok() {
        check(&built.infos, blocks, cmrs, limits).unwrap();
    }
    // Building nothing empties the table.
    assert!(table.build(rules, &[], &set, limits, fake).is_err() || table.is_empty());
    assert_eq!(fake.free_bytes(), before, "PAMT pages missing");
    assert_eq!(fake.leaked_pages(), 0);
    result.map(|()| built)
}

/// The rules over all TDMR_INFO entries, word for word, by brute force.
fn check(
    infos: &[TdmrInfo],
    blocks: &[MemoryBlock],
    cmrs: &[PhysRange],
    limits: &TdmrLimits,
) -> Result<(), String> {
    let fail = |what: String| Err(what);
    if infos.is_empty() || infos.len() > usize::from(limits.max_tdmrs) {
        return fail(format!("{} TDMRs", infos.len()));
    }
    let mut sorted: Vec<_> = cmrs.to_vec();
    sorted.sort();
    let mut joined: Vec<PhysRange> = Vec::new();
    for cmr in sorted.into_iter().filter(|cmr| !cmr.is_empty()) {
        match joined.last_mut() {
            Some(last) if last.end() >= cmr.start() => {
                *last = PhysRange::new(last.start(), last.end().max(cmr.end())).unwrap();
            }
            _ => joined.push(cmr),
        }
    }
    let in_cmr = |part: PhysRange| joined.iter().any(|cmr| cmr.covers(part));
    let mut end = 0;
    let mut open: Vec<PhysRange> = Vec::new();
    let mut pamts: Vec<PhysRange> = Vec::new();
    for info in infos {
        let (base, size) = (info.base.get(), info.size.get());
        if base < end || base % GIB != 0 || size == 0 || size % GIB != 0 {
            return fail(format!("TDMR {base:#x}+{size:#x} behind {end:#x}"));
        }
        end = base + size;
        let mut at = base;
        let mut over = false;
        for (i, area) in info.reserved.iter().enumerate() {
            let (offset, bytes) = (area.offset.get(), area.size.get());
            if bytes == 0 {
                over = true;
                continue;
            }
            let start = base + offset;
            if over || i >= usize::from(limits.max_reserved) || offset % 4096 != 0 || bytes % 4096 != 0 {
                return fail(format!("reserved area {i} of {base:#x}"));
            }
            if start < at || start + bytes > end {
                return fail(format!("reserved area {i} of {base:#x} out of order"));
            }
            open.push(range(at, start));
            at = start + bytes;
        }
        open.push(range(at, end));
        for (level, per) in tdx_abi::PageLevel::ALL.into_iter().zip(limits.entry_sizes) {
            let (start, bytes) = info.pamt(level);
            if start % 4096 != 0 || bytes % 4096 != 0 || bytes < size / level.size() * per {
                return fail(format!("PAMT {level} of {base:#x}: {start:#x}+{bytes:#x}"));
            }
            let pamt = range(start, start + bytes);
            if !in_cmr(pamt) || pamts.iter().any(|other| other.overlaps(pamt)) {
                return fail(format!("PAMT {pamt} outside the CMRs or over another"));
            }
            pamts.push(pamt);
        }
    }
    open.retain(|part| !part.is_empty());
    if let Some(part) = open.iter().find(|part| !in_cmr(**part)) {
        return fail(format!("{part} is not reserved and lies outside the CMRs"));
    }
    if let Some((pamt, part)) =
        pamts.iter().flat_map(|p| open.iter().map(move |o| (p, o))).find(|(p, o)| p.overlaps(**o))
    {
        return fail(format!("PAMT {pamt} lies in {part}"));
    }
    // Beyond the structure: every page of a block must be usable, or be PAMT.
    for block in blocks {
        let mut covered: Vec<PhysRange> =
            open.iter().chain(&pamts).filter_map(|part| part.intersection(block.range)).collect();
        covered.sort();
        let mut at = block.range.start();
        for part in covered {
            if part.start() > at {
                break;
            }
            at = at.max(part.end());
        }
        if at < block.range.end() {
            return fail(format!("memory at {at} belongs to no TDMR"));
        }
    }
    Ok(())
}

/// An allocator above all memory: PAMTs lie one behind the other, and are counted.
#[derive(Default)]
struct FarPages {
    bytes: Cell<u64>,
    allocations: Cell<u64>,
}

impl Pages for FarPages {
    type Leaks = Leaks;
    fn alloc_contiguous(&self, request: AllocRequest<'_>) -> Option<OwnedPages<Leaks>> {
        let start = (100 << 40) + self.bytes.get();
        self.bytes.set(self.bytes.get() + request.bytes);
        self.allocations.set(self.allocations.get() + 1);
        Some(OwnedPages::from_allocator(range(start, start + request.bytes), Leaks::default()))
    }
    fn free(&self, pages: OwnedPages<Leaks>) {
        pages.into_allocator();
    }
    fn read(&self, _: &OwnedPages<Leaks>, _: u64, _: &mut [u8]) -> Result<(), tdx_host::traits::MemoryFault> {
        Ok(())
    }
    fn write(&self, _: &OwnedPages<Leaks>, _: u64, _: &[u8]) -> Result<(), tdx_host::traits::MemoryFault> {
        Ok(())
    }
    fn flush(&self, _: PhysRange) {}

    fn clear(&self, _: PhysRange) {}
}

#[test]
fn pamt_sizes_are_those_that_owners_posted() {
    // GiB of TDMR, number of TDMRs, kilobytes for PAMT.
    for (gib, count, kb) in [(256, 5, 1_050_644), (252, 3, 1_034_220), (992, 6, 4_071_192)] {
        let each = gib / count;
        let mut total = 0;
        for i in 0..count {
            let size = if i + 1 == count { gib - each * (count - 1) } else { each };
            total += LIMITS.pamt_bytes(size * GIB);
        }
        assert_eq!(total / 1024, kb);
        assert_eq!(4104 * gib + 4 * count, kb);
    }
}

#[test]
fn a_tdmr_of_64_gib_has_the_pamt_of_the_manual() {
    assert_eq!(LIMITS.pamt_sizes(64 * GIB), [256 * MIB, MIB / 2, 4096]);
    assert_eq!(LIMITS.pamt_bytes(64 * GIB), 0x1008_1000);
}

#[test]
fn one_range_makes_one_tdmr_by_both_rules() {
    let blocks = blocks_of(&[(GIB, 9 * GIB)]);
    for rules in [Tdxhost, Linux73] {
        let fake = fake_with(&blocks);
        let built = build(rules, &blocks, &[range(GIB, 9 * GIB)], &LIMITS, &fake).unwrap();
        assert_eq!(built.tdmrs, [range(GIB, 9 * GIB)]);
        assert_eq!(built.pamt_kb, 4104 * 8 + 4);
    }
}

#[test]
fn linux_takes_a_tdmr_per_range_and_the_default_rules_join_neighbours() {
    let ranges: Vec<_> = (0..6).map(|i| (i * 2 * GIB + GIB, i * 2 * GIB + 3 * GIB - 64 * MIB)).collect();
    let blocks = blocks_of(&ranges);
    let cmrs = [range(MIB, 14 * GIB)];
    let linux = build(Linux73, &blocks, &cmrs, &LIMITS, &fake_with(&blocks)).unwrap();
    assert_eq!(linux.tdmrs.len(), 6);
    let ours = build(Tdxhost, &blocks, &cmrs, &LIMITS, &fake_with(&blocks)).unwrap();
    assert_eq!(ours.tdmrs, [range(GIB, 13 * GIB)]);
    // Only the PAMT is reserved: the holes lie inside a CMR.
    assert_eq!(ours.reserved, 1);
}

/// Xeon 6747P in a DL380a Gen12: the memory map below 2 GiB in more than 16 pieces, all in one CMR.
fn fragmented_below_2g() -> (Vec<MemoryBlock>, Vec<PhysRange>) {
    let mut ranges: Vec<_> = (0..20).map(|i| (GIB + i * 48 * MIB, GIB + i * 48 * MIB + 32 * MIB)).collect();
    ranges.insert(0, (MIB, GIB));
    ranges.push((4 * GIB, 64 * GIB));
    (blocks_of(&ranges), vec![range(MIB, 2 * GIB), range(4 * GIB, 64 * GIB)])
}

#[test]
fn the_fragmented_machine_fails_as_posted_and_comes_up_by_the_default_rules() {
    let (blocks, cmrs) = fragmented_below_2g();
    let error = build(Linux73, &blocks, &cmrs, &LIMITS, &fake_with(&blocks)).err().unwrap();
    let HostError::TooManyReservedAreas { tdmr, limit: 16, needed } = error else { panic!("{error}") };
    assert_eq!(tdmr, range(0x4000_0000, 0x8000_0000));
    assert!(needed > 16);
    assert!(error.to_string().starts_with("TDMR [0x40000000, 0x80000000): reserved areas exhausted"));
    let built = build(Tdxhost, &blocks, &cmrs, &LIMITS, &fake_with(&blocks)).unwrap();
    assert!(built.reserved <= 4, "{}", built.reserved);
}

#[test]
fn a_tdmr_that_cannot_hold_its_areas_is_split_at_a_gib() {
    // 30 CMRs of 512 MiB a GiB apart: joined by touching GiB, with 30 gaps.
    let ranges: Vec<_> = (1..31).map(|i| (i * GIB, i * GIB + 512 * MIB)).collect();
    let blocks = blocks_of(&ranges);
    let cmrs: Vec<_> = ranges.iter().map(|&(start, end)| range(start, end)).collect();
    let built = build(Tdxhost, &blocks, &cmrs, &LIMITS, &fake_with(&blocks)).unwrap();
    assert!((2..=4).contains(&built.tdmrs.len()), "{:?}", built.tdmrs);
    // With a single TDMR allowed the same memory fails with the numbers.
    let tight = TdmrLimits { max_tdmrs: 1, ..LIMITS };
    let error = build(Tdxhost, &blocks, &cmrs, &tight, &fake_with(&blocks)).err().unwrap();
    let HostError::TooManyReservedAreas { tdmr, needed, limit: 16 } = error else { panic!("{error}") };
    assert_eq!((tdmr, needed >= 30), (range(GIB, 31 * GIB), true));
}

#[test]
fn a_pamt_is_moved_out_of_a_gib_that_cannot_be_split() {
    // 16 gaps in one GiB leave no reserved area for a PAMT there; the only other memory is above.
    let mut ranges: Vec<_> = (0..16).map(|i| (GIB + i * 64 * MIB, GIB + i * 64 * MIB + 32 * MIB)).collect();
    ranges.push((8 * GIB, 9 * GIB));
    let blocks = blocks_of(&ranges);
    let cmrs: Vec<_> = ranges.iter().map(|&(start, end)| range(start, end)).collect();
    let built = build(Tdxhost, &blocks, &cmrs, &LIMITS, &fake_with(&blocks)).unwrap();
    let crowded = built.infos.iter().find(|info| info.base.get() == GIB).unwrap();
    assert!(crowded.pamt_4k_base.get() >= 8 * GIB);
    // Without memory elsewhere it is a limit, told with numbers.
    ranges.pop();
    let blocks = blocks_of(&ranges);
    let cmrs: Vec<_> = ranges.iter().map(|&(start, end)| range(start, end)).collect();
    let error = build(Tdxhost, &blocks, &cmrs, &LIMITS, &fake_with(&blocks)).err().unwrap();
    assert_eq!(error.name(), "too-many-reserved-areas");
}

#[test]
fn a_pamt_does_not_go_from_one_full_gib_to_another() {
    // Two GiB in which every reserved area is taken, and room behind them.
    let full = |gib: u64| (0..15).map(move |i| gib * GIB + (1 + 4 * i) * 16 * MIB);
    let mut ranges: Vec<_> = full(1).chain(full(2)).map(|start| (start, start + 32 * MIB)).collect();
    ranges.push((8 * GIB, 9 * GIB));
    let blocks = blocks_of(&ranges);
    let cmrs: Vec<_> = ranges.iter().map(|&(start, end)| range(start, end)).collect();
    let fake = fake_with(&blocks);
    // The edges of each range are in use: no PAMT touches a hole and shares its area.
    let inner = fake.state().free.iter().map(|(start, end)| (start + MIB, end - MIB)).collect();
    fake.state().free = inner;
    let built = build(Tdxhost, &blocks, &cmrs, &LIMITS, &fake).unwrap();
    for info in &built.infos[..2] {
        assert!(info.pamt_4k_base.get() >= 8 * GIB, "{info:?}");
    }
}

#[test]
fn too_many_ranges_end_in_the_limit_of_linux_and_are_bridged_by_the_default_rules() {
    let ranges: Vec<_> = (0..65).map(|i| (i * 3 * GIB + GIB, i * 3 * GIB + 2 * GIB)).collect();
    let blocks = blocks_of(&ranges);
    let cmrs = [range(MIB, 200 * GIB)];
    let error = build(Linux73, &blocks, &cmrs, &LIMITS, &fake_with(&blocks)).err().unwrap();
    let HostError::TooManyTdmrs { limit: 64, at } = error else { panic!("{error}") };
    assert_eq!(at.as_u64(), 64 * 3 * GIB + GIB);
    let built = build(Tdxhost, &blocks, &cmrs, &LIMITS, &fake_with(&blocks)).unwrap();
    assert!(built.tdmrs.len() <= 48);
}

#[test]
fn gaps_that_would_cost_more_than_the_memory_are_not_bridged() {
    let blocks =
        blocks_of(&(0..65).map(|i| (i * 256 * GIB + GIB, i * 256 * GIB + 2 * GIB)).collect::<Vec<_>>());
    let cmrs = [range(MIB, 65 * 256 * GIB)];
    let error = build(Tdxhost, &blocks, &cmrs, &LIMITS, &fake_with(&blocks)).err().unwrap();
    let HostError::TooManyTdmrs { limit: 64, at } = error else { panic!("{error}") };
    assert!(blocks.iter().any(|block| block.range.start() == at));
    // One block less, and each has a TDMR of its own.
    let built = build(Tdxhost, &blocks[..64], &cmrs, &LIMITS, &fake_with(&blocks)).unwrap();
    assert_eq!(built.tdmrs.len(), 64);
}

#[test]
fn bridging_takes_the_narrowest_gaps() {
    // Gaps of 1, 9 and 2 GiB; two TDMRs.
    let blocks = blocks_of(&[(GIB, 2 * GIB), (3 * GIB, 4 * GIB), (13 * GIB, 14 * GIB), (16 * GIB, 17 * GIB)]);
    let cmrs: Vec<_> = blocks.iter().map(|block| block.range).collect();
    let limits = TdmrLimits { max_tdmrs: 2, ..LIMITS };
    let built = build(Tdxhost, &blocks, &cmrs, &limits, &fake_with(&blocks)).unwrap();
    assert_eq!(built.tdmrs, [range(GIB, 4 * GIB), range(13 * GIB, 17 * GIB)]);
}

#[test]
fn pamts_lie_near_their_memory() {
    let blocks = [block(GIB, 4 * GIB, 0), block(4 * GIB, 8 * GIB, 1)];
    let cmrs = [range(GIB, 8 * GIB)];
    for rules in [Tdxhost, Linux73] {
        let built = build(rules, &blocks, &cmrs, &LIMITS, &fake_with(&blocks)).unwrap();
        assert_eq!(built.tdmrs, [range(GIB, 4 * GIB), range(4 * GIB, 8 * GIB)]);
        for (info, block) in built.infos.iter().zip(&blocks) {
            assert!(block.range.contains(tdx_abi::PhysAddr::new(info.pamt_4k_base.get())));
        }
    }
}

#[test]
fn the_halves_of_a_split_tdmr_are_near_their_own_memory() {
    // Four nodes but, a quarter kept for splits, three TDMRs; the last is too large for a PAMT of its own.
    let blocks: Vec<_> =
        (0..4).map(|i| block((1 + 4 * i) * GIB, (5 + 4 * i) * GIB, u32::try_from(i).unwrap())).collect();
    let cmrs = [range(GIB, 17 * GIB)];
    let limits = TdmrLimits { max_tdmrs: 4, ..LIMITS };
    let built = build(Tdxhost, &blocks, &cmrs, &limits, &fake_with(&blocks)).unwrap();
    assert_eq!(built.tdmrs.len(), 3);
    let fake = fake_with(&blocks);
    fake.state().largest_allocation = 20 * MIB;
    let built = build(Tdxhost, &blocks, &cmrs, &limits, &fake).unwrap();
    assert_eq!(built.tdmrs.len(), 4);
    for (info, block) in built.infos.iter().zip(&blocks) {
        assert!(block.range.contains(tdx_abi::PhysAddr::new(info.pamt_4k_base.get())), "{block:?}");
    }
}

#[test]
fn without_one_large_range_a_pamt_is_shared_out_or_named() {
    let blocks = blocks_of(&[(GIB, 17 * GIB)]);
    let cmrs = [range(GIB, 17 * GIB)];
    let fake = fake_with(&blocks);
    fake.state().largest_allocation = 20 * MIB;
    let error = build(Linux73, &blocks, &cmrs, &LIMITS, &fake).err().unwrap();
    let bytes = LIMITS.pamt_bytes(16 * GIB);
    let tdmr = range(GIB, 17 * GIB);
    assert_eq!(error, HostError::NoContiguousPamt { bytes, tdmr, node: NodeId(0) });
    let built = build(Tdxhost, &blocks, &cmrs, &LIMITS, &fake).unwrap();
    assert_eq!(built.tdmrs.len(), 4);
    fake.state().largest_allocation = MIB;
    let error = build(Tdxhost, &blocks, &cmrs, &LIMITS, &fake).err().unwrap();
    assert_eq!(error.name(), "no-contiguous-pamt");
}

/// `tib` TiB in `ranges` ranges with a hole of a page behind each.
fn big(tib: u64, ranges: u64) -> Vec<MemoryBlock> {
    let each = tib * 1024 * GIB / ranges / 4096 * 4096;
    (0..ranges)
        .map(|i| {
            block(4 * GIB + i * each, 4 * GIB + (i + 1) * each - 4096, u32::try_from(i * 8 / ranges).unwrap())
        })
        .collect()
}

#[test]
fn large_memories_are_laid_out_without_trial_and_error() {
    for (tib, ranges) in [(1, 166), (24, 4000), (64, 10_666)] {
        let blocks = big(tib, ranges);
        let cmrs = CmrSet::new([range(MIB, 128 << 40)]).unwrap();
        let pages = FarPages::default();
        let mut table = Box::new(TdmrTable::<Leaks>::new());
        assert_eq!(table.build(Tdxhost, &blocks, &cmrs, &LIMITS, &pages), Ok(()));
        // A TDMR for each of the eight nodes, and a PAMT at the first try for each.
        assert_eq!((table.len(), pages.allocations.get()), (8, 8), "{tib} TiB");
        let error = table.build(Linux73, &blocks, &cmrs, &LIMITS, &pages).unwrap_err();
        assert_eq!(error.name(), "too-many-tdmrs");
    }
}

fn layouts() -> impl Strategy<Value = (Vec<MemoryBlock>, Vec<PhysRange>)> {
    // Runs in units of 4 MiB: gap before, length, hole inside its CMR behind, node.
    let run = (0u64..700, 1u64..900, prop::bool::weighted(0.6), 0u32..3);
    prop::collection::vec(run, 1..28).prop_map(|runs| {
        let (mut at, mut blocks, mut cmrs) = (GIB, Vec::new(), Vec::<PhysRange>::new());
        let mut extend = false;
        for (gap, length, joined, node) in runs {
            let start = at + gap * 4 * MIB;
            let end = start + length * 4 * MIB;
            match cmrs.last_mut() {
                Some(last) if extend => {
                    *last = PhysRange::new(last.start(), tdx_abi::PhysAddr::new(end)).unwrap();
                }
                _ => cmrs.push(range(start, end)),
            }
            blocks.push(block(start, end, node));
            (at, extend) = (end, joined);
        }
        (blocks, cmrs)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_is_accepted_keeps_the_rules(
        (blocks, cmrs) in layouts(),
        max_tdmrs in 1u16..=64,
        max_reserved in 1u16..=16,
        largest in 22u32..34,
    ) {
        let limits = TdmrLimits { max_tdmrs, max_reserved, ..LIMITS };
        for rules in [Tdxhost, Linux73] {
            let fake = fake_with(&blocks);
            fake.state().largest_allocation = 1 << largest;
            // `build` runs the checker on a success and counts pages either way.
            let result = build(rules, &blocks, &cmrs, &limits, &fake);
            if let Err(error) = result {
                prop_assert!(matches!(
                    error.name(),
                    "too-many-tdmrs" | "too-many-reserved-areas" | "no-contiguous-pamt"
                ));
            }
        }
    }

    #[test]
    fn where_linux_succeeds_the_default_rules_do((blocks, cmrs) in layouts()) {
        if build(Linux73, &blocks, &cmrs, &LIMITS, &fake_with(&blocks)).is_ok() {
            let ours = build(Tdxhost, &blocks, &cmrs, &LIMITS, &fake_with(&blocks));
            prop_assert!(ours.is_ok(), "{:?}", ours.err());
        }
    }
}

#[test]
fn a_dropped_page_is_a_counted_leak() {
    let fake = Fake::new(1);
    let request = AllocRequest { bytes: 8192, align: 4096, node: NodeId(0), avoid: &[] };
    drop(fake.alloc_contiguous(request).unwrap());
    assert_eq!(fake.leaked_pages(), 2);
    drop(fake.alloc_contiguous(request).unwrap().donate());
    assert_eq!(fake.leaked_pages(), 4);
    let pages = fake.alloc_contiguous(request).unwrap().donate().reclaim();
    fake.free(pages.into_owned(&fake, true, &[range(0, u64::MAX)]));
    assert_eq!(fake.leaked_pages(), 4);
    assert_eq!(fake.state().cleared.iter().map(|range| range.size()).sum::<u64>(), 8192);
}
