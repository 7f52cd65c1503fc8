//! `tdxhost run`: a scenario file.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::scenario::{self, RunOptions, Scenario};
use crate::text;
use crate::transcript::TranscriptArgs;

/// Arguments of `tdxhost run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// Scenario file
    #[arg(value_name = "SCENARIO.toml")]
    scenario: PathBuf,
    /// Seed of interrupts, entropy failures and contention [default: the file's, else 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = text::number)]
    seed: Option<u64>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Print cases only if they fail
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    kept: TranscriptArgs,
}

/// Runs the command.
pub fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let scenario = Scenario::load(&args.scenario)?;
    let transcript = args.kept.open()?;
    let mut out = io::stdout().lock();
    let report = scenario::run(
        &scenario,
        &mut RunOptions {
            seed: args.seed,
            bar: !args.quiet && !args.json,
            each_case: &mut |case| {
                if args.json || (args.quiet && case.passed) { Ok(()) } else { case.write_text(&mut out) }
            },
            each_phase: None,
            transcript: transcript.clone(),
        },
    )?;
    if args.json {
        report.write_json(&mut out)?;
    } else {
        report.write_summary(&mut out)?;
    }
    out.flush()?;
    transcript.map_or(Ok(()), |transcript| transcript.finish())?;
    Ok(if report.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
