//! Handshakes that must not lead to a session.

use spdm::Kind;
use spdm::msg::{ErrorCode, RequestCode, ResponseCode};

use super::{Answer, Attempt, Case, Expected, INVALID, NEEDS_SESSION, Probe, Setback, bare, case};

/// Handshakes that are opened before a responder is said to have no limit.
const FLOOD: usize = 64;

/// Not authentic, or malformed.
const NOT_AUTHENTIC: Expected = Expected::Error(&[ErrorCode::DECRYPT_ERROR, ErrorCode::INVALID_REQUEST]);
/// Mutual authentication, or a pre-shared key, that nobody has agreed on.
const NOT_AGREED: Expected = Expected::Error(&[
    ErrorCode::UNSUPPORTED_REQUEST,
    ErrorCode::UNEXPECTED_REQUEST,
    ErrorCode::INVALID_REQUEST,
]);

/// Some take it for a failure of their cryptography.
const NO_POINT: Expected = Expected::Error(&[ErrorCode::INVALID_REQUEST, ErrorCode::UNSPECIFIED]);

/// A public value that is not one.
fn key_exchange(probe: &mut Probe<'_>, bend: impl FnOnce(&mut [u8])) -> Attempt {
    probe.connect()?;
    let mut exchange = probe.ephemeral()?.public().to_vec();
    bend(&mut exchange);
    let (_, message) = probe.key_exchange_request(&exchange)?;
    Ok(probe.clear(&message))
}

/// `KEY_EXCHANGE` with a change.
fn bent(probe: &mut Probe<'_>, bend: impl FnOnce(&mut Vec<u8>)) -> Attempt {
    probe.connect()?;
    let ephemeral = probe.ephemeral()?;
    let (_, mut message) = probe.key_exchange_request(ephemeral.public())?;
    bend(&mut message);
    Ok(probe.clear(&message))
}

fn open(probe: &mut Probe<'_>) -> Result<(), Setback> {
    probe.connect()?;
    probe.handshake()
}

/// `FINISH` with another HMAC.
fn finish(probe: &mut Probe<'_>, bend: impl FnOnce(&mut Vec<u8>)) -> Attempt {
    open(probe)?;
    let message = probe.finish_request(bend)?;
    probe.secured(&message)
}

/// The handshake's session must not go on to its data phase, even with a `FINISH` that is right.
fn gone(probe: &mut Probe<'_>, answer: Answer) -> Attempt {
    let right = probe.finish_request(|_| {})?;
    match probe.secured(&right) {
        Ok(Answer::Granted(ResponseCode::FINISH_RSP)) => {
            Ok(Answer::Broken(format!("{answer}, and FINISH_RSP to a second FINISH")))
        }
        _ => Ok(answer),
    }
}

pub(super) const CASES: &[Case] = &[
    case(
        "exchange-off-curve",
        "KEY_EXCHANGE with a public value that is no point of the curve",
        NO_POINT,
        |probe| key_exchange(probe, |exchange| exchange[0] ^= 1),
    ),
    case("exchange-zero", "KEY_EXCHANGE with a public value of zeros", NO_POINT, |probe| {
        key_exchange(probe, |exchange| exchange.fill(0))
    }),
    case("exchange-too-large", "KEY_EXCHANGE with coordinates above the field", NO_POINT, |probe| {
        key_exchange(probe, |exchange| exchange.fill(0xff))
    }),
    case("exchange-short", "KEY_EXCHANGE without its last 8 bytes", INVALID, |probe| {
        bent(probe, |message| message.truncate(message.len() - 8))
    }),
    case(
        "exchange-opaque-length",
        "KEY_EXCHANGE whose OpaqueDataLength is beyond its end",
        INVALID,
        |probe| {
            probe.connect()?;
            let at = 40 + probe.layout()?.exchange();
            bent(probe, |message| message[at] = 0xf0)
        },
    ),
    case("exchange-garbage-opaque", "KEY_EXCHANGE with opaque data that are none", INVALID, |probe| {
        probe.connect()?;
        let at = 42 + probe.layout()?.exchange();
        bent(probe, |message| message[at..].fill(0xff))
    }),
    case(
        "exchange-secured-versions",
        "KEY_EXCHANGE that offers secured messages 9.9 alone",
        INVALID,
        |probe| {
            // The last four bytes are the two versions.
            bent(probe, |message| {
                let end = message.len();
                message[end - 4..].copy_from_slice(&[0, 0x99, 0, 0x98]);
            })
        },
    ),
    case("exchange-empty-slot", "KEY_EXCHANGE for a slot that is empty", INVALID, |probe| {
        probe.connect()?;
        let slot = probe.empty_slot()?.number();
        bent(probe, |message| message[3] = slot)
    }),
    case("exchange-slot-9", "KEY_EXCHANGE for slot 9", INVALID, |probe| {
        bent(probe, |message| message[3] = 9)
    }),
    case("exchange-summary-2", "KEY_EXCHANGE with the measurement summary type 2", INVALID, |probe| {
        bent(probe, |message| message[2] = 2)
    }),
    case(
        "exchange-reserved-policy",
        "KEY_EXCHANGE with a reserved bit in SessionPolicy",
        Expected::MayIgnore(&[ErrorCode::INVALID_REQUEST]),
        |probe| bent(probe, |message| message[6] = 0x80),
    ),
    case(
        "session-flood",
        "KEY_EXCHANGE until sessions run out, none of them finished",
        Expected::Error(&[ErrorCode::SESSION_LIMIT_EXCEEDED, ErrorCode::BUSY]),
        |probe| {
            probe.connect()?;
            for _ in 0..FLOOD {
                match probe.handshake() {
                    Ok(()) => {}
                    Err(Setback::Unexpected { asked: "KEY_EXCHANGE", found }) => return Ok(found),
                    Err(setback) => return Err(setback),
                }
            }
            Ok(Answer::Broken(format!("{FLOOD} handshakes open, and no end")))
        },
    ),
    case("finish-in-clear", "FINISH, which is right, in the clear", NEEDS_SESSION, |probe| {
        open(probe)?;
        let message = probe.finish_request(|_| {})?;
        Ok(probe.clear(&message))
    }),
    case("finish-wrong-mac", "FINISH with a wrong HMAC", NOT_AUTHENTIC, |probe| {
        finish(probe, |mac| mac[0] ^= 1)
    }),
    case("finish-zero-mac", "FINISH with an HMAC of zeros", NOT_AUTHENTIC, |probe| {
        finish(probe, |mac| mac.fill(0))
    }),
    case("finish-short-mac", "FINISH with the first half of its HMAC", NOT_AUTHENTIC, |probe| {
        finish(probe, |mac| mac.truncate(mac.len() / 2))
    }),
    case("finish-second-try", "FINISH with a wrong HMAC, then one that is right", NOT_AUTHENTIC, |probe| {
        let answer = finish(probe, |mac| mac[0] ^= 1)?;
        gone(probe, answer)
    }),
    case(
        "finish-mutual-auth",
        "FINISH that says it holds a signature of the requester",
        NOT_AGREED,
        |probe| {
            open(probe)?;
            let mut message = probe.finish_request(|_| {})?;
            message[2] = 1;
            message.extend([0xa5; 96]);
            probe.secured(&message)
        },
    ),
    case(
        "finish-requester-slot",
        "FINISH with a slot of the requester, but no signature",
        Expected::MayIgnore(&[ErrorCode::INVALID_REQUEST, ErrorCode::DECRYPT_ERROR]),
        |probe| {
            open(probe)?;
            let mut message = probe.finish_request(|_| {})?;
            message[3] = 1;
            probe.secured(&message)
        },
    ),
    case("finish-replayed", "the object with FINISH a second time", Expected::Dropped, |probe| {
        open(probe)?;
        let message = probe.finish_request(|_| {})?;
        let object = probe.seal(&message)?;
        match probe.send(Kind::Secured, &object) {
            Answer::Granted(ResponseCode::FINISH_RSP) => {}
            found => return Err(Setback::Unexpected { asked: "FINISH", found }),
        }
        probe.finished(&message)?;
        Ok(probe.send(Kind::Secured, &object))
    }),
    case("psk-finish", "PSK_FINISH in place of FINISH", NOT_AGREED, |probe| {
        open(probe)?;
        let mut message = probe.finish_request(|_| {})?;
        message[1] = RequestCode::PSK_FINISH.0;
        let answer = probe.secured(&message)?;
        if matches!(answer, Answer::Granted(_)) {
            return Ok(Answer::Broken(format!("{answer}: a session that nobody has authenticated")));
        }
        Ok(answer)
    }),
    case("psk-finish-bare", "PSK_FINISH without an HMAC in place of FINISH", NOT_AGREED, |probe| {
        open(probe)?;
        let version = probe.version();
        probe.secured(&bare(version, RequestCode::PSK_FINISH, 0, 0))
    }),
    case(
        "mutual-auth-in-handshake",
        "DELIVER_ENCAPSULATED_RESPONSE with a chain before FINISH",
        NOT_AGREED,
        |probe| {
            open(probe)?;
            let version = probe.version();
            let mut message = bare(version, RequestCode::DELIVER_ENCAPSULATED_RESPONSE, 1, 0);
            message.extend([version.0, ResponseCode::CERTIFICATE.0, 0, 0, 0, 0, 0, 0]);
            probe.secured(&message)
        },
    ),
];
