//! `tdxhost module convert`: the same SIGSTRUCT and module under the other header.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use tdx_image::{HeaderVersion, Image, Sigstruct, encode, encoded_len};

use super::output::OutArgs;
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
    let name = args.file.display();
    let bytes = read_image(&args.file).with_context(|| name.to_string())?;
    let image = Image::parse(&bytes).map_err(|error| anyhow::anyhow!("{name}: {}: {error}", error.name()))?;
    let converted = encoded(args.to, image.sigstruct(), image.module())
        .with_context(|| format!("{name} cannot be converted"))?;
    args.out.write(&converted)?;
    Ok(ExitCode::SUCCESS)
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
