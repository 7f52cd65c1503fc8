//! One TDH.SYS.RD through the host side, beside a `getppid` in the same run: host wrapper, trait call,
//! machine, module and back. The ratio is the promise; both are printed.

use std::hint::black_box;
use std::os::unix::process::parent_id;
use std::sync::Arc;
use std::time::Instant;

use criterion::Criterion;
use tdx_abi::metadata::sys;
use tdx_host::traits::{CpuNumber, CpuPin};
use tdx_machine::{Machine, presets};
use tdx_platform::{CpuMode, HostOptions, Platform, TdxHost};

/// What is promised.
const LIMIT: f64 = 0.5;

fn host() -> TdxHost {
    let spec = presets::find("default").expect("a preset").spec().expect("a sound preset");
    let machine = Arc::new(Machine::power_on(spec, 0).expect("a sound platform"));
    let host = TdxHost::new(Arc::new(Platform::new(machine, CpuMode::Sequential)), HostOptions::default());
    host.bring_up(&()).expect("the default platform comes up");
    host
}

/// Nanoseconds per call: the best of many short runs, so that neighbours on the machine do not count.
fn best<T>(mut call: impl FnMut() -> T) -> f64 {
    const CALLS: u32 = 20_000;
    let run = || {
        let started = Instant::now();
        (0..CALLS).for_each(|_| drop(black_box(call())));
        started.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
    };
    std::iter::repeat_with(run).take(50).fold(f64::INFINITY, f64::min)
}

fn main() {
    let host = host();
    CpuPin::enter(CpuNumber(0), |pin| {
        let mut criterion = Criterion::default().configure_from_args();
        let read = || host.sys_rd(pin, black_box(sys::TDX_FEATURES0));
        criterion.bench_function("sys_rd/TDH.SYS.RD", |bench| bench.iter(read));
        criterion.bench_function("sys_rd/getppid", |bench| bench.iter(parent_id));
        criterion.final_summary();
        let (call, yardstick) = (best(read), best(parent_id));
        let ratio = call / yardstick;
        println!("TDH.SYS.RD {call:.1} ns, getppid {yardstick:.1} ns: ratio {ratio:.2}, promised {LIMIT}");
        assert!(ratio <= LIMIT, "TDH.SYS.RD costs {ratio:.2} of a getppid, more than {LIMIT}");
    });
}
