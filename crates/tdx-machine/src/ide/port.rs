use std::ops::RangeInclusive;

use pcie::Bdf;
use spdm::ide_km::{IdeKey, Ifv, KeyRefused, KeySlot, StreamId};

use super::error::{OpenError, SealError};
use super::sealed::Sealed;
use super::stream::{Stream, StreamStatus};
use super::tlp::{MaxPayload, Tlp};

/// What belongs to a stream: its RID association registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Association {
    /// Routing ids of those at the other end whose TLPs come over the stream.
    pub senders: RangeInclusive<u16>,
}

impl Association {
    /// Everybody at the other end.
    pub const EVERYBODY: Self = Self { senders: 0..=u16::MAX };

    /// Nobody: the registers say nothing.
    pub const NOBODY: Self = Self { senders: RangeInclusive::new(1, 0) };

    /// Whether TLPs of that sender come over the stream.
    pub fn has(&self, sender: Bdf) -> bool {
        self.senders.contains(&sender.routing_id())
    }
}

/// How a stream is added to a port.
#[derive(Clone, Debug)]
pub struct StreamSettings {
    /// Its Stream ID.
    pub id: StreamId,
    /// Who is at its other end.
    pub association: Association,
}

#[derive(Debug)]
struct PortStream {
    association: Association,
    stream: Stream,
}

/// One end of a link with its selective streams.
#[derive(Debug)]
pub struct Port {
    max_payload: MaxPayload,
    streams: Vec<PortStream>,
}

impl Port {
    /// A port without streams.
    pub const fn new(max_payload: MaxPayload) -> Self {
        Self { max_payload, streams: Vec::new() }
    }

    /// Adds a stream that is not enabled; one of the same id is replaced and its keys are gone.
    pub fn add(&mut self, settings: StreamSettings) -> &mut Stream {
        let stream = Stream::new(settings.id, self.max_payload);
        let added = PortStream { association: settings.association, stream };
        let same = self.streams.iter().position(|stream| stream.stream.id() == settings.id);
        let at = same.unwrap_or(self.streams.len());
        match self.streams.get_mut(at) {
            Some(old) => *old = added,
            None => self.streams.push(added),
        }
        &mut self.streams[at].stream
    }

    /// From now on these belong to a stream; its keys stay.
    pub fn associate(&mut self, id: StreamId, association: Association) {
        if let Some(found) = self.find(id) {
            found.association = association;
        }
    }

    /// The link is down: no stream is secure any more, and no key is left. One that is enabled has to be
    /// disabled before it can be secure again.
    pub fn link_down(&mut self) {
        for PortStream { stream, .. } in &mut self.streams {
            stream.fail(false);
        }
    }

    /// Removes a stream with its keys.
    pub fn remove(&mut self, id: StreamId) {
        self.streams.retain(|stream| stream.stream.id() != id);
    }

    /// Its streams.
    pub fn streams(&self) -> impl Iterator<Item = &Stream> {
        self.streams.iter().map(|stream| &stream.stream)
    }

    /// A stream.
    pub fn stream(&self, id: StreamId) -> Option<&Stream> {
        self.streams().find(|stream| stream.id() == id)
    }

    /// A stream, to change it.
    pub fn stream_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.find(id).map(|found| &mut found.stream)
    }

    /// What the status register of a stream says.
    pub fn status(&self, id: StreamId) -> Option<StreamStatus> {
        self.stream(id).map(Stream::status)
    }

    /// Puts a key into a slot of a stream. Directions are this port's.
    pub fn program(&mut self, id: StreamId, slot: KeySlot, key: &IdeKey, ifv: Ifv) -> Result<(), KeyRefused> {
        self.stream_mut(id).ok_or(KeyRefused)?.program(slot, key, ifv)
    }

    /// Uses the key of a slot.
    pub fn go(&mut self, id: StreamId, slot: KeySlot) -> Result<(), KeyRefused> {
        self.stream_mut(id).ok_or(KeyRefused)?.go(slot)
    }

    /// Wipes the key of a slot.
    pub fn stop(&mut self, id: StreamId, slot: KeySlot) {
        if let Some(stream) = self.stream_mut(id) {
            stream.stop(slot);
        }
    }

    /// Seals one TLP for a stream.
    pub fn seal(&mut self, id: StreamId, tlp: Tlp) -> Result<Sealed, SealError> {
        self.stream_mut(id).ok_or(SealError::NoStream(id))?.seal(tlp)
    }

    /// Opens what arrived. If this says [`OpenError::IntegrityFail`], the stream is insecure, and the
    /// other end is to be told: [`fail_message`](Self::fail_message).
    pub fn open(&mut self, sealed: Sealed) -> Result<Vec<Tlp>, OpenError> {
        let id = sealed.stream();
        let PortStream { association, stream } = self.find(id).ok_or(OpenError::MisroutedStream(id))?;
        let tlps = stream.open(sealed)?;
        match tlps.iter().find(|tlp| !association.has(tlp.header.sender())) {
            Some(tlp) => Err(OpenError::MisroutedSender { stream: id, sender: tlp.header.sender() }),
            None => Ok(tlps),
        }
    }

    /// The other end says that an integrity check failed there: the stream is insecure here too.
    pub fn fail_message(&mut self, id: StreamId) {
        if let Some(stream) = self.stream_mut(id) {
            stream.fail(true);
        }
    }

    fn find(&mut self, id: StreamId) -> Option<&mut PortStream> {
        self.streams.iter_mut().find(|stream| stream.stream.id() == id)
    }
}
