//! `tdxhost module list`: the images of a directory.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::host::{HostArgs, HostDocument, print_host};
use super::inspect::signer_name;
use crate::doctor::{Check, State};
use crate::text::{Format, Output, Tone};
use crate::update::rules::{Running, cpus_in_words, fitness, step};
use crate::update::{Candidate, HostFacts, Mapping, Policy, Refusal, Release, candidate};

/// Arguments of `tdxhost module list`.
#[derive(Args, Clone, Debug)]
pub(super) struct ListArgs {
    /// Directory of images: flat, or laid out like Intel's repository
    #[arg(value_name = "DIR")]
    images: PathBuf,
    #[command(flatten)]
    host: HostArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    directory: &'a Path,
    releases: &'a crate::update::mapping::MappingSource,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    unknown: &'a serde_json::Map<String, serde_json::Value>,
    host: HostDocument,
    images: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    file: &'a Path,
    version: Option<String>,
    version_source: Option<candidate::VersionSource>,
    header: Option<String>,
    svn: Option<String>,
    signer: Option<&'static str>,
    cpus: Vec<String>,
    /// What the table of releases tells.
    release: Option<&'a Release>,
    /// True if it can be installed on this host, false if not, `null` if not everything could be checked.
    fits: Option<bool>,
    reasons: Vec<Refusal>,
    unchecked: Vec<Refusal>,
}

pub(super) fn run(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let candidates = load(&args.images)?;
    let mapping = args.host.mapping(&args.images)?;
    let host = args.host.sources().read()?;
    let policy = args.host.policy(false);
    let mut rows: Vec<(Option<tdx_abi::seamldr::Version>, Row<'_>)> = candidates
        .iter()
        .map(|candidate| (candidate.version(), row(candidate, &host, &mapping, policy)))
        .collect();
    rows.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    let document = Document {
        directory: &args.images,
        releases: &mapping.source,
        unknown: &mapping.unknown,
        host: HostDocument::new(&host, policy),
        images: rows.into_iter().map(|(_, row)| row).collect(),
    };
    let mut out = io::stdout().lock();
    let mut output = Output::of_command(&mut out, args.json);
    match output.format {
        Format::Json => output.document(&document)?,
        Format::Text => {
            print_host(&host, &mut output)?;
            output.paragraph("releases    ", &releases(&mapping, &args.images))?;
            writeln!(output.out)?;
            for row in &document.images {
                print(row, &mut output)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The images of a directory; none is an error, it is the wrong directory.
pub(super) fn load(directory: &Path) -> anyhow::Result<Vec<Candidate>> {
    let candidates =
        candidate::of_directory(directory).with_context(|| format!("{}", directory.display()))?;
    anyhow::ensure!(
        !candidates.is_empty(),
        "{} has no image: neither joined_files/a.b/tdx_module_*.blob nor files with a TDX-BLOB header",
        directory.display()
    );
    Ok(candidates)
}

/// Where the facts of releases come from, in words.
pub(super) fn releases(mapping: &Mapping, directory: &Path) -> String {
    let source = &mapping.source;
    let mut text = match source {
        crate::update::mapping::MappingSource::BuiltIn => {
            format!("{source}: {} has no mapping_file.json", directory.display())
        }
        crate::update::mapping::MappingSource::File(_) => source.to_string(),
    };
    if !mapping.unknown.is_empty() {
        let keys: Vec<&str> = mapping.unknown.keys().map(String::as_str).collect();
        // Writing to a String cannot fail.
        let _ = write!(text, "; keys that are not known here: {}", keys.join(", "));
    }
    text
}

fn row<'a>(candidate: &'a Candidate, host: &HostFacts, mapping: &'a Mapping, policy: Policy) -> Row<'a> {
    let mut checks = fitness(host, candidate, mapping, policy);
    if candidate.image.is_ok() {
        checks.extend(step(&Running::on(host), candidate, mapping));
    }
    let image = candidate.image.as_ref().ok();
    Row {
        file: &candidate.file,
        version: candidate.version().map(|version| version.to_string()),
        version_source: candidate.identity.map(|identity| identity.source),
        header: image.map(|image| image.header.to_string()),
        svn: image.map(|image| format!("{}.{}", image.svn.major, image.svn.minor)),
        signer: image.and_then(|image| image.signer.as_ref().ok()).copied().map(signer_name),
        cpus: image
            .map(|image| image.cpus.iter().map(|cpu| format!("{cpu:#x}")).collect())
            .unwrap_or_default(),
        release: candidate.version().and_then(|version| mapping.find(version)),
        fits: fits(&checks),
        reasons: named(&checks, State::Failed),
        unchecked: named(&checks, State::Unknown),
    }
}

fn named(checks: &[Check], state: State) -> Vec<Refusal> {
    let those = checks.iter().filter(|check| check.state == state);
    those.map(|check| Refusal::new(check.reason.unwrap_or(check.id), &check.seen)).collect()
}

fn fits(checks: &[Check]) -> Option<bool> {
    if checks.iter().any(|check| check.state == State::Failed) {
        return Some(false);
    }
    if checks.iter().any(|check| check.state == State::Unknown) { None } else { Some(true) }
}

fn print(row: &Row<'_>, output: &mut Output<'_>) -> io::Result<()> {
    let (word, tone) = match row.fits {
        Some(true) => ("fits     ", Tone::Good),
        Some(false) => ("no       ", Tone::Bad),
        None => ("unchecked", Tone::Doubtful),
    };
    let word = output.paint.paint(tone, word);
    let version = row.version.as_deref().unwrap_or("?");
    let cpus: Vec<u32> =
        row.cpus.iter().filter_map(|cpu| crate::text::number(cpu).ok()?.try_into().ok()).collect();
    let facts = match (&row.header, &row.svn) {
        (Some(header), Some(svn)) => format!("header {header}, SVN {svn}, {}", cpus_in_words(&cpus)),
        _ => "no image".to_owned(),
    };
    writeln!(output.out, "{word} {version:<8} {}", row.file.display())?;
    output.paragraph("                   ", &facts)?;
    if let Some(release) = row.release {
        if let Some(strict) = release.strict_compat_versions.as_ref().filter(|strict| !strict.is_empty()) {
            let strict: Vec<String> = strict.iter().map(ToString::to_string).collect();
            output.paragraph(
                "                   ",
                &format!("strictly compatible with {}", strict.join(", ")),
            )?;
        }
        for (key, value) in &release.unknown {
            output.paragraph("                   ", &format!("{key}: {value}"))?;
        }
    }
    for reason in &row.reasons {
        output.paragraph("                   ", &reason.to_string())?;
    }
    if !row.unchecked.is_empty() {
        let names: Vec<&str> = row.unchecked.iter().map(|reason| reason.name).collect();
        output.paragraph("                   ", &format!("not checked: {}", names.join(", ")))?;
    }
    Ok(())
}
