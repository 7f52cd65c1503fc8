//! The LOAD of the firmware: the module that a file puts into the SEAM range before anything runs.
//!
//! The checks are those of SEAMLDR.INSTALL for the scenario LOAD, in its order, but for those of a
//! call and its parameters. Nobody reads a status here, so each refusal has a reason of its own.

use tdx_image::elf::{RelocationError, check_relocations};
use tdx_image::record::ModuleRecord;
use tdx_image::verify::{self, Hash384, Signer, VerifyError};
use tdx_image::{Image, ImageError, Sigstruct, SigstructError};

use super::config::LoaderConfig;
use super::install::{CACHES, L3, packages};
use super::{layout, release, signed};
use crate::hardware::{Hardware, LpIndex, SeamNote};
use crate::module::ModuleConfig;
use crate::profile::Svn;

/// Why the firmware does not load a module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The file is no update image.
    #[error(transparent)]
    Container(#[from] ImageError),
    /// The SIGSTRUCT is not one that this P-SEAMLDR takes.
    #[error(transparent)]
    Sigstruct(#[from] SigstructError),
    /// Nobody who is trusted signed it, or it is not what was signed.
    #[error(transparent)]
    Signature(#[from] VerifyError),
    /// The test key signed it, and the machine does not trust that.
    #[error("it is signed with the test key, which this P-SEAMLDR does not trust")]
    TestKey,
    /// A debug signed module.
    #[error("it is signed for debugging, and the machine is not debug unlocked")]
    Debug,
    /// A module of TDX 1.0 below a later P-SEAMLDR.
    #[error("it is a module of TDX 1.0, which this P-SEAMLDR does not load")]
    Tdx1_0,
    /// A production module that names no CPU.
    #[error("its SIGSTRUCT names no CPU")]
    NoCpu,
    /// A package is of another kind.
    #[error("it is not for the CPU of this machine, CPUID.1.EAX {fms:#x}")]
    OtherCpu {
        /// CPUID.1.EAX of the package.
        fms: u32,
    },
    /// No profile describes the release.
    #[error("no profile describes a module of SVN {}.{} or an older one of its line", svn.major, svn.minor)]
    UnknownRelease {
        /// SVN of the image.
        svn: Svn,
    },
    /// The SEAM range is too small.
    #[error("it needs {needed:#x} bytes of the SEAM range, which has {room:#x}")]
    NoRoom {
        /// Bytes that it needs.
        needed: u64,
        /// Bytes below the P-SEAMLDR.
        room: u64,
    },
    /// A relocation reaches out of the module.
    #[error(transparent)]
    Relocation(#[from] RelocationError),
    /// A module of the test key that does not say what it is.
    #[error("it has no record of the profile that it plays")]
    NoRecord,
    /// A module of the test key that says that it is something unknown.
    #[error("its record names the profile `{profile}`, which is unknown")]
    UnknownProfile {
        /// The profile, or the version whose profile it would be.
        profile: String,
    },
}

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
        let signer = accept(loader, hw, sigstruct, image.module_pages())?;
        // SEAMLDR.INSTALL-28
        let unknown_release = |_| LoadError::UnknownRelease { svn: signed::svn(sigstruct) };
        let intel = match signer {
            Signer::Intel => {
                Some(release::of_intel(sigstruct, loader.unknown_release).map_err(unknown_release)?)
            }
            Signer::TdxhostTestKey => None,
        };
        // SEAMLDR.INSTALL-20
        let rules = loader.generation.rules();
        let mcheck = hw.mcheck();
        let l3 = hw.cpuid(LpIndex(0), CACHES, L3);
        let needed = layout::needed(sigstruct, mcheck, l3, rules.keeps_log);
        let room = layout::room(mcheck);
        if needed > room {
            return Err(LoadError::NoRoom { needed, room });
        }
        // SEAMLDR.INSTALL-24
        let (computed, signed) = (verify::seamhash(module), *sigstruct.seamhash());
        if loader.check_signatures && computed != signed {
            let (computed, signed) = (Hash384(computed), Hash384(signed));
            return Err(VerifyError::ModuleHash { computed, signed }.into());
        }
        // SEAMLDR.INSTALL-25
        if rules.keeps_log {
            check_relocations(module)?;
        }
        if let Some((profile, note)) = intel {
            return Ok((release::configure(profile, sigstruct, template), note));
        }
        // SEAMLDR.INSTALL-29
        let record = ModuleRecord::find(module).ok_or(LoadError::NoRecord)?;
        let config = release::of_test_key(module, sigstruct, template).map_err(|_| {
            let version = || record.version.to_string();
            let profile = Some(record.profile.to_owned()).filter(|name| !name.is_empty());
            LoadError::UnknownProfile { profile: profile.unwrap_or_else(version) }
        })?;
        Ok((config, None))
    }
}

/// Rows 10 to 18, but for those of an update.
fn accept(
    loader: &LoaderConfig,
    hw: &dyn Hardware,
    sigstruct: &Sigstruct,
    pages: u32,
) -> Result<Signer, LoadError> {
    let rules = loader.generation.rules();
    // SEAMLDR.INSTALL-10
    sigstruct.check(rules.sigstruct)?;
    // SEAMLDR.INSTALL-11
    let signer = match verify::signer(sigstruct) {
        Some(Signer::TdxhostTestKey) if loader.trust_test_key => Signer::TdxhostTestKey,
        Some(Signer::Intel) => Signer::Intel,
        // Who does not look at signatures takes what claims to be a release for one.
        _ if !loader.check_signatures => Signer::Intel,
        Some(Signer::TdxhostTestKey) => return Err(LoadError::TestKey),
        None => {
            let modulus_hash = Hash384(verify::modulus_hash(sigstruct));
            return Err(VerifyError::UnknownSigner { modulus_hash }.into());
        }
    };
    // SEAMLDR.INSTALL-12
    if sigstruct.is_debug() && !loader.debug_unlocked {
        return Err(LoadError::Debug);
    }
    // SEAMLDR.INSTALL-13
    if rules.module_of_1_0.is_some() && sigstruct.svn().major == 0 {
        return Err(LoadError::Tdx1_0);
    }
    // SEAMLDR.INSTALL-16
    if rules.keeps_log {
        sigstruct.check_offsets(pages)?;
    }
    // SEAMLDR.INSTALL-17
    if sigstruct.cpus().next().is_none() {
        if rules.no_cpu_table.is_some() && !sigstruct.is_debug() {
            return Err(LoadError::NoCpu);
        }
    } else if let Some(fms) = packages(hw).find(|&fms| !sigstruct.covers_cpu(fms)) {
        return Err(LoadError::OtherCpu { fms });
    }
    // SEAMLDR.INSTALL-18
    if loader.check_signatures {
        verify::signature(sigstruct)?;
    }
    Ok(signer)
}
