//! `tdxhost module build`: images for software machines.

use std::process::ExitCode;

use clap::Args;
use tdx_abi::seamldr::Version;
use tdx_image::build::image;
use tdx_image::{HeaderVersion, Svn};

use super::output::OutArgs;
use crate::text::number;
use crate::update::build;
use crate::update::version::version;

/// Arguments of `tdxhost module build`.
#[derive(Args, Clone, Debug)]
pub(super) struct BuildArgs {
    /// Version that the module reports
    #[arg(long, value_name = "VERSION", value_parser = version)]
    version: Version,
    /// Release that it behaves like [default: the one of the version, else the next lower of its line]
    #[arg(long, value_name = "PROFILE")]
    profile: Option<String>,
    /// Header to write
    #[arg(long, value_name = "HEADER", default_value = "0x200")]
    header: HeaderVersion,
    /// SVN, such as 1.12 [default: that of the profile]
    #[arg(long, value_name = "MAJOR.MINOR", value_parser = svn)]
    svn: Option<Svn>,
    /// CPUID.1:EAX of a CPU that it runs on; may be repeated [default: those of the profile]
    #[arg(long, value_name = "EAX", value_parser = cpu)]
    cpu: Vec<u32>,
    /// Pages of the module
    #[arg(long, value_name = "N")]
    pages: Option<u32>,
    /// Pages that the memory pool of its extensions needs [default: those of the profile]
    #[arg(long, value_name = "N")]
    pool_pages: Option<u32>,
    /// Sign it for debugging
    #[arg(long)]
    debug: bool,
    /// Give it a relocation outside of itself, which P-SEAMLDR finds when the old module is gone
    #[arg(long)]
    relocation_outside: bool,
    #[command(flatten)]
    out: OutArgs,
}

pub(super) fn run(args: &BuildArgs) -> anyhow::Result<ExitCode> {
    let mut spec = build::spec_for(args.version, args.profile.as_deref())?;
    spec.svn = args.svn.unwrap_or(spec.svn);
    if !args.cpu.is_empty() {
        spec.cpus.clone_from(&args.cpu);
    }
    spec.pages = args.pages.unwrap_or(spec.pages);
    spec.pool_pages = args.pool_pages;
    spec.debug = args.debug;
    spec.relocation_outside = args.relocation_outside;
    let bytes = image(&spec, args.header)
        .map_err(|error| anyhow::anyhow!("{}: {error}; {}", error.name(), error.advice()))?;
    args.out.write(&bytes)?;
    Ok(ExitCode::SUCCESS)
}

fn svn(text: &str) -> Result<Svn, String> {
    let parsed = text
        .split_once('.')
        .and_then(|(major, minor)| Some(Svn { major: major.parse().ok()?, minor: minor.parse().ok()? }));
    parsed.ok_or_else(|| format!("`{text}` is no SVN: it is written major.minor, such as 1.12"))
}

fn cpu(text: &str) -> Result<u32, String> {
    let value = number(text).map_err(|error| error.to_string())?;
    u32::try_from(value).map_err(|_| format!("`{text}` does not fit into 32 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn svns_and_cpus_are_read() {
        assert_eq!(svn("1.12"), Ok(Svn { major: 1, minor: 12 }));
        for text in ["1", "1.256", "1.2.3", "x.y"] {
            assert!(svn(text).is_err(), "{text}");
        }
        assert_eq!(cpu("0x806f8"), Ok(0x806F8));
        assert!(cpu("0x100000000").is_err());
    }
}
