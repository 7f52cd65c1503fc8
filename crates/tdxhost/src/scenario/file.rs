//! The scenario file: what is done to a machine, step by step, and what must come of it.

use std::path::Path;

use serde::Deserialize;
use tdx_host::CONNECT_ERRORS;
use tdx_host::error::ERRORS;
use tdx_host::tdmr::TdmrRules;
use tdx_host::tsm::TSM_ERRORS;
use tdx_machine::Fault;
use tdx_machine::endpoint::DeviceFault;

use super::device::{ConnectStep, RefreshName, Tampering};
use super::faulty::{FaultyStep, InterruptedStep};
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
    /// Keys of the platform file that are otherwise in this case. Tables are merged, all else is replaced.
    #[serde(default)]
    pub changes: toml::Table,
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
    /// Bring the TDX module up. `opt-in` names add-on features (FEATURES0 bits) to switch on besides those
    /// that are on anyway, `disable` those that stay off.
    BringUp {
        expect: Option<String>,
        #[serde(default, rename = "opt-in")]
        opt_in: Vec<String>,
        #[serde(default)]
        disable: Vec<String>,
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
    /// Connect a device, or all. Its `expect` is as that of the other steps.
    Connect(Box<ConnectStep>),
    /// Connect several devices at the same time. `expect` has a name, or `ok`, for each, in any order.
    ConnectTogether {
        devices: Vec<String>,
        #[serde(default)]
        outcomes: Vec<String>,
        expect: Option<String>,
    },
    /// Disconnect a device, or all.
    Disconnect { device: Option<String>, tsm: Option<String>, expect: Option<String> },
    /// Make keys of the session or the stream, or the evidence, anew.
    Refresh { device: String, what: RefreshName, expect: Option<String> },
    /// Give a device faults of the device catalogue; none makes it sound.
    DeviceFaults {
        device: String,
        #[serde(default)]
        faults: Vec<DeviceFault>,
        expect: Option<String>,
    },
    /// Connect a device once with each of these faults of the device catalogue. `expect` is what each of them must
    /// end in; whichever way, nothing may be left behind it, and the sound device must connect.
    ConnectFaulty(Box<FaultyStep>),
    /// Connect a device once for each data object that a connection takes, and let something happen at that one.
    /// `expect` is what each of them must end in; whichever way, nothing may be left behind it, and the device must
    /// connect again.
    ConnectInterrupted(Box<InterruptedStep>),
    /// Pull a device out.
    Unplug { device: String, expect: Option<String> },
    /// Put it back.
    Plug { device: String, expect: Option<String> },
    /// Do something to the next packet on the way to a device.
    Tamper { device: String, how: Tampering, expect: Option<String> },
    /// Write and read back the scratch registers of a device; `protected`: all packets must be sealed.
    Traffic {
        device: String,
        packets: u32,
        #[serde(default)]
        protected: bool,
        expect: Option<String>,
    },
    /// Make the keys of links anew each time that so many seconds have passed; never without.
    KeyRefresh { seconds: Option<u64>, expect: Option<String> },
    /// Let time pass; the host does what is due.
    PassTime { seconds: u64, expect: Option<String> },
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
            | Self::CallModule { expect }
            | Self::ConnectTogether { expect, .. }
            | Self::Disconnect { expect, .. }
            | Self::Refresh { expect, .. }
            | Self::DeviceFaults { expect, .. }
            | Self::Unplug { expect, .. }
            | Self::Plug { expect, .. }
            | Self::Tamper { expect, .. }
            | Self::Traffic { expect, .. }
            | Self::KeyRefresh { expect, .. }
            | Self::PassTime { expect, .. } => expect.as_deref(),
            Self::Connect(step) => step.expect.as_deref(),
            Self::ConnectFaulty(step) => step.expect.as_deref(),
            Self::ConnectInterrupted(step) => step.expect.as_deref(),
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
    /// TDX Connect: `on`, or the name of the reason why it is not.
    pub connect: Option<String>,
    /// Name of the TSM that is registered; empty for none.
    pub tsm: Option<String>,
    /// Addresses of the devices that are connected.
    pub connected: Option<Vec<String>>,
    /// Addresses of the devices whose link is secure at both ends.
    pub secure: Option<Vec<String>>,
    /// Times that the keys of links were made anew, all links together.
    pub key_refreshes: Option<u64>,
    /// How many devices are connected.
    pub connected_count: Option<u64>,
    /// Streams that are left on all host bridges together.
    pub available_streams: Option<u64>,
    /// SPDM sessions that the module has.
    pub module_sessions: Option<u64>,
    /// IDE streams that the module has.
    pub module_streams: Option<u64>,
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
            step.expected_error().map_or(Ok(()), check_error)?;
            match step {
                Step::Inject { fault, .. } => check_fault(fault)?,
                Step::Connect(step) => {
                    let update = step.during.as_ref().and_then(|during| during.update.as_deref());
                    update.and_then(|update| update.expect.as_deref()).map_or(Ok(()), check_error)?;
                }
                Step::ConnectTogether { outcomes, .. } => {
                    outcomes.iter().filter(|name| *name != "ok").try_for_each(|name| check_error(name))?;
                }
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
    ERRORS.iter().chain(CONNECT_ERRORS).chain(TSM_ERRORS).map(|info| info.name)
}

fn check_error(name: &str) -> Result<(), String> {
    check_name("error", name, RigError::NAMES.iter().copied().chain(host_errors()))
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
mod tests;
