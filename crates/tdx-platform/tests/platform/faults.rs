//! Every fault of the catalogue ends in its own name.

use tdx_abi::{PhysAddr, PhysRange};
use tdx_host::{HostError, Lifecycle, TdmrRules};
use tdx_machine::fault::{Breaks, CATALOGUE, FaultInfo};
use tdx_machine::spec::{E820Spec, Hex, NodeSpec, RangeSpec};
use tdx_machine::{E820Kind, Fault, Machine};
use tdx_platform::{CpuMode, HostOptions, TdxHost};

use crate::{assert_unwound, host_on, name_of, quiet, switch_on, two_packages};

/// How bring-up ends with a fault, by its name.
fn expected(fault: &str) -> &'static str {
    match fault {
        "msr-0x87-faults" => "no-tdx",
        "no-vmx" => "no-vmx",
        "keyids-zero" | "keyids-one" => "too-few-keyids",
        "seamrr-disabled" => "seamrr-not-enabled",
        "seamrr-unlocked" => "seamrr-not-locked",
        "module-missing" => "module-not-loaded",
        "module-1.0" => "module-too-old",
        // A module of 1.5 does not look at the register.
        "tsx-ctrl-disabled" | "key-config-entropy" => "ready",
        "cpuid-mismatch" | "cpuid-incorrect" => "inconsistent-cpuid",
        "msr-mismatch" => "inconsistent-msr",
        "lp-missing" => "lp-not-initialised",
        "ram-outside-cmrs" => "ram-outside-cmrs",
        "too-many-tdmrs" => "too-many-tdmrs",
        "too-many-reserved-areas" => "too-many-reserved-areas",
        "no-contiguous-pamt" => "no-contiguous-pamt",
        "key-config-entropy-forever" => "key-config-failed",
        "tdmr-init-fails" => "tdmr-init-failed",
        "no-rbp-mod-missing" => "no-rbp-mod",
        "no-xsave" | "no-movdir64b" | "no-selfsnoop" => "cpu-feature-missing",
        "vmxe-already-set" => "vmxe-in-use",
        "hibernation-possible" => "hibernation-possible",
        other => panic!("no expectation for {other}"),
    }
}

/// The faults that break a bring-up; those of an update are tried on one.
fn bring_up_faults() -> impl Iterator<Item = &'static FaultInfo> {
    CATALOGUE.iter().filter(|info| info.breaks == Breaks::BringUp)
}

#[test]
fn each_fault_of_a_platform_file_ends_in_its_name_with_nothing_leaked() {
    for info in bring_up_faults() {
        let mut spec = two_packages();
        let fault = Fault::by_name(info.name, &spec).unwrap();
        spec.faults = vec![fault];
        let host = host_on(spec);
        let result = host.bring_up(&());
        assert_eq!(name_of(result), expected(info.name), "{}: {result:?}", info.name);
        if result.is_err() {
            assert_unwound(&host, info.name);
            assert_eq!(host.status().last_error, result.err());
            assert!(host.device().is_none());
        }
    }
}

#[test]
fn a_fault_ends_with_the_power_cycle() {
    for info in bring_up_faults().filter(|info| expected(info.name) != "ready") {
        let platform = switch_on(two_packages(), CpuMode::Sequential);
        let fault = Fault::by_name(info.name, platform.machine().spec()).unwrap();
        platform.machine().inject(fault).unwrap();
        platform.power_cycle();
        let host = TdxHost::new(platform.clone(), HostOptions::default());
        let first = host.bring_up(&());
        drop(host);
        platform.power_cycle();
        let host = TdxHost::new(platform.clone(), HostOptions::default());
        let second = host.bring_up(&());
        assert_eq!(name_of(second), "ready", "{} after {first:?}", info.name);
    }
}

#[test]
fn tsx_ctrl_stops_a_module_of_1_0_before_its_age_does() {
    let mut spec = two_packages();
    spec.faults = vec![Fault::Module10, Fault::TsxCtrlDisabled];
    let host = host_on(spec);
    let error = host.bring_up(&()).unwrap_err();
    let HostError::IncorrectMsr { error: call, .. } = error else { panic!("{error}") };
    assert_eq!(call.status().unwrap().raw(), 0xc000_0921_0000_0122);
    assert_unwound(&host, "1.0 with TSX_CTRL");
}

#[test]
fn a_wrong_cpuid_on_the_first_package_stops_sys_init() {
    let mut spec = two_packages();
    spec.faults = vec![Fault::CpuidIncorrect { package: 0 }];
    assert_eq!(name_of(host_on(spec).bring_up(&())), "incorrect-cpuid");
}

#[test]
fn the_linux_rules_show_the_failure_of_a_fragmented_map_and_the_default_rules_do_not() {
    // One GiB with 18 holes of the memory map, all of it convertible.
    let mut spec = quiet("tiny");
    let machine = Machine::power_on(spec.clone(), 1).unwrap();
    let plain =
        |range: PhysRange| RangeSpec { start: Hex(range.start().as_u64()), end: Hex(range.end().as_u64()) };
    let piece = |start, end, kind| E820Spec { start: Hex(start), end: Hex(end), kind };
    for entry in machine.memory_map() {
        let (mut at, end) = (entry.range.start().as_u64(), entry.range.end().as_u64());
        if entry.kind == E820Kind::Usable {
            let holes = (0..18)
                .map(|i| 0x4000_0000 + i * 0x20_0000)
                .filter(|hole| entry.range.contains(PhysAddr::new(*hole)));
            for hole in holes.filter(|hole| *hole > entry.range.start().as_u64()) {
                spec.e820.push(piece(at, hole, entry.kind));
                spec.e820.push(piece(hole, hole + 4096, E820Kind::Reserved));
                at = hole + 4096;
            }
        }
        spec.e820.push(piece(at, end, entry.kind));
    }
    spec.cmrs = machine.cmrs().iter().filter(|cmr| !cmr.is_empty()).map(|cmr| plain(*cmr)).collect();
    let ranges = machine.numa_ranges().iter().map(|(range, _)| plain(*range)).collect();
    spec.nodes = vec![NodeSpec { id: 0, package: Some(0), ranges }];
    spec.memory.size = None;
    let options = HostOptions { tdmr_rules: TdmrRules::Linux73, ..HostOptions::default() };
    let host = TdxHost::new(switch_on(spec.clone(), CpuMode::Sequential), options);
    assert_eq!(name_of(host.bring_up(&())), "too-many-reserved-areas");
    assert_unwound(&host, "linux-7.3");
    let host = host_on(spec);
    assert_eq!(name_of(host.bring_up(&())), "ready");
    assert_eq!(host.status().lifecycle, Lifecycle::Ready);
}
