//! Physical memory by ranges, with the way of a page into the module and back as types.

use core::fmt;

use tdx_abi::{PhysAddr, PhysRange};

/// Number of a memory node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

/// An access to memory failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryFault {
    /// Poison was consumed.
    #[error("machine check at {0}")]
    MachineCheck(PhysAddr),
    /// No memory answers there, or the access leaves the pages.
    #[error("no memory at {0}")]
    NotMemory(PhysAddr),
}

/// Counts pages that nobody will ever give back. Clones count together.
pub trait LeakCounter: Clone {
    /// `range` is lost.
    fn leaked(&self, range: PhysRange);
}

/// A range of pages; dropped while armed it is a leak and counted as one.
#[derive(Debug)]
struct Held<L: LeakCounter> {
    range: PhysRange,
    leaks: Option<L>,
}

impl<L: LeakCounter> Held<L> {
    /// Takes the pages out; the drop that follows counts nothing.
    fn take(mut self) -> (PhysRange, Option<L>) {
        (self.range, self.leaks.take())
    }
}

impl<L: LeakCounter> Drop for Held<L> {
    fn drop(&mut self) {
        if let Some(leaks) = &self.leaks {
            leaks.leaked(self.range);
        }
    }
}

/// Pages that belong to the host: it may read, write and free them.
///
/// Dropping them without [`Pages::free`] is a leak.
#[derive(Debug)]
#[must_use = "dropped pages are leaked"]
pub struct OwnedPages<L: LeakCounter>(Held<L>);

impl<L: LeakCounter> OwnedPages<L> {
    /// Pages fresh from an allocator. For implementations of [`Pages`] alone.
    pub fn from_allocator(range: PhysRange, leaks: L) -> Self {
        Self(Held { range, leaks: Some(leaks) })
    }

    /// Where they are.
    pub fn range(&self) -> PhysRange {
        self.0.range
    }

    /// First address.
    pub fn start(&self) -> PhysAddr {
        self.0.range.start()
    }

    /// Hands the pages to the module: from here on the host may not touch them.
    pub fn donate(self) -> DonatedPages<L> {
        DonatedPages(self.0)
    }

    /// Ends the accounting. For [`Pages::free`] alone.
    pub fn into_allocator(self) -> PhysRange {
        self.0.take().0
    }

    pub(crate) fn into_parts(self) -> (PhysRange, Option<L>) {
        self.0.take()
    }
}

/// Pages that the module owns. Nothing can be read or written through them; dropping them is a leak.
#[derive(Debug)]
#[must_use = "dropped pages are leaked"]
pub struct DonatedPages<L: LeakCounter>(Held<L>);

impl<L: LeakCounter> DonatedPages<L> {
    /// Where they are.
    pub fn range(&self) -> PhysRange {
        self.0.range
    }

    /// The module never took the pages, so that they are the host's as they were.
    ///
    /// True only before the module acted on the call that named them.
    pub fn never_taken(self) -> OwnedPages<L> {
        OwnedPages(self.0)
    }

    /// The module gave the pages back: caches have been written back on every CPU.
    pub fn reclaim(self) -> ReclaimedPages<L> {
        ReclaimedPages(self.0)
    }
}

/// Pages that the module gave back but that may still carry its key.
#[derive(Debug)]
#[must_use = "dropped pages are leaked"]
pub struct ReclaimedPages<L: LeakCounter>(Held<L>);

impl<L: LeakCounter> ReclaimedPages<L> {
    /// Where they are.
    pub fn range(&self) -> PhysRange {
        self.0.range
    }

    pub(crate) fn into_parts(self) -> (PhysRange, Option<L>) {
        self.0.take()
    }

    /// Makes ordinary memory of the pages.
    ///
    /// On machines with the partial-write erratum (`clear`) every byte of `touched` that the module may
    /// have written is cleared first; other machines need nothing.
    pub fn into_owned<P: Pages<Leaks = L> + ?Sized>(
        self,
        pages: &P,
        clear: bool,
        touched: &[PhysRange],
    ) -> OwnedPages<L> {
        if clear {
            for part in touched.iter().filter_map(|part| part.intersection(self.0.range)) {
                pages.clear(part);
            }
        }
        OwnedPages(self.0)
    }
}

/// What to allocate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocRequest<'a> {
    /// Bytes, rounded up to 4 KiB by the allocator.
    pub bytes: u64,
    /// Alignment in bytes, a power of two of at least 4 KiB.
    pub align: u64,
    /// The node that is wanted; others serve if it has none left.
    pub node: NodeId,
    /// Ranges that the pages must not touch, in any order.
    pub avoid: &'a [PhysRange],
}

/// Physical memory of the page allocator.
pub trait Pages {
    /// How lost pages are counted.
    type Leaks: LeakCounter;

    /// Physically contiguous pages; `None` if no range serves. The content is undefined.
    fn alloc_contiguous(&self, request: AllocRequest<'_>) -> Option<OwnedPages<Self::Leaks>>;

    /// Gives pages back.
    fn free(&self, pages: OwnedPages<Self::Leaks>);

    /// Reads from `offset` bytes into `pages`.
    fn read(&self, pages: &OwnedPages<Self::Leaks>, offset: u64, bytes: &mut [u8])
    -> Result<(), MemoryFault>;

    /// Writes at `offset` bytes into `pages`.
    fn write(&self, pages: &OwnedPages<Self::Leaks>, offset: u64, bytes: &[u8]) -> Result<(), MemoryFault>;

    /// Zeroes `range` by MOVDIR64B with KeyID 0 and a full fence.
    fn clear(&self, range: PhysRange);

    /// Writes the cache lines of `range` back and invalidates them (CLFLUSH, KeyID 0), so that none is written
    /// over what the module makes of the pages.
    fn flush(&self, range: PhysRange);
}
