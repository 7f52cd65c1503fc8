//! CPUs and memory that come and go while the host runs.

use tdx_abi::PhysRange;

use crate::cpu::{CpuSlot, slot};
use crate::error::HostError;
use crate::host::{HostMemory, HostState, Lifecycle};
use crate::memory::MemoryBlock;
use crate::traits::{CpuNumber, CpuPin, Cpus, LeakCounter, Processor, Seam, Vmx, first_online};
use crate::vmx::VmxClient;

impl<C: AsRef<[CpuSlot]> + Sync, K: Sync> HostState<C, K> {
    /// Judges whether `cpu` may go offline, without doing anything.
    ///
    /// While a TD holds a KeyID each package needs a CPU that can write its caches back. While the module is
    /// down every CPU stays: the update that brings it back needs them all, and none could come again.
    pub fn may_go_offline<P: Cpus + ?Sized>(&self, platform: &P, cpu: CpuNumber) -> Result<(), HostError> {
        slot(self.cpus(), cpu)?;
        if !platform.is_online(cpu) {
            return Err(HostError::CpuOffline { cpu });
        }
        match self.lifecycle() {
            Lifecycle::Updating => return Err(HostError::UpdateRunning),
            Lifecycle::Down => return Err(HostError::ModuleDown),
            _ => {}
        }
        if self.keyids().in_use() == 0 {
            return Ok(());
        }
        let package = platform.package_of(cpu);
        let another = first_online(platform, |other| other != cpu && platform.package_of(other) == package);
        another.map(|_| ()).ok_or(HostError::LastCpuOfPackage { cpu, package })
    }

    /// The last work of a CPU that goes offline, on that CPU.
    pub fn cpu_goes_offline<P>(&self, platform: &P, pin: &CpuPin<'_>) -> Result<(), HostError>
    where
        P: Vmx + Processor + ?Sized,
    {
        self.retire_cpu(platform, pin)?;
        self.vmx(platform).cpu_goes_offline(pin)
    }

    /// The first work of a CPU that came online, on that CPU.
    ///
    /// After an error it must go offline again: VMX is off and its caches are written back.
    pub fn cpu_came_online<P>(&self, platform: &P, pin: &CpuPin<'_>) -> Result<(), HostError>
    where
        P: Seam + Vmx + Processor + ?Sized,
    {
        if self.is_going_down() {
            return Err(HostError::GoingDown);
        }
        let vmx = self.vmx(platform).cpu_came_online(pin);
        let came = vmx.and_then(|()| match self.lifecycle() {
            Lifecycle::Ready => self.start_cpu(platform, pin),
            Lifecycle::Updating => Err(HostError::UpdateRunning),
            Lifecycle::Down => Err(HostError::ModuleDown),
            Lifecycle::Gone => Err(HostError::ModuleGone),
            _ => Ok(()),
        });
        if came.is_err() {
            self.cpu_goes_offline(platform, pin)?;
        }
        came
    }

    /// Judges memory that is about to go online: while TDX is on it must lie inside one TDX memory block.
    /// Going offline is always allowed.
    pub fn memory_may_go_online<B, L>(
        &self,
        memory: &HostMemory<B, L>,
        range: PhysRange,
    ) -> Result<(), HostError>
    where
        B: AsRef<[MemoryBlock]> + AsMut<[MemoryBlock]>,
        L: LeakCounter,
    {
        if self.is_going_down() {
            return Err(HostError::GoingDown);
        }
        memory.blocks.may_go_online(range)
    }

    /// Writes back what the module may have left in this CPU's caches and gives the VMX reference back.
    pub(crate) fn retire_cpu<P>(&self, platform: &P, pin: &CpuPin<'_>) -> Result<(), HostError>
    where
        P: Vmx + Processor + ?Sized,
    {
        if slot(self.cpus(), pin.cpu())?.take_cache_incoherent() {
            platform.wbinvd(pin);
        }
        let vmx = self.vmx(platform);
        match vmx.references(pin, VmxClient::TDX) {
            0 => Ok(()),
            _ => vmx.put(pin, VmxClient::TDX),
        }
    }
}
