//! Why a platform file is refused.

use pcie::FunctionId;
use tdx_abi::PhysRange;
use tdx_module::LoadError;

use crate::endpoint::EndpointSpecError;

/// Why a platform file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Not TOML, an unknown key, or a value of the wrong form.
    #[error("platform file{}: {reason}", line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Syntax {
        /// Line, 1-based.
        line: Option<usize>,
        /// What is wrong, with the key and what is allowed.
        reason: String,
    },
    /// Well formed but not a machine.
    #[error("platform `{platform}`: {issue}")]
    Invalid {
        /// Name of the platform.
        platform: String,
        /// What is wrong.
        issue: SpecIssue,
    },
    /// The platform could not be written as TOML.
    #[error("platform file could not be written: {reason}")]
    Write {
        /// What is wrong.
        reason: String,
    },
}

/// Line and reason, on one line, of what makes `text` no TOML.
pub(crate) fn syntax_reason(text: &str, error: &toml::de::Error) -> (Option<usize>, String) {
    let before = error.span().and_then(|span| text.get(..span.start));
    (before.map(|before| before.matches('\n').count() + 1), error.message().replace('\n', " "))
}

impl SpecError {
    pub(super) fn syntax(text: &str, error: &toml::de::Error) -> Self {
        let (line, reason) = syntax_reason(text, error);
        Self::Syntax { line, reason }
    }

    /// What is wrong with a well-formed file.
    pub fn issue(&self) -> Option<&SpecIssue> {
        match self {
            Self::Invalid { issue, .. } => Some(issue),
            Self::Syntax { .. } | Self::Write { .. } => None,
        }
    }
}

/// What is wrong with a well-formed platform file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The message of each variant says it, its fields are the numbers in it.
pub enum SpecIssue {
    #[error("`cpu.packages` is {packages}; a TDX platform has 1 to 8")]
    PackageCount { packages: u32 },
    #[error("`cpu.cores` is {cores}; allowed are 1 to 512")]
    CoreCount { cores: u32 },
    #[error("`cpu.threads` is {threads}; allowed are 1 and 2")]
    ThreadCount { threads: u32 },
    #[error("x2APIC id {id} is given twice, to packages {first} and {second}")]
    DuplicateX2apicId { id: u32, first: u32, second: u32 },
    #[error("x2APIC id of package {package} does not fit 32 bits")]
    X2apicIdOverflow { package: u32 },
    #[error("`cpu.x2apic.package_stride` is {stride}; it must be a power of two that holds {needed} ids")]
    BadPackageStride { stride: u32, needed: u32 },
    #[error("`cpu.x2apic.package_bases` has {given} entries for {packages} packages")]
    PackageBaseCount { given: usize, packages: u32 },
    #[error("x2APIC base {base} of package {package} is not a multiple of {stride}")]
    UnalignedPackageBase { package: u32, base: u32, stride: u32 },
    #[error("{count} CMRs; MCHECK reports at most 32")]
    TooManyCmrs { count: usize },
    #[error("the memory map and the nodes give {count} CMRs, MCHECK reports at most 32: list them in `cmr`")]
    TooManyGeneratedCmrs { count: usize },
    #[error("CMR {index} {range} is not 4 KiB aligned")]
    UnalignedCmr { index: usize, range: PhysRange },
    #[error("CMR {index} {range} overlaps the one before or is not in ascending order")]
    OverlappingCmr { index: usize, range: PhysRange },
    #[error("CMR {index} is empty or inverted")]
    EmptyCmr { index: usize },
    #[error("`{key}` entry {index} is empty or inverted")]
    EmptyRange { key: &'static str, index: usize },
    #[error("e820 entry {index} {range} overlaps the one before or is not in ascending order")]
    OverlappingE820 { index: usize, range: PhysRange },
    #[error("usable memory {range} belongs to no NUMA node")]
    MemoryOutsideNodes { range: PhysRange },
    #[error("memory of node {node} {range} overlaps memory of node {other}")]
    OverlappingNodes { node: u32, other: u32, range: PhysRange },
    #[error("NUMA node {node} is given twice")]
    DuplicateNode { node: u32 },
    #[error("NUMA node {node} belongs to package {package}, the machine has {packages}")]
    NodeWithoutPackage { node: u32, package: u32, packages: u32 },
    #[error("`{what}` ends at {end:#x}, above the {bits} address bits that the KeyIDs leave")]
    BeyondAddressWidth { what: &'static str, end: u64, bits: u8 },
    #[error("neither `memory.size` nor an `e820` list is given")]
    NoMemory,
    #[error("`memory.size` is {size} bytes; it must be a multiple of 2 MiB and at least 4 GiB")]
    BadMemorySize { size: u64 },
    #[error("`e820` is listed but no `[[node]]` gives its memory to a package")]
    MapWithoutNodes,
    #[error("`keyids.bits` is {bits}; allowed are 0 to 15")]
    KeyIdBits { bits: u8 },
    #[error("{mktme} MKTME and {tdx} TDX KeyIDs do not fit {bits} KeyID bits ({room} KeyIDs beside 0)")]
    KeyIdSplit { mktme: u32, tdx: u32, bits: u8, room: u32 },
    #[error("`keyids.mktme` is {mktme}; the split is by address bits, so it must be a power of two less one")]
    KeyIdSplitNotByBits { mktme: u32 },
    #[error("`seamrr.size` is {size}; it must be a power of two of at least 32 MiB")]
    SeamrrSize { size: u64 },
    #[error("`seamrr.base` {base:#x} is not a multiple of its size {size:#x}")]
    SeamrrAlignment { base: u64, size: u64 },
    #[error("SEAMRR {seamrr} overlaps {what} {range}")]
    SeamrrOverlap { seamrr: PhysRange, what: &'static str, range: PhysRange },
    #[error("RAM has no whole page from 1 MiB up, which is where convertible memory begins")]
    NothingConvertible,
    #[error("RAM leaves no room for the SEAM range, or none below 4 GiB for 32 MiB of SMRAM")]
    NoRoomForFirmware,
    #[error("`{key}` names package {package}, the machine has {packages}")]
    NoSuchPackage { key: &'static str, package: u32, packages: u32 },
    #[error("`module.profile` is `{profile}`; known are {known}")]
    UnknownProfile { profile: String, known: String },
    #[error("`module.switches` names `{row}`, which is no check row that can be switched")]
    UnknownSwitch { row: String },
    #[error("`module.connect.{key}` is {pages} pages; allowed are {least} to {most}")]
    ConnectPages { key: &'static str, pages: u16, least: u16, most: u16 },
    #[error("`seamldr.version` is `{version}`; it must be major.minor.update")]
    BadSeamldrVersion { version: String },
    #[error("`{key}` is {date}; dates are eight decimal digits, yyyymmdd")]
    BadDate { key: &'static str, date: u32 },
    #[error("`{key}` register base {base:#x} is not 4 KiB aligned")]
    UnalignedRegisters { key: &'static str, base: u64 },
    #[error("IOMMU register base {base:#x} is given twice")]
    DuplicateIommu { base: u64 },
    #[error("PCI function {device}.{function} in the scope of an IOMMU; devices go to 31, functions to 7")]
    BadFunction { device: u8, function: u8 },
    #[error("`{key}.reg_base`: the registers end behind the last address")]
    RegistersBeyond { key: &'static str },
    #[error("the registers {range} and {other} of two units overlap")]
    OverlappingRegisters { range: PhysRange, other: PhysRange },
    #[error("IOMMUs {base:#x} and {other:#x} are both stack {stack} of package {package}")]
    SameStack { base: u64, other: u64, package: u32, stack: u8 },
    #[error("more than {most} IOMMUs serve package {package}")]
    TooManyStacks { package: u32, most: u8 },
    #[error("IOMMU {base:#x} has stack {stack}; a package has stacks 0 to 15")]
    IommuStack { base: u64, stack: u8 },
    #[error(
        "IOMMU {base:#x} serves bus {bus:#04x} of segment {segment}, which is no root bus of a host bridge"
    )]
    IommuWithoutBridge { base: u64, segment: u16, bus: u8 },
    #[error("host bridge {segment:04x}:{bus:02x} ends at bus {last_bus:#04x}, in front of its root bus")]
    BridgeBuses { segment: u16, bus: u8, last_bus: u8 },
    #[error("host bridges {segment:04x}:{bus:02x} and {segment:04x}:{other:02x} share buses")]
    OverlappingBridges { segment: u16, bus: u8, other: u8 },
    #[error("the window of host bridge {segment:04x}:{bus:02x} is empty, inverted, or not whole MiB")]
    BridgeWindow { segment: u16, bus: u8 },
    #[error("`host_bridge.window` {window} overlaps {what}")]
    WindowOverlap { window: PhysRange, what: &'static str },
    #[error(
        "root port {number} of {segment:04x}:{bus:02x}:{device:02x}.{function}; devices go to 31, functions to 7"
    )]
    RootPortAddress { segment: u16, bus: u8, device: u8, function: u8, number: u8 },
    #[error("root port {port} is on no root bus of a host bridge")]
    PortWithoutBridge { port: FunctionId },
    #[error("root port {port} is given twice")]
    DuplicatePort { port: FunctionId },
    #[error(
        "root port {port} has {streams} selective streams; its configuration space has room for 1 to {most}"
    )]
    PortStreams { port: FunctionId, streams: u16, most: u16 },
    #[error(
        "buses {secondary:#04x} to {subordinate:#04x} below root port {port} are none of its host bridge, or inverted"
    )]
    PortBuses { port: FunctionId, secondary: u8, subordinate: u8 },
    #[error("bus {bus:#04x} is below root port {port} and below root port {other}")]
    OverlappingPorts { port: FunctionId, other: FunctionId, bus: u8 },
    #[error("an endpoint is below {port}, where no root port is")]
    EndpointWithoutPort { port: FunctionId },
    #[error("two endpoints are below root port {port}, which has room for one")]
    TwoEndpoints { port: FunctionId },
    #[error("the endpoint below {port} is `{device}` and has a device file of its own: one of them must go")]
    TwoDevices { port: FunctionId, device: String },
    #[error("`endpoint.device` is `{device}`; known are {known}")]
    UnknownDevice { device: String, known: String },
    #[error("the endpoint below {port}: {error}")]
    Device { port: FunctionId, error: Box<EndpointSpecError> },
    #[error("what is at root port {port} cannot be built: {reason}")]
    NotBuilt { port: FunctionId, reason: String },
    #[error("the responder at {socket}, which is to answer for the endpoint below {port}: {reason}")]
    OutsideDsm { port: FunctionId, socket: String, reason: String },
    #[error("`endpoint.dsm.socket` of the endpoint below {port} is empty")]
    NoSocket { port: FunctionId },
    #[error(
        "the windows of the endpoint below {port} do not fit the memory of its host bridge, {}",
        window.map_or_else(|| "which has no `window`".to_owned(), |window| window.to_string())
    )]
    WindowFull { port: FunctionId, window: Option<PhysRange> },
    #[error("key unit {base:#x} has keys for {streams} streams; allowed are 1 to 256")]
    UnitStreams { base: u64, streams: u16 },
    #[error("key unit {base:#x} belongs to {segment:04x}:{bus:02x}, where no host bridge is")]
    UnitWithoutBridge { base: u64, segment: u16, bus: u8 },
    #[error("key unit {base:#x} lists {port}, where no root port is")]
    UnitWithoutPort { base: u64, port: FunctionId },
    #[error("key unit {base:#x} lists root port {port} of another host bridge")]
    UnitOfTwoBridges { base: u64, port: FunctionId },
    #[error("key unit {base:#x} lists root port {port}, which has no IDE capability")]
    UnitPortWithoutIde { base: u64, port: FunctionId },
    #[error("root port {port} has {streams} selective streams, its key unit {base:#x} has keys for {most}")]
    MoreStreamsThanUnit { base: u64, port: FunctionId, streams: u16, most: u16 },
    #[error("root port {port} gets keys from two units, {first:#x} and {second:#x}")]
    PortOfTwoUnits { port: FunctionId, first: u64, second: u64 },
    #[error("MSR index {index:#x} of `package.msr_absent` does not fit 32 bits")]
    BadMsrIndex { index: u64 },
    #[error("CPUID {what} {value:#x} of `package.cpuid` does not fit 32 bits")]
    BadCpuidValue { what: &'static str, value: u64 },
    #[error("`chaos.{key}` is {rate}; rates are per million")]
    BadRate { key: &'static str, rate: u32 },
    #[error("fault `{fault}` cannot be built on this platform: {reason}")]
    FaultNotPossible { fault: &'static str, reason: &'static str },
    #[error("the image of the module is not one that this machine's firmware loads: {0}")]
    ModuleImage(Box<LoadError>),
    #[error("a CPU of kind `laptop` has no TDX: `module.present` must be false")]
    ModuleWithoutTdx,
}
