//! Two requesters side by side: one that lives through a session, and one that is restored from it now
//! and then. Nobody can tell them apart.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use proptest::collection;
use proptest::prelude::*;

use super::bench::{ALL, Bench, NOW, until_session};
use crate::algo::{AeadAlgo, DheGroup, HashAlgo};
use crate::crypto::aws_lc::AwsLc;
use crate::crypto::{Aead, Crypto, CryptoError, Digest, Ephemeral, Hasher, PublicKey, Secret};
use crate::ids::{SlotId, Version};
use crate::msg::{MeasurementOperation, RequestCode, SummaryHash};
use crate::requester::{
    ChallengeRequest, Compare, MeasurementsRequest, NotSavable, Operation, Outcome, Progress, Requester,
    RequesterConfig, RequesterError, Transport,
};
use crate::responder::{Config, Delay};
use crate::secured::Direction;

/// Random bytes that count up, so that two requesters draw the same ones.
struct Counting(AtomicU64);

impl Crypto for Counting {
    fn random(&self, out: &mut [u8]) -> Result<(), CryptoError> {
        for byte in out {
            *byte = self.0.fetch_add(1, Ordering::Relaxed).to_le_bytes()[0];
        }
        Ok(())
    }

    fn hasher(&self, algo: HashAlgo) -> Box<dyn Hasher> {
        AwsLc.hasher(algo)
    }

    fn hmac(&self, algo: HashAlgo, key: &[u8], data: &[u8]) -> Digest {
        AwsLc.hmac(algo, key, data)
    }

    fn hkdf_extract(&self, algo: HashAlgo, salt: &[u8], ikm: &[u8]) -> Result<Secret, CryptoError> {
        AwsLc.hkdf_extract(algo, salt, ikm)
    }

    fn hkdf_expand(
        &self,
        algo: HashAlgo,
        prk: &[u8],
        info: &[u8],
        out: &mut [u8],
    ) -> Result<(), CryptoError> {
        AwsLc.hkdf_expand(algo, prk, info, out)
    }

    fn ephemeral(&self, group: DheGroup) -> Result<Box<dyn Ephemeral>, CryptoError> {
        AwsLc.ephemeral(group)
    }

    fn verify(
        &self,
        key: &PublicKey,
        hash: HashAlgo,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), CryptoError> {
        AwsLc.verify(key, hash, message, signature)
    }

    fn aead(&self, algo: AeadAlgo, key: &[u8]) -> Result<Box<dyn Aead>, CryptoError> {
        AwsLc.aead(algo, key)
    }
}

struct Side {
    requester: Requester,
    random: Arc<Counting>,
}

struct Pair {
    bench: Bench,
    random: Arc<Counting>,
    twin: Option<Side>,
    /// Whether the twin is restored anew, at each point.
    forks: Vec<bool>,
    points: usize,
    /// Measurements were read without a signature, and nothing else since.
    unsigned: bool,
}

impl Pair {
    fn new(config: RequesterConfig, theirs: Config, forks: Vec<bool>) -> Self {
        let mut bench = Bench::with(config.clone(), theirs);
        let random = Arc::new(Counting(AtomicU64::new(0)));
        bench.requester = Requester::new(config, random.clone(), Arc::clone(&bench.verifier));
        bench.run_all(until_session()).unwrap();
        Self { bench, random, twin: None, forks, points: 0, unsigned: false }
    }

    /// A point of the history: both are the same, and perhaps the twin is another one from here on.
    fn point(&mut self) {
        let one = &self.bench.requester;
        let saved = one.save();
        if let Some(twin) = &self.twin {
            assert_eq!(twin.requester.save(), saved);
            assert_eq!(twin.requester.session(), one.session());
            assert_eq!(twin.requester.keys_used_up(), one.keys_used_up());
            assert_eq!(twin.requester.evidence(), one.evidence());
            assert_eq!(twin.requester.under_way(), one.under_way());
        }
        let fork = self.forks[self.points % self.forks.len()];
        self.points += 1;
        match saved {
            Ok(bytes) if fork => {
                let random = Arc::new(Counting(AtomicU64::new(self.random.0.load(Ordering::Relaxed))));
                let verifier = Arc::clone(&self.bench.verifier);
                let twin =
                    Requester::restore(one.config().clone(), random.clone(), verifier, &bytes).unwrap();
                assert_eq!(twin.save().as_ref(), Ok(&bytes));
                for direction in Direction::ALL {
                    assert_eq!(twin.key_updates(direction), one.key_updates(direction));
                }
                self.twin = Some(Side { requester: twin, random });
            }
            Ok(_) | Err(NotSavable::NoSession) => {}
            Err(NotSavable::Unsigned) => assert!(self.unsigned),
            Err(NotSavable::Handshake(code)) => assert!(one.session().is_none(), "{code}"),
            Err(error) => panic!("{error}"),
        }
    }

    /// The same to both of them, with the same result.
    fn both<T: PartialEq + core::fmt::Debug>(&mut self, act: impl Fn(&mut Requester) -> T) -> T {
        let done = act(&mut self.bench.requester);
        if let Some(twin) = &mut self.twin {
            assert_eq!(act(&mut twin.requester), done);
            assert_eq!(twin.random.0.load(Ordering::Relaxed), self.random.0.load(Ordering::Relaxed));
        }
        done
    }

    fn run(&mut self, operation: &Operation) -> Result<Outcome, RequesterError> {
        self.both(|requester| requester.start(operation.clone()))?;
        loop {
            self.point();
            let out = self.both(Requester::transmit).unwrap();
            self.point();
            let (kind, payload) = match self.bench.line.exchange(out.kind, &out.payload) {
                Ok(answer) => answer,
                Err(failure) => return Err(self.both(|requester| requester.fail(failure))),
            };
            let progress = self.both(|requester| requester.receive(kind, &payload, NOW))?;
            if let Progress::Done(outcome) = progress {
                self.unsigned = match operation {
                    Operation::Measurements(wanted) => wanted.signed.is_none(),
                    _ => false,
                };
                self.point();
                return Ok(outcome);
            }
            self.unsigned |= matches!(operation, Operation::Measurements(wanted) if wanted.signed.is_none());
        }
    }
}

fn operation() -> impl Strategy<Value = Operation> {
    let measurements = (
        prop::sample::select(vec![
            MeasurementOperation::All,
            MeasurementOperation::Total,
            MeasurementOperation::Index(2),
        ]),
        any::<bool>(),
        any::<bool>(),
        prop::sample::select(vec![Compare::Nothing, Compare::Twice, Compare::Earlier]),
    );
    prop_oneof![
        2 => Just(Operation::Heartbeat),
        4 => any::<bool>().prop_map(|all| Operation::KeyUpdate { all }),
        3 => (0..400_usize).prop_map(|size| Operation::Vendor(vec![0x5a; size].into())),
        3 => measurements.prop_map(|(operation, raw, signed, compare)| {
            let signed = signed.then_some(SlotId::ZERO);
            Operation::Measurements(MeasurementsRequest { operation, raw, signed, compare })
        }),
        1 => Just(Operation::Digests),
        1 => Just(Operation::Certificate(SlotId::ZERO)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_restored_requester_behaves_as_the_one_that_was_saved(
        version in prop::sample::select(Version::SPOKEN.to_vec()),
        transfers in (prop::sample::select(vec![4056, 160, 64]), prop::sample::select(vec![4056, 160, 64])),
        operations in collection::vec((operation(), 0..3_u8), 1..10),
        forks in collection::vec(any::<bool>(), 1..24),
        wrong in prop::option::of((0..60_usize, 0..16_usize, 1..=255_u8)),
    ) {
        let ours = RequesterConfig {
            versions: vec![version],
            data_transfer_size: transfers.0,
            refresh_after: 12,
            ..RequesterConfig::default()
        };
        let theirs = Config { data_transfer_size: transfers.1, ..Config::default() };
        let mut pair = Pair::new(ours, theirs, forks);
        let first = pair.bench.line.exchanges;
        pair.bench.line.tamper = Box::new(move |number, _, object| {
            if let Some((at, byte, bits)) = wrong
                && number == first + at
            {
                let byte = byte % object.len();
                object[byte] ^= bits;
            }
            Ok(())
        });
        pair.point();
        for (operation, mood) in operations {
            let code = match operation {
                Operation::KeyUpdate { .. } => RequestCode::KEY_UPDATE,
                Operation::Vendor(_) => RequestCode::VENDOR_DEFINED,
                _ => RequestCode::GET_MEASUREMENTS,
            };
            let delay = Delay { exponent: 2, multiplier: 3 };
            pair.bench.line.device.busy = (mood == 1).then_some((code, 2));
            pair.bench.line.device.not_ready = (mood == 2).then_some((code, 2, delay));
            if pair.run(&operation).is_err() && pair.bench.requester.session().is_none() {
                return Ok(());
            }
        }
        if pair.run(&Operation::EndSession).is_err() {
            return Ok(());
        }
        // What the connection knows goes on, too.
        let slot = SlotId::ZERO;
        for operation in [
            Operation::Challenge(ChallengeRequest { slot, summary: SummaryHash::All }),
            Operation::Measurements(MeasurementsRequest { signed: None, ..ALL }),
            Operation::Measurements(ALL),
        ] {
            let done = pair.run(&operation);
            prop_assert!(done.is_ok() || wrong.is_some(), "{:?}", done);
        }
    }
}
