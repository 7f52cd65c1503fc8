//! A powered-on machine.

use std::sync::Arc;

use parking_lot::Mutex;
use tdx_abi::msr::MsrIndex;
use tdx_abi::{AddressLayout, KeyId, PhysAddr, PhysRange, Registers};
use tdx_module::hardware::{CpuidRegs, Hardware, LpIndex};
use tdx_module::{Inspection, LpPort, NoAnswer, SeamSoftware};

use crate::board::Board;
use crate::cpu::VmxFault;
use crate::event::Event;
use crate::fault::{Answer, CallLeaf, Fault, FaultError};
use crate::firmware::{E820Entry, LogicalProcessor, NodeId};
use crate::memory::{MemoryFootprint, PoisonRecord, Ram, Store};
use crate::power::PowerOn;
use crate::seam;
use crate::spec::{AllocatorSpec, EmbedderSpec, PlatformSpec, SpecError};

/// How a SEAMCALL instruction fails without reaching SEAM software.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeamFault {
    /// #UD: the LP is not in VMX operation.
    #[error("#UD: not in VMX operation")]
    InvalidOpcode,
    /// #GP: the platform has SEAM off.
    #[error("#GP: SEAM is off")]
    GeneralProtection,
    /// CF = 1, registers unchanged: no module, module disabled, or P-SEAMLDR in use elsewhere.
    #[error("VMfailInvalid: no SEAM software answers")]
    VmFailInvalid,
}

/// IA32_FEATURE_CONTROL: locked, VMX allowed outside SMX.
const LOCKED_AND_ALLOWED: u64 = 0b101;

/// #GP of RDMSR or WRMSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("#GP: MSR {msr} on {lp}")]
pub struct GpFault {
    /// The LP.
    pub lp: LpIndex,
    /// The MSR.
    pub msr: MsrIndex,
}

/// Why an access to memory failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemFault {
    /// Poison was consumed.
    #[error("machine check: poisoned memory at {pa}")]
    MachineCheck {
        /// The line.
        pa: PhysAddr,
    },
    /// KeyID bits of private KeyIDs are reserved outside SEAM.
    #[error("page fault: KeyID {key} is reserved outside SEAM mode")]
    ReservedKeyId {
        /// The KeyID.
        key: KeyId,
    },
    /// The SEAM range is not reachable outside SEAM mode.
    #[error("address {pa} lies in the SEAM range")]
    SeamRange {
        /// First byte of the access.
        pa: PhysAddr,
    },
    /// Nothing answers.
    #[error("no memory at {pa}")]
    NotRam {
        /// First byte of the access.
        pa: PhysAddr,
    },
}

/// A machine: memory, CPUs, firmware tables, SEAM software, faults.
///
/// Everything takes `&self`: any thread may play any LP. Two threads that play one LP at the same
/// time take turns.
pub struct Machine {
    board: Board,
    /// SEAM software since the last power-on.
    software: Mutex<Arc<SeamSoftware>>,
    /// SEAM software as each LP sees it. Each LP locks its own: calls of different LPs meet only
    /// inside the module.
    seam: Box<[SeamSlot]>,
}

#[repr(align(64))]
struct SeamSlot(Mutex<LpPort>);

impl Machine {
    /// Switches a machine on. The same specification and seed give the same machine. [`PowerOn`]
    /// knows more ways.
    ///
    /// [`PowerOn`]: crate::PowerOn
    pub fn power_on(spec: PlatformSpec, seed: u64) -> Result<Self, SpecError> {
        PowerOn::new(spec).seed(seed).switch_on()
    }

    /// Switches a machine on over memory that belongs to somebody else.
    pub fn power_on_over(spec: PlatformSpec, seed: u64, ram: Box<dyn Ram>) -> Result<Self, SpecError> {
        PowerOn::new(spec).seed(seed).over(ram).switch_on()
    }

    /// A machine whose power comes on now.
    pub(crate) fn start(board: Board) -> Self {
        let software = Arc::new(seam::load(&board));
        let slots =
            board.layout().lps.iter().map(|_| SeamSlot(Mutex::new(LpPort::new(Arc::clone(&software)))));
        let seam = slots.collect();
        Self { board, software: Mutex::new(software), seam }
    }

    /// Switches off and on: memory, CPUs, SEAM software and counters are as at power-on. Faults of
    /// the specification stay, faults injected since the last power-on end, and those injected for
    /// the next power-on begin. Waits for SEAMCALLs that are under way.
    pub fn power_cycle(&self) {
        // All LPs out of SEAM first, so that none sees a half reset machine.
        let mut slots: Vec<_> = self.seam.iter().map(|slot| slot.0.lock()).collect();
        let mut current = self.software.lock();
        self.board.power_cycle();
        let software = Arc::new(seam::load(&self.board));
        for slot in &mut slots {
            **slot = LpPort::new(Arc::clone(&software));
        }
        *current = software;
    }

    /// Cuts the power. Until it is cycled every SEAMCALL fails with VMfailInvalid and the SEAM
    /// software stays as it is, for [`Machine::seam`] to show; the rest of the machine is left
    /// alone, nobody being there to look at it.
    pub fn cut_power(&self) {
        // All LPs out of SEAM: a call that is under way ends before the cut.
        let _slots: Vec<_> = self.seam.iter().map(|slot| slot.0.lock()).collect();
        self.board.cut_power();
    }

    /// The specification.
    pub fn spec(&self) -> &PlatformSpec {
        self.board.spec()
    }

    /// SEAMCALL on `lp`. Faults in the order of the instruction: #UD outside VMX operation, #GP
    /// where SEAM is off, VMfailInvalid where no software answers.
    pub fn seamcall(&self, lp: LpIndex, regs: &mut Registers) -> Result<(), SeamFault> {
        let (Some(state), Some(slot)) = (self.board.lp_state(lp), self.seam.get(lp.0 as usize)) else {
            return Err(SeamFault::InvalidOpcode);
        };
        // Locked before the look at the machine, so that a power cut or cycle comes before the call
        // or after it.
        let mut port = slot.0.lock();
        if !state.in_vmx() {
            return Err(SeamFault::InvalidOpcode);
        }
        if !self.board.seam_on() {
            return Err(SeamFault::GeneralProtection);
        }
        if !self.board.seam_loaded() {
            return Err(SeamFault::VmFailInvalid);
        }
        if let Some(answer) = self.board.failing_call(lp, regs.rax) {
            return fail(answer, regs);
        }
        port.seamcall(&self.board, lp, regs).map_err(|failure| {
            // Poison consumed in SEAM mode shuts the LP down; every later SEAMCALL fails.
            if matches!(failure, NoAnswer::MachineCheck(_)) {
                state.stop();
                self.board.events().push(Event::LpShutdown { lp });
            }
            SeamFault::VmFailInvalid
        })
    }

    /// RDMSR on `lp`.
    pub fn rdmsr(&self, lp: LpIndex, msr: MsrIndex) -> Result<u64, GpFault> {
        self.board.rdmsr(lp, msr).ok_or(GpFault { lp, msr })
    }

    /// WRMSR on `lp`. Only MSRs that a host of this model has a reason to write take a value:
    /// IA32_TSC_ADJUST and IA32_TSX_CTRL.
    pub fn wrmsr(&self, lp: LpIndex, msr: MsrIndex, value: u64) -> Result<(), GpFault> {
        if self.board.wrmsr(lp, msr, value) { Ok(()) } else { Err(GpFault { lp, msr }) }
    }

    /// CPUID on `lp`.
    pub fn cpuid(&self, lp: LpIndex, leaf: u32, subleaf: u32) -> CpuidRegs {
        self.board.cpuid(lp, leaf, subleaf)
    }

    /// CR4.VMXE of `lp`; false for an LP that is offline.
    pub fn cr4_vmxe(&self, lp: LpIndex) -> bool {
        self.board.lp_state(lp).is_some_and(|state| state.is_online() && state.vmxe())
    }

    /// Writes CR4.VMXE of `lp`. A write that faults (no VMX, or clearing the bit in VMX
    /// operation) changes nothing and shows in the log.
    pub fn set_cr4_vmxe(&self, lp: LpIndex, set: bool) {
        let Some(state) = self.board.lp_state(lp).filter(|state| state.is_online()) else { return };
        if (set && !self.board.has_vmx()) || !state.set_vmxe(set) {
            self.board.events().push(Event::Cr4WriteFaulted { lp });
        }
    }

    /// VMXON on `lp` with a region whose first word is the revision of IA32_VMX_BASIC.
    pub fn vmxon(&self, lp: LpIndex, region: PhysAddr) -> Result<(), VmxFault> {
        let state = self.running(lp)?;
        if !state.vmxe() {
            return Err(VmxFault::InvalidOpcode);
        }
        if state.in_vmx() {
            return Err(VmxFault::AlreadyOn);
        }
        let control = self.board.rdmsr(lp, MsrIndex::IA32_FEATURE_CONTROL).unwrap_or(0);
        if control & LOCKED_AND_ALLOWED != LOCKED_AND_ALLOWED {
            return Err(VmxFault::GeneralProtection);
        }
        let mut word = [0; 4];
        if !region.is_aligned(tdx_abi::PAGE_SIZE) || self.read(region, KeyId::TME, &mut word).is_err() {
            return Err(VmxFault::InvalidRegion);
        }
        let basic = self.board.rdmsr(lp, MsrIndex::IA32_VMX_BASIC).unwrap_or(0);
        if u64::from(u32::from_le_bytes(word)) != basic & 0x7FFF_FFFF {
            return Err(VmxFault::InvalidRegion);
        }
        state.vmxon()
    }

    /// VMXOFF on `lp`.
    pub fn vmxoff(&self, lp: LpIndex) -> Result<(), VmxFault> {
        self.running(lp)?.vmxoff()
    }

    /// True if `lp` is in VMX operation.
    pub fn in_vmx(&self, lp: LpIndex) -> bool {
        self.board.lp_state(lp).is_some_and(crate::cpu::LpState::in_vmx)
    }

    fn running(&self, lp: LpIndex) -> Result<&crate::cpu::LpState, VmxFault> {
        self.board.lp_state(lp).filter(|state| state.is_online()).ok_or(VmxFault::InvalidOpcode)
    }

    /// Takes `lp` offline by INIT: VMX state and CR4 are lost, MSRs stay.
    pub fn offline(&self, lp: LpIndex) {
        if let Some(state) = self.board.lp_state(lp) {
            state.stop();
        }
    }

    /// Starts `lp` by SIPI, with VMX off.
    pub fn online(&self, lp: LpIndex) {
        if let Some(state) = self.board.lp_state(lp) {
            state.start();
        }
    }

    /// True if `lp` runs.
    pub fn is_online(&self, lp: LpIndex) -> bool {
        self.board.lp_state(lp).is_some_and(crate::cpu::LpState::is_online)
    }

    /// WBINVD on `lp`: writes back the caches of its package.
    pub fn wbinvd(&self, lp: LpIndex) {
        if let Some(identity) = self.board.lp(lp) {
            self.board.memory().write_back_invalidate(identity.package.0 as usize);
        }
    }

    /// CLFLUSH of every line of the range through KeyID 0.
    pub fn clflush(&self, range: PhysRange) {
        self.board.memory().flush(range, KeyId::TME);
    }

    /// A cache writes back what it holds of the range, because it needs room. For tests: by
    /// itself the machine does so at a moment that the seed decides.
    pub fn evict(&self, range: PhysRange) {
        self.board.memory().evict(range);
    }

    /// Reads memory outside SEAM mode.
    pub fn read(&self, pa: PhysAddr, key: KeyId, bytes: &mut [u8]) -> Result<(), MemFault> {
        self.host_access(pa, key, bytes.len())?;
        self.board.memory().read(pa, key, bytes).map_err(|line| {
            self.board.events().push(Event::HostMachineCheck { line });
            MemFault::MachineCheck { pa: line }
        })
    }

    /// Writes memory outside SEAM mode by ordinary stores: whole lines are stored as such, parts
    /// of a line change the line in the cache.
    pub fn write(&self, pa: PhysAddr, key: KeyId, bytes: &[u8]) -> Result<(), MemFault> {
        self.host_access(pa, key, bytes.len())?;
        self.board.memory().write(pa, key, bytes, Store::Cached);
        Ok(())
    }

    /// Writes memory outside SEAM mode past the caches (MOVNTI and its like, or uncached memory):
    /// less than a line is a partial write.
    pub fn partial_write(&self, pa: PhysAddr, key: KeyId, bytes: &[u8]) -> Result<(), MemFault> {
        self.host_access(pa, key, bytes.len())?;
        self.board.memory().write(pa, key, bytes, Store::Direct);
        Ok(())
    }

    /// Fills the lines of the range with zeros by MOVDIR64B, KeyID 0.
    pub fn movdir64b_zero(&self, range: PhysRange) -> Result<(), MemFault> {
        let pa = range.start();
        if range.overlaps(self.board.seamrr()) {
            return Err(MemFault::SeamRange { pa });
        }
        if !self.board.layout().is_backed(range) {
            return Err(MemFault::NotRam { pa });
        }
        self.board.memory().initialise(range, KeyId::TME);
        Ok(())
    }

    fn host_access(&self, pa: PhysAddr, key: KeyId, len: usize) -> Result<(), MemFault> {
        self.board.host_access(pa, key, len)
    }

    pub(crate) const fn board(&self) -> &Board {
        &self.board
    }

    /// A device without trust reads memory. With a private KeyID, or where no memory answers, it
    /// gets all ones. `Err`: poison, which the device sees as an error.
    pub fn dma_read(&self, pa: PhysAddr, key: KeyId, bytes: &mut [u8]) -> Result<(), MemFault> {
        self.board.dma_read(pa, key, bytes)
    }

    /// A device without trust writes memory. With a private KeyID, or where no memory answers,
    /// the write is dropped and shows in the log.
    pub fn dma_write(&self, pa: PhysAddr, key: KeyId, bytes: &[u8]) {
        self.board.dma_write(pa, key, bytes);
    }

    /// Which access poisoned the line of `pa`.
    pub fn poisoned_by(&self, pa: PhysAddr) -> Option<PoisonRecord> {
        self.board.memory().poisoned_by(pa)
    }

    /// What the model itself keeps of memory.
    pub fn memory_footprint(&self) -> MemoryFootprint {
        self.board.memory().footprint()
    }

    /// The memory map of the firmware, ascending.
    pub fn memory_map(&self) -> &[E820Entry] {
        &self.board.layout().e820
    }

    /// Memory of each NUMA node, ascending.
    pub fn numa_ranges(&self) -> &[(PhysRange, NodeId)] {
        &self.board.layout().numa
    }

    /// Convertible memory ranges, ascending.
    pub fn cmrs(&self) -> &[PhysRange] {
        &self.board.layout().cmrs
    }

    /// Logical processors that the operating system sees, by number.
    pub fn lps(&self) -> &[LogicalProcessor] {
        &self.board.layout().lps
    }

    /// How many of them there are.
    pub fn lp_count(&self) -> usize {
        self.lps().len()
    }

    /// An ACPI table by its signature: `DMAR`, `KEYP` or `SRAT`.
    pub fn acpi_table(&self, signature: &str) -> Option<&[u8]> {
        self.board.layout().acpi.get(signature).map(Vec::as_slice)
    }

    /// Where the KeyID sits in a physical address.
    pub fn address_layout(&self) -> AddressLayout {
        self.board.address_layout()
    }

    /// What the page allocator of the host finds, faults included.
    pub fn allocator(&self) -> AllocatorSpec {
        self.board.allocator()
    }

    /// Facts of the system around the host, faults included.
    pub fn embedder(&self) -> EmbedderSpec {
        self.board.embedder()
    }

    /// Adds a fault. [`Fault::info`] says whether it shows at once or when power is cycled.
    pub fn inject(&self, fault: Fault) -> Result<(), FaultError> {
        // Locked first: the fault of one power-on does not get into the software of the next.
        let software = self.software.lock();
        let inside = fault.clone();
        self.board.inject(fault)?;
        seam::apply(&inside, &software);
        Ok(())
    }

    /// Faults that show now.
    pub fn faults(&self) -> Vec<Fault> {
        self.board.active_faults()
    }

    /// Faults that wait for power to be cycled.
    pub fn pending_faults(&self) -> Vec<Fault> {
        self.board.pending_faults()
    }

    /// White box view of the SEAM software.
    pub fn seam(&self) -> Inspection {
        let software = Arc::clone(&self.software.lock());
        software.inspect()
    }

    /// Bytes of the module's hand-off area, none without a module. White box, as is the next one: no
    /// LP outside of SEAM reads or writes them.
    pub fn handoff_area(&self) -> Vec<u8> {
        let software = Arc::clone(&self.software.lock());
        software.handoff_area()
    }

    /// Puts `bytes` at the start of the module's hand-off area; what does not fit is cut off.
    pub fn set_handoff_area(&self, bytes: &[u8]) {
        let software = Arc::clone(&self.software.lock());
        software.set_handoff_area(bytes);
    }

    /// What happened, oldest first.
    pub fn log(&self) -> Vec<Event> {
        self.board.events().snapshot()
    }
}

/// A SEAMCALL that no software has seen.
fn fail(answer: Answer, regs: &mut Registers) -> Result<(), SeamFault> {
    match answer {
        Answer::VmFailInvalid => Err(SeamFault::VmFailInvalid),
        Answer::Status(status) => {
            if matches!(CallLeaf::of(regs.rax), CallLeaf::Seamldr(_)) {
                regs.rdx = 0;
            }
            regs.rax = status;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
