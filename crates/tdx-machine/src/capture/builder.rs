//! From collected facts to a platform file that is valid.

use std::collections::BTreeMap;

use tdx_abi::{PhysAddr, PhysRange};
use tdx_module::profile::{self, Generation};

use super::{CaptureError, Note};
use crate::firmware::layout::Memory;
use crate::seam::bcd;
use crate::spec::{
    CpuKind, CpuSpec, E820Kind, E820Spec, FunctionSpec, Hex, IommuSpec, KeyIdSpec, MemorySpec, ModuleSpec,
    NodeSpec, PlatformSpec, RangeSpec, SeamldrSpec, SeamrrSpec, Size, X2apicSpec, is_date,
};

/// What a source told, unchecked.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) e820: Vec<(PhysRange, E820Kind)>,
    /// Bytes of RAM, when there is no map.
    pub(super) memory: Option<u64>,
    pub(super) nodes: BTreeMap<u32, Vec<PhysRange>>,
    pub(super) cmrs: Vec<PhysRange>,
    /// First private KeyID and the one behind the last.
    pub(super) private_keys: Option<(u32, u32)>,
    /// Family and model.
    pub(super) cpu: Option<(u32, u32)>,
    pub(super) cpu_name: Option<String>,
    pub(super) packages: Option<u32>,
    pub(super) cores: Option<u32>,
    pub(super) threads: Option<u32>,
    pub(super) lps: Option<u32>,
    pub(super) srat_lps: u32,
    pub(super) module_version: Option<(u16, u16, u16)>,
    /// Major and minor version.
    pub(super) module_line: Option<(u32, u32)>,
    pub(super) module_build: Option<u16>,
    /// Its build date, decimal digits yyyymmdd.
    pub(super) module_date: Option<u32>,
    pub(super) units: Vec<Unit>,
}

/// A VT-d unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) segment: u16,
    pub(super) reg_base: u64,
    pub(super) include_all: bool,
    pub(super) scope: Vec<FunctionSpec>,
}

/// SEAM range of a captured machine: real sizes are not told by any log.
const SEAMRR_SIZE: u64 = 64 << 20;
const GIB_4: u64 = 4 << 30;

pub(super) fn build(
    facts: &Facts,
    name: &str,
    source: &str,
    notes: &mut Vec<Note>,
) -> Result<PlatformSpec, CaptureError> {
    let kind = cpu_kind(facts, notes);
    let e820 = memory_map(&facts.e820, notes);
    let cpu = topology(facts, kind, notes);
    let nodes = nodes(facts, &e820, &cpu, notes);
    let module = module(facts, kind, notes);
    if facts.private_keys.is_none() && kind.has_tdx() {
        notes.push(Note::Assumed {
            what: "private KeyID range",
            instead: "the split of KeyIDs is that of a common machine, 31 shared and 32 private".to_owned(),
        });
    }
    let known = facts.cpu_name.as_ref().map(|name| format!(", {name}")).unwrap_or_default();
    let mut spec = PlatformSpec {
        name: name.to_owned(),
        description: format!("captured: {}{known}", kind.code_name()),
        source: Some(source.to_owned()),
        synthetic: false,
        assumed: Vec::new(),
        faults: Vec::new(),
        cpu,
        memory: MemorySpec { size: if e820.is_empty() { facts.memory.map(Size) } else { None } },
        keyids: keyids(facts, kind),
        seamldr: seamldr(kind, &module),
        module,
        seamrr: SeamrrSpec { enabled: kind.has_tdx(), locked: kind.has_tdx(), ..SeamrrSpec::default() },
        errata: None,
        allocator: crate::spec::AllocatorSpec::default(),
        embedder: crate::spec::EmbedderSpec::default(),
        chaos: crate::spec::ChaosSpec::default(),
        nodes,
        e820,
        cmrs: if kind.has_tdx() {
            facts.cmrs.iter().copied().map(RangeSpec::from).collect()
        } else {
            Vec::new()
        },
        packages: Vec::new(),
        iommus: facts
            .units
            .iter()
            .map(|unit| IommuSpec {
                segment: unit.segment,
                reg_base: Hex(unit.reg_base),
                include_all: unit.include_all,
                scope: unit.scope.clone(),
                ..IommuSpec::default()
            })
            .collect(),
        host_bridges: Vec::new(),
        root_ports: Vec::new(),
        endpoints: Vec::new(),
        key_units: Vec::new(),
    };
    if kind.has_tdx() && spec.cmrs.is_empty() {
        notes.push(Note::Assumed {
            what: "CMR list",
            instead: "all usable memory from 1 MiB up is convertible".to_owned(),
        });
    }
    if kind.has_tdx() {
        place_seamrr(&mut spec);
        notes.push(Note::Assumed {
            what: "SEAM range",
            instead: format!("placed at {}, outside RAM", spec.seamrr.base),
        });
    }
    spec.assumed = notes
        .iter()
        .filter_map(|note| match note {
            Note::Assumed { what, .. } => Some((*what).to_owned()),
            _ => None,
        })
        .collect();
    if spec.e820.is_empty() && spec.memory.size.is_none() {
        return Err(CaptureError::NoMemoryMap { hint: "neither a map nor a size was readable" });
    }
    spec.validate()?;
    Ok(spec)
}

fn cpu_kind(facts: &Facts, notes: &mut Vec<Note>) -> CpuKind {
    match facts.cpu {
        Some((6, 0x8F)) => CpuKind::SapphireRapids,
        Some((6, 0xCF)) => CpuKind::EmeraldRapids,
        Some((6, 0xAD | 0xAE)) => CpuKind::GraniteRapids,
        Some((6, 0xAF)) => CpuKind::SierraForest,
        Some((family, model)) => {
            notes.push(Note::Assumed {
                what: "CPU with TDX",
                instead: format!("family {family:#x} model {model:#x} is taken as a CPU without TDX"),
            });
            CpuKind::Laptop
        }
        None => {
            let newer = facts
                .module_version
                .map(|version| u32::from(version.0))
                .or(facts.module_line.map(|line| line.0));
            let kind = if newer.is_some_and(|major| major >= 2) {
                CpuKind::GraniteRapids
            } else {
                CpuKind::SapphireRapids
            };
            notes
                .push(Note::Assumed { what: "CPU model", instead: format!("taken as {}", kind.code_name()) });
            kind
        }
    }
}

/// Ascending and without overlaps: where entries overlap, the earlier address wins.
fn memory_map(entries: &[(PhysRange, E820Kind)], notes: &mut Vec<Note>) -> Vec<E820Spec> {
    let mut sorted = entries.to_vec();
    sorted.sort_by_key(|(range, _)| *range);
    let mut out: Vec<E820Spec> = Vec::new();
    let mut clipped = 0;
    let mut covered = 0;
    for (range, kind) in sorted {
        let start = range.start().as_u64().max(covered);
        if start != range.start().as_u64() {
            clipped += 1;
        }
        let end = range.end().as_u64();
        if start < end {
            out.push(E820Spec { start: Hex(start), end: Hex(end), kind });
            covered = end;
        }
    }
    if clipped > 0 {
        notes.push(Note::Conflict {
            resolution: format!("{clipped} overlapping entries of the memory map were cut"),
        });
    }
    out
}

fn topology(facts: &Facts, kind: CpuKind, notes: &mut Vec<Note>) -> CpuSpec {
    let lps = facts.lps.or((facts.srat_lps > 0).then_some(facts.srat_lps));
    let node_count = u32::try_from(facts.nodes.len()).unwrap_or(u32::MAX).clamp(1, 8);
    let packages = facts.packages.unwrap_or(node_count);
    let mut assume = |what, instead: String| notes.push(Note::Assumed { what, instead });
    if facts.packages.is_none() {
        assume("number of packages", format!("{packages}, one for each node"));
    }
    let (cores, threads) = match (facts.cores, facts.threads, lps) {
        (Some(cores), Some(threads), _) => (cores, threads),
        (Some(cores), None, Some(lps)) => (cores, (lps / packages.saturating_mul(cores).max(1)).clamp(1, 2)),
        (cores, threads, Some(lps)) => {
            let even = lps % packages.saturating_mul(2).max(1) == 0;
            let threads = threads.unwrap_or(if even { 2 } else { 1 });
            let cores = cores.unwrap_or(lps / packages.saturating_mul(threads).max(1)).max(1);
            assume(
                "threads and cores of a package",
                format!("{cores} cores of {threads} threads for {lps} CPUs"),
            );
            (cores, threads)
        }
        (cores, threads, None) => {
            let (cores, threads) = (cores.unwrap_or(8), threads.unwrap_or(2));
            assume("number of CPUs", format!("{cores} cores of {threads} threads"));
            (cores, threads)
        }
    };
    CpuSpec { kind, packages, cores, threads, x2apic: X2apicSpec::default() }
}

fn nodes(facts: &Facts, e820: &[E820Spec], cpu: &CpuSpec, notes: &mut Vec<Note>) -> Vec<NodeSpec> {
    if e820.is_empty() {
        return Vec::new();
    }
    let mut taken: Vec<PhysRange> = Vec::new();
    let mut cut = 0;
    let count = u32::try_from(facts.nodes.len()).unwrap_or(u32::MAX);
    let mut nodes: Vec<NodeSpec> = Vec::new();
    for (order, (&id, ranges)) in (0u32..).zip(&facts.nodes) {
        let mut own = Vec::new();
        for &range in ranges.iter().filter(|range| !range.is_empty()) {
            if taken.iter().any(|other| other.overlaps(range)) {
                cut += 1;
            } else {
                taken.push(range);
                own.push(RangeSpec::from(range));
            }
        }
        let package = u64::from(order) * u64::from(cpu.packages) / u64::from(count.max(1));
        nodes.push(NodeSpec { id, package: u32::try_from(package).ok(), ranges: own });
    }
    if cut > 0 {
        notes.push(Note::Conflict { resolution: format!("{cut} overlapping node ranges were left out") });
    }
    if nodes.is_empty() {
        notes.push(Note::Assumed { what: "NUMA table", instead: "all memory is one node".to_owned() });
        nodes.push(NodeSpec { id: 0, package: Some(0), ranges: Vec::new() });
    }
    let lost: Vec<RangeSpec> = e820
        .iter()
        .filter(|entry| entry.kind == E820Kind::Usable)
        .filter_map(|entry| RangeSpec { start: entry.start, end: entry.end }.range())
        .flat_map(|usable| uncovered(usable, &taken))
        .map(RangeSpec::from)
        .collect();
    if !lost.is_empty() && !taken.is_empty() {
        notes.push(Note::Conflict {
            resolution: format!(
                "{} ranges of usable memory that no node has went to the first one",
                lost.len()
            ),
        });
    }
    if let Some(first) = nodes.first_mut() {
        first.ranges.extend(lost);
    }
    nodes
}

/// The parts of `range` that none of `taken` covers.
fn uncovered(range: PhysRange, taken: &[PhysRange]) -> Vec<PhysRange> {
    let mut pieces = vec![range];
    for other in taken {
        pieces = pieces
            .into_iter()
            .flat_map(|piece| match piece.intersection(*other) {
                None => [Some(piece), None],
                Some(both) => {
                    [PhysRange::new(piece.start(), both.start()), PhysRange::new(both.end(), piece.end())]
                }
            })
            .flatten()
            .filter(|piece| !piece.is_empty())
            .collect();
    }
    pieces
}

fn keyids(facts: &Facts, kind: CpuKind) -> KeyIdSpec {
    match facts.private_keys {
        _ if !kind.has_tdx() => KeyIdSpec { bits: 0, mktme: 0, tdx: 0, integrity: false },
        Some((first, end)) => {
            // More bits than an address has are refused with the rest of the machine.
            let room = end.max(2).checked_next_power_of_two();
            let bits = room.and_then(|room| u8::try_from(room.trailing_zeros()).ok()).unwrap_or(u8::MAX);
            KeyIdSpec { bits, mktme: first.saturating_sub(1), tdx: end - first, integrity: true }
        }
        None => KeyIdSpec::default(),
    }
}

fn module(facts: &Facts, kind: CpuKind, notes: &mut Vec<Note>) -> ModuleSpec {
    if !kind.has_tdx() {
        return ModuleSpec { present: false, ..ModuleSpec::default() };
    }
    let by_version = facts.module_version.and_then(|(major, minor, update)| {
        profile::all().find(|one| {
            !one.synthetic
                && (one.version.major, one.version.minor, one.version.update) == (major, minor, update)
        })
    });
    let on_line = |one: &&'static profile::Profile| {
        facts
            .module_line
            .is_none_or(|line| line == (u32::from(one.version.major), u32::from(one.version.minor)))
    };
    let by_build = || {
        let build = facts.module_build?;
        let known = |one: &&'static profile::Profile| !one.synthetic && !one.assumed.contains(&"build_num");
        profile::all().filter(known).filter(on_line).find(|one| one.build_num == build)
    };
    let by_line = || {
        facts.module_line?;
        profile::all().filter(|one| !one.synthetic).find(on_line)
    };
    let exact = by_version.or_else(by_build);
    if let Some(found) = exact.or_else(by_line) {
        if exact.is_none() {
            notes.push(Note::Assumed {
                what: "release of the module",
                instead: format!("{} of the same line", found.name),
            });
        }
        let build = facts.module_build.filter(|&build| build != found.build_num);
        let build_date = facts.module_date.filter(|&date| is_date(date) && bcd(date) != found.build_date);
        return ModuleSpec { profile: found.name.to_owned(), build, build_date, ..ModuleSpec::default() };
    }
    let newest =
        if kind == CpuKind::GraniteRapids || kind == CpuKind::SierraForest { "2.0.08" } else { "1.5.06" };
    notes.push(Note::Assumed { what: "module version", instead: newest.to_owned() });
    ModuleSpec { profile: newest.to_owned(), ..ModuleSpec::default() }
}

/// The line of P-SEAMLDR that belongs to CPU and module: 1.5.02 refuses to load a module of 1.0.
fn seamldr(kind: CpuKind, module: &ModuleSpec) -> SeamldrSpec {
    let loads_1_0 = profile::find(&module.profile).is_some_and(|one| one.generation == Generation::V1_0);
    match kind {
        _ if loads_1_0 => SeamldrSpec { version: "1.0.01".to_owned(), ..SeamldrSpec::default() },
        CpuKind::SapphireRapids | CpuKind::EmeraldRapids => {
            SeamldrSpec { version: "1.5.02".to_owned(), ..SeamldrSpec::default() }
        }
        CpuKind::GraniteRapids | CpuKind::SierraForest | CpuKind::Laptop => SeamldrSpec::default(),
    }
}

/// Finds a place for the SEAM range that is neither usable memory nor convertible.
fn place_seamrr(spec: &mut PlatformSpec) {
    let memory = Memory::of(spec);
    let taken: Vec<PhysRange> = memory.usable().chain(memory.cmrs.iter().copied()).collect();
    let free = |base: u64| {
        let range = PhysRange::from_size(PhysAddr::new(base), SEAMRR_SIZE);
        range.is_some_and(|range| !taken.iter().any(|other| other.overlaps(range)))
    };
    let default = SeamrrSpec::default().base.0;
    let top = taken.iter().map(|range| range.end().as_u64()).max().unwrap_or(GIB_4);
    let above = top.max(GIB_4).checked_next_multiple_of(SEAMRR_SIZE).unwrap_or(default);
    let below = (default / SEAMRR_SIZE..GIB_4 / SEAMRR_SIZE).map(|slot| slot * SEAMRR_SIZE);
    let base = [default].into_iter().chain(below).find(|&base| free(base)).unwrap_or(above);
    spec.seamrr.base = Hex(base);
    spec.seamrr.size = Size(SEAMRR_SIZE);
}
