//! Wrong answers before anything is agreed on.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use super::bench::{Bench, until_session};
use super::bending::{check, is_decode, refused, sealed};
use crate::ids::Version;
use crate::msg::{ErrorCode, RequestCode, ResponseCode};
use crate::requester::{Operation, RequesterConfig, RequesterError};
use crate::responder::Config;

#[test]
fn versions_must_be_in_order_and_one_must_be_spoken() {
    check(
        sealed(ResponseCode::VERSION),
        &[Operation::Connect],
        &[
            (
                "only 1.4",
                |bytes| *bytes = vec![0x10, 4, 0, 0, 0, 1, 0, 0x14],
                |error| matches!(error, RequesterError::NoCommonVersion(_)),
            ),
            ("none", |bytes| *bytes = vec![0x10, 4, 0, 0, 0, 0], is_decode),
            ("a reserved byte", |bytes| bytes[4] = 1, is_decode),
            ("a version that is not 1.0", |bytes| bytes[0] = 0x12, is_decode),
            ("an end inside", |bytes| bytes.truncate(7), is_decode),
            ("bytes behind", |bytes| bytes.extend([0; 4]), is_decode),
            ("padding that is not zero", |bytes| bytes.push(1), is_decode),
            ("nothing", Vec::clear, is_decode),
        ],
    );
}

#[test]
fn capabilities_must_agree_with_each_other() {
    check(
        sealed(ResponseCode::CAPABILITIES),
        &[Operation::Connect],
        &[
            ("another version", |bytes| bytes[0] = 0x12, is_decode),
            ("a reserved MEAS_CAP", |bytes| bytes[8] |= 3 << 3, is_decode),
            ("keys without a MAC", |bytes| bytes[8] &= !(3 << 6), is_decode),
            ("a transfer size below all", |bytes| bytes[12..16].copy_from_slice(&[41, 0, 0, 0]), is_decode),
            (
                "several keys only",
                |bytes| bytes[11] |= 1 << 2 | 1 << 4,
                |error| matches!(error, RequesterError::Capabilities(_)),
            ),
        ],
    );
}

#[test]
fn capabilities_of_later_versions_are_ignored_but_signed_for() {
    for (version, bits) in [(Version::V1_2, 0xf1), (Version::V1_3, 0xc0)] {
        let ours = RequesterConfig { versions: vec![version], ..RequesterConfig::default() };
        let mut bench = Bench::with(ours, Config::default());
        bench.line.device.bend = Box::new(move |at, bytes| {
            if at == sealed(ResponseCode::CAPABILITIES) {
                bytes[11] |= bits;
            }
        });
        bench.run_all(until_session().into_iter().take(3)).unwrap();
        let theirs = bench.requester.connection().unwrap().peer.flags;
        assert_eq!(theirs, Config::default().flags);
        // The responder has not sent these bits in its own view.
        let refused = bench.run(until_session()[3].clone());
        assert_eq!(refused, Err(RequesterError::BadSignature(ResponseCode::KEY_EXCHANGE_RSP)));
        bench.works_again();
    }
}

fn is_selection(error: &RequesterError) -> bool {
    matches!(error, RequesterError::Selection { .. })
}

#[test]
fn exactly_one_of_the_offered_algorithms_must_be_selected() {
    check(
        sealed(ResponseCode::ALGORITHMS),
        &[Operation::Connect],
        &[
            ("no measurement specification", |bytes| bytes[6] = 0, is_selection),
            ("opaque data of another format", |bytes| bytes[7] = 1, is_selection),
            ("several keys", |bytes| bytes[7] |= 0x10, is_selection),
            ("no measurement hash", |bytes| bytes[8] = 0, is_selection),
            ("a signature that was not offered", |bytes| bytes[12] = 1, is_selection),
            ("no signature", |bytes| bytes[12] = 0, is_selection),
            ("two signatures", |bytes| bytes[12] = 0x90, is_decode),
            ("a hash that was not offered", |bytes| bytes[16] = 4, is_selection),
            ("no hash", |bytes| bytes[16] = 0, is_selection),
            ("measurement extension logs", |bytes| bytes[31] = 1, is_selection),
            ("a group that was not offered", |bytes| bytes[38] = 1, is_selection),
            ("no group", |bytes| bytes[38] = 0, is_selection),
            ("a cipher that was not offered", |bytes| bytes[42] = 4, is_selection),
            ("no key schedule", |bytes| bytes[46] = 0, is_selection),
            (
                "a key of the requester",
                |bytes| {
                    // In place of the key schedule: type 4.
                    bytes[44] = 4;
                    bytes[46] = 0x80;
                },
                is_selection,
            ),
            ("another length", |bytes| bytes[4] += 4, is_decode),
        ],
    );
}

#[test]
fn an_error_of_the_responder_keeps_its_name() {
    for code in [
        ErrorCode::INVALID_REQUEST,
        ErrorCode::UNEXPECTED_REQUEST,
        ErrorCode::UNSPECIFIED,
        ErrorCode::UNSUPPORTED_REQUEST,
        ErrorCode::SESSION_LIMIT_EXCEEDED,
        ErrorCode::VERSION_MISMATCH,
        ErrorCode(0x99),
    ] {
        let mut bench = Bench::new();
        bench.line.device.bend = Box::new(move |at, bytes| {
            if at == sealed(ResponseCode::DIGESTS) {
                *bytes = vec![0x13, 0x7f, code.0, 0x42];
            }
        });
        let request = RequestCode::GET_DIGESTS;
        assert_eq!(bench.session(), Err(RequesterError::Refused { request, code, data: 0x42 }));
        bench.works_again();
    }
    let error =
        refused(sealed(ResponseCode::DIGESTS), |bytes| *bytes = vec![0x13, 0x7f, 0x43, 0], &until_session());
    assert_eq!(error, RequesterError::Resynch { request: RequestCode::GET_DIGESTS });
}
