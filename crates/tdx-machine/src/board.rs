//! The hardware below the SEAM software.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::{Mutex, RwLock};
use tdx_abi::msr::MsrIndex;
use tdx_abi::{AddressLayout, KeyId, PhysAddr, PhysRange};
use tdx_module::ModuleConfig;
use tdx_module::hardware::{
    CpuidRegs, Hardware, KeyAlgorithm, LockName, LpIdentity, LpIndex, MachineCheck, McheckInfo, PconfigError,
    RandomUse, SeamNote,
};
use tdx_module::io::ConnectHardware;

use crate::chaos::{Chance, Chaos};
use crate::connect::Devices;
use crate::cpu::{CpuFacts, LpState};
use crate::event::{DropReason, Event, EventLog};
use crate::fault::{Answer, FailingCall, Fault, FaultError, TakesEffect};
use crate::firmware::layout::Layout;
use crate::memory::{Dram, Ram, Rules, Store};
use crate::pci::{Dial, Topology};
use crate::spec::{AllocatorSpec, EmbedderSpec, PlatformSpec, Size, SpecError, SpecIssue};

/// Largest free run with the fault `no-contiguous-pamt`: less than the PAMT of any TDMR.
const TINY_RUN: Size = Size(64 << 10);
/// CPUID.7.0 EBX: HLE and RTM, hidden by TSX_CPUID_CLEAR.
const TSX: u32 = 1 << 4 | 1 << 11;
const TSX_CPUID_CLEAR: u64 = 2;
/// Parts in which the caches of a package are written back; the number of real ones is not public.
const CACHE_PARTS: u32 = 8;
/// SEAMOPS: capabilities, SEAMREPORT, and SEAMDB clear, insert, get reference, report.
const SEAMOPS: u64 = 0x3F;

/// A value that changes only when power is cycled, so that references to it may be handed out:
/// older values live on until the machine is dropped.
struct PowerOnHistory<T> {
    value: T,
    next: OnceLock<Box<PowerOnHistory<T>>>,
}

impl<T: PartialEq> PowerOnHistory<T> {
    fn new(value: T) -> Self {
        Self { value, next: OnceLock::new() }
    }

    fn last(&self) -> &Self {
        let mut last = self;
        while let Some(next) = last.next.get() {
            last = next;
        }
        last
    }

    fn current(&self) -> &T {
        &self.last().value
    }

    /// Only one thread at a time cycles power, so the slot of the last value is free.
    fn push(&self, value: T) {
        let last = self.last();
        if last.value != value {
            last.next.get_or_init(|| Box::new(Self::new(value)));
        }
    }
}

#[derive(Default)]
struct Faults {
    active: Vec<Fault>,
    pending: Vec<Fault>,
}

/// Counts down to something.
#[derive(Default)]
struct Countdown(AtomicU32);

impl Countdown {
    const FOREVER: u32 = u32::MAX;

    fn set(&self, count: u32) {
        self.0.store(count, Ordering::Release);
    }

    /// True as long as the count was not used up.
    fn take(&self) -> bool {
        let step = |left: u32| match left {
            0 => None,
            Self::FOREVER => Some(Self::FOREVER),
            left => Some(left - 1),
        };
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, step).is_ok()
    }
}

/// What the firmware found in an update image.
pub(crate) struct LoadedModule {
    pub(crate) config: ModuleConfig,
    /// What whoever works with the machine should know of it.
    pub(crate) note: Option<SeamNote>,
}

/// Everything of a machine but its SEAM software.
pub(crate) struct Board {
    spec: PlatformSpec,
    /// The module that the firmware loads, if it is not the one of the platform file.
    module: OnceLock<LoadedModule>,
    address_layout: AddressLayout,
    chaos: Chaos,
    events: Arc<EventLog>,
    memory: Dram,
    pci: Topology,
    layouts: PowerOnHistory<Layout>,
    io: Devices,
    lps: Box<[LpState]>,
    facts: RwLock<CpuFacts>,
    faults: Mutex<Faults>,
    seam_on: AtomicBool,
    seam_loaded: AtomicBool,
    entropy_failures: Countdown,
    /// The same for the two random numbers of SEAMLDR.INSTALL.
    address_entropy_failures: Countdown,
    log_entropy_failures: Countdown,
    failing_calls: Mutex<Vec<FailingCall>>,
    /// True while there are any, so that a SEAMCALL need not take the lock.
    calls_fail: AtomicBool,
    /// TDMR lock tries that still go well, if the fault is active.
    tdmr_tries: Countdown,
    tdmr_lock_jams: AtomicBool,
}

impl Board {
    pub(crate) fn new(
        spec: PlatformSpec,
        seed: u64,
        ram: Option<Box<dyn Ram>>,
        dial: Option<&mut Dial<'_>>,
    ) -> Result<Self, SpecError> {
        spec.validate()?;
        let bits = spec.keyids.bits;
        // validate() has checked the width.
        let address_layout = AddressLayout::new(spec.cpu.kind.maxpa(), bits).ok_or_else(|| {
            SpecError::Invalid { platform: spec.name.clone(), issue: SpecIssue::KeyIdBits { bits } }
        })?;
        let chaos = Chaos::new(seed, &spec.chaos);
        let events = Arc::new(EventLog::default());
        let pci = Topology::new(&spec, seed, Arc::clone(&events), dial)
            .map_err(|issue| SpecError::Invalid { platform: spec.name.clone(), issue })?;
        let rules = Rules {
            integrity: spec.keyids.integrity,
            partial_write_poison: spec.errata().pw_mce,
            write_back_within: spec.chaos.write_back_within,
            seed: chaos.seed(),
        };
        let memory = Dram::new(
            rules,
            spec.keyids.partitioning(),
            1 << bits,
            spec.cpu.packages as usize,
            Arc::clone(&events),
            ram,
        );
        let facts = CpuFacts::new(&spec, &spec.faults);
        let layout = Layout::new(&spec, &spec.faults, facts.package_fms());
        let lps = layout.lps.iter().map(|_| LpState::new()).collect();
        let board = Self {
            address_layout,
            chaos,
            events,
            memory,
            pci,
            layouts: PowerOnHistory::new(layout),
            io: Devices::new(&spec, &spec.faults),
            lps,
            seam_on: AtomicBool::new(false),
            seam_loaded: AtomicBool::new(false),
            facts: RwLock::new(facts),
            faults: Mutex::new(Faults { active: spec.faults.clone(), pending: Vec::new() }),
            entropy_failures: Countdown::default(),
            address_entropy_failures: Countdown::default(),
            log_entropy_failures: Countdown::default(),
            failing_calls: Mutex::default(),
            calls_fail: AtomicBool::new(false),
            tdmr_tries: Countdown::default(),
            tdmr_lock_jams: AtomicBool::new(false),
            module: OnceLock::new(),
            spec,
        };
        board.start();
        Ok(board)
    }

    pub(crate) fn power_cycle(&self) {
        let active = {
            let mut faults = self.faults.lock();
            let mut active = self.spec.faults.clone();
            active.append(&mut faults.pending);
            faults.active.clone_from(&active);
            active
        };
        self.memory.reset();
        self.events.clear();
        self.pci.power_cycle();
        self.lps.iter().for_each(LpState::reset);
        let facts = CpuFacts::new(&self.spec, &active);
        self.layouts.push(Layout::new(&self.spec, &active, facts.package_fms()));
        self.io.reset(&self.spec, &active);
        *self.facts.write() = facts;
        self.start();
        self.events.push(Event::PowerCycled);
    }

    /// What follows from facts and faults at power-on.
    fn start(&self) {
        self.entropy_failures.set(0);
        self.address_entropy_failures.set(0);
        self.log_entropy_failures.set(0);
        self.failing_calls.lock().clear();
        self.calls_fail.store(false, Ordering::Release);
        self.tdmr_lock_jams.store(false, Ordering::Release);
        let faults = self.active_faults();
        let seam_on = self.facts.read().seam_on;
        self.seam_on.store(seam_on, Ordering::Release);
        self.seam_loaded.store(seam_on, Ordering::Release);
        for fault in &faults {
            self.arm(fault);
        }
    }

    /// Sets what a fault changes outside CPU facts and firmware.
    fn arm(&self, fault: &Fault) {
        match *fault {
            Fault::KeyConfigEntropy { times } => {
                self.entropy_failures.set(times.min(Countdown::FOREVER - 1));
            }
            Fault::KeyConfigEntropyForever => self.entropy_failures.set(Countdown::FOREVER),
            Fault::TdmrInitFails { after } => {
                self.tdmr_tries.set(after.min(Countdown::FOREVER - 1));
                self.tdmr_lock_jams.store(true, Ordering::Release);
            }
            Fault::SeamcallFails { leaf, lp, status, times } if times > 0 => {
                self.failing_calls.lock().push(FailingCall::new(leaf, lp, status, times));
                self.calls_fail.store(true, Ordering::Release);
            }
            Fault::NoEntropyForInstall { times } => {
                self.address_entropy_failures.set(times.min(Countdown::FOREVER - 1));
            }
            Fault::NoEntropyForLog { times } => {
                self.log_entropy_failures.set(times.min(Countdown::FOREVER - 1));
            }
            Fault::VmxeAlreadySet => self.lps.iter().for_each(LpState::occupy_vmx),
            _ => {}
        }
    }

    pub(crate) fn inject(&self, fault: Fault) -> Result<(), FaultError> {
        fault.check(&self.spec)?;
        let mut faults = self.faults.lock();
        if fault.info().takes_effect == TakesEffect::AtPowerOn {
            faults.pending.push(fault);
            return Ok(());
        }
        faults.active.push(fault.clone());
        *self.facts.write() = CpuFacts::new(&self.spec, &faults.active);
        drop(faults);
        self.arm(&fault);
        self.io.inject(&fault);
        Ok(())
    }

    pub(crate) fn active_faults(&self) -> Vec<Fault> {
        self.faults.lock().active.clone()
    }

    pub(crate) fn pending_faults(&self) -> Vec<Fault> {
        self.faults.lock().pending.clone()
    }

    pub(crate) fn has_fault(&self, fault: &Fault) -> bool {
        self.faults.lock().active.contains(fault)
    }

    pub(crate) fn spec(&self) -> &PlatformSpec {
        &self.spec
    }

    /// The module of an image, from which the firmware loads it at every power-on.
    pub(crate) fn module(&self) -> Option<&LoadedModule> {
        self.module.get()
    }

    /// Gives the firmware the module of an image, once.
    pub(crate) fn set_module(&self, module: LoadedModule) {
        self.module.get_or_init(|| module);
    }

    pub(crate) fn address_layout(&self) -> AddressLayout {
        self.address_layout
    }

    pub(crate) fn layout(&self) -> &Layout {
        self.layouts.current()
    }

    pub(crate) fn io(&self) -> &Devices {
        &self.io
    }

    pub(crate) fn memory(&self) -> &Dram {
        &self.memory
    }

    pub(crate) fn pci(&self) -> &Topology {
        &self.pci
    }

    pub(crate) fn events(&self) -> &EventLog {
        &self.events
    }

    pub(crate) fn lp_state(&self, lp: LpIndex) -> Option<&LpState> {
        self.lps.get(lp.0 as usize)
    }

    pub(crate) fn seam_on(&self) -> bool {
        self.seam_on.load(Ordering::Acquire)
    }

    /// False where SEAM is off, or after SEAM software met a machine check.
    pub(crate) fn seam_loaded(&self) -> bool {
        self.seam_loaded.load(Ordering::Acquire)
    }

    /// Power is gone: no SEAM software answers until it is back.
    pub(crate) fn cut_power(&self) {
        self.seam_loaded.store(false, Ordering::Release);
        self.events.push(Event::PowerCut);
    }

    /// What a SEAMCALL gets from the fault `seamcall-fails`.
    pub(crate) fn failing_call(&self, lp: LpIndex, rax: u64) -> Option<Answer> {
        if !self.calls_fail.load(Ordering::Relaxed) {
            return None;
        }
        let mut calls = self.failing_calls.lock();
        let answer = calls.iter_mut().find_map(|call| call.take(lp.0, rax))?;
        calls.retain(|call| !call.is_over());
        self.calls_fail.store(!calls.is_empty(), Ordering::Release);
        self.events.push(Event::SeamcallFailed { lp, rax });
        Some(answer)
    }

    pub(crate) fn has_vmx(&self) -> bool {
        self.facts.read().has_vmx
    }

    /// The SEAM range that keeps others out; empty where it is not valid.
    pub(crate) fn seamrr(&self) -> PhysRange {
        if self.seam_on() { self.spec.seamrr.range() } else { PhysRange::default() }
    }

    /// True if software outside SEAM may use the KeyID.
    pub(crate) fn is_shared(&self, key: KeyId) -> bool {
        let room = 1u32 << self.spec.keyids.bits;
        u32::from(key.number()) < room && !self.spec.keyids.partitioning().is_private(key)
    }

    pub(crate) fn allocator(&self) -> AllocatorSpec {
        let mut allocator = self.spec.allocator;
        if self.has_fault(&Fault::NoContiguousPamt) {
            allocator.largest_free_run = Some(TINY_RUN);
        }
        allocator
    }

    pub(crate) fn embedder(&self) -> EmbedderSpec {
        let possible = self.spec.embedder.hibernation_possible || self.has_fault(&Fault::HibernationPossible);
        EmbedderSpec { hibernation_possible: possible }
    }

    pub(crate) fn wrmsr(&self, lp: LpIndex, msr: MsrIndex, value: u64) -> bool {
        let writable = matches!(msr, MsrIndex::IA32_TSC_ADJUST | MsrIndex::IA32_TSX_CTRL);
        let Some(state) = self.lp_state(lp).filter(|_| writable && self.rdmsr(lp, msr).is_some()) else {
            return false;
        };
        state.write_msr(msr.0, value);
        true
    }
}

impl Hardware for Board {
    fn mcheck(&self) -> &McheckInfo {
        &self.layout().mcheck
    }

    fn lp(&self, lp: LpIndex) -> Option<LpIdentity> {
        let lp = self.layout().lps.get(lp.0 as usize)?;
        Some(LpIdentity { package: lp.package, x2apic_id: lp.x2apic_id })
    }

    fn rdmsr(&self, lp: LpIndex, msr: MsrIndex) -> Option<u64> {
        let identity = self.lp(lp)?;
        let fact = self.facts.read().msr(identity.package.0, msr.0)?;
        Some(self.lp_state(lp)?.written_msr(msr.0).unwrap_or(fact))
    }

    fn cpuid(&self, lp: LpIndex, leaf: u32, subleaf: u32) -> CpuidRegs {
        let Some(identity) = self.lp(lp) else { return CpuidRegs::default() };
        let mut answer = self.facts.read().cpuid(identity.package.0, leaf, subleaf, identity.x2apic_id);
        let hidden =
            || self.rdmsr(lp, MsrIndex::IA32_TSX_CTRL).is_some_and(|value| value & TSX_CPUID_CLEAR != 0);
        if (leaf, subleaf) == (7, 0) && hidden() {
            answer.ebx &= !TSX;
        }
        answer
    }

    fn seamops_capabilities(&self, _lp: LpIndex) -> u64 {
        SEAMOPS
    }

    fn read(&self, pa: PhysAddr, key: KeyId, bytes: &mut [u8]) -> Result<(), MachineCheck> {
        let backed =
            PhysRange::from_size(pa, bytes.len() as u64).is_some_and(|range| self.layout().is_backed(range));
        if !backed {
            bytes.fill(0xFF);
            return Ok(());
        }
        self.memory.read(pa, key, bytes).map_err(|pa| {
            self.events.push(Event::SeamMachineCheck { line: pa });
            self.seam_loaded.store(false, Ordering::Release);
            MachineCheck { pa }
        })
    }

    fn write(&self, pa: PhysAddr, key: KeyId, bytes: &[u8]) {
        let backed =
            PhysRange::from_size(pa, bytes.len() as u64).is_some_and(|range| self.layout().is_backed(range));
        if backed {
            self.memory.write(pa, key, bytes, Store::Cached);
        } else {
            self.events.push(Event::DroppedWrite { pa, reason: DropReason::NotRam });
        }
    }

    fn initialise(&self, range: PhysRange, key: KeyId) {
        self.memory.initialise(range, key);
    }

    fn random(&self, lp: LpIndex) -> Option<u64> {
        let draws = &self.lp_state(lp)?.draws;
        if self.chaos.strikes(Chance::Entropy, lp.0, draws) {
            return None;
        }
        Some(self.chaos.number(lp.0, draws))
    }

    fn random_for(&self, lp: LpIndex, purpose: RandomUse) -> Option<u64> {
        // The loader draws again before it gives INSTALL up, so that chance alone never stops it.
        let fails = match purpose {
            RandomUse::StackCanary => return self.random(lp),
            RandomUse::AddressOffset => self.address_entropy_failures.take(),
            RandomUse::LogEntry => self.log_entropy_failures.take(),
        };
        let draws = &self.lp_state(lp)?.draws;
        (!fails).then(|| self.chaos.number(lp.0, draws))
    }

    fn note(&self, _lp: LpIndex, note: SeamNote) {
        match note {
            SeamNote::NearestRelease { svn, profile } => {
                self.events.push(Event::NearestRelease { svn, profile: profile.name });
            }
        }
    }

    fn program_random_key(
        &self,
        lp: LpIndex,
        key: KeyId,
        algorithm: KeyAlgorithm,
    ) -> Result<(), PconfigError> {
        let active = self.rdmsr(lp, MsrIndex::IA32_TME_ACTIVATE).unwrap_or(0) >> 48;
        let bit = match algorithm {
            KeyAlgorithm::AesXts128 => 0,
            KeyAlgorithm::AesXts128Integrity => 1,
            KeyAlgorithm::AesXts256 => 2,
            KeyAlgorithm::AesXts256Integrity => 3,
        };
        if key == KeyId::TME || u32::from(key.number()) >> self.spec.keyids.bits != 0 {
            return Err(PconfigError::InvalidKeyId);
        }
        if active >> bit & 1 == 0 {
            return Err(PconfigError::InvalidAlgorithm);
        }
        if self.contended(lp, LockName::KeyTable) {
            return Err(PconfigError::DeviceBusy);
        }
        if self.entropy_failures.take() || self.random(lp).is_none() {
            return Err(PconfigError::Entropy);
        }
        if self.memory.program_key(key) { Ok(()) } else { Err(PconfigError::InvalidKeyId) }
    }

    fn cache_parts(&self, _lp: LpIndex) -> u32 {
        CACHE_PARTS
    }

    fn write_back_part(&self, lp: LpIndex, part: u32) {
        // Which lines a part holds is not modelled: all go with the last one.
        if let Some(identity) = self.lp(lp).filter(|_| part + 1 == CACHE_PARTS) {
            self.memory.write_back_invalidate(identity.package.0 as usize);
        }
    }

    fn contended(&self, lp: LpIndex, lock: LockName) -> bool {
        if lock == LockName::Tdmr && self.tdmr_lock_jams.load(Ordering::Relaxed) && !self.tdmr_tries.take() {
            return true;
        }
        // Only the host's own CPUs call the P-SEAMLDR: who finds it busy has met one of them, not chance.
        if lock == LockName::Seamldr {
            return false;
        }
        let Some(state) = self.lp_state(lp) else { return false };
        self.chaos.strikes(Chance::Busy(lock), lp.0, &state.draws)
    }

    fn interrupt_pending(&self, lp: LpIndex) -> bool {
        self.lp_state(lp).is_some_and(|state| self.chaos.strikes(Chance::Interrupt, lp.0, &state.draws))
    }

    fn connect(&self) -> Option<&dyn ConnectHardware> {
        (!self.spec.iommus.is_empty()).then_some(self)
    }
}
