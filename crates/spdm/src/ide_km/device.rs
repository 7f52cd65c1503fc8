use alloc::vec::Vec;

use super::target::RawTarget;
use super::{
    IdeKey, Ifv, KGoStopAck, KSetGo, KSetStop, KeyProg, KeySet, KeySlot, KpAck, KpStatus, ObjectId, PROTOCOL,
    PortIndex, PortLocation, Query, QueryResp, Registers, StreamId, Target,
};
use crate::ids::SessionId;
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

/// The ports of a device, as their key manager sees them.
pub trait IdePort {
    /// The highest port.
    fn max_port(&self) -> PortIndex;
    /// Where a port sits.
    fn location(&self, port: PortIndex) -> PortLocation;
    /// Appends the IDE extended capability from the capability register on, as dwords.
    fn registers(&self, port: PortIndex, out: &mut Vec<u32>);
    /// Whether a stream block of the port has that Stream ID.
    fn has_stream(&self, port: PortIndex, stream: StreamId) -> bool;
    /// Whether a key may start with that invocation field. Unless told otherwise with 1 only, which
    /// also finds a field whose dwords were swapped.
    fn takes_ifv(&self, ifv: Ifv) -> bool {
        ifv == Ifv::INITIAL
    }
    /// Puts a key into a slot. What was in it is gone; it is not used before [`go`](Self::go).
    fn program(
        &mut self,
        port: PortIndex,
        stream: StreamId,
        slot: KeySlot,
        key: &IdeKey,
        ifv: Ifv,
    ) -> Result<(), KeyRefused>;
    /// From now on the lane of that slot uses its key. The key of the other set still opens what is
    /// on its way.
    fn go(&mut self, port: PortIndex, stream: StreamId, slot: KeySlot) -> Result<(), KeyRefused>;
    /// Wipes the key of a slot.
    fn stop(&mut self, port: PortIndex, stream: StreamId, slot: KeySlot);
    /// Is told what a request made of a stream.
    fn changed(&mut self, port: PortIndex, stream: StreamId, change: StreamChange);
}

/// The port cannot take or use a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the port refuses the key")]
pub struct KeyRefused;

/// What became of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamChange {
    /// All six lanes have a key in use: for the first time, or of the other set after a refresh.
    Keyed(KeyGeneration),
    /// A lane that had a key has none any more.
    Lost,
    /// Keys came from another session than the one that the stream's keys are from.
    ForeignSession,
}

/// Counts how often streams came to have a key in use in every lane; never the same for two such
/// moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyGeneration(pub u64);

/// Why a request gets no answer of the protocol, which has no error message: the responder answers
/// with an SPDM `ERROR` instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdeKmError {
    /// The payload belongs to another protocol.
    #[error("protocol {0:#x} is not IDE_KM")]
    Protocol(u8),
    /// It is no message.
    #[error("IDE_KM: {0}")]
    Decode(#[from] DecodeError),
    /// It is a response.
    #[error("{0} is no request")]
    NotARequest(ObjectId),
    /// There is no such port.
    #[error("port {port}: the highest is {max}")]
    Port {
        /// Asked for.
        port: PortIndex,
        /// The highest.
        max: PortIndex,
    },
    /// The port has no such stream.
    #[error("port {port} has no stream {stream}")]
    Stream {
        /// The port.
        port: PortIndex,
        /// The stream.
        stream: StreamId,
    },
    /// `K_SET_GO` for a slot that no new key was brought to.
    #[error("stream {stream}: no key waits in {slot}")]
    NoKey {
        /// The stream.
        stream: StreamId,
        /// The slot.
        slot: KeySlot,
    },
    /// The port cannot use the key.
    #[error("stream {stream}: the port refuses the key in {slot}")]
    Refused {
        /// The stream.
        stream: StreamId,
        /// The slot.
        slot: KeySlot,
    },
}

/// What is in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotState {
    Empty,
    /// A key that is not used yet.
    Waiting,
    /// The key of its lane.
    InUse,
    /// The other set took over; the key opens what is on its way.
    Retired,
}

#[derive(Clone, Debug)]
struct StreamKeys {
    port: PortIndex,
    stream: StreamId,
    /// The one that asked for something last.
    session: SessionId,
    slots: [SlotState; KeySlot::COUNT],
    /// The session that brought the key of each slot.
    sources: [SessionId; KeySlot::COUNT],
    generation: Option<KeyGeneration>,
}

impl StreamKeys {
    fn new(port: PortIndex, stream: StreamId, session: SessionId) -> Self {
        Self {
            port,
            stream,
            session,
            slots: [SlotState::Empty; KeySlot::COUNT],
            sources: [session; KeySlot::COUNT],
            generation: None,
        }
    }

    fn slot(&mut self, slot: KeySlot) -> &mut SlotState {
        // An index is below COUNT by construction.
        &mut self.slots[slot.index()]
    }

    fn in_use(&self, set: KeySet) -> usize {
        KeySlot::of_set(set).iter().filter(|slot| self.slots[slot.index()] == SlotState::InUse).count()
    }

    /// Whether every lane has a key in use; during a refresh some are of one set, some of the other.
    fn is_keyed(&self) -> bool {
        self.in_use(KeySet::K0) + self.in_use(KeySet::K1) == 6
    }

    fn is_empty(&self) -> bool {
        self.slots.iter().all(|&slot| slot == SlotState::Empty)
    }

    /// Each state with the session that brought the key.
    fn sources(&self) -> impl Iterator<Item = (SlotState, SessionId)> + '_ {
        self.slots.iter().copied().zip(self.sources.iter().copied())
    }

    fn has_keys_of(&self, session: SessionId) -> bool {
        self.sources().any(|(state, source)| state != SlotState::Empty && source == session)
    }

    /// Whether no key in use came in another session.
    fn uses_keys_of(&self, session: SessionId) -> bool {
        self.sources().all(|(state, source)| state != SlotState::InUse || source == session)
    }

    fn id(&self) -> (PortIndex, StreamId) {
        (self.port, self.stream)
    }
}

/// The device's side: which slots have which keys, from which session. The keys themselves are the
/// port's alone.
#[derive(Clone, Debug, Default)]
pub struct KeyManager {
    streams: Vec<StreamKeys>,
    generations: u64,
}

impl KeyManager {
    /// No stream has a key.
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers one request that came in `session`: `payload` and `out` begin with the protocol id.
    pub fn handle(
        &mut self,
        session: SessionId,
        payload: &[u8],
        port: &mut dyn IdePort,
        out: &mut Vec<u8>,
    ) -> Result<(), IdeKmError> {
        let mut reader = Reader::new(payload);
        match reader.u8("protocol id")? {
            PROTOCOL => {}
            other => return Err(IdeKmError::Protocol(other)),
        }
        let object = ObjectId(reader.clone().u8("object id")?);
        match object {
            ObjectId::QUERY => {
                let query = Query::read(&mut reader)?;
                reader.finish()?;
                query_registers(query, port, out)
            }
            ObjectId::KEY_PROG => self.key_prog(session, reader, port, out),
            ObjectId::K_SET_GO => {
                let KSetGo { target } = KSetGo::read(&mut reader)?;
                reader.finish()?;
                self.go(session, target, port)?;
                append(out, KGoStopAck::SIZE, |writer| KGoStopAck { target }.write(writer));
                Ok(())
            }
            ObjectId::K_SET_STOP => {
                let KSetStop { target } = KSetStop::read(&mut reader)?;
                reader.finish()?;
                self.stop(session, target, port)?;
                append(out, KGoStopAck::SIZE, |writer| KGoStopAck { target }.write(writer));
                Ok(())
            }
            ObjectId::QUERY_RESP | ObjectId::KP_ACK | ObjectId::K_GOSTOP_ACK => {
                Err(IdeKmError::NotARequest(object))
            }
            ObjectId(code) => Err(DecodeError::UnknownCode(code).into()),
        }
    }

    /// A session is over: streams with a key that came in it lose all of their keys.
    pub fn session_ended(&mut self, session: SessionId, port: &mut dyn IdePort) {
        self.wipe(port, |keys| keys.has_keys_of(session));
    }

    /// A stream has left its secure state: its keys are wiped.
    pub fn stream_failed(&mut self, at: PortIndex, stream: StreamId, port: &mut dyn IdePort) {
        self.wipe(port, |keys| keys.id() == (at, stream));
    }

    /// Everything is wiped.
    pub fn reset(&mut self, port: &mut dyn IdePort) {
        self.wipe(port, |_| true);
    }

    /// Whether every lane of a stream has a key in use, and since which generation; any port.
    pub fn keyed(&self, stream: StreamId) -> Option<KeyGeneration> {
        self.streams
            .iter()
            .find(|keys| keys.stream == stream && keys.is_keyed())
            .and_then(|keys| keys.generation)
    }

    /// Like [`keyed`](Self::keyed), if that session brought all of the keys.
    pub fn keyed_in(&self, stream: StreamId, session: SessionId) -> Option<KeyGeneration> {
        self.streams
            .iter()
            .find(|keys| keys.stream == stream && keys.is_keyed() && keys.uses_keys_of(session))
            .and_then(|keys| keys.generation)
    }

    /// `KEY_PROG`. A message too short for what the acknowledgement echoes cannot be acknowledged.
    fn key_prog(
        &mut self,
        session: SessionId,
        mut reader: Reader<'_>,
        port: &mut dyn IdePort,
        out: &mut Vec<u8>,
    ) -> Result<(), IdeKmError> {
        let size = reader.left();
        reader.u8("object id")?;
        let raw = RawTarget::read(&mut reader)?;
        let target = raw.target;
        let status = if size == KeyProg::SIZE {
            let (key, ifv) = KeyProg::read_key(&mut reader)?;
            self.program(session, &raw, &key, ifv, port)
        } else {
            KpStatus::INCORRECT_LENGTH
        };
        append(out, KpAck::SIZE, |writer| KpAck { target, status }.write(writer));
        Ok(())
    }

    fn program(
        &mut self,
        session: SessionId,
        raw: &RawTarget,
        key: &IdeKey,
        ifv: Ifv,
        port: &mut dyn IdePort,
    ) -> KpStatus {
        let Target { stream, key: selector, port: at } = raw.target;
        if at > port.max_port() {
            return KpStatus::UNSUPPORTED_PORT;
        }
        let Some(slot) = selector.slot() else { return KpStatus::UNSUPPORTED_VALUE };
        if raw.reserved != 0 || raw.status != 0 || !port.takes_ifv(ifv) || !port.has_stream(at, stream) {
            return KpStatus::UNSUPPORTED_VALUE;
        }
        let mut changes = Vec::new();
        let keys = self.stream(session, at, stream, &mut changes);
        let was_keyed = keys.is_keyed();
        let programmed = port.program(at, stream, slot, key, ifv);
        *keys.slot(slot) = if programmed.is_ok() { SlotState::Waiting } else { SlotState::Empty };
        keys.sources[slot.index()] = session;
        if was_keyed && !keys.is_keyed() {
            changes.push(StreamChange::Lost);
        }
        self.streams.retain(|keys| !keys.is_empty());
        tell(at, stream, &changes, port);
        if programmed.is_ok() { KpStatus::SUCCESS } else { KpStatus::UNSPECIFIED }
    }

    fn go(&mut self, session: SessionId, target: Target, port: &mut dyn IdePort) -> Result<(), IdeKmError> {
        let (at, stream, slot) = place(target, port)?;
        if !port.has_stream(at, stream) {
            return Err(IdeKmError::Stream { port: at, stream });
        }
        let no_key = IdeKmError::NoKey { stream, slot };
        let keys = self.streams.iter_mut().find(|keys| keys.id() == (at, stream)).ok_or(no_key)?;
        match *keys.slot(slot) {
            SlotState::Waiting => {}
            // Once more changes nothing.
            SlotState::InUse => return Ok(()),
            SlotState::Empty | SlotState::Retired => return Err(no_key),
        }
        let mut changes = Vec::new();
        let keys = self.stream(session, at, stream, &mut changes);
        if port.go(at, stream, slot).is_err() {
            tell(at, stream, &changes, port);
            return Err(IdeKmError::Refused { stream, slot });
        }
        let was_keyed = keys.is_keyed();
        *keys.slot(slot) = SlotState::InUse;
        let other = keys.slot(KeySlot { set: slot.set.other(), ..slot });
        if *other == SlotState::InUse {
            *other = SlotState::Retired;
        }
        let refreshed = keys.in_use(slot.set) == 6;
        if refreshed || (!was_keyed && keys.is_keyed()) {
            self.generations += 1;
            let generation = KeyGeneration(self.generations);
            if let Some(keys) = self.streams.iter_mut().find(|keys| keys.id() == (at, stream)) {
                keys.generation = Some(generation);
            }
            changes.push(StreamChange::Keyed(generation));
        }
        tell(at, stream, &changes, port);
        Ok(())
    }

    /// `K_SET_STOP`. The host may have cleared the registers of the stream before: what has no key is
    /// stopped.
    fn stop(&mut self, session: SessionId, target: Target, port: &mut dyn IdePort) -> Result<(), IdeKmError> {
        let (at, stream, slot) = place(target, port)?;
        if !self.streams.iter().any(|keys| keys.id() == (at, stream)) {
            return Ok(());
        }
        let mut changes = Vec::new();
        let keys = self.stream(session, at, stream, &mut changes);
        let was_keyed = keys.is_keyed();
        *keys.slot(slot) = SlotState::Empty;
        if was_keyed && !keys.is_keyed() {
            changes.push(StreamChange::Lost);
        }
        port.stop(at, stream, slot);
        self.streams.retain(|keys| !keys.is_empty());
        tell(at, stream, &changes, port);
        Ok(())
    }

    /// The keys of a stream, which belong to `session` from now on.
    fn stream(
        &mut self,
        session: SessionId,
        at: PortIndex,
        stream: StreamId,
        changes: &mut Vec<StreamChange>,
    ) -> &mut StreamKeys {
        let found = self.streams.iter().position(|keys| keys.id() == (at, stream));
        let index = found.unwrap_or_else(|| {
            self.streams.push(StreamKeys::new(at, stream, session));
            self.streams.len() - 1
        });
        let keys = &mut self.streams[index];
        if keys.session != session {
            keys.session = session;
            changes.push(StreamChange::ForeignSession);
        }
        keys
    }

    fn wipe(&mut self, port: &mut dyn IdePort, of: impl Fn(&StreamKeys) -> bool) {
        let (gone, kept) = core::mem::take(&mut self.streams).into_iter().partition(|keys| of(keys));
        self.streams = kept;
        let gone: Vec<StreamKeys> = gone;
        for keys in gone {
            for slot in KeySet::ALL.into_iter().flat_map(KeySlot::of_set) {
                if keys.slots[slot.index()] != SlotState::Empty {
                    port.stop(keys.port, keys.stream, slot);
                }
            }
            if keys.is_keyed() {
                port.changed(keys.port, keys.stream, StreamChange::Lost);
            }
        }
    }
}

fn tell(at: PortIndex, stream: StreamId, changes: &[StreamChange], port: &mut dyn IdePort) {
    for &change in changes {
        port.changed(at, stream, change);
    }
}

/// The slot that a request is about, if there is such a port.
fn place(target: Target, port: &dyn IdePort) -> Result<(PortIndex, StreamId, KeySlot), IdeKmError> {
    let Target { stream, key, port: at } = target;
    if at > port.max_port() {
        return Err(IdeKmError::Port { port: at, max: port.max_port() });
    }
    let slot = key.slot().ok_or(DecodeError::Value { field: "key and sub-stream", value: key.0.into() })?;
    Ok((at, stream, slot))
}

fn query_registers(query: Query, port: &dyn IdePort, out: &mut Vec<u8>) -> Result<(), IdeKmError> {
    let max_port = port.max_port();
    if query.port > max_port {
        return Err(IdeKmError::Port { port: query.port, max: max_port });
    }
    let mut dwords = Vec::new();
    port.registers(query.port, &mut dwords);
    let bytes: Vec<u8> = dwords.iter().flat_map(|dword| dword.to_le_bytes()).collect();
    if let Some(registers) = Registers::from_bytes(&bytes) {
        let response =
            QueryResp { port: query.port, location: port.location(query.port), max_port, registers };
        append(out, QueryResp::MIN_SIZE + bytes.len(), |writer| response.write(writer));
    }
    Ok(())
}

/// Appends the protocol id and a message of `size` bytes.
pub(super) fn append(
    out: &mut Vec<u8>,
    size: usize,
    write: impl FnOnce(&mut Writer<'_>) -> Result<(), NoSpace>,
) {
    let start = out.len();
    out.resize(start + 1 + size, 0);
    if let Some((protocol, message)) = out.get_mut(start..).and_then(<[u8]>::split_first_mut) {
        *protocol = PROTOCOL;
        let written = write(&mut Writer::new(message));
        debug_assert_eq!(written, Ok(()), "the size of the message is known");
    }
}
