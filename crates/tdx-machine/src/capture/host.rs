//! Facts of a running Linux, from the files it shows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use tdx_abi::{PhysAddr, PhysRange};

use super::builder::Facts;
use super::{CaptureError, Note, acpi};
use crate::spec::{E820Kind, parse_version};

const CPUINFO: &str = "proc/cpuinfo";
const MEMMAP: &str = "sys/firmware/memmap";
const IOMEM: &str = "proc/iomem";
const MEMINFO: &str = "proc/meminfo";
const TABLES: &str = "sys/firmware/acpi/tables";
const NODES: &str = "sys/devices/system/node";
const BLOCK_SIZE: &str = "sys/devices/system/memory/block_size_bytes";
const MODULE_VERSION: &str = "sys/devices/faux/tdx_host/version";

pub(super) fn facts(root: &Path, notes: &mut Vec<Note>) -> Result<Facts, CaptureError> {
    let mut facts = Facts::default();
    let text = fs::read_to_string(root.join(CPUINFO)).map_err(|error| CaptureError::Unreadable {
        path: format!("/{CPUINFO}"),
        reason: error.to_string(),
    })?;
    cpus(&text, &mut facts);
    facts.e820 = memory_map(root, notes);
    if facts.e820.is_empty() {
        facts.memory = read(root, MEMINFO, notes).as_deref().and_then(total_memory);
        if facts.memory.is_some() {
            notes.push(Note::Assumed {
                what: "memory map",
                instead: "made from the amount of memory; run as superuser to capture the real one"
                    .to_owned(),
            });
        }
    }
    match fs::read(root.join(TABLES).join("SRAT")) {
        Ok(table) => facts.nodes = acpi::srat(&table).nodes,
        Err(error) => {
            notes.push(unreadable(&format!("{TABLES}/SRAT"), &error));
            facts.nodes = nodes_by_block(root);
        }
    }
    match fs::read(root.join(TABLES).join("DMAR")) {
        Ok(table) => facts.units = acpi::dmar(&table),
        Err(error) => notes.push(unreadable(&format!("{TABLES}/DMAR"), &error)),
    }
    // Absent on every machine without a running TDX host: not worth a note.
    facts.module_version =
        fs::read_to_string(root.join(MODULE_VERSION)).ok().and_then(|text| parse_version(text.trim()));
    Ok(facts)
}

fn unreadable(path: &str, error: &std::io::Error) -> Note {
    Note::Unreadable { path: format!("/{path}"), reason: error.to_string() }
}

fn read(root: &Path, path: &str, notes: &mut Vec<Note>) -> Option<String> {
    fs::read_to_string(root.join(path)).inspect_err(|error| notes.push(unreadable(path, error))).ok()
}

fn cpus(text: &str, facts: &mut Facts) {
    let mut packages = BTreeSet::new();
    let (mut lps, mut siblings) = (0u32, None);
    let (mut family, mut model) = (None, None);
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        let number = || value.parse::<u32>().ok();
        match key.trim() {
            "processor" => lps = lps.saturating_add(1),
            "physical id" => packages.extend(number()),
            "cpu family" => family = family.or(number()),
            "model" => model = model.or(number()),
            "model name" => facts.cpu_name = Some(value.to_owned()),
            "cpu cores" => facts.cores = facts.cores.or(number()).filter(|&cores| cores > 0),
            "siblings" => siblings = siblings.or(number()),
            _ => {}
        }
    }
    facts.cpu = family.zip(model);
    facts.lps = Some(lps).filter(|&lps| lps > 0);
    facts.packages = u32::try_from(packages.len()).ok().filter(|&count| count > 0);
    facts.threads = siblings.zip(facts.cores).map(|(siblings, cores)| (siblings / cores).clamp(1, 2));
}

fn memory_map(root: &Path, notes: &mut Vec<Note>) -> Vec<(PhysRange, E820Kind)> {
    let from_firmware = firmware_map(root, notes);
    if !from_firmware.is_empty() {
        return from_firmware;
    }
    let map = read(root, IOMEM, notes).as_deref().map(iomem).unwrap_or_default();
    // Without privilege every address reads as 0.
    if map.iter().all(|(range, _)| range.end().as_u64() <= 1) { Vec::new() } else { map }
}

fn firmware_map(root: &Path, notes: &mut Vec<Note>) -> Vec<(PhysRange, E820Kind)> {
    let entries = match fs::read_dir(root.join(MEMMAP)) {
        Ok(entries) => entries,
        Err(error) => {
            notes.push(unreadable(MEMMAP, &error));
            return Vec::new();
        }
    };
    let mut map = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        let field = |name: &str| fs::read_to_string(path.join(name));
        match (field("start"), field("end"), field("type")) {
            (Ok(start), Ok(end), Ok(kind)) => {
                map.extend(inclusive(start.trim(), end.trim()).map(|range| (range, kind_of(kind.trim()))));
            }
            (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => {
                notes.push(unreadable(MEMMAP, &error));
                return Vec::new();
            }
        }
    }
    map
}

/// Hexadecimal first and last address, with or without `0x`.
fn inclusive(first: &str, last: &str) -> Option<PhysRange> {
    let hex = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    PhysRange::new(PhysAddr::new(hex(first)?), PhysAddr::new(hex(last)?.checked_add(1)?))
}

fn kind_of(name: &str) -> E820Kind {
    match name {
        "System RAM" => E820Kind::Usable,
        "ACPI Tables" => E820Kind::AcpiData,
        "ACPI Non-volatile Storage" => E820Kind::AcpiNvs,
        "Unusable memory" => E820Kind::Unusable,
        persistent if persistent.starts_with("Persistent Memory") => E820Kind::Persistent,
        _ => E820Kind::Reserved,
    }
}

/// Top-level lines of /proc/iomem that tell of memory.
fn iomem(text: &str) -> Vec<(PhysRange, E820Kind)> {
    text.lines()
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| {
            let (range, name) = line.split_once(" : ")?;
            let (first, last) = range.trim().split_once('-')?;
            let name = name.trim();
            let kind = kind_of(name);
            // Windows of devices are no memory.
            if kind == E820Kind::Reserved && !name.eq_ignore_ascii_case("reserved") {
                return None;
            }
            Some((inclusive(first, last)?, kind))
        })
        .collect()
}

/// MemTotal, rounded up to whole GiB: firmware and kernel keep a part to themselves.
fn total_memory(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    let bytes = kib.checked_mul(1024)?.checked_next_multiple_of(1 << 30)?;
    Some(bytes.max(crate::spec::MIN_GENERATED))
}

/// Node memory by hotplug blocks, for those who may not read the SRAT.
fn nodes_by_block(root: &Path) -> BTreeMap<u32, Vec<PhysRange>> {
    let mut nodes: BTreeMap<u32, Vec<PhysRange>> = BTreeMap::new();
    let size = fs::read_to_string(root.join(BLOCK_SIZE)).ok();
    let Some(size) = size.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).filter(|&size| size > 0)
    else {
        return nodes;
    };
    for entry in fs::read_dir(root.join(NODES)).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(node) = name.to_str().and_then(|name| name.strip_prefix("node")?.parse().ok()) else {
            continue;
        };
        let mut blocks: Vec<u64> = fs::read_dir(entry.path())
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|block| block.file_name().to_str()?.strip_prefix("memory")?.parse().ok())
            .collect();
        blocks.sort_unstable();
        let mut ranges: Vec<PhysRange> = Vec::new();
        for block in blocks {
            let start = block.checked_mul(size).map(PhysAddr::new);
            let Some(range) = start.and_then(|start| PhysRange::from_size(start, size)) else { continue };
            match ranges.last_mut() {
                Some(last) if last.end() == range.start() => {
                    *last = PhysRange::new(last.start(), range.end()).unwrap_or(*last);
                }
                _ => ranges.push(range),
            }
        }
        if !ranges.is_empty() {
            nodes.insert(node, ranges);
        }
    }
    nodes
}
