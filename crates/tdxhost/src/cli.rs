//! The command line: names, arguments, and the one line that a failure prints.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cmd;

/// Host side of Intel TDX, with a software TDX platform to run it on.
#[derive(Parser)]
#[command(name = "tdxhost", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring a machine up from power-on and show its tdx_host device
    Demo(cmd::demo::DemoArgs),
    /// Run a scenario file: steps, faults, and what must come of them
    Run(cmd::run::RunArgs),
    /// Bring a machine up and serve it: sysfs files over FUSE, JSON over a unix socket
    Serve(crate::serve::ServeArgs),
    /// Show what a served machine is doing
    Status(crate::status::StatusArgs),
    /// List, show and capture platform files
    Platform(cmd::platform::PlatformArgs),
    /// Inspect, verify, build and choose images of the TDX module, and update it live
    Module(cmd::module::ModuleArgs),
    /// Say what a status word, a metadata field, an error name or a kernel log means
    Explain(crate::explain::ExplainArgs),
    /// Check a host for what TDX needs, without changing it
    Doctor(crate::doctor::DoctorArgs),
    /// Make a device part of a TSM: SPDM session, and keys on its link
    Connect(cmd::connect::ConnectArgs),
    /// Take a device out of its TSM
    Disconnect(cmd::connect::DisconnectArgs),
    /// Show the IDE streams between root ports and devices
    Link(cmd::link::LinkArgs),
    /// Be a TEE-IO device on a socket (SPDM, IDE_KM, TDISP), or try one out
    Dsm(Box<cmd::dsm::DsmArgs>),
}

/// Runs the command that the process arguments name.
pub fn main() -> ExitCode {
    // A closed pipe (`tdxhost … | head`) ends the program quietly, as users of other tools expect:
    // writers return the error, and it is dropped here.
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Whatever else fails has a context that names it.
            let what = if output_error(error.as_ref()).is_some() { "cannot write the output: " } else { "" };
            eprintln!("tdxhost: {what}{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Demo(args) => cmd::demo::run(&args),
        Command::Run(args) => cmd::run::run(&args),
        Command::Serve(args) => crate::serve::run(&args),
        Command::Status(args) => crate::status::run(&args),
        Command::Platform(args) => cmd::platform::run(&args),
        Command::Module(args) => cmd::module::run(&args),
        Command::Explain(args) => crate::explain::run(&args),
        Command::Doctor(args) => crate::doctor::run(&args, &crate::api::hardware),
        Command::Connect(args) => cmd::connect::connect(&args),
        Command::Disconnect(args) => cmd::connect::disconnect(&args),
        Command::Link(args) => cmd::link::run(&args),
        Command::Dsm(args) => cmd::dsm::run(&args),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().filter_map(output_error).any(|kind| kind == ErrorKind::BrokenPipe)
}

/// What went wrong in a stream; `None` if `cause` is no error of one.
fn output_error(cause: &(dyn Error + 'static)) -> Option<ErrorKind> {
    // serde_json keeps the error of its writer to itself.
    let json = cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
    json.or_else(|| cause.downcast_ref::<io::Error>().map(io::Error::kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_went_away_is_known_whoever_wrote() {
        let gone = || io::Error::from(ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(&gone().into()));
        assert!(is_broken_pipe(&serde_json::Error::io(gone()).into()));
        assert!(is_broken_pipe(&anyhow::Error::from(gone()).context("more")));
        assert!(!is_broken_pipe(&io::Error::from(ErrorKind::StorageFull).into()));
        assert!(!is_broken_pipe(&anyhow::anyhow!("no-tdx: this CPU has no TDX")));
    }
}
