use alloc::vec::Vec;

use super::tdi::append;
use super::{
    Body, DsmCapabilities, ErrorCode, GetCapabilities, GetReport, InterfaceId, LockInterface, Message,
    MessageType, MmioRange, Nonce, P2pStream, PROTOCOL, Report, ReportPortion, SetMmioAttribute,
    StartInterface, TDISP_1_0, TdiState,
};
use crate::ide_km::StreamId;
use crate::wire::{DecodeError, Reader};

/// Something to do with an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TdiOperation {
    /// Which versions of TDISP does it speak.
    Versions,
    /// What can it do.
    Capabilities,
    /// Lock it. The nonce is kept for the start.
    Lock(LockInterface),
    /// Get the whole report, in portions of at most so many bytes.
    Report {
        /// Longest portion.
        portion: u16,
    },
    /// In which state is it.
    State,
    /// Let it run, with the nonce of the last lock.
    Start,
    /// Unlock it.
    Stop,
    /// Bind a peer-to-peer stream.
    BindP2p(StreamId),
    /// Take such a binding back.
    UnbindP2p(StreamId),
    /// Say of pages whether they are TEE memory.
    SetMmioAttribute(MmioRange),
}

/// What came of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Versions of TDISP, 1.0 among them.
    Versions(Vec<u8>),
    /// What the device can do.
    Capabilities(DsmCapabilities),
    /// It is locked.
    Locked,
    /// Its report, as bytes and decoded.
    Report(Vec<u8>, Report),
    /// Its state.
    State(TdiState),
    /// It runs.
    Started,
    /// It is unlocked.
    Stopped,
    /// The stream is bound.
    P2pBound,
    /// The stream is bound no more.
    P2pUnbound,
    /// The attribute is set.
    MmioAttributeSet,
}

/// How far an operation is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Another request follows.
    More,
    /// That was all.
    Done(Outcome),
}

/// Why an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TdispFailure {
    /// The payload belongs to another protocol.
    #[error("protocol {0:#x} is not TDISP")]
    Protocol(u8),
    /// The response is no message.
    #[error("TDISP response: {0}")]
    Decode(#[from] DecodeError),
    /// The device refuses.
    #[error("{request} refused: {code}, data {data:#x}")]
    Refused {
        /// What was asked.
        request: MessageType,
        /// Why.
        code: ErrorCode,
        /// More of why.
        data: u32,
    },
    /// The response is another message than the request wants.
    #[error("{found} came, not {expected}")]
    Unexpected {
        /// What came.
        found: MessageType,
        /// What the request wants.
        expected: MessageType,
    },
    /// The response is about another interface.
    #[error("the response is about interface {found}, not {asked}")]
    WrongInterface {
        /// Answered.
        found: InterfaceId,
        /// Asked for.
        asked: InterfaceId,
    },
    /// A response came although nothing was asked.
    #[error("a response came that nobody asked for")]
    Unasked,
    /// An operation is under way.
    #[error("another operation is under way")]
    UnderWay,
    /// There is no nonce: the interface was not locked by this requester, or was started already.
    #[error("there is no nonce to start the interface with")]
    NoNonce,
    /// The device does not speak TDISP 1.0.
    #[error("the device does not speak TDISP 1.0")]
    NoCommonVersion,
    /// A portion of the report is empty or longer than asked for.
    #[error("a portion of {found} bytes came, {asked} were asked for")]
    BadPortion {
        /// Its length.
        found: usize,
        /// What was asked for.
        asked: u16,
    },
    /// The portions do not add up: the report changed while it was read.
    #[error("the report has {now} bytes, it had {before}")]
    ReportChanged {
        /// Its length as the first portion tells.
        before: usize,
        /// Its length as this portion tells.
        now: usize,
    },
    /// The report is malformed.
    #[error("the report is malformed: {0}")]
    MalformedReport(DecodeError),
}

/// The requester's side of one interface. Sans-IO: [`request`](Self::request) gives a payload,
/// [`response`](Self::response) takes the answer.
#[derive(Debug)]
pub struct TdiRequester {
    interface: InterfaceId,
    nonce: Option<Nonce>,
    operation: Option<TdiOperation>,
    asked: bool,
    /// What came of the report so far, and how long it is to be.
    report: Vec<u8>,
    report_size: Option<usize>,
}

impl TdiRequester {
    /// For the interface of a device.
    pub const fn new(interface: InterfaceId) -> Self {
        Self { interface, nonce: None, operation: None, asked: false, report: Vec::new(), report_size: None }
    }

    /// The interface.
    pub const fn interface(&self) -> InterfaceId {
        self.interface
    }

    /// Begins an operation.
    pub fn start(&mut self, operation: TdiOperation) -> Result<(), TdispFailure> {
        if self.operation.is_some() {
            return Err(TdispFailure::UnderWay);
        }
        if operation == TdiOperation::Start && self.nonce.is_none() {
            return Err(TdispFailure::NoNonce);
        }
        self.report.clear();
        self.report_size = None;
        self.asked = false;
        self.operation = Some(operation);
        Ok(())
    }

    /// The next request; `None` if no operation is under way.
    pub fn request(&mut self) -> Option<Vec<u8>> {
        let body = match self.operation? {
            TdiOperation::Versions => Body::GetVersion,
            TdiOperation::Capabilities => Body::GetCapabilities(GetCapabilities::default()),
            TdiOperation::Lock(lock) => Body::Lock(lock),
            TdiOperation::Report { portion } => Body::GetReport(self.wanted(portion)),
            TdiOperation::State => Body::GetState,
            TdiOperation::Start => Body::Start(StartInterface { nonce: self.nonce.clone()? }),
            TdiOperation::Stop => Body::Stop,
            TdiOperation::BindP2p(stream) => Body::BindP2p(P2pStream { stream }),
            TdiOperation::UnbindP2p(stream) => Body::UnbindP2p(P2pStream { stream }),
            TdiOperation::SetMmioAttribute(range) => Body::SetMmioAttribute(SetMmioAttribute { range }),
        };
        let mut out = Vec::new();
        append(&mut out, &Message { interface: self.interface, body });
        self.asked = true;
        Some(out)
    }

    /// Takes the response to the last request. After a failure the operation is over and another one
    /// may begin.
    pub fn response(&mut self, payload: &[u8]) -> Result<Progress, TdispFailure> {
        let operation = self.operation.filter(|_| self.asked).ok_or(TdispFailure::Unasked)?;
        self.asked = false;
        let progress = self.take(operation, payload);
        if !matches!(progress, Ok(Progress::More)) {
            self.operation = None;
            self.report.clear();
        }
        // A nonce is for one start, and a stop makes it worthless.
        if matches!(operation, TdiOperation::Start | TdiOperation::Stop) {
            self.nonce = None;
        }
        progress
    }

    /// Gives up what is under way, for instance because no response came.
    pub fn abandon(&mut self) {
        self.operation = None;
        self.asked = false;
        self.report.clear();
    }

    /// The part of the report that comes next.
    fn wanted(&self, portion: u16) -> GetReport {
        let offset = u16::try_from(self.report.len()).unwrap_or(u16::MAX);
        let left = self.report_size.map_or(usize::MAX, |size| size.saturating_sub(self.report.len()));
        GetReport { offset, length: u16::try_from(left).unwrap_or(u16::MAX).min(portion.max(1)) }
    }

    fn take(&mut self, operation: TdiOperation, payload: &[u8]) -> Result<Progress, TdispFailure> {
        let mut reader = Reader::new(payload);
        match reader.u8("protocol id")? {
            PROTOCOL => {}
            other => return Err(TdispFailure::Protocol(other)),
        }
        let Message { interface, body } = Message::read(reader.rest())?;
        if interface != self.interface {
            return Err(TdispFailure::WrongInterface { found: interface, asked: self.interface });
        }
        let request = operation.request();
        let outcome = match (operation, body) {
            (_, Body::Error(error)) => {
                return Err(TdispFailure::Refused { request, code: error.code, data: error.data });
            }
            (TdiOperation::Versions, Body::Version(list)) if list.0.contains(&TDISP_1_0) => {
                Outcome::Versions(list.0.to_vec())
            }
            (TdiOperation::Versions, Body::Version(_)) => return Err(TdispFailure::NoCommonVersion),
            (TdiOperation::Capabilities, Body::Capabilities(capabilities)) => {
                Outcome::Capabilities(capabilities)
            }
            (TdiOperation::Lock(_), Body::Locked(response)) => {
                self.nonce = Some(response.nonce);
                Outcome::Locked
            }
            (TdiOperation::Report { portion }, Body::Report(bytes)) => return self.portion(portion, bytes),
            (TdiOperation::State, Body::State(state)) => Outcome::State(state.state),
            (TdiOperation::Start, Body::Started) => Outcome::Started,
            (TdiOperation::Stop, Body::Stopped) => Outcome::Stopped,
            (TdiOperation::BindP2p(_), Body::P2pBound) => Outcome::P2pBound,
            (TdiOperation::UnbindP2p(_), Body::P2pUnbound) => Outcome::P2pUnbound,
            (TdiOperation::SetMmioAttribute(_), Body::MmioAttributeSet) => Outcome::MmioAttributeSet,
            (_, body) => {
                return Err(TdispFailure::Unexpected {
                    found: body.message_type(),
                    expected: request.response(),
                });
            }
        };
        Ok(Progress::Done(outcome))
    }

    fn portion(&mut self, portion: u16, came: ReportPortion<'_>) -> Result<Progress, TdispFailure> {
        let asked = self.wanted(portion).length;
        let found = came.bytes.len();
        if found == 0 || found > asked.into() {
            return Err(TdispFailure::BadPortion { found, asked });
        }
        self.report.extend_from_slice(came.bytes);
        let now = self.report.len() + usize::from(came.remainder);
        let before = *self.report_size.get_or_insert(now);
        if now != before || now > u16::MAX.into() {
            return Err(TdispFailure::ReportChanged { before, now });
        }
        if came.remainder != 0 {
            return Ok(Progress::More);
        }
        let report = Report::parse(&self.report).map_err(TdispFailure::MalformedReport)?;
        Ok(Progress::Done(Outcome::Report(core::mem::take(&mut self.report), report)))
    }
}

impl TdiOperation {
    /// The request that it sends.
    pub const fn request(&self) -> MessageType {
        match self {
            Self::Versions => MessageType::GET_TDISP_VERSION,
            Self::Capabilities => MessageType::GET_TDISP_CAPABILITIES,
            Self::Lock(_) => MessageType::LOCK_INTERFACE_REQUEST,
            Self::Report { .. } => MessageType::GET_DEVICE_INTERFACE_REPORT,
            Self::State => MessageType::GET_DEVICE_INTERFACE_STATE,
            Self::Start => MessageType::START_INTERFACE_REQUEST,
            Self::Stop => MessageType::STOP_INTERFACE_REQUEST,
            Self::BindP2p(_) => MessageType::BIND_P2P_STREAM_REQUEST,
            Self::UnbindP2p(_) => MessageType::UNBIND_P2P_STREAM_REQUEST,
            Self::SetMmioAttribute(_) => MessageType::SET_MMIO_ATTRIBUTE_REQUEST,
        }
    }
}
