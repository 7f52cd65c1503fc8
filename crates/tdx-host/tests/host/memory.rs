//! TDX memory blocks and CMRs.

use proptest::prelude::*;
use tdx_host::memory::{CmrSet, MemoryBlock, TdxMemory};
use tdx_host::traits::NodeId;
use tdx_host::{HostError, HostMemory};

use crate::fake::{Fake, GIB, Leaks, MIB, range};

fn collect(ranges: &[(u64, u64, u32)], room: usize) -> Result<Vec<(u64, u64, u32)>, HostError> {
    let fake = Fake::new(1);
    fake.state().memory =
        ranges.iter().map(|&(start, end, node)| (range(start, end), NodeId(node))).collect();
    let mut memory = TdxMemory::new(vec![MemoryBlock::default(); room]);
    memory.collect(&fake)?;
    let plain =
        |block: &MemoryBlock| (block.range.start().as_u64(), block.range.end().as_u64(), block.node.0);
    Ok(memory.blocks().iter().map(plain).collect())
}

#[test]
fn memory_below_one_mib_is_left_out() {
    assert_eq!(collect(&[(0, 0xA0000, 0), (MIB, GIB, 0)], 4), Ok(vec![(MIB, GIB, 0)]));
    assert_eq!(collect(&[(0, GIB, 0)], 4), Ok(vec![(MIB, GIB, 0)]));
}

#[test]
fn ranges_are_cut_to_whole_pages() {
    assert_eq!(collect(&[(MIB + 1, GIB + 4097, 0)], 4), Ok(vec![(MIB + 4096, GIB + 4096, 0)]));
    assert_eq!(collect(&[(MIB, GIB, 0), (GIB + 1, GIB + 100, 0)], 4), Ok(vec![(MIB, GIB, 0)]));
}

#[test]
fn neighbours_of_one_node_join_and_those_of_two_do_not() {
    let joined = collect(&[(MIB, GIB, 0), (GIB, 2 * GIB, 0), (2 * GIB, 3 * GIB, 1)], 4);
    assert_eq!(joined, Ok(vec![(MIB, 2 * GIB, 0), (2 * GIB, 3 * GIB, 1)]));
}

#[test]
fn maps_that_cannot_be_are_refused() {
    assert_eq!(collect(&[], 4), Err(HostError::NoTdxMemory));
    let overlap = collect(&[(MIB, GIB, 0), (GIB - 4096, 2 * GIB, 0)], 4);
    assert_eq!(overlap, Err(HostError::MemoryRangesOverlap { range: range(GIB - 4096, 2 * GIB) }));
    let full = collect(&[(MIB, GIB, 0), (2 * GIB, 3 * GIB, 0)], 1);
    assert_eq!(full, Err(HostError::TooManyMemoryRanges { limit: 1 }));
    let far = collect(&[(1 << 52, (1 << 52) + GIB, 0)], 4);
    assert_eq!(far, Err(HostError::RamOutsideCmrs { range: range(1 << 52, (1 << 52) + GIB) }));
}

#[test]
fn hotplug_is_allowed_inside_one_block_alone() {
    let fake = Fake::new(1);
    fake.state().memory = vec![(range(MIB, GIB), NodeId(0)), (range(2 * GIB, 3 * GIB), NodeId(0))];
    let mut memory: HostMemory<_, Leaks> = HostMemory::new(vec![MemoryBlock::default(); 4]);
    // TDX is off: anything goes.
    assert_eq!(memory.blocks.may_go_online(range(5 * GIB, 6 * GIB)), Ok(()));
    memory.blocks.collect(&fake).unwrap();
    for inside in [range(MIB, GIB), range(2 * GIB, 3 * GIB), range(2 * GIB + MIB, 2 * GIB + 2 * MIB)] {
        assert_eq!(memory.blocks.may_go_online(inside), Ok(()));
    }
    for outside in [range(0, MIB), range(GIB - MIB, GIB + MIB), range(MIB, 3 * GIB), range(3 * GIB, 4 * GIB)]
    {
        let refused = Err(HostError::HotplugOutsideTdxMemory { range: outside });
        assert_eq!(memory.blocks.may_go_online(outside), refused);
    }
}

#[test]
fn touching_cmrs_count_as_one() {
    let set = CmrSet::new([range(GIB, 2 * GIB), range(0, GIB), range(3 * GIB, 4 * GIB)]).unwrap();
    assert_eq!(set.ranges(), [range(0, 2 * GIB), range(3 * GIB, 4 * GIB)]);
    assert!(set.covers(range(MIB, 2 * GIB)));
    assert!(!set.covers(range(MIB, 2 * GIB + 1)));
    let gaps: Vec<_> = set.uncovered(range(GIB, 5 * GIB)).collect();
    assert_eq!(gaps, [range(2 * GIB, 3 * GIB), range(4 * GIB, 5 * GIB)]);
}

#[test]
fn the_range_outside_the_cmrs_is_named() {
    let set = CmrSet::new([range(MIB, GIB)]).unwrap();
    let block = |start, end| MemoryBlock { range: range(start, end), node: NodeId(0) };
    assert_eq!(set.check(&[block(MIB, GIB)]), Ok(()));
    let error = set.check(&[block(MIB, GIB), block(GIB - MIB, GIB + MIB)]).unwrap_err();
    assert_eq!(error, HostError::RamOutsideCmrs { range: range(GIB, GIB + MIB) });
    assert!(error.to_string().contains("[0x40000000, 0x40100000)"), "{error}");
}

proptest! {
    #[test]
    fn uncovered_is_what_no_cmr_has(
        cmrs in prop::collection::vec((0u64..200, 0u64..20), 0..32),
        start in 0u64..200,
        len in 0u64..60,
    ) {
        let cmrs: Vec<_> = cmrs.into_iter().map(|(start, len)| range(start, start + len)).collect();
        let set = CmrSet::new(cmrs.iter().copied()).unwrap();
        let gaps: Vec<_> = set.uncovered(range(start, start + len)).collect();
        for at in start..start + len {
            let address = tdx_abi::PhysAddr::new(at);
            let covered = cmrs.iter().any(|cmr| cmr.contains(address));
            prop_assert_eq!(!covered, gaps.iter().any(|gap| gap.contains(address)));
        }
        prop_assert!(gaps.windows(2).all(|pair| pair[0].end() < pair[1].start()));
        prop_assert!(set.ranges().windows(2).all(|pair| pair[0].end() < pair[1].start()));
    }
}
