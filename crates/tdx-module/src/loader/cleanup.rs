//! SEAMLDR.CLEANUP: gives the KeyIDs of all modules since power-on new keys and writes their cache
//! lines back, so that any module may follow. TDs and module are lost.
//!
//! Every LP calls once. The work of a package is that of its last LP, which returns EINTERRUPT
//! where an interrupt is pending, and goes on from there when it calls again.

use arc_swap::ArcSwapOption;
use tdx_abi::msr::MsrIndex;
use tdx_abi::status::SeamldrStatus;
use tdx_abi::{KeyId, KeyIdPartitioning};

use super::session::IdBitmap;
use super::{Loader, SeamExtend, State, x2apic_id};
use crate::hardware::{Hardware, LpIndex, PconfigError};
use crate::module::Module;
use crate::platform::encryption;
use crate::profile::Svn;

/// Packages that the loader keeps account of.
const MAX_PACKAGES: usize = 8;

/// From the first LP that calls CLEANUP until the last one is through.
#[derive(Debug)]
pub(super) struct Cleanup {
    /// LPs that are through.
    finished: IdBitmap,
    packages: [Package; MAX_PACKAGES],
}

/// A package, which is a cache domain as well.
#[derive(Clone, Copy, Debug, Default)]
struct Package {
    /// LPs that it has.
    lps: u32,
    /// Those that are through.
    finished: u32,
    keys: Progress,
    caches: Progress,
}

/// How far the work of a package has come.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    is_dirty: bool,
    /// The next KeyID, counted from the first private one, or the next part of the caches.
    next: u32,
}

impl Cleanup {
    /// A session on a machine whose packages are all dirty, or none. The loader learns how many LPs
    /// a package has in the first INSTALL, from MSR 0x35 (MSR_CORE_THREAD_COUNT).
    fn new(hw: &dyn Hardware, is_dirty: bool) -> Self {
        let work = Progress { is_dirty, next: 0 };
        let mut packages = [Package { keys: work, caches: work, ..Package::default() }; MAX_PACKAGES];
        for lp in (0..hw.mcheck().total_lps).map(LpIndex) {
            if let Some(package) = index(hw, lp).and_then(|index| packages.get_mut(index)) {
                package.lps += 1;
            }
        }
        Self { finished: IdBitmap::default(), packages }
    }

    /// LPs that are through.
    pub(super) const fn finished(&self) -> u32 {
        self.finished.count()
    }
}

/// The package of an LP, if it has one that the loader keeps account of.
fn index(hw: &dyn Hardware, lp: LpIndex) -> Option<usize> {
    let index = usize::try_from(hw.lp(lp)?.package.0).ok()?;
    (index < MAX_PACKAGES).then_some(index)
}

pub(super) fn run(
    loader: &Loader,
    hw: &dyn Hardware,
    lp: LpIndex,
    state: &mut State,
    reachable: &ArcSwapOption<Module>,
) -> SeamldrStatus {
    match call(loader, hw, lp, state, reachable) {
        Ok(()) => SeamldrStatus::SUCCESS,
        Err(status) => status,
    }
}

fn call(
    loader: &Loader,
    hw: &dyn Hardware,
    lp: LpIndex,
    state: &mut State,
    reachable: &ArcSwapOption<Module>,
) -> Result<(), SeamldrStatus> {
    let id = x2apic_id(hw, lp);
    // SEAMLDR.CLEANUP-1
    if id >= loader.config.x2apic_limit {
        return Err(SeamldrStatus::EUNSPECERR);
    }
    // SEAMLDR.CLEANUP-2
    if state.session.is_some() || state.shutdown.has_begun() {
        return Err(SeamldrStatus::EBADCALL);
    }
    // SEAMLDR.CLEANUP-3
    if state.cleanup.as_ref().is_some_and(|session| session.finished.contains(id)) {
        return Err(SeamldrStatus::EBADCALL);
    }
    // SEAMLDR.CLEANUP-4
    if !state.knows_packages {
        return Err(SeamldrStatus::EBADCALL);
    }
    // SEAMLDR.CLEANUP-5
    let index = index(hw, lp).ok_or(SeamldrStatus::EUNSPECERR)?;
    let is_dirty = state.dirty.is_some();
    // SEAMLDR.CLEANUP-6
    let session = state.cleanup.get_or_insert_with(|| {
        reachable.store(None);
        state.seamextend.seam_ready = false;
        state.seamextend.svn = Svn { major: 0, minor: 0 };
        if let Some(module) = &state.installed {
            module.handoff.region().invalidate();
        }
        Cleanup::new(hw, is_dirty)
    });
    let package = session.packages.get_mut(index).ok_or(SeamldrStatus::EUNSPECERR)?;
    if package.finished + 1 == package.lps {
        program_keys(hw, lp, &mut package.keys)?;
        write_back(hw, lp, &mut package.caches)?;
    }
    package.finished += 1;
    session.finished.insert(id);
    // SEAMLDR.CLEANUP-9
    if session.finished() >= hw.mcheck().total_lps {
        state.cleanup = None;
        state.seamextend = SeamExtend::NONE;
        state.installed = None;
        state.remaining_updates = loader.config.log_capacity();
        state.dirty = None;
    }
    Ok(())
}

fn program_keys(hw: &dyn Hardware, lp: LpIndex, keys: &mut Progress) -> Result<(), SeamldrStatus> {
    if !keys.is_dirty {
        return Ok(());
    }
    let msr = |index| hw.rdmsr(lp, index).unwrap_or(0);
    let partitioning = KeyIdPartitioning::from_msr(msr(MsrIndex::IA32_MKTME_KEYID_PARTITIONING));
    let without_integrity = hw.mcheck().without_integrity;
    // SEAMLDR.CLEANUP-11
    let algorithm = encryption::algorithm(
        msr(MsrIndex::IA32_TME_CAPABILITY),
        msr(MsrIndex::IA32_TME_ACTIVATE),
        without_integrity,
    )
    .map_err(|_| SeamldrStatus::EUNSPECERR)?;
    while let Some(key) = private_key(partitioning, keys.next) {
        hw.program_random_key(lp, key, algorithm).map_err(|error| match error {
            // SEAMLDR.CLEANUP-10
            PconfigError::Entropy => SeamldrStatus::ENOENTROPY,
            // SEAMLDR.CLEANUP-11
            PconfigError::InvalidKeyId | PconfigError::InvalidAlgorithm | PconfigError::DeviceBusy => {
                SeamldrStatus::EUNSPECERR
            }
        })?;
        keys.next += 1;
        // SEAMLDR.CLEANUP-7
        if hw.interrupt_pending(lp) {
            return Err(SeamldrStatus::EINTERRUPT);
        }
    }
    keys.is_dirty = false;
    Ok(())
}

/// The private KeyID with this number, counted from the first.
fn private_key(partitioning: KeyIdPartitioning, number: u32) -> Option<KeyId> {
    let first = partitioning.first_private().filter(|_| number < partitioning.tdx_count())?;
    first.number().checked_add(u16::try_from(number).ok()?).map(KeyId::new)
}

fn write_back(hw: &dyn Hardware, lp: LpIndex, caches: &mut Progress) -> Result<(), SeamldrStatus> {
    while caches.is_dirty && caches.next < hw.cache_parts(lp) {
        hw.write_back_part(lp, caches.next);
        caches.next += 1;
        // SEAMLDR.CLEANUP-8
        if hw.interrupt_pending(lp) {
            return Err(SeamldrStatus::EINTERRUPT);
        }
    }
    caches.is_dirty = false;
    Ok(())
}
