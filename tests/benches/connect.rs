//! A device connected through host and module, beside the same conversation of the same requester with the
//! same device in one process, measured by turns; many devices one after the other; and what each of them
//! costs in memory.

use std::alloc::{GlobalAlloc, Layout as Memory, System};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use criterion::Criterion;
use pcie::FunctionId;
use spdm::Kind;
use spdm::crypto::aws_lc::AwsLc;
use spdm::ide_km::{KeySet, PortIndex, ProgramStream, QueryPort, SetKeys, StreamId};
use spdm::requester::flows::{Evidence, EvidenceProfile};
use spdm::requester::{
    Operation, Outcome, Progress, Requester, RequesterConfig, Transport, TransportFailure, drive,
};
use spdm::tdisp::{InterfaceId, TdiOperation, TdiRequester};
use spdm::x509::PresentedChain;
use tdx_machine::endpoint::{Endpoint, devices};
use tdx_machine::{Machine, PlatformSpec, presets};
use tdx_platform::{CpuMode, HostOptions, Platform, TdxHost};

/// What is promised: so many times the conversation in one process.
const LIMIT: f64 = 1.2;
/// Runs of each kind.
const RUNS: usize = 150;
/// The last of many devices may take so many times as long as the first ones.
const LINEAR: f64 = 1.3;
/// Bytes that a connected device may cost.
const STATE: u64 = 256 << 10;

/// The system's allocator, counting what is held.
struct Counting;

static HELD: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator as it came.
#[expect(unsafe_code, reason = "a global allocator is an unsafe trait")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, memory: Memory) -> *mut u8 {
        HELD.fetch_add(memory.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(memory) }
    }

    unsafe fn dealloc(&self, place: *mut u8, memory: Memory) {
        HELD.fetch_sub(memory.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(place, memory) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A machine with nothing left to chance, its module up.
fn host(preset: &str) -> TdxHost {
    let mut spec: PlatformSpec = presets::find(preset).expect("a preset").spec().expect("a sound preset");
    spec.chaos.interrupt = 0;
    spec.chaos.no_entropy = 0;
    spec.chaos.busy = 0;
    let machine = Arc::new(Machine::power_on(spec, 0).expect("a machine"));
    let host = TdxHost::new(Arc::new(Platform::new(machine, CpuMode::Sequential)), HostOptions::default());
    host.bring_up(&()).expect("a module");
    host
}

fn devices_of(host: &TdxHost) -> Vec<FunctionId> {
    let functions = host.functions();
    functions.iter().filter(|view| view.dsm_capable() && view.ide).map(|view| view.pci.id).collect()
}

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
    interface: InterfaceId,
}

impl Pair {
    fn new() -> Self {
        let now = SystemTime::UNIX_EPOCH.elapsed().expect("a clock behind 1970");
        let spec = devices::find("default").expect("a device").spec().expect("a sound device");
        let endpoint = Endpoint::new(&spec, 0, now).expect("a device");
        let interface = endpoint.functions().next().expect("a function").interface;
        let requester = Requester::new(RequesterConfig::default(), Arc::new(AwsLc), Arc::new(PresentedChain));
        Self { requester, device: Beside { endpoint, now }, interface }
    }

    fn vendor(&mut self, request: Vec<u8>) -> Vec<u8> {
        let done = drive(&mut self.requester, Operation::Vendor(request.into()), &mut self.device);
        let Ok(Outcome::Vendor(answer)) = done else { panic!("the device does not answer") };
        answer.to_vec()
    }

    /// What a connect says to the device: evidence, session, what IDE_KM and TDISP tell, six keys.
    fn run(&mut self) {
        let mut flow =
            Evidence::start(EvidenceProfile::default(), &mut self.requester).expect("an idle requester");
        let mut progress = Progress::More;
        while !matches!(progress, Progress::Done(_)) {
            let out = self.requester.transmit().expect("the next object");
            let (kind, payload) = self.device.exchange(out.kind, &out.payload).expect("an answer");
            let received = flow.receive(&mut self.requester, kind, &payload, self.device.now);
            progress = received.expect("the right answer");
        }
        let mut tdisp = TdiRequester::new(self.interface);
        for operation in [TdiOperation::Versions, TdiOperation::Capabilities] {
            tdisp.start(operation).expect("an idle interface");
            while let Some(request) = tdisp.request() {
                let answer = self.vendor(request);
                tdisp.response(&answer).expect("the right answer");
            }
        }
        let query = QueryPort { port: PortIndex(0) };
        let answer = self.vendor(query.request());
        query.response(&answer).expect("a port");
        let keys = SetKeys::generate(&AwsLc).expect("random numbers");
        let mut stream = ProgramStream::new(PortIndex(0), StreamId(0), KeySet::K0, keys);
        while let Some(request) = stream.request() {
            let answer = self.vendor(request);
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
fn one_device(criterion: &mut Criterion) -> f64 {
    let host = host("default");
    let device = *devices_of(&host).first().expect("a device");
    let connect = || host.connect(device, "tsm0").expect("a sound device");
    let disconnect = || host.disconnect(device, "tsm0").expect("a connected device");
    let mut pair = Pair::new();
    criterion.bench_function("connect/host and module, and disconnect", |b| {
        b.iter(|| {
            connect();
            disconnect();
        });
    });
    criterion.bench_function("connect/same messages in one process", |b| b.iter(|| pair.run()));
    let (mut connected, mut yardstick) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..RUNS {
        connected = connected.min(seconds(connect));
        disconnect();
        yardstick = yardstick.min(seconds(|| black_box(&mut pair).run()));
    }
    let ratio = connected / yardstick;
    println!(
        "connect: through host, module and mailbox {:.0} us, the same messages in one process {:.0} us: ratio {ratio:.2}, promised {LIMIT}",
        connected * 1e6,
        yardstick * 1e6
    );
    ratio
}

/// Time of the last devices beside that of the first, and bytes per device.
fn many_devices() -> (f64, u64) {
    let host = host("gnr-2s-connect");
    let devices = devices_of(&host);
    assert!(devices.len() >= 256, "{} devices", devices.len());
    // Identities are made at the first exchange, and belong to the device: the second connect is measured.
    for &device in &devices {
        host.connect(device, "tsm0").expect("a sound device");
        host.disconnect(device, "tsm0").expect("a connected device");
    }
    let pages = host.platform().page_accounts().held;
    let before = HELD.load(Ordering::Relaxed);
    let mut times: Vec<f64> = Vec::with_capacity(devices.len());
    for &device in &devices {
        times.push(seconds(|| host.connect(device, "tsm0").expect("a sound device")));
    }
    let heap = HELD.load(Ordering::Relaxed).saturating_sub(before);
    let pages = host.platform().page_accounts().held.saturating_sub(pages);
    let count = devices.len() as u64;
    let each = (heap + pages) / count;
    // The middle of a quarter is what its devices take, whoever else is on the machine.
    let median = |part: &[f64]| {
        let mut sorted = part.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    };
    let quarter = devices.len() / 4;
    let (first, last) = (median(&times[..quarter]), median(&times[times.len() - quarter..]));
    println!(
        "connect: {count} devices one after the other in {:.2} s; median of the first quarter {:.0} us, of the last {:.0} us: ratio {:.2}, promised {LINEAR}",
        times.iter().sum::<f64>(),
        first * 1e6,
        last * 1e6,
        last / first
    );
    println!(
        "connect: {} KiB of heap and {} KiB of pages per connected device, promised {} KiB together",
        heap / count / 1024,
        pages / count / 1024,
        STATE / 1024
    );
    (last / first, each)
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let ratio = one_device(&mut criterion);
    criterion.final_summary();
    let (growth, bytes) = many_devices();
    assert!(ratio <= LIMIT, "a connect costs {ratio:.2} of the conversation, more than {LIMIT}");
    assert!(
        growth <= LINEAR,
        "the last devices take {growth:.2} times as long as the first, more than {LINEAR}"
    );
    assert!(bytes <= STATE, "a connected device costs {bytes} bytes, more than {STATE}");
}
