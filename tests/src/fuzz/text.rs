//! Bodies for what people write: platform files, scenarios, kernel logs, command lines.

use std::error::Error;
use std::io;

use tdx_machine::{Machine, PlatformSpec, capture};
use tdxhost::explain::{self, ExplainArgs};
use tdxhost::scenario::{self, RunOptions, Scenario};
use tdxhost::text::Output;

/// A machine with more LPs or more lists than this is not powered on: that takes its time.
const SMALL_LPS: u32 = 64;

/// A failure is told in one line that is not empty.
fn told(error: &dyn Error) {
    let text = error.to_string();
    assert!(!text.is_empty() && !text.contains('\n'), "no line: {text:?}");
}

/// What holds for every specification that passed the checks: it is written as it reads, and
/// describes a machine.
fn sound(spec: &PlatformSpec) {
    spec.validate().expect("what was accepted stays so");
    let text = spec.to_toml().expect("a specification can be written");
    let again = PlatformSpec::from_toml(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(again, *spec, "{text}");
    if spec.cpu.lp_count().is_some_and(|count| count <= SMALL_LPS) {
        let machine = Machine::power_on(again, 1).expect("what was accepted powers on");
        let ascending =
            machine.memory_map().windows(2).all(|pair| pair[0].range.end() <= pair[1].range.start());
        assert!(ascending, "the memory map is not in order");
        for cmr in machine.cmrs().windows(2) {
            assert!(cmr[0].end() <= cmr[1].start(), "CMRs overlap: {cmr:?}");
        }
    }
}

/// A platform file: refused in one line, or written and read back as it is and powered on.
pub fn platform_file(data: &[u8]) {
    match PlatformSpec::from_toml(&String::from_utf8_lossy(data)) {
        Ok(spec) => sound(&spec),
        Err(error) => told(&error),
    }
}

/// A boot log: refused in one line, or turned into a sound platform file.
pub fn dmesg_capture(data: &[u8]) {
    match capture::from_dmesg(&String::from_utf8_lossy(data)) {
        Ok((spec, notes)) => {
            sound(&spec);
            assert!(notes.iter().all(|note| !note.to_string().contains('\n')), "{notes:?}");
        }
        Err(error) => told(&error),
    }
}

/// A kernel log is annotated line by line, whatever it holds.
pub fn dmesg_explain(data: &[u8]) {
    explain::dmesg::fuzz_body(data);
}

/// A scenario: refused in one line, or run to its end if it is short and stays on the smallest
/// machine.
pub fn scenario_file(data: &[u8]) {
    let scenario = match Scenario::parse("input", &String::from_utf8_lossy(data)) {
        Ok(scenario) => scenario,
        Err(error) => return told(&error),
    };
    assert!(!scenario.cases.is_empty());
    let steps: usize = scenario.cases.iter().map(|case| case.steps.len().max(1)).sum();
    // Any other platform may be the name of a file.
    let tiny = |platform: Option<&str>| platform == Some("tiny");
    let stays = |case: &scenario::Case| tiny(case.platform.as_deref().or(scenario.platform.as_deref()));
    if steps > 16 || !scenario.cases.iter().all(stays) {
        return;
    }
    let mut told_of = 0;
    let report = scenario::run(
        &scenario,
        &mut RunOptions {
            seed: None,
            bar: false,
            each_case: &mut |_| {
                told_of += 1;
                Ok(())
            },
            each_phase: None,
            transcript: None,
        },
    );
    match report {
        Ok(report) => {
            assert_eq!((report.cases.len(), told_of), (scenario.cases.len(), scenario.cases.len()));
            assert_eq!(report.passed + report.failed, report.cases.len());
            report.write_json(&mut io::sink()).expect("a sink takes everything");
        }
        Err(error) => assert!(!format!("{error:#}").is_empty()),
    }
}

/// The words of `tdxhost explain`, one flag byte in front: an explanation that prints in both
/// forms, or a refusal in one line.
pub fn explain_words(data: &[u8]) {
    let (flags, text) = data.split_first().unwrap_or((&0, &[]));
    let text = String::from_utf8_lossy(text);
    let args = ExplainArgs {
        words: text.split_whitespace().map(str::to_owned).collect(),
        guest: flags & 3 == 1,
        vmcall: flags & 3 == 2,
        seamldr: flags & 3 == 3,
        ..ExplainArgs::default()
    };
    match explain::explain_words(&args) {
        Ok(explanation) => printable(&explanation),
        Err(error) => told(&error),
    }
}

/// An explanation prints, and its document is one.
pub(super) fn printable(explanation: &explain::Explanation) {
    let (mut text, mut json) = (Vec::new(), Vec::new());
    explanation.print(&mut Output::plain(&mut text)).expect("a vector takes everything");
    explanation.print(&mut Output::json(&mut json)).expect("a vector takes everything");
    assert!(!text.is_empty());
    let document: serde_json::Value = serde_json::from_slice(&json).expect("a JSON document");
    assert!(document.is_object());
}
