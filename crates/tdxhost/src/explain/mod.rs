//! `tdxhost explain`: turns status words, leaves, field ids, error names and kernel logs into sentences.

mod context;
pub mod dmesg;
mod explanation;
mod field;
mod guest;
mod host_error;
mod registers;
mod seamldr;
mod status;
mod words;

use std::io::Read as _;
use std::process::ExitCode;

use anyhow::Context as _;

pub use explanation::{Explanation, Fact, Fault, Interface, LeafFacts, StatusBits};
pub use field::{explain as explain_field, explain_id as explain_field_id};
pub use guest::{explain_tdcall, explain_tdcall_leaf, explain_vmcall, explain_vmcall_leaf};
pub use host_error::{NoSuchError, explain as explain_error};
pub use registers::CallRegisters;
pub use status::{explain as explain_seamcall, explain_leaf};
pub use words::{WordsError, explain_words};

use crate::text::Output;

/// Arguments of `tdxhost explain`.
// Options of a command line are independent of each other.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ExplainArgs {
    /// RAX alone, or LEAF RAX [RCX RDX R8 R9 R10 R11], or `field ID`, or `error [NAME]`.
    ///
    /// A leaf is a name (TDH.SYS.INIT or SYS.INIT) or a number. Numbers are decimal unless written 0x.
    #[arg(
        value_name = "WORD",
        required_unless_present = "dmesg",
        conflicts_with = "dmesg",
        allow_negative_numbers = true
    )]
    pub words: Vec<String>,
    /// The numbers are of a guest's TDCALL.
    #[arg(long, conflicts_with_all = ["vmcall", "seamldr", "dmesg"])]
    pub guest: bool,
    /// The numbers are of a guest's TDG.VP.VMCALL: sub-function (R11) and result (R10).
    #[arg(long, conflicts_with_all = ["seamldr", "dmesg"])]
    pub vmcall: bool,
    /// The numbers are of a call to the P-SEAMLDR, with or without bit 63.
    #[arg(long, conflicts_with = "dmesg")]
    pub seamldr: bool,
    /// Explain every TDX line of a kernel log: a file, or `-` for standard input.
    #[arg(long, value_name = "FILE")]
    pub dmesg: Option<String>,
    /// With --dmesg: show the lines without TDX content too.
    #[arg(long, requires = "dmesg")]
    pub all: bool,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

/// Most bytes of a log that are read.
const LOG_LIMIT: u64 = 256 << 20;

/// Runs the command on standard output.
pub fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    run_on(args, &mut Output::of_command(&mut out, args.json))
}

/// Runs the command.
pub fn run_on(args: &ExplainArgs, output: &mut Output<'_>) -> anyhow::Result<ExitCode> {
    match &args.dmesg {
        Some(source) => {
            let text = read_log(source)?;
            dmesg::annotate(&text).print(output, args.all)?;
        }
        None => explain_words(args)?.print(output)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The text of a log; bytes that are no UTF-8 are replaced.
fn read_log(source: &str) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    if source == "-" {
        std::io::stdin()
            .lock()
            .take(LOG_LIMIT)
            .read_to_end(&mut bytes)
            .context("cannot read standard input")?;
    } else {
        let file = std::fs::File::open(source).with_context(|| format!("cannot open the log {source}"))?;
        file.take(LOG_LIMIT)
            .read_to_end(&mut bytes)
            .with_context(|| format!("cannot read the log {source}"))?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
