//! Updates of the module on the software machine.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tdx_abi::leaf::{SeamcallLeaf, SeamldrLeaf};
use tdx_abi::metadata::sys;
use tdx_abi::seamldr::Version;
use tdx_abi::status::SeamldrStatus;
use tdx_host::seamcall::SeamcallCause;
use tdx_host::traits::{CpuNumber, Cpus};
use tdx_host::{HostError, Lifecycle, UpdateObserver, UpdateOptions, UpdatePhase, UpdateReport};
use tdx_image::build::{ModuleSpec, image, wrap};
use tdx_image::{HeaderVersion, Image};
use tdx_machine::fault::{Answer, Breaks, CATALOGUE, CallLeaf};
use tdx_machine::spec::{CpuKind, ErrataSpec};
use tdx_machine::{Fault, PlatformSpec};
use tdx_platform::{CpuMode, HostOptions, MAX_THREADS, TdxHost};

use crate::{quiet, switch_on, two_packages};

/// Four CPUs and a module of 1.5.
fn machine_1_5() -> PlatformSpec {
    let mut spec = two_packages();
    spec.cpu.kind = CpuKind::SapphireRapids;
    // With the microcode that makes updates possible there.
    spec.errata = Some(ErrataSpec { pw_mce: true, seamret_invd_vmcs: false });
    spec.module.profile = "1.5.06".into();
    spec.seamldr.version = "1.5.00".into();
    spec
}

fn file(release: &str) -> Vec<u8> {
    let parts: Vec<u16> = release.split('.').map(|part| part.parse().unwrap()).collect();
    let version = Version::new(parts[0], parts[1], parts[2]);
    image(&ModuleSpec::new(version, release), HeaderVersion::V0x200).unwrap()
}

/// An image whose signature does not fit.
fn forged(release: &str) -> Vec<u8> {
    let whole = file(release);
    let parsed = Image::parse(&whole).unwrap();
    let mut sigstruct = *parsed.sigstruct();
    sigstruct.signature[17] ^= 1;
    wrap(HeaderVersion::V0x200, &sigstruct, parsed.module()).unwrap()
}

fn up(spec: PlatformSpec, mode: CpuMode) -> TdxHost {
    let host = TdxHost::new(switch_on(spec, mode), HostOptions::default());
    host.bring_up(&()).unwrap();
    host
}

fn update(host: &TdxHost, file: &[u8]) -> Result<UpdateReport, HostError> {
    let pages = host.platform().page_accounts();
    let result = host.update(file, &UpdateOptions::default(), &());
    assert_eq!(host.platform().page_accounts(), pages, "the pages of the image are given back");
    result
}

fn read(host: &TdxHost, name: &str) -> Result<String, HostError> {
    host.device().unwrap().read(name)
}

const BOTH: [CpuMode; 2] = [CpuMode::Sequential, CpuMode::Threads];

#[test]
fn a_newer_module_takes_over_and_the_counter_is_one_lower() {
    for mode in BOTH {
        let host = up(machine_1_5(), mode);
        assert_eq!(read(&host, "version").unwrap(), "1.5.06\n");
        let before: u32 = read(&host, "num_remaining_updates").unwrap().trim().parse().unwrap();
        let report = update(&host, &file("1.5.08")).unwrap();
        assert_eq!((report.from, report.to), (Version::new(1, 5, 6), Version::new(1, 5, 8)));
        assert_eq!(report.remaining_updates, Some(before - 1));
        assert_eq!(read(&host, "version").unwrap(), "1.5.08\n");
        assert_eq!(read(&host, "num_remaining_updates").unwrap(), format!("{}\n", before - 1));
        let status = host.status();
        assert_eq!((status.lifecycle, status.version), (Lifecycle::Ready, Some(report.to)));
        assert_eq!((status.last_update, status.update, status.last_error), (Some(report), None, None));
        assert_eq!(status.cpus_initialised, 4);
        // And on.
        assert_eq!(update(&host, &file("1.5.16")).unwrap().from, report.to);
        // A CPU can go and come under the new module.
        host.cpu_offline(CpuNumber(3)).unwrap();
        host.cpu_online(CpuNumber(3)).unwrap();
        host.shutdown().unwrap();
    }
}

#[test]
fn the_presets_take_the_module_they_run_again() {
    for preset in ["tiny", "default"] {
        let spec = quiet(preset);
        let host = up(spec, CpuMode::Sequential);
        let version = host.status().version.unwrap();
        let mut module =
            ModuleSpec::new(version, host.platform().machine().seam().module.unwrap().profile.name);
        let svn = host.seamldr_info().unwrap().tcb_svn.get().to_le_bytes();
        (module.svn.minor, module.svn.major) = (svn[0], svn[1]);
        let handoff = host.sysinfo().unwrap().field(sys::MODULE_HV).unwrap();
        module.module_handoff_version = u16::try_from(handoff).unwrap();
        let again = image(&module, HeaderVersion::V0x200).unwrap();
        let report = update(&host, &again).unwrap();
        assert_eq!((report.from, report.to), (version, version));
        let lps = u32::try_from(host.platform().machine().lps().len()).unwrap();
        assert_eq!(report.cpus, lps);
        assert!(usize::try_from(lps).unwrap() <= MAX_THREADS || preset == "default");
    }
}

#[test]
fn refusals_touch_nothing() {
    let host = up(machine_1_5(), CpuMode::Sequential);
    // But what it says of itself.
    let calls = |host: &TdxHost| {
        let mut calls = host.platform().machine().seam().module.unwrap().calls;
        calls.retain(|(leaf, _)| *leaf != Some(SeamcallLeaf::SYS_RD));
        calls
    };
    let refused = |host: &TdxHost, file: &[u8]| {
        let before = calls(host);
        let mut all = Vec::new();
        let options = UpdateOptions::default();
        let judged = host.preflight(file, &options, &mut |error| all.push(error.name()));
        assert_eq!(judged.err().map(|error| error.name()), all.first().copied());
        let error = update(host, file).unwrap_err();
        assert_eq!(Some(error.name()), all.first().copied());
        assert_eq!(host.status().last_error, Some(error));
        assert_eq!(calls(host), before, "{error}");
        assert_eq!((host.status().lifecycle, host.status().update), (Lifecycle::Ready, None));
        all
    };
    assert_eq!(refused(&host, b"TDX"), ["image-refused"]);
    assert_eq!(refused(&host, &file("1.5.05")), ["image-svn-older"]);
    assert_eq!(
        refused(&host, &file("2.0.08")),
        ["sigstruct-refused", "image-svn-line-differs", "image-cpu-unsupported"]
    );
    host.cpu_offline(CpuNumber(2)).unwrap();
    assert_eq!(refused(&host, &file("1.5.08")), ["update-cpu-offline"]);
    host.cpu_online(CpuNumber(2)).unwrap();
    assert!(update(&host, &file("1.5.08")).is_ok());
}

#[test]
fn a_full_log_is_refused_until_the_power_cycle() {
    let mut spec = machine_1_5();
    spec.seamldr.remaining_updates = 1;
    let host = up(spec, CpuMode::Sequential);
    update(&host, &file("1.5.08")).unwrap();
    assert_eq!(update(&host, &file("1.5.09")), Err(HostError::UpdateLogFull));
    assert_eq!(read(&host, "version").unwrap(), "1.5.08\n");
}

#[test]
fn large_x2apic_ids_are_refused_unless_the_loader_is_known_to_take_them() {
    let mut spec = machine_1_5();
    spec.seamldr.x2apic_limit = 64;
    let host = up(spec, CpuMode::Sequential);
    let options = UpdateOptions { x2apic_limit: 1, ..UpdateOptions::default() };
    let error = host.update(&file("1.5.08"), &options, &()).unwrap_err();
    assert_eq!(error.name(), "x2apic-id-too-large");
    let options = UpdateOptions { ignore_x2apic_limit: true, ..options };
    assert!(host.update(&file("1.5.08"), &options, &()).is_ok());
}

#[test]
fn a_refused_signature_leaves_the_way_open_for_a_good_image() {
    for mode in BOTH {
        let host = up(machine_1_5(), mode);
        let HostError::InstallFailedRecoverable { error, .. } = update(&host, &forged("1.5.08")).unwrap_err()
        else {
            panic!("{:?}", host.status().last_error);
        };
        assert_eq!(error.cause, SeamcallCause::Loader(SeamldrStatus::EBADSIG));
        let status = host.status();
        assert_eq!((status.lifecycle, status.version), (Lifecycle::Down, None));
        assert_eq!(status.update.unwrap().phase, UpdatePhase::Install);
        assert_eq!(read(&host, "version"), Err(HostError::ModuleDown));
        // Whoever plans the next attempt wants to know what P-SEAMLDR still takes.
        assert!(read(&host, "seamldr_version").is_ok());
        assert!(read(&host, "num_remaining_updates").is_ok());
        assert_eq!(host.cpu_offline(CpuNumber(1)), Err(HostError::ModuleDown));
        let report = update(&host, &file("1.5.08")).unwrap();
        assert!(report.was_down);
        assert_eq!(read(&host, "version").unwrap(), "1.5.08\n");
        assert_eq!(host.status().update, None);
    }
}

/// Does something when a phase begins.
struct At<F>(UpdatePhase, F);

impl<F: Fn() + Sync> UpdateObserver for At<F> {
    fn phase_started(&self, phase: UpdatePhase) {
        if phase == self.0 {
            (self.1)();
        }
    }
}

#[test]
fn a_crash_in_any_phase_is_the_end_and_said_plainly() {
    for mode in BOTH {
        for phase in UpdatePhase::ALL {
            let host = up(machine_1_5(), mode);
            let crash = At(phase, || host.crash());
            let result = host.update(&file("1.5.08"), &UpdateOptions::default(), &crash);
            assert_eq!(result, Err(HostError::GoingDown));
            let status = host.status();
            assert_eq!((status.lifecycle, status.cpus_in_vmx), (Lifecycle::Crashed, 0));
            assert_eq!(status.update.unwrap().phase, phase);
            assert_eq!(read(&host, "version"), Err(HostError::GoingDown));
        }
    }
}

#[test]
fn power_loss_in_any_phase_ends_with_the_next_boot() {
    for mode in BOTH {
        for phase in UpdatePhase::ALL {
            let platform = switch_on(machine_1_5(), mode);
            let host = TdxHost::new(platform.clone(), HostOptions::default());
            host.bring_up(&()).unwrap();
            let cut = At(phase, || platform.machine().cut_power());
            let error = host.update(&file("1.5.08"), &UpdateOptions::default(), &cut).unwrap_err();
            assert_eq!(host.status().update.unwrap().phase, phase, "{error}");
            drop(host);
            platform.power_cycle();
            let host = TdxHost::new(platform.clone(), HostOptions::default());
            host.bring_up(&()).unwrap();
            // Firmware loads the module of the boot image.
            assert_eq!(read(&host, "version").unwrap(), "1.5.06\n");
            assert!(update(&host, &file("1.5.08")).is_ok());
        }
    }
}

#[test]
fn a_call_that_fails_on_a_cpu_is_named_with_phase_and_cpu() {
    let module = CallLeaf::Module;
    let lost = Answer::VmFailInvalid;
    let cases = [
        (module(SeamcallLeaf::SYS_SHUTDOWN), 0, "update-shutdown-refused", Lifecycle::Ready),
        (CallLeaf::Seamldr(SeamldrLeaf::INSTALL), 0, "install-failed-recoverable", Lifecycle::Down),
        (CallLeaf::Seamldr(SeamldrLeaf::INSTALL), 2, "install-failed-recoverable", Lifecycle::Down),
        (CallLeaf::Seamldr(SeamldrLeaf::INSTALL), 3, "install-failed-recoverable", Lifecycle::Down),
        (module(SeamcallLeaf::SYS_INIT), 0, "update-init-failed", Lifecycle::Gone),
        (module(SeamcallLeaf::SYS_LP_INIT), 1, "update-init-failed", Lifecycle::Gone),
        (module(SeamcallLeaf::SYS_LP_INIT), 3, "update-init-failed", Lifecycle::Gone),
        (module(SeamcallLeaf::SYS_UPDATE), 0, "handoff-refused", Lifecycle::Gone),
    ];
    for mode in BOTH {
        for (leaf, lp, name, lifecycle) in cases {
            let host = up(machine_1_5(), mode);
            let fault = Fault::SeamcallFails { leaf, lp, status: lost, times: 1 };
            host.platform().machine().inject(fault).unwrap();
            let error = update(&host, &file("1.5.08")).unwrap_err();
            assert_eq!(error.name(), name);
            let status = host.status();
            assert_eq!(status.lifecycle, lifecycle, "{leaf} on {lp}");
            let failure = status.update.unwrap();
            assert_eq!((failure.cpu, failure.error), (CpuNumber(lp), error));
            if lifecycle == Lifecycle::Gone {
                assert_eq!(read(&host, "version"), Err(HostError::ModuleGone));
                assert_eq!(update(&host, &file("1.5.08")), Err(HostError::ModuleGone));
                // Nothing needs a CPU any more, and nobody takes one.
                assert_eq!(host.cpu_offline(CpuNumber(2)), Ok(()));
                assert_eq!(host.cpu_online(CpuNumber(2)), Err(HostError::ModuleGone));
                assert!(!host.platform().is_online(CpuNumber(2)));
                assert_eq!(host.shutdown(), Ok(()));
            } else {
                let second = update(&host, &file("1.5.08")).map(|report| report.to);
                assert_eq!(second, Ok(Version::new(1, 5, 8)), "{leaf} on {lp}");
            }
        }
    }
}

#[test]
fn each_fault_of_an_update_ends_in_its_name() {
    for info in CATALOGUE.iter().filter(|info| info.breaks == Breaks::Update) {
        let expected = match info.name {
            // The host of this test did not ask the module to look.
            "td-build-in-progress" | "interrupted-migrations" | "no-entropy-for-install" => "",
            "no-entropy-for-log" | "seamcall-fails" => "install-failed",
            other => panic!("no expectation for {other}"),
        };
        let host = up(machine_1_5(), CpuMode::Sequential);
        let fault = Fault::by_name(info.name, host.platform().machine().spec()).unwrap();
        host.platform().machine().inject(fault).unwrap();
        let result = update(&host, &file("1.5.08"));
        assert_eq!(result.err().map_or("", |error| error.name()), expected, "{}", info.name);
    }
}

#[test]
fn td_builds_hold_an_update_off_where_the_module_was_told_to_watch() {
    use tdx_abi::features::Features0;
    let mut spec = machine_1_5();
    spec.module.profile = "1.5.34".into();
    let options = HostOptions { opt_in: Features0::UPDATE_COMPATIBILITY, ..HostOptions::default() };
    let host = TdxHost::new(switch_on(spec, CpuMode::Sequential), options);
    assert_eq!(host.bring_up(&()).unwrap().opted_in, Features0::UPDATE_COMPATIBILITY);
    let again = {
        let mut module = ModuleSpec::new(Version::new(1, 5, 34), "1.5.34");
        module.svn.minor = 15;
        image(&module, HeaderVersion::V0x200).unwrap()
    };
    for fault in [Fault::TdBuildInProgress { count: 2 }, Fault::InterruptedMigrations { count: 1 }] {
        host.platform().machine().inject(fault).unwrap();
        let error = update(&host, &again).unwrap_err();
        assert_eq!(error.name(), "td-build-in-progress");
        assert_eq!(host.status().lifecycle, Lifecycle::Ready);
        assert_eq!(read(&host, "version").unwrap(), "1.5.34\n");
        host.platform().machine().inject(Fault::TdBuildInProgress { count: 0 }).unwrap();
        host.platform().machine().inject(Fault::InterruptedMigrations { count: 0 }).unwrap();
    }
    let report = update(&host, &again).unwrap();
    assert_eq!(report.opted_in, Features0::UPDATE_COMPATIBILITY);
}

#[test]
fn readers_see_the_old_version_or_the_new_one_and_nothing_else() {
    for mode in BOTH {
        let host = up(machine_1_5(), mode);
        let done = AtomicBool::new(false);
        let versions = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut seen = Vec::new();
                    while !done.load(Ordering::SeqCst) {
                        let version = read(&host, "version").unwrap();
                        if seen.last() != Some(&version) {
                            seen.push(version);
                        }
                    }
                    versions.lock().unwrap().push(seen);
                });
            }
            scope.spawn(|| {
                let mut seen = Vec::new();
                while !done.load(Ordering::SeqCst) {
                    let status = host.status();
                    if status.lifecycle == Lifecycle::Ready {
                        let version = status.version.expect("a module that is ready has a version");
                        seen.push(format!("{version}\n"));
                    }
                }
                versions.lock().unwrap().push(seen);
            });
            let updates = ["1.5.08", "1.5.09", "1.5.13"].map(|release| {
                host.update(&file(release), &UpdateOptions::default(), &()).map(|report| report.to)
            });
            done.store(true, Ordering::SeqCst);
            assert_eq!(updates.last(), Some(&Ok(Version::new(1, 5, 13))), "{updates:?}");
        });
        for seen in versions.into_inner().unwrap() {
            let mut sorted = seen.clone();
            sorted.sort();
            assert_eq!(seen, sorted, "never back");
            assert!(seen.iter().all(|version| version.starts_with("1.5.")));
        }
    }
}

#[test]
fn a_shutdown_waits_for_the_update_and_a_second_update_is_refused() {
    let host = up(machine_1_5(), CpuMode::Sequential);
    let image = file("1.5.08");
    let second = Mutex::new(None);
    thread::scope(|scope| {
        let shutdown = Mutex::new(None);
        let observer = At(UpdatePhase::Install, || {
            let again = host.update(&image, &UpdateOptions::default(), &());
            *second.lock().unwrap() = Some(again);
            *shutdown.lock().unwrap() = Some(scope.spawn(|| host.shutdown()));
        });
        let report = host.update(&image, &UpdateOptions::default(), &observer);
        assert_eq!(report.unwrap().to, Version::new(1, 5, 8));
        let shutdown = shutdown.into_inner().unwrap().unwrap();
        assert_eq!(shutdown.join().unwrap(), Ok(()));
    });
    assert_eq!(second.into_inner().unwrap(), Some(Err(HostError::UpdateRunning)));
    assert_eq!(host.status().lifecycle, Lifecycle::ShutDown);
}

#[test]
fn a_cpu_that_goes_meanwhile_waits_for_the_end_of_the_lockstep() {
    let host = up(machine_1_5(), CpuMode::Threads);
    let image = file("1.5.08");
    thread::scope(|scope| {
        let gone = Mutex::new(None);
        let observer = At(UpdatePhase::Install, || {
            *gone.lock().unwrap() = Some(scope.spawn(|| host.cpu_offline(CpuNumber(3))));
            assert!(host.platform().is_online(CpuNumber(3)));
        });
        assert!(host.update(&image, &UpdateOptions::default(), &observer).is_ok());
        let gone = gone.into_inner().unwrap().unwrap();
        assert_eq!(gone.join().unwrap(), Ok(()));
    });
    assert_eq!(update(&host, &file("1.5.09")).unwrap_err().name(), "update-cpu-offline");
}
