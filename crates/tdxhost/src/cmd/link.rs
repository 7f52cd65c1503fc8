//! `tdxhost link show`: IDE streams of a host.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::api::{self, LinkFacts, LinksFacts};
use crate::link::PciTree;

/// Arguments of `tdxhost link`.
#[derive(Args, Clone, Debug)]
pub struct LinkArgs {
    #[command(subcommand)]
    command: LinkCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum LinkCommand {
    /// Show the IDE streams between root ports and devices
    Show(ShowArgs),
}

/// Arguments of `tdxhost link show`.
#[derive(Args, Clone, Debug)]
struct ShowArgs {
    /// Root of the host's sysfs tree
    #[arg(long, value_name = "DIR", default_value = "/sys")]
    sysfs: PathBuf,
    /// Socket of a served machine's API: shows keys, states and sessions as well
    #[arg(long, value_name = "SOCKET", conflicts_with = "sysfs")]
    api: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &LinkArgs) -> anyhow::Result<ExitCode> {
    let LinkCommand::Show(args) = &args.command;
    let mut out = io::stdout().lock();
    if let Some(socket) = &args.api {
        let mut answers = api::get(socket, &["/v1/links"])?.into_iter();
        let LinksFacts { links } = api::facts(answers.next(), "/v1/links")?;
        if args.json { document(&mut out, &links)? } else { table(&mut out, &links)? }
    } else {
        let tree = PciTree::new(&args.sysfs);
        let shown = Shown::of(&tree);
        if args.json { document(&mut out, &shown)? } else { shown.print(&mut out)? }
    }
    Ok(ExitCode::SUCCESS)
}

fn document(out: &mut dyn Write, what: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut *out, what).map_err(io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

/// What the files of a kernel tell.
#[derive(Serialize)]
struct Shown {
    tsms: Vec<String>,
    bridges: Vec<BridgeShown>,
    streams: Vec<StreamShown>,
}

#[derive(Serialize)]
struct BridgeShown {
    name: String,
    available_secure_streams: u32,
}

#[derive(Serialize)]
struct StreamShown {
    bridge: String,
    name: String,
    endpoint: String,
}

impl Shown {
    fn of(tree: &PciTree) -> Self {
        let bridge = |bridge: crate::link::Bridge| BridgeShown {
            name: bridge.name,
            available_secure_streams: bridge.available,
        };
        let stream = |stream: crate::link::Stream| StreamShown {
            bridge: stream.bridge,
            name: stream.name,
            endpoint: stream.endpoint,
        };
        Self {
            tsms: tree.tsms(),
            bridges: tree.bridges().into_iter().map(bridge).collect(),
            streams: tree.streams().into_iter().map(stream).collect(),
        }
    }

    fn print(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let tsms = if self.tsms.is_empty() { "none".to_owned() } else { self.tsms.join(", ") };
        writeln!(out, "tsm      {tsms}")?;
        for bridge in &self.bridges {
            writeln!(out, "bridge   {:<12}  {} streams left", bridge.name, bridge.available_secure_streams)?;
        }
        for stream in &self.streams {
            writeln!(out, "stream   {:<12}  {:<12}  {}", stream.bridge, stream.name, stream.endpoint)?;
        }
        Ok(())
    }
}

fn table(out: &mut dyn Write, links: &[LinkFacts]) -> io::Result<()> {
    if links.is_empty() {
        return writeln!(out, "no link is secured");
    }
    writeln!(
        out,
        "{:<14}{:<14}{:>4}  {:<22}{:<22}{:>4}{:>10}{:>10}{:>10}",
        "device", "stream", "id", "root port", "endpoint", "keys", "refreshes", "updates", "messages"
    )?;
    for link in links {
        writeln!(
            out,
            "{:<14}{:<14}{:>4}  {:<22}{:<22}{:>4}{:>10}{:>10}{:>10}",
            link.device,
            link.name,
            link.stream_id,
            format!("{} {}", link.root_port.port, link.root_port.state),
            format!("{} {}", link.endpoint.port, link.endpoint.state),
            link.key_set,
            link.key_refreshes,
            link.session_key_updates,
            link.messages,
        )?;
    }
    Ok(())
}
