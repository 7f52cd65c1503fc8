//! What the API tells, as data. Sizes are bytes; addresses and status words are `0x…` strings, for
//! readers whose numbers end at 2^53.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pcie::FunctionId;
use serde::{Deserialize, Serialize};
use tdx_host::ConnectState;
use tdx_host::tsm::{Refresh, TsmError};
use tdx_platform::{LinkView, UeventRecord};

use super::update::{UpdateFacts, UploadFacts};
use crate::doctor::Snapshot;
use crate::sysfs::HostView;

/// A host as the API sees it.
pub trait HostSource: HostView {
    /// The machine under the host.
    fn platform(&self) -> PlatformFacts;
    /// Where the host stands in its bring-up.
    fn host(&self) -> HostFacts;
    /// The module seen from inside; `None` while no module is loaded.
    fn module(&self) -> Option<ModuleFacts>;
    /// Every CPU of the machine.
    fn cpus(&self) -> Vec<CpuFacts>;
    /// What software on the machine could find out: CPU identity and registers.
    fn hardware(&self) -> Snapshot;
    /// Kernel-style log lines, oldest first.
    fn log(&self) -> Vec<LogLine>;
    /// Whether TDX Connect works, and if not, why.
    fn connect_status(&self) -> ConnectState;
    /// The links of connected devices.
    fn links(&self) -> Vec<LinkView>;
    /// What user space was told behind event number `after`, as far as it is kept.
    fn uevents_after(&self, after: u64) -> Vec<UeventRecord>;
    /// Makes keys or device information of a connected device anew.
    fn refresh(&self, device: FunctionId, what: Refresh) -> Result<(), TsmError>;
}

/// Where a host stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostState {
    /// Powered on; bring-up has not begun.
    PoweredOn,
    /// Bring-up is under way.
    BringingUp,
    /// The module is initialised.
    Ready,
    /// Bring-up ended in an error.
    Failed,
    /// Shut down in an orderly way.
    ShutDown,
    /// The crash path ran.
    Crashed,
    /// An update replaces the module.
    Updating,
    /// An update shut the module down and failed; another one may still succeed.
    ModuleDown,
    /// An update failed for good.
    ModuleGone,
}

impl HostState {
    /// The state in words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::PoweredOn => "powered on",
            Self::BringingUp => "bringing up",
            Self::Ready => "ready",
            Self::Failed => "no TDX",
            Self::ShutDown => "shut down",
            Self::Crashed => "crashed",
            Self::Updating => "updating",
            Self::ModuleDown => "module down, update to go on",
            Self::ModuleGone => "module gone",
        }
    }
}

/// `GET /v1/status`: the whole service in one look.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusFacts {
    /// Always true: nothing here comes from TDX hardware.
    pub simulated: bool,
    /// Name of the platform.
    pub platform: String,
    /// Where the host stands.
    pub state: HostState,
    /// Why bring-up failed.
    pub error: Option<ErrorFacts>,
    /// Whether the `tdx_host` device exists.
    pub device: bool,
    /// `version` of the device.
    pub module_version: Option<String>,
    /// The process that answers.
    pub service: ServiceFacts,
}

/// The serving process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceFacts {
    /// Version of tdxhost.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since the service started.
    pub uptime_seconds: f64,
    /// Where the sysfs files are mounted.
    pub mount: Option<PathBuf>,
    /// Layout of the sysfs files.
    pub sysfs_layout: String,
}

/// An error with its name and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorFacts {
    /// Stable name in kebab case.
    pub name: String,
    /// What failed, on what, why.
    pub message: String,
    /// Whose fault it is.
    pub blame: String,
    /// What to try.
    pub advice: String,
    /// Completion status that the module or P-SEAMLDR returned.
    pub status: Option<String>,
}

/// `GET /v1/platform`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlatformFacts {
    /// Always true.
    pub simulated: bool,
    /// Name of the platform.
    pub name: String,
    /// One line about it.
    pub description: String,
    /// Seed of interrupts, entropy failures and contention.
    pub seed: u64,
    /// Processor packages.
    pub packages: u32,
    /// Logical processors.
    pub logical_processors: u32,
    /// RAM of the memory map, in bytes.
    pub memory_bytes: u64,
    /// KeyIDs by their use.
    pub keyids: KeyIdFacts,
    /// Names of the faults that are active.
    pub faults: Vec<String>,
}

/// Partitioning of KeyIDs (IA32_MKTME_KEYID_PARTITIONING).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyIdFacts {
    /// Shared KeyIDs, without KeyID 0.
    pub shared: u32,
    /// Private KeyIDs: those of TDX.
    pub private: u32,
}

/// `GET /v1/host`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Where the host stands.
    pub state: HostState,
    /// Phases of the bring-up, in order.
    pub phases: Vec<PhaseFacts>,
    /// Why bring-up failed.
    pub error: Option<ErrorFacts>,
    /// The last update that was committed through the firmware-upload files.
    pub update: Option<UpdateFacts>,
}

/// How a phase stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PhaseState {
    /// Under way.
    Running,
    /// Ended well.
    Done,
    /// Ended in the host's error.
    Failed,
}

/// One phase of the bring-up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhaseFacts {
    /// Name of the phase.
    pub name: String,
    /// How it stands.
    pub state: PhaseState,
    /// Steps done.
    pub done: u64,
    /// Steps there are; `None` where the phase does not count.
    pub total: Option<u64>,
    /// Wall time so far, in milliseconds.
    pub milliseconds: f64,
}

/// `GET /v1/module`: the module seen from inside, which no real host can do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModuleFacts {
    /// Always true.
    pub simulated: bool,
    /// Release that is modelled.
    pub profile: String,
    /// `major.minor.update`.
    pub version: String,
    /// Life-cycle state of the module.
    pub state: String,
    /// Logical processors on which TDH.SYS.LP.INIT succeeded.
    pub initialised_processors: u32,
    /// Packages on which the global KeyID is configured.
    pub configured_packages: u32,
    /// The module's own KeyID; `None` before TDH.SYS.CONFIG.
    pub global_keyid: Option<u32>,
    /// KeyIDs that are not free, by range.
    pub keyids: Vec<KeyRangeFacts>,
    /// TDMRs with their progress.
    pub tdmrs: Vec<TdmrFacts>,
    /// Version of P-SEAMLDR, `major.minor.update`.
    pub seamldr_version: String,
    /// Updates that P-SEAMLDR still accepts.
    pub remaining_updates: u32,
    /// Calls per leaf, by name.
    pub calls: BTreeMap<String, u64>,
}

/// Neighbouring KeyIDs in the same state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRangeFacts {
    /// First KeyID.
    pub first: u32,
    /// Last KeyID.
    pub last: u32,
    /// State in the module's KeyID ownership table.
    pub state: String,
}

/// One TD memory region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TdmrFacts {
    /// First address.
    pub base: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Bytes whose PAMT is initialised.
    pub initialised_bytes: u64,
    /// Reserved areas.
    pub reserved_areas: u32,
    /// Bytes of the PAMT, all levels.
    pub pamt_bytes: u64,
}

/// `GET /v1/cpus`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CpusFacts {
    /// Kernel list format.
    pub present: String,
    /// Kernel list format.
    pub online: String,
    /// Every CPU.
    pub cpus: Vec<CpuFacts>,
}

/// One logical processor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuFacts {
    /// Linux's number.
    pub cpu: u32,
    /// Processor package.
    pub package: u32,
    /// Core in the package.
    pub core: u32,
    /// Thread in the core.
    pub thread: u32,
    /// x2APIC id.
    pub x2apic_id: u32,
    /// NUMA node.
    pub node: u32,
    /// Whether Linux has it online.
    pub online: bool,
    /// Whether it is in VMX operation.
    pub vmx: bool,
}

/// `GET /v1/device`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceFacts {
    /// Whether the device exists.
    pub exists: bool,
    /// What it offers; empty if it does not exist.
    pub attributes: Vec<DeviceAttributeFacts>,
    /// Its firmware-upload files; `None` if it has none.
    pub upload: Option<UploadFacts>,
}

/// One attribute of the device, with what reading it gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceAttributeFacts {
    /// Name in Linux 7.3.
    pub name: String,
    /// Permission bits in octal, such as `0444`.
    pub mode: String,
    /// Value without a newline; `None` if reading failed.
    pub value: Option<String>,
    /// Error name of a failed read, such as `EIO`.
    pub errno: Option<String>,
}

/// `GET /v1/log`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogFacts {
    /// Oldest first.
    pub lines: Vec<LogLine>,
}

/// A line of the host's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// `error`, `warning`, `info` or `debug`.
    pub level: String,
    /// The line.
    pub text: String,
}
