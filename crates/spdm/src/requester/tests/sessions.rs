//! What works.

extern crate std;

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use std::sync::Mutex;

use bench::{ALL, Bench, start_session, until_session};

use super::bench;
use crate::Kind;
use crate::algo::{AeadAlgo, AsymAlgo, DheGroup, HashAlgo};
use crate::ids::{SessionId, SlotId, Version};
use crate::msg::{MeasurementOperation, SummaryHash, VersionNumber};
use crate::observe::{Observer, SessionSecrets};
use crate::requester::flows::{self, Profile};
use crate::requester::{
    Blame, ChallengeRequest, Compare, MeasurementsRequest, Operation, Outcome, RequesterConfig,
    RequesterError,
};
use crate::responder::{Config, SessionEnd};
use crate::secured::{Direction, Phase};

#[test]
fn a_session_is_established_with_every_algorithm_and_version() {
    for version in Version::SPOKEN {
        for (hash, asym) in [HashAlgo::Sha256, HashAlgo::Sha384].into_iter().zip(AsymAlgo::ALL) {
            for (dhe, aead) in DheGroup::ALL.into_iter().zip(AeadAlgo::ALL) {
                let ours = RequesterConfig {
                    versions: vec![version],
                    hashes: vec![hash],
                    dhes: vec![dhe],
                    aeads: vec![aead],
                    ..RequesterConfig::default()
                };
                let mut bench = Bench::with(ours, Config { asyms: vec![asym], ..Config::default() });
                bench.session().unwrap();
                let connection = *bench.requester.connection().unwrap();
                assert_eq!(connection.version, version);
                let suite = connection.suite;
                assert_eq!((suite.hash, suite.asym), (hash, asym));
                assert_eq!((suite.dhe, suite.aead), (Some(dhe), Some(aead)));
                assert_eq!(
                    bench.run(Operation::Vendor(vec![1, 2].into())),
                    Ok(Outcome::Vendor(vec![2, 1].into()))
                );
            }
        }
    }
}

#[test]
fn the_highest_common_version_is_spoken() {
    let mut bench = Bench::new();
    bench.run(Operation::Connect).unwrap();
    assert_eq!(bench.requester.connection().unwrap().version, Version::V1_3);
    let mut bench = Bench::with(
        RequesterConfig::default(),
        Config { versions: vec![Version::V1_2], ..Config::default() },
    );
    bench.run(Operation::Connect).unwrap();
    assert_eq!(bench.requester.connection().unwrap().version, Version::V1_2);
}

#[test]
fn everything_that_a_session_can_do_is_done_in_it() {
    for version in Version::SPOKEN {
        let ours = RequesterConfig { versions: vec![version], ..RequesterConfig::default() };
        let mut bench = Bench::with(ours, Config::default());
        bench.run_all(until_session().into_iter().take(3)).unwrap();
        let challenge = ChallengeRequest { slot: SlotId::ZERO, summary: SummaryHash::All };
        let challenged = bench.run(Operation::Challenge(challenge)).unwrap();
        assert!(matches!(challenged, Outcome::Challenged(Some(_))));
        bench.run(Operation::Measurements(ALL)).unwrap();
        bench.run(start_session(SummaryHash::All)).unwrap();
        let clear = bench.line.sent.len();

        let session = *bench.requester.session().unwrap();
        assert_eq!(session.secured_version, VersionNumber(0x1200));
        assert_eq!(session.heartbeat, Some(core::time::Duration::from_secs(0x20)));
        let earlier = MeasurementsRequest { compare: Compare::Earlier, ..ALL };
        let Ok(Outcome::Measurements(record)) = bench.run(Operation::Measurements(earlier)) else {
            panic!("measurements in a session")
        };
        assert_eq!((record.count, record.session), (3, Some(session.id)));
        assert_eq!(bench.run(Operation::Heartbeat), Ok(Outcome::Alive));
        for all in [true, false, true] {
            assert_eq!(bench.run(Operation::KeyUpdate { all }), Ok(Outcome::KeysUpdated));
            assert_eq!(
                bench.run(Operation::Vendor(vec![1, 9].into())),
                Ok(Outcome::Vendor(vec![9, 1].into()))
            );
        }
        bench.run(Operation::Digests).unwrap();
        bench.run(Operation::Certificate(SlotId::ZERO)).unwrap();
        assert_eq!(bench.run(Operation::EndSession), Ok(Outcome::Ended));
        assert!(bench.line.sent[clear..].iter().all(|(kind, _)| *kind == Kind::Secured));
        assert_eq!(bench.line.device.ended, [SessionEnd::Asked]);

        assert!(bench.requester.session().is_none());
        bench.run(start_session(SummaryHash::None)).unwrap();
        assert_ne!(bench.requester.session().unwrap().id, session.id);
    }
}

#[test]
fn indices_are_read_one_by_one_and_the_last_one_signs_for_all() {
    for inside in [false, true] {
        let mut bench = Bench::new();
        bench.run_all(until_session().into_iter().take(if inside { 4 } else { 3 })).unwrap();
        let total = MeasurementsRequest { operation: MeasurementOperation::Total, signed: None, ..ALL };
        let Ok(Outcome::Measurements(record)) = bench.run(Operation::Measurements(total)) else {
            panic!("the number of measurements")
        };
        assert_eq!(record.count, 3);
        for (index, signed) in [(1, None), (2, None), (5, Some(SlotId::ZERO))] {
            let operation = MeasurementOperation::Index(index);
            let wanted = MeasurementsRequest { operation, signed, ..ALL };
            let Ok(Outcome::Measurements(record)) = bench.run(Operation::Measurements(wanted)) else {
                panic!("measurement {index}")
            };
            assert_eq!((record.count, record.blocks[0]), (1, index));
        }
    }
}

#[test]
fn raw_measurements_are_not_judged_by_a_summary_of_digests() {
    let mut bench = Bench::new();
    bench.session().unwrap();
    let raw = MeasurementsRequest { raw: true, ..ALL };
    assert!(bench.run(Operation::Measurements(raw)).is_ok());
    assert!(bench.run(Operation::Measurements(ALL)).is_ok());
    // Raw and digested blocks are not compared.
    let earlier = MeasurementsRequest { raw: true, compare: Compare::Earlier, ..ALL };
    assert_eq!(bench.run(Operation::Measurements(earlier)), Err(RequesterError::NoMeasurements));
    assert!(bench.requester.session().is_some());
}

#[test]
fn what_is_not_possible_now_changes_nothing() {
    let mut bench = Bench::new();
    let slot = SlotId::ZERO;
    let challenge = || Operation::Challenge(ChallengeRequest { slot, summary: SummaryHash::None });
    for operation in
        [Operation::Digests, Operation::Certificate(slot), challenge(), Operation::Measurements(ALL)]
    {
        assert_eq!(bench.run(operation), Err(RequesterError::NotConnected));
    }
    for operation in [
        Operation::Heartbeat,
        Operation::KeyUpdate { all: true },
        Operation::Vendor(vec![].into()),
        Operation::EndSession,
    ] {
        assert_eq!(bench.run(operation), Err(RequesterError::NoSession));
    }
    bench.run(Operation::Connect).unwrap();
    assert_eq!(bench.run(challenge()), Err(RequesterError::NoChain(slot)));
    assert_eq!(bench.run(start_session(SummaryHash::None)), Err(RequesterError::NoChain(slot)));
    assert_eq!(bench.run(Operation::Measurements(ALL)), Err(RequesterError::NoChain(slot)));
    let reserved = MeasurementsRequest { operation: MeasurementOperation::Index(0), ..ALL };
    assert_eq!(bench.run(Operation::Measurements(reserved)), Err(RequesterError::MeasurementIndex(0)));
    bench.run(Operation::Digests).unwrap();
    let empty = SlotId::new(4).unwrap();
    assert_eq!(bench.run(Operation::Certificate(empty)), Err(RequesterError::EmptySlot(empty)));
    bench.run(Operation::Certificate(slot)).unwrap();
    bench.run(start_session(SummaryHash::None)).unwrap();
    let id = bench.requester.session().unwrap().id;
    assert_eq!(bench.run(challenge()), Err(RequesterError::SessionOpen(id)));
    assert_eq!(bench.run(start_session(SummaryHash::None)), Err(RequesterError::SessionOpen(id)));
    assert_eq!(bench.run(Operation::Heartbeat), Ok(Outcome::Alive));
    assert_eq!(RequesterError::SessionOpen(id).blame(), Blame::Caller);
}

#[test]
fn answers_are_taken_only_while_one_is_waited_for() {
    let mut bench = Bench::new();
    let now = bench::NOW;
    assert_eq!(bench.requester.receive(Kind::Clear, &[], now), Err(RequesterError::Idle));
    bench.requester.start(Operation::Connect).unwrap();
    // The request was not even fetched.
    assert_eq!(bench.requester.receive(Kind::Clear, &[], now), Err(RequesterError::Idle));
    assert_eq!(bench.requester.start(Operation::Connect), Err(RequesterError::UnderWay));
    let out = bench.requester.transmit().unwrap();
    assert_eq!((out.kind, out.payload), (Kind::Clear, vec![0x10, 0x84, 0, 0]));
    assert_eq!(bench.requester.transmit(), None);
    assert_eq!(bench.requester.start(Operation::Digests), Err(RequesterError::UnderWay));
    assert!(matches!(
        bench.requester.receive(Kind::Clear, &[0x10, 0x84, 0, 0], now),
        Err(RequesterError::Unexpected { .. })
    ));
    bench.works_again();
}

#[test]
fn a_flow_goes_from_nothing_to_a_session() {
    let mut bench = Bench::new();
    let profile = Profile {
        challenge: Some(SummaryHash::None),
        measurements: Some(MeasurementsRequest { compare: Compare::Twice, ..ALL }),
        inside: Some(MeasurementsRequest { compare: Compare::Earlier, ..ALL }),
        summary: SummaryHash::All,
        ..Profile::default()
    };
    let facts = flows::establish(&mut bench.requester, profile, &mut bench.line).unwrap();
    assert_eq!(bench.requester.session(), Some(&facts));
    assert_eq!(bench.requester.measurements().unwrap().session, Some(facts.id));
    bench.requester.reset();
    let none = Profile { slots: 0xfe, ..Profile::default() };
    let refused = flows::establish(&mut bench.requester, none, &mut bench.line);
    assert!(matches!(refused, Err(RequesterError::Digests(_))));
    bench.works_again();
}

#[test]
fn a_configuration_that_cannot_be_is_refused_before_anything_is_sent() {
    let good = RequesterConfig::default;
    let wrong = [
        RequesterConfig { versions: vec![], ..good() },
        RequesterConfig { versions: vec![Version::V1_4], ..good() },
        RequesterConfig { hashes: vec![], ..good() },
        RequesterConfig { asyms: vec![], ..good() },
        RequesterConfig { dhes: vec![], ..good() },
        RequesterConfig { secured_versions: Vec::new(), ..good() },
        RequesterConfig { data_transfer_size: 41, ..good() },
        RequesterConfig { max_message_size: 1000, ..good() },
        RequesterConfig { flags: good().flags.with_chunk(false), ..good() },
        RequesterConfig { flags: good().flags.with_mac(false), ..good() },
        RequesterConfig { flags: good().flags.with_key_ex(false), ..good() },
        RequesterConfig { flags: good().flags.with_mut_auth(true), ..good() },
        RequesterConfig { flags: good().flags.with_psk(1), ..good() },
        RequesterConfig { flags: good().flags.with_handshake_in_clear(true), ..good() },
    ];
    for config in wrong {
        let mut bench = Bench::with(config, Config::default());
        assert!(matches!(bench.run(Operation::Connect), Err(RequesterError::Configuration(_))));
        assert!(bench.line.sent.is_empty());
    }
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Log>>);

#[derive(Default)]
struct Log {
    messages: Vec<(Direction, u64, u8)>,
    phases: Vec<Phase>,
}

impl Observer for Seen {
    fn secured(&mut self, direction: Direction, _: SessionId, sequence: u64, plaintext: &[u8]) {
        self.0.lock().unwrap().messages.push((direction, sequence, plaintext[1]));
    }

    fn secrets(&mut self, secrets: &SessionSecrets<'_>) {
        self.0.lock().unwrap().phases.push(secrets.phase);
    }
}

#[test]
fn an_observer_sees_the_plaintext_and_all_secrets() {
    let mut bench = Bench::new();
    let seen = Seen::default();
    bench.requester.set_observer(Box::new(seen.clone()));
    bench.session().unwrap();
    bench.run(Operation::Heartbeat).unwrap();
    bench.run(Operation::KeyUpdate { all: false }).unwrap();
    let (request, response) = (Direction::Request, Direction::Response);
    let log = seen.0.lock().unwrap();
    let messages = [
        (request, 0, 0xe5),
        (response, 0, 0x65),
        (request, 0, 0xe8),
        (response, 0, 0x68),
        (request, 1, 0xe9),
        (response, 1, 0x69),
        // The new key has numbers of its own.
        (request, 0, 0xe9),
        (response, 2, 0x69),
    ];
    assert_eq!(log.messages, messages);
    assert_eq!(log.phases, [Phase::Handshake, Phase::Data, Phase::Data]);
}

#[test]
fn a_vendor_payload_is_not_printed() {
    let operation = Operation::Vendor(vec![0xa5; 48].into());
    assert_eq!(format!("{operation:?}"), "Vendor(VendorPayload(48 bytes))");
}
