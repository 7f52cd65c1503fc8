//! Releases of the TDX module as data.
//!
//! The facts are in `spec/releases.toml`. `1.0` is 1.0.01, the last release that refuses a host
//! with TSX turned off, and `1.0.03` its successor; then come the published releases of 1.5 and 2.0.
//!
//! Two profiles are synthetic. `connect` (2.1.00) is 2.0.18 with what no published module has: TDX
//! Connect, add-on extensions and SYS.DISABLE. Its feature word has the bits TDX_CONNECT, EXT and
//! SYS_DISABLE besides those of 2.0.18; SYS.CONFIG version 1 opts into the first two, and the
//! metadata of Connect and of extensions appears with the opt-in of TDX_CONNECT. What it takes for them
//! ([`ConnectSizes`]) is assumed. `connect-clock` is the same module as its first hosts knew it: it
//! wants a wall clock in R11 of that call and refuses 0 (OPERAND_INVALID|R11).

use std::fmt;

use tdx_abi::features::Features0;
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::seamldr::Version;

use crate::checks::Switch;
use crate::generated::releases::RELEASES;
use crate::module::MODELLED_LEAVES;

/// A line of releases that share a dispatcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Generation {
    /// TDX 1.0: no version field in RAX, no metadata, no update.
    V1_0,
    /// TDX 1.5.
    V1_5,
    /// TDX 2.0: knows the numbers of the TDX Connect leaves.
    V2_0,
}

/// Security version of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Svn {
    /// Changes when an update cannot keep TDs; 0 in TDX 1.0.
    pub major: u8,
    /// Changes with security fixes.
    pub minor: u8,
}

impl Svn {
    /// The 16-bit word of TCB_SVN: minor in the low byte, major in the high one.
    pub const fn word(self) -> u16 {
        u16::from_le_bytes([self.minor, self.major])
    }
}

/// Hand-off facts that a module was built with, and that its SIGSTRUCT repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandoffVersions {
    /// Highest hand-off version that the module writes and reads.
    pub module_hv: u16,
    /// Lowest hand-off version that it accepts.
    pub min_update_hv: u16,
    /// Only exactly `module_hv` is accepted.
    pub no_downgrade: bool,
    /// Size of the hand-off area in 4 KiB pages, minus one.
    pub pages: u16,
}

/// Which values SYS.INIT wants in the VMX capability MSRs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmxValues {
    /// Those of 1.5.01.
    V1_5_01,
    /// Those of 1.5.05 and later.
    V1_5_05,
}

/// What a module with TDX Connect asks for, in 4 KiB pages. Assumed: no such module was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectSizes {
    /// Pages of a stream object: IDE_MT_PAGE_COUNT.
    pub ide_mt_pages: u16,
    /// Pages of a session object: SPDM_MT_PAGE_COUNT.
    pub spdm_mt_pages: u16,
    /// Single pages of an IOMMU_MT, its two blocks not counted: IOMMU_MT_PAGE_COUNT.
    pub iommu_mt_pages: u16,
    /// Most pages of device information: SPDM_MAX_DEV_INFO_PAGES.
    pub max_dev_info_pages: u16,
    /// Memory pool of the extensions: MEMORY_POOL_REQUIRED_PAGES before any was given.
    pub pool_pages: u32,
    /// Leaves that need the extension work behind TDH.EXT.INIT only: EXT_REQUIRED.
    pub ext_required: bool,
}

impl ConnectSizes {
    /// A module without TDX Connect.
    pub const NONE: Self = Self {
        ide_mt_pages: 0,
        spdm_mt_pages: 0,
        iommu_mt_pages: 0,
        max_dev_info_pages: 0,
        pool_pages: 0,
        ext_required: false,
    };
}

/// A set of leaf numbers up to 191.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafSet([u64; 3]);

impl LeafSet {
    pub(crate) const fn new(words: [u64; 3]) -> Self {
        Self(words)
    }

    /// True if the number is in the set.
    pub fn contains(self, leaf: SeamcallLeaf) -> bool {
        self.0.get(usize::from(leaf.0 / 64)).is_some_and(|word| word >> (leaf.0 % 64) & 1 != 0)
    }

    /// The numbers, ascending.
    pub fn iter(self) -> impl Iterator<Item = SeamcallLeaf> {
        (0..192).map(SeamcallLeaf).filter(move |&leaf| self.contains(leaf))
    }
}

/// One release of the TDX module.
///
/// Values that no source gives were taken from the nearest release; `assumed` names them.
#[derive(Debug, PartialEq, Eq)]
pub struct Profile {
    /// Name by which it is chosen, such as "1.5.06" or "connect".
    pub name: &'static str,
    /// The line it belongs to.
    pub generation: Generation,
    /// Version.
    pub version: Version,
    /// Build date, BCD yyyymmdd.
    pub build_date: u32,
    /// Build counter.
    pub build_num: u16,
    /// Internal version counter.
    pub internal_version: u16,
    /// Security version.
    pub svn: Svn,
    /// SHA-384 of the image, which is MRSEAM.
    pub seamhash: [u8; 48],
    /// TDX_FEATURES0 as the release reports it; none in TDX 1.0.
    pub features0: Features0,
    /// Hand-off facts.
    pub handoff: HandoffVersions,
    /// CPUID.1.EAX values of the SIGSTRUCT table (stepping ignored).
    pub cpus: &'static [u32],
    /// Leaves that its dispatcher handles.
    pub leaves: LeafSet,
    /// Leaves that take a version above 0.
    pub versions: LeafSet,
    /// Entries of the CPUID table that SYS.INIT checks.
    pub cpuid_entries: usize,
    /// Configurable CPUID leaves reported.
    pub cpuid_configs: usize,
    /// Which VMX values apply.
    pub vmx_values: VmxValues,
    /// VCPU limit; `None` where the field does not exist.
    pub max_vcpus_per_td: Option<u16>,
    /// Rows that it has and others have not.
    pub rows: &'static [&'static str],
    /// What TDX Connect and the extensions take, if it has them.
    pub connect: Option<ConnectSizes>,
    /// Names of the values that are assumed.
    pub assumed: &'static [&'static str],
    /// True if no such module was ever published.
    pub synthetic: bool,
}

impl Profile {
    /// Leaves of the release that this crate does not model: they answer like unknown numbers.
    pub fn not_modelled(&self) -> impl Iterator<Item = SeamcallLeaf> {
        self.leaves.iter().filter(|leaf| !MODELLED_LEAVES.contains(leaf))
    }

    pub(crate) fn has(&self, switch: Switch) -> bool {
        Switch::ALL.iter().any(|&(id, row)| row == switch && self.rows.contains(&id))
    }

    /// True if the module speaks the TDX Connect interface.
    pub fn has_connect(&self) -> bool {
        self.features0.contains(Features0::TDX_CONNECT)
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Every profile: TDX 1.0, the published releases, the synthetic ones.
pub fn all() -> impl Iterator<Item = &'static Profile> {
    RELEASES.iter()
}

/// The profile with this name.
pub fn find(name: &str) -> Option<&'static Profile> {
    all().find(|profile| profile.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for profile in all() {
            assert!(find(profile.name).is_some_and(|found| std::ptr::eq(found, profile)), "{profile}");
        }
        assert_eq!(find("1.5.02"), None);
    }

    #[test]
    fn twenty_published_releases_two_of_tdx_1_0_and_two_synthetic_ones() {
        let count = |generation, synthetic| {
            all().filter(|one| one.generation == generation && one.synthetic == synthetic).count()
        };
        assert_eq!(count(Generation::V1_0, false), 2);
        assert_eq!(count(Generation::V1_5, false) + count(Generation::V2_0, false), 20);
        assert_eq!(all().filter(|one| one.synthetic).count(), 2);
    }

    #[test]
    fn leaf_sets_follow_the_dispatchers() {
        let old = find("1.0").expect("a profile");
        assert!(old.leaves.contains(SeamcallLeaf::SYS_INFO));
        assert!(!old.leaves.contains(SeamcallLeaf::SYS_RD));
        let newer = find("1.5.28").expect("a profile");
        assert!(newer.versions.contains(SeamcallLeaf::SYS_CONFIG));
        assert!(!find("1.5.16").expect("a profile").versions.contains(SeamcallLeaf::SYS_CONFIG));
        assert!(!newer.leaves.contains(SeamcallLeaf::SYS_DISABLE));
        assert!(find("connect").expect("a profile").leaves.contains(SeamcallLeaf::SYS_DISABLE));
        assert!(!newer.leaves.contains(SeamcallLeaf(192)));
        assert!(!newer.leaves.contains(SeamcallLeaf(u16::MAX)));
    }

    #[test]
    fn a_profile_names_its_leaves_that_are_not_modelled() {
        let profile = find("1.5.01").expect("a profile");
        let missing: Vec<_> = profile.not_modelled().collect();
        assert!(missing.contains(&SeamcallLeaf::MNG_CREATE));
        assert!(!missing.contains(&SeamcallLeaf::SYS_CONFIG));
        assert!(!missing.contains(&SeamcallLeaf::SYS_DISABLE), "the release does not have it");
    }

    #[test]
    fn the_security_version_has_the_major_number_in_its_high_byte() {
        assert_eq!(Svn { major: 3, minor: 5 }.word(), 0x0305);
    }

    #[test]
    fn published_hashes_are_those_of_the_release_list() {
        let profile = find("2.0.08").expect("a profile");
        assert_eq!(profile.seamhash[..4], [0x47, 0x6a, 0x29, 0x97]);
        assert!(all().all(|one| (one.seamhash == [0; 48]) == one.assumed.contains(&"seamhash")));
    }
}
