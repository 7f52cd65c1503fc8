//! Lists of 4 KiB pages that go to the module as one object, and the operands that name them.
//!
//! A list knows who its pages belong to as its type: [`PageList`] the host, [`DonatedList`] the module,
//! [`ReclaimedList`] the host again but with the module's key on them. [`encode`] has one pure function for
//! each form of operand; [`RootPage`] is the page that an operand points to.

pub mod encode;
mod root;

use tdx_abi::{PAGE_SIZE, PhysAddr, PhysRange};

use crate::error::HostError;
use crate::traits::{
    AllocRequest, DonatedPages, LeakCounter, MemoryFault, NodeId, OwnedPages, Pages, ReclaimedPages,
};

pub use root::{Returned, RootPage};

/// Runs of adjacent pages that a list can consist of, if nothing else is said. Objects of the module are
/// some pages, which may then lie anywhere.
pub const DEFAULT_RUNS: usize = 64;

/// Pages by runs of adjacent ones; dropped while armed they are a leak and counted as one.
#[derive(Debug)]
struct Runs<L: LeakCounter, const RUNS: usize> {
    parts: [PhysRange; RUNS],
    used: usize,
    leaks: Option<L>,
}

impl<L: LeakCounter, const RUNS: usize> Runs<L, RUNS> {
    const fn new() -> Self {
        Self { parts: [PhysRange::from_size(PhysAddr::new(0), 0).unwrap(); RUNS], used: 0, leaks: None }
    }

    fn runs(&self) -> &[PhysRange] {
        self.parts.get(..self.used).unwrap_or_default()
    }

    fn bytes(&self) -> u64 {
        self.runs().iter().map(|run| run.size()).sum()
    }

    fn count(&self) -> usize {
        usize::try_from(self.bytes() / PAGE_SIZE).unwrap_or(usize::MAX)
    }

    /// The first `count` pages and the others; both are armed, and the list is empty.
    fn split(&mut self, count: usize) -> (Self, Self) {
        let leaks = self.leaks.take();
        let (mut first, mut rest) = (Self::new(), Self::new());
        let mut wanted = (count as u64).saturating_mul(PAGE_SIZE);
        for run in self.runs() {
            let cut = PhysAddr::new(run.start().as_u64() + wanted.min(run.size()));
            wanted -= wanted.min(run.size());
            let halves = [PhysRange::new(run.start(), cut), PhysRange::new(cut, run.end())];
            for (list, half) in [&mut first, &mut rest].into_iter().zip(halves) {
                // Neither list has more runs than this one.
                half.filter(|half| !half.is_empty()).map(|half| list.push(half));
            }
        }
        self.forget();
        (first.leaks, rest.leaks) = (leaks.clone(), leaks);
        (first, rest)
    }

    fn has_room_for(&self, run: PhysRange) -> bool {
        self.used < RUNS || self.runs().last().is_some_and(|last| last.end() == run.start())
    }

    /// Adds a run behind the others; false if there is no room.
    fn push(&mut self, run: PhysRange) -> bool {
        let last = self.used.checked_sub(1).and_then(|last| self.parts.get_mut(last));
        if let Some(last) = last.filter(|last| last.end() == run.start())
            && let Some(joined) = PhysRange::new(last.start(), run.end())
        {
            *last = joined;
            return true;
        }
        let Some(place) = self.parts.get_mut(self.used) else { return false };
        *place = run;
        self.used += 1;
        true
    }

    /// Takes pages off the end until `bytes` are left.
    fn pop_down_to(&mut self, bytes: u64) -> Option<PhysRange> {
        let over = self.bytes().checked_sub(bytes).filter(|over| *over > 0)?;
        let last = self.used.checked_sub(1).and_then(|last| self.parts.get_mut(last))?;
        let cut = PhysAddr::new(last.end().as_u64() - over.min(last.size()));
        let (kept, popped) = (PhysRange::new(last.start(), cut)?, PhysRange::new(cut, last.end())?);
        *last = kept;
        if kept.is_empty() {
            self.used -= 1;
        }
        Some(popped)
    }

    fn addresses(&self) -> impl Iterator<Item = PhysAddr> + Clone + '_ {
        self.runs().iter().flat_map(|run| {
            let frames = run.start().as_u64() / PAGE_SIZE..run.end().as_u64() / PAGE_SIZE;
            frames.map(|frame| PhysAddr::new(frame * PAGE_SIZE))
        })
    }

    fn each_owned(&self, mut each: impl FnMut(OwnedPages<L>)) {
        let Some(leaks) = &self.leaks else { return };
        for run in self.runs() {
            each(OwnedPages::from_allocator(*run, leaks.clone()));
        }
    }

    /// Empties the list; nothing is counted as lost.
    fn forget(&mut self) {
        self.used = 0;
        self.leaks = None;
    }
}

impl<L: LeakCounter, const RUNS: usize> Drop for Runs<L, RUNS> {
    fn drop(&mut self) {
        if let Some(leaks) = &self.leaks {
            self.runs().iter().for_each(|run| leaks.leaked(*run));
        }
    }
}

/// Pages of the host, for an object of the module or for a buffer that it fills.
///
/// Dropping them without [`PageList::free`] is a leak.
#[derive(Debug)]
#[must_use = "dropped pages are leaked"]
pub struct PageList<L: LeakCounter, const RUNS: usize = DEFAULT_RUNS>(Runs<L, RUNS>);

impl<L: LeakCounter, const RUNS: usize> Default for PageList<L, RUNS> {
    fn default() -> Self {
        Self::new()
    }
}

impl<L: LeakCounter, const RUNS: usize> From<OwnedPages<L>> for PageList<L, RUNS> {
    fn from(pages: OwnedPages<L>) -> Self {
        let mut list = Self::new();
        list.add(pages);
        list
    }
}

impl<L: LeakCounter, const RUNS: usize> PageList<L, RUNS> {
    /// No pages.
    pub const fn new() -> Self {
        Self(Runs::new())
    }

    /// `count` pages near `node`: one run if there is one, else as few as the halving of sizes finds.
    pub fn alloc<P>(platform: &P, count: usize, node: NodeId) -> Result<Self, HostError>
    where
        P: Pages<Leaks = L> + ?Sized,
    {
        let mut list = Self::new();
        match list.extend(platform, count, node) {
            Ok(()) => Ok(list),
            Err(error) => {
                list.free(platform);
                Err(error)
            }
        }
    }

    /// Adds `count` pages. After an error the list is as it was.
    pub fn extend<P>(&mut self, platform: &P, count: usize, node: NodeId) -> Result<(), HostError>
    where
        P: Pages<Leaks = L> + ?Sized,
    {
        let before = self.0.bytes();
        let mut missing = count as u64;
        let mut size = missing;
        while missing > 0 {
            size = size.min(missing);
            let bytes = size * PAGE_SIZE;
            let found = platform.alloc_contiguous(AllocRequest { bytes, align: PAGE_SIZE, node, avoid: &[] });
            match found {
                Some(pages) if self.0.has_room_for(pages.range()) => {
                    self.add(pages);
                    missing -= size;
                }
                None if size > 1 => size = size.div_ceil(2),
                // Nothing left, or in too many pieces.
                unfit => {
                    if let Some(pages) = unfit {
                        platform.free(pages);
                    }
                    self.truncate(platform, before / PAGE_SIZE);
                    return Err(HostError::NoMemory { bytes: missing * PAGE_SIZE });
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, pages: OwnedPages<L>) {
        let (range, leaks) = pages.into_parts();
        self.0.leaks = self.0.leaks.take().or(leaks);
        // The caller asked whether there is room.
        self.0.push(range);
    }

    /// Gives all but the first `count` pages back to the allocator.
    fn truncate<P>(&mut self, platform: &P, count: u64)
    where
        P: Pages<Leaks = L> + ?Sized,
    {
        while let Some(run) = self.0.pop_down_to(count * PAGE_SIZE) {
            if let Some(leaks) = &self.0.leaks {
                platform.free(OwnedPages::from_allocator(run, leaks.clone()));
            }
        }
    }

    /// Takes the first `count` pages out; all of them if there are no more.
    pub fn split_first(&mut self, count: usize) -> Self {
        let (first, rest) = self.0.split(count);
        self.0 = rest;
        Self(first)
    }

    /// How many pages there are.
    pub fn count(&self) -> usize {
        self.0.count()
    }

    /// Where they are, in the order of the list.
    pub fn addresses(&self) -> impl Iterator<Item = PhysAddr> + Clone + '_ {
        self.0.addresses()
    }

    /// Gives all pages back to the allocator.
    pub fn free<P>(mut self, platform: &P)
    where
        P: Pages<Leaks = L> + ?Sized,
    {
        self.0.each_owned(|pages| platform.free(pages));
        self.0.forget();
    }

    /// Hands the pages to the module, none of their lines in a cache: from here on the host may not touch them.
    pub fn donate<P: Pages<Leaks = L> + ?Sized>(self, platform: &P) -> DonatedList<L, RUNS> {
        for &run in self.0.runs() {
            platform.flush(run);
        }
        DonatedList(self.0)
    }

    /// Reads from `offset` bytes into the list, over the borders of pages.
    pub fn read<P>(&self, platform: &P, offset: u64, bytes: &mut [u8]) -> Result<(), MemoryFault>
    where
        P: Pages<Leaks = L> + ?Sized,
    {
        let (mut at, mut rest) = (offset, bytes);
        self.visit(|run, start| {
            let Some((from, length)) = part(run, start, at, rest.len()) else { return Ok(()) };
            let (now, later) = core::mem::take(&mut rest).split_at_mut(length);
            rest = later;
            at += length as u64;
            platform.read(run, from, now)
        })?;
        if rest.is_empty() { Ok(()) } else { Err(self.outside()) }
    }

    /// Writes at `offset` bytes into the list, over the borders of pages.
    pub fn write<P>(&self, platform: &P, offset: u64, bytes: &[u8]) -> Result<(), MemoryFault>
    where
        P: Pages<Leaks = L> + ?Sized,
    {
        let (mut at, mut rest) = (offset, bytes);
        self.visit(|run, start| {
            let Some((from, length)) = part(run, start, at, rest.len()) else { return Ok(()) };
            let (now, later) = rest.split_at(length);
            rest = later;
            at += length as u64;
            platform.write(run, from, now)
        })?;
        if rest.is_empty() { Ok(()) } else { Err(self.outside()) }
    }

    /// Shows each run with its first byte's place in the list.
    fn visit(
        &self,
        mut each: impl FnMut(&OwnedPages<L>, u64) -> Result<(), MemoryFault>,
    ) -> Result<(), MemoryFault> {
        let (mut start, mut result) = (0, Ok(()));
        self.0.each_owned(|run| {
            if result.is_ok() {
                result = each(&run, start);
            }
            start += run.range().size();
            // Still the list's.
            let _ = run.into_allocator();
        });
        result
    }

    fn outside(&self) -> MemoryFault {
        MemoryFault::NotMemory(self.0.runs().last().map_or(PhysAddr::new(0), |run| run.end()))
    }
}

/// The part of an access at `at` of `length` bytes that falls into a run which begins at `start`.
fn part<L: LeakCounter>(run: &OwnedPages<L>, start: u64, at: u64, length: usize) -> Option<(u64, usize)> {
    let from = at.checked_sub(start)?;
    let left = run.range().size().checked_sub(from).filter(|left| *left > 0)?;
    let now = usize::try_from(left).unwrap_or(usize::MAX).min(length);
    (now > 0).then_some((from, now))
}

/// Pages that the module owns. Nothing can be read or written through them; dropping them is a leak.
#[derive(Debug)]
#[must_use = "dropped pages are leaked"]
pub struct DonatedList<L: LeakCounter, const RUNS: usize = DEFAULT_RUNS>(Runs<L, RUNS>);

impl<L: LeakCounter, const RUNS: usize> From<DonatedPages<L>> for DonatedList<L, RUNS> {
    fn from(pages: DonatedPages<L>) -> Self {
        DonatedList(PageList::from(pages.never_taken()).0)
    }
}

impl<L: LeakCounter, const RUNS: usize> DonatedList<L, RUNS> {
    /// No pages.
    pub const fn new() -> Self {
        Self(Runs::new())
    }

    /// How many pages there are.
    pub fn count(&self) -> usize {
        self.0.count()
    }

    /// Where they are, in the order of the list.
    pub fn addresses(&self) -> impl Iterator<Item = PhysAddr> + Clone + '_ {
        self.0.addresses()
    }

    /// The module never took the pages, so that they are the host's as they were.
    ///
    /// True only before the module acted on the call that named them, or once caches were written back on
    /// every CPU behind a call that failed.
    pub fn never_taken(mut self) -> PageList<L, RUNS> {
        PageList(core::mem::replace(&mut self.0, Runs::new()))
    }

    /// The module gave pages back, those that `returned` names; caches have been written back on every CPU.
    ///
    /// A page that it kept is poisoned: nobody will use it again, and it is counted as lost.
    pub fn take_back(self, returned: impl Fn(PhysAddr) -> bool) -> TakenBack<L, RUNS> {
        let Some(leaks) = self.0.leaks.clone() else {
            return TakenBack { pages: ReclaimedList(Runs::new()), missing: 0 };
        };
        let mut back = Runs::new();
        let mut missing = 0;
        for page in self.0.addresses() {
            let Some(range) = PhysRange::from_size(page, PAGE_SIZE) else { continue };
            // A hole may break a run in two, for which there may be no room.
            if !returned(page) || !back.push(range) {
                missing += 1;
                leaks.leaked(range);
            }
        }
        back.leaks = Some(leaks);
        self.defuse();
        TakenBack { pages: ReclaimedList(back), missing }
    }

    /// The module is gone, and with it its claim; caches have been written back on every CPU.
    pub fn reclaim(mut self) -> ReclaimedList<L, RUNS> {
        ReclaimedList(core::mem::replace(&mut self.0, Runs::new()))
    }

    /// True if the pages of `more` have room behind those of this list.
    pub fn has_room_for<const MORE: usize>(&self, more: &PageList<L, MORE>) -> bool {
        self.0.used + more.0.used <= RUNS
    }

    /// Moves the pages of `more` behind those of this list. Those without room are counted as lost: ask
    /// [`Self::has_room_for`] before.
    pub fn append<const MORE: usize>(&mut self, mut more: DonatedList<L, MORE>) {
        let Some(leaks) = more.0.leaks.take() else { return };
        for run in more.0.runs().iter().filter(|run| !self.0.push(**run)) {
            leaks.leaked(*run);
        }
        self.0.leaks = self.0.leaks.take().or(Some(leaks));
    }

    /// Takes the first `count` pages out; all of them if there are no more.
    pub fn split_first(&mut self, count: usize) -> Self {
        let (first, rest) = self.0.split(count);
        self.0 = rest;
        Self(first)
    }

    fn defuse(mut self) {
        self.0.forget();
    }
}

impl<L: LeakCounter, const RUNS: usize> Default for DonatedList<L, RUNS> {
    fn default() -> Self {
        Self::new()
    }
}

/// What the module gave back of an object.
#[derive(Debug)]
pub struct TakenBack<L: LeakCounter, const RUNS: usize = DEFAULT_RUNS> {
    /// The pages.
    pub pages: ReclaimedList<L, RUNS>,
    /// Pages that it kept.
    pub missing: usize,
}

/// Pages that the module gave back but that may still carry its key.
#[derive(Debug)]
#[must_use = "dropped pages are leaked"]
pub struct ReclaimedList<L: LeakCounter, const RUNS: usize = DEFAULT_RUNS>(Runs<L, RUNS>);

impl<L: LeakCounter, const RUNS: usize> ReclaimedList<L, RUNS> {
    /// Makes ordinary memory of the pages: the module's key is taken off every line.
    pub fn into_owned<P>(mut self, platform: &P) -> PageList<L, RUNS>
    where
        P: Pages<Leaks = L> + ?Sized,
    {
        self.0.runs().iter().for_each(|run| platform.clear(*run));
        PageList(core::mem::replace(&mut self.0, Runs::new()))
    }
}

impl<L: LeakCounter, const RUNS: usize> From<ReclaimedPages<L>> for ReclaimedList<L, RUNS> {
    fn from(pages: ReclaimedPages<L>) -> Self {
        let (range, leaks) = pages.into_parts();
        let mut runs = Runs::new();
        runs.push(range);
        runs.leaks = leaks;
        Self(runs)
    }
}
