//! Facts of a boot log.

use tdx_abi::{PhysAddr, PhysRange};

use super::builder::{Facts, Unit};
use crate::spec::{E820Kind, parse_u64};

/// Collects what the lines tell. Nothing is required, nothing is refused.
pub(super) fn facts(text: &str) -> Facts {
    let mut facts = Facts::default();
    for line in text.lines() {
        read_line(line, &mut facts);
    }
    facts
}

fn after<'a>(line: &'a str, marker: &str) -> Option<&'a str> {
    line.split_once(marker).map(|(_, rest)| rest)
}

/// A line may tell several things; each reader takes what it knows.
fn read_line(line: &str, facts: &mut Facts) {
    if let Some(rest) = after(line, "BIOS-e820:") {
        facts.e820.extend(e820_entry(rest));
    }
    if let Some(rest) = after(line, "SRAT: Node ") {
        // Ranges for hotplug hold no memory yet.
        if !rest.contains("hotplug")
            && let Some(node) = first_number(rest)
            && let Some(range) = inclusive_range(rest)
        {
            facts.nodes.entry(node).or_default().push(range);
        }
    }
    if line.contains("-> APIC ") && line.contains("SRAT: PXM") {
        facts.srat_lps += 1;
    }
    let lower = line.to_ascii_lowercase();
    if lower.contains("tdx") {
        read_tdx_line(line, &lower, facts);
    }
    if let Some(rest) = after(line, "DRHD base:") {
        facts.units.extend(dmar_unit(rest));
    }
    read_cpu_line(line, &lower, facts);
}

fn read_tdx_line(line: &str, lower: &str, facts: &mut Facts) {
    if let Some(rest) = after(line, "CMR") {
        facts.cmrs.extend(half_open_range(rest));
    }
    if let Some(rest) = after(lower, "private keyid range")
        && let Some((first, end)) = half_open_numbers(rest)
        && let (Ok(first), Ok(end)) = (u32::try_from(first), u32::try_from(end))
        && first < end
    {
        facts.private_keys = Some((first, end));
    }
    let number = |name: &str| after(lower, name).and_then(first_number);
    if let (Some(major), Some(minor)) = (number("major_version"), number("minor_version")) {
        facts.module_line = Some((major, minor));
    }
    if let Some(build) = number("build_num") {
        facts.module_build = u16::try_from(build).ok();
    }
    if let Some(date) = number("build_date") {
        facts.module_date = Some(date);
    }
    if let Some(version) = after(lower, "module version").and_then(version) {
        facts.module_version = Some(version);
    }
}

fn read_cpu_line(line: &str, lower: &str, facts: &mut Facts) {
    if facts.cpu.is_none()
        && let Some(rest) = after(lower, "(family:")
        && let (Some(family), Some(model)) =
            (first_number(rest), after(rest, "model:").and_then(first_number))
    {
        facts.cpu = Some((family, model));
        let name = after(line, "CPU0:").and_then(|rest| rest.rsplit_once("(family"));
        facts.cpu_name = name.map(|(name, _)| name.trim().to_owned());
    }
    let mut topology = |marker: &str, slot: fn(&mut Facts) -> &mut Option<u32>| {
        if let Some(count) = after(lower, marker).and_then(first_number).filter(|&count| count > 0) {
            *slot(facts) = Some(count);
        }
    };
    topology("max. logical packages:", |facts| &mut facts.packages);
    topology("num. cores per package:", |facts| &mut facts.cores);
    topology("max. threads per core:", |facts| &mut facts.threads);
    topology("smpboot: allowing ", |facts| &mut facts.lps);
    topology("cpu topo: allowing ", |facts| &mut facts.lps);
    if let Some(rest) = after(lower, "brought up ").filter(|rest| rest.contains("cpu")) {
        let count = rest.split(',').find(|part| part.contains("cpu")).and_then(first_number);
        facts.lps = facts.lps.or(count);
    }
}

/// The first number of a text, decimal or with `0x` in hexadecimal; `None` beyond 32 bits.
fn first_number(text: &str) -> Option<u32> {
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let rest = text.get(start..)?;
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
    u32::try_from(parse_u64(rest.get(..end)?)?).ok()
}

/// `[mem 0x…-0x…]`, the last address included.
fn inclusive_range(text: &str) -> Option<PhysRange> {
    let inside = after(text, "[mem ")?.split(']').next()?;
    let (first, last) = inside.split_once('-')?;
    let (first, last) = (parse_u64(first)?, parse_u64(last)?);
    PhysRange::new(PhysAddr::new(first), PhysAddr::new(last.checked_add(1)?))
}

/// Two numbers in `[…, …)`.
fn half_open_numbers(text: &str) -> Option<(u64, u64)> {
    let inside = after(text, "[")?.split([')', ']']).next()?;
    let (first, end) = inside.split_once(',')?;
    Some((parse_u64(first)?, parse_u64(end)?))
}

fn half_open_range(text: &str) -> Option<PhysRange> {
    // `CMR[0]: [0x…, 0x…)` has a number before the range.
    let text = text.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or(text, |(_, rest)| rest);
    let (first, end) = half_open_numbers(text)?;
    PhysRange::new(PhysAddr::new(first), PhysAddr::new(end)).filter(|range| !range.is_empty())
}

fn e820_entry(text: &str) -> Option<(PhysRange, E820Kind)> {
    let range = inclusive_range(text).filter(|range| !range.is_empty())?;
    let kind = text.split_once(']')?.1.trim();
    let kind = match kind {
        "usable" => E820Kind::Usable,
        "ACPI data" => E820Kind::AcpiData,
        "ACPI NVS" => E820Kind::AcpiNvs,
        "unusable" => E820Kind::Unusable,
        persistent if persistent.starts_with("persistent") => E820Kind::Persistent,
        _ => E820Kind::Reserved,
    };
    Some((range, kind))
}

fn dmar_unit(text: &str) -> Option<Unit> {
    let base = text.split_whitespace().next().and_then(parse_u64)?;
    let flags = after(text, "flags:").and_then(first_number).unwrap_or(0);
    Some(Unit { segment: 0, reg_base: base, include_all: flags & 1 != 0, scope: Vec::new() })
}

/// `: 1.5.06` or ` 2.0.8`.
fn version(text: &str) -> Option<(u16, u16, u16)> {
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let rest = text.get(start..)?;
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let mut parts = rest.get(..end)?.split('.').map(|part| part.parse::<u16>().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}
