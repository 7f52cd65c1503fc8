//! VMX operation per CPU, counted by reference and owned by nobody's hypervisor.
//!
//! Several independent clients (the TDX host itself, a hypervisor, a test) hold references on each CPU;
//! the first turns VMX on, the last turns it off.

use crate::sync::atomic::{AtomicU8, Ordering};

use tdx_abi::PAGE_SIZE;
use tdx_abi::msr::MsrIndex;

use crate::cpu::{CpuSlot, MAX_VMX_CLIENTS, VmxBasic, cpuid, slot};
use crate::error::HostError;
use crate::seamcall::Gate;
use crate::traits::{CpuNumber, CpuPin, Processor, Vmx};

/// Number of a user of VMX operation.
///
/// A client takes its references and gives them back under its own number, so that a put without a get
/// is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VmxClient(u8);

impl VmxClient {
    /// The TDX host itself.
    pub(crate) const TDX: Self = Self(0);
}

/// The client numbers given out.
#[derive(Debug)]
pub struct VmxClients(AtomicU8);

const _: () = assert!(MAX_VMX_CLIENTS <= u8::BITS as usize);

impl VmxClients {
    /// No client but the TDX host.
    pub const fn new() -> Self {
        Self(AtomicU8::new(1))
    }

    /// A number for a new client.
    pub fn register(&self) -> Result<VmxClient, HostError> {
        let mut taken = self.0.load(Ordering::Relaxed);
        loop {
            #[allow(clippy::cast_possible_truncation)] // At most 8.
            let number = taken.trailing_ones() as u8;
            if usize::from(number) >= MAX_VMX_CLIENTS {
                return Err(HostError::TooManyVmxClients);
            }
            let more = taken | 1 << number;
            match self.0.compare_exchange_weak(taken, more, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(VmxClient(number)),
                Err(found) => taken = found,
            }
        }
    }

    /// Gives a number back. Refused while the client holds a reference on one of `cpus`: the next
    /// client with the number would inherit it. The number of the TDX host itself is never given back.
    pub fn unregister(&self, cpus: &[CpuSlot], client: VmxClient) -> Result<(), HostError> {
        for (slot, number) in cpus.iter().zip(0..) {
            let held = slot.vmx_references(client.0).map_or(0, |count| count.load(Ordering::Relaxed));
            if held != 0 {
                return Err(HostError::VmxClientBusy { client: client.0, cpu: CpuNumber(number) });
            }
        }
        if client != VmxClient::TDX {
            self.0.fetch_and(!(1 << client.0), Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Default for VmxClients {
    fn default() -> Self {
        Self::new()
    }
}

/// VMX operation of the CPUs.
#[derive(Debug)]
pub struct VmxPort<'a, P: ?Sized> {
    platform: &'a P,
    gate: &'a Gate,
    cpus: &'a [CpuSlot],
}

impl<'a, P: Vmx + Processor + ?Sized> VmxPort<'a, P> {
    /// A port; `cpus` holds one slot per possible CPU.
    pub const fn new(platform: &'a P, gate: &'a Gate, cpus: &'a [CpuSlot]) -> Self {
        Self { platform, gate, cpus }
    }

    /// Takes a reference on the CPU of `pin`; the first one turns VMX on.
    pub fn get(&self, pin: &CpuPin<'_>, client: VmxClient) -> Result<(), HostError> {
        if self.gate.is_closed() {
            return Err(HostError::GoingDown);
        }
        let cpu = pin.cpu();
        let slot = slot(self.cpus, cpu)?;
        let full = HostError::TooManyVmxReferences { cpu, client: client.0 };
        let count = slot.vmx_references(client.0).ok_or(full)?;
        let more = count.load(Ordering::Relaxed).checked_add(1).ok_or(full)?;
        if !slot.vmx_on() {
            self.enter(pin, slot)?;
        }
        count.store(more, Ordering::Relaxed);
        Ok(())
    }

    /// Gives a reference back; the last one turns VMX off.
    pub fn put(&self, pin: &CpuPin<'_>, client: VmxClient) -> Result<(), HostError> {
        let cpu = pin.cpu();
        let slot = slot(self.cpus, cpu)?;
        let unbalanced = HostError::UnbalancedVmxPut { cpu, client: client.0 };
        let count = slot.vmx_references(client.0).ok_or(unbalanced)?;
        let less = count.load(Ordering::Relaxed).checked_sub(1).ok_or(unbalanced)?;
        count.store(less, Ordering::Relaxed);
        if slot.vmx_reference_count() == 0 {
            self.leave(pin, slot);
        }
        Ok(())
    }

    /// References that `client` holds on the CPU of `pin`.
    pub fn references(&self, pin: &CpuPin<'_>, client: VmxClient) -> u16 {
        slot(self.cpus, pin.cpu())
            .ok()
            .and_then(|slot| slot.vmx_references(client.0))
            .map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// The CPU goes offline: VMX operation ends, references of clients stay counted.
    pub fn cpu_goes_offline(&self, pin: &CpuPin<'_>) -> Result<(), HostError> {
        self.leave(pin, slot(self.cpus, pin.cpu())?);
        Ok(())
    }

    /// The CPU is back: VMX operation begins again if a client still holds a reference on it.
    pub fn cpu_came_online(&self, pin: &CpuPin<'_>) -> Result<(), HostError> {
        let slot = slot(self.cpus, pin.cpu())?;
        // INIT cleared CR4 and ended VMX operation, whatever was noted.
        slot.set_vmx_on(false);
        if slot.vmx_reference_count() == 0 { Ok(()) } else { self.enter(pin, slot) }
    }

    /// Ends VMX operation in a crash, whoever began it: takes no lock, fails never, may interrupt any of
    /// the others.
    ///
    /// Goes by CR4.VMXE: a crash between VMXON and its note must not leave VMX on, as INIT is blocked
    /// there.
    pub fn emergency_off(&self, pin: &CpuPin<'_>) {
        if let Ok(slot) = slot(self.cpus, pin.cpu()) {
            slot.set_vmx_on(false);
        }
        if self.platform.vmxe(pin) {
            self.vmx_off(pin);
        }
    }

    fn enter(&self, pin: &CpuPin<'_>, slot: &CpuSlot) -> Result<(), HostError> {
        let cpu = pin.cpu();
        if self.platform.vmxe(pin) {
            return Err(HostError::VmxeInUse { cpu });
        }
        let basic = vmx_basic(self.platform, pin)?;
        self.platform.set_vmxe(pin, true);
        if let Err(fault) = self.platform.vmxon(pin, basic.revision()) {
            self.platform.set_vmxe(pin, false);
            let feature_control = self.platform.rdmsr(pin, MsrIndex::IA32_FEATURE_CONTROL).unwrap_or(0);
            return Err(HostError::VmxonFailed { cpu, fault, feature_control });
        }
        slot.set_vmx_on(true);
        Ok(())
    }

    fn leave(&self, pin: &CpuPin<'_>, slot: &CpuSlot) {
        if !slot.vmx_on() {
            return;
        }
        slot.set_vmx_on(false);
        self.vmx_off(pin);
    }

    fn vmx_off(&self, pin: &CpuPin<'_>) {
        // A fault means that VMX is off already, which is what is wanted.
        let _ = self.platform.vmxoff(pin);
        self.platform.set_vmxe(pin, false);
    }
}

/// IA32_VMX_BASIC of a CPU that can be driven.
pub(crate) fn vmx_basic<P: Processor + ?Sized>(
    platform: &P,
    pin: &CpuPin<'_>,
) -> Result<VmxBasic, HostError> {
    let cpu = pin.cpu();
    if platform.cpuid(pin, 1, 0).ecx & cpuid::LEAF_1_ECX_VMX == 0 {
        return Err(HostError::NoVmx);
    }
    let basic = platform.rdmsr(pin, VmxBasic::MSR).map(VmxBasic);
    let basic = basic.map_err(|_| HostError::VmxBasicUnreadable { cpu })?;
    if basic.region_bytes() > PAGE_SIZE {
        return Err(HostError::VmcsTooLarge { bytes: basic.region_bytes() });
    }
    Ok(basic)
}
