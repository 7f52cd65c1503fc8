//! From an object to the handler of its request, and back.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use super::channel::{Channel, Deferred, Transfer};
use super::connection::State;
use super::refusal::Refusal;
use super::{Delay, Device, Reply, Responder, SessionEnd, Stage};
use crate::Kind;
use crate::crypto::{Digest, Secret};
use crate::ids::{SessionId, Version};
use crate::msg::{self, ErrorCode, Header, NotReady, RequestCode, ResponseCode};
use crate::observe::Observer;
use crate::secured::{Direction, MAX_APPLICATION, Phase, SecuredError, session_id_of};
use crate::transcript::Log;
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Clear,
    Session(SessionId),
}

/// What a handler needs besides its request.
pub(super) struct Call<'a> {
    pub(super) origin: Origin,
    pub(super) device: &'a mut dyn Device,
    pub(super) now: Duration,
    pub(super) observer: &'a mut dyn Observer,
    /// Bytes that the response is wrapped in.
    pub(super) wrapping: usize,
}

/// The bytes of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Incoming<'a> {
    pub(super) bytes: &'a [u8],
    /// Whether up to 3 zeros may follow the message.
    pub(super) padded: bool,
}

impl<'a> Incoming<'a> {
    /// Reads the message; with its exact bytes, for transcripts.
    pub(super) fn read<T>(
        self,
        read: impl FnOnce(&mut Reader<'a>) -> Result<T, DecodeError>,
    ) -> Result<(T, &'a [u8]), Refusal> {
        if self.padded {
            let (message, size) = msg::padded(self.bytes, read)?;
            Ok((message, self.bytes.get(..size).unwrap_or_default()))
        } else {
            Ok((msg::exact(self.bytes, read)?, self.bytes))
        }
    }

    /// Whether it is this message once more.
    fn repeats(self, message: &[u8]) -> bool {
        self.bytes.strip_prefix(message).is_some_and(|padding| {
            padding.len() <= if self.padded { 3 } else { 0 } && padding.iter().all(|byte| *byte == 0)
        })
    }

    /// Bytes that the message has at least, whatever part of it is padding.
    fn least_size(self) -> usize {
        if self.padded { self.bytes.len().saturating_sub(3) } else { self.bytes.len() }
    }

    fn header(self) -> Result<Header, Refusal> {
        Ok(Header::read(&mut Reader::new(self.bytes))?)
    }
}

/// A response, and what follows once it is sealed.
pub(super) struct Answer {
    pub(super) message: Vec<u8>,
    pub(super) then: Then,
}

/// What changes a session only behind the response.
pub(super) enum Then {
    Nothing,
    /// The session enters its data phase with this TH2.
    EnterData(Digest),
    /// The session is over.
    End(SessionEnd),
}

impl From<Vec<u8>> for Answer {
    fn from(message: Vec<u8>) -> Self {
        Self { message, then: Then::Nothing }
    }
}

/// Writes a message of at most `size` bytes.
pub(super) fn encode(
    size: usize,
    write: impl FnOnce(&mut Writer<'_>) -> Result<(), NoSpace>,
) -> Result<Vec<u8>, Refusal> {
    let mut buffer = vec![0; size];
    let mut writer = Writer::new(&mut buffer);
    write(&mut writer)?;
    let written = writer.written();
    buffer.truncate(written);
    Ok(buffer)
}

/// Where a request is answered.
struct Place {
    clear: bool,
    handshake: bool,
    data: bool,
}

/// The place of a request; `None` for those that are not built. `GET_VERSION` is answered before.
const fn place(code: RequestCode) -> Option<Place> {
    let (clear, handshake, data) = match code {
        RequestCode::GET_CAPABILITIES
        | RequestCode::NEGOTIATE_ALGORITHMS
        | RequestCode::CHALLENGE
        | RequestCode::KEY_EXCHANGE => (true, false, false),
        RequestCode::GET_DIGESTS | RequestCode::GET_CERTIFICATE | RequestCode::GET_MEASUREMENTS => {
            (true, false, true)
        }
        RequestCode::FINISH => (false, true, false),
        RequestCode::HEARTBEAT
        | RequestCode::KEY_UPDATE
        | RequestCode::END_SESSION
        | RequestCode::VENDOR_DEFINED => (false, false, true),
        RequestCode::CHUNK_SEND | RequestCode::CHUNK_GET | RequestCode::RESPOND_IF_READY => {
            (true, true, true)
        }
        _ => return None,
    };
    Some(Place { clear, handshake, data })
}

/// Whether a request is part of another exchange and not one of its own.
const fn is_carrier(code: RequestCode) -> bool {
    matches!(code, RequestCode::CHUNK_SEND | RequestCode::CHUNK_GET | RequestCode::RESPOND_IF_READY)
}

impl Responder {
    pub(super) fn handle_clear(
        &mut self,
        payload: &[u8],
        device: &mut dyn Device,
        now: Duration,
        observer: &mut dyn Observer,
    ) -> Reply {
        let mut call = Call { origin: Origin::Clear, device, now, observer, wrapping: 0 };
        let mut answer = self.answer(&mut call, Incoming { bytes: payload, padded: true });
        call.device.shape(Stage::BeforeSeal(code_of(&answer.message)), &mut answer.message);
        Reply { kind: Kind::Clear, payload: answer.message }
    }

    pub(super) fn handle_secured(
        &mut self,
        payload: &[u8],
        device: &mut dyn Device,
        now: Duration,
        observer: &mut dyn Observer,
    ) -> Option<Reply> {
        let id = session_id_of(payload)?;
        let record = self.session_mut(id)?;
        let updates = record.secured.updates(Direction::Request);
        let request = match record.secured.open(payload) {
            Ok(request) => request,
            // What is malformed around its ciphertext breaks nothing: nobody knows who sent it.
            Err(error) if !error.ends_session() => return None,
            Err(error) => return Some(self.broken(id, error, device)),
        };
        record.heard = now;
        if record.secured.updates(Direction::Request) != updates
            && let Some(update) = &mut record.update
        {
            update.undone = true;
        }
        if let Some(sequence) = record.secured.last_sequence(Direction::Request) {
            observer.secured(Direction::Request, id, sequence, &request);
        }

        let mut call = Call { origin: Origin::Session(id), device, now, observer, wrapping: 0 };
        let mut answer = self.answer(&mut call, Incoming { bytes: &request, padded: false });
        call.device.shape(Stage::BeforeSeal(code_of(&answer.message)), &mut answer.message);
        self.seal(id, &answer, &mut call)
    }

    /// Ends a session that an error has broken. The reason goes out in the clear, as there are no keys
    /// any more.
    fn broken(&mut self, id: SessionId, error: SecuredError, device: &mut dyn Device) -> Reply {
        let (why, code) = match error {
            SecuredError::SequenceExhausted { .. } => (SessionEnd::SequenceExhausted, ErrorCode::UNSPECIFIED),
            SecuredError::Tag { .. } | SecuredError::ApplicationLength { .. } => {
                (SessionEnd::NotAuthentic, ErrorCode::DECRYPT_ERROR)
            }
            _ => (SessionEnd::Failed, ErrorCode::UNSPECIFIED),
        };
        self.end_session(id, why, device);
        let mut message = Refusal::new(code).message(self.version().unwrap_or(Version::V1_0));
        device.shape(Stage::BeforeSeal(ResponseCode::ERROR), &mut message);
        Reply { kind: Kind::Clear, payload: message }
    }

    /// Seals an answer, then lets it take effect.
    fn seal(&mut self, id: SessionId, answer: &Answer, call: &mut Call<'_>) -> Option<Reply> {
        let record = self.session_mut(id)?;
        let mut sealed = Vec::new();
        if let Err(error) = record.secured.seal(&answer.message, &mut sealed) {
            return Some(self.broken(id, error, call.device));
        }
        if let Some(sequence) = record.secured.last_sequence(Direction::Response) {
            call.observer.secured(Direction::Response, id, sequence, &answer.message);
        }
        match &answer.then {
            Then::Nothing => {}
            Then::EnterData(th2) => {
                if record.secured.enter_data(th2).is_ok() {
                    call.observer.secrets(&record.secured.secrets());
                    call.device.session_started(id);
                } else {
                    self.end_session(id, SessionEnd::Failed, call.device);
                }
            }
            Then::End(why) => self.end_session(id, *why, call.device),
        }
        Some(Reply { kind: Kind::Secured, payload: sealed })
    }

    fn answer(&mut self, call: &mut Call<'_>, incoming: Incoming<'_>) -> Answer {
        self.dispatch(call, incoming).unwrap_or_else(|refusal| {
            let version = self.error_version(incoming);
            Answer { message: refusal.message(version), then: refusal.then() }
        })
    }

    /// The version of an `ERROR`: that of the connection, or before there is one, that of a
    /// `GET_CAPABILITIES` which would have set it.
    fn error_version(&self, incoming: Incoming<'_>) -> Version {
        if let Some(version) = self.version() {
            return version;
        }
        match incoming.header() {
            Ok(header)
                if matches!(self.state, State::Version)
                    && header.code == RequestCode::GET_CAPABILITIES.0
                    && self.versions.has(header.version) =>
            {
                header.version
            }
            _ => Version::V1_0,
        }
    }

    fn dispatch(&mut self, call: &mut Call<'_>, incoming: Incoming<'_>) -> Result<Answer, Refusal> {
        let header = incoming.header()?;
        let code = RequestCode(header.code);
        if code == RequestCode::GET_VERSION {
            return match call.origin {
                Origin::Clear => self.get_version(call, incoming),
                Origin::Session(_) => Err(Refusal::unexpected()),
            };
        }
        if self.lost {
            return Err(Refusal::new(ErrorCode::REQUEST_RESYNCH));
        }
        if call.origin == Origin::Clear
            && let Some((request, response)) = &self.repeat
            && incoming.repeats(request)
        {
            return Ok(response.clone().into());
        }
        self.check_version(header)?;
        self.empty_transcripts(call.origin, code);
        if place(code).is_none() {
            return Err(Refusal::unsupported(code));
        }
        // Of a chunk that is too large, its acknowledgement tells.
        if code != RequestCode::CHUNK_SEND && incoming.least_size() > self.receive_size() {
            return Err(Refusal::new(ErrorCode::REQUEST_TOO_LARGE));
        }
        if call.device.busy(code) {
            return Err(Refusal::new(ErrorCode::BUSY));
        }
        self.check_transfer(call.origin, code)?;
        if !is_carrier(code) {
            self.channel_mut(call.origin)?.deferred = None;
        }
        self.process(call, incoming)
    }

    /// Answers a large request, whose chunks are complete.
    pub(super) fn process_large(&mut self, call: &mut Call<'_>, request: &[u8]) -> Result<Answer, Refusal> {
        let incoming = Incoming { bytes: request, padded: false };
        let header = incoming.header()?;
        let code = RequestCode(header.code);
        if code == RequestCode::GET_VERSION || is_carrier(code) {
            return Err(Refusal::invalid());
        }
        self.check_version(header)?;
        self.empty_transcripts(call.origin, code);
        self.channel_mut(call.origin)?.deferred = None;
        self.process(call, incoming)
    }

    /// Answers a request that belongs into no transfer under way.
    pub(super) fn process(&mut self, call: &mut Call<'_>, incoming: Incoming<'_>) -> Result<Answer, Refusal> {
        let code = RequestCode(incoming.header()?.code);
        self.admit(call.origin, code)?;
        if !is_carrier(code)
            && !matches!(code, RequestCode::GET_CAPABILITIES | RequestCode::NEGOTIATE_ALGORITHMS)
            && let Some(delay) = call.device.not_ready(code)
        {
            self.last_token = self.last_token.wrapping_add(1);
            let token = self.last_token;
            let request = Secret::new(incoming.bytes.to_vec());
            self.channel_mut(call.origin)?.deferred =
                Some(Deferred { code, token, request, padded: incoming.padded });
            let Delay { exponent, multiplier } = delay;
            return Err(Refusal::not_ready(NotReady { exponent, request: code, token, multiplier }));
        }
        let answer = match code {
            RequestCode::GET_CAPABILITIES => self.get_capabilities(call, incoming),
            RequestCode::NEGOTIATE_ALGORITHMS => self.negotiate_algorithms(call, incoming),
            RequestCode::GET_DIGESTS => self.get_digests(call, incoming),
            RequestCode::GET_CERTIFICATE => self.get_certificate(call, incoming),
            RequestCode::CHALLENGE => self.challenge(call, incoming),
            RequestCode::GET_MEASUREMENTS => self.get_measurements(call, incoming),
            RequestCode::KEY_EXCHANGE => self.key_exchange(call, incoming),
            RequestCode::FINISH => self.finish(call, incoming),
            RequestCode::HEARTBEAT => self.heartbeat(incoming),
            RequestCode::KEY_UPDATE => self.key_update(call, incoming),
            RequestCode::END_SESSION => self.end_session_request(incoming),
            RequestCode::VENDOR_DEFINED => self.vendor_defined(call, incoming),
            RequestCode::RESPOND_IF_READY => return self.respond_if_ready(call, incoming),
            RequestCode::CHUNK_SEND => return self.chunk_send(call, incoming),
            RequestCode::CHUNK_GET => return self.chunk_get(call, incoming),
            _ => Err(Refusal::unsupported(code)),
        };
        if code == RequestCode::GET_MEASUREMENTS
            && answer.is_err()
            && let Some(log) = self.measurement_log(call.origin)
        {
            log.clear();
        }
        let answer = answer?;
        if code != RequestCode::GET_CAPABILITIES && code != RequestCode::NEGOTIATE_ALGORITHMS {
            self.repeat = None;
        }
        self.fit(call, answer)
    }

    fn check_version(&self, header: Header) -> Result<(), Refusal> {
        match self.version() {
            Some(version) if version != header.version => Err(Refusal::new(ErrorCode::VERSION_MISMATCH)),
            _ => Ok(()),
        }
    }

    /// Empties the transcripts that a request breaks off, granted or not. DSP0274, "M1/M2 computation",
    /// "L1/L2 computation".
    fn empty_transcripts(&mut self, origin: Origin, code: RequestCode) {
        if code != RequestCode::GET_MEASUREMENTS
            && !is_carrier(code)
            && let Some(log) = self.measurement_log(origin)
        {
            log.clear();
        }
        let later = matches!(
            code,
            RequestCode::GET_MEASUREMENTS
                | RequestCode::KEY_EXCHANGE
                | RequestCode::FINISH
                | RequestCode::HEARTBEAT
                | RequestCode::KEY_UPDATE
                | RequestCode::END_SESSION
        );
        // Behind a finished CHALLENGE, what is read for the next one stays.
        let authenticated = self.negotiated().is_ok_and(|negotiated| negotiated.authenticated);
        if ((later && !authenticated) || code == RequestCode::GET_DIGESTS)
            && let Some(log) = self.transcript.authentication()
        {
            log.clear();
        }
    }

    /// Whether a request is offered, and belongs where it comes from and to where the connection is.
    fn admit(&self, origin: Origin, code: RequestCode) -> Result<(), Refusal> {
        let place = place(code).ok_or(Refusal::unsupported(code))?;
        let reached = match &self.state {
            State::Start => false,
            State::Version => code == RequestCode::GET_CAPABILITIES,
            State::Capabilities(_) => matches!(
                code,
                RequestCode::NEGOTIATE_ALGORITHMS | RequestCode::CHUNK_SEND | RequestCode::CHUNK_GET
            ),
            State::Negotiated(_) => {
                !matches!(code, RequestCode::GET_CAPABILITIES | RequestCode::NEGOTIATE_ALGORITHMS)
            }
        };
        if !reached {
            return Err(Refusal::unexpected());
        }
        if !self.offers(code) {
            return Err(Refusal::unsupported(code));
        }
        let belongs = match origin {
            Origin::Clear if !place.clear => return Err(Refusal::new(ErrorCode::SESSION_REQUIRED)),
            Origin::Clear => true,
            Origin::Session(id) => match self.session(id).map(|record| record.secured.phase()) {
                Some(Phase::Handshake) => place.handshake,
                Some(Phase::Data) => place.data,
                None => false,
            },
        };
        // Behind a key update, nothing but the proof that both sides have the new key, which may have to
        // be asked for again.
        let proof = matches!(code, RequestCode::KEY_UPDATE | RequestCode::RESPOND_IF_READY);
        let unproven = match origin {
            Origin::Clear => false,
            Origin::Session(id) => self
                .session(id)
                .is_some_and(|record| !proof && record.update.is_some_and(|update| !update.undone)),
        };
        if belongs && !unproven { Ok(()) } else { Err(Refusal::unexpected()) }
    }

    /// Whether both sides have the capabilities that a request needs.
    fn offers(&self, code: RequestCode) -> bool {
        let ours = self.config.flags;
        let theirs = self.peer().map(|peer| peer.flags).unwrap_or_default();
        match code {
            RequestCode::GET_DIGESTS | RequestCode::GET_CERTIFICATE => ours.cert(),
            RequestCode::CHALLENGE => ours.chal(),
            RequestCode::GET_MEASUREMENTS => ours.meas() != 0,
            // A session that is authenticated but not encrypted is not built.
            RequestCode::KEY_EXCHANGE | RequestCode::FINISH | RequestCode::END_SESSION => {
                ours.key_ex() && theirs.key_ex() && theirs.encrypt() && theirs.mac()
            }
            RequestCode::HEARTBEAT => ours.hbeat() && theirs.hbeat(),
            RequestCode::KEY_UPDATE => ours.key_upd() && theirs.key_upd(),
            RequestCode::CHUNK_SEND | RequestCode::CHUNK_GET => ours.chunk() && theirs.chunk(),
            _ => true,
        }
    }

    /// While a transfer in chunks is under way, nothing but its next chunk is accepted.
    fn check_transfer(&self, origin: Origin, code: RequestCode) -> Result<(), Refusal> {
        let channel = match origin {
            Origin::Clear => Some(&self.channel),
            Origin::Session(id) => self.session(id).map(|record| &record.channel),
        };
        let expected = match channel.and_then(|channel| channel.transfer.as_ref()) {
            None => return Ok(()),
            Some(Transfer::Request { .. }) => RequestCode::CHUNK_SEND,
            Some(Transfer::Response { .. }) => RequestCode::CHUNK_GET,
        };
        if code == expected { Ok(()) } else { Err(Refusal::unexpected()) }
    }

    pub(super) fn channel_mut(&mut self, origin: Origin) -> Result<&mut Channel, Refusal> {
        match origin {
            Origin::Clear => Ok(&mut self.channel),
            Origin::Session(id) => {
                self.session_mut(id).map(|record| &mut record.channel).ok_or(Refusal::unexpected())
            }
        }
    }

    /// L1/L2 of the place where a request comes from.
    pub(super) fn measurement_log(&mut self, origin: Origin) -> Option<&mut Log> {
        match origin {
            Origin::Clear => self.transcript.measurements(),
            Origin::Session(id) => self.session_mut(id).map(|record| &mut record.measurements),
        }
    }

    /// Most bytes of a message that comes in in one object.
    pub(super) fn receive_size(&self) -> usize {
        usize::try_from(self.config.data_transfer_size).unwrap_or(usize::MAX)
    }

    /// Most bytes of a message that goes out in one object.
    pub(super) fn transfer_size(&self, origin: Origin) -> usize {
        let theirs = self.peer().map_or(usize::MAX, |peer| peer.data_transfer_size);
        match origin {
            Origin::Clear => theirs,
            Origin::Session(_) => theirs.min(MAX_APPLICATION),
        }
    }

    /// Whether a response of `size` bytes gets to the requester, at once or in chunks. Handlers ask
    /// before they change anything.
    pub(super) fn check_size(&self, call: &Call<'_>, size: usize) -> Result<(), Refusal> {
        if size <= self.largest(call) { Ok(()) } else { Err(Refusal::too_large(size)) }
    }

    /// Most bytes of a response that gets to the requester, at once or in chunks.
    pub(super) fn largest(&self, call: &Call<'_>) -> usize {
        let at_once = self.transfer_size(call.origin).saturating_sub(call.wrapping);
        match self.peer() {
            Some(peer) if self.config.flags.chunk() && peer.flags.chunk() => {
                at_once.max(peer.max_message_size)
            }
            _ => at_once,
        }
    }

    /// Keeps a response that is larger than the requester takes at once, for `CHUNK_GET`.
    fn fit(&mut self, call: &Call<'_>, answer: Answer) -> Result<Answer, Refusal> {
        let size = answer.message.len();
        self.check_size(call, size)?;
        if size.saturating_add(call.wrapping) <= self.transfer_size(call.origin) {
            return Ok(answer);
        }
        self.last_handle = self.last_handle.wrapping_add(1);
        let handle = self.last_handle;
        let transfer = Transfer::Response { handle, next: 0, sent: 0, message: answer.message };
        self.channel_mut(call.origin)?.transfer = Some(transfer);
        let version = self.version().unwrap_or(Version::V1_0);
        Ok(Answer { message: Refusal::large_response(handle).message(version), then: answer.then })
    }
}

/// The code of a message that this side has written.
fn code_of(message: &[u8]) -> ResponseCode {
    message.get(1).map_or(ResponseCode::ERROR, |code| ResponseCode(*code))
}
