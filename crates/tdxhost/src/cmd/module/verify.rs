//! `tdxhost module verify`: is the image what somebody signed?

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use tdx_image::verify::Signer;

use super::inspect::signer_name;
use crate::text::{Output, Tone};
use crate::update::{Candidate, ImageFacts, Refusal};

/// Arguments of `tdxhost module verify`.
#[derive(Args, Clone, Debug)]
pub(super) struct VerifyArgs {
    /// Images
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Refuse images that are signed with the test key of tdxhost
    #[arg(long)]
    intel_only: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Print nothing but a failure
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Serialize)]
struct Row {
    file: PathBuf,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signer: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Refusal>,
}

pub(super) fn run(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let rows: Vec<Row> = args.files.iter().map(|file| row(file, args.intel_only)).collect();
    let refused: Vec<&Row> = rows.iter().filter(|row| !row.ok).collect();
    let mut out = io::stdout().lock();
    let mut output = Output::of_command(&mut out, args.json);
    if args.json {
        output.document(&rows)?;
    } else if !args.quiet {
        for row in &rows {
            print(row, &mut output)?;
        }
    }
    match refused.as_slice() {
        [] => Ok(ExitCode::SUCCESS),
        // The document has told it already.
        _ if args.json => Ok(ExitCode::FAILURE),
        [one] => {
            let why = one.error.as_ref().map(Refusal::with_remedy).unwrap_or_default();
            anyhow::bail!("{}: {why}", one.file.display())
        }
        many => anyhow::bail!("{} of {} images are refused", many.len(), rows.len()),
    }
}

fn print(row: &Row, output: &mut Output<'_>) -> io::Result<()> {
    let file = row.file.display();
    if let Some(error) = &row.error {
        let word = output.paint.paint(Tone::Bad, "FAILED");
        return writeln!(output.out, "{word} {file}: {error}");
    }
    let word = output.paint.paint(Tone::Good, "ok    ");
    let version = row.version.as_deref().unwrap_or("of unknown version");
    writeln!(output.out, "{word} {file}: {version}, signed by {}", row.signer.unwrap_or_default())
}

fn row(file: &Path, intel_only: bool) -> Row {
    let looked = match Candidate::load(file) {
        Ok((candidate, _)) => {
            let version = candidate.version().map(|version| version.to_string());
            candidate.image.and_then(|image| judge(&image, intel_only)).map(|signer| (version, signer))
        }
        Err(error) => Err(Refusal::new("unreadable", error)),
    };
    match looked {
        Ok((version, signer)) => {
            Row { file: file.to_owned(), ok: true, version, signer: Some(signer_name(signer)), error: None }
        }
        Err(error) => {
            Row { file: file.to_owned(), ok: false, version: None, signer: None, error: Some(error) }
        }
    }
}

/// Signature and hash, then the fields as the loader of the module's own line wants them, then what it
/// relocates.
fn judge(image: &ImageFacts, intel_only: bool) -> Result<Signer, Refusal> {
    let signer = image.signer.clone()?;
    if intel_only && signer != Signer::Intel {
        return Err(Refusal::new("test-key", "signed with the test key of tdxhost, which no CPU trusts"));
    }
    let fields = if image.svn.major <= 1 { &image.fields_1_5 } else { &image.fields_2_0 };
    fields.clone()?;
    image.relocations.clone()?;
    Ok(signer)
}
