//! Update images for the boots, built as `tdxhost module build` builds them.

use anyhow::{Context, Result};
use tdx_image::build::{ModuleSpec, image, module, wrap};
use tdx_image::{Date, HeaderVersion, Svn};
use tdx_module::profile::{self, Profile};

/// The profile that boots run unless they say otherwise.
pub(super) const PROFILE: &str = "connect";

/// An image of a profile, its version `later` updates later than the profile's.
pub(super) fn built(profile: &str, later: u16) -> Result<Vec<u8>> {
    let spec = spec(find(profile)?, later);
    image(&spec, HeaderVersion::V0x200).context("build an update image")
}

/// The same with a header that Linux does not take.
pub(super) fn with_old_header(profile: &str, later: u16) -> Result<Vec<u8>> {
    let spec = spec(find(profile)?, later);
    image(&spec, HeaderVersion::V0x100).context("build an update image")
}

/// The same with a signature that is not that of its content.
pub(super) fn badly_signed(profile: &str, later: u16) -> Result<Vec<u8>> {
    let (mut sigstruct, pages) = module(&spec(find(profile)?, later)).context("build an update image")?;
    sigstruct.signature[0] ^= 1;
    wrap(HeaderVersion::V0x200, &sigstruct, &pages).context("build an update image")
}

/// The same with a module that is not the one that was signed.
pub(super) fn damaged(profile: &str, later: u16) -> Result<Vec<u8>> {
    let (sigstruct, mut pages) = module(&spec(find(profile)?, later)).context("build an update image")?;
    let last = pages.last_mut().context("a module has bytes")?;
    *last ^= 1;
    wrap(HeaderVersion::V0x200, &sigstruct, &pages).context("build an update image")
}

/// An image with a lower security version than the profile's.
pub(super) fn older(profile: &str) -> Result<Vec<u8>> {
    let mut spec = spec(find(profile)?, 0);
    spec.svn.minor = spec.svn.minor.saturating_sub(1);
    image(&spec, HeaderVersion::V0x200).context("build an update image")
}

/// The version that a module of the profile reports, `later` updates later.
pub(super) fn version(profile: &str, later: u16) -> Result<String> {
    Ok(spec(find(profile)?, later).version.to_string())
}

fn find(name: &str) -> Result<&'static Profile> {
    profile::find(name).with_context(|| format!("no profile is named {name}"))
}

fn spec(profile: &Profile, later: u16) -> ModuleSpec {
    let mut version = profile.version;
    version.update = version.update.saturating_add(later);
    let mut spec = ModuleSpec::new(version, profile.name);
    spec.svn = Svn { major: profile.svn.major, minor: profile.svn.minor };
    spec.cpus = profile.cpus.to_vec();
    spec.date = Date(profile.build_date);
    spec.module_handoff_version = profile.handoff.module_hv;
    spec.min_update_handoff_version = profile.handoff.min_update_hv;
    spec.no_downgrade = profile.handoff.no_downgrade;
    spec.handoff_pages = u32::from(profile.handoff.pages) + 1;
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_a_profile_differ_in_what_they_are_for() {
        let good = built(PROFILE, 1).unwrap();
        assert_eq!(good, built(PROFILE, 1).unwrap(), "the same asked for, the same built");
        assert_eq!(&good[..2], &[0, 2], "header version 0x200");
        assert_eq!(&with_old_header(PROFILE, 1).unwrap()[..2], &[0, 1]);
        // The header's checksum follows what is damaged.
        let differ = |other: &[u8]| good[4096..].iter().zip(&other[4096..]).filter(|(a, b)| a != b).count();
        assert_eq!(differ(&badly_signed(PROFILE, 1).unwrap()), 1);
        assert_eq!(differ(&damaged(PROFILE, 1).unwrap()), 1);
        assert_ne!(older(PROFILE).unwrap(), built(PROFILE, 0).unwrap());
        assert!(built("no such profile", 1).is_err());
    }

    #[test]
    fn versions_are_written_as_linux_writes_them() {
        assert_eq!(version(PROFILE, 0).unwrap(), "2.1.00");
        assert_eq!(version(PROFILE, 1).unwrap(), "2.1.01");
    }
}
