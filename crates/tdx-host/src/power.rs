//! Suspend, orderly shutdown and crash.

use core::fmt;

use crate::cpu::CpuSlot;
use crate::error::HostError;
use crate::host::{HostMemory, HostState, Lifecycle, on_boot_cpu};
use crate::memory::MemoryBlock;
use crate::tdmr::TdmrLimits;
use crate::traits::{ConnectPlatform, CpuPin, Cpus, LogLevel, Platform, Processor, Vmx};

/// A way to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SuspendKind {
    /// Suspend-to-idle: CPUs keep their state.
    S2idle,
    /// Suspend-to-RAM: CPUs and keys lose power.
    S3,
    /// Hibernation: memory loses power too.
    Hibernate,
}

impl fmt::Display for SuspendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::S2idle => "suspend-to-idle",
            Self::S3 => "suspend-to-RAM (S3)",
            Self::Hibernate => "hibernation",
        })
    }
}

impl<C: AsRef<[CpuSlot]> + Sync, K: Sync> HostState<C, K> {
    /// Judges a way to sleep. Suspend-to-idle leaves VMX on and needs nothing; the others would lose the
    /// module's keys.
    pub fn may_suspend(&self, kind: SuspendKind) -> Result<(), HostError> {
        if self.is_going_down() {
            return Err(HostError::GoingDown);
        }
        // Pages keep their keys while the module is down, and even when it is gone.
        let keys_in_use = match self.lifecycle() {
            Lifecycle::BringingUp
            | Lifecycle::Ready
            | Lifecycle::Updating
            | Lifecycle::Down
            | Lifecycle::Gone => true,
            Lifecycle::Off
            | Lifecycle::Checked
            | Lifecycle::Failed
            | Lifecycle::ShutDown
            | Lifecycle::Crashed => false,
        };
        if keys_in_use && kind != SuspendKind::S2idle {
            return Err(HostError::SuspendRefused { kind });
        }
        Ok(())
    }

    /// Ends the module in order: TDH.SYS.DISABLE, caches written back, VMX off on every CPU.
    ///
    /// IOMMUs go out of trusted mode before, so that the next kernel finds them as the firmware left them;
    /// whoever registered a TSM has unregistered it by then.
    ///
    /// The module's pages become ordinary memory again if it took leave; a module without the leaf, or one
    /// that a failed update left down, keeps them until the machine is reset. Refused while an update runs.
    pub fn shutdown<P, B>(&self, platform: &P, memory: &mut HostMemory<B, P::Leaks>) -> Result<(), HostError>
    where
        P: ConnectPlatform + ?Sized,
        B: AsRef<[MemoryBlock]> + AsMut<[MemoryBlock]>,
    {
        let _no_update = self.claim_update()?;
        let was_ready = self.lifecycle() == Lifecycle::Ready;
        if was_ready {
            self.connect_exit(platform, &mut memory.connect);
        }
        let disabled = was_ready && self.disable_module(platform);
        // Shut down before, or crashed: that path takes the CPUs down, and no page is used again.
        if self.is_going_down() {
            return Err(HostError::GoingDown);
        }
        self.end(Lifecycle::ShutDown);
        platform.on_each_cpu(&|pin| self.retire_cpu(platform, pin))?;
        if let Some(info) = self.last_sysinfo().filter(|_| disabled) {
            let whole = |_| u64::MAX;
            let clear = self.partial_write_erratum();
            memory.tdmrs.reclaim(platform, clear, &TdmrLimits::of(&info), whole);
            memory.reclaim_pool(platform);
            memory.blocks.clear();
        }
        Ok(())
    }

    /// TDH.SYS.DISABLE; false if the module does not take it, which does not stop a shutdown.
    fn disable_module<P: Platform + ?Sized>(&self, platform: &P) -> bool {
        let port = self.port(platform);
        let disabled = on_boot_cpu(platform, &|pin| {
            port.sys_disable(pin).map_err(|error| HostError::DisableFailed { error })
        });
        if let Err(error) = disabled {
            platform.log(LogLevel::Warning, format_args!("{error}"));
        }
        disabled.is_ok()
    }

    /// Ends everything in a crash: takes no lock, waits for nobody. No call to the module is made after
    /// it.
    pub fn crash(&self) {
        self.end(Lifecycle::Crashed);
    }

    /// What each CPU does in a crash, after [`Self::crash`].
    pub fn crash_on_cpu<P>(&self, platform: &P, pin: &CpuPin<'_>)
    where
        P: Vmx + Processor + ?Sized,
    {
        self.vmx(platform).emergency_off(pin);
    }

    /// [`Self::crash`] on this CPU and [`Self::crash_on_cpu`] on all of them.
    pub fn crash_everywhere<P>(&self, platform: &P)
    where
        P: Cpus + Vmx + Processor + ?Sized,
    {
        self.crash();
        // The visitor does not fail.
        let _ = platform.on_each_cpu(&|pin| {
            self.crash_on_cpu(platform, pin);
            Ok(())
        });
    }
}
