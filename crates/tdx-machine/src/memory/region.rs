//! One GiB of memory: touched pages, runs of initialised lines, poison and displaced cache lines.

use std::collections::HashMap;

use tdx_abi::addr::LINE_SIZE;
use tdx_abi::{KeyId, PhysAddr};

use super::blocks::{LINE, Piece, pieces};
use super::line::{KeyStamp, LineTag, PoisonCause, PoisonRecord};
use super::runs::Runs;
use super::view::{Accessor, Rules, Store, View, view};
use crate::chaos::mix;
use crate::event::{Event, EventLog};

const PAGE: usize = 4096;
const LINES_PER_PAGE: u32 = 64;

/// What an access to a block brings along.
pub(super) struct Context<'a> {
    pub(super) rules: Rules,
    /// Address of the block.
    pub(super) base: u64,
    /// Number of this access.
    pub(super) now: u64,
    /// Every cached line up to this access number has been written back.
    pub(super) flushed: u64,
    pub(super) events: &'a EventLog,
}

impl Context<'_> {
    fn address(&self, line: u32) -> PhysAddr {
        PhysAddr::new(self.base + u64::from(line) * LINE_SIZE)
    }
}

struct Page {
    bytes: [u8; PAGE],
    tags: [LineTag; LINES_PER_PAGE as usize],
    /// Number of the last cached write.
    written_at: u64,
}

/// A dirty line of a cache whose place in memory somebody else has written with another KeyID.
struct Displaced {
    line: u32,
    tag: LineTag,
    bytes: [u8; LINE],
    written_at: u64,
}

#[derive(Default)]
pub(super) struct Region {
    pages: HashMap<u32, Box<Page>>,
    runs: Runs,
    poison: HashMap<u32, PoisonCause>,
    displaced: Vec<Displaced>,
    write_back_in: u32,
}

impl Region {
    /// Reads `bytes` from `offset`. `Err`: the first line whose poison was delivered.
    pub(super) fn read(
        &mut self,
        ctx: &Context<'_>,
        offset: u32,
        reader: Accessor,
        bytes: &mut [u8],
    ) -> Result<(), PhysAddr> {
        self.age(ctx);
        for piece in pieces(offset, bytes.len()) {
            let Some(out) = bytes.get_mut(piece.from..piece.to) else { break };
            self.read_piece(ctx, piece, reader, out)?;
        }
        Ok(())
    }

    fn read_piece(
        &mut self,
        ctx: &Context<'_>,
        piece: Piece,
        reader: Accessor,
        out: &mut [u8],
    ) -> Result<(), PhysAddr> {
        let tag = self.tag(piece.line);
        match view(tag, reader, ctx.rules.integrity) {
            View::Poison => Err(ctx.address(piece.line)),
            View::Mismatch(cause) => {
                self.poison(ctx, piece.line, cause);
                Err(ctx.address(piece.line))
            }
            View::Zeros => {
                out.fill(0);
                Ok(())
            }
            View::Data => {
                self.copy_line(piece, out);
                Ok(())
            }
            View::Garbage => {
                self.copy_line(piece, out);
                scramble(ctx, piece, tag.writer, reader.stamp, out);
                Ok(())
            }
        }
    }

    fn copy_line(&self, piece: Piece, out: &mut [u8]) {
        let Some(page) = self.pages.get(&(piece.line / LINES_PER_PAGE)) else {
            out.fill(0);
            return;
        };
        let start = (piece.line % LINES_PER_PAGE) as usize * LINE + piece.first;
        if let Some(bytes) = page.bytes.get(start..start + out.len()) {
            out.copy_from_slice(bytes);
        }
    }

    /// Writes `bytes` from `offset`.
    pub(super) fn write(
        &mut self,
        ctx: &Context<'_>,
        offset: u32,
        writer: Accessor,
        bytes: &[u8],
        store: Store,
    ) {
        self.age(ctx);
        for piece in pieces(offset, bytes.len()) {
            if let Some(data) = bytes.get(piece.from..piece.to) {
                self.write_piece(ctx, piece, writer, data, store);
            }
        }
    }

    fn write_piece(&mut self, ctx: &Context<'_>, piece: Piece, writer: Accessor, data: &[u8], store: Store) {
        let tag = self.tag(piece.line);
        self.displace(ctx, piece.line, tag, writer.stamp.key);
        let new_tag = LineTag::written(writer.stamp, writer.private).with_cached(store == Store::Cached);
        if piece.len() == LINE {
            self.poison.remove(&piece.line);
            self.replace(ctx, piece.line, new_tag, |line| line.copy_from_slice(data));
            return;
        }
        if store == Store::Direct
            && ctx.rules.partial_write_poison
            && !writer.private
            && tag.is_td_owned()
            && !tag.is_poisoned()
        {
            let cause = PoisonCause::PartialWrite {
                pa: PhysAddr::new(ctx.address(piece.line).as_u64() + piece.first as u64),
                bytes: u8::try_from(piece.len()).unwrap_or(u8::MAX),
                key: writer.stamp.key,
            };
            self.poison(ctx, piece.line, cause);
            return;
        }
        // The line is fetched with the writer's key, changed and stored whole.
        let fetched = view(tag, writer, ctx.rules.integrity);
        match fetched {
            // Poison travels with the line: the store does not consume it, and cannot heal it.
            View::Poison => return,
            View::Mismatch(cause) => {
                self.poison(ctx, piece.line, cause);
                return;
            }
            View::Zeros | View::Data | View::Garbage => {}
        }
        let whole = Piece { first: 0, from: 0, to: LINE, ..piece };
        self.replace(ctx, piece.line, new_tag, |line| {
            match fetched {
                View::Zeros => line.fill(0),
                View::Garbage => scramble(ctx, whole, tag.writer, writer.stamp, line),
                _ => {}
            }
            line[piece.first..piece.first + data.len()].copy_from_slice(data);
        });
    }

    /// Fills the lines `start..end` with zeros without reading them (MOVDIR64B).
    pub(super) fn initialise(&mut self, ctx: &Context<'_>, start: u32, end: u32, writer: Accessor) {
        let tag = LineTag::written(writer.stamp, writer.private);
        if !(self.pages.is_empty() && self.displaced.is_empty() && self.poison.is_empty()) {
            self.age(ctx);
            self.initialise_touched(ctx, start, end, writer.stamp.key, tag);
        }
        if tag == LineTag::default() {
            self.runs.clear(start, end);
        } else {
            self.runs.set(start, end, tag);
        }
    }

    fn initialise_touched(&mut self, ctx: &Context<'_>, start: u32, end: u32, key: KeyId, tag: LineTag) {
        for pfn in self.touched_pages(start, end) {
            let first = pfn * LINES_PER_PAGE;
            let last = first + LINES_PER_PAGE;
            let whole = start <= first && last <= end;
            for line in first.max(start)..last.min(end) {
                let old = self.tag(line);
                self.displace(ctx, line, old, key);
                if !whole {
                    self.replace(ctx, line, tag, |bytes| bytes.fill(0));
                }
            }
            if whole {
                self.pages.remove(&pfn);
            }
        }
        // What a cache held of these lines under the same KeyID is overwritten there.
        self.displaced.retain(|old| !(start <= old.line && old.line < end && old.tag.writer.key == key));
        if self.poison.len() as u64 <= u64::from(end - start) {
            self.poison.retain(|line, _| !(start..end).contains(line));
        } else {
            for line in start..end {
                self.poison.remove(&line);
            }
        }
    }

    fn touched_pages(&self, start: u32, end: u32) -> Vec<u32> {
        let frames = start / LINES_PER_PAGE..end.div_ceil(LINES_PER_PAGE);
        if frames.len() <= self.pages.len() {
            frames.filter(|frame| self.pages.contains_key(frame)).collect()
        } else {
            let mut touched: Vec<u32> =
                self.pages.keys().copied().filter(|frame| frames.contains(frame)).collect();
            touched.sort_unstable();
            touched
        }
    }

    /// Writes back what caches hold dirty of the lines `start..end` under `key` (CLFLUSH).
    pub(super) fn flush(&mut self, ctx: &Context<'_>, start: u32, end: u32, key: KeyId) {
        for pfn in self.touched_pages(start, end) {
            let Some(page) = self.pages.get_mut(&pfn) else { continue };
            for (line, tag) in (pfn * LINES_PER_PAGE..).zip(&mut page.tags) {
                if (start..end).contains(&line) && tag.writer.key == key {
                    *tag = tag.with_cached(false);
                }
            }
        }
        self.write_back(ctx, |old| (start..end).contains(&old.line) && old.tag.writer.key == key);
    }

    /// Writes back what caches hold dirty and was written up to access `ctx.flushed` (WBINVD).
    pub(super) fn flush_older(&mut self, ctx: &Context<'_>) {
        self.write_back(ctx, |old| old.written_at <= ctx.flushed);
    }

    /// Writes back every displaced line of `start..end`, as a cache does when it needs room.
    pub(super) fn evict(&mut self, ctx: &Context<'_>, start: u32, end: u32) {
        self.write_back(ctx, |old| (start..end).contains(&old.line));
    }

    /// Why the line is poisoned.
    pub(super) fn poisoned_by(&self, line: u32) -> Option<PoisonCause> {
        self.poison.get(&line).copied()
    }

    pub(super) fn holds_displaced_lines(&self) -> bool {
        !self.displaced.is_empty()
    }

    /// Pages and runs kept, for the accounting of the model itself.
    pub(super) fn footprint(&self) -> (usize, usize) {
        (self.pages.len(), self.runs.len())
    }

    fn tag(&self, line: u32) -> LineTag {
        match self.pages.get(&(line / LINES_PER_PAGE)) {
            Some(page) => page.tags.get((line % LINES_PER_PAGE) as usize).copied().unwrap_or_default(),
            None => self.runs.tag_at(line).unwrap_or_default(),
        }
    }

    fn replace(&mut self, ctx: &Context<'_>, line: u32, tag: LineTag, change: impl FnOnce(&mut [u8])) {
        let page = self.page(line / LINES_PER_PAGE);
        let index = (line % LINES_PER_PAGE) as usize;
        if tag.is_cached() && page.written_at <= ctx.flushed {
            // Every line of the page was written back since; the new number is not theirs.
            page.tags.iter_mut().for_each(|tag| *tag = tag.with_cached(false));
        }
        if let Some(bytes) = page.bytes.get_mut(index * LINE..(index + 1) * LINE) {
            change(bytes);
        }
        if let Some(slot) = page.tags.get_mut(index) {
            *slot = tag;
        }
        if tag.is_cached() {
            page.written_at = ctx.now;
        }
    }

    fn page(&mut self, frame: u32) -> &mut Page {
        let runs = &self.runs;
        self.pages.entry(frame).or_insert_with(|| {
            let mut tags = [LineTag::default(); LINES_PER_PAGE as usize];
            if !runs.is_empty() {
                for (line, tag) in (frame * LINES_PER_PAGE..).zip(&mut tags) {
                    *tag = runs.tag_at(line).unwrap_or_default();
                }
            }
            Box::new(Page { bytes: [0; PAGE], tags, written_at: 0 })
        })
    }

    fn poison(&mut self, ctx: &Context<'_>, line: u32, cause: PoisonCause) {
        let tag = self.tag(line).with_poison();
        self.replace(ctx, line, tag, |_| {});
        self.poison.insert(line, cause);
        ctx.events.push(Event::Poisoned(PoisonRecord { line: ctx.address(line), cause }));
    }

    /// A write with `key` is about to change the line: a dirty copy under another KeyID stays in
    /// its cache, one under the same KeyID takes the write.
    fn displace(&mut self, ctx: &Context<'_>, line: u32, tag: LineTag, key: KeyId) {
        if !self.displaced.is_empty() {
            self.displaced.retain(|old| !(old.line == line && old.tag.writer.key == key));
        }
        if !tag.is_cached() || tag.writer.key == key {
            return;
        }
        let Some(page) = self.pages.get(&(line / LINES_PER_PAGE)) else { return };
        if page.written_at <= ctx.flushed {
            return;
        }
        let start = (line % LINES_PER_PAGE) as usize * LINE;
        let Some(Ok(bytes)) = page.bytes.get(start..start + LINE).map(<[u8; LINE]>::try_from) else { return };
        if self.displaced.is_empty() && ctx.rules.write_back_within > 0 {
            let spread =
                mix(ctx.rules.seed ^ ctx.address(line).as_u64()) % u64::from(ctx.rules.write_back_within);
            self.write_back_in = u32::try_from(spread).unwrap_or(0) + 1;
        }
        self.displaced.push(Displaced { line, tag, bytes, written_at: page.written_at });
    }

    /// Caches write back when they need room, at a moment nobody chooses.
    fn age(&mut self, ctx: &Context<'_>) {
        if self.displaced.is_empty() || self.write_back_in == 0 {
            return;
        }
        self.write_back_in -= 1;
        if self.write_back_in == 0 {
            self.write_back(ctx, |_| true);
        }
    }

    fn write_back(&mut self, ctx: &Context<'_>, select: impl Fn(&Displaced) -> bool) {
        if self.displaced.is_empty() {
            return;
        }
        for old in std::mem::take(&mut self.displaced) {
            if select(&old) {
                self.poison.remove(&old.line);
                self.replace(ctx, old.line, old.tag.with_cached(false), |line| {
                    line.copy_from_slice(&old.bytes);
                });
                ctx.events
                    .push(Event::LateWriteBack { line: ctx.address(old.line), key: old.tag.writer.key });
            } else {
                self.displaced.push(old);
            }
        }
    }
}

/// Turns content into what another key makes of it: stable, and different for each pair of keys.
fn scramble(ctx: &Context<'_>, piece: Piece, written: KeyStamp, read: KeyStamp, bytes: &mut [u8]) {
    let pack = |stamp: KeyStamp| u64::from(stamp.key.number()) << 32 | u64::from(stamp.generation);
    let line = ctx.address(piece.line).as_u64();
    let tweak =
        mix(ctx.rules.seed ^ mix(line) ^ mix(pack(written)).rotate_left(1) ^ mix(pack(read)).rotate_left(2));
    for (position, byte) in (piece.first as u64..).zip(bytes) {
        // Any byte of the stream will do.
        *byte ^= mix(tweak ^ position).to_le_bytes()[0];
    }
}
