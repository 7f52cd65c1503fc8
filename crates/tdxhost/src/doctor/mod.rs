//! `tdxhost doctor`: read-only checks of a host, with what is missing and what to do.
//!
//! The same checks run on this machine ([`RealHost`]) and on a simulated one: both are [`Facts`].

mod check;
mod cpu;
mod cpu_checks;
mod facts;
mod linux_checks;
mod msr_checks;
mod real;
mod snapshot;
mod update;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;
use tdx_image::HeaderVersion;

pub use check::{Check, State};
pub use cpu::{CpuIdentity, TDX_MODELS, TdxModel};
pub use facts::{BringUpFailure, Facts, Unseen};
pub use msr_checks::{MSRS, TOLD_MSRS};
pub use real::RealHost;
pub use snapshot::{Simulated, Snapshot};

use crate::text::{Format, Output, Tone};

/// Arguments of `tdxhost doctor`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct DoctorArgs {
    /// Check the simulated host that serves its API on this socket, not this machine.
    #[arg(long, value_name = "SOCKET", conflicts_with = "root")]
    pub api: Option<PathBuf>,
    /// Check whether the module can be replaced by this image, and nothing else.
    #[arg(long, value_name = "IMAGE")]
    pub update: Option<PathBuf>,
    /// With --update: root of the host's sysfs tree [default: /sys].
    #[arg(long, value_name = "DIR", requires = "update")]
    pub sysfs: Option<PathBuf>,
    /// With --update: table of releases [default: mapping_file.json beside the image, else the built-in one].
    #[arg(long, value_name = "FILE", requires = "update")]
    pub mapping: Option<PathBuf>,
    /// With --update: image header that the kernel takes [default: what the layout of the files tells].
    #[arg(long, value_name = "HEADER", requires = "update")]
    pub header: Option<HeaderVersion>,
    /// With --update: take an image that is signed for debugging too.
    #[arg(long, requires = "update")]
    pub allow_debug: bool,
    /// With --update: first x2APIC id that P-SEAMLDR refuses [default: 1024].
    #[arg(long, value_name = "ID", requires = "update")]
    pub x2apic_limit: Option<u32>,
    /// Look for /proc, /sys and /dev below this directory.
    #[arg(long, value_name = "DIR", hide = true)]
    pub root: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

/// All checks of one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// True if every check is as expected.
    pub ready: bool,
    /// The result in one sentence.
    pub verdict: String,
    /// True if the machine cannot be a TDX host whatever is done; the verdict says why.
    pub hopeless: bool,
    /// The checks.
    pub checks: Vec<Check>,
}

/// Looks at a host.
pub fn examine(facts: &dyn Facts) -> Report {
    const CPU: &str = "a readable /proc/cpuinfo";
    let mut checks = Vec::new();
    let cpu = facts.cpu();
    let hopeless = cpu.as_ref().ok().and_then(cpu_checks::hopeless);
    match &cpu {
        Ok(cpu) => {
            checks.push(cpu_checks::model(cpu));
            checks.extend(cpu_checks::features(cpu));
        }
        Err(unseen) => checks.push(Check::unknown("cpu-model", CPU, unseen.to_string(), "Mount /proc.")),
    }
    checks.extend(msr_checks::all(facts));
    checks.extend(linux_checks::all(facts, cpu.as_ref().ok()));

    let count = |state| checks.iter().filter(|check| check.state == state).count();
    let (failed, unknown) = (count(State::Failed), count(State::Unknown));
    let ready = failed == 0 && unknown == 0;
    let verdict = match &hopeless {
        Some(reason) => reason.clone(),
        None if ready => "This machine is a TDX host: every check is as expected.".to_owned(),
        None if failed == 0 => {
            format!("Nothing is known to be missing, but {} could not be looked at.", checks_of(unknown))
        }
        None if unknown == 0 => format!("Not ready for TDX: {} failed.", checks_of(failed)),
        None => format!("Not ready for TDX: {} failed, {unknown} could not be looked at.", checks_of(failed)),
    };
    Report { ready, verdict, hopeless: hopeless.is_some(), checks }
}

fn checks_of(count: usize) -> String {
    if count == 1 { "1 check".to_owned() } else { format!("{count} checks") }
}

impl Report {
    /// Prints the report.
    pub fn print(&self, output: &mut Output<'_>) -> io::Result<()> {
        if output.format == Format::Json {
            return output.document(self);
        }
        // Details of registers are of no use on a machine that cannot have them.
        if !self.hopeless {
            for check in &self.checks {
                let (word, tone) = match check.state {
                    State::Ok => ("ok     ", Tone::Good),
                    State::Failed => ("FAILED ", Tone::Bad),
                    State::Unknown => ("unknown", Tone::Doubtful),
                };
                let word = output.paint.paint(tone, word);
                let reason = check.reason.map(|name| format!("{name}: ")).unwrap_or_default();
                writeln!(output.out, "{word} {:<24} {reason}{}", check.id, check.seen)?;
                if check.state != State::Ok {
                    output.paragraph("        expected: ", check.expected)?;
                }
                if let Some(advice) = &check.advice {
                    output.paragraph("        to do:    ", advice)?;
                }
            }
            writeln!(output.out)?;
        }
        let tone = if self.ready { Tone::Good } else { Tone::Bad };
        let verdict = output.paint.paint(tone, &self.verdict);
        writeln!(output.out, "{verdict}")
    }

    /// 0 if all is as expected, else 1.
    pub fn exit_code(&self) -> ExitCode {
        if self.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Runs the command on standard output. `connect` gives the facts of the simulated host behind a socket.
pub fn run(
    args: &DoctorArgs,
    connect: &dyn Fn(&Path) -> anyhow::Result<Box<dyn Facts>>,
) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    run_on(args, &mut Output::of_command(&mut out, args.json), connect)
}

/// Runs the command. `connect` gives the facts of the simulated host behind a socket.
pub fn run_on(
    args: &DoctorArgs,
    output: &mut Output<'_>,
    connect: &dyn Fn(&Path) -> anyhow::Result<Box<dyn Facts>>,
) -> anyhow::Result<ExitCode> {
    let report = match (&args.update, &args.api, &args.root) {
        (Some(image), ..) => update::report(image, args)?,
        (None, Some(socket), _) => examine(connect(socket)?.as_ref()),
        (None, None, Some(root)) => examine(&RealHost::new(root)),
        (None, None, None) => examine(&RealHost::new("/")),
    };
    report.print(output)?;
    Ok(report.exit_code())
}
