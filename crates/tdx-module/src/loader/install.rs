//! SEAMLDR.INSTALL: the rows of `spec/checks.toml` in their order. Those about the image itself
//! are in `accept`, for the firmware's own LOAD asks the same.
//!
//! Every LP calls once. The first makes the module unreachable, the last one replaces it.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tdx_abi::seamldr::{
    MAX_MODULE_PAGES, SCENARIO_LOAD, SCENARIO_UPDATE, SEAMLDR_PARAMS_SIZE, SeamldrParams,
};
use tdx_abi::status::SeamldrStatus;
use tdx_abi::{KeyId, PAGE_SIZE, PhysAddr};
use tdx_image::Sigstruct;
use tdx_image::verify::Signer;
use zerocopy::{FromZeros, IntoBytes};

use super::accept::{self, LoadError};
use super::config::{GenerationRules, OtherLine};
use super::session::Session;
use super::{Loader, SeamExtend, State, address_space, release, signed, x2apic_id};
use crate::hardware::{Hardware, LpIndex, MachineCheck, RandomUse};
use crate::module::{Module, ModuleConfig};
use crate::profile::Svn;

/// Why the last LP did not replace the module.
enum Failure {
    /// Before row 23: the old module is still there.
    Recoverable(SeamldrStatus),
    /// From row 23 on: no module.
    Unrecoverable(SeamldrStatus),
    /// Poison in the parameters or in the image.
    MachineCheck(MachineCheck),
}

impl From<SeamldrStatus> for Failure {
    fn from(status: SeamldrStatus) -> Self {
        Self::Recoverable(status)
    }
}

impl From<MachineCheck> for Failure {
    fn from(check: MachineCheck) -> Self {
        Self::MachineCheck(check)
    }
}

/// RDX after a failure.
const RECOVERABLE: u64 = 0;
const UNRECOVERABLE: u64 = 1;

/// SEAMLDR_PARAMS behind rows 8 and 9.
struct Params {
    is_update: bool,
    sigstruct: (PhysAddr, KeyId),
    pages: Vec<(PhysAddr, KeyId)>,
}

/// The call of one LP; status and RDX.
pub(super) fn run(
    loader: &Loader,
    hw: &dyn Hardware,
    lp: LpIndex,
    state: &mut State,
    reachable: &ArcSwapOption<Module>,
    rcx: u64,
) -> Result<(SeamldrStatus, u64), MachineCheck> {
    let id = x2apic_id(hw, lp);
    // SEAMLDR.INSTALL-1
    if id >= loader.config.x2apic_limit {
        return Ok((SeamldrStatus::EUNSPECERR, RECOVERABLE));
    }
    // SEAMLDR.INSTALL-2
    if state.shutdown.has_begun() {
        return Ok((SeamldrStatus::EBADCALL, RECOVERABLE));
    }
    // SEAMLDR.INSTALL-3: the other flow is CLEANUP, which only those loaders offer that have this
    // check.
    if state.cleanup.is_some() {
        return Ok((SeamldrStatus::EBADCALL, RECOVERABLE));
    }
    let total_lps = hw.mcheck().total_lps;
    // SEAMLDR.INSTALL-5
    let session = state.session.get_or_insert_with(|| {
        reachable.store(None);
        let snapshot = state.seamextend;
        state.seamextend.seam_ready = false;
        Session::new(snapshot)
    });
    // SEAMLDR.INSTALL-4: the first LP of a session has not called in it.
    if !session.called.insert(id) {
        return Ok((SeamldrStatus::EBADCALL, RECOVERABLE));
    }
    // SEAMLDR.INSTALL-6
    if state.has_vmcs {
        session.vmcs_cleared += 1;
    }
    // SEAMLDR.INSTALL-7
    if session.called.count() != total_lps {
        return Ok((SeamldrStatus::SUCCESS, RECOVERABLE));
    }
    let snapshot = session.snapshot;
    state.session = None;
    state.knows_packages = true;
    match replace(loader, hw, lp, state, snapshot, rcx) {
        Ok(()) => {
            reachable.store(state.installed.clone());
            Ok((SeamldrStatus::SUCCESS, RECOVERABLE))
        }
        Err(Failure::Recoverable(status)) => {
            state.seamextend = snapshot;
            if snapshot.seam_ready {
                reachable.store(state.installed.clone());
            }
            Ok((status, RECOVERABLE))
        }
        Err(Failure::Unrecoverable(status)) => {
            state.seamextend = SeamExtend::NONE;
            state.installed = None;
            Ok((status, UNRECOVERABLE))
        }
        Err(Failure::MachineCheck(check)) => Err(check),
    }
}

/// What the last LP does.
fn replace(
    loader: &Loader,
    hw: &dyn Hardware,
    lp: LpIndex,
    state: &mut State,
    old: SeamExtend,
    rcx: u64,
) -> Result<(), Failure> {
    let rules = loader.config.generation.rules();
    let params = params(hw, lp, rules, old, rcx)?;
    let mut sigstruct = Sigstruct::new_zeroed();
    hw.read(params.sigstruct.0, params.sigstruct.1, sigstruct.as_mut_bytes())?;
    let config = &loader.config;
    let refused = |error: LoadError| error.status(rules);
    let signer = accept::signer(config, &sigstruct).map_err(refused)?;
    may_follow(rules, state, old, &params, signed::svn(&sigstruct))?;
    let pages = u32::try_from(params.pages.len()).unwrap_or(u32::MAX);
    accept::fits(config, hw, &sigstruct, pages).map_err(refused)?;
    // Row 28.
    let intel = match signer {
        Signer::Intel => Some(release::of_intel(&sigstruct, config.unknown_release).map_err(refused)?),
        Signer::TdxhostTestKey => None,
    };
    // SEAMLDR.INSTALL-19
    hw.random_for(lp, RandomUse::AddressOffset).ok_or(SeamldrStatus::ENOENTROPY)?;
    accept::has_room(config, hw, lp, &sigstruct).map_err(refused)?;
    // Modules of TDX 1.0 leave nothing behind and take nothing over.
    let hands_over = params.is_update && rules.keeps_log && sigstruct.svn().major != 0;
    let handoff = if hands_over { Some(check_handoff(state, &sigstruct)?) } else { None };

    // SEAMLDR.INSTALL-23
    state.installed = None;
    let mut image = vec![0; params.pages.len() * PAGE_BYTES];
    for (bytes, &(pa, key)) in image.chunks_exact_mut(PAGE_BYTES).zip(&params.pages) {
        hw.read(pa, key, bytes)?;
    }
    let lost = |error: LoadError| Failure::Unrecoverable(error.status(rules));
    accept::is_intact(config, &sigstruct, &image).map_err(lost)?;
    let template = loader.template.as_ref();
    let (module, note) = match intel {
        Some((profile, note)) => (release::configure(profile, &sigstruct, template), note),
        None => (release::of_test_key(&image, &sigstruct, template).map_err(lost)?, None),
    };
    if rules.keeps_log {
        if !hands_over {
            state.remaining_updates = config.log_capacity();
        }
        // SEAMLDR.INSTALL-26
        hw.random_for(lp, RandomUse::LogEntry).ok_or(Failure::Unrecoverable(SeamldrStatus::ENOENTROPY))?;
        state.remaining_updates = state.remaining_updates.saturating_sub(1);
    }
    // SEAMLDR.INSTALL-27
    state.installed = Some(Arc::new(fresh(&module, handoff.as_deref())));
    state.has_vmcs = true;
    state.seamextend = SeamExtend::ready(signed::svn(&sigstruct), *sigstruct.seamhash());
    if rules.cleans_up {
        state.dirty = Some(signed::svn(&sigstruct));
    }
    if let Some(note) = note {
        hw.note(lp, note);
    }
    Ok(())
}

const PAGE_BYTES: usize = 4096;
const _: () = assert!(PAGE_BYTES as u64 == PAGE_SIZE);

/// A new instance, with the hand-off area of the one before.
fn fresh(config: &ModuleConfig, before: Option<&Module>) -> Module {
    let module = Module::new(config);
    if let Some(before) = before {
        module.handoff.region().copy_from(&before.handoff.region());
    }
    module
}

fn params(
    hw: &dyn Hardware,
    lp: LpIndex,
    rules: &GenerationRules,
    old: SeamExtend,
    rcx: u64,
) -> Result<Params, Failure> {
    let bad = SeamldrStatus::EBADPARAM;
    // SEAMLDR.INSTALL-8
    let space = address_space(hw, lp).ok_or(bad)?;
    let (pa, key) = space.shared(rcx, SEAMLDR_PARAMS_SIZE).ok_or(bad)?;
    let mut raw = SeamldrParams::new_zeroed();
    hw.read(pa, key, raw.as_mut_bytes())?;
    // SEAMLDR.INSTALL-9a
    if raw.version.get() != 0 {
        return Err(bad.into());
    }
    // SEAMLDR.INSTALL-9b
    if raw.reserved_16 != [0; 104] {
        return Err(bad.into());
    }
    // SEAMLDR.INSTALL-9c
    let scenario = raw.scenario.get();
    if scenario != SCENARIO_LOAD && scenario != SCENARIO_UPDATE {
        return Err(bad.into());
    }
    let is_update = scenario == SCENARIO_UPDATE;
    // SEAMLDR.INSTALL-9d
    let count = usize::try_from(raw.num_module_pages.get()).map_err(|_| bad)?;
    if !(rules.fewest_pages..=MAX_MODULE_PAGES).contains(&count) {
        return Err(bad.into());
    }
    let page = |raw: u64| space.shared(raw, PAGE_SIZE);
    // SEAMLDR.INSTALL-9e
    let pages = raw.module_pages.iter().take(count).map(|pa| page(pa.get())).collect::<Option<_>>();
    let pages = pages.ok_or(bad)?;
    // SEAMLDR.INSTALL-9f
    let sigstruct = page(raw.sigstruct_pa.get()).ok_or(bad)?;
    // SEAMLDR.INSTALL-9g
    if is_update && !old.present {
        return Err(bad.into());
    }
    Ok(Params { is_update, sigstruct, pages })
}

/// Rows 14 and 15: it may follow the module that is there, or whose traces are.
fn may_follow(
    rules: &GenerationRules,
    state: &State,
    old: SeamExtend,
    params: &Params,
    svn: Svn,
) -> Result<(), SeamldrStatus> {
    // SEAMLDR.INSTALL-14
    if params.is_update {
        follows(rules.other_line, old.svn, svn)?;
    }
    // SEAMLDR.INSTALL-15
    if !params.is_update && state.dirty.is_some_and(|dirty| follows(rules.other_line, dirty, svn).is_err()) {
        return Err(SeamldrStatus::ECLEANUPREQ);
    }
    Ok(())
}

/// The SVN rule of an update.
fn follows(rule: OtherLine, old: Svn, new: Svn) -> Result<(), SeamldrStatus> {
    match rule {
        OtherLine::Refused(status) if new.major != old.major => Err(status),
        OtherLine::Refused(_) if new.minor < old.minor => Err(SeamldrStatus::EBADSIG),
        OtherLine::OneNumber if new.word() < old.word() => Err(SeamldrStatus::EBADSIG),
        _ => Ok(()),
    }
}

/// Rows 21 and 22. The instance whose hand-off data the new one gets.
fn check_handoff(state: &State, new: &Sigstruct) -> Result<Arc<Module>, SeamldrStatus> {
    // SEAMLDR.INSTALL-21
    if state.remaining_updates == 0 {
        return Err(SeamldrStatus::EBADCALL);
    }
    let bad = SeamldrStatus::EBADHANDOFF;
    let old = state.installed.clone().ok_or(bad)?;
    let region = old.handoff.region();
    let header = region.header();
    // SEAMLDR.INSTALL-22a
    let valid = header.valid;
    // SEAMLDR.INSTALL-22b
    let fits = header.total() <= region.capacity();
    // SEAMLDR.INSTALL-22c
    let taken = (new.min_update_handoff_version()..=new.module_handoff_version()).contains(&header.version);
    drop(region);
    if valid && fits && taken { Ok(old) } else { Err(bad) }
}
