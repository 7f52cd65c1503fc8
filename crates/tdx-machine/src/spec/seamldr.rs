//! The P-SEAMLDR of a platform file.

use serde::{Deserialize, Serialize};
use tdx_module::LoaderGeneration;

/// The P-SEAMLDR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SeamldrSpec {
    /// Version, `major.minor.update`.
    pub version: String,
    /// Whose checks SEAMLDR.INSTALL makes. Those that go with the version if left out; 1.5 is then
    /// 1.5.02.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// Build counter.
    pub build: u16,
    /// Build date, decimal digits yyyymmdd.
    pub build_date: u32,
    /// Module updates that it takes after boot: the places of its log, less the one that the LOAD
    /// at boot took. A loader of TDX 1.0 has no log and reports 0 whatever is said here.
    pub remaining_updates: u32,
    /// Lowest x2APIC id that it refuses.
    pub x2apic_limit: u32,
    /// Hash images and verify their signatures.
    pub signature_checks: bool,
    /// Take images that are signed with the project's test key.
    pub trust_test_key: bool,
    /// The machine is debug unlocked, so that debug signed modules are taken.
    pub debug_unlocked: bool,
    /// What to make of an Intel-signed image of a release that no profile describes.
    pub unknown_release: UnknownRelease,
}

impl Default for SeamldrSpec {
    fn default() -> Self {
        Self {
            version: "2.0.00".to_owned(),
            generation: None,
            build: 1,
            build_date: 20250101,
            remaining_updates: 15,
            x2apic_limit: 1024,
            signature_checks: true,
            trust_test_key: true,
            debug_unlocked: false,
            unknown_release: UnknownRelease::Nearest,
        }
    }
}

/// Sources of P-SEAMLDR that check differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Generation {
    /// 1.0.01.01.
    #[serde(rename = "1.0")]
    V1_0,
    /// 1.5 before 1.5.02.
    #[serde(rename = "1.5")]
    V1_5,
    /// 1.5.02.
    #[serde(rename = "1.5.02")]
    V1_5_02,
    /// 2.0.
    #[serde(rename = "2.0")]
    V2_0,
}

impl Generation {
    pub(crate) const fn loader(self) -> LoaderGeneration {
        match self {
            Self::V1_0 => LoaderGeneration::V1_0,
            Self::V1_5 => LoaderGeneration::V1_5,
            Self::V1_5_02 => LoaderGeneration::V1_5_02,
            Self::V2_0 => LoaderGeneration::V2_0,
        }
    }
}

/// What to make of an Intel-signed image of a release that no profile describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnknownRelease {
    /// Play the nearest lower release of the same line, and say so in the machine's log.
    Nearest,
    /// Refuse it.
    Refuse,
}
