//! SEAMLDR.SHUTDOWN: every LP calls; behind the last one there is no P-SEAMLDR until the NP-SEAMLDR
//! is launched again, which is when power is cycled.

use arc_swap::ArcSwapOption;
use tdx_abi::status::SeamldrStatus;

use super::session::IdBitmap;
use super::{Loader, SeamExtend, State, x2apic_id};
use crate::hardware::{Hardware, LpIndex};
use crate::module::Module;

/// From the first LP that calls SHUTDOWN until power is cycled.
#[derive(Debug, Default)]
pub(super) struct Shutdown {
    called: IdBitmap,
    /// SEAMCALLs do not reach the loader any more.
    pub(super) is_through: bool,
}

impl Shutdown {
    pub(super) const fn has_begun(&self) -> bool {
        self.called() != 0
    }

    /// LPs that called.
    pub(super) const fn called(&self) -> u32 {
        self.called.count()
    }
}

pub(super) fn run(
    loader: &Loader,
    hw: &dyn Hardware,
    lp: LpIndex,
    state: &mut State,
    reachable: &ArcSwapOption<Module>,
) -> SeamldrStatus {
    let id = x2apic_id(hw, lp);
    // SEAMLDR.SHUTDOWN-1
    if id >= loader.config.x2apic_limit {
        return SeamldrStatus::EUNSPECERR;
    }
    let rules = loader.config.generation.rules();
    // SEAMLDR.SHUTDOWN-2
    if rules.one_flow && (state.session.is_some() || state.cleanup.is_some()) {
        return SeamldrStatus::EBADCALL;
    }
    // SEAMLDR.SHUTDOWN-3
    if state.dirty.is_some() {
        return SeamldrStatus::ECLEANUPREQ;
    }
    // An LP that calls again is in the set already.
    state.shutdown.called.insert(id);
    // SEAMLDR.SHUTDOWN-4
    state.seamextend.seam_ready = false;
    reachable.store(None);
    // SEAMLDR.SHUTDOWN-5
    if state.shutdown.called() < hw.mcheck().total_lps {
        return SeamldrStatus::SUCCESS;
    }
    // SEAMLDR.SHUTDOWN-6
    if id != loader.config.acm_x2apic_id {
        return SeamldrStatus::EBADCALL;
    }
    // SEAMLDR.SHUTDOWN-7
    state.seamextend = SeamExtend::NONE;
    state.installed = None;
    state.shutdown.is_through = true;
    SeamldrStatus::SUCCESS
}
