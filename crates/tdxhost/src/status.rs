//! `tdxhost status`: what a served machine is doing.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use crate::api::{
    self, CpusFacts, DeviceFacts, ModuleFacts, PlatformFacts, StatusFacts, UpdateFacts, UpdateState,
    UploadFacts, default_socket,
};
use crate::text::{gib, plural};

/// Arguments of `tdxhost status`.
#[derive(Args, Clone, Debug)]
pub struct StatusArgs {
    /// Socket of the API [default: tdxhost.sock in $XDG_RUNTIME_DIR or /run]
    #[arg(long, value_name = "SOCKET")]
    pub api: Option<PathBuf>,
    /// Print the status as a JSON document
    #[arg(long)]
    pub json: bool,
}

/// Asks the server and prints its answer.
pub fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    report(args, &mut out)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes what the server tells to `out`.
pub fn report(args: &StatusArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let socket = args.api.clone().unwrap_or_else(default_socket);
    if args.json {
        let mut answers = api::get(&socket, &["/v1/status"])?.into_iter();
        let status: Value = api::facts(answers.next(), "/v1/status")?;
        serde_json::to_writer_pretty(&mut *out, &status).map_err(io::Error::from)?;
        writeln!(out)?;
        return Ok(());
    }
    let routes = ["/v1/status", "/v1/platform", "/v1/cpus", "/v1/device", "/v1/module"];
    let mut answers = api::get(&socket, &routes)?.into_iter();
    let status: StatusFacts = api::facts(answers.next(), routes[0])?;
    let platform: PlatformFacts = api::facts(answers.next(), routes[1])?;
    let cpus: CpusFacts = api::facts(answers.next(), routes[2])?;
    let device: DeviceFacts = api::facts(answers.next(), routes[3])?;
    let module: Option<ModuleFacts> = match answers.next() {
        // The answer of a machine without a module.
        Some(Err(problem)) if problem.status == 404 => None,
        answer => Some(api::facts(answer, routes[4])?),
    };
    summary(out, &status, &platform, &cpus, &device, module.as_ref())?;
    Ok(())
}

fn summary(
    out: &mut dyn Write,
    status: &StatusFacts,
    platform: &PlatformFacts,
    cpus: &CpusFacts,
    device: &DeviceFacts,
    module: Option<&ModuleFacts>,
) -> io::Result<()> {
    writeln!(
        out,
        "platform  {} (simulated, seed {}): {}, {}, {}",
        platform.name,
        platform.seed,
        plural(u64::from(platform.packages), "package"),
        plural(u64::from(platform.logical_processors), "logical processor"),
        gib(platform.memory_bytes),
    )?;
    match &status.error {
        None => writeln!(out, "host      {}", status.state.describe())?,
        Some(error) => {
            writeln!(out, "host      {}: {}: {}", status.state.describe(), error.name, error.message)?;
            writeln!(out, "          {}", error.advice)?;
        }
    }
    match module {
        None => writeln!(out, "module    none")?,
        Some(module) => writeln!(
            out,
            "module    {} ({}): {} of {} processors, {} of {} packages, {} TDMRs, {} KB of PAMT",
            module.version,
            module.state,
            module.initialised_processors,
            platform.logical_processors,
            module.configured_packages,
            platform.packages,
            module.tdmrs.len(),
            module.tdmrs.iter().map(|tdmr| tdmr.pamt_bytes).sum::<u64>() / 1024,
        )?,
    }
    if device.exists {
        let values: Vec<String> = device
            .attributes
            .iter()
            .map(|attribute| {
                let value = attribute.value.as_ref().or(attribute.errno.as_ref());
                format!("{} {}", attribute.name, value.map_or("?", String::as_str))
            })
            .collect();
        writeln!(out, "device    tdx_host: {}", values.join(", "))?;
    } else {
        writeln!(out, "device    none")?;
    }
    if let Some(upload) = &device.upload {
        update(out, upload)?;
    }
    writeln!(out, "cpus      {} online of {}", or_none(&cpus.online), or_none(&cpus.present))?;
    match &status.service.mount {
        Some(mount) => {
            writeln!(out, "sysfs     {} (layout {})", mount.display(), status.service.sysfs_layout)?;
        }
        None => writeln!(out, "sysfs     not mounted")?,
    }
    writeln!(
        out,
        "service   tdxhost {}, pid {}, up {:.0} s",
        status.service.version, status.service.pid, status.service.uptime_seconds
    )
}

/// What comes in, and how the last update went; nothing if there is nothing to tell.
fn update(out: &mut dyn Write, upload: &UploadFacts) -> io::Result<()> {
    if upload.loading {
        writeln!(out, "upload    an image is coming in")?;
    }
    let Some(last) = &upload.last else { return Ok(()) };
    let UpdateFacts { state, phase, cpu, from, to, remaining_updates, error, .. } = last;
    let unknown = || "?".to_owned();
    let during = phase.as_ref().map(|phase| format!(" in phase {phase}")).unwrap_or_default();
    match state {
        UpdateState::Running => writeln!(out, "update    {}{during}", upload.status),
        UpdateState::Succeeded => {
            let left = remaining_updates.map(|left| format!(", {} left", plural(u64::from(left), "update")));
            writeln!(
                out,
                "update    {} to {}{}",
                from.clone().unwrap_or_else(unknown),
                to.clone().unwrap_or_else(unknown),
                left.unwrap_or_default()
            )
        }
        UpdateState::Failed => {
            let on = cpu.map(|cpu| format!(" on CPU {cpu}")).unwrap_or_default();
            let (name, message, advice) = error.as_ref().map_or(("?", "?", "?"), |error| {
                (error.name.as_str(), error.message.as_str(), error.advice.as_str())
            });
            writeln!(out, "update    failed{during}{on}: {name}: {message}")?;
            writeln!(out, "          {advice}")
        }
    }
}

fn or_none(list: &str) -> &str {
    if list.is_empty() { "none" } else { list }
}
