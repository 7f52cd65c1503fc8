//! Modules that come and go on a whole machine, and the faults of an update.

use tdx_abi::leaf::{LeafWord, SeamcallLeaf, SeamldrLeaf};
use tdx_abi::seamldr::{SCENARIO_LOAD, SCENARIO_UPDATE, SeamldrInfo, SeamldrParams, Version};
use tdx_abi::status::{SeamldrStatus, Status, StatusCode};
use tdx_abi::{KeyId, PhysAddr, Registers};
use tdx_image::build::{self, ModuleSpec};
use tdx_machine::fault::{Answer, Breaks, CATALOGUE, CallLeaf};
use tdx_machine::spec::{Generation, UnknownRelease};
use tdx_machine::{Event, Fault, LpIndex, Machine, PlatformSpec, SeamFault, presets};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::common::{call, enter_vmx, quiet};

const PARAMS: u64 = 0x20_0000;
const SIGSTRUCT: u64 = 0x20_1000;
const PAGES: u64 = 0x21_0000;
const INFO: u64 = 0x30_0000;

fn spec(name: &str) -> PlatformSpec {
    quiet(presets::find(name).expect(name).spec().expect(name))
}

fn machine(spec: PlatformSpec) -> Machine {
    let machine = Machine::power_on(spec, 1).expect("valid");
    enter_vmx(&machine);
    machine
}

fn write(machine: &Machine, pa: u64, bytes: &[u8]) {
    machine.write(PhysAddr::new(pa), KeyId::TME, bytes).expect("RAM");
}

/// Puts a module that is built like this in memory.
fn place(machine: &Machine, scenario: u32, spec: &ModuleSpec) {
    let (sigstruct, module) = build::module(spec).expect("a sound specification");
    write(machine, SIGSTRUCT, sigstruct.as_bytes());
    write(machine, PAGES, &module);
    let mut params = SeamldrParams::new_zeroed();
    params.scenario.set(scenario);
    params.sigstruct_pa.set(SIGSTRUCT);
    params.num_module_pages.set(module.len() as u64 / 4096);
    for (slot, pa) in params.module_pages.iter_mut().zip((PAGES..).step_by(4096)).take(module.len() / 4096) {
        slot.set(pa);
    }
    write(machine, PARAMS, params.as_bytes());
}

/// A newer module of the line that the made-up machines have.
fn newer() -> ModuleSpec {
    let mut spec = ModuleSpec::new(Version::new(2, 1, 1), "connect");
    spec.svn.minor = 11;
    spec.module_handoff_version = 1;
    spec
}

fn install(machine: &Machine, lp: LpIndex) -> Result<(SeamldrStatus, u64), SeamFault> {
    let rax = LeafWord::seamldr(SeamldrLeaf::INSTALL).raw();
    let mut regs = Registers { rax, rcx: PARAMS, rdx: 9, ..Registers::default() };
    machine.seamcall(lp, &mut regs).map(|()| (SeamldrStatus(regs.rax), regs.rdx))
}

/// All LPs call; what the last one got.
fn install_everywhere(machine: &Machine) -> (SeamldrStatus, u64) {
    let mut last = None;
    for lp in machine.lps() {
        last = Some(install(machine, lp.index).expect("an answer"));
    }
    last.expect("a machine has LPs")
}

fn info(machine: &Machine) -> SeamldrInfo {
    let rax = LeafWord::seamldr(SeamldrLeaf::INFO).raw();
    let mut regs = Registers { rax, rcx: INFO, ..Registers::default() };
    machine.seamcall(LpIndex(0), &mut regs).expect("an answer");
    assert_eq!(regs.rax, 0);
    let mut bytes = [0; size_of::<SeamldrInfo>()];
    machine.read(PhysAddr::new(INFO), KeyId::TME, &mut bytes).expect("RAM");
    SeamldrInfo::read_from_bytes(&bytes).expect("256 bytes")
}

fn version(machine: &Machine) -> Option<Version> {
    machine.seam().module.map(|module| module.version)
}

const DONE: (SeamldrStatus, u64) = (SeamldrStatus::SUCCESS, 0);

#[test]
fn a_load_replaces_the_module_and_a_power_cycle_brings_the_boot_image_back() {
    let machine = machine(spec("default"));
    assert_eq!(call(&machine, LpIndex(3), SeamcallLeaf::SYS_INIT), StatusCode::SUCCESS.plain());
    let boot = (version(&machine), info(&machine));
    assert_eq!(boot.1.num_remaining_updates.get(), 15);
    place(&machine, SCENARIO_LOAD, &newer());
    assert_eq!(install_everywhere(&machine), DONE);
    assert_eq!(version(&machine), Some(Version::new(2, 1, 1)));
    let seen = info(&machine);
    assert_eq!((seen.tcb_svn.get(), seen.seam_ready), (0x030B, 1));
    assert_eq!(call(&machine, LpIndex(3), SeamcallLeaf::SYS_INIT), StatusCode::SUCCESS.plain(), "fresh");

    place(&machine, SCENARIO_UPDATE, &newer());
    assert_eq!(install_everywhere(&machine), (SeamldrStatus::EBADHANDOFF, 0), "nothing was handed off");
    assert_eq!(version(&machine), Some(Version::new(2, 1, 1)));
    machine.power_cycle();
    enter_vmx(&machine);
    assert_eq!((version(&machine), info(&machine)), boot);
}

#[test]
fn a_full_log_refuses_updates_until_the_power_cycle() {
    let mut spec = spec("default");
    spec.seamldr.remaining_updates = 2;
    let machine = machine(spec);
    let left = |machine: &Machine| info(machine).num_remaining_updates.get();
    let update = || {
        // A valid header is all that the P-SEAMLDR asks of hand-off data.
        machine.set_handoff_area(&[1, 0, 0, 0, 0, 0, 0, 0]);
        install_everywhere(&machine)
    };
    place(&machine, SCENARIO_UPDATE, &newer());
    for expected in [1, 0] {
        assert_eq!(update(), DONE);
        assert_eq!(left(&machine), expected);
    }
    for _ in 0..2 {
        assert_eq!(update(), (SeamldrStatus::EBADCALL, 0));
        assert_eq!((left(&machine), info(&machine).seam_ready), (0, 1), "the module stays");
    }
    machine.power_cycle();
    enter_vmx(&machine);
    assert_eq!(left(&machine), 2);
    place(&machine, SCENARIO_UPDATE, &newer());
    assert_eq!(update(), DONE);
}

#[test]
fn every_machine_with_tdx_takes_a_module_of_its_line() {
    for preset in presets::all() {
        let spec = spec(preset.name);
        let machine = machine_if_tdx(spec);
        let Some(machine) = machine else { continue };
        let seen = machine.seam();
        let Some(running) = seen.module else { continue };
        let eax = machine.cpuid(LpIndex(0), 1, 0).eax;
        let cpu = tdx_image::cpus::code_name(eax).expect("a CPU that a SIGSTRUCT can name");
        let loader = seen.loader.config.version;
        assert!(
            loader.major == 1 && loader.minor == 0 || cpu.seamldr_line == Some((loader.major, loader.minor)),
            "{}",
            preset.name
        );
        let mut image = ModuleSpec::new(running.version, running.profile.name);
        (image.svn.major, image.svn.minor) = (running.profile.svn.major, running.profile.svn.minor);
        image.cpus = vec![eax];
        place(&machine, SCENARIO_LOAD, &image);
        let beyond = machine.lps().iter().any(|lp| lp.x2apic_id >= seen.loader.config.x2apic_limit);
        let missing = machine.faults().contains(&Fault::LpMissing);
        assert_eq!(beyond, preset.name == "sparse-x2apic", "{}", preset.name);
        for lp in machine.lps() {
            let expected = if lp.x2apic_id >= seen.loader.config.x2apic_limit {
                SeamldrStatus::EUNSPECERR
            } else {
                SeamldrStatus::SUCCESS
            };
            assert_eq!(install(&machine, lp.index), Ok((expected, 0)), "{}: {}", preset.name, lp.index);
        }
        assert_eq!(machine.seam().loader.seam_ready, !beyond && !missing, "{}", preset.name);
    }
}

/// A machine on which LPs can enter VMX operation and SEAM is on.
fn machine_if_tdx(spec: PlatformSpec) -> Option<Machine> {
    let has_tdx = spec.cpu.kind.has_tdx() && spec.module.present;
    has_tdx.then(|| machine(spec))
}

#[test]
fn a_machine_can_be_told_what_images_to_take() {
    let refused = |change: fn(&mut PlatformSpec), image: &ModuleSpec| {
        let mut spec = spec("tiny");
        change(&mut spec);
        let machine = machine(spec);
        place(&machine, SCENARIO_LOAD, image);
        install_everywhere(&machine)
    };
    let sound = newer();
    let debug = ModuleSpec { debug: true, ..newer() };
    assert_eq!(refused(|_| {}, &sound), DONE);
    assert_eq!(refused(|spec| spec.seamldr.trust_test_key = false, &sound), (SeamldrStatus::EBADSIG, 0));
    assert_eq!(refused(|_| {}, &debug), (SeamldrStatus::EBADSIG, 0));
    assert_eq!(refused(|spec| spec.seamldr.debug_unlocked = true, &debug), DONE);
    assert_eq!(
        refused(|spec| spec.seamldr.generation = Some(Generation::V1_5_02), &sound),
        (SeamldrStatus::EBADSIG, 0),
        "a 2.0 SIGSTRUCT has version bytes"
    );
}

#[test]
fn an_image_of_no_known_release_shows_in_the_log() {
    let run = |unknown_release| {
        let mut spec = spec("tiny");
        spec.seamldr.signature_checks = false;
        spec.seamldr.unknown_release = unknown_release;
        let machine = machine(spec);
        place(&machine, SCENARIO_LOAD, &newer());
        // Not the test key's any more, and nobody looks at the signature.
        write(&machine, SIGSTRUCT + 0x80, &[0; 8]);
        (install_everywhere(&machine), machine)
    };
    let (answer, machine) = run(UnknownRelease::Nearest);
    assert_eq!(answer, DONE);
    let event = machine.log().into_iter().find(|event| matches!(event, Event::NearestRelease { .. }));
    let event = event.expect("an event");
    assert!(event.is_warning());
    let text = event.to_string();
    assert!(text.contains("3.11") && text.contains("2.0.18"), "{text}");
    let (answer, machine) = run(UnknownRelease::Refuse);
    assert_eq!(answer, (SeamldrStatus::EUNSUPPORTED, 0));
    assert!(machine.log().is_empty());
}

#[test]
fn entropy_fails_for_the_address_or_for_the_log() {
    for (fault, answer, left) in [
        (Fault::NoEntropyForInstall { times: 1 }, (SeamldrStatus::ENOENTROPY, 0), true),
        (Fault::NoEntropyForLog { times: 1 }, (SeamldrStatus::ENOENTROPY, 1), false),
    ] {
        let machine = machine(spec("tiny"));
        machine.inject(fault.clone()).expect("possible");
        place(&machine, SCENARIO_LOAD, &newer());
        assert_eq!(install_everywhere(&machine), answer, "{}", fault.name());
        assert_eq!(version(&machine).is_some(), left, "{}", fault.name());
        assert_eq!(install_everywhere(&machine), DONE, "{}: the second time", fault.name());
    }
}

#[test]
fn chance_alone_never_stops_an_install() {
    let mut spec = spec("tiny");
    spec.chaos.no_entropy = 1_000_000;
    let machine = machine(spec);
    place(&machine, SCENARIO_LOAD, &newer());
    assert_eq!(install(&machine, LpIndex(0)), Ok((SeamldrStatus::EUNSPECERR, 9)), "no stack canary");
    let mut spec = self::spec("tiny");
    spec.chaos.no_entropy = 500_000;
    let machine = self::machine(spec);
    place(&machine, SCENARIO_LOAD, &newer());
    while install(&machine, LpIndex(0)) != Ok(DONE) {}
    assert_eq!(install(&machine, LpIndex(1)), Ok(DONE));
}

#[test]
fn a_failing_seamcall_never_reaches_the_software() {
    let machine = machine(spec("tiny"));
    let init = CallLeaf::Module(SeamcallLeaf::SYS_INIT);
    let status = Answer::Status(StatusCode::SYS_BUSY.plain().raw());
    machine.inject(Fault::SeamcallFails { leaf: init, lp: 1, status, times: 2 }).expect("possible");
    for _ in 0..2 {
        assert_eq!(call(&machine, LpIndex(1), SeamcallLeaf::SYS_INIT), StatusCode::SYS_BUSY.plain());
    }
    assert_eq!(machine.seam().module.expect("a module").calls_of(SeamcallLeaf::SYS_INIT), 0);
    let failed = Event::SeamcallFailed { lp: LpIndex(1), rax: 33 };
    assert_eq!(machine.log(), [failed, failed]);
    assert!(failed.to_string().contains("TDH.SYS.INIT on LP 1"));
    assert_eq!(call(&machine, LpIndex(1), SeamcallLeaf::SYS_INIT), StatusCode::SUCCESS.plain());

    let leaf = CallLeaf::Seamldr(SeamldrLeaf::INSTALL);
    let fault = Fault::SeamcallFails { leaf, lp: 0, status: Answer::VmFailInvalid, times: 1 };
    machine.inject(fault).expect("possible");
    place(&machine, SCENARIO_LOAD, &newer());
    assert_eq!(install(&machine, LpIndex(0)), Err(SeamFault::VmFailInvalid));
    assert_eq!(machine.seam().loader.session_lps, None);
    assert_eq!(install_everywhere(&machine), DONE);

    let status = Answer::Status(SeamldrStatus::EBADHASH.0);
    machine.inject(Fault::SeamcallFails { leaf, lp: 1, status, times: 1 }).expect("possible");
    assert_eq!(install(&machine, LpIndex(1)), Ok((SeamldrStatus::EBADHASH, 0)));
    let beyond = Fault::SeamcallFails { leaf, lp: 2, status, times: 1 };
    assert!(machine.inject(beyond).is_err(), "an LP that does not exist");
}

#[test]
fn a_failing_seamcall_is_written_as_names_and_ends_with_the_power_cycle() {
    let text = presets::find("tiny").expect("a preset").toml.replace(
        "[cpu]",
        "faults = [{ seamcall-fails = { leaf = \"SEAMLDR.INSTALL\", lp = 1, status = \"ENOENTROPY\", times = 3 } }]\n[cpu]",
    );
    let from_file = PlatformSpec::from_toml(&text).expect("valid");
    let [fault] = from_file.faults.as_slice() else { panic!("one fault") };
    assert!(matches!(fault, Fault::SeamcallFails { lp: 1, times: 3, .. }));
    assert!(PlatformSpec::from_toml(&text.replace("ENOENTROPY", "EBADLUCK")).is_err());
    assert!(PlatformSpec::from_toml(&text.replace("SEAMLDR.INSTALL", "SEAMLDR.UNINSTALL")).is_err());

    let machine = machine(spec("tiny"));
    machine.inject(fault.clone()).expect("possible");
    machine.power_cycle();
    enter_vmx(&machine);
    place(&machine, SCENARIO_LOAD, &newer());
    assert_eq!(install_everywhere(&machine), DONE);
}

#[test]
fn td_builds_and_interrupted_migrations_are_counted_by_the_module() {
    let counts = |machine: &Machine| {
        let module = machine.seam().module.expect("a module");
        (module.td_builds, module.interrupted_migrations)
    };
    let machine = machine(spec("tiny"));
    machine.inject(Fault::TdBuildInProgress { count: 3 }).expect("possible");
    machine.inject(Fault::InterruptedMigrations { count: 2 }).expect("possible");
    assert_eq!(counts(&machine), (3, 2));
    machine.inject(Fault::TdBuildInProgress { count: 0 }).expect("possible");
    assert_eq!(counts(&machine), (0, 2));
    machine.power_cycle();
    assert_eq!(counts(&machine), (0, 0));
    let mut spec = spec("tiny");
    spec.faults = vec![Fault::TdBuildInProgress { count: 5 }];
    let machine = Machine::power_on(spec, 1).expect("valid");
    assert_eq!(counts(&machine), (5, 0));
}

#[test]
fn lps_that_race_reach_the_old_module_none_or_the_new_one() {
    let machine = machine(spec("default"));
    place(&machine, SCENARIO_LOAD, &newer());
    let sys_init = |lp| {
        let mut regs = Registers { rax: u64::from(SeamcallLeaf::SYS_INIT.0), ..Registers::default() };
        machine.seamcall(lp, &mut regs).map(|()| Status::from_raw(regs.rax).code())
    };
    assert_eq!(sys_init(LpIndex(0)), Ok(StatusCode::SUCCESS), "the old module is initialised");
    let late = |code| [StatusCode::SYS_INIT_NOT_PENDING, StatusCode::SYS_BUSY].contains(&code);
    let run = |lp| {
        for _ in 0..50 {
            let answer = sys_init(lp);
            assert!(answer.is_err() || answer.is_ok_and(late), "the old module or none: {answer:?}");
        }
        // The P-SEAMLDR takes one LP at a time.
        while install(&machine, lp).is_err() {
            std::hint::spin_loop();
        }
        let first = loop {
            if let Ok(answer) = sys_init(lp) {
                break answer;
            }
            std::hint::spin_loop();
        };
        assert!(first == StatusCode::SUCCESS || late(first), "{first:?}");
        u32::from(first == StatusCode::SUCCESS)
    };
    let fresh: u32 = std::thread::scope(|scope| {
        let lps: Vec<_> = machine.lps().iter().map(|lp| scope.spawn(move || run(lp.index))).collect();
        lps.into_iter().map(|lp| lp.join().expect("no LP fails")).sum()
    });
    assert_eq!(fresh, 1, "one LP was the first in the new module");
    assert_eq!(version(&machine), Some(Version::new(2, 1, 1)));
}

#[test]
fn after_a_power_cut_nothing_changes_until_the_cycle() {
    let machine = machine(spec("tiny"));
    place(&machine, SCENARIO_LOAD, &newer());
    assert_eq!(install(&machine, LpIndex(0)), Ok(DONE));
    machine.cut_power();
    let before = machine.seam();
    assert_eq!(before.loader.session_lps, Some(1));
    for lp in machine.lps() {
        assert_eq!(install(&machine, lp.index), Err(SeamFault::VmFailInvalid));
        let mut regs = Registers { rax: 33, ..Registers::default() };
        assert_eq!(machine.seamcall(lp.index, &mut regs), Err(SeamFault::VmFailInvalid));
    }
    assert_eq!(machine.seam(), before);
    assert_eq!(machine.log(), [Event::PowerCut]);
    machine.power_cycle();
    enter_vmx(&machine);
    assert_eq!(machine.seam().loader.session_lps, None);
    assert_eq!(call(&machine, LpIndex(0), SeamcallLeaf::SYS_INIT), StatusCode::SUCCESS.plain());
}

#[test]
fn faults_of_an_update_do_not_show_in_a_bring_up() {
    let names: Vec<_> =
        CATALOGUE.iter().filter(|info| info.breaks == Breaks::Update).map(|info| info.name).collect();
    assert_eq!(
        names,
        [
            "td-build-in-progress",
            "interrupted-migrations",
            "no-entropy-for-install",
            "no-entropy-for-log",
            "seamcall-fails"
        ]
    );
}
