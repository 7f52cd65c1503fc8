//! SEAMLDR.INFO: what the loader is, and what SEAMEXTEND says of the module.

use tdx_abi::seamldr::{SEAMEXTEND_VALID, SEAMLDR_INFO_SIZE, SeamldrInfo};
use tdx_abi::status::SeamldrStatus;
use zerocopy::{FromZeros, IntoBytes};

use super::{Loader, LoaderConfig, State, address_space};
use crate::hardware::{Hardware, LpIndex};

const VENDOR_INTEL: u32 = 0x8086;
/// Bit of FEATURES0: SEAMLDR.CLEANUP is offered.
const FEATURES0_CLEANUP: u64 = 1 << 1;

pub(super) fn run(loader: &Loader, hw: &dyn Hardware, lp: LpIndex, state: &State, rcx: u64) -> SeamldrStatus {
    // SEAMLDR.INFO-1
    let buffer = address_space(hw, lp).and_then(|space| space.shared(rcx, SEAMLDR_INFO_SIZE));
    let Some((pa, key)) = buffer else {
        return SeamldrStatus::EBADPARAM;
    };
    hw.write(pa, key, info(loader, state).as_bytes());
    SeamldrStatus::SUCCESS
}

fn info(loader: &Loader, state: &State) -> SeamldrInfo {
    let config = &loader.config;
    let mut info = SeamldrInfo::new_zeroed();
    info.vendor_id = VENDOR_INTEL.into();
    info.build_date = config.build_date.into();
    info.build_num = config.build.into();
    info.minor_version = config.version.minor.into();
    info.major_version = config.version.major.into();
    info.update_version = config.version.update.into();
    info.acm_x2apic_id = config.acm_x2apic_id.into();
    let left = LoaderConfig { remaining_updates: state.remaining_updates, ..*config }.updates_left();
    info.num_remaining_updates = left.into();
    info.seam_debug = u8::from(config.debug_unlocked);
    info.p_seam_ready = 1;
    if config.generation.rules().cleans_up {
        info.features0 = FEATURES0_CLEANUP.into();
    }
    let seamextend = &state.seamextend;
    if seamextend.present {
        let disabled = state.installed.as_ref().is_some_and(|module| module.is_disabled());
        info.seamextend_valid = SEAMEXTEND_VALID.into();
        info.tcb_svn = seamextend.svn.word().into();
        info.mrseam = seamextend.seamhash;
        info.seam_ready = u8::from(seamextend.seam_ready && !disabled);
    }
    info
}
