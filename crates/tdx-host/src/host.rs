//! The state of the host side, stored by the embedder.

use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use tdx_abi::KeyIdPartitioning;
use tdx_abi::features::Features0;
use tdx_abi::msr::MsrIndex;

use crate::connect::ConnectShared;
use crate::cpu::CpuSlot;
use crate::error::HostError;
use crate::ext::Pool;
use crate::iommu::ConnectMemory;
use crate::keyid::KeyIdPool;
use crate::memory::{MemoryBlock, TdxMemory};
use crate::seamcall::{Gate, SeamPort};
use crate::seamldr::Seamldr;
use crate::sync::{Spin, SpinOnce};
use crate::sysinfo::{SysInfo, SysInfoCell};
use crate::tdmr::TdmrTable;
use crate::traits::{
    CpuNumber, CpuPin, Cpus, Firmware, LeakCounter, Pages, PerCpu, Processor, Seam, Vmx, first_online,
};
use crate::update::{FailureCell, UpdateFailure};
use crate::vmx::{VmxClients, VmxPort, vmx_basic};

/// Where in its life the host side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Lifecycle {
    /// Nothing was done, or the platform does not do.
    Off = 0,
    /// The platform was checked; the module was not called yet.
    Checked = 1,
    /// Bring-up runs.
    BringingUp = 2,
    /// The module is initialised.
    Ready = 3,
    /// Bring-up failed and cannot be tried again in this boot.
    Failed = 4,
    /// The module was disabled in order.
    ShutDown = 5,
    /// The host crashed.
    Crashed = 6,
    /// A lockstep replaces the module.
    Updating = 7,
    /// An update shut the module down and could not install another: only another update is possible.
    Down = 8,
    /// An update failed for good; the module is gone until the machine is reset.
    Gone = 9,
}

impl Lifecycle {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::Off,
        Self::Checked,
        Self::BringingUp,
        Self::Ready,
        Self::Failed,
        Self::ShutDown,
        Self::Crashed,
        Self::Updating,
        Self::Down,
        Self::Gone,
    ];

    /// One word for tables and documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Checked => "checked",
            Self::BringingUp => "bringing-up",
            Self::Ready => "ready",
            Self::Failed => "failed",
            Self::ShutDown => "shut-down",
            Self::Crashed => "crashed",
            Self::Updating => "updating",
            Self::Down => "module-down",
            Self::Gone => "module-gone",
        }
    }
}

/// The memory that the module was given. Whoever holds it `&mut` holds memory hotplug off.
#[derive(Debug)]
pub struct HostMemory<B, L: LeakCounter> {
    /// TDX memory blocks.
    pub blocks: TdxMemory<B>,
    /// TDMRs and their PAMTs.
    pub tdmrs: TdmrTable<L>,
    /// Memory of the module's extensions.
    pub pool: Pool<L>,
    /// What TDX Connect holds.
    pub connect: ConnectMemory<L>,
}

impl<B: AsRef<[MemoryBlock]> + AsMut<[MemoryBlock]>, L: LeakCounter> HostMemory<B, L> {
    /// No memory; as many blocks fit as `storage` has room for.
    pub const fn new(storage: B) -> Self {
        Self {
            blocks: TdxMemory::new(storage),
            tdmrs: TdmrTable::new(),
            pool: Pool::new(),
            connect: ConnectMemory::new(),
        }
    }
}

impl<B, L: LeakCounter> HostMemory<B, L> {
    /// Takes the extensions' memory back from a module that is no more. Caches have been written back.
    pub(crate) fn reclaim_pool<P: Pages<Leaks = L> + ?Sized>(&mut self, platform: &P) {
        core::mem::take(&mut self.pool).reclaim().into_owned(platform).free(platform);
    }
}

/// Everything that is shared between CPUs. All of it can be read at any time without a lock.
///
/// `C` stores one [`CpuSlot`] per possible CPU; `K` is the embedder's lock for P-SEAMLDR.
#[derive(Debug, Default)]
pub struct HostState<C, K = Spin> {
    cpus: C,
    gate: Gate,
    lifecycle: AtomicU8,
    clients: VmxClients,
    keyids: KeyIdPool,
    sysinfo: SysInfoCell,
    partial_write_erratum: AtomicBool,
    pub(crate) sys_init: SpinOnce<7>,
    seamldr: Seamldr<K>,
    update_claimed: AtomicBool,
    opted_in: AtomicU64,
    failure: FailureCell,
    pub(crate) connect: ConnectShared,
}

impl<C: AsRef<[CpuSlot]>, K> HostState<C, K> {
    /// The state before anything happened; `lock` serialises calls of P-SEAMLDR.
    pub const fn new(cpus: C, lock: K) -> Self {
        Self {
            cpus,
            gate: Gate::new(),
            lifecycle: AtomicU8::new(Lifecycle::Off as u8),
            clients: VmxClients::new(),
            keyids: KeyIdPool::new(),
            sysinfo: SysInfoCell::new(),
            partial_write_erratum: AtomicBool::new(false),
            sys_init: SpinOnce::new(),
            seamldr: Seamldr::new(lock),
            update_claimed: AtomicBool::new(false),
            opted_in: AtomicU64::new(0),
            failure: FailureCell::new(),
            connect: ConnectShared::new(),
        }
    }

    /// Where in its life the host side is.
    pub fn lifecycle(&self) -> Lifecycle {
        let number = usize::from(self.lifecycle.load(Ordering::Acquire));
        Lifecycle::ALL.get(number).copied().unwrap_or(Lifecycle::Off)
    }

    /// Goes from `from` to `to`; the present state if it is another.
    pub(crate) fn step(&self, from: Lifecycle, to: Lifecycle) -> Result<(), Lifecycle> {
        let swap = self.lifecycle.compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire);
        swap.map(|_| ()).map_err(|_| self.lifecycle())
    }

    /// Ends the life for good; no call to the module is made from here on. A crash has the last word.
    pub(crate) fn end(&self, how: Lifecycle) {
        self.gate.close();
        let unless_crashed = |now| (now != Lifecycle::Crashed as u8).then_some(how as u8);
        // Refused only if it says already what it is to say.
        let _ = self.lifecycle.fetch_update(Ordering::AcqRel, Ordering::Acquire, unless_crashed);
    }

    /// True once the host goes down.
    pub fn is_going_down(&self) -> bool {
        self.gate.is_closed()
    }

    /// Fails unless the module is initialised.
    pub fn ready(&self) -> Result<(), HostError> {
        if self.is_going_down() {
            return Err(HostError::GoingDown);
        }
        match self.lifecycle() {
            Lifecycle::Ready => Ok(()),
            Lifecycle::Updating => Err(HostError::UpdateRunning),
            Lifecycle::Down => Err(HostError::ModuleDown),
            Lifecycle::Gone => Err(HostError::ModuleGone),
            // Since the question above.
            Lifecycle::ShutDown | Lifecycle::Crashed => Err(HostError::GoingDown),
            Lifecycle::Off | Lifecycle::Checked | Lifecycle::BringingUp | Lifecycle::Failed => {
                Err(HostError::NotInitialised)
            }
        }
    }

    /// The state of each CPU.
    pub fn cpus(&self) -> &[CpuSlot] {
        self.cpus.as_ref()
    }

    /// Client numbers of VMX operation.
    pub fn vmx_clients(&self) -> &VmxClients {
        &self.clients
    }

    /// Private KeyIDs.
    pub fn keyids(&self) -> &KeyIdPool {
        &self.keyids
    }

    /// The module's metadata; `None` before it was read, and from the shutdown of a module in an update until
    /// its successor has taken over.
    ///
    /// After an update the version is that of the new module, everything else that of the first one: an
    /// update switches nothing on.
    pub fn sysinfo(&self) -> Option<SysInfo> {
        self.sysinfo.get().filter(SysInfo::is_current)
    }

    /// What the module that was read last told, be it down or gone by now.
    pub(crate) fn last_sysinfo(&self) -> Option<SysInfo> {
        self.sysinfo.get()
    }

    /// Add-on features that are on.
    pub fn opted_in(&self) -> Features0 {
        Features0::from_bits(self.opted_in.load(Ordering::Acquire))
    }

    pub(crate) fn set_opted_in(&self, features: Features0) {
        self.opted_in.store(features.bits(), Ordering::Release);
    }

    /// Where and why the last update failed that got as far as its lockstep; `None` after one that succeeded.
    /// In phase [`crate::UpdatePhase::Shutdown`] nothing was changed.
    pub fn update_failure(&self) -> Option<UpdateFailure> {
        self.failure.get()
    }

    pub(crate) fn failure_cell(&self) -> &FailureCell {
        &self.failure
    }

    /// True while an update runs, from its first check to its end.
    pub fn update_is_running(&self) -> bool {
        self.update_claimed.load(Ordering::Acquire)
    }

    /// Keeps updates out until the claim is dropped.
    pub(crate) fn claim_update(&self) -> Result<UpdateClaim<'_>, HostError> {
        if self.update_claimed.swap(true, Ordering::AcqRel) {
            return Err(HostError::UpdateRunning);
        }
        Ok(UpdateClaim(&self.update_claimed))
    }

    /// Ends an update whose lockstep broke off without an end of its own. A module that was not asked to go
    /// goes on; of any other nothing is known.
    pub(crate) fn settle_update(&self) {
        // A crash that has just begun says itself what it leaves.
        if self.lifecycle() != Lifecycle::Updating || self.is_going_down() {
            return;
        }
        let next = if self.sysinfo().is_some() {
            Lifecycle::Ready
        } else {
            self.gate.module_gone();
            Lifecycle::Gone
        };
        // Refused after a crash, which keeps its own state.
        let _ = self.step(Lifecycle::Updating, next);
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(crate) fn sysinfo_cell(&self) -> &SysInfoCell {
        &self.sysinfo
    }

    /// P-SEAMLDR.
    pub fn seamldr(&self) -> &Seamldr<K> {
        &self.seamldr
    }

    /// True if a partial write to a private line poisons it silently.
    pub fn partial_write_erratum(&self) -> bool {
        self.partial_write_erratum.load(Ordering::Relaxed)
    }

    /// Add-on features that this platform is not fit for. The memory of Connect's extensions is not safe from
    /// the partial writes of a CPU with the erratum.
    pub(crate) fn unfit_addons(&self) -> Features0 {
        if self.partial_write_erratum() { Features0::TDX_CONNECT } else { Features0::EMPTY }
    }

    /// The way to the module.
    pub fn port<'a, S: Seam + ?Sized>(&'a self, seam: &'a S) -> SeamPort<'a, S> {
        SeamPort::new(seam, &self.gate, self.cpus())
    }

    /// VMX operation of the CPUs.
    pub fn vmx<'a, P: Vmx + Processor + ?Sized>(&'a self, platform: &'a P) -> VmxPort<'a, P> {
        VmxPort::new(platform, &self.gate, self.cpus())
    }
}

impl<C: AsRef<[CpuSlot]> + Sync, K: Sync> HostState<C, K> {
    /// Checks the platform on the boot CPU before any call to the module. May be repeated until it
    /// succeeds.
    pub fn early_init<P>(&self, platform: &P) -> Result<(), HostError>
    where
        P: Cpus + Processor + Firmware + ?Sized,
    {
        if self.is_going_down() {
            return Err(HostError::GoingDown);
        }
        if self.lifecycle() != Lifecycle::Off {
            return Ok(());
        }
        on_boot_cpu(platform, &|pin| self.check_platform(platform, pin))?;
        self.partial_write_erratum.store(platform.partial_write_erratum(), Ordering::Relaxed);
        // Somebody else may have come first, with the same result.
        let _ = self.step(Lifecycle::Off, Lifecycle::Checked);
        Ok(())
    }

    fn check_platform<P>(&self, platform: &P, pin: &CpuPin<'_>) -> Result<(), HostError>
    where
        P: Processor + Firmware + ?Sized,
    {
        let split = platform.rdmsr(pin, MsrIndex::IA32_MKTME_KEYID_PARTITIONING);
        let split = split.map(KeyIdPartitioning::from_msr).map_err(|_| HostError::NoTdx)?;
        self.keyids.configure(split)?;
        vmx_basic(platform, pin)?;
        if platform.hibernation_possible() {
            return Err(HostError::HibernationPossible);
        }
        Ok(())
    }
}

/// The right to replace or end the module.
pub(crate) struct UpdateClaim<'a>(&'a AtomicBool);

impl Drop for UpdateClaim<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Runs `visitor` on the lowest-numbered online CPU, whichever that is by the time it gets there.
pub(crate) fn on_boot_cpu<P: Cpus + ?Sized>(platform: &P, visitor: &PerCpu<'_>) -> Result<(), HostError> {
    for _ in 0..platform.possible() {
        let boot = boot_cpu(platform)?;
        match platform.on_cpu(boot, visitor) {
            Err(HostError::CpuOffline { cpu }) if cpu == boot => {}
            done => return done,
        }
    }
    Err(HostError::NoCpuOnline)
}

/// WBINVD everywhere: no line of one key may be written back over memory that has another.
pub(crate) fn write_caches_back<P: Cpus + Processor + ?Sized>(platform: &P) {
    // The visitor does not fail.
    let _ = platform.on_each_cpu(&|pin| {
        platform.wbinvd(pin);
        Ok(())
    });
}

/// The lowest-numbered online CPU.
pub(crate) fn boot_cpu<P: Cpus + ?Sized>(platform: &P) -> Result<CpuNumber, HostError> {
    first_online(platform, |_| true).ok_or(HostError::NoCpuOnline)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_has_the_last_word() {
        let host = HostState::new([CpuSlot::new()], Spin::new());
        host.end(Lifecycle::ShutDown);
        assert_eq!(host.lifecycle(), Lifecycle::ShutDown);
        host.crash();
        assert_eq!(host.lifecycle(), Lifecycle::Crashed);
        host.end(Lifecycle::ShutDown);
        assert_eq!(host.lifecycle(), Lifecycle::Crashed);
        assert!(host.is_going_down());
    }
}
