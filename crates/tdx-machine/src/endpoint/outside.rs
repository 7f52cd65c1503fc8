//! A device security manager that is somebody else's, and those who look at what a mailbox carries.

use spdm::Kind as Travel;
use spdm::ide_km::StreamId;
use spdm::observe::Observer;

use super::link::LINK;
use super::{Answered, Endpoint};

/// Why somebody else's device security manager has not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutsideError {
    /// It took the object and said nothing.
    #[error("no answer came")]
    Silent,
    /// Nobody is there any more, or what came is no answer.
    #[error("the responder outside is gone: {0}")]
    Gone(String),
}

/// A device security manager behind a connection, such as a responder of somebody else. It answers the data
/// objects of a mailbox in place of the modelled one.
pub trait OutsideDsm: Send {
    /// Gives it the payload of a data object, and its answer back.
    fn exchange(&mut self, kind: Travel, payload: &[u8]) -> Result<(Travel, Vec<u8>), OutsideError>;

    /// The device was reset: sessions are gone. What cannot be told is left out.
    fn reset(&mut self) {}
}

/// What a mailbox says to whoever has given it an object.
pub(super) fn answer(outside: &mut dyn OutsideDsm, kind: Travel, payload: &[u8]) -> Answered {
    match outside.exchange(kind, payload) {
        Ok((kind, payload)) => Answered::Object(kind, payload),
        Err(OutsideError::Silent) => Answered::Silence,
        Err(OutsideError::Gone(_)) => Answered::DoeError,
    }
}

/// Somebody who looks at the data objects of a mailbox, and into what is protected.
pub trait MailboxObserver: Observer {
    /// An object was given to the device.
    fn request(&mut self, kind: Travel, payload: &[u8]) {
        let _ = (kind, payload);
    }

    /// The device answered with an object.
    fn response(&mut self, kind: Travel, payload: &[u8]) {
        let _ = (kind, payload);
    }
}

/// Nobody looks on.
impl MailboxObserver for () {}

impl Endpoint {
    /// Somebody else answers the data objects from now on. Keys of IDE streams that go to such a responder
    /// cannot be seen: whoever has the other end of the link gives them with
    /// [`Self::copy_keys`].
    pub fn set_outside(&mut self, outside: Box<dyn OutsideDsm>) {
        self.outside = Some(outside);
    }

    /// Whether somebody else answers.
    pub const fn is_outside(&self) -> bool {
        self.outside.is_some()
    }

    /// Takes the keys of the other end of the link over, for the streams that are enabled here.
    pub fn copy_keys(&mut self, root_port: &crate::ide::Port) {
        let ids: Vec<StreamId> = root_port.streams().map(crate::ide::Stream::id).collect();
        for id in ids {
            if !self.dsm.hardware.is_enabled(LINK, id) {
                continue;
            }
            let (Some(theirs), Some(ours)) = (root_port.stream(id), self.dsm.hardware.end_of(LINK, id))
            else {
                continue;
            };
            ours.mirror(theirs);
            let secure = ours.status().state == crate::ide::StreamState::Secure;
            self.dsm.hardware.set_stream(LINK, id, secure);
        }
    }
}
