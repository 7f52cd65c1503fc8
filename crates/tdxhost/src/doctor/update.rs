//! `tdxhost doctor --update IMAGE`: what can be known before an update.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::{DoctorArgs, Report, State, checks_of};
use crate::update::{Candidate, Mapping, Policy, Sources, preflight};

/// The checks that `module update` makes before it touches anything.
pub(super) fn report(image: &Path, args: &DoctorArgs) -> anyhow::Result<Report> {
    let (candidate, _) = Candidate::load(image).with_context(|| image.display().to_string())?;
    let mapping = match &args.mapping {
        Some(file) => Mapping::from_file(file)?,
        None => Mapping::for_image(image)?,
    };
    let of_root = || args.root.as_ref().map(|root| root.join("sys"));
    let sysfs = args.sysfs.clone().or_else(of_root).unwrap_or_else(|| PathBuf::from("/sys"));
    let sources = Sources { sysfs, root: args.root.clone(), api: args.api.clone() };
    let usual = Policy::default();
    let policy = Policy {
        header: args.header,
        allow_debug: args.allow_debug,
        x2apic_limit: args.x2apic_limit.unwrap_or(usual.x2apic_limit),
        ..usual
    };
    let checks = preflight(&sources.read()?, &candidate, &mapping, policy);
    let count = |state| checks.iter().filter(|check| check.state == state).count();
    let (failed, unknown) = (count(State::Failed), count(State::Unknown));
    let version = candidate.version().map_or_else(|| "this image".to_owned(), |version| version.to_string());
    let verdict = match (failed, unknown) {
        (0, 0) => format!("Nothing forbids the update to {version}: every check is as expected."),
        (0, _) => format!(
            "Nothing is known to forbid the update to {version}, but {} could not be made.",
            checks_of(unknown)
        ),
        _ => format!("No update to {version}: {} failed.", checks_of(failed)),
    };
    Ok(Report { ready: failed == 0 && unknown == 0, verdict, hopeless: false, checks })
}
