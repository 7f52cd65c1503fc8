//! Busy responders, and responses that are not ready.

use alloc::boxed::Box;
use alloc::vec;

use core::time::Duration;

use bench::{ALL, Bench, start_session, until_session};

use super::bench;
use crate::ids::SlotId;
use crate::msg::{RequestCode, ResponseCode, SummaryHash};
use crate::requester::{ChallengeRequest, Operation, Outcome, RequesterConfig, RequesterError};
use crate::responder::{Delay, Stage};

const DELAY: Delay = Delay { exponent: 12, multiplier: 8 };

const CODES: [RequestCode; 9] = [
    RequestCode::GET_DIGESTS,
    RequestCode::GET_CERTIFICATE,
    RequestCode::CHALLENGE,
    RequestCode::GET_MEASUREMENTS,
    RequestCode::KEY_EXCHANGE,
    RequestCode::FINISH,
    RequestCode::HEARTBEAT,
    RequestCode::KEY_UPDATE,
    RequestCode::VENDOR_DEFINED,
];

/// Each of the requests, at least once.
fn everything() -> alloc::vec::Vec<Operation> {
    let slot = SlotId::ZERO;
    vec![
        Operation::Connect,
        Operation::Digests,
        Operation::Certificate(slot),
        Operation::Challenge(ChallengeRequest { slot, summary: SummaryHash::All }),
        Operation::Measurements(ALL),
        start_session(SummaryHash::All),
        Operation::Heartbeat,
        Operation::KeyUpdate { all: true },
        Operation::KeyUpdate { all: false },
        Operation::Vendor(vec![1].into()),
        Operation::Measurements(ALL),
        Operation::EndSession,
    ]
}

#[test]
fn a_busy_responder_is_asked_again() {
    for code in CODES {
        let mut bench = Bench::new();
        bench.line.device.busy = Some((code, 3));
        bench.run_all(everything()).unwrap();
        assert_eq!(bench.line.waits, [RequesterConfig::default().busy_delay; 3]);
    }
}

#[test]
fn a_responder_that_stays_busy_is_given_up() {
    for request in CODES {
        let mut bench = Bench::new();
        bench.line.device.busy = Some((request, u32::MAX));
        assert_eq!(bench.run_all(everything()), Err(RequesterError::Busy { request, tries: 9 }));
        bench.works_again();
    }
}

#[test]
fn a_response_that_is_not_ready_is_asked_for_later() {
    for code in CODES {
        let mut bench = Bench::new();
        bench.line.device.not_ready = Some((code, 2, DELAY));
        bench.run_all(everything()).unwrap();
        assert_eq!(bench.line.waits, [Duration::from_micros(4096); 2]);
    }
}

#[test]
fn a_response_that_never_gets_ready_is_given_up() {
    for request in CODES {
        let mut bench = Bench::new();
        bench.line.device.not_ready = Some((request, u32::MAX, DELAY));
        assert_eq!(bench.run_all(everything()), Err(RequesterError::NeverReady { request, tries: 17 }));
        bench.works_again();
    }
}

#[test]
fn not_ready_must_be_about_the_request_and_a_time_that_can_be_waited() {
    let answers = [
        ("another request", ResponseCode::DIGESTS, [12, 0x82, 1, 8]),
        ("a time without end", ResponseCode::DIGESTS, [40, 0x81, 1, 8]),
        ("no time to ask in", ResponseCode::DIGESTS, [12, 0x81, 1, 1]),
        ("before anything is agreed on", ResponseCode::ALGORITHMS, [12, 0xe3, 1, 8]),
        ("before there is a version", ResponseCode::VERSION, [12, 0x84, 1, 8]),
    ];
    for (what, code, data) in answers {
        let mut bench = Bench::new();
        bench.line.device.bend = Box::new(move |at, bytes| {
            if at == Stage::BeforeSeal(code) {
                let version = bytes[0];
                *bytes = [&[version, 0x7f, 0x42, 0][..], &data].concat();
            }
        });
        let error = bench.run_all(until_session()).unwrap_err();
        assert!(matches!(error, RequesterError::NotReady { .. }), "{what}: {error:?}");
        bench.works_again();
    }
}

#[test]
fn a_late_answer_must_be_the_right_one_too() {
    let mut bench = Bench::new();
    bench.line.device.not_ready = Some((RequestCode::GET_DIGESTS, 1, DELAY));
    bench.line.device.bend = Box::new(|at, bytes| {
        if at == Stage::BeforeSeal(ResponseCode::DIGESTS) {
            bytes[1] = ResponseCode::CERTIFICATE.0;
        }
    });
    assert!(matches!(bench.session(), Err(RequesterError::Unexpected { .. })));
    bench.works_again();
}

#[test]
fn busy_responders_do_not_undo_a_key_update() {
    let mut bench = Bench::new();
    bench.session().unwrap();
    for all in [true, false] {
        bench.line.device.busy = Some((RequestCode::KEY_UPDATE, 2));
        assert_eq!(bench.run(Operation::KeyUpdate { all }), Ok(Outcome::KeysUpdated));
        assert_eq!(bench.run(Operation::Heartbeat), Ok(Outcome::Alive));
    }
}
