//! What sits in the SEAM range of one powered-on machine.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use arc_swap::cache::Cache;

use tdx_abi::leaf::LeafWord;
use tdx_abi::{PhysAddr, Registers};

use crate::hardware::{Hardware, LpIndex, MachineCheck};
use crate::inspect::Inspection;
use crate::loader::{Loader, LoaderConfig};
use crate::module::{Module, ModuleConfig};

/// SEAMCALL ended without a status. The registers are as they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// CF = 1: the SEAM software addressed is not loaded, disabled or, for the P-SEAMLDR, in use
    /// by another LP.
    #[error("VMfailInvalid: no SEAM software takes the call")]
    VmFailInvalid,
    /// The module read poison in this call: its LP shuts down, and nothing answers any more.
    #[error(transparent)]
    MachineCheck(#[from] MachineCheck),
}

/// What the firmware loaded.
#[derive(Clone, Debug)]
pub struct SeamConfig {
    /// The TDX module, if there is one.
    pub module: Option<ModuleConfig>,
    /// The P-SEAMLDR.
    pub loader: LoaderConfig,
}

/// P-SEAMLDR and TDX module from power-on until the next power cycle.
#[derive(Debug)]
pub struct SeamSoftware {
    loader: Loader,
    /// The module that SEAMCALLs reach: none while SEAM_READY is 0.
    reachable: Arc<ArcSwapOption<Module>>,
    /// Poison that the module read: nothing answers any more.
    machine_check: OnceLock<PhysAddr>,
}

impl SeamSoftware {
    /// Freshly loaded software: all state is as the loader leaves it.
    pub fn new(config: SeamConfig) -> Self {
        let loader = Loader::new(config.loader, config.module);
        let reachable = Arc::new(ArcSwapOption::new(loader.installed()));
        Self { loader, reachable, machine_check: OnceLock::new() }
    }

    /// Runs a SEAMCALL of `lp`: bit 63 of RAX chooses the P-SEAMLDR. Afterwards RAX holds the
    /// status and the registers that the leaf lists its outputs; on failure nothing has changed.
    pub fn seamcall(&self, hw: &dyn Hardware, lp: LpIndex, regs: &mut Registers) -> Result<(), NoAnswer> {
        let module = self.reachable.load();
        self.run(hw, lp, module.as_deref(), regs)
    }

    fn run(
        &self,
        hw: &dyn Hardware,
        lp: LpIndex,
        module: Option<&Module>,
        regs: &mut Registers,
    ) -> Result<(), NoAnswer> {
        if self.machine_check.get().is_some() {
            return Err(NoAnswer::VmFailInvalid);
        }
        let result = if LeafWord::from_raw(regs.rax).is_seamldr() {
            self.loader.seamcall(hw, lp, &self.reachable, regs)
        } else {
            module.ok_or(NoAnswer::VmFailInvalid)?.seamcall(hw, lp, regs)
        };
        result.inspect_err(|failure| {
            if let NoAnswer::MachineCheck(check) = failure {
                // Only the first one counts: the machine's TDX is off from then on.
                let _ = self.machine_check.set(check.pa);
            }
        })
    }

    /// Sets how many TDs the module counts as being built. White box: no leaf that builds a TD is
    /// modelled.
    pub fn set_td_builds(&self, count: u16) {
        if let Some(module) = self.loader.installed() {
            module.td_builds.store(count, Ordering::Release);
        }
    }

    /// Sets how many interrupted migration calls the module counts. White box: no migration leaf is
    /// modelled.
    pub fn set_interrupted_migrations(&self, count: u16) {
        if let Some(module) = self.loader.installed() {
            module.interrupted_migrations.store(count, Ordering::Release);
        }
    }

    /// Bytes of the module's hand-off area, none without a module. White box, as is the next one:
    /// nothing outside SEAM reads or writes them.
    pub fn handoff_area(&self) -> Vec<u8> {
        self.loader.installed().map_or_else(Vec::new, |module| module.handoff.region().bytes().to_vec())
    }

    /// Puts `bytes` at the start of the module's hand-off area; what does not fit is cut off.
    pub fn set_handoff_area(&self, bytes: &[u8]) {
        if let Some(module) = self.loader.installed() {
            module.handoff.region().overwrite(bytes);
        }
    }

    /// The state of everything, for status displays and tests. Fields may be from different
    /// moments while calls run.
    pub fn inspect(&self) -> Inspection {
        Inspection {
            loader: self.loader.inspect(),
            machine_check: self.machine_check.get().copied(),
            module: self.loader.installed().map(|module| module.inspect()),
        }
    }
}

/// The way of one LP into the software. It remembers the module that it reached last, so that a
/// call does not pay for the module's being replaceable.
#[derive(Debug)]
pub struct LpPort {
    software: Arc<SeamSoftware>,
    reachable: Cache<Arc<ArcSwapOption<Module>>, Option<Arc<Module>>>,
}

impl LpPort {
    /// A way into `software`.
    pub fn new(software: Arc<SeamSoftware>) -> Self {
        let reachable = Cache::new(Arc::clone(&software.reachable));
        Self { software, reachable }
    }

    /// [`SeamSoftware::seamcall`].
    pub fn seamcall(&mut self, hw: &dyn Hardware, lp: LpIndex, regs: &mut Registers) -> Result<(), NoAnswer> {
        self.software.run(hw, lp, self.reachable.load().as_deref(), regs)
    }
}
