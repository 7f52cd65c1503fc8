//! A requester that goes on where another one was, and what cannot be saved or restored.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;
use proptest::sample::Index;

use super::bench::{ALL, Bench, NOW, start_session, until_session};
use crate::Kind;
use crate::crypto::aws_lc::AwsLc;
use crate::ids::{SlotId, Version};
use crate::msg::{RequestCode, SummaryHash};
use crate::requester::exchange::Mode;
use crate::requester::flows::{Evidence, EvidenceProfile};
use crate::requester::{
    Blame, ChallengeRequest, Compare, MeasurementsRequest, NotSavable, Operation, Outcome, Progress,
    Requester, RequesterConfig, RequesterError, RestoreError, Step, Transport, TransportFailure, drive,
};
use crate::responder::{Config, Delay};
use crate::secured::Direction;
use crate::wire::DecodeError;

fn restore(bench: &Bench, bytes: &[u8]) -> Result<Requester, RestoreError> {
    let config = bench.requester.config().clone();
    Requester::restore(config, Arc::new(AwsLc), Arc::clone(&bench.verifier), bytes)
}

/// Puts a requester that was restored into the place of the one that was saved.
fn replace(bench: &mut Bench) {
    let saved = bench.requester.save().unwrap();
    let restored = restore(bench, &saved).unwrap();
    assert_eq!(restored.save().unwrap(), saved, "nothing is lost");
    assert_eq!(least_chunk(&restored), least_chunk(&bench.requester), "and what follows is derived again");
    bench.requester = restored;
}

/// What the first chunk of an answer has to announce at least.
fn least_chunk(requester: &Requester) -> Option<usize> {
    match requester.flight.as_ref()?.mode {
        Mode::Fetching { least, .. } => Some(least),
        _ => None,
    }
}

/// Carries an operation out with another requester after every step.
fn run_replaced(bench: &mut Bench, operation: Operation) -> Result<Outcome, RequesterError> {
    bench.requester.start(operation)?;
    loop {
        replace(bench);
        let out = bench.requester.transmit().unwrap();
        replace(bench);
        assert_eq!(bench.requester.transmit(), None, "it was sent already");
        let (kind, payload) = bench.line.exchange(out.kind, &out.payload).unwrap();
        if let Progress::Done(outcome) = bench.requester.receive(kind, &payload, NOW)? {
            return Ok(outcome);
        }
    }
}

#[test]
fn every_request_of_a_session_goes_on_at_each_of_its_steps() {
    for version in Version::SPOKEN {
        for transfer in [4056, 100] {
            let ours = RequesterConfig {
                versions: vec![version],
                data_transfer_size: transfer,
                ..RequesterConfig::default()
            };
            let theirs = Config { data_transfer_size: transfer, ..Config::default() };
            let mut bench = Bench::with(ours, theirs);
            bench.session().unwrap();
            let facts = *bench.requester.session().unwrap();
            for all in [true, false, true] {
                assert_eq!(run_replaced(&mut bench, Operation::KeyUpdate { all }), Ok(Outcome::KeysUpdated));
                assert_eq!(run_replaced(&mut bench, Operation::Heartbeat), Ok(Outcome::Alive));
            }
            let payload: Vec<u8> = (0..250).collect();
            let answer: Vec<u8> = (0..250).rev().collect();
            let vendor = run_replaced(&mut bench, Operation::Vendor(payload.into()));
            assert_eq!(vendor, Ok(Outcome::Vendor(answer.into())));
            for compare in [Compare::Nothing, Compare::Twice, Compare::Earlier] {
                let wanted = MeasurementsRequest { compare, ..ALL };
                let read = run_replaced(&mut bench, Operation::Measurements(wanted));
                assert!(matches!(read, Ok(Outcome::Measurements(_))), "{read:?}");
            }
            assert_eq!(run_replaced(&mut bench, Operation::Digests), Ok(Outcome::Digests));
            let slot = SlotId::ZERO;
            assert_eq!(
                run_replaced(&mut bench, Operation::Certificate(slot)),
                Ok(Outcome::Certificate(slot))
            );
            assert_eq!(bench.requester.session(), Some(&facts));
            assert_eq!(run_replaced(&mut bench, Operation::EndSession), Ok(Outcome::Ended));
            assert_eq!(bench.requester.save().err(), Some(NotSavable::NoSession));
            // The connection goes on without the session, and another one begins.
            let challenge = ChallengeRequest { slot, summary: SummaryHash::All };
            bench.run(Operation::Challenge(challenge)).unwrap();
            bench.run(start_session(SummaryHash::All)).unwrap();
            assert_ne!(bench.requester.session().unwrap().id, facts.id);
        }
    }
}

#[test]
fn busy_and_late_answers_are_counted_on() {
    let mut bench = Bench::new();
    bench.session().unwrap();
    for code in [RequestCode::VENDOR_DEFINED, RequestCode::KEY_UPDATE] {
        let operation = || match code {
            RequestCode::KEY_UPDATE => Operation::KeyUpdate { all: true },
            _ => Operation::Vendor(vec![1].into()),
        };
        bench.line.device.busy = Some((code, 3));
        run_replaced(&mut bench, operation()).unwrap();
        bench.line.device.not_ready = Some((code, 2, Delay { exponent: 1, multiplier: 2 }));
        run_replaced(&mut bench, operation()).unwrap();
    }
    bench.line.device.busy = Some((RequestCode::HEARTBEAT, u32::MAX));
    let request = RequestCode::HEARTBEAT;
    assert_eq!(
        run_replaced(&mut bench, Operation::Heartbeat),
        Err(RequesterError::Busy { request, tries: 9 })
    );
}

#[test]
fn what_was_known_is_still_known() {
    let mut bench = Bench::new();
    bench.run_all(until_session().into_iter().take(3)).unwrap();
    bench.run(Operation::Measurements(ALL)).unwrap();
    bench.run(start_session(SummaryHash::All)).unwrap();
    bench.run(Operation::KeyUpdate { all: true }).unwrap();
    bench.run(Operation::Heartbeat).unwrap();
    let restored = restore(&bench, &bench.requester.save().unwrap()).unwrap();
    let old = &bench.requester;
    assert_eq!(restored.connection(), old.connection());
    assert_eq!(restored.slots(), old.slots());
    assert_eq!(restored.chain(SlotId::ZERO), old.chain(SlotId::ZERO));
    assert_eq!(restored.measurements(), old.measurements());
    assert_eq!(restored.session(), old.session());
    assert_eq!(restored.evidence(), old.evidence());
    for direction in Direction::ALL {
        assert_eq!(restored.messages_under_key(direction), old.messages_under_key(direction));
        assert_eq!(restored.key_updates(direction), Some(1));
    }
}

#[test]
fn a_recollection_goes_on_in_a_restored_requester() {
    let mut bench = Bench::new();
    bench.session().unwrap();
    let profile = EvidenceProfile::default();
    Evidence::recollect(profile, &mut bench.requester).unwrap();
    let out = bench.requester.transmit().unwrap();
    replace(&mut bench);
    let (kind, payload) = bench.line.exchange(out.kind, &out.payload).unwrap();
    let mut evidence = Evidence::recollecting(profile);
    let done = evidence.receive(&mut bench.requester, kind, &payload, NOW);
    assert!(matches!(done, Ok(Progress::Done(Outcome::Measurements(_)))), "{done:?}");
}

#[test]
fn limits_are_those_of_the_new_configuration() {
    let mut bench = Bench::new();
    bench.session().unwrap();
    for _ in 0..5 {
        bench.run(Operation::Heartbeat).unwrap();
    }
    let config = RequesterConfig { refresh_after: 5, sequence_limit: 30, ..RequesterConfig::default() };
    let saved = bench.requester.save().unwrap();
    let verifier = Arc::clone(&bench.verifier);
    let restored = Requester::restore(config.clone(), Arc::new(AwsLc), Arc::clone(&verifier), &saved);
    assert!(!bench.requester.keys_used_up());
    bench.requester = restored.unwrap();
    assert!(bench.requester.keys_used_up());
    let none = RequesterConfig { versions: vec![], ..config };
    let refused = Requester::restore(none, Arc::new(AwsLc), verifier, &saved);
    assert!(matches!(refused, Err(RestoreError::Configuration(RequesterError::Configuration(_)))));
    for _ in 5..30 {
        bench.run(Operation::Heartbeat).unwrap();
    }
    assert_eq!(bench.run(Operation::Heartbeat).unwrap_err().blame(), Blame::Platform);
}

#[test]
fn handshakes_are_not_saved() {
    let mut bench = Bench::new();
    assert_eq!(bench.requester.save().err(), Some(NotSavable::NoSession));
    let challenge = ChallengeRequest { slot: SlotId::ZERO, summary: SummaryHash::All };
    let mut operations = until_session().to_vec();
    operations.insert(3, Operation::Challenge(challenge));
    let last = operations.len() - 1;
    for (number, operation) in operations.into_iter().enumerate() {
        bench.requester.start(operation).unwrap();
        loop {
            let code = bench.requester.under_way().unwrap();
            assert_eq!(bench.requester.save().err(), Some(NotSavable::Handshake(code)));
            let out = bench.requester.transmit().unwrap();
            assert_eq!(bench.requester.save().err(), Some(NotSavable::Handshake(code)));
            let (kind, payload) = bench.line.exchange(out.kind, &out.payload).unwrap();
            if let Progress::Done(_) = bench.requester.receive(kind, &payload, NOW).unwrap() {
                break;
            }
        }
        assert_eq!(bench.requester.save().is_ok(), number == last);
    }
}

#[test]
fn transcripts_that_have_begun_are_not_saved() {
    let mut bench = Bench::new();
    bench.session().unwrap();
    let unsigned = MeasurementsRequest { signed: None, ..ALL };
    bench.run(Operation::Measurements(unsigned)).unwrap();
    assert_eq!(bench.requester.save().err(), Some(NotSavable::Unsigned));
    bench.run(Operation::Measurements(ALL)).unwrap();
    assert!(bench.requester.save().is_ok(), "the signature was for both");

    let mut bench = Bench::new();
    bench.run_all(until_session().into_iter().take(3)).unwrap();
    let slot = SlotId::ZERO;
    bench.run(Operation::Challenge(ChallengeRequest { slot, summary: SummaryHash::None })).unwrap();
    bench.run(Operation::Digests).unwrap();
    bench.run(start_session(SummaryHash::None)).unwrap();
    assert_eq!(bench.requester.save().err(), Some(NotSavable::Challenge));
}

#[test]
fn a_state_has_its_limit() {
    let mut bench = Bench::new();
    bench.session().unwrap();
    bench.requester.transcript.append_vca(&vec![0; 1 << 19]);
    assert!(bench.requester.save().is_ok());
    bench.requester.transcript.append_vca(&vec![0; 1 << 19]);
    assert_eq!(bench.requester.save().err(), Some(NotSavable::TooLarge(1 << 20)));
}

/// A session, and a request in it whose answer is waited for.
fn waiting(operation: Operation) -> Bench {
    let mut bench = Bench::new();
    bench.session().unwrap();
    bench.requester.start(operation).unwrap();
    bench.requester.transmit().unwrap();
    bench
}

#[test]
fn bytes_of_another_format_are_refused_by_name() {
    let bench = waiting(Operation::Heartbeat);
    let saved = bench.requester.save().unwrap();
    let refused = |bytes: &[u8]| restore(&bench, bytes).err();
    assert_eq!(refused(&[]), Some(RestoreError::Magic));
    assert_eq!(refused(&saved[1..]), Some(RestoreError::Magic));
    let mut newer = saved.to_vec();
    newer[8] = 2;
    assert_eq!(refused(&newer), Some(RestoreError::Format(2)));
    let longer = [&saved[..], &[0]].concat();
    assert_eq!(refused(&longer), Some(RestoreError::Decode(DecodeError::Trailing { extra: 1 })));
    for size in 10..saved.len() {
        let cut = refused(&saved[..size]);
        assert!(matches!(cut, Some(RestoreError::Decode(_))), "{size} bytes: {cut:?}");
    }
}

type Bend = fn(&mut Requester);

fn flight(requester: &mut Requester) -> &mut crate::requester::exchange::Flight {
    requester.flight.as_mut().unwrap()
}

fn chunks(sequence: u16, total: Option<usize>, got: usize) -> Mode {
    Mode::Fetching { handle: 0, sequence, total, got: vec![0; got], least: 42 }
}

#[test]
fn parts_that_contradict_each_other_are_refused() {
    let cases: [(&str, Bend); 13] = [
        ("a chain of another digest", |requester| requester.chains[0].as_mut().unwrap().bytes[9] ^= 1),
        ("more sent than there is", |requester| {
            flight(requester).mode = Mode::Sending { handle: 0, sequence: 0, sent: 1000 };
        }),
        ("nothing sent", |requester| {
            flight(requester).mode = Mode::Sending { handle: 0, sequence: 0, sent: 0 };
        }),
        ("chunks without a first one", |requester| flight(requester).mode = chunks(1, None, 0)),
        ("a first chunk twice", |requester| flight(requester).mode = chunks(0, Some(100), 50)),
        ("a whole that has come", |requester| flight(requester).mode = chunks(1, Some(50), 50)),
        ("a whole of which nothing has come", |requester| flight(requester).mode = chunks(1, Some(50), 0)),
        ("chunks of nothing", |requester| flight(requester).mode = chunks(1, None, 50)),
        ("an answer too large", |requester| flight(requester).mode = chunks(1, Some(0x1_2001), 50)),
        ("nothing to compare with", |requester| {
            let Step::Measurements(asked) = &mut flight(requester).step else { panic!("measurements") };
            asked.request.compare = Compare::Earlier;
        }),
        ("a comparison that nobody wants", |requester| {
            requester.measurements = None;
            let messages = flight(requester).request.to_vec();
            let layout = requester.connection.unwrap().layout();
            let response = crate::msg::Measurements {
                version: layout.version,
                total: 0,
                slot: SlotId::ZERO,
                content: crate::msg::ContentChange::NotWatched,
                blocks: 0,
                record: &[],
                nonce: [0; 32],
                opaque: &[],
                context: Some([0; 8]),
                signature: Some(&[0; 96]),
            };
            let mut room = vec![0; 400];
            let bytes = crate::msg::encode(&mut room, |writer| response.write(writer)).unwrap();
            let messages = [&messages[..], bytes].concat();
            let record = crate::requester::MeasurementRecord::new(ALL, &response, None, messages);
            let Step::Measurements(asked) = &mut flight(requester).step else { panic!("measurements") };
            asked.earlier = Some(record);
        }),
        ("the same, read as another chain", |requester| {
            requester.chains[0].as_mut().unwrap().bytes.push(0);
        }),
        ("a slot that is empty", |requester| requester.slots = Some(crate::requester::Slots::default())),
    ];
    for (what, bend) in cases {
        let mut bench = waiting(Operation::Measurements(ALL));
        assert!(restore(&bench, &bench.requester.save().unwrap()).is_ok());
        bend(&mut bench.requester);
        let refused = restore(&bench, &bench.requester.save().unwrap()).err();
        assert!(matches!(refused, Some(RestoreError::Contradiction(_))), "{what}: {refused:?}");
    }
}

#[test]
fn fields_that_cannot_be_so_are_refused() {
    let cases: [(&str, Bend); 13] = [
        ("Version", |requester| requester.connection.as_mut().unwrap().version = Version::V1_4),
        ("CTExponent", |requester| requester.connection.as_mut().unwrap().peer.ct_exponent = 32),
        ("DataTransferSize", |requester| {
            requester.connection.as_mut().unwrap().peer.data_transfer_size = 41;
        }),
        ("MaxSPDMmsgSize", |requester| {
            let peer = &mut requester.connection.as_mut().unwrap().peer;
            peer.max_message_size = peer.data_transfer_size - 1;
        }),
        ("DHE", |requester| requester.connection.as_mut().unwrap().suite.dhe = None),
        ("AEAD", |requester| requester.connection.as_mut().unwrap().suite.aead = None),
        ("NextSession", |requester| requester.next_session = 0),
        ("Busy", |requester| flight(requester).busy = u32::MAX),
        ("Polls", |requester| flight(requester).polls = u32::MAX),
        ("Request", |requester| flight(requester).request[1] = RequestCode::KEY_EXCHANGE.0),
        ("Request", |requester| flight(requester).request[1] = RequestCode::CHALLENGE.0),
        ("Request", |requester| flight(requester).request[1] = 0x01),
        ("KeyOperation", |requester| {
            let request = &mut flight(requester).request;
            (request[1], request[2]) = (RequestCode::KEY_UPDATE.0, 9);
        }),
    ];
    for (expected, bend) in cases {
        let mut bench = waiting(Operation::Heartbeat);
        bend(&mut bench.requester);
        let refused = restore(&bench, &bench.requester.save().unwrap()).err();
        let Some(RestoreError::Decode(DecodeError::Value { field, .. })) = refused else {
            panic!("{expected}: {refused:?}")
        };
        assert_eq!(field, expected);
    }
    for operation in
        [Operation::Heartbeat, Operation::EndSession, Operation::Digests, Operation::Measurements(ALL)]
    {
        let mut bench = waiting(operation.clone());
        flight(&mut bench.requester).request.push(0);
        let refused = restore(&bench, &bench.requester.save().unwrap()).err();
        let trailing = DecodeError::Trailing { extra: 1 };
        assert_eq!(refused, Some(RestoreError::Decode(trailing)), "{operation:?}");
    }
}

#[test]
fn the_state_of_one_session_does_not_open_messages_of_another() {
    let mut bench = Bench::new();
    bench.session().unwrap();
    bench.run(Operation::Heartbeat).unwrap();
    let saved = bench.requester.save().unwrap();
    // The session goes on without the one that was saved: its numbers are used already.
    bench.run(Operation::Heartbeat).unwrap();
    bench.requester = restore(&bench, &saved).unwrap();
    assert!(bench.run(Operation::Heartbeat).is_err());
    bench.works_again();
}

/// Saved states of sessions, each with another request under way.
fn states() -> Vec<(Bench, Vec<u8>)> {
    let operations = [
        Operation::Heartbeat,
        Operation::KeyUpdate { all: true },
        Operation::Vendor(vec![7; 20].into()),
        Operation::Measurements(ALL),
        Operation::Certificate(SlotId::ZERO),
    ];
    let states = operations.map(|operation| {
        let mut bench = Bench::new();
        bench.session().unwrap();
        bench.run(Operation::Measurements(ALL)).unwrap();
        bench.requester.start(operation).unwrap();
        let saved = bench.requester.save().unwrap().to_vec();
        (bench, saved)
    });
    states.into()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn hostile_bytes_are_refused_or_make_a_requester_that_can_fail(
        changes in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..4),
        answer in proptest::collection::vec(any::<u8>(), 0..80),
        noise in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        for (mut bench, mut bytes) in states() {
            for (at, with) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *with;
            }
            if let Ok(restored) = restore(&bench, &bytes) {
                prop_assert_eq!(&restored.save().unwrap()[..], &bytes[..], "what is read is what is written");
                bench.requester = restored;
                let _ = bench.requester.keys_used_up();
                while let Some(out) = bench.requester.transmit() {
                    let exchanged = bench.line.exchange(out.kind, &out.payload);
                    let answered = match exchanged {
                        Ok((kind, payload)) => bench.requester.receive(kind, &payload, NOW),
                        Err(failure) => Err(bench.requester.fail(failure)),
                    };
                    prop_assert!(bench.requester.under_way().is_none() || answered.is_ok());
                }
                if bench.requester.under_way().is_some() {
                    let failed = bench.requester.receive(Kind::Secured, &answer, NOW);
                    prop_assert!(failed.is_err());
                }
                let _ = drive(&mut bench.requester, Operation::Heartbeat, &mut bench.line);
                let _ = bench.requester.fail(TransportFailure::Silence);
            }
            let marked = [&b"SPDMreq\0\x01\0"[..], &noise].concat();
            prop_assert!(restore(&bench, &noise).is_err() && restore(&bench, &marked).is_err());
            bench.line.tamper = Box::new(|_, _, _| Ok(()));
            bench.requester.reset();
            bench.works_again();
        }
    }
}
