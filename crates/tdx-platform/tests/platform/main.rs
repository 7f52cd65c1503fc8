//! The host side on the software machine.

mod connect;
mod faults;
mod life;
mod update;
mod upload;
mod walk;

use std::sync::Arc;

use tdx_abi::leaf::SeamcallLeaf;
use tdx_host::{BringUpReport, HostError};
use tdx_machine::{Machine, PlatformSpec, presets};
use tdx_platform::{CpuMode, HostOptions, Platform, TdxHost};

fn preset(name: &str) -> PlatformSpec {
    presets::find(name).unwrap().spec().unwrap()
}

/// A machine without faults by chance.
fn quiet(name: &str) -> PlatformSpec {
    let mut spec = preset(name);
    spec.chaos.interrupt = 0;
    spec.chaos.no_entropy = 0;
    spec.chaos.busy = 0;
    spec
}

/// Two packages of two CPUs and a node each.
fn two_packages() -> PlatformSpec {
    let mut spec = quiet("tiny");
    spec.cpu.packages = 2;
    spec
}

fn switch_on(spec: PlatformSpec, mode: CpuMode) -> Arc<Platform> {
    Arc::new(Platform::new(Arc::new(Machine::power_on(spec, 1).unwrap()), mode))
}

fn host_on(spec: PlatformSpec) -> TdxHost {
    TdxHost::new(switch_on(spec, CpuMode::Sequential), HostOptions::default())
}

fn up(spec: PlatformSpec) -> (TdxHost, BringUpReport) {
    let host = host_on(spec);
    let report = host.bring_up(&()).unwrap();
    (host, report)
}

/// Every page is back and nobody holds a CPU in VMX operation.
fn assert_unwound(host: &TdxHost, what: &str) {
    let pages = host.platform().page_accounts();
    assert_eq!((pages.held, pages.leaked), held_at_boot(host.platform()), "{what}: {pages:?}");
    let status = host.status();
    assert_eq!(status.cpus_in_vmx, 0, "{what}");
    assert!(host.tdmrs().is_empty(), "{what}");
}

/// The VMXON regions are held for the whole boot; nothing is ever leaked.
fn held_at_boot(platform: &Platform) -> (u64, u64) {
    (platform.machine().lps().len() as u64 * 4096, 0)
}

fn name_of(result: Result<BringUpReport, HostError>) -> String {
    match result {
        Ok(_) => "ready".to_owned(),
        Err(error) => error.name().to_owned(),
    }
}

/// Calls that reached the module and P-SEAMLDR, by leaf.
fn calls(host: &TdxHost) -> (Vec<(Option<SeamcallLeaf>, u64)>, u64) {
    let seam = host.platform().machine().seam();
    (seam.module.map(|module| module.calls).unwrap_or_default(), seam.loader.calls)
}
