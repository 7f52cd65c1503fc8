//! The LOAD of the firmware: the module that a file puts into the SEAM range before anything runs.
//!
//! It asks what SEAMLDR.INSTALL asks in the scenario LOAD, but for what concerns a call and its
//! parameters.

use tdx_image::Image;
use tdx_image::verify::Signer;

use super::accept::{self, LoadError};
use super::config::LoaderConfig;
use super::release;
use crate::hardware::{Hardware, LpIndex, SeamNote};
use crate::module::ModuleConfig;

impl ModuleConfig {
    /// The module of an update image, as the firmware of a machine with this P-SEAMLDR loads it,
    /// and what the machine is to be told of the choice of its profile. It deviates from that
    /// profile as `template` does from its own.
    pub fn from_image(
        file: &[u8],
        loader: &LoaderConfig,
        hw: &dyn Hardware,
        template: Option<&Self>,
    ) -> Result<(Self, Option<SeamNote>), LoadError> {
        let image = Image::parse(file)?;
        let (sigstruct, module) = (image.sigstruct(), image.module());
        let signer = accept::signer(loader, sigstruct)?;
        accept::fits(loader, hw, sigstruct, image.module_pages())?;
        let intel = match signer {
            Signer::Intel => Some(release::of_intel(sigstruct, loader.unknown_release)?),
            Signer::TdxhostTestKey => None,
        };
        accept::has_room(loader, hw, LpIndex(0), sigstruct)?;
        accept::is_intact(loader, sigstruct, module)?;
        match intel {
            Some((profile, note)) => Ok((release::configure(profile, sigstruct, template), note)),
            None => Ok((release::of_test_key(module, sigstruct, template)?, None)),
        }
    }
}
