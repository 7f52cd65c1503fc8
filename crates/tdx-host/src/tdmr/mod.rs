//! TDMRs: which memory the module is given, where the metadata of its pages (PAMT) lies, and what inside
//! stays with the host.

mod linux73;
mod reserved;
mod tdxhost;

use tdx_abi::addr::SIZE_1G;
use tdx_abi::tdmr::{MAX_TDMRS, ReservedArea, TdmrInfo};
use tdx_abi::{PAGE_SIZE, PageLevel, PhysAddr, PhysRange};

use crate::error::HostError;
use crate::memory::{CmrSet, MemoryBlock};
use crate::sysinfo::SysInfo;
use crate::traits::{AllocRequest, DonatedPages, LeakCounter, NodeId, OwnedPages, Pages};

pub use reserved::ReservedList;

/// How TDMRs are made of the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TdmrRules {
    /// Only what lies outside the CMRs is reserved, neighbours merge, and a TDMR whose reserved areas do
    /// not suffice is split at a 1 GiB border or rid of a PAMT.
    #[default]
    Tdxhost,
    /// As Linux 7.3: every hole between memory blocks is reserved, TDMRs are taken greedily.
    Linux73,
}

/// What the module allows and needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TdmrLimits {
    /// TDMRs, 1 to [`MAX_TDMRS`].
    pub max_tdmrs: u16,
    /// Reserved areas per TDMR, 1 to [`MAX_RESERVED_AREAS`](tdx_abi::tdmr::MAX_RESERVED_AREAS).
    pub max_reserved: u16,
    /// Bytes of a PAMT entry of each level, smallest level first.
    pub entry_sizes: [u64; 3],
}

impl TdmrLimits {
    /// The limits that the module reports.
    pub fn of(info: &SysInfo) -> Self {
        Self {
            max_tdmrs: info.max_tdmrs(),
            max_reserved: info.max_reserved_per_tdmr(),
            entry_sizes: PageLevel::ALL.map(|level| info.pamt_entry_size(level)),
        }
    }

    /// Bytes of the PAMT of each level for a TDMR of `bytes`, smallest level first.
    pub fn pamt_sizes(&self, bytes: u64) -> [u64; 3] {
        // At most 2^40 entries of 4096 bytes: nothing overflows.
        core::array::from_fn(|i| {
            let entries = PageLevel::ALL.get(i).map_or(0, |level| bytes / level.size());
            let bytes = entries * self.entry_sizes.get(i).copied().unwrap_or(0);
            bytes.next_multiple_of(PAGE_SIZE)
        })
    }

    /// Bytes of the whole PAMT for a TDMR of `bytes`.
    pub fn pamt_bytes(&self, bytes: u64) -> u64 {
        self.pamt_sizes(bytes).iter().sum()
    }
}

/// The PAMT of one TDMR on its way.
#[derive(Debug)]
enum Pamt<L: LeakCounter> {
    /// None yet.
    Missing,
    /// Allocated.
    Owned(OwnedPages<L>),
    /// Named to the module.
    Donated(DonatedPages<L>),
}

impl<L: LeakCounter> Pamt<L> {
    fn range(&self) -> Option<PhysRange> {
        match self {
            Self::Missing => None,
            Self::Owned(pages) => Some(pages.range()),
            Self::Donated(pages) => Some(pages.range()),
        }
    }
}

/// One TDMR.
#[derive(Debug)]
pub struct Tdmr<L: LeakCounter> {
    range: PhysRange,
    node: NodeId,
    pamt: Pamt<L>,
    reserved: ReservedList,
}

impl<L: LeakCounter> Tdmr<L> {
    fn new(range: PhysRange, node: NodeId) -> Self {
        Self { range, node, pamt: Pamt::Missing, reserved: ReservedList::default() }
    }

    /// The memory, in whole GiB.
    pub fn range(&self) -> PhysRange {
        self.range
    }

    /// Where the PAMT lies; `None` before it has one.
    pub fn pamt(&self) -> Option<PhysRange> {
        self.pamt.range()
    }

    /// What stays with the host.
    pub fn reserved(&self) -> &[PhysRange] {
        self.reserved.areas()
    }

    /// The structure that TDH.SYS.CONFIG reads.
    pub fn info(&self, limits: &TdmrLimits) -> TdmrInfo {
        let mut info = TdmrInfo {
            base: self.range.start().as_u64().into(),
            size: self.range.size().into(),
            ..TdmrInfo::default()
        };
        let mut at = self.pamt().map_or(0, |pamt| pamt.start().as_u64());
        for (level, size) in PageLevel::ALL.into_iter().zip(limits.pamt_sizes(self.range.size())) {
            info.set_pamt(level, at, size);
            at += size;
        }
        for (slot, area) in info.reserved.iter_mut().zip(self.reserved()) {
            let offset = area.start().as_u64().saturating_sub(self.range.start().as_u64());
            *slot = ReservedArea { offset: offset.into(), size: area.size().into() };
        }
        info
    }

    /// The parts of the PAMT that belong to the first `bytes` of the TDMR.
    pub(crate) fn pamt_of_first(&self, bytes: u64, limits: &TdmrLimits) -> [PhysRange; 3] {
        let mut at = self.pamt().map_or(PhysAddr::default(), PhysRange::start);
        let whole = limits.pamt_sizes(self.range.size());
        let part = limits.pamt_sizes(bytes.min(self.range.size()));
        core::array::from_fn(|i| {
            let touched = PhysRange::from_size(at, part.get(i).copied().unwrap_or(0));
            at = at.checked_add(whole.get(i).copied().unwrap_or(0)).unwrap_or(at);
            touched.unwrap_or_default()
        })
    }
}

/// All TDMRs, ascending and disjoint.
#[derive(Debug)]
pub struct TdmrTable<L: LeakCounter> {
    entries: [Option<Tdmr<L>>; MAX_TDMRS],
    len: usize,
}

impl<L: LeakCounter> Default for TdmrTable<L> {
    fn default() -> Self {
        Self::new()
    }
}

impl<L: LeakCounter> TdmrTable<L> {
    /// No TDMRs.
    pub const fn new() -> Self {
        Self { entries: [const { None }; MAX_TDMRS], len: 0 }
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True if there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The TDMRs, ascending.
    pub fn iter(&self) -> impl Iterator<Item = &Tdmr<L>> {
        self.entries.iter().flatten()
    }

    /// The `index`-th TDMR.
    pub fn get(&self, index: usize) -> Option<&Tdmr<L>> {
        self.entries.get(index).and_then(Option::as_ref)
    }

    fn get_mut(&mut self, index: usize) -> Option<&mut Tdmr<L>> {
        self.entries.get_mut(index).and_then(Option::as_mut)
    }

    /// Bytes of all PAMTs.
    pub fn pamt_bytes(&self) -> u64 {
        self.iter().filter_map(Tdmr::pamt).map(PhysRange::size).sum()
    }

    /// Bytes of all TDMRs.
    pub fn bytes(&self) -> u64 {
        self.iter().map(|tdmr| tdmr.range().size()).sum()
    }

    /// Builds the TDMRs for `blocks` with their PAMTs.
    ///
    /// `blocks` lie inside `cmrs` (see [`CmrSet::check`]); the Linux rules do not look at `cmrs`. After an
    /// error the table is empty and no page is lost.
    pub fn build<P: Pages<Leaks = L> + ?Sized>(
        &mut self,
        rules: TdmrRules,
        blocks: &[MemoryBlock],
        cmrs: &CmrSet,
        limits: &TdmrLimits,
        pages: &P,
    ) -> Result<(), HostError> {
        self.free(pages);
        let built = match rules {
            TdmrRules::Tdxhost => tdxhost::build(self, blocks, cmrs, limits, pages),
            TdmrRules::Linux73 => linux73::build(self, blocks, limits, pages),
        };
        if built.is_err() {
            self.free(pages);
        }
        built
    }

    /// Names the PAMTs to the module: from here on they are not the host's.
    pub(crate) fn donate(&mut self) {
        for tdmr in self.entries.iter_mut().flatten() {
            tdmr.pamt = match core::mem::replace(&mut tdmr.pamt, Pamt::Missing) {
                Pamt::Owned(pages) => Pamt::Donated(pages.donate()),
                other => other,
            };
        }
    }

    /// Gives all pages back that the host owns, and those named to a module that never took them. Empties
    /// the table.
    pub(crate) fn free<P: Pages<Leaks = L> + ?Sized>(&mut self, pages: &P) {
        for tdmr in self.entries.iter_mut().filter_map(Option::take) {
            match tdmr.pamt {
                Pamt::Missing => {}
                Pamt::Owned(owned) => pages.free(owned),
                Pamt::Donated(donated) => pages.free(donated.never_taken()),
            }
        }
        self.len = 0;
    }

    /// Takes the PAMTs back from a module that will not use them any more. Caches have been written back.
    ///
    /// `touched` tells for each TDMR how many bytes from its base on the module may have described.
    pub(crate) fn reclaim<P: Pages<Leaks = L> + ?Sized>(
        &mut self,
        pages: &P,
        clear: bool,
        limits: &TdmrLimits,
        touched: impl Fn(usize) -> u64,
    ) {
        for (index, entry) in self.entries.iter_mut().enumerate() {
            let Some(mut tdmr) = entry.take() else { continue };
            let parts = tdmr.pamt_of_first(touched(index), limits);
            match core::mem::replace(&mut tdmr.pamt, Pamt::Missing) {
                Pamt::Missing => {}
                Pamt::Owned(owned) => pages.free(owned),
                Pamt::Donated(donated) => {
                    pages.free(donated.reclaim().into_owned(pages, clear, &parts));
                }
            }
        }
        self.len = 0;
    }

    fn push(&mut self, tdmr: Tdmr<L>, limits: &TdmrLimits) -> Result<(), HostError> {
        let full = HostError::TooManyTdmrs { limit: limits.max_tdmrs, at: tdmr.range.start() };
        if self.len >= usize::from(limits.max_tdmrs) {
            return Err(full);
        }
        *self.entries.get_mut(self.len).ok_or(full)? = Some(tdmr);
        self.len += 1;
        Ok(())
    }

    /// Splits the `index`-th TDMR at `border`; its PAMT is given back. False if there is no room for
    /// another TDMR or the border does not lie inside.
    fn split<P: Pages<Leaks = L> + ?Sized>(
        &mut self,
        index: usize,
        border: PhysAddr,
        limits: &TdmrLimits,
        pages: &P,
    ) -> bool {
        if self.len >= usize::from(limits.max_tdmrs) || self.len >= MAX_TDMRS {
            return false;
        }
        let Some(tdmr) = self.get_mut(index) else { return false };
        let (start, end) = (tdmr.range.start(), tdmr.range.end());
        let halves = PhysRange::new(start, border).zip(PhysRange::new(border, end));
        let Some((left, right)) = halves.filter(|(left, right)| !left.is_empty() && !right.is_empty()) else {
            return false;
        };
        if let Pamt::Owned(old) = core::mem::replace(&mut tdmr.pamt, Pamt::Missing) {
            pages.free(old);
        }
        tdmr.range = left;
        let right = Tdmr::new(right, tdmr.node);
        let Some(tail) = self.entries.get_mut(index + 1..=self.len) else { return false };
        tail.rotate_right(1);
        if let Some(place) = tail.first_mut() {
            *place = Some(right);
        }
        self.len += 1;
        true
    }

    /// The PAMTs in ascending order.
    fn sorted_pamts(&self) -> ([PhysRange; MAX_TDMRS], usize) {
        let mut sorted = [PhysRange::default(); MAX_TDMRS];
        let mut count = 0;
        for (place, pamt) in sorted.iter_mut().zip(self.iter().filter_map(Tdmr::pamt)) {
            *place = pamt;
            count += 1;
        }
        if let Some(used) = sorted.get_mut(..count) {
            used.sort_unstable();
        }
        (sorted, count)
    }
}

/// The blocks that have memory in `range`.
fn blocks_in(blocks: &[MemoryBlock], range: PhysRange) -> &[MemoryBlock] {
    let first = blocks.partition_point(|block| block.range.end() <= range.start());
    let rest = blocks.get(first..).unwrap_or_default();
    let count = rest.partition_point(|block| block.range.start() < range.end());
    rest.get(..count).unwrap_or_default()
}

/// The GiB borders around `range`. Physical addresses end at 2^52, so that rounding up cannot fail.
fn gib_around(range: PhysRange) -> PhysRange {
    let end = range.end().align_up(SIZE_1G).unwrap_or(range.end());
    PhysRange::new(range.start().align_down(SIZE_1G), end).unwrap_or(range)
}

/// Pages for the PAMT of `tdmr`.
fn allocate_pamt<P: Pages + ?Sized>(
    tdmr: PhysRange,
    node: NodeId,
    avoid: &[PhysRange],
    limits: &TdmrLimits,
    pages: &P,
) -> Option<OwnedPages<P::Leaks>> {
    let bytes = limits.pamt_bytes(tdmr.size());
    pages.alloc_contiguous(AllocRequest { bytes, align: PAGE_SIZE, node, avoid })
}
