//! Loads the SEAM software that a platform file names.

use tdx_abi::seamldr::Version;
use tdx_module::profile::ConnectSizes;
use tdx_module::{Hardware, LoaderConfig, LoaderGeneration, LpIndex, ModuleConfig, SeamConfig};
use tdx_module::{SeamSoftware, profile};

use crate::board::{Board, LoadedModule};
use crate::fault::Fault;
use crate::spec::{
    Generation, ModuleConnectSpec, ModuleSpec, PlatformSpec, SpecIssue, UnknownRelease, parse_version,
};

/// Profile of the fault `module-1.0`.
const PROFILE_1_0: &str = "1.0";

/// Refuses a profile or a switch that the module crate does not know.
pub(crate) fn check_module(spec: &ModuleSpec) -> Result<(), SpecIssue> {
    configure(spec, &spec.profile).map(drop)
}

fn configure(spec: &ModuleSpec, name: &str) -> Result<ModuleConfig, SpecIssue> {
    let profile = profile::find(name).ok_or_else(|| SpecIssue::UnknownProfile {
        profile: name.to_owned(),
        known: profile::all().map(|profile| profile.name).collect::<Vec<_>>().join(", "),
    })?;
    let mut config = ModuleConfig::new(profile);
    config.real_features = spec.real_features;
    config.build_num = spec.build.unwrap_or(config.build_num);
    config.build_date = spec.build_date.map_or(config.build_date, bcd);
    config.connect = connect_sizes(&spec.connect, config.connect)?;
    for (row, &on) in &spec.switches {
        config.set_switch(row, on).map_err(|unknown| SpecIssue::UnknownSwitch { row: unknown.id })?;
    }
    Ok(config)
}

/// Most pages of an object that one list of pages names; that of an IOMMU unit has two blocks beside them.
const MAX_LIST: u16 = 512;

/// What TDX Connect asks for; refuses objects that no list of pages could bring.
fn connect_sizes(spec: &ModuleConnectSpec, release: ConnectSizes) -> Result<ConnectSizes, SpecIssue> {
    for (key, pages, least, most) in [
        ("ide_mt", spec.ide_mt, 1, MAX_LIST),
        ("spdm_mt", spec.spdm_mt, 1, MAX_LIST),
        ("iommu_mt", spec.iommu_mt, 0, MAX_LIST - 2),
        ("spdm_max_dev_info_pages", spec.spdm_max_dev_info_pages, 1, MAX_LIST),
    ] {
        if let Some(pages) = pages.filter(|pages| !(least..=most).contains(pages)) {
            return Err(SpecIssue::ConnectPages { key, pages, least, most });
        }
    }
    Ok(ConnectSizes {
        ide_mt_pages: spec.ide_mt.unwrap_or(release.ide_mt_pages),
        spdm_mt_pages: spec.spdm_mt.unwrap_or(release.spdm_mt_pages),
        iommu_mt_pages: spec.iommu_mt.unwrap_or(release.iommu_mt_pages),
        max_dev_info_pages: spec.spdm_max_dev_info_pages.unwrap_or(release.max_dev_info_pages),
        pool_pages: spec.pool_pages.unwrap_or(release.pool_pages),
        ext_required: spec.ext_required.unwrap_or(release.ext_required),
    })
}

/// P-SEAMLDR and module as they are after power-on.
pub(crate) fn load(board: &Board) -> SeamSoftware {
    let spec = board.spec();
    let software = SeamSoftware::new(SeamConfig { module: module(board, spec), loader: loader(spec) });
    board.active_faults().iter().for_each(|fault| apply(fault, &software));
    software
}

/// Sets what a fault changes inside the SEAM software.
pub(crate) fn apply(fault: &Fault, software: &SeamSoftware) {
    match *fault {
        Fault::TdBuildInProgress { count } => software.set_td_builds(count),
        Fault::InterruptedMigrations { count } => software.set_interrupted_migrations(count),
        _ => {}
    }
}

/// The module of an update image; refuses one that the firmware would not load.
pub(crate) fn from_image(board: &Board, file: &[u8]) -> Result<LoadedModule, SpecIssue> {
    let spec = board.spec();
    if !spec.cpu.kind.has_tdx() {
        return Err(SpecIssue::ModuleWithoutTdx);
    }
    // What the platform file asks for beside the release holds for whatever is loaded.
    let template = configure(&spec.module, &spec.module.profile)?;
    let (config, note) = ModuleConfig::from_image(file, &loader(spec), board, Some(&template))
        .map_err(|error| SpecIssue::ModuleImage(Box::new(error)))?;
    Ok(LoadedModule { config, note })
}

fn module(board: &Board, spec: &PlatformSpec) -> Option<ModuleConfig> {
    let has_one = spec.module.present || board.module().is_some();
    if !has_one || board.has_fault(&Fault::ModuleMissing) {
        return None;
    }
    let mut config = if board.has_fault(&Fault::Module10) {
        configure(&spec.module, PROFILE_1_0).ok()?
    } else if let Some(LoadedModule { config, note }) = board.module() {
        if let Some(note) = note {
            board.note(LpIndex(0), *note);
        }
        config.clone()
    } else {
        configure(&spec.module, &spec.module.profile).ok()?
    };
    if board.has_fault(&Fault::NoRbpModMissing) {
        config.withheld = tdx_abi::features::Features0::NO_RBP_MOD;
    }
    Some(config)
}

fn loader(spec: &PlatformSpec) -> LoaderConfig {
    let seamldr = &spec.seamldr;
    let (major, minor, update) = parse_version(&seamldr.version).unwrap_or_default();
    let version = Version::new(major, minor, update);
    LoaderConfig {
        version,
        generation: seamldr.generation.map_or_else(|| LoaderGeneration::of(version), Generation::loader),
        build: seamldr.build,
        build_date: bcd(seamldr.build_date),
        remaining_updates: seamldr.remaining_updates,
        x2apic_limit: seamldr.x2apic_limit,
        acm_x2apic_id: spec.cpu.x2apic_id(0, 0, 0).unwrap_or(0),
        check_signatures: seamldr.signature_checks,
        trust_test_key: seamldr.trust_test_key,
        debug_unlocked: seamldr.debug_unlocked,
        unknown_release: match seamldr.unknown_release {
            UnknownRelease::Nearest => tdx_module::UnknownRelease::Nearest,
            UnknownRelease::Refuse => tdx_module::UnknownRelease::Refuse,
        },
    }
}

/// Decimal digits as binary coded decimal, the form of dates in SEAMLDR_INFO.
pub(crate) fn bcd(number: u32) -> u32 {
    (0..8).fold(0, |all, digit| all | (number / 10u32.pow(digit) % 10) << (4 * digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_coded_digit_by_digit() {
        assert_eq!(bcd(20250131), 0x2025_0131);
    }
}
