//! `tdxhost module update`: checks first, uploads then, looks afterwards.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tdx_abi::seamldr::Version;
use tdx_image::{HeaderVersion, Image};

use super::convert::encoded;
use super::host::{HostArgs, HostDocument, print_checks, print_host};
use super::plan::{ChoiceArgs, Planned, failed_in_words, print_choice, steps_in_words};
use crate::doctor::{Check, State};
use crate::text::{Format, Output, Tone};
use crate::update::plan::Step;
use crate::update::rules::td_builds;
use crate::update::upload::{KernelWord, Progress, UploadError, upload};
use crate::update::{Candidate, HostFacts, Mapping, Policy, diagnose, preflight, served};

/// Arguments of `tdxhost module update`.
// Options of a command line are independent of each other.
#[allow(clippy::struct_excessive_bools)]
#[derive(Args, Clone, Debug)]
pub(super) struct UpdateArgs {
    /// Image to install
    #[arg(
        value_name = "FILE",
        required_unless_present = "images",
        conflicts_with_all = ["images", "to", "prefer_strict_compat"]
    )]
    file: Option<PathBuf>,
    /// Choose from this directory, as `module plan` does
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    #[command(flatten)]
    choice: ChoiceArgs,
    #[command(flatten)]
    host: HostArgs,
    /// Check and say what would be done; touch nothing
    #[arg(long)]
    dry_run: bool,
    /// Go on although this check failed; may be repeated
    #[arg(long, value_name = "NAME")]
    ignore: Vec<String>,
    /// Refuse as well if a check could not be made
    #[arg(long)]
    strict: bool,
    /// Seconds to wait for the kernel
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    timeout: u64,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Print nothing but a failure
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Serialize)]
struct Document {
    dry_run: bool,
    /// True if every update was made, or would be.
    ok: bool,
    updates: Vec<UpdateDocument>,
}

#[derive(Serialize)]
struct UpdateDocument {
    host: HostDocument,
    file: PathBuf,
    from: Option<String>,
    /// `null` if neither hash, record nor file name tells the image's version.
    to: Option<String>,
    /// Header of the file, and the one that was uploaded.
    header: Option<String>,
    uploaded_header: Option<String>,
    checks: Vec<Check>,
    /// What no check can see.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    /// What the kernel shows afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<After>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorDocument>,
}

#[derive(Serialize)]
struct After {
    module: Option<String>,
    remaining_updates: Option<u32>,
}

#[derive(Clone, Debug, Serialize)]
struct ErrorDocument {
    /// `refused` before anything was touched, the reason that a served machine tells, else the kernel's
    /// word; `upload-failed`, `version-differs`.
    name: String,
    message: String,
    /// The kernel's word and the state in front of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<String>,
    /// What can be told of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    grounds: Vec<String>,
}

pub(super) fn run(args: &UpdateArgs) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let mut output = Output::of_command(&mut out, args.json);
    let mut document = Document { dry_run: args.dry_run, ok: true, updates: Vec::new() };
    let chatty = output.format == Format::Text && !args.quiet;
    let error = match (&args.file, &args.images) {
        (Some(file), _) => {
            let mapping = args.host.mapping_for(file)?;
            let mut job = Job::new(args, file, &mapping)?;
            job.make(args, chatty, &mut output, &mut document)?
        }
        (None, Some(images)) => choose(args, images, chatty, &mut output, &mut document)?,
        // The command line asks for one of them.
        (None, None) => anyhow::bail!("give an image or --images DIR"),
    };
    document.ok = error.is_none();
    if output.format == Format::Json {
        output.document(&document)?;
    }
    match error {
        None => Ok(ExitCode::SUCCESS),
        Some(_) if output.format == Format::Json => Ok(ExitCode::FAILURE),
        Some(error) => anyhow::bail!("{}", error.message),
    }
}

/// Makes the updates of a plan, one after the other.
fn choose(
    args: &UpdateArgs,
    images: &Path,
    chatty: bool,
    output: &mut Output<'_>,
    document: &mut Document,
) -> anyhow::Result<Option<ErrorDocument>> {
    let planned = Planned::new(images, &args.choice, &args.host)?;
    let steps: Vec<Step> = planned.steps()?.to_vec();
    if chatty {
        print_host(&planned.host, output)?;
        print_choice(&planned, output)?;
    }
    for (number, step) in steps.iter().enumerate() {
        let candidate = planned.candidates.get(step.candidate).context("the plan names no image")?;
        // What follows the first update can be checked only when that is made.
        if args.dry_run && number > 0 {
            continue;
        }
        let mut job = Job::new(args, &candidate.file, &planned.mapping)?;
        if let Some(error) = job.make(args, chatty, output, document)? {
            return Ok(Some(error));
        }
    }
    if chatty && args.dry_run && steps.len() > 1 {
        let text = format!("{} planned; the first was checked", steps_in_words(&steps));
        writeln!(output.out, "{text}")?;
    }
    Ok(None)
}

/// One image on its way.
struct Job<'a> {
    file: PathBuf,
    bytes: Vec<u8>,
    candidate: Candidate,
    host: HostFacts,
    mapping: &'a Mapping,
    policy: Policy,
}

impl<'a> Job<'a> {
    fn new(args: &UpdateArgs, file: &Path, mapping: &'a Mapping) -> anyhow::Result<Self> {
        let (candidate, bytes) = Candidate::load(file).with_context(|| file.display().to_string())?;
        let host = args.host.sources().read()?;
        let policy = args.host.policy(args.choice.prefer_strict_compat);
        Ok(Self { file: file.to_owned(), bytes, candidate, host, mapping, policy })
    }

    /// Checks, uploads, looks. Gives what went wrong; it stands in `document` too.
    fn make(
        &mut self,
        args: &UpdateArgs,
        chatty: bool,
        output: &mut Output<'_>,
        document: &mut Document,
    ) -> anyhow::Result<Option<ErrorDocument>> {
        let checks = preflight(&self.host, &self.candidate, self.mapping, self.policy);
        let wanted = self.policy.header.or(self.host.header);
        let mut entry = UpdateDocument {
            host: HostDocument::new(&self.host, self.policy),
            file: self.file.clone(),
            from: self.host.module.as_ref().ok().map(ToString::to_string),
            to: self.candidate.version().map(|version| version.to_string()),
            header: self.candidate.image.as_ref().ok().map(|image| image.header.to_string()),
            uploaded_header: wanted.map(|header| header.to_string()),
            checks,
            note: td_builds(&self.host),
            after: None,
            error: None,
        };
        if chatty {
            self.print_start(wanted, output)?;
            print_checks(&entry.checks, output)?;
            if let Some(note) = &entry.note {
                output.paragraph("note        ", note)?;
            }
        }
        let error = match refusal(&entry.checks, args) {
            Some(error) => Some(error),
            None if args.dry_run => {
                if chatty {
                    writeln!(output.out, "nothing forbids the update; nothing was touched (--dry-run)")?;
                }
                None
            }
            None => self.install(args, wanted, chatty, output, &mut entry)?,
        };
        entry.error.clone_from(&error);
        document.updates.push(entry);
        Ok(error)
    }

    fn print_start(&self, wanted: Option<HeaderVersion>, output: &mut Output<'_>) -> io::Result<()> {
        let version = |version: Option<Version>| {
            version.map_or_else(|| "unknown version".to_owned(), |version| version.to_string())
        };
        let from = version(self.host.module.as_ref().ok().copied());
        let to = version(self.candidate.version());
        let heading = output.paint.paint(Tone::Strong, &format!("{from} → {to}"));
        let converted = match (&self.candidate.image, wanted) {
            (Ok(image), Some(wanted)) if image.header != wanted => {
                format!(", header {} converted to {wanted}", image.header)
            }
            _ => String::new(),
        };
        writeln!(output.out, "{heading}  {}{converted}", self.file.display())
    }

    /// Everything was checked: from here on the machine is touched.
    fn install(
        &self,
        args: &UpdateArgs,
        wanted: Option<HeaderVersion>,
        chatty: bool,
        output: &mut Output<'_>,
        entry: &mut UpdateDocument,
    ) -> anyhow::Result<Option<ErrorDocument>> {
        let directory = match &self.host.upload {
            Some(upload) => upload.directory.clone(),
            None => anyhow::bail!("there is no upload directory below {}", args.host.sysfs.display()),
        };
        let image = self.image(wanted)?;
        let bar = bar(image.len(), chatty);
        let result =
            upload(&directory, &image, Duration::from_secs(args.timeout), &mut |progress| match progress {
                Progress::Written(bytes) => bar.set_position(u64::try_from(*bytes).unwrap_or(u64::MAX)),
                Progress::Working(state) => bar.set_message(state.clone()),
            });
        bar.finish_and_clear();
        let after = args.host.sources().read()?;
        entry.after = Some(After {
            module: after.module.as_ref().ok().map(ToString::to_string),
            remaining_updates: after.remaining_updates.as_ref().ok().copied(),
        });
        let error = match result {
            Ok(()) => self.verify(&after),
            Err(UploadError::Refused(word)) => Some(self.explain(&word, &after, &entry.checks, args)),
            Err(error) => Some(ErrorDocument {
                name: "upload-failed".to_owned(),
                message: error.to_string(),
                kernel: None,
                grounds: Vec::new(),
            }),
        };
        if chatty {
            match &error {
                None => self.print_end(&after, output)?,
                Some(error) => {
                    for ground in &error.grounds {
                        output.paragraph("            ", ground)?;
                    }
                }
            }
        }
        Ok(error)
    }

    /// The file with the header that the kernel takes. What is no image goes as it is: the user insisted.
    fn image(&self, wanted: Option<HeaderVersion>) -> anyhow::Result<Vec<u8>> {
        match (Image::parse(&self.bytes), wanted) {
            (Ok(image), Some(wanted)) if image.header() != wanted => {
                encoded(wanted, image.sigstruct(), image.module())
            }
            _ => Ok(self.bytes.clone()),
        }
    }

    /// What the kernel shows is what was installed, or it is said.
    fn verify(&self, after: &HostFacts) -> Option<ErrorDocument> {
        let differs = |message: String| {
            let name = "version-differs".to_owned();
            Some(ErrorDocument { name, message, kernel: None, grounds: Vec::new() })
        };
        match (&after.module, self.candidate.version()) {
            (Err(why), _) => {
                differs(format!("the kernel reports success, but the module's version is unknown: {why}"))
            }
            (Ok(now), Some(wanted)) if *now != wanted => {
                differs(format!("the kernel reports success, but {now} runs, not {wanted}"))
            }
            (Ok(_), _) => None,
        }
    }

    fn explain(
        &self,
        word: &KernelWord,
        after: &HostFacts,
        checks: &[Check],
        args: &UpdateArgs,
    ) -> ErrorDocument {
        let told = args.host.api.as_deref().and_then(served::failure);
        let grounds = diagnose::refusal(word, told.as_ref(), &self.host, after, checks);
        let kernel = Some(word.text());
        match told.and_then(|told| told.error) {
            Some(reason) => ErrorDocument {
                message: format!("{}: {} (the kernel says {word})", reason.name, reason.message),
                name: reason.name,
                kernel,
                grounds,
            },
            None => ErrorDocument {
                name: word.word.clone(),
                message: format!("the kernel says {word}"),
                kernel,
                grounds,
            },
        }
    }

    fn print_end(&self, after: &HostFacts, output: &mut Output<'_>) -> io::Result<()> {
        let now = after.module.as_ref().map(ToString::to_string).unwrap_or_default();
        let text = match (&self.host.remaining_updates, &after.remaining_updates) {
            (Ok(before), Ok(left)) if left < before => format!("updated to {now}; {left} updates left"),
            (Ok(before), Ok(left)) => {
                format!("updated to {now}; {left} updates left, although {before} were left before")
            }
            _ => format!("updated to {now}"),
        };
        writeln!(output.out, "{}", output.paint.paint(Tone::Good, &text))
    }
}

/// Why nothing may be touched, in one line that names every failed check.
fn refusal(checks: &[Check], args: &UpdateArgs) -> Option<ErrorDocument> {
    let name = |check: &Check| check.reason.unwrap_or(check.id);
    let ignored =
        |check: &Check| args.ignore.iter().any(|ignored| ignored == name(check) || ignored == check.id);
    let mut against: Vec<Check> =
        checks.iter().filter(|check| check.state == State::Failed && !ignored(check)).cloned().collect();
    if args.strict {
        let unknown = checks.iter().filter(|check| check.state == State::Unknown && !ignored(check));
        against.extend(unknown.cloned().map(|check| Check { state: State::Failed, ..check }));
    }
    if against.is_empty() {
        return None;
    }
    Some(ErrorDocument {
        name: "refused".to_owned(),
        message: format!("refused before anything was touched: {}", failed_in_words(&against)),
        kernel: None,
        grounds: Vec::new(),
    })
}

/// A bar on standard error, if that is a terminal and somebody wants to see it.
fn bar(bytes: usize, chatty: bool) -> ProgressBar {
    let shown = chatty && io::stderr().is_terminal();
    let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(u64::try_from(bytes).ok(), target);
    if let Ok(style) = ProgressStyle::with_template("  {bytes}/{total_bytes} [{bar:40}] {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}
