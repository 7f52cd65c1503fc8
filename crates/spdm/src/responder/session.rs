use core::fmt;
use core::time::Duration;

use super::channel::Channel;
use super::measurements::Watch;
use super::{Device, Responder, SessionEnd};
use crate::ids::{SessionId, SlotId};
use crate::msg::KeyOperation;
use crate::secured::{Phase, Session};
use crate::transcript::{Log, SessionTranscript};

/// A session and what the responder knows of it.
pub(super) struct Record {
    pub(super) secured: Session,
    pub(super) slot: SlotId,
    pub(super) transcript: SessionTranscript,
    pub(super) measurements: Log,
    pub(super) watch: Watch,
    pub(super) channel: Channel,
    /// The key update whose new key was not verified yet.
    pub(super) update: Option<Update>,
    /// Silence after which the session ends.
    pub(super) patience: Option<Duration>,
    /// When the last message came.
    pub(super) heard: Duration,
}

/// A key update that `VerifyNewKey` has to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Update {
    pub(super) operation: KeyOperation,
    pub(super) tag: u8,
    /// Whether the requester went back to the key before the update.
    pub(super) undone: bool,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("id", &self.secured.id())
            .field("phase", &self.secured.phase())
            .finish_non_exhaustive()
    }
}

/// What is known of a session from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// Its id.
    pub id: SessionId,
    /// Its phase.
    pub phase: Phase,
    /// The slot whose key has signed the key exchange.
    pub slot: SlotId,
}

impl Responder {
    /// The sessions that there are, handshakes included.
    pub fn sessions(&self) -> impl Iterator<Item = SessionInfo> + '_ {
        self.sessions.iter().map(|record| SessionInfo {
            id: record.secured.id(),
            phase: record.secured.phase(),
            slot: record.slot,
        })
    }

    pub(super) fn session(&self, id: SessionId) -> Option<&Record> {
        self.sessions.iter().find(|record| record.secured.id() == id)
    }

    pub(super) fn session_mut(&mut self, id: SessionId) -> Option<&mut Record> {
        self.sessions.iter_mut().find(|record| record.secured.id() == id)
    }

    /// Wipes a session. The device hears of it if it had heard of its start.
    pub(super) fn end_session(&mut self, id: SessionId, why: SessionEnd, device: &mut dyn Device) {
        let Some(index) = self.sessions.iter().position(|record| record.secured.id() == id) else { return };
        let record = self.sessions.remove(index);
        if record.secured.phase() == Phase::Data {
            device.session_ended(id, why);
        }
    }

    pub(super) fn end_all_sessions(&mut self, why: SessionEnd, device: &mut dyn Device) {
        while let Some(record) = self.sessions.pop() {
            if record.secured.phase() == Phase::Data {
                device.session_ended(record.secured.id(), why);
            }
        }
    }

    /// Ends the sessions that were silent for too long. [`Self::handle`] does so, too; this is for a
    /// device that nobody talks to.
    pub fn tick(&mut self, now: Duration, device: &mut dyn Device) {
        let silent = |record: &Record| {
            let silence = now.saturating_sub(record.heard);
            record.patience.is_some_and(|patience| silence >= patience)
        };
        while let Some(id) =
            self.sessions.iter().find(|record| silent(record)).map(|record| record.secured.id())
        {
            self.end_session(id, SessionEnd::Heartbeat, device);
        }
    }
}
