//! Memory accesses by KeyID against a small oracle of its own.
//!
//! The oracle keeps four lines as the table "memory access by KeyID" of the platform states them:
//! who wrote a line last, poison, and dirty copies that caches still hold under another KeyID. Rows
//! that take SEAM mode are reached through TDH.SYS.TDMR.INIT, which fills PAMT lines with the
//! module's key; reads with a private KeyID are not, as no leaf of bring-up makes one.

use tdx_abi::addr::LINE_SIZE;
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::status::Status;
use tdx_abi::{KeyId, PhysAddr, PhysRange, Registers};
use tdx_machine::spec::ErrataSpec;
use tdx_machine::{LpIndex, Machine, MemFault};

use super::bytes::Choices;
use super::seamcall::bench::{self, Bench, PAMT, Stage, TDMRS};

const LINE: usize = 64;
/// PAMT of the 4 KiB pages of one step of TDMR.INIT.
const STEP_PIECE: u64 = 16 << 10;
/// A line each of the PAMT of the first two steps, the next one of the same page, and one of plain RAM.
const LINES: [u64; 4] = [PAMT, PAMT + STEP_PIECE, PAMT + STEP_PIECE + LINE_SIZE, 0x2000_0000];
/// The step of TDMR.INIT that fills each line.
const FILLED_BY: [Option<u64>; 4] = [Some(0), Some(1), Some(1), None];
const SHARED: [KeyId; 3] = [KeyId::TME, KeyId::new(5), KeyId::new(31)];
const PRIVATE: [KeyId; 3] = [bench::GLOBAL_KEY, KeyId::new(63), KeyId::new(40)];

/// Bytes of a line; `None` where two keys were mixed and nobody can say.
type Content = [Option<u8>; LINE];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Shared(KeyId),
    Module,
}

#[derive(Clone, Debug)]
struct Line {
    owner: Owner,
    content: Content,
    poisoned: bool,
    /// The last write sits in a cache.
    dirty: bool,
}

/// A dirty line in a cache, somebody else having written the memory below it.
#[derive(Clone, Debug)]
struct Displaced {
    line: usize,
    key: KeyId,
    content: Content,
}

/// The lines as the table has them.
struct Oracle {
    erratum: bool,
    lines: [Line; 4],
    displaced: Vec<Displaced>,
    steps: u64,
}

impl Oracle {
    fn new(erratum: bool) -> Self {
        let line = Line {
            owner: Owner::Shared(KeyId::TME),
            content: [Some(0); LINE],
            poisoned: false,
            dirty: false,
        };
        Self { erratum, lines: std::array::from_fn(|_| line.clone()), displaced: Vec::new(), steps: 0 }
    }

    fn is_displaced(&self, line: usize, key: KeyId) -> bool {
        self.displaced.iter().any(|old| old.line == line && old.key == key)
    }

    /// Somebody with another key is about to write: a dirty line stays in its cache (rows 17, 18).
    fn displace(&mut self, index: usize, by: Owner) {
        let line = &mut self.lines[index];
        if let Owner::Shared(key) = line.owner
            && std::mem::take(&mut line.dirty)
            && by != line.owner
        {
            self.displaced.push(Displaced { line: index, key, content: line.content });
        }
    }

    /// Rows 1 and 15.
    fn write_whole(&mut self, index: usize, key: KeyId, content: Content, cached: bool) {
        self.displace(index, Owner::Shared(key));
        self.lines[index] = Line { owner: Owner::Shared(key), content, poisoned: false, dirty: cached };
    }

    /// Row 16.
    fn initialise(&mut self, index: usize) {
        self.displace(index, Owner::Module);
        self.lines[index] =
            Line { owner: Owner::Module, content: [Some(0); LINE], poisoned: false, dirty: false };
    }

    /// Rows 3 to 6.
    fn write_part(&mut self, index: usize, key: KeyId, first: usize, data: &[u8], cached: bool) {
        self.displace(index, Owner::Shared(key));
        let erratum = self.erratum && !cached;
        let line = &mut self.lines[index];
        if line.poisoned {
            return;
        }
        match line.owner {
            Owner::Module if erratum => {
                line.poisoned = true;
                return;
            }
            Owner::Module => line.content = [Some(0); LINE],
            Owner::Shared(writer) if writer != key => line.content = [None; LINE],
            Owner::Shared(_) => {}
        }
        for (slot, byte) in line.content[first..].iter_mut().zip(data) {
            *slot = Some(*byte);
        }
        (line.owner, line.dirty) = (Owner::Shared(key), cached);
    }

    /// Rows 17 and 18: what `choose` names is written back over whatever is there.
    fn write_back(&mut self, choose: impl Fn(&Displaced) -> bool) {
        for old in std::mem::take(&mut self.displaced) {
            if choose(&old) {
                self.lines[old.line] = Line {
                    owner: Owner::Shared(old.key),
                    content: old.content,
                    poisoned: false,
                    dirty: false,
                };
            } else {
                self.displaced.push(old);
            }
        }
    }

    /// Rows 8, 9 and 13: what a shared key gets of the line; `None` for poison.
    fn read(&self, index: usize, key: KeyId) -> Option<Content> {
        let line = &self.lines[index];
        match line.owner {
            _ if line.poisoned => None,
            Owner::Module => Some([Some(0); LINE]),
            Owner::Shared(writer) if writer == key => Some(line.content),
            Owner::Shared(_) => Some([None; LINE]),
        }
    }
}

/// Any order of host accesses, cache flushes and TDMR.INIT steps gives what the table says.
pub fn memory_by_keyid(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut spec = bench::tiny();
    let erratum = choices.flag();
    spec.errata = Some(ErrataSpec { pw_mce: erratum, seamret_invd_vmcs: false });
    spec.keyids.integrity = choices.flag();
    let bench = Bench::on(spec, 1);
    bench.advance(Stage::Ready);
    let mut oracle = Oracle::new(erratum);
    let machine = bench.machine();
    for _ in 0..512 {
        if choices.is_empty() {
            break;
        }
        step(&bench, machine, &mut oracle, &mut choices);
        for (index, line) in oracle.lines.iter().enumerate() {
            let poisoned = machine.poisoned_by(PhysAddr::new(LINES[index])).is_some();
            assert_eq!(poisoned, line.poisoned, "line {index}: {line:?}");
        }
    }
    for index in 0..LINES.len() {
        read(machine, &mut oracle, index, KeyId::TME, 0, LINE, false);
    }
    bench.comes_up_after_power_cycle();
}

fn line_range(index: usize) -> PhysRange {
    PhysRange::from_size(PhysAddr::new(LINES[index]), LINE_SIZE).expect("RAM")
}

fn step(bench: &Bench, machine: &Machine, oracle: &mut Oracle, choices: &mut Choices<'_>) {
    let action = choices.below(12);
    let index = choices.below(LINES.len());
    let key = choices.of(&SHARED);
    let first = choices.below(LINE);
    let len = 1 + choices.below(LINE - first);
    let fill = choices.byte();
    let data: Vec<u8> = (0..len).map(|place| fill.wrapping_add(u8::try_from(place).unwrap_or(0))).collect();
    let pa = PhysAddr::new(LINES[index] + first as u64);
    let whole = LINE == len;
    match action {
        0 | 1 => read(machine, oracle, index, key, first, len, action == 1),
        2..=4 => {
            settle(machine, oracle, index, key);
            let cached = action == 2;
            match action {
                2 => machine.write(pa, key, &data).expect("RAM"),
                3 => machine.partial_write(pa, key, &data).expect("RAM"),
                _ => machine.dma_write(pa, key, &data),
            }
            if whole {
                oracle.write_whole(index, key, std::array::from_fn(|place| Some(data[place])), cached);
            } else {
                oracle.write_part(index, key, first, &data, cached);
            }
        }
        5 => {
            settle(machine, oracle, index, key);
            let line = [fill; LINE];
            machine.write(PhysAddr::new(LINES[index]), key, &line).expect("RAM");
            oracle.write_whole(index, key, line.map(Some), true);
        }
        6 => {
            settle(machine, oracle, index, KeyId::TME);
            machine.movdir64b_zero(line_range(index)).expect("RAM");
            oracle.write_whole(index, KeyId::TME, [Some(0); LINE], false);
        }
        7 => refused(machine, choices.of(&PRIVATE), pa, &data),
        8 => {
            machine.clflush(line_range(index));
            oracle.write_back(|old| old.line == index && old.key == KeyId::TME);
            let line = &mut oracle.lines[index];
            line.dirty &= line.owner != Owner::Shared(KeyId::TME);
        }
        9 => {
            machine.evict(line_range(index));
            oracle.write_back(|old| old.line == index);
        }
        10 => {
            for lp in machine.lps() {
                machine.wbinvd(lp.index);
            }
            oracle.write_back(|_| true);
            oracle.lines.iter_mut().for_each(|line| line.dirty = false);
        }
        _ => initialise_step(bench, oracle),
    }
}

/// What a cache holds of the line under the very key that is used next reaches memory first: the
/// table speaks of memory, not of hits.
fn settle(machine: &Machine, oracle: &mut Oracle, index: usize, key: KeyId) {
    if oracle.is_displaced(index, key) {
        machine.evict(line_range(index));
        oracle.write_back(|old| old.line == index);
    }
}

fn read(
    machine: &Machine,
    oracle: &mut Oracle,
    index: usize,
    key: KeyId,
    first: usize,
    len: usize,
    dma: bool,
) {
    settle(machine, oracle, index, key);
    let line = PhysAddr::new(LINES[index]);
    let pa = PhysAddr::new(LINES[index] + first as u64);
    let mut bytes = vec![0xA5; len];
    let result = if dma { machine.dma_read(pa, key, &mut bytes) } else { machine.read(pa, key, &mut bytes) };
    match oracle.read(index, key) {
        None => assert_eq!(result, Err(MemFault::MachineCheck { pa: line }), "{:?}", oracle.lines[index]),
        Some(content) => {
            assert_eq!(result, Ok(()), "{:?}", oracle.lines[index]);
            for (found, wanted) in bytes.iter().zip(&content[first..]) {
                assert!(wanted.is_none_or(|wanted| wanted == *found), "{:?}: {bytes:?}", oracle.lines[index]);
            }
        }
    }
}

/// Rows 7 and 21: a private KeyID outside SEAM mode changes nothing.
fn refused(machine: &Machine, key: KeyId, pa: PhysAddr, data: &[u8]) {
    let mut bytes = vec![0; data.len()];
    let reserved = Err(MemFault::ReservedKeyId { key });
    assert_eq!(machine.read(pa, key, &mut bytes), reserved);
    assert_eq!(machine.write(pa, key, data), reserved);
    assert_eq!(machine.partial_write(pa, key, data), reserved);
    machine.dma_write(pa, key, data);
    assert_eq!(machine.dma_read(pa, key, &mut bytes), Ok(()));
    assert!(bytes.iter().all(|byte| *byte == 0xFF), "{bytes:?}");
}

fn initialise_step(bench: &Bench, oracle: &mut Oracle) {
    let regs = Registers { rcx: TDMRS[0].0, ..Registers::default() };
    let after = bench.call(LpIndex(0), SeamcallLeaf::SYS_TDMR_INIT, 0, regs).expect("an answer");
    if Status::from_raw(after.rax) != Status::SUCCESS {
        return;
    }
    for (index, filled_by) in FILLED_BY.iter().enumerate() {
        if *filled_by == Some(oracle.steps) {
            oracle.initialise(index);
        }
    }
    oracle.steps += 1;
}
