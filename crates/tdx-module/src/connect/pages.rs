//! The pages that a host gave for objects of TDX Connect, kept by range and owner.
//!
//! A real module keeps the owner of a page in its PAMT entry. Here neighbouring pages of one owner are one
//! range, and what is in no range is free.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tdx_abi::connect::ids::SpdmId;
use tdx_abi::connect::pages::HpaArray;
use tdx_abi::status::OperandId;
use tdx_abi::{KeyId, PAGE_SIZE, PhysAddr, PhysRange};

use crate::call::{Call, Exit, invalid};
use crate::tdmrs::TdmrTable;

/// Addresses in a root page.
const ROOT_ENTRIES: usize = 512;
const ROOT_BYTES: usize = ROOT_ENTRIES * size_of::<u64>();

/// Whose page it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// The memory pool of the extensions: never given back.
    Pool,
    /// The VT-d unit with this place in the table.
    Unit(u16),
    /// An SPDM session.
    Session(SpdmId),
    /// A stream of a session.
    Stream(SpdmId, u8),
}

/// Why pages cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageRefusal {
    /// One is not in the initialised and not reserved part of a TDMR.
    NotUsable,
    /// One belongs to an object.
    InUse,
    /// One stands in the list twice.
    Twice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owned {
    end: PhysAddr,
    owner: Owner,
}

/// Which pages are whose. The lock is held for a look-up or a change, never for a call: leaves try the
/// locks of their objects, and what a leaf does here cannot wait for another leaf.
#[derive(Debug, Default)]
pub(crate) struct PageRegistry {
    ranges: Mutex<BTreeMap<PhysAddr, Owned>>,
}

impl PageRegistry {
    fn ranges(&self) -> MutexGuard<'_, BTreeMap<PhysAddr, Owned>> {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives all of `pages`, page aligned, to `owner`, or none.
    pub(crate) fn claim(
        &self,
        tdmrs: &TdmrTable,
        pages: &[PhysAddr],
        owner: Owner,
    ) -> Result<(), PageRefusal> {
        let runs = runs(pages)?;
        if !runs.iter().all(|&run| is_usable(tdmrs, run)) {
            return Err(PageRefusal::NotUsable);
        }
        self.claim_ranges(&runs, owner)
    }

    /// Would [`Self::claim`] succeed?
    pub(crate) fn check(&self, tdmrs: &TdmrTable, pages: &[PhysAddr]) -> Result<(), PageRefusal> {
        let runs = runs(pages)?;
        if !runs.iter().all(|&run| is_usable(tdmrs, run)) {
            return Err(PageRefusal::NotUsable);
        }
        let ranges = self.ranges();
        if runs.iter().any(|&run| overlaps(&ranges, run)) { Err(PageRefusal::InUse) } else { Ok(()) }
    }

    fn claim_ranges(&self, runs: &[PhysRange], owner: Owner) -> Result<(), PageRefusal> {
        let mut ranges = self.ranges();
        if runs.iter().any(|&run| overlaps(&ranges, run)) {
            return Err(PageRefusal::InUse);
        }
        for &run in runs {
            insert(&mut ranges, run, owner);
        }
        Ok(())
    }

    /// Takes back a range that another instance knew of.
    pub(crate) fn restore(
        &self,
        tdmrs: &TdmrTable,
        range: PhysRange,
        owner: Owner,
    ) -> Result<(), PageRefusal> {
        if !is_usable(tdmrs, range) {
            return Err(PageRefusal::NotUsable);
        }
        self.claim_ranges(&[range], owner)
    }

    /// Frees pages, whoever has them.
    pub(crate) fn release(&self, pages: &[PhysAddr]) {
        let mut ranges = self.ranges();
        for &page in pages {
            let Some((start, owned)) = containing(&ranges, page) else {
                continue;
            };
            ranges.remove(&start);
            if start < page {
                ranges.insert(start, Owned { end: page, ..owned });
            }
            if let Some(behind) = page.checked_add(PAGE_SIZE).filter(|&behind| behind < owned.end) {
                ranges.insert(behind, owned);
            }
        }
    }

    /// Whose page it is, if anybody's.
    pub(crate) fn owner(&self, page: PhysAddr) -> Option<Owner> {
        containing(&self.ranges(), page).map(|(_, owned)| owned.owner)
    }

    /// Pages of one owner, ascending.
    pub(crate) fn pages_of(&self, owner: Owner) -> Vec<PhysAddr> {
        self.list().into_iter().filter(|&(_, of)| of == owner).flat_map(|(range, _)| each(range)).collect()
    }

    /// All ranges with their owners, ascending.
    pub(crate) fn list(&self) -> Vec<(PhysRange, Owner)> {
        let ranges = self.ranges();
        let range =
            |(&start, owned): (&PhysAddr, &Owned)| Some((PhysRange::new(start, owned.end)?, owned.owner));
        ranges.iter().filter_map(range).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ranges().is_empty()
    }
}

/// The pages of a range.
pub(crate) fn each(range: PhysRange) -> impl Iterator<Item = PhysAddr> {
    (0..range.size() / PAGE_SIZE).filter_map(move |index| range.start().checked_add(index * PAGE_SIZE))
}

/// Ascending pages as ranges.
fn runs(pages: &[PhysAddr]) -> Result<Vec<PhysRange>, PageRefusal> {
    let mut sorted = pages.to_vec();
    sorted.sort_unstable();
    let mut runs: Vec<PhysRange> = Vec::new();
    for page in sorted {
        let run = PhysRange::from_size(page, PAGE_SIZE).ok_or(PageRefusal::NotUsable)?;
        match runs.last_mut() {
            Some(last) if last.contains(page) => return Err(PageRefusal::Twice),
            Some(last) if last.end() == page => {
                *last = PhysRange::new(last.start(), run.end()).unwrap_or(run);
            }
            _ => runs.push(run),
        }
    }
    Ok(runs)
}

/// All of `range` has metadata and can be given to an object. PAMT areas lie in reserved areas or outside
/// every TDMR: SYS.CONFIG has seen to it.
fn is_usable(tdmrs: &TdmrTable, range: PhysRange) -> bool {
    // A range may go on in the next TDMR, where that begins at the end of one.
    let mut covered = range.start();
    for tdmr in tdmrs.iter() {
        if tdmr.config.reserved.iter().any(|area| area.overlaps(range)) {
            return false;
        }
        let initialised = tdmr.initialised();
        if initialised.contains(covered) {
            covered = initialised.end();
        }
    }
    covered >= range.end()
}

fn containing(ranges: &BTreeMap<PhysAddr, Owned>, page: PhysAddr) -> Option<(PhysAddr, Owned)> {
    let (&start, &owned) = ranges.range(..=page).next_back()?;
    (page < owned.end).then_some((start, owned))
}

fn overlaps(ranges: &BTreeMap<PhysAddr, Owned>, range: PhysRange) -> bool {
    ranges.range(..range.end()).next_back().is_some_and(|(_, owned)| owned.end > range.start())
}

/// Adds a free range, joined with neighbours of the same owner.
fn insert(ranges: &mut BTreeMap<PhysAddr, Owned>, range: PhysRange, owner: Owner) {
    let (mut start, mut end) = (range.start(), range.end());
    let before = ranges.range(..start).next_back().map(|(&start, &owned)| (start, owned));
    if let Some((before, owned)) = before
        && owned.end == start
        && owned.owner == owner
    {
        start = before;
    }
    if let Some(owned) = ranges.get(&end).copied()
        && owned.owner == owner
    {
        ranges.remove(&end);
        end = owned.end;
    }
    ranges.insert(start, Owned { end, owner });
}

/// Where a DELETE leaf puts the list of the pages that it gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReleaseTarget {
    /// One page: RCX names it.
    Register,
    /// A page of the caller.
    Root(PhysAddr),
}

impl Call<'_> {
    /// A page of the host that a leaf may read and write: page aligned, without KeyID bits, outside SEAMRR
    /// and PAMT, and no page that the module has taken.
    pub(crate) fn host_page(&self, raw: u64, operand: OperandId) -> Result<PhysAddr, Exit> {
        let space = &self.module.platform()?.space;
        let taken =
            |page| self.module.connect.get().is_some_and(|connect| connect.pages.owner(page).is_some());
        let metadata = |page| self.module.tdmrs.get().is_some_and(|tdmrs| tdmrs.is_metadata(page));
        space
            .plain(raw)
            .filter(|page| page.is_aligned(PAGE_SIZE) && !space.seamrr.contains(*page))
            .filter(|&page| !metadata(page) && !taken(page))
            .ok_or_else(|| invalid(operand))
    }

    /// The words of a host page.
    pub(crate) fn read_words(&self, page: PhysAddr) -> Result<Vec<u64>, Exit> {
        let mut bytes = [0; ROOT_BYTES];
        self.hw.read(page, KeyId::TME, &mut bytes)?;
        let (words, _) = bytes.as_chunks();
        Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
    }

    /// Fills a host page with words, the rest with zeros.
    pub(crate) fn write_words(&self, page: PhysAddr, words: impl IntoIterator<Item = u64>) {
        let mut bytes = [0; ROOT_BYTES];
        let (slots, _) = bytes.as_chunks_mut();
        for (slot, word) in slots.iter_mut().zip(words) {
            *slot = word.to_le_bytes();
        }
        self.hw.write(page, KeyId::TME, &bytes);
    }

    /// The address of a page in a list: page aligned and without KeyID bits.
    pub(crate) fn listed_page(&self, raw: u64, operand: OperandId) -> Result<PhysAddr, Exit> {
        let space = &self.module.platform()?.space;
        space.plain(raw).filter(|page| page.is_aligned(PAGE_SIZE)).ok_or_else(|| invalid(operand))
    }

    /// The pages of an HPA_ARRAY_T, in the order of the list.
    pub(crate) fn page_array(&self, raw: u64, operand: OperandId) -> Result<Vec<PhysAddr>, Exit> {
        let array = HpaArray::from_raw(raw).ok_or_else(|| invalid(operand))?;
        let Some(root) = array.root() else {
            let single = array.single().map_or(0, PhysAddr::as_u64);
            return Ok(vec![self.listed_page(single, operand)?]);
        };
        let root = self.host_page(root.as_u64(), operand)?;
        let words = self.read_words(root)?;
        words.into_iter().take(array.count()).map(|word| self.listed_page(word, operand)).collect()
    }

    /// Whether [`Self::claim`] would take `pages`.
    pub(crate) fn check_pages(&self, pages: &[PhysAddr]) -> Result<(), PageRefusal> {
        let tdmrs = self.module.tdmrs.get().ok_or(PageRefusal::NotUsable)?;
        let connect = self.module.connect.get().ok_or(PageRefusal::NotUsable)?;
        connect.pages.check(tdmrs, pages)
    }

    /// Gives all of `pages` to `owner`, or none, and makes them the module's: what was in them is lost.
    pub(crate) fn claim(&self, pages: &[PhysAddr], owner: Owner) -> Result<(), PageRefusal> {
        let tdmrs = self.module.tdmrs.get().ok_or(PageRefusal::NotUsable)?;
        let connect = self.module.connect.get().ok_or(PageRefusal::NotUsable)?;
        connect.pages.claim(tdmrs, pages, owner)?;
        if let Some(&key) = self.module.global_key.get() {
            for run in runs(pages)? {
                self.hw.initialise(run, key);
            }
        }
        Ok(())
    }

    /// Gives pages back to the host.
    pub(crate) fn release(&self, pages: &[PhysAddr]) {
        if let Some(connect) = self.module.connect.get() {
            connect.pages.release(pages);
        }
    }

    /// The release operand of a DELETE leaf for an object of `count` pages.
    pub(crate) fn release_target(
        &self,
        raw: u64,
        count: usize,
        operand: OperandId,
    ) -> Result<ReleaseTarget, Exit> {
        match (count, raw) {
            (1, 0) => Ok(ReleaseTarget::Register),
            (1, _) | (_, 0) => Err(invalid(operand)),
            _ => self.host_page(raw, operand).map(ReleaseTarget::Root),
        }
    }

    /// Writes the list and returns RCX: an HPA_ARRAY_T of `pages`.
    pub(crate) fn write_released(&self, target: ReleaseTarget, pages: &[PhysAddr]) -> u64 {
        let root = match target {
            ReleaseTarget::Root(root) => {
                self.write_words(root, pages.iter().map(|page| page.as_u64()));
                Some(root)
            }
            ReleaseTarget::Register => pages.first().copied(),
        };
        root.and_then(|root| HpaArray::of(root, pages.len()).ok()).map_or(0, HpaArray::raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tdmrs::{PamtAreas, TdmrConfig};

    const GIB: u64 = 1 << 30;

    fn range(start: u64, size: u64) -> PhysRange {
        PhysRange::from_size(PhysAddr::new(start), size).expect("a range")
    }

    /// Two TDMRs that touch, of 1 GiB each, the first initialised and `steps` of the second.
    fn tdmrs(reserved: Vec<PhysRange>, steps: u64) -> TdmrTable {
        let config = |start, reserved| TdmrConfig {
            range: range(start, GIB),
            reserved,
            pamt: PamtAreas([range(0x10_0000, PAGE_SIZE); 3]),
        };
        TdmrTable::restored(vec![(config(GIB, Vec::new()), 256), (config(2 * GIB, reserved), steps)])
    }

    fn pages(first: u64) -> [PhysAddr; 2] {
        [first, first + PAGE_SIZE].map(PhysAddr::new)
    }

    #[test]
    fn neighbouring_pages_may_lie_in_two_tdmrs() {
        let border = pages(2 * GIB - PAGE_SIZE);
        let registry = PageRegistry::default();
        assert_eq!(registry.claim(&tdmrs(Vec::new(), 256), &border, Owner::Pool), Ok(()));
        assert_eq!(registry.pages_of(Owner::Pool), border);
        let again = PageRegistry::default();
        for (range, owner) in registry.list() {
            assert_eq!(again.restore(&tdmrs(Vec::new(), 256), range, owner), Ok(()));
        }
        assert_eq!(again.list(), registry.list());
    }

    #[test]
    fn pages_without_metadata_are_not_usable() {
        let unusable = Err(PageRefusal::NotUsable);
        let registry = PageRegistry::default();
        let border = pages(2 * GIB - PAGE_SIZE);
        assert_eq!(
            registry.check(&tdmrs(Vec::new(), 255), &border),
            unusable,
            "the second is not initialised"
        );
        let reserved = vec![range(2 * GIB, PAGE_SIZE)];
        assert_eq!(registry.check(&tdmrs(reserved, 256), &border), unusable, "reserved");
        for first in [GIB - PAGE_SIZE, 3 * GIB - PAGE_SIZE, 4 * GIB] {
            assert_eq!(registry.check(&tdmrs(Vec::new(), 256), &pages(first)), unusable, "{first:#x}");
        }
    }
}
