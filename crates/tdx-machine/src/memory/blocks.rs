//! How memory is cut: into blocks of 1 GiB that lock independently, and into lines.

use std::ops::Range;
use std::sync::OnceLock;

use parking_lot::Mutex;
use tdx_abi::addr::{LINE_SIZE, SIZE_1G};
use tdx_abi::{PhysAddr, PhysRange};

pub(super) const LINE: usize = 64;

/// Blocks that one table of the second level names.
const BLOCKS_PER_TABLE: u64 = 4096;
/// Tables of the first level: 2^52 bytes in all.
const TABLES: usize = 1024;

type Table<R> = Box<[OnceLock<Box<Mutex<R>>>]>;

/// The blocks that somebody has touched.
pub(super) struct Blocks<R>(Box<[OnceLock<Table<R>>]>);

impl<R: Default> Blocks<R> {
    pub(super) fn new() -> Self {
        Self((0..TABLES).map(|_| OnceLock::new()).collect())
    }

    /// The block of an address; `None` beyond 52 bits.
    pub(super) fn get(&self, address: u64) -> Option<&Mutex<R>> {
        let number = address / SIZE_1G;
        let table = self.0.get(usize::try_from(number / BLOCKS_PER_TABLE).ok()?)?;
        let table = table.get_or_init(|| (0..BLOCKS_PER_TABLE).map(|_| OnceLock::new()).collect());
        let slot = table.get(usize::try_from(number % BLOCKS_PER_TABLE).ok()?)?;
        Some(slot.get_or_init(Box::default))
    }

    /// The block of an address, if it was touched.
    pub(super) fn existing(&self, address: u64) -> Option<&Mutex<R>> {
        let number = address / SIZE_1G;
        let table = self.0.get(usize::try_from(number / BLOCKS_PER_TABLE).ok()?)?.get()?;
        Some(table.get(usize::try_from(number % BLOCKS_PER_TABLE).ok()?)?.get()?)
    }

    /// Blocks of a range, each with its address, its first line and the line behind its last.
    pub(super) fn for_each_in(&self, range: PhysRange, mut act: impl FnMut(u64, &mut R, u32, u32)) {
        let end = range.end().as_u64();
        let mut at = range.start().as_u64();
        while at < end {
            let base = at & !(SIZE_1G - 1);
            let stop = end.min(base + SIZE_1G);
            if let (Some(region), Ok(first), Ok(last)) = (
                self.get(base),
                u32::try_from((at - base) / LINE_SIZE),
                u32::try_from((stop - base).div_ceil(LINE_SIZE)),
            ) {
                act(base, &mut region.lock(), first, last);
            }
            at = stop;
        }
    }

    /// All blocks that were touched, each with its address.
    pub(super) fn for_each_existing(&self, mut act: impl FnMut(u64, &mut R)) {
        for (index, table) in (0u64..).zip(&self.0) {
            for (slot, block) in (0u64..).zip(table.get().into_iter().flatten()) {
                if let Some(region) = block.get() {
                    act((index * BLOCKS_PER_TABLE + slot) * SIZE_1G, &mut region.lock());
                }
            }
        }
    }
}

/// Block of an address, and offset inside it.
pub(super) fn split(address: u64) -> (u64, u32) {
    let offset = address & (SIZE_1G - 1);
    (address - offset, u32::try_from(offset).unwrap_or(0))
}

/// Part of an access that lies in one block.
pub(super) struct Span {
    /// Address of the block.
    pub(super) base: u64,
    /// First byte inside the block.
    pub(super) offset: u32,
    /// Place in the caller's buffer.
    pub(super) place: Range<usize>,
}

/// The blocks of an access of `len` bytes from `pa` on.
pub(super) fn spans(pa: PhysAddr, len: usize) -> impl Iterator<Item = Span> {
    let (mut at, mut from) = (pa.as_u64(), 0);
    std::iter::from_fn(move || {
        if from >= len {
            return None;
        }
        let (base, offset) = split(at);
        let room = usize::try_from(SIZE_1G - u64::from(offset)).unwrap_or(len);
        let to = len.min(from.saturating_add(room));
        let span = Span { base, offset, place: from..to };
        at = at.wrapping_add((to - from) as u64);
        from = to;
        Some(span)
    })
}

/// Part of a line that an access covers.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub(super) line: u32,
    /// First byte inside the line.
    pub(super) first: usize,
    /// Place in the caller's buffer.
    pub(super) from: usize,
    pub(super) to: usize,
}

impl Piece {
    pub(super) fn len(self) -> usize {
        self.to - self.from
    }
}

/// The lines of an access of `len` bytes from `offset` of a block.
pub(super) fn pieces(offset: u32, len: usize) -> impl Iterator<Item = Piece> {
    let (mut line, mut first) = (offset / 64, (offset % 64) as usize);
    let mut from = 0;
    std::iter::from_fn(move || {
        if from >= len {
            return None;
        }
        let to = len.min(from + LINE - first);
        let piece = Piece { line, first, from, to };
        from = to;
        first = 0;
        line += 1;
        Some(piece)
    })
}
