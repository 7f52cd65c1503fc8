//! The scenario files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tdx_host::CONNECT_ERRORS;
use tdx_host::error::ERRORS;
use tdx_host::tsm::TSM_ERRORS;
use tdx_machine::Fault;
use tdx_machine::endpoint::DeviceFault;
use tdx_machine::endpoint::fault::CATALOGUE as DEVICE_CATALOGUE;
use tdx_machine::fault::{Breaks, CATALOGUE};
use tdxhost::scenario::{self, DuringWhat, PhaseName, RunOptions, RunReport, Scenario, Step};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios")
}

fn all() -> Vec<(PathBuf, Scenario)> {
    let mut paths: Vec<_> = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 4, "{paths:?}");
    paths
        .into_iter()
        .map(|path| {
            let scenario = Scenario::load(&path).unwrap();
            (path, scenario)
        })
        .collect()
}

fn run(scenario: &Scenario, seed: Option<u64>) -> RunReport {
    let mut nothing = |_: &_| Ok(());
    let mut options =
        RunOptions { seed, bar: false, each_case: &mut nothing, each_phase: None, transcript: None };
    scenario::run(scenario, &mut options).unwrap()
}

/// The report as a document, without what a clock or the size of the process says.
fn timeless(report: &RunReport) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.retain(|key, _| key != "seconds" && key != "peak_rss_kib");
                map.values_mut().for_each(strip);
            }
            Value::Array(list) => list.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut bytes = Vec::new();
    report.write_json(&mut bytes).unwrap();
    let mut document = serde_json::from_slice(&bytes).unwrap();
    strip(&mut document);
    document
}

#[test]
fn every_scenario_passes() {
    for (path, scenario) in all() {
        let report = run(&scenario, None);
        for case in &report.cases {
            assert!(case.passed, "{}: {case:?}", path.display());
        }
        assert_eq!((report.failed, report.passed), (0, scenario.cases.len()), "{}", path.display());
    }
}

#[test]
fn a_seed_decides_the_whole_document_but_for_times() {
    for name in ["life.toml", "bringup-faults.toml", "live-update.toml", "posted-machines.toml"] {
        let scenario = Scenario::load(&folder().join(name)).unwrap();
        let first = timeless(&run(&scenario, Some(41)));
        assert_eq!(timeless(&run(&scenario, Some(41))), first, "{name}");
        let other = run(&scenario, Some(42));
        assert_eq!(other.failed, 0, "{name}");
    }
}

#[test]
fn expected_errors_are_errors_that_can_be_explained() {
    let tables = [ERRORS, CONNECT_ERRORS, TSM_ERRORS];
    let known: BTreeSet<&str> = tables.into_iter().flatten().map(|row| row.name).collect();
    let mut seen = 0;
    for (path, scenario) in all() {
        for step in scenario.cases.iter().flat_map(|case| &case.steps) {
            if let Some(name) = expected(step) {
                assert!(known.contains(name), "{}: {name}", path.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 30, "{seen} expectations only");
}

/// The error that a step expects, of those steps that can fail with one of the host's errors.
fn expected(step: &Step) -> Option<&str> {
    match step {
        Step::BringUp { expect, .. }
        | Step::Offline { expect, .. }
        | Step::Online { expect, .. }
        | Step::AllocateKeyid { expect }
        | Step::Suspend { expect, .. }
        | Step::Resume { expect }
        | Step::HotplugMemory { expect, .. }
        | Step::ShutDown { expect }
        | Step::CallModule { expect }
        | Step::Refresh { expect, .. }
        | Step::Read { expect, .. } => expect.as_deref(),
        Step::ConnectFaulty(step) => step.expect.as_deref(),
        // Something that is no address at all is what the file says, not an error of the host.
        Step::Connect(step) => {
            step.expect.as_deref().filter(|name| !["bad-device", "power-lost"].contains(name))
        }
        // Losing its power is what happens to a machine, not an error of the host.
        Step::Update(update) => update.expect.as_deref().filter(|name| *name != "power-lost"),
        _ => None,
    }
}

#[test]
fn every_fault_of_a_bring_up_has_a_case() {
    let scenario = Scenario::load(&folder().join("bringup-faults.toml")).unwrap();
    assert_eq!(shown(&scenario), named(Breaks::BringUp));
    for case in &scenario.cases {
        // A fault that ends in an error leaves neither a device nor a lost page, and the case looks.
        if case.steps.iter().any(|step| expected(step).is_some()) {
            let looks = |step: &Step| matches!(step, Step::Expect(what) if what.device.is_some() && what.leaked_pages == Some(0));
            assert!(case.steps.iter().any(looks), "{}", case.name);
        }
    }
}

#[test]
fn every_fault_of_an_update_has_a_case_and_every_phase_each_end() {
    let scenario = Scenario::load(&folder().join("live-update.toml")).unwrap();
    assert_eq!(shown(&scenario), named(Breaks::Update));
    let steps = || scenario.cases.iter().flat_map(|case| &case.steps);
    for phase in [PhaseName::Shutdown, PhaseName::Install, PhaseName::Init, PhaseName::Update] {
        let fails = |step: &Step| matches!(step, Step::FailUpdate { at, .. } if *at == phase);
        let crashes = |step: &Step| matches!(step, Step::CrashUpdate { at, .. } if *at == phase);
        let loses_power = |step: &Step| matches!(step, Step::PowerLoss { at, .. } if *at == phase);
        assert!(steps().any(fails) && steps().any(crashes) && steps().any(loses_power), "{phase:?}");
    }
}

#[test]
fn every_fault_of_tdx_connect_has_a_case_that_says_why_it_is_off() {
    let scenario = Scenario::load(&folder().join("connect.toml")).unwrap();
    let mut faults = named(Breaks::Connect);
    faults.insert("seamcall-fails");
    assert_eq!(shown(&scenario), faults);
    for case in scenario.cases.iter().filter(|case| !case.faults.is_empty() || !case.changes.is_empty()) {
        let looks =
            |step: &Step| matches!(step, Step::Expect(what) if what.connect.is_some() && what.tsm.is_some());
        assert!(case.steps.iter().any(looks), "{}", case.name);
    }
}

#[test]
fn every_fault_of_a_device_has_a_case() {
    let scenario = Scenario::load(&folder().join("bad-devices.toml")).unwrap();
    let steps = scenario.cases.iter().flat_map(|case| &case.steps);
    let tried: Vec<DeviceFault> = steps
        .filter_map(|step| if let Step::ConnectFaulty(step) = step { Some(&step.faults) } else { None })
        .flatten()
        .copied()
        .collect();
    let names: BTreeSet<_> = tried.iter().map(DeviceFault::name).collect();
    assert_eq!(names, DEVICE_CATALOGUE.iter().map(|info| info.name).collect());
    // In each of their forms.
    let missing: Vec<_> = DeviceFault::every().into_iter().filter(|fault| !tried.contains(fault)).collect();
    assert_eq!(missing, []);
}

#[test]
fn a_connect_is_interrupted_in_every_way_at_each_of_its_data_objects() {
    let scenario = Scenario::load(&folder().join("connect-vs-update.toml")).unwrap();
    let steps = || scenario.cases.iter().flat_map(|case| &case.steps);
    for what in [
        DuringWhat::Remove,
        DuringWhat::DeadMailbox,
        DuringWhat::LinkReset,
        DuringWhat::PowerLoss,
        DuringWhat::Update,
    ] {
        // Negotiation, evidence, session and keys: those of the stream alone are twelve.
        let all = |step: &Step| matches!(step, Step::ConnectInterrupted(step) if step.what == what && step.exchanges > 20);
        assert!(steps().any(all), "{what:?}");
    }
}

/// Names of the faults that a scenario's machines have or get.
fn shown(scenario: &Scenario) -> BTreeSet<&'static str> {
    let faults = scenario.cases.iter().flat_map(|case| &case.faults).cloned();
    let injected = scenario.cases.iter().flat_map(|case| &case.steps).filter_map(|step| match step {
        Step::Inject { fault, .. } => Some(fault.clone()),
        Step::FailUpdate { at, cpu, status, .. } => Some(at.fault(*cpu, status.as_deref())),
        _ => None,
    });
    let name = |fault: toml::Value| {
        let fault: Fault = fault.try_into().unwrap();
        fault.name()
    };
    faults.chain(injected).map(name).collect()
}

/// Names of the faults in the catalogue that stand in the way of `what`.
fn named(what: Breaks) -> BTreeSet<&'static str> {
    CATALOGUE.iter().filter(|info| info.breaks == what).map(|info| info.name).collect()
}
