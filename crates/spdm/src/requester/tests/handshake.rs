//! Wrong answers at the beginning of a session and inside of it.

use alloc::boxed::Box;
use alloc::vec;

use super::bench::{Bench, until_session};
use super::bending::{check, is_decode, last_mut, sealed};
use crate::msg::{RequestCode, ResponseCode};
use crate::requester::{OpaqueFault, Operation, RequesterConfig, RequesterError};
use crate::responder::{Config, Stage};

#[test]
fn a_session_begins_only_with_proved_keys() {
    let operations = until_session();
    let code = ResponseCode::KEY_EXCHANGE_RSP;
    check(
        sealed(code),
        &operations,
        &[
            (
                "another verify data",
                |bytes| *last_mut(bytes, 1) ^= 1,
                |error| *error == RequesterError::BadVerifyData(ResponseCode::KEY_EXCHANGE_RSP),
            ),
            (
                "another signature",
                |bytes| *last_mut(bytes, 49) ^= 1,
                |error| *error == RequesterError::BadSignature(ResponseCode::KEY_EXCHANGE_RSP),
            ),
            (
                "another session id",
                |bytes| bytes[4] ^= 1,
                |error| *error == RequesterError::BadSignature(ResponseCode::KEY_EXCHANGE_RSP),
            ),
            (
                "a pre-shared key",
                |bytes| bytes[1] = 0x66,
                |error| matches!(error, RequesterError::UnaskedPsk { .. }),
            ),
        ],
    );
    check(
        Stage::BeforeSignature(code),
        &operations,
        &[
            (
                "mutual authentication",
                |bytes| bytes[6] = 1,
                |error| *error == RequesterError::UnaskedMutualAuth(ResponseCode::KEY_EXCHANGE_RSP),
            ),
            (
                "encapsulated mutual authentication",
                |bytes| bytes[6] = 2,
                |error| *error == RequesterError::UnaskedMutualAuth(ResponseCode::KEY_EXCHANGE_RSP),
            ),
            ("a slot for nothing", |bytes| bytes[7] = 1, is_decode),
            (
                "a public value off the curve",
                |bytes| bytes[50] ^= 1,
                |error| *error == RequesterError::BadExchange,
            ),
            (
                "a version of secured messages that was not offered",
                |bytes| *last_mut(bytes, 1) = 0x13,
                |error| {
                    matches!(error, RequesterError::Opaque { fault: OpaqueFault::NotOffered(0x1300), .. })
                },
            ),
            (
                "a list instead of a selection",
                |bytes| *last_mut(bytes, 3) = 1,
                |error| matches!(error, RequesterError::Opaque { fault: OpaqueFault::NoSelection, .. }),
            ),
            (
                "no selection",
                |bytes| {
                    let size = bytes.len();
                    bytes.truncate(size - 12);
                    *last_mut(bytes, 2) = 0;
                },
                |error| matches!(error, RequesterError::Opaque { fault: OpaqueFault::NoSelection, .. }),
            ),
        ],
    );
}

#[test]
fn a_heartbeat_that_was_not_agreed_on_is_refused() {
    let flags = RequesterConfig::default().flags.with_hbeat(false);
    let ours = RequesterConfig { flags, ..RequesterConfig::default() };
    let mut bench = Bench::with(ours, Config::default());
    bench.session().unwrap();
    assert_eq!(bench.run(Operation::Heartbeat), Err(RequesterError::Configuration("HBEAT_CAP")));
    bench.requester.reset();
    bench.line.device.bend = Box::new(|at, bytes| {
        if at == Stage::BeforeSignature(ResponseCode::KEY_EXCHANGE_RSP) {
            bytes[2] = 9;
        }
    });
    assert_eq!(bench.session(), Err(RequesterError::UnaskedHeartbeat));
    bench.works_again();
}

#[test]
fn a_handshake_ends_only_with_its_own_answer() {
    check(
        sealed(ResponseCode::FINISH_RSP),
        &until_session(),
        &[
            ("a reserved parameter", |bytes| bytes[2] = 1, is_decode),
            ("bytes behind", |bytes| bytes.push(0), is_decode),
            ("half of it", |bytes| bytes.truncate(2), is_decode),
            (
                "the end of a pre-shared key's handshake",
                |bytes| bytes[1] = 0x67,
                |error| {
                    let found = ResponseCode::PSK_FINISH_RSP;
                    *error == RequesterError::UnaskedPsk { request: RequestCode::FINISH, found }
                },
            ),
            (
                "a request of the responder",
                |bytes| bytes[1] = 0x6a,
                |error| matches!(error, RequesterError::UnaskedMutualAuth(_)),
            ),
            (
                "another answer",
                |bytes| bytes[1] = 0x68,
                |error| matches!(error, RequesterError::Unexpected { .. }),
            ),
        ],
    );
}

#[test]
fn inside_a_session_every_answer_must_fit_its_request() {
    let with = |operation| [&until_session()[..], &[operation]].concat();
    check(
        sealed(ResponseCode::HEARTBEAT_ACK),
        &with(Operation::Heartbeat),
        &[
            ("a reserved parameter", |bytes| bytes[3] = 1, is_decode),
            ("padding", |bytes| bytes.push(0), is_decode),
        ],
    );
    check(
        sealed(ResponseCode::KEY_UPDATE_ACK),
        &with(Operation::KeyUpdate { all: true }),
        &[
            (
                "another tag",
                |bytes| bytes[3] ^= 1,
                |error| matches!(error, RequesterError::Echo { field: "the tag", .. }),
            ),
            (
                "another operation",
                |bytes| bytes[2] = 1,
                |error| matches!(error, RequesterError::Echo { field: "the operation", .. }),
            ),
            ("no operation", |bytes| bytes[2] = 0, is_decode),
        ],
    );
    check(
        sealed(ResponseCode::VENDOR_DEFINED),
        &with(Operation::Vendor(vec![1, 2, 3].into())),
        &[
            ("another vendor", |bytes| bytes[7] = 2, |error| *error == RequesterError::WrongVendor),
            ("another registry", |bytes| bytes[4] = 7, |error| *error == RequesterError::WrongVendor),
            ("a length beyond the end", |bytes| bytes[9] += 1, is_decode),
            ("a length before the end", |bytes| bytes[9] -= 1, is_decode),
        ],
    );
    check(
        sealed(ResponseCode::END_SESSION_ACK),
        &with(Operation::EndSession),
        &[("a reserved parameter", |bytes| bytes[2] = 1, is_decode)],
    );
}
