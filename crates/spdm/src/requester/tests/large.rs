//! Large messages, both ways.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use bench::{ALL, Bench, until_session};

use super::bench;
use crate::Kind;
use crate::ids::SlotId;
use crate::msg::{Header, MeasurementOperation, RequestCode, ResponseCode};
use crate::requester::{
    ChunkFault, MeasurementsRequest, Operation, Outcome, RequesterConfig, RequesterError,
};
use crate::responder::{Config, Stage};

fn small(ours: u32, theirs: u32) -> (RequesterConfig, Config) {
    (
        RequesterConfig { data_transfer_size: ours, certificate_portion: 0, ..RequesterConfig::default() },
        Config { data_transfer_size: theirs, ..Config::default() },
    )
}

fn sent(bench: &Bench, code: RequestCode) -> usize {
    let clear = bench.line.sent.iter().filter(|(kind, _)| *kind == Kind::Clear);
    clear.filter(|(_, bytes)| Header::peek(bytes).is_ok_and(|header| header.code == code.0)).count()
}

#[test]
fn everything_works_in_transfers_of_any_size() {
    for (ours, theirs) in [(42, 4056), (4056, 42), (42, 42), (64, 100), (150, 47), (100, 4056)] {
        let (requester, responder) = small(ours, theirs);
        let mut bench = Bench::with(requester, responder);
        bench.session().unwrap();
        assert!(bench.run(Operation::Measurements(ALL)).is_ok(), "{ours} {theirs}");
        let payload: Vec<u8> = (0..=255).cycle().take(1000).collect();
        let reversed: Vec<_> = payload.iter().copied().rev().collect();
        assert_eq!(bench.run(Operation::Vendor(payload.into())), Ok(Outcome::Vendor(reversed.into())));
        assert_eq!(bench.run(Operation::KeyUpdate { all: true }), Ok(Outcome::KeysUpdated));
        assert_eq!(sent(&bench, RequestCode::CHUNK_GET) > 0, ours < 200, "{ours} {theirs}");
        assert_eq!(sent(&bench, RequestCode::CHUNK_SEND) > 0, theirs < 200, "{ours} {theirs}");
        let limit = theirs as usize;
        let clear = bench.line.sent.iter().filter(|(kind, _)| *kind == Kind::Clear);
        assert!(clear.map(|(_, bytes)| bytes.len()).all(|size| size <= limit));
    }
}

#[test]
fn a_large_request_survives_busy_and_slow_responders() {
    let (ours, theirs) = small(4056, 64);
    let mut bench = Bench::with(ours, theirs);
    bench.line.device.busy = Some((RequestCode::CHUNK_SEND, 2));
    let delay = crate::responder::Delay { exponent: 3, multiplier: 4 };
    bench.line.device.not_ready = Some((RequestCode::KEY_EXCHANGE, 2, delay));
    bench.session().unwrap();
    assert_eq!(bench.line.waits.len(), 4);
}

#[test]
fn without_chunks_portions_fit_and_large_requests_are_refused_before_they_go() {
    let ours = RequesterConfig {
        flags: RequesterConfig::default().flags.with_chunk(false),
        data_transfer_size: 600,
        max_message_size: 600,
        certificate_portion: 0,
        ..RequesterConfig::default()
    };
    let mut bench = Bench::with(ours, Config { data_transfer_size: 300, ..Config::default() });
    bench.session().unwrap();
    assert_eq!(sent(&bench, RequestCode::CHUNK_GET) + sent(&bench, RequestCode::CHUNK_SEND), 0);
    let one = MeasurementOperation::Index(1);
    let unsigned = MeasurementsRequest { operation: one, signed: None, ..ALL };
    bench.run(Operation::Measurements(unsigned)).unwrap();
    let refused = bench.run(Operation::Vendor(vec![0; 290].into()));
    assert_eq!(refused, Err(RequesterError::RequestTooLarge { size: 301, limit: 300 }));
    // The session is as it was, and so is what a signature is to cover.
    bench.run(Operation::Measurements(MeasurementsRequest { operation: one, ..ALL })).unwrap();
    assert_eq!(bench.run(Operation::Vendor(vec![4, 5].into())), Ok(Outcome::Vendor(vec![5, 4].into())));
}

#[test]
fn a_responder_that_takes_too_little_is_named() {
    let theirs = Config { flags: Config::default().flags.with_chunk(false), ..Config::default() };
    let theirs = Config { data_transfer_size: 60, max_message_size: 60, ..theirs };
    let mut bench = Bench::with(RequesterConfig::default(), theirs);
    bench.run_all(until_session().into_iter().take(3)).unwrap();
    let refused = bench.run(until_session()[3].clone()).unwrap_err();
    assert!(matches!(refused, RequesterError::RequestTooLarge { limit: 60, .. }), "{refused:?}");
    let theirs = Config { flags: Config::default().flags.with_chunk(false), ..Config::default() };
    let theirs = Config { data_transfer_size: 42, max_message_size: 42, ..theirs };
    let mut bench = Bench::with(RequesterConfig::default(), theirs);
    let refused = bench.run(Operation::Connect);
    let request = RequestCode::NEGOTIATE_ALGORITHMS;
    assert_eq!(refused, Err(RequesterError::PeerTooSmall { request, size: 44, limit: 42 }));
}

/// The fault that a device makes which bends its chunks.
fn fault(ours: u32, theirs: u32, code: ResponseCode, bend: fn(usize, &mut Vec<u8>)) -> RequesterError {
    let (ours, theirs) = small(ours, theirs);
    let mut bench = Bench::with(ours, theirs);
    let mut number = 0;
    bench.line.device.bend = Box::new(move |at, bytes| {
        if at == Stage::BeforeSeal(code) {
            bend(number, bytes);
            number += 1;
        }
    });
    let error = bench.run_all(until_session()).unwrap_err();
    bench.works_again();
    error
}

#[test]
fn chunks_of_a_response_must_come_in_order_and_fit() {
    type Case = (&'static str, fn(usize, &mut Vec<u8>), fn(&ChunkFault) -> bool);
    let cases: [Case; 7] = [
        ("another transfer", |_, bytes| bytes[3] ^= 1, |fault| matches!(fault, ChunkFault::Handle { .. })),
        (
            "out of order",
            |number, bytes| bytes[4] += u8::from(number == 1),
            |fault| matches!(fault, ChunkFault::Sequence { found: 2, expected: 1 }),
        ),
        ("more than is taken", |_, bytes| bytes[14] = 0xff, |fault| matches!(fault, ChunkFault::Total(_))),
        (
            "not large",
            |_, bytes| {
                bytes.truncate(42);
                bytes[8] = 26;
                bytes[12..16].copy_from_slice(&[42, 0, 0, 0]);
            },
            |fault| matches!(fault, ChunkFault::Total(42)),
        ),
        ("last too early", |_, bytes| bytes[2] = 1, |fault| matches!(fault, ChunkFault::Last)),
        (
            "longer than it said",
            |number, bytes| {
                if number == 0 {
                    let total = bytes.len() - 16 + 1;
                    bytes[12..14].copy_from_slice(&u16::try_from(total).unwrap().to_le_bytes());
                }
            },
            |fault| matches!(fault, ChunkFault::Overrun { .. }),
        ),
        (
            "small chunks",
            |_, bytes| {
                bytes.truncate(40);
                bytes[8] = 24;
            },
            |fault| matches!(fault, ChunkFault::Small(24)),
        ),
    ];
    for (what, bend, expected) in cases {
        let error = fault(100, 4056, ResponseCode::CHUNK_RESPONSE, bend);
        assert!(
            matches!(&error, RequesterError::Chunk { fault, .. } if expected(fault)),
            "{what}: {error:?}"
        );
    }
    let error = fault(100, 4056, ResponseCode::CHUNK_RESPONSE, |number, bytes| {
        if number == 0 {
            bytes[17] = ResponseCode::DIGESTS.0;
        }
    });
    assert!(matches!(error, RequesterError::Unexpected { found: ResponseCode::DIGESTS, .. }), "{error:?}");
}

#[test]
fn acknowledgements_of_a_request_in_chunks_must_fit() {
    let code = ResponseCode::CHUNK_SEND_ACK;
    let error = fault(4056, 64, code, |_, bytes| bytes[3] ^= 1);
    assert!(matches!(error, RequesterError::Chunk { fault: ChunkFault::Handle { .. }, .. }), "{error:?}");
    let error = fault(4056, 64, code, |_, bytes| bytes[4] ^= 1);
    assert!(matches!(error, RequesterError::Chunk { fault: ChunkFault::Sequence { .. }, .. }), "{error:?}");
    let error = fault(4056, 64, code, |number, bytes| {
        if number == 0 {
            bytes.extend([0x13, 0x64, 0, 0]);
        }
    });
    assert!(matches!(error, RequesterError::Chunk { fault: ChunkFault::Answer, .. }), "{error:?}");
    let error = fault(4056, 64, code, |_, bytes| {
        bytes[2] = 1;
        bytes.truncate(6);
        bytes.extend([0x13, 0x7f, 1, 0]);
    });
    assert!(matches!(error, RequesterError::Refused { .. }), "{error:?}");
}

#[test]
fn what_is_not_large_does_not_come_in_chunks() {
    for code in [ResponseCode::VERSION, ResponseCode::CAPABILITIES] {
        let error = fault(4056, 4056, code, |_, bytes| {
            let version = bytes[0];
            *bytes = vec![version, 0x7f, 0x0f, 0, 7];
        });
        assert!(
            matches!(error, RequesterError::Chunk { fault: ChunkFault::NotAllowed, .. }),
            "{code}: {error:?}"
        );
    }
    // Nor a chunk itself.
    let error = fault(100, 4056, ResponseCode::CHUNK_RESPONSE, |_, bytes| {
        *bytes = vec![0x13, 0x7f, 0x0f, 0, 7];
    });
    assert!(matches!(error, RequesterError::Chunk { fault: ChunkFault::NotAllowed, .. }), "{error:?}");
}

#[test]
fn an_answer_larger_than_was_said_is_refused() {
    let (ours, theirs) = small(600, 4056);
    let mut bench = Bench::with(ours, theirs);
    bench.run_all(until_session().into_iter().take(2)).unwrap();
    bench.line.device.bend = Box::new(|at, bytes| {
        if at == Stage::BeforeSeal(ResponseCode::ERROR) {
            bytes.resize(1000, 0);
        }
    });
    let error = bench.run(Operation::Certificate(SlotId::ZERO)).unwrap_err();
    assert!(matches!(error, RequesterError::AnswerTooLarge { size: 1000, .. }), "{error:?}");
    bench.works_again();
}
