//! Memory, and an allocator that gives pieces of what is free.

use tdx_abi::{PhysAddr, PhysRange};
use tdx_host::traits::{AllocRequest, MemoryFault, OwnedPages, Pages};

use super::{Access, Event, Fake, Leaks, range};

impl Pages for Fake {
    type Leaks = Leaks;

    fn alloc_contiguous(&self, request: AllocRequest<'_>) -> Option<OwnedPages<Leaks>> {
        let mut state = self.state();
        self.assert_not_in_lockstep("an allocation");
        let bytes = request.bytes.next_multiple_of(4096);
        if bytes > state.largest_allocation || state.allocations_left == 0 {
            return None;
        }
        state.allocations_left -= 1;
        let near: Vec<PhysRange> =
            state.memory.iter().filter(|(_, node)| *node == request.node).map(|(range, _)| *range).collect();
        let fits = |&(start, end): &(u64, u64)| {
            let mut from = start.next_multiple_of(request.align);
            while from + bytes <= end {
                let taken = range(from, from + bytes);
                match request.avoid.iter().find(|avoid| avoid.overlaps(taken)) {
                    Some(avoid) => from = avoid.end().as_u64().next_multiple_of(request.align),
                    None => return Some((start, end, from)),
                }
            }
            None
        };
        let all: Vec<(u64, u64)> = state.free.iter().map(|(start, end)| (*start, *end)).collect();
        let on_node = all.iter().filter(|(start, _)| near.iter().any(|r| r.contains(PhysAddr::new(*start))));
        let (start, end, from) = on_node.clone().find_map(fits).or_else(|| all.iter().find_map(fits))?;
        state.free.remove(&start);
        if start < from {
            state.free.insert(start, from);
        }
        if from + bytes < end {
            state.free.insert(from + bytes, end);
        }
        Some(OwnedPages::from_allocator(range(from, from + bytes), self.leaks.clone()))
    }

    fn free(&self, pages: OwnedPages<Leaks>) {
        let back = pages.into_allocator();
        let (mut start, mut end) = (back.start().as_u64(), back.end().as_u64());
        let mut state = self.state();
        self.assert_not_in_lockstep("pages freed");
        state.events.push(Event::Reclaim);
        let before = state.free.range(..start).next_back().map(|(start, end)| (*start, *end));
        if let Some((left, _)) = before.filter(|(_, left_end)| *left_end == start) {
            state.free.remove(&left);
            start = left;
        }
        if let Some(right_end) = state.free.remove(&end) {
            end = right_end;
        }
        state.free.insert(start, end);
    }

    fn read(&self, pages: &OwnedPages<Leaks>, offset: u64, bytes: &mut [u8]) -> Result<(), MemoryFault> {
        let state = self.state();
        let start = pages.start().as_u64() + offset;
        if state.poisoned == Some(Access::Read) {
            return Err(MemoryFault::MachineCheck(PhysAddr::new(start)));
        }
        for (at, byte) in (start..).zip(bytes) {
            *byte = state.bytes.get(&at).copied().unwrap_or(0);
        }
        Ok(())
    }

    fn write(&self, pages: &OwnedPages<Leaks>, offset: u64, bytes: &[u8]) -> Result<(), MemoryFault> {
        let mut state = self.state();
        let start = pages.start().as_u64() + offset;
        if state.poisoned == Some(Access::Write) {
            return Err(MemoryFault::MachineCheck(PhysAddr::new(start)));
        }
        state.bytes.extend((start..).zip(bytes.iter().copied()));
        Ok(())
    }

    fn flush(&self, range: PhysRange) {
        self.state().flushed.push(range);
    }

    fn clear(&self, range: PhysRange) {
        let mut state = self.state();
        state.cleared.push(range);
        state.events.push(Event::Reclaim);
    }
}
