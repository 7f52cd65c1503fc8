//! Chooses a release and the way to it. Filters first, then chooses: what is chosen can be installed.

use std::collections::BTreeMap;

use tdx_abi::features::Features0;
use tdx_abi::seamldr::Version;

use super::candidate::{Candidate, Refusal};
use super::host::{HostFacts, release_profile};
use super::mapping::Mapping;
use super::rules::{Policy, Running, fitness, readiness, step};
use crate::doctor::{Check, State};

/// What the user wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Goal {
    /// The newest release that can be had.
    #[default]
    Newest,
    /// This one.
    Version(Version),
}

/// One update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Module that runs before.
    pub from: Version,
    /// Module that runs after.
    pub to: Version,
    /// Index of the candidate.
    pub candidate: usize,
    /// The checks of the image and of the step; none failed.
    pub checks: Vec<Check>,
    /// The mapping file calls the step strictly compatible.
    pub strict: bool,
}

/// What comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Updates to make, in order.
    Path(Vec<Step>),
    /// The newest release that fits runs already: the candidate with this index.
    UpToDate(usize),
    /// No way; each image has its reasons.
    Nothing,
}

/// An image that is not installed, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotChosen {
    /// Index of the candidate.
    pub candidate: usize,
    /// The reasons, the first one first.
    pub reasons: Vec<Refusal>,
}

/// Bits that come and go with an update.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeatureChange {
    /// Bits that the new module has and the old one has not.
    pub gained: Features0,
    /// The reverse.
    pub lost: Features0,
}

/// A choice with its grounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What comes out.
    pub outcome: Outcome,
    /// Every other image.
    pub others: Vec<NotChosen>,
    /// Checks of the machine, whatever the image.
    pub readiness: Vec<Check>,
    /// Feature bits; `None` where a value is not known.
    pub features: Option<FeatureChange>,
}

impl Plan {
    /// True if there is something to install, or nothing need be, and the machine lets it.
    pub fn is_good(&self) -> bool {
        match self.outcome {
            Outcome::UpToDate(_) => true,
            Outcome::Nothing => false,
            Outcome::Path(_) => self.readiness.iter().all(|check| check.state != State::Failed),
        }
    }
}

/// A node of the search: an image that suits the machine, the best file of its version.
struct Usable {
    version: Version,
    candidate: usize,
}

/// Makes the plan. `running` is the module that the way starts from.
pub fn plan(
    host: &HostFacts,
    running: Version,
    candidates: &[Candidate],
    mapping: &Mapping,
    goal: Goal,
    policy: Policy,
) -> Plan {
    let fit: Vec<Vec<Check>> =
        candidates.iter().map(|candidate| fitness(host, candidate, mapping, policy)).collect();
    let (usable, duplicates) = usable(host, candidates, &fit, policy);

    let limit = host.remaining_updates.as_ref().map_or(usize::MAX, |&left| {
        // What forbids the first step is said by the check of the machine.
        usize::try_from(left).unwrap_or(usize::MAX).max(1)
    });
    let ways = Ways::search(host, running, candidates, &usable, mapping, limit);
    let target = match goal {
        Goal::Version(version) => usable.iter().position(|one| one.version == version && ways.reaches(one)),
        Goal::Newest => ways.newest(&usable, running, mapping, policy),
    };
    let outcome = match target {
        Some(target) => Outcome::Path(ways.path(target, &usable, candidates, &fit, mapping)),
        None => match usable.iter().find(|one| one.version == running && goal == Goal::Newest) {
            Some(same) => Outcome::UpToDate(same.candidate),
            None => Outcome::Nothing,
        },
    };
    let taken: Vec<usize> = match &outcome {
        Outcome::Path(steps) => steps.iter().map(|step| step.candidate).collect(),
        Outcome::UpToDate(candidate) => vec![*candidate],
        Outcome::Nothing => Vec::new(),
    };
    let goal_version = match &outcome {
        Outcome::Path(steps) => steps.last().map(|step| step.to),
        Outcome::UpToDate(_) => Some(running),
        Outcome::Nothing => None,
    };
    let start = Running::on(host);
    let mut others: Vec<NotChosen> = (0..candidates.len())
        .filter(|index| !taken.contains(index))
        .filter_map(|index| {
            let candidate = candidates.get(index)?;
            let mut reasons = failures(fit.get(index)?);
            if candidate.image.is_ok() {
                reasons.extend(failures(&step(&start, candidate, mapping)));
            }
            if let Some(twin) = duplicates.get(&index).and_then(|twin| candidates.get(*twin)) {
                let sentence = format!("{} has the same release", twin.file.display());
                reasons.push(Refusal::new("duplicate", sentence));
            }
            reasons.sort_by_key(rank);
            if reasons.is_empty() {
                reasons.push(passed_over(goal, goal_version, limit));
            }
            Some(NotChosen { candidate: index, reasons })
        })
        .collect();
    // Newest first, files without a version last.
    others
        .sort_by_key(|other| std::cmp::Reverse(candidates.get(other.candidate).and_then(Candidate::version)));
    let features = goal_version.and_then(|to| feature_change(host, running, to, mapping));
    Plan { outcome, others, readiness: readiness(host, policy), features }
}

/// Reasons of the checks that exclude an image. Without facts of the release, the most important rules
/// cannot be applied: it is skipped.
fn failures(checks: &[Check]) -> Vec<Refusal> {
    checks
        .iter()
        .filter(|check| excludes(check))
        .map(|check| Refusal::new(check.reason.unwrap_or(check.id), &check.seen))
        .collect()
}

fn excludes(check: &Check) -> bool {
    match check.state {
        State::Ok => false,
        State::Failed => true,
        State::Unknown => matches!(check.reason, Some("unknown-release" | "version-unknown")),
    }
}

/// Which reason is told first: what is wrong with the file itself, then what no other machine or day would
/// change, then the rest in the order of the checks.
fn rank(reason: &Refusal) -> u8 {
    const OF_HOST: [&str; 3] = ["seamldr-", "sigstruct-", "image-svn-"];
    match reason.name {
        "version-line-differs" => 1,
        "version-older" => 2,
        "image-cpu-unsupported" => 3,
        "running-too-old" => 4,
        name if OF_HOST.iter().any(|start| name.starts_with(start)) => 4,
        _ => 0,
    }
}

/// Why an image that passes every rule is not the one.
fn passed_over(goal: Goal, chosen: Option<Version>, limit: usize) -> Refusal {
    match (goal, chosen) {
        (Goal::Version(version), _) => Refusal::new("not-asked-for", format!("{version} was asked for")),
        (Goal::Newest, Some(version)) => Refusal::new("not-chosen", format!("{version} is chosen")),
        (Goal::Newest, None) => {
            Refusal::new("not-reachable", format!("no way to it in {limit} updates or fewer"))
        }
    }
}

/// Images that suit the machine, newest first, and files that repeat a release with the one that stands
/// for it.
fn usable(
    host: &HostFacts,
    candidates: &[Candidate],
    fit: &[Vec<Check>],
    policy: Policy,
) -> (Vec<Usable>, BTreeMap<usize, usize>) {
    let wanted = policy.header.or(host.header);
    let mut usable: Vec<Usable> = Vec::new();
    let mut duplicates = BTreeMap::new();
    for (index, (candidate, checks)) in candidates.iter().zip(fit).enumerate() {
        let (Some(version), Ok(image)) = (candidate.version(), &candidate.image) else { continue };
        if checks.iter().any(excludes) {
            continue;
        }
        match usable.iter_mut().find(|one| one.version == version) {
            None => usable.push(Usable { version, candidate: index }),
            // The one that need not be converted.
            Some(one) => {
                let standing = candidates.get(one.candidate).and_then(|twin| twin.image.as_ref().ok());
                let better = wanted == Some(image.header)
                    && standing.is_some_and(|standing| standing.header != image.header);
                let loser = if better { std::mem::replace(&mut one.candidate, index) } else { index };
                duplicates.insert(loser, one.candidate);
            }
        }
    }
    usable.sort_by_key(|one| std::cmp::Reverse(one.version));
    (usable, duplicates)
}

/// Shortest ways from the running module; each usable image with the one before it.
struct Ways {
    running: Version,
    /// By index of the usable image: steps, the one before (`None`: the running module), the checks.
    reached: BTreeMap<usize, (usize, Option<usize>, Vec<Check>)>,
    /// Versions of the reached ones, in the same order of indices.
    versions: BTreeMap<Version, usize>,
}

impl Ways {
    fn search(
        host: &HostFacts,
        running: Version,
        candidates: &[Candidate],
        usable: &[Usable],
        mapping: &Mapping,
        limit: usize,
    ) -> Self {
        let mut ways = Self { running, reached: BTreeMap::new(), versions: BTreeMap::new() };
        let mut level: Vec<Option<usize>> = vec![None];
        for steps in 1..=limit.min(usable.len()) {
            let mut next = Vec::new();
            // Newest first on every level: among the shortest ways, the one over the newest releases.
            for &from in &level {
                let start = match from.and_then(|index| usable.get(index)) {
                    None => Running { version: Ok(running), svn: host.module_svn.clone() },
                    Some(one) => {
                        let image = candidates.get(one.candidate).and_then(|one| one.image.as_ref().ok());
                        let svn = image.map(|image| image.svn);
                        Running {
                            version: Ok(one.version),
                            svn: svn.ok_or_else(|| super::host::Unknown("no image".to_owned())),
                        }
                    }
                };
                for (index, one) in usable.iter().enumerate() {
                    let again = from.is_some() && start.version == Ok(one.version);
                    if ways.reached.contains_key(&index) || again {
                        continue;
                    }
                    let Some(candidate) = candidates.get(one.candidate) else { continue };
                    let checks = step(&start, candidate, mapping);
                    if checks.iter().any(|check| check.state == State::Failed) {
                        continue;
                    }
                    ways.reached.insert(index, (steps, from, checks));
                    ways.versions.insert(one.version, index);
                    // Installing the running release again leads nowhere else.
                    if one.version != running {
                        next.push(index);
                    }
                }
            }
            next.sort_unstable();
            level = next.into_iter().map(Some).collect();
            if level.is_empty() {
                break;
            }
        }
        ways
    }

    fn reaches(&self, one: &Usable) -> bool {
        self.versions.contains_key(&one.version)
    }

    /// The newest release above the running one; a strictly compatible one first if asked for.
    fn newest(
        &self,
        usable: &[Usable],
        running: Version,
        mapping: &Mapping,
        policy: Policy,
    ) -> Option<usize> {
        let newer = || self.versions.iter().rev().filter(|(version, _)| **version > running);
        let strict = newer().find(|(version, index)| {
            let direct = self.reached.get(index).is_some_and(|(steps, ..)| *steps == 1);
            direct
                && mapping.find(**version).is_some_and(|release| release.is_strictly_compatible_with(running))
        });
        let strict = if policy.prefer_strict { strict } else { None };
        strict.or_else(|| newer().next()).map(|(_, index)| *index).filter(|&index| index < usable.len())
    }

    fn path(
        &self,
        target: usize,
        usable: &[Usable],
        candidates: &[Candidate],
        fit: &[Vec<Check>],
        mapping: &Mapping,
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut at = Some(target);
        while let Some(index) = at {
            let (Some((_, from, checks)), Some(one)) = (self.reached.get(&index), usable.get(index)) else {
                break;
            };
            let before = from.and_then(|from| usable.get(from)).map_or(self.running, |one| one.version);
            let mut all = fit.get(one.candidate).cloned().unwrap_or_default();
            all.extend(checks.iter().cloned());
            let release = candidates.get(one.candidate).and_then(Candidate::version);
            let release = release.and_then(|version| mapping.find(version));
            steps.push(Step {
                from: before,
                to: one.version,
                candidate: one.candidate,
                checks: all,
                strict: release.is_some_and(|release| release.is_strictly_compatible_with(before)),
            });
            at = *from;
        }
        steps.reverse();
        steps
    }
}

fn feature_change(
    host: &HostFacts,
    running: Version,
    to: Version,
    mapping: &Mapping,
) -> Option<FeatureChange> {
    let of = |version| {
        let listed = mapping.find(version).map(|release| release.tdx_feature0);
        listed.or_else(|| release_profile(version).map(|profile| profile.features0))
    };
    let (before, after) = (of(running).or_else(|| host.module_features.clone().ok())?, of(to)?);
    Some(FeatureChange { gained: after.difference(before), lost: before.difference(after) })
}
