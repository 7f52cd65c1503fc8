//! What a run of a scenario showed: one document, in words or in JSON.

use std::io::{self, Write};

use serde::Serialize;

/// A whole run. Everything but `seconds` and `peak_rss_kib` is the same for the same seed.
#[derive(Debug, Serialize)]
pub struct RunReport {
    /// Name of the scenario.
    pub scenario: String,
    /// Seed of the machines.
    pub seed: u64,
    /// The cases, in order.
    pub cases: Vec<CaseReport>,
    /// Cases that ended as the file says.
    pub passed: usize,
    /// Cases that did not.
    pub failed: usize,
    /// Wall-clock seconds of the whole run.
    pub seconds: f64,
    /// Peak resident memory of this process in KiB, where the system tells it.
    pub peak_rss_kib: Option<u64>,
}

/// One case.
#[derive(Debug, Serialize)]
pub struct CaseReport {
    /// Name of the case.
    pub name: String,
    /// The machine.
    pub platform: String,
    /// True if every step ended as the file says.
    pub passed: bool,
    /// The steps that were run.
    pub steps: Vec<StepReport>,
    /// What limit the case broke, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// One step.
#[derive(Debug, Serialize)]
pub struct StepReport {
    /// What was done.
    #[serde(rename = "do")]
    pub action: String,
    /// True if it ended as the file says.
    pub passed: bool,
    /// `ok`, or the name of the error.
    pub outcome: String,
    /// The error's sentence, or what an `expect` step found instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Phases of a bring-up.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<PhaseReport>,
    /// Facts that the step produced, by name.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub facts: serde_json::Map<String, serde_json::Value>,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// One phase of a bring-up.
#[derive(Debug, Clone, Serialize)]
pub struct PhaseReport {
    /// Name of the phase.
    pub name: String,
    /// How many of what the phase counts.
    pub count: u64,
    /// What the phase counts.
    pub counts: &'static str,
    /// Wall-clock seconds.
    pub seconds: f64,
}

impl RunReport {
    /// Writes the report as one JSON document.
    pub fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, self)?;
        writeln!(out)
    }

    /// Writes the closing lines for people; the cases were written as they ran.
    pub fn write_summary(&self, out: &mut dyn Write) -> io::Result<()> {
        let memory =
            self.peak_rss_kib.map_or_else(String::new, |kib| format!(", {} MiB at the peak", kib / 1024));
        writeln!(
            out,
            "{}: {} passed, {} failed ({:.3} s{memory})",
            self.scenario, self.passed, self.failed, self.seconds
        )
    }
}

impl CaseReport {
    /// Writes the case for people: one line if it passed, with every step that went wrong if not.
    pub fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let mark = if self.passed { "ok  " } else { "FAIL" };
        writeln!(out, "{mark} {} ({}, {:.3} s)", self.name, self.platform, self.seconds)?;
        for step in &self.steps {
            // An error that was asked for is what the case is about: show its sentence.
            if !step.passed || step.outcome != "ok" {
                let message = step.message.as_deref().unwrap_or("");
                match step.outcome.as_str() {
                    "ok" => writeln!(out, "       {}: {message}", step.action)?,
                    outcome => writeln!(out, "       {}: {outcome}: {message}", step.action)?,
                }
            }
            if let Some(calls) = step.facts.get("tdmr_init_calls") {
                writeln!(out, "       {}: {calls} calls of TDH.SYS.TDMR.INIT", step.action)?;
            }
        }
        if let Some(limit) = &self.limit {
            writeln!(out, "       {limit}")?;
        }
        Ok(())
    }
}

/// Peak resident memory of this process in KiB (`VmHWM`); `None` where the system does not tell.
pub fn peak_rss_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}
