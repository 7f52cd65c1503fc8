//! What a device did wrong, as a status.

use spdm::msg::RequestCode;
use spdm::requester::RequesterError;
use tdx_abi::connect::refusal::{Refusal, RefusalReason};
use tdx_abi::status::{Status, StatusCode};

/// Why work with a device ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) refusal: Refusal,
    /// A signature, a chain or the proof of the session's keys.
    pub(crate) authentication: bool,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, authentication: false }
    }
}

impl Failure {
    /// An answer of IDE_KM or TDISP that is wrong.
    pub(crate) const VENDOR: Self = Self {
        refusal: Refusal { reason: RefusalReason::BAD_VENDOR_ANSWER, request: RequestCode::VENDOR_DEFINED.0 },
        authentication: false,
    };

    /// A message that does not fit the page.
    pub(crate) const TOO_LARGE: Self =
        Self { refusal: Refusal { reason: RefusalReason::TOO_LARGE, request: 0 }, authentication: false };

    /// Why an operation of the requester failed. `under_way` is the request that it was about.
    pub(crate) fn of(error: &RequesterError, under_way: Option<RequestCode>) -> Self {
        use RefusalReason as Reason;
        use RequesterError as Error;
        let (reason, authentication) = match error {
            Error::NoCommonVersion(_) => (Reason::NO_COMMON_VERSION, false),
            Error::Selection { .. } | Error::Opaque { .. } => (Reason::NO_COMMON_ALGORITHM, false),
            Error::Lacking(_) | Error::Configuration(_) => (Reason::MISSING_CAPABILITY, false),
            Error::Chain(_) => (Reason::BAD_CHAIN, true),
            Error::ChainDigest(_) => (Reason::INCONSISTENT, true),
            Error::BadSignature(_) => (Reason::BAD_SIGNATURE, true),
            Error::BadVerifyData(_) => (Reason::BAD_FINISHED, true),
            Error::Open { .. } | Error::WrongSession { .. } | Error::OldKey => (Reason::BAD_RECORD, false),
            Error::Refused { .. } | Error::SessionLost { .. } | Error::Resynch { .. } => {
                (Reason::DEVICE_ERROR, false)
            }
            Error::UnaskedMutualAuth(_) | Error::UnaskedPsk { .. } | Error::UnaskedHeartbeat => {
                (Reason::UNSUPPORTED, false)
            }
            Error::Unexpected { .. } | Error::WrongKind { .. } | Error::WrongVendor => {
                (Reason::UNEXPECTED, false)
            }
            Error::MeasurementsChanged { .. }
            | Error::SummaryMismatch
            | Error::WrongSlot { .. }
            | Error::Echo { .. } => (Reason::INCONSISTENT, false),
            Error::Busy { .. } | Error::NeverReady { .. } | Error::NotReady { .. } => {
                (Reason::TOO_SLOW, false)
            }
            Error::AnswerTooLarge { .. }
            | Error::RequestTooLarge { .. }
            | Error::PeerTooSmall { .. }
            | Error::Chunk { .. } => (Reason::TOO_LARGE, false),
            Error::Crypto { .. } | Error::Seal { .. } => (Reason::CRYPTO, false),
            _ => (Reason::MALFORMED, false),
        };
        let request = under_way.map_or(0, |code| code.0);
        Self { refusal: Refusal { reason, request }, authentication }
    }

    /// The status of the SPDM leaves.
    pub(crate) fn spdm_status(self) -> Status {
        let code =
            if self.authentication { StatusCode::SPDM_AUTH_FAILED } else { StatusCode::SPDM_INVALID_MESSAGE };
        code.with_detail(self.refusal.detail())
    }

    /// The status of key management, which has one for all of them.
    pub(crate) fn ide_km_status(self) -> Status {
        StatusCode::IDE_STREAM_IDEKM_INVALID_RESPONSE.with_detail(self.refusal.detail())
    }
}
