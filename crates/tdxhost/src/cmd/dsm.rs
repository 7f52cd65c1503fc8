//! `tdxhost dsm`: a modelled device security manager on a socket, or a requester against any.

use std::io::{self, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{ArgGroup, Args};
use pcie::FunctionId;
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use spdm::algo::{AeadAlgo, AsymAlgo, DheGroup, HashAlgo};
use spdm::crypto::aws_lc::AwsLc;
use spdm::ide_km::{PortIndex, StreamId};
use spdm::ids::{SlotId, Version};
use spdm::requester::RequesterConfig;
use spdm::tdisp::InterfaceId;
use spdm::x509::{CertChain, TrustStore, chain};
use tdx_machine::endpoint::spec::Named;
use tdx_machine::endpoint::{Endpoint, EndpointSpec, devices};

use crate::dsm::bad;
use crate::dsm::connect::{self, ConnectError, Plan, SharedRecorder, Until};
use crate::dsm::dial::dial;
use crate::dsm::listen::{ConnectionReport, ServeEnd, Server};
use crate::dsm::modelled::Modelled;
use crate::dsm::record::{self, Recorder};
use crate::dsm::socket::{Command, Limits, Link, Tcp};
use crate::dsm::trace::Secrets;
use crate::text::{self, Paint, nearest};

/// Arguments of `tdxhost dsm`.
#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("role").required(true).args(["listen", "connect"]))]
pub struct DsmArgs {
    /// Be a modelled device: listen on that address for requesters, such as 127.0.0.1:2323
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Be a requester: authenticate the responder there, key an IDE stream, lock and start an interface
    #[arg(long, value_name = "ADDRESS")]
    connect: Option<String>,
    /// Longest silence of the other side, in seconds [default: 30 with --listen, 10 with --connect]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// Write every data object to a packet capture (link type 292)
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// Write every message decoded, as JSON lines, those of sessions in plaintext; the keys of IDE streams
    /// are shown with --listen only
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Write the secrets of sessions; a modelled device's only, which is what --listen is
    #[arg(long, value_name = "FILE")]
    keylog: Option<PathBuf>,
    /// Print JSON: one line for each event with --listen, one document with --connect
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    requester: RequesterArgs,
}

/// Arguments of the modelled device.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "With --listen")]
struct DeviceArgs {
    /// Device: `default`, `validators`, or a file
    #[arg(long, value_name = "NAME|FILE", default_value = "default", conflicts_with = "connect")]
    device: String,
    /// Serial number of the device
    #[arg(long, value_name = "N", default_value = "0", value_parser = text::number, conflicts_with = "connect")]
    seed: u64,
    /// Write the root certificate of the device's own authority, which requesters have to trust
    #[arg(long, value_name = "FILE.der", conflicts_with = "connect")]
    write_root: Option<PathBuf>,
}

/// Arguments of the requester.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "With --connect")]
struct RequesterArgs {
    /// Root certificate in DER whose devices are trusted; may be given several times
    #[arg(long, value_name = "FILE.der", conflicts_with = "listen")]
    root: Vec<PathBuf>,
    /// Go on with a device of any root, which proves nothing of it
    #[arg(long, conflicts_with_all = ["root", "listen"])]
    trust_any_root: bool,
    /// Certificate slot, 0 to 7 [default: the lowest that holds a chain]
    #[arg(long, value_name = "SLOT", value_parser = slot, conflicts_with = "listen")]
    slot: Option<SlotId>,
    /// Version to offer, 1.2 or 1.3; may be given several times [default: both]
    #[arg(long, value_name = "VERSION", conflicts_with = "listen")]
    spdm: Vec<Named<Version>>,
    /// Hash to offer, sha-256 or sha-384 [default: both]
    #[arg(long, value_name = "HASH", conflicts_with = "listen")]
    hash: Vec<Named<HashAlgo>>,
    /// Signature to offer, ecdsa-p256 or ecdsa-p384 [default: both]
    #[arg(long, value_name = "ALGORITHM", conflicts_with = "listen")]
    signature: Vec<Named<AsymAlgo>>,
    /// Group to offer, secp256r1 or secp384r1 [default: both]
    #[arg(long, value_name = "GROUP", conflicts_with = "listen")]
    group: Vec<Named<DheGroup>>,
    /// Cipher to offer, aes-128-gcm or aes-256-gcm [default: both]
    #[arg(long, value_name = "CIPHER", conflicts_with = "listen")]
    cipher: Vec<Named<AeadAlgo>>,
    /// Function whose interface is locked, such as 0000:3b:00.0 [default: the one of the IDE port]
    #[arg(long, value_name = "FUNCTION", value_parser = function, conflicts_with = "listen")]
    function: Option<FunctionId>,
    /// IDE port whose stream gets keys
    #[arg(long, value_name = "PORT", default_value_t = 0, conflicts_with = "listen")]
    port: u8,
    /// Stream ID of the IDE stream
    #[arg(long, value_name = "STREAM", default_value_t = 0, conflicts_with = "listen")]
    stream: u8,
    /// Added to the addresses in the report, a multiple of 4096
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = text::number, conflicts_with = "listen")]
    reporting_offset: u64,
    /// Give the session new keys before it is used
    #[arg(long, conflicts_with = "listen")]
    key_update: bool,
    /// How far to go
    #[arg(long, value_enum, value_name = "PHASE", default_value_t, conflicts_with = "listen")]
    until: Until,
    /// Be a bad requester instead: try what nobody may say, `all` of it or the cases of these names, and
    /// fail if the responder accepts any of it
    #[arg(long, value_name = "all|CASE", value_delimiter = ',', conflicts_with_all = ["listen", "until", "key_update", "reporting_offset"])]
    bad: Vec<String>,
    /// Ask the responder to end, instead of telling it that we go
    #[arg(long, conflicts_with = "listen")]
    shutdown: bool,
}

fn seconds(word: &str) -> Result<Duration, String> {
    let parsed = word.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    parsed.filter(|time| !time.is_zero()).ok_or_else(|| "not a number of seconds above 0".to_owned())
}

fn slot(word: &str) -> Result<SlotId, String> {
    word.parse().ok().and_then(SlotId::new).ok_or_else(|| "slots are 0 to 7".to_owned())
}

fn function(word: &str) -> Result<FunctionId, String> {
    let function: FunctionId = word.parse().map_err(|error: pcie::address::ParseError| error.to_string())?;
    match pcie::FuncId::new(function) {
        Ok(_) => Ok(function),
        Err(error) => Err(error.to_string()),
    }
}

/// Runs the command.
pub fn run(args: &DsmArgs) -> anyhow::Result<ExitCode> {
    match (&args.listen, &args.connect) {
        (Some(address), _) => listen(address, args),
        (None, Some(address)) => connect(address, args),
        (None, None) => bail!("give --listen ADDRESS or --connect ADDRESS"),
    }
}

/// The device of a built-in name or of a file.
pub fn load(name: &str) -> anyhow::Result<EndpointSpec> {
    if let Some(device) = devices::find(name) {
        return device.spec().with_context(|| format!("device {name}"));
    }
    let path = Path::new(name);
    if !name.contains(['/', '.']) && !path.exists() {
        let names = || devices::ALL.iter().map(|device| device.name);
        let hint = match nearest(name, names()) {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("built in are {}", names().collect::<Vec<_>>().join(", ")),
        };
        bail!("device {name:?}: neither built in nor a file; {hint}");
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("device file {name}"))?;
    EndpointSpec::from_toml(&text).map_err(|error| anyhow::anyhow!("{name}: {error}"))
}

/// One line of `--listen --json`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event<'a> {
    Listening {
        address: String,
        device: &'a str,
        simulated: bool,
    },
    Connection {
        peer: String,
        end: &'static str,
        detail: String,
        frames: u64,
        messages: u64,
        unanswered: u64,
        received: u64,
        sent: u64,
        seconds: f64,
    },
    Ended {
        why: &'static str,
    },
}

fn tell(json: bool, event: &Event<'_>, line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, event)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{line}")?;
    }
    out.flush()
}

fn limits(args: &DsmArgs, idle: Duration) -> Limits {
    Limits { idle: args.timeout.unwrap_or(idle), ..Limits::default() }
}

fn recorder(args: &DsmArgs) -> anyhow::Result<Recorder> {
    let mut files: Vec<_> = [&args.pcap, &args.trace, &args.keylog].into_iter().flatten().collect();
    files.sort();
    if let Some((file, _)) = files.iter().zip(files.iter().skip(1)).find(|(one, next)| one == next) {
        bail!("{} is to hold two of capture, trace and key log: give each its own file", file.display());
    }
    let mut recorder = Recorder::default();
    if let Some(path) = &args.pcap {
        recorder.keep_pcap(path)?;
    }
    if let Some(path) = &args.trace {
        let secrets = if args.listen.is_some() { Secrets::Shown } else { Secrets::Hidden };
        recorder.keep_trace(path, secrets)?;
    }
    if let Some(path) = &args.keylog {
        recorder.keep_keylog(path)?;
    }
    Ok(recorder)
}

fn listen(address: &str, args: &DsmArgs) -> anyhow::Result<ExitCode> {
    let spec = load(&args.device.device)?;
    let endpoint = Endpoint::new(&spec, args.device.seed, record::now())?;
    if let Some(path) = &args.device.write_root {
        std::fs::write(path, endpoint.root())
            .with_context(|| format!("cannot write the root certificate {}", path.display()))?;
    }
    let mut recorder = recorder(args)?;
    let server = Server::bind(address, limits(args, Duration::from_secs(30)))?;
    stop_on_signals(&server)?;

    let (address, json) = (server.address().to_string(), args.json);
    let line = format!("device {}, simulated, listens on {address}", spec.name);
    tell(json, &Event::Listening { address, device: &spec.name, simulated: true }, &line)?;
    let mut told = Ok(());
    let mut device = Modelled::new(endpoint);
    let end = server.serve(&mut device, &mut recorder, &mut |report| {
        if told.is_ok() {
            told = tell_connection(json, report);
        }
    })?;
    told?;
    recorder.finish()?;
    let (why, line) = match end {
        ServeEnd::Shutdown => ("shutdown", "ended: a client asked for it"),
        ServeEnd::Stopped => ("signal", "ended by a signal"),
    };
    tell(json, &Event::Ended { why }, line)?;
    Ok(ExitCode::SUCCESS)
}

fn tell_connection(json: bool, report: &ConnectionReport) -> io::Result<()> {
    let ConnectionReport { peer, tally, elapsed, end } = report;
    let line = format!(
        "{peer}: {} messages, {} bytes in, {} bytes out, {:.1} ms; {end}",
        tally.messages,
        tally.received,
        tally.sent,
        elapsed.as_secs_f64() * 1e3
    );
    let event = Event::Connection {
        peer: peer.to_string(),
        end: end.name(),
        detail: end.to_string(),
        frames: tally.frames,
        messages: tally.messages,
        unanswered: tally.unanswered,
        received: tally.received,
        sent: tally.sent,
        seconds: elapsed.as_secs_f64(),
    };
    tell(json, &event, &line)
}

fn stop_on_signals(server: &Server) -> anyhow::Result<()> {
    let stop = server.stop_handle();
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot take over SIGINT and SIGTERM")?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for _ in &mut signals {
                stop.stop();
            }
        })
        .context("cannot start the signal thread")?;
    Ok(())
}

fn connect(address: &str, args: &DsmArgs) -> anyhow::Result<ExitCode> {
    if args.keylog.is_some() {
        bail!(
            "--keylog: the device behind {address} may be a real one, whose secrets are not written; \
             use it with --listen, where the device is modelled"
        );
    }
    let plan = plan(&args.requester)?;
    let cases = bad_cases(&args.requester.bad)?;
    let recorder = SharedRecorder(std::sync::Arc::new(parking_lot::Mutex::new(recorder(args)?)));
    let limits = limits(args, Duration::from_secs(10));
    let stream = dial(address, limits.idle)?;
    if args.requester.trust_any_root && !args.json {
        eprintln!("tdxhost: --trust-any-root: whoever answers is taken for the device");
    }
    if !cases.is_empty() {
        return try_bad(address, args, &plan, &cases, stream, &recorder);
    }
    let link = Link::new(Tcp::new(stream)?, limits);
    let report = connect::run(address.to_owned(), link, &plan, recorder.clone());
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else {
        report.print(&mut out, Paint::for_stdout())?;
    }
    out.flush()?;
    recorder.0.lock().finish()?;
    match (&report.error, report.advice) {
        (None, _) => Ok(ExitCode::SUCCESS),
        (Some(_), _) if args.json => Ok(ExitCode::FAILURE),
        (Some(error), Some(advice)) => bail!("{address}: {error}; {advice}"),
        (Some(error), None) => bail!("{address}: {error}"),
    }
}

/// The cases of those names.
fn bad_cases(names: &[String]) -> anyhow::Result<Vec<&'static bad::Case>> {
    if names.iter().any(|name| name == "all") {
        return Ok(bad::CATALOGUE.iter().collect());
    }
    let find = |name: &String| {
        bad::find(name).with_context(|| match nearest(name, bad::CATALOGUE.iter().map(|case| case.name)) {
            Some(meant) => format!("--bad {name}: no such case; did you mean {meant}?"),
            None => format!("--bad {name}: no such case; `all` has {}", bad::CATALOGUE.len()),
        })
    };
    names.iter().map(find).collect()
}

fn try_bad(
    address: &str,
    args: &DsmArgs,
    plan: &Plan,
    cases: &[&'static bad::Case],
    stream: TcpStream,
    recorder: &SharedRecorder,
) -> anyhow::Result<ExitCode> {
    let interface = plan.function.map(|function| pcie::FuncId::new(function).map(InterfaceId)).transpose()?;
    let bad_plan = bad::Plan {
        config: plan.config.clone(),
        verifier: std::sync::Arc::new(plan.trust.clone()),
        target: bad::Target { slot: plan.slot, port: plan.port, stream: plan.stream, interface },
    };
    // Many a case is met with silence.
    let limits = limits(args, Duration::from_secs(2));
    let mut line = bad::Redial::new(address.to_owned(), stream, limits, recorder.clone())?;
    if let Err(error) = bad_plan.session(&mut line) {
        let error = ConnectError::Spdm { error, socket: None };
        let advice = error.advice().map(|advice| format!("; {advice}")).unwrap_or_default();
        bail!("{address}: no session even by the rules: {error}{advice}");
    }
    let rows = bad_plan.run(cases.iter().copied(), &mut line);
    line.end(if plan.shutdown { Command::SHUTDOWN } else { Command::CONTINUE });
    let report = bad::Report::new(address.to_owned(), rows);
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else {
        report.print(&mut out, Paint::for_stdout())?;
    }
    out.flush()?;
    recorder.0.lock().finish()?;
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A root certificate, if the file is one.
fn root(path: &Path) -> anyhow::Result<Vec<u8>> {
    let der = std::fs::read(path)
        .with_context(|| format!("cannot read the root certificate {}", path.display()))?;
    let advice = if der.starts_with(b"-----BEGIN") {
        "; it is PEM: openssl x509 -in FILE.pem -outform DER -out FILE.der"
    } else {
        ""
    };
    let chain = chain::build(&AwsLc, HashAlgo::Sha256, &[&der]);
    match chain
        .as_ref()
        .map(|bytes| CertChain::parse(bytes, HashAlgo::Sha256).map(|chain| chain.certificates().len()))
    {
        Ok(Ok(1)) => Ok(der),
        _ => bail!("{} is not one certificate in DER{advice}", path.display()),
    }
}

fn plan(args: &RequesterArgs) -> anyhow::Result<Plan> {
    let trust = if args.trust_any_root {
        TrustStore::AnyRoot
    } else {
        TrustStore::new(args.root.iter().map(|path| root(path)).collect::<Result<Vec<_>, _>>()?)
    };
    if !args.reporting_offset.is_multiple_of(4096) {
        bail!("--reporting-offset {:#x} is no multiple of 4096", args.reporting_offset);
    }
    let mut config = RequesterConfig::default();
    choose(&mut config.versions, &args.spdm);
    choose(&mut config.hashes, &args.hash);
    choose(&mut config.asyms, &args.signature);
    choose(&mut config.dhes, &args.group);
    choose(&mut config.aeads, &args.cipher);
    Ok(Plan {
        config,
        trust,
        slot: args.slot,
        function: args.function,
        port: PortIndex(args.port),
        stream: StreamId(args.stream),
        reporting_offset: args.reporting_offset,
        key_update: args.key_update,
        until: args.until,
        shutdown: args.shutdown,
    })
}

/// What the user names takes the place of the default.
fn choose<T: Copy>(offered: &mut Vec<T>, named: &[Named<T>]) {
    if !named.is_empty() {
        *offered = named.iter().map(|Named(value)| *value).collect();
    }
}
