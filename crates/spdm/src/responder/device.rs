use alloc::vec::Vec;
use core::fmt;

use crate::ids::SessionId;
use crate::msg::{ErrorCode, MeasurementKind, RequestCode, ResponseCode, VendorDefined};

/// One measurement of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// Its index, 1 to 254, which no other one has.
    pub index: u8,
    /// What is measured.
    pub kind: MeasurementKind,
    /// Whether it belongs to the trusted computing base.
    pub tcb: bool,
    /// What is reported.
    pub value: MeasuredValue,
}

/// What is reported of a measurement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeasuredValue {
    /// These bytes, never a digest: structured values such as versions and the device mode.
    Raw(Vec<u8>),
    /// The digest of these bytes, or they themselves if the requester wants raw bit streams.
    Either(Vec<u8>),
    /// The digest of these bytes, which do not leave the device.
    Digest(Vec<u8>),
}

impl MeasuredValue {
    /// The bytes themselves.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Raw(bytes) | Self::Either(bytes) | Self::Digest(bytes) => bytes,
        }
    }
}

/// When a response is ready that is not ready now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// The time: 2^n µs.
    pub exponent: u8,
    /// How many times that time the requester may wait before it gives up.
    pub multiplier: u8,
}

/// Why a session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionEnd {
    /// `END_SESSION`.
    Asked,
    /// `GET_VERSION`, which starts the connection anew.
    NewConnection,
    /// No message for twice the heartbeat period.
    Heartbeat,
    /// A message that is not authentic, or a wrong `FINISH`.
    NotAuthentic,
    /// The sequence numbers of a key are used up.
    SequenceExhausted,
    /// The cryptography failed.
    Failed,
    /// The connection was lost or the device reset.
    Reset,
}

impl fmt::Display for SessionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "END_SESSION",
            Self::NewConnection => "a new connection",
            Self::Heartbeat => "no heartbeat",
            Self::NotAuthentic => "a message that is not authentic",
            Self::SequenceExhausted => "no sequence numbers left",
            Self::Failed => "a failure of the cryptography",
            Self::Reset => "a reset",
        })
    }
}

/// Where in the making of a response a device may change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The response is there but for its signature; a change will be signed.
    BeforeSignature(ResponseCode),
    /// The response is complete; a change does not fit its signature, nor the responder's transcript.
    BeforeSeal(ResponseCode),
}

/// Why a vendor-defined request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VendorError {
    /// The protocol or its vendor is not known.
    #[error("the vendor's protocol is not known")]
    Unsupported,
    /// The request is malformed.
    #[error("the vendor-defined request is malformed")]
    Invalid,
    /// The request does not belong here now.
    #[error("the vendor-defined request is out of order")]
    Unexpected,
    /// The device is busy.
    #[error("the device is busy")]
    Busy,
    /// Something else.
    #[error("the device failed")]
    Failed,
}

impl VendorError {
    pub(super) const fn code(self) -> ErrorCode {
        match self {
            Self::Unsupported => ErrorCode::UNSUPPORTED_REQUEST,
            Self::Invalid => ErrorCode::INVALID_REQUEST,
            Self::Unexpected => ErrorCode::UNEXPECTED_REQUEST,
            Self::Busy => ErrorCode::BUSY,
            Self::Failed => ErrorCode::UNSPECIFIED,
        }
    }
}

/// The device around a responder.
pub trait Device {
    /// The measurements as they are now, by rising index.
    fn measurements(&mut self) -> Vec<Measurement>;

    /// Answers a vendor-defined request of a session's data phase; the payload of the response goes to
    /// `out`, which is empty. `IDE_KM` and TDISP arrive here.
    fn vendor(
        &mut self,
        session: SessionId,
        request: &VendorDefined<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), VendorError> {
        let _ = (session, request, out);
        Err(VendorError::Unsupported)
    }

    /// A session has entered its data phase.
    fn session_started(&mut self, session: SessionId) {
        let _ = session;
    }

    /// A session that had started is over; its keys are gone.
    fn session_ended(&mut self, session: SessionId, why: SessionEnd) {
        let _ = (session, why);
    }

    /// Whether the response to a request is not ready, and when it will be. Asked again when the
    /// requester comes back for it.
    fn not_ready(&mut self, request: RequestCode) -> Option<Delay> {
        let _ = request;
        None
    }

    /// Whether the device is too busy for a request.
    fn busy(&mut self, request: RequestCode) -> bool {
        let _ = request;
        false
    }

    /// Where the model of a faulty device bends a response.
    fn shape(&mut self, stage: Stage, response: &mut Vec<u8>) {
        let _ = (stage, response);
    }
}
