//! What LOAD by the firmware and SEAMLDR.INSTALL ask alike of an image. Each function has rows of
//! INSTALL that follow each other; the callers keep the order between them.

use tdx_abi::status::SeamldrStatus;
use tdx_image::elf::{RelocationError, check_relocations};
use tdx_image::verify::{self, Hash384, Signer, VerifyError};
use tdx_image::{ImageError, Sigstruct, SigstructError};

use super::config::{GenerationRules, LoaderConfig};
use super::{layout, signed};
use crate::hardware::{Hardware, LpIndex};
use crate::profile::Svn;

/// CPUID leaf of the caches, and the sub-leaf of the L3.
const CACHES: u32 = 4;
const L3: u32 = 3;

/// Why a P-SEAMLDR does not take a module.
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

impl LoadError {
    /// What INSTALL answers.
    pub(super) fn status(&self, rules: &GenerationRules) -> SeamldrStatus {
        match self {
            Self::Signature(VerifyError::ModuleHash { .. }) => SeamldrStatus::EBADHASH,
            Self::Sigstruct(_) | Self::Signature(_) | Self::TestKey | Self::Debug => SeamldrStatus::EBADSIG,
            Self::Tdx1_0 => rules.module_of_1_0.unwrap_or(SeamldrStatus::EBADSIG),
            Self::NoCpu => rules.no_cpu_table.unwrap_or(SeamldrStatus::EBADSIG),
            Self::OtherCpu { .. } => SeamldrStatus::EUNSUPCPU,
            Self::UnknownRelease { .. } => SeamldrStatus::EUNSUPPORTED,
            Self::NoRoom { .. } => SeamldrStatus::ENOMEM,
            Self::Container(_) | Self::Relocation(_) | Self::NoRecord | Self::UnknownProfile { .. } => {
                SeamldrStatus::EBADPARAM
            }
        }
    }
}

/// Rows 10 to 13: a SIGSTRUCT that this P-SEAMLDR takes, and who signed it.
pub(super) fn signer(config: &LoaderConfig, sigstruct: &Sigstruct) -> Result<Signer, LoadError> {
    let rules = config.generation.rules();
    // SEAMLDR.INSTALL-10
    sigstruct.check(rules.sigstruct)?;
    // SEAMLDR.INSTALL-11
    let signer = match verify::signer(sigstruct) {
        Some(Signer::TdxhostTestKey) if config.trust_test_key => Signer::TdxhostTestKey,
        Some(Signer::Intel) => Signer::Intel,
        // Who does not look at signatures takes what claims to be a release for one.
        _ if !config.check_signatures => Signer::Intel,
        Some(Signer::TdxhostTestKey) => return Err(LoadError::TestKey),
        None => {
            let modulus_hash = Hash384(verify::modulus_hash(sigstruct));
            return Err(VerifyError::UnknownSigner { modulus_hash }.into());
        }
    };
    // SEAMLDR.INSTALL-12
    if sigstruct.is_debug() && !config.debug_unlocked {
        return Err(LoadError::Debug);
    }
    // SEAMLDR.INSTALL-13
    if rules.module_of_1_0.is_some() && signed::svn(sigstruct).major == 0 {
        return Err(LoadError::Tdx1_0);
    }
    Ok(signer)
}

/// Rows 16 to 18: it is a module of so many pages for the CPUs of this machine, as it was signed.
pub(super) fn fits(
    config: &LoaderConfig,
    hw: &dyn Hardware,
    sigstruct: &Sigstruct,
    pages: u32,
) -> Result<(), LoadError> {
    let rules = config.generation.rules();
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
    if config.check_signatures {
        verify::signature(sigstruct)?;
    }
    Ok(())
}

/// Row 20: the SEAM range has room for it.
pub(super) fn has_room(
    config: &LoaderConfig,
    hw: &dyn Hardware,
    lp: LpIndex,
    sigstruct: &Sigstruct,
) -> Result<(), LoadError> {
    let (mcheck, keeps_log) = (hw.mcheck(), config.generation.rules().keeps_log);
    let needed = layout::needed(sigstruct, mcheck, hw.cpuid(lp, CACHES, L3), keeps_log);
    let room = layout::room(mcheck);
    // SEAMLDR.INSTALL-20
    if needed > room { Err(LoadError::NoRoom { needed, room }) } else { Ok(()) }
}

/// Rows 24 and 25: the module is the one that was signed, and stays inside itself.
pub(super) fn is_intact(
    config: &LoaderConfig,
    sigstruct: &Sigstruct,
    module: &[u8],
) -> Result<(), LoadError> {
    // SEAMLDR.INSTALL-24
    if config.check_signatures {
        let (computed, signed) = (verify::seamhash(module), *sigstruct.seamhash());
        if computed != signed {
            let (computed, signed) = (Hash384(computed), Hash384(signed));
            return Err(VerifyError::ModuleHash { computed, signed }.into());
        }
    }
    // SEAMLDR.INSTALL-25
    if config.generation.rules().keeps_log {
        check_relocations(module)?;
    }
    Ok(())
}

/// CPUID.1.EAX of each package.
fn packages(hw: &dyn Hardware) -> impl Iterator<Item = u32> {
    let mcheck = hw.mcheck();
    let count = usize::try_from(mcheck.packages).unwrap_or(usize::MAX);
    mcheck.package_fms.iter().copied().take(count)
}
