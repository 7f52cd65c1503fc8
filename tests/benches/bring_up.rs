//! From nothing to an initialised module: the machine is built, powered on and brought up.

use std::sync::Arc;
use std::time::Instant;

use criterion::Criterion;
use tdx_host::BringUpReport;
use tdx_machine::{Machine, presets};
use tdx_platform::{CpuMode, HostOptions, Platform, TdxHost};

fn bring_up(name: &str) -> BringUpReport {
    let spec = presets::find(name).expect("a preset").spec().expect("a sound preset");
    let machine = Arc::new(Machine::power_on(spec, 0).expect("a sound platform"));
    let host = TdxHost::new(Arc::new(Platform::new(machine, CpuMode::Sequential)), HostOptions::default());
    host.bring_up(&()).expect("the platform comes up")
}

fn from_nothing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bring_up");
    group.sample_size(10);
    for name in ["tiny", "default", "spr-2s", "gnr-8s"] {
        let report = bring_up(name);
        println!("{name}: {} calls of TDH.SYS.TDMR.INIT", report.tdmr_init_calls);
        group.bench_function(name, |bench| bench.iter(|| bring_up(name)));
    }
    group.finish();
}

/// Wall-clock limits of release builds, in seconds.
const LIMITS: [(&str, f64); 2] = [("default", 0.3), ("gnr-8s", 2.0)];

fn check_limits() {
    for (name, limit) in LIMITS {
        let run = || {
            let started = Instant::now();
            bring_up(name);
            started.elapsed().as_secs_f64()
        };
        let best = std::iter::repeat_with(run).take(3).fold(f64::INFINITY, f64::min);
        println!("{name}: {best:.3} s, promised {limit} s");
        assert!(best <= limit, "{name} took {best:.3} s, more than {limit} s");
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    from_nothing(&mut criterion);
    criterion.final_summary();
    check_limits();
}
