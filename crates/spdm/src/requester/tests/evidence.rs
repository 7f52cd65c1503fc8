//! Wrong chains, signatures and measurements.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use super::bench::{ALL, Bench, start_session, until_session};
use super::bending::{check, is_decode, last_mut, refused, sealed};
use crate::ids::SlotId;
use crate::msg::{MeasurementOperation, ResponseCode, SummaryHash};
use crate::requester::{
    ChallengeRequest, Compare, MeasurementsRequest, OpaqueFault, Operation, RequesterError,
};
use crate::responder::Stage;
use crate::x509::ChainError;

fn is_portion(error: &RequesterError) -> bool {
    matches!(error, RequesterError::Portion(_))
}

fn is_challenge_signature(error: &RequesterError) -> bool {
    *error == RequesterError::BadSignature(ResponseCode::CHALLENGE_AUTH)
}

fn challenge() -> Operation {
    Operation::Challenge(ChallengeRequest { slot: SlotId::ZERO, summary: SummaryHash::All })
}

#[test]
fn a_chain_must_come_whole_and_be_the_one_of_its_digest() {
    let slot = SlotId::ZERO;
    let operations = [Operation::Connect, Operation::Digests, Operation::Certificate(slot)];
    check(
        sealed(ResponseCode::DIGESTS),
        &operations,
        &[
            (
                "no chain",
                |bytes| *bytes = vec![0x13, 1, 1, 0],
                |error| matches!(error, RequesterError::Digests(_)),
            ),
            ("a slot that it has not", |bytes| bytes[2] = 0, is_decode),
            (
                "another digest",
                |bytes| *last_mut(bytes, 1) ^= 1,
                |error| *error == RequesterError::ChainDigest(SlotId::ZERO),
            ),
        ],
    );
    check(
        sealed(ResponseCode::CERTIFICATE),
        &operations,
        &[
            (
                "another slot",
                |bytes| bytes[2] = 3,
                |error| matches!(error, RequesterError::WrongSlot { found: 3, .. }),
            ),
            ("a slot that cannot be", |bytes| bytes[2] = 9, is_decode),
            ("a model", |bytes| bytes[3] = 1, is_portion),
            (
                "an empty portion",
                |bytes| {
                    bytes.truncate(8);
                    bytes[4..6].fill(0);
                },
                is_portion,
            ),
            (
                "a portion longer than was asked for",
                |bytes| {
                    bytes.push(0);
                    let size = u16::from_le_bytes([bytes[4], bytes[5]]) + 1;
                    bytes[4..6].copy_from_slice(&size.to_le_bytes());
                },
                is_portion,
            ),
            (
                "another byte",
                |bytes| *last_mut(bytes, 1) ^= 1,
                |error| *error == RequesterError::ChainDigest(SlotId::ZERO),
            ),
            ("a portion that ends early", |bytes| bytes.truncate(100), is_decode),
        ],
    );
    // The chain's size must not change from portion to portion.
    let mut bench = Bench::new();
    let mut portions = 0;
    bench.line.device.bend = Box::new(move |at, bytes| {
        if at == sealed(ResponseCode::CERTIFICATE) {
            portions += 1;
            bytes[6] ^= u8::from(portions == 2);
        }
    });
    assert!(matches!(bench.run_all(operations), Err(RequesterError::Portion(_))));
    bench.works_again();
    // Without DIGESTS, the chain itself decides.
    let without_digests = [Operation::Connect, Operation::Certificate(slot)];
    let error =
        refused(sealed(ResponseCode::CERTIFICATE), |bytes| *last_mut(bytes, 1) ^= 1, &without_digests);
    assert_eq!(error, RequesterError::Chain(ChainError::UnknownRoot));
}

#[test]
fn a_chain_that_has_changed_is_noticed() {
    let mut bench = Bench::new();
    bench.run_all([Operation::Connect, Operation::Certificate(SlotId::ZERO)]).unwrap();
    bench.line.device.bend = Box::new(|at, bytes| {
        if at == sealed(ResponseCode::DIGESTS) {
            *last_mut(bytes, 1) ^= 1;
        }
    });
    assert_eq!(bench.run(Operation::Digests), Err(RequesterError::ChainDigest(SlotId::ZERO)));
    bench.works_again();
    // The chain has moved to another slot.
    let mut bench = Bench::new();
    bench.run_all([Operation::Connect, Operation::Certificate(SlotId::ZERO)]).unwrap();
    bench.line.device.bend = Box::new(|at, bytes| {
        if at == sealed(ResponseCode::DIGESTS) {
            bytes[2..4].fill(1 << 1);
        }
    });
    assert_eq!(bench.run(Operation::Digests), Err(RequesterError::ChainDigest(SlotId::ZERO)));
    bench.works_again();
}

#[test]
fn a_challenge_is_met_only_by_the_key_of_the_chain() {
    let mut operations = until_session()[..3].to_vec();
    operations.push(challenge());
    check(
        sealed(ResponseCode::CHALLENGE_AUTH),
        &operations,
        &[
            ("another signature", |bytes| *last_mut(bytes, 1) ^= 1, is_challenge_signature),
            ("another nonce", |bytes| bytes[60] ^= 1, is_challenge_signature),
            (
                "mutual authentication",
                |bytes| bytes[2] |= 0x80,
                |error| *error == RequesterError::UnaskedMutualAuth(ResponseCode::CHALLENGE_AUTH),
            ),
        ],
    );
    check(
        Stage::BeforeSignature(ResponseCode::CHALLENGE_AUTH),
        &operations,
        &[
            ("another slot", |bytes| bytes[2] = 1, |error| matches!(error, RequesterError::WrongSlot { .. })),
            ("an empty slot", |bytes| bytes[3] = 0, |error| matches!(error, RequesterError::ChainDigest(_))),
            ("another chain", |bytes| bytes[4] ^= 1, |error| matches!(error, RequesterError::ChainDigest(_))),
            (
                "another context",
                |bytes| *last_mut(bytes, 1) ^= 1,
                |error| matches!(error, RequesterError::Echo { field: "the context", .. }),
            ),
            (
                "opaque data that are none",
                |bytes| {
                    let context = bytes.split_off(bytes.len() - 8);
                    *last_mut(bytes, 2) = 4;
                    bytes.extend([1, 0, 0, 0]);
                    bytes.extend(context);
                },
                |error| matches!(error, RequesterError::Opaque { fault: OpaqueFault::Decode(_), .. }),
            ),
        ],
    );
}

#[test]
fn measurements_must_be_signed_and_be_those_that_were_asked_for() {
    let mut operations = until_session()[..3].to_vec();
    operations.push(Operation::Measurements(ALL));
    check(
        sealed(ResponseCode::MEASUREMENTS),
        &operations,
        &[
            (
                "another signature",
                |bytes| *last_mut(bytes, 1) ^= 1,
                |error| *error == RequesterError::BadSignature(ResponseCode::MEASUREMENTS),
            ),
            (
                "another measurement",
                |bytes| bytes[30] ^= 1,
                |error| *error == RequesterError::BadSignature(ResponseCode::MEASUREMENTS),
            ),
        ],
    );
    let stage = Stage::BeforeSignature(ResponseCode::MEASUREMENTS);
    check(
        stage,
        &operations,
        &[
            (
                "another slot",
                |bytes| bytes[3] |= 2,
                |error| matches!(error, RequesterError::WrongSlot { found: 2, .. }),
            ),
            (
                "the responder's own word",
                |bytes| bytes[3] = bytes[3] & 0xf | 0x10,
                |error| *error == RequesterError::MeasurementsChanged { index: None },
            ),
            ("another number of blocks", |bytes| bytes[4] = 2, is_decode),
            (
                "no blocks",
                |bytes| {
                    let size = usize::from(u16::from_le_bytes([bytes[5], bytes[6]]));
                    bytes[4..8].fill(0);
                    bytes.drain(8..8 + size);
                },
                |error| matches!(error, RequesterError::Measurements(_)),
            ),
            (
                "another context",
                |bytes| *last_mut(bytes, 1) ^= 1,
                |error| matches!(error, RequesterError::Echo { field: "the context", .. }),
            ),
        ],
    );
    let one = MeasurementsRequest { operation: MeasurementOperation::Index(2), ..ALL };
    *operations.last_mut().unwrap() = Operation::Measurements(one);
    let error = refused(stage, |bytes| bytes[8] = 3, &operations);
    assert!(matches!(error, RequesterError::Measurements(_)), "{error:?}");
}

#[test]
fn measurements_that_change_between_readings_are_named() {
    let changed = RequesterError::MeasurementsChanged { index: Some(1) };
    for inside in [false, true] {
        let mut bench = Bench::new();
        bench.run_all(until_session().into_iter().take(if inside { 4 } else { 3 })).unwrap();
        bench.line.device.drift = 1;
        let twice = MeasurementsRequest { compare: Compare::Twice, signed: None, ..ALL };
        if inside {
            // The session's own summary tells first.
            let error = bench.run(Operation::Measurements(twice)).unwrap_err();
            assert_eq!(error, RequesterError::SummaryMismatch);
        } else {
            assert_eq!(bench.run(Operation::Measurements(twice)), Err(changed.clone()));
        }
        bench.works_again();
    }
    // Read before the session, and again inside of it.
    let mut bench = Bench::new();
    bench.run_all(until_session().into_iter().take(3)).unwrap();
    bench.run(Operation::Measurements(ALL)).unwrap();
    bench.run(start_session(SummaryHash::None)).unwrap();
    bench.line.device.drift = 1;
    let earlier = MeasurementsRequest { compare: Compare::Earlier, ..ALL };
    assert_eq!(bench.run(Operation::Measurements(earlier)), Err(changed));
    bench.works_again();
}

#[test]
fn measurements_are_compared_only_with_a_reading_that_has_them() {
    let reading = |operation, compare| {
        Operation::Measurements(MeasurementsRequest { operation, compare, signed: None, ..ALL })
    };
    let (one, two) = (MeasurementOperation::Index(1), MeasurementOperation::Index(2));
    let (all, total) = (MeasurementOperation::All, MeasurementOperation::Total);
    for (first, second, comparable) in [
        (all, all, true),
        (all, two, true),
        (all, total, true),
        (one, one, true),
        (one, two, false),
        (one, all, false),
        (one, total, false),
    ] {
        let mut bench = Bench::new();
        bench.run_all([Operation::Connect, reading(first, Compare::Nothing)]).unwrap();
        let compared = bench.run(reading(second, Compare::Earlier));
        if comparable {
            assert!(compared.is_ok(), "{second:?} after {first:?}: {compared:?}");
        } else {
            assert_eq!(compared, Err(RequesterError::NoMeasurements), "{second:?} after {first:?}");
        }
    }
    // A block that came is noticed by its number, too.
    let mut bench = Bench::new();
    bench.run_all([Operation::Connect, reading(all, Compare::Nothing)]).unwrap();
    bench.line.device.measured.pop();
    let fewer = bench.run(reading(total, Compare::Earlier));
    assert_eq!(fewer, Err(RequesterError::MeasurementsChanged { index: None }));
    bench.works_again();
}

#[test]
fn a_summary_must_be_that_of_the_measurements() {
    let summary = |bytes: &mut Vec<u8>| bytes[40 + 96] ^= 1;
    let stage = Stage::BeforeSignature(ResponseCode::KEY_EXCHANGE_RSP);
    let mut operations = until_session().to_vec();
    operations.insert(3, Operation::Measurements(ALL));
    assert_eq!(refused(stage, summary, &operations), RequesterError::SummaryMismatch);
    let mut operations = until_session().to_vec();
    operations.push(Operation::Measurements(ALL));
    assert_eq!(refused(stage, summary, &operations), RequesterError::SummaryMismatch);
}
