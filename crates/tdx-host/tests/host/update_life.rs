//! Any order of updates, failures, CPUs that come and go, and a crash: the state stays consistent.

use proptest::prelude::*;

use tdx_abi::leaf::{LeafWord, SeamcallLeaf, SeamldrLeaf};
use tdx_abi::metadata::sys;
use tdx_abi::status::{SeamldrStatus, StatusCode};
use tdx_host::seamcall::SeamcallCause;
use tdx_host::traits::{CpuNumber, SeamcallFault};
use tdx_host::{HostError, Lifecycle, UpdateObserver, UpdateOptions, UpdatePhase};
use tdx_image::Image;

use crate::fake::{Bench, Fake, on};
use crate::image::{Made, made};
use crate::update::{install, leaf};

const CPUS: u32 = 4;

/// What goes wrong in an update.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    Nothing,
    /// The image is of an older release.
    Older,
    Shutdown,
    /// The session ends so.
    Session(u64),
    /// A call on a CPU does not reach P-SEAMLDR.
    InstallOn(u32),
    Entropy(u8),
    SysInit,
    LpInit(u32),
    Handoff,
    Unreadable,
    /// A crash when a phase begins.
    Crash(UpdatePhase),
    /// A second update when a phase begins.
    Twice(UpdatePhase),
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Update(Wrong),
    Offline(u32),
    Online(u32),
    Shutdown,
    Crash,
}

fn wrong() -> impl Strategy<Value = Wrong> {
    let phase = || prop::sample::select(UpdatePhase::ALL.to_vec());
    prop_oneof![
        6 => Just(Wrong::Nothing),
        1 => Just(Wrong::Older),
        2 => Just(Wrong::Shutdown),
        4 => (0..2u64).prop_map(Wrong::Session),
        4 => (0..CPUS).prop_map(Wrong::InstallOn),
        2 => (1..7u8).prop_map(Wrong::Entropy),
        1 => Just(Wrong::SysInit),
        1 => (0..CPUS).prop_map(Wrong::LpInit),
        1 => Just(Wrong::Handoff),
        1 => Just(Wrong::Unreadable),
        1 => phase().prop_map(Wrong::Crash),
        2 => phase().prop_map(Wrong::Twice),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => wrong().prop_map(Step::Update),
        2 => (0..CPUS).prop_map(Step::Offline),
        5 => (0..CPUS).prop_map(Step::Online),
        1 => Just(Step::Shutdown),
        1 => Just(Step::Crash),
    ]
}

fn arrange(bench: &Bench, wrong: Wrong) {
    let fake = &bench.fake;
    let lost = SeamcallFault::VmFailInvalid;
    match wrong {
        Wrong::Nothing | Wrong::Older | Wrong::Crash(_) | Wrong::Twice(_) => {}
        Wrong::Shutdown => {
            fake.fail_once(leaf(SeamcallLeaf::SYS_SHUTDOWN), 0, StatusCode::OPERAND_INVALID, 0);
        }
        Wrong::Session(rdx) => fake.state().loader.ends.push((SeamldrStatus::EBADSIG, rdx)),
        Wrong::InstallOn(cpu) => fake.fail_once(install(), u64::from(cpu), lost, 0),
        Wrong::Entropy(times) => {
            let end = (SeamldrStatus::ENOENTROPY, 0);
            fake.state().loader.ends.extend(std::iter::repeat_n(end, usize::from(times)));
        }
        Wrong::SysInit => fake.fail_once(leaf(SeamcallLeaf::SYS_INIT), 0, lost, 0),
        Wrong::LpInit(cpu) => fake.fail_once(leaf(SeamcallLeaf::SYS_LP_INIT), u64::from(cpu), lost, 0),
        Wrong::Handoff => {
            fake.fail_once(leaf(SeamcallLeaf::SYS_UPDATE), 0, StatusCode::SYS_INVALID_HANDOFF, 0);
        }
        Wrong::Unreadable => fake.fail_once(leaf(SeamcallLeaf::SYS_RD), 2, StatusCode::SYS_BUSY, 0),
    }
}

struct InPhase<'a>(UpdatePhase, &'a (dyn Fn() + Sync));

impl UpdateObserver for InPhase<'_> {
    fn phase_started(&self, phase: UpdatePhase) {
        if phase == self.0 {
            (self.1)();
        }
    }
}

fn update(bench: &Bench, wrong: Wrong) -> Result<(), HostError> {
    let svn = if matches!(wrong, Wrong::Older) { [1, 1] } else { [9, 1] };
    let file = made(Made { svn, ..Made::default() });
    let image = Image::parse(&file).unwrap();
    let options = UpdateOptions::default();
    let again = || {
        let second = bench.host.update(&*bench.fake, &image, &options, &());
        assert_eq!(second, Err(HostError::UpdateRunning));
    };
    let crash = || bench.host.crash();
    let result = match wrong {
        Wrong::Crash(phase) => bench.host.update(&*bench.fake, &image, &options, &InPhase(phase, &crash)),
        Wrong::Twice(phase) => bench.host.update(&*bench.fake, &image, &options, &InPhase(phase, &again)),
        _ => bench.host.update(&*bench.fake, &image, &options, &()),
    };
    result.map(|_| ())
}

fn offline(bench: &Bench, cpu: u32) -> Result<(), HostError> {
    bench.host.may_go_offline(&*bench.fake, CpuNumber(cpu))?;
    on(cpu, |pin| bench.host.cpu_goes_offline(&*bench.fake, pin))?;
    bench.fake.state().online[cpu as usize] = false;
    Ok(())
}

fn online(bench: &Bench, cpu: u32) -> Result<(), HostError> {
    if bench.fake.state().online[cpu as usize] {
        return Ok(());
    }
    bench.fake.state().online[cpu as usize] = true;
    let came = on(cpu, |pin| bench.host.cpu_came_online(&*bench.fake, pin));
    bench.fake.state().online[cpu as usize] = came.is_ok();
    came
}

/// Which calls a step may have made, given where it began.
fn may_call(before: Lifecycle, word: LeafWord) -> bool {
    let info = word == LeafWord::seamldr(SeamldrLeaf::INFO);
    let for_the_old_module = [SeamcallLeaf::SYS_SHUTDOWN, SeamcallLeaf::SYS_DISABLE].map(leaf);
    match before {
        Lifecycle::Gone | Lifecycle::ShutDown | Lifecycle::Crashed => info && before == Lifecycle::Gone,
        // What follows a SEAMLDR.INSTALL is the new module's.
        Lifecycle::Down => !for_the_old_module.contains(&word),
        _ => true,
    }
}

fn check(bench: &Bench, before: Lifecycle, calls: usize, what: Step) {
    let now = bench.host.lifecycle();
    let made: Vec<LeafWord> = bench.fake.state().calls[calls..].iter().map(|call| call.1).collect();
    for word in &made {
        assert!(may_call(before, *word), "{what:?}: {word:?} while {}", before.name());
    }
    if before == Lifecycle::Down {
        let first = made.iter().find(|word| **word != LeafWord::seamldr(SeamldrLeaf::INFO));
        assert!(first.is_none_or(|word| *word == install()), "{what:?}: {first:?}");
    }
    assert_ne!(now, Lifecycle::Updating, "{what:?}");
    assert!(!bench.host.update_is_running());
    assert_eq!(bench.fake.leaked_pages(), 0, "{what:?}");
    let call = bench.fake.state().calls.len();
    let read = |cpu| on(cpu, |pin| bench.host.port(&*bench.fake).sys_rd(pin, sys::MINOR_VERSION));
    let cpu = bench.fake.state().in_vmx.iter().position(|on| *on).map(|cpu| u32::try_from(cpu).unwrap());
    let version = bench.host.sysinfo().map(|info| info.version());
    let (cause, name) = match now {
        Lifecycle::Ready => {
            // Who is ready serves, and says the version that runs.
            let running = bench.fake.state().fields[&sys::UPDATE_VERSION.0];
            assert_eq!(version.map(|version| u64::from(version.update)), Some(running), "{what:?}");
            assert!(cpu.is_none_or(|cpu| read(cpu) == Ok(5)), "{what:?}");
            assert_eq!(bench.host.ready(), Ok(()));
            return;
        }
        Lifecycle::Down => (SeamcallCause::Down, "module-down"),
        Lifecycle::Gone => (SeamcallCause::Gone, "module-gone"),
        _ => (SeamcallCause::GoingDown, "going-down"),
    };
    assert_eq!(read(0).unwrap_err().cause, cause);
    assert_eq!(bench.host.ready().unwrap_err().name(), name);
    assert_eq!(bench.fake.state().calls.len(), call, "{what:?}: calls the module");
    if matches!(now, Lifecycle::Down | Lifecycle::Gone) {
        assert_eq!(version, None, "{what:?}");
        assert!(bench.host.update_failure().is_some(), "{what:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_events_leaves_an_inconsistent_state(steps in prop::collection::vec(step(), 1..24)) {
        let mut bench = Bench::up(Fake::new(2));
        // A shutdown in order gives the PAMTs back.
        let mut free = bench.fake.free_bytes();
        let mut next = 7;
        for what in steps {
            bench.fake.clear_script();
            let before = bench.host.lifecycle();
            let calls = bench.fake.state().calls.len();
            let result = match what {
                Step::Update(wrong) => {
                    next += 1;
                    bench.fake.state().loader.next_fields.insert(sys::UPDATE_VERSION.0, next);
                    arrange(&bench, wrong);
                    let result = update(&bench, wrong);
                    bench.fake.state().loader.ends.clear();
                    if result.is_ok() {
                        prop_assert_eq!(bench.host.lifecycle(), Lifecycle::Ready);
                        prop_assert_eq!(bench.host.update_failure(), None);
                    }
                    result
                }
                Step::Offline(cpu) => offline(&bench, cpu),
                Step::Online(cpu) => online(&bench, cpu),
                Step::Shutdown => bench.host.shutdown(&*bench.fake, &mut bench.memory),
                Step::Crash => {
                    bench.host.crash_everywhere(&*bench.fake);
                    Ok(())
                }
            };
            check(&bench, before, calls, what);
            if let Err(error) = result {
                prop_assert!(!error.name().is_empty());
            }
            if matches!(what, Step::Shutdown) {
                free = free.max(bench.fake.free_bytes());
            }
            prop_assert_eq!(bench.fake.free_bytes(), free, "{:?}", what);
        }
    }
}

#[test]
fn from_down_a_good_image_leads_back_whatever_failed_before() {
    for first in [Wrong::Session(0), Wrong::InstallOn(0), Wrong::InstallOn(3), Wrong::Entropy(6)] {
        for second in [Wrong::Session(0), Wrong::InstallOn(0), Wrong::Older] {
            let bench = Bench::up(Fake::new(2));
            for wrong in [first, second] {
                arrange(&bench, wrong);
                assert!(update(&bench, wrong).is_err());
                assert_eq!(bench.host.lifecycle(), Lifecycle::Down);
                bench.fake.clear_script();
                bench.fake.state().loader.ends.clear();
            }
            assert_eq!(update(&bench, Wrong::Nothing), Ok(()), "{first:?} {second:?}");
            assert_eq!(bench.host.lifecycle(), Lifecycle::Ready);
        }
    }
}
