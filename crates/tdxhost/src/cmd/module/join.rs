//! `tdxhost module join`: what Intel's `blob_join.sh` does.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use tdx_image::{HeaderVersion, Sigstruct, verify};

use super::convert::{encoded, read};
use super::output::OutArgs;

/// Arguments of `tdxhost module join`.
#[derive(Args, Clone, Debug)]
pub(super) struct JoinArgs {
    /// Module (.bin)
    #[arg(value_name = "BIN")]
    module: PathBuf,
    /// Its SIGSTRUCT (2048 bytes)
    #[arg(value_name = "SIGSTRUCT")]
    sigstruct: PathBuf,
    /// Header to write
    #[arg(long, value_name = "HEADER", default_value = "0x200")]
    header: HeaderVersion,
    #[command(flatten)]
    out: OutArgs,
}

pub(super) fn run(args: &JoinArgs) -> anyhow::Result<ExitCode> {
    let module = read(&args.module)?;
    let bytes = read(&args.sigstruct)?;
    let exact: &[u8; 2048] = bytes.as_slice().try_into().ok().with_context(|| {
        format!("{}: a SIGSTRUCT has 2048 bytes, this file {}", args.sigstruct.display(), bytes.len())
    })?;
    let sigstruct = Sigstruct::read(exact);
    let image = encoded(args.header, sigstruct, &module)
        .with_context(|| format!("{} cannot be joined", args.module.display()))?;
    if *sigstruct.seamhash() != verify::seamhash(&module) {
        // The script that this stands in for does not look.
        eprintln!(
            "tdxhost: warning: {} is not the SIGSTRUCT of {}: its SEAMHASH differs, and P-SEAMLDR will refuse \
             the image",
            args.sigstruct.display(),
            args.module.display()
        );
    }
    args.out.write(&image)?;
    Ok(ExitCode::SUCCESS)
}
