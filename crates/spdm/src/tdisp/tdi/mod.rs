//! The device's side.

mod config;
mod event;
mod handle;
mod interface;
mod platform;

pub use config::TdiConfig;
pub use event::TdiEvent;
pub use interface::Binding;
pub use platform::{NotConfigured, TdiPlatform, VdmRefused};

use alloc::vec::Vec;

use super::header::RawHeader;
use super::{Header, InterfaceId, Message, PROTOCOL, TdiState};
use crate::ide_km::{KeyGeneration, StreamId};
use crate::ids::SessionId;
use crate::wire::{DecodeError, Reader, Writer};
use interface::{Locked, Tdi};

/// Why a request gets no answer of the protocol: the responder answers with an SPDM `ERROR` instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TdispError {
    /// The payload belongs to another protocol.
    #[error("protocol {0:#x} is not TDISP")]
    Protocol(u8),
    /// It is shorter than a header.
    #[error("TDISP: {0}")]
    Decode(#[from] DecodeError),
}

/// The device has no such interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the device has no interface {0}")]
pub struct UnknownInterface(pub InterfaceId);

/// All interfaces of a device under one security manager.
#[derive(Debug)]
pub struct TdiSet {
    config: TdiConfig,
    tdis: Vec<Tdi>,
    /// The keys that streams had when an interface on them was stopped.
    spent: Vec<(StreamId, KeyGeneration)>,
}

impl TdiSet {
    /// No interface yet.
    pub const fn new(config: TdiConfig) -> Self {
        Self { config, tdis: Vec::new(), spent: Vec::new() }
    }

    /// What the interfaces can do.
    pub const fn config(&self) -> &TdiConfig {
        &self.config
    }

    /// Adds an unlocked interface, for a function that is there from now on. One that exists stays.
    pub fn add(&mut self, interface: InterfaceId) {
        if self.find(interface).is_none() {
            self.tdis.push(Tdi::new(interface));
        }
    }

    /// Removes an interface whose function is gone. If it is locked or runs, it fails first.
    pub fn remove(
        &mut self,
        interface: InterfaceId,
        platform: &mut dyn TdiPlatform,
    ) -> Result<(), UnknownInterface> {
        self.find(interface).ok_or(UnknownInterface(interface))?;
        self.event(TdiEvent::FunctionReset(interface), platform);
        self.tdis.retain(|tdi| tdi.interface != interface);
        Ok(())
    }

    /// The interfaces.
    pub fn interfaces(&self) -> impl Iterator<Item = InterfaceId> + '_ {
        self.tdis.iter().map(|tdi| tdi.interface)
    }

    /// The state of an interface.
    pub fn state(&self, interface: InterfaceId) -> Option<TdiState> {
        self.find(interface).map(|tdi| tdi.state)
    }

    /// To whom an interface is locked, if it is locked or runs.
    pub fn binding(&self, interface: InterfaceId) -> Option<&Binding> {
        self.find(interface)?.locked.as_ref().map(|locked| &locked.binding)
    }

    /// Something happened.
    pub fn event(&mut self, event: TdiEvent, platform: &mut dyn TdiPlatform) {
        for tdi in &mut self.tdis {
            if event == TdiEvent::ConventionalReset {
                tdi.enter(TdiState::UNLOCKED, platform);
            } else if tdi.fails_by(event) {
                tdi.enter(TdiState::ERROR, platform);
            }
        }
        if event == TdiEvent::ConventionalReset {
            self.spent.clear();
        }
    }

    /// Answers one request that came in `session`: `payload` and `out` begin with the protocol id.
    ///
    /// A request is looked at in this order: is it answered at all, has it its length, is it TDISP 1.0,
    /// is there such an interface, does the state permit it, are its fields right.
    pub fn handle(
        &mut self,
        session: SessionId,
        payload: &[u8],
        platform: &mut dyn TdiPlatform,
        out: &mut Vec<u8>,
    ) -> Result<(), TdispError> {
        let mut reader = Reader::new(payload);
        match reader.u8("protocol id")? {
            PROTOCOL => {}
            other => return Err(TdispError::Protocol(other)),
        }
        let raw = RawHeader::read(&mut reader)?;
        let interface = raw.header.interface;
        // Parts of a response that are not the request's.
        let mut portion = Vec::new();
        let body = match self.answer(session, &raw, reader, platform, &mut portion) {
            Ok(body) => body,
            Err(refusal) => refusal.into(),
        };
        append(out, &Message { interface, body });
        Ok(())
    }

    fn find(&self, interface: InterfaceId) -> Option<&Tdi> {
        self.tdis.iter().find(|tdi| tdi.interface == interface)
    }
}

/// Appends the protocol id and a message.
pub(super) fn append(out: &mut Vec<u8>, message: &Message<'_>) {
    let start = out.len();
    out.resize(start + 1 + Header::SIZE + message.body.size(), 0);
    if let Some((protocol, bytes)) = out.get_mut(start..).and_then(<[u8]>::split_first_mut) {
        *protocol = PROTOCOL;
        let written = message.write(&mut Writer::new(bytes));
        debug_assert_eq!(written, Ok(()), "the size of the message is known");
    }
}
