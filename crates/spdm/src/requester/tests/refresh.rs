//! Keys that have protected enough.

use alloc::vec;

use super::bench::Bench;
use crate::ids::Version;
use crate::msg::{GetCapabilities, RequestCode, RequesterFlags};
use crate::requester::{Blame, Operation, Outcome, RequesterConfig, RequesterError};
use crate::responder::Config;
use crate::secured::{Direction, SecuredError};
use crate::wire::Reader;

fn config(refresh_after: u64, sequence_limit: u64) -> RequesterConfig {
    RequesterConfig { refresh_after, sequence_limit, busy_retries: 2, ready_retries: 0, ..Default::default() }
}

fn bench(refresh_after: u64, sequence_limit: u64) -> Bench {
    let mut bench = Bench::with(config(refresh_after, sequence_limit), Config::default());
    assert!(!bench.requester.keys_used_up(), "there are none");
    bench.session().unwrap();
    bench
}

#[test]
fn keys_are_used_up_when_either_direction_has_reached_the_limit() {
    let mut bench = bench(4, 100);
    for _ in 0..4 {
        assert!(!bench.requester.keys_used_up());
        bench.run(Operation::Heartbeat).unwrap();
    }
    assert!(bench.requester.keys_used_up());
    for direction in Direction::ALL {
        assert_eq!(bench.requester.messages_under_key(direction), Some(4));
    }
    // New keys for what is sent do not renew those of the responder.
    bench.run(Operation::KeyUpdate { all: false }).unwrap();
    assert!(bench.requester.keys_used_up());
    bench.run(Operation::KeyUpdate { all: true }).unwrap();
    assert!(!bench.requester.keys_used_up());
    assert_eq!(bench.requester.key_updates(Direction::Request), Some(2));
    assert_eq!(bench.requester.key_updates(Direction::Response), Some(1));
    bench.run(Operation::EndSession).unwrap();
    assert!(!bench.requester.keys_used_up());
    assert_eq!(bench.requester.messages_under_key(Direction::Request), None);
}

#[test]
fn an_update_still_goes_through_at_the_limit_even_if_the_responder_is_busy() {
    // The hard limit leaves room for exactly the request and its two repetitions.
    let mut bench = bench(4, 7);
    for _ in 0..10 {
        while !bench.requester.keys_used_up() {
            bench.run(Operation::Heartbeat).unwrap();
        }
        bench.line.device.busy = Some((RequestCode::KEY_UPDATE, 2));
        assert_eq!(bench.run(Operation::KeyUpdate { all: true }), Ok(Outcome::KeysUpdated));
    }
}

#[test]
fn the_hard_limit_ends_a_session_whose_keys_nobody_renews() {
    let mut bench = bench(4, 7);
    for _ in 0..7 {
        bench.run(Operation::Heartbeat).unwrap();
    }
    let error = bench.run(Operation::Heartbeat).unwrap_err();
    assert!(
        matches!(error, RequesterError::Seal { error: SecuredError::SequenceExhausted { limit: 7, .. }, .. }),
        "{error:?}"
    );
    assert_eq!(error.blame(), Blame::Platform);
    bench.works_again();
}

#[test]
fn limits_without_room_for_an_update_are_no_configuration() {
    let possible =
        |config: RequesterConfig| Bench::with(config, Config::default()).run(Operation::Connect).map(drop);
    assert_eq!(possible(config(4, 7)), Ok(()));
    assert_eq!(possible(config(3, 6)), Ok(()));
    for (refresh_after, limit) in [(4, 6), (2, 7), (0, 7), (u64::MAX, u64::MAX)] {
        let refused = possible(config(refresh_after, limit));
        assert!(matches!(refused, Err(RequesterError::Configuration(_))), "{refresh_after} of {limit}");
    }
}

#[test]
fn heartbeats_and_key_updates_are_offered_only_if_they_are_allowed() {
    for (hbeat, key_upd) in [(false, false), (true, false), (false, true), (true, true)] {
        let allowed = RequesterFlags::new().with_hbeat(hbeat).with_key_upd(key_upd).with_mut_auth(true);
        let mut bench = Bench::with(RequesterConfig::default().allowing(allowed), Config::default());
        bench.session().unwrap();
        let offered =
            GetCapabilities::read(&mut Reader::new(&bench.line.sent[1].1), Version::V1_3).unwrap().flags;
        let all = RequesterConfig::default().flags;
        assert_eq!(offered, all.with_hbeat(hbeat).with_key_upd(key_upd));
        let lacking = |error: Result<Outcome, _>| matches!(error, Err(RequesterError::Configuration(_)));
        assert_eq!(lacking(bench.run(Operation::Heartbeat)), !hbeat);
        assert_eq!(lacking(bench.run(Operation::KeyUpdate { all: true })), !key_upd);
    }
}

#[test]
fn an_answer_that_is_asked_for_again_counts_as_well() {
    let mut bench = bench(4, 100);
    bench.line.device.busy = Some((RequestCode::VENDOR_DEFINED, 2));
    bench.run(Operation::Vendor(vec![1].into())).unwrap();
    assert_eq!(bench.requester.messages_under_key(Direction::Response), Some(3));
}
