//! A page allocator by ranges.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tdx_abi::{PAGE_SIZE, PhysAddr, PhysRange};
use tdx_host::traits::{AllocRequest, LeakCounter, NodeId};

/// Below, memory belongs to the kernel image and to legacy devices.
const LOWEST: u64 = 16 << 20;

/// Counts lost pages of one boot.
#[derive(Clone, Debug, Default)]
pub struct Leaks(Arc<Mutex<Vec<PhysRange>>>);

impl Leaks {
    /// The ranges that were lost.
    pub fn ranges(&self) -> Vec<PhysRange> {
        self.0.lock().clone()
    }
}

impl LeakCounter for Leaks {
    fn leaked(&self, range: PhysRange) {
        self.0.lock().push(range);
    }
}

/// Where the pages of the allocator are, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageAccounts {
    /// All that the allocator was given.
    pub total: u64,
    /// Free.
    pub free: u64,
    /// Allocated or donated to the module, and somebody holds them.
    pub held: u64,
    /// Lost: nobody holds them any more.
    pub leaked: u64,
}

/// Free memory by node.
#[derive(Debug)]
pub(crate) struct Allocator {
    memory: Vec<(PhysRange, NodeId)>,
    // Start to end, for each node that has memory.
    free: BTreeMap<NodeId, BTreeMap<u64, u64>>,
    total: u64,
}

impl Allocator {
    /// All of `memory` is free, but for single pages in use that break it into `pieces` ranges.
    pub(crate) fn new(memory: &[(PhysRange, NodeId)], pieces: Option<u32>) -> Self {
        let mut free: BTreeMap<NodeId, BTreeMap<u64, u64>> = BTreeMap::new();
        for (range, node) in memory {
            let start = range.start().as_u64().max(LOWEST).next_multiple_of(PAGE_SIZE);
            let end = range.end().align_down(PAGE_SIZE).as_u64();
            if start < end {
                free.entry(*node).or_default().insert(start, end);
            }
        }
        let mut allocator = Self { memory: memory.to_vec(), free, total: 0 };
        if let Some(pieces) = pieces {
            allocator.scatter(pieces);
        }
        allocator.total = allocator.free_bytes();
        allocator
    }

    /// Takes single pages so that about `pieces` free ranges are left, spread evenly.
    fn scatter(&mut self, pieces: u32) {
        let ranges = u64::try_from(self.free.values().map(BTreeMap::len).sum::<usize>()).unwrap_or(u64::MAX);
        let cuts = u64::from(pieces).saturating_sub(ranges);
        if cuts == 0 {
            return;
        }
        let distance = (self.free_bytes() / (cuts + 1)).next_multiple_of(PAGE_SIZE).max(2 * PAGE_SIZE);
        for ranges in self.free.values_mut() {
            let whole: Vec<(u64, u64)> = std::mem::take(ranges).into_iter().collect();
            for (start, end) in whole {
                let mut at = start;
                while at + distance < end {
                    ranges.insert(at, at + distance - PAGE_SIZE);
                    at += distance;
                }
                ranges.insert(at, end);
            }
        }
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        self.free.values().flatten().map(|(start, end)| end - start).sum()
    }

    pub(crate) fn total_bytes(&self) -> u64 {
        self.total
    }

    /// The lowest range that serves, on the node asked for if it has one.
    pub(crate) fn allocate(&mut self, request: &AllocRequest<'_>) -> Option<PhysRange> {
        let others = self.free.keys().copied().filter(|node| *node != request.node);
        let nodes: Vec<NodeId> = std::iter::once(request.node).chain(others).collect();
        nodes.into_iter().find_map(|node| take(self.free.get_mut(&node)?, request))
    }

    /// Takes pages back.
    pub(crate) fn give_back(&mut self, range: PhysRange) {
        let node = self.memory.iter().find(|(memory, _)| memory.covers(range)).map(|(_, node)| *node);
        let Some(free) = node.and_then(|node| self.free.get_mut(&node)) else { return };
        let (mut start, mut end) = (range.start().as_u64(), range.end().as_u64());
        let before = free.range(..start).next_back().map(|(&start, &end)| (start, end));
        if let Some((left, _)) = before.filter(|&(_, left_end)| left_end == start) {
            free.remove(&left);
            start = left;
        }
        if let Some(right_end) = free.remove(&end) {
            end = right_end;
        }
        free.insert(start, end);
    }
}

fn take(free: &mut BTreeMap<u64, u64>, request: &AllocRequest<'_>) -> Option<PhysRange> {
    let bytes = request.bytes.checked_next_multiple_of(PAGE_SIZE)?;
    let (start, end, taken) = free
        .iter()
        .find_map(|(&start, &end)| fit(start, end, bytes, request).map(|taken| (start, end, taken)))?;
    free.remove(&start);
    if start < taken.start().as_u64() {
        free.insert(start, taken.start().as_u64());
    }
    if taken.end().as_u64() < end {
        free.insert(taken.end().as_u64(), end);
    }
    Some(taken)
}

/// The lowest place in `[start, end)`, outside the ranges to avoid.
fn fit(start: u64, end: u64, bytes: u64, request: &AllocRequest<'_>) -> Option<PhysRange> {
    let mut from = PhysAddr::new(start);
    loop {
        let place = PhysRange::from_size(from.align_up(request.align)?, bytes)?;
        if place.end().as_u64() > end {
            return None;
        }
        match request.avoid.iter().find(|avoid| avoid.overlaps(place)) {
            // Its end lies above the start of the place: the loop ends.
            Some(avoid) => from = avoid.end(),
            None => return Some(place),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn range(start: u64, end: u64) -> PhysRange {
        PhysRange::new(PhysAddr::new(start), PhysAddr::new(end)).unwrap()
    }

    fn two_nodes() -> Allocator {
        let memory = [(range(0, 64 * MIB), NodeId(0)), (range(64 * MIB, 128 * MIB), NodeId(1))];
        Allocator::new(&memory, None)
    }

    fn request(bytes: u64, node: u32) -> AllocRequest<'static> {
        AllocRequest { bytes, align: PAGE_SIZE, node: NodeId(node), avoid: &[] }
    }

    #[test]
    fn pages_come_from_the_node_while_it_has_any() {
        let mut allocator = two_nodes();
        assert_eq!(allocator.allocate(&request(MIB, 1)), Some(range(64 * MIB, 65 * MIB)));
        assert_eq!(allocator.allocate(&request(MIB, 0)), Some(range(16 * MIB, 17 * MIB)));
        assert_eq!(allocator.allocate(&request(60 * MIB, 0)), Some(range(65 * MIB, 125 * MIB)));
        assert_eq!(allocator.allocate(&request(60 * MIB, 0)), None);
    }

    #[test]
    fn pages_that_come_back_join_their_neighbours() {
        let mut allocator = two_nodes();
        let all: Vec<_> = (0..4).map(|_| allocator.allocate(&request(MIB, 0)).unwrap()).collect();
        for range in [all[2], all[0], all[3], all[1]] {
            allocator.give_back(range);
        }
        assert_eq!(allocator.free_bytes(), allocator.total_bytes());
        assert_eq!(allocator.allocate(&request(48 * MIB, 0)), Some(range(16 * MIB, 64 * MIB)));
    }

    #[test]
    fn ranges_to_avoid_are_avoided() {
        // (what to avoid, where a MiB is found)
        let cases: [(&[PhysRange], u64); 4] = [
            (&[range(0, 20 * MIB)], 20),
            (&[range(0, 64 * MIB)], 64),
            (&[range(30 * MIB, 40 * MIB), range(0, 20 * MIB), range(20 * MIB, 31 * MIB)], 40),
            (&[range(17 * MIB, 20 * MIB)], 16),
        ];
        for (avoid, found) in cases {
            let mut allocator = two_nodes();
            let place = allocator.allocate(&AllocRequest { avoid, ..request(MIB, 0) });
            assert_eq!(place, Some(range(found * MIB, (found + 1) * MIB)), "{avoid:?}");
        }
        let everything = [range(0, 64 * MIB), range(64 * MIB, 128 * MIB)];
        assert_eq!(two_nodes().allocate(&AllocRequest { avoid: &everything, ..request(MIB, 0) }), None);
    }

    #[test]
    fn pages_in_use_break_memory_into_as_many_pieces_as_asked_for() {
        let memory = [(range(0, 64 * MIB), NodeId(0)), (range(64 * MIB, 128 * MIB), NodeId(1))];
        let mut allocator = Allocator::new(&memory, Some(28));
        let pieces: usize = allocator.free.values().map(BTreeMap::len).sum();
        assert!((26..=30).contains(&pieces), "{pieces}");
        assert_eq!(allocator.allocate(&request(16 * MIB, 0)), None);
        assert!(allocator.allocate(&request(3 * MIB, 0)).is_some());
    }
}
