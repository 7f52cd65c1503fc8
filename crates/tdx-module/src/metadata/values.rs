//! Where the value of each global field comes from.

use tdx_abi::metadata::{FieldInfo, SYS_FIELDS};

use crate::generated::cpuid::OFFERS;
use crate::generated::metadata::CONSTANTS;
use crate::hardware::{CpuidRegs, McheckInfo};
use crate::module::Rules;
use crate::platform::cpuid::{self, CpuidOffer, packed};
use crate::profile::Generation;

/// XFAM bits that any module knows.
const XFAM: u64 = 0x6_DBE7;
/// User states among them.
const XFAM_USER: u64 = 0x6_02FF;
/// Supervisor states among them.
const XFAM_SUPERVISOR: u64 = 0x1_FD00;

/// Class of the fields of TDX Connect.
const CLASS_CONNECT: u8 = 0x30;
/// Class of the fields of add-on extensions.
const CLASS_EXTENSIONS: u8 = 0x31;

/// What the platform contributes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) mcheck: &'a McheckInfo,
    pub(crate) cpuid: &'a [CpuidRegs],
}

/// Fields that the module has, in table order.
pub(super) fn fields(rules: &Rules) -> impl Iterator<Item = &'static FieldInfo> {
    let profile = rules.profile;
    SYS_FIELDS.iter().filter(move |info| match (info.name, info.since) {
        // The quote extension is not modelled.
        ("MAX_QUOTE_SIZE", _) => false,
        ("MAX_VCPUS_PER_TD", _) => profile.max_vcpus_per_td.is_some(),
        (_, "connect" | "extensions") => profile.has_connect(),
        (_, "2.0") => profile.generation >= Generation::V2_0,
        _ => true,
    })
}

/// Fields of TDX Connect and of add-on extensions are there once a host opted into TDX Connect. A
/// module without Connect has one of them, and it is always 0.
pub(super) fn needs_opt_in(info: &FieldInfo, rules: &Rules) -> bool {
    rules.profile.has_connect() && (info.id.class() == CLASS_CONNECT || info.id.class() == CLASS_EXTENSIONS)
}

/// Values of all elements of a field; missing ones are 0.
pub(super) fn of(info: &FieldInfo, rules: &Rules, facts: &Facts<'_>) -> Box<[u64]> {
    let mut values = values(info.name, rules, facts);
    values.resize(usize::try_from(info.element_count()).unwrap_or_default(), 0);
    values.into_boxed_slice()
}

fn values(name: &str, rules: &Rules, facts: &Facts<'_>) -> Vec<u64> {
    let profile = rules.profile;
    let one = match name {
        "NUM_PKGS" => u64::from(facts.mcheck.packages),
        "BUILD_DATE" => u64::from(rules.build_date),
        "BUILD_NUM" => u64::from(rules.build_num),
        "MINOR_VERSION" => u64::from(rules.version.minor),
        "MAJOR_VERSION" => u64::from(rules.version.major),
        "UPDATE_VERSION" => u64::from(rules.version.update),
        "INTERNAL_VERSION" => u64::from(profile.internal_version),
        "MODULE_HV" => u64::from(rules.sigstruct.module_hv),
        "MIN_UPDATE_HV" => u64::from(rules.sigstruct.min_update_hv),
        "NO_DOWNGRADE" => u64::from(rules.sigstruct.no_downgrade),
        "NUM_HANDOFF_PAGES" => u64::from(rules.sigstruct.pages),
        "TDX_FEATURES0" => rules.features0.bits(),
        "XFAM_FIXED0" => xfam(facts.cpuid),
        "NUM_CPUID_CONFIG" => u64::try_from(offers(rules).count()).unwrap_or_default(),
        "MAX_VCPUS_PER_TD" => u64::from(profile.max_vcpus_per_td.unwrap_or_default()),
        "NUM_ALLOWED_FMS" => u64::try_from(allowed_fms(facts.mcheck).len()).unwrap_or_default(),
        "TDX_CONNECT_FEATURES" if !profile.has_connect() => 0,
        "IDE_MT_PAGE_COUNT" => u64::from(rules.connect.ide_mt_pages),
        "SPDM_MT_PAGE_COUNT" => u64::from(rules.connect.spdm_mt_pages),
        "IOMMU_MT_PAGE_COUNT" => u64::from(rules.connect.iommu_mt_pages),
        "SPDM_MAX_DEV_INFO_PAGES" => u64::from(rules.connect.max_dev_info_pages),
        "EXT_REQUIRED" => u64::from(rules.connect.ext_required),
        "PKG_FMS" => return fms(facts.mcheck).collect(),
        "ALLOWED_FMS" => return allowed_fms(facts.mcheck),
        "CMR_BASE" => return facts.mcheck.cmrs.iter().map(|cmr| cmr.base).collect(),
        "CMR_SIZE" => return facts.mcheck.cmrs.iter().map(|cmr| cmr.size).collect(),
        "CPUID_CONFIG_LEAVES" => {
            return offers(rules).map(|offer| packed(offer.leaf, offer.subleaf)).collect();
        }
        "CPUID_CONFIG_VALUES" => {
            return offers(rules)
                .flat_map(|offer| {
                    let [eax, ebx, ecx, edx] = offer.direct;
                    [packed(eax, ebx), packed(ecx, edx)]
                })
                .collect();
        }
        _ => constant(name, rules.real_features),
    };
    vec![one]
}

fn constant(name: &str, real: bool) -> u64 {
    CONSTANTS
        .iter()
        .find(|constant| constant.name == name)
        .map_or(0, |constant| if real { constant.value } else { constant.reported })
}

/// Configurable CPUID of the profile.
pub(crate) fn offers(rules: &Rules) -> impl Iterator<Item = &'static CpuidOffer> {
    OFFERS.iter().take(rules.profile.cpuid_configs)
}

/// CPUID.1.EAX of each package.
fn fms(mcheck: &McheckInfo) -> impl Iterator<Item = u64> {
    let packages = usize::try_from(mcheck.packages).unwrap_or(usize::MAX);
    mcheck.package_fms.iter().take(packages).map(|&fms| u64::from(fms))
}

/// The different ones among them.
fn allowed_fms(mcheck: &McheckInfo) -> Vec<u64> {
    let mut allowed: Vec<u64> = fms(mcheck).collect();
    allowed.sort_unstable();
    allowed.dedup();
    allowed
}

/// Extended states that CPU and module know.
fn xfam(cpuid: &[CpuidRegs]) -> u64 {
    let user = cpuid::sampled(cpuid, 0xD, 0);
    let supervisor = cpuid::sampled(cpuid, 0xD, 1);
    let states =
        packed(user.eax, user.edx) & XFAM_USER | packed(supervisor.ecx, supervisor.edx) & XFAM_SUPERVISOR;
    states & XFAM
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_constant_is_the_value_of_a_field() {
        let known: BTreeSet<_> = SYS_FIELDS.iter().map(|info| info.name).collect();
        for constant in CONSTANTS {
            assert!(known.contains(constant.name), "{}", constant.name);
            assert_eq!(constant.value & constant.reported, constant.reported, "{}", constant.name);
        }
    }
}
