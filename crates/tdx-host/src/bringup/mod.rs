//! Bring-up: from power-on to a module that is ready, with every step taken back if a later one fails.

mod config;
mod cpus;
mod tdmr_init;

use tdx_abi::features::Features0;
use tdx_abi::seamldr::Version;

use crate::cpu::CpuSlot;
use crate::error::HostError;
use crate::host::{HostMemory, HostState, Lifecycle, boot_cpu};
use crate::memory::MemoryBlock;
use crate::seamcall::{SeamcallCause, SeamcallError};
use crate::sysinfo::{self, SysInfo};
use crate::tdmr::{TdmrLimits, TdmrRules};
use crate::traits::{CpuNumber, LogLevel, Platform, SeamcallFault};

pub use config::{SUPPORTED_ADDONS, addon_features};

pub(crate) use config::opt_in_refused;

/// What the embedder chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BringUpOptions {
    /// How TDMRs are made.
    pub tdmr_rules: TdmrRules,
    /// Add-on features to switch on where the module offers them, besides those that the host supports
    /// ([`SUPPORTED_ADDONS`]).
    pub opt_in: Features0,
    /// Add-on features to leave off. If none is left TDH.SYS.CONFIG has version 0.
    pub disabled: Features0,
}

/// A part of bring-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// CPU features. Counts CPUs.
    PlatformChecks,
    /// VMXON, TDH.SYS.INIT once, TDH.SYS.LP.INIT. Counts CPUs.
    CpuInit,
    /// TDH.SYS.RD. Counts convertible memory ranges.
    Metadata,
    /// TDX memory blocks. Counts them.
    Memory,
    /// TDMRs and PAMTs. Counts TDMRs.
    Tdmrs,
    /// TDH.SYS.CONFIG and what it may change. Counts calls.
    Config,
    /// TDH.SYS.KEY.CONFIG. Counts packages.
    KeyConfig,
    /// TDH.SYS.TDMR.INIT. Counts GiB of TDMRs.
    TdmrInit,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Self; 8] = [
        Self::PlatformChecks,
        Self::CpuInit,
        Self::Metadata,
        Self::Memory,
        Self::Tdmrs,
        Self::Config,
        Self::KeyConfig,
        Self::TdmrInit,
    ];

    /// Name for tables and documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PlatformChecks => "platform-checks",
            Self::CpuInit => "cpu-init",
            Self::Metadata => "metadata",
            Self::Memory => "memory",
            Self::Tdmrs => "tdmrs",
            Self::Config => "config",
            Self::KeyConfig => "key-config",
            Self::TdmrInit => "tdmr-init",
        }
    }
}

/// Told how bring-up gets on. Called from several CPUs.
pub trait Progress: Sync {
    /// A phase begins; `total` steps lie ahead, 0 if that is not known.
    fn phase_started(&self, phase: Phase, total: u64) {
        let _ = (phase, total);
    }

    /// `steps` more of its steps are done.
    fn advanced(&self, phase: Phase, steps: u64) {
        let _ = (phase, steps);
    }

    /// The phase succeeded; `count` is what the phase counts.
    fn phase_done(&self, phase: Phase, count: u64) {
        let _ = (phase, count);
    }
}

/// Nobody wants to know.
impl Progress for () {}

/// What bring-up did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BringUpReport {
    /// Version of the module.
    pub version: Version,
    /// CPUs that ran TDH.SYS.LP.INIT.
    pub cpus: u64,
    /// TDX memory blocks.
    pub memory_blocks: usize,
    /// Bytes in them.
    pub memory_bytes: u64,
    /// TDMRs.
    pub tdmrs: usize,
    /// Bytes in them.
    pub tdmr_bytes: u64,
    /// Reserved areas of all TDMRs.
    pub reserved_areas: usize,
    /// Bytes of all PAMTs.
    pub pamt_bytes: u64,
    /// Packages whose global key was programmed.
    pub packages: u64,
    /// Calls of TDH.SYS.TDMR.INIT.
    pub tdmr_init_calls: u64,
    /// Add-on features that are on.
    pub opted_in: Features0,
    /// Add-on features that were asked for and offered, but refused by TDH.SYS.CONFIG.
    pub opt_in_refused: Features0,
    /// Pages that the module's extensions took.
    pub extension_pages: usize,
}

impl BringUpReport {
    /// Kilobytes (1024 bytes) of all PAMTs, as Linux prints them.
    pub const fn pamt_kb(&self) -> u64 {
        self.pamt_bytes / 1024
    }
}

impl<C, K> HostState<C, K>
where
    C: AsRef<[CpuSlot]> + Sync,
    K: Sync,
{
    /// Takes the module from power-on to ready.
    ///
    /// After an error all CPUs are out of VMX operation (as far as TDX is concerned) and all pages are
    /// given back. Once the module was called it cannot be tried again in this boot.
    ///
    /// The embedder lets no CPU come or go meanwhile.
    pub fn bring_up<P, B>(
        &self,
        platform: &P,
        memory: &mut HostMemory<B, P::Leaks>,
        options: &BringUpOptions,
        progress: &dyn Progress,
    ) -> Result<BringUpReport, HostError>
    where
        P: Platform + ?Sized,
        B: AsRef<[MemoryBlock]> + AsMut<[MemoryBlock]>,
    {
        self.step(Lifecycle::Checked, Lifecycle::BringingUp).map_err(|found| match found {
            Lifecycle::Off | Lifecycle::Checked => HostError::EarlyInitMissing,
            Lifecycle::BringingUp
            | Lifecycle::Ready
            | Lifecycle::Failed
            | Lifecycle::Updating
            | Lifecycle::Down
            | Lifecycle::Gone => HostError::AlreadyTried,
            Lifecycle::ShutDown | Lifecycle::Crashed => HostError::GoingDown,
        })?;
        let walk = Walk { host: self, platform, options, progress };
        let result = walk.run(memory);
        if let Ok(report) = &result {
            self.set_opted_in(report.opted_in);
        }
        let next = match result {
            Ok(_) => Lifecycle::Ready,
            Err(_) if self.sys_init.was_begun() => Lifecycle::Failed,
            Err(_) => Lifecycle::Checked,
        };
        // A crash meanwhile has set its own state, and keeps it.
        self.step(Lifecycle::BringingUp, next).map_err(|_| HostError::GoingDown)?;
        match &result {
            Ok(report) => platform.log(
                LogLevel::Info,
                format_args!(
                    "TDX module {} initialized: {} KB allocated for PAMT",
                    report.version,
                    report.pamt_kb()
                ),
            ),
            Err(error) => platform.log(LogLevel::Error, format_args!("TDX is off: {error}")),
        }
        result
    }
}

/// One run of bring-up.
struct Walk<'a, C, K, P: ?Sized> {
    host: &'a HostState<C, K>,
    platform: &'a P,
    options: &'a BringUpOptions,
    progress: &'a dyn Progress,
}

impl<C, K, P> Walk<'_, C, K, P>
where
    C: AsRef<[CpuSlot]> + Sync,
    K: Sync,
    P: Platform + ?Sized,
{
    fn run<B>(&self, memory: &mut HostMemory<B, P::Leaks>) -> Result<BringUpReport, HostError>
    where
        B: AsRef<[MemoryBlock]> + AsMut<[MemoryBlock]>,
    {
        self.check_features()?;
        let done = self.start_cpus().and_then(|cpus| self.give_memory(memory, cpus));
        if done.is_err() {
            self.stop_cpus();
        }
        done
    }

    /// Everything behind the CPUs. After an error `memory` is empty and all pages are given back.
    fn give_memory<B>(
        &self,
        memory: &mut HostMemory<B, P::Leaks>,
        cpus: u64,
    ) -> Result<BringUpReport, HostError>
    where
        B: AsRef<[MemoryBlock]> + AsMut<[MemoryBlock]>,
    {
        let boot = boot_cpu(self.platform)?;
        let info = self.read_metadata(boot)?;
        let limits = TdmrLimits::of(&info);
        let done = self.lay_memory_out(memory, &info, &limits).and_then(|()| {
            // Takes its own step back: until CONFIG succeeds the PAMTs go back untouched.
            let opted = self.configure(memory, &info, &limits, boot)?;
            let finished = self.finish(memory, &limits, &opted, boot);
            finished.map(|(packages, calls)| (opted.on, opted.refused, packages, calls))
        });
        let (opted_in, opt_in_refused, packages, tdmr_init_calls) = match done {
            Ok(done) => done,
            Err(error) => {
                memory.tdmrs.free(self.platform);
                memory.blocks.clear();
                return Err(error);
            }
        };
        let blocks = memory.blocks.blocks();
        Ok(BringUpReport {
            version: info.version(),
            cpus,
            memory_blocks: blocks.len(),
            memory_bytes: blocks.iter().map(|block| block.range.size()).sum(),
            tdmrs: memory.tdmrs.len(),
            tdmr_bytes: memory.tdmrs.bytes(),
            reserved_areas: memory.tdmrs.iter().map(|tdmr| tdmr.reserved().len()).sum(),
            pamt_bytes: memory.tdmrs.pamt_bytes(),
            packages,
            tdmr_init_calls,
            opted_in,
            opt_in_refused,
            extension_pages: memory.pool.count(),
        })
    }

    fn read_metadata(&self, boot: CpuNumber) -> Result<SysInfo, HostError> {
        self.progress.phase_started(Phase::Metadata, 0);
        let port = self.host.port(self.platform);
        let cell = self.host.sysinfo_cell();
        self.platform.on_cpu(boot, &|pin| {
            cell.set(&sysinfo::read(&port, pin)?);
            Ok(())
        })?;
        let info = cell.get().ok_or(HostError::NotInitialised)?;
        if !info.features0().contains(Features0::NO_RBP_MOD) {
            return Err(HostError::NoRbpMod { features0: info.features0().bits() });
        }
        self.progress.phase_done(Phase::Metadata, info.cmrs().count() as u64);
        Ok(info)
    }

    fn lay_memory_out<B>(
        &self,
        memory: &mut HostMemory<B, P::Leaks>,
        info: &SysInfo,
        limits: &TdmrLimits,
    ) -> Result<(), HostError>
    where
        B: AsRef<[MemoryBlock]> + AsMut<[MemoryBlock]>,
    {
        self.progress.phase_started(Phase::Memory, 0);
        memory.blocks.collect(self.platform)?;
        let blocks = memory.blocks.blocks();
        let cmrs = info.cmr_set();
        let rules = self.options.tdmr_rules;
        // The default rules rely on the answer; Linux does not ask, so its own limits show first.
        if rules == TdmrRules::Tdxhost {
            cmrs.check(blocks)?;
        }
        self.progress.phase_done(Phase::Memory, blocks.len() as u64);
        self.progress.phase_started(Phase::Tdmrs, 0);
        memory.tdmrs.build(rules, blocks, &cmrs, limits, self.platform)?;
        cmrs.check(blocks)?;
        let count = memory.tdmrs.len();
        if usize::from(limits.max_tdmrs) - count < 4 {
            let max = limits.max_tdmrs;
            self.platform.log(LogLevel::Warning, format_args!("{count} of {max} TDMRs are in use"));
        }
        self.progress.phase_done(Phase::Tdmrs, count as u64);
        Ok(())
    }
}

/// The failure of a call that did not reach the module, whichever call it was.
pub(crate) fn transport(error: SeamcallError) -> Option<HostError> {
    match error.cause {
        SeamcallCause::GoingDown => Some(HostError::GoingDown),
        SeamcallCause::Down => Some(HostError::ModuleDown),
        SeamcallCause::Gone => Some(HostError::ModuleGone),
        SeamcallCause::Fault(SeamcallFault::InvalidOpcode) => Some(HostError::NotInVmxOperation { error }),
        SeamcallCause::Fault(SeamcallFault::GeneralProtection) => Some(HostError::SeamDisabled { error }),
        SeamcallCause::Fault(SeamcallFault::VmFailInvalid) => Some(HostError::ModuleNotLoaded { error }),
        SeamcallCause::Status(_) | SeamcallCause::Loader(_) => None,
    }
}
