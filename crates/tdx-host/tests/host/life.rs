//! CPUs that come and go, suspend, shutdown and crash.

use std::sync::Arc;

use tdx_abi::leaf::{LeafWord, SeamcallLeaf};
use tdx_abi::metadata::sys;
use tdx_abi::status::{OperandId, StatusCode};
use tdx_host::cpu::CpuSlot;
use tdx_host::error::find;
use tdx_host::seamcall::SeamcallCause;
use tdx_host::sync::RawLock;
use tdx_host::traits::{CpuNumber, PackageId};
use tdx_host::{HostError, HostState, Lifecycle, SuspendKind};

use crate::fake::{Bench, Event, Fake, GIB, MIB, on, range};

fn offline(bench: &Bench, cpu: u32) -> Result<(), HostError> {
    bench.host.may_go_offline(&*bench.fake, CpuNumber(cpu))?;
    on(cpu, |pin| bench.host.cpu_goes_offline(&*bench.fake, pin))?;
    let mut state = bench.fake.state();
    state.online[cpu as usize] = false;
    assert!(!state.in_vmx[cpu as usize]);
    Ok(())
}

fn online(bench: &Bench, cpu: u32) -> Result<(), HostError> {
    bench.fake.state().online[cpu as usize] = true;
    on(cpu, |pin| bench.host.cpu_came_online(&*bench.fake, pin))
}

#[test]
fn without_a_guest_keyid_any_cpu_may_go() {
    let bench = Bench::up(Fake::new(2));
    for cpu in 0..4 {
        assert_eq!(offline(&bench, cpu), Ok(()));
    }
    assert_eq!(offline(&bench, 0), Err(HostError::CpuOffline { cpu: CpuNumber(0) }));
    assert_eq!(offline(&bench, 4), Err(HostError::UnknownCpu { cpu: CpuNumber(4) }));
}

#[test]
fn with_a_guest_keyid_the_last_cpu_of_a_package_must_stay() {
    let bench = Bench::up(Fake::new(2));
    let key = bench.host.keyids().allocate().unwrap();
    assert_eq!(offline(&bench, 2), Ok(()));
    let error = offline(&bench, 3).unwrap_err();
    assert_eq!(error, HostError::LastCpuOfPackage { cpu: CpuNumber(3), package: PackageId(1) });
    assert_eq!(error.errno(), tdx_host::Errno::EBUSY);
    // Both ways out.
    assert_eq!(online(&bench, 2), Ok(()));
    assert_eq!(offline(&bench, 3), Ok(()));
    bench.host.keyids().free(key).unwrap();
    assert_eq!(offline(&bench, 2), Ok(()));
}

#[test]
fn a_cpu_that_goes_writes_its_caches_back_if_the_module_used_them() {
    let bench = Bench::up(Fake::new(2));
    let before = bench.fake.state().wbinvd.clone();
    offline(&bench, 1).unwrap();
    assert_eq!(bench.fake.state().wbinvd[1], before[1] + 1);
    // Back and away again without a call to the module in between.
    online(&bench, 1).unwrap();
    assert!(bench.fake.state().in_vmx[1]);
    offline(&bench, 1).unwrap();
    assert_eq!(bench.fake.state().wbinvd[1], before[1] + 1);
}

#[test]
fn an_initialised_lp_is_not_initialised_again() {
    let bench = Bench::up(Fake::new(1));
    offline(&bench, 1).unwrap();
    online(&bench, 1).unwrap();
    assert_eq!(bench.fake.calls_of(SeamcallLeaf::SYS_LP_INIT), 2);
    assert_eq!(bench.fake.calls_of(SeamcallLeaf::SYS_INIT), 1);
}

#[test]
fn a_cpu_that_missed_lp_init_cannot_come_later() {
    let fake = Fake::new(2);
    fake.state().online[3] = false;
    fake.script(SeamcallLeaf::SYS_LP_INIT, 3, 9, StatusCode::SYS_LP_INIT_NOT_PENDING);
    let bench = Bench::up(fake);
    let error = online(&bench, 3).unwrap_err();
    assert_eq!(error.name(), "lp-init-failed");
    assert!(!bench.fake.state().in_vmx[3], "VMX is as before");
    assert!(!bench.host.cpus()[3].cache_incoherent(), "the refused call may have left private lines");
}

#[test]
fn only_suspend_to_idle_goes_with_an_initialised_module() {
    let mut bench = Bench::new(Fake::new(1));
    for kind in [SuspendKind::S2idle, SuspendKind::S3, SuspendKind::Hibernate] {
        assert_eq!(bench.host.may_suspend(kind), Ok(()));
    }
    bench.bring_up().unwrap();
    assert_eq!(bench.host.may_suspend(SuspendKind::S2idle), Ok(()));
    for kind in [SuspendKind::S3, SuspendKind::Hibernate] {
        assert_eq!(bench.host.may_suspend(kind), Err(HostError::SuspendRefused { kind }));
    }
    assert_eq!(bench.fake.cpus_in_vmx(), 2, "VMX stays on");
    bench.host.crash();
    assert_eq!(bench.host.may_suspend(SuspendKind::S2idle), Err(HostError::GoingDown));
}

#[test]
fn shutdown_disables_the_module_and_takes_everything_back() {
    for erratum in [false, true] {
        let fake = Fake::new(2);
        fake.state().erratum = erratum;
        fake.script(SeamcallLeaf::SYS_DISABLE, 0, 3, StatusCode::INTERRUPTED_RESUMABLE);
        fake.script(SeamcallLeaf::SYS_DISABLE, 3, 2, StatusCode::SYS_BUSY);
        let mut bench = Bench::up(fake);
        let pamt = bench.memory.tdmrs.pamt_bytes();
        assert_eq!(bench.host.shutdown(&*bench.fake, &mut bench.memory), Ok(()));
        assert_eq!(bench.host.lifecycle(), Lifecycle::ShutDown);
        assert_eq!(bench.fake.calls_of(SeamcallLeaf::SYS_DISABLE), 6);
        // Before the keys, and at the end.
        assert_eq!(bench.fake.state().wbinvd, [2; 4]);
        let cleared: u64 = bench.fake.state().cleared.iter().map(|range| range.size()).sum();
        assert_eq!(cleared, if erratum { pamt } else { 0 });
        bench.assert_unwound("shutdown");
        assert_eq!(bench.host.shutdown(&*bench.fake, &mut bench.memory), Err(HostError::GoingDown));
    }
}

#[test]
fn shutdown_disables_then_writes_back_then_leaves_vmx_then_reclaims() {
    let fake = Fake::new(2);
    fake.state().erratum = true;
    let mut bench = Bench::up(fake);
    bench.fake.state().events.clear();
    bench.host.shutdown(&*bench.fake, &mut bench.memory).unwrap();
    let mut expected = vec![Event::Seamcall(LeafWord::module(SeamcallLeaf::SYS_DISABLE, 0))];
    for cpu in (0..4).map(CpuNumber) {
        expected.extend([Event::WriteBack(cpu), Event::Vmxoff(cpu)]);
    }
    let events = bench.fake.state().events.clone();
    let (before, pages) = events.split_at(expected.len());
    assert_eq!(before, expected);
    assert!(!pages.is_empty() && pages.iter().all(|event| *event == Event::Reclaim), "{pages:?}");
}

#[test]
fn a_cpu_without_dirty_lines_is_not_written_back_at_shutdown() {
    let mut bench = Bench::up(Fake::new(2));
    offline(&bench, 1).unwrap();
    // Back without a call to the module.
    online(&bench, 1).unwrap();
    let before = bench.fake.state().wbinvd.clone();
    bench.host.shutdown(&*bench.fake, &mut bench.memory).unwrap();
    let after = bench.fake.state().wbinvd.clone();
    let more: Vec<u64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    assert_eq!(more, [1, 0, 1, 1]);
}

#[test]
fn a_module_that_cannot_be_disabled_keeps_its_pages_and_does_not_stop_the_shutdown() {
    let fake = Fake::new(1);
    let unknown = StatusCode::OPERAND_INVALID.with_operand(OperandId::RAX);
    fake.script(SeamcallLeaf::SYS_DISABLE, 0, 9, unknown);
    let mut bench = Bench::up(fake);
    let pamt = bench.memory.tdmrs.pamt_bytes();
    assert_eq!(bench.host.shutdown(&*bench.fake, &mut bench.memory), Ok(()));
    assert_eq!(bench.fake.cpus_in_vmx(), 0);
    assert_eq!(bench.fake.free_bytes() + pamt, bench.free_at_start);
    let (sentence, _) = find("disable-failed").unwrap().template.split_once("{error}").unwrap();
    assert!(bench.fake.state().lines.iter().any(|(_, line)| line.starts_with(sentence)));
    // The pages are lost with the storage, and counted.
    let fake = Arc::clone(&bench.fake);
    drop(bench);
    assert_eq!(fake.leaked_pages(), pamt / 4096);
}

#[test]
fn a_host_that_never_came_up_shuts_down_without_a_call() {
    let mut bench = Bench::new(Fake::new(1));
    assert_eq!(bench.host.shutdown(&*bench.fake, &mut bench.memory), Ok(()));
    assert!(bench.fake.state().calls.is_empty());
    assert_eq!(bench.bring_up(), Err(HostError::GoingDown));
}

#[test]
fn after_a_crash_no_call_is_made() {
    let bench = Bench::up(Fake::new(2));
    let client = bench.host.vmx_clients().register().unwrap();
    bench.host.crash_everywhere(&*bench.fake);
    assert_eq!(bench.fake.cpus_in_vmx(), 0);
    assert!(bench.fake.state().vmxe.iter().all(|on| !on));
    let calls = bench.fake.state().calls.len();
    let port = bench.host.port(&*bench.fake);
    let error = on(0, |pin| port.sys_rd(pin, sys::MINOR_VERSION)).unwrap_err();
    assert_eq!(error.cause, SeamcallCause::GoingDown);
    let info = bench.host.seamldr().info(&*bench.fake, &port);
    assert_eq!(info, Err(HostError::GoingDown));
    let vmx = bench.host.vmx(&*bench.fake);
    assert_eq!(on(0, |pin| vmx.get(pin, client)), Err(HostError::GoingDown));
    assert_eq!(bench.host.ready(), Err(HostError::GoingDown));
    assert_eq!(bench.fake.state().calls.len(), calls);
    assert_eq!(bench.fake.leaked_pages(), 0);
}

#[test]
fn after_a_crash_nothing_comes_online() {
    let bench = Bench::up(Fake::new(2));
    let client = bench.host.vmx_clients().register().unwrap();
    on(1, |pin| bench.host.vmx(&*bench.fake).get(pin, client)).unwrap();
    offline(&bench, 1).unwrap();
    bench.host.crash_everywhere(&*bench.fake);
    let calls = bench.fake.state().calls.len();
    assert_eq!(online(&bench, 1), Err(HostError::GoingDown));
    assert!(!bench.fake.state().in_vmx[1]);
    let known = range(GIB, GIB + MIB);
    assert_eq!(bench.host.memory_may_go_online(&bench.memory, known), Err(HostError::GoingDown));
    assert_eq!(bench.fake.state().calls.len(), calls);
}

#[test]
fn a_crash_in_the_middle_of_a_shutdown_has_the_last_word() {
    let mut bench = Bench::up(Fake::new(1));
    let (host, fake) = (Arc::clone(&bench.host), Arc::clone(&bench.fake));
    bench.fake.crash_in(SeamcallLeaf::SYS_DISABLE, move || host.crash_everywhere(&*fake));
    assert_eq!(bench.host.shutdown(&*bench.fake, &mut bench.memory), Err(HostError::GoingDown));
    assert_eq!(bench.host.lifecycle(), Lifecycle::Crashed);
    assert!(!bench.memory.tdmrs.is_empty(), "pages stay with the module");
    // The other way round the crash has it too.
    let mut bench = Bench::up(Fake::new(1));
    bench.host.shutdown(&*bench.fake, &mut bench.memory).unwrap();
    bench.host.crash();
    assert_eq!(bench.host.lifecycle(), Lifecycle::Crashed);
}

/// A lock whose holder never comes back.
struct Held;

impl RawLock for Held {
    fn lock(&self) {
        panic!("waits for ever");
    }
    fn unlock(&self) {}
}

#[test]
fn after_a_crash_the_loader_is_not_waited_for() {
    let fake = Fake::new(1);
    let host = HostState::new(vec![CpuSlot::new(), CpuSlot::new()], Held);
    host.crash();
    let info = host.seamldr().info(&fake, &host.port(&fake));
    assert_eq!(info, Err(HostError::GoingDown));
}

#[test]
fn after_shutdown_a_new_boot_comes_up() {
    let mut bench = Bench::up(Fake::new(2));
    bench.host.shutdown(&*bench.fake, &mut bench.memory).unwrap();
    let fake = Arc::into_inner(bench.fake).unwrap();
    fake.state().calls.clear();
    let again = Bench::up(fake);
    assert_eq!(again.host.lifecycle(), Lifecycle::Ready);
}
