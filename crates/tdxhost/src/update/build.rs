//! What a module of this project is built from: a version, and the release that it behaves like.

use anyhow::Context as _;
use tdx_abi::seamldr::Version;
use tdx_image::build::ModuleSpec;
use tdx_image::{Date, Svn};
use tdx_module::profile::{self, Profile};

use super::version::same_line;
use crate::text::nearest;

/// A module that reports `version` and behaves like the profile `asked` for; without one, like the release
/// of that version or the next lower of its line.
pub fn spec_for(version: Version, asked: Option<&str>) -> anyhow::Result<ModuleSpec> {
    let profile = profile_for(version, asked)?;
    let handoff = profile.handoff;
    let mut spec = ModuleSpec::new(version, profile.name);
    spec.svn = Svn { major: profile.svn.major, minor: profile.svn.minor };
    spec.cpus = profile.cpus.to_vec();
    spec.date = Date(profile.build_date);
    spec.module_handoff_version = handoff.module_hv;
    spec.min_update_handoff_version = handoff.min_update_hv;
    spec.no_downgrade = handoff.no_downgrade;
    spec.handoff_pages = u32::from(handoff.pages) + 1;
    Ok(spec)
}

/// The profile that is asked for, or the one that fits the version.
fn profile_for(version: Version, asked: Option<&str>) -> anyhow::Result<&'static Profile> {
    if let Some(name) = asked {
        return profile::find(name).with_context(|| {
            let names = || profile::all().map(|profile| profile.name);
            match nearest(name, names()) {
                Some(meant) => format!("no profile is named {name:?}; did you mean {meant}?"),
                None => {
                    format!(
                        "no profile is named {name:?}; there are {}",
                        names().collect::<Vec<_>>().join(", ")
                    )
                }
            }
        });
    }
    profile::all()
        .filter(|profile| same_line(profile.version, version) && profile.version <= version)
        .max_by_key(|profile| profile.version)
        .with_context(|| {
            format!("no profile is of the line of {version} and not newer: give one with --profile")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_is_that_of_the_version_or_the_next_lower_of_its_line() {
        let name = |version, asked| profile_for(version, asked).map(|profile| profile.name);
        assert_eq!(name(Version::new(1, 5, 16), None).unwrap(), "1.5.16");
        assert_eq!(name(Version::new(1, 5, 33), None).unwrap(), "1.5.28");
        assert_eq!(name(Version::new(2, 0, 99), None).unwrap(), "2.0.18");
        assert_eq!(name(Version::new(1, 5, 16), Some("1.5.34")).unwrap(), "1.5.34");
        assert!(name(Version::new(3, 0, 1), None).unwrap_err().to_string().contains("3.0.01"));
        let error = name(Version::new(1, 5, 16), Some("1.5.61")).unwrap_err().to_string();
        assert!(error.starts_with("no profile is named \"1.5.61\"; did you mean 1.5."), "{error}");
    }
}
