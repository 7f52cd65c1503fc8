//! The scenario file: what is done to a machine, step by step, and what must come of it.

use std::path::Path;

use serde::Deserialize;
use tdx_host::error::ERRORS;
use tdx_host::tdmr::TdmrRules;
use tdx_machine::Fault;

use super::rig::{Rig, RigError};
use super::update::{PhaseName, UpdateStep};
use crate::text::nearest;

/// Why a scenario file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("scenario {path} cannot be read: {cause}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        cause: std::io::Error,
    },
    /// The file is no scenario; the reason names the key.
    #[error("scenario {path}{}: {reason}", line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Parse {
        /// The file.
        path: String,
        /// Line, 1-based.
        line: Option<usize>,
        /// What is wrong, with the key and what is allowed.
        reason: String,
    },
    /// A case asks for something that does not exist, so it could never end as the file says.
    #[error("scenario {path}, case {case:?}: {reason}")]
    Case {
        /// The file.
        path: String,
        /// Name of the case.
        case: String,
        /// What does not exist.
        reason: String,
    },
    /// The file has no case: nothing would be shown.
    #[error("scenario {0}: it has no [[case]], so it shows nothing; add one")]
    Empty(String),
}

/// A scenario: cases that run one after the other, each on a machine of its own.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Name, shown in reports.
    pub name: String,
    /// What the scenario is about.
    #[serde(default)]
    pub description: String,
    /// Seed of the machines unless the command line gives one.
    #[serde(default)]
    pub seed: u64,
    /// Preset or file of the machine, unless a case names another.
    #[serde(default)]
    pub platform: Option<String>,
    /// The cases.
    #[serde(default, rename = "case")]
    pub cases: Vec<Case>,
}

/// One machine and what happens to it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Name, shown in reports.
    pub name: String,
    /// Preset or file of the machine.
    #[serde(default)]
    pub platform: Option<String>,
    /// Faults of the catalogue that the machine has from power-on.
    #[serde(default)]
    pub faults: Vec<toml::Value>,
    /// How TDMRs are built.
    #[serde(default, rename = "tdmr-rules")]
    pub tdmr_rules: Option<RulesName>,
    /// The steps; without any, the machine is powered on and brought up.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// What the whole case may cost.
    #[serde(default)]
    pub limits: Limits,
}

/// Name of a set of TDMR rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
pub enum RulesName {
    /// CMRs decide what is reserved; neighbours merge, TDMRs split.
    #[serde(rename = "tdxhost")]
    #[value(name = "tdxhost")]
    Tdxhost,
    /// As Linux 7.3 builds them, with its limits.
    #[serde(rename = "linux-7.3")]
    #[value(name = "linux-7.3")]
    Linux73,
}

impl From<RulesName> for TdmrRules {
    fn from(name: RulesName) -> Self {
        match name {
            RulesName::Tdxhost => Self::Tdxhost,
            RulesName::Linux73 => Self::Linux73,
        }
    }
}

/// Absolute limits of a case, checked in release builds only.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Seconds from power-on to the end of the case.
    pub seconds: Option<f64>,
    /// Peak resident memory of the process in MiB at the end of the case.
    pub peak_rss_mib: Option<u64>,
}

/// How a machine is put to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SleepMode {
    /// ACPI S3.
    S3,
    /// Suspend to idle.
    S2idle,
    /// Suspend to disk.
    Hibernate,
}

/// One step. `expect` is the name of the error in which it must end; without it the step must
/// succeed.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
#[allow(missing_docs)] // The fields are explained at their variants.
pub enum Step {
    /// Power the machine on.
    PowerOn { expect: Option<String> },
    /// Bring the TDX module up. `opt-in` names add-on features (FEATURES0 bits).
    BringUp {
        expect: Option<String>,
        #[serde(default, rename = "opt-in")]
        opt_in: Vec<String>,
    },
    /// Take a CPU offline.
    Offline { cpu: u32, expect: Option<String> },
    /// Take a CPU online.
    Online { cpu: u32, expect: Option<String> },
    /// Allocate a guest KeyID, as the creation of a TD would.
    AllocateKeyid { expect: Option<String> },
    /// Give the KeyID back that was allocated last.
    FreeKeyid { expect: Option<String> },
    /// Suspend.
    Suspend { mode: SleepMode, expect: Option<String> },
    /// Wake up.
    Resume { expect: Option<String> },
    /// Offer hotplugged memory: `start` and `size` in bytes.
    HotplugMemory { start: u64, size: u64, expect: Option<String> },
    /// Orderly shutdown.
    ShutDown { expect: Option<String> },
    /// The kernel crashes.
    Crash { expect: Option<String> },
    /// Power off and on again: the module is gone, the machine as new.
    PowerCycle { expect: Option<String> },
    /// Give the machine a fault of the catalogue.
    Inject { fault: toml::Value, expect: Option<String> },
    /// Remove the device, as unloading its driver would.
    RemoveDevice { expect: Option<String> },
    /// Read an attribute of the device.
    Read { attribute: String, value: Option<String>, expect: Option<String> },
    /// Replace the module. Its `expect` is as that of the other steps.
    Update(Box<UpdateStep>),
    /// The next update fails in the phase `at` on a CPU: its call there ends in `status` (a name, a number
    /// or `vmfailinvalid`), or in one that leaves nothing to hope for.
    FailUpdate { at: PhaseName, cpu: u32, status: Option<String>, expect: Option<String> },
    /// The kernel crashes when the next update begins the phase `at`.
    CrashUpdate { at: PhaseName, expect: Option<String> },
    /// The machine loses power when the next update begins the phase `at`.
    PowerLoss { at: PhaseName, expect: Option<String> },
    /// Call the module on the lowest-numbered CPU, as any of its users would (TDH.SYS.RD).
    CallModule { expect: Option<String> },
    /// Check what is seen; every key given must match.
    Expect(Box<Expectation>),
}

impl Step {
    /// The name of the error in which the step must end.
    pub fn expected_error(&self) -> Option<&str> {
        match self {
            Self::PowerOn { expect }
            | Self::BringUp { expect, .. }
            | Self::Offline { expect, .. }
            | Self::Online { expect, .. }
            | Self::AllocateKeyid { expect }
            | Self::FreeKeyid { expect }
            | Self::Suspend { expect, .. }
            | Self::Resume { expect }
            | Self::HotplugMemory { expect, .. }
            | Self::ShutDown { expect }
            | Self::Crash { expect }
            | Self::PowerCycle { expect }
            | Self::Inject { expect, .. }
            | Self::RemoveDevice { expect }
            | Self::Read { expect, .. }
            | Self::FailUpdate { expect, .. }
            | Self::CrashUpdate { expect, .. }
            | Self::PowerLoss { expect, .. }
            | Self::CallModule { expect } => expect.as_deref(),
            Self::Update(update) => update.expect.as_deref(),
            Self::Expect(_) => None,
        }
    }
}

/// What an `expect` step checks.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Expectation {
    /// Where the host is in its life: `powered-off`, `off`, `checked`, `ready`, `module-down`, `module-gone`, `failed`,
    /// `shut-down`, `crashed`.
    pub state: Option<String>,
    /// Whether the `tdx_host` device exists.
    pub device: Option<bool>,
    /// Attribute names of the device, in order.
    pub attributes: Option<Vec<String>>,
    /// Calls of TDH.SYS.TDMR.INIT that bring-up needed.
    pub tdmr_init_calls: Option<u64>,
    /// Kilobytes of PAMT.
    pub pamt_kb: Option<u64>,
    /// TDMRs configured.
    pub tdmrs: Option<u64>,
    /// Pages that the host gave away and did not get back.
    pub leaked_pages: Option<u64>,
    /// CPUs online, as a kernel list (`0-3,8`).
    pub online: Option<String>,
    /// The module's `version`, as the device shows it.
    pub version: Option<String>,
    /// Updates that P-SEAMLDR still takes.
    pub remaining_updates: Option<u64>,
    /// Phase in which the last update stopped.
    pub failed_phase: Option<String>,
    /// CPU on which it stopped.
    pub failed_cpu: Option<u64>,
    /// Add-on features that are on, by name.
    pub opted_in: Option<Vec<String>>,
}

impl Scenario {
    /// Reads a scenario file.
    pub fn load(path: &Path) -> Result<Self, ScenarioError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|cause| ScenarioError::Read { path: name.clone(), cause })?;
        Self::parse(&name, &text)
    }

    /// Parses a scenario; `name` stands for the file in errors.
    pub fn parse(name: &str, text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            ScenarioError::Parse {
                path: name.into(),
                line: before.map(|before| before.matches('\n').count() + 1),
                reason: error.message().replace('\n', " "),
            }
        })?;
        if scenario.cases.is_empty() {
            return Err(ScenarioError::Empty(name.into()));
        }
        for case in &scenario.cases {
            case.check().map_err(|reason| ScenarioError::Case {
                path: name.into(),
                case: case.name.clone(),
                reason,
            })?;
        }
        Ok(scenario)
    }
}

impl Case {
    /// Looks the names up that the case takes from elsewhere.
    fn check(&self) -> Result<(), String> {
        self.faults.iter().try_for_each(check_fault)?;
        for step in &self.steps {
            if let Some(name) = step.expected_error() {
                check_name("error", name, RigError::NAMES.iter().copied().chain(host_errors()))?;
            }
            match step {
                Step::Inject { fault, .. } => check_fault(fault)?,
                Step::Expect(wanted) => {
                    if let Some(state) = &wanted.state {
                        check_name("state", state, Rig::states())?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn host_errors() -> impl Iterator<Item = &'static str> + Clone {
    ERRORS.iter().map(|info| info.name)
}

fn check_fault(fault: &toml::Value) -> Result<(), String> {
    let parsed: Result<Fault, _> = fault.clone().try_into();
    parsed.map(|_| ()).map_err(|error| RigError::UnknownFault(error).to_string())
}

fn check_name(
    what: &str,
    name: &str,
    known: impl Iterator<Item = &'static str> + Clone,
) -> Result<(), String> {
    if known.clone().any(|known| known == name) {
        return Ok(());
    }
    let hint = match nearest(name, known.clone()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None if what == "error" => "`tdxhost explain error` lists them".to_owned(),
        None => format!("there are: {}", known.collect::<Vec<_>>().join(", ")),
    };
    Err(format!("no {what} is named `{name}`; {hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_names_its_cases_and_steps() {
        let scenario = Scenario::parse(
            "inline",
            r#"
            name = "one"
            platform = "tiny"
            [[case]]
            name = "no TDX"
            faults = ["msr-0x87-faults"]
            steps = [{ do = "power-on" }, { do = "bring-up", expect = "no-tdx" }, { do = "expect", device = false }]
            "#,
        )
        .unwrap();
        assert_eq!(scenario.cases.len(), 1);
        assert!(
            matches!(&scenario.cases[0].steps[1], Step::BringUp { expect: Some(name), .. } if name == "no-tdx")
        );
        assert!(matches!(&scenario.cases[0].steps[2], Step::Expect(what) if what.device == Some(false)));
    }

    fn step(step: &str) -> Result<Step, ScenarioError> {
        let text = format!("name = 'x'\n[[case]]\nname = 'y'\nsteps = [{step}]");
        Scenario::parse("inline", &text).map(|mut scenario| scenario.cases.remove(0).steps.remove(0))
    }

    #[test]
    fn steps_of_updates_are_read_with_all_their_keys() {
        let Step::Update(update) = step(
            "{ do = 'update', version = '1.5.34', profile = '1.5.28', header = '0x100', svn = [1, 15], \
             cpus = [0x806f0], damage = 'signature', ignore-x2apic-limit = true, times = 2, \
             expect = 'install-failed-recoverable' }",
        )
        .unwrap() else {
            panic!("another step")
        };
        assert_eq!((update.version.as_deref(), update.profile.as_deref()), (Some("1.5.34"), Some("1.5.28")));
        assert_eq!((update.svn, update.ignore_x2apic_limit), (Some([1, 15]), true));
        assert_eq!(update.times.map(u32::from), Some(2));
        assert_eq!(update.expect.as_deref(), Some("install-failed-recoverable"));
        assert!(matches!(
            step("{ do = 'update', file = 'x.blob' }").unwrap(),
            Step::Update(update) if update.file.is_some() && update.expect.is_none()
        ));
        for (name, phase) in [
            ("shutdown", PhaseName::Shutdown),
            ("install", PhaseName::Install),
            ("init", PhaseName::Init),
            ("update", PhaseName::Update),
        ] {
            let failing =
                step(&format!("{{ do = 'fail-update', at = '{name}', cpu = 3, status = 'vmfailinvalid' }}"));
            assert!(matches!(
                failing.unwrap(),
                Step::FailUpdate { at, cpu: 3, status: Some(status), expect: None }
                    if at == phase && status == "vmfailinvalid"
            ));
            let crashing = step(&format!("{{ do = 'crash-update', at = '{name}' }}")).unwrap();
            assert!(matches!(crashing, Step::CrashUpdate { at, expect: None } if at == phase));
            let losing = step(&format!("{{ do = 'power-loss', at = '{name}' }}")).unwrap();
            assert!(matches!(losing, Step::PowerLoss { at, expect: None } if at == phase));
        }
        let calling = step("{ do = 'call-module', expect = 'module-gone' }").unwrap();
        assert_eq!(calling.expected_error(), Some("module-gone"));
        assert!(matches!(calling, Step::CallModule { .. }));
    }

    #[test]
    fn steps_of_updates_refuse_what_they_do_not_know_by_its_name() {
        for (text, words) in [
            ("{ do = 'update', version = '1.5.34', speed = 1 }", &["unknown field `speed`"][..]),
            ("{ do = 'update', version = '1.5.34', damage = 'rust' }", &["`rust`", "`signature`"]),
            (
                "{ do = 'update', version = '1.5.34', expect = 'moduel-gone' }",
                &["did you mean `module-gone`?"],
            ),
            ("{ do = 'fail-update', cpu = 0 }", &["missing field `at`"]),
            ("{ do = 'fail-update', at = 'install' }", &["missing field `cpu`"]),
            ("{ do = 'fail-update', at = 'lunch', cpu = 0 }", &["`lunch`", "`shutdown`"]),
            ("{ do = 'crash-update' }", &["missing field `at`"]),
            ("{ do = 'crash-update', at = 'install', cpu = 0 }", &["unknown field `cpu`"]),
            ("{ do = 'power-loss', at = 'lunch' }", &["`lunch`", "`update`"]),
            ("{ do = 'call-module', cpu = 1 }", &["unknown field `cpu`"]),
        ] {
            let error = step(text).unwrap_err().to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{text}: {error}");
            assert!(!error.contains('\n'), "{error:?}");
        }
    }

    #[test]
    fn unknown_keys_and_steps_are_errors_that_name_them() {
        for (text, word) in [
            ("name = 'x'\nspeed = 1\n[[case]]\nname = 'y'", "speed"),
            ("name = 'x'\n[[case]]\nname = 'y'\nsteps = [{ do = 'dance' }]", "dance"),
            ("name = 'x'\n[[case]]\nname = 'y'\nsteps = [{ do = 'offline', cpu = 1, hard = true }]", "hard"),
            ("name = 'x'\n[[case]]\nname = 'y'\nsteps = [{ do = 'expect', wheather = 'fine' }]", "wheather"),
        ] {
            let error = Scenario::parse("inline", text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn names_that_nothing_has_are_refused_before_the_first_case_runs() {
        for (case, sentence) in [
            (
                "steps = [{ do = 'bring-up', expect = 'no-txd' }]",
                "no error is named `no-txd`; did you mean `no-tdx`?",
            ),
            (
                "steps = [{ do = 'read', attribute = 'version', expect = 'quixotic' }]",
                "no error is named `quixotic`; `tdxhost explain error` lists them",
            ),
            (
                "steps = [{ do = 'expect', state = 'redy' }]",
                "no state is named `redy`; did you mean `ready`?",
            ),
            ("faults = ['no-vmxx']", "no fault of the catalogue: unknown variant `no-vmxx`"),
            ("steps = [{ do = 'inject', fault = 'no-vmxx' }]", "no fault of the catalogue"),
        ] {
            let text = format!("name = 'x'\n[[case]]\nname = 'y'\n{case}");
            let error = Scenario::parse("inline", &text).unwrap_err().to_string();
            assert!(error.starts_with("scenario inline, case \"y\": "), "{error}");
            assert!(error.contains(sentence), "{error}");
            assert!(!error.contains('\n'), "{error:?}");
        }
        for case in [
            "steps = [{ do = 'read', attribute = 'version', value = '1', expect = 'mismatch' }]",
            "steps = [{ do = 'expect', state = 'powered-off' }]",
            "faults = ['no-vmx']\nsteps = [{ do = 'bring-up', expect = 'no-vmx' }]",
        ] {
            let text = format!("name = 'x'\n[[case]]\nname = 'y'\n{case}");
            assert!(Scenario::parse("inline", &text).is_ok(), "{case}");
        }
    }

    #[test]
    fn a_scenario_without_a_case_is_refused() {
        assert!(matches!(Scenario::parse("inline", "name = 'x'"), Err(ScenarioError::Empty(_))));
    }
}
