//! The platform file: everything that makes one machine differ from another.

mod error;
mod guest;
mod number;
mod pci;
mod seamldr;
mod topology;
mod validate;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tdx_abi::{KeyIdPartitioning, PhysAddr, PhysRange};

pub(crate) use error::syntax_reason;
pub use error::{SpecError, SpecIssue};
pub(crate) use number::parse_u64;
pub use number::{Hex, Size};
pub use pci::{
    BridgePlan, DevicePlan, DsmSpec, EndpointEntry, FunctionSpec, HostBridgeSpec, IommuSpec, KeyUnitPlan,
    KeyUnitSpec, PciPlan, PortPlan, RootPortSpec,
};
pub use seamldr::{Generation, SeamldrSpec, UnknownRelease};
pub use topology::{CpuKind, CpuSpec, X2apicSpec};
pub(crate) use validate::{MIN_GENERATED, is_date};

use crate::fault::Fault;

/// A machine as a TOML file describes it. Unknown keys are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlatformSpec {
    /// Short name.
    pub name: String,
    /// One line on what this machine is good for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Where the facts come from, for a machine that somebody posted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// True for a machine that nobody has: its size or mixture is made up.
    #[serde(default, skip_serializing_if = "is_default")]
    pub synthetic: bool,
    /// What is assumed rather than known, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assumed: Vec<String>,
    /// Faults active from power-on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
    /// Processors.
    pub cpu: CpuSpec,
    /// Memory size, when the map is not listed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub memory: MemorySpec,
    /// Memory encryption KeyIDs.
    #[serde(default)]
    pub keyids: KeyIdSpec,
    /// The TDX module in the module slot.
    #[serde(default)]
    pub module: ModuleSpec,
    /// The P-SEAMLDR.
    #[serde(default)]
    pub seamldr: SeamldrSpec,
    /// The SEAM range registers.
    #[serde(default)]
    pub seamrr: SeamrrSpec,
    /// Errata. Those of the CPU kind if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errata: Option<ErrataSpec>,
    /// What the page allocator of the host finds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub allocator: AllocatorSpec,
    /// Facts of the system around the host.
    #[serde(default, skip_serializing_if = "is_default")]
    pub embedder: EmbedderSpec,
    /// Rates of what goes wrong by chance.
    #[serde(default)]
    pub chaos: ChaosSpec,
    /// NUMA nodes. One node per package with an even share of the memory if left out.
    #[serde(default, rename = "node", skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeSpec>,
    /// The firmware memory map. Made from the memory size if left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub e820: Vec<E820Spec>,
    /// Convertible memory ranges. Made from the memory size if left out.
    #[serde(default, rename = "cmr", skip_serializing_if = "Vec::is_empty")]
    pub cmrs: Vec<RangeSpec>,
    /// Deviations of single packages.
    #[serde(default, rename = "package", skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<PackageSpec>,
    /// IOMMU units (DRHD entries of the DMAR table).
    #[serde(default, rename = "iommu", skip_serializing_if = "Vec::is_empty")]
    pub iommus: Vec<IommuSpec>,
    /// PCI host bridges.
    #[serde(default, rename = "host_bridge", skip_serializing_if = "Vec::is_empty")]
    pub host_bridges: Vec<HostBridgeSpec>,
    /// Root ports.
    #[serde(default, rename = "root_port", skip_serializing_if = "Vec::is_empty")]
    pub root_ports: Vec<RootPortSpec>,
    /// What is plugged into them.
    #[serde(default, rename = "endpoint", skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointEntry>,
    /// Key configuration units of root ports.
    #[serde(default, rename = "key_unit", skip_serializing_if = "Vec::is_empty")]
    pub key_units: Vec<KeyUnitSpec>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn yes() -> bool {
    true
}

/// How much memory there is, for a generated map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemorySpec {
    /// Bytes of RAM of all nodes. Not needed with an e820 list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
}

/// KeyIDs and their split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyIdSpec {
    /// KeyID bits of a physical address; 0: no memory encryption by KeyID.
    pub bits: u8,
    /// Number of MKTME (shared) KeyIDs, KeyID 0 not counted.
    pub mktme: u32,
    /// Number of TDX (private) KeyIDs.
    pub tdx: u32,
    /// Memory has an integrity MAC (Ci mode); otherwise the TD-owner bit only (Li).
    #[serde(default = "yes")]
    pub integrity: bool,
}

impl Default for KeyIdSpec {
    fn default() -> Self {
        Self { bits: 6, mktme: 31, tdx: 32, integrity: true }
    }
}

impl KeyIdSpec {
    /// The split as MSR 0x87 tells it.
    pub fn partitioning(&self) -> KeyIdPartitioning {
        KeyIdPartitioning::new(self.mktme, self.tdx)
    }
}

/// The TDX module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleSpec {
    /// Release profile, such as `1.5.06` or `connect`.
    #[serde(default = "ModuleSpec::default_profile")]
    pub profile: String,
    /// False: the module slot is empty.
    #[serde(default = "yes")]
    pub present: bool,
    /// Build counter. That of the release if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<u16>,
    /// Build date, decimal digits yyyymmdd. That of the release if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_date: Option<u32>,
    /// Report what the release reports, even what this model does not do.
    #[serde(default, skip_serializing_if = "is_default")]
    pub real_features: bool,
    /// Switches of uncertain rows, keyed by row id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub switches: BTreeMap<String, bool>,
    /// What TDX Connect takes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub connect: ModuleConnectSpec,
}

/// What a module with TDX Connect asks for, in 4 KiB pages. Each is that of the release if left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModuleConnectSpec {
    /// Pages of a stream, at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ide_mt: Option<u16>,
    /// Pages of a session, at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spdm_mt: Option<u16>,
    /// Single pages of an IOMMU unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iommu_mt: Option<u16>,
    /// Most pages of device information, at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spdm_max_dev_info_pages: Option<u16>,
    /// Memory pool of the extensions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool_pages: Option<u32>,
    /// Leaves that need the extensions work only behind TDH.EXT.INIT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ext_required: Option<bool>,
}

impl ModuleSpec {
    fn default_profile() -> String {
        "connect".to_owned()
    }
}

impl Default for ModuleSpec {
    fn default() -> Self {
        Self {
            profile: Self::default_profile(),
            present: true,
            build: None,
            build_date: None,
            real_features: false,
            switches: BTreeMap::new(),
            connect: ModuleConnectSpec::default(),
        }
    }
}

/// The SEAM range registers, MSRs 0x1400 and 0x1401.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SeamrrSpec {
    /// Valid bit of the mask register.
    pub enabled: bool,
    /// Lock bit of the mask register.
    pub locked: bool,
    /// First address, a multiple of the size.
    pub base: Hex,
    /// Bytes, a power of two of at least 32 MiB.
    pub size: Size,
}

impl Default for SeamrrSpec {
    fn default() -> Self {
        Self { enabled: true, locked: true, base: Hex(0x7800_0000), size: Size(64 << 20) }
    }
}

impl SeamrrSpec {
    /// The range; empty if it leaves 64 bits.
    pub fn range(&self) -> PhysRange {
        PhysRange::from_size(PhysAddr::new(self.base.0), self.size.0).unwrap_or_default()
    }
}

/// Errata that a host must know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ErrataSpec {
    /// Partial writes to TD-owned memory poison the line.
    pub pw_mce: bool,
    /// SEAMRET loses the current VMCS; IA32_VMX_BASIC bit 60 is then 0.
    pub seamret_invd_vmcs: bool,
}

/// What the host's page allocator can give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AllocatorSpec {
    /// Largest run of free pages in one piece; no limit but the memory map if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub largest_free_run: Option<Size>,
    /// Number of free ranges the memory is broken into by pages in use, spread evenly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_ranges: Option<u32>,
}

/// The system around the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmbedderSpec {
    /// Hibernation could happen: no boot option forbids it.
    pub hibernation_possible: bool,
}

/// Rates per million of what goes wrong by chance. 0 turns a source off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChaosSpec {
    /// An interrupt is pending when a resumable leaf looks.
    pub interrupt: u32,
    /// RDRAND or PCONFIG has no random number.
    pub no_entropy: u32,
    /// A lock of the module is held by somebody else.
    pub busy: u32,
    /// Accesses to the same GiB after which a dirty cache line that somebody wrote below is
    /// written back; 0: only by WBINVD and CLFLUSH.
    pub write_back_within: u32,
}

impl Default for ChaosSpec {
    fn default() -> Self {
        Self { interrupt: 1000, no_entropy: 1000, busy: 100, write_back_within: 64 }
    }
}

/// A NUMA node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSpec {
    /// Node number (proximity domain).
    pub id: u32,
    /// Package whose LPs belong to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<u32>,
    /// Memory ranges.
    #[serde(default)]
    pub ranges: Vec<RangeSpec>,
}

/// A half-open range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RangeSpec {
    /// First address.
    pub start: Hex,
    /// First address behind.
    pub end: Hex,
}

impl RangeSpec {
    /// The range; `None` if it is inverted.
    pub fn range(&self) -> Option<PhysRange> {
        PhysRange::new(PhysAddr::new(self.start.0), PhysAddr::new(self.end.0))
    }
}

impl From<PhysRange> for RangeSpec {
    fn from(range: PhysRange) -> Self {
        Self { start: Hex(range.start().as_u64()), end: Hex(range.end().as_u64()) }
    }
}

/// An entry of the firmware memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct E820Spec {
    /// First address.
    pub start: Hex,
    /// First address behind.
    pub end: Hex,
    /// What it is.
    pub kind: E820Kind,
}

/// Kind of a memory map entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum E820Kind {
    /// RAM that an operating system may use.
    Usable,
    /// Not for the operating system.
    Reserved,
    /// ACPI tables, usable after they were read.
    AcpiData,
    /// Kept across sleep by firmware.
    AcpiNvs,
    /// Broken memory.
    Unusable,
    /// Persistent memory.
    Persistent,
}

impl E820Kind {
    /// True if memory answers there.
    pub(crate) const fn is_memory(self) -> bool {
        matches!(self, Self::Usable | Self::AcpiData | Self::AcpiNvs | Self::Persistent)
    }
}

/// What one package does differently.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageSpec {
    /// Package number.
    pub index: u32,
    /// MSR values, by index in text: `{ "0x122" = "0x3" }`.
    #[serde(default, with = "number::msr_map", skip_serializing_if = "BTreeMap::is_empty")]
    pub msr: BTreeMap<u32, Hex>,
    /// MSRs that fault.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub msr_absent: Vec<Hex>,
    /// CPUID leaves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpuid: Vec<CpuidSpec>,
}

/// A CPUID leaf that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuidSpec {
    /// Leaf.
    pub leaf: Hex,
    /// Sub-leaf; 0 for leaves without.
    #[serde(default)]
    pub subleaf: Hex,
    /// Value of EAX.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eax: Option<Hex>,
    /// Value of EBX.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ebx: Option<Hex>,
    /// Value of ECX.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ecx: Option<Hex>,
    /// Value of EDX.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edx: Option<Hex>,
}

impl PlatformSpec {
    /// Reads a platform file. The error names the key and what is allowed.
    pub fn from_toml(text: &str) -> Result<Self, SpecError> {
        let spec: Self = toml::from_str(text).map_err(|error| SpecError::syntax(text, &error))?;
        spec.validate()?;
        Ok(spec)
    }

    /// Writes a platform file that reads back as this machine.
    pub fn to_toml(&self) -> Result<String, SpecError> {
        toml::to_string(self).map_err(|error| SpecError::Write { reason: error.to_string() })
    }

    /// Checks what the format alone cannot.
    pub fn validate(&self) -> Result<(), SpecError> {
        validate::check(self).map_err(|issue| SpecError::Invalid { platform: self.name.clone(), issue })
    }

    /// Errata: those of the file, else those of the CPU kind.
    pub fn errata(&self) -> ErrataSpec {
        self.errata.unwrap_or_else(|| self.cpu.kind.errata())
    }
}

/// The three numbers of `major.minor.update`.
pub(crate) fn parse_version(text: &str) -> Option<(u16, u16, u16)> {
    let mut parts = text.split('.').map(|part| part.parse::<u16>().ok());
    let version = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(version)
}

#[cfg(test)]
mod tests;
