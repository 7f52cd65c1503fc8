//! What the host side needs of the system it lives in.
//!
//! One narrow trait per concern, so that an embedder can take only some of the rooms. A kernel
//! implements them on its own primitives, a simulator on a software machine; nothing above this
//! module can tell the difference.

mod cpu;
mod pages;
mod pci;

use core::fmt;
use core::ops::ControlFlow;

use tdx_abi::msr::MsrIndex;
use tdx_abi::{PhysRange, Registers};

pub(crate) use cpu::first_online;
pub use cpu::{CpuNumber, CpuPin, Cpus, LockstepError, LockstepFn, PackageId, PerCpu};
pub use pages::{
    AllocRequest, DonatedPages, LeakCounter, MemoryFault, NodeId, OwnedPages, Pages, ReclaimedPages,
};
pub use pci::{
    Acpi, ConnectPlatform, DmarUnit, DomainIdsInUse, HostBridge, Iommus, PciBus, PciFunction, UeventAction,
    Uevents,
};

/// Why SEAMCALL did not reach the SEAM software.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeamcallFault {
    /// #UD: the CPU is not in VMX operation.
    #[error("#UD, the CPU is not in VMX operation")]
    InvalidOpcode,
    /// #GP: the platform has SEAM mode off.
    #[error("#GP, SEAM mode is off")]
    GeneralProtection,
    /// VMfailInvalid (CF = 1): the software addressed is not loaded, disabled or, for P-SEAMLDR, in use by
    /// another CPU.
    #[error("VMfailInvalid, nothing answers")]
    VmFailInvalid,
}

/// The SEAMCALL instruction.
pub trait Seam {
    /// Runs SEAMCALL on the CPU of `pin` with the whole register file.
    ///
    /// `registers.rax` holds the leaf word on entry and the completion status after `Ok`. After `Err` the
    /// registers are unchanged. No retry, no policy: those are [`crate::seamcall`]'s.
    fn seamcall(&self, pin: &CpuPin<'_>, registers: &mut Registers) -> Result<(), SeamcallFault>;
}

/// Reading a model specific register faulted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("RDMSR of {0} faults")]
pub struct MsrFault(pub MsrIndex);

/// Result of CPUID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // Register names are the hardware's own.
pub struct CpuidLeaf {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// Instructions that ask a CPU about itself or write its caches back.
pub trait Processor {
    /// RDMSR on the CPU of `pin`.
    fn rdmsr(&self, pin: &CpuPin<'_>, msr: MsrIndex) -> Result<u64, MsrFault>;

    /// CPUID on the CPU of `pin`.
    fn cpuid(&self, pin: &CpuPin<'_>, leaf: u32, subleaf: u32) -> CpuidLeaf;

    /// WBINVD on the CPU of `pin`.
    fn wbinvd(&self, pin: &CpuPin<'_>);
}

/// Why VMXON or VMXOFF failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VmxFault {
    /// #UD: CR4.VMXE is clear or the CPU has no VMX.
    #[error("#UD")]
    InvalidOpcode,
    /// #GP: IA32_FEATURE_CONTROL forbids VMX.
    #[error("#GP")]
    GeneralProtection,
    /// VMfailInvalid: the VMXON region does not carry the revision id.
    #[error("VMfailInvalid")]
    VmFailInvalid,
}

/// VMX operation of one CPU, below any hypervisor.
pub trait Vmx {
    /// CR4.VMXE of the CPU of `pin`.
    fn vmxe(&self, pin: &CpuPin<'_>) -> bool;

    /// Sets or clears CR4.VMXE.
    fn set_vmxe(&self, pin: &CpuPin<'_>, on: bool);

    /// VMXON with the CPU's own region.
    ///
    /// The embedder keeps one 4 KiB region per possible CPU, on the CPU's node, zeroed but for its first
    /// four bytes, which are `revision`.
    fn vmxon(&self, pin: &CpuPin<'_>, revision: u32) -> Result<(), VmxFault>;

    /// VMXOFF.
    fn vmxoff(&self, pin: &CpuPin<'_>) -> Result<(), VmxFault>;
}

/// What firmware and boot options say.
pub trait Firmware {
    /// Hands out every range of memory that the page allocator owns, with its node, in ascending order.
    fn memory_ranges(&self, each: &mut dyn FnMut(PhysRange, NodeId) -> ControlFlow<()>);

    /// True unless hibernation is switched off by configuration or boot option.
    fn hibernation_possible(&self) -> bool;

    /// True if a partial write to a private line poisons it silently (Sapphire Rapids, Emerald Rapids).
    fn partial_write_erratum(&self) -> bool;
}

/// Weight of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogLevel {
    /// Something failed for good.
    Error,
    /// Something is not as it should be; work goes on.
    Warning,
    /// A milestone.
    Info,
}

/// Where log lines go.
pub trait Log {
    /// Takes one line.
    fn log(&self, level: LogLevel, line: fmt::Arguments<'_>);
}

/// All of the traits, for the walks that need them all.
pub trait Platform: Seam + Pages + Cpus + Processor + Vmx + Firmware + Log {}

impl<P: Seam + Pages + Cpus + Processor + Vmx + Firmware + Log> Platform for P {}
