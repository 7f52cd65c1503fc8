//! Sessions and streams as bytes, for the instance that follows.
//!
//! All numbers are little endian; a list stands behind its 32-bit length. Pages are not part of it: they
//! are in the registry under the ids of sessions and streams.
//!
//! | part | fields |
//! |---|---|
//! | head | number of the format u16, sessions ever created u32 |
//! | session | id u64, unit u16, root port, losses of the link u32, state u8; unless it is CREATED: configuration 7 bytes, digest, answers, requester, works |
//! | stream | unit u16, id u8, session u64, root port, block u8, key unit u16, place in it u16, slots 12 × u16, associations 5 × u32, control u32, state u8, set u8, torn u8 |
//!
//! A handshake does not last: its session is CREATED for the next instance. A session whose requester
//! cannot be kept is one that was lost.

use std::collections::BTreeSet;
use std::sync::Arc;

use pcie::ide::{AddressAssociation, RidAssociation, StreamControl};
use pcie::{Bdf, FuncId, FunctionId, Segment};
use spdm::ide_km::{IdeKey, KeySet};
use spdm::requester::Operation;
use spdm::wire::{DecodeError, Reader};
use tdx_abi::connect::ids::{KmOperation, RootPortBlock, SpdmId};
use tdx_abi::connect::spdm::SpdmConfigInfo;
use tdx_abi::connect::stream::STREAM_ID_LIMIT;
use zerocopy::{FromBytes, IntoBytes};
use zeroize::Zeroizing;

use super::evidence::EvidencePlan;
use super::key_unit::{SLOTS, SlotSet};
use super::keys::KeyPlan;
use super::session::{Body, Session, SessionState, SessionTable, Task};
use super::stream::{Stream, StreamFacts, StreamKey, StreamState};
use super::work::{self, Phase, Plan, Work};
use super::{Connect, Owner};

const FORMAT: u16 = 1;
/// Most answers that a device gives to TDISP and IDE_KM.
const ANSWERS: u8 = 3;
/// Most works of one session: one of each kind, and keys of every stream.
const WORKS: u16 = 5 + STREAM_ID_LIMIT;

/// Why bytes are no sessions of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SessionsError {
    #[error("sessions: {0}")]
    Decode(#[from] DecodeError),
    #[error("session {0} cannot be one of this machine")]
    Session(SpdmId),
    #[error("stream {1} of session {0} cannot be one of this machine")]
    Stream(SpdmId, u8),
    #[error("pages belong to a session or stream that is not there")]
    Pages,
}

/// Bytes that may hold secrets: what is outgrown is wiped.
#[derive(Default)]
struct Out(Zeroizing<Vec<u8>>);

impl Out {
    fn bytes(&mut self, bytes: &[u8]) {
        let needed = self.0.len().saturating_add(bytes.len());
        if needed > self.0.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.saturating_mul(2)));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(bytes);
    }

    fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    /// What is longer than a 32-bit length says is cut off; nothing is.
    fn list(&mut self, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.u32(length);
        self.bytes(bytes);
    }

    fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX));
    }

    fn function(&mut self, function: FunctionId) {
        self.u16(function.segment.0);
        self.u16(function.bdf.routing_id());
    }
}

fn list<'a>(reader: &mut Reader<'a>, field: &'static str) -> Result<&'a [u8], DecodeError> {
    let size = reader.u32(field)?;
    reader.take(usize::try_from(size).unwrap_or(usize::MAX), field)
}

fn flag(reader: &mut Reader<'_>, field: &'static str) -> Result<bool, DecodeError> {
    match reader.u8(field)? {
        0 => Ok(false),
        1 => Ok(true),
        value => Err(DecodeError::Value { field, value: value.into() }),
    }
}

fn known<T>(value: Option<T>, field: &'static str, found: u8) -> Result<T, DecodeError> {
    value.ok_or(DecodeError::Value { field, value: found.into() })
}

fn function(reader: &mut Reader<'_>) -> Result<FunctionId, DecodeError> {
    let segment = Segment(reader.u16("segment")?);
    Ok(FunctionId::new(segment, Bdf::from_routing_id(reader.u16("routing id")?)))
}

fn key_set(reader: &mut Reader<'_>) -> Result<KeySet, DecodeError> {
    Ok(if flag(reader, "key set")? { KeySet::K1 } else { KeySet::K0 })
}

impl SessionTable {
    /// Everything that a successor needs. No call is inside or interrupted.
    pub(crate) fn save(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Out::default();
        out.u16(FORMAT);
        out.u32(self.created());
        let sessions = self.all();
        out.count(sessions.len());
        for session in sessions {
            write_session(&session, &mut out);
        }
        let streams = self.streams.all();
        out.count(streams.len());
        for stream in streams {
            write_stream(&stream, &mut out);
        }
        out.0
    }

    /// Takes over what another instance has saved. The registry of `connect` has the pages already, and its
    /// units are those of the machine; the table is empty.
    pub(crate) fn restore(&self, connect: &Connect, bytes: &[u8]) -> Result<(), SessionsError> {
        let mut reader = Reader::new(bytes);
        let format = reader.u16("format")?;
        if format != FORMAT {
            return Err(DecodeError::Value { field: "format", value: format.into() }.into());
        }
        self.set_created(reader.u32("sessions ever created")?);
        let mut works = Vec::new();
        let mut owners = BTreeSet::new();
        for _ in 0..reader.u32("number of sessions")? {
            let (session, unfinished) = read_session(&mut reader, connect)?;
            owners.insert(Owner::Session(session.id));
            works.push((session.function, unfinished));
            self.insert(session);
        }
        for _ in 0..reader.u32("number of streams")? {
            let stream = self.read_stream(&mut reader, connect)?;
            owners.insert(Owner::Stream(stream.facts.session, stream.facts.key.id));
            self.streams.insert(&stream);
        }
        reader.finish()?;
        for (function, unfinished) in works {
            self.resume_keys(function, unfinished)?;
        }
        let is_mine = |owner: &Owner| matches!(owner, Owner::Session(_) | Owner::Stream(..));
        let all: BTreeSet<Owner> =
            connect.pages.list().into_iter().map(|(_, owner)| owner).filter(is_mine).collect();
        if all == owners { Ok(()) } else { Err(SessionsError::Pages) }
    }

    /// Keys on their way need their stream.
    fn resume_keys(&self, function: FuncId, unfinished: Vec<SavedKeys>) -> Result<(), SessionsError> {
        let Some(session) = self.of_function(function) else { return Ok(()) };
        let Some(mut body) = session.try_lock() else { return Ok(()) };
        for saved in unfinished {
            let refused = SessionsError::Stream(session.id, saved.stream);
            let key = StreamKey { unit: session.unit, id: saved.stream };
            let stream = self.streams.get(key).ok_or(refused)?;
            if stream.facts.session != session.id || !body.has_session() || !saved.is_sound() {
                return Err(refused);
            }
            let plan = KeyPlan::restored(stream, saved.operation, saved.set, saved.step, saved.key);
            let work = Work { plan: Plan::Keys(Box::new(plan)), phase: saved.phase };
            body.works.insert(Task::Keys(saved.stream), work);
        }
        let in_flight = body.works.values().filter(|work| work.is_in_flight()).count();
        let waits = body.requester.as_ref().is_some_and(|requester| requester.under_way().is_some());
        if in_flight == usize::from(waits) { Ok(()) } else { Err(SessionsError::Session(session.id)) }
    }

    fn read_stream(&self, reader: &mut Reader<'_>, connect: &Connect) -> Result<Arc<Stream>, SessionsError> {
        let key = StreamKey { unit: reader.u16("unit")?, id: reader.u8("stream id")? };
        let id = SpdmId(reader.u64("session")?);
        let refused = SessionsError::Stream(id, key.id);
        let port = function(reader)?;
        let block = RootPortBlock(reader.u8("block")?);
        let (key_unit, number) = (reader.u16("key unit")?, reader.u16("place in the key unit")?);
        let mut slots = SlotSet { tx: [0; SLOTS], rx: [0; SLOTS] };
        for slot in slots.tx.iter_mut().chain(&mut slots.rx) {
            *slot = reader.u16("key slot")?;
        }
        let mut registers = [0; 5];
        for register in &mut registers {
            *register = reader.u32("association")?;
        }
        let [rid_1, rid_2, addresses @ ..] = registers;
        let rid = RidAssociation::decode([rid_1, rid_2]).ok_or(refused)?;
        let addresses = AddressAssociation::decode(addresses);
        let control = StreamControl::from_bits(reader.u32("control")?);
        let state = reader.u8("state of the stream")?;
        let state = known(StreamState::from_number(state), "state of the stream", state)?;
        let (set, torn) = (key_set(reader)?, flag(reader, "torn")?);
        let session = self.get(id).filter(|session| session.unit == key.unit).ok_or(refused)?;
        let unit = connect.units.iter().find(|unit| unit.index() == key.unit).ok_or(refused)?;
        let pages = connect.pages.pages_of(Owner::Stream(id, key.id));
        let of_port = unit.facts().key_units.get(usize::from(key_unit));
        let sound = session.state() == SessionState::Connected
            && (1..STREAM_ID_LIMIT).contains(&u16::from(key.id))
            && of_port.is_some_and(|facts| facts.root_ports.contains(&port))
            && self.streams.get(key).is_none()
            && control.stream_id() == key.id
            && !control.enable()
            && !pages.is_empty();
        if !sound {
            return Err(refused);
        }
        let facts = StreamFacts {
            key,
            session: id,
            port,
            block,
            key_unit,
            number,
            slots,
            rid,
            addresses,
            control,
            pages,
        };
        if !facts.slots.is_sound() || self.streams.of_unit(key.unit).iter().any(|one| one.collides(&facts)) {
            return Err(refused);
        }
        unit.add_stream();
        Ok(Stream::restored(facts, state, set, torn))
    }
}

fn write_stream(stream: &Stream, out: &mut Out) {
    let facts = &stream.facts;
    out.u16(facts.key.unit);
    out.u8(facts.key.id);
    out.u64(facts.session.0);
    out.function(facts.port);
    out.u8(facts.block.0);
    out.u16(facts.key_unit);
    out.u16(facts.number);
    facts.slots.tx.iter().chain(&facts.slots.rx).for_each(|&slot| out.u16(slot));
    facts.rid.encode().into_iter().for_each(|register| out.u32(register));
    let addresses = facts.addresses.map_or([0; 3], AddressAssociation::encode);
    for register in addresses {
        out.u32(register);
    }
    out.u32(facts.control.into_bits());
    out.u8(stream.state() as u8);
    out.u8(stream.set() as u8);
    out.u8(stream.is_torn().into());
}

fn write_session(session: &Session, out: &mut Out) {
    out.u64(session.id.0);
    out.u16(session.unit);
    out.u8(session.port.is_some().into());
    if let Some(port) = session.port {
        out.function(port);
    }
    out.u32(session.losses());
    // Nobody is inside: the lock is free.
    let body = session.try_lock();
    let state = match (session.state(), &body) {
        (SessionState::Connecting, _) | (_, None) => SessionState::Created,
        (state, Some(_)) => state,
    };
    out.u8(state as u8);
    if let Some(body) = body.filter(|_| state != SessionState::Created) {
        write_body(&body, out);
    }
}

fn write_body(body: &Body, out: &mut Out) {
    out.bytes(body.config.as_bytes());
    out.u8(body.digest.is_some().into());
    out.bytes(body.digest.as_ref().map_or(&[], |digest| &digest[..]));
    out.u8(u8::try_from(body.answers.len()).unwrap_or(u8::MAX));
    body.answers.iter().for_each(|answer| out.list(answer));
    let saved = body.requester.as_ref().and_then(|requester| requester.save().ok());
    out.u8(saved.is_some().into());
    let Some(saved) = saved else { return };
    out.list(&saved);
    out.u16(u16::try_from(body.works.len()).unwrap_or(u16::MAX));
    for (&task, work) in &body.works {
        let (kind, stream) = match task {
            Task::Connect | Task::Disconnect => (0, 0),
            Task::Heartbeat => (1, 0),
            Task::KeyUpdate => (2, 0),
            Task::Recollect => (3, 0),
            Task::Keys(stream) => (4, stream),
        };
        out.u8(kind);
        out.u8(stream);
        out.u8(work.is_in_flight().into());
        match &work.plan {
            Plan::Single(_) => {}
            Plan::Evidence(plan) => out.bytes(plan.config().as_bytes()),
            Plan::Keys(plan) => write_keys(plan, out),
        }
    }
}

fn write_keys(plan: &KeyPlan, out: &mut Out) {
    out.u64(plan.operation.0);
    out.u8(plan.set as u8);
    out.u8(plan.step);
    out.u8(plan.key.is_some().into());
    out.bytes(plan.key.as_ref().map_or(&[], |key| key.bytes()));
}

/// Keys on their way, before their stream is known.
struct SavedKeys {
    stream: u8,
    phase: Phase,
    operation: KmOperation,
    set: KeySet,
    step: u8,
    key: Option<IdeKey>,
}

impl SavedKeys {
    /// Some message of the operation is still to come, or its acknowledgement.
    fn is_sound(&self) -> bool {
        match self.operation {
            KmOperation::SETUP | KmOperation::REFRESH => self.step < 12,
            KmOperation::STOP => self.step < 6,
            _ => false,
        }
    }
}

fn read_session(
    reader: &mut Reader<'_>,
    connect: &Connect,
) -> Result<(Session, Vec<SavedKeys>), SessionsError> {
    let id = SpdmId(reader.u64("session")?);
    let refused = SessionsError::Session(id);
    let place = reader.u16("unit")?;
    let port = if flag(reader, "root port")? { Some(function(reader)?) } else { None };
    let losses = reader.u32("losses of the link")?;
    let state = reader.u8("state of the session")?;
    let state = known(SessionState::from_number(state), "state of the session", state)?;
    let func = FuncId(u32::try_from(id.0 & 0xFFFF_FFFF).unwrap_or_default());
    let unit = connect.units.configured_above(func.function()).filter(|unit| unit.index() == place);
    let unit = unit.ok_or(refused)?;
    let pages = connect.pages.pages_of(Owner::Session(id));
    let sound = FuncId::new(func.function()) == Ok(func)
        && id.0 >> 32 != 0
        && id.0 >> 32 <= u64::from(connect.sessions.created())
        && connect.sessions.of_function(func).is_none()
        && state != SessionState::Connecting
        && !pages.is_empty();
    if !sound || !unit.add_session() {
        return Err(refused);
    }
    let session = Session::new(id, func, place, pages, port);
    if state == SessionState::Created {
        return Ok((session, Vec::new()));
    }
    unit.session_begins();
    let (body, keys) = read_body(reader, id, func, state)?;
    Ok((session.restored(losses, state, body), keys))
}

fn config(reader: &mut Reader<'_>) -> Result<SpdmConfigInfo, DecodeError> {
    let bytes: [u8; size_of::<SpdmConfigInfo>()] = reader.array("configuration")?;
    // Any bytes are a configuration; what it must not say the requester refuses or ignores.
    Ok(SpdmConfigInfo::read_from_bytes(&bytes).unwrap_or_default())
}

fn read_body(
    reader: &mut Reader<'_>,
    id: SpdmId,
    function: FuncId,
    state: SessionState,
) -> Result<(Body, Vec<SavedKeys>), SessionsError> {
    let refused = SessionsError::Session(id);
    let mut body = Body { config: config(reader)?, ..Body::default() };
    if flag(reader, "digest")? {
        body.digest = Some(reader.array("digest")?);
    }
    let answers = reader.u8("number of answers")?;
    if answers > ANSWERS {
        return Err(refused);
    }
    for _ in 0..answers {
        body.answers.push(list(reader, "answer")?.to_vec());
    }
    let mut keys = Vec::new();
    if !flag(reader, "requester")? {
        return Ok((body, keys));
    }
    let saved = list(reader, "requester")?;
    body.requester = Some(work::restored(body.config, &body.entropy, saved).map_err(|_| refused)?);
    let works = reader.u16("number of works")?;
    if works > WORKS {
        return Err(refused);
    }
    for _ in 0..works {
        let (kind, stream) = (reader.u8("work")?, reader.u8("stream of the work")?);
        let waiting = flag(reader, "phase")?;
        let phase = if waiting { Phase::Waiting } else { Phase::Advance };
        let single = |operation| Plan::Single(Some(operation).filter(|_| !waiting));
        let (task, plan) = match (kind, state) {
            (0, SessionState::Disconnecting) => (Task::Disconnect, single(Operation::EndSession)),
            (1, SessionState::Connected) => (Task::Heartbeat, single(Operation::Heartbeat)),
            (2, SessionState::Connected) => (Task::KeyUpdate, single(Operation::KeyUpdate { all: true })),
            (3, SessionState::Connected) => {
                let info = config(reader)?;
                let answers = body.answers.clone();
                let plan = if waiting {
                    EvidencePlan::recollecting(info, function, answers)
                } else {
                    EvidencePlan::recollect(info, function, answers)
                };
                (Task::Recollect, Plan::Evidence(Box::new(plan)))
            }
            (4, SessionState::Connected) => {
                keys.push(read_keys(reader, stream, phase)?);
                continue;
            }
            _ => return Err(refused),
        };
        if body.works.insert(task, Work { plan, phase }).is_some() {
            return Err(refused);
        }
    }
    Ok((body, keys))
}

fn read_keys(reader: &mut Reader<'_>, stream: u8, phase: Phase) -> Result<SavedKeys, DecodeError> {
    Ok(SavedKeys {
        stream,
        phase,
        operation: KmOperation(reader.u64("operation")?),
        set: key_set(reader)?,
        step: reader.u8("step")?,
        key: if flag(reader, "key")? { Some(IdeKey::new(reader.array("key")?)) } else { None },
    })
}
