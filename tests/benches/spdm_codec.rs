//! The codec of SPDM: bytes per second and allocations per message, reading and writing.

use std::alloc::{GlobalAlloc, Layout as Memory, System};
use std::cell::Cell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use spdm::algo::{AeadAlgo, AsymAlgo, DheGroup, HashAlgo, MeasurementHash, Suite};
use spdm::ids::{SlotId, Version};
use spdm::msg::{
    self, Algorithms, Asked, Capabilities, Certificate, Challenge, ChallengeAuth, ContentChange, Digests,
    Finish, GetCapabilities, GetCertificate, GetDigests, GetMeasurements, GetVersion, Heartbeat, KeyExchange,
    KeyExchangeRsp, Layout, MeasurementBlock, MeasurementKind, MeasurementOperation, MeasurementValue,
    Measurements, MutualAuth, NegotiateAlgorithms, OtherParams, Request, RequesterFlags, ResponderFlags,
    Response, SessionPolicy, SignatureRequest, Stage, SummaryHash, VendorDefined, VersionList,
    VersionResponse,
};

/// The system's allocator, counting what this thread asks of it.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came.
#[expect(unsafe_code, reason = "a global allocator is an unsafe trait")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, memory: Memory) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(memory) }
    }

    unsafe fn dealloc(&self, place: *mut u8, memory: Memory) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(place, memory) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn layout() -> Layout {
    Layout::new(
        Version::V1_3,
        Suite {
            hash: HashAlgo::Sha384,
            asym: AsymAlgo::EcdsaP384,
            dhe: Some(DheGroup::Secp384r1),
            aead: Some(AeadAlgo::Aes256Gcm),
            measurement_hash: Some(MeasurementHash::Hash(HashAlgo::Sha384)),
        },
    )
}

/// The requests of one attestation and session.
fn requests(bytes: &[u8; 1024]) -> Vec<Request<'_>> {
    let version = Version::V1_3;
    let nonce = [7; 32];
    let flags = RequesterFlags::new().with_encrypt(true).with_mac(true).with_key_ex(true);
    vec![
        Request::GetVersion(GetVersion),
        Request::GetCapabilities(GetCapabilities {
            version,
            wants_algorithms: false,
            ct_exponent: 20,
            flags,
            data_transfer_size: 4096,
            max_message_size: 4096,
        }),
        Request::NegotiateAlgorithms(NegotiateAlgorithms {
            version,
            measurement_spec: 1,
            other_params: OtherParams::new().with_opaque_format_1(true),
            base_asym: AsymAlgo::EcdsaP384.bit(),
            base_hash: HashAlgo::Sha384.bit(),
            mel_spec: 0,
            extended_asym: msg::algorithms::ExtendedAlgorithms::default(),
            extended_hash: msg::algorithms::ExtendedAlgorithms::default(),
            tables: tables(),
        }),
        Request::GetDigests(GetDigests { version }),
        Request::GetCertificate(GetCertificate {
            version,
            slot: SlotId::ZERO,
            slot_size: false,
            offset: 0,
            length: 1024,
        }),
        Request::Challenge(Challenge {
            version,
            slot: SlotId::ZERO,
            summary: SummaryHash::All,
            nonce,
            context: Some([1; 8]),
        }),
        Request::GetMeasurements(GetMeasurements {
            version,
            signature: Some(SignatureRequest { nonce, slot: SlotId::ZERO }),
            raw: false,
            new: false,
            operation: MeasurementOperation::All,
            context: Some([1; 8]),
        }),
        Request::KeyExchange(KeyExchange {
            version,
            summary: SummaryHash::All,
            slot: SlotId::ZERO,
            session: 0xffff,
            policy: SessionPolicy::new(),
            random: nonce,
            exchange: &bytes[..96],
            opaque: &bytes[..16],
        }),
        Request::Finish(Finish { version, verify_data: &bytes[..48] }),
        Request::Heartbeat(Heartbeat { version }),
        Request::VendorDefined(VendorDefined::pci_sig(version, &bytes[..48])),
    ]
}

fn tables() -> msg::AlgorithmTables<'static> {
    let table = |bits| Some(msg::AlgorithmTable::new(bits));
    msg::AlgorithmTables {
        dhe: table(DheGroup::Secp384r1.bit()),
        aead: table(AeadAlgo::Aes256Gcm.bit()),
        requester_asym: None,
        key_schedule: table(1),
    }
}

/// Eight measurements, digested.
fn record(bytes: &[u8; 1024]) -> Vec<u8> {
    let mut record = vec![0; 1024];
    let written = msg::encode(&mut record, |writer| {
        (1..=8).try_for_each(|index| {
            let value = MeasurementValue::Digest(&bytes[..48]);
            MeasurementBlock { index, kind: MeasurementKind::MUTABLE_FIRMWARE, value }.write(writer)
        })
    });
    written.expect("eight blocks fit").to_vec()
}

/// Their responses.
fn responses<'a>(bytes: &'a [u8; 1024], record: &'a [u8]) -> Vec<Response<'a>> {
    let version = Version::V1_3;
    let (digest, signature) = (&bytes[..48], &bytes[..96]);
    let flags = ResponderFlags::new().with_cert(true).with_chal(true).with_meas(2);
    vec![
        Response::Version(VersionResponse {
            versions: VersionList::released(&Version::SPOKEN).expect("each once"),
        }),
        Response::Capabilities(Capabilities {
            version,
            ct_exponent: 20,
            flags: flags.with_encrypt(true).with_mac(true).with_key_ex(true),
            data_transfer_size: 4096,
            max_message_size: 4096,
        }),
        Response::Algorithms(Algorithms {
            version,
            measurement_spec: 1,
            other_params: OtherParams::new().with_opaque_format_1(true),
            measurement_hash: HashAlgo::Sha384.measurement_bit(),
            base_asym: AsymAlgo::EcdsaP384.bit(),
            base_hash: HashAlgo::Sha384.bit(),
            mel_spec: 0,
            tables: tables(),
        }),
        Response::Digests(Digests { version, supported: 1, provisioned: 1, digests: digest }),
        Response::Certificate(Certificate {
            version,
            slot: SlotId::ZERO,
            model: 0,
            remainder: 1024,
            portion: bytes,
        }),
        Response::ChallengeAuth(ChallengeAuth {
            version,
            slot: SlotId::ZERO,
            slot_mask: 1,
            chain_hash: digest,
            nonce: [9; 32],
            summary: Some(digest),
            opaque: &[],
            context: Some([1; 8]),
            signature,
        }),
        Response::Measurements(Measurements {
            version,
            total: 0,
            slot: SlotId::ZERO,
            content: ContentChange::Unchanged,
            blocks: 8,
            record,
            nonce: [9; 32],
            opaque: &[],
            context: Some([1; 8]),
            signature: Some(signature),
        }),
        Response::KeyExchangeRsp(KeyExchangeRsp {
            version,
            heartbeat: 0,
            session: 0xffff,
            mutual_auth: MutualAuth::None,
            requester_slot: 0,
            random: [9; 32],
            exchange: signature,
            summary: Some(digest),
            opaque: &bytes[..12],
            signature,
            verify_data: Some(digest),
        }),
        Response::VendorDefined(VendorDefined::pci_sig(version, &bytes[..112])),
    ]
}

/// A conversation as bytes.
fn written(bytes: &[u8; 1024], record: &[u8]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let mut buffer = [0; 2048];
    let mut bytes_of = |write: &dyn Fn(&mut spdm::wire::Writer<'_>) -> Result<(), spdm::wire::NoSpace>| {
        msg::encode(&mut buffer, write).expect("every message fits").to_vec()
    };
    let requests = requests(bytes).iter().map(|message| bytes_of(&|writer| message.write(writer))).collect();
    let responses =
        responses(bytes, record).iter().map(|message| bytes_of(&|writer| message.write(writer))).collect();
    (requests, responses)
}

const ASKED: Asked = Asked { summary: true, signature: true };

fn read_all(stage: Stage, requests: &[Vec<u8>], responses: &[Vec<u8>]) {
    for bytes in requests {
        let message = msg::exact(bytes, |reader| Request::read(reader, &stage));
        let _ = black_box(message.expect("what was written is read"));
    }
    for bytes in responses {
        let message = msg::exact(bytes, |reader| Response::read(reader, &stage, ASKED));
        let _ = black_box(message.expect("what was written is read"));
    }
}

fn write_all(buffer: &mut [u8], requests: &[Request<'_>], responses: &[Response<'_>]) {
    for message in requests {
        let bytes = msg::encode(buffer, |writer| message.write(writer));
        let _ = black_box(bytes.expect("every message fits"));
    }
    for message in responses {
        let bytes = msg::encode(buffer, |writer| message.write(writer));
        let _ = black_box(bytes.expect("every message fits"));
    }
}

/// Prints what `each_time` does with `bytes` bytes in `messages` messages.
fn tell(what: &str, messages: usize, bytes: usize, mut each_time: impl FnMut()) {
    let allocations = ALLOCATIONS.get();
    let started = Instant::now();
    let mut times: u32 = 0;
    while started.elapsed() < Duration::from_millis(300) {
        (0..100).for_each(|_| each_time());
        times += 100;
    }
    let seconds = started.elapsed().as_secs_f64() / f64::from(times);
    let allocations = ALLOCATIONS.get() - allocations;
    let (count, size) = (f64::from(u32::try_from(messages).expect("few")), bytes);
    let rate = f64::from(u32::try_from(size).expect("few")) / seconds / 1e6;
    println!(
        "spdm codec, {what}: {messages} messages of {size} bytes, {rate:.0} MB/s, {:.0} ns per message, \
         {allocations} allocations",
        seconds * 1e9 / count,
    );
    assert_eq!(allocations, 0, "the codec does not allocate");
}

fn main() {
    let bytes = [0x5a; 1024];
    let record = record(&bytes);
    let stage = Stage::Agreed(layout());
    let (request_bytes, response_bytes) = written(&bytes, &record);
    let (requests, responses) = (requests(&bytes), responses(&bytes, &record));
    let size: usize = request_bytes.iter().chain(&response_bytes).map(Vec::len).sum();
    let messages = requests.len() + responses.len();
    let mut buffer = [0; 2048];

    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("spdm_codec");
    group.throughput(Throughput::Bytes(size as u64));
    group.bench_function("read", |bench| {
        bench.iter(|| read_all(stage, black_box(&request_bytes), black_box(&response_bytes)));
    });
    group.bench_function("write", |bench| {
        bench.iter(|| write_all(&mut buffer, black_box(&requests), black_box(&responses)));
    });
    group.finish();
    criterion.final_summary();

    tell("read", messages, size, || read_all(stage, black_box(&request_bytes), black_box(&response_bytes)));
    tell("write", messages, size, || write_all(&mut buffer, black_box(&requests), black_box(&responses)));
}
