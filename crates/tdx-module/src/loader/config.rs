//! What the P-SEAMLDR of a machine is, and what its generation decides.

use tdx_abi::seamldr::Version;
use tdx_abi::status::SeamldrStatus;
use tdx_image::SigstructRules;

/// What the P-SEAMLDR of a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderConfig {
    /// Its version.
    pub version: Version,
    /// Which checks it makes; normally those of its version.
    pub generation: LoaderGeneration,
    /// Build date, BCD yyyymmdd.
    pub build_date: u32,
    /// Build counter.
    pub build: u16,
    /// Updates that its log takes after a LOAD, which takes one place itself. A loader of TDX 1.0
    /// keeps no such log and reports 0.
    pub remaining_updates: u32,
    /// x2APIC ids at or above this are refused by leaves that every LP must call.
    pub x2apic_limit: u32,
    /// x2APIC id of the LP on which the loader was launched.
    pub acm_x2apic_id: u32,
    /// Hash images and verify their signatures. Without it images are believed: for benches that
    /// measure something else.
    pub check_signatures: bool,
    /// Take images that are signed with the project's test key as well as Intel's.
    pub trust_test_key: bool,
    /// The machine is debug unlocked: debug signed modules are taken.
    pub debug_unlocked: bool,
    /// What to make of an Intel-signed image whose release no profile describes.
    pub unknown_release: UnknownRelease,
}

impl LoaderConfig {
    /// A P-SEAMLDR of this version, with the checks of its generation. Build date and number are
    /// assumed.
    pub fn new(version: Version) -> Self {
        Self {
            version,
            generation: LoaderGeneration::of(version),
            build_date: 0x2024_0812,
            build: 0,
            remaining_updates: 31,
            x2apic_limit: 1024,
            acm_x2apic_id: 0,
            check_signatures: true,
            trust_test_key: true,
            debug_unlocked: false,
            unknown_release: UnknownRelease::Nearest,
        }
    }

    /// Updates that it reports as left.
    pub fn updates_left(&self) -> u32 {
        if self.generation.rules().keeps_log { self.remaining_updates } else { 0 }
    }

    /// Places of the log, that of the LOAD included.
    pub(super) const fn log_capacity(&self) -> u32 {
        self.remaining_updates.saturating_add(1)
    }
}

impl Default for LoaderConfig {
    /// A P-SEAMLDR 1.5 as the newest public source shows it.
    fn default() -> Self {
        Self::new(Version::new(1, 5, 0))
    }
}

/// Sources of P-SEAMLDR that differ in what INSTALL checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LoaderGeneration {
    /// 1.0.01.01: TDX 1.0 only, no hand-off, no log.
    V1_0,
    /// 1.5 before 1.5.02.
    V1_5,
    /// 1.5.02.
    V1_5_02,
    /// 2.0. No source is public: 1.5.02, but for the version bytes of a 2.0 SIGSTRUCT.
    V2_0,
}

impl LoaderGeneration {
    /// Every generation, oldest first.
    pub const ALL: [Self; 4] = [Self::V1_0, Self::V1_5, Self::V1_5_02, Self::V2_0];

    /// The generation that a version belongs to. SEAMLDR_INFO cannot tell the two of 1.5 apart, so
    /// that the newer one is taken.
    pub const fn of(version: Version) -> Self {
        match version {
            Version { major: 0, .. } | Version { major: 1, minor: 0..5, .. } => Self::V1_0,
            Version { major: 1, .. } => Self::V1_5_02,
            _ => Self::V2_0,
        }
    }

    pub(super) const fn rules(self) -> &'static GenerationRules {
        match self {
            Self::V1_0 => &V1_0,
            Self::V1_5 => &V1_5,
            Self::V1_5_02 => &V1_5_02,
            Self::V2_0 => &V2_0,
        }
    }
}

/// What to make of an Intel-signed image whose hash no profile has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownRelease {
    /// Play the newest known release with the same major and a lower or equal minor SVN, and say so.
    #[default]
    Nearest,
    /// Refuse it.
    Refuse,
}

/// What INSTALL says to a module of another line in UPDATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OtherLine {
    /// The SVN is one number, which must not fall.
    OneNumber,
    /// The major SVN must be equal, else this.
    Refused(SeamldrStatus),
}

/// The points in which the generations differ.
#[derive(Debug)]
pub(super) struct GenerationRules {
    /// Fields that the SIGSTRUCT must have.
    pub(super) sigstruct: SigstructRules,
    /// UPDATE with hand-off data, and a log of the modules since the last LOAD.
    pub(super) keeps_log: bool,
    /// Fewest module pages.
    pub(super) fewest_pages: usize,
    /// What a production module without a CPU table gets, if it is refused.
    pub(super) no_cpu_table: Option<SeamldrStatus>,
    /// What a module of TDX 1.0, whose major SVN is 0, gets, if it is refused.
    pub(super) module_of_1_0: Option<SeamldrStatus>,
    /// A module of another line in UPDATE.
    pub(super) other_line: OtherLine,
    /// INSTALL, SHUTDOWN and CLEANUP refuse to begin while another of them is under way.
    pub(super) one_flow: bool,
    /// Offers CLEANUP, and remembers that keys and caches of the module before are dirty.
    pub(super) cleans_up: bool,
}

const V1_0: GenerationRules = GenerationRules {
    sigstruct: SigstructRules::Loader1_0,
    keeps_log: false,
    fewest_pages: 0,
    no_cpu_table: None,
    module_of_1_0: None,
    other_line: OtherLine::OneNumber,
    one_flow: false,
    cleans_up: false,
};

const V1_5: GenerationRules = GenerationRules {
    sigstruct: SigstructRules::Loader1_5,
    keeps_log: true,
    no_cpu_table: Some(SeamldrStatus::EBADSIG),
    other_line: OtherLine::Refused(SeamldrStatus::EBADCALL),
    ..V1_0
};

const V1_5_02: GenerationRules = GenerationRules {
    sigstruct: SigstructRules::Loader1_5_02,
    fewest_pages: 1,
    module_of_1_0: Some(SeamldrStatus::EUNSUPPORTED),
    other_line: OtherLine::Refused(SeamldrStatus::EUNSUPPORTED),
    one_flow: true,
    cleans_up: true,
    ..V1_5
};

const V2_0: GenerationRules = GenerationRules { sigstruct: SigstructRules::Loader2_0, ..V1_5_02 };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_belongs_to_a_generation() {
        let of = |major, minor| LoaderGeneration::of(Version::new(major, minor, 0));
        assert_eq!(of(1, 0), LoaderGeneration::V1_0);
        assert_eq!(of(1, 5), LoaderGeneration::V1_5_02);
        assert_eq!(of(2, 0), LoaderGeneration::V2_0);
    }
}
