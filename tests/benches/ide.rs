//! What IDE adds to AES-256-GCM: a TLP is sealed at one end of a link and opened at the other.
//!
//! The yardstick seals and opens the same payload with the bare cipher of aws-lc, in the same run.

use std::hint::black_box;
use std::time::Instant;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use criterion::{BatchSize, Criterion, Throughput};
use pcie::Bdf;
use spdm::ide_km::{IdeKey, Ifv, KeySet, KeySlot, StreamId};
use tdx_machine::ide::{Association, ByteEnables, MaxPayload, Port, StreamSettings, Tlp, TlpHeader};

/// Least share of the bare cipher's throughput.
const LIMIT: f64 = 0.7;
/// TLPs per measured run.
const RUN: u32 = 2000;
const ID: StreamId = StreamId(1);
const KEY: [u8; 32] = [0x5a; 32];

struct Link {
    device: Port,
    root: Port,
}

impl Link {
    fn new(max_payload: MaxPayload) -> Self {
        let mut link = Self { device: Port::new(max_payload), root: Port::new(max_payload) };
        for port in [&mut link.device, &mut link.root] {
            port.add(StreamSettings { id: ID, association: Association::EVERYBODY }).set_enabled(true);
            for slot in KeySlot::of_set(KeySet::K0) {
                port.program(ID, slot, &IdeKey::new(KEY), Ifv::INITIAL).expect("a stream takes keys");
                port.go(ID, slot).expect("a key is there");
            }
        }
        link
    }

    /// The payload goes there and comes back in the same buffer.
    fn pass(&mut self, payload: Vec<u8>) -> Vec<u8> {
        let header = TlpHeader::Write {
            requester: Bdf::from_routing_id(0x3b00),
            address: 0x1000,
            enables: ByteEnables::ALL,
        };
        let sealed =
            self.device.seal(ID, Tlp { trusted: true, header, payload }).expect("a secure stream sends");
        let mut tlps = self.root.open(sealed).expect("what was sent arrives");
        tlps.pop().expect("one TLP was sent").payload
    }
}

struct Bare {
    key: LessSafeKey,
    invocation: u64,
}

impl Bare {
    fn new() -> Self {
        let key = UnboundKey::new(&AES_256_GCM, &KEY).expect("32 bytes are a key");
        Self { key: LessSafeKey::new(key), invocation: 0 }
    }

    fn nonce(&self) -> Nonce {
        let mut iv = [0; 12];
        iv[4..].copy_from_slice(&self.invocation.to_be_bytes());
        Nonce::assume_unique_for_key(iv)
    }

    fn pass(&mut self, payload: &mut [u8]) {
        self.invocation += 1;
        let head = [0x5a; 20];
        let tag =
            self.key.seal_in_place_separate_tag(self.nonce(), Aad::from(&head), payload).expect("it seals");
        self.key
            .open_in_place_separate_tag(self.nonce(), Aad::from(&head), tag.as_ref(), payload)
            .expect("what was sealed opens");
    }
}

/// Seconds per pass: the best of many runs, taken in turns so that neighbours on the machine hit both.
fn best(mut first: impl FnMut(), mut second: impl FnMut()) -> (f64, f64) {
    fn timed(run: &mut impl FnMut()) -> f64 {
        let started = Instant::now();
        (0..RUN).for_each(|_| run());
        started.elapsed().as_secs_f64() / f64::from(RUN)
    }
    let mut best = (f64::INFINITY, f64::INFINITY);
    for _ in 0..100 {
        best = (timed(&mut first).min(best.0), timed(&mut second).min(best.1));
    }
    best
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut slow = Vec::new();
    for bytes in [512, 4096_u16] {
        let size = usize::from(bytes);
        let mut link = Link::new(MaxPayload::new(bytes).expect("a power of two"));
        let mut bare = Bare::new();
        let mut group = criterion.benchmark_group("ide");
        group.throughput(Throughput::Bytes(bytes.into()));
        group.bench_function(format!("seal and open a TLP of {bytes} bytes"), |bench| {
            bench.iter_batched(|| vec![1; size], |payload| link.pass(payload), BatchSize::SmallInput);
        });
        group.bench_function(format!("bare AES-256-GCM of {bytes} bytes"), |bench| {
            bench.iter_batched_ref(|| vec![1; size], |payload| bare.pass(payload), BatchSize::SmallInput);
        });
        group.finish();
        let (mut ours, mut theirs) = (vec![1; size], vec![1; size]);
        let (tlp, yardstick) = best(
            || ours = link.pass(std::mem::take(black_box(&mut ours))),
            || bare.pass(black_box(&mut theirs)),
        );
        assert_eq!(ours, theirs, "both give the payload back");
        let ratio = yardstick / tlp;
        println!(
            "MPS {bytes}: {:.0} ns, bare {:.0} ns: {ratio:.3} of the bare throughput, promised {LIMIT}",
            tlp * 1e9,
            yardstick * 1e9
        );
        if ratio < LIMIT {
            slow.push((bytes, ratio));
        }
    }
    criterion.final_summary();
    assert!(slow.is_empty(), "slower than {LIMIT} of bare AES-256-GCM: {slow:?}");
}
