//! Update of the module: what is refused, what a failure leaves, what readers see.

use std::sync::{Arc, Mutex};

use tdx_abi::features::Features0;
use tdx_abi::leaf::{LeafWord, SeamcallLeaf, SeamldrLeaf};
use tdx_abi::metadata::sys;
use tdx_abi::seamldr::Version;
use tdx_abi::status::{OperandId, SeamldrStatus, Status, StatusCode};
use tdx_host::error::SensitiveWork;
use tdx_host::seamcall::{RESUME_TRIES, SeamcallCause};
use tdx_host::traits::{CpuNumber, SeamcallFault};
use tdx_host::update::INSTALL_TRIES;
use tdx_host::{
    BringUpOptions, Errno, HostError, Lifecycle, UpdateObserver, UpdateOptions, UpdatePhase, UpdateReport,
};
use tdx_image::{Image, Svn};

use crate::fake::{Bench, FEATURES, Fake, Outcome, on, topology};
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
fn refusals(bench: &Bench, what: Made) -> Vec<&'static str> {
    let file = made(what);
    let mut names = Vec::new();
    let options = UpdateOptions::default();
    let image = Image::parse(&file).unwrap();
    let first = bench.host.preflight(&*bench.fake, &image, &options, &mut |error| names.push(error.name()));
    assert_eq!(first.err().map(|error| error.name()), names.first().copied());
    names
}

fn touched(bench: &Bench) -> bool {
    let state = bench.fake.state();
    let shut = leaf(SeamcallLeaf::SYS_SHUTDOWN);
    state.calls.iter().any(|call| call.1 == shut || call.1 == install())
}

fn version(bench: &Bench) -> Option<Version> {
    bench.host.sysinfo().map(|info| info.version())
}

const OLD: Version = Version::new(1, 5, 6);
const NEW: Version = Version::new(1, 5, 8);

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
        assert!(bench.host.cpus().iter().all(|slot| slot.lp_initialised()));
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
fn a_file_that_is_no_image_is_refused_with_its_reason() {
    let mut file = made(Made::default());
    file[4] ^= 1;
    let reason = Image::parse(&file).unwrap_err();
    let error = HostError::from(reason);
    assert_eq!((error, error.name()), (HostError::ImageRefused { reason }, "image-refused"));
    assert!(error.to_string().ends_with(&reason.to_string()));
}

#[test]
fn without_memory_for_the_image_nothing_is_touched() {
    let bench = Bench::up(Fake::new(1));
    bench.fake.state().largest_allocation = 8 * 4096;
    let what = Made { pages: 496, ..Made::default() };
    let error = update_with(&bench, what, &UpdateOptions::default(), &()).unwrap_err();
    assert_eq!(error.name(), "no-memory");
    assert!(!touched(&bench));
    assert_eq!((bench.host.lifecycle(), version(&bench)), (Lifecycle::Ready, Some(OLD)));
}

/// What bends the machine, what is installed, and the name of the refusal.
type Refused = (fn(&Bench), Made, &'static str);

#[test]
fn each_refusal_has_its_name_and_touches_nothing() {
    let plain = Made::default();
    let cases: [Refused; 16] = [
        (|bench| bench.host.crash(), plain, "going-down"),
        (|_| (), Made { vendor: 0x8087, ..plain }, "sigstruct-refused"),
        (|_| (), Made { debug: true, ..plain }, "image-debug"),
        (|_| (), Made { cpu: 0xA_06F0, ..plain }, "image-cpu-unsupported"),
        (|_| (), Made { svn: [7, 3], ..plain }, "image-svn-line-differs"),
        (|_| (), Made { svn: [4, 1], ..plain }, "image-svn-older"),
        (|bench| bench.fake.state().loader.remaining = 0, plain, "update-log-full"),
        (|bench| bench.fake.state().online[3] = false, plain, "update-cpu-offline"),
        (
            |bench| _ = bench.fake.state().cpuid_of.insert((2, 0x1F), topology(1024)),
            plain,
            "x2apic-id-too-large",
        ),
        (
            |bench| {
                let mut state = bench.fake.state();
                state.cpuid_of.remove(&(2, 0x1F));
                state.cpuid_of.insert((2, 0xB), topology(5000));
            },
            plain,
            "x2apic-id-too-large",
        ),
        (
            |bench| {
                let other = tdx_host::traits::CpuidLeaf { eax: 0xC_06F2, ..Default::default() };
                bench.fake.state().cpuid_of.insert((3, 1), other);
            },
            plain,
            "image-cpu-unsupported",
        ),
        (
            |bench| _ = bench.fake.state().msr_of.insert((1, 0x480), Some(0x400 << 32)),
            plain,
            "seamret-invd-vmcs",
        ),
        (|bench| _ = bench.fake.state().msr_of.insert((1, 0x480), None), plain, "vmx-basic-unreadable"),
        (suspend_a_call, plain, "resumable-call-suspended"),
        (
            |bench| {
                let word = LeafWord::seamldr(SeamldrLeaf::INFO);
                bench.fake.fail_once(word, 0, SeamcallFault::VmFailInvalid, 0);
                bench.fake.fail_once(word, 1, SeamcallFault::VmFailInvalid, 0);
            },
            plain,
            "seamldr-info-failed",
        ),
        (|_| (), Made { cpu: 0x8_06F0, ..plain }, ""),
    ];
    for (bend, what, name) in cases {
        let bench = Bench::up(Fake::new(2));
        bend(&bench);
        let wanted: Vec<&str> = [name].into_iter().filter(|name| !name.is_empty()).collect();
        assert_eq!(refusals(&bench, what), wanted);
        assert!(!touched(&bench), "{name}");
        let result = update_with(&bench, what, &UpdateOptions::default(), &());
        if name.is_empty() {
            assert!(result.is_ok());
            continue;
        }
        assert_eq!(result.unwrap_err().name(), name);
        assert!(!touched(&bench), "{name}");
        assert_eq!(bench.host.update_failure(), None);
        assert!(!bench.host.update_is_running());
        if name != "going-down" {
            assert_eq!((bench.host.lifecycle(), version(&bench)), (Lifecycle::Ready, Some(OLD)));
        }
    }
}

/// A call that was interrupted and cut off before it was resumed.
fn suspend_a_call(bench: &Bench) {
    bench.fake.script(SeamcallLeaf::SYS_DISABLE, 0, 1, StatusCode::INTERRUPTED_RESUMABLE);
    bench.fake.script(SeamcallLeaf::SYS_DISABLE, 1, 1, Outcome::Fault(SeamcallFault::InvalidOpcode));
    let port = bench.host.port(&*bench.fake);
    assert!(on(1, |pin| port.sys_disable(pin)).is_err());
}

#[test]
fn a_call_that_is_given_up_stands_in_the_way() {
    for status in [StatusCode::INTERRUPTED_RESUMABLE, StatusCode::OPERAND_BUSY] {
        let bench = Bench::up(Fake::new(1));
        bench.fake.script(SeamcallLeaf::SYS_DISABLE, 0, 1, StatusCode::INTERRUPTED_RESUMABLE);
        bench.fake.script(SeamcallLeaf::SYS_DISABLE, 1, u64::from(RESUME_TRIES), status);
        let port = bench.host.port(&*bench.fake);
        assert!(on(1, |pin| port.sys_disable(pin)).unwrap_err().is(status));
        assert_eq!(update(&bench), Err(HostError::ResumableCallSuspended { count: 1 }));
    }
}

#[test]
fn a_resumed_call_that_ended_does_not_stand_in_the_way() {
    for end in [StatusCode::SUCCESS, StatusCode::OPERAND_INVALID] {
        let bench = Bench::up(Fake::new(1));
        bench.fake.script(SeamcallLeaf::SYS_KEY_CONFIG, 1, 3, StatusCode::INTERRUPTED_RESUMABLE);
        bench.fake.script(SeamcallLeaf::SYS_KEY_CONFIG, 4, 1, end);
        let port = bench.host.port(&*bench.fake);
        assert_eq!(on(1, |pin| port.sys_key_config(pin)).is_ok(), end == StatusCode::SUCCESS);
        assert!(update(&bench).is_ok());
    }
}

#[test]
fn a_module_that_cannot_be_replaced_refuses_by_name() {
    let fake = Fake::new(1);
    fake.set_field(sys::TDX_FEATURES0, FEATURES.difference(Features0::TD_PRESERVING).bits());
    let bench = Bench::up(fake);
    assert_eq!(refusals(&bench, Made::default()), ["update-not-offered"]);
    assert_eq!(update(&bench).unwrap_err().errno(), Errno::EOPNOTSUPP);
    assert!(!touched(&bench));

    let bench = Bench::new(Fake::new(1));
    assert_eq!(refusals(&bench, Made::default()), ["not-initialised"]);
    assert_eq!(update(&bench), Err(HostError::NotInitialised));
}

#[test]
fn preflight_tells_every_refusal_and_update_the_first() {
    let bench = Bench::up(Fake::new(2));
    suspend_a_call(&bench);
    {
        let mut state = bench.fake.state();
        state.loader.remaining = 0;
        state.cpuid_of.insert((1, 0x1F), topology(2000));
        state.msrs.insert(0x480, Some(0x400 << 32));
        (state.online[2], state.online[3]) = (false, false);
    }
    let what = Made { svn: [4, 1], cpu: 1, debug: true, vendor: 1, ..Made::default() };
    let expected = [
        "image-debug",
        "sigstruct-refused",
        "image-svn-older",
        "update-log-full",
        "image-cpu-unsupported",
        "seamret-invd-vmcs",
        "x2apic-id-too-large",
        "update-cpu-offline",
        "resumable-call-suspended",
    ];
    assert_eq!(refusals(&bench, what), expected);
    let error = update_with(&bench, what, &UpdateOptions::default(), &()).unwrap_err();
    assert_eq!(error, HostError::ImageDebug);
}

#[test]
fn refusals_tell_what_they_found() {
    let bench = Bench::up(Fake::new(2));
    {
        let mut state = bench.fake.state();
        for cpu in [3, 1] {
            state.cpuid_of.insert((cpu, 0x1F), topology(2000 + cpu));
            state.online[cpu as usize - 1] = false;
        }
    }
    let file = made(Made { svn: [9, 2], ..Made::default() });
    let mut found = Vec::new();
    let image = Image::parse(&file).unwrap();
    let options = UpdateOptions::default();
    let first = bench.host.preflight(&*bench.fake, &image, &options, &mut |error| found.push(error));
    let (running, image) = (Svn { major: 1, minor: 5 }, Svn { major: 2, minor: 9 });
    assert_eq!(first, Err(HostError::ImageSvnLineDiffers { running, image }));
    assert!(found.contains(&HostError::X2apicIdTooLarge { cpu: CpuNumber(1), id: 2001, limit: 1024 }));
    assert!(found.contains(&HostError::UpdateCpuOffline { cpu: CpuNumber(0), offline: 2 }));
}

#[test]
fn limits_of_the_loader_can_be_overridden() {
    let bench = Bench::up(Fake::new(1));
    bench.fake.state().cpuid_of.insert((1, 0x1F), topology(1791));
    let name = |options: &UpdateOptions, what| {
        update_with(&bench, what, options, &()).map_or_else(|error| error.name(), |_| "")
    };
    let plain = Made::default();
    assert_eq!(
        name(&UpdateOptions { x2apic_limit: 1791, ..Default::default() }, plain),
        "x2apic-id-too-large"
    );
    assert_eq!(name(&UpdateOptions { x2apic_limit: 1792, ..Default::default() }, plain), "");
    assert_eq!(name(&UpdateOptions { ignore_x2apic_limit: true, ..Default::default() }, plain), "");
    let debug = Made { debug: true, ..plain };
    let allowed = UpdateOptions { ignore_x2apic_limit: true, allow_debug: true, ..Default::default() };
    assert_eq!(name(&allowed, debug), "");
}

#[test]
fn a_cpu_that_goes_behind_the_check_stops_the_update_before_shutdown() {
    for cpu in [0, 1, 3] {
        let bench = Bench::up(Fake::new(2));
        bench.fake.before_lockstep(move |fake| fake.state().online[cpu] = false);
        let error = update(&bench).unwrap_err();
        let gone = CpuNumber(u32::try_from(cpu).unwrap());
        assert_eq!(error, HostError::UpdateCpuOffline { cpu: gone, offline: 1 });
        assert!(!touched(&bench));
        assert_eq!((bench.host.lifecycle(), version(&bench)), (Lifecycle::Ready, Some(OLD)));
        let failure = bench.host.update_failure().unwrap();
        assert_eq!(failure.error, error);
        assert_eq!(on(1, |pin| bench.host.port(&*bench.fake).sys_rd(pin, sys::MINOR_VERSION)), Ok(5));
    }
}

#[test]
fn a_call_that_is_interrupted_behind_the_check_stops_the_update_before_shutdown() {
    let bench = Bench::up(Fake::new(1));
    let host = Arc::clone(&bench.host);
    bench.fake.before_lockstep(move |fake| {
        fake.script(SeamcallLeaf::SYS_DISABLE, 0, 1, StatusCode::INTERRUPTED_RESUMABLE);
        fake.script(SeamcallLeaf::SYS_DISABLE, 1, 1, Outcome::Fault(SeamcallFault::InvalidOpcode));
        on(0, |pin| host.port(fake).sys_disable(pin)).unwrap_err();
    });
    assert_eq!(update(&bench), Err(HostError::ResumableCallSuspended { count: 1 }));
    assert!(!touched(&bench));
    assert_eq!(bench.host.update_failure().unwrap().error, HostError::ResumableCallSuspended { count: 1 });
    assert_eq!(bench.host.lifecycle(), Lifecycle::Ready);
}

/// Asserts that the host serves as before.
fn assert_untouched(bench: &Bench) {
    assert_eq!((bench.host.lifecycle(), version(bench)), (Lifecycle::Ready, Some(OLD)));
    assert_eq!(on(1, |pin| bench.host.port(&*bench.fake).sys_rd(pin, sys::MINOR_VERSION)), Ok(5));
    assert_eq!(update(bench).unwrap().to, NEW);
    assert_eq!(bench.host.update_failure(), None);
}

#[test]
fn a_module_that_does_not_go_goes_on() {
    let word = leaf(SeamcallLeaf::SYS_SHUTDOWN);
    let refused = StatusCode::OPERAND_INVALID.with_operand(OperandId::RCX);
    for outcome in [Outcome::Status(refused), Outcome::Fault(SeamcallFault::VmFailInvalid)] {
        let bench = Bench::up(Fake::new(2));
        bench.fake.fail_once(word, 0, outcome, 0);
        let error = update(&bench).unwrap_err();
        assert_eq!((error.name(), error.errno()), ("update-shutdown-refused", Errno::EBUSY));
        let failure = bench.host.update_failure().unwrap();
        assert_eq!((failure.phase, failure.cpu, failure.error), (UpdatePhase::Shutdown, CpuNumber(0), error));
        assert_untouched(&bench);
    }
    // Nor one that does not tell its hand-off version.
    let bench = Bench::up(Fake::new(2));
    bench.fake.fail_once(leaf(SeamcallLeaf::SYS_RD), 0, StatusCode::METADATA_FIELD_ID_INCORRECT, 0);
    assert_eq!(update(&bench).unwrap_err().name(), "update-shutdown-refused");
    assert_untouched(&bench);
}

/// A host whose module was told to watch TD builds.
fn compatible(fake: Fake) -> Bench {
    let offered = FEATURES.union(Features0::UPDATE_COMPATIBILITY);
    fake.set_field(sys::TDX_FEATURES0, offered.bits());
    let mut bench = Bench::new(fake);
    let opt_in = Features0::UPDATE_COMPATIBILITY;
    let report = bench.bring_up_with(&BringUpOptions { opt_in, ..BringUpOptions::default() }).unwrap();
    assert_eq!(report.opted_in, opt_in);
    bench
}

#[test]
fn a_td_build_holds_an_update_off() {
    let cases = [
        (0, SensitiveWork::TdBuild, "3 TDs being built"),
        (1, SensitiveWork::Migration, "3 interrupted migration calls"),
        (9, SensitiveWork::Other(9), "3 of reason 9"),
    ];
    for (reason, work, words) in cases {
        let bench = compatible(Fake::new(1));
        let status = Status::from_raw(StatusCode::UPDATE_COMPATIBILITY_SENSITIVE.0 | 3 << 16 | reason);
        bench.fake.fail_once(leaf(SeamcallLeaf::SYS_SHUTDOWN), 0, status, 0);
        let error = update(&bench).unwrap_err();
        let HostError::TdBuildInProgress { work: found, count: 3, error: call } = error else {
            panic!("{error}");
        };
        assert_eq!((found, call.status(), error.errno()), (work, Some(status), Errno::EBUSY));
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(bench.host.update_failure().unwrap().error, error);
        assert_untouched(&bench);
        let asked = bench.fake.state().loader.handoff;
        assert_eq!(asked, Some(1 | 1 << 16), "the module is asked to look");
    }
}

#[test]
fn a_module_that_was_not_told_to_watch_is_not_asked() {
    let fake = Fake::new(1);
    fake.set_field(sys::TDX_FEATURES0, FEATURES.union(Features0::UPDATE_COMPATIBILITY).bits());
    let bench = Bench::up(fake);
    update(&bench).unwrap();
    assert_eq!(bench.fake.state().loader.handoff, Some(1));
}

#[test]
fn features_of_bring_up_go_on_where_the_new_module_takes_them() {
    let opt_in = Features0::UPDATE_COMPATIBILITY;
    let v1 = LeafWord::module(SeamcallLeaf::SYS_UPDATE, 1);
    let calls = |bench: &Bench, word| bench.fake.state().calls.iter().filter(|call| call.1 == word).count();

    let bench = compatible(Fake::new(1));
    let report = update(&bench).unwrap();
    assert_eq!((report.opted_in, report.opt_in_lost), (opt_in, Features0::default()));
    assert_eq!((calls(&bench, v1), calls(&bench, leaf(SeamcallLeaf::SYS_UPDATE))), (1, 0));

    // The new module does not offer them.
    let bench = compatible(Fake::new(1));
    bench.fake.state().loader.next_fields.insert(sys::TDX_FEATURES0.0, FEATURES.bits());
    let report = update(&bench).unwrap();
    assert_eq!((report.opted_in, report.opt_in_lost), (Features0::default(), opt_in));
    assert_eq!((calls(&bench, v1), calls(&bench, leaf(SeamcallLeaf::SYS_UPDATE))), (0, 1));
    assert!(bench.fake.state().lines.iter().any(|(_, line)| line.contains("does not offer")));
    // What is off now is not relied on next time.
    update(&bench).unwrap();
    assert_eq!(bench.fake.state().loader.handoff, Some(1));

    // It refuses them.
    for operand in [OperandId::RAX, OperandId::R9] {
        let bench = compatible(Fake::new(1));
        bench.fake.fail_once(v1, 0, StatusCode::OPERAND_INVALID.with_operand(operand), 0);
        let report = update(&bench).unwrap();
        assert_eq!((report.opted_in, report.opt_in_lost), (Features0::default(), opt_in));
        assert_eq!((calls(&bench, v1), calls(&bench, leaf(SeamcallLeaf::SYS_UPDATE))), (1, 1));
        assert!(bench.fake.state().lines.iter().any(|(_, line)| line.contains("refused them")));
    }

    // Any other refusal is the end.
    let bench = compatible(Fake::new(1));
    bench.fake.fail_once(v1, 0, StatusCode::SYS_INVALID_HANDOFF, 0);
    assert_eq!(update(&bench).unwrap_err().name(), "handoff-refused");
}

/// What a CPU does that INIT woke up.
fn comes_online(bench: &Bench, cpu: u32) -> Result<(), HostError> {
    bench.fake.state().vmxe[cpu as usize] = false;
    bench.fake.state().in_vmx[cpu as usize] = false;
    on(cpu, |pin| bench.host.cpu_came_online(&*bench.fake, pin))
}

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
    cases.push((leaf(SeamcallLeaf::SYS_RD), 1, unread, 0, last, 0, "metadata-read-failed", none));
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

/// Does something at the beginning of a phase.
struct At<F>(UpdatePhase, Mutex<F>);

impl<F: FnMut() + Send> UpdateObserver for At<F> {
    fn phase_started(&self, phase: UpdatePhase) {
        if phase == self.0 {
            (self.1.lock().unwrap())();
        }
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

#[test]
fn phases_have_names() {
    assert_eq!(UpdatePhase::ALL.map(UpdatePhase::name), ["shutdown", "install", "init", "update"]);
}
