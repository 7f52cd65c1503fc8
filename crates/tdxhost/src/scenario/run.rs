//! Runs the cases of a scenario and compares what comes of each step with what the file says.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use serde_json::{Map, Value, json};
use tdx_machine::PlatformSpec;

use super::file::{Case, Expectation, Scenario, Step};
use super::report::{CaseReport, PhaseReport, RunReport, StepReport, peak_rss_kib};
use super::rig::{Rig, RigError};
use super::update::End;
use crate::cmd::platform;
use crate::transcript::Transcript;

/// How a scenario is run.
pub struct RunOptions<'a> {
    /// Seed instead of the file's.
    pub seed: Option<u64>,
    /// Show a progress bar where standard error is a terminal.
    pub bar: bool,
    /// Told of each case that ended.
    pub each_case: &'a mut dyn FnMut(&CaseReport) -> io::Result<()>,
    /// Told of each phase of a bring-up that ended.
    pub each_phase: Option<fn(&PhaseReport)>,
    /// Looks at all that hosts ask for.
    pub transcript: Option<Arc<Transcript>>,
}

/// Runs all cases. Fails only if something other than the machine went wrong, such as a platform file
/// that does not exist.
pub fn run(scenario: &Scenario, options: &mut RunOptions<'_>) -> anyhow::Result<RunReport> {
    let started = Instant::now();
    let seed = options.seed.unwrap_or(scenario.seed);
    let mut cases = Vec::with_capacity(scenario.cases.len());
    for case in &scenario.cases {
        let name = case.platform.as_deref().or(scenario.platform.as_deref()).unwrap_or("default");
        let report = run_case(case, name, seed, options).with_context(|| format!("case {:?}", case.name))?;
        (options.each_case)(&report)?;
        cases.push(report);
    }
    let passed = cases.iter().filter(|case| case.passed).count();
    Ok(RunReport {
        scenario: scenario.name.clone(),
        seed,
        passed,
        failed: cases.len() - passed,
        cases,
        seconds: started.elapsed().as_secs_f64(),
        peak_rss_kib: peak_rss_kib(),
    })
}

fn run_case(case: &Case, platform: &str, seed: u64, options: &RunOptions<'_>) -> anyhow::Result<CaseReport> {
    let started = Instant::now();
    let mut spec = changed(platform::load(platform)?, &case.changes)?;
    for fault in &case.faults {
        spec.faults.push(fault.clone().try_into().map_err(RigError::UnknownFault)?);
    }
    if let Some(transcript) = &options.transcript {
        transcript.case(&case.name);
    }
    let rules = case.tdmr_rules.map(Into::into);
    let rig = Rig::new(spec, seed, rules, options.bar, options.each_phase);
    let mut rig = rig.keep(options.transcript.clone());
    let walk = [
        Step::PowerOn { expect: None },
        Step::BringUp { expect: None, opt_in: Vec::new(), disable: Vec::new() },
    ];
    let steps: &[Step] = if case.steps.is_empty() { &walk } else { &case.steps };
    let mut reports = Vec::with_capacity(steps.len());
    for step in steps {
        let report = run_step(&mut rig, step);
        let passed = report.passed;
        reports.push(report);
        // What follows a surprise proves nothing.
        if !passed {
            break;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let limit = broken_limit(case, seconds);
    Ok(CaseReport {
        name: case.name.clone(),
        platform: platform.to_owned(),
        passed: limit.is_none() && reports.iter().all(|step| step.passed),
        steps: reports,
        limit,
        seconds,
    })
}

/// The platform with other keys.
fn changed(spec: PlatformSpec, changes: &toml::Table) -> anyhow::Result<PlatformSpec> {
    fn merge(into: &mut toml::Table, changes: &toml::Table) {
        for (key, change) in changes {
            match (into.get_mut(key), change) {
                (Some(toml::Value::Table(into)), toml::Value::Table(change)) => merge(into, change),
                _ => drop(into.insert(key.clone(), change.clone())),
            }
        }
    }
    if changes.is_empty() {
        return Ok(spec);
    }
    let mut whole: toml::Table = toml::from_str(&spec.to_toml()?)?;
    merge(&mut whole, changes);
    Ok(PlatformSpec::from_toml(&toml::to_string(&whole)?)?)
}

/// The limit that the case broke. Limits are promises of release builds.
fn broken_limit(case: &Case, seconds: f64) -> Option<String> {
    if cfg!(debug_assertions) {
        return None;
    }
    if let Some(limit) = case.limits.seconds.filter(|&limit| seconds > limit) {
        return Some(format!("took {seconds:.3} s, more than the {limit} s of its limit"));
    }
    let limit = case.limits.peak_rss_mib?;
    let peak = peak_rss_kib()? / 1024;
    (peak > limit).then(|| format!("took {peak} MiB at the peak, more than the {limit} MiB of its limit"))
}

/// What a step produced besides success or failure.
#[derive(Default)]
pub struct Yield {
    /// Phases of a bring-up.
    pub phases: Vec<PhaseReport>,
    /// Facts by name.
    pub facts: Map<String, Value>,
}

fn run_step(rig: &mut Rig, step: &Step) -> StepReport {
    let started = Instant::now();
    let mut product = Yield::default();
    let result = act(rig, step, &mut product);
    let expected = step.expected_error();
    let (outcome, message) = match &result {
        Ok(()) => ("ok".to_owned(), None),
        Err(error) => (error.name().to_owned(), Some(error.to_string())),
    };
    let passed = outcome == expected.unwrap_or("ok");
    let message = match (passed, expected) {
        (false, Some(name)) if result.is_ok() => Some(format!("went well, but {name} was expected")),
        (false, Some(name)) => Some(format!("{} (expected: {name})", message.unwrap_or_default())),
        _ => message,
    };
    StepReport {
        action: action_name(step).to_owned(),
        passed,
        outcome,
        message,
        phases: product.phases,
        facts: product.facts,
        seconds: started.elapsed().as_secs_f64(),
    }
}

fn act(rig: &mut Rig, step: &Step, product: &mut Yield) -> Result<(), RigError> {
    match step {
        Step::PowerOn { .. } => rig.power_on(),
        Step::BringUp { opt_in, disable, .. } => rig.bring_up(opt_in, disable, product),
        Step::Offline { cpu, .. } => rig.offline(*cpu),
        Step::Online { cpu, .. } => rig.online(*cpu),
        Step::AllocateKeyid { .. } => rig.allocate_keyid(product),
        Step::FreeKeyid { .. } => rig.free_keyid(),
        Step::Suspend { mode, .. } => rig.suspend((*mode).into()),
        Step::Resume { .. } => rig.resume(),
        Step::HotplugMemory { start, size, .. } => rig.hotplug_memory(*start, *size),
        Step::ShutDown { .. } => rig.shut_down(),
        Step::Crash { .. } => rig.crash(),
        Step::PowerCycle { .. } => rig.power_cycle(),
        Step::Inject { fault, .. } => rig.inject(fault),
        Step::RemoveDevice { .. } => rig.remove_device(),
        Step::Read { attribute, value, .. } => read(rig, attribute, value.as_deref(), product),
        Step::Update(update) => rig.update(update, product),
        Step::FailUpdate { at, cpu, status, .. } => rig.fail_update(*at, *cpu, status.as_deref()),
        Step::CrashUpdate { at, .. } => rig.end_update(*at, End::Crash),
        Step::PowerLoss { at, .. } => rig.end_update(*at, End::PowerLoss),
        Step::CallModule { .. } => rig.call_module(),
        Step::Connect(step) => rig.connect(step, product),
        Step::ConnectTogether { devices, outcomes, .. } => rig.connect_together(devices, outcomes),
        Step::Disconnect { device, tsm, .. } => rig.disconnect(device.as_deref(), tsm.as_deref()),
        Step::Refresh { device, what, .. } => rig.refresh(device, *what),
        Step::DeviceFaults { device, faults, .. } => rig.device_faults(device, faults),
        Step::ConnectFaulty(step) => rig.connect_faulty(step, product),
        Step::ConnectInterrupted(step) => rig.connect_interrupted(step, product),
        Step::Unplug { device, .. } => rig.unplug(device),
        Step::Plug { device, .. } => rig.plug(device),
        Step::Tamper { device, how, .. } => rig.tamper(device, *how),
        Step::Traffic { device, packets, protected, .. } => {
            rig.traffic(device, *packets, *protected, product)
        }
        Step::KeyRefresh { seconds, .. } => rig.key_refresh(*seconds),
        Step::PassTime { seconds, .. } => rig.pass_time(*seconds),
        Step::Expect(expectation) => check(rig, expectation, product),
    }
}

fn read(rig: &Rig, attribute: &str, wanted: Option<&str>, product: &mut Yield) -> Result<(), RigError> {
    let value = rig.read_attribute(attribute)?;
    product.facts.insert(attribute.to_owned(), json!(value));
    match wanted {
        Some(wanted) if wanted != value => {
            Err(RigError::Mismatch(format!("{attribute} is {value}, expected {wanted}")))
        }
        _ => Ok(()),
    }
}

/// Compares every key that the expectation gives; all that differ are named.
fn check(rig: &Rig, wanted: &Expectation, product: &mut Yield) -> Result<(), RigError> {
    let mut wrong = Vec::new();
    let mut compare = |name: &str, wanted: Option<Value>, found: &dyn Fn() -> Value| {
        let Some(wanted) = wanted else { return };
        let found = found();
        if wanted != found {
            wrong.push(format!("{name} is {found}, expected {wanted}"));
        }
        product.facts.insert(name.replace('-', "_"), found);
    };
    compare("state", wanted.state.as_ref().map(|state| json!(state)), &|| json!(rig.state()));
    compare("device", wanted.device.map(|device| json!(device)), &|| json!(rig.device_exists()));
    compare("attributes", wanted.attributes.as_ref().map(|names| json!(names)), &|| json!(rig.attributes()));
    compare("tdmr-init-calls", wanted.tdmr_init_calls.map(|calls| json!(calls)), &|| {
        json!(rig.tdmr_init_calls())
    });
    compare("pamt-kb", wanted.pamt_kb.map(|kb| json!(kb)), &|| json!(rig.pamt_kb()));
    compare("tdmrs", wanted.tdmrs.map(|count| json!(count)), &|| json!(rig.tdmrs()));
    compare("leaked-pages", wanted.leaked_pages.map(|pages| json!(pages)), &|| json!(rig.leaked_pages()));
    compare("online", wanted.online.as_ref().map(|list| json!(list)), &|| json!(rig.online_cpus()));
    compare("version", wanted.version.as_ref().map(|version| json!(version)), &|| {
        json!(rig.read_attribute("version").ok())
    });
    compare("remaining-updates", wanted.remaining_updates.map(|count| json!(count)), &|| {
        json!(rig.remaining_updates())
    });
    let failure = rig.update_failure();
    compare("failed-phase", wanted.failed_phase.as_ref().map(|phase| json!(phase)), &|| {
        json!(failure.map(|failure| failure.phase.name()))
    });
    compare("failed-cpu", wanted.failed_cpu.map(|cpu| json!(cpu)), &|| {
        json!(failure.map(|failure| failure.cpu.0))
    });
    compare("opted-in", wanted.opted_in.as_ref().map(|names| json!(names)), &|| json!(rig.opted_in()));
    compare("connect", wanted.connect.as_ref().map(|state| json!(state)), &|| json!(rig.connect_state()));
    compare("tsm", wanted.tsm.as_ref().map(|name| json!(name)), &|| json!(rig.tsm_name()));
    let connected = || rig.connected_devices().unwrap_or_default();
    compare("connected", wanted.connected.as_ref().map(|list| json!(list)), &|| {
        json!(connected().iter().map(ToString::to_string).collect::<Vec<_>>())
    });
    compare("connected-count", wanted.connected_count.map(|count| json!(count)), &|| {
        json!(connected().len())
    });
    compare("secure", wanted.secure.as_ref().map(|list| json!(list)), &|| json!(rig.secure_devices()));
    compare("key-refreshes", wanted.key_refreshes.map(|count| json!(count)), &|| json!(rig.key_refreshes()));
    compare("available-streams", wanted.available_streams.map(|count| json!(count)), &|| {
        json!(rig.available_streams())
    });
    compare("module-sessions", wanted.module_sessions.map(|count| json!(count)), &|| {
        json!(rig.module_objects().map(|(sessions, _)| sessions))
    });
    compare("module-streams", wanted.module_streams.map(|count| json!(count)), &|| {
        json!(rig.module_objects().map(|(_, streams)| streams))
    });
    if wrong.is_empty() { Ok(()) } else { Err(RigError::Mismatch(wrong.join("; "))) }
}

fn action_name(step: &Step) -> &'static str {
    match step {
        Step::PowerOn { .. } => "power-on",
        Step::BringUp { .. } => "bring-up",
        Step::Offline { .. } => "offline",
        Step::Online { .. } => "online",
        Step::AllocateKeyid { .. } => "allocate-keyid",
        Step::FreeKeyid { .. } => "free-keyid",
        Step::Suspend { .. } => "suspend",
        Step::Resume { .. } => "resume",
        Step::HotplugMemory { .. } => "hotplug-memory",
        Step::ShutDown { .. } => "shut-down",
        Step::Crash { .. } => "crash",
        Step::PowerCycle { .. } => "power-cycle",
        Step::Inject { .. } => "inject",
        Step::RemoveDevice { .. } => "remove-device",
        Step::Read { .. } => "read",
        Step::Update(_) => "update",
        Step::FailUpdate { .. } => "fail-update",
        Step::CrashUpdate { .. } => "crash-update",
        Step::PowerLoss { .. } => "power-loss",
        Step::CallModule { .. } => "call-module",
        Step::Connect(_) => "connect",
        Step::ConnectTogether { .. } => "connect-together",
        Step::Disconnect { .. } => "disconnect",
        Step::Refresh { .. } => "refresh",
        Step::DeviceFaults { .. } => "device-faults",
        Step::ConnectFaulty(_) => "connect-faulty",
        Step::ConnectInterrupted(_) => "connect-interrupted",
        Step::Unplug { .. } => "unplug",
        Step::Plug { .. } => "plug",
        Step::Tamper { .. } => "tamper",
        Step::Traffic { .. } => "traffic",
        Step::KeyRefresh { .. } => "key-refresh",
        Step::PassTime { .. } => "pass-time",
        Step::Expect(_) => "expect",
    }
}
