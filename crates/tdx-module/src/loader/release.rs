//! Which release an image is played as.

use tdx_image::Sigstruct;
use tdx_image::record::ModuleRecord;

use super::accept::LoadError;
use super::config::UnknownRelease;
use super::signed;
use crate::hardware::SeamNote;
use crate::module::ModuleConfig;
use crate::profile::{self, Profile, Svn};

/// The profile of a module that Intel signed, and what the machine is to be told of the choice.
pub(super) fn of_intel(
    sigstruct: &Sigstruct,
    unknown: UnknownRelease,
) -> Result<(&'static Profile, Option<SeamNote>), LoadError> {
    let known = profile::all()
        .filter(|profile| !profile.assumed.contains(&"seamhash"))
        .find(|profile| profile.seamhash == *sigstruct.seamhash());
    if let Some(profile) = known {
        return Ok((profile, None));
    }
    let svn = signed::svn(sigstruct);
    // SEAMLDR.INSTALL-28
    if unknown == UnknownRelease::Refuse {
        return Err(LoadError::UnknownRelease { svn });
    }
    let profile = nearest(svn).ok_or(LoadError::UnknownRelease { svn })?;
    Ok((profile, Some(SeamNote::NearestRelease { svn, profile })))
}

/// The newest published release of the same line whose SVN is not above `svn`.
fn nearest(svn: Svn) -> Option<&'static Profile> {
    profile::all()
        .filter(|profile| !profile.synthetic && profile.svn.major == svn.major && profile.svn <= svn)
        .max_by_key(|profile| (profile.svn, profile.version))
}

/// The module that an image signed with the test key says it is.
pub(super) fn of_test_key(
    image: &[u8],
    sigstruct: &Sigstruct,
    template: Option<&ModuleConfig>,
) -> Result<ModuleConfig, LoadError> {
    // SEAMLDR.INSTALL-29
    let record = ModuleRecord::find(image).ok_or(LoadError::NoRecord)?;
    let version = record.version.to_string();
    let name = if record.profile.is_empty() { version.as_str() } else { record.profile };
    let profile =
        profile::find(name).ok_or_else(|| LoadError::UnknownProfile { profile: name.to_owned() })?;
    let mut config = configure(profile, sigstruct, template);
    config.version = record.version;
    config.built = config.sigstruct;
    config.build_date = sigstruct.date().0;
    config.connect.pool_pages = record.pool_pages.unwrap_or(config.connect.pool_pages);
    Ok(config)
}

/// A module of this profile: what the platform asked of the module that it booted with holds for
/// the ones that follow.
pub(super) fn configure(
    profile: &'static Profile,
    sigstruct: &Sigstruct,
    template: Option<&ModuleConfig>,
) -> ModuleConfig {
    let mut config = ModuleConfig::new(profile);
    if let Some(template) = template {
        config.follow(template);
    }
    config.svn = signed::svn(sigstruct);
    config.seamhash = *sigstruct.seamhash();
    config.sigstruct = signed::handoff(sigstruct);
    // A release that no profile describes was not built with the values of the nearest one.
    if profile.seamhash != *sigstruct.seamhash() {
        config.built = config.sigstruct;
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_release_is_the_newest_of_its_line_that_is_not_above() {
        let name = |major, minor| nearest(Svn { major, minor }).map(|profile| profile.name);
        assert_eq!(name(1, 9), Some("1.5.09"));
        assert_eq!(name(1, 13), Some("1.5.25"));
        assert_eq!(name(1, 200), Some("1.5.34"));
        assert_eq!(name(3, 200), Some("2.0.18"));
        assert_eq!(name(1, 3), None);
        assert_eq!(name(2, 9), None);
    }
}
