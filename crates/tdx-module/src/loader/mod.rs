//! The P-SEAMLDR: one file per leaf, and what they share.

mod accept;
mod cleanup;
mod config;
mod info;
mod install;
mod layout;
mod load;
mod release;
mod seaminfo;
mod session;
mod shutdown;
mod signed;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use arc_swap::ArcSwapOption;
use tdx_abi::leaf::{LeafWord, SeamldrLeaf};
use tdx_abi::msr::MsrIndex;
use tdx_abi::status::SeamldrStatus;
use tdx_abi::{AddressLayout, KeyIdPartitioning, Registers};

pub use accept::LoadError;
pub use config::{LoaderConfig, LoaderGeneration, UnknownRelease};

use crate::hardware::{Hardware, LockName, LpIndex, RandomUse};
use crate::hpa::AddressSpace;
use crate::inspect::LoaderInspection;
use crate::module::{Module, ModuleConfig};
use crate::profile::Svn;
use crate::software::NoAnswer;
use cleanup::Cleanup;
use session::Session;
use shutdown::Shutdown;

/// CPUID leaf of the x2APIC id.
const TOPOLOGY: u32 = 0x1F;

/// The platform's measurement of the module, and whether SEAMCALLs reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SeamExtend {
    /// A module is there.
    present: bool,
    svn: Svn,
    seamhash: [u8; 48],
    seam_ready: bool,
}

impl SeamExtend {
    const NONE: Self =
        Self { present: false, svn: Svn { major: 0, minor: 0 }, seamhash: [0; 48], seam_ready: false };

    const fn ready(svn: Svn, seamhash: [u8; 48]) -> Self {
        Self { present: true, svn, seamhash, seam_ready: true }
    }
}

/// What changes from call to call.
#[derive(Debug)]
struct State {
    /// The stack canary is in place.
    has_canary: bool,
    /// The INSTALL that is under way.
    session: Option<Session>,
    shutdown: Shutdown,
    /// The CLEANUP that is under way.
    cleanup: Option<Cleanup>,
    /// All LPs have called INSTALL once, in which the loader learns the packages.
    knows_packages: bool,
    seamextend: SeamExtend,
    /// The module in the SEAM range, reachable or not.
    installed: Option<Arc<Module>>,
    /// SEAM VMCSs exist since a module was loaded for the first time.
    has_vmcs: bool,
    remaining_updates: u32,
    /// SVN of the last module, whose keys and cache lines may still be there.
    dirty: Option<Svn>,
}

/// What a call left behind, for those who look while the next one runs.
#[derive(Clone, Debug)]
struct View {
    installed: Option<Arc<Module>>,
    seamextend: SeamExtend,
    remaining_updates: u32,
    session: Option<SessionView>,
    shutdown: u32,
    gone: bool,
    cleanup: Option<u32>,
    dirty: bool,
}

#[derive(Clone, Copy, Debug)]
struct SessionView {
    called: u32,
    vmcs_cleared: u32,
}

impl View {
    fn of(state: &State) -> Self {
        Self {
            installed: state.installed.clone(),
            seamextend: state.seamextend,
            remaining_updates: state.remaining_updates,
            session: state.session.as_ref().map(|session| SessionView {
                called: session.called.count(),
                vmcs_cleared: session.vmcs_cleared,
            }),
            shutdown: state.shutdown.called(),
            gone: state.shutdown.is_through,
            cleanup: state.cleanup.as_ref().map(Cleanup::finished),
            dirty: state.dirty.is_some(),
        }
    }
}

/// The P-SEAMLDR.
#[derive(Debug)]
pub(crate) struct Loader {
    config: LoaderConfig,
    /// The module that the firmware loaded, whose deviations hold for the ones that follow.
    template: Option<ModuleConfig>,
    /// Held by the LP that runs the loader.
    state: Mutex<State>,
    /// Held for the moment of a copy only.
    view: Mutex<View>,
    calls: AtomicU64,
}

impl Loader {
    /// A loader behind the LOAD of the firmware.
    pub(crate) fn new(config: LoaderConfig, template: Option<ModuleConfig>) -> Self {
        let installed = template.as_ref().map(|config| Arc::new(Module::new(config)));
        let seamextend = template
            .as_ref()
            .map_or(SeamExtend::NONE, |module| SeamExtend::ready(module.svn, module.seamhash));
        let rules = config.generation.rules();
        let state = State {
            has_canary: false,
            session: None,
            shutdown: Shutdown::default(),
            cleanup: None,
            knows_packages: installed.is_some(),
            has_vmcs: installed.is_some(),
            // Without a LOAD no place of the log is taken.
            remaining_updates: if installed.is_some() {
                config.remaining_updates
            } else {
                config.log_capacity()
            },
            dirty: installed.as_ref().filter(|_| rules.cleans_up).map(|_| seamextend.svn),
            seamextend,
            installed,
        };
        let view = Mutex::new(View::of(&state));
        Self { config, template, state: Mutex::new(state), view, calls: AtomicU64::new(0) }
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The module in the SEAM range, reachable or not.
    pub(crate) fn installed(&self) -> Option<Arc<Module>> {
        self.view().installed.clone()
    }

    pub(crate) fn inspect(&self) -> LoaderInspection {
        let view = self.view().clone();
        let View { seamextend, remaining_updates, session, .. } = view;
        LoaderInspection {
            config: LoaderConfig { remaining_updates, ..self.config },
            calls: self.calls.load(Ordering::Relaxed),
            seam_ready: seamextend.seam_ready,
            svn: seamextend.present.then_some(seamextend.svn),
            seamhash: seamextend.present.then_some(seamextend.seamhash),
            session_lps: session.map(|session| session.called),
            session_vmcs_cleared: session.map_or(0, |session| session.vmcs_cleared),
            shutdown_lps: view.shutdown,
            shut_down: view.gone,
            cleanup_lps: view.cleanup,
            dirty: view.dirty,
        }
    }

    /// Runs a call. A module that becomes reachable or unreachable does so in `reachable`.
    pub(crate) fn seamcall(
        &self,
        hw: &dyn Hardware,
        lp: LpIndex,
        reachable: &ArcSwapOption<Module>,
        regs: &mut Registers,
    ) -> Result<(), NoAnswer> {
        // SEAMLDR-1
        if hw.contended(lp, LockName::Seamldr) {
            return Err(NoAnswer::VmFailInvalid);
        }
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(NoAnswer::VmFailInvalid),
        };
        // SEAMLDR-4
        if state.shutdown.is_through {
            return Err(NoAnswer::VmFailInvalid);
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
        let answer = self.run(hw, lp, &mut state, reachable, regs);
        *self.view() = View::of(&state);
        regs.rax = answer?.0;
        Ok(())
    }

    fn run(
        &self,
        hw: &dyn Hardware,
        lp: LpIndex,
        state: &mut State,
        reachable: &ArcSwapOption<Module>,
        regs: &mut Registers,
    ) -> Result<SeamldrStatus, NoAnswer> {
        // SEAMLDR-2
        if !state.has_canary {
            if hw.random_for(lp, RandomUse::StackCanary).is_none() {
                return Ok(SeamldrStatus::EUNSPECERR);
            }
            state.has_canary = true;
        }
        // All of RAX is the leaf: with any other bit set it is an unknown one.
        let leaf = SeamldrLeaf(LeafWord::from_raw(regs.rax).leaf());
        let is_leaf = regs.rax == LeafWord::seamldr(leaf).raw();
        match leaf {
            SeamldrLeaf::INFO if is_leaf => Ok(info::run(self, hw, lp, state, regs.rcx)),
            SeamldrLeaf::INSTALL if is_leaf => {
                let (status, rdx) = install::run(self, hw, lp, state, reachable, regs.rcx)?;
                regs.rdx = rdx;
                Ok(status)
            }
            SeamldrLeaf::SHUTDOWN if is_leaf => Ok(shutdown::run(self, hw, lp, state, reachable)),
            SeamldrLeaf::SEAMINFO if is_leaf => Ok(seaminfo::run(hw, lp, regs.rcx)),
            SeamldrLeaf::CLEANUP if is_leaf && self.config.generation.rules().cleans_up => {
                Ok(cleanup::run(self, hw, lp, state, reachable))
            }
            // SEAMLDR-3
            _ => Ok(SeamldrStatus::EBADPARAM),
        }
    }
}

/// By which the loader tells LPs apart.
fn x2apic_id(hw: &dyn Hardware, lp: LpIndex) -> u32 {
    hw.cpuid(lp, TOPOLOGY, 0).edx
}

/// The address space as the loader finds it, without a module's help; `None` where the machine's
/// width makes no sense.
fn address_space(hw: &dyn Hardware, lp: LpIndex) -> Option<AddressSpace> {
    let [maxpa, ..] = hw.cpuid(lp, 0x8000_0008, 0).eax.to_le_bytes();
    let activate = hw.rdmsr(lp, MsrIndex::IA32_TME_ACTIVATE).unwrap_or(0);
    let [.., key_bits, _, _, _] = activate.to_le_bytes();
    let partitioning = hw.rdmsr(lp, MsrIndex::IA32_MKTME_KEYID_PARTITIONING).unwrap_or(0);
    Some(AddressSpace {
        layout: AddressLayout::new(maxpa, key_bits & 0xF)?,
        key_ids: KeyIdPartitioning::from_msr(partitioning),
        seamrr: hw.mcheck().seamrr,
    })
}
