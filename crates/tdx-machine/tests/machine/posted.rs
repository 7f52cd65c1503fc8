//! Posted machines give the posted results, under TDMR construction as Linux 7.3 does it.
//!
//! The rules are written down here once more, for holes only: placing PAMTs adds reserved areas
//! but never takes one away.

use tdx_machine::{E820Kind, Machine, presets};

const GIB: u64 = 1 << 30;
const MAX_TDMRS: usize = 64;
const MAX_RESERVED: usize = 16;

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// GiB of TDMR, and TDMRs.
    Built(u64, usize),
    /// Base of the TDMR that has too many holes.
    ReservedAreasExhausted(u64),
    TdmrsExhausted,
}

/// Usable memory from 1 MiB up, cut at node borders.
fn memory_blocks(machine: &Machine) -> Vec<(u64, u64)> {
    let mut blocks = Vec::new();
    for entry in machine.memory_map().iter().filter(|entry| entry.kind == E820Kind::Usable) {
        for (node, _) in machine.numa_ranges() {
            if let Some(piece) = entry.range.intersection(*node) {
                let start = piece.start().as_u64().max(1 << 20);
                if start < piece.end().as_u64() {
                    blocks.push((start, piece.end().as_u64()));
                }
            }
        }
    }
    blocks
}

fn linux_7_3(blocks: &[(u64, u64)]) -> Outcome {
    let mut tdmrs: Vec<(u64, u64)> = Vec::new();
    for &(start, end) in blocks {
        let (mut start, end) = (start / GIB * GIB, end.next_multiple_of(GIB));
        if let Some(&(_, covered)) = tdmrs.last() {
            if end <= covered {
                continue;
            }
            start = start.max(covered);
        }
        tdmrs.push((start, end));
    }
    if tdmrs.len() > MAX_TDMRS {
        return Outcome::TdmrsExhausted;
    }
    for &(base, top) in &tdmrs {
        let mut at = base;
        let mut holes = 0;
        for &(start, end) in blocks.iter().filter(|&&(start, end)| start < top && base < end) {
            holes += usize::from(start > at);
            at = at.max(end);
        }
        holes += usize::from(at < top);
        if holes > MAX_RESERVED {
            return Outcome::ReservedAreasExhausted(base);
        }
    }
    Outcome::Built(tdmrs.iter().map(|(base, top)| (top - base) / GIB).sum(), tdmrs.len())
}

fn outcome(name: &str) -> Outcome {
    let spec = presets::find(name).expect(name).spec().expect(name);
    linux_7_3(&memory_blocks(&Machine::power_on(spec, 1).expect(name)))
}

#[test]
fn the_pamt_of_three_machines_is_as_large_as_posted() {
    for (name, gib, tdmrs, posted_kb) in [
        ("ubuntu-256g", 256, 5, 1_050_644),
        ("lkml-252g", 252, 3, 1_034_220),
        ("lkml-992g", 992, 6, 4_071_192),
    ] {
        assert_eq!(outcome(name), Outcome::Built(gib, tdmrs), "{name}");
        assert_eq!(4104 * gib + 4 * tdmrs as u64, posted_kb, "{name}");
    }
}

#[test]
fn two_machines_run_out_of_reserved_areas_as_their_owners_reported() {
    assert_eq!(outcome("canonical-tdx-135"), Outcome::ReservedAreasExhausted(0));
    assert_eq!(outcome("canonical-tdx-415"), Outcome::ReservedAreasExhausted(0x4000_0000));
}

#[test]
fn what_those_two_reserve_lies_inside_their_cmrs() {
    for name in ["canonical-tdx-135", "canonical-tdx-415"] {
        let machine = Machine::power_on(presets::find(name).expect(name).spec().expect(name), 1).expect(name);
        let holes = machine
            .memory_map()
            .iter()
            .filter(|entry| entry.kind == E820Kind::Reserved)
            .filter(|entry| machine.cmrs().iter().any(|cmr| cmr.covers(entry.range)));
        assert!(holes.count() >= 16, "{name}");
    }
}

#[test]
fn the_large_machine_has_twenty_four_tib_and_ids_above_the_public_limit() {
    let spec = presets::find("gnr-8s").expect("a preset").spec().expect("valid");
    let machine = Machine::power_on(spec, 1).expect("valid");
    assert_eq!(machine.lps().len(), 1792);
    assert!(machine.lps().iter().any(|lp| lp.x2apic_id >= 1024));
    assert_eq!(linux_7_3(&memory_blocks(&machine)), Outcome::Built(24 * 1024, 9));
    assert!(machine.cmrs().len() <= 32);
}
