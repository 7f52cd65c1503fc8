//! A software host as the tree and the API see it.

mod connect;
mod hardware;
mod phases;

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use anyhow::Context as _;
use pcie::FunctionId;
use tdx_abi::KeyIdPartitioning;
use tdx_abi::msr::MsrIndex;
use tdx_host::traits::LogLevel;
use tdx_host::tsm::{Refresh, TsmError};
use tdx_host::{ConnectState, HostError, Lifecycle, TdmrRules};
use tdx_machine::{LpIndex, Machine};
use tdx_module::ModuleState;
use tdx_module::inspect::{KeyRange, KeyState, TdmrInspection};
use tdx_platform::{CpuMode, HostOptions, LinkView, Platform, TdxHost, UeventRecord, Uploader};

use self::phases::Phases;
use super::{DeviceInstance, Errno, HostView, OfferedAttribute, cpu_list};
use crate::api::{
    CpuFacts, ErrorFacts, HostFacts, HostSource, HostState, KeyIdFacts, KeyRangeFacts, LogLine, ModuleFacts,
    PlatformFacts, TdmrFacts, UpdateFacts,
};
use crate::cmd::platform;
use crate::doctor::Snapshot;
use crate::dsm::outside;
use crate::serve::ServedHost;

/// One boot of a software machine with its host side.
pub struct SoftwareHost {
    machine: Arc<Machine>,
    host: Arc<TdxHost>,
    uploader: Uploader,
    seed: u64,
    phases: Phases,
    failure: OnceLock<HostError>,
    started: Instant,
}

impl SoftwareHost {
    /// Switches on the platform of a preset's name or of a file.
    pub fn power_on(name: &str, seed: u64, tdmr_rules: TdmrRules) -> anyhow::Result<Self> {
        let spec = platform::load(name)?;
        let machine = outside::power_on(spec, seed).with_context(|| format!("platform {name}"))?;
        let machine = Arc::new(machine);
        let platform = Platform::new(Arc::clone(&machine), CpuMode::Sequential);
        let host = TdxHost::new(Arc::new(platform), HostOptions { tdmr_rules, ..HostOptions::default() });
        let host = Arc::new(host);
        let uploader = Uploader::new(Arc::<TdxHost>::clone(&host));
        let (phases, failure, started) = (Phases::default(), OnceLock::new(), Instant::now());
        Ok(Self { machine, host, uploader, seed, phases, failure, started })
    }

    fn cpus_where(&self, wanted: impl Fn(LpIndex) -> bool) -> String {
        cpu_list(self.machine.lps().iter().map(|lp| lp.index).filter(|&lp| wanted(lp)).map(|lp| lp.0))
    }
}

impl ServedHost for SoftwareHost {
    fn bring_up(&self) -> Result<(), ErrorFacts> {
        match self.host.bring_up(&self.phases) {
            Ok(_) => Ok(()),
            Err(error) => {
                self.phases.fail();
                Err(self.failure.get_or_init(|| error).into())
            }
        }
    }

    fn tick(&self) {
        // The machine's own time passes only while somebody waits for a device.
        self.host.tick(self.started.elapsed());
    }

    fn shut_down(&self) -> Result<(), ErrorFacts> {
        match self.host.state().lifecycle() {
            Lifecycle::Ready | Lifecycle::Updating | Lifecycle::Down => {
                self.host.shutdown().map_err(|error| (&error).into())
            }
            _ => Ok(()),
        }
    }
}

impl HostView for SoftwareHost {
    fn device(&self) -> Option<DeviceInstance> {
        // One boot registers its device once.
        self.host.device().map(|_| DeviceInstance(1))
    }

    fn attributes(&self) -> Vec<OfferedAttribute> {
        let Some(device) = self.host.device() else { return Vec::new() };
        device
            .attributes()
            .map(|attribute| OfferedAttribute { name: attribute.name.to_owned(), mode: attribute.mode })
            .collect()
    }

    fn read_attribute(&self, name: &str) -> Result<String, Errno> {
        let device = self.host.device().ok_or(Errno::ENODEV)?;
        let mut value = device.read(name).map_err(|error| Errno::from_raw(error.errno().0))?;
        value.truncate(value.trim_end_matches('\n').len());
        Ok(value)
    }

    fn upload(&self) -> Option<&Uploader> {
        Some(&self.uploader)
    }

    fn cpu_signature(&self) -> u32 {
        self.machine.cpuid(LpIndex(0), 1, 0).eax
    }

    fn cpus_present(&self) -> String {
        self.cpus_where(|_| true)
    }

    fn cpus_online(&self) -> String {
        self.cpus_where(|lp| self.machine.is_online(lp))
    }
}

impl HostSource for SoftwareHost {
    fn platform(&self) -> PlatformFacts {
        let spec = self.machine.spec();
        // As software reads it, faults included; a CPU without the MSR has no KeyIDs.
        let split = self.machine.rdmsr(LpIndex(0), MsrIndex::IA32_MKTME_KEYID_PARTITIONING);
        let split = split.map_or(KeyIdPartitioning::new(0, 0), KeyIdPartitioning::from_msr);
        PlatformFacts {
            simulated: true,
            name: spec.name.clone(),
            description: spec.description.clone(),
            seed: self.seed,
            packages: spec.cpu.packages,
            logical_processors: count(self.machine.lps().len()),
            memory_bytes: platform::ram_bytes(&self.machine),
            keyids: KeyIdFacts { shared: split.mktme_count(), private: split.tdx_count() },
            faults: self.machine.faults().iter().map(|fault| fault.name().to_owned()).collect(),
        }
    }

    fn host(&self) -> HostFacts {
        let failure = self.failure.get();
        let state = match self.host.state().lifecycle() {
            Lifecycle::Off | Lifecycle::Checked if failure.is_some() => HostState::Failed,
            Lifecycle::Off | Lifecycle::Checked => HostState::PoweredOn,
            Lifecycle::BringingUp => HostState::BringingUp,
            Lifecycle::Ready => HostState::Ready,
            Lifecycle::Failed => HostState::Failed,
            Lifecycle::ShutDown => HostState::ShutDown,
            Lifecycle::Crashed => HostState::Crashed,
            Lifecycle::Updating => HostState::Updating,
            Lifecycle::Down => HostState::ModuleDown,
            Lifecycle::Gone => HostState::ModuleGone,
        };
        HostFacts {
            state,
            phases: self.phases.facts(),
            error: failure.map(ErrorFacts::from),
            update: self.uploader.last().as_ref().map(UpdateFacts::from),
        }
    }

    fn module(&self) -> Option<ModuleFacts> {
        let seen = self.machine.seam();
        let module = seen.module?;
        let state = if module.disabled { "disabled" } else { state_name(module.state) };
        Some(ModuleFacts {
            simulated: true,
            profile: module.profile.name.to_owned(),
            version: module.profile.version.to_string(),
            state: state.to_owned(),
            initialised_processors: count(module.initialised_lps.len()),
            configured_packages: count(module.configured_packages.len()),
            global_keyid: module.global_key.map(|key| key.number().into()),
            keyids: module.key_ids.iter().copied().map(key_range).collect(),
            tdmrs: module.tdmrs.iter().map(tdmr).collect(),
            seamldr_version: seen.loader.config.version.to_string(),
            remaining_updates: seen.loader.config.updates_left(),
            calls: module
                .calls
                .iter()
                .map(|(leaf, calls)| {
                    (leaf.map_or_else(|| "other".to_owned(), |leaf| leaf.to_string()), *calls)
                })
                .collect(),
        })
    }

    fn cpus(&self) -> Vec<CpuFacts> {
        let facts = |lp: &tdx_machine::LogicalProcessor| CpuFacts {
            cpu: lp.index.0,
            package: lp.package.0,
            core: lp.core,
            thread: lp.thread,
            x2apic_id: lp.x2apic_id,
            node: lp.node.0,
            online: self.machine.is_online(lp.index),
            vmx: self.machine.in_vmx(lp.index),
        };
        self.machine.lps().iter().map(facts).collect()
    }

    fn hardware(&self) -> Snapshot {
        hardware::snapshot(&self.machine)
    }

    fn connect_status(&self) -> ConnectState {
        self.host.connect_status()
    }

    fn links(&self) -> Vec<LinkView> {
        self.host.links()
    }

    fn uevents_after(&self, after: u64) -> Vec<UeventRecord> {
        self.host.uevents_after(after)
    }

    fn refresh(&self, device: FunctionId, what: Refresh) -> Result<(), TsmError> {
        self.host.refresh(device, what)
    }

    fn log(&self) -> Vec<LogLine> {
        let host = self
            .host
            .platform()
            .log_lines()
            .into_iter()
            .map(|line| LogLine { level: level_name(line.level).to_owned(), text: line.text });
        // The machine's own events are what a log of firmware would hold: no host knows their time.
        let machine = self.machine.log().into_iter().map(|event| LogLine {
            level: if event.is_warning() { level_name(LogLevel::Warning) } else { "debug" }.to_owned(),
            text: format!("machine: {event}"),
        });
        host.chain(machine).collect()
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn level_name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warning => "warning",
        LogLevel::Info => "info",
    }
}

fn state_name(state: ModuleState) -> &'static str {
    match state {
        ModuleState::SysInitPending => "init-pending",
        ModuleState::SysInitDone => "init-done",
        ModuleState::SysConfigDone => "config-done",
        ModuleState::SysReady => "ready",
        ModuleState::SysShutdown => "shutdown",
    }
}

fn key_range(range: KeyRange) -> KeyRangeFacts {
    let state = match range.state {
        KeyState::Free => "free",
        KeyState::Assigned => "assigned",
        KeyState::Flushed => "flushed",
        KeyState::Reserved => "reserved",
    };
    KeyRangeFacts {
        first: range.first.number().into(),
        last: range.last.number().into(),
        state: state.to_owned(),
    }
}

fn tdmr(tdmr: &TdmrInspection) -> TdmrFacts {
    TdmrFacts {
        base: tdmr.range.start().to_string(),
        size_bytes: tdmr.range.size(),
        initialised_bytes: tdmr.initialised_bytes,
        reserved_areas: count(tdmr.reserved.len()),
        pamt_bytes: tdmr.pamt.iter().map(|area| area.size()).sum(),
    }
}
