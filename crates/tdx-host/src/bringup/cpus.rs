//! The part of bring-up that runs on every CPU, at boot and whenever one comes online later.

use crate::sync::atomic::{AtomicU64, Ordering};

use tdx_abi::msr::MsrIndex;
use tdx_abi::status::StatusCode;

use super::{Phase, Walk, transport};
use crate::cpu::{CpuSlot, cpuid, slot};
use crate::error::{CpuFeature, CpuidSubleaf, HostError};
use crate::host::HostState;
use crate::seamcall::{SeamPort, SeamcallError};
use crate::traits::{CpuNumber, CpuPin, Cpus, Platform, Processor, Seam, Vmx};
use crate::vmx::VmxClient;

impl<C, K, P> Walk<'_, C, K, P>
where
    C: AsRef<[CpuSlot]> + Sync,
    K: Sync,
    P: Platform + ?Sized,
{
    /// Looks for the CPU features without which nothing is tried.
    pub(super) fn check_features(&self) -> Result<(), HostError> {
        self.progress.phase_started(Phase::PlatformChecks, u64::from(self.platform.possible()));
        let checked = AtomicU64::new(0);
        self.platform.on_each_cpu(&|pin| {
            checked.fetch_add(1, Ordering::Relaxed);
            match missing_feature(self.platform, pin) {
                Some(feature) => Err(HostError::CpuFeatureMissing { feature, cpu: pin.cpu() }),
                None => Ok(()),
            }
        })?;
        self.progress.phase_done(Phase::PlatformChecks, checked.into_inner());
        Ok(())
    }

    /// Makes every online CPU known to the module; how many there are.
    pub(super) fn start_cpus(&self) -> Result<u64, HostError> {
        self.progress.phase_started(Phase::CpuInit, u64::from(self.platform.possible()));
        let started = AtomicU64::new(0);
        self.platform.on_each_cpu(&|pin| {
            self.host.start_cpu(self.platform, pin)?;
            started.fetch_add(1, Ordering::Relaxed);
            self.progress.advanced(Phase::CpuInit, 1);
            Ok(())
        })?;
        let started = started.into_inner();
        self.progress.phase_done(Phase::CpuInit, started);
        Ok(started)
    }

    /// Gives the VMX references back that bring-up took.
    pub(super) fn stop_cpus(&self) {
        self.host.stop_cpus(self.platform);
    }
}

impl<C: AsRef<[CpuSlot]> + Sync, K: Sync> HostState<C, K> {
    /// VMXON, TDH.SYS.INIT if nobody has called it, TDH.SYS.LP.INIT. After an error the caller gives the
    /// VMX reference back, if it was taken.
    pub(crate) fn start_cpu<P>(&self, platform: &P, pin: &CpuPin<'_>) -> Result<(), HostError>
    where
        P: Seam + Vmx + Processor + ?Sized,
    {
        let slot = slot(self.cpus(), pin.cpu())?;
        self.vmx(platform).get(pin, VmxClient::TDX)?;
        let port = self.port(platform);
        let started = self.init_module_once(&port, pin).and_then(|()| init_lp(&port, pin, slot));
        started.map_err(|error| look_at_seamrr(platform, pin, error))
    }

    /// Gives the VMX reference of TDX back on every online CPU that has one.
    pub(crate) fn stop_cpus<P>(&self, platform: &P)
    where
        P: Cpus + Vmx + Processor + ?Sized,
    {
        let vmx = self.vmx(platform);
        // Only CPUs with a reference give one back, so that none can be refused.
        let _ = platform.on_each_cpu(&|pin| match vmx.references(pin, VmxClient::TDX) {
            0 => Ok(()),
            _ => vmx.put(pin, VmxClient::TDX),
        });
    }

    /// TDH.SYS.INIT once for the machine; its result, good or bad, is everybody's.
    fn init_module_once<S: Seam + ?Sized>(
        &self,
        port: &SeamPort<'_, S>,
        pin: &CpuPin<'_>,
    ) -> Result<(), HostError> {
        let words = self.sys_init.get_or_init(|| encode(port.sys_init(pin), pin.cpu()));
        decode(words).map_err(|(error, cpu)| judge_sys_init(error, cpu))
    }

    /// TDH.SYS.INIT of a module that was just installed; from here on its result is everybody's. No other
    /// CPU asks meanwhile.
    pub(crate) fn init_new_module<S: Seam + ?Sized>(
        &self,
        port: &SeamPort<'_, S>,
        pin: &CpuPin<'_>,
    ) -> Result<(), SeamcallError> {
        self.sys_init.reset();
        decode(self.sys_init.get_or_init(|| encode(port.sys_init(pin), pin.cpu())))
            .map_err(|(error, _)| error)
    }
}

/// Bits of IA32_SEAMRR_PHYS_MASK.
mod seamrr {
    pub(super) const LOCKED: u64 = 1 << 10;
    pub(super) const ENABLED: u64 = 1 << 11;
}

/// A SEAMCALL that reached nobody has a cause that firmware shows in the SEAM range register.
fn look_at_seamrr<P: Processor + ?Sized>(platform: &P, pin: &CpuPin<'_>, found: HostError) -> HostError {
    let (HostError::SeamDisabled { error } | HostError::ModuleNotLoaded { error }) = found else {
        return found;
    };
    match platform.rdmsr(pin, MsrIndex::IA32_SEAMRR_PHYS_MASK) {
        Ok(mask) if mask & seamrr::ENABLED == 0 => HostError::SeamrrNotEnabled { mask, error },
        Ok(mask) if mask & seamrr::LOCKED == 0 => HostError::SeamrrNotLocked { mask, error },
        Ok(_) | Err(_) => found,
    }
}

fn missing_feature<P: Processor + ?Sized>(platform: &P, pin: &CpuPin<'_>) -> Option<CpuFeature> {
    let one = platform.cpuid(pin, 1, 0);
    let seven = platform.cpuid(pin, 7, 0);
    if one.ecx & cpuid::LEAF_1_ECX_XSAVE == 0 {
        return Some(CpuFeature::Xsave);
    }
    if seven.ecx & cpuid::LEAF_7_ECX_MOVDIR64B == 0 {
        return Some(CpuFeature::Movdir64b);
    }
    (one.edx & cpuid::LEAF_1_EDX_SELF_SNOOP == 0).then_some(CpuFeature::SelfSnoop)
}

fn init_lp<S: Seam + ?Sized>(
    port: &SeamPort<'_, S>,
    pin: &CpuPin<'_>,
    slot: &CpuSlot,
) -> Result<(), HostError> {
    if slot.lp_initialised() {
        return Ok(());
    }
    let cpu = pin.cpu();
    port.sys_lp_init(pin).map_err(|error| judge(error, cpu, HostError::LpInitFailed { cpu, error }))?;
    slot.set_lp_initialised();
    Ok(())
}

fn judge_sys_init(error: SeamcallError, cpu: CpuNumber) -> HostError {
    judge(error, cpu, HostError::SysInitFailed { error })
}

/// Names the refusals that say what to change.
fn judge(error: SeamcallError, cpu: CpuNumber, otherwise: HostError) -> HostError {
    let Some(status) = error.status() else {
        return transport(error).unwrap_or(otherwise);
    };
    let msr = MsrIndex(status.detail());
    // RCX of a CPUID refusal: leaf in bits 31:0, sub-leaf above.
    #[allow(clippy::cast_possible_truncation)]
    let (leaf, subleaf) = (error.rcx as u32, CpuidSubleaf((error.rcx >> 32) as u32));
    match status.code() {
        StatusCode::INCORRECT_MSR_VALUE => HostError::IncorrectMsr { msr, cpu, error },
        StatusCode::INCONSISTENT_MSR => HostError::InconsistentMsr { msr, cpu, error },
        StatusCode::INCORRECT_CPUID_VALUE => HostError::IncorrectCpuid { leaf, subleaf, error },
        StatusCode::INCONSISTENT_CPUID_FIELD => HostError::InconsistentCpuid { leaf, subleaf, cpu, error },
        _ => otherwise,
    }
}

/// The result of TDH.SYS.INIT as words that all CPUs can share; the last one is 0 after success.
fn encode(result: Result<(), SeamcallError>, cpu: CpuNumber) -> [u64; 7] {
    let Err(error) = result else { return [0; 7] };
    let [cause, value, leaf, rcx, rdx] = error.to_words();
    [cause, value, leaf, rcx, rdx, u64::from(cpu.0), 1]
}

fn decode([cause, value, leaf, rcx, rdx, cpu, failed]: [u64; 7]) -> Result<(), (SeamcallError, CpuNumber)> {
    if failed == 0 {
        return Ok(());
    }
    let error = SeamcallError::from_words([cause, value, leaf, rcx, rdx]);
    Err((error, CpuNumber(u32::try_from(cpu).unwrap_or(u32::MAX))))
}
