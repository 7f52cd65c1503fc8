//! A machine with what an operating system adds to it.

use std::sync::{Arc, Barrier, OnceLock};
use std::thread;

use parking_lot::{MappedMutexGuard, Mutex, MutexGuard, RwLock};
use tdx_abi::{KeyId, PAGE_SIZE, PhysAddr, PhysRange};
use tdx_host::HostError;
use tdx_host::traits::{
    AllocRequest, CpuNumber, CpuPin, Cpus, LockstepError, LockstepFn, LogLevel, MemoryFault, NodeId,
    OwnedPages, PackageId, Pages, PerCpu,
};
use tdx_machine::{E820Kind, LpIndex, Machine, MemFault};

use crate::allocator::{Allocator, Leaks, PageAccounts};
use crate::lockstep;
use crate::pci::ReservedIds;
use crate::seam::CallObserver;
use crate::tsm::UeventLog;

/// Most CPUs that run on threads of their own.
pub const MAX_THREADS: usize = 16;

/// How work for several CPUs is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CpuMode {
    /// One CPU after the other: deterministic, and fit for thousands of them.
    #[default]
    Sequential,
    /// Each CPU on a thread of its own, all started together, if they are at most [`MAX_THREADS`].
    Threads,
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Weight.
    pub level: LogLevel,
    /// Text.
    pub text: String,
}

/// State that a power cycle resets.
#[derive(Debug)]
struct Boot {
    allocator: Allocator,
    leaks: Leaks,
    /// Page of the VMXON region of each CPU.
    vmxon_regions: Arc<[PhysAddr]>,
    reserved_ids: ReservedIds,
}

/// A machine, its page allocator, its CPUs and a log.
pub struct Platform {
    machine: Arc<Machine>,
    mode: CpuMode,
    memory: Vec<(PhysRange, NodeId)>,
    boot: Mutex<Boot>,
    /// Held for reading while work runs on CPUs, for writing while one comes or goes and while all of them
    /// go in lockstep.
    pub(crate) hotplug: RwLock<()>,
    pub(crate) log: Mutex<Vec<LogLine>>,
    pub(crate) uevents: UeventLog,
    pub(crate) call_observer: OnceLock<Arc<dyn CallObserver>>,
}

impl Platform {
    /// The platform of a machine that was just switched on.
    pub fn new(machine: Arc<Machine>, mode: CpuMode) -> Self {
        let memory = usable_memory(&machine);
        let boot = Mutex::new(Boot::new(&machine, &memory));
        let (log, uevents) = (Mutex::new(Vec::new()), UeventLog::default());
        let (hotplug, call_observer) = (RwLock::new(()), OnceLock::new());
        Self { machine, mode, memory, boot, hotplug, log, uevents, call_observer }
    }

    /// The machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Switches the machine off and on. Whoever stores host state of the boot before drops it.
    pub fn power_cycle(&self) {
        let _nobody_runs = self.hotplug.write();
        self.machine.power_cycle();
        *self.boot.lock() = Boot::new(&self.machine, &self.memory);
        self.log.lock().clear();
        self.uevents.clear();
    }

    /// Memory of the page allocator by range, with its node.
    pub fn memory(&self) -> &[(PhysRange, NodeId)] {
        &self.memory
    }

    /// Where the pages are.
    pub fn page_accounts(&self) -> PageAccounts {
        let boot = self.boot.lock();
        let (total, free) = (boot.allocator.total_bytes(), boot.allocator.free_bytes());
        let leaked = boot.leaks.ranges().iter().map(|range| range.size()).sum();
        PageAccounts { total, free, held: total.saturating_sub(free).saturating_sub(leaked), leaked }
    }

    /// The log of this boot.
    pub fn log_lines(&self) -> Vec<LogLine> {
        self.log.lock().clone()
    }

    /// Numbers of the CPUs that are online.
    pub fn online_cpus(&self) -> Vec<CpuNumber> {
        (0..self.possible()).map(CpuNumber).filter(|&cpu| self.is_online(cpu)).collect()
    }

    pub(crate) fn reserved_ids(&self) -> MappedMutexGuard<'_, ReservedIds> {
        MutexGuard::map(self.boot.lock(), |boot| &mut boot.reserved_ids)
    }

    /// Page of the VMXON region of `cpu`.
    pub(crate) fn vmxon_region(&self, cpu: CpuNumber) -> Option<PhysAddr> {
        self.boot.lock().vmxon_regions.get(cpu.0 as usize).copied()
    }

    /// Does work on so many CPUs run on one after the other?
    fn one_by_one(&self, cpus: usize) -> bool {
        self.mode == CpuMode::Sequential || !(2..=MAX_THREADS).contains(&cpus)
    }

    fn run(&self, cpus: &[CpuNumber], visitor: &PerCpu<'_>) -> Result<(), HostError> {
        let _no_hotplug = self.hotplug.read_recursive();
        if let Some(&cpu) = cpus.iter().find(|&&cpu| !self.is_online(cpu)) {
            return Err(HostError::CpuOffline { cpu });
        }
        let visit = |cpu: CpuNumber| CpuPin::enter(cpu, |pin| visitor(pin));
        if self.one_by_one(cpus.len()) {
            return cpus.iter().try_for_each(|&cpu| visit(cpu));
        }
        let together = Barrier::new(cpus.len());
        let results: Vec<Result<(), HostError>> = thread::scope(|scope| {
            let start = |cpu| {
                let together = &together;
                scope.spawn(move || {
                    together.wait();
                    visit(cpu)
                })
            };
            let threads: Vec<_> = cpus.iter().map(|&cpu| start(cpu)).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(join).collect()
        });
        results.into_iter().collect()
    }
}

impl Boot {
    fn new(machine: &Machine, memory: &[(PhysRange, NodeId)]) -> Self {
        let mut allocator = Allocator::new(memory, machine.allocator().free_ranges);
        let regions = machine.lps().iter().map(|lp| {
            let node = NodeId(lp.node.0);
            let request = AllocRequest { bytes: PAGE_SIZE, align: PAGE_SIZE, node, avoid: &[] };
            // A machine without a page for it cannot turn VMX on there: VMXON will say so.
            allocator.allocate(&request).map_or(PhysAddr::default(), PhysRange::start)
        });
        let vmxon_regions = regions.collect();
        Self { allocator, leaks: Leaks::default(), vmxon_regions, reserved_ids: ReservedIds::new() }
    }
}

/// Usable ranges of the memory map, cut at the borders of nodes.
fn usable_memory(machine: &Machine) -> Vec<(PhysRange, NodeId)> {
    let usable = machine.memory_map().iter().filter(|entry| entry.kind == E820Kind::Usable);
    let parts = usable.flat_map(|entry| {
        let parts = machine
            .numa_ranges()
            .iter()
            .filter_map(|&(range, node)| range.intersection(entry.range).map(|part| (part, NodeId(node.0))));
        parts.collect::<Vec<_>>()
    });
    let mut memory: Vec<(PhysRange, NodeId)> = parts.collect();
    memory.sort();
    memory
}

/// The LP of a CPU: both are counted in the order of the firmware.
pub(crate) const fn lp(cpu: CpuNumber) -> LpIndex {
    LpIndex(cpu.0)
}

impl Cpus for Platform {
    fn possible(&self) -> u32 {
        u32::try_from(self.machine.lps().len()).unwrap_or(u32::MAX)
    }

    fn packages(&self) -> u32 {
        self.machine.spec().cpu.packages
    }

    fn is_online(&self, cpu: CpuNumber) -> bool {
        self.machine.is_online(lp(cpu))
    }

    fn package_of(&self, cpu: CpuNumber) -> PackageId {
        PackageId(self.machine.lps().get(cpu.0 as usize).map_or(0, |lp| lp.package.0))
    }

    fn node_of(&self, cpu: CpuNumber) -> NodeId {
        NodeId(self.machine.lps().get(cpu.0 as usize).map_or(0, |lp| lp.node.0))
    }

    fn on_cpu(&self, cpu: CpuNumber, visitor: &PerCpu<'_>) -> Result<(), HostError> {
        self.run(&[cpu], visitor)
    }

    fn on_each_cpu(&self, visitor: &PerCpu<'_>) -> Result<(), HostError> {
        let _no_hotplug = self.hotplug.read_recursive();
        self.run(&self.online_cpus(), visitor)
    }

    fn on_cpus(&self, cpus: &[CpuNumber], visitor: &PerCpu<'_>) -> Result<(), HostError> {
        self.run(cpus, visitor)
    }

    fn lockstep(&self, phases: u32, visitor: &LockstepFn<'_>) -> Result<(), LockstepError> {
        // Not only CPUs stay: nothing else runs on any of them, as all are stopped.
        let _all_stopped = self.hotplug.write();
        let online = self.online_cpus();
        if self.one_by_one(online.len()) {
            lockstep::one_by_one(&online, phases, visitor)
        } else {
            lockstep::on_threads(&online, phases, visitor)
        }
    }
}

fn fault(fault: MemFault) -> MemoryFault {
    match fault {
        MemFault::MachineCheck { pa } => MemoryFault::MachineCheck(pa),
        MemFault::SeamRange { pa } | MemFault::NotRam { pa } => MemoryFault::NotMemory(pa),
        MemFault::ReservedKeyId { .. } => MemoryFault::NotMemory(PhysAddr::default()),
    }
}

/// The address `offset` bytes into `pages`, if `len` bytes from there lie inside.
fn inside(pages: &OwnedPages<Leaks>, offset: u64, len: usize) -> Result<PhysAddr, MemoryFault> {
    let outside = MemoryFault::NotMemory(pages.range().end());
    let start = pages.start().checked_add(offset).ok_or(outside)?;
    let access = PhysRange::from_size(start, len as u64).ok_or(outside)?;
    if pages.range().covers(access) { Ok(start) } else { Err(outside) }
}

impl Pages for Platform {
    type Leaks = Leaks;

    fn alloc_contiguous(&self, request: AllocRequest<'_>) -> Option<OwnedPages<Leaks>> {
        let largest = self.machine.allocator().largest_free_run.map_or(u64::MAX, |size| size.0);
        if request.bytes > largest {
            return None;
        }
        let mut boot = self.boot.lock();
        let range = boot.allocator.allocate(&request)?;
        Some(OwnedPages::from_allocator(range, boot.leaks.clone()))
    }

    fn free(&self, pages: OwnedPages<Leaks>) {
        let range = pages.into_allocator();
        self.boot.lock().allocator.give_back(range);
    }

    fn read(&self, pages: &OwnedPages<Leaks>, offset: u64, bytes: &mut [u8]) -> Result<(), MemoryFault> {
        let start = inside(pages, offset, bytes.len())?;
        self.machine.read(start, KeyId::TME, bytes).map_err(fault)
    }

    fn write(&self, pages: &OwnedPages<Leaks>, offset: u64, bytes: &[u8]) -> Result<(), MemoryFault> {
        let start = inside(pages, offset, bytes.len())?;
        self.machine.write(start, KeyId::TME, bytes).map_err(fault)
    }

    fn flush(&self, range: PhysRange) {
        self.machine.clflush(range);
    }

    fn clear(&self, range: PhysRange) {
        // Pages of the allocator are RAM outside the SEAM range, so that the machine takes them.
        let cleared = self.machine.movdir64b_zero(range);
        debug_assert_eq!(cleared, Ok(()));
    }
}
