use alloc::vec::Vec;

use super::device::append;
use super::{
    IdeKey, Ifv, KGoStopAck, KSetGo, KSetStop, KeyProg, KeySelector, KeySet, KeySlot, KpAck, KpStatus,
    Message, ObjectId, PROTOCOL, PortIndex, PortLocation, Query, StreamId, Target,
};
use crate::crypto::{Crypto, CryptoError};
use crate::wire::{DecodeError, Reader};

/// Why a flow ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdeKmFailure {
    /// The payload belongs to another protocol.
    #[error("protocol {0:#x} is not IDE_KM")]
    Protocol(u8),
    /// The response is no message.
    #[error("IDE_KM response: {0}")]
    Decode(#[from] DecodeError),
    /// The response is another message than the request wants.
    #[error("{found} came, not {expected}")]
    Unexpected {
        /// What came.
        found: ObjectId,
        /// What the request wants.
        expected: ObjectId,
    },
    /// A response came although nothing was asked.
    #[error("a response came that nobody asked for")]
    Unasked,
    /// `QUERY_RESP` speaks of another port.
    #[error("QUERY_RESP is about port {found}, not {asked}")]
    WrongPort {
        /// Answered.
        found: PortIndex,
        /// Asked for.
        asked: PortIndex,
    },
    /// The device has fewer ports than the one that it answers for.
    #[error("QUERY_RESP: port {port} is above the highest, {max}")]
    PortAboveMax {
        /// The port.
        port: PortIndex,
        /// The highest as the device says.
        max: PortIndex,
    },
    /// The acknowledgement is about another key than the request.
    #[error("{slot} of stream {stream}: the device acknowledged {} of stream {} at port {}", .echoed.key, .echoed.stream, .echoed.port)]
    WrongKeyEchoed {
        /// The stream.
        stream: StreamId,
        /// The slot.
        slot: KeySlot,
        /// What the device acknowledged.
        echoed: Target,
    },
    /// The device does not take a key.
    #[error("{slot} of stream {stream}: KEY_PROG refused: {status}")]
    Refused {
        /// The stream.
        stream: StreamId,
        /// The slot.
        slot: KeySlot,
        /// What the device says.
        status: KpStatus,
    },
}

/// The message of a payload.
fn message(payload: &[u8]) -> Result<Message<'_>, IdeKmFailure> {
    let mut reader = Reader::new(payload);
    match reader.u8("protocol id")? {
        PROTOCOL => Ok(Message::read(reader.rest())?),
        other => Err(IdeKmFailure::Protocol(other)),
    }
}

/// What `QUERY` told of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The port.
    pub index: PortIndex,
    /// Where it sits.
    pub location: PortLocation,
    /// The highest port of the device.
    pub max_port: PortIndex,
    /// Its IDE registers from the capability register on.
    pub registers: Vec<u32>,
}

/// Asks for the registers of a port.
#[derive(Clone, Copy, Debug)]
pub struct QueryPort {
    /// The port.
    pub port: PortIndex,
}

impl QueryPort {
    /// The request.
    pub fn request(&self) -> Vec<u8> {
        let mut out = Vec::new();
        append(&mut out, Query::SIZE, |writer| Query { port: self.port }.write(writer));
        out
    }

    /// Takes the response.
    pub fn response(&self, payload: &[u8]) -> Result<Port, IdeKmFailure> {
        let response = match message(payload)? {
            Message::QueryResp(response) => response,
            other => {
                return Err(IdeKmFailure::Unexpected {
                    found: other.object(),
                    expected: ObjectId::QUERY_RESP,
                });
            }
        };
        if response.port != self.port {
            return Err(IdeKmFailure::WrongPort { found: response.port, asked: self.port });
        }
        if response.port > response.max_port {
            return Err(IdeKmFailure::PortAboveMax { port: response.port, max: response.max_port });
        }
        Ok(Port {
            index: self.port,
            location: response.location,
            max_port: response.max_port,
            registers: response.registers.dwords().collect(),
        })
    }
}

/// The six keys of a set. Overwritten when dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetKeys([IdeKey; 6]);

impl SetKeys {
    /// Six random keys.
    pub fn generate(crypto: &dyn Crypto) -> Result<Self, CryptoError> {
        let mut keys = Self([const { IdeKey::new([0; IdeKey::SIZE]) }; 6]);
        for key in &mut keys.0 {
            *key = IdeKey::generate(crypto)?;
        }
        Ok(keys)
    }

    /// The key of each slot.
    pub fn from_fn(mut key: impl FnMut(KeySlot) -> IdeKey) -> Self {
        Self(KeySlot::of_set(KeySet::K0).map(&mut key))
    }

    /// The key of a slot, whichever the set.
    pub const fn key(&self, slot: KeySlot) -> &IdeKey {
        // A lane is below 6 by construction.
        &self.0[slot.lane()]
    }
}

/// What a device has acknowledged. The other end of the link does its part in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Programmed {
    /// The key of that slot is in place.
    Key(KeySlot),
    /// All six keys are in place: the other end must receive with the set from now on.
    AllKeys,
    /// The device uses the key of that slot.
    Go(KeySlot),
    /// The device receives with the set: the other end sends with it from now on.
    Receiving,
    /// The device uses the whole set.
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Key(usize),
    Go(usize),
    Done,
}

/// Brings the six keys of a set into a stream and has them used: `KEY_PROG` for all slots, received
/// ones first, then `K_SET_GO` in the same order. For a refresh the set is the one that is not in use.
#[derive(Debug)]
pub struct ProgramStream {
    port: PortIndex,
    stream: StreamId,
    set: KeySet,
    keys: Option<SetKeys>,
    step: Step,
    asked: bool,
}

impl ProgramStream {
    /// Keys for `set` of a stream.
    pub const fn new(port: PortIndex, stream: StreamId, set: KeySet, keys: SetKeys) -> Self {
        Self { port, stream, set, keys: Some(keys), step: Step::Key(0), asked: false }
    }

    /// The next request; `None` once the set is in use, or after a failure.
    pub fn request(&mut self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        match self.step {
            Step::Key(index) => {
                let slot = self.slot(index)?;
                let request = KeyProg {
                    target: self.target(slot),
                    key: self.keys.as_ref()?.key(slot).clone(),
                    ifv: Ifv::INITIAL,
                };
                append(&mut out, KeyProg::SIZE, |writer| request.write(writer));
            }
            Step::Go(index) => {
                let request = KSetGo { target: self.target(self.slot(index)?) };
                append(&mut out, KSetGo::SIZE, |writer| request.write(writer));
            }
            Step::Done => return None,
        }
        self.asked = true;
        Some(out)
    }

    /// Takes the response to the last request. After a failure the keys are gone and nothing follows;
    /// the device may have some of them: stop the set.
    pub fn response(&mut self, payload: &[u8]) -> Result<Programmed, IdeKmFailure> {
        let progress = self.take(payload);
        if !matches!(progress, Ok(Programmed::Key(_) | Programmed::Go(_) | Programmed::Receiving)) {
            self.keys = None;
        }
        if progress.is_err() {
            self.step = Step::Done;
        }
        progress
    }

    fn take(&mut self, payload: &[u8]) -> Result<Programmed, IdeKmFailure> {
        if !core::mem::take(&mut self.asked) {
            return Err(IdeKmFailure::Unasked);
        }
        match self.step {
            Step::Key(index) => {
                let slot = self.slot(index).ok_or(IdeKmFailure::Unasked)?;
                let KpAck { target, status } = match message(payload)? {
                    Message::KpAck(ack) => ack,
                    other => return Err(unexpected(&other, ObjectId::KP_ACK)),
                };
                self.echoes(slot, target)?;
                if status != KpStatus::SUCCESS {
                    return Err(IdeKmFailure::Refused { stream: self.stream, slot, status });
                }
                self.step = if index == 5 { Step::Go(0) } else { Step::Key(index + 1) };
                Ok(if index == 5 { Programmed::AllKeys } else { Programmed::Key(slot) })
            }
            Step::Go(index) => {
                let slot = self.slot(index).ok_or(IdeKmFailure::Unasked)?;
                let target = acknowledged(payload)?;
                self.echoes(slot, target)?;
                self.step = if index == 5 { Step::Done } else { Step::Go(index + 1) };
                Ok(match index {
                    5 => Programmed::Done,
                    2 => Programmed::Receiving,
                    _ => Programmed::Go(slot),
                })
            }
            Step::Done => Err(IdeKmFailure::Unasked),
        }
    }

    fn slot(&self, index: usize) -> Option<KeySlot> {
        KeySlot::of_set(self.set).get(index).copied()
    }

    fn target(&self, slot: KeySlot) -> Target {
        Target { stream: self.stream, key: slot.into(), port: self.port }
    }

    fn echoes(&self, slot: KeySlot, echoed: Target) -> Result<(), IdeKmFailure> {
        echoes(self.target(slot), slot, echoed)
    }
}

/// Has the device forget the six keys of a set, in the order of [`KeySlot::of_set`].
#[derive(Debug)]
pub struct StopStream {
    port: PortIndex,
    stream: StreamId,
    set: KeySet,
    done: usize,
    asked: bool,
}

impl StopStream {
    /// The keys of `set`.
    pub const fn new(port: PortIndex, stream: StreamId, set: KeySet) -> Self {
        Self { port, stream, set, done: 0, asked: false }
    }

    /// The next request; `None` once all are forgotten.
    pub fn request(&mut self) -> Option<Vec<u8>> {
        let slot = self.slot()?;
        let mut out = Vec::new();
        append(&mut out, KSetStop::SIZE, |writer| KSetStop { target: self.target(slot) }.write(writer));
        self.asked = true;
        Some(out)
    }

    /// Takes the response to the last request; says whether all keys are forgotten.
    pub fn response(&mut self, payload: &[u8]) -> Result<bool, IdeKmFailure> {
        let slot = self.slot().filter(|_| core::mem::take(&mut self.asked)).ok_or(IdeKmFailure::Unasked)?;
        echoes(self.target(slot), slot, acknowledged(payload)?)?;
        self.done += 1;
        Ok(self.slot().is_none())
    }

    fn slot(&self) -> Option<KeySlot> {
        KeySlot::of_set(self.set).get(self.done).copied()
    }

    fn target(&self, slot: KeySlot) -> Target {
        Target { stream: self.stream, key: KeySelector::from(slot), port: self.port }
    }
}

fn unexpected(found: &Message<'_>, expected: ObjectId) -> IdeKmFailure {
    IdeKmFailure::Unexpected { found: found.object(), expected }
}

fn acknowledged(payload: &[u8]) -> Result<Target, IdeKmFailure> {
    match message(payload)? {
        Message::KGoStopAck(KGoStopAck { target }) => Ok(target),
        other => Err(unexpected(&other, ObjectId::K_GOSTOP_ACK)),
    }
}

fn echoes(asked: Target, slot: KeySlot, echoed: Target) -> Result<(), IdeKmFailure> {
    if echoed == asked {
        Ok(())
    } else {
        Err(IdeKmFailure::WrongKeyEchoed { stream: asked.stream, slot, echoed })
    }
}
