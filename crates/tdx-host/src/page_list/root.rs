//! The page behind an operand that names a list.

use tdx_abi::connect::pages::{HpaArray, IommuBlock, ReleaseOperand};
use tdx_abi::hpa_list::{HPA_LIST_MAX, HpaListError, HpaListInfo};
use tdx_abi::{PAGE_SIZE, PhysAddr, PhysRange};

use super::{DonatedList, PageList, encode};
use crate::error::HostError;
use crate::traits::{AllocRequest, LeakCounter, NodeId, OwnedPages, Pages};

/// Entries that are read or written at a time, so that no stack has to hold a page.
const CHUNK: usize = 32;

/// A page of addresses. It stays the host's; the module reads it, or writes a list into it.
#[derive(Debug)]
#[must_use = "dropped pages are leaked"]
pub struct RootPage<L: LeakCounter>(OwnedPages<L>);

impl<L: LeakCounter> RootPage<L> {
    /// A page near `node`.
    pub fn alloc<P>(platform: &P, node: NodeId) -> Result<Self, HostError>
    where
        P: Pages<Leaks = L> + ?Sized,
    {
        let request = AllocRequest { bytes: PAGE_SIZE, align: PAGE_SIZE, node, avoid: &[] };
        platform.alloc_contiguous(request).map(Self).ok_or(HostError::NoMemory { bytes: PAGE_SIZE })
    }

    /// Where it is.
    pub fn address(&self) -> PhysAddr {
        self.0.start()
    }

    /// Gives the page back to the allocator.
    pub fn free<P>(self, platform: &P)
    where
        P: Pages<Leaks = L> + ?Sized,
    {
        platform.free(self.0);
    }

    /// Writes `entries`, and zeroes behind them.
    pub fn fill<P>(&self, platform: &P, entries: impl Iterator<Item = u64>) -> Result<(), HostError>
    where
        P: Pages<Leaks = L> + ?Sized,
    {
        let mut entries = entries.chain(core::iter::repeat(0));
        for at in (0..HPA_LIST_MAX).step_by(CHUNK) {
            let mut bytes = [0; CHUNK * size_of::<u64>()];
            for (place, entry) in bytes.chunks_exact_mut(size_of::<u64>()).zip(&mut entries) {
                place.copy_from_slice(&entry.to_le_bytes());
            }
            platform.write(&self.0, (at * size_of::<u64>()) as u64, &bytes)?;
        }
        Ok(())
    }

    /// HPA_ARRAY_T of `list`.
    pub fn hpa_array<P, const RUNS: usize>(
        &self,
        platform: &P,
        list: &PageList<L, RUNS>,
    ) -> Result<HpaArray, HostError>
    where
        P: Pages<Leaks = L> + ?Sized,
    {
        let encoded = encode::hpa_array(self.address(), list.count(), list.addresses());
        let encoded = encoded.map_err(bad_list)?;
        self.fill(platform, encoded.entries)?;
        Ok(encoded.operand)
    }

    /// HPA_LIST_INFO of the pages of `list`.
    pub fn hpa_list_info<P, const RUNS: usize>(
        &self,
        platform: &P,
        list: &PageList<L, RUNS>,
    ) -> Result<HpaListInfo, HostError>
    where
        P: Pages<Leaks = L> + ?Sized,
    {
        let encoded = encode::hpa_list_info(self.address(), list.count(), list.addresses());
        let encoded = encoded.map_err(bad_list)?;
        self.fill(platform, encoded.entries)?;
        Ok(encoded.operand)
    }

    /// The operand of a unit's setup: both blocks and the single pages of `list`.
    pub fn iommu_mt<P, const RUNS: usize>(
        &self,
        platform: &P,
        blocks: [PhysRange; 2],
        list: &PageList<L, RUNS>,
    ) -> Result<PhysAddr, HostError>
    where
        P: Pages<Leaks = L> + ?Sized,
    {
        let encoded = encode::iommu_mt(self.address(), blocks, list.count(), list.addresses());
        let encoded = encoded.map_err(bad_list)?;
        self.fill(platform, encoded.entries)?;
        Ok(encoded.operand)
    }

    /// The operand of a DELETE leaf for `list`; the page is emptied for what the module will write.
    pub fn release<P, const RUNS: usize>(
        &self,
        platform: &P,
        list: &DonatedList<L, RUNS>,
    ) -> Result<ReleaseOperand, HostError>
    where
        P: Pages<Leaks = L> + ?Sized,
    {
        self.fill(platform, core::iter::empty())?;
        Ok(encode::release(self.address(), list.count()))
    }

    /// What RCX of a DELETE leaf, and the page, say of the pages that the module gave back.
    ///
    /// Nothing if RCX describes no array, or one in another page.
    pub fn released<'a, P>(&'a self, platform: &'a P, rcx: u64) -> Returned<'a, P>
    where
        P: Pages<Leaks = L> + ?Sized,
    {
        let array = HpaArray::from_raw(rcx);
        match array.map(|array| (array.single(), array.root(), array.count())) {
            Some((Some(page), _, _)) => Returned::Single(page),
            Some((_, Some(root), count)) if root == self.address() => {
                Returned::Listed { platform, root: &self.0, count }
            }
            _ => Returned::Nothing,
        }
    }

    /// What the page says of the pages that a unit gave back: blocks and single pages, up to the end of it.
    pub const fn listed<'a, P>(&'a self, platform: &'a P) -> Returned<'a, P>
    where
        P: Pages<Leaks = L> + ?Sized,
    {
        Returned::Listed { platform, root: &self.0, count: HPA_LIST_MAX }
    }
}

/// Pages that the module says it gave back.
#[derive(Debug)]
pub enum Returned<'a, P: Pages + ?Sized> {
    /// None.
    Nothing,
    /// One.
    Single(PhysAddr),
    /// Those that entries of a page name.
    Listed {
        /// The way to the page.
        platform: &'a P,
        /// The page.
        root: &'a OwnedPages<P::Leaks>,
        /// Entries that count.
        count: usize,
    },
}

impl<P: Pages + ?Sized> Returned<'_, P> {
    /// True if it names no page at all. Of a list that cannot be read nobody knows.
    pub fn is_empty(&self) -> bool {
        match *self {
            Self::Nothing => true,
            Self::Single(_) => false,
            Self::Listed { platform, root, count } => (0..count).step_by(CHUNK).all(|at| {
                let mut bytes = [0; CHUNK * size_of::<u64>()];
                let read = platform.read(root, (at * size_of::<u64>()) as u64, &mut bytes);
                read.is_ok() && bytes.iter().take((count - at) * size_of::<u64>()).all(|byte| *byte == 0)
            }),
        }
    }

    /// True if `page` is one of them. A list that cannot be read names none.
    pub fn names(&self, page: PhysAddr) -> bool {
        match *self {
            Self::Nothing => false,
            Self::Single(single) => single == page,
            Self::Listed { platform, root, count } => (0..count).step_by(CHUNK).any(|at| {
                let mut bytes = [0; CHUNK * size_of::<u64>()];
                let read = platform.read(root, (at * size_of::<u64>()) as u64, &mut bytes);
                let entries = bytes.chunks_exact(size_of::<u64>()).take(count - at);
                read.is_ok() && entries.flat_map(<[u8; 8]>::try_from).any(|entry| covers(entry, page))
            }),
        }
    }
}

/// True if an entry, of a block or of a single page, covers `page`.
fn covers(entry: [u8; 8], page: PhysAddr) -> bool {
    let Some(block) = Some(u64::from_le_bytes(entry)).filter(|entry| *entry != 0) else { return false };
    let block = IommuBlock::from_entry(block);
    let range = block.and_then(|block| PhysRange::from_size(block.start, PAGE_SIZE * u64::from(block.pages)));
    range.is_some_and(|range| range.contains(page))
}

fn bad_list(error: HpaListError) -> HostError {
    HostError::PageListRefused { reason: error }
}
