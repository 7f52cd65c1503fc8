//! `tdxhost module split`: an image as the two files that Intel signs and publishes beside it.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use tdx_image::container::PAGE;
use tdx_image::sigstruct::SIGSTRUCT_SIZE;

use super::convert::{parsed, read};
use super::output::{check_free, write};

/// Arguments of `tdxhost module split`.
#[derive(Args, Clone, Debug)]
pub(super) struct SplitArgs {
    /// Image
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Directory for NAME.bin and NAME.sigstruct; made if it does not exist
    #[arg(long, value_name = "DIR")]
    out_dir: PathBuf,
    /// Write over files that exist
    #[arg(long)]
    force: bool,
    /// Print nothing
    #[arg(long, short)]
    quiet: bool,
}

pub(super) fn run(args: &SplitArgs) -> anyhow::Result<ExitCode> {
    let bytes = read(&args.file)?;
    let image = parsed(&args.file, &bytes)?;
    let stem = args.file.file_stem().with_context(|| format!("{} names no file", args.file.display()))?;
    let named = |extension: &str| {
        let mut file = stem.to_owned();
        file.push(extension);
        args.out_dir.join(file)
    };
    let (module, sigstruct) = (named(".bin"), named(".sigstruct"));
    // Both or none.
    check_free(&module, args.force)?;
    check_free(&sigstruct, args.force)?;
    fs::create_dir_all(&args.out_dir)
        .with_context(|| format!("cannot make the directory {}", args.out_dir.display()))?;
    write(&module, image.module(), args.force)?;
    // It begins behind the header; an image that was parsed has it whole.
    let signed = image.bytes().get(PAGE..PAGE + SIGSTRUCT_SIZE).context("the image has no SIGSTRUCT")?;
    write(&sigstruct, signed, args.force)?;
    if !args.quiet {
        let mut out = io::stdout().lock();
        writeln!(out, "{}\n{}", module.display(), sigstruct.display())?;
    }
    Ok(ExitCode::SUCCESS)
}
