use alloc::vec::Vec;

use super::SessionEnd;
use super::dispatch::{Then, encode};
use crate::crypto::CryptoError;
use crate::ids::Version;
use crate::msg::{ErrorCode, ErrorData, ErrorResponse, NotReady, RequestCode};
use crate::secured::SecuredError;
use crate::wire::{DecodeError, NoSpace};

/// Why a request is refused: what `ERROR` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: ErrorCode,
    data: u8,
    extended: ErrorData<'static>,
    /// Whether the session that the request came in is over.
    ends_session: bool,
}

impl Refusal {
    pub(super) const fn new(code: ErrorCode) -> Self {
        Self { code, data: 0, extended: ErrorData::None, ends_session: false }
    }

    pub(super) const fn unexpected() -> Self {
        Self::new(ErrorCode::UNEXPECTED_REQUEST)
    }

    pub(super) const fn invalid() -> Self {
        Self::new(ErrorCode::INVALID_REQUEST)
    }

    pub(super) const fn unsupported(code: RequestCode) -> Self {
        let mut refusal = Self::new(ErrorCode::UNSUPPORTED_REQUEST);
        refusal.data = code.0;
        refusal
    }

    /// The response has more bytes than the requester takes.
    pub(super) fn too_large(size: usize) -> Self {
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        Self { extended: ErrorData::TooLarge(size), ..Self::new(ErrorCode::RESPONSE_TOO_LARGE) }
    }

    /// The response comes in chunks.
    pub(super) const fn large_response(handle: u8) -> Self {
        let mut refusal = Self::new(ErrorCode::LARGE_RESPONSE);
        refusal.extended = ErrorData::LargeResponse(handle);
        refusal
    }

    /// The response is not ready.
    pub(super) const fn not_ready(not_ready: NotReady) -> Self {
        let mut refusal = Self::new(ErrorCode::RESPONSE_NOT_READY);
        refusal.extended = ErrorData::NotReady(not_ready);
        refusal
    }

    /// A `FINISH` that does not prove the other side: `DecryptError`, and no session.
    pub(super) const fn not_authentic() -> Self {
        let mut refusal = Self::new(ErrorCode::DECRYPT_ERROR);
        refusal.ends_session = true;
        refusal
    }

    /// What follows it.
    pub(super) const fn then(&self) -> Then {
        if self.ends_session { Then::End(SessionEnd::NotAuthentic) } else { Then::Nothing }
    }

    /// The `ERROR` message.
    pub(super) fn message(&self, version: Version) -> Vec<u8> {
        let &Self { code, data, extended, .. } = self;
        // Header and at most four bytes.
        encode(8, |writer| ErrorResponse { version, code, data, extended }.write(writer)).unwrap_or_default()
    }
}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Version { .. } => Self::new(ErrorCode::VERSION_MISMATCH),
            _ => Self::invalid(),
        }
    }
}

impl From<NoSpace> for Refusal {
    fn from(_: NoSpace) -> Self {
        Self::new(ErrorCode::UNSPECIFIED)
    }
}

impl From<CryptoError> for Refusal {
    fn from(error: CryptoError) -> Self {
        match error {
            // The next attempt may find random bytes.
            CryptoError::Entropy => Self::new(ErrorCode::BUSY),
            CryptoError::Key(_) => Self::invalid(),
            _ => Self::new(ErrorCode::UNSPECIFIED),
        }
    }
}

impl From<SecuredError> for Refusal {
    fn from(error: SecuredError) -> Self {
        match error {
            SecuredError::Crypto(error) => error.into(),
            _ => Self::new(ErrorCode::UNSPECIFIED),
        }
    }
}
