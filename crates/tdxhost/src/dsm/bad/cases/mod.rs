//! The catalogue.

mod chunks;
mod clear;
mod fields;
mod handshake;
mod ide_km;
mod order;
mod session;
mod tdisp;

use spdm::ids::Version;
use spdm::msg::ErrorCode;

use super::probe::written;
use super::{Answer, Case, Expected, Probe, Setback};

type Attempt = Result<Answer, Setback>;

const INVALID: Expected = Expected::Error(&[ErrorCode::INVALID_REQUEST]);
const UNEXPECTED: Expected = Expected::Error(&[ErrorCode::UNEXPECTED_REQUEST]);
const UNSUPPORTED: Expected = Expected::Error(&[ErrorCode::UNSUPPORTED_REQUEST]);
const MISMATCH: Expected = Expected::Error(&[ErrorCode::VERSION_MISMATCH]);
/// Out of a session that it belongs into.
const NEEDS_SESSION: Expected =
    Expected::Error(&[ErrorCode::SESSION_REQUIRED, ErrorCode::UNEXPECTED_REQUEST]);
/// What nobody has agreed on.
const NOT_AGREED: Expected =
    Expected::Error(&[ErrorCode::UNSUPPORTED_REQUEST, ErrorCode::UNEXPECTED_REQUEST]);

const fn case(
    name: &'static str,
    sent: &'static str,
    expected: Expected,
    attack: fn(&mut Probe<'_>) -> Attempt,
) -> Case {
    Case { name, sent, expected, attack }
}

/// Header alone.
fn bare(version: Version, code: spdm::msg::RequestCode, param1: u8, param2: u8) -> Vec<u8> {
    vec![version.0, code.0, param1, param2]
}

/// Every case: in the clear, handshake, session, `IDE_KM`, TDISP.
pub static CATALOGUE: std::sync::LazyLock<Vec<Case>> = std::sync::LazyLock::new(|| {
    [
        order::CASES,
        clear::CASES,
        fields::CASES,
        chunks::CASES,
        handshake::CASES,
        session::CASES,
        ide_km::CASES,
        tdisp::CASES,
    ]
    .concat()
});
