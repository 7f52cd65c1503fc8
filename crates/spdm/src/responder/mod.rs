//! The responder: a device's side of SPDM.
//!
//! [`Responder::handle`] takes the payload of one object and gives that of the answer. What the device
//! itself decides on is asked of its [`Device`]. Requests out of order, of another version, malformed,
//! too large or not offered are refused with the `ERROR` that DSP0274 names; a refused request changes
//! nothing but the transcripts that any request empties.
//!
//! | request | in the clear | handshake | data phase |
//! |---|---|---|---|
//! | `GET_VERSION` | always | | |
//! | `GET_CAPABILITIES`, `NEGOTIATE_ALGORITHMS` | once, in this order; the same again while nothing followed | | |
//! | `GET_DIGESTS`, `GET_CERTIFICATE`, `GET_MEASUREMENTS` | yes | | yes |
//! | `CHALLENGE`, `KEY_EXCHANGE` | yes | | |
//! | `FINISH` | | yes | |
//! | `HEARTBEAT`, `KEY_UPDATE`, `END_SESSION`, `VENDOR_DEFINED_REQUEST` | | | yes |
//! | `CHUNK_SEND`, `CHUNK_GET`, `RESPOND_IF_READY` | yes | yes | yes |

mod algorithms;
mod capabilities;
mod certificate;
mod challenge;
mod channel;
mod chunk;
mod config;
mod connection;
mod device;
mod digests;
mod dispatch;
mod end_session;
mod finish;
mod heartbeat;
mod key_exchange;
mod key_update;
mod measurements;
mod refusal;
mod respond_if_ready;
mod session;
#[cfg(all(test, feature = "aws-lc"))]
mod tests;
mod vendor;
mod version;

pub use config::{Config, ConfigError, Identity};
pub use device::{Delay, Device, MeasuredValue, Measurement, SessionEnd, Stage, VendorError};
pub use session::SessionInfo;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use channel::Channel;
use connection::State;
use measurements::Watch;
use session::Record;

use crate::Kind;
use crate::crypto::Crypto;
use crate::msg::VersionList;
use crate::transcript::Transcript;

/// The payload of an object that goes to the requester.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// How it travels.
    pub kind: Kind,
    /// The message or secured message, without padding.
    pub payload: Vec<u8>,
}

/// A device's side of SPDM: one connection and its sessions.
pub struct Responder {
    config: Config,
    versions: VersionList,
    identities: Vec<Identity>,
    crypto: Arc<dyn Crypto>,
    state: State,
    transcript: Transcript,
    watch: Watch,
    channel: Channel,
    /// The last request of VCA and its response, until another request comes.
    repeat: Option<(Vec<u8>, Vec<u8>)>,
    sessions: Vec<Record>,
    /// The responder's half of the last session id.
    last_session: u16,
    /// The last handle of a large response, and the last token of one that was not ready.
    last_handle: u8,
    last_token: u8,
    /// Whether a connection was lost that the requester may still believe in.
    lost: bool,
}

impl Responder {
    /// A responder before its first connection.
    pub fn new(
        config: Config,
        identities: Vec<Identity>,
        crypto: Arc<dyn Crypto>,
    ) -> Result<Self, ConfigError> {
        config.check(&identities)?;
        let versions = VersionList::released(&config.versions).ok_or(ConfigError::Versions)?;
        let responder = Self {
            config,
            versions,
            identities,
            crypto,
            state: State::Start,
            transcript: Transcript::new(),
            watch: Watch::default(),
            channel: Channel::default(),
            repeat: None,
            sessions: Vec::new(),
            last_session: 0,
            last_handle: 0,
            last_token: 0,
            lost: false,
        };
        responder.check_chains()?;
        Ok(responder)
    }

    /// What it was made with.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The connection is lost, by a reset of the device or otherwise. Until `GET_VERSION` comes, every
    /// other request is told to start anew.
    pub fn reset(&mut self, device: &mut dyn Device) {
        self.end_all_sessions(SessionEnd::Reset, device);
        self.lost |= !matches!(self.state, State::Start);
        self.forget_connection();
    }

    /// Forgets everything of the connection but its sessions.
    fn forget_connection(&mut self) {
        self.state = State::Start;
        self.transcript.reset();
        self.watch = Watch::default();
        self.channel = Channel::default();
        self.repeat = None;
    }

    /// Ends the sessions that were silent for too long, then takes the payload of an object and gives
    /// that of the answer; `None` if there is none. `now` is the time on any clock that does not go
    /// backwards.
    pub fn handle(
        &mut self,
        kind: Kind,
        payload: &[u8],
        device: &mut dyn Device,
        now: Duration,
        observer: &mut dyn crate::observe::Observer,
    ) -> Option<Reply> {
        self.tick(now, device);
        match kind {
            Kind::Clear => Some(self.handle_clear(payload, device, now, observer)),
            Kind::Secured => self.handle_secured(payload, device, now, observer),
        }
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder")
            .field("state", &self.state)
            .field("sessions", &self.sessions)
            .finish_non_exhaustive()
    }
}
