//! The TDMR table: written once by SYS.CONFIG, then only progress changes.
//!
//! PAMT state is kept by range: how many steps of a TDMR are done says which pages have metadata,
//! and the reserved areas say which of them have type RSVD. There is no entry per page.

use std::sync::atomic::{AtomicU64, Ordering};

use tdx_abi::addr::SIZE_1G;
use tdx_abi::{PageLevel, PhysAddr, PhysRange};

use crate::lock::TryMutex;

/// Bytes of a TDMR whose metadata one call of TDH.SYS.TDMR.INIT initialises.
pub(crate) const STEP_BYTES: u64 = 4 << 20;
/// Steps of one GiB.
pub(crate) const STEPS_PER_BLOCK: u64 = SIZE_1G / STEP_BYTES;

/// PAMT areas of a TDMR, smallest pages first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PamtAreas(pub(crate) [PhysRange; 3]);

impl PamtAreas {
    pub(crate) const fn get(&self, level: PageLevel) -> PhysRange {
        let [size_4k, size_2m, size_1g] = self.0;
        match level {
            PageLevel::Size4K => size_4k,
            PageLevel::Size2M => size_2m,
            PageLevel::Size1G => size_1g,
        }
    }
}

/// A TDMR as SYS.CONFIG accepted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TdmrConfig {
    pub(crate) range: PhysRange,
    /// Reserved areas, ascending.
    pub(crate) reserved: Vec<PhysRange>,
    pub(crate) pamt: PamtAreas,
}

impl TdmrConfig {
    /// What lies between the reserved areas, empty pieces included: before each area and behind
    /// the last one.
    pub(crate) fn gaps(&self) -> impl Iterator<Item = PhysRange> {
        let starts = [self.range.start()].into_iter().chain(self.reserved.iter().map(|area| area.end()));
        let ends = self.reserved.iter().map(|area| area.start()).chain([self.range.end()]);
        starts.zip(ends).filter_map(|(start, end)| PhysRange::new(start, end))
    }
}

/// A TDMR of a configured module. A cache line of its own, because TDMRs are initialised in parallel.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Tdmr {
    pub(crate) config: TdmrConfig,
    pub(crate) lock: TryMutex,
    steps_done: AtomicU64,
}

impl Tdmr {
    fn new(config: TdmrConfig) -> Self {
        Self { config, lock: TryMutex::default(), steps_done: AtomicU64::new(0) }
    }

    pub(crate) fn steps(&self) -> u64 {
        self.config.range.size() / STEP_BYTES
    }

    pub(crate) fn steps_done(&self) -> u64 {
        self.steps_done.load(Ordering::Acquire)
    }

    /// Records progress. The caller holds `lock`, or the module is being disabled.
    pub(crate) fn set_steps_done(&self, steps: u64) {
        self.steps_done.store(steps, Ordering::Release);
    }

    /// The pages that can be used: whole GiBs whose metadata is complete.
    pub(crate) fn initialised(&self) -> PhysRange {
        let bytes = self.steps_done() / STEPS_PER_BLOCK * SIZE_1G;
        PhysRange::from_size(self.config.range.start(), bytes).unwrap_or_default()
    }
}

/// All TDMRs, ascending.
#[derive(Debug)]
pub(crate) struct TdmrTable(Box<[Tdmr]>);

impl TdmrTable {
    pub(crate) fn new(configs: Vec<TdmrConfig>) -> Self {
        Self(configs.into_iter().map(Tdmr::new).collect())
    }

    /// TDMRs with the steps that were done before.
    pub(crate) fn restored(tdmrs: Vec<(TdmrConfig, u64)>) -> Self {
        let restored = tdmrs.into_iter().map(|(config, steps)| {
            let tdmr = Tdmr::new(config);
            tdmr.set_steps_done(steps);
            tdmr
        });
        Self(restored.collect())
    }

    pub(crate) fn starting_at(&self, base: PhysAddr) -> Option<&Tdmr> {
        let index = self.0.binary_search_by_key(&base, |tdmr| tdmr.config.range.start()).ok()?;
        self.0.get(index)
    }

    /// Whether a page is one of a PAMT.
    pub(crate) fn is_metadata(&self, page: PhysAddr) -> bool {
        let holds =
            |tdmr: &Tdmr| PageLevel::ALL.iter().any(|&level| tdmr.config.pamt.get(level).contains(page));
        self.iter().any(holds)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Tdmr> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> PhysRange {
        PhysRange::new(PhysAddr::new(start), PhysAddr::new(end)).expect("a range")
    }

    fn config(start: u64, end: u64, reserved: &[(u64, u64)]) -> TdmrConfig {
        let empty = range(0, 0);
        TdmrConfig {
            range: range(start, end),
            reserved: reserved.iter().map(|&(start, end)| range(start, end)).collect(),
            pamt: PamtAreas([empty; 3]),
        }
    }

    #[test]
    fn gaps_lie_between_the_reserved_areas() {
        let gaps = |reserved: &[_]| config(0, 100, reserved).gaps().collect::<Vec<_>>();
        assert_eq!(gaps(&[]), [range(0, 100)]);
        assert_eq!(gaps(&[(10, 20), (20, 30)]), [range(0, 10), range(20, 20), range(30, 100)]);
        assert_eq!(gaps(&[(0, 5), (50, 100)]), [range(0, 0), range(5, 50), range(100, 100)]);
    }

    #[test]
    fn pages_are_usable_a_whole_gib_at_a_time() {
        let table = TdmrTable::new(vec![config(SIZE_1G, 3 * SIZE_1G, &[])]);
        let tdmr = table.starting_at(PhysAddr::new(SIZE_1G)).expect("a TDMR");
        assert_eq!(tdmr.steps(), 512);
        for (steps, end) in [(0, 1), (255, 1), (256, 2), (511, 2), (512, 3)] {
            tdmr.set_steps_done(steps);
            assert_eq!(tdmr.initialised(), range(SIZE_1G, end * SIZE_1G), "{steps}");
        }
        assert!(table.starting_at(PhysAddr::new(2 * SIZE_1G)).is_none());
    }
}
