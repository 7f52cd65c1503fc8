//! SPDM sessions: one object per function that was given to TDH.SPDM.CREATE.
//!
//! The table is read without a lock and replaced as a whole. What a session is doing is behind its lock,
//! which is tried and never waited for; its state stands beside it for a first look.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use arc_swap::ArcSwap;
use pcie::{FuncId, FunctionId};
use spdm::requester::Requester;
use tdx_abi::PhysAddr;
use tdx_abi::connect::ids::{MngOperation, SpdmId};
use tdx_abi::connect::spdm::SpdmConfigInfo;
use tdx_abi::status::{OperandId, StatusCode};

use super::entropy::Entropy;
use super::extension::{ExtensionCall, ExtensionSlot, HeldSlot};
use super::stream::{Stream, StreamKey, StreamTable};
use super::units::Unit;
use super::work::{Bench, Turn, Work};
use crate::call::{Call, Exit};
use crate::hardware::LockName;
use crate::io::ConnectHardware;

/// State of a session object. FREE is one that is not in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionState {
    Created,
    Connecting,
    Connected,
    Disconnecting,
}

impl SessionState {
    pub(crate) const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Created),
            1 => Some(Self::Connecting),
            2 => Some(Self::Connected),
            3 => Some(Self::Disconnecting),
            _ => None,
        }
    }
}

/// What is being done with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Task {
    Connect,
    Disconnect,
    Heartbeat,
    KeyUpdate,
    Recollect,
    /// Keys of the stream with that id.
    Keys(u8),
}

impl Task {
    pub(crate) const fn of(operation: MngOperation) -> Option<Self> {
        match operation {
            MngOperation::HEARTBEAT => Some(Self::Heartbeat),
            MngOperation::KEY_UPDATE => Some(Self::KeyUpdate),
            MngOperation::DEV_INFO_RECOLLECTION => Some(Self::Recollect),
            _ => None,
        }
    }
}

/// What stands behind the lock of a session.
#[derive(Debug, Default)]
pub(crate) struct Body {
    pub(crate) requester: Option<Requester>,
    pub(crate) entropy: Arc<Entropy>,
    /// From the configuration page.
    pub(crate) config: SpdmConfigInfo,
    pub(crate) works: BTreeMap<Task, Work>,
    /// What TDISP and IDE_KM told when the device was connected.
    pub(crate) answers: Vec<Vec<u8>>,
    /// SHA-384 of the device information that was written last.
    pub(crate) digest: Option<[u8; 48]>,
}

impl Body {
    /// The session that the device proved to have is there. It is lost with the first message that is not
    /// in order.
    pub(crate) fn has_session(&self) -> bool {
        self.requester.as_ref().is_some_and(|requester| requester.session().is_some())
    }

    /// Whose message the device has, or is about to get.
    pub(crate) fn in_flight(&self) -> Option<Task> {
        self.works.iter().find(|(_, work)| work.is_in_flight()).map(|(&task, _)| task)
    }

    /// Takes work as far as it goes; work that has ended is gone. `None` if there is no such work.
    pub(crate) fn run(
        &mut self,
        task: Task,
        bench: &Bench<'_>,
        ended: impl FnOnce(&Work),
    ) -> Result<Option<Turn>, Exit> {
        let (Some(work), Some(requester)) = (self.works.get_mut(&task), self.requester.as_mut()) else {
            return Ok(None);
        };
        let turn = work.run(requester, bench);
        if turn.is_err() {
            ended(work);
            self.works.remove(&task);
            // A request without an answer that can be read: as in `abandon`.
            if requester.under_way().is_some() {
                requester.reset();
            }
        }
        turn.map(Some)
    }

    /// Nobody goes on with work. If the device has a message of it, the two ends do not count the same
    /// messages any more: the session is lost.
    pub(crate) fn abandon(&mut self, task: Task) {
        let lost = self.works.remove(&task).is_some_and(|work| work.is_in_flight());
        if let Some(requester) = self.requester.as_mut().filter(|_| lost) {
            requester.reset();
        }
    }

    /// Nothing is left of the session, its secrets included.
    pub(crate) fn forget(&mut self) {
        *self = Self { entropy: Arc::clone(&self.entropy), ..Self::default() };
    }
}

/// A session object.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SpdmId,
    pub(crate) function: FuncId,
    /// Place of its VT-d unit in the table.
    pub(crate) unit: u16,
    pub(crate) pages: Vec<PhysAddr>,
    /// The root port above, if there is one.
    pub(crate) port: Option<FunctionId>,
    /// Losses of the link when the session began.
    losses: AtomicU32,
    state: AtomicU8,
    body: Mutex<Body>,
}

impl Session {
    pub(crate) fn new(
        id: SpdmId,
        function: FuncId,
        unit: u16,
        pages: Vec<PhysAddr>,
        port: Option<FunctionId>,
    ) -> Self {
        Self {
            id,
            function,
            unit,
            pages,
            port,
            losses: AtomicU32::new(0),
            state: AtomicU8::new(SessionState::Created as u8),
            body: Mutex::default(),
        }
    }

    pub(crate) fn restored(self, losses: u32, state: SessionState, body: Body) -> Self {
        Self {
            losses: AtomicU32::new(losses),
            state: AtomicU8::new(state as u8),
            body: Mutex::new(body),
            ..self
        }
    }

    pub(crate) fn state(&self) -> SessionState {
        SessionState::from_number(self.state.load(Ordering::Acquire)).unwrap_or(SessionState::Created)
    }

    /// Called with the lock held.
    pub(crate) fn set_state(&self, state: SessionState) {
        self.state.store(state as u8, Ordering::Release);
    }

    pub(crate) fn losses(&self) -> u32 {
        self.losses.load(Ordering::Acquire)
    }

    /// A session is about to begin: what the link lost before does not matter.
    pub(crate) fn note_link(&self, io: &dyn ConnectHardware) {
        let losses = self.port.and_then(|port| io.link(port)).map_or(0, |link| link.losses);
        self.losses.store(losses, Ordering::Release);
    }

    /// The device was reset or taken away since the session began.
    pub(crate) fn is_device_gone(&self, io: &dyn ConnectHardware) -> bool {
        let link = self.port.and_then(|port| io.link(port));
        link.is_some_and(|link| !link.up || link.losses != self.losses())
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, Body>> {
        match self.body.try_lock() {
            Ok(body) => Some(body),
            Err(TryLockError::Poisoned(body)) => Some(body.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// All sessions, their streams and the slot of the extension.
#[derive(Debug, Default)]
pub(crate) struct SessionTable {
    sessions: ArcSwap<BTreeMap<FuncId, Arc<Session>>>,
    pub(crate) streams: StreamTable,
    pub(crate) extension: ExtensionSlot,
    /// Sessions that were ever created.
    created: AtomicU32,
}

impl SessionTable {
    /// An id that no other session has or had. Bits 31:0 are the function, 63:32 count sessions.
    pub(crate) fn next_id(&self, function: FuncId) -> SpdmId {
        let number = self.created.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
        SpdmId(u64::from(number) << 32 | u64::from(function.0))
    }

    pub(crate) fn created(&self) -> u32 {
        self.created.load(Ordering::Acquire)
    }

    pub(crate) fn set_created(&self, created: u32) {
        self.created.store(created, Ordering::Release);
    }

    /// The session of a function, by the one id that the function has.
    pub(crate) fn of_function(&self, function: FuncId) -> Option<Arc<Session>> {
        self.sessions.load().get(&function).cloned()
    }

    pub(crate) fn get(&self, id: SpdmId) -> Option<Arc<Session>> {
        let function = FuncId(u32::try_from(id.0 & 0xFFFF_FFFF).ok()?);
        self.of_function(function).filter(|session| session.id == id)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.sessions.load().values().cloned().collect()
    }

    /// The caller holds the lock of the unit.
    pub(crate) fn insert(&self, session: Session) {
        let session = Arc::new(session);
        self.sessions.rcu(|sessions| {
            let mut sessions = BTreeMap::clone(sessions);
            sessions.insert(session.function, Arc::clone(&session));
            sessions
        });
    }

    /// The same.
    pub(crate) fn remove(&self, function: FuncId) {
        self.sessions.rcu(|sessions| {
            let mut sessions = BTreeMap::clone(sessions);
            sessions.remove(&function);
            sessions
        });
    }

    pub(crate) fn streams_of(&self, session: &Session) -> Vec<Arc<Stream>> {
        let mut streams = self.streams.of_unit(session.unit);
        streams.retain(|stream| stream.facts.session == session.id);
        streams
    }

    pub(crate) fn has_streams(&self, session: &Session) -> bool {
        !self.streams_of(session).is_empty()
    }

    /// A call runs, or was interrupted and not resumed.
    pub(crate) fn is_interrupted(&self) -> bool {
        let inside = |session: &Arc<Session>| {
            session.try_lock().is_none_or(|body| body.works.values().any(Work::is_interrupted))
        };
        self.extension.is_taken() || self.all().iter().any(inside)
    }
}

impl<'a> Call<'a> {
    /// The VT-d unit of a session.
    pub(crate) fn unit_of(&self, session: &Session) -> Result<&'a Unit, Exit> {
        let unit = self.connect()?.units.iter().find(|unit| unit.index() == session.unit);
        // Units are those of the machine: none goes away.
        unit.ok_or_else(|| StatusCode::IOMMU_INVALID_STATE.into())
    }

    /// The lock of a session, or OPERAND_BUSY with the operand that names it. A session that another LP
    /// has deleted since it was looked up is not there.
    pub(crate) fn lock_session<'s>(
        &self,
        session: &'s Session,
        operand: OperandId,
    ) -> Result<MutexGuard<'s, Body>, Exit> {
        self.check_session_lock(operand)?;
        let busy = || StatusCode::OPERAND_BUSY.with_operand(operand);
        let body = session.try_lock().ok_or_else(busy)?;
        if self.connect()?.sessions.get(session.id).is_none() {
            return Err(StatusCode::SPDM_ENTRY_NOT_PRESENT.into());
        }
        Ok(body)
    }

    /// OPERAND_BUSY if some other agent holds the lock that this LP is about to try, or has tried.
    pub(crate) fn check_session_lock(&self, operand: OperandId) -> Result<(), Exit> {
        if self.hw.contended(self.lp, LockName::Spdm) {
            return Err(StatusCode::OPERAND_BUSY.with_operand(operand).into());
        }
        Ok(())
    }

    /// The stream of a session with that id.
    pub(crate) fn stream(&self, session: &Session, id: u64) -> Result<Option<Arc<Stream>>, Exit> {
        let Ok(id) = u8::try_from(id) else { return Ok(None) };
        let key = StreamKey { unit: session.unit, id };
        let stream = self.connect()?.sessions.streams.get(key);
        Ok(stream.filter(|stream| stream.facts.session == session.id))
    }

    /// The slot of the extension for this call, or OPERAND_BUSY: the leaf itself has to wait.
    pub(crate) fn enter_extension(&self, task: Task, session: SpdmId) -> Result<HeldSlot<'a>, Exit> {
        let busy = || Exit::from(StatusCode::OPERAND_BUSY.with_operand(OperandId::RAX));
        if self.hw.contended(self.lp, LockName::Extension) {
            return Err(busy());
        }
        let slot = &self.connect()?.sessions.extension;
        slot.enter(ExtensionCall { task, session }).ok_or_else(busy)
    }
}
