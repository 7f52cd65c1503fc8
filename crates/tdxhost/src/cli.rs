//! The command line: names, arguments, and the one line that a failure prints.

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
    /// Say what a status word, a metadata field, an error name or a kernel log means
    Explain(crate::explain::ExplainArgs),
    /// Check a host for what TDX needs, without changing it
    Doctor(crate::doctor::DoctorArgs),
}

/// Runs the command that the process arguments name.
pub fn main() -> ExitCode {
    // A closed pipe (`tdxhost … | head`) ends the program quietly, as users of other tools expect:
    // writers return the error, and it is dropped here.
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tdxhost: {error:#}");
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
        Command::Explain(args) => crate::explain::run(&args),
        Command::Doctor(args) => crate::doctor::run(&args, &crate::api::hardware),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}
