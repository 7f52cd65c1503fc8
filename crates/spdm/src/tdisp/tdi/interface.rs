use alloc::vec::Vec;

use super::super::{InterfaceId, LockFlags, LockInterface, MmioRange, Nonce, TdiState};
use super::{TdiEvent, TdiPlatform};
use crate::ide_km::{KeyGeneration, StreamId};
use crate::ids::SessionId;

/// To whom an interface is locked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The session that locked it.
    pub session: SessionId,
    /// How it is locked.
    pub lock: LockInterface,
    /// Peer-to-peer streams that are bound.
    pub p2p_streams: Vec<StreamId>,
}

/// Everything that a lock left behind; gone when the interface is unlocked.
#[derive(Debug)]
pub(super) struct Locked {
    pub(super) binding: Binding,
    /// Gone once it was used.
    pub(super) nonce: Option<Nonce>,
    pub(super) report: Vec<u8>,
    /// The ranges as the report has them.
    pub(super) ranges: Vec<MmioRange>,
    pub(super) generation: KeyGeneration,
}

/// One interface.
#[derive(Debug)]
pub(super) struct Tdi {
    pub(super) interface: InterfaceId,
    pub(super) state: TdiState,
    pub(super) locked: Option<Locked>,
}

impl Tdi {
    pub(super) const fn new(interface: InterfaceId) -> Self {
        Self { interface, state: TdiState::UNLOCKED, locked: None }
    }

    pub(super) fn enter(&mut self, state: TdiState, platform: &mut dyn TdiPlatform) {
        let from = core::mem::replace(&mut self.state, state);
        if state == TdiState::UNLOCKED || state == TdiState::ERROR {
            self.locked = None;
        }
        if from != state {
            platform.entered(self.interface, from, state);
        }
    }

    /// Whether the event takes the interface to `ERROR`. Only locked and running ones have a binding.
    pub(super) fn fails_by(&self, event: TdiEvent) -> bool {
        let Some(Locked { binding, .. }) = &self.locked else { return false };
        match event {
            TdiEvent::BusMasterCleared(interface)
            | TdiEvent::MemorySpaceCleared(interface)
            | TdiEvent::ConfigWrite(interface)
            | TdiEvent::FunctionReset(interface)
            | TdiEvent::InternalError(interface) => interface == self.interface,
            TdiEvent::MsixWrite(interface) => {
                interface == self.interface && binding.lock.flags.contains(LockFlags::LOCK_MSIX)
            }
            TdiEvent::StreamLost(stream) | TdiEvent::KeysOutsideSession(stream) => {
                binding.lock.default_stream == stream || binding.p2p_streams.contains(&stream)
            }
            TdiEvent::SessionEnded(session) => binding.session == session,
            TdiEvent::FirmwareUpdated => binding.lock.flags.contains(LockFlags::NO_FIRMWARE_UPDATE),
            TdiEvent::ConventionalReset => false,
        }
    }
}
