//! Everything that speaks against an update and can be known before the module is touched.

use tdx_abi::features::Features0;
use tdx_abi::metadata::sys;
use tdx_abi::seamldr::{SeamldrInfo, Version};
use tdx_image::{Image, SigstructRules, Svn};

use super::UpdateOptions;
use crate::cpu::{CpuSlot, VmxBasic, cpuid};
use crate::error::HostError;
use crate::host::{HostState, Lifecycle, on_boot_cpu};
use crate::sync::RawLock;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sysinfo::SysInfo;
use crate::traits::{CpuNumber, CpuPin, Cpus, Platform, Processor};

/// What an update starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preflight {
    /// Version of the module that runs, or that is down.
    pub from: Version,
    /// Its SVN.
    pub running: Svn,
    /// SVN of the image.
    pub image: Svn,
    /// Version of P-SEAMLDR.
    pub loader: Version,
    /// Updates that it still takes.
    pub remaining_updates: u32,
    /// True if the module is down, so that the update begins with SEAMLDR.INSTALL.
    pub module_down: bool,
}

impl<C, K> HostState<C, K>
where
    C: AsRef<[CpuSlot]> + Sync,
    K: RawLock + Sync,
{
    /// Judges whether the module can be replaced by that of `image`, without touching it.
    ///
    /// `refused` is told every reason that speaks against it, in the order in which an update would meet
    /// them; the error is the first of them.
    pub fn preflight<P>(
        &self,
        platform: &P,
        image: &Image<'_>,
        options: &UpdateOptions,
        refused: &mut dyn FnMut(HostError),
    ) -> Result<Preflight, HostError>
    where
        P: Platform + ?Sized,
    {
        let running = self.update_is_running().then_some(HostError::UpdateRunning);
        if let Some(error) = running {
            refused(error);
        }
        // In its lockstep the update would be told of twice.
        let mut others = |error| {
            if running != Some(error) {
                refused(error);
            }
        };
        let judged = self.judge_update(platform, image, options, &mut others);
        running.map_or(judged, Err)
    }

    /// [`Self::preflight`] for the one that holds the claim.
    pub(super) fn judge_update<P>(
        &self,
        platform: &P,
        image: &Image<'_>,
        options: &UpdateOptions,
        refused: &mut dyn FnMut(HostError),
    ) -> Result<Preflight, HostError>
    where
        P: Platform + ?Sized,
    {
        let mut refusals = Refusals { first: None, told: refused };
        let judged = self.look(platform, image, options, &mut refusals);
        match (refusals.first, judged) {
            (Some(first), _) => Err(first),
            (None, judged) => judged,
        }
    }

    fn look<P>(
        &self,
        platform: &P,
        image: &Image<'_>,
        options: &UpdateOptions,
        refusals: &mut Refusals<'_>,
    ) -> Result<Preflight, HostError>
    where
        P: Platform + ?Sized,
    {
        // Without these nothing else can be asked.
        let module_down = self.lifecycle() == Lifecycle::Down;
        if self.is_going_down() || !module_down {
            self.ready().map_err(|error| refusals.add(error))?;
        }
        let module = self.last_sysinfo().ok_or(HostError::NotInitialised);
        let module = module.map_err(|error| refusals.add(error))?;
        if !module.features0().contains(Features0::TD_PRESERVING) {
            refusals.add(HostError::UpdateNotOffered { features0: module.features0().bits() });
        }
        if image.sigstruct().is_debug() && !options.allow_debug {
            refusals.add(HostError::ImageDebug);
        }
        let loader = self.seamldr().info(platform, &self.port(platform));
        let loader = loader.map_err(|error| refusals.add(error));
        if let Some(handoff) = self.handoff_version(platform, &module, module_down) {
            judge_handoff(image, handoff, refusals);
        }
        let svn = image.sigstruct().svn();
        let judged = loader.map(|loader| {
            let running = running_svn(&loader);
            judge_image(image, &loader, running, svn, refusals);
            Preflight {
                from: module.last_version(),
                running,
                image: svn,
                loader: loader.loader_version(),
                remaining_updates: loader.num_remaining_updates.get(),
                module_down,
            }
        });
        judge_cpus(platform, image, options, refusals);
        if let Err(error) = all_online(platform) {
            refusals.add(error);
        }
        // A module that is down has no call inside.
        if !module_down && let Err(error) = self.nothing_suspended() {
            refusals.add(error);
        }
        judged
    }

    /// The hand-off version of the module that runs, asked anew as the one before it may have been updated;
    /// or of what the module left that is down.
    fn handoff_version<P>(&self, platform: &P, kept: &SysInfo, module_down: bool) -> Option<u16>
    where
        P: Platform + ?Sized,
    {
        if module_down {
            return kept.handoff_version();
        }
        let port = self.port(platform);
        let found = Lowest::new();
        // A module that does not tell refuses its shutdown, by name.
        on_boot_cpu(platform, &|pin| {
            if let Some(version) =
                port.sys_rd(pin, sys::MODULE_HV).ok().and_then(|value| u32::try_from(value).ok())
            {
                found.note(pin, version);
            }
            Ok(())
        })
        .ok()?;
        found.found().and_then(|(_, version)| u16::try_from(version).ok())
    }

    /// Fails if a call is interrupted inside the module.
    pub(super) fn nothing_suspended(&self) -> Result<(), HostError> {
        match self.gate().interrupted_calls() {
            0 => Ok(()),
            count => Err(HostError::ResumableCallSuspended { count }),
        }
    }
}

/// Hands refusals on and keeps the first.
struct Refusals<'a> {
    first: Option<HostError>,
    told: &'a mut dyn FnMut(HostError),
}

impl Refusals<'_> {
    fn add(&mut self, error: HostError) -> HostError {
        self.first.get_or_insert(error);
        (self.told)(error);
        error
    }
}

/// Fails unless every CPU that P-SEAMLDR counts is online.
pub(super) fn all_online<P: Cpus + ?Sized>(platform: &P) -> Result<(), HostError> {
    let mut offline = (0..platform.possible()).map(CpuNumber).filter(|&cpu| !platform.is_online(cpu));
    match offline.next() {
        None => Ok(()),
        Some(cpu) => {
            let others = u32::try_from(offline.count()).unwrap_or(u32::MAX - 1);
            Err(HostError::UpdateCpuOffline { cpu, offline: others + 1 })
        }
    }
}

/// The SVN of the loaded module: major in the high byte.
fn running_svn(loader: &SeamldrInfo) -> Svn {
    let [minor, major] = loader.tcb_svn.get().to_le_bytes();
    Svn { major, minor }
}

/// What P-SEAMLDR itself would find, last LP or not.
fn judge_image(image: &Image<'_>, loader: &SeamldrInfo, running: Svn, svn: Svn, refusals: &mut Refusals<'_>) {
    if let Err(reason) = image.sigstruct().check(rules_of(loader)) {
        refusals.add(HostError::SigstructRefused { reason });
    }
    if svn.major != running.major {
        refusals.add(HostError::ImageSvnLineDiffers { running, image: svn });
    } else if svn.minor < running.minor {
        refusals.add(HostError::ImageSvnOlder { running, image: svn });
    }
    if loader.num_remaining_updates.get() == 0 {
        refusals.add(HostError::UpdateLogFull);
    }
}

/// P-SEAMLDR installs no module that does not take what the old one leaves.
fn judge_handoff(image: &Image<'_>, version: u16, refusals: &mut Refusals<'_>) {
    let oldest = image.sigstruct().min_update_handoff_version.get();
    let newest = image.sigstruct().module_handoff_version.get();
    if !(oldest..=newest).contains(&version) {
        refusals.add(HostError::ImageHandoffDiffers { version, oldest, newest });
    }
}

/// Bit of SEAMLDR_INFO.FEATURES0: the leaf SEAMLDR.CLEANUP, which came with 1.5.02.
const CLEANUP_SUPPORTED: u64 = 1 << 1;

fn rules_of(loader: &SeamldrInfo) -> SigstructRules {
    let version = loader.loader_version();
    match (version.major, version.minor) {
        (0 | 1, 0..=4) => SigstructRules::Loader1_0,
        (0 | 1, _) if loader.features0.get() & CLEANUP_SUPPORTED == 0 => SigstructRules::Loader1_5,
        (0 | 1, _) => SigstructRules::Loader1_5_02,
        _ => SigstructRules::Loader2_0,
    }
}

/// The lowest-numbered CPU that shows something, and what: the CPU in bits 63:32.
struct Lowest(AtomicU64);

impl Lowest {
    const NONE: u64 = u64::MAX;

    const fn new() -> Self {
        Self(AtomicU64::new(Self::NONE))
    }

    fn note(&self, pin: &CpuPin<'_>, what: u32) {
        self.0.fetch_min(u64::from(pin.cpu().0) << 32 | u64::from(what), Ordering::Relaxed);
    }

    fn found(&self) -> Option<(CpuNumber, u32)> {
        let word = self.0.load(Ordering::Relaxed);
        #[allow(clippy::cast_possible_truncation)] // Two halves.
        (word != Self::NONE).then_some((CpuNumber((word >> 32) as u32), word as u32))
    }
}

/// What can only be asked on the CPUs themselves.
fn judge_cpus<P>(platform: &P, image: &Image<'_>, options: &UpdateOptions, refusals: &mut Refusals<'_>)
where
    P: Platform + ?Sized,
{
    let [unsupported, large_id, loses_vmcs] = [const { Lowest::new() }; 3];
    let asked = platform.on_each_cpu(&|pin| {
        let signature = platform.cpuid(pin, 1, 0).eax;
        if !image.sigstruct().covers_cpu(signature) {
            unsupported.note(pin, signature);
        }
        let id = x2apic_id(platform, pin);
        if id >= options.x2apic_limit {
            large_id.note(pin, id);
        }
        let basic = platform.rdmsr(pin, VmxBasic::MSR).map(VmxBasic);
        let basic = basic.map_err(|_| HostError::VmxBasicUnreadable { cpu: pin.cpu() })?;
        if !basic.seamret_keeps_vmcs() {
            loses_vmcs.note(pin, 0);
        }
        Ok(())
    });
    if let Err(error) = asked {
        refusals.add(error);
    }
    if let Some((cpu, signature)) = unsupported.found() {
        refusals.add(HostError::ImageCpuUnsupported { cpu, signature });
    }
    if let Some((cpu, _)) = loses_vmcs.found() {
        refusals.add(HostError::SeamretInvdVmcs { cpu });
    }
    if let Some((cpu, id)) = large_id.found().filter(|_| !options.ignore_x2apic_limit) {
        refusals.add(HostError::X2apicIdTooLarge { cpu, id, limit: options.x2apic_limit });
    }
}

/// x2APIC id of the CPU of `pin`, from leaf 0x1F, or 0xB where that is missing.
fn x2apic_id<P: Processor + ?Sized>(platform: &P, pin: &CpuPin<'_>) -> u32 {
    let topology = platform.cpuid(pin, cpuid::V2_TOPOLOGY, 0);
    // EBX counts threads; 0 says that there is no such leaf.
    if topology.ebx == 0 { platform.cpuid(pin, cpuid::TOPOLOGY, 0).edx } else { topology.edx }
}
