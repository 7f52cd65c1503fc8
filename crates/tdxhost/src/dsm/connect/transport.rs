//! DOE data objects over the socket, for a requester.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use pcie::doe::{DiscoveryRequest, DiscoveryResponse, Object, ObjectError, ObjectType, SupportedTypes};
use spdm::Kind;
use spdm::ids::SessionId;
use spdm::key_schedule::Direction;
use spdm::observe::{Observer, SessionSecrets};
use spdm::requester::{Transport, TransportFailure};

use crate::dsm::listen::{object_type, write_object};
use crate::dsm::record::{self, Recorder, Sender};
use crate::dsm::socket::{Command, Link, SocketError, Stream};

/// What a data object that came back has wrong.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The socket failed.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// What came is no data object.
    #[error("the answer is no data object: {0}")]
    Object(#[from] ObjectError),
    /// The object has another type than an answer can have.
    #[error("the answer is a data object of {0}")]
    ObjectType(ObjectType),
    /// A discovery that never ends.
    #[error("the DOE discovery has no end: index {0} was listed before")]
    Discovery(u8),
}

/// What passed so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Data objects in both directions.
    pub objects: u64,
    /// Bytes of these objects, their headers included.
    pub bytes: u64,
}

/// A recorder that transport and requester tell what they see.
#[derive(Clone, Default)]
pub struct SharedRecorder(pub Arc<Mutex<Recorder>>);

impl Observer for SharedRecorder {
    fn secured(&mut self, direction: Direction, session: SessionId, sequence: u64, plaintext: &[u8]) {
        self.0.lock().secured(direction, session, sequence, plaintext);
    }

    fn secrets(&mut self, secrets: &SessionSecrets<'_>) {
        self.0.lock().secrets(secrets);
    }
}

/// A connection to a responder.
pub struct Doe<S> {
    link: Link<S>,
    recorder: SharedRecorder,
    traffic: Traffic,
    object: Vec<u8>,
    /// The stream failed: nobody is there to be told anything.
    lost: bool,
    /// Why the last exchange failed: more than a [`TransportFailure`] can say.
    failed: Option<ExchangeError>,
}

impl<S: Stream> Doe<S> {
    /// Objects over `link`.
    pub fn new(link: Link<S>, recorder: SharedRecorder) -> Self {
        Self { link, recorder, traffic: Traffic::default(), object: Vec::new(), lost: false, failed: None }
    }

    /// What passed so far.
    pub const fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Why the last exchange failed.
    pub fn take_failure(&mut self) -> Option<ExchangeError> {
        self.failed.take()
    }

    /// A command without a data object.
    pub fn command(&mut self, command: Command, payload: &[u8]) -> Result<Vec<u8>, SocketError> {
        let answered = self.link.exchange(command, payload);
        self.lost |= answered.is_err();
        answered.map(<[u8]>::to_vec)
    }

    /// Whether the stream has failed, so that whoever waits for another answer waits in vain.
    pub const fn is_lost(&self) -> bool {
        self.lost
    }

    /// The types of data objects that the other side takes.
    pub fn discover(&mut self) -> Result<Vec<ObjectType>, ExchangeError> {
        let mut types = Vec::new();
        let mut index = 0;
        while types.len() < SupportedTypes::MAX {
            // What a host asks whose capability has version 1.
            let request = DiscoveryRequest { index, version: 0 }.encode().to_le_bytes();
            let (object_type, payload) = self.exchange_object(ObjectType::DISCOVERY, &request)?;
            if object_type != ObjectType::DISCOVERY {
                return Err(ExchangeError::ObjectType(object_type));
            }
            let dword = payload.as_slice().try_into().map_err(|_| ObjectError::Length {
                expected: HEADER + request.len(),
                found: HEADER + payload.len(),
            })?;
            let response = DiscoveryResponse::decode(u32::from_le_bytes(dword));
            types.push(response.object_type);
            if response.next == 0 {
                return Ok(types);
            }
            if response.next <= index {
                return Err(ExchangeError::Discovery(response.next));
            }
            index = response.next;
        }
        Err(ExchangeError::Discovery(index))
    }

    fn exchange_object(
        &mut self,
        object_type: ObjectType,
        payload: &[u8],
    ) -> Result<(ObjectType, Vec<u8>), ExchangeError> {
        write_object(object_type, payload, &mut self.object)?;
        self.recorder.0.lock().object(Sender::Requester, &self.object);
        self.traffic.objects += 1;
        self.traffic.bytes += self.object.len() as u64;
        let answered = self.link.exchange(Command::NORMAL, &self.object);
        self.lost |= answered.is_err();
        let answer = answered?;
        self.recorder.0.lock().object(Sender::Responder, answer);
        self.traffic.objects += 1;
        self.traffic.bytes += answer.len() as u64;
        let object = Object::parse(answer)?;
        Ok((object.object_type, object.payload.to_vec()))
    }

    fn exchange_message(&mut self, kind: Kind, payload: &[u8]) -> Result<(Kind, Vec<u8>), ExchangeError> {
        let (object_type, answer) = self.exchange_object(object_type(kind), payload)?;
        let kind = match object_type {
            ObjectType::SPDM => Kind::Clear,
            ObjectType::SECURED_SPDM => Kind::Secured,
            other => return Err(ExchangeError::ObjectType(other)),
        };
        Ok((kind, answer))
    }
}

/// Bytes of the header of a data object.
const HEADER: usize = pcie::doe::Header::BYTES;

impl<S: Stream> Transport for Doe<S> {
    fn exchange(&mut self, kind: Kind, payload: &[u8]) -> Result<(Kind, Vec<u8>), TransportFailure> {
        self.exchange_message(kind, payload).map_err(|error| {
            let failure = match &error {
                ExchangeError::Socket(SocketError::Silent(_) | SocketError::Stalled { .. }) => {
                    TransportFailure::Silence
                }
                ExchangeError::Socket(SocketError::TooLong { .. })
                | ExchangeError::Object(ObjectError::TooLong(_)) => TransportFailure::TooLarge,
                ExchangeError::Socket(_) => TransportFailure::Closed,
                ExchangeError::Object(_) | ExchangeError::ObjectType(_) | ExchangeError::Discovery(_) => {
                    TransportFailure::DoeError
                }
            };
            self.failed = Some(error);
            failure
        })
    }

    fn wait(&mut self, time: Duration) {
        thread::sleep(time);
    }

    fn now(&mut self) -> Duration {
        record::now()
    }
}
