//! A session with a device in the same process, from GET_VERSION to FINISH and the six keys of an IDE
//! stream, beside the bare public-key operations that it cannot do without, measured by turns.

#[path = "spdm_session/bare.rs"]
mod bare;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bare::{Bare, Curve, P256, P384};
use criterion::Criterion;
use spdm::Kind;
use spdm::algo::{AsymAlgo, DheGroup, HashAlgo};
use spdm::crypto::aws_lc::AwsLc;
use spdm::ide_km::{KeySet, PortIndex, ProgramStream, SetKeys, StreamId};
use spdm::requester::flows::{Flow, Profile};
use spdm::requester::{
    Operation, Outcome, Progress, Requester, RequesterConfig, Transport, TransportFailure, drive,
};
use spdm::x509::TrustStore;
use tdx_machine::endpoint::{Endpoint, devices};

/// What is promised: so many times the bare operations.
const LIMIT: f64 = 1.3;
/// Runs of each kind.
const RUNS: usize = 200;

/// The device, next to its requester.
struct Beside {
    endpoint: Endpoint,
    now: Duration,
}

impl Transport for Beside {
    fn exchange(&mut self, kind: Kind, payload: &[u8]) -> Result<(Kind, Vec<u8>), TransportFailure> {
        self.endpoint.exchange(kind, payload, self.now, &mut ()).ok_or(TransportFailure::Silence)
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    fn now(&mut self) -> Duration {
        self.now
    }
}

struct Pair {
    requester: Requester,
    device: Beside,
}

impl Pair {
    fn new(asym: AsymAlgo, hash: HashAlgo, group: DheGroup) -> Self {
        let now = SystemTime::UNIX_EPOCH.elapsed().expect("a clock behind 1970");
        let mut spec = devices::find("default").expect("a device").spec().expect("a sound device");
        spec.spdm.signature.0 = asym;
        let endpoint = Endpoint::new(&spec, 0, now).expect("a device");
        let config = RequesterConfig {
            asyms: vec![asym],
            hashes: vec![hash],
            dhes: vec![group],
            ..RequesterConfig::default()
        };
        let trust = Arc::new(TrustStore::new([endpoint.root()]));
        Self { requester: Requester::new(config, Arc::new(AwsLc), trust), device: Beside { endpoint, now } }
    }

    /// The session and the keys of a stream.
    fn run(&mut self) {
        let Self { requester, device } = self;
        let mut flow = Flow::start(Profile::default(), requester).expect("an idle requester");
        let mut progress = Progress::More;
        while !matches!(progress, Progress::Done(_)) {
            let out = requester.transmit().expect("the next object");
            let (kind, payload) = device.exchange(out.kind, &out.payload).expect("an answer");
            progress = flow.receive(requester, kind, &payload, device.now).expect("the right answer");
        }
        let keys = SetKeys::generate(&AwsLc).expect("random numbers");
        let mut stream = ProgramStream::new(PortIndex(0), StreamId(0), KeySet::K0, keys);
        while let Some(request) = stream.request() {
            let Ok(Outcome::Vendor(answer)) = drive(requester, Operation::Vendor(request.into()), device)
            else {
                panic!("the device does not answer IDE_KM")
            };
            stream.response(&answer).expect("an acknowledgement");
        }
    }
}

fn seconds(work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    started.elapsed().as_secs_f64()
}

/// The ratio of the best times, so that neighbours on the machine do not count.
fn ratio(criterion: &mut Criterion, curve: Curve, asym: AsymAlgo, hash: HashAlgo, group: DheGroup) -> f64 {
    let name = curve.name;
    let (mut pair, bare) = (Pair::new(asym, hash, group), Bare::new(curve));
    criterion.bench_function(&format!("spdm_session/{name} session and keys"), |b| b.iter(|| pair.run()));
    criterion.bench_function(&format!("spdm_session/{name} bare operations"), |b| b.iter(|| bare.run()));
    let (mut session, mut yardstick) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..RUNS {
        session = session.min(seconds(|| black_box(&mut pair).run()));
        yardstick = yardstick.min(seconds(|| black_box(&bare).run()));
    }
    let ratio = session / yardstick;
    println!(
        "{name}: GET_VERSION to FINISH and six keys {:.0} us, bare public-key operations {:.0} us: ratio {ratio:.2}, promised {LIMIT}",
        session * 1e6,
        yardstick * 1e6
    );
    ratio
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let larger = ratio(&mut criterion, P384, AsymAlgo::EcdsaP384, HashAlgo::Sha384, DheGroup::Secp384r1);
    let smaller = ratio(&mut criterion, P256, AsymAlgo::EcdsaP256, HashAlgo::Sha256, DheGroup::Secp256r1);
    criterion.final_summary();
    for (ratio, curve) in [(larger, P384), (smaller, P256)] {
        let name = curve.name;
        assert!(
            ratio <= LIMIT,
            "{name}: a session costs {ratio:.2} of its bare operations, more than {LIMIT}"
        );
    }
}
