//! Instructions, firmware and the log.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use tdx_abi::msr::MsrIndex;
use tdx_abi::{KeyId, PhysRange, Registers};
use tdx_host::traits::{
    CpuNumber, CpuPin, CpuidLeaf, Firmware, Log, LogLevel, MsrFault, NodeId, Processor, Seam, SeamcallFault,
    Vmx, VmxFault,
};
use tdx_machine::SeamFault;

use crate::platform::{LogLine, Platform, lp};

/// Somebody who looks at what the host asks of SEAM mode. The CPU waits meanwhile.
pub trait CallObserver: Send + Sync {
    /// A call came back, or did not reach the software: registers before it, and what became of them.
    fn called(&self, cpu: CpuNumber, before: &Registers, after: Result<&Registers, SeamcallFault>);
}

impl Seam for Platform {
    fn seamcall(&self, pin: &CpuPin<'_>, registers: &mut Registers) -> Result<(), SeamcallFault> {
        let before = self.call_observer.get().map(|observer| (observer, *registers));
        let called = self.machine().seamcall(lp(pin.cpu()), registers).map_err(|fault| match fault {
            SeamFault::InvalidOpcode => SeamcallFault::InvalidOpcode,
            SeamFault::GeneralProtection => SeamcallFault::GeneralProtection,
            SeamFault::VmFailInvalid => SeamcallFault::VmFailInvalid,
        });
        if let Some((observer, before)) = before {
            observer.called(pin.cpu(), &before, called.map(|()| &*registers));
        }
        called
    }
}

impl Platform {
    /// Shows every SEAMCALL from now on to `observer`. The first one stays; false for any that comes later.
    pub fn observe_calls(&self, observer: Arc<dyn CallObserver>) -> bool {
        self.call_observer.set(observer).is_ok()
    }
}

impl Processor for Platform {
    fn rdmsr(&self, pin: &CpuPin<'_>, msr: MsrIndex) -> Result<u64, MsrFault> {
        self.machine().rdmsr(lp(pin.cpu()), msr).map_err(|_| MsrFault(msr))
    }

    fn cpuid(&self, pin: &CpuPin<'_>, leaf: u32, subleaf: u32) -> CpuidLeaf {
        let found = self.machine().cpuid(lp(pin.cpu()), leaf, subleaf);
        CpuidLeaf { eax: found.eax, ebx: found.ebx, ecx: found.ecx, edx: found.edx }
    }

    fn wbinvd(&self, pin: &CpuPin<'_>) {
        self.machine().wbinvd(lp(pin.cpu()));
    }
}

fn vmx_fault(fault: tdx_machine::VmxFault) -> VmxFault {
    match fault {
        tdx_machine::VmxFault::InvalidOpcode => VmxFault::InvalidOpcode,
        tdx_machine::VmxFault::GeneralProtection => VmxFault::GeneralProtection,
        tdx_machine::VmxFault::InvalidRegion | tdx_machine::VmxFault::AlreadyOn => VmxFault::VmFailInvalid,
    }
}

impl Vmx for Platform {
    fn vmxe(&self, pin: &CpuPin<'_>) -> bool {
        self.machine().cr4_vmxe(lp(pin.cpu()))
    }

    fn set_vmxe(&self, pin: &CpuPin<'_>, on: bool) {
        self.machine().set_cr4_vmxe(lp(pin.cpu()), on);
    }

    fn vmxon(&self, pin: &CpuPin<'_>, revision: u32) -> Result<(), VmxFault> {
        let region = self.vmxon_region(pin.cpu()).ok_or(VmxFault::VmFailInvalid)?;
        let written = self.machine().write(region, KeyId::TME, &revision.to_le_bytes());
        written.map_err(|_| VmxFault::VmFailInvalid)?;
        self.machine().vmxon(lp(pin.cpu()), region).map_err(vmx_fault)
    }

    fn vmxoff(&self, pin: &CpuPin<'_>) -> Result<(), VmxFault> {
        self.machine().vmxoff(lp(pin.cpu())).map_err(vmx_fault)
    }
}

impl Firmware for Platform {
    fn memory_ranges(&self, each: &mut dyn FnMut(PhysRange, NodeId) -> ControlFlow<()>) {
        // Whoever breaks off has what it wants.
        let _ = self.memory().iter().try_for_each(|&(range, node)| each(range, node));
    }

    fn hibernation_possible(&self) -> bool {
        self.machine().embedder().hibernation_possible
    }

    fn partial_write_erratum(&self) -> bool {
        self.machine().spec().errata().pw_mce
    }
}

impl Log for Platform {
    fn log(&self, level: LogLevel, line: fmt::Arguments<'_>) {
        self.log.lock().push(LogLine { level, text: line.to_string() });
    }
}
