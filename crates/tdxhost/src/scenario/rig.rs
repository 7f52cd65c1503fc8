//! A machine and the host side on it, as a scenario handles them.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::thread;

use pcie::FunctionId;
use serde_json::json;
use tdx_abi::features::Features0;
use tdx_abi::metadata::sys;
use tdx_abi::seamldr::Version;
use tdx_abi::{KeyId, PhysAddr, PhysRange};
use tdx_host::seamcall::SeamcallCause;
use tdx_host::traits::{CpuNumber, CpuPin, Cpus as _};
use tdx_host::tsm::TsmError;
use tdx_host::update::{UpdateFailure, UpdatePhase};
use tdx_host::{HostError, Lifecycle, SuspendKind, TdmrRules};
use tdx_machine::{Fault, FaultError, LpIndex, PlatformSpec, SpecError};
use tdx_module::profile::{self, Profile};
use tdx_platform::{CpuMode, HostOptions, Platform, TdxHost};

use super::device::{TSM, device};
use super::file::SleepMode;
use super::phases::PhaseClock;
use super::report::PhaseReport;
use super::run::Yield;
use super::update::{End, PhaseName, Strike, UpdateStep};
use crate::dsm::outside;
use crate::sysfs::cpu_list;
use crate::transcript::Transcript;
use crate::update::version::same_line;

/// State of a machine without a host.
const POWERED_OFF: &str = "powered-off";

/// Why a step failed. Names are stable: scenarios expect them.
#[derive(Debug, thiserror::Error)]
pub enum RigError {
    /// The host side says no.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The platform does not describe a machine.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The fault cannot be injected.
    #[error(transparent)]
    Fault(#[from] FaultError),
    /// The step names a fault that is none.
    #[error("no fault of the catalogue: {}", .0.message().replace('\n', " "))]
    UnknownFault(toml::de::Error),
    /// The step names a feature that is none.
    #[error("{0} is no TDX_FEATURES0 bit")]
    UnknownFeature(String),
    /// The machine is off.
    #[error("the machine is off: power it on first")]
    PoweredOff,
    /// The machine is on.
    #[error("the machine is on already: use power-cycle")]
    PoweredOn,
    /// No KeyID was allocated.
    #[error("no KeyID was allocated by this scenario")]
    NoKeyId,
    /// The range leaves 64 bits.
    #[error("no memory range has {size:#x} bytes from {start:#x}")]
    BadRange {
        /// First address.
        start: u64,
        /// Bytes.
        size: u64,
    },
    /// An `update` step does not say what to install, or says something that cannot be built.
    #[error("no image to install: {0}")]
    BadImage(String),
    /// The machine lost its power during the step.
    #[error("the machine lost its power when {0}: use power-cycle")]
    PowerLost(&'static str),
    /// A device refuses, or the host refuses a device.
    #[error(transparent)]
    Tsm(#[from] TsmError),
    /// The step names no device.
    #[error("{0}")]
    BadDevice(String),
    /// Values did not arrive.
    #[error("{device}: {lost} of {packets} values were lost on the way")]
    TrafficLost {
        /// The device.
        device: FunctionId,
        /// Values that came back otherwise.
        lost: u32,
        /// Values that were written.
        packets: u32,
    },
    /// What was to happen in the middle did not.
    #[error("the device was not given more than {exchanges} data objects")]
    NotThatFar {
        /// Objects that were to pass before.
        exchanges: u64,
    },
    /// What is seen is not what was expected.
    #[error("{0}")]
    Mismatch(String),
}

impl RigError {
    /// The names that are not those of [`HostError`].
    pub const NAMES: &[&str] = &[
        "bad-platform",
        "fault-refused",
        "unknown-fault",
        "unknown-feature",
        "powered-off",
        "powered-on",
        "no-keyid",
        "bad-range",
        "bad-image",
        "power-lost",
        "bad-device",
        "traffic-lost",
        "not-that-far",
        "mismatch",
    ];

    /// Stable name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Host(error) => error.name(),
            Self::Spec(_) => "bad-platform",
            Self::Fault(_) => "fault-refused",
            Self::UnknownFault(_) => "unknown-fault",
            Self::UnknownFeature(_) => "unknown-feature",
            Self::PoweredOff => "powered-off",
            Self::PoweredOn => "powered-on",
            Self::NoKeyId => "no-keyid",
            Self::BadRange { .. } => "bad-range",
            Self::BadImage(_) => "bad-image",
            Self::PowerLost(_) => "power-lost",
            Self::Tsm(error) => error.name(),
            Self::BadDevice(_) => "bad-device",
            Self::TrafficLost { .. } => "traffic-lost",
            Self::NotThatFar { .. } => "not-that-far",
            Self::Mismatch(_) => "mismatch",
        }
    }

    /// What to try.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Host(error) => Some(error.advice()),
            Self::Tsm(error) => Some(error.advice()),
            _ => None,
        }
    }
}

impl From<SleepMode> for SuspendKind {
    fn from(mode: SleepMode) -> Self {
        match mode {
            SleepMode::S3 => Self::S3,
            SleepMode::S2idle => Self::S2idle,
            SleepMode::Hibernate => Self::Hibernate,
        }
    }
}

/// When power was lost.
const fn power_lost_at(phase: UpdatePhase) -> &'static str {
    match phase {
        UpdatePhase::Shutdown => "the update began phase shutdown",
        UpdatePhase::Install => "the update began phase install",
        UpdatePhase::Init => "the update began phase init",
        UpdatePhase::Update => "the update began phase update",
    }
}

/// The features with these names.
fn features(names: &[String]) -> Result<Features0, RigError> {
    names.iter().try_fold(Features0::default(), |all, name| {
        let bit = Features0::from_name(name).ok_or_else(|| RigError::UnknownFeature(name.clone()))?;
        Ok(all.union(bit))
    })
}

/// A machine that may be off, and the host side of its present boot.
pub struct Rig {
    spec: PlatformSpec,
    seed: u64,
    rules: TdmrRules,
    bar: bool,
    each_phase: Option<fn(&PhaseReport)>,
    platform: Option<Arc<Platform>>,
    host: Option<TdxHost>,
    keys: Vec<KeyId>,
    /// What ends the host in the next update.
    next_end: Option<(UpdatePhase, End)>,
    /// What looks at all that the host asks for.
    pub(super) transcript: Option<Arc<Transcript>>,
}

impl Rig {
    /// A machine that is off.
    pub fn new(
        spec: PlatformSpec,
        seed: u64,
        rules: Option<TdmrRules>,
        bar: bool,
        each_phase: Option<fn(&PhaseReport)>,
    ) -> Self {
        let rules = rules.unwrap_or_default();
        Self {
            spec,
            seed,
            rules,
            bar,
            each_phase,
            platform: None,
            host: None,
            keys: Vec::new(),
            next_end: None,
            transcript: None,
        }
    }

    /// Keeps a transcript from power-on.
    #[must_use]
    pub fn keep(mut self, transcript: Option<Arc<Transcript>>) -> Self {
        self.transcript = transcript;
        self
    }

    fn platform(&self) -> Result<&Arc<Platform>, RigError> {
        self.platform.as_ref().ok_or(RigError::PoweredOff)
    }

    pub(super) fn host(&self) -> Result<&TdxHost, RigError> {
        self.host.as_ref().ok_or(RigError::PoweredOff)
    }

    fn boot(&mut self, options: HostOptions) -> Result<(), RigError> {
        let platform = Arc::clone(self.platform()?);
        let options = HostOptions { tdmr_rules: self.rules, ..options };
        self.host = Some(TdxHost::new(platform, options));
        self.keys.clear();
        self.next_end = None;
        Ok(())
    }

    /// Switches the machine on.
    pub fn power_on(&mut self) -> Result<(), RigError> {
        if self.platform.is_some() {
            return Err(RigError::PoweredOn);
        }
        let machine = outside::power_on(self.spec.clone(), self.seed)?;
        let platform = Platform::new(Arc::new(machine), CpuMode::Sequential);
        if let Some(transcript) = &self.transcript {
            // Nobody else looks at the calls of a platform that is new.
            platform.observe_calls(Arc::clone(transcript) as _);
            platform.machine().observe_devices(Some(Arc::clone(transcript) as _));
        }
        self.platform = Some(Arc::new(platform));
        self.boot(HostOptions::default())
    }

    /// Switches it off and on.
    pub fn power_cycle(&mut self) -> Result<(), RigError> {
        // The old boot's state goes first: its pages are part of the memory that is reset.
        self.host = None;
        self.platform()?.power_cycle();
        self.boot(HostOptions::default())
    }

    /// Brings the module up, with the features `opt_in` on besides those that are on anyway, and `disable` off.
    pub fn bring_up(
        &mut self,
        opt_in: &[String],
        disable: &[String],
        product: &mut Yield,
    ) -> Result<(), RigError> {
        if !opt_in.is_empty() || !disable.is_empty() {
            let (opt_in, disabled) = (features(opt_in)?, features(disable)?);
            self.boot(HostOptions { opt_in, disabled, ..HostOptions::default() })?;
        }
        let host = self.host()?;
        let clock = PhaseClock::new(self.bar, self.each_phase);
        let result = host.bring_up(&clock);
        product.phases = clock.finish();
        let report = result?;
        for (name, value) in [
            ("module_version", json!(report.version.to_string())),
            ("cpus", json!(report.cpus)),
            ("packages", json!(report.packages)),
            ("memory_bytes", json!(report.memory_bytes)),
            ("tdmrs", json!(report.tdmrs)),
            ("reserved_areas", json!(report.reserved_areas)),
            ("pamt_kb", json!(report.pamt_kb())),
            ("tdmr_init_calls", json!(report.tdmr_init_calls)),
            ("opted_in", json!(report.opted_in.names().collect::<Vec<_>>())),
        ] {
            product.facts.insert(name.to_owned(), value);
        }
        Ok(())
    }

    /// Takes a CPU offline.
    pub fn offline(&self, cpu: u32) -> Result<(), RigError> {
        Ok(self.host()?.cpu_offline(CpuNumber(cpu))?)
    }

    /// Brings a CPU online.
    pub fn online(&self, cpu: u32) -> Result<(), RigError> {
        Ok(self.host()?.cpu_online(CpuNumber(cpu))?)
    }

    /// Takes a guest KeyID, as the creation of a TD would.
    pub fn allocate_keyid(&mut self, product: &mut Yield) -> Result<(), RigError> {
        let key = self.host()?.state().keyids().allocate()?;
        product.facts.insert("keyid".to_owned(), json!(key.number()));
        self.keys.push(key);
        Ok(())
    }

    /// Gives the KeyID back that was taken last.
    pub fn free_keyid(&mut self) -> Result<(), RigError> {
        let key = self.keys.pop().ok_or(RigError::NoKeyId)?;
        Ok(self.host()?.state().keyids().free(key)?)
    }

    /// Puts the host to sleep.
    pub fn suspend(&self, kind: SuspendKind) -> Result<(), RigError> {
        Ok(self.host()?.suspend(kind)?)
    }

    /// Wakes it up.
    pub fn resume(&self) -> Result<(), RigError> {
        Ok(self.host()?.resume()?)
    }

    /// Offers memory.
    pub fn hotplug_memory(&self, start: u64, size: u64) -> Result<(), RigError> {
        let range = PhysRange::from_size(PhysAddr::new(start), size);
        Ok(self.host()?.memory_may_go_online(range.ok_or(RigError::BadRange { start, size })?)?)
    }

    /// Shuts the host down.
    pub fn shut_down(&self) -> Result<(), RigError> {
        Ok(self.host()?.shutdown()?)
    }

    /// Crashes the host.
    pub fn crash(&self) -> Result<(), RigError> {
        self.host()?.crash();
        Ok(())
    }

    /// Gives the machine a fault.
    pub fn inject(&self, fault: &toml::Value) -> Result<(), RigError> {
        let fault: Fault = fault.clone().try_into().map_err(RigError::UnknownFault)?;
        Ok(self.platform()?.machine().inject(fault)?)
    }

    /// Replaces the module.
    pub fn update(&mut self, step: &UpdateStep, product: &mut Yield) -> Result<(), RigError> {
        let image = step.image().map_err(RigError::BadImage)?;
        let options = step.options();
        for _ in 1..step.times.map_or(1, NonZeroU32::get) {
            self.host()?.update(&image, &options, &())?;
        }
        let end = self.next_end.take();
        let host = self.host()?;
        let strike = Strike::new(host, end);
        let meanwhile = step.meanwhile.iter().map(|name| device(name)).collect::<Result<Vec<_>, _>>()?;
        let result = thread::scope(|scope| {
            let connect = |&id: &FunctionId| {
                let begun = strike.signal();
                // Nothing comes if the update does not get that far.
                scope.spawn(move || begun.recv().ok().map(|()| host.connect(id, TSM)))
            };
            let connecting: Vec<_> = meanwhile.iter().map(connect).collect();
            let result = host.update(&image, &options, &strike);
            strike.hang_up();
            let ended = connecting.into_iter().map(|thread| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).transpose()
            });
            let connected: Result<Vec<_>, TsmError> = ended.collect();
            (result, connected)
        });
        let (result, connected) = result;
        let lost_power = end.filter(|&(_, end)| end == End::PowerLoss && strike.has_struck());
        product.phases = strike.phases(host.platform().possible());
        if let Some((at, _)) = lost_power {
            return Err(RigError::PowerLost(power_lost_at(at)));
        }
        let report = result?;
        connected?;
        for (name, value) in [
            ("from", json!(report.from.to_string())),
            ("to", json!(report.to.to_string())),
            ("cpus", json!(report.cpus)),
            ("was_down", json!(report.was_down)),
            ("remaining_updates", json!(report.remaining_updates)),
            ("opted_in", json!(report.opted_in.names().collect::<Vec<_>>())),
        ] {
            product.facts.insert(name.to_owned(), value);
        }
        Ok(())
    }

    /// The release that an operator of this machine would take next: the newest of the running line that
    /// is made for its CPUs, or the synthetic module's next update.
    pub fn next_release(&self) -> Result<UpdateStep, RigError> {
        let running = self.host()?.sysinfo().ok_or(HostError::NotInitialised)?.version();
        let cpu = self.platform()?.machine().cpuid(LpIndex(0), 1, 0).eax;
        let covers = |profile: &Profile| profile.cpus.iter().any(|entry| entry >> 4 == cpu >> 4);
        let in_line = profile::all().filter(|profile| same_line(profile.version, running));
        let newest =
            in_line.filter(|profile| !profile.synthetic && covers(profile)).max_by_key(|p| p.version);
        let (version, profile) = if let Some(newest) = newest {
            (newest.version, newest.name.to_owned())
        } else {
            let update = running.update.saturating_add(1);
            (Version { update, ..running }, self.spec.module.profile.clone())
        };
        let version = Some(version.to_string());
        Ok(UpdateStep { version, profile: Some(profile), ..UpdateStep::default() })
    }

    /// Lets the next update fail in a phase on a CPU.
    pub fn fail_update(&self, at: PhaseName, cpu: u32, status: Option<&str>) -> Result<(), RigError> {
        self.inject(&at.fault(cpu, status))
    }

    /// Lets the next update end the host when it begins a phase.
    pub fn end_update(&mut self, at: PhaseName, end: End) -> Result<(), RigError> {
        self.host()?;
        self.next_end = Some((at.into(), end));
        Ok(())
    }

    /// Calls the module as any of its users would.
    pub fn call_module(&self) -> Result<(), RigError> {
        let host = self.host()?;
        let call = |pin: &CpuPin<'_>| {
            let answer = host.sys_rd(pin, sys::MAJOR_VERSION);
            answer.map(|_| ()).map_err(|error| match error.cause {
                SeamcallCause::Down => HostError::ModuleDown,
                SeamcallCause::Gone => HostError::ModuleGone,
                SeamcallCause::GoingDown => HostError::GoingDown,
                _ => HostError::MetadataReadFailed { field: sys::MAJOR_VERSION, error },
            })
        };
        Ok(host.platform().on_cpu(CpuNumber(0), &call)?)
    }

    /// Where the last update stopped.
    pub fn update_failure(&self) -> Option<UpdateFailure> {
        self.host.as_ref()?.state().update_failure()
    }

    /// Updates that P-SEAMLDR still takes.
    pub fn remaining_updates(&self) -> Option<u32> {
        let info = self.host.as_ref()?.seamldr_info().ok()?;
        Some(info.num_remaining_updates.get())
    }

    /// Add-on features that are on.
    pub fn opted_in(&self) -> Option<Vec<&'static str>> {
        Some(self.host.as_ref()?.state().opted_in().names().collect())
    }

    /// Takes the device away.
    pub fn remove_device(&self) -> Result<(), RigError> {
        self.host()?.remove_device();
        Ok(())
    }

    /// Value of an attribute of the device, without a newline.
    pub fn read_attribute(&self, name: &str) -> Result<String, RigError> {
        let host = self.host()?;
        let value = host.device().ok_or(HostError::DeviceGone)?.read(name)?;
        Ok(value.trim_end().to_owned())
    }

    /// Where the host is in its life.
    pub fn state(&self) -> &'static str {
        self.host.as_ref().map_or(POWERED_OFF, |host| host.status().lifecycle.name())
    }

    /// What [`Rig::state`] can say.
    pub fn states() -> impl Iterator<Item = &'static str> + Clone {
        std::iter::once(POWERED_OFF).chain(Lifecycle::ALL.into_iter().map(Lifecycle::name))
    }

    /// True while the device is there.
    pub fn device_exists(&self) -> bool {
        self.host.as_ref().is_some_and(|host| host.device().is_some())
    }

    /// Names of the device's attributes.
    pub fn attributes(&self) -> Vec<&'static str> {
        let device = self.host.as_ref().and_then(TdxHost::device);
        device.map(|device| device.attributes().map(|attribute| attribute.name).collect()).unwrap_or_default()
    }

    /// Calls of TDH.SYS.TDMR.INIT that bring-up needed; those that met a busy lock and were repeated do
    /// not count.
    pub fn tdmr_init_calls(&self) -> Option<u64> {
        Some(self.host.as_ref()?.status().report?.tdmr_init_calls)
    }

    /// Kilobytes of PAMT, once bring-up succeeded.
    pub fn pamt_kb(&self) -> Option<u64> {
        Some(self.host.as_ref()?.status().report?.pamt_kb())
    }

    /// TDMRs, once bring-up succeeded.
    pub fn tdmrs(&self) -> Option<usize> {
        Some(self.host.as_ref()?.status().report?.tdmrs)
    }

    /// 4 KiB pages that were lost.
    pub fn leaked_pages(&self) -> Option<u64> {
        Some(self.platform.as_ref()?.page_accounts().leaked / tdx_abi::PAGE_SIZE)
    }

    /// CPUs online in the kernel's list format.
    pub fn online_cpus(&self) -> Option<String> {
        Some(cpu_list(self.platform.as_ref()?.online_cpus().iter().map(|cpu| cpu.0)))
    }
}
