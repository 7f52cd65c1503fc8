//! The failures, in the order in which the walks meet them.

use tdx_abi::hpa_list::HpaListError;
use tdx_abi::metadata::FieldId;
use tdx_abi::msr::MsrIndex;
use tdx_abi::{KeyId, PhysAddr, PhysRange};
use tdx_image::{ImageError, SigstructError, Svn};

use super::{CpuFeature, CpuidSubleaf, SensitiveWork, failures};
use crate::power::SuspendKind;
use crate::seamcall::SeamcallError;
use crate::traits::{CpuNumber, MemoryFault, NodeId, PackageId, VmxFault};

failures! {
    /// A failure of the host side.
    pub enum HostError;
    /// Every failure, in the order in which the walks meet them.
    pub const ERRORS;
    /// MSR 0x87 cannot be read.
    NoTdx = "no-tdx", Platform, ENODEV,
        "MSR 0x87 (KeyID partitioning) cannot be read: this CPU, or its BIOS setting, has no TDX",
        "switch on TME, MKTME and TDX in the BIOS setup; a CPU without TDX cannot be a TDX host";
    /// Fewer than two private KeyIDs.
    TooFewKeyIds {
        /// Private KeyIDs that MSR 0x87 tells.
        count: u32,
    } = "too-few-keyids", Platform, EINVAL,
        "{count} private KeyIDs, but the module itself needs one and every TD another",
        "raise the TDX share of the KeyIDs in the BIOS setup (\"TME-MT/TDX key split\") to at least 1/2";
    /// The KeyID numbers leave the range that a KeyID can have.
    KeyIdsOutOfRange {
        /// Shared KeyIDs that MSR 0x87 tells.
        mktme: u32,
        /// Private KeyIDs.
        tdx: u32,
    } = "keyids-out-of-range", Platform, EINVAL,
        "MSR 0x87 tells {mktme} shared and {tdx} private KeyIDs, more than KeyIDs have numbers for",
        "the firmware reports nonsense: update the BIOS";
    /// No VMX.
    NoVmx = "no-vmx", Platform, EOPNOTSUPP,
        "the CPU offers no VMX (CPUID.1:ECX[5] is 0)",
        "switch on VMX (Intel Virtualization Technology) in the BIOS setup, or nested virtualisation in the hypervisor below";
    /// The VMXON region does not fit into its page.
    VmcsTooLarge {
        /// Bytes that IA32_VMX_BASIC tells.
        bytes: u64,
    } = "vmcs-too-large", Platform, EIO,
        "the CPU wants a VMXON region of {bytes} bytes, more than a 4096-byte page",
        "this CPU cannot be driven; report its model";
    /// IA32_VMX_BASIC cannot be read.
    VmxBasicUnreadable {
        /// Where.
        cpu: CpuNumber,
    } = "vmx-basic-unreadable", Platform, EOPNOTSUPP,
        "{cpu} offers VMX but faults on reading IA32_VMX_BASIC",
        "the hypervisor below hides VMX: let it pass the VMX MSRs";
    /// Hibernation is possible.
    HibernationPossible = "hibernation-possible", Host, EINVAL,
        "hibernation is possible, and no image of private memory could be restored",
        "boot with `nohibernate`, or build the kernel without hibernation";
    /// A CPU feature that bring-up needs is missing.
    CpuFeatureMissing {
        /// Its name.
        feature: CpuFeature,
        /// Where it was looked for.
        cpu: CpuNumber,
    } = "cpu-feature-missing", Platform, EINVAL,
        "{cpu} lacks {feature}, which TDX needs",
        "switch the feature on in the BIOS setup and remove boot options that clear it (`clearcpuid`, `noxsave`)";
    /// CR4.VMXE was set by somebody else.
    VmxeInUse {
        /// Where.
        cpu: CpuNumber,
    } = "vmxe-in-use", Host, EBUSY,
        "CR4.VMXE is set on {cpu}: somebody else runs VMX there",
        "unload the other hypervisor (for example an out-of-tree module) and try again";
    /// VMXON failed.
    VmxonFailed {
        /// Where.
        cpu: CpuNumber,
        /// How.
        fault: VmxFault,
        /// IA32_FEATURE_CONTROL, 0 if it cannot be read.
        feature_control: u64,
    } = "vmxon-failed", Platform, EFAULT,
        "VMXON on {cpu} ends in {fault}; IA32_FEATURE_CONTROL is {feature_control:#x}",
        "IA32_FEATURE_CONTROL must be locked with bit 2 set: switch on VMX outside SMX in the BIOS setup";
    /// More puts than gets.
    UnbalancedVmxPut {
        /// Where.
        cpu: CpuNumber,
        /// Whose.
        client: u8,
    } = "unbalanced-vmx-put", Caller, EINVAL,
        "VMX client {client} gave back a reference on {cpu} that it does not hold",
        "a bug of that client: every put needs a get on the same CPU";
    /// Too many gets.
    TooManyVmxReferences {
        /// Where.
        cpu: CpuNumber,
        /// Whose.
        client: u8,
    } = "too-many-vmx-references", Caller, EBUSY,
        "VMX client {client} holds as many references on {cpu} as can be counted",
        "a bug of that client: it never gives references back";
    /// All client numbers are taken.
    TooManyVmxClients = "too-many-vmx-clients", Caller, EBUSY,
        "all VMX client numbers are taken",
        "give back the number of a client that is gone";
    /// A client leaves with references.
    VmxClientBusy {
        /// Number of the client.
        client: u8,
        /// The first CPU.
        cpu: CpuNumber,
    } = "vmx-client-busy", Caller, EBUSY,
        "VMX client {client} gives its number back but still holds a reference on {cpu}",
        "a bug of that client: it gives back every reference before its number";
    /// No such CPU.
    UnknownCpu {
        /// Its number.
        cpu: CpuNumber,
    } = "unknown-cpu", Caller, EINVAL,
        "{cpu} is not one of the possible CPUs",
        "name a CPU below the number of possible ones";
    /// The CPU is offline.
    CpuOffline {
        /// Its number.
        cpu: CpuNumber,
    } = "cpu-offline", Caller, ENXIO,
        "{cpu} is offline",
        "bring the CPU online first";
    /// No CPU is online.
    NoCpuOnline = "no-cpu-online", Host, ENXIO,
        "no CPU is online",
        "bring a CPU online";
    /// SEAMCALL faults for a reason that the SEAM range registers do not show.
    SeamDisabled {
        /// The first SEAMCALL.
        error: SeamcallError,
    } = "seam-disabled", Platform, EOPNOTSUPP,
        "SEAM mode is off ({error}), though MSR 0x1401 shows an enabled and locked SEAM range or cannot be read",
        "look for an error code in MSR 0xa0 (MCHECK); switch on TDX and the SEAM loader in the BIOS setup";
    /// SEAMRR is not enabled.
    SeamrrNotEnabled {
        /// IA32_SEAMRR_PHYS_MASK.
        mask: u64,
        /// The first SEAMCALL.
        error: SeamcallError,
    } = "seamrr-not-enabled", Platform, EOPNOTSUPP,
        "the SEAM range is not enabled: MSR 0x1401 is {mask:#x}, bit 11 is 0 ({error})",
        "switch on TDX and the SEAM loader in the BIOS setup; check that all memory slots follow the population rules";
    /// SEAMRR is not locked.
    SeamrrNotLocked {
        /// IA32_SEAMRR_PHYS_MASK.
        mask: u64,
        /// The first SEAMCALL.
        error: SeamcallError,
    } = "seamrr-not-locked", Platform, EOPNOTSUPP,
        "the SEAM range is not locked: MSR 0x1401 is {mask:#x}, bit 10 is 0, so that MCHECK refused the platform ({error})",
        "a firmware fault: update the BIOS, or load its defaults and switch TDX on again";
    /// No module.
    ModuleNotLoaded {
        /// The first SEAMCALL.
        error: SeamcallError,
    } = "module-not-loaded", Module, ENODEV,
        "no TDX module answers ({error}): it is not loaded, or it was disabled before this boot",
        "let the BIOS load the module (\"SEAM loader\"), or stage one in the EFI system partition; after a kexec only a reboot helps";
    /// SEAMCALL says that the CPU is not in VMX operation.
    NotInVmxOperation {
        /// The call.
        error: SeamcallError,
    } = "not-in-vmx-operation", Host, EACCES,
        "{error}: somebody left VMX operation behind the back of its owners",
        "look for other code that executes VMXOFF";
    /// The module dislikes an MSR.
    IncorrectMsr {
        /// Which.
        msr: MsrIndex,
        /// Where.
        cpu: CpuNumber,
        /// The call.
        error: SeamcallError,
    } = "incorrect-msr", Platform, EIO,
        "the module refuses the value of {msr} that it finds on {cpu} ({error})",
        "change the BIOS setting or boot option behind the MSR; for IA32_TSX_CTRL boot with `tsx=on` or update the module to 1.5";
    /// An MSR is not the same on all CPUs.
    InconsistentMsr {
        /// Which.
        msr: MsrIndex,
        /// Where.
        cpu: CpuNumber,
        /// The call.
        error: SeamcallError,
    } = "inconsistent-msr", Platform, EIO,
        "{msr} of {cpu} differs from that of the CPU that initialised the module ({error})",
        "all packages need the same microcode and BIOS settings: update the microcode early at boot";
    /// The module dislikes CPUID.
    IncorrectCpuid {
        /// Leaf.
        leaf: u32,
        /// Sub-leaf, all ones if it has none.
        subleaf: CpuidSubleaf,
        /// The call.
        error: SeamcallError,
    } = "incorrect-cpuid", Platform, EIO,
        "the module refuses CPUID leaf {leaf:#x}{subleaf} ({error})",
        "this CPU stepping, microcode or BIOS setting does not fit the module: update the microcode, or take the module line of this CPU";
    /// CPUID is not the same on all CPUs.
    InconsistentCpuid {
        /// Leaf.
        leaf: u32,
        /// Sub-leaf.
        subleaf: CpuidSubleaf,
        /// Where.
        cpu: CpuNumber,
        /// The call.
        error: SeamcallError,
    } = "inconsistent-cpuid", Platform, EIO,
        "CPUID leaf {leaf:#x}{subleaf} of {cpu} differs from that of the CPU that initialised the module ({error})",
        "all packages need CPUs of the same stepping with the same microcode and BIOS settings";
    /// SYS.INIT failed in another way.
    SysInitFailed {
        /// The call.
        error: SeamcallError,
    } = "sys-init-failed", Platform, EIO,
        "the module refuses to start: {error}",
        "look the status up; most refusals of this call name a BIOS setting";
    /// LP.INIT failed in another way.
    LpInitFailed {
        /// Where.
        cpu: CpuNumber,
        /// The call.
        error: SeamcallError,
    } = "lp-init-failed", Platform, EIO,
        "the module refuses {cpu}: {error}",
        "look the status up; most refusals of this call name something in which the packages differ";
    /// A TDX 1.0 module.
    ModuleTooOld {
        /// The first SYS.RD.
        error: SeamcallError,
    } = "module-too-old", Module, EIO,
        "the module has no TDH.SYS.RD ({error}), so that its properties cannot be read",
        "update the BIOS or stage a TDX module 1.5 or later; 1.0 modules predate the metadata interface";
    /// A metadata field cannot be read.
    MetadataReadFailed {
        /// Which.
        field: FieldId,
        /// The call.
        error: SeamcallError,
    } = "metadata-read-failed", Module, EIO,
        "metadata field {field} cannot be read: {error}",
        "the module lacks a field that the host needs: update the module";
    /// A metadata field has a value that makes no sense.
    MetadataInvalid {
        /// Which.
        field: FieldId,
        /// What it says.
        value: u64,
    } = "metadata-invalid", Module, EIO,
        "metadata field {field} has the value {value:#x}, which makes no sense",
        "the module answers nonsense: replace it";
    /// The module changes RBP.
    NoRbpMod {
        /// TDX_FEATURES0.
        features0: u64,
    } = "no-rbp-mod", Module, EINVAL,
        "the module lacks NO_RBP_MOD (TDX_FEATURES0 {features0:#x}, bit 18): it would change the host's frame pointer",
        "update the module to 1.5.01 or later";
    /// The storage for memory blocks is too small.
    TooManyMemoryRanges {
        /// How many fit.
        limit: usize,
    } = "too-many-memory-ranges", Host, ENOMEM,
        "firmware reports more memory ranges than the {limit} that the host keeps",
        "lend bring-up more storage for memory blocks";
    /// Two ranges of the memory map overlap.
    MemoryRangesOverlap {
        /// The second of them.
        range: PhysRange,
    } = "memory-ranges-overlap", Platform, EINVAL,
        "the firmware's memory map lists {range} twice or out of order",
        "the firmware reports nonsense: update the BIOS";
    /// There is no memory.
    NoTdxMemory = "no-tdx-memory", Platform, ENOMEM,
        "no memory above 1 MiB that TDX could use",
        "the memory map is empty: check `memmap=` and `mem=` boot options";
    /// Memory that TDX cannot protect.
    RamOutsideCmrs {
        /// The first such range.
        range: PhysRange,
    } = "ram-outside-cmrs", Platform, EINVAL,
        "{range} is used as RAM but lies outside the convertible memory ranges (CMRs)",
        "keep the range out of the page allocator (`memmap=`), leave CXL or persistent memory to devices, or let the BIOS convert it";
    /// More TDMRs than the module takes.
    TooManyTdmrs {
        /// How many it takes.
        limit: u16,
        /// Where the next one would begin.
        at: PhysAddr,
    } = "too-many-tdmrs", Host, ENOSPC,
        "the memory needs more than the {limit} TDMRs that the module takes; no entry is left for {at}",
        "give the host fewer, larger memory ranges, or use the default TDMR rules, which merge neighbours";
    /// More reserved areas in a TDMR than the module takes.
    TooManyReservedAreas {
        /// The TDMR.
        tdmr: PhysRange,
        /// How many it needs.
        needed: usize,
        /// How many it may have.
        limit: u16,
    } = "too-many-reserved-areas", Host, ENOSPC,
        "TDMR {tdmr}: reserved areas exhausted, it needs {needed} and may have {limit}",
        "the memory map is too fragmented: use the default TDMR rules, which reserve only what lies outside the CMRs";
    /// No contiguous memory for a PAMT.
    NoContiguousPamt {
        /// Bytes.
        bytes: u64,
        /// For which TDMR.
        tdmr: PhysRange,
        /// Near which node.
        node: NodeId,
    } = "no-contiguous-pamt", Host, ENOMEM,
        "no {bytes} contiguous bytes near {node} for the PAMT of TDMR {tdmr}",
        "initialise TDX early at boot, before memory is fragmented, or free memory";
    /// No memory for the tables of CONFIG.
    NoMemory {
        /// Bytes.
        bytes: u64,
    } = "no-memory", Host, ENOMEM,
        "no {bytes} contiguous bytes for a table that the module reads or writes",
        "free memory";
    /// The host's own access failed.
    MemoryAccessFailed {
        /// How.
        fault: MemoryFault,
    } = "memory-access-failed", Platform, EFAULT,
        "access to the host's own memory failed: {fault}",
        "a page was poisoned or is gone: look at the machine check log";
    /// A CPU did not run LP.INIT.
    LpNotInitialised {
        /// CPUs that did.
        initialised: u32,
        /// CPUs that the host knows.
        possible: u32,
        /// The CONFIG call.
        error: SeamcallError,
    } = "lp-not-initialised", Host, EIO,
        "the module waits for CPUs: {initialised} of the host's {possible} ran TDH.SYS.LP.INIT ({error})",
        "bring all CPUs online and remove `nosmt`, `maxcpus=` and `nr_cpus=`: every logical processor of the machine must take part";
    /// CONFIG refused the layout.
    ConfigFailed {
        /// The call.
        error: SeamcallError,
    } = "config-failed", Host, EIO,
        "the module refuses the memory layout: {error}",
        "the detail bytes of the status name TDMR and area; compare them with the CMRs";
    /// A package has no online CPU.
    PackageOffline {
        /// Which.
        package: PackageId,
    } = "package-offline", Host, EIO,
        "{package} has no online CPU that could program its key",
        "bring a CPU of the package online";
    /// KEY.CONFIG failed.
    KeyConfigFailed {
        /// Where.
        package: PackageId,
        /// The call.
        error: SeamcallError,
    } = "key-config-failed", Platform, EIO,
        "the global key of {package} cannot be programmed: {error}",
        "if it says KEY_GENERATION_FAILED, entropy ran out for good: power-cycle, then suspect the CPU";
    /// TDMR.INIT failed.
    TdmrInitFailed {
        /// Base of the TDMR.
        tdmr: PhysAddr,
        /// The call.
        error: SeamcallError,
    } = "tdmr-init-failed", Module, EIO,
        "TDMR {tdmr} cannot be initialised: {error}",
        "look the status up; after a power cycle bring-up can be tried again";
    /// TDMR.INIT makes no progress.
    TdmrInitStuck {
        /// Base of the TDMR.
        tdmr: PhysAddr,
        /// Calls made.
        calls: u64,
    } = "tdmr-init-stuck", Module, EIO,
        "TDMR {tdmr} is not initialised after {calls} calls",
        "the module makes no progress: replace it";
    /// Nothing was done yet.
    NotInitialised = "not-initialised", Caller, ENODEV,
        "the TDX module is not initialised",
        "bring it up first";
    /// Bring-up came before the early checks.
    EarlyInitMissing = "early-init-missing", Caller, EINVAL,
        "bring-up was asked for before the platform was checked",
        "run the early checks first";
    /// A second attempt.
    AlreadyTried = "already-tried", Caller, EBUSY,
        "bring-up was tried before in this boot, and the module cannot go back to its first state",
        "power-cycle the machine";
    /// Shutdown or crash has begun.
    GoingDown = "going-down", Caller, ESHUTDOWN,
        "the host is going down: no call to the module is made any more",
        "wait for the next boot";
    /// The last CPU of a package cannot go.
    LastCpuOfPackage {
        /// The CPU.
        cpu: CpuNumber,
        /// Its package.
        package: PackageId,
    } = "last-cpu-of-package", Caller, EBUSY,
        "{cpu} is the last online CPU of {package}, and TDs hold KeyIDs whose caches only it can write back",
        "shut the TDs down, or bring another CPU of the package online first";
    /// SYS.DISABLE failed.
    DisableFailed {
        /// The call.
        error: SeamcallError,
    } = "disable-failed", Module, EIO,
        "the module does not take its leave: {error}",
        "modules without TDH.SYS.DISABLE stay as they are until the machine is reset; their memory must not be reused";
    /// Pages that no operand can name.
    PageListRefused {
        /// Why.
        reason: HpaListError,
    } = "page-list-refused", Host, EINVAL,
        "a list of pages cannot be given to the module: {reason}",
        "a bug of the caller, or a module that asks for more pages than a list can hold";
    /// S3 or hibernation.
    SuspendRefused {
        /// What was asked for.
        kind: SuspendKind,
    } = "suspend-refused", Caller, EBUSY,
        "{kind} is refused while the TDX module is initialised: it would lose the keys",
        "use suspend-to-idle";
    /// Memory hotplug outside TDX memory.
    HotplugOutsideTdxMemory {
        /// What was to be added.
        range: PhysRange,
    } = "hotplug-outside-tdx-memory", Caller, EINVAL,
        "{range} cannot go online: it was not TDX memory when the module was initialised",
        "have the memory online at boot, or boot without TDX";
    /// All guest KeyIDs are in use.
    NoFreeKeyId {
        /// How many there are.
        total: u32,
    } = "no-free-keyid", Caller, ENOSPC,
        "all {total} guest KeyIDs are in use",
        "shut a TD down, or raise the TDX share of the KeyIDs in the BIOS setup";
    /// The KeyID was not given out.
    KeyIdNotAllocated {
        /// Which.
        key: KeyId,
    } = "keyid-not-allocated", Caller, EINVAL,
        "KeyID {key} is not one that was given out",
        "a bug of the caller: free a KeyID once, by the number that was given out";
    /// The device is not there.
    DeviceGone = "device-gone", Caller, ENODEV,
        "the tdx_host device is not there",
        "it exists from successful bring-up and the platform's readiness signal until its removal";
    /// No such attribute.
    NoSuchAttribute = "no-such-attribute", Caller, ENOENT,
        "the tdx_host device has no such attribute",
        "attributes of runtime update show only if the module can be updated and the CPU keeps the current VMCS over SEAMRET";
    /// The attribute does not fit into the buffer.
    BufferTooSmall {
        /// Bytes that it has.
        bytes: usize,
    } = "buffer-too-small", Caller, EINVAL,
        "the value does not fit into a buffer of {bytes} bytes",
        "offer a page";
    /// P-SEAMLDR does not answer.
    SeamldrInfoFailed {
        /// The call.
        error: SeamcallError,
    } = "seamldr-info-failed", Module, EIO,
        "P-SEAMLDR does not tell of itself: {error}",
        "VMfailInvalid means that no P-SEAMLDR is loaded: update the BIOS";
    /// The file is no module image.
    ImageRefused {
        /// What is wrong with it.
        reason: ImageError,
    } = "image-refused", Caller, EINVAL,
        "the file is not a module image that can be installed: {reason}",
        "compare the file with its publisher's checksum; `tdxhost module inspect` shows what is in it";
    /// P-SEAMLDR would not take the SIGSTRUCT.
    SigstructRefused {
        /// The field at fault.
        reason: SigstructError,
    } = "sigstruct-refused", Caller, EINVAL,
        "P-SEAMLDR would refuse the image's SIGSTRUCT: {reason}",
        "take an image of the line that this machine's P-SEAMLDR loads; 2.0 modules need a 2.0 P-SEAMLDR";
    /// A debug module.
    ImageDebug = "image-debug", Caller, EINVAL,
        "the image holds a module that is signed for debugging, which a production machine does not load",
        "take the production image of the same release; a machine unlocked for debugging takes it with the option that allows it";
    /// The image is not made for a CPU of the machine.
    ImageCpuUnsupported {
        /// The first such CPU.
        cpu: CpuNumber,
        /// Its CPUID.1:EAX.
        signature: u32,
    } = "image-cpu-unsupported", Caller, EINVAL,
        "{cpu} has CPUID.1:EAX {signature:#x}, which the image's list of CPUs lacks",
        "take the image of the same release that lists this CPU model";
    /// The image is of another line.
    ImageSvnLineDiffers {
        /// SVN of the running module.
        running: Svn,
        /// SVN of the image.
        image: Svn,
    } = "image-svn-line-differs", Caller, EINVAL,
        "the image has SVN {image}, the running module {running}: an update keeps the major SVN",
        "take an image of the running line; another line needs a reboot";
    /// The image is older.
    ImageSvnOlder {
        /// SVN of the running module.
        running: Svn,
        /// SVN of the image.
        image: Svn,
    } = "image-svn-older", Caller, EINVAL,
        "the image has SVN {image}, lower than {running} of the running module",
        "take an image that is not older; an older one can be loaded at boot";
    /// The image does not take over from the running module.
    ImageHandoffDiffers {
        /// Hand-off version that the running module writes.
        version: u16,
        /// Oldest version that the image takes.
        oldest: u16,
        /// Newest one.
        newest: u16,
    } = "image-handoff-differs", Caller, EINVAL,
        "the running module hands over in version {version}, and the image takes {oldest} to {newest} only",
        "update in smaller steps, as the releases' notes say, or load the image at boot";
    /// The module cannot be replaced under running TDs.
    UpdateNotOffered {
        /// TDX_FEATURES0.
        features0: u64,
    } = "update-not-offered", Module, EOPNOTSUPP,
        "the module lacks TD_PRESERVING (TDX_FEATURES0 {features0:#x}, bit 1): it cannot be replaced under running TDs",
        "load a newer module at boot";
    /// P-SEAMLDR loses the current VMCS.
    SeamretInvdVmcs {
        /// The first such CPU.
        cpu: CpuNumber,
    } = "seamret-invd-vmcs", Platform, EOPNOTSUPP,
        "SEAMRET on {cpu} invalidates the current VMCS (IA32_VMX_BASIC bit 60 is 0): hypervisors would lose theirs",
        "update the microcode; without it the module is replaced at boot only";
    /// No update is left.
    UpdateLogFull = "update-log-full", Platform, ENOSPC,
        "P-SEAMLDR's log of updates is full: it takes no further one in this boot",
        "power-cycle the machine, which empties the log";
    /// A CPU that P-SEAMLDR waits for is offline.
    UpdateCpuOffline {
        /// The first of them.
        cpu: CpuNumber,
        /// How many there are.
        offline: u32,
    } = "update-cpu-offline", Caller, EBUSY,
        "{cpu} is offline ({offline} in all): P-SEAMLDR waits for every logical processor of the machine",
        "bring all CPUs online, and remove `nosmt`, `maxcpus=` and `nr_cpus=`";
    /// A CPU has an id that P-SEAMLDR does not count.
    X2apicIdTooLarge {
        /// The first such CPU.
        cpu: CpuNumber,
        /// Its x2APIC id.
        id: u32,
        /// Ids below it are counted.
        limit: u32,
    } = "x2apic-id-too-large", Platform, EOPNOTSUPP,
        "{cpu} has x2APIC id {id}, and P-SEAMLDR counts ids below {limit} only: the update would never end",
        "let the BIOS assign denser ids; override the limit only for a P-SEAMLDR that is known to take larger ones";
    /// Another update runs.
    UpdateRunning = "update-running", Caller, EBUSY,
        "an update of the module is running",
        "wait for its end";
    /// A call was interrupted and never finished.
    ResumableCallSuspended {
        /// How many.
        count: u32,
    } = "resumable-call-suspended", Caller, EBUSY,
        "{count} interrupted calls of the module were never resumed to their end: an update would lose their work",
        "let the calls finish, then try again";
    /// A TD is at a point that an update would damage.
    TdBuildInProgress {
        /// What it does.
        work: SensitiveWork,
        /// How many of them.
        count: u16,
        /// TDH.SYS.SHUTDOWN.
        error: SeamcallError,
    } = "td-build-in-progress", Caller, EBUSY,
        "the module does not go while an update would damage its work: {count} {work} ({error})",
        "nothing was changed: try again when they are finished";
    /// The module does not go.
    UpdateShutdownRefused {
        /// Where.
        cpu: CpuNumber,
        /// The call.
        error: SeamcallError,
    } = "update-shutdown-refused", Module, EBUSY,
        "the module refuses to be shut down on {cpu}: {error}",
        "nothing was changed: SYS_BUSY passes; any other status speaks against updating this module";
    /// P-SEAMLDR did not take the image and left the old module where it was.
    InstallFailedRecoverable {
        /// Where.
        cpu: CpuNumber,
        /// The call.
        error: SeamcallError,
    } = "install-failed-recoverable", Caller, EIO,
        "P-SEAMLDR did not take the image on {cpu}: {error}; the old module is shut down, TDs wait",
        "install this or another image: TDs go on behind an update that succeeds, and are lost in a reboot";
    /// P-SEAMLDR failed for good.
    InstallFailed {
        /// Where.
        cpu: CpuNumber,
        /// The call.
        error: SeamcallError,
    } = "install-failed", Module, EIO,
        "P-SEAMLDR failed on {cpu} and left no module: {error}; all TDs are lost",
        "power-cycle the machine";
    /// The new module does not start.
    UpdateInitFailed {
        /// Where.
        cpu: CpuNumber,
        /// The call.
        error: SeamcallError,
    } = "update-init-failed", Module, EIO,
        "the new module does not start on {cpu}: {error}; all TDs are lost",
        "power-cycle the machine; the status says what the new module dislikes";
    /// The new module does not take over.
    HandoffRefused {
        /// Where.
        cpu: CpuNumber,
        /// The call.
        error: SeamcallError,
    } = "handoff-refused", Module, EIO,
        "the new module does not take over from the old one on {cpu}: {error}; all TDs are lost",
        "power-cycle the machine; update in smaller steps, as the releases' notes say";
    /// Between two attempts of an update.
    ModuleDown = "module-down", Caller, EBUSY,
        "the TDX module is shut down, and the update that was to replace it failed: only another update is possible",
        "install this or another image; the failure of the last update says what was wrong";
    /// An update failed for good.
    ModuleGone = "module-gone", Caller, ENODEV,
        "the TDX module is gone: an update failed at a point from which nothing leads back",
        "power-cycle the machine; the failure of the last update says what was wrong";
}
