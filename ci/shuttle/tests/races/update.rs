//! An update against everything else that goes on.

use std::sync::atomic::{AtomicU32, Ordering as Plain};

use shuttle::sync::Arc;
use shuttle::thread;
use tdx_abi::leaf::{LeafWord, SeamcallLeaf, SeamldrLeaf};
use tdx_abi::metadata::sys;
use tdx_abi::seamldr::Version;
use tdx_abi::status::{SeamldrStatus, StatusCode};
use tdx_host::device::TdxHostDevice;
use tdx_host::seamcall::{SeamcallCause, SeamcallError};
use tdx_host::sync::{RawLock, Spin};
use tdx_host::sysinfo::SysInfo;
use tdx_host::update::{UpdateOptions, UpdateReport};
use tdx_host::{HostError, Lifecycle};
use tdx_image::Image;
use tdx_races::{Host, Options, Outcome, Platform, VERSION, explore, image};

use crate::NoLock;

const NEXT: Version = Version::new(1, 5, 13);
const AFTER_NEXT: Version = Version::new(1, 5, 16);

/// A machine of two CPUs that is up.
struct Bench<K> {
    platform: Arc<Platform>,
    host: Arc<Host<K>>,
    held: u64,
}

impl<K> Clone for Bench<K> {
    fn clone(&self) -> Self {
        Self { platform: Arc::clone(&self.platform), host: Arc::clone(&self.host), held: self.held }
    }
}

impl<K: RawLock + Default + Send + Sync + 'static> Bench<K> {
    fn on(options: Options) -> Self {
        let platform = Arc::new(Platform::new(2, options));
        let host = Arc::new(platform.host(K::default()));
        let held = platform.held_bytes();
        Self { platform, host, held }
    }

    fn update(&self, to: Version) -> Result<UpdateReport, HostError> {
        let image = Image::parse(image(to)).expect("a sound image");
        self.host.update(&*self.platform, &image, &UpdateOptions::default(), &())
    }

    fn beside<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> R + Send + 'static,
    ) -> thread::JoinHandle<R> {
        let bench = self.clone();
        thread::spawn(move || work(&bench))
    }

    fn use_module(&self, cpu: u32) -> Option<Result<u64, SeamcallError>> {
        self.platform.use_module(&self.host, cpu)
    }

    /// What holds at the end of each run.
    fn settled(&self) {
        self.platform.no_violations();
        assert_eq!(self.platform.held_bytes(), self.held, "pages of the update are given back");
        let serving = self.platform.software(tdx_races::Software::version_in_service);
        match self.host.lifecycle() {
            Lifecycle::Ready => {
                assert_eq!(self.host.sysinfo().map(|info| info.version()), serving, "host and module agree");
                for cpu in 0..2 {
                    assert_eq!(self.use_module(cpu), Some(Ok(1)), "CPU {cpu} reaches the module");
                }
            }
            Lifecycle::Down | Lifecycle::Gone => {
                assert_eq!((self.host.sysinfo(), serving), (None, None), "no module is in service");
                assert!(self.host.update_failure().is_some(), "the failure is kept");
                let knows = |cpu: &usize| self.platform.software(|software| software.knows(*cpu));
                for (cpu, slot) in self.host.cpus().iter().enumerate().filter(|(cpu, _)| !knows(cpu)) {
                    assert!(!slot.lp_initialised(), "no module knows CPU {cpu}");
                }
            }
            Lifecycle::Crashed | Lifecycle::ShutDown => {}
            other => panic!("the host stays {}", other.name()),
        }
    }
}

fn bench() -> Bench<Spin> {
    Bench::on(Options::default())
}

/// The version, if it is that of one module and not a mix of two.
fn whole_version(info: &SysInfo) -> Version {
    let version = info.version();
    assert_eq!(info.field(sys::BUILD_NUM), Some(600 + u64::from(version.update)), "torn: {version}");
    assert_eq!(info.field(sys::BUILD_DATE), Some(20_250_000 + u64::from(version.update)), "torn: {version}");
    version
}

#[test]
fn a_version_is_never_torn_and_never_that_of_a_module_that_was_shut_down() {
    explore(6000, || {
        let bench = bench();
        // Nothing stops this reader, as nothing stops one that is inside when the lockstep begins.
        let reader = bench.beside(|bench| {
            let mut seen = Vec::new();
            for _ in 0..3 {
                let before = bench.platform.software(tdx_races::Software::shutdowns);
                let info = bench.host.sysinfo();
                if let Some(info) = &info {
                    let version = whole_version(info);
                    assert!(before == 0 || version == NEXT, "stale: {version}");
                }
                seen.push(info.map(|info| info.version()));
            }
            seen
        });
        let report = bench.update(NEXT).unwrap();
        assert_eq!((report.from, report.to), (VERSION, NEXT));
        assert_eq!(bench.host.sysinfo().map(|info| whole_version(&info)), Some(NEXT));
        let seen = reader.join().unwrap();
        let order =
            |version: &Option<Version>| version.map_or(1, |version| if version == VERSION { 0 } else { 2 });
        assert!(seen.iter().map(order).is_sorted(), "{seen:?}");
        bench.settled();
    });
}

#[test]
fn the_version_attribute_shows_one_module_or_says_that_an_update_runs() {
    explore(6000, || {
        let bench = bench();
        let device = TdxHostDevice::new();
        device.platform_is_ready();
        device.probe(&bench.host, &*bench.platform).unwrap();
        let reader = bench.beside(move |bench| {
            [(); 3].map(|()| {
                let mut text = [0; 16];
                let read = device.read(&bench.host, &*bench.platform, "version", &mut text);
                read.map(|size| String::from_utf8_lossy(&text[..size]).into_owned())
            })
        });
        bench.update(NEXT).unwrap();
        for read in reader.join().unwrap() {
            match read {
                Ok(text) => {
                    assert!([VERSION, NEXT].iter().any(|version| text == format!("{version}\n")), "{text}");
                }
                Err(error) => assert_eq!(error.name(), "update-running"),
            }
        }
        bench.settled();
    });
}

fn beside_hotplug(options: Options) {
    let bench = Bench::<Spin>::on(options);
    let hotplug = bench.beside(|bench| {
        let gone = bench.platform.cpu_offline(&bench.host, 1);
        let back = bench.platform.cpu_online(&bench.host, 1);
        (gone, back)
    });
    let updated = bench.update(NEXT);
    let changed = hotplug.join().unwrap();
    bench.platform.no_violations();
    assert_eq!(changed, (Ok(()), Ok(())), "the set of CPUs changed within the update");
    match updated {
        Ok(report) => assert_eq!((report.to, report.cpus), (NEXT, 2)),
        Err(error) => {
            assert_eq!(error.name(), "update-cpu-offline", "the set of CPUs changed within the update");
            assert_eq!(bench.platform.software(tdx_races::Software::shutdowns), 0, "nothing was touched");
            UPDATES_REFUSED.fetch_add(1, Plain::Relaxed);
        }
    }
    assert!(bench.platform.software(|software| (0..2).all(|cpu| software.knows(cpu))));
    bench.settled();
}

static UPDATES_REFUSED: AtomicU32 = AtomicU32::new(0);

#[test]
fn a_cpu_that_comes_and_goes_is_known_to_the_new_module_or_the_update_is_refused() {
    explore(9000, || beside_hotplug(Options::default()));
    assert_ne!(UPDATES_REFUSED.load(Plain::Relaxed), 0, "a CPU was offline at times");
}

#[test]
#[should_panic(expected = "the set of CPUs")]
fn a_set_of_cpus_that_is_not_frozen_is_noticed() {
    explore(9000, || beside_hotplug(Options { hotplug_unlocked: true, ..Options::default() }));
}

static TURNED_AWAY: AtomicU32 = AtomicU32::new(0);

#[test]
fn of_two_updates_one_runs_and_the_other_is_told_so() {
    explore(6000, || {
        let bench = bench();
        let other = bench.beside(|bench| bench.update(AFTER_NEXT));
        let first = bench.update(NEXT);
        let second = other.join().unwrap();
        let ended = [first, second].map(|result| result.map(|report| report.to));
        let done = u32::try_from(ended.iter().filter(|result| result.is_ok()).count()).unwrap();
        assert!(done > 0, "{ended:?}");
        for result in ended {
            if let Err(error) = result {
                assert_eq!(error.name(), "update-running");
                TURNED_AWAY.fetch_add(1, Plain::Relaxed);
            }
        }
        assert_eq!(bench.platform.software(tdx_races::Software::installs), done);
        bench.settled();
    });
    assert_ne!(TURNED_AWAY.load(Plain::Relaxed), 0, "they met at times");
}

/// A call that fails, on one CPU or whichever comes first, and what it leaves.
type Failure = (LeafWord, Option<usize>, Outcome, &'static str, Lifecycle);

fn failures() -> [Failure; 7] {
    let module = |leaf| LeafWord::module(leaf, 0);
    let (shutdown, init) = (module(SeamcallLeaf::SYS_SHUTDOWN), module(SeamcallLeaf::SYS_INIT));
    let (lp_init, update) = (module(SeamcallLeaf::SYS_LP_INIT), module(SeamcallLeaf::SYS_UPDATE));
    let install = LeafWord::seamldr(SeamldrLeaf::INSTALL);
    let status = Outcome::Status(StatusCode::SYS_NOT_READY.plain());
    let (kept, gone) = (Lifecycle::Down, Lifecycle::Gone);
    [
        (
            install,
            None,
            Outcome::Session(SeamldrStatus::EBADPARAM, false),
            "install-failed-recoverable",
            kept,
        ),
        (shutdown, None, status, "update-shutdown-refused", Lifecycle::Ready),
        (install, None, Outcome::Session(SeamldrStatus::EBADHASH, true), "install-failed", gone),
        (init, None, status, "update-init-failed", gone),
        (lp_init, Some(0), status, "update-init-failed", gone),
        (lp_init, Some(1), status, "update-init-failed", gone),
        (update, None, status, "handoff-refused", gone),
    ]
}

/// Users on both CPUs while an update runs and ends as `failure` says.
fn beside_users<K: RawLock + Default + Send + Sync + 'static>(options: Options, failure: Option<Failure>) {
    let bench = Bench::<K>::on(options);
    let held = bench.held;
    if let Some((leaf, cpu, outcome, ..)) = failure {
        bench.platform.spoil(leaf, cpu, outcome, 1);
    }
    let users = [0, 1].map(|cpu| bench.beside(move |bench| [(); 2].map(|()| bench.use_module(cpu))));
    let updated = bench.update(NEXT);
    let used = users.map(|user| user.join().unwrap());
    bench.platform.no_violations();
    let (name, lifecycle) = failure.map_or(("", Lifecycle::Ready), |(.., name, lifecycle)| (name, lifecycle));
    assert_eq!(
        updated.map_or_else(|error| error.name(), |_| ""),
        name,
        "out of turn: the update ended otherwise"
    );
    assert_eq!(bench.host.lifecycle(), lifecycle, "after {name}");
    let cause = match lifecycle {
        Lifecycle::Down => Some(SeamcallCause::Down),
        Lifecycle::Gone => Some(SeamcallCause::Gone),
        _ => None,
    };
    for one in used.into_iter().flatten() {
        match one.expect("nobody takes a CPU away") {
            Ok(value) => assert_eq!(value, 1),
            Err(error) => {
                assert_eq!(Some(error.cause), cause, "a user was told of an update that ended in '{name}'");
            }
        }
    }
    if let Some(cause) = cause {
        for cpu in 0..2 {
            assert_eq!(bench.use_module(cpu).unwrap().unwrap_err().cause, cause, "after {name}");
        }
    }
    assert_eq!(bench.platform.held_bytes(), held);
    bench.settled();
}

#[test]
fn users_reach_the_old_module_or_the_new_one() {
    explore(6000, || beside_users::<Spin>(Options::default(), None));
}

#[test]
fn after_a_failure_users_are_told_whether_another_update_may_help() {
    for (index, _) in failures().iter().enumerate() {
        FAILURE.store(u32::try_from(index).unwrap(), Plain::Relaxed);
        explore(1800, || {
            let index = FAILURE.load(Plain::Relaxed) as usize;
            beside_users::<Spin>(Options::default(), failures().get(index).copied());
        });
    }
}

/// The failure of the exploration that runs: its body takes nothing with it.
static FAILURE: AtomicU32 = AtomicU32::new(0);

#[test]
#[should_panic(expected = "a user")]
fn a_lockstep_that_stops_nobody_is_noticed() {
    explore(6000, || {
        beside_users::<Spin>(Options { lockstep_stops_nobody: true, ..Options::default() }, None);
    });
}

#[test]
#[should_panic(expected = "out of turn")]
fn phases_that_do_not_wait_for_each_other_are_noticed() {
    explore(6000, || {
        beside_users::<Spin>(Options { lockstep_without_barrier: true, ..Options::default() }, None);
    });
}

#[test]
#[should_panic(expected = "called P-SEAMLDR while another was inside")]
fn a_loader_without_its_lock_is_noticed() {
    explore(6000, || beside_users::<NoLock>(Options::default(), None));
}

#[test]
fn a_module_that_is_down_comes_back_with_another_update() {
    explore(3000, || {
        let bench = bench();
        let [(leaf, cpu, outcome, name, _), ..] = failures();
        bench.platform.spoil(leaf, cpu, outcome, 1);
        assert_eq!(bench.update(NEXT).unwrap_err().name(), name);
        // Neither way leads out of it.
        let hotplug = bench.beside(|bench| bench.platform.cpu_offline(&bench.host, 1));
        let again = bench.update(AFTER_NEXT);
        match hotplug.join().unwrap() {
            Ok(()) => assert_eq!(bench.platform.cpu_online(&bench.host, 1), Ok(())),
            Err(error) => assert_eq!(error.name(), "module-down"),
        }
        assert_eq!(again.map(|report| (report.to, report.was_down)), Ok((AFTER_NEXT, true)));
        bench.settled();
    });
}

#[test]
fn a_crash_at_any_point_ends_it_all() {
    explore(9000, || {
        let bench = bench();
        let user = bench.beside(|bench| [(); 2].map(|()| bench.use_module(0)));
        let crash = bench.beside(|bench| bench.platform.crash(&bench.host));
        let updated = bench.update(NEXT);
        crash.join().unwrap();
        for one in user.join().unwrap().into_iter().flatten() {
            if let Err(error) = one {
                assert_eq!(error.cause, SeamcallCause::GoingDown);
            }
        }
        if let Err(error) = updated {
            assert_eq!(error, HostError::GoingDown);
        }
        assert_eq!(bench.host.lifecycle(), Lifecycle::Crashed);
        assert_eq!(bench.update(AFTER_NEXT), Err(HostError::GoingDown));
        bench.settled();
    });
}

#[test]
fn a_shutdown_and_an_update_exclude_each_other() {
    explore(4500, || {
        let bench = bench();
        let end = bench.beside(|bench| bench.platform.shut_down(&bench.host));
        let updated = bench.update(NEXT).map(|report| report.to);
        match end.join().unwrap() {
            Ok(()) => {
                assert!(
                    matches!(updated, Ok(NEXT) | Err(HostError::GoingDown | HostError::UpdateRunning)),
                    "{updated:?}"
                );
                assert_eq!(bench.host.lifecycle(), Lifecycle::ShutDown);
            }
            Err(error) => {
                assert_eq!((error, updated), (HostError::UpdateRunning, Ok(NEXT)));
                bench.settled();
            }
        }
        bench.platform.no_violations();
    });
}
