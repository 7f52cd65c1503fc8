//! What is refused before the module is touched, and a module that does not go.

use std::sync::Arc;

use tdx_abi::features::Features0;
use tdx_abi::leaf::{LeafWord, SeamcallLeaf, SeamldrLeaf};
use tdx_abi::metadata::sys;
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_host::error::SensitiveWork;
use tdx_host::seamcall::RESUME_TRIES;
use tdx_host::traits::{CpuNumber, SeamcallFault};
use tdx_host::{BringUpOptions, Errno, HostError, Lifecycle, UpdateOptions, UpdatePhase};
use tdx_image::{Image, Svn};

use crate::fake::{Access, Bench, FEATURES, Fake, Outcome, on, topology};
use crate::image::{Made, made};
use crate::update::*;

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

#[test]
fn an_image_that_cannot_be_written_to_memory_touches_nothing() {
    let bench = Bench::up(Fake::new(1));
    bench.fake.state().poisoned = Some(Access::Write);
    let error = update(&bench).unwrap_err();
    assert!(matches!(error, HostError::MemoryAccessFailed { .. }), "{error}");
    assert!(!touched(&bench));
    bench.fake.state().poisoned = None;
    assert_untouched(&bench);
}

/// What bends the machine, what is installed, and the name of the refusal.
type Refused = (fn(&Bench), Made, &'static str);

#[test]
fn each_refusal_has_its_name_and_touches_nothing() {
    let plain = Made::default();
    let cases: [Refused; 18] = [
        (|bench| bench.host.crash(), plain, "going-down"),
        (|_| (), Made { vendor: 0x8087, ..plain }, "sigstruct-refused"),
        (|_| (), Made { debug: true, ..plain }, "image-debug"),
        (|_| (), Made { cpu: 0xA_06F0, ..plain }, "image-cpu-unsupported"),
        (|_| (), Made { svn: [7, 3], ..plain }, "image-svn-line-differs"),
        (|_| (), Made { svn: [4, 1], ..plain }, "image-svn-older"),
        (|_| (), Made { handoff: [0, 0], ..plain }, "image-handoff-differs"),
        (|_| (), Made { handoff: [2, 2], ..plain }, "image-handoff-differs"),
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
        assert_eq!((failure.phase, failure.error), (UpdatePhase::Shutdown, error));
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
    for asked in 0..2 {
        let unknown = StatusCode::METADATA_FIELD_ID_INCORRECT;
        bench.fake.fail_once(leaf(SeamcallLeaf::SYS_RD), asked, unknown, 0);
    }
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

    // Others are wanted with the new module.
    let bench = Bench::up(Fake::new(1));
    bench.fake.state().loader.next_fields.insert(sys::TDX_FEATURES0.0, FEATURES.union(opt_in).bits());
    let options = UpdateOptions { opt_in: Some(opt_in), ..UpdateOptions::default() };
    let report = update_with(&bench, Made::default(), &options, &()).unwrap();
    assert_eq!((report.opted_in, bench.host.opted_in()), (opt_in, opt_in));
    let none = UpdateOptions { opt_in: Some(Features0::default()), ..UpdateOptions::default() };
    let report = update_with(&bench, Made::default(), &none, &()).unwrap();
    assert_eq!((report.opted_in, report.opt_in_lost), (Features0::default(), Features0::default()));

    // Any other refusal is the end.
    let bench = compatible(Fake::new(1));
    bench.fake.fail_once(v1, 0, StatusCode::SYS_INVALID_HANDOFF, 0);
    assert_eq!(update(&bench).unwrap_err().name(), "handoff-refused");
}
