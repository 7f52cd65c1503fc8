//! One request and its answer, whatever it takes: secured or not, busy, not ready yet, in chunks.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use zeroize::Zeroizing;

use super::config::MAX_EXPONENT;
use super::{ChunkFault, MIN_TRANSFER, Next, Outgoing, Progress, Requester, RequesterError, Step};
use crate::Kind;
use crate::msg::{
    self, ChunkGet, ChunkResponse, ChunkSend, ChunkSendAck, ErrorCode, ErrorData, ErrorResponse, Header,
    RequestCode, RespondIfReady, ResponseCode,
};
use crate::secured::{Role, SecuredError};
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

/// Bytes of `CHUNK_SEND` and `CHUNK_RESPONSE` before the chunk.
const CHUNK_HEADER: usize = 12;
/// Bytes of the large message's size, in the first of them.
const TOTAL_SIZE: usize = 4;
/// Bytes of `CHUNK_SEND_ACK` before the response.
const ACK_HEADER: usize = 6;
/// Room that a message is first written to.
const FIRST_ROOM: usize = 512;
/// Largest message that is ever written.
const MAX_ROOM: usize = 1 << 18;

/// A message that came in.
pub(super) struct Message<'a> {
    pub(super) bytes: &'a [u8],
    /// It came in the clear: zeros may follow.
    pub(super) padded: bool,
    /// What it answers.
    pub(super) request: RequestCode,
}

impl<'a> Message<'a> {
    /// Decodes the whole of it; with its exact bytes.
    pub(super) fn read<T>(
        &self,
        read: impl FnOnce(&mut Reader<'a>) -> Result<T, DecodeError>,
    ) -> Result<(T, &'a [u8]), RequesterError> {
        let read = if self.padded {
            msg::padded(self.bytes, read)
        } else {
            msg::exact(self.bytes, read).map(|message| (message, self.bytes.len()))
        };
        let (message, size) = read.map_err(|error| self.malformed(error))?;
        Ok((message, self.bytes.get(..size).unwrap_or(self.bytes)))
    }

    /// It is no answer.
    pub(super) const fn malformed(&self, error: DecodeError) -> RequesterError {
        RequesterError::Decode { request: self.request, error }
    }
}

/// Writes a message.
pub(super) fn bytes(
    write: impl Fn(&mut Writer<'_>) -> Result<(), NoSpace>,
) -> Result<Vec<u8>, RequesterError> {
    let mut room = FIRST_ROOM;
    loop {
        let mut buffer = Zeroizing::new(vec![0; room]);
        let written = msg::encode(&mut buffer, &write).map(|message| message.len());
        match written {
            Ok(size) => {
                buffer.truncate(size);
                return Ok(core::mem::take(&mut *buffer));
            }
            Err(NoSpace(_)) if room < MAX_ROOM => room *= 8,
            Err(NoSpace(limit)) => return Err(RequesterError::RequestTooLarge { size: room, limit }),
        }
    }
}

/// How the request under way travels, or its answer.
pub(super) enum Mode {
    /// As it is.
    Whole,
    /// As it is, and the answer is asked for again.
    Polling,
    /// The request in chunks: so much of it has gone, the last chunk included.
    Sending { handle: u8, sequence: u16, sent: usize },
    /// The answer in chunks: this much has come.
    Fetching { handle: u8, sequence: u16, total: Option<usize>, got: Vec<u8>, least: usize },
}

/// A request whose answer is waited for. It may carry keys, and is overwritten when dropped.
pub(super) struct Flight {
    pub(super) step: Step,
    pub(super) request: Zeroizing<Vec<u8>>,
    pub(super) kind: Kind,
    pub(super) mode: Mode,
    /// What was sent last, for a busy responder.
    pub(super) sent: Zeroizing<Vec<u8>>,
    pub(super) out: Option<Outgoing>,
    pub(super) busy: u32,
    pub(super) polls: u32,
}

impl Flight {
    pub(super) const fn code(&self) -> RequestCode {
        self.step.code()
    }

    pub(super) const fn waits(&self) -> bool {
        self.out.is_none()
    }

    pub(super) fn take_out(&mut self) -> Option<Outgoing> {
        self.out.take()
    }

    const fn chunk(&self, fault: ChunkFault) -> RequesterError {
        RequesterError::Chunk { request: self.code(), fault }
    }
}

impl Requester {
    /// Puts a request on its way.
    pub(super) fn launch(&mut self, step: Step, request: Vec<u8>) -> Result<Flight, RequesterError> {
        let kind = if self.session.is_some() { Kind::Secured } else { Kind::Clear };
        let mut flight = Flight {
            step,
            request: Zeroizing::new(request),
            kind,
            mode: Mode::Whole,
            sent: Zeroizing::default(),
            out: None,
            busy: 0,
            polls: 0,
        };
        self.post_request(&mut flight)?;
        Ok(flight)
    }

    /// Whether both sides take chunks.
    pub(super) fn chunks(&self) -> bool {
        self.config.flags.chunk() && self.peer.is_some_and(|peer| peer.flags.chunk())
    }

    fn post_request(&mut self, flight: &mut Flight) -> Result<(), RequesterError> {
        let size = flight.request.len();
        if let Some(peer) = self.peer {
            let (piece, whole) = (peer.data_transfer_size as usize, peer.max_message_size as usize);
            if size > piece {
                if !self.chunks() || size > whole {
                    let limit = if self.chunks() { whole } else { piece };
                    return Err(RequesterError::RequestTooLarge { size, limit });
                }
                let handle = self.next_handle;
                self.next_handle = handle.wrapping_add(1);
                flight.mode = Mode::Sending { handle, sequence: 0, sent: 0 };
                return self.post_chunk(flight, handle, 0, 0);
            }
        }
        flight.mode = Mode::Whole;
        let message = flight.request.to_vec();
        self.post(flight, message)
    }

    /// Sends the chunk that begins at `from`.
    fn post_chunk(
        &mut self,
        flight: &mut Flight,
        handle: u8,
        sequence: u16,
        from: usize,
    ) -> Result<(), RequesterError> {
        let piece = self.peer.map_or(MIN_TRANSFER, |peer| peer.data_transfer_size) as usize;
        let large_size = u32::try_from(flight.request.len()).ok().filter(|_| sequence == 0);
        let room = piece.saturating_sub(CHUNK_HEADER + large_size.map_or(0, |_| TOTAL_SIZE));
        let left = flight.request.get(from..).unwrap_or_default();
        let chunk = left.get(..room).unwrap_or(left);
        let last = chunk.len() == left.len();
        flight.mode = Mode::Sending { handle, sequence, sent: from + chunk.len() };
        let version = self.version;
        let message =
            bytes(|writer| ChunkSend { version, last, handle, sequence, large_size, chunk }.write(writer))?;
        self.post(flight, message)
    }

    fn post_poll(&mut self, flight: &mut Flight, token: u8) -> Result<(), RequesterError> {
        flight.mode = Mode::Polling;
        let (version, request) = (self.version, flight.code());
        let message = bytes(|writer| RespondIfReady { version, request, token }.write(writer))?;
        self.post(flight, message)
    }

    fn post_fetch(&mut self, flight: &mut Flight, handle: u8, sequence: u16) -> Result<(), RequesterError> {
        let version = self.version;
        let message = bytes(|writer| ChunkGet { version, handle, sequence }.write(writer))?;
        self.post(flight, message)
    }

    /// Hands a message out, sealed if it belongs into the session.
    fn post(&mut self, flight: &mut Flight, message: Vec<u8>) -> Result<(), RequesterError> {
        let message = Zeroizing::new(message);
        let payload = match flight.kind {
            Kind::Clear => message.to_vec(),
            Kind::Secured => {
                self.expect_new_keys(&flight.step)?;
                let active = self.session.as_mut().ok_or(RequesterError::NoSession)?;
                let mut sealed = Vec::new();
                let seal = |error| RequesterError::Seal { request: flight.step.code(), error };
                active.session.seal(&message, &mut sealed).map_err(seal)?;
                self.observe(Role::Requester, &message);
                sealed
            }
        };
        flight.sent = message;
        flight.out = Some(Outgoing { kind: flight.kind, payload });
        Ok(())
    }

    /// Tells the observer of a message of the session that passed.
    fn observe(&mut self, sender: Role, message: &[u8]) {
        if let (Some(observer), Some(active)) = (&mut self.observer, &self.session) {
            let direction = sender.sends();
            let sequence = active.session.last_sequence(direction).unwrap_or(0);
            observer.secured(direction, active.session.id(), sequence, message);
        }
    }

    /// Tells the observer of new secrets.
    pub(super) fn observe_secrets(&mut self) {
        if let (Some(observer), Some(active)) = (&mut self.observer, &self.session) {
            observer.secrets(&active.session.secrets());
        }
    }

    pub(super) fn take_answer(
        &mut self,
        flight: Flight,
        kind: Kind,
        payload: &[u8],
        now: Duration,
    ) -> Result<Progress, RequesterError> {
        let request = flight.code();
        if kind != flight.kind {
            return Err(self.wrong_kind(&flight, kind, payload));
        }
        let opened;
        let (bytes, padding) = match kind {
            Kind::Clear => (payload, 3),
            Kind::Secured => {
                opened = self.open(request, payload)?;
                (&opened[..], 0)
            }
        };
        let limit = self.config.data_transfer_size as usize;
        if bytes.len() > limit.saturating_add(padding) {
            return Err(RequesterError::AnswerTooLarge { request, size: bytes.len(), limit });
        }
        self.sort(flight, &Message { bytes, padded: kind == Kind::Clear, request }, now)
    }

    fn open(
        &mut self,
        request: RequestCode,
        payload: &[u8],
    ) -> Result<crate::crypto::Secret, RequesterError> {
        let active = self.session.as_mut().ok_or(RequesterError::NoSession)?;
        let opened = active.session.open(payload).map_err(|error| match error {
            SecuredError::WrongSession { expected, found } => {
                RequesterError::WrongSession { found, expected }
            }
            error => RequesterError::Open { request, error },
        })?;
        self.observe(Role::Responder, &opened);
        Ok(opened)
    }

    fn wrong_kind(&self, flight: &Flight, found: Kind, payload: &[u8]) -> RequesterError {
        let request = flight.code();
        if let (Kind::Clear, Some(active)) = (found, &self.session) {
            let answer = Message { bytes: payload, padded: true, request };
            if let Ok((error, _)) = answer.read(|reader| ErrorResponse::read(reader, self.version)) {
                return RequesterError::SessionLost { session: active.session.id(), code: error.code };
            }
        }
        RequesterError::WrongKind { request, found, expected: flight.kind }
    }

    /// What a message is in the course of the exchange.
    fn sort(
        &mut self,
        flight: Flight,
        message: &Message<'_>,
        now: Duration,
    ) -> Result<Progress, RequesterError> {
        let header = Header::peek(message.bytes).map_err(|error| message.malformed(error))?;
        let found = ResponseCode(header.code);
        let expected = match flight.mode {
            Mode::Whole | Mode::Polling => flight.code().response(),
            Mode::Sending { .. } => ResponseCode::CHUNK_SEND_ACK,
            Mode::Fetching { .. } => ResponseCode::CHUNK_RESPONSE,
        };
        if found == ResponseCode::ERROR {
            return self.on_error(flight, message);
        }
        if found != expected {
            return Err(unexpected(flight.code(), found));
        }
        match flight.mode {
            Mode::Whole | Mode::Polling => self.finish(flight, message, now),
            Mode::Sending { handle, sequence, sent } => {
                self.on_chunk_ack(flight, message, handle, sequence, sent, now)
            }
            Mode::Fetching { .. } => self.on_chunk(flight, message, now),
        }
    }

    /// The answer is whole.
    fn finish(
        &mut self,
        flight: Flight,
        message: &Message<'_>,
        now: Duration,
    ) -> Result<Progress, RequesterError> {
        match self.complete(flight.step, &flight.request, message, now)? {
            Next::Send(step, request) => {
                let code = step.code();
                let launched = self.launch(step, request).map_err(|error| match error {
                    RequesterError::RequestTooLarge { size, limit } => {
                        RequesterError::PeerTooSmall { request: code, size, limit }
                    }
                    error => error,
                });
                self.flight = Some(launched?);
                Ok(Progress::More)
            }
            Next::Done(outcome) => Ok(Progress::Done(outcome)),
        }
    }

    fn on_error(&mut self, mut flight: Flight, message: &Message<'_>) -> Result<Progress, RequesterError> {
        let request = flight.code();
        let (error, _) = message.read(|reader| ErrorResponse::read(reader, self.version))?;
        match error.code {
            ErrorCode::BUSY => {
                flight.busy += 1;
                if flight.busy > self.config.busy_retries {
                    return Err(RequesterError::Busy { request, tries: flight.busy });
                }
                // The responder has not kept the chunks of a request that it has no time for.
                if matches!(flight.mode, Mode::Whole) {
                    self.post_request(&mut flight)?;
                } else {
                    let again = core::mem::take(&mut *flight.sent);
                    self.post(&mut flight, again)?;
                }
                self.flight = Some(flight);
                Ok(Progress::RetryAfter(self.config.busy_delay))
            }
            ErrorCode::RESPONSE_NOT_READY => self.on_not_ready(flight, &error),
            ErrorCode::LARGE_RESPONSE => self.on_large_response(flight, &error),
            ErrorCode::REQUEST_RESYNCH => Err(RequesterError::Resynch { request }),
            code => Err(RequesterError::Refused { request, code, data: error.data }),
        }
    }

    fn on_not_ready(
        &mut self,
        mut flight: Flight,
        error: &ErrorResponse<'_>,
    ) -> Result<Progress, RequesterError> {
        let request = flight.code();
        let refuse = |fault| Err(RequesterError::NotReady { request, fault });
        let ErrorData::NotReady(not_ready) = error.extended else { return refuse("without its data") };
        // They take no cryptography, and are answered at once.
        if self.connection.is_none() {
            return refuse("before anything is agreed on");
        }
        if !matches!(flight.mode, Mode::Whole | Mode::Polling) {
            return refuse("for a chunk");
        }
        if not_ready.request != request {
            return refuse("for another request");
        }
        if not_ready.exponent > MAX_EXPONENT {
            return refuse("with a time that nobody waits for");
        }
        if not_ready.multiplier < 2 {
            return refuse("with no time to ask in");
        }
        flight.polls += 1;
        if flight.polls > self.config.ready_retries {
            return Err(RequesterError::NeverReady { request, tries: flight.polls });
        }
        self.post_poll(&mut flight, not_ready.token)?;
        self.flight = Some(flight);
        Ok(Progress::RetryAfter(not_ready.delay()))
    }

    /// What an answer in chunks must exceed; one to a request of that size.
    pub(super) fn least_chunk(&self, request: usize) -> usize {
        let in_chunks = self.peer.is_some_and(|peer| request > peer.data_transfer_size as usize);
        MIN_TRANSFER as usize - if in_chunks { ACK_HEADER } else { 0 }
    }

    fn on_large_response(
        &mut self,
        mut flight: Flight,
        error: &ErrorResponse<'_>,
    ) -> Result<Progress, RequesterError> {
        // VERSION and CAPABILITIES never come in chunks; before CAPABILITIES nothing is known of them.
        let allowed = match flight.mode {
            Mode::Fetching { .. } => false,
            // The response with the last chunk's acknowledgement can be too large for one object.
            Mode::Sending { sent, .. } => sent == flight.request.len(),
            Mode::Whole | Mode::Polling => true,
        };
        let ErrorData::LargeResponse(handle) = error.extended else {
            return Err(flight.chunk(ChunkFault::NotAllowed));
        };
        if !allowed || !self.chunks() {
            return Err(flight.chunk(ChunkFault::NotAllowed));
        }
        let least = self.least_chunk(flight.request.len());
        flight.mode = Mode::Fetching { handle, sequence: 0, total: None, got: Vec::new(), least };
        self.post_fetch(&mut flight, handle, 0)?;
        self.flight = Some(flight);
        Ok(Progress::More)
    }

    fn on_chunk_ack(
        &mut self,
        mut flight: Flight,
        message: &Message<'_>,
        handle: u8,
        sequence: u16,
        sent: usize,
        now: Duration,
    ) -> Result<Progress, RequesterError> {
        let request = flight.code();
        let version = self.version;
        let (ack, _) = message.read(|reader| ChunkSendAck::read(reader, version))?;
        if ack.handle != handle {
            return Err(flight.chunk(ChunkFault::Handle { found: ack.handle, expected: handle }));
        }
        if ack.early_error {
            let early = Message { bytes: ack.response, ..*message };
            let (error, _) = early.read(|reader| ErrorResponse::read(reader, version))?;
            return Err(RequesterError::Refused { request, code: error.code, data: error.data });
        }
        if ack.sequence != sequence {
            return Err(flight.chunk(ChunkFault::Sequence { found: ack.sequence, expected: sequence }));
        }
        if sent == flight.request.len() {
            flight.mode = Mode::Whole;
            return self.sort(flight, &Message { bytes: ack.response, ..*message }, now);
        }
        // Padding of the object cannot be told from a response.
        let nothing = ack.response.is_empty() || (message.padded && is_padding(ack.response));
        if !nothing {
            return Err(flight.chunk(ChunkFault::Answer));
        }
        let next = sequence.checked_add(1).ok_or(flight.chunk(ChunkFault::Exhausted))?;
        self.post_chunk(&mut flight, handle, next, sent)?;
        self.flight = Some(flight);
        Ok(Progress::More)
    }

    fn on_chunk(
        &mut self,
        mut flight: Flight,
        message: &Message<'_>,
        now: Duration,
    ) -> Result<Progress, RequesterError> {
        let request = flight.code();
        let wrong = |fault| RequesterError::Chunk { request, fault };
        let Mode::Fetching { handle, sequence, total, got, least } = &mut flight.mode else {
            return Err(unexpected(request, ResponseCode::CHUNK_RESPONSE));
        };
        let (first, version) = (*sequence == 0, self.version);
        let (chunk, exact) = message.read(|reader| ChunkResponse::read(reader, version))?;
        if chunk.handle != *handle {
            return Err(wrong(ChunkFault::Handle { found: chunk.handle, expected: *handle }));
        }
        if chunk.sequence != *sequence {
            return Err(wrong(ChunkFault::Sequence { found: chunk.sequence, expected: *sequence }));
        }
        let whole = match (*total, chunk.large_size) {
            (None, Some(whole)) if first => whole as usize,
            (Some(whole), None) => whole,
            _ => return Err(wrong(ChunkFault::Sequence { found: chunk.sequence, expected: *sequence })),
        };
        if first && (whole <= *least || whole > self.config.max_message_size as usize) {
            return Err(wrong(ChunkFault::Total(whole)));
        }
        let found = got.len().saturating_add(chunk.chunk.len());
        if found > whole {
            return Err(wrong(ChunkFault::Overrun { found, total: whole }));
        }
        if chunk.last != (found == whole) {
            return Err(wrong(ChunkFault::Last));
        }
        if !chunk.last && exact.len() < MIN_TRANSFER as usize {
            return Err(wrong(ChunkFault::Small(chunk.chunk.len())));
        }
        got.extend_from_slice(chunk.chunk);
        *total = Some(whole);
        if chunk.last {
            let large = core::mem::take(got);
            let code = Header::peek(&large).map_err(|error| message.malformed(error))?.code;
            if code != request.response().0 {
                return Err(unexpected(request, ResponseCode(code)));
            }
            return self.finish(flight, &Message { bytes: &large, padded: false, request }, now);
        }
        let next = sequence.checked_add(1).ok_or(wrong(ChunkFault::Exhausted))?;
        *sequence = next;
        let handle = *handle;
        self.post_fetch(&mut flight, handle, next)?;
        self.flight = Some(flight);
        Ok(Progress::More)
    }
}

fn is_padding(bytes: &[u8]) -> bool {
    bytes.len() <= 3 && bytes.iter().all(|&byte| byte == 0)
}

fn unexpected(request: RequestCode, found: ResponseCode) -> RequesterError {
    match found {
        ResponseCode::PSK_EXCHANGE_RSP | ResponseCode::PSK_FINISH_RSP => {
            RequesterError::UnaskedPsk { request, found }
        }
        ResponseCode::ENCAPSULATED_REQUEST | ResponseCode::ENCAPSULATED_RESPONSE_ACK => {
            RequesterError::UnaskedMutualAuth(found)
        }
        _ => RequesterError::Unexpected { request, found },
    }
}
