//! `tdxhost module update`: checks first, uploads then, looks afterwards.

use std::cell::OnceCell;
use std::io::{self, IsTerminal as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{ArgGroup, Args};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tdx_abi::seamldr::Version;
use tdx_image::{HeaderVersion, Image};

use super::convert::encoded;
use super::host::{HostArgs, HostDocument, print_checks, print_host};
use super::plan::{ChoiceArgs, Planned, failed_in_words, print_choice, steps_in_words};
use crate::doctor::{Check, State};
use crate::text::{Format, Output, Tone, Unheard, plural};
use crate::update::interrupt::Interrupts;
use crate::update::plan::Step;
use crate::update::rules::td_builds;
use crate::update::upload::{KernelWord, Progress, UploadError, upload};
use crate::update::{Candidate, HostFacts, Mapping, Policy, diagnose, preflight, served};

/// Arguments of `tdxhost module update`.
// Options of a command line are independent of each other.
#[allow(clippy::struct_excessive_bools)]
#[derive(Args, Clone, Debug)]
#[command(group = ArgGroup::new("source").args(["file", "images"]).required(true))]
pub(super) struct UpdateArgs {
    /// Image to install
    #[arg(value_name = "FILE", conflicts_with_all = ["to", "prefer_strict_compat"])]
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
    /// What ended it; an update that failed has the same error.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorDocument>,
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
    /// `no-way` or `refused` before anything was touched, the reason that a served machine tells, else the
    /// kernel's word; `upload-failed`, `version-differs`.
    name: String,
    message: String,
    /// The kernel's word and the state in front of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<String>,
    /// What can be told of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    grounds: Vec<String>,
}

impl ErrorDocument {
    fn new(name: &str, message: impl Into<String>) -> Self {
        Self { name: name.to_owned(), message: message.into(), kernel: None, grounds: Vec::new() }
    }
}

/// What every update of a run shares.
struct Session<'a> {
    args: &'a UpdateArgs,
    /// People read along.
    chatty: bool,
    /// Noted from the first upload on: until then, a signal may end the program at once.
    interrupts: OnceCell<Interrupts>,
}

impl Session<'_> {
    fn interrupts(&self) -> anyhow::Result<&Interrupts> {
        if let Some(noted) = self.interrupts.get() {
            return Ok(noted);
        }
        let noted = Interrupts::note().context("cannot catch signals")?;
        Ok(self.interrupts.get_or_init(|| noted))
    }
}

pub(super) fn run(args: &UpdateArgs) -> anyhow::Result<ExitCode> {
    // An update is not left half way because nobody reads along any more.
    let mut out = Unheard(io::stdout().lock());
    let mut output = Output::of_command(&mut out, args.json);
    let mut document = Document { dry_run: args.dry_run, ok: true, updates: Vec::new(), error: None };
    let session = Session { args, chatty: !args.json && !args.quiet, interrupts: OnceCell::new() };
    let error = match (&args.file, &args.images) {
        (Some(file), _) => {
            let mapping = args.host.mapping_for(file)?;
            let mut job = Job::new(args, file, &mapping)?;
            job.make(&session, &mut output, &mut document)?
        }
        (None, Some(images)) => choose(&session, images, &mut output, &mut document)?,
        // The command line asks for one of them.
        (None, None) => anyhow::bail!("give an image or --images DIR"),
    };
    document.ok = error.is_none();
    document.error.clone_from(&error);
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
    session: &Session<'_>,
    images: &Path,
    output: &mut Output<'_>,
    document: &mut Document,
) -> anyhow::Result<Option<ErrorDocument>> {
    let args = session.args;
    let planned = Planned::new(images, &args.choice, &args.host)?;
    let steps: Vec<Step> = match planned.steps() {
        Ok(steps) => steps.to_vec(),
        Err(none) => return Ok(Some(ErrorDocument::new("no-way", none.to_string()))),
    };
    if session.chatty {
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
        if let Some(error) = job.make(session, output, document)? {
            return Ok(Some(error));
        }
    }
    if session.chatty && args.dry_run && steps.len() > 1 {
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
        session: &Session<'_>,
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
        if session.chatty {
            self.print_start(wanted, output)?;
            print_checks(&entry.checks, output)?;
            if let Some(note) = &entry.note {
                output.paragraph("note        ", note)?;
            }
        }
        let error = match refusal(&entry.checks, session.args) {
            Some(error) => Some(error),
            None if session.args.dry_run => {
                if session.chatty {
                    writeln!(output.out, "{}; nothing was touched (--dry-run)", allowed(&entry.checks))?;
                }
                None
            }
            None => self.install(session, wanted, output, &mut entry)?,
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
        session: &Session<'_>,
        wanted: Option<HeaderVersion>,
        output: &mut Output<'_>,
        entry: &mut UpdateDocument,
    ) -> anyhow::Result<Option<ErrorDocument>> {
        let args = session.args;
        let directory = match &self.host.upload {
            Some(upload) => upload.directory.clone(),
            None => anyhow::bail!("there is no upload directory below {}", args.host.sysfs.display()),
        };
        let image = self.image(wanted)?;
        let bar = bar(image.len(), session.chatty);
        let interrupts = session.interrupts()?;
        let result = upload(&directory, &image, Duration::from_secs(args.timeout), &mut |progress| {
            match progress {
                Progress::Written(bytes) => bar.set_position(u64::try_from(*bytes).unwrap_or(u64::MAX)),
                Progress::Working(state) => bar.set_message(state.clone()),
            }
            if interrupts.came() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        bar.finish_and_clear();
        let after = match args.host.sources().read() {
            Ok(after) => after,
            Err(cause) => return Ok(Some(unseen_afterwards(&result, &cause))),
        };
        entry.after = Some(After {
            module: after.module.as_ref().ok().map(ToString::to_string),
            remaining_updates: after.remaining_updates.as_ref().ok().copied(),
        });
        let error = match result {
            Ok(()) => self.verify(&after),
            Err(UploadError::Refused(word)) => Some(self.explain(&word, &after, &entry.checks, args)),
            Err(error) => Some(ErrorDocument::new("upload-failed", error.to_string())),
        };
        if session.chatty {
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
        let differs = |message: String| Some(ErrorDocument::new("version-differs", message));
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
        against.extend(unknown.cloned().map(|check| {
            let seen = format!("not checked: {}", check.seen);
            Check { state: State::Failed, seen, ..check }
        }));
    }
    if against.is_empty() {
        return None;
    }
    let why = failed_in_words(&against);
    Some(ErrorDocument::new("refused", format!("refused before anything was touched: {why}")))
}

/// What can be said of checks of which none forbids the update.
fn allowed(checks: &[Check]) -> String {
    let unknown = checks.iter().filter(|check| check.state == State::Unknown).count();
    match u64::try_from(unknown).unwrap_or(u64::MAX) {
        0 => "nothing forbids the update".to_owned(),
        unknown => {
            format!(
                "nothing is known to forbid the update, but {} could not be made",
                plural(unknown, "check")
            )
        }
    }
}

/// The kernel has answered, but the host cannot be looked at any more.
fn unseen_afterwards(result: &Result<(), UploadError>, cause: &anyhow::Error) -> ErrorDocument {
    let said = match result {
        Ok(()) => "the kernel reports success".to_owned(),
        Err(error) => error.to_string(),
    };
    ErrorDocument::new("upload-failed", format!("{said}, but the host cannot be looked at: {cause:#}"))
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
