//! The requester: asks a device who it is, opens a session with it and talks in that session.
//!
//! Sans-IO: [`Requester::start`] an operation, carry what [`Requester::transmit`] gives to the other
//! side, give the answer to [`Requester::receive`], until it is done. Everything is kept between the
//! two, so an answer may come whenever it likes. [`drive`] does this over a [`Transport`], and
//! [`flows`] strings operations together.
//!
//! | file | what |
//! |---|---|
//! | `exchange` | one request and its answer: sealing, busy, not ready, chunks |
//! | `version`, `capabilities`, `algorithms` | [`Operation::Connect`] |
//! | `digests`, `certificate`, `challenge`, `measurements` | who the device is and what it runs |
//! | `key_exchange`, `finish` | [`Operation::StartSession`] |
//! | `heartbeat`, `key_update`, `vendor`, `end_session` | inside a session |
//! | `saved` | a requester with a session as bytes, for another program to go on with |
//!
//! Nothing is believed before it is proved: an operation succeeds only if every message was in order,
//! every signature and MAC right. Any other answer is a [`RequesterError`], after which connection and
//! session are forgotten, secrets wiped, and [`Operation::Connect`] begins anew.
//!
//! Not built, and refused by name: mutual authentication, pre-shared keys, requests of the responder
//! (encapsulated ones), several keys per algorithm, handshakes in the clear.

mod algorithms;
mod capabilities;
mod certificate;
mod challenge;
mod config;
mod digests;
mod end_session;
mod error;
mod exchange;
mod facts;
mod finish;
pub mod flows;
mod heartbeat;
mod key_exchange;
mod key_update;
mod measurements;
mod opaque;
mod saved;
mod transport;
mod vendor;
mod version;

#[cfg(all(test, feature = "aws-lc"))]
mod tests;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

pub use config::{MIN_TRANSFER, RequesterConfig};
pub use error::{Blame, ChunkFault, OpaqueFault, RequesterError};
pub use facts::{Chain, Connection, MeasurementRecord, Peer, SessionFacts, Slots, Summary};
pub use saved::{NotSavable, RestoreError};
pub use transport::{Transport, TransportFailure, drive};
pub use vendor::VendorPayload;

use crate::Kind;
use crate::crypto::{Crypto, CryptoError};
use crate::ids::{SlotId, Version};
use crate::msg::{Context, MeasurementOperation, RequestCode, ResponseCode, SessionPolicy, SummaryHash};
use crate::observe::Observer;
use crate::secured::{Direction, Phase, Session};
use crate::transcript::{Log, SessionTranscript, Transcript};
use crate::x509::Verifier;
use exchange::Flight;

/// What a requester is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `GET_VERSION` … `ALGORITHMS`. Forgets what was there before.
    Connect,
    /// `GET_DIGESTS`: which slots hold chains.
    Digests,
    /// `GET_CERTIFICATE` as often as it takes: reads a chain and has it believed.
    Certificate(SlotId),
    /// `CHALLENGE`, not inside a session: the device has the key of a chain that was read.
    Challenge(ChallengeRequest),
    /// `GET_MEASUREMENTS`.
    Measurements(MeasurementsRequest),
    /// `KEY_EXCHANGE` and `FINISH`, with the key of a chain that was read.
    StartSession(SessionRequest),
    /// `HEARTBEAT`.
    Heartbeat,
    /// `KEY_UPDATE`, twice: new keys for what this side sends, and their proof.
    KeyUpdate {
        /// New keys for what the responder sends, too.
        all: bool,
    },
    /// `VENDOR_DEFINED` of the PCI-SIG with that payload: protocol id and message.
    Vendor(VendorPayload),
    /// `END_SESSION`.
    EndSession,
}

/// What a challenge is to prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChallengeRequest {
    /// The slot whose key is to sign.
    pub slot: SlotId,
    /// Which measurements are to be summarised.
    pub summary: SummaryHash,
}

/// What a session begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRequest {
    /// The slot whose key is to sign.
    pub slot: SlotId,
    /// Which measurements are to be summarised.
    pub summary: SummaryHash,
    /// When the device ends the session by itself.
    pub policy: SessionPolicy,
}

/// Which measurements to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeasurementsRequest {
    /// All, one, or only how many there are.
    pub operation: MeasurementOperation,
    /// Raw bit streams instead of digests, where the device has them.
    pub raw: bool,
    /// The slot whose key is to sign; unsigned without one.
    pub signed: Option<SlotId>,
    /// What they have to agree with.
    pub compare: Compare,
}

/// What measurements have to agree with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compare {
    /// Nothing.
    #[default]
    Nothing,
    /// The same, read once more.
    Twice,
    /// The same, read earlier over this connection, in a session or not.
    Earlier,
}

/// How far an operation is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The next object is ready to be sent.
    More,
    /// So it is, but only after that time.
    RetryAfter(Duration),
    /// The operation is done.
    Done(Outcome),
}

/// What an operation has brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is a connection.
    Connected(Connection),
    /// The slots are known: [`Requester::slots`].
    Digests,
    /// The chain of the slot is believed: [`Requester::chain`].
    Certificate(SlotId),
    /// The device has the key; the summary, if one was asked for.
    Challenged(Option<Summary>),
    /// Measurements.
    Measurements(MeasurementRecord),
    /// There is a session.
    Session(SessionFacts),
    /// The session lives.
    Alive,
    /// The session has new keys.
    KeysUpdated,
    /// The payload of the answer.
    Vendor(VendorPayload),
    /// The session has ended.
    Ended,
}

/// An object to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Which DOE type carries it.
    pub kind: Kind,
    /// The payload, without padding.
    pub payload: Vec<u8>,
}

/// A session with its secrets.
struct Active {
    session: Session,
    facts: SessionFacts,
    /// Of `KEY_EXCHANGE` and `FINISH`, which nothing follows.
    transcript: Option<SessionTranscript>,
    /// Of `GET_MEASUREMENTS`.
    measurements: Log,
}

/// One side of a connection: see the [module](self).
pub struct Requester {
    config: RequesterConfig,
    crypto: Arc<dyn Crypto>,
    verifier: Arc<dyn Verifier>,
    observer: Option<Box<dyn Observer + Send + Sync>>,
    transcript: Transcript,
    version: Version,
    peer: Option<Peer>,
    connection: Option<Connection>,
    slots: Option<Slots>,
    chains: [Option<Chain>; SlotId::COUNT],
    /// Read last; and the last of all blocks that were read, by which others are judged.
    measurements: Option<MeasurementRecord>,
    summary: Option<Summary>,
    /// A challenge was met over this connection.
    authenticated: bool,
    session: Option<Active>,
    flight: Option<Flight>,
    next_session: u16,
    next_handle: u8,
}

impl fmt::Debug for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requester")
            .field("connection", &self.connection)
            .field("session", &self.session())
            .field("under_way", &self.flight.as_ref().map(Flight::code))
            .finish_non_exhaustive()
    }
}

/// What follows an answer.
enum Next {
    /// Another request.
    Send(Step, Vec<u8>),
    /// Nothing.
    Done(Outcome),
}

/// Which answer is waited for, and what has to be remembered until it comes.
enum Step {
    Version,
    Capabilities,
    Algorithms,
    Digests,
    Certificate(certificate::Reading),
    Challenge(challenge::Asked),
    Measurements(measurements::Asked),
    KeyExchange(Box<key_exchange::Asked>),
    Finish,
    Heartbeat,
    KeyUpdate(key_update::Asked),
    Vendor,
    EndSession,
}

impl Step {
    const fn code(&self) -> RequestCode {
        match self {
            Self::Version => RequestCode::GET_VERSION,
            Self::Capabilities => RequestCode::GET_CAPABILITIES,
            Self::Algorithms => RequestCode::NEGOTIATE_ALGORITHMS,
            Self::Digests => RequestCode::GET_DIGESTS,
            Self::Certificate(_) => RequestCode::GET_CERTIFICATE,
            Self::Challenge(_) => RequestCode::CHALLENGE,
            Self::Measurements(_) => RequestCode::GET_MEASUREMENTS,
            Self::KeyExchange(_) => RequestCode::KEY_EXCHANGE,
            Self::Finish => RequestCode::FINISH,
            Self::Heartbeat => RequestCode::HEARTBEAT,
            Self::KeyUpdate(_) => RequestCode::KEY_UPDATE,
            Self::Vendor => RequestCode::VENDOR_DEFINED,
            Self::EndSession => RequestCode::END_SESSION,
        }
    }
}

impl Requester {
    /// A requester without a connection.
    pub fn new(config: RequesterConfig, crypto: Arc<dyn Crypto>, verifier: Arc<dyn Verifier>) -> Self {
        Self {
            config,
            crypto,
            verifier,
            observer: None,
            transcript: Transcript::new(),
            version: Version::V1_0,
            peer: None,
            connection: None,
            slots: None,
            chains: Default::default(),
            measurements: None,
            summary: None,
            authenticated: false,
            session: None,
            flight: None,
            next_session: 1,
            next_handle: 0,
        }
    }

    /// Somebody who looks on from now on.
    pub fn set_observer(&mut self, observer: Box<dyn Observer + Send + Sync>) {
        self.observer = Some(observer);
    }

    /// What it offers.
    pub const fn config(&self) -> &RequesterConfig {
        &self.config
    }

    /// What was agreed on.
    pub const fn connection(&self) -> Option<&Connection> {
        self.connection.as_ref()
    }

    /// The slots, if they were asked for.
    pub const fn slots(&self) -> Option<&Slots> {
        self.slots.as_ref()
    }

    /// The chain of a slot, if it was read and is believed.
    pub fn chain(&self, slot: SlotId) -> Option<&Chain> {
        self.chains.get(slot.index())?.as_ref()
    }

    /// The measurements that were read last.
    pub const fn measurements(&self) -> Option<&MeasurementRecord> {
        self.measurements.as_ref()
    }

    /// The session, once its handshake is done.
    pub fn session(&self) -> Option<&SessionFacts> {
        self.session
            .as_ref()
            .filter(|active| active.session.phase() == Phase::Data)
            .map(|active| &active.facts)
    }

    /// `GET_VERSION` … `ALGORITHMS`, as they were.
    pub fn negotiation(&self) -> &[u8] {
        self.transcript.vca()
    }

    /// The request that waits for its answer, if any.
    pub fn under_way(&self) -> Option<RequestCode> {
        self.flight.as_ref().map(Flight::code)
    }

    /// Whether one of the session's keys has protected as many messages as the configuration allows
    /// ([`RequesterConfig::refresh_after`]): it is time for [`Operation::KeyUpdate`] of all keys, which is
    /// still possible. `false` without a session.
    ///
    /// This does not tell whether the responder can update keys.
    pub fn keys_used_up(&self) -> bool {
        let used = |active: &Active| Direction::ALL.map(|direction| active.session.next_sequence(direction));
        let active = self.session.as_ref().filter(|active| active.session.phase() == Phase::Data);
        active.is_some_and(|active| used(active).iter().any(|&used| used >= self.config.refresh_after))
    }

    /// Messages that were sealed or opened in that direction under its present key; `None` without a
    /// session.
    pub fn messages_under_key(&self, direction: Direction) -> Option<u64> {
        self.session.as_ref().map(|active| active.session.next_sequence(direction))
    }

    /// Updates of that direction's key so far; `None` without a session.
    pub fn key_updates(&self, direction: Direction) -> Option<u32> {
        self.session.as_ref().map(|active| active.session.updates(direction))
    }

    /// Begins an operation; [`Self::transmit`] has its first object then.
    ///
    /// # Errors
    /// One of [`Blame::Caller`] if the operation is not possible now; nothing has changed then.
    pub fn start(&mut self, operation: Operation) -> Result<(), RequesterError> {
        if self.flight.is_some() {
            return Err(RequesterError::UnderWay);
        }
        let started = self.request(operation).and_then(|(step, request)| self.launch(step, request));
        match started {
            Ok(flight) => {
                self.begin(flight.code());
                self.flight = Some(flight);
                Ok(())
            }
            Err(error) => {
                if error.blame() != Blame::Caller {
                    self.reset();
                }
                Err(error)
            }
        }
    }

    /// The first request of an operation.
    fn request(&mut self, operation: Operation) -> Result<(Step, Vec<u8>), RequesterError> {
        match operation {
            Operation::Connect => self.get_version(),
            Operation::Digests => self.get_digests(),
            Operation::Certificate(slot) => self.get_certificate(slot),
            Operation::Challenge(challenge) => self.challenge(challenge),
            Operation::Measurements(wanted) => self.get_measurements(wanted),
            Operation::StartSession(wanted) => self.key_exchange(wanted),
            Operation::Heartbeat => self.heartbeat(),
            Operation::KeyUpdate { all } => self.key_update(all),
            Operation::Vendor(payload) => self.vendor(&payload),
            Operation::EndSession => self.end_session(),
        }
    }

    /// The object to be sent, once; `None` while an answer is waited for, or nothing is under way.
    pub fn transmit(&mut self) -> Option<Outgoing> {
        self.flight.as_mut()?.take_out()
    }

    /// Takes the payload of the object that came back. `now` is the time since 1970-01-01 00:00 UTC,
    /// for certificates.
    ///
    /// # Errors
    /// [`RequesterError::Idle`] if no answer is waited for: nothing has changed then. After any other
    /// error the connection is forgotten.
    pub fn receive(&mut self, kind: Kind, payload: &[u8], now: Duration) -> Result<Progress, RequesterError> {
        let flight = self.flight.take_if(|flight| flight.waits()).ok_or(RequesterError::Idle)?;
        let taken = self.take_answer(flight, kind, payload, now);
        if taken.is_err() {
            self.reset();
        }
        taken
    }

    /// Gives the operation under way up because of the transport, and forgets the connection.
    pub fn fail(&mut self, failure: TransportFailure) -> RequesterError {
        let Some(request) = self.under_way() else { return RequesterError::Idle };
        self.reset();
        RequesterError::Transport { request, failure }
    }

    /// Forgets connection and session; secrets are wiped.
    pub fn reset(&mut self) {
        self.flight = None;
        self.session = None;
        self.transcript.reset();
        self.version = Version::V1_0;
        self.peer = None;
        self.connection = None;
        self.slots = None;
        self.chains = Default::default();
        self.measurements = None;
        self.summary = None;
        self.authenticated = false;
    }

    /// The answer to `step` is whole.
    fn complete(
        &mut self,
        step: Step,
        request: &[u8],
        message: &exchange::Message<'_>,
        now: Duration,
    ) -> Result<Next, RequesterError> {
        match step {
            Step::Version => self.on_version(request, message),
            Step::Capabilities => self.on_capabilities(request, message),
            Step::Algorithms => self.on_algorithms(request, message),
            Step::Digests => self.on_digests(request, message),
            Step::Certificate(reading) => self.on_certificate(reading, request, message, now),
            Step::Challenge(asked) => self.on_challenge_auth(&asked, request, message),
            Step::Measurements(asked) => self.on_measurements(&asked, request, message),
            Step::KeyExchange(asked) => self.on_key_exchange_rsp(*asked, request, message),
            Step::Finish => self.on_finish_rsp(message),
            Step::Heartbeat => self.on_heartbeat_ack(message),
            Step::KeyUpdate(asked) => self.on_key_update_ack(&asked, message),
            Step::Vendor => self.on_vendor(message),
            Step::EndSession => self.on_end_session_ack(message),
        }
    }

    fn connected(&self) -> Result<&Connection, RequesterError> {
        self.connection.as_ref().ok_or(RequesterError::NotConnected)
    }

    /// The session in its data phase.
    fn active(&mut self) -> Result<&mut Active, RequesterError> {
        self.session
            .as_mut()
            .filter(|active| active.session.phase() == Phase::Data)
            .ok_or(RequesterError::NoSession)
    }

    /// An operation has begun with that request: transcripts that it does not belong to begin anew.
    fn begin(&mut self, request: RequestCode) {
        match request {
            RequestCode::GET_MEASUREMENTS => self.end_authentication(),
            RequestCode::KEY_EXCHANGE => {
                self.end_measuring();
                self.end_authentication();
            }
            _ => self.end_measuring(),
        }
    }

    /// A request of a later phase goes out. What was read for a challenge is of no use any more; behind
    /// a challenge that was met it stays for the next one.
    fn end_authentication(&mut self) {
        if let (false, Some(log)) = (self.authenticated, self.transcript.authentication()) {
            log.clear();
        }
    }

    /// Random bytes.
    fn random<const N: usize>(&self) -> Result<[u8; N], RequesterError> {
        let mut bytes = [0; N];
        let drawn = self.crypto.random(&mut bytes);
        drawn.map_err(|error| RequesterError::Crypto { doing: "random bytes", error })?;
        Ok(bytes)
    }

    /// A context, where requests have one.
    fn context(&self) -> Result<Option<Context>, RequesterError> {
        if self.version >= Version::V1_3 { self.random().map(Some) } else { Ok(None) }
    }
}

/// Why a signature does not hold.
fn bad_signature(found: ResponseCode, error: CryptoError) -> RequesterError {
    match error {
        CryptoError::Signature | CryptoError::Key(_) => RequesterError::BadSignature(found),
        error => RequesterError::Crypto { doing: "signature", error },
    }
}
