//! What sits in the SEAM range of one powered-on machine.

use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use tdx_abi::leaf::LeafWord;
use tdx_abi::{PhysAddr, Registers};

use crate::hardware::{Hardware, LpIndex, MachineCheck};
use crate::inspect::{Inspection, LoaderInspection};
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
    module: Option<Module>,
    /// Poison that the module read: nothing answers any more.
    machine_check: OnceLock<PhysAddr>,
}

impl SeamSoftware {
    /// Freshly loaded software: all state is as the loader leaves it.
    pub fn new(config: SeamConfig) -> Self {
        let SeamConfig { module, loader } = config;
        Self {
            loader: Loader::new(loader),
            module: module.as_ref().map(Module::new),
            machine_check: OnceLock::new(),
        }
    }

    /// Runs a SEAMCALL of `lp`: bit 63 of RAX chooses the P-SEAMLDR. Afterwards RAX holds the
    /// status and the registers that the leaf lists its outputs; on failure nothing has changed.
    pub fn seamcall(&self, hw: &dyn Hardware, lp: LpIndex, regs: &mut Registers) -> Result<(), NoAnswer> {
        if self.machine_check.get().is_some() {
            return Err(NoAnswer::VmFailInvalid);
        }
        if LeafWord::from_raw(regs.rax).is_seamldr() {
            return self.loader.seamcall(hw, lp, self.module.as_ref(), regs).ok_or(NoAnswer::VmFailInvalid);
        }
        let module = self.module.as_ref().ok_or(NoAnswer::VmFailInvalid)?;
        module.seamcall(hw, lp, regs).inspect_err(|failure| {
            if let NoAnswer::MachineCheck(check) = failure {
                // Only the first one counts: the machine's TDX is off from then on.
                let _ = self.machine_check.set(check.pa);
            }
        })
    }

    /// Sets how many TDs the module counts as being built. White box: no leaf that builds a TD is
    /// modelled.
    pub fn set_td_builds(&self, count: u16) {
        if let Some(module) = &self.module {
            module.td_builds.store(count, Ordering::Release);
        }
    }

    /// Sets how many interrupted migration calls the module counts. White box: no migration leaf is
    /// modelled.
    pub fn set_interrupted_migrations(&self, count: u16) {
        if let Some(module) = &self.module {
            module.interrupted_migrations.store(count, Ordering::Release);
        }
    }

    /// Bytes of the module's hand-off area, none without a module. White box, as is the next one:
    /// nothing outside SEAM reads or writes them.
    pub fn handoff_area(&self) -> Vec<u8> {
        self.module.as_ref().map_or_else(Vec::new, |module| module.handoff.region().bytes().to_vec())
    }

    /// Puts `bytes` at the start of the module's hand-off area; what does not fit is cut off.
    pub fn set_handoff_area(&self, bytes: &[u8]) {
        if let Some(module) = &self.module {
            module.handoff.region().overwrite(bytes);
        }
    }

    /// The state of everything, for status displays and tests. Fields may be from different
    /// moments while calls run.
    pub fn inspect(&self) -> Inspection {
        Inspection {
            loader: LoaderInspection { config: self.loader.config, calls: self.loader.calls() },
            machine_check: self.machine_check.get().copied(),
            module: self.module.as_ref().map(Module::inspect),
        }
    }
}
