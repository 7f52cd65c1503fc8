//! What happens to a host that is up.

use std::sync::Arc;
use std::thread;

use tdx_host::traits::CpuNumber;
use tdx_host::{HostError, Lifecycle, Phase, Progress, SuspendKind};
use tdx_platform::{CpuMode, HostOptions, TdxHost};

use crate::{assert_unwound, calls, held_at_boot, switch_on, two_packages, up};

#[test]
fn cpus_go_and_come_back() {
    let (host, _) = up(two_packages());
    host.cpu_offline(CpuNumber(1)).unwrap();
    assert!(!host.platform().machine().in_vmx(tdx_machine::LpIndex(1)));
    assert_eq!(host.cpu_offline(CpuNumber(1)), Err(HostError::CpuOffline { cpu: CpuNumber(1) }));
    assert_eq!(host.status().cpus_online, 3);
    host.cpu_online(CpuNumber(1)).unwrap();
    assert!(host.platform().machine().in_vmx(tdx_machine::LpIndex(1)));
    assert_eq!(host.cpu_online(CpuNumber(9)), Err(HostError::UnknownCpu { cpu: CpuNumber(9) }));
}

#[test]
fn the_last_cpu_of_a_package_stays_while_a_td_has_a_keyid() {
    let (host, _) = up(two_packages());
    let key = host.state().keyids().allocate().unwrap();
    host.cpu_offline(CpuNumber(3)).unwrap();
    assert_eq!(host.cpu_offline(CpuNumber(2)).unwrap_err().name(), "last-cpu-of-package");
    assert!(host.platform().machine().is_online(tdx_machine::LpIndex(2)));
    host.state().keyids().free(key).unwrap();
    host.cpu_offline(CpuNumber(2)).unwrap();
}

#[test]
fn a_vmx_client_finds_its_vmx_again_after_offline_and_online() {
    let (host, _) = up(two_packages());
    let client = host.register_vmx_client().unwrap();
    host.vmx_get_everywhere(client).unwrap();
    host.cpu_offline(CpuNumber(1)).unwrap();
    host.cpu_online(CpuNumber(1)).unwrap();
    host.shutdown().unwrap();
    assert!(host.platform().machine().in_vmx(tdx_machine::LpIndex(1)));
    host.vmx_put_everywhere(client).unwrap();
    assert_eq!(host.status().cpus_in_vmx, 0);
}

#[test]
fn a_cpu_that_missed_lp_init_stays_offline() {
    let platform = switch_on(two_packages(), CpuMode::Sequential);
    let host = TdxHost::new(platform, HostOptions::default());
    host.cpu_offline(CpuNumber(3)).unwrap();
    // The module counts the LP that did not come.
    let error = host.bring_up(&()).unwrap_err();
    let HostError::LpNotInitialised { initialised: 3, possible: 4, .. } = error else { panic!("{error}") };
    assert_unwound(&host, "CPU 3 offline");
}

#[test]
fn sleep_that_loses_the_keys_is_refused() {
    let (host, _) = up(two_packages());
    host.suspend(SuspendKind::S2idle).unwrap();
    assert_eq!(host.status().cpus_in_vmx, 4);
    host.resume().unwrap();
    for kind in [SuspendKind::S3, SuspendKind::Hibernate] {
        assert_eq!(host.suspend(kind), Err(HostError::SuspendRefused { kind }));
    }
    assert!(host.device().unwrap().read("version").is_ok());
}

#[test]
fn shutdown_gives_all_pages_back_and_the_next_boot_comes_up() {
    for erratum in [false, true] {
        let mut spec = two_packages();
        spec.errata = Some(tdx_machine::spec::ErrataSpec { pw_mce: erratum, seamret_invd_vmcs: false });
        let platform = switch_on(spec, CpuMode::Sequential);
        let host = TdxHost::new(platform.clone(), HostOptions::default());
        host.bring_up(&()).unwrap();
        let pamts: Vec<_> = host.tdmrs().into_iter().filter_map(|tdmr| tdmr.pamt).collect();
        assert!(!pamts.is_empty());
        host.shutdown().unwrap();
        assert_eq!(host.status().lifecycle, Lifecycle::ShutDown);
        assert_unwound(&host, "shutdown");
        assert!(host.device().is_none());
        // The PAMTs are ordinary memory again: even partial writes do not poison them.
        for pamt in pamts {
            let machine = platform.machine();
            machine.partial_write(pamt.start(), tdx_abi::KeyId::TME, &[1, 2, 3]).unwrap();
            let mut bytes = [0; 3];
            machine.read(pamt.start(), tdx_abi::KeyId::TME, &mut bytes).unwrap();
            assert_eq!(bytes, [1, 2, 3]);
        }
        assert_eq!(host.bring_up(&()), Err(HostError::GoingDown));
        drop(host);
        platform.power_cycle();
        let host = TdxHost::new(platform, HostOptions::default());
        assert!(host.bring_up(&()).is_ok());
    }
}

#[test]
fn after_a_crash_everything_says_so_and_no_call_is_made() {
    let (host, _) = up(two_packages());
    let device = host.device().unwrap();
    host.cpu_offline(CpuNumber(1)).unwrap();
    host.crash();
    let before = calls(&host);
    assert_eq!(device.read("version"), Err(HostError::GoingDown));
    assert_eq!(device.read("num_remaining_updates"), Err(HostError::GoingDown));
    assert_eq!(host.seamldr_info().unwrap_err(), HostError::GoingDown);
    assert_eq!(host.shutdown(), Err(HostError::GoingDown));
    assert_eq!(host.resume(), Err(HostError::GoingDown));
    assert_eq!(host.cpu_online(CpuNumber(1)), Err(HostError::GoingDown));
    let part = host.platform().memory()[0].0;
    assert_eq!(host.memory_may_go_online(part), Err(HostError::GoingDown));
    let client = host.register_vmx_client().unwrap();
    assert_eq!(host.vmx_get_everywhere(client), Err(HostError::GoingDown));
    assert_eq!(calls(&host), before);
    assert_eq!(host.status().cpus_in_vmx, 0);
    assert_eq!(host.status().lifecycle, Lifecycle::Crashed);
}

/// Crashes the host when a phase begins.
struct CrashIn<'a>(Phase, &'a TdxHost);

impl Progress for CrashIn<'_> {
    fn phase_started(&self, phase: Phase, _total: u64) {
        if phase == self.0 {
            self.1.crash();
        }
    }
}

#[test]
fn a_crash_in_any_phase_leaves_no_page_behind() {
    for phase in Phase::ALL {
        let platform = switch_on(two_packages(), CpuMode::Sequential);
        let host = TdxHost::new(platform.clone(), HostOptions::default());
        assert_eq!(host.bring_up(&CrashIn(phase, &host)), Err(HostError::GoingDown), "{}", phase.name());
        assert_unwound(&host, phase.name());
        drop(host);
        platform.power_cycle();
        assert!(TdxHost::new(platform, HostOptions::default()).bring_up(&()).is_ok());
    }
}

#[test]
fn a_crash_from_another_thread_ends_bring_up() {
    for _ in 0..20 {
        let platform = switch_on(two_packages(), CpuMode::Threads);
        let host = Arc::new(TdxHost::new(platform, HostOptions::default()));
        let result = thread::scope(|scope| {
            let walk = scope.spawn(|| host.bring_up(&()));
            while host.status().lifecycle < Lifecycle::BringingUp {
                thread::yield_now();
            }
            host.crash();
            walk.join().unwrap()
        });
        // The crash may come just after the end.
        assert!(result.is_ok() || result == Err(HostError::GoingDown), "{result:?}");
        assert_eq!(host.status().lifecycle, Lifecycle::Crashed);
        assert_eq!(host.platform().page_accounts().leaked, held_at_boot(host.platform()).1);
    }
}

#[test]
fn memory_is_judged_by_what_it_was_at_bring_up() {
    let (host, _) = up(two_packages());
    let known = host.platform().memory()[0].0;
    let upper =
        tdx_abi::PhysRange::new(tdx_abi::PhysAddr::new(1 << 30), tdx_abi::PhysAddr::new((1 << 30) + 4096));
    if let Some(part) = upper.filter(|part| known.covers(*part)) {
        assert_eq!(host.memory_may_go_online(part), Ok(()));
    }
    let far = tdx_abi::PhysRange::from_size(tdx_abi::PhysAddr::new(1 << 45), 1 << 30).unwrap();
    assert_eq!(host.memory_may_go_online(far), Err(HostError::HotplugOutsideTdxMemory { range: far }));
}

#[test]
fn the_host_can_be_held_by_a_service() {
    fn shared<T: Send + Sync>(_: &T) {}
    let (host, _) = up(two_packages());
    shared(&host);
}
