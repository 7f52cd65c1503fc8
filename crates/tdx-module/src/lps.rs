//! What the module keeps for each logical processor.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use tdx_abi::leaf::SeamcallLeaf;

use crate::hardware::LpIndex;

/// Leaves that are counted one by one; all others share the last counter.
const COUNTED: [SeamcallLeaf; 25] = [
    SeamcallLeaf::SYS_KEY_CONFIG,
    SeamcallLeaf::SYS_INFO,
    SeamcallLeaf::SYS_INIT,
    SeamcallLeaf::SYS_RD,
    SeamcallLeaf::SYS_LP_INIT,
    SeamcallLeaf::SYS_TDMR_INIT,
    SeamcallLeaf::SYS_RDALL,
    SeamcallLeaf::SYS_LP_SHUTDOWN,
    SeamcallLeaf::SYS_CONFIG,
    SeamcallLeaf::SYS_SHUTDOWN,
    SeamcallLeaf::SYS_UPDATE,
    SeamcallLeaf::SYS_DISABLE,
    SeamcallLeaf::EXT_INIT,
    SeamcallLeaf::EXT_MEM_ADD,
    SeamcallLeaf::IOMMU_SETUP,
    SeamcallLeaf::IOMMU_CLEAR,
    SeamcallLeaf::SPDM_CREATE,
    SeamcallLeaf::SPDM_DELETE,
    SeamcallLeaf::SPDM_CONNECT,
    SeamcallLeaf::SPDM_DISCONNECT,
    SeamcallLeaf::SPDM_MNG,
    SeamcallLeaf::IDE_STREAM_CREATE,
    SeamcallLeaf::IDE_STREAM_KM,
    SeamcallLeaf::IDE_STREAM_BLOCK,
    SeamcallLeaf::IDE_STREAM_DELETE,
];

const OTHERS: u8 = 25;
const COUNTERS: usize = COUNTED.len() + 1;
const _: () = assert!(OTHERS as usize == COUNTED.len());

/// Place of each leaf number below 192 in [`COUNTED`].
const COUNTER: [u8; 192] = {
    let mut table = [OTHERS; 192];
    let mut place = 0;
    while place < OTHERS {
        table[COUNTED[place as usize].0 as usize] = place;
        place += 1;
    }
    table
};

/// One LP. Cache lines of its own: each is written by its LP alone.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct LpSlot {
    busy: AtomicU8,
    initialised: AtomicBool,
    /// TDX 1.0: the next SEAMCALL ends in the loader's shutdown stub.
    shut_down: AtomicBool,
    calls: [AtomicU32; COUNTERS],
}

const OUTSIDE: u8 = 0;
const INSIDE: u8 = 1;

impl LpSlot {
    /// Marks the LP busy until the guard is dropped, and counts the call.
    ///
    /// The store is sequentially consistent: a leaf that looks at flag and state afterwards, and
    /// SYS.DISABLE or SYS.SHUTDOWN, which set flag or state and then look at all LPs, cannot miss
    /// each other. SYS.RD does without: it changes nothing, so that one that is missed has simply
    /// run before.
    pub(crate) fn enter(&self, leaf: SeamcallLeaf) -> Busy<'_> {
        let counter = COUNTER.get(usize::from(leaf.0)).copied().unwrap_or(OTHERS);
        if let Some(calls) = self.calls.get(usize::from(counter)) {
            // Only this LP writes its counter.
            calls.store(calls.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
        let order = if leaf == SeamcallLeaf::SYS_RD { Ordering::Release } else { Ordering::SeqCst };
        self.busy.store(INSIDE, order);
        Busy { slot: self }
    }

    pub(crate) fn is_initialised(&self) -> bool {
        self.initialised.load(Ordering::Acquire)
    }

    pub(crate) fn set_initialised(&self) {
        self.initialised.store(true, Ordering::Release);
    }

    pub(crate) fn is_shut_down(&self) -> bool {
        self.shut_down.load(Ordering::Acquire)
    }

    pub(crate) fn shut_down(&self) {
        self.shut_down.store(true, Ordering::Release);
    }
}

/// An LP inside the module.
#[derive(Debug)]
pub(crate) struct Busy<'a> {
    slot: &'a LpSlot,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.slot.busy.store(OUTSIDE, Ordering::Release);
    }
}

/// All LPs that MCHECK counted.
#[derive(Debug)]
pub(crate) struct LpTable(Box<[LpSlot]>);

impl LpTable {
    pub(crate) fn new(count: u32) -> Self {
        Self((0..count).map(|_| LpSlot::default()).collect())
    }

    pub(crate) fn get(&self, lp: LpIndex) -> Option<&LpSlot> {
        self.0.get(usize::try_from(lp.0).ok()?)
    }

    /// True if an LP other than `lp` is inside the module.
    pub(crate) fn other_inside(&self, lp: LpIndex) -> bool {
        let own = self.get(lp);
        self.0.iter().any(|slot| {
            slot.busy.load(Ordering::SeqCst) != OUTSIDE && own.is_none_or(|own| !std::ptr::eq(own, slot))
        })
    }

    /// LPs that ran TDH.SYS.LP.INIT, ascending.
    pub(crate) fn initialised(&self) -> impl Iterator<Item = LpIndex> {
        (0..).map(LpIndex).zip(&self.0).filter(|(_, slot)| slot.is_initialised()).map(|(lp, _)| lp)
    }

    /// Calls of each leaf over all LPs, leaves without one left out. `None` stands for the leaves
    /// that are not counted one by one.
    pub(crate) fn calls(&self) -> Vec<(Option<SeamcallLeaf>, u64)> {
        let leaves = COUNTED.into_iter().map(Some).chain([None]);
        leaves
            .enumerate()
            .map(|(index, leaf)| {
                let of = |slot: &LpSlot| {
                    slot.calls.get(index).map_or(0, |calls| u64::from(calls.load(Ordering::Relaxed)))
                };
                (leaf, self.0.iter().map(of).sum())
            })
            .filter(|&(_, calls)| calls != 0)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lp_has_cache_lines_of_its_own() {
        assert_eq!((size_of::<LpSlot>(), align_of::<LpSlot>()), (128, 64));
    }

    #[test]
    fn another_lp_inside_is_seen_until_it_leaves() {
        let table = LpTable::new(2);
        let (first, second) = (LpIndex(0), LpIndex(1));
        let inside = table.get(first).expect("exists").enter(SeamcallLeaf::SYS_RD);
        assert!(table.other_inside(second));
        assert!(!table.other_inside(first));
        drop(inside);
        assert!(!table.other_inside(second));
        assert!(table.get(LpIndex(2)).is_none());
    }

    #[test]
    fn calls_are_counted_by_leaf() {
        let table = LpTable::new(2);
        for leaf in [SeamcallLeaf::SYS_RD, SeamcallLeaf::SYS_RD, SeamcallLeaf::MNG_CREATE] {
            table.get(LpIndex(1)).expect("exists").enter(leaf);
        }
        assert_eq!(table.calls(), [(Some(SeamcallLeaf::SYS_RD), 2), (None, 1)]);
    }
}
