//! TDMRs and their PAMTs: how many calls, how much memory, and what is left of it after a failure.

use tdx_abi::addr::{LINE_SIZE, SIZE_1G};
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::{KeyId, PhysAddr};
use tdx_host::TdmrRules;
use tdx_machine::spec::ErrataSpec;
use tdx_machine::{E820Kind, Fault, Machine, MemFault, presets};
use tdx_platform::HostOptions;

use crate::{ending, host_on, module, quiet};

/// Largest machine that is brought up here.
const TIB: u64 = 1 << 40;

fn ram_bytes(machine: &Machine) -> u64 {
    let usable = machine.memory_map().iter().filter(|entry| entry.kind == E820Kind::Usable);
    usable.map(|entry| entry.range.size()).sum()
}

#[test]
fn every_gib_of_tdmr_takes_256_calls_and_4104_kilobytes() {
    let mut came_up = Vec::new();
    for preset in presets::all() {
        let host = host_on(quiet(preset.name), 0, HostOptions::default());
        if ram_bytes(host.platform().machine()) > TIB {
            continue;
        }
        let Ok(report) = host.bring_up(&()) else { continue };
        came_up.push(preset.name);
        let gib = report.tdmr_bytes / SIZE_1G;
        assert_eq!(report.tdmr_init_calls, 256 * gib, "{}", preset.name);
        let module = module(&host);
        assert_eq!(module.calls_of(SeamcallLeaf::SYS_TDMR_INIT), 256 * gib, "{}", preset.name);
        // The entries of the GiBs take 16 bytes each and whole pages: one page up to 256 GiB.
        let pages_1g: u64 =
            host.tdmrs().iter().map(|tdmr| (tdmr.range.size() / SIZE_1G * 16).div_ceil(4096)).sum();
        assert_eq!(report.pamt_kb(), 4104 * gib + 4 * pages_1g, "{}", preset.name);
        assert_eq!(module.pamt_bytes(), 1024 * report.pamt_kb(), "{}", preset.name);
        for (tdmr, built) in module.tdmrs.iter().zip(host.tdmrs()) {
            assert_eq!((tdmr.range, &tdmr.reserved), (built.range, &built.reserved), "{}", preset.name);
            assert_eq!(tdmr.initialised, tdmr.range, "{}", preset.name);
        }
    }
    for name in ["tiny", "default", "spr-2s", "ubuntu-256g", "lkml-252g", "lkml-992g", "canonical-tdx-135"] {
        assert!(came_up.contains(&name), "{name} did not come up: {came_up:?}");
    }
}

#[test]
fn both_rule_sets_give_the_module_all_memory_that_the_host_uses() {
    for rules in [TdmrRules::Tdxhost, TdmrRules::Linux73] {
        for name in ["tiny", "default", "spr-2s", "ubuntu-256g"] {
            let host = host_on(quiet(name), 0, HostOptions { tdmr_rules: rules, ..HostOptions::default() });
            host.bring_up(&()).unwrap();
            let module = module(&host);
            for (range, _) in host.platform().memory() {
                let mut at = range.start().max(PhysAddr::new(1 << 20));
                while at < range.end() {
                    let tdmr = module.tdmrs.iter().find(|tdmr| tdmr.range.contains(at));
                    let tdmr = tdmr.unwrap_or_else(|| panic!("{name}: {at} is in no TDMR"));
                    let is_pamt = module.tdmrs.iter().flat_map(|one| &one.pamt).any(|area| area.contains(at));
                    let reserved = tdmr.reserved.iter().any(|area| area.contains(at));
                    assert_eq!(reserved, is_pamt, "{name}: {at}");
                    at = at.checked_add(64 << 20).unwrap();
                }
            }
        }
    }
}

/// Reads the line after a store of one byte past the caches, which poisons TD-owned memory on CPUs
/// with the erratum.
fn touch(machine: &Machine, line: PhysAddr) -> Result<(), MemFault> {
    machine.partial_write(line, KeyId::TME, &[1])?;
    machine.read(line, KeyId::TME, &mut [0; 8])
}

#[test]
fn a_bring_up_that_fails_half_way_leaves_memory_that_partial_writes_do_not_poison() {
    let mut spec = quiet("tiny");
    spec.errata = Some(ErrataSpec { pw_mce: true, seamret_invd_vmcs: false });
    let broken = {
        let mut spec = spec.clone();
        spec.faults = vec![Fault::TdmrInitFails { after: 300 }];
        host_on(spec, 0, HostOptions::default())
    };
    assert_eq!(ending(&broken.bring_up(&())), "tdmr-init-failed");
    let healthy = host_on(spec, 0, HostOptions::default());
    assert_eq!(ending(&healthy.bring_up(&())), "ready");
    for host in [&broken, &healthy] {
        let machine = host.platform().machine();
        let mut poisoned = 0;
        for tdmr in module(host).tdmrs {
            for area in tdmr.pamt {
                for line in (0..area.size().min(64 << 10)).step_by(4096 + 64) {
                    let line = area.start().checked_add(line).unwrap().align_down(LINE_SIZE);
                    poisoned += u32::from(touch(machine, line).is_err());
                }
            }
        }
        let up = host.device().is_some();
        assert_eq!(poisoned > 0, up, "{poisoned} lines of the PAMT poisoned, module up: {up}");
    }
}
