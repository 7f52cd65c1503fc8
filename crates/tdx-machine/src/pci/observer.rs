//! Those who look at what devices say.

use pcie::FunctionId;
use spdm::Kind as Travel;
use spdm::ids::SessionId;
use spdm::key_schedule::Direction;
use spdm::observe::{Observer, SessionSecrets};

use crate::endpoint::MailboxObserver;

/// Somebody who looks at the data objects that go through mailboxes, and into what is protected. The device
/// waits meanwhile: an observer must not ask the machine for anything of it.
pub trait DeviceObserver: Send + Sync {
    /// An object was given to the mailbox of a function.
    fn request(&self, function: FunctionId, kind: Travel, payload: &[u8]) {
        let _ = (function, kind, payload);
    }

    /// The mailbox of a function has an answer.
    fn response(&self, function: FunctionId, kind: Travel, payload: &[u8]) {
        let _ = (function, kind, payload);
    }

    /// The device has sealed a message, or opened one and found it genuine.
    fn secured(
        &self,
        function: FunctionId,
        direction: Direction,
        session: SessionId,
        sequence: u64,
        text: &[u8],
    ) {
        let _ = (function, direction, session, sequence, text);
    }

    /// A session has new secrets.
    fn secrets(&self, function: FunctionId, secrets: &SessionSecrets<'_>) {
        let _ = (function, secrets);
    }
}

/// The observer of a machine at one device.
pub(super) struct At<'a> {
    pub(super) function: FunctionId,
    pub(super) observer: Option<&'a dyn DeviceObserver>,
}

impl Observer for At<'_> {
    fn secured(&mut self, direction: Direction, session: SessionId, sequence: u64, plaintext: &[u8]) {
        if let Some(observer) = self.observer {
            observer.secured(self.function, direction, session, sequence, plaintext);
        }
    }

    fn secrets(&mut self, secrets: &SessionSecrets<'_>) {
        if let Some(observer) = self.observer {
            observer.secrets(self.function, secrets);
        }
    }
}

impl MailboxObserver for At<'_> {
    fn request(&mut self, kind: Travel, payload: &[u8]) {
        if let Some(observer) = self.observer {
            observer.request(self.function, kind, payload);
        }
    }

    fn response(&mut self, kind: Travel, payload: &[u8]) {
        if let Some(observer) = self.observer {
            observer.response(self.function, kind, payload);
        }
    }
}
