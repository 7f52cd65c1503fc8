//! Why a module refused a device: the detail of SPDM_INVALID_MESSAGE, SPDM_AUTH_FAILED and
//! IDE_STREAM_IDEKM_INVALID_RESPONSE.
//!
//! Nothing public says what the low half of these status words holds. The software module of this project
//! puts there what it knows: bits 7:0 the reason, bits 15:8 the SPDM request code that was under way (0 if
//! none was), the rest 0. A host prints numbers that it does not know.

use core::fmt;

open_enum::open_enum! {
    /// What was wrong with an answer.
    pub struct RefusalReason(u8) {
        /// Nothing is told.
        NONE = 0 => "not told",
        /// The in page holds no data object: its length or its type is wrong.
        BAD_OBJECT = 1 => "no data object",
        /// The message cannot be decoded.
        MALFORMED = 2 => "malformed message",
        /// Another message than the one that answers the request.
        UNEXPECTED = 3 => "unexpected message",
        /// No version in common.
        NO_COMMON_VERSION = 4 => "no version in common",
        /// No algorithm in common, or one that was not offered.
        NO_COMMON_ALGORITHM = 5 => "no algorithm in common",
        /// A capability is missing that TEE-IO needs.
        MISSING_CAPABILITY = 6 => "capability missing",
        /// A certificate chain is none.
        BAD_CHAIN = 7 => "bad certificate chain",
        /// A signature does not verify.
        BAD_SIGNATURE = 8 => "bad signature",
        /// The device's proof that it has the session's keys is wrong.
        BAD_FINISHED = 9 => "bad verify data",
        /// A record of the session does not open.
        BAD_RECORD = 10 => "record does not open",
        /// The device answered with an SPDM ERROR.
        DEVICE_ERROR = 11 => "device answered with an error",
        /// The device asks for something that the module does not do, such as mutual authentication.
        UNSUPPORTED = 12 => "device asks for what is not supported",
        /// The device is not as it was, such as other measurements or another chain for the same digest.
        INCONSISTENT = 13 => "device contradicts itself",
        /// The device is slower than it said, or wants to be asked again for ever.
        TOO_SLOW = 14 => "device never gets ready",
        /// An answer of IDE_KM or TDISP is wrong, or says no.
        BAD_VENDOR_ANSWER = 15 => "IDE_KM or TDISP answer refused",
        /// The message is larger than was agreed, or than the page.
        TOO_LARGE = 16 => "message too large",
        /// The cryptographic library refused.
        CRYPTO = 17 => "cryptography failed",
    }
}

/// The detail of a refusing status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What was wrong.
    pub reason: RefusalReason,
    /// SPDM request code that was under way, 0 if none was.
    pub request: u8,
}

impl Refusal {
    /// From the low half of a status.
    pub const fn from_detail(detail: u32) -> Self {
        let [reason, request, ..] = detail.to_le_bytes();
        Self { reason: RefusalReason(reason), request }
    }

    /// The low half of a status.
    pub const fn detail(self) -> u32 {
        u32::from_le_bytes([self.reason.0, self.request, 0, 0])
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.reason)?;
        if self.request == 0 { Ok(()) } else { write!(f, " (request {:#04x})", self.request) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_comes_back_as_it_was() {
        let refusal = Refusal { reason: RefusalReason::BAD_SIGNATURE, request: 0xE4 };
        assert_eq!(refusal.detail(), 0xE408);
        assert_eq!(Refusal::from_detail(0xE408), refusal);
        assert_eq!(Refusal::from_detail(0).reason, RefusalReason::NONE);
    }
}
