//! `tdxhost module`: images of the TDX module, which one to take, and live update.

mod build;
mod convert;
mod host;
mod inspect;
mod join;
mod list;
mod output;
mod plan;
mod split;
mod update;
mod verify;

use std::process::ExitCode;

use clap::{Args, Subcommand};

/// Arguments of `tdxhost module`.
#[derive(Args, Clone, Debug)]
pub struct ModuleArgs {
    #[command(subcommand)]
    command: ModuleCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum ModuleCommand {
    /// Show what an image says of itself
    Inspect(inspect::InspectArgs),
    /// Check images: form, SIGSTRUCT, signature, hash
    Verify(verify::VerifyArgs),
    /// Give an image the other header
    Convert(convert::ConvertArgs),
    /// Make an image of a module and its SIGSTRUCT
    Join(join::JoinArgs),
    /// Take an image apart into module and SIGSTRUCT
    Split(split::SplitArgs),
    /// Build an image for software machines, signed with the test key
    Build(build::BuildArgs),
    /// List the images of a directory and which of them fit this host
    List(list::ListArgs),
    /// Choose an image for this host and say why not the others
    Plan(plan::PlanArgs),
    /// Replace the running module while TDs live
    Update(update::UpdateArgs),
}

/// Runs the command.
pub fn run(args: &ModuleArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        ModuleCommand::Inspect(args) => inspect::run(args),
        ModuleCommand::Verify(args) => verify::run(args),
        ModuleCommand::Convert(args) => convert::run(args),
        ModuleCommand::Join(args) => join::run(args),
        ModuleCommand::Split(args) => split::run(args),
        ModuleCommand::Build(args) => build::run(args),
        ModuleCommand::List(args) => list::run(args),
        ModuleCommand::Plan(args) => plan::run(args),
        ModuleCommand::Update(args) => update::run(args),
    }
}
