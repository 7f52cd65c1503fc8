//! A requester that goes by the rules up to a point, and then says whatever it is told to.

use std::sync::Arc;

use pcie::{Bdf, FuncId, FunctionId, Segment};
use spdm::Kind;
use spdm::crypto::aws_lc::AwsLc;
use spdm::crypto::{Crypto, CryptoError, Digest, Ephemeral};
use spdm::ide_km::{IdeKmFailure, KeySet, PortIndex, ProgramStream, QueryPort, SetKeys, StreamId};
use spdm::ids::{SessionId, SlotId, Version};
use spdm::msg::{
    self, Finish, GetCapabilities, GetVersion, KeyExchange, KeyExchangeRsp, Layout, RequestCode,
    ResponderFlags, ResponseCode, SessionPolicy, SummaryHash, VendorDefined,
};
use spdm::requester::{
    Connection, Operation, Requester, RequesterConfig, RequesterError, Transport, TransportFailure, drive,
};
use spdm::secured::{Direction, Role, SecuredError, Session};
use spdm::tdisp::{InterfaceId, LockInterface, Outcome, Progress, TdiOperation, TdiRequester, TdispFailure};
use spdm::transcript::{SessionTranscript, Transcript};
use spdm::wire::{DecodeError, NoSpace, Writer};
use spdm::x509::Verifier;

use super::Answer;

/// Longest message that is written here.
const ROOM: usize = 8192;
/// The first half of a session id that is used.
const FIRST_SESSION: u16 = 0x100;

/// Why a case could not be tried: what comes before the bad object has failed.
#[derive(Debug, thiserror::Error)]
pub enum Setback {
    /// The responder cannot do what the case needs.
    #[error("the responder lacks {0}")]
    Lacking(&'static str),
    /// The connection, or the chain.
    #[error("{0}")]
    Spdm(#[from] RequesterError),
    /// The answer to a message that is right is another one.
    #[error("{asked} is answered with {found}")]
    Unexpected {
        /// What was asked.
        asked: &'static str,
        /// What came.
        found: Answer,
    },
    /// The answer to a message that is right is malformed.
    #[error("the answer to {asked}: {error}")]
    Decode {
        /// What was asked.
        asked: &'static str,
        /// What is wrong.
        error: DecodeError,
    },
    /// Keys.
    #[error("{0}")]
    Crypto(#[from] CryptoError),
    /// The session.
    #[error("{0}")]
    Secured(#[from] SecuredError),
    /// The keys of the stream.
    #[error("{0}")]
    IdeKm(#[from] IdeKmFailure),
    /// The interface.
    #[error("{0}")]
    Tdisp(#[from] TdispFailure),
    /// A message is longer than the room for it.
    #[error("a message does not fit {} bytes", .0.0)]
    NoSpace(NoSpace),
}

impl From<NoSpace> for Setback {
    fn from(error: NoSpace) -> Self {
        Self::NoSpace(error)
    }
}

/// What cases are about.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Slot whose chain is used; the lowest that holds one if `None`.
    pub slot: Option<SlotId>,
    /// IDE port.
    pub port: PortIndex,
    /// IDE stream.
    pub stream: StreamId,
    /// Interface; that of the port if `None`.
    pub interface: Option<InterfaceId>,
}

/// A session of which the probe has the keys.
pub struct Open {
    /// The keys.
    pub session: Session,
    transcript: SessionTranscript,
}

/// A requester that goes by the rules until a case wants something else of it.
pub struct Probe<'a> {
    transport: &'a mut dyn Transport,
    requester: Requester,
    crypto: Arc<dyn Crypto>,
    verifier: Arc<dyn Verifier>,
    target: Target,
    next_session: u16,
    /// The session of the case.
    pub open: Option<Open>,
    slot: SlotId,
}

/// The bytes of a message.
pub(super) fn written(
    write: impl FnOnce(&mut Writer<'_>) -> Result<(), NoSpace>,
) -> Result<Vec<u8>, NoSpace> {
    let mut buffer = vec![0; ROOM];
    msg::encode(&mut buffer, write).map(|message| message.to_vec())
}

impl<'a> Probe<'a> {
    /// A probe without a connection.
    pub fn new(
        transport: &'a mut dyn Transport,
        config: RequesterConfig,
        verifier: Arc<dyn Verifier>,
        target: Target,
    ) -> Self {
        let crypto: Arc<dyn Crypto> = Arc::new(AwsLc);
        let requester = Requester::new(config, Arc::clone(&crypto), Arc::clone(&verifier));
        let slot = target.slot.unwrap_or(SlotId::ZERO);
        Self { transport, requester, crypto, verifier, target, next_session: FIRST_SESSION, open: None, slot }
    }

    /// What the case is about.
    pub const fn target(&self) -> Target {
        self.target
    }

    /// The slot that is used.
    pub const fn slot(&self) -> SlotId {
        self.slot
    }

    /// What the connection has agreed on.
    pub fn connection(&self) -> Result<Connection, Setback> {
        self.requester.connection().copied().ok_or(Setback::Lacking("a connection"))
    }

    /// Version of the connection; 1.2 before there is one.
    pub fn version(&self) -> Version {
        self.requester.connection().map_or(Version::V1_2, |connection| connection.version)
    }

    /// Layout of the connection's messages.
    pub fn layout(&self) -> Result<Layout, Setback> {
        Ok(self.connection()?.layout())
    }

    /// A slot that holds no chain.
    pub fn empty_slot(&self) -> Result<SlotId, Setback> {
        let slots = self.requester.slots().ok_or(Setback::Lacking("DIGESTS"))?;
        let mut empty = (0..8).filter_map(SlotId::new).filter(|slot| slots.digest(*slot).is_none());
        empty.next().ok_or(Setback::Lacking("an empty slot"))
    }

    /// Size of the chain.
    pub fn chain_size(&self) -> usize {
        self.requester.chain(self.slot).map_or(0, |chain| chain.bytes.len())
    }

    /// Random bytes.
    pub fn random<const N: usize>(&self) -> Result<[u8; N], Setback> {
        let mut bytes = [0; N];
        self.crypto.random(&mut bytes)?;
        Ok(bytes)
    }

    /// Our half of a key agreement.
    pub fn ephemeral(&self) -> Result<Box<dyn Ephemeral>, Setback> {
        let group = self.connection()?.suite.dhe.ok_or(Setback::Lacking("KEY_EX_CAP"))?;
        Ok(self.crypto.ephemeral(group)?)
    }

    /// Refuses a case that needs a capability.
    pub fn needs(&self, flag: impl Fn(&ResponderFlags) -> bool, name: &'static str) -> Result<(), Setback> {
        if flag(&self.connection()?.peer.flags) { Ok(()) } else { Err(Setback::Lacking(name)) }
    }

    /// The same before there is a connection.
    pub fn needs_flag(
        &mut self,
        flag: impl Fn(&ResponderFlags) -> bool,
        name: &'static str,
    ) -> Result<(), Setback> {
        self.connect()?;
        self.needs(flag, name)
    }

    /// Lets the requester offer something else from now on.
    pub fn offer(&mut self, change: impl FnOnce(&mut RequesterConfig)) {
        let mut config = self.requester.config().clone();
        change(&mut config);
        self.requester = Requester::new(config, Arc::clone(&self.crypto), Arc::clone(&self.verifier));
    }

    /// Whether the bytes are those of the chain at `offset`.
    pub fn is_of_chain(&self, offset: usize, bytes: &[u8]) -> bool {
        let chain = self.requester.chain(self.slot).map_or(&[][..], |chain| &chain.bytes);
        chain.get(offset..).is_some_and(|rest| rest.starts_with(bytes))
    }

    /// `GET_CAPABILITIES` as it should be, for the version that a connection agrees on.
    pub fn capabilities_request(&mut self) -> Result<Vec<u8>, Setback> {
        if self.requester.connection().is_none() {
            self.negotiate()?;
        }
        self.negotiated(RequestCode::GET_CAPABILITIES)
    }

    /// `NEGOTIATE_ALGORITHMS` as it should be; there is a connection then.
    pub fn algorithms_request(&mut self) -> Result<Vec<u8>, Setback> {
        self.negotiate()?;
        self.negotiated(RequestCode::NEGOTIATE_ALGORITHMS)
    }

    /// `GET_VERSION` … `CAPABILITIES`.
    pub fn capabilities(&mut self) -> Result<(), Setback> {
        let request = self.capabilities_request()?;
        self.get_version()?;
        match self.clear(&request) {
            Answer::Granted(ResponseCode::CAPABILITIES) => Ok(()),
            found => Err(Setback::Unexpected { asked: "GET_CAPABILITIES", found }),
        }
    }

    /// That request of the negotiation, as it was sent.
    fn negotiated(&self, wanted: RequestCode) -> Result<Vec<u8>, Setback> {
        let config = self.requester.config();
        let version = self.version();
        if wanted == RequestCode::GET_CAPABILITIES {
            let request = GetCapabilities {
                version,
                wants_algorithms: false,
                ct_exponent: config.ct_exponent,
                flags: config.flags,
                data_transfer_size: config.data_transfer_size,
                max_message_size: config.max_message_size,
            };
            return Ok(written(|writer| request.write(writer))?);
        }
        // Behind GET_CAPABILITIES, of 20 bytes, and CAPABILITIES, as long.
        let vca = self.requester.negotiation();
        let capabilities = self.negotiated(RequestCode::GET_CAPABILITIES)?;
        let at = vca.windows(capabilities.len()).position(|window| window == capabilities);
        let from = at.ok_or(Setback::Lacking("a connection"))? + capabilities.len();
        let behind = vca.get(from + 20..).unwrap_or_default();
        let size = behind.get(4..6).map_or(0, |bytes| usize::from(bytes[0]) | usize::from(bytes[1]) << 8);
        Ok(behind.get(..size).ok_or(Setback::Lacking("a connection"))?.to_vec())
    }

    /// Sends an object and gives what came as it is.
    pub fn exchange(&mut self, kind: Kind, payload: &[u8]) -> Result<(Kind, Vec<u8>), TransportFailure> {
        self.transport.exchange(kind, payload)
    }

    /// `GET_VERSION` alone.
    pub fn get_version(&mut self) -> Result<(), Setback> {
        let request = written(|writer| GetVersion.write(writer))?;
        match self.clear(&request) {
            Answer::Granted(ResponseCode::VERSION) => Ok(()),
            found => Err(Setback::Unexpected { asked: "GET_VERSION", found }),
        }
    }

    /// `GET_VERSION` … `ALGORITHMS`, and the chain.
    pub fn connect(&mut self) -> Result<(), Setback> {
        self.negotiate()?;
        drive(&mut self.requester, Operation::Digests, self.transport)?;
        let slots = *self.requester.slots().ok_or(Setback::Lacking("DIGESTS"))?;
        let lowest = slots.provisioned().next().ok_or(Setback::Lacking("a certificate chain"))?;
        self.slot = self.target.slot.unwrap_or(lowest);
        drive(&mut self.requester, Operation::Certificate(self.slot), self.transport)?;
        Ok(())
    }

    /// `GET_VERSION` … `ALGORITHMS`.
    pub fn negotiate(&mut self) -> Result<(), Setback> {
        self.open = None;
        drive(&mut self.requester, Operation::Connect, self.transport)?;
        Ok(())
    }

    /// Sends an object and tells what came.
    pub fn send(&mut self, kind: Kind, payload: &[u8]) -> Answer {
        match self.transport.exchange(kind, payload) {
            Err(failure) => failure.into(),
            Ok((Kind::Clear, answer)) => Answer::of(&answer, Kind::Clear),
            Ok((Kind::Secured, answer)) => match &mut self.open {
                Some(open) => match open.session.open(&answer) {
                    Ok(message) => Answer::of(&message, Kind::Secured),
                    Err(error) => Answer::Unreadable(error.to_string()),
                },
                None => Answer::Unreadable("there is no session".to_owned()),
            },
        }
    }

    /// Sends a message in the clear.
    pub fn clear(&mut self, message: &[u8]) -> Answer {
        self.send(Kind::Clear, message)
    }

    /// Seals a message of the session.
    pub fn seal(&mut self, message: &[u8]) -> Result<Vec<u8>, Setback> {
        let open = self.open.as_mut().ok_or(Setback::Lacking("a session"))?;
        let mut sealed = Vec::new();
        open.session.seal(message, &mut sealed)?;
        Ok(sealed)
    }

    /// Sends a message inside the session.
    pub fn secured(&mut self, message: &[u8]) -> Result<Answer, Setback> {
        let sealed = self.seal(message)?;
        Ok(self.send(Kind::Secured, &sealed))
    }

    /// Sends a payload of the PCI-SIG inside the session.
    pub fn vendor(&mut self, payload: &[u8]) -> Result<Answer, Setback> {
        let version = self.version();
        let message = written(|writer| VendorDefined::pci_sig(version, payload).write_request(writer))?;
        self.secured(&message)
    }

    /// The payload of the answer to one of the PCI-SIG, to a request that is right.
    fn ask(&mut self, asked: &'static str, payload: &[u8]) -> Result<Vec<u8>, Setback> {
        let version = self.version();
        let message = written(|writer| VendorDefined::pci_sig(version, payload).write_request(writer))?;
        let sealed = self.seal(&message)?;
        let (kind, answer) = self
            .transport
            .exchange(Kind::Secured, &sealed)
            .map_err(|failure| Setback::Unexpected { asked, found: failure.into() })?;
        let open = self.open.as_mut().ok_or(Setback::Lacking("a session"))?;
        if kind == Kind::Clear {
            return Err(Setback::Unexpected { asked, found: Answer::of(&answer, kind) });
        }
        let answer = open.session.open(&answer)?;
        match msg::exact(&answer, |reader| VendorDefined::read_response(reader, version)) {
            Ok(response) => Ok(response.payload.to_vec()),
            Err(_) => Err(Setback::Unexpected { asked, found: Answer::of(&answer, kind) }),
        }
    }

    /// `KEY_EXCHANGE` as it should be.
    pub fn key_exchange_request(&mut self, exchange: &[u8]) -> Result<(u16, Vec<u8>), Setback> {
        let session = self.next_session;
        self.next_session = session.wrapping_add(1);
        let versions = msg::VersionList::released(&[Version(0x11), Version(0x12)]).unwrap_or_default();
        let opaque = written(|writer| msg::opaque::write_supported_versions(writer, &versions))?;
        let request = KeyExchange {
            version: self.version(),
            summary: SummaryHash::None,
            slot: self.slot,
            session,
            policy: SessionPolicy::new(),
            random: self.random()?,
            exchange,
            opaque: &opaque,
        };
        Ok((session, written(|writer| request.write(writer))?))
    }

    /// A session in its handshake phase.
    pub fn handshake(&mut self) -> Result<(), Setback> {
        const ASKED: &str = "KEY_EXCHANGE";
        self.needs(|flags| flags.key_ex() && flags.encrypt() && flags.mac(), "KEY_EX_CAP")?;
        let layout = self.layout()?;
        let ephemeral = self.ephemeral()?;
        let (half, request) = self.key_exchange_request(ephemeral.public())?;
        let (kind, answer) = self
            .transport
            .exchange(Kind::Clear, &request)
            .map_err(|failure| Setback::Unexpected { asked: ASKED, found: failure.into() })?;
        let found = Answer::of(&answer, kind);
        if found != Answer::Granted(ResponseCode::KEY_EXCHANGE_RSP) {
            return Err(Setback::Unexpected { asked: ASKED, found });
        }
        let decode = |error| Setback::Decode { asked: ASKED, error };
        let read = msg::padded(&answer, |reader| KeyExchangeRsp::read(reader, &layout, false));
        let (response, size) = read.map_err(decode)?;
        let verify_data = response.verify_data.unwrap_or_default();
        let exact = answer.get(..size).unwrap_or_default();
        let (until_mac, _) = exact.split_at_checked(size - verify_data.len()).unwrap_or((exact, &[]));

        let chain = self.requester.chain(self.slot).ok_or(Setback::Lacking("a certificate chain"))?;
        let mut vca = Transcript::new();
        vca.append_vca(self.requester.negotiation());
        vca.agree(&*self.crypto, layout.suite.hash);
        let mut transcript = vca.session(&chain.digest).ok_or(Setback::Lacking("a connection"))?;
        transcript.append(&request);
        transcript.append(until_mac);
        let th1 = transcript.digest();
        let dhe = ephemeral.agree(response.exchange)?;
        let id = SessionId::new(half, response.session);
        let session =
            Session::new(&self.crypto, layout.suite, layout.version, id, Role::Requester, dhe, &th1)?;
        transcript.append(verify_data);
        self.open = Some(Open { session, transcript });
        Ok(())
    }

    /// `FINISH` as it should be, but for what `bend` makes of its HMAC.
    pub fn finish_request(&self, bend: impl FnOnce(&mut Vec<u8>)) -> Result<Vec<u8>, Setback> {
        let version = self.version();
        let open = self.open.as_ref().ok_or(Setback::Lacking("a session"))?;
        let header = written(|writer| Finish { version, verify_data: &[] }.write(writer))?;
        let digest = open.transcript.digest_with(&[&header]);
        let mut mac = open.session.finished_mac(Direction::Request, &digest)?.to_vec();
        bend(&mut mac);
        Ok(written(|writer| Finish { version, verify_data: &mac }.write(writer))?)
    }

    /// Goes on to the data phase with a `FINISH` that is right.
    pub fn finish(&mut self) -> Result<(), Setback> {
        let request = self.finish_request(|_| {})?;
        let found = self.secured(&request)?;
        if found != Answer::Granted(ResponseCode::FINISH_RSP) {
            return Err(Setback::Unexpected { asked: "FINISH", found });
        }
        self.finished(&request)
    }

    /// `FINISH` was sent and granted.
    pub fn finished(&mut self, request: &[u8]) -> Result<(), Setback> {
        let version = self.version();
        let response = written(|writer| msg::FinishRsp { version, verify_data: None }.write(writer))?;
        let open = self.open.as_mut().ok_or(Setback::Lacking("a session"))?;
        open.transcript.append(request);
        open.transcript.append(&response);
        let th2: Digest = open.transcript.digest();
        Ok(open.session.enter_data(&th2)?)
    }

    /// New keys for requests from now on.
    pub fn update_requests(&mut self) -> Result<(), Setback> {
        let open = self.open.as_mut().ok_or(Setback::Lacking("a session"))?;
        open.session.prepare_update(Direction::Request)?;
        open.session.commit(Direction::Request);
        Ok(())
    }

    /// From nothing to a session in its data phase.
    pub fn session(&mut self) -> Result<(), Setback> {
        self.connect()?;
        self.handshake()?;
        self.finish()
    }

    /// The interface that cases are about.
    pub fn interface(&mut self) -> Result<InterfaceId, Setback> {
        match self.target.interface {
            Some(interface) => Ok(interface),
            None => self.interface_of_port(),
        }
    }

    /// The interface of the IDE port, from its `QUERY_RESP`.
    pub fn interface_of_port(&mut self) -> Result<InterfaceId, Setback> {
        let query = QueryPort { port: self.target.port };
        let answer = self.ask("QUERY", &query.request())?;
        let location = query.response(&answer)?.location;
        let bdf = Bdf::from_routing_id(u16::from_be_bytes([location.bus, location.device_function]));
        let function = FunctionId::new(Segment(location.segment.into()), bdf);
        let id = FuncId::new(function).map_err(|_| Setback::Lacking("a segment that fits"))?;
        Ok(InterfaceId(id))
    }

    /// All keys of the stream, in use.
    pub fn keys(&mut self) -> Result<(), Setback> {
        let keys = SetKeys::generate(&*self.crypto)?;
        let Target { port, stream, .. } = self.target;
        let mut program = ProgramStream::new(port, stream, KeySet::K0, keys);
        while let Some(request) = program.request() {
            let answer = self.ask("KEY_PROG or K_SET_GO", &request)?;
            program.response(&answer)?;
        }
        Ok(())
    }

    /// Does something with the interface.
    pub fn tdisp(&mut self, tdi: &mut TdiRequester, operation: TdiOperation) -> Result<Outcome, Setback> {
        tdi.start(operation)?;
        while let Some(request) = tdi.request() {
            let answer = self.ask("TDISP", &request)?;
            if let Progress::Done(outcome) = tdi.response(&answer)? {
                return Ok(outcome);
            }
        }
        Err(Setback::Lacking("an outcome of TDISP"))
    }

    /// A session with a locked interface.
    pub fn locked(&mut self) -> Result<TdiRequester, Setback> {
        self.session()?;
        let mut tdi = TdiRequester::new(self.interface()?);
        self.keys()?;
        // Whatever an earlier session has left. Some refuse to stop what is not locked.
        match self.tdisp(&mut tdi, TdiOperation::Stop) {
            Ok(_) | Err(Setback::Tdisp(TdispFailure::Refused { .. })) => {}
            Err(setback) => return Err(setback),
        }
        let lock = LockInterface { default_stream: self.target.stream, ..LockInterface::default() };
        self.tdisp(&mut tdi, TdiOperation::Lock(lock))?;
        Ok(tdi)
    }

    /// Whether the session lives: an answer of it comes, even if it is an error.
    pub fn still_alive(&mut self) -> bool {
        let version = self.version();
        let Ok(request) = written(|writer| msg::GetDigests { version }.write(writer)) else { return false };
        let Ok(sealed) = self.seal(&request) else { return false };
        match self.transport.exchange(Kind::Secured, &sealed) {
            Ok((Kind::Secured, answer)) => {
                self.open.as_mut().is_some_and(|open| open.session.open(&answer).is_ok())
            }
            _ => false,
        }
    }
}
