//! VT-d units: which are in TDX mode, and what depends on them.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard as StdGuard, PoisonError};

use pcie::FunctionId;
use tdx_abi::connect::ids::TdxIommuId;
use tdx_abi::connect::pages::IommuBlock;
use tdx_abi::status::{OperandId, StatusCode};
use tdx_abi::{PAGE_SIZE, PhysAddr};

use crate::call::{Call, Exit};
use crate::hardware::LockName;
use crate::io::UnitFacts;
use crate::lock::{MutexGuard, TryMutex};

/// Most SPDM sessions of a unit.
pub(crate) const MAX_SESSIONS: u16 = 256;

/// The pages of a unit: what an IOMMU_MT lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IommuTable {
    /// Trusted invalidation queue.
    pub(crate) queue: IommuBlock,
    /// Its context.
    pub(crate) context: IommuBlock,
    /// The first one is the root table.
    pub(crate) singles: Vec<PhysAddr>,
}

impl IommuTable {
    /// Every page.
    pub(crate) fn pages(&self) -> Vec<PhysAddr> {
        let blocks = [self.queue, self.context];
        let of_block = |block: &IommuBlock| {
            let start = block.start;
            (0..u64::from(block.pages)).filter_map(move |index| start.checked_add(index * PAGE_SIZE))
        };
        blocks.iter().flat_map(of_block).chain(self.singles.iter().copied()).collect()
    }

    /// Entries of the root page.
    pub(crate) fn entries(&self) -> impl Iterator<Item = u64> {
        let blocks = [self.queue, self.context].map(|block| block.entry().unwrap_or_default());
        blocks.into_iter().chain(self.singles.iter().map(|page| page.as_u64()))
    }
}

/// How far TDH.IOMMU.SETUP or CLEAR of a unit has come. Every step can be done again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Its pages are taken; registers are to be protected.
    Protect,
    /// Registers of the trusted set are to be written.
    Program,
    /// The command is to be issued.
    Issue,
    /// The command was issued: GSTS as it was before.
    Poll(u32),
}

/// State of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UnitState {
    /// An ordinary unit.
    Free,
    /// On its way into TDX mode; `root` is the operand with which it began.
    Setup { table: IommuTable, root: PhysAddr, progress: Progress },
    /// In TDX mode.
    Configured(IommuTable),
    /// On its way out.
    Clearing { table: IommuTable, issued: bool },
}

/// A unit.
#[derive(Debug)]
pub(crate) struct Unit {
    index: u16,
    facts: UnitFacts,
    lock: TryMutex,
    /// Held for a look or a change; `lock` is what leaves try.
    state: Mutex<UnitState>,
    /// Goes up with every CLEAR.
    generation: AtomicU64,
    sessions: AtomicU16,
    active: AtomicU16,
    streams: AtomicU16,
}

impl Unit {
    fn new(index: u16, facts: UnitFacts) -> Self {
        Self {
            index,
            facts,
            lock: TryMutex::default(),
            state: Mutex::new(UnitState::Free),
            generation: AtomicU64::new(0),
            sessions: AtomicU16::new(0),
            active: AtomicU16::new(0),
            streams: AtomicU16::new(0),
        }
    }

    /// Place in the table.
    pub(crate) const fn index(&self) -> u16 {
        self.index
    }

    /// What firmware said of it.
    pub(crate) const fn facts(&self) -> &UnitFacts {
        &self.facts
    }

    /// Stack in bits 3:0, socket in 7:4.
    pub(crate) fn id(&self) -> TdxIommuId {
        TdxIommuId(u64::from(self.facts.socket & 0xF) << 4 | u64::from(self.facts.stack & 0xF))
    }

    fn locked(&self) -> StdGuard<'_, UnitState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of the state.
    pub(crate) fn state(&self) -> UnitState {
        self.locked().clone()
    }

    /// Changes the state; the caller holds the lock.
    pub(crate) fn set_state(&self, state: UnitState) {
        *self.locked() = state;
    }

    pub(crate) fn is_configured(&self) -> bool {
        matches!(*self.locked(), UnitState::Configured(_))
    }

    /// SETUP or CLEAR was begun and is not through.
    pub(crate) fn is_interrupted(&self) -> bool {
        matches!(*self.locked(), UnitState::Setup { .. } | UnitState::Clearing { .. })
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Metadata pages of the time before CLEAR are worth nothing.
    pub(crate) fn next_generation(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn set_generation(&self, generation: u64) {
        self.generation.store(generation, Ordering::Release);
    }

    /// Session objects.
    pub(crate) fn sessions(&self) -> u16 {
        self.sessions.load(Ordering::Acquire)
    }

    /// Counts a session object; false if there are as many as a unit can have.
    pub(crate) fn add_session(&self) -> bool {
        let more = |count: u16| (count < MAX_SESSIONS).then_some(count + 1);
        self.sessions.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// No session object more can be made.
    pub(crate) fn is_full(&self) -> bool {
        self.sessions() >= MAX_SESSIONS
    }

    pub(crate) fn remove_session(&self) {
        decrease(&self.sessions);
    }

    /// Sessions that are connected or on their way.
    pub(crate) fn active_sessions(&self) -> u16 {
        self.active.load(Ordering::Acquire)
    }

    pub(crate) fn session_begins(&self) {
        self.active.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn session_ends(&self) {
        decrease(&self.active);
    }

    /// Streams of root ports below the unit that are configured.
    pub(crate) fn streams(&self) -> u16 {
        self.streams.load(Ordering::Acquire)
    }

    pub(crate) fn add_stream(&self) {
        self.streams.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn remove_stream(&self) {
        decrease(&self.streams);
    }

    fn is_above(&self, function: FunctionId) -> bool {
        self.facts.segment == function.segment && self.facts.buses.contains(&function.bdf.bus())
    }
}

fn decrease(count: &AtomicU16) {
    // The closure never gives up: there is nothing to report.
    let _ = count.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| Some(count.saturating_sub(1)));
}

/// The units that firmware reported.
#[derive(Debug)]
pub(crate) struct UnitTable(Box<[Unit]>);

impl UnitTable {
    pub(crate) fn new(facts: &[UnitFacts]) -> Self {
        Self((0..).zip(facts).map(|(index, facts)| Unit::new(index, facts.clone())).collect())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Unit> {
        self.0.iter()
    }

    /// The unit whose registers start at `base`.
    pub(crate) fn at(&self, base: PhysAddr) -> Option<&Unit> {
        self.iter().find(|unit| unit.facts.registers.start() == base)
    }

    /// The unit that TDH.IOMMU.SETUP named so.
    pub(crate) fn get(&self, id: TdxIommuId) -> Option<&Unit> {
        self.iter().find(|unit| unit.id() == id)
    }

    /// The unit above a function, if it is in TDX mode.
    pub(crate) fn configured_above(&self, function: FunctionId) -> Option<&Unit> {
        self.iter().find(|unit| unit.is_above(function)).filter(|unit| unit.is_configured())
    }
}

impl Call<'_> {
    /// The lock of a unit, or OPERAND_BUSY with the operand that names it.
    pub(crate) fn lock_unit<'u>(&self, unit: &'u Unit, operand: OperandId) -> Result<MutexGuard<'u>, Exit> {
        let busy = || Exit::from(StatusCode::OPERAND_BUSY.with_operand(operand));
        if self.hw.contended(self.lp, LockName::Iommu) {
            return Err(busy());
        }
        unit.lock.try_lock().ok_or_else(busy)
    }
}
