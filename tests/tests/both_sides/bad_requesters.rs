//! Every bad request against the modelled device: refused as the table says, and the next session works.

use std::sync::Arc;

use spdm::ide_km::{PortIndex, StreamId};
use spdm::requester::{RequesterConfig, Transport};
use tdxhost::dsm::bad::{CATALOGUE, Expected, Line, Plan, Report, Target, Verdict};

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
    for change in [(|config| config.versions.truncate(1)) as fn(&mut RequesterConfig), |config| {
        config.hashes.truncate(1)
    }] {
        let mut wire = Wire::new();
        let mut plan = plan(&wire);
        change(&mut plan.config);
        for case in CATALOGUE.iter() {
            let row = plan.attempt(case, &mut wire);
            assert!(!row.verdict.is_failure() && row.answer.is_some(), "{row:?}");
        }
    }
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
