//! Everything that a device can show, in one flow.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use super::bench::{Bench, NOW};
use super::bending::{last_mut, sealed};
use crate::Kind;
use crate::algo::HashAlgo;
use crate::crypto::Crypto;
use crate::crypto::aws_lc::AwsLc;
use crate::ids::{SlotId, Version};
use crate::msg::{
    KeyExchange, MeasurementBlocks, MeasurementValue, RequestCode, ResponseCode, SessionPolicy,
};
use crate::requester::flows::{Evidence, EvidenceProfile};
use crate::requester::{Blame, Operation, Outcome, Progress, RequesterConfig, RequesterError, Transport};
use crate::responder::Config;
use crate::signing;
use crate::wire::Reader;

fn slot(number: u8) -> SlotId {
    SlotId::new(number).unwrap()
}

fn carry(bench: &mut Bench, mut evidence: Evidence) -> Result<Outcome, RequesterError> {
    loop {
        let out = bench.requester.transmit().unwrap();
        let (kind, payload) = bench.line.exchange(out.kind, &out.payload).unwrap();
        if let Progress::Done(outcome) = evidence.receive(&mut bench.requester, kind, &payload, NOW)? {
            return Ok(outcome);
        }
    }
}

fn collect(bench: &mut Bench, profile: EvidenceProfile) -> Result<Outcome, RequesterError> {
    let evidence = Evidence::start(profile, &mut bench.requester)?;
    carry(bench, evidence)
}

fn recollect(bench: &mut Bench, profile: EvidenceProfile) -> Result<Outcome, RequesterError> {
    let evidence = Evidence::recollect(profile, &mut bench.requester)?;
    carry(bench, evidence)
}

/// The requests that went out in the clear, in their order, repetitions left out.
fn asked(bench: &Bench) -> Vec<RequestCode> {
    let clear = bench.line.sent.iter().filter(|(kind, _)| *kind == Kind::Clear);
    let mut codes: Vec<_> = clear.map(|(_, bytes)| RequestCode(bytes[1])).collect();
    codes.dedup();
    codes
}

/// What anybody can check who has nothing but the evidence: the signature of the measurements.
fn check_measurements(bench: &Bench, signer: SlotId) {
    let collected = bench.requester.evidence();
    let key = &bench.requester.chain(signer).unwrap().key;
    let (messages, connection) = (collected.measurements.unwrap(), bench.requester.connection().unwrap());
    let (signed, signature) = messages.split_at(messages.len() - key.algo.signature_size());
    let transcript = AwsLc.digest(connection.hash(), &[collected.negotiation, signed].concat());
    let (version, context) = (connection.version, signing::Context::Measurements);
    signing::verify(&AwsLc, key, connection.hash(), version, context, &transcript, signature).unwrap();
}

#[test]
fn chains_of_all_slots_of_the_mask_are_read_and_measurements_signed_by_the_lowest() {
    for (mask, read) in
        [(0xff, vec![0, 2, 5]), (0x24, vec![2, 5]), (0x21, vec![0, 5]), (0x08 | 0x04, vec![2])]
    {
        let mut bench = Bench::with_slots(RequesterConfig::default(), Config::default(), &[0, 2, 5]);
        let profile = EvidenceProfile { slots: mask, ..EvidenceProfile::default() };
        let outcome = collect(&mut bench, profile).unwrap();
        let read: Vec<_> = read.into_iter().map(slot).collect();
        let facts = *bench.requester.session().unwrap();
        assert_eq!(outcome, Outcome::Session(facts));
        assert_eq!(facts.slot, read[0]);
        let collected = bench.requester.evidence();
        let found: Vec<_> = collected.chains.iter().map(|(slot, _)| *slot).collect();
        assert_eq!(found, read);
        for (slot, bytes) in collected.chains {
            let digest = bench.requester.slots().unwrap().digest(slot).unwrap();
            assert_eq!(AwsLc.digest(HashAlgo::Sha384, bytes), digest);
        }
        check_measurements(&bench, read[0]);
    }
}

#[test]
fn the_order_of_requests_is_fixed_and_the_negotiation_kept_as_it_was() {
    let mut bench = Bench::new();
    collect(&mut bench, EvidenceProfile::default()).unwrap();
    let codes = [
        RequestCode::GET_VERSION,
        RequestCode::GET_CAPABILITIES,
        RequestCode::NEGOTIATE_ALGORITHMS,
        RequestCode::GET_DIGESTS,
        RequestCode::GET_CERTIFICATE,
        RequestCode::GET_MEASUREMENTS,
        RequestCode::KEY_EXCHANGE,
    ];
    assert_eq!(asked(&bench), codes);
    let negotiation = bench.requester.evidence().negotiation;
    assert!(negotiation.starts_with(&bench.line.sent[0].1));
    for (_, request) in &bench.line.sent[1..3] {
        assert!(negotiation.windows(request.len()).any(|part| part == request));
    }
}

#[test]
fn raw_bit_streams_and_the_session_policy_are_passed_on() {
    let mut bench = Bench::new();
    let policy = SessionPolicy::new().with_survives_update(true);
    collect(&mut bench, EvidenceProfile { raw: true, policy, ..EvidenceProfile::default() }).unwrap();
    let record = bench.requester.measurements().unwrap();
    assert!(record.raw);
    let kinds: Vec<_> = MeasurementBlocks::new(&record.blocks)
        .map(|block| matches!(block.unwrap().value, MeasurementValue::Raw(_)))
        .collect();
    assert_eq!(kinds, [true, false, true], "the second one is a digest only");
    let request = bench.line.sent.iter().find(|(_, bytes)| bytes[1] == RequestCode::KEY_EXCHANGE.0).unwrap();
    let layout = bench.requester.connection().unwrap().layout();
    assert_eq!(KeyExchange::read(&mut Reader::new(&request.1), &layout).unwrap().policy, policy);
}

#[test]
fn a_device_without_signed_measurements_is_challenged_if_it_can_be() {
    let flags = Config::default().flags;
    for (flags, challenged) in [
        (flags.with_meas(0).with_meas_fresh(false), true),
        (flags.with_meas(1), true),
        (flags.with_meas(0).with_meas_fresh(false).with_chal(false), false),
    ] {
        let mut bench = Bench::with(RequesterConfig::default(), Config { flags, ..Config::default() });
        collect(&mut bench, EvidenceProfile::default()).unwrap();
        assert_eq!(asked(&bench).contains(&RequestCode::CHALLENGE), challenged);
        assert!(!asked(&bench).contains(&RequestCode::GET_MEASUREMENTS));
        assert_eq!(bench.requester.evidence().measurements, None);
        // Nothing else can be asked again inside.
        assert_eq!(recollect(&mut bench, EvidenceProfile::default()), Ok(Outcome::Digests));
    }
}

#[test]
fn measurements_are_read_again_inside_the_session() {
    for version in Version::SPOKEN {
        let ours = RequesterConfig { versions: vec![version], ..RequesterConfig::default() };
        let mut bench = Bench::with(ours, Config::default());
        let profile = EvidenceProfile::default();
        assert_eq!(recollect(&mut bench, profile), Err(RequesterError::NoSession));
        collect(&mut bench, profile).unwrap();
        let before = bench.requester.evidence().measurements.unwrap().to_vec();
        let sent = bench.line.sent.len();
        bench.line.device.drift = 1;
        for _ in 0..2 {
            let Ok(Outcome::Measurements(record)) = recollect(&mut bench, profile) else {
                panic!("measurements inside the session")
            };
            assert_eq!(record.session, bench.requester.session().map(|facts| facts.id));
            check_measurements(&bench, SlotId::ZERO);
            assert_ne!(bench.requester.evidence().measurements.unwrap(), before);
        }
        assert!(bench.line.sent[sent..].iter().all(|(kind, _)| *kind == Kind::Secured));
        assert_eq!(bench.run(Operation::Heartbeat), Ok(Outcome::Alive));
    }
}

#[test]
fn what_is_wrong_ends_the_flow_by_name() {
    let mut bench = Bench::new();
    let none = EvidenceProfile { slots: 0xfe, ..EvidenceProfile::default() };
    assert!(matches!(collect(&mut bench, none), Err(RequesterError::Digests(_))));
    bench.works_again();
    for code in [ResponseCode::MEASUREMENTS, ResponseCode::KEY_EXCHANGE_RSP] {
        let mut bench = Bench::new();
        bench.line.device.bend = Box::new(move |at, bytes| {
            if at == sealed(code) {
                // The last byte of the signature, before the verify data where there are any.
                let behind = if code == ResponseCode::KEY_EXCHANGE_RSP { 48 } else { 0 };
                *last_mut(bytes, 1 + behind) ^= 1;
            }
        });
        let error = collect(&mut bench, EvidenceProfile::default()).unwrap_err();
        assert_eq!(error, RequesterError::BadSignature(code));
        assert_eq!(error.blame(), Blame::Responder);
        bench.works_again();
    }
}
