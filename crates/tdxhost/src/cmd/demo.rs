//! `tdxhost demo`: from power-on to the attributes of the `tdx_host` device.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value};

use super::platform;
use crate::scenario::{PhaseReport, Rig, RulesName, Yield, peak_rss_kib};
use crate::text;

/// Arguments of `tdxhost demo`.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Platform to power on: a name of `tdxhost platform list`, or a file
    #[arg(long, value_name = "NAME|FILE", default_value = "default")]
    platform: String,
    /// Seed of interrupts, entropy failures and contention
    #[arg(long, value_name = "N", default_value = "0", allow_negative_numbers = true, value_parser = text::number)]
    seed: u64,
    /// How TDMRs are built
    #[arg(long, value_enum, value_name = "RULES", default_value = "tdxhost")]
    tdmr_rules: RulesName,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Print the attributes alone
    #[arg(long, short)]
    quiet: bool,
}

/// Everything but `seconds` and `peak_rss_kib` is the same for the same seed.
#[derive(Serialize)]
struct Document {
    simulated: bool,
    platform: String,
    seed: u64,
    phases: Vec<PhaseReport>,
    facts: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorDocument>,
    attributes: Map<String, Value>,
    seconds: f64,
    peak_rss_kib: Option<u64>,
}

#[derive(Serialize)]
struct ErrorDocument {
    name: String,
    message: String,
    advice: Option<&'static str>,
}

/// Runs the command.
pub fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let spec = platform::load(&args.platform)?;
    let (name, description) = (spec.name.clone(), spec.description.clone());
    let chatty = !args.json && !args.quiet;
    let each: Option<fn(&PhaseReport)> = if chatty { Some(print_phase) } else { None };
    let mut rig = Rig::new(spec, args.seed, Some(args.tdmr_rules.into()), chatty, each);
    if chatty {
        let mut out = io::stdout().lock();
        writeln!(out, "{name}: {description}")?;
        writeln!(out, "a software TDX platform; nothing here comes from TDX hardware\n")?;
    }
    let mut product = Yield::default();
    let result = rig.power_on().and_then(|()| rig.bring_up(&[], &mut product));
    let mut attributes = Map::new();
    if result.is_ok() {
        for attribute in rig.attributes() {
            let value = rig.read_attribute(attribute)?;
            attributes.insert(attribute.to_owned(), Value::String(value));
        }
    }
    let document = Document {
        simulated: true,
        platform: name,
        seed: args.seed,
        phases: product.phases,
        facts: product.facts,
        error: result.as_ref().err().map(|error| ErrorDocument {
            name: error.name().to_owned(),
            message: error.to_string(),
            advice: error.advice(),
        }),
        attributes,
        seconds: started.elapsed().as_secs_f64(),
        peak_rss_kib: peak_rss_kib(),
    };
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &document)?;
        writeln!(out)?;
    } else if result.is_ok() {
        print_end(&mut out, &document, chatty)?;
    }
    out.flush()?;
    match result {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // The document has told it already.
        Err(_) if args.json => Ok(ExitCode::FAILURE),
        Err(error) => match error.advice() {
            Some(advice) => anyhow::bail!("{}: {error}; {advice}", error.name()),
            None => anyhow::bail!("{}: {error}", error.name()),
        },
    }
}

fn print_phase(phase: &PhaseReport) {
    // A reader that went away is noticed by the writes that follow.
    let _ = writeln!(
        io::stdout(),
        "  {:<16} {:>9.3} ms  {:>8} {}",
        phase.name,
        phase.seconds * 1e3,
        phase.count,
        phase.counts
    );
}

fn print_end(out: &mut dyn Write, document: &Document, chatty: bool) -> io::Result<()> {
    if chatty {
        let fact = |name: &str| document.facts.get(name).map(ToString::to_string).unwrap_or_default();
        writeln!(
            out,
            "\nTDX module initialized in {:.3} s: {} TDMRs, {} KB of PAMT, {} calls of TDH.SYS.TDMR.INIT\n",
            document.seconds,
            fact("tdmrs"),
            fact("pamt_kb"),
            fact("tdmr_init_calls"),
        )?;
        writeln!(out, "devices/faux/tdx_host/")?;
    }
    for (name, value) in &document.attributes {
        writeln!(out, "  {name:<22} {}", value.as_str().unwrap_or_default())?;
    }
    Ok(())
}
