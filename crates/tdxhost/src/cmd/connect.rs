//! `tdxhost connect` and `tdxhost disconnect`: a device becomes part of a TSM, or leaves it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use pcie::FunctionId;
use serde::Serialize;

use crate::api::{self, ErrorFacts, FunctionFacts};
use crate::link::{LinkError, PciTree, Stream, address};

/// Where the host's files are.
#[derive(Args, Clone, Debug)]
pub struct TreeArgs {
    /// Root of the host's sysfs tree
    #[arg(long, value_name = "DIR", default_value = "/sys")]
    sysfs: PathBuf,
    /// Socket of a served machine's API, which knows the reason of a refusal
    #[arg(long, value_name = "SOCKET")]
    api: Option<PathBuf>,
}

/// Arguments of `tdxhost connect`.
#[derive(Args, Clone, Debug)]
pub struct ConnectArgs {
    /// Function 0 of the device, such as 0000:3b:00.0 or 3b:00.0
    #[arg(value_name = "BDF", value_parser = address)]
    device: FunctionId,
    /// The TSM [default: the only one]
    #[arg(long, value_name = "NAME")]
    tsm: Option<String>,
    #[command(flatten)]
    tree: TreeArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Print nothing but a failure
    #[arg(long, short)]
    quiet: bool,
}

/// Arguments of `tdxhost disconnect`.
#[derive(Args, Clone, Debug)]
pub struct DisconnectArgs {
    /// Function 0 of the device, such as 0000:3b:00.0 or 3b:00.0
    #[arg(value_name = "BDF", value_parser = address)]
    device: FunctionId,
    #[command(flatten)]
    tree: TreeArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Print nothing but a failure
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Serialize)]
struct Document {
    device: String,
    /// The TSM that it is connected to now.
    connected: Option<String>,
    streams: Vec<StreamDocument>,
}

#[derive(Serialize)]
struct StreamDocument {
    bridge: String,
    name: String,
}

impl Document {
    fn new(device: FunctionId, connected: Option<String>, tree: &PciTree) -> Self {
        let streams =
            of_device(tree, device).map(|Stream { bridge, name, .. }| StreamDocument { bridge, name });
        Self { device: device.to_string(), connected, streams: streams.collect() }
    }
}

fn of_device(tree: &PciTree, device: FunctionId) -> impl Iterator<Item = Stream> {
    let name = device.to_string();
    tree.streams().into_iter().filter(move |stream| stream.endpoint == name)
}

/// Connects a device.
pub fn connect(args: &ConnectArgs) -> anyhow::Result<ExitCode> {
    let tree = PciTree::new(&args.tree.sysfs);
    let tsm = tree.tsm(args.tsm.as_deref())?;
    tree.connect(args.device, &tsm).map_err(|error| with_reason(&args.tree, args.device, error))?;
    let connected = tree.connected(args.device)?;
    let document = Document::new(args.device, connected, &tree);
    print(&document, args.json, args.quiet, |out, document| {
        let name = document.connected.as_deref().unwrap_or("nothing");
        write!(out, "{} is connected to {name}", document.device)?;
        let streams = document.streams.iter().map(|stream| format!("{}/{}", stream.bridge, stream.name));
        let streams: Vec<_> = streams.collect();
        if streams.is_empty() { writeln!(out) } else { writeln!(out, ", stream {}", streams.join(", ")) }
    })
}

/// Disconnects a device.
pub fn disconnect(args: &DisconnectArgs) -> anyhow::Result<ExitCode> {
    let tree = PciTree::new(&args.tree.sysfs);
    let tsm = tree.disconnect(args.device).map_err(|error| with_reason(&args.tree, args.device, error))?;
    let document = Document::new(args.device, tree.connected(args.device)?, &tree);
    print(&document, args.json, args.quiet, |out, document| {
        writeln!(out, "{} is disconnected from {tsm}", document.device)
    })
}

fn print(
    document: &Document,
    json: bool,
    quiet: bool,
    words: impl FnOnce(&mut dyn Write, &Document) -> io::Result<()>,
) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, document)?;
        writeln!(out)?;
    } else if !quiet {
        words(&mut out, document)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What a served machine holds against a device.
fn reason_of(socket: &Path, device: FunctionId) -> Option<ErrorFacts> {
    let route = format!("/v1/devices/{device}");
    let answer = api::get(socket, &[&route]).ok()?.into_iter().next();
    let function: FunctionFacts = api::facts(answer, &route).ok()?;
    function.last_error.map(|reason| reason.error)
}

/// The kernel has one number for many reasons; a served machine tells which it was.
fn with_reason(tree: &TreeArgs, device: FunctionId, error: LinkError) -> anyhow::Error {
    let told = matches!(error, LinkError::Refused { .. })
        .then(|| tree.api.as_deref().and_then(|socket| reason_of(socket, device)))
        .flatten();
    match told {
        Some(reason) => anyhow::anyhow!("{}: {}; {}", reason.name, reason.message, reason.advice),
        None => error.into(),
    }
}
