//! Every bad request against the modelled device: refused as the table says, and the next session works.

use std::sync::Arc;
use std::time::Duration;

use spdm::Kind;
use spdm::ide_km::{PortIndex, StreamId};
use spdm::msg::{ErrorCode, ResponseCode};
use spdm::requester::{RequesterConfig, Transport, TransportFailure};
use tdxhost::dsm::bad::{CATALOGUE, Expected, Line, Plan, Report, Target, Verdict, find};

use crate::bad_devices::Wire;

impl Line for Wire {
    fn transport(&mut self) -> &mut dyn Transport {
        self
    }
}

fn plan(wire: &Wire) -> Plan {
    let target = Target { slot: None, port: PortIndex(0), stream: StreamId(0), interface: None };
    Plan { config: RequesterConfig::default(), verifier: Arc::new(wire.trust()), target }
}

#[test]
fn every_bad_request_is_refused_as_is_due_and_the_next_session_works() {
    let mut wire = Wire::new();
    let plan = plan(&wire);
    let mut rows = Vec::new();
    for case in CATALOGUE.iter() {
        rows.push(plan.attempt(case, &mut wire));
        assert!(wire.endpoint.sessions().next().is_none(), "{} leaves a session behind", case.name);
    }
    // A strict responder ignores nothing either.
    let wrong: Vec<_> =
        rows.iter().filter(|row| !matches!(row.verdict, Verdict::Refused | Verdict::Bounded)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(Report::new("here".to_owned(), rows).ok);
}

#[test]
fn a_responder_of_one_version_or_hash_is_tried_as_well() {
    let one_version: fn(&mut RequesterConfig) = |config| config.versions.truncate(1);
    let one_hash: fn(&mut RequesterConfig) = |config| config.hashes.truncate(1);
    for change in [one_version, one_hash] {
        let mut wire = Wire::new();
        let mut plan = plan(&wire);
        change(&mut plan.config);
        for case in CATALOGUE.iter() {
            let row = plan.attempt(case, &mut wire);
            assert!(!row.verdict.is_failure() && row.answer.is_some(), "{row:?}");
        }
    }
}

type Answer = Result<(Kind, Vec<u8>), TransportFailure>;

/// A responder that is not as it should be in one way.
struct Lax {
    wire: Wire,
    /// What becomes of the answer to a request, if it is a bad one.
    make: fn() -> Answer,
    /// Whether it stays so after the first bad request.
    for_good: bool,
    bad: bool,
}

impl Transport for Lax {
    fn exchange(&mut self, kind: Kind, payload: &[u8]) -> Answer {
        let answer = self.wire.exchange(kind, payload);
        let refused = matches!(&answer, Ok((_, message)) if message.get(1) == Some(&ResponseCode::ERROR.0));
        self.bad |= refused;
        if refused || self.for_good && self.bad { (self.make)() } else { answer }
    }

    fn wait(&mut self, time: Duration) {
        self.wire.wait(time);
    }

    fn now(&mut self) -> Duration {
        self.wire.now()
    }
}

impl Line for Lax {
    fn transport(&mut self) -> &mut dyn Transport {
        self
    }
}

#[test]
fn a_responder_that_must_be_mended_is_told_so() {
    type Case = (fn() -> Answer, bool, &'static str, bool);
    fn clear(code: u8, param1: u8) -> (Kind, Vec<u8>) {
        (Kind::Clear, vec![0x13, code, param1, 0])
    }
    let cases: [Case; 5] = [
        (|| Ok(clear(ResponseCode::DIGESTS.0, 0)), false, "accepted", true),
        (|| Ok(clear(0x81, 0)), false, "malformed", true),
        (|| Err(TransportFailure::Silence), true, "no-next-session", true),
        (|| Err(TransportFailure::Silence), false, "no-answer", false),
        (|| Ok(clear(ResponseCode::ERROR.0, ErrorCode::BUSY.0)), false, "refused-otherwise", false),
    ];
    for (make, for_good, verdict, fails) in cases {
        let wire = Wire::new();
        let plan = plan(&wire);
        let mut line = Lax { wire, make, for_good, bad: false };
        let row = plan.attempt(find("digests-before-capabilities").unwrap(), &mut line);
        assert_eq!((row.verdict.name(), row.verdict.is_failure()), (verdict, fails), "{row:?}");
        assert_eq!(Report::new("here".to_owned(), vec![row]).ok, !fails);
    }
}

#[test]
fn a_responder_that_is_gone_is_not_tried_any_more() {
    let wire = Wire::new();
    let plan = plan(&wire);
    let make = || Err(TransportFailure::Closed);
    let mut line = Lax { wire, make, for_good: true, bad: false };
    let cases = ["certificate-length-beyond", "digests-before-capabilities", "finish-wrong-mac"];
    let rows = plan.run(cases.map(|name| find(name).unwrap()), &mut line);
    let verdicts: Vec<_> = rows.iter().map(|row| row.verdict.name()).collect();
    assert_eq!(verdicts, ["bounded", "no-next-session", "not-tried"]);
    assert_eq!(
        rows[2].verdict.to_string(),
        "not tried: the responder is gone since digests-before-capabilities"
    );
}

#[test]
fn a_case_that_needs_what_the_responder_lacks_is_not_tried() {
    let mut wire = Wire::new();
    let mut plan = plan(&wire);
    plan.target.port = PortIndex(200);
    let row = plan.attempt(find("key-prog-short").unwrap(), &mut wire);
    assert_eq!((row.verdict.name(), row.answer), ("not-tried", None));
}

#[test]
fn names_are_unique_and_every_sentence_is_there() {
    for (index, case) in CATALOGUE.iter().enumerate() {
        assert!(!CATALOGUE.iter().skip(index + 1).any(|other| other.name == case.name), "{}", case.name);
        assert!(!case.sent.is_empty());
        if let Expected::Error(codes) | Expected::MayIgnore(codes) = case.expected {
            assert!(!codes.is_empty(), "{}", case.name);
        }
    }
}

#[test]
fn the_page_about_dsm_has_a_line_for_each_bad_request() {
    let page = include_str!("../../../docs/dsm.md");
    for case in CATALOGUE.iter() {
        let line = format!("| `{}` | {} | {} |", case.name, case.sent, case.expected);
        assert!(page.contains(&line), "docs/dsm.md lacks\n{line}");
    }
}
