//! The host's traits on the checker's primitives.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Mutex as Quiet, MutexGuard as QuietGuard, PoisonError};
use std::time::Duration;

use pcie::FunctionId;
use pcie::config::Width;
use shuttle::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use shuttle::sync::{Barrier, Condvar, Mutex, MutexGuard};
use shuttle::thread;
use tdx_abi::leaf::LeafWord;
use tdx_abi::msr::MsrIndex;
use tdx_abi::{PhysAddr, PhysRange, Registers};
use tdx_host::cpu::CpuSlot;
use tdx_host::memory::MemoryBlock;
use tdx_host::seamcall::SeamcallError;
use tdx_host::sync::RawLock;
use tdx_host::traits::{
    Acpi, AllocRequest, CpuNumber, CpuPin, CpuidLeaf, Cpus, DmarUnit, DomainIdsInUse, Firmware, Iommus,
    LockstepError, LockstepFn, Log, LogLevel, MemoryFault, MsrFault, NodeId, OwnedPages, PackageId, Pages,
    PciBus, PciFunction, PerCpu, Processor, Seam, SeamcallFault, UeventAction, Uevents, Vmx, VmxFault,
};
use tdx_host::{BringUpOptions, HostError, HostMemory, HostState};

use crate::memory::{Leaks, Memory};
use crate::software::{CMR_BYTES, Outcome, Software, USED_FIELD, is_used};

const REVISION: u32 = 0x12;
/// CPUID.1:EAX of a Sapphire Rapids.
pub(crate) const CPU_SIGNATURE: u32 = 0x806F8;
const RAM_START: u64 = 16 << 20;

/// What is left out on purpose, to see that it is noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// CPUs may come and go while work runs on them.
    pub hotplug_unlocked: bool,
    /// A lockstep does not stop who runs on the CPUs.
    pub lockstep_stops_nobody: bool,
    /// CPUs of a lockstep do not wait for each other between phases.
    pub lockstep_without_barrier: bool,
}

/// What one CPU's VMX operation is at.
#[derive(Clone, Copy, Debug, Default)]
struct VmxState {
    vmxe: bool,
    on: bool,
}

/// What is not part of any race: nobody stops while it is locked.
#[derive(Debug)]
struct Inner {
    memory: Memory,
    software: Software,
    vmx: Vec<VmxState>,
}

/// CPUs hotplug lock: any number of readers, nested ones too, or one writer.
#[derive(Debug, Default)]
struct Hotplug {
    readers: Mutex<i32>,
    free: Condvar,
}

impl Hotplug {
    fn take(&self, change: i32, free_when: fn(i32) -> bool) {
        let mut readers = self.readers.lock().expect("nobody panics with it");
        while !free_when(*readers) {
            readers = self.free.wait(readers).expect("nobody panics with it");
        }
        *readers += change;
    }

    fn give(&self, change: i32) {
        *self.readers.lock().expect("nobody panics with it") -= change;
        self.free.notify_all();
    }
}

/// A held side of the hotplug lock.
struct HotplugGuard<'a>(Option<(&'a Hotplug, i32)>);

impl Drop for HotplugGuard<'_> {
    fn drop(&mut self) {
        if let Some((lock, change)) = self.0 {
            lock.give(change);
        }
    }
}

/// A machine with an operating system's primitives around it.
#[derive(Debug)]
pub struct Platform {
    options: Options,
    inner: Quiet<Inner>,
    leaks: Leaks,
    /// A scheduling point in the middle of each call.
    clock: AtomicU64,
    online: Vec<AtomicBool>,
    /// Whoever runs on a CPU, not preempted.
    running: Vec<Mutex<()>>,
    hotplug: Hotplug,
    /// What the module was given.
    donated: Quiet<Vec<HostMemory<Vec<MemoryBlock>, Leaks>>>,
}

/// The state of the host on this platform.
pub type Host<K> = HostState<Vec<CpuSlot>, K>;

impl Platform {
    /// A machine of `cpus` CPUs in one package, all of them online.
    pub fn new(cpus: usize, options: Options) -> Self {
        let ram = PhysRange::new(PhysAddr::new(RAM_START), PhysAddr::new(CMR_BYTES)).expect("ascending");
        let inner = Inner {
            memory: Memory::new(ram),
            software: Software::new(cpus),
            vmx: vec![VmxState::default(); cpus],
        };
        Self {
            options,
            inner: Quiet::new(inner),
            leaks: Leaks::default(),
            clock: AtomicU64::new(0),
            online: (0..cpus).map(|_| AtomicBool::new(true)).collect(),
            running: (0..cpus).map(|_| Mutex::new(())).collect(),
            hotplug: Hotplug::default(),
            donated: Quiet::new(Vec::new()),
        }
    }

    fn inner(&self) -> QuietGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at P-SEAMLDR and the module.
    pub fn software<R>(&self, look: impl FnOnce(&Software) -> R) -> R {
        look(&self.inner().software)
    }

    /// The next `times` calls of `leaf` on `cpu`, or on any CPU, end in `outcome`.
    pub fn spoil(&self, leaf: LeafWord, cpu: Option<usize>, outcome: Outcome, times: u32) {
        self.inner().software.spoil(leaf, cpu, outcome, times);
    }

    /// A host that brought this machine up.
    pub fn host<K: RawLock + Sync>(&self, lock: K) -> Host<K> {
        let host = HostState::new(self.online.iter().map(|_| CpuSlot::new()).collect(), lock);
        let mut memory = HostMemory::new(vec![MemoryBlock::default(); 4]);
        host.early_init(self).expect("a sound platform");
        host.bring_up(self, &mut memory, &BringUpOptions::default(), &()).expect("a healthy machine");
        self.donated.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
        host
    }

    /// Bytes that were allocated and not given back.
    pub fn held_bytes(&self) -> u64 {
        self.inner().memory.held_bytes()
    }

    fn frozen(&self) -> HotplugGuard<'_> {
        if self.options.hotplug_unlocked {
            return HotplugGuard(None);
        }
        self.hotplug.take(1, |readers| readers >= 0);
        HotplugGuard(Some((&self.hotplug, 1)))
    }

    fn changing(&self) -> HotplugGuard<'_> {
        if self.options.hotplug_unlocked {
            return HotplugGuard(None);
        }
        self.hotplug.take(-1, |readers| readers == 0);
        HotplugGuard(Some((&self.hotplug, -1)))
    }

    fn occupy(&self, cpu: CpuNumber) -> MutexGuard<'_, ()> {
        self.running[index(cpu)].lock().expect("a visitor panicked")
    }

    /// Runs on `cpu` as any thread of the system does: nobody else is there, the CPU does not go away,
    /// but nothing else stands still. `None` if it is offline.
    pub fn run_on<R>(&self, cpu: u32, visit: impl FnOnce(&CpuPin<'_>) -> R) -> Option<R> {
        let cpu = CpuNumber(cpu);
        let _alone = self.occupy(cpu);
        self.is_online(cpu).then(|| CpuPin::enter(cpu, visit))
    }

    /// Takes `cpu` offline, as an embedder does.
    pub fn cpu_offline<K: Sync>(&self, host: &Host<K>, cpu: u32) -> Result<(), HostError> {
        let cpu = CpuNumber(cpu);
        let _changing = self.changing();
        host.may_go_offline(self, cpu)?;
        let _alone = self.occupy(cpu);
        CpuPin::enter(cpu, |pin| host.cpu_goes_offline(self, pin))?;
        self.online[index(cpu)].store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Brings `cpu` online, as an embedder does: it stays offline if the module does not take it.
    pub fn cpu_online<K: Sync>(&self, host: &Host<K>, cpu: u32) -> Result<(), HostError> {
        let cpu = CpuNumber(cpu);
        let _changing = self.changing();
        if self.is_online(cpu) {
            return Ok(());
        }
        let _alone = self.occupy(cpu);
        self.online[index(cpu)].store(true, Ordering::SeqCst);
        let came = CpuPin::enter(cpu, |pin| host.cpu_came_online(self, pin));
        if came.is_err() {
            self.online[index(cpu)].store(false, Ordering::SeqCst);
        }
        came
    }

    /// What a user of the module does on `cpu`: one call of a leaf that no walk of the host makes once the
    /// machine is up. `None` if the CPU is offline.
    pub fn use_module<K: Sync>(&self, host: &Host<K>, cpu: u32) -> Option<Result<u64, SeamcallError>> {
        self.run_on(cpu, |pin| host.port(self).sys_rd(pin, USED_FIELD))
    }

    /// What a user of Connect does: a call that is interrupted in the module, and its resumption, as one group
    /// behind the gate. Without `gated` the gate is left out, to see that it is noticed.
    pub fn use_connect<K: Sync>(&self, host: &Host<K>, cpu: u32, gated: bool) -> Result<(), HostError> {
        let _inside = if gated { Some(host.connect_gate().enter(self)?) } else { None };
        if let Some(Ok(_)) = self.use_module(host, cpu) {
            self.inner().software.call_interrupted();
            let _resumed = self.use_module(host, cpu);
            self.inner().software.call_resumed();
        }
        Ok(())
    }

    /// Crashes the host, as on a CPU that is stopped by nothing.
    pub fn crash<K: Sync>(&self, host: &Host<K>) {
        host.crash();
        self.inner().software.crashed();
    }

    /// Ends the module in order, as an embedder does.
    pub fn shut_down<K: Sync>(&self, host: &Host<K>) -> Result<(), HostError> {
        let donated = || self.donated.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken out: a step must not be made with the vector locked.
        let memory = donated().pop();
        let mut memory = memory.expect("the host was brought up, and nobody else ends it");
        let ended = host.shutdown(self, &mut memory);
        donated().push(memory);
        ended
    }

    /// Fails if the host did what it must not do, or lost a page.
    pub fn no_violations(&self) {
        let inner = self.inner();
        let found = inner.software.violations();
        assert!(found.is_empty(), "violations: {found:#?}");
        assert_eq!(self.leaks.pages(), 0, "pages lost");
    }
}

fn index(cpu: CpuNumber) -> usize {
    cpu.0 as usize
}

impl Cpus for Platform {
    fn possible(&self) -> u32 {
        u32::try_from(self.online.len()).unwrap_or(u32::MAX)
    }
    fn packages(&self) -> u32 {
        1
    }
    fn is_online(&self, cpu: CpuNumber) -> bool {
        self.online.get(index(cpu)).is_some_and(|online| online.load(Ordering::SeqCst))
    }
    fn package_of(&self, _: CpuNumber) -> PackageId {
        PackageId(0)
    }
    fn node_of(&self, _: CpuNumber) -> NodeId {
        NodeId(0)
    }

    fn on_cpu(&self, cpu: CpuNumber, visitor: &PerCpu<'_>) -> Result<(), HostError> {
        let _frozen = self.frozen();
        self.run_on(cpu.0, |pin| visitor(pin)).unwrap_or(Err(HostError::CpuOffline { cpu }))
    }

    fn on_each_cpu(&self, visitor: &PerCpu<'_>) -> Result<(), HostError> {
        let _frozen = self.frozen();
        let online: Vec<_> = (0..self.possible()).map(CpuNumber).filter(|&cpu| self.is_online(cpu)).collect();
        self.on_cpus(&online, visitor)
    }

    fn on_cpus(&self, cpus: &[CpuNumber], visitor: &PerCpu<'_>) -> Result<(), HostError> {
        let _frozen = self.frozen();
        cpus.iter().try_for_each(|&cpu| self.on_cpu(cpu, visitor))
    }

    fn lockstep(&self, phases: u32, visitor: &LockstepFn<'_>) -> Result<(), LockstepError> {
        let _frozen = self.frozen();
        let online: Vec<_> = (0..self.possible()).map(CpuNumber).filter(|&cpu| self.is_online(cpu)).collect();
        let stop: &[_] = if self.options.lockstep_stops_nobody { &[] } else { &online };
        let stopped: Vec<_> = stop.iter().map(|&cpu| self.occupy(cpu)).collect();
        let together = Barrier::new(online.len());
        let failures = Quiet::new(Vec::new());
        let failed_in = |phase| {
            let all = failures.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter().any(|failure: &LockstepError| failure.phase == phase)
        };
        let walk = |cpu| {
            CpuPin::enter(cpu, |pin| {
                for phase in 0..phases {
                    if let Err(error) = visitor(pin, phase) {
                        let failure = LockstepError { phase, cpu, error };
                        failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
                    }
                    if !self.options.lockstep_without_barrier {
                        together.wait();
                    }
                    if failed_in(phase) {
                        break;
                    }
                }
            });
        };
        thread::scope(|scope| {
            for &cpu in &online {
                let walk = &walk;
                scope.spawn(move || walk(cpu));
            }
        });
        drop(stopped);
        let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
        failures.into_iter().min_by_key(|failure| (failure.phase, failure.cpu)).map_or(Ok(()), Err)
    }
}

impl Processor for Platform {
    fn rdmsr(&self, _: &CpuPin<'_>, msr: MsrIndex) -> Result<u64, MsrFault> {
        match msr {
            // 31 shared and 32 private KeyIDs.
            MsrIndex::IA32_MKTME_KEYID_PARTITIONING => Ok(31 | 32 << 32),
            // Bit 60: SEAMRET keeps the current VMCS. Regions of 1 KiB.
            MsrIndex::IA32_VMX_BASIC => Ok(1 << 60 | 0x400 << 32 | u64::from(REVISION)),
            MsrIndex::IA32_FEATURE_CONTROL => Ok(5),
            _ => Err(MsrFault(msr)),
        }
    }

    fn cpuid(&self, pin: &CpuPin<'_>, leaf: u32, _: u32) -> CpuidLeaf {
        match leaf {
            // VMX, XSAVE and self-snoop.
            1 => CpuidLeaf { eax: CPU_SIGNATURE, ecx: 1 << 5 | 1 << 26, edx: 1 << 27, ebx: 0 },
            // MOVDIR64B.
            7 => CpuidLeaf { ecx: 1 << 28, ..CpuidLeaf::default() },
            // x2APIC ids in the order of CPUs.
            0xB | 0x1F => CpuidLeaf { edx: pin.cpu().0, ..CpuidLeaf::default() },
            _ => CpuidLeaf::default(),
        }
    }

    fn wbinvd(&self, _: &CpuPin<'_>) {}
}

impl Vmx for Platform {
    fn vmxe(&self, pin: &CpuPin<'_>) -> bool {
        self.inner().vmx[index(pin.cpu())].vmxe
    }
    fn set_vmxe(&self, pin: &CpuPin<'_>, on: bool) {
        self.inner().vmx[index(pin.cpu())].vmxe = on;
    }
    fn vmxon(&self, pin: &CpuPin<'_>, revision: u32) -> Result<(), VmxFault> {
        let vmx = &mut self.inner().vmx[index(pin.cpu())];
        if !vmx.vmxe || vmx.on || revision != REVISION {
            return Err(VmxFault::InvalidOpcode);
        }
        vmx.on = true;
        Ok(())
    }
    fn vmxoff(&self, pin: &CpuPin<'_>) -> Result<(), VmxFault> {
        let was_on = std::mem::take(&mut self.inner().vmx[index(pin.cpu())].on);
        if was_on { Ok(()) } else { Err(VmxFault::InvalidOpcode) }
    }
}

impl Firmware for Platform {
    fn memory_ranges(&self, each: &mut dyn FnMut(PhysRange, NodeId) -> ControlFlow<()>) {
        let ram = self.inner().memory.ram;
        // One range: the answer changes nothing.
        let _ = each(ram, NodeId(0));
    }
    fn hibernation_possible(&self) -> bool {
        false
    }
    fn partial_write_erratum(&self) -> bool {
        false
    }
}

impl PciBus for Platform {
    fn functions(&self, _: &mut dyn FnMut(PciFunction) -> ControlFlow<()>) {}
    fn config_read(&self, _: FunctionId, _: u16, _: Width) -> u32 {
        u32::MAX
    }
    fn config_write(&self, _: FunctionId, _: u16, _: Width, _: u32) {}
    fn now(&self) -> Duration {
        Duration::ZERO
    }
    fn wait(&self, _: Duration) {
        thread::yield_now();
    }
}

impl Iommus for Platform {
    fn units(&self, _: &mut dyn FnMut(DmarUnit) -> ControlFlow<()>) {}
    fn mmio_read32(&self, _: PhysAddr) -> u32 {
        u32::MAX
    }
    fn reserve_upper_domain_ids(&self, _: DmarUnit) -> Result<(), DomainIdsInUse> {
        Ok(())
    }
    fn release_upper_domain_ids(&self, _: DmarUnit) {}
}

impl Acpi for Platform {
    fn table(&self, _: [u8; 4], _: &mut dyn FnMut(&[u8])) -> bool {
        false
    }
}

impl Uevents for Platform {
    fn uevent(&self, _: UeventAction, _: fmt::Arguments<'_>, _: &str, _: Option<fmt::Arguments<'_>>) {}
}

impl Log for Platform {
    fn log(&self, _: LogLevel, _: fmt::Arguments<'_>) {}
}

impl Pages for Platform {
    type Leaks = Leaks;

    fn alloc_contiguous(&self, request: AllocRequest<'_>) -> Option<OwnedPages<Leaks>> {
        let range = self.inner().memory.allocate(&request)?;
        Some(OwnedPages::from_allocator(range, self.leaks.clone()))
    }

    fn free(&self, pages: OwnedPages<Leaks>) {
        let range = pages.into_allocator();
        let mut inner = self.inner();
        if !inner.memory.give_back(range) {
            inner.software.violation(format!("{range} was freed but not held"));
        }
    }

    fn read(&self, pages: &OwnedPages<Leaks>, offset: u64, bytes: &mut [u8]) -> Result<(), MemoryFault> {
        self.inner().memory.read(pages.start().as_u64() + offset, bytes);
        Ok(())
    }

    fn write(&self, pages: &OwnedPages<Leaks>, offset: u64, bytes: &[u8]) -> Result<(), MemoryFault> {
        self.inner().memory.write(pages.start().as_u64() + offset, bytes);
        Ok(())
    }

    fn clear(&self, _: PhysRange) {}

    fn flush(&self, _: PhysRange) {}
}

impl Seam for Platform {
    fn seamcall(&self, pin: &CpuPin<'_>, registers: &mut Registers) -> Result<(), SeamcallFault> {
        let (cpu, word) = (index(pin.cpu()), LeafWord::from_raw(registers.rax));
        {
            let mut inner = self.inner();
            if !inner.vmx[cpu].on {
                return Err(SeamcallFault::InvalidOpcode);
            }
            inner.software.enter(cpu, word, is_used(word, registers))?;
        }
        // Others go on while this CPU is inside.
        self.clock.fetch_add(1, Ordering::SeqCst);
        let all_online = self.online.iter().all(|online| online.load(Ordering::SeqCst));
        let Inner { memory, software, .. } = &mut *self.inner();
        software.work(cpu, word, registers, memory, all_online)
    }
}
