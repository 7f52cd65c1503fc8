//! `tdxhost demo`: from power-on to the attributes of the `tdx_host` device, a device that is connected, and a
//! live update beside it.

mod device;

use std::fmt::{self, Display};
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value};
use tdx_host::Lifecycle;

use self::device::ConnectDocument;
use super::platform;
use crate::scenario::{PhaseReport, Rig, RigError, RulesName, Yield, peak_rss_kib};
use crate::text;
use crate::transcript::TranscriptArgs;

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
    /// Let the SPDM responder at this address (host:port) answer for the first device; its TDISP interface is
    /// asked for by the address that the device has in the platform
    #[arg(long, value_name = "ADDR")]
    device_socket: Option<String>,
    #[command(flatten)]
    kept: TranscriptArgs,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    connect: Option<ConnectDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    update: Option<UpdateDocument>,
    seconds: f64,
    peak_rss_kib: Option<u64>,
}

/// The live update: what it did, or why this machine does not take one.
#[derive(Serialize)]
struct UpdateDocument {
    version: String,
    phases: Vec<PhaseReport>,
    facts: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<ErrorDocument>,
    /// Attributes of the device behind it.
    attributes: Map<String, Value>,
}

#[derive(Serialize)]
struct ErrorDocument {
    name: String,
    message: String,
    advice: Option<&'static str>,
}

impl Display for ErrorDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.message)?;
        self.advice.map_or(Ok(()), |advice| write!(f, "; {advice}"))
    }
}

/// Runs the command.
pub fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let mut spec = platform::load(&args.platform)?;
    let stranger = args.device_socket.as_deref().map(|socket| device::put_behind_socket(&mut spec, socket));
    let stranger = stranger.transpose()?;
    let transcript = args.kept.open()?;
    let (name, description) = (spec.name.clone(), spec.description.clone());
    let chatty = !args.json && !args.quiet;
    let each: Option<fn(&PhaseReport)> = if chatty { Some(print_phase) } else { None };
    let rig = Rig::new(spec, args.seed, Some(args.tdmr_rules.into()), chatty, each);
    let mut rig = rig.keep(transcript.clone());
    if chatty {
        let mut out = io::stdout().lock();
        writeln!(out, "{name}: {description}")?;
        writeln!(out, "a software TDX platform; nothing here comes from TDX hardware\n")?;
    }
    let mut product = Yield::default();
    let result = rig.power_on().and_then(|()| rig.bring_up(&[], &[], &mut product));
    let initialised = started.elapsed();
    let mut attributes = Map::new();
    let (mut connect, mut update) = (None, None);
    if result.is_ok() {
        attributes = read_all(&rig)?;
        if chatty {
            print_bring_up(&mut io::stdout().lock(), &product.facts, initialised, &attributes)?;
        }
        let mut connected = device::connect(&mut rig, stranger, each)?;
        if chatty {
            connected.print(&mut io::stdout().lock())?;
        }
        update = Some(live_update(&mut rig, each)?);
        connected.look_again(&rig)?;
        connect = Some(connected);
    }
    let document = Document {
        simulated: true,
        platform: name,
        seed: args.seed,
        phases: product.phases,
        facts: product.facts,
        error: result.as_ref().err().map(ErrorDocument::of),
        attributes,
        connect,
        update,
        seconds: started.elapsed().as_secs_f64(),
        peak_rss_kib: peak_rss_kib(),
    };
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &document)?;
        writeln!(out)?;
    } else if let Some(update) = &document.update {
        print_end(&mut out, update, chatty)?;
        if let Some(connect) = document.connect.as_ref().filter(|_| chatty) {
            connect.print_end(&mut out)?;
        }
    }
    out.flush()?;
    transcript.map_or(Ok(()), |transcript| transcript.finish())?;
    match result {
        // Told already, and what came of the rest as well.
        Ok(()) if document.connect.is_some_and(|connect| connect.has_failed()) => Ok(ExitCode::FAILURE),
        Ok(()) => Ok(ExitCode::SUCCESS),
        // The document has told it already.
        Err(_) if args.json => Ok(ExitCode::FAILURE),
        Err(error) => match error.advice() {
            Some(advice) => anyhow::bail!("{}: {error}; {advice}", error.name()),
            None => anyhow::bail!("{}: {error}", error.name()),
        },
    }
}

impl ErrorDocument {
    fn of(error: &RigError) -> Self {
        Self { name: error.name().to_owned(), message: error.to_string(), advice: error.advice() }
    }
}

fn read_all(rig: &Rig) -> anyhow::Result<Map<String, Value>> {
    let read = |name: &str| Ok((name.to_owned(), Value::String(rig.read_attribute(name)?)));
    rig.attributes().into_iter().map(read).collect()
}

/// Replaces the module by the release that an operator would take next. A machine that refuses an update
/// has done so before anything was touched.
fn live_update(rig: &mut Rig, each: Option<fn(&PhaseReport)>) -> anyhow::Result<UpdateDocument> {
    let step = rig.next_release()?;
    let version = step.version.clone().unwrap_or_default();
    if each.is_some() {
        writeln!(io::stdout(), "\nlive update to {version}, with all CPUs in lockstep\n")?;
    }
    let mut product = Yield::default();
    let result = rig.update(&step, &mut product);
    if let Some(each) = each {
        product.phases.iter().for_each(each);
    }
    let refused = match &result {
        Ok(()) => None,
        Err(error) if rig.state() == Lifecycle::Ready.name() => Some(ErrorDocument::of(error)),
        Err(error) => anyhow::bail!("{}: {error}", error.name()),
    };
    let attributes = read_all(rig)?;
    Ok(UpdateDocument { version, phases: product.phases, facts: product.facts, refused, attributes })
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

fn print_bring_up(
    out: &mut dyn Write,
    facts: &Map<String, Value>,
    took: Duration,
    attributes: &Map<String, Value>,
) -> io::Result<()> {
    let fact = |name: &str| facts.get(name).map(ToString::to_string).unwrap_or_default();
    writeln!(
        out,
        "\nTDX module initialized in {:.3} s: {} TDMRs, {} KB of PAMT, {} calls of TDH.SYS.TDMR.INIT\n",
        took.as_secs_f64(),
        fact("tdmrs"),
        fact("pamt_kb"),
        fact("tdmr_init_calls"),
    )?;
    print_attributes(out, attributes, true)
}

fn print_attributes(out: &mut dyn Write, attributes: &Map<String, Value>, chatty: bool) -> io::Result<()> {
    if chatty {
        writeln!(out, "devices/faux/tdx_host/")?;
    }
    for (name, value) in attributes {
        writeln!(out, "  {name:<22} {}", value.as_str().unwrap_or_default())?;
    }
    Ok(())
}

/// What came of the update; with `--quiet` the attributes alone.
fn print_end(out: &mut dyn Write, update: &UpdateDocument, chatty: bool) -> io::Result<()> {
    if !chatty {
        return print_attributes(out, &update.attributes, false);
    }
    if let Some(refused) = &update.refused {
        writeln!(out, "  refused before anything was touched: {refused}")?;
        return Ok(());
    }
    let blackout: f64 = update.phases.iter().map(|phase| phase.seconds).sum();
    let fact = |name: &str| update.facts.get(name).and_then(Value::as_str).unwrap_or_default();
    writeln!(
        out,
        "\nTDX module updated from {} to {} in {:.3} ms\n",
        fact("from"),
        fact("to"),
        blackout * 1e3
    )?;
    print_attributes(out, &update.attributes, true)
}
