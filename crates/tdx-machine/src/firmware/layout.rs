//! From a platform file to what firmware and MCHECK tell: memory map, nodes, CMRs, LPs, tables.

use std::collections::BTreeMap;

use tdx_abi::addr::{PAGE_SIZE, SIZE_1G};
use tdx_abi::cmr::MAX_CMRS;
use tdx_abi::{PhysAddr, PhysRange};
use tdx_module::hardware::{CmrEntry, LpIndex, McheckInfo, PackageIndex};

use super::{E820Entry, LogicalProcessor, NodeId};
use super::{acpi, io};
use crate::fault::Fault;
use crate::spec::{E820Kind, PlatformSpec, SpecIssue};

/// Where RAM below 4 GiB ends in a generated map.
const LOW_RAM_END: u64 = 2 << 30;
/// Where the rest of the RAM begins.
const HIGH_RAM_START: u64 = 4 << 30;
/// Where convertible memory begins, as on posted machines.
const CMR_START: u64 = 1 << 20;
/// End of the last usable range below 4 GiB in a generated map, and so of the first CMR.
const LOW_CMR_END: u64 = 0x7780_0000;
/// Both SMRRs.
const SMRAM_SIZE: u64 = 32 << 20;

/// The generated map below 4 GiB: (first address behind, kind).
const LOW_MAP: [(u64, E820Kind); 8] = [
    (0x9_f000, E820Kind::Usable),
    (0x10_0000, E820Kind::Reserved),
    (0x6c00_0000, E820Kind::Usable),
    (0x6d00_0000, E820Kind::Reserved),
    (0x7600_0000, E820Kind::Usable),
    (0x7640_0000, E820Kind::AcpiData),
    (0x7700_0000, E820Kind::AcpiNvs),
    (LOW_CMR_END, E820Kind::Usable),
];
/// Firmware, SEAM range, SMRAM and configuration space follow.
const LOW_RESERVED_END: u64 = 0x9000_0000;

const ISLANDS: u64 = 65;
const ISLAND_SIZE: u64 = 64 << 20;
const ISLAND_STRIDE: u64 = 256 << 30;
const PIECES: u64 = 18;
const PIECE_SIZE: u64 = 32 << 20;
const PIECE_STRIDE: u64 = 48 << 20;

/// The memory of a platform, before and after faults.
pub(crate) struct Memory {
    pub(crate) e820: Vec<E820Entry>,
    pub(crate) nodes: Vec<(PhysRange, NodeId)>,
    pub(crate) cmrs: Vec<PhysRange>,
}

fn range(start: u64, end: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), PhysAddr::new(end)).unwrap_or_default()
}

impl Memory {
    /// What the platform file says, lists before generated maps.
    pub(crate) fn of(spec: &PlatformSpec) -> Self {
        let size = spec.memory.size.map_or(0, |size| size.0);
        let nodes = if spec.nodes.iter().any(|node| !node.ranges.is_empty()) {
            let mut nodes: Vec<_> = spec
                .nodes
                .iter()
                .flat_map(|node| node.ranges.iter().map(|range| (range, NodeId(node.id))))
                .filter_map(|(range, node)| Some((range.range()?, node)))
                .collect();
            nodes.sort_unstable();
            nodes
        } else {
            generated_nodes(size, spec)
        };
        let e820 = if spec.e820.is_empty() { generated_map(size) } else { listed_map(spec) };
        let cmrs = if spec.cmrs.is_empty() && spec.cpu.kind.has_tdx() {
            generated_cmrs(&e820, &nodes)
        } else {
            spec.cmrs.iter().filter_map(super::super::spec::RangeSpec::range).collect()
        };
        Self { e820, nodes, cmrs }
    }

    pub(crate) fn usable(&self) -> impl Iterator<Item = PhysRange> {
        self.e820.iter().filter(|entry| entry.kind == E820Kind::Usable).map(|entry| entry.range)
    }

    /// First GiB border with a free GiB below it, above everything.
    fn free_block(&self) -> u64 {
        let top = self
            .e820
            .iter()
            .map(|entry| entry.range.end())
            .chain(self.cmrs.iter().map(|cmr| cmr.end()))
            .chain(self.nodes.iter().map(|(range, _)| range.end()))
            .max()
            .map_or(0, PhysAddr::as_u64);
        (top.max(HIGH_RAM_START) / SIZE_1G + 2).saturating_mul(SIZE_1G)
    }

    /// Refuses a memory fault for which there is no room.
    pub(crate) fn check_fault(&self, fault: &Fault, spec: &PlatformSpec) -> Result<(), SpecIssue> {
        let (cmrs, span) = match fault {
            Fault::TooManyTdmrs => (1, ISLANDS * ISLAND_STRIDE),
            Fault::TooManyReservedAreas => (usize::try_from(PIECES).unwrap_or(MAX_CMRS), SIZE_1G),
            _ => return Ok(()),
        };
        let bits = spec.cpu.kind.maxpa().saturating_sub(spec.keyids.bits);
        let impossible = |reason| Err(SpecIssue::FaultNotPossible { fault: fault.name(), reason });
        if self.cmrs.len() + cmrs > MAX_CMRS {
            return impossible("it has too many CMRs already");
        }
        if self.free_block().saturating_add(span) > 1 << bits {
            return impossible("there are no addresses left above its memory");
        }
        Ok(())
    }

    fn apply(&mut self, fault: &Fault) {
        match fault {
            Fault::RamOutsideCmrs => {
                if let Some(last) = self.cmrs.last_mut() {
                    let cut = (last.size() / 2).min(SIZE_1G) & !((2 << 20) - 1);
                    *last = range(last.start().as_u64(), last.end().as_u64() - cut);
                }
            }
            Fault::TooManyTdmrs => {
                let base = self.free_block();
                let islands = (0..ISLANDS).map(|number| base + number * ISLAND_STRIDE);
                self.add_ram(islands.map(|start| range(start, start + ISLAND_SIZE)));
                self.cmrs.push(range(base, base + (ISLANDS - 1) * ISLAND_STRIDE + ISLAND_SIZE));
            }
            Fault::TooManyReservedAreas => {
                let base = self.free_block();
                let pieces: Vec<_> = (0..PIECES)
                    .map(|number| base + number * PIECE_STRIDE)
                    .map(|start| range(start, start + PIECE_SIZE))
                    .collect();
                self.add_ram(pieces.iter().copied());
                self.cmrs.extend(pieces);
            }
            _ => {}
        }
    }

    /// Adds usable memory above everything, to the node of the highest memory.
    fn add_ram(&mut self, ranges: impl Iterator<Item = PhysRange>) {
        let node = self.nodes.last().map_or(NodeId(0), |&(_, node)| node);
        for range in ranges {
            self.e820.push(E820Entry { range, kind: E820Kind::Usable });
            self.nodes.push((range, node));
        }
    }
}

fn listed_map(spec: &PlatformSpec) -> Vec<E820Entry> {
    let entries = spec
        .e820
        .iter()
        .map(|entry| E820Entry { range: range(entry.start.0, entry.end.0), kind: entry.kind });
    entries.filter(|entry| !entry.range.is_empty()).collect()
}

fn generated_map(size: u64) -> Vec<E820Entry> {
    let mut start = 0;
    let mut map = Vec::new();
    for (end, kind) in LOW_MAP.into_iter().chain([(LOW_RESERVED_END, E820Kind::Reserved)]) {
        map.push(E820Entry { range: range(start, end), kind });
        start = end;
    }
    let high = HIGH_RAM_START + size.saturating_sub(LOW_RAM_END);
    map.push(E820Entry { range: range(HIGH_RAM_START, high), kind: E820Kind::Usable });
    map
}

fn generated_nodes(size: u64, spec: &PlatformSpec) -> Vec<(PhysRange, NodeId)> {
    let count = u64::from(spec.cpu.packages.max(1));
    let share = size / count / SIZE_1G * SIZE_1G;
    let share = if share < LOW_RAM_END { LOW_RAM_END } else { share };
    let ids = (0..spec.cpu.packages).map(|package| node_of_package(spec, package));
    let top = HIGH_RAM_START + size.saturating_sub(LOW_RAM_END);
    let mut nodes = vec![(range(0, LOW_RAM_END), NodeId(0))];
    let mut start = HIGH_RAM_START;
    for (number, id) in (1..).zip(ids) {
        if number == 1 {
            nodes = vec![(range(0, LOW_RAM_END), id)];
        }
        let end = if number == count { top } else { top.min(HIGH_RAM_START + number * share - LOW_RAM_END) };
        if start < end {
            nodes.push((range(start, end), id));
            start = end;
        }
    }
    nodes
}

/// First node that belongs to a package; the package's number if none is listed.
fn node_of_package(spec: &PlatformSpec, package: u32) -> NodeId {
    let listed = spec.nodes.iter().find(|node| node.package == Some(package));
    NodeId(listed.map_or(package, |node| node.id))
}

/// All RAM from 1 MiB up: one range below 4 GiB, what is reserved in between included, and one for
/// each node's share of an entry above.
fn generated_cmrs(e820: &[E820Entry], nodes: &[(PhysRange, NodeId)]) -> Vec<PhysRange> {
    let usable = || e820.iter().filter(|entry| entry.kind == E820Kind::Usable).map(|entry| entry.range);
    let is_low = |range: &PhysRange| range.start().as_u64() < HIGH_RAM_START;
    let low_end = usable().filter(is_low).map(|range| range.end().as_u64()).max().unwrap_or(0);
    let low = range(CMR_START, low_end.min(HIGH_RAM_START) / PAGE_SIZE * PAGE_SIZE);
    let mut cmrs: Vec<_> = Some(low).filter(|low| !low.is_empty()).into_iter().collect();
    for entry in usable().filter(|range| !is_low(range)) {
        for (node, _) in nodes {
            let whole = entry.intersection(*node).and_then(|piece| {
                PhysRange::new(piece.start().align_up(PAGE_SIZE)?, piece.end().align_down(PAGE_SIZE))
            });
            cmrs.extend(whole.filter(|piece| !piece.is_empty()));
        }
    }
    cmrs
}

/// First window for SMRAM that is looked at.
const FIRST_SMRAM: u64 = 0x7C00_0000;

/// A place for both SMRRs: a window below 4 GiB that touches neither RAM nor the SEAM range.
pub(crate) fn find_smram(spec: &PlatformSpec) -> Option<u64> {
    let memory = Memory::of(spec);
    let taken: Vec<_> =
        memory.usable().chain(memory.cmrs.iter().copied()).chain([spec.seamrr.range()]).collect();
    let upwards = FIRST_SMRAM / SMRAM_SIZE..HIGH_RAM_START / SMRAM_SIZE;
    let downwards = (1..FIRST_SMRAM / SMRAM_SIZE).rev();
    upwards
        .chain(downwards)
        .map(|window| window * SMRAM_SIZE)
        .find(|&base| !taken.iter().any(|range| range.overlaps(self::range(base, base + SMRAM_SIZE))))
}

/// The same for a machine that is there: SYS.INIT refuses SMRAM that lies in convertible memory.
pub(crate) fn smram(spec: &PlatformSpec) -> u64 {
    find_smram(spec).unwrap_or(FIRST_SMRAM)
}

/// Everything firmware and MCHECK tell about a machine.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) e820: Vec<E820Entry>,
    pub(crate) numa: Vec<(PhysRange, NodeId)>,
    pub(crate) cmrs: Vec<PhysRange>,
    pub(crate) lps: Vec<LogicalProcessor>,
    pub(crate) mcheck: McheckInfo,
    pub(crate) acpi: BTreeMap<&'static str, Vec<u8>>,
    /// Addresses at which memory answers, ascending and merged.
    backing: Vec<PhysRange>,
}

impl Layout {
    pub(crate) fn new(spec: &PlatformSpec, faults: &[Fault], package_fms: [u32; 8]) -> Self {
        let mut memory = Memory::of(spec);
        for fault in faults {
            memory.apply(fault);
        }
        let Memory { mut e820, nodes, cmrs } = memory;
        e820.sort_unstable_by_key(|entry| entry.range);
        let lps = logical_processors(spec);
        let missing = u32::from(faults.contains(&Fault::LpMissing));
        let mut entries = [CmrEntry::default(); MAX_CMRS];
        for (entry, cmr) in entries.iter_mut().zip(&cmrs) {
            *entry = CmrEntry { base: cmr.start().as_u64(), size: cmr.size() };
        }
        let seamrr = spec.seamrr.range();
        let mcheck = McheckInfo {
            total_lps: u32::try_from(lps.len()).unwrap_or(u32::MAX).saturating_add(missing),
            packages: spec.cpu.packages,
            package_fms,
            seamrr,
            cmrs: entries,
            without_integrity: !spec.keyids.integrity,
            smrr2_unsupported: false,
        };
        let backing = backing(&e820, &cmrs, seamrr);
        // The platform file was checked.
        let plan = spec.pci_plan().unwrap_or_default();
        let mut acpi =
            BTreeMap::from([("DMAR", acpi::dmar(spec, &plan)), ("SRAT", acpi::srat(&nodes, &lps))]);
        let keyp = io::keyp_rows(&plan, faults);
        if !keyp.is_empty() {
            acpi.insert("KEYP", acpi::keyp(&keyp));
        }
        Self { e820, numa: nodes, cmrs, lps, mcheck, acpi, backing }
    }

    /// True if memory answers at every byte of the range.
    pub(crate) fn is_backed(&self, wanted: PhysRange) -> bool {
        let after = self.backing.partition_point(|piece| piece.start() <= wanted.start());
        after
            .checked_sub(1)
            .and_then(|index| self.backing.get(index))
            .is_some_and(|piece| piece.covers(wanted))
    }
}

fn backing(e820: &[E820Entry], cmrs: &[PhysRange], seamrr: PhysRange) -> Vec<PhysRange> {
    let mapped = e820.iter().filter(|entry| entry.kind.is_memory());
    let mut pieces: Vec<PhysRange> =
        mapped.map(|entry| entry.range).chain(cmrs.iter().copied()).chain([seamrr]).collect();
    pieces.sort_unstable();
    let mut merged: Vec<PhysRange> = Vec::new();
    for piece in pieces {
        match merged.last_mut() {
            Some(last) if piece.start() <= last.end() => {
                *last = range(last.start().as_u64(), last.end().max(piece.end()).as_u64());
            }
            _ => merged.push(piece),
        }
    }
    merged
}

fn logical_processors(spec: &PlatformSpec) -> Vec<LogicalProcessor> {
    let cpu = &spec.cpu;
    let mut lps = Vec::new();
    for package in 0..cpu.packages {
        let nodes: Vec<NodeId> = spec
            .nodes
            .iter()
            .filter(|node| node.package == Some(package))
            .map(|node| NodeId(node.id))
            .collect();
        for core in 0..cpu.cores {
            let share = (core as usize * nodes.len()) / cpu.cores.max(1) as usize;
            let node = nodes.get(share).copied().unwrap_or(NodeId(package));
            for thread in 0..cpu.threads {
                let Some(x2apic_id) = cpu.x2apic_id(package, core, thread) else { continue };
                lps.push(LogicalProcessor {
                    index: LpIndex(u32::try_from(lps.len()).unwrap_or(u32::MAX)),
                    package: PackageIndex(package),
                    core,
                    thread,
                    x2apic_id,
                    node,
                });
            }
        }
    }
    lps
}
