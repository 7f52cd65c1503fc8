//! `tdxhost platform`: the presets, their files, and new ones from real machines.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::text::{gib, nearest};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde::Serialize;
use tdx_machine::{E820Kind, Machine, PlatformSpec, capture, presets};

/// Arguments of `tdxhost platform`.
#[derive(Args, Clone, Debug)]
pub struct PlatformArgs {
    #[command(subcommand)]
    command: PlatformCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum PlatformCommand {
    /// List the presets
    List {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Print a preset as a platform file
    Show {
        /// Name of the preset, or a file to check
        name: String,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Write a platform file from this machine, or from a posted boot log
    Capture {
        /// Boot log to read instead of this machine, `-` for standard input
        #[arg(long, value_name = "FILE")]
        dmesg: Option<String>,
        /// File to write [default: standard output]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Write one JSON document: the platform, and what was not found
        #[arg(long)]
        json: bool,
    },
}

#[derive(Serialize)]
struct Listed {
    name: &'static str,
    description: String,
    packages: u32,
    logical_processors: u32,
    memory_bytes: u64,
    module: Option<String>,
    synthetic: bool,
}

/// Runs the command.
pub fn run(args: &PlatformArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        PlatformCommand::List { json } => list(*json)?,
        PlatformCommand::Show { name, json } => show(name, *json)?,
        PlatformCommand::Capture { dmesg, out, json } => capture(dmesg.as_deref(), out.as_deref(), *json)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The platform of a preset's name or of a file.
pub fn load(name: &str) -> anyhow::Result<PlatformSpec> {
    if let Some(preset) = presets::find(name) {
        return preset.spec().with_context(|| format!("preset {name}"));
    }
    let path = Path::new(name);
    let is_name = !name.contains(['/', '.']);
    if is_name && !path.exists() {
        let hint = match nearest(name, presets::names()) {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("the presets are {}", presets::names().collect::<Vec<_>>().join(", ")),
        };
        anyhow::bail!("platform {name:?}: neither a preset nor a file; {hint}");
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("platform file {name}"))?;
    PlatformSpec::from_toml(&text).map_err(|error| anyhow::anyhow!("{name}: {error}"))
}

fn list(json: bool) -> anyhow::Result<()> {
    let rows: Vec<Listed> =
        presets::all().map(listed).collect::<Result<_, _>>().context("a preset is broken")?;
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, &rows)?;
        writeln!(out)?;
        return Ok(());
    }
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    for row in &rows {
        writeln!(
            out,
            "{:width$}  {:>5} LPs {:>8}  {}{}",
            row.name,
            row.logical_processors,
            gib(row.memory_bytes),
            row.description,
            if row.synthetic { " (synthetic)" } else { "" }
        )?;
    }
    Ok(())
}

fn listed(preset: &'static presets::Preset) -> anyhow::Result<Listed> {
    let machine = Machine::power_on(preset.spec()?, 0).with_context(|| format!("preset {}", preset.name))?;
    let spec = machine.spec();
    Ok(Listed {
        name: preset.name,
        description: preset.description.to_owned(),
        packages: spec.cpu.packages,
        logical_processors: spec.cpu.lp_count().unwrap_or(0),
        memory_bytes: ram_bytes(&machine),
        module: spec.module.present.then(|| spec.module.profile.clone()),
        synthetic: spec.synthetic,
    })
}

/// Bytes of usable RAM in the memory map.
pub fn ram_bytes(machine: &Machine) -> u64 {
    let ram = machine.memory_map().iter().filter(|entry| entry.kind == E820Kind::Usable);
    ram.map(|entry| entry.range.size()).sum()
}

fn show(name: &str, json: bool) -> anyhow::Result<()> {
    let spec = load(name)?;
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, &spec)?;
        writeln!(out)?;
    } else if let Some(preset) = presets::find(name) {
        // As it was written, comments included: it is what a user starts a file from.
        out.write_all(preset.toml.as_bytes())?;
    } else {
        out.write_all(spec.to_toml()?.as_bytes())?;
    }
    Ok(())
}

fn capture(dmesg: Option<&str>, out: Option<&Path>, json: bool) -> anyhow::Result<()> {
    let (spec, notes) = match dmesg {
        None => capture::from_host(Path::new("/"))?,
        Some(source) => {
            let log = read_log(source).with_context(|| format!("boot log {source}"))?;
            capture::from_dmesg(&log).with_context(|| format!("boot log {source}"))?
        }
    };
    let mut text = String::new();
    if json {
        let notes: Vec<String> = notes.iter().map(ToString::to_string).collect();
        text = serde_json::to_string_pretty(&serde_json::json!({ "platform": spec, "notes": notes }))?;
        text.push('\n');
    } else {
        for note in &notes {
            writeln!(text, "# {note}")?;
        }
        text.push_str(&spec.to_toml()?);
    }
    match out {
        Some(path) => {
            std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        None => io::stdout().lock().write_all(text.as_bytes())?,
    }
    Ok(())
}

fn read_log(source: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    if source == "-" {
        io::stdin().lock().read_to_end(&mut bytes)?;
    } else {
        bytes = std::fs::read(source)?;
    }
    // Logs carry stray bytes; the lines that matter are ASCII.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
