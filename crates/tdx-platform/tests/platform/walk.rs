//! Bring-up and what it leaves.

use std::sync::Arc;

use tdx_abi::addr::SIZE_1G;
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::metadata::sys;
use tdx_host::TdmrRules;
use tdx_host::traits::{CpuNumber, CpuPin};
use tdx_platform::{CpuMode, HostOptions, TdxHost};

use crate::{calls, host_on, preset, quiet, switch_on, two_packages, up};

#[test]
fn tiny_comes_up_and_shows_its_device() {
    let (host, report) = up(preset("tiny"));
    assert_eq!(report.tdmr_init_calls, report.tdmr_bytes / SIZE_1G * 256);
    assert_eq!(report.pamt_kb(), 4104 * (report.tdmr_bytes / SIZE_1G) + 4 * report.tdmrs as u64);
    let device = host.device().unwrap();
    for attribute in device.attributes() {
        let value = device.read(attribute.name).unwrap();
        assert!(value.ends_with('\n') && value.len() > 1, "{}: {value:?}", attribute.name);
    }
    let version = host.status().version.unwrap();
    assert_eq!(device.read("version").unwrap(), format!("{version}\n"));
}

#[test]
fn no_client_of_vmx_is_needed_for_anything() {
    let (host, _) = up(two_packages());
    let status = host.status();
    assert_eq!((status.cpus_in_vmx, status.cpus_initialised), (status.cpus_possible, status.cpus_possible));
    assert!(host.seamldr_info().is_ok());
    let version = host.sys_rd_on(0, sys::MAJOR_VERSION);
    assert_eq!(version, Ok(u64::from(status.version.unwrap().major)));
    host.shutdown().unwrap();
    assert_eq!(host.status().cpus_in_vmx, 0);
}

#[test]
fn a_second_client_of_vmx_lives_beside_the_host() {
    let host = host_on(two_packages());
    let client = host.register_vmx_client().unwrap();
    // Before, during and after TDX.
    host.vmx_get_everywhere(client).unwrap();
    host.bring_up(&()).unwrap();
    host.vmx_put_everywhere(client).unwrap();
    assert_eq!(host.status().cpus_in_vmx, 4);
    assert_eq!(host.vmx_put_everywhere(client).unwrap_err().name(), "unbalanced-vmx-put");
    assert!(host.seamldr_info().is_ok(), "the host's own references are untouched");
    host.vmx_get_everywhere(client).unwrap();
    host.shutdown().unwrap();
    assert_eq!(host.status().cpus_in_vmx, 4, "the client's VMX outlives the module");
    assert_eq!(host.unregister_vmx_client(client).unwrap_err().name(), "vmx-client-busy");
    host.vmx_put_everywhere(client).unwrap();
    assert_eq!(host.status().cpus_in_vmx, 0);
    host.unregister_vmx_client(client).unwrap();
}

#[test]
fn cpus_on_threads_bring_up_what_cpus_in_turn_do() {
    let (_, in_turn) = up(two_packages());
    for _ in 0..8 {
        let host = TdxHost::new(switch_on(two_packages(), CpuMode::Threads), HostOptions::default());
        assert_eq!(host.bring_up(&()), Ok(in_turn));
    }
}

#[test]
fn the_same_seed_is_the_same_run_and_chance_is_survived() {
    let run = |seed| {
        let machine = tdx_machine::Machine::power_on(preset("tiny"), seed).unwrap();
        let platform = tdx_platform::Platform::new(Arc::new(machine), CpuMode::Sequential);
        let host = TdxHost::new(Arc::new(platform), HostOptions::default());
        let report = host.bring_up(&()).unwrap();
        host.shutdown().unwrap();
        (report, calls(&host), host.platform().log_lines())
    };
    for seed in 1..6 {
        assert_eq!(run(seed), run(seed));
    }
}

#[test]
fn both_rule_sets_bring_the_default_machine_up() {
    for tdmr_rules in [TdmrRules::Tdxhost, TdmrRules::Linux73] {
        let options = HostOptions { tdmr_rules, ..HostOptions::default() };
        let host = TdxHost::new(switch_on(quiet("default"), CpuMode::Sequential), options);
        let report = host.bring_up(&()).unwrap();
        assert_eq!(report.packages, 2);
        assert_eq!(report.tdmr_init_calls, report.tdmr_bytes / SIZE_1G * 256);
        // Each TDMR has its PAMT on the node of its memory.
        for tdmr in host.tdmrs() {
            let memory = host.platform().memory();
            let pamt = tdmr.pamt.unwrap();
            let near = memory.iter().find(|(range, _)| range.covers(pamt)).unwrap().1;
            let first = memory.iter().find(|(range, _)| range.end() > tdmr.range.start()).unwrap().1;
            assert_eq!(near, first);
        }
    }
}

#[test]
fn the_device_waits_for_the_signal_of_the_platform() {
    let options = HostOptions { platform_ready: false, ..HostOptions::default() };
    let host = TdxHost::new(switch_on(quiet("tiny"), CpuMode::Sequential), options);
    host.bring_up(&()).unwrap();
    assert!(host.device().is_none());
    host.platform_is_ready().unwrap();
    let device = host.device().unwrap();
    assert!(device.read("version").is_ok());
    host.remove_device();
    assert!(host.device().is_none());
    assert_eq!(device.read("version").unwrap_err().name(), "device-gone");
}

#[test]
fn a_machine_in_pieces_still_finds_room_for_its_pamts() {
    let mut spec = quiet("default");
    spec.allocator.free_ranges = Some(500);
    let (host, report) = up(spec);
    assert!(report.tdmrs > 2, "halved until a free range is large enough");
    assert_eq!(host.platform().page_accounts().leaked, 0);
}

#[test]
fn metadata_can_be_read_while_cpus_come_and_go() {
    let (host, _) = up(two_packages());
    std::thread::scope(|scope| {
        let flips = scope.spawn(|| {
            for cpu in (0..4).cycle().take(200).map(CpuNumber) {
                host.cpu_offline(cpu).unwrap();
                host.cpu_online(cpu).unwrap();
            }
        });
        let device = host.device().unwrap();
        while !flips.is_finished() {
            assert!(device.read("num_remaining_updates").is_ok());
            assert!(host.sysinfo().is_some());
        }
        flips.join().unwrap();
    });
    assert_eq!(host.platform().page_accounts().leaked, 0);
}

trait OnCpu {
    fn sys_rd_on(
        &self,
        cpu: u32,
        field: tdx_abi::metadata::FieldId,
    ) -> Result<u64, tdx_host::seamcall::SeamcallError>;
}

impl OnCpu for TdxHost {
    fn sys_rd_on(
        &self,
        cpu: u32,
        field: tdx_abi::metadata::FieldId,
    ) -> Result<u64, tdx_host::seamcall::SeamcallError> {
        CpuPin::enter(CpuNumber(cpu), |pin| self.sys_rd(pin, field))
    }
}

#[test]
fn every_call_of_bring_up_is_counted_by_the_module() {
    let (host, report) = up(two_packages());
    let (made, _) = calls(&host);
    let of = |leaf| made.iter().filter(|(made, _)| *made == Some(leaf)).map(|(_, n)| n).sum::<u64>();
    assert_eq!(of(SeamcallLeaf::SYS_INIT), 1);
    assert_eq!(of(SeamcallLeaf::SYS_LP_INIT), 4);
    assert_eq!(of(SeamcallLeaf::SYS_CONFIG), 1);
    assert_eq!(of(SeamcallLeaf::SYS_KEY_CONFIG), report.packages);
    assert_eq!(of(SeamcallLeaf::SYS_TDMR_INIT), report.tdmr_init_calls);
}

#[test]
fn posted_machines_give_the_posted_kilobytes() {
    for (name, rules, kb) in [
        ("ubuntu-256g", TdmrRules::Linux73, 1_050_644),
        ("ubuntu-256g", TdmrRules::Tdxhost, 1_050_644),
        ("lkml-252g", TdmrRules::Linux73, 1_034_220),
        ("lkml-992g", TdmrRules::Linux73, 4_071_192),
    ] {
        let options = HostOptions { tdmr_rules: rules, ..HostOptions::default() };
        let host = TdxHost::new(switch_on(quiet(name), CpuMode::Sequential), options);
        assert_eq!(host.bring_up(&()).unwrap().pamt_kb(), kb, "{name}");
    }
}

#[test]
fn a_machine_whose_reserved_areas_were_exhausted_comes_up() {
    let options = HostOptions { tdmr_rules: TdmrRules::Linux73, ..HostOptions::default() };
    let host = TdxHost::new(switch_on(quiet("canonical-tdx-415"), CpuMode::Sequential), options);
    let error = host.bring_up(&()).unwrap_err();
    assert!(error.to_string().starts_with("TDMR [0x40000000, 0x80000000): reserved areas exhausted"));
    let (_, report) = up(quiet("canonical-tdx-415"));
    assert!(report.reserved_areas < 16);
}
