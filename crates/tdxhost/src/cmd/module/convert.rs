//! `tdxhost module convert`: the same SIGSTRUCT and module under the other header.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use tdx_image::{HeaderVersion, Image, Sigstruct, encode, encoded_len};

use super::output::OutArgs;
use crate::update::Refusal;
use crate::update::candidate::read_image;

/// Arguments of `tdxhost module convert`.
#[derive(Args, Clone, Debug)]
pub(super) struct ConvertArgs {
    /// Header to write: 0x200 for Linux 7.3, 0x100 for Intel's UEFI loader and for earlier kernels
    #[arg(long, value_name = "HEADER")]
    to: HeaderVersion,
    /// Image
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    out: OutArgs,
}

pub(super) fn run(args: &ConvertArgs) -> anyhow::Result<ExitCode> {
    let bytes = read(&args.file)?;
    let image = parsed(&args.file, &bytes)?;
    let converted = encoded(args.to, image.sigstruct(), image.module())
        .with_context(|| format!("{} cannot be converted", args.file.display()))?;
    args.out.write(&converted)?;
    Ok(ExitCode::SUCCESS)
}

/// The bytes of a file.
pub(super) fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    read_image(file).with_context(|| file.display().to_string())
}

/// The image that a file holds, or why it holds none and what to try.
pub(super) fn parsed<'a>(file: &Path, bytes: &'a [u8]) -> anyhow::Result<Image<'a>> {
    Image::parse(bytes)
        .map_err(|error| anyhow::anyhow!("{}: {}", file.display(), Refusal::from(error).with_remedy()))
}

/// An image of these parts.
pub(super) fn encoded(
    header: HeaderVersion,
    sigstruct: &Sigstruct,
    module: &[u8],
) -> anyhow::Result<Vec<u8>> {
    let named = |error: tdx_image::ImageError| anyhow::anyhow!("{}: {error}", error.name());
    let mut out = vec![0; encoded_len(header, module.len()).map_err(named)?];
    let length = encode(header, sigstruct, module, &mut out).map_err(named)?;
    out.truncate(length);
    Ok(out)
}
