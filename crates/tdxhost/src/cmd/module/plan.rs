//! `tdxhost module plan`: which image, by which way, and why not the others.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use tdx_abi::features::Features0;
use tdx_abi::seamldr::Version;

use super::host::{HostArgs, HostDocument, print_checks, print_host};
use super::list::{load, releases};
use crate::api::HostState;
use crate::doctor::{Check, State};
use crate::text::{Format, Output, Tone, plural};
use crate::update::plan::{FeatureChange, NotChosen, Step};
use crate::update::rules::td_builds;
use crate::update::version::version;
use crate::update::{Candidate, Goal, HostFacts, Mapping, Outcome, Plan, Policy, Refusal, plan};

/// Which images to choose from, and what.
#[derive(Args, Clone, Debug)]
pub(super) struct ChoiceArgs {
    /// Version to go to [default: the newest that fits]
    #[arg(long, value_name = "VERSION", value_parser = version)]
    pub(super) to: Option<Version>,
    /// Prefer a release that the table calls strictly compatible with the running one
    #[arg(long)]
    pub(super) prefer_strict_compat: bool,
}

impl ChoiceArgs {
    fn goal(&self) -> Goal {
        self.to.map_or(Goal::Newest, Goal::Version)
    }
}

/// Arguments of `tdxhost module plan`.
#[derive(Args, Clone, Debug)]
pub(super) struct PlanArgs {
    /// Directory of images: flat, or laid out like Intel's repository
    #[arg(long, value_name = "DIR")]
    images: PathBuf,
    #[command(flatten)]
    choice: ChoiceArgs,
    #[command(flatten)]
    host: HostArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Everything that a plan was made of.
pub(super) struct Planned {
    pub(super) host: HostFacts,
    pub(super) candidates: Vec<Candidate>,
    pub(super) mapping: Mapping,
    pub(super) policy: Policy,
    pub(super) plan: Plan,
    goal: Goal,
    directory: PathBuf,
}

impl Planned {
    /// Looks at the host and at the images of `directory`.
    pub(super) fn new(directory: &Path, choice: &ChoiceArgs, args: &HostArgs) -> anyhow::Result<Self> {
        let candidates = load(directory)?;
        let mapping = args.mapping(directory)?;
        let host = args.sources().read()?;
        let policy = args.policy(choice.prefer_strict_compat);
        let running = match &host.module {
            Ok(running) => *running,
            Err(why) => {
                let remedy = match host.state {
                    Some(HostState::ModuleDown) => "; `tdxhost module update FILE` may bring it back",
                    Some(HostState::ModuleGone) => "; power-cycle the machine",
                    _ => "; `tdxhost doctor` says what is missing",
                };
                anyhow::bail!("no plan without the version of the running module: {why}{remedy}")
            }
        };
        let goal = choice.goal();
        if let Some(wanted) = choice.to
            && !candidates.iter().any(|candidate| candidate.version() == Some(wanted))
        {
            anyhow::bail!("{} has no image of {wanted}", directory.display());
        }
        let plan = plan(&host, running, &candidates, &mapping, goal, policy);
        Ok(Self { host, candidates, mapping, policy, plan, goal, directory: directory.to_owned() })
    }

    /// The steps to make; none if the newest release runs already.
    pub(super) fn steps(&self) -> anyhow::Result<&[Step]> {
        match &self.plan.outcome {
            Outcome::Path(steps) => Ok(steps),
            Outcome::UpToDate(_) => Ok(&[]),
            Outcome::Nothing => Err(anyhow::anyhow!("{}", self.nothing())),
        }
    }

    /// Why there is no way, in one line.
    fn nothing(&self) -> String {
        let Goal::Version(wanted) = self.goal else {
            return format!("no image of {} fits this host", self.directory.display());
        };
        let mut reasons: Vec<String> = Vec::new();
        for other in &self.plan.others {
            let of_wanted = self.candidates.get(other.candidate).and_then(Candidate::version) == Some(wanted);
            reasons.extend(other.reasons.iter().filter(|_| of_wanted).map(ToString::to_string));
        }
        reasons.dedup();
        format!("no way to {wanted}: {}", reasons.join("; "))
    }
}

#[derive(Serialize)]
struct Document<'a> {
    host: HostDocument,
    directory: &'a Path,
    releases: &'a crate::update::mapping::MappingSource,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    unknown: &'a serde_json::Map<String, serde_json::Value>,
    /// Where the table contradicts the newest published one.
    corrected_later: Vec<String>,
    /// False if there is no way, or the host cannot take an update now.
    ok: bool,
    /// The chosen version; `null` if there is none.
    chosen: Option<String>,
    /// The chosen version runs already; installing it again would change nothing.
    up_to_date: bool,
    steps: Vec<StepDocument<'a>>,
    features: Option<FeatureDocument>,
    not_chosen: Vec<OtherDocument<'a>>,
    checks: &'a [Check],
    /// What no check can see.
    note: Option<String>,
}

#[derive(Serialize)]
struct StepDocument<'a> {
    from: String,
    to: String,
    file: &'a Path,
    strictly_compatible: bool,
    checks: &'a [Check],
}

#[derive(Serialize)]
struct FeatureDocument {
    gained: Vec<String>,
    lost: Vec<String>,
}

#[derive(Serialize)]
struct OtherDocument<'a> {
    file: &'a Path,
    version: Option<String>,
    /// Name of the first reason.
    reason: &'static str,
    reasons: &'a [Refusal],
}

pub(super) fn run(args: &PlanArgs) -> anyhow::Result<ExitCode> {
    let planned = Planned::new(&args.images, &args.choice, &args.host)?;
    let mut out = io::stdout().lock();
    let mut output = Output::of_command(&mut out, args.json);
    match output.format {
        Format::Json => output.document(&document(&planned)?)?,
        Format::Text => print(&planned, &mut output)?,
    }
    if planned.plan.is_good() {
        return Ok(ExitCode::SUCCESS);
    }
    if args.json {
        return Ok(ExitCode::FAILURE);
    }
    planned.steps()?;
    anyhow::bail!("the host cannot take an update now: {}", failed_in_words(&planned.plan.readiness))
}

/// Failed checks in one line.
pub(super) fn failed_in_words(checks: &[Check]) -> String {
    let failed = checks.iter().filter(|check| check.state == State::Failed);
    let each: Vec<String> =
        failed.map(|check| format!("{}: {}", check.reason.unwrap_or(check.id), check.seen)).collect();
    each.join("; ")
}

fn document(planned: &Planned) -> anyhow::Result<Document<'_>> {
    let file = |index: usize| planned.candidates.get(index).map(|one| one.file.as_path());
    let plan = &planned.plan;
    let (steps, up_to_date): (&[Step], _) = match &plan.outcome {
        Outcome::Path(steps) => (steps, None),
        Outcome::UpToDate(candidate) => (&[], Some(*candidate)),
        Outcome::Nothing => (&[], None),
    };
    let running = up_to_date.and_then(|index| planned.candidates.get(index)).and_then(Candidate::version);
    Ok(Document {
        host: HostDocument::new(&planned.host, planned.policy),
        directory: &planned.directory,
        releases: &planned.mapping.source,
        unknown: &planned.mapping.unknown,
        corrected_later: corrected_later(planned)?,
        ok: plan.is_good(),
        chosen: steps.last().map(|step| step.to).or(running).map(|version| version.to_string()),
        up_to_date: up_to_date.is_some(),
        steps: steps
            .iter()
            .filter_map(|step| {
                Some(StepDocument {
                    from: step.from.to_string(),
                    to: step.to.to_string(),
                    file: file(step.candidate)?,
                    strictly_compatible: step.strict,
                    checks: &step.checks,
                })
            })
            .collect(),
        features: plan
            .features
            .map(|change| FeatureDocument { gained: names(change.gained), lost: names(change.lost) }),
        not_chosen: plan
            .others
            .iter()
            .filter_map(|other| {
                Some(OtherDocument {
                    file: file(other.candidate)?,
                    version: planned.candidates.get(other.candidate)?.version().map(|one| one.to_string()),
                    reason: other.reasons.first()?.name,
                    reasons: &other.reasons,
                })
            })
            .collect(),
        checks: &plan.readiness,
        note: td_builds(&planned.host),
    })
}

/// Names of bits; those without one as a number.
fn names(features: Features0) -> Vec<String> {
    let mut names: Vec<String> = features.names().map(str::to_owned).collect();
    let rest = features.unknown();
    if !rest.is_empty() {
        names.push(format!("{:#x}", rest.bits()));
    }
    names
}

/// Where the table of releases contradicts the newest published one.
fn corrected_later(planned: &Planned) -> anyhow::Result<Vec<String>> {
    Ok(planned.mapping.differences(&Mapping::built_in()?))
}

fn print(planned: &Planned, output: &mut Output<'_>) -> anyhow::Result<()> {
    print_host(&planned.host, output)?;
    output.paragraph("releases    ", &releases(&planned.mapping, &planned.directory))?;
    for difference in corrected_later(planned)? {
        output.paragraph("            ", &format!("corrected since: {difference}"))?;
    }
    writeln!(output.out)?;
    print_choice(planned, output)?;
    print_checks(&planned.plan.readiness, output)?;
    if let (Outcome::Path(_), Some(note)) = (&planned.plan.outcome, td_builds(&planned.host)) {
        output.paragraph("note        ", &note)?;
    }
    if !planned.plan.others.is_empty() {
        writeln!(output.out, "\nnot chosen")?;
    }
    for other in &planned.plan.others {
        print_other(planned, other, output)?;
    }
    Ok(())
}

/// The way, step by step.
pub(super) fn print_choice(planned: &Planned, output: &mut Output<'_>) -> io::Result<()> {
    match &planned.plan.outcome {
        Outcome::Nothing => {
            let line = output.paint.paint(Tone::Bad, &planned.nothing());
            writeln!(output.out, "{line}")?;
        }
        Outcome::UpToDate(index) => {
            let version = planned.candidates.get(*index).and_then(Candidate::version);
            let version = version.map(|version| version.to_string()).unwrap_or_default();
            let line = format!(
                "{version} runs and is the newest that fits; `--to {version}` would install it again"
            );
            writeln!(output.out, "{}", output.paint.paint(Tone::Good, &line))?;
        }
        Outcome::Path(steps) => {
            for (number, step) in steps.iter().enumerate() {
                let strict = if step.strict { ", strictly compatible" } else { "" };
                let line = format!("step {}  {} → {}{strict}", number + 1, step.from, step.to);
                writeln!(output.out, "{}", output.paint.paint(Tone::Good, &line))?;
                if let Some(candidate) = planned.candidates.get(step.candidate) {
                    writeln!(output.out, "            {}", candidate.file.display())?;
                }
                print_checks(&step.checks, output)?;
            }
            if let Some(change) = planned.plan.features {
                print_features(change, output)?;
            }
        }
    }
    Ok(())
}

fn print_features(change: FeatureChange, output: &mut Output<'_>) -> io::Result<()> {
    for (label, features) in [("gains       ", change.gained), ("loses       ", change.lost)] {
        if !features.is_empty() {
            output.paragraph(label, &names(features).join(", "))?;
        }
    }
    if !change.gained.is_empty() {
        output.paragraph("            ", "(Linux uses what is gained after the next boot only)")?;
    }
    Ok(())
}

fn print_other(planned: &Planned, other: &NotChosen, output: &mut Output<'_>) -> io::Result<()> {
    let Some(candidate) = planned.candidates.get(other.candidate) else { return Ok(()) };
    let version = candidate.version().map_or_else(|| "?".to_owned(), |version| version.to_string());
    let mut reasons = other.reasons.iter();
    let label = format!("  {version:<8}  ");
    match reasons.next() {
        Some(first) => output.paragraph(&label, &first.to_string())?,
        None => writeln!(output.out, "{label}")?,
    }
    for reason in reasons {
        output.paragraph("            ", &reason.to_string())?;
    }
    if candidate.version().is_none() || candidate.image.is_err() {
        writeln!(output.out, "            {}", candidate.file.display())?;
    }
    Ok(())
}

/// How many updates a way takes, in words.
pub(super) fn steps_in_words(steps: &[Step]) -> String {
    plural(u64::try_from(steps.len()).unwrap_or(u64::MAX), "update")
}
