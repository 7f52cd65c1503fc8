//! The blackout of a live update: from TDH.SYS.SHUTDOWN to the end of TDH.SYS.UPDATE no TD runs.
//!
//! Measured over the number of LPs, one after the other and, where the platform has that many threads,
//! all together; a straight line is fitted to each. With signature checks off what is left is the walk
//! itself; with them on, the last LP also hashes and verifies the image.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tdx_abi::seamldr::Version;
use tdx_host::update::{UpdateObserver, UpdateOptions, UpdatePhase};
use tdx_image::HeaderVersion;
use tdx_image::build::{self, ModuleSpec};
use tdx_machine::spec::{ChaosSpec, Size};
use tdx_machine::{Machine, PlatformSpec, presets};
use tdx_platform::{CpuMode, HostOptions, Platform, TdxHost};

/// Packages and cores of two threads each, for machines that run one LP after the other.
const SEQUENTIAL: [(u32, u32); 6] = [(1, 32), (1, 64), (2, 64), (4, 64), (8, 64), (8, 112)];
/// Cores of one thread each, for machines whose LPs are threads.
const THREADED: [u32; 4] = [2, 4, 8, 16];
/// Updates per machine; the shortest counts.
const UPDATES: u32 = 15;
/// What is promised of 1,792 LPs, one after the other, without signature checks.
const LIMIT: Duration = Duration::from_millis(20);

fn spec(packages: u32, cores: u32, threads: u32, check_signatures: bool) -> PlatformSpec {
    let mut spec = presets::find("gnr-8s").expect("a preset").spec().expect("a sound preset");
    (spec.cpu.packages, spec.cpu.cores, spec.cpu.threads) = (packages, cores, threads);
    spec.cpu.x2apic.package_stride = None;
    spec.memory.size = Some(Size(32 << 30));
    spec.seamldr.signature_checks = check_signatures;
    spec.seamldr.remaining_updates = UPDATES;
    // The limit of published loaders, raised where the machine has ids beyond it.
    let last = spec.cpu.x2apic_id(packages - 1, cores - 1, threads - 1).expect("a small id");
    spec.seamldr.x2apic_limit = (last + 1).max(1024);
    spec.chaos = ChaosSpec { interrupt: 0, no_entropy: 0, busy: 0, write_back_within: 0 };
    spec
}

/// The time of the first call that the observer hears of.
#[derive(Default)]
struct Started(Mutex<Option<Instant>>);

impl UpdateObserver for Started {
    fn phase_started(&self, phase: UpdatePhase) {
        if phase == UpdatePhase::Shutdown {
            *self.0.lock().expect("nobody panics with it") = Some(Instant::now());
        }
    }
}

/// The shortest blackout of some updates of one machine.
fn blackout(spec: PlatformSpec, mode: CpuMode, image: &[u8]) -> Duration {
    let options = UpdateOptions { x2apic_limit: spec.seamldr.x2apic_limit, ..UpdateOptions::default() };
    let machine = Arc::new(Machine::power_on(spec, 0).expect("a sound platform"));
    let host = TdxHost::new(Arc::new(Platform::new(machine, mode)), HostOptions::default());
    host.bring_up(&()).expect("the platform comes up");
    let update = |_| {
        let started = Started::default();
        host.update(image, &options, &started).expect("the update succeeds");
        let started = started.0.into_inner().expect("nobody panicked").expect("the module was shut down");
        started.elapsed()
    };
    (0..UPDATES).map(update).min().unwrap_or(Duration::MAX)
}

/// The line through `points` (LPs, seconds) with the least squares: seconds at 0, seconds per LP.
fn line(points: &[(f64, f64)]) -> (f64, f64) {
    let count = points.iter().map(|_| 1.0).sum::<f64>();
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
    let covariance: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let variance: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let slope = covariance / variance;
    (mean_y - slope * mean_x, slope)
}

/// Measures and prints one table; the last row.
fn table(title: &str, machines: &[PlatformSpec], mode: CpuMode, image: &[u8]) -> Duration {
    println!("{title}\n  {:>6}  {:>12}", "LPs", "blackout");
    let mut points = Vec::new();
    let mut last = Duration::ZERO;
    for spec in machines {
        let lps = spec.cpu.lp_count().expect("a small machine");
        last = blackout(spec.clone(), mode, image);
        println!("  {lps:>6}  {:>9.3} ms", last.as_secs_f64() * 1e3);
        points.push((f64::from(lps), last.as_secs_f64()));
    }
    let (fixed, each) = line(&points);
    println!("  fitted: {:.3} ms + {:.3} us per LP", fixed * 1e3, each * 1e6);
    last
}

fn main() {
    // As large as Intel's, in the hand-off version of the module that runs.
    let module = ModuleSpec {
        pages: 148,
        module_handoff_version: 1,
        ..ModuleSpec::new(Version::new(2, 0, 20), "connect")
    };
    let image = build::image(&module, HeaderVersion::V0x200).expect("a sound description");
    let mut slowest = Duration::ZERO;
    for checks in [false, true] {
        let signatures = if checks { "on" } else { "off" };
        let machines = SEQUENTIAL.map(|(packages, cores)| spec(packages, cores, 2, checks));
        let title = format!("one LP after the other, signature checks {signatures}");
        let last = table(&title, &machines, CpuMode::Sequential, &image);
        if !checks {
            slowest = last;
        }
        let machines = THREADED.map(|cores| spec(1, cores, 1, checks));
        let title = format!("a thread per LP, signature checks {signatures}");
        table(&title, &machines, CpuMode::Threads, &image);
    }
    println!("1792 LPs one after the other: {slowest:.3?}, promised {LIMIT:?}");
    assert!(slowest <= LIMIT, "1,792 LPs took {slowest:?}, more than {LIMIT:?}");
}
