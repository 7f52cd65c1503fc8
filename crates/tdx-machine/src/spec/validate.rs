//! Rules that a platform file must keep, beside its format.

use std::collections::HashMap;

use tdx_abi::addr::PAGE_SIZE;
use tdx_abi::cmr::MAX_CMRS;
use tdx_abi::{AddressLayout, PhysRange};

use super::{PlatformSpec, RangeSpec, SpecIssue};
use crate::firmware::layout;

/// Most packages of a TDX platform.
pub(super) const MAX_PACKAGES: u32 = 8;
const MAX_CORES: u32 = 512;
/// Smallest SEAM range: the granularity of its registers.
pub(super) const SEAMRR_GRANULE: u64 = 32 << 20;
/// Smallest memory for which a map can be made.
pub(crate) const MIN_GENERATED: u64 = 4 << 30;

pub(super) fn check(spec: &PlatformSpec) -> Result<(), SpecIssue> {
    topology(spec)?;
    keyids(spec)?;
    ranges(spec)?;
    seamrr(spec)?;
    nodes(spec)?;
    devices(spec)?;
    packages(spec)?;
    software(spec)?;
    for (key, rate) in [
        ("interrupt", spec.chaos.interrupt),
        ("no_entropy", spec.chaos.no_entropy),
        ("busy", spec.chaos.busy),
    ] {
        if rate > 1_000_000 {
            return Err(SpecIssue::BadRate { key, rate });
        }
    }
    spec.faults.iter().try_for_each(|fault| fault.check(spec))
}

fn topology(spec: &PlatformSpec) -> Result<(), SpecIssue> {
    let cpu = &spec.cpu;
    if !(1..=MAX_PACKAGES).contains(&cpu.packages) {
        return Err(SpecIssue::PackageCount { packages: cpu.packages });
    }
    if !(1..=MAX_CORES).contains(&cpu.cores) {
        return Err(SpecIssue::CoreCount { cores: cpu.cores });
    }
    if !(1..=2).contains(&cpu.threads) {
        return Err(SpecIssue::ThreadCount { threads: cpu.threads });
    }
    let needed = cpu.cores.next_power_of_two() << cpu.thread_bits();
    if let Some(stride) = cpu.x2apic.package_stride
        && (!stride.is_power_of_two() || stride < needed)
    {
        return Err(SpecIssue::BadPackageStride { stride, needed });
    }
    let bases = &cpu.x2apic.package_bases;
    if !bases.is_empty() && bases.len() != cpu.packages as usize {
        return Err(SpecIssue::PackageBaseCount { given: bases.len(), packages: cpu.packages });
    }
    let stride = cpu.x2apic.package_stride.unwrap_or(needed);
    for (package, &base) in (0..).zip(bases) {
        if base % stride != 0 {
            return Err(SpecIssue::UnalignedPackageBase { package, base, stride });
        }
    }
    let mut seen = HashMap::new();
    for package in 0..cpu.packages {
        for core in 0..cpu.cores {
            for thread in 0..cpu.threads {
                let id =
                    cpu.x2apic_id(package, core, thread).ok_or(SpecIssue::X2apicIdOverflow { package })?;
                if let Some(first) = seen.insert(id, package) {
                    return Err(SpecIssue::DuplicateX2apicId { id, first, second: package });
                }
            }
        }
    }
    Ok(())
}

fn keyids(spec: &PlatformSpec) -> Result<(), SpecIssue> {
    let keys = &spec.keyids;
    if keys.bits > 15 {
        return Err(SpecIssue::KeyIdBits { bits: keys.bits });
    }
    let room = (1u32 << keys.bits) - 1;
    if keys.mktme.checked_add(keys.tdx).is_none_or(|sum| sum > room) {
        return Err(SpecIssue::KeyIdSplit { mktme: keys.mktme, tdx: keys.tdx, bits: keys.bits, room });
    }
    if !keys.mktme.checked_add(1).is_some_and(u32::is_power_of_two) {
        return Err(SpecIssue::KeyIdSplitNotByBits { mktme: keys.mktme });
    }
    Ok(())
}

/// The ranges of a list; each non-empty, each behind the one before.
fn ascending<'a>(
    list: impl Iterator<Item = &'a RangeSpec>,
    empty: impl Fn(usize) -> SpecIssue,
    overlap: impl Fn(usize, PhysRange) -> SpecIssue,
) -> Result<Vec<PhysRange>, SpecIssue> {
    let mut out: Vec<PhysRange> = Vec::new();
    for (index, range) in list.enumerate() {
        let range = range.range().filter(|range| !range.is_empty()).ok_or_else(|| empty(index))?;
        if out.last().is_some_and(|last| range.start() < last.end()) {
            return Err(overlap(index, range));
        }
        out.push(range);
    }
    Ok(out)
}

fn ranges(spec: &PlatformSpec) -> Result<(), SpecIssue> {
    if spec.cmrs.len() > MAX_CMRS {
        return Err(SpecIssue::TooManyCmrs { count: spec.cmrs.len() });
    }
    let cmrs = ascending(
        spec.cmrs.iter(),
        |index| SpecIssue::EmptyCmr { index },
        |index, range| SpecIssue::OverlappingCmr { index, range },
    )?;
    for (index, &range) in cmrs.iter().enumerate() {
        if !range.start().is_aligned(PAGE_SIZE) || !range.end().is_aligned(PAGE_SIZE) {
            return Err(SpecIssue::UnalignedCmr { index, range });
        }
        within_width(spec, "cmr", range)?;
    }
    let map: Vec<RangeSpec> =
        spec.e820.iter().map(|entry| RangeSpec { start: entry.start, end: entry.end }).collect();
    let map = ascending(
        map.iter(),
        |index| SpecIssue::EmptyRange { key: "e820", index },
        |index, range| SpecIssue::OverlappingE820 { index, range },
    )?;
    for (entry, range) in spec.e820.iter().zip(map) {
        if entry.kind.is_memory() {
            within_width(spec, "e820", range)?;
        }
    }
    if spec.e820.is_empty() {
        let Some(size) = spec.memory.size else { return Err(SpecIssue::NoMemory) };
        if size.0 < MIN_GENERATED || size.0 % (2 << 20) != 0 {
            return Err(SpecIssue::BadMemorySize { size: size.0 });
        }
        let end = size.0.saturating_add(MIN_GENERATED);
        if end > 1 << address_bits(spec) {
            return Err(SpecIssue::BeyondAddressWidth { what: "memory.size", end, bits: address_bits(spec) });
        }
    } else if spec.nodes.iter().all(|node| node.ranges.is_empty()) {
        return Err(SpecIssue::MapWithoutNodes);
    }
    let count = layout::Memory::of(spec).cmrs.len();
    if count > MAX_CMRS {
        return Err(SpecIssue::TooManyGeneratedCmrs { count });
    }
    Ok(())
}

/// Address bits that the KeyIDs leave.
fn address_bits(spec: &PlatformSpec) -> u8 {
    AddressLayout::new(spec.cpu.kind.maxpa(), spec.keyids.bits)
        .map_or(0, |layout| layout.maxpa() - layout.keyid_bits())
}

pub(super) fn within_width(
    spec: &PlatformSpec,
    what: &'static str,
    range: PhysRange,
) -> Result<(), SpecIssue> {
    let (bits, end) = (address_bits(spec), range.end().as_u64());
    if end > 1 << bits {
        return Err(SpecIssue::BeyondAddressWidth { what, end, bits });
    }
    Ok(())
}

fn seamrr(spec: &PlatformSpec) -> Result<(), SpecIssue> {
    let (base, size) = (spec.seamrr.base.0, spec.seamrr.size.0);
    if !size.is_power_of_two() || size < SEAMRR_GRANULE {
        return Err(SpecIssue::SeamrrSize { size });
    }
    if base % size != 0 {
        return Err(SpecIssue::SeamrrAlignment { base, size });
    }
    if !spec.seamrr.enabled {
        return Ok(());
    }
    let seamrr = spec.seamrr.range();
    within_width(spec, "seamrr", seamrr)?;
    let memory = layout::Memory::of(spec);
    let overlap = |what, range| SpecIssue::SeamrrOverlap { seamrr, what, range };
    if let Some(&range) = memory.cmrs.iter().find(|range| range.overlaps(seamrr)) {
        return Err(overlap("CMR", range));
    }
    match memory.usable().find(|range| range.overlaps(seamrr)) {
        Some(range) => Err(overlap("usable memory", range)),
        None => Ok(()),
    }
}

fn nodes(spec: &PlatformSpec) -> Result<(), SpecIssue> {
    let mut ranges: Vec<(PhysRange, u32)> = Vec::new();
    for (index, node) in spec.nodes.iter().enumerate() {
        if spec.nodes.iter().take(index).any(|other| other.id == node.id) {
            return Err(SpecIssue::DuplicateNode { node: node.id });
        }
        if let Some(package) = node.package
            && package >= spec.cpu.packages
        {
            return Err(SpecIssue::NodeWithoutPackage {
                node: node.id,
                package,
                packages: spec.cpu.packages,
            });
        }
        for (index, range) in node.ranges.iter().enumerate() {
            let range = range
                .range()
                .filter(|range| !range.is_empty())
                .ok_or(SpecIssue::EmptyRange { key: "node.ranges", index })?;
            within_width(spec, "node.ranges", range)?;
            if let Some(&(_, other)) = ranges.iter().find(|(taken, _)| taken.overlaps(range)) {
                return Err(SpecIssue::OverlappingNodes { node: node.id, other, range });
            }
            ranges.push((range, node.id));
        }
    }
    // Neighbouring nodes may share an entry of the map, so cover piece by piece.
    ranges.sort_unstable();
    let memory = layout::Memory::of(spec);
    for usable in memory.usable().filter(|_| !ranges.is_empty()) {
        let mut covered = usable.start();
        for (range, _) in &ranges {
            if range.contains(covered) {
                covered = range.end();
            }
        }
        if covered < usable.end() {
            return Err(SpecIssue::MemoryOutsideNodes { range: usable });
        }
    }
    Ok(())
}

fn devices(spec: &PlatformSpec) -> Result<(), SpecIssue> {
    for (index, unit) in spec.iommus.iter().enumerate() {
        let base = unit.reg_base.0;
        if base % PAGE_SIZE != 0 {
            return Err(SpecIssue::UnalignedRegisters { key: "iommu", base });
        }
        if spec.iommus.iter().take(index).any(|other| other.reg_base.0 == base) {
            return Err(SpecIssue::DuplicateIommu { base });
        }
        if let Some(bad) = unit.scope.iter().find(|function| function.device > 31 || function.function > 7) {
            return Err(SpecIssue::BadFunction { device: bad.device, function: bad.function });
        }
    }
    for bridge in &spec.host_bridges {
        has_package(spec, "host_bridge.package", bridge.package)?;
    }
    spec.pci_plan().map(drop)
}

fn has_package(spec: &PlatformSpec, key: &'static str, package: u32) -> Result<(), SpecIssue> {
    if package >= spec.cpu.packages {
        return Err(SpecIssue::NoSuchPackage { key, package, packages: spec.cpu.packages });
    }
    Ok(())
}

fn packages(spec: &PlatformSpec) -> Result<(), SpecIssue> {
    for package in &spec.packages {
        has_package(spec, "package.index", package.index)?;
        if let Some(index) = package.msr_absent.iter().find(|index| u32::try_from(index.0).is_err()) {
            return Err(SpecIssue::BadMsrIndex { index: index.0 });
        }
        for leaf in &package.cpuid {
            for (what, value) in [
                ("leaf", Some(leaf.leaf)),
                ("subleaf", Some(leaf.subleaf)),
                ("eax", leaf.eax),
                ("ebx", leaf.ebx),
                ("ecx", leaf.ecx),
                ("edx", leaf.edx),
            ] {
                if let Some(value) = value.filter(|value| u32::try_from(value.0).is_err()) {
                    return Err(SpecIssue::BadCpuidValue { what, value: value.0 });
                }
            }
        }
    }
    Ok(())
}

/// True for decimal digits yyyymmdd.
pub(crate) fn is_date(number: u32) -> bool {
    let (year, month, day) = (number / 10_000, number / 100 % 100, number % 100);
    (1000..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day)
}

fn software(spec: &PlatformSpec) -> Result<(), SpecIssue> {
    if !spec.cpu.kind.has_tdx() && spec.module.present {
        return Err(SpecIssue::ModuleWithoutTdx);
    }
    if super::parse_version(&spec.seamldr.version).is_none() {
        return Err(SpecIssue::BadSeamldrVersion { version: spec.seamldr.version.clone() });
    }
    let dates = [
        ("seamldr.build_date", Some(spec.seamldr.build_date)),
        ("module.build_date", spec.module.build_date),
    ];
    for (key, date) in dates {
        if let Some(date) = date.filter(|&date| !is_date(date)) {
            return Err(SpecIssue::BadDate { key, date });
        }
    }
    crate::seam::check_module(&spec.module)
}
