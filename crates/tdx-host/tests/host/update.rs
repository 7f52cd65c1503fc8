//! Update of the module: what it does, in which order, and what others see of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use tdx_abi::leaf::{LeafWord, SeamcallLeaf, SeamldrLeaf};
use tdx_abi::metadata::sys;
use tdx_abi::seamldr::Version;
use tdx_host::cpu::CpuSlot;
use tdx_host::seamcall::SeamcallCause;
use tdx_host::traits::CpuNumber;
use tdx_host::{HostError, Lifecycle, UpdateObserver, UpdateOptions, UpdatePhase, UpdateReport};
use tdx_image::Image;

use crate::fake::{Bench, Fake, on};
use crate::image::{Made, made};

pub(crate) fn install() -> LeafWord {
    LeafWord::seamldr(SeamldrLeaf::INSTALL)
}

pub(crate) fn leaf(leaf: SeamcallLeaf) -> LeafWord {
    LeafWord::module(leaf, 0)
}

pub(crate) fn update_with(
    bench: &Bench,
    what: Made,
    options: &UpdateOptions,
    observer: &dyn UpdateObserver,
) -> Result<UpdateReport, HostError> {
    let file = made(what);
    let image = Image::parse(&file).unwrap();
    let free = bench.fake.free_bytes();
    let result = bench.host.update(&*bench.fake, &image, options, observer);
    assert_eq!(bench.fake.free_bytes(), free, "the pages of the image are given back");
    assert_eq!(bench.fake.leaked_pages(), 0);
    result
}

pub(crate) fn update(bench: &Bench) -> Result<UpdateReport, HostError> {
    update_with(bench, Made::default(), &UpdateOptions::default(), &())
}

/// Every refusal of a preflight by its name.
pub(crate) fn refusals(bench: &Bench, what: Made) -> Vec<&'static str> {
    let file = made(what);
    let mut names = Vec::new();
    let options = UpdateOptions::default();
    let image = Image::parse(&file).unwrap();
    let first = bench.host.preflight(&*bench.fake, &image, &options, &mut |error| names.push(error.name()));
    assert_eq!(first.err().map(|error| error.name()), names.first().copied());
    names
}

pub(crate) fn touched(bench: &Bench) -> bool {
    let state = bench.fake.state();
    let shut = leaf(SeamcallLeaf::SYS_SHUTDOWN);
    state.calls.iter().any(|call| call.1 == shut || call.1 == install())
}

pub(crate) fn version(bench: &Bench) -> Option<Version> {
    bench.host.sysinfo().map(|info| info.version())
}

pub(crate) const OLD: Version = Version::new(1, 5, 6);
pub(crate) const NEW: Version = Version::new(1, 5, 8);

/// What a CPU does that INIT woke up.
pub(crate) fn comes_online(bench: &Bench, cpu: u32) -> Result<(), HostError> {
    bench.fake.state().vmxe[cpu as usize] = false;
    bench.fake.state().in_vmx[cpu as usize] = false;
    on(cpu, |pin| bench.host.cpu_came_online(&*bench.fake, pin))
}

/// Does something at the beginning of a phase.
pub(crate) struct At<F>(pub(crate) UpdatePhase, pub(crate) Mutex<F>);

impl<F: FnMut() + Send> UpdateObserver for At<F> {
    fn phase_started(&self, phase: UpdatePhase) {
        if phase == self.0 {
            (self.1.lock().unwrap())();
        }
    }
}

#[test]
fn an_update_replaces_the_module_and_reads_its_version_alone() {
    for threads in [false, true] {
        let fake = Fake::new(2);
        fake.state().loader.next_fields.insert(sys::MAX_TDMRS.0, 32);
        let bench = Bench::up(if threads { fake.threaded() } else { fake });
        let report = update(&bench).unwrap();
        assert_eq!((report.from, report.to, report.cpus), (OLD, NEW, 4));
        assert_eq!((report.was_down, report.install_sessions), (false, 1));
        assert_eq!(report.remaining_updates, Some(58));
        assert_eq!(bench.host.lifecycle(), Lifecycle::Ready);
        assert_eq!(bench.host.update_failure(), None);
        let info = bench.host.sysinfo().unwrap();
        assert_eq!((info.version(), info.build_num(), info.max_tdmrs()), (NEW, Some(790), 64));
        assert!(bench.host.cpus().iter().all(CpuSlot::lp_initialised));
        let state = bench.fake.state();
        let calls = |word: LeafWord| state.calls.iter().filter(|call| call.1 == word).count();
        assert_eq!(calls(install()), 4);
        assert_eq!(calls(leaf(SeamcallLeaf::SYS_INIT)), 2);
        assert_eq!(calls(leaf(SeamcallLeaf::SYS_LP_INIT)), 8);
        assert_eq!(calls(leaf(SeamcallLeaf::SYS_UPDATE)), 1);
        assert_eq!(calls(leaf(SeamcallLeaf::SYS_CONFIG)), 1);
        assert_eq!(state.loader.handoff, Some(1), "MODULE_HV");
        drop(state);
        // And again, from the new one on.
        assert_eq!(update(&bench).unwrap().from, NEW);
    }
}

#[test]
fn the_loader_gets_the_sigstruct_and_every_page_of_the_module() {
    for largest in [u64::MAX, 70 * 4096, 16 * 4096] {
        let bench = Bench::up(Fake::new(1));
        bench.fake.state().largest_allocation = largest;
        let what = Made { pages: 496, ..Made::default() };
        update_with(&bench, what, &UpdateOptions::default(), &()).unwrap();
        let file = made(what);
        let state = bench.fake.state();
        assert_eq!(state.loader.sigstruct, file[4096..8192]);
        assert!(state.loader.installed == file[8192..], "{largest}");
    }
}

#[test]
fn phases_are_announced_before_their_first_call() {
    #[derive(Default)]
    struct Seen(Mutex<Vec<(UpdatePhase, usize)>>, Option<Arc<Fake>>);
    impl UpdateObserver for Seen {
        fn phase_started(&self, phase: UpdatePhase) {
            let calls = self.1.as_ref().unwrap().state().calls.len();
            self.0.lock().unwrap().push((phase, calls));
        }
    }
    for threads in [false, true] {
        let fake = Fake::new(2);
        let bench = Bench::up(if threads { fake.threaded() } else { fake });
        let seen = Seen(Mutex::default(), Some(Arc::clone(&bench.fake)));
        update_with(&bench, Made::default(), &UpdateOptions::default(), &seen).unwrap();
        let seen = seen.0.into_inner().unwrap();
        assert_eq!(seen.iter().map(|(phase, _)| *phase).collect::<Vec<_>>(), UpdatePhase::ALL);
        let state = bench.fake.state();
        let next = |phase: usize| state.calls[seen[phase].1].1;
        assert_eq!(next(0), leaf(SeamcallLeaf::SYS_RD));
        assert_eq!(next(1), install());
        assert_eq!(next(2), leaf(SeamcallLeaf::SYS_INIT));
        assert_eq!(next(3), leaf(SeamcallLeaf::SYS_UPDATE));
    }
}

#[test]
fn a_crash_in_any_phase_ends_the_update_without_another_call() {
    for phase in UpdatePhase::ALL {
        for threads in [false, true] {
            let fake = Fake::new(2);
            let bench = Bench::up(if threads { fake.threaded() } else { fake });
            let calls = Mutex::new(0);
            let crash = At(
                phase,
                Mutex::new(|| {
                    bench.host.crash();
                    *calls.lock().unwrap() = bench.fake.state().calls.len();
                }),
            );
            let result = update_with(&bench, Made::default(), &UpdateOptions::default(), &crash);
            assert_eq!(result, Err(HostError::GoingDown));
            assert_eq!(bench.fake.state().calls.len(), *calls.lock().unwrap());
            assert_eq!(bench.host.lifecycle(), Lifecycle::Crashed);
            assert_eq!(bench.host.ready(), Err(HostError::GoingDown));
            let failure = bench.host.update_failure().unwrap();
            assert_eq!((failure.phase, failure.error), (phase, HostError::GoingDown));
            assert_eq!(update(&bench), Err(HostError::GoingDown));
        }
    }
}

#[test]
fn the_old_version_is_never_read_behind_the_shutdown() {
    for phase in UpdatePhase::ALL {
        let bench = Bench::up(Fake::new(1));
        let seen = Mutex::new(Vec::new());
        let look = At(
            phase,
            Mutex::new(|| {
                seen.lock().unwrap().push((version(&bench), bench.host.ready(), bench.host.lifecycle()));
            }),
        );
        update_with(&bench, Made::default(), &UpdateOptions::default(), &look).unwrap();
        let version = (phase == UpdatePhase::Shutdown).then_some(OLD);
        let expected = (version, Err(HostError::UpdateRunning), Lifecycle::Updating);
        assert_eq!(*seen.lock().unwrap(), [expected]);
    }
}

#[test]
fn during_an_update_nothing_else_begins() {
    let bench = Bench::up(Fake::new(1));
    let file = made(Made::default());
    let image = Image::parse(&file).unwrap();
    let options = UpdateOptions::default();
    let seen = Mutex::new(Vec::new());
    let second = At(
        UpdatePhase::Install,
        Mutex::new(|| {
            let mut memory = tdx_host::HostMemory::new(Vec::new());
            let tried = [
                bench.host.update(&*bench.fake, &image, &options, &()).map(|_| ()),
                bench.host.shutdown(&*bench.fake, &mut memory),
                bench.host.may_go_offline(&*bench.fake, CpuNumber(1)),
                comes_online(&bench, 1),
            ];
            seen.lock().unwrap().extend(tried);
            assert_eq!(refusals(&bench, Made::default()), ["update-running"]);
            let suspend = bench.host.may_suspend(tdx_host::SuspendKind::S3);
            seen.lock().unwrap().push(suspend.map_err(|_| HostError::UpdateRunning));
            let port = bench.host.port(&*bench.fake);
            let call = on(0, |pin| port.sys_rd(pin, sys::MINOR_VERSION)).unwrap_err();
            assert_eq!(call.cause, SeamcallCause::Down);
        }),
    );
    // The CPU that came in vain left VMX, so that it fails later.
    let result = bench.host.update(&*bench.fake, &image, &options, &second);
    assert!(result.is_err());
    assert_eq!(*seen.lock().unwrap(), [Err(HostError::UpdateRunning); 5]);
}

#[test]
fn an_observer_that_panics_leaves_no_update_under_way() {
    for phase in UpdatePhase::ALL {
        let bench = Bench::up(Fake::new(1));
        let file = made(Made::default());
        let image = Image::parse(&file).unwrap();
        let panics = At(phase, Mutex::new(|| panic!("as the test wants it")));
        let run = |observer: &dyn UpdateObserver| {
            bench.host.update(&*bench.fake, &image, &UpdateOptions::default(), observer)
        };
        assert!(catch_unwind(AssertUnwindSafe(|| run(&panics))).is_err());
        assert!(!bench.host.update_is_running());
        let call = on(0, |pin| bench.host.port(&*bench.fake).sys_rd(pin, sys::MINOR_VERSION));
        if phase == UpdatePhase::Shutdown {
            assert_eq!((bench.host.lifecycle(), version(&bench)), (Lifecycle::Ready, Some(OLD)));
            assert_eq!(call, Ok(5), "the module was not asked to go");
            assert_eq!(run(&()).map(|report| report.to), Ok(NEW));
        } else {
            assert_eq!((bench.host.lifecycle(), version(&bench)), (Lifecycle::Gone, None));
            assert_eq!(call.unwrap_err().cause, SeamcallCause::Gone);
            assert_eq!(run(&()), Err(HostError::ModuleGone));
        }
    }
}

#[test]
fn phases_have_names() {
    assert_eq!(UpdatePhase::ALL.map(UpdatePhase::name), ["shutdown", "install", "init", "update"]);
}
