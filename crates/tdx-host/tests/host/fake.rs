//! A machine made of the host's own traits: enough of a module to walk through, and a script of failures.

pub(crate) mod connect;
mod loader;
mod lockstep;
mod module;
mod pages;
pub(crate) mod pcie;
pub(crate) mod spdm;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use tdx_abi::features::Features0;
use tdx_abi::leaf::{LeafWord, SeamcallLeaf};
use tdx_abi::metadata::{FieldId, sys};
use tdx_abi::msr::MsrIndex;
use tdx_abi::status::{SeamldrStatus, Status, StatusCode};
use tdx_abi::{PhysAddr, PhysRange, Registers};
use tdx_host::cpu::CpuSlot;
use tdx_host::memory::MemoryBlock;
use tdx_host::sync::Spin;
use tdx_host::traits::{
    CpuNumber, CpuPin, CpuidLeaf, Cpus, Firmware, LeakCounter, LockstepError, LockstepFn, Log, LogLevel,
    MsrFault, NodeId, PackageId, PerCpu, Processor, SeamcallFault, Vmx, VmxFault,
};
use tdx_host::{BringUpOptions, BringUpReport, HostError, HostMemory, HostState};

use loader::Loader;

pub(crate) const GIB: u64 = 1 << 30;
pub(crate) const MIB: u64 = 1 << 20;

pub(crate) fn range(start: u64, end: u64) -> PhysRange {
    PhysRange::new(PhysAddr::new(start), PhysAddr::new(end)).unwrap()
}

/// What a scripted call does instead of its work.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    Status(Status),
    Fault(SeamcallFault),
}

impl From<Status> for Outcome {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<SeamldrStatus> for Outcome {
    fn from(status: SeamldrStatus) -> Self {
        Self::Status(Status::from_raw(status.0))
    }
}

impl From<SeamcallFault> for Outcome {
    fn from(fault: SeamcallFault) -> Self {
        Self::Fault(fault)
    }
}

impl From<StatusCode> for Outcome {
    fn from(code: StatusCode) -> Self {
        Self::Status(code.plain())
    }
}

/// Calls of one leaf: from the `from`-th on (0 = first), `times` of them.
#[derive(Clone, Copy, Debug)]
struct Scripted {
    leaf: LeafWord,
    from: u64,
    times: u64,
    outcome: Outcome,
    rcx: u64,
    rdx: u64,
}

#[derive(Debug, Default)]
pub(crate) struct LeakCount(AtomicU64);

#[derive(Clone, Debug, Default)]
pub(crate) struct Leaks(Arc<LeakCount>);

impl LeakCounter for Leaks {
    fn leaked(&self, range: PhysRange) {
        self.0.0.fetch_add(range.size() / 4096, Ordering::Relaxed);
    }
}

/// What happened to the machine, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Seamcall(LeafWord),
    /// WBINVD on a CPU.
    WriteBack(CpuNumber),
    Vmxoff(CpuNumber),
    /// Pages were cleared, or went back to the allocator.
    Reclaim,
}

/// An access of the host to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// State of the fake. Public: tests bend it.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) online: Vec<bool>,
    pub(crate) vmxe: Vec<bool>,
    pub(crate) in_vmx: Vec<bool>,
    pub(crate) wbinvd: Vec<u64>,
    pub(crate) memory: Vec<(PhysRange, NodeId)>,
    pub(crate) cmrs: Vec<PhysRange>,
    pub(crate) free: BTreeMap<u64, u64>,
    pub(crate) bytes: HashMap<u64, u8>,
    pub(crate) cleared: Vec<PhysRange>,
    /// Pages of which no line is in a cache.
    pub(crate) flushed: Vec<PhysRange>,
    pub(crate) msrs: BTreeMap<u32, Option<u64>>,
    pub(crate) cpuid: BTreeMap<u32, CpuidLeaf>,
    /// CPUID and MSRs of single CPUs, before those of all.
    pub(crate) cpuid_of: BTreeMap<(u32, u32), CpuidLeaf>,
    pub(crate) msr_of: BTreeMap<(u32, u32), Option<u64>>,
    pub(crate) loader: Loader,
    pub(crate) fields: BTreeMap<u64, u64>,
    pub(crate) calls: Vec<(CpuNumber, LeafWord, Registers)>,
    pub(crate) events: Vec<Event>,
    pub(crate) lines: Vec<(LogLevel, String)>,
    pub(crate) tdmrs: BTreeMap<u64, (u64, u64)>,
    pub(crate) hibernation: bool,
    pub(crate) erratum: bool,
    pub(crate) largest_allocation: u64,
    pub(crate) allocations_left: u64,
    pub(crate) vmxon_fault: Option<VmxFault>,
    /// The host's accesses that end in a machine check.
    pub(crate) poisoned: Option<Access>,
    pub(crate) crash_at: Option<LeafWord>,
    made: HashMap<u64, u64>,
    script: Vec<Scripted>,
    /// Bytes of one TDH.SYS.TDMR.INIT.
    pub(crate) step: u64,
    /// Most calls of TDH.SYS.TDMR.INIT in one visit to a CPU, if CPUs run one after the other.
    pub(crate) longest_init_visit: usize,
    pub(crate) io: connect::Io,
}

pub(crate) struct Fake {
    packages: u32,
    threads: bool,
    /// A lockstep runs: nothing may be allocated, freed or written to the log.
    in_lockstep: AtomicBool,
    leaks: Leaks,
    state: Mutex<State>,
    on_crash: Mutex<Option<Box<dyn Fn() + Send>>>,
    before_lockstep: Mutex<Option<BeforeLockstep>>,
}

type BeforeLockstep = Box<dyn Fn(&Fake) + Send>;

impl Fake {
    /// `packages` packages of two CPUs and a node of 2 GiB each; CMRs as large as the RAM.
    pub(crate) fn new(packages: u32) -> Self {
        let cpus = packages as usize * 2;
        let memory: Vec<_> = (0..packages)
            .map(|i| (range(u64::from(i) * 2 * GIB, (u64::from(i) + 1) * 2 * GIB), NodeId(i)))
            .collect();
        let mut fields: BTreeMap<u64, u64> = [
            (sys::MAJOR_VERSION, 1),
            (sys::MINOR_VERSION, 5),
            (sys::UPDATE_VERSION, 6),
            (sys::BUILD_NUM, 744),
            (sys::MODULE_HV, 1),
            (sys::TDX_FEATURES0, 0xF_0FBF),
            (sys::MAX_TDMRS, 64),
            (sys::MAX_RESERVED_PER_TDMR, 16),
            (sys::PAMT_4K_ENTRY_SIZE, 16),
            (sys::PAMT_2M_ENTRY_SIZE, 16),
            (sys::PAMT_1G_ENTRY_SIZE, 16),
            (sys::TDR_BASE_SIZE, 4096),
            (sys::TDCS_BASE_SIZE, 24576),
            (sys::TDVPS_BASE_SIZE, 24576),
            (sys::ATTRIBUTES_FIXED0, 0x8000_0000_7000_0001),
            (sys::ATTRIBUTES_FIXED1, 0),
            (sys::XFAM_FIXED0, 0x6_DBE7),
            (sys::XFAM_FIXED1, 3),
            (sys::NUM_CPUID_CONFIG, 1),
            (sys::CPUID_CONFIG_LEAVES, 0xFFFF_FFFF_0000_0001),
            (sys::CPUID_CONFIG_VALUES, 0x10),
            (sys::CPUID_CONFIG_VALUES.element(1), 0x20),
            (sys::NUM_CMRS, 4),
        ]
        .into_iter()
        .map(|(field, value)| (field.0, value))
        .collect();
        for k in 0..4 {
            fields.insert(sys::CMR_BASE.element(k).0, 0);
            fields.insert(sys::CMR_SIZE.element(k).0, 0);
        }
        let fake = Self {
            packages,
            threads: false,
            in_lockstep: AtomicBool::new(false),
            leaks: Leaks::default(),
            on_crash: Mutex::new(None),
            before_lockstep: Mutex::new(None),
            state: Mutex::new(State {
                online: vec![true; cpus],
                vmxe: vec![false; cpus],
                in_vmx: vec![false; cpus],
                wbinvd: vec![0; cpus],
                memory: Vec::new(),
                cmrs: Vec::new(),
                free: BTreeMap::new(),
                bytes: HashMap::new(),
                cleared: Vec::new(),
                flushed: Vec::new(),
                msrs: [
                    (0x87, Some(31 | 32 << 32)),
                    (0x480, Some(1 << 60 | 0x400 << 32 | 0x12)),
                    (0x3A, Some(5)),
                ]
                .into(),
                cpuid: [
                    (1, CpuidLeaf { eax: 0x8_06F8, ecx: 1 << 5 | 1 << 26, edx: 1 << 27, ebx: 0 }),
                    (7, CpuidLeaf { ecx: 1 << 28, ..CpuidLeaf::default() }),
                ]
                .into(),
                cpuid_of: (0..).zip(0..cpus).map(|(cpu, _)| ((cpu, 0x1F), topology(cpu))).collect(),
                msr_of: BTreeMap::new(),
                loader: Loader::new(),
                fields,
                calls: Vec::new(),
                events: Vec::new(),
                lines: Vec::new(),
                tdmrs: BTreeMap::new(),
                hibernation: false,
                erratum: false,
                largest_allocation: u64::MAX,
                allocations_left: u64::MAX,
                vmxon_fault: None,
                poisoned: None,
                crash_at: None,
                made: HashMap::new(),
                script: Vec::new(),
                step: 64 * MIB,
                longest_init_visit: 0,
                io: connect::Io::default(),
            }),
        };
        fake.set_memory(memory);
        fake
    }

    /// Runs visitors on threads of their own.
    pub(crate) fn threaded(mut self) -> Self {
        self.threads = true;
        self
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// New RAM, all of it in CMRs, all of it free.
    pub(crate) fn set_memory(&self, memory: Vec<(PhysRange, NodeId)>) {
        self.set_cmrs(memory.iter().map(|(range, _)| *range).collect());
        let mut state = self.state();
        state.free = memory
            .iter()
            .map(|(range, _)| (range.start().as_u64().max(16 * MIB), range.end().as_u64()))
            .filter(|(start, end)| start < end)
            .collect();
        state.memory = memory;
    }

    pub(crate) fn set_cmrs(&self, cmrs: Vec<PhysRange>) {
        let mut state = self.state();
        state.fields.insert(sys::NUM_CMRS.0, cmrs.len().max(1) as u64);
        for (k, cmr) in (0..).zip(&cmrs) {
            state.fields.insert(sys::CMR_BASE.element(k).0, cmr.start().as_u64());
            state.fields.insert(sys::CMR_SIZE.element(k).0, cmr.size());
        }
        state.cmrs = cmrs;
    }

    pub(crate) fn set_field(&self, field: FieldId, value: u64) {
        self.state().fields.insert(field.0, value);
    }

    /// `leaf` ends in `outcome` for `times` calls from the `from`-th on.
    pub(crate) fn script(&self, leaf: SeamcallLeaf, from: u64, times: u64, outcome: impl Into<Outcome>) {
        self.script_word(LeafWord::module(leaf, 0), from, times, outcome, 0);
    }

    pub(crate) fn script_word(
        &self,
        leaf: LeafWord,
        from: u64,
        times: u64,
        outcome: impl Into<Outcome>,
        rcx: u64,
    ) {
        self.state().script.push(Scripted { leaf, from, times, outcome: outcome.into(), rcx, rdx: 0 });
    }

    /// Forgets every scripted failure.
    pub(crate) fn clear_script(&self) {
        self.state().script.clear();
    }

    /// The next call of `word` but `after` ends in `outcome` with `rdx`, without doing its work.
    pub(crate) fn fail_once(&self, word: LeafWord, after: u64, outcome: impl Into<Outcome>, rdx: u64) {
        let mut state = self.state();
        let from = state.made.get(&word.raw()).copied().unwrap_or(0) + after;
        state.script.push(Scripted { leaf: word, from, times: 1, outcome: outcome.into(), rcx: 0, rdx });
    }

    /// Calls `crash` from inside the next call of `leaf`.
    pub(crate) fn crash_in(&self, leaf: SeamcallLeaf, crash: impl Fn() + Send + 'static) {
        self.in_call(LeafWord::module(leaf, 0), crash);
    }

    /// Calls `work` from inside the next call of `word`.
    pub(crate) fn in_call(&self, word: LeafWord, work: impl Fn() + Send + 'static) {
        self.state().crash_at = Some(word);
        *self.on_crash.lock().unwrap() = Some(Box::new(work));
    }

    /// Does `work` between the last check and the freezing of the CPUs.
    pub(crate) fn before_lockstep(&self, work: impl Fn(&Fake) + Send + 'static) {
        *self.before_lockstep.lock().unwrap() = Some(Box::new(work));
    }

    fn assert_not_in_lockstep(&self, what: &str) {
        assert!(!self.in_lockstep.load(Ordering::SeqCst), "with interrupts off: {what}");
    }

    pub(crate) fn calls_of(&self, leaf: SeamcallLeaf) -> usize {
        self.state().calls.iter().filter(|(_, word, _)| word.leaf() == leaf.0 && !word.is_seamldr()).count()
    }

    /// Bytes that the allocator has.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.state().free.iter().map(|(start, end)| end - start).sum()
    }

    pub(crate) fn leaked_pages(&self) -> u64 {
        self.leaks.0.0.load(Ordering::Relaxed)
    }

    pub(crate) fn cpus_in_vmx(&self) -> usize {
        self.state().in_vmx.iter().filter(|on| **on).count()
    }

    fn run(&self, cpus: &[CpuNumber], visitor: &PerCpu<'_>) -> Result<(), HostError> {
        let visit = |cpu: CpuNumber| CpuPin::enter(cpu, |pin| visitor(pin));
        if self.threads {
            let results: Vec<_> = thread::scope(|scope| {
                let threads: Vec<_> = cpus.iter().map(|&cpu| scope.spawn(move || visit(cpu))).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            results.into_iter().collect()
        } else {
            cpus.iter().try_for_each(|&cpu| {
                let before = self.calls_of(SeamcallLeaf::SYS_TDMR_INIT);
                let result = visit(cpu);
                let calls = self.calls_of(SeamcallLeaf::SYS_TDMR_INIT) - before;
                let mut state = self.state();
                state.longest_init_visit = state.longest_init_visit.max(calls);
                result
            })
        }
    }
}

impl Cpus for Fake {
    fn possible(&self) -> u32 {
        self.packages * 2
    }
    fn packages(&self) -> u32 {
        self.packages
    }
    fn is_online(&self, cpu: CpuNumber) -> bool {
        self.state().online[cpu.0 as usize]
    }
    fn package_of(&self, cpu: CpuNumber) -> PackageId {
        PackageId(cpu.0 / 2)
    }
    fn node_of(&self, cpu: CpuNumber) -> NodeId {
        NodeId(cpu.0 / 2)
    }
    fn on_cpu(&self, cpu: CpuNumber, visitor: &PerCpu<'_>) -> Result<(), HostError> {
        self.run(&[cpu], visitor)
    }
    fn on_each_cpu(&self, visitor: &PerCpu<'_>) -> Result<(), HostError> {
        let online: Vec<_> = (0..self.possible()).map(CpuNumber).filter(|&cpu| self.is_online(cpu)).collect();
        self.run(&online, visitor)
    }
    fn on_cpus(&self, cpus: &[CpuNumber], visitor: &PerCpu<'_>) -> Result<(), HostError> {
        self.run(cpus, visitor)
    }
    fn lockstep(&self, phases: u32, visitor: &LockstepFn<'_>) -> Result<(), LockstepError> {
        if let Some(work) = self.before_lockstep.lock().unwrap().take() {
            work(self);
        }
        let online: Vec<_> = (0..self.possible()).map(CpuNumber).filter(|&cpu| self.is_online(cpu)).collect();
        let _interrupts_off = lockstep::InterruptsOff::new(&self.in_lockstep);
        if self.threads {
            lockstep::on_threads(&online, phases, visitor)
        } else {
            (0..phases).try_for_each(|phase| {
                online.iter().try_for_each(|&cpu| {
                    let visit = CpuPin::enter(cpu, |pin| visitor(pin, phase));
                    visit.map_err(|error| LockstepError { phase, cpu, error })
                })
            })
        }
    }
}

/// CPUID leaf 0x1F of a CPU.
pub(crate) fn topology(x2apic_id: u32) -> CpuidLeaf {
    CpuidLeaf { ebx: 1, edx: x2apic_id, ..CpuidLeaf::default() }
}

impl Processor for Fake {
    fn rdmsr(&self, pin: &CpuPin<'_>, msr: MsrIndex) -> Result<u64, MsrFault> {
        let state = self.state();
        let own = state.msr_of.get(&(pin.cpu().0, msr.0)).copied();
        own.unwrap_or_else(|| state.msrs.get(&msr.0).copied().flatten()).ok_or(MsrFault(msr))
    }
    fn cpuid(&self, pin: &CpuPin<'_>, leaf: u32, _subleaf: u32) -> CpuidLeaf {
        let state = self.state();
        let own = state.cpuid_of.get(&(pin.cpu().0, leaf));
        own.or_else(|| state.cpuid.get(&leaf)).copied().unwrap_or_default()
    }
    fn wbinvd(&self, pin: &CpuPin<'_>) {
        let mut state = self.state();
        state.wbinvd[pin.cpu().0 as usize] += 1;
        state.events.push(Event::WriteBack(pin.cpu()));
    }
}

impl Vmx for Fake {
    fn vmxe(&self, pin: &CpuPin<'_>) -> bool {
        self.state().vmxe[pin.cpu().0 as usize]
    }
    fn set_vmxe(&self, pin: &CpuPin<'_>, on: bool) {
        self.state().vmxe[pin.cpu().0 as usize] = on;
    }
    fn vmxon(&self, pin: &CpuPin<'_>, revision: u32) -> Result<(), VmxFault> {
        let mut state = self.state();
        let cpu = pin.cpu().0 as usize;
        assert_eq!(revision, 0x12);
        assert!(state.vmxe[cpu] && !state.in_vmx[cpu]);
        if let Some(fault) = state.vmxon_fault {
            return Err(fault);
        }
        state.in_vmx[cpu] = true;
        Ok(())
    }
    fn vmxoff(&self, pin: &CpuPin<'_>) -> Result<(), VmxFault> {
        let mut state = self.state();
        state.events.push(Event::Vmxoff(pin.cpu()));
        let was_on = std::mem::replace(&mut state.in_vmx[pin.cpu().0 as usize], false);
        if was_on { Ok(()) } else { Err(VmxFault::InvalidOpcode) }
    }
}

impl Firmware for Fake {
    fn memory_ranges(&self, each: &mut dyn FnMut(PhysRange, NodeId) -> ControlFlow<()>) {
        let memory = self.state().memory.clone();
        let _ = memory.into_iter().try_for_each(|(range, node)| each(range, node));
    }
    fn hibernation_possible(&self) -> bool {
        self.state().hibernation
    }
    fn partial_write_erratum(&self) -> bool {
        self.state().erratum
    }
}

impl Log for Fake {
    fn log(&self, level: LogLevel, line: fmt::Arguments<'_>) {
        let line = line.to_string();
        self.assert_not_in_lockstep(&line);
        self.state().lines.push((level, line));
    }
}

/// A host on a fake machine.
pub(crate) struct Bench {
    pub(crate) fake: Arc<Fake>,
    pub(crate) host: Arc<HostState<Vec<CpuSlot>>>,
    pub(crate) memory: HostMemory<Vec<MemoryBlock>, Leaks>,
    pub(crate) free_at_start: u64,
}

impl Bench {
    pub(crate) fn new(fake: Fake) -> Self {
        let cpus = (0..fake.possible()).map(|_| CpuSlot::new()).collect();
        Self {
            free_at_start: fake.free_bytes(),
            fake: Arc::new(fake),
            host: Arc::new(HostState::new(cpus, Spin::default())),
            memory: HostMemory::new(vec![MemoryBlock::default(); 4096]),
        }
    }

    pub(crate) fn bring_up_with(&mut self, options: &BringUpOptions) -> Result<BringUpReport, HostError> {
        self.host.early_init(&*self.fake)?;
        self.host.bring_up(&*self.fake, &mut self.memory, options, &())
    }

    pub(crate) fn bring_up(&mut self) -> Result<BringUpReport, HostError> {
        self.bring_up_with(&BringUpOptions::default())
    }

    /// A host that is up.
    pub(crate) fn up(fake: Fake) -> Self {
        let mut bench = Self::new(fake);
        bench.bring_up().unwrap();
        bench
    }

    /// All pages are back, none was lost, and TDX holds no CPU in VMX operation.
    pub(crate) fn assert_unwound(&self, what: &str) {
        assert_eq!(self.fake.free_bytes(), self.free_at_start, "{what}: pages missing");
        assert_eq!(self.fake.leaked_pages(), 0, "{what}: pages leaked");
        assert_eq!(self.fake.cpus_in_vmx(), 0, "{what}: CPUs still in VMX operation");
        assert!(self.memory.tdmrs.is_empty() && self.memory.blocks.blocks().is_empty(), "{what}");
    }
}

/// Something that bends a fake machine.
pub(crate) type BendFake = fn(&Fake);

/// Runs `visit` on `cpu`.
pub(crate) fn on<R>(cpu: u32, visit: impl FnOnce(&CpuPin<'_>) -> R) -> R {
    CpuPin::enter(CpuNumber(cpu), visit)
}

/// The bits of TDX_FEATURES0 that the fake module starts with.
pub(crate) const FEATURES: Features0 = Features0::from_bits(0xF_0FBF);
