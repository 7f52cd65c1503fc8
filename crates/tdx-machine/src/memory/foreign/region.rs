//! One GiB of somebody else's memory: who owns which line, and which are poisoned.

use std::collections::BTreeMap;
use std::ops::Range;

use tdx_abi::addr::LINE_SIZE;
use tdx_abi::{KeyId, PhysAddr};

use super::Ram;
use super::cipher::Ciphers;
use crate::chaos::mix;
use crate::event::{DropReason, Event, EventLog};
use crate::memory::blocks::{LINE, Piece, pieces};
use crate::memory::line::{KeyStamp, LineTag, PoisonCause, PoisonRecord};
use crate::memory::runs::Runs;
use crate::memory::view::{Accessor, Rules, Store, View, view};

const LINES_PER_PAGE: u32 = 64;
const PAGE: usize = 4096;

/// What an access to a block brings along.
pub(super) struct Context<'a> {
    pub(super) rules: Rules,
    /// Address of the block.
    pub(super) base: u64,
    pub(super) ram: &'a dyn Ram,
    pub(super) ciphers: &'a Ciphers,
    pub(super) events: &'a EventLog,
}

impl Context<'_> {
    fn address(&self, line: u32) -> PhysAddr {
        PhysAddr::new(self.base + u64::from(line) * LINE_SIZE)
    }

    /// Number of a line in all of memory.
    fn number(&self, line: u32) -> u64 {
        self.base / LINE_SIZE + u64::from(line)
    }

    fn fetch(&self, line: u32) -> Option<[u8; LINE]> {
        let mut bytes = [0; LINE];
        self.ram.read(self.address(line), &mut bytes).then_some(bytes)
    }

    /// False, with a note, if nothing answers.
    fn store(&self, pa: PhysAddr, bytes: &[u8]) -> bool {
        let stored = self.ram.write(pa, bytes);
        if !stored {
            self.events.push(Event::DroppedWrite { pa, reason: DropReason::NotRam });
        }
        stored
    }

    fn encrypt(&self, stamp: KeyStamp, line: u32, bytes: &mut [u8]) {
        if let Some(cipher) = self.ciphers.of(stamp) {
            cipher.encrypt(bytes, self.number(line));
        }
    }

    fn decrypt(&self, stamp: KeyStamp, line: u32, bytes: &mut [u8]) {
        if let Some(cipher) = self.ciphers.of(stamp) {
            cipher.decrypt(bytes, self.number(line));
        }
    }
}

/// A line that was written with a private KeyID.
struct Record {
    writer: KeyStamp,
    /// Of the ciphertext.
    digest: u64,
}

/// A poisoned line.
struct Poisoned {
    cause: PoisonCause,
    /// Of the content that stays unreadable until somebody writes the line.
    digest: u64,
}

/// Tells contents of a line apart.
fn digest(bytes: &[u8; LINE]) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().fold(0, |digest, word| mix(digest ^ u64::from_le_bytes(*word)))
}

/// A line is in one of the three at most; one in none of them is not TD-owned.
#[derive(Default)]
pub(super) struct Region {
    lines: BTreeMap<u32, Record>,
    /// Lines that hold the ciphertext of zeros.
    runs: Runs,
    poison: BTreeMap<u32, Poisoned>,
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
        if reader.stamp.key == KeyId::TME && !self.knows(offset, bytes.len()) {
            let pa = PhysAddr::new(ctx.base + u64::from(offset));
            if !ctx.ram.read(pa, bytes) {
                bytes.fill(0xFF);
            }
            return Ok(());
        }
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
        let Some(mut line) = ctx.fetch(piece.line) else {
            out.fill(0xFF);
            return Ok(());
        };
        match view(self.tag(ctx, piece.line, &line), reader, ctx.rules.integrity) {
            View::Poison => return Err(ctx.address(piece.line)),
            View::Mismatch(cause) => {
                self.poison(ctx, piece.line, &line, cause);
                return Err(ctx.address(piece.line));
            }
            View::Zeros => line = [0; LINE],
            View::Data | View::Garbage => ctx.decrypt(reader.stamp, piece.line, &mut line),
        }
        if let Some(bytes) = line.get(piece.first..piece.first + out.len()) {
            out.copy_from_slice(bytes);
        }
        Ok(())
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
        if writer.stamp.key == KeyId::TME && !self.knows(offset, bytes.len()) {
            ctx.store(PhysAddr::new(ctx.base + u64::from(offset)), bytes);
            return;
        }
        for piece in pieces(offset, bytes.len()) {
            if let Some(data) = bytes.get(piece.from..piece.to) {
                self.write_piece(ctx, piece, writer, data, store);
            }
        }
    }

    fn write_piece(&mut self, ctx: &Context<'_>, piece: Piece, writer: Accessor, data: &[u8], store: Store) {
        if let Ok(line) = <[u8; LINE]>::try_from(data) {
            self.replace(ctx, piece.line, writer, line);
            return;
        }
        let pa = PhysAddr::new(ctx.address(piece.line).as_u64() + piece.first as u64);
        let Some(mut line) = ctx.fetch(piece.line) else {
            ctx.events.push(Event::DroppedWrite { pa, reason: DropReason::NotRam });
            return;
        };
        let tag = self.tag(ctx, piece.line, &line);
        let is_partial = store == Store::Direct && !writer.private;
        if is_partial && ctx.rules.partial_write_poison && tag.is_td_owned() {
            let bytes = u8::try_from(piece.len()).unwrap_or(u8::MAX);
            let cause = PoisonCause::PartialWrite { pa, bytes, key: writer.stamp.key };
            self.poison(ctx, piece.line, &line, cause);
            return;
        }
        match view(tag, writer, ctx.rules.integrity) {
            // Poison travels with the line: the store does not consume it, and cannot heal it.
            View::Poison => return,
            View::Mismatch(cause) => {
                self.poison(ctx, piece.line, &line, cause);
                return;
            }
            View::Zeros => line = [0; LINE],
            // Their CPUs may be writing the rest of the line.
            View::Data if writer.stamp.key == KeyId::TME => {
                ctx.store(pa, data);
                return;
            }
            View::Data | View::Garbage => ctx.decrypt(writer.stamp, piece.line, &mut line),
        }
        if let Some(bytes) = line.get_mut(piece.first..piece.first + data.len()) {
            bytes.copy_from_slice(data);
        }
        self.replace(ctx, piece.line, writer, line);
    }

    fn replace(&mut self, ctx: &Context<'_>, line: u32, writer: Accessor, mut bytes: [u8; LINE]) {
        ctx.encrypt(writer.stamp, line, &mut bytes);
        if !ctx.store(ctx.address(line), &bytes) {
            return;
        }
        self.forget(line..line + 1);
        if writer.private {
            self.lines.insert(line, Record { writer: writer.stamp, digest: digest(&bytes) });
        }
    }

    /// Fills the lines `start..end` with zeros without reading them (MOVDIR64B).
    pub(super) fn initialise(&mut self, ctx: &Context<'_>, start: u32, end: u32, writer: Accessor) {
        self.forget(start..end);
        let tag = LineTag::written(writer.stamp, writer.private);
        let mut first = start;
        while first < end {
            // Not across pages: where RAM ends, every line before its end is written.
            let last = end.min((first / LINES_PER_PAGE + 1) * LINES_PER_PAGE);
            let mut page = [0; PAGE];
            let Some(bytes) = page.get_mut(..(last - first) as usize * LINE) else { return };
            ctx.encrypt(writer.stamp, first, bytes);
            if ctx.store(ctx.address(first), bytes) && writer.private {
                self.runs.set(first, last, tag);
            }
            first = last;
        }
    }

    /// Why the line is poisoned.
    pub(super) fn poisoned_by(&self, ctx: &Context<'_>, line: u32) -> Option<PoisonCause> {
        let poisoned = self.poison.get(&line)?;
        (digest(&ctx.fetch(line)?) == poisoned.digest).then_some(poisoned.cause)
    }

    /// Pages with lines that were written one by one, and runs.
    pub(super) fn footprint(&self) -> (usize, usize) {
        let mut pages: Vec<u32> =
            self.lines.keys().chain(self.poison.keys()).map(|line| line / LINES_PER_PAGE).collect();
        pages.sort_unstable();
        pages.dedup();
        (pages.len(), self.runs.len())
    }

    /// True if something is known of one of the lines of an access.
    fn knows(&self, offset: u32, len: usize) -> bool {
        let start = offset / 64;
        let end = u32::try_from((offset as usize + len).div_ceil(LINE)).unwrap_or(u32::MAX);
        self.lines.range(start..end).next().is_some()
            || self.poison.range(start..end).next().is_some()
            || self.runs.overlaps(start, end)
    }

    /// State of a line that has this content, after what somebody may have stored since.
    fn tag(&mut self, ctx: &Context<'_>, line: u32, content: &[u8; LINE]) -> LineTag {
        let known = if let Some(poisoned) = self.poison.get(&line) {
            (poisoned.digest == digest(content)).then(|| LineTag::default().with_poison())
        } else if let Some(record) = self.lines.get(&line) {
            (record.digest == digest(content)).then(|| LineTag::written(record.writer, true))
        } else if let Some(tag) = self.runs.tag_at(line) {
            let mut zeros = [0; LINE];
            ctx.encrypt(tag.writer, line, &mut zeros);
            (zeros == *content).then_some(tag)
        } else {
            return LineTag::default();
        };
        known.unwrap_or_else(|| {
            self.forget(line..line + 1);
            LineTag::default()
        })
    }

    fn poison(&mut self, ctx: &Context<'_>, line: u32, content: &[u8; LINE], cause: PoisonCause) {
        self.forget(line..line + 1);
        self.poison.insert(line, Poisoned { cause, digest: digest(content) });
        ctx.events.push(Event::Poisoned(PoisonRecord { line: ctx.address(line), cause }));
    }

    fn forget(&mut self, lines: Range<u32>) {
        remove(&mut self.lines, &lines);
        remove(&mut self.poison, &lines);
        self.runs.clear(lines.start, lines.end);
    }
}

fn remove<V>(map: &mut BTreeMap<u32, V>, keys: &Range<u32>) {
    while let Some((&key, _)) = map.range(keys.clone()).next() {
        map.remove(&key);
    }
}
