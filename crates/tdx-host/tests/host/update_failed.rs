//! What a failure behind the shutdown of the module leaves.

use tdx_abi::leaf::{LeafWord, SeamcallLeaf};
use tdx_abi::metadata::sys;
use tdx_abi::status::{SeamldrStatus, StatusCode};
use tdx_host::seamcall::SeamcallCause;
use tdx_host::traits::{CpuNumber, SeamcallFault};
use tdx_host::update::INSTALL_TRIES;
use tdx_host::{Errno, HostError, Lifecycle, UpdateOptions, UpdatePhase};

use crate::fake::{Bench, Fake, Outcome, on};
use crate::image::Made;
use crate::update::*;

/// Asserts what a host without a module says, and that it calls none.
fn assert_named(bench: &mut Bench, lifecycle: Lifecycle, name: &str) {
    assert_eq!(bench.host.lifecycle(), lifecycle);
    assert_eq!(version(bench), None);
    let calls = bench.fake.state().calls.len();
    let error = on(1, |pin| bench.host.port(&*bench.fake).sys_rd(pin, sys::MINOR_VERSION)).unwrap_err();
    let (cause, errno) = match lifecycle {
        Lifecycle::Down => (SeamcallCause::Down, Errno::EBUSY),
        _ => (SeamcallCause::Gone, Errno::ENODEV),
    };
    assert_eq!((error.cause, error.errno()), (cause, errno));
    assert_eq!(bench.host.ready().unwrap_err().name(), name);
    assert_eq!(bench.host.ready().unwrap_err().errno(), errno);
    let came = comes_online(bench, 1);
    assert_eq!(came.unwrap_err().name(), name);
    assert_eq!(bench.fake.state().calls.len(), calls, "the module is not called");
    assert_eq!(bench.bring_up(), Err(HostError::AlreadyTried));
}

/// Which call fails on which of four CPUs, how, and what is left.
type Failing = (LeafWord, u64, Outcome, u64, UpdatePhase, u32, &'static str, Lifecycle);

#[test]
fn a_failure_in_each_phase_on_each_cpu_is_named_and_kept() {
    let bad = SeamldrStatus::EBADSIG;
    let mut cases: Vec<Failing> = Vec::new();
    for cpu in [0, 1, 3] {
        let (at, phase) = (u64::from(cpu), UpdatePhase::Install);
        let down = ("install-failed-recoverable", Lifecycle::Down);
        let gone = ("install-failed", Lifecycle::Gone);
        cases.push((install(), at, bad.into(), 0, phase, cpu, down.0, down.1));
        cases.push((install(), at, SeamcallFault::VmFailInvalid.into(), 0, phase, cpu, down.0, down.1));
        cases.push((install(), at, SeamldrStatus::EBADHASH.into(), 1, phase, cpu, gone.0, gone.1));
        cases.push((install(), at, SeamldrStatus::ENOENTROPY.into(), 1, phase, cpu, gone.0, gone.1));
        cases.push((install(), at, SeamldrStatus::EUNSPECERR.into(), 0, phase, cpu, gone.0, gone.1));
        let status = StatusCode::SYS_BUSY.plain();
        let lp_init = leaf(SeamcallLeaf::SYS_LP_INIT);
        let fault = SeamcallFault::VmFailInvalid;
        let init = ("update-init-failed", Lifecycle::Gone);
        cases.push((lp_init, at, fault.into(), 0, UpdatePhase::Init, cpu, init.0, init.1));
        assert!(status.is_error());
    }
    let no = Outcome::Status(StatusCode::INCORRECT_MSR_VALUE.plain());
    let none = Lifecycle::Gone;
    let init = UpdatePhase::Init;
    cases.push((leaf(SeamcallLeaf::SYS_INIT), 0, no, 0, init, 0, "update-init-failed", none));
    let refused = Outcome::Status(StatusCode::SYS_INVALID_HANDOFF.plain());
    let last = UpdatePhase::Update;
    cases.push((leaf(SeamcallLeaf::SYS_UPDATE), 0, refused, 0, last, 0, "handoff-refused", none));
    let unread = Outcome::Status(StatusCode::SYS_NOT_READY.plain());
    cases.push((leaf(SeamcallLeaf::SYS_RD), 2, unread, 0, last, 0, "metadata-read-failed", none));
    for threads in [false, true] {
        for &(word, after, outcome, rdx, phase, cpu, name, lifecycle) in &cases {
            if threads && cpu != 0 {
                // With threads the order of the CPUs is theirs.
                continue;
            }
            let fake = Fake::new(2);
            let mut bench = Bench::up(if threads { fake.threaded() } else { fake });
            bench.fake.fail_once(word, after, outcome, rdx);
            let error = update(&bench).unwrap_err();
            assert_eq!(error.name(), name);
            let failure = bench.host.update_failure().unwrap();
            assert_eq!((failure.phase, failure.error), (phase, error));
            if !threads {
                assert_eq!(failure.cpu, CpuNumber(cpu));
            }
            assert!(bench.fake.state().lines.iter().any(|(_, line)| line.contains(phase.name())));
            let word = if lifecycle == Lifecycle::Down { "module-down" } else { "module-gone" };
            assert_named(&mut bench, lifecycle, word);
            if lifecycle == Lifecycle::Gone {
                let calls = bench.fake.state().calls.len();
                assert_eq!(update(&bench), Err(HostError::ModuleGone));
                assert_eq!(bench.fake.state().calls.len(), calls);
            }
        }
    }
}

#[test]
fn a_refused_image_leaves_the_way_open_for_a_good_one() {
    for (sessions, threads) in [(1, false), (3, false), (1, true)] {
        let fake = Fake::new(2);
        let mut bench = Bench::up(if threads { fake.threaded() } else { fake });
        bench.fake.state().loader.ends = vec![(SeamldrStatus::EBADSIG, 0); sessions];
        for _ in 0..sessions {
            let error = update(&bench).unwrap_err();
            let HostError::InstallFailedRecoverable { error: call, .. } = error else { panic!("{error}") };
            assert_eq!(call.cause, SeamcallCause::Loader(SeamldrStatus::EBADSIG));
            bench.fake.state().online.iter().for_each(|online| assert!(online));
            assert_eq!(bench.host.lifecycle(), Lifecycle::Down);
            assert_eq!(refusals(&bench, Made { svn: [4, 1], ..Made::default() }), ["image-svn-older"]);
        }
        let calls = bench.fake.calls_of(SeamcallLeaf::SYS_SHUTDOWN);
        let report = update(&bench).unwrap();
        assert_eq!((report.from, report.to, report.was_down), (OLD, NEW, true));
        assert_eq!(bench.fake.calls_of(SeamcallLeaf::SYS_SHUTDOWN), calls, "not a second time");
        assert_eq!((bench.host.lifecycle(), version(&bench)), (Lifecycle::Ready, Some(NEW)));
        assert_eq!(bench.host.update_failure(), None);
        assert_eq!(bench.host.shutdown(&*bench.fake, &mut bench.memory), Ok(()));
        bench.assert_unwound("shutdown behind an update");
    }
}

#[test]
fn an_image_is_judged_by_the_hand_off_of_the_module_that_was_there_last() {
    let bench = Bench::up(Fake::new(1));
    bench.fake.state().loader.next_fields.insert(sys::MODULE_HV.0, 3);
    update(&bench).unwrap();
    let newer = Made { handoff: [2, 3], ..Made::default() };
    assert_eq!(refusals(&bench, Made::default()), ["image-handoff-differs"]);
    assert_eq!(refusals(&bench, newer), Vec::<&str>::new());
    // Also once it is down.
    bench.fake.state().loader.ends = vec![(SeamldrStatus::EBADSIG, 0)];
    update_with(&bench, newer, &UpdateOptions::default(), &()).unwrap_err();
    assert_eq!(bench.fake.state().loader.handoff, Some(3));
    let error = update(&bench).unwrap_err();
    assert_eq!(error, HostError::ImageHandoffDiffers { version: 3, oldest: 0, newest: 1 });
    assert!(update_with(&bench, newer, &UpdateOptions::default(), &()).is_ok());
}

#[test]
fn a_session_that_broke_off_is_gone_on_with() {
    let bench = Bench::up(Fake::new(2));
    bench.fake.fail_once(install(), 2, SeamcallFault::VmFailInvalid, 0);
    assert_eq!(update(&bench).unwrap_err().name(), "install-failed-recoverable");
    assert_eq!(bench.fake.state().loader.session.len(), 2);
    // The loader would refuse those that it has counted.
    assert_eq!(update(&bench).unwrap().to, NEW);
    let state = bench.fake.state();
    let on: Vec<u32> = state.calls.iter().filter(|call| call.1 == install()).map(|call| call.0.0).collect();
    assert_eq!(on, [0, 1, 2, 2, 3]);
}

#[test]
fn on_threads_a_cpu_that_comes_late_does_not_begin_another_session() {
    for _ in 0..100 {
        let bench = Bench::up(Fake::new(2).threaded());
        bench.fake.fail_once(install(), 0, SeamcallFault::VmFailInvalid, 0);
        assert_eq!(update(&bench).unwrap_err().name(), "install-failed-recoverable");
        assert_eq!(update(&bench).map(|report| report.to), Ok(NEW));
        let state = bench.fake.state();
        assert_eq!(state.calls.iter().filter(|call| call.1 == install()).count(), 5);
        assert!(state.loader.session.is_empty());
    }
}

#[test]
fn a_loader_that_counted_more_than_the_host_knows_is_gone_on_with() {
    let bench = Bench::up(Fake::new(2));
    // The last call fails before P-SEAMLDR has seen it, in its own words.
    bench.fake.fail_once(install(), 3, SeamldrStatus::EBADSIG, 0);
    assert_eq!(update(&bench).unwrap_err().name(), "install-failed-recoverable");
    assert_eq!(bench.fake.state().loader.session.len(), 3);
    assert_eq!(update(&bench).unwrap().to, NEW);
}

#[test]
fn a_loader_that_is_busy_with_something_else_is_no_success() {
    let bench = Bench::up(Fake::new(2));
    for _ in 0..2 {
        for cpu in 0..4 {
            bench.fake.fail_once(install(), cpu, SeamldrStatus::EBADCALL, 0);
        }
        let HostError::InstallFailedRecoverable { cpu, error } = update(&bench).unwrap_err() else {
            panic!()
        };
        assert_eq!(cpu, CpuNumber(3));
        assert_eq!(error.cause, SeamcallCause::Loader(SeamldrStatus::EBADCALL));
    }
    assert!(update(&bench).is_ok());
}

#[test]
fn without_entropy_the_session_begins_again_on_all_cpus() {
    let tries = INSTALL_TRIES as usize;
    for (failures, works) in [(1, true), (tries - 1, true), (tries, false)] {
        for threads in [false, true] {
            let fake = Fake::new(2);
            let bench = Bench::up(if threads { fake.threaded() } else { fake });
            bench.fake.state().loader.ends = vec![(SeamldrStatus::ENOENTROPY, 0); failures];
            let result = update(&bench);
            let sessions = if works { failures + 1 } else { tries };
            let calls = bench.fake.state().calls.iter().filter(|call| call.1 == install()).count();
            assert_eq!(calls, sessions * 4);
            if works {
                assert_eq!(result.unwrap().install_sessions as usize, sessions);
            } else {
                assert_eq!(result.unwrap_err().name(), "install-failed-recoverable");
                assert_eq!(bench.host.lifecycle(), Lifecycle::Down);
                assert!(update(&bench).is_ok());
            }
        }
    }
}

#[test]
fn a_module_that_is_down_ends_without_a_call() {
    for (ends, name) in [(0, "module-down"), (1, "module-gone")] {
        let mut bench = Bench::up(Fake::new(1));
        bench.fake.state().loader.ends = vec![(SeamldrStatus::EBADHASH, ends)];
        update(&bench).unwrap_err();
        assert_eq!(bench.host.ready().unwrap_err().name(), name);
        let suspend = bench.host.may_suspend(tdx_host::SuspendKind::S3);
        assert_eq!(suspend.unwrap_err().name(), "suspend-refused");
        let offline = bench.host.may_go_offline(&*bench.fake, CpuNumber(1));
        assert_eq!(offline.is_ok(), name == "module-gone", "a module that is down needs every CPU");
        let calls = bench.fake.state().calls.len();
        let pamt = bench.memory.tdmrs.pamt_bytes();
        assert_eq!(bench.host.shutdown(&*bench.fake, &mut bench.memory), Ok(()));
        assert_eq!(bench.fake.state().calls.len(), calls);
        assert_eq!(bench.fake.cpus_in_vmx(), 0);
        assert_eq!(bench.host.lifecycle(), Lifecycle::ShutDown);
        assert_eq!(bench.fake.free_bytes() + pamt, bench.free_at_start, "its pages stay with it");
        assert_eq!(update(&bench), Err(HostError::GoingDown));
    }
}
