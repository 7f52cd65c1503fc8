//! Histories of updates: whatever comes in whatever order, host and module agree on what there is.

use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use tdx_abi::leaf::{SeamcallLeaf, SeamldrLeaf};
use tdx_abi::seamldr::Version;
use tdx_abi::status::SeamldrStatus;
use tdx_host::traits::{CpuNumber, Cpus};
use tdx_host::{HostError, Lifecycle, UpdateOptions, UpdatePhase};
use tdx_image::build::{self, ModuleSpec};
use tdx_image::sigstruct::Svn;
use tdx_image::{HeaderVersion, Image};
use tdx_machine::fault::{Answer, CallLeaf};
use tdx_machine::{Fault, Machine, PlatformSpec};
use tdx_module::ModuleState;
use tdx_platform::{CpuMode, HostOptions, PageAccounts, Platform, TdxHost};

use crate::quiet;

const CPUS: u32 = 3;
/// Updates that the log takes, so few that it gets full.
const LOG: u32 = 4;
/// What the machine starts with.
const START: Version = Version::new(2, 0, 8);

/// Three CPUs and a module of 2.0.
fn spec() -> PlatformSpec {
    let mut spec = quiet("tiny");
    spec.cpu.cores = CPUS;
    "2.0.08".clone_into(&mut spec.module.profile);
    spec.seamldr.remaining_updates = LOG;
    spec
}

/// An image, and what becomes of an update to it where nothing else speaks against it.
struct Candidate {
    bytes: Vec<u8>,
    version: Version,
    svn: u8,
    /// Refused before anything is touched.
    refused: Option<&'static str>,
    /// Refused by P-SEAMLDR.
    fails: Option<&'static str>,
}

fn candidates() -> &'static [Candidate] {
    static CANDIDATES: OnceLock<Vec<Candidate>> = OnceLock::new();
    CANDIDATES.get_or_init(make_candidates)
}

fn make_candidates() -> Vec<Candidate> {
    let of = |update, svn| {
        let version = Version::new(2, 0, update);
        ModuleSpec { svn: Svn { major: 3, minor: svn }, pages: 5, ..ModuleSpec::new(version, "2.0.08") }
    };
    let file = |spec: &ModuleSpec| build::image(spec, HeaderVersion::V0x200).expect("a sound description");
    let good = |update, svn| {
        let spec = of(update, svn);
        let bytes = file(&spec);
        Candidate { bytes, version: spec.version, svn, refused: None, fails: None }
    };
    let refused =
        |spec: &ModuleSpec, name| Candidate { refused: Some(name), bytes: file(spec), ..good(14, 7) };
    let fails = |bytes, name| Candidate { fails: Some(name), bytes, ..good(14, 7) };
    let other_line = ModuleSpec { svn: Svn { major: 1, minor: 20 }, ..of(14, 7) };
    let debug = ModuleSpec { debug: true, ..of(14, 7) };
    let other_cpu = ModuleSpec { cpus: vec![0x806F8], ..of(14, 7) };
    let other_handoff = ModuleSpec { min_update_handoff_version: 7, module_handoff_version: 7, ..of(14, 7) };
    let outside = ModuleSpec { relocation_outside: true, ..of(14, 7) };
    let mut damaged = file(&of(14, 7));
    damaged.truncate(9000);
    vec![
        good(8, 5),
        good(10, 6),
        good(14, 7),
        good(20, 7),
        refused(&debug, "image-debug"),
        refused(&other_line, "image-svn-line-differs"),
        refused(&other_cpu, "image-cpu-unsupported"),
        refused(&other_handoff, "image-handoff-differs"),
        Candidate { bytes: damaged, ..refused(&of(14, 7), "image-refused") },
        fails(forged(&of(14, 7)), "install-failed-recoverable"),
        fails(file(&outside), "install-failed"),
    ]
}

/// A signature of another module.
fn forged(spec: &ModuleSpec) -> Vec<u8> {
    let whole = build::image(spec, HeaderVersion::V0x200).expect("a sound description");
    let image = Image::parse(&whole).expect("a sound image");
    let mut sigstruct = *image.sigstruct();
    sigstruct.signature[17] ^= 1;
    build::wrap(HeaderVersion::V0x200, &sigstruct, image.module()).expect("as large as before")
}

#[derive(Clone, Debug)]
enum Step {
    Update(usize),
    Offline(u32),
    Online(u32),
    Fault(Fault),
    PowerCycle,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let leaf = prop_oneof![
        Just(CallLeaf::Module(SeamcallLeaf::SYS_SHUTDOWN)),
        Just(CallLeaf::Seamldr(SeamldrLeaf::INSTALL)),
        Just(CallLeaf::Seamldr(SeamldrLeaf::INSTALL)),
        Just(CallLeaf::Module(SeamcallLeaf::SYS_INIT)),
        Just(CallLeaf::Module(SeamcallLeaf::SYS_LP_INIT)),
        Just(CallLeaf::Module(SeamcallLeaf::SYS_UPDATE)),
    ];
    let answer = prop_oneof![
        Just(Answer::VmFailInvalid),
        Just(Answer::Status(SeamldrStatus::EBADPARAM.0)),
        Just(Answer::Status(SeamldrStatus::ENOENTROPY.0)),
    ];
    let fault = prop_oneof![
        4 => (leaf, 0..CPUS, answer, 1..3u32)
            .prop_map(|(leaf, lp, status, times)| Fault::SeamcallFails { leaf, lp, status, times }),
        1 => (1..8u32).prop_map(|times| Fault::NoEntropyForInstall { times }),
        1 => (1..2u32).prop_map(|times| Fault::NoEntropyForLog { times }),
    ];
    let step = prop_oneof![
        12 => (0..candidates().len()).prop_map(Step::Update),
        // The ones that nothing is wrong with.
        8 => (0..4usize).prop_map(Step::Update),
        3 => (0..CPUS).prop_map(Step::Offline),
        5 => (0..CPUS).prop_map(Step::Online),
        3 => fault.prop_map(Step::Fault),
        2 => Just(Step::PowerCycle),
    ];
    prop::collection::vec(step, 1..24)
}

/// What a history must have led to.
struct History {
    platform: Arc<Platform>,
    host: TdxHost,
    version: Version,
    svn: u8,
    remaining: u32,
    state: Lifecycle,
    /// A fault was injected in this boot, and may wait for its call.
    faulty: bool,
    pages: PageAccounts,
}

fn boot(platform: &Arc<Platform>) -> TdxHost {
    let host = TdxHost::new(Arc::clone(platform), HostOptions::default());
    host.bring_up(&()).expect("a healthy machine comes up");
    host
}

impl History {
    fn new() -> Self {
        let machine = Arc::new(Machine::power_on(spec(), 0).expect("a sound platform"));
        Self::on(Arc::new(Platform::new(machine, CpuMode::Sequential)))
    }

    fn on(platform: Arc<Platform>) -> Self {
        let host = boot(&platform);
        let pages = platform.page_accounts();
        let svn = host.seamldr_info().expect("an answer").tcb_svn.get().to_le_bytes()[0];
        let (remaining, state) = (LOG, Lifecycle::Ready);
        Self { platform, host, version: START, svn, remaining, state, faulty: false, pages }
    }

    fn make(&mut self, step: &Step) {
        match *step {
            Step::Update(index) => self.update(&candidates()[index]),
            Step::Offline(cpu) => {
                let was_online = self.platform.is_online(CpuNumber(cpu));
                let gone = self.host.cpu_offline(CpuNumber(cpu));
                match (was_online, self.state) {
                    (false, _) => assert_eq!(named(gone), "cpu-offline"),
                    (true, Lifecycle::Down) => assert_eq!(named(gone), "module-down"),
                    (true, _) => assert_eq!(gone, Ok(())),
                }
            }
            Step::Online(cpu) => {
                let was_online = self.platform.is_online(CpuNumber(cpu));
                let came = self.host.cpu_online(CpuNumber(cpu));
                match (was_online, self.state) {
                    (false, Lifecycle::Down) => assert_eq!(named(came), "module-down"),
                    (false, Lifecycle::Gone) => assert_eq!(named(came), "module-gone"),
                    // It is known to the module since boot or since the update, and needs no call.
                    _ => assert_eq!(came, Ok(())),
                }
            }
            Step::Fault(ref fault) => {
                self.platform.machine().inject(fault.clone()).expect("this machine can have it");
                self.faulty = true;
            }
            Step::PowerCycle => {
                self.platform.power_cycle();
                *self = Self::on(Arc::clone(&self.platform));
            }
        }
        self.agree();
    }

    /// What is said before anything is touched, in the order in which it is asked.
    fn refusal(&self, candidate: &Candidate) -> Option<&'static str> {
        let online = self.platform.online_cpus().len();
        let is = |name| candidate.refused.filter(|refused| *refused == name);
        is("image-refused")
            .or((self.state == Lifecycle::Gone).then_some("module-gone"))
            .or(is("image-debug"))
            // Nobody is there to ask P-SEAMLDR.
            .or((online == 0).then_some("no-cpu-online"))
            .or(is("image-handoff-differs"))
            .or(is("image-svn-line-differs"))
            .or((candidate.svn < self.svn).then_some("image-svn-older"))
            .or((self.remaining == 0).then_some("update-log-full"))
            .or(is("image-cpu-unsupported"))
            .or((online < CPUS as usize).then_some("update-cpu-offline"))
    }

    fn update(&mut self, candidate: &Candidate) {
        let module = self.platform.machine().seam().module;
        let ended = self.host.update(&candidate.bytes, &UpdateOptions::default(), &());
        if let Some(name) = self.refusal(candidate) {
            assert_eq!(named(ended), name);
            let mut after = self.platform.machine().seam().module;
            // But for what was asked of it.
            if let (Some(after), Some(module)) = (&mut after, &module) {
                after.calls.clone_from(&module.calls);
            }
            assert_eq!(after, module, "{name} touched the module");
            return;
        }
        match &ended {
            Ok(report) => {
                assert_eq!(candidate.fails, None);
                assert_eq!((report.from, report.to), (self.version, candidate.version));
                assert_eq!(report.was_down, self.state == Lifecycle::Down);
                self.remaining -= 1;
                assert_eq!(report.remaining_updates, Some(self.remaining));
                (self.version, self.svn, self.state) = (candidate.version, candidate.svn, Lifecycle::Ready);
            }
            Err(error) => {
                let failure = self.host.state().update_failure().expect("the failure is kept");
                assert_eq!(failure.error, *error);
                if !self.faulty {
                    assert_eq!(Some(error.name()), candidate.fails);
                }
                self.state = match (failure.phase, error.name()) {
                    (UpdatePhase::Shutdown, "update-shutdown-refused") => Lifecycle::Ready,
                    (UpdatePhase::Install, "install-failed-recoverable") => Lifecycle::Down,
                    (UpdatePhase::Install, "install-failed")
                    | (UpdatePhase::Init, "update-init-failed")
                    | (UpdatePhase::Update, "handoff-refused") => Lifecycle::Gone,
                    other => panic!("{other:?} is no end of an update: {error}"),
                };
                // The log takes what was installed, whether or not it came to life.
                self.remaining -=
                    u32::from(failure.phase > UpdatePhase::Install && self.installed(candidate));
            }
        }
    }

    /// The module in the SEAM range is the candidate's.
    fn installed(&self, candidate: &Candidate) -> bool {
        self.platform
            .machine()
            .seam()
            .module
            .is_some_and(|module| module.version == candidate.version && module.state < ModuleState::SysReady)
    }

    /// Host and module agree, nothing was lost, and the counter is as predicted.
    fn agree(&self) {
        let (status, seam) = (self.host.status(), self.platform.machine().seam());
        assert_eq!(status.lifecycle, self.state);
        assert_eq!(self.platform.page_accounts(), self.pages, "pages");
        assert_eq!(seam.loader.config.remaining_updates, self.remaining, "the log");
        let version = self.host.device().expect("nobody removes the device").read("version");
        match self.state {
            Lifecycle::Ready => {
                let module = seam.module.expect("a module is loaded");
                assert!(seam.loader.seam_ready && module.state == ModuleState::SysReady);
                assert_eq!((module.version, status.version), (self.version, Some(self.version)));
                assert_eq!(version, Ok(format!("{}\n", self.version)));
                assert_eq!(module.initialised_lps.len(), CPUS as usize);
                assert_eq!(status.cpus_initialised, CPUS);
                let told = self.host.tdmrs();
                assert_eq!(module.tdmrs.len(), told.len());
                for (tdmr, told) in module.tdmrs.iter().zip(told) {
                    assert_eq!((tdmr.range, tdmr.initialised), (told.range, told.range));
                }
                assert_eq!(module.global_key, status.global_keyid);
            }
            Lifecycle::Down => {
                assert_eq!(
                    (version.map_err(|error| error.name()), status.version),
                    (Err("module-down"), None)
                );
                assert_eq!(seam.module.map(|module| module.state), Some(ModuleState::SysShutdown));
            }
            _ => {
                assert_eq!(
                    (version.map_err(|error| error.name()), status.version),
                    (Err("module-gone"), None)
                );
                let ready = seam.module.filter(|module| module.state == ModuleState::SysReady);
                assert_eq!(ready, None, "a module in service that the host gave up");
            }
        }
    }
}

fn named<T>(result: Result<T, HostError>) -> &'static str {
    result.map_or_else(|error| error.name(), |_| "success")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn host_and_module_agree_after_any_history_of_updates(steps in steps()) {
        let mut history = History::new();
        for step in &steps {
            history.make(step);
        }
        // Whatever it led to, a power cycle is the way out.
        history.make(&Step::PowerCycle);
    }
}
