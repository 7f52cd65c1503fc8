//! What only shows with the host on one side of the boundary and a machine on the other.

mod bad_devices;
mod bad_requesters;
mod chance;
mod connect;
mod pamt;
mod releases;
mod scenarios;
mod update;

use std::sync::Arc;

use tdx_host::{BringUpReport, HostError};
use tdx_machine::spec::ChaosSpec;
use tdx_machine::{Machine, PlatformSpec, presets};
use tdx_module::inspect::ModuleInspection;
use tdx_platform::{CpuMode, HostOptions, Platform, TdxHost};

fn preset(name: &str) -> PlatformSpec {
    presets::find(name).unwrap().spec().unwrap()
}

/// The machine with nothing left to chance.
fn quiet(name: &str) -> PlatformSpec {
    PlatformSpec {
        chaos: ChaosSpec { interrupt: 0, no_entropy: 0, busy: 0, write_back_within: 0 },
        ..preset(name)
    }
}

/// A host on a machine that was just switched on.
fn host_on(spec: PlatformSpec, seed: u64, options: HostOptions) -> TdxHost {
    let machine = Arc::new(Machine::power_on(spec, seed).unwrap());
    TdxHost::new(Arc::new(Platform::new(machine, CpuMode::Sequential)), options)
}

fn module(host: &TdxHost) -> ModuleInspection {
    host.platform().machine().seam().module.unwrap()
}

/// `ready`, or the name of the error.
fn ending(result: &Result<BringUpReport, HostError>) -> &'static str {
    match result {
        Ok(_) => "ready",
        Err(error) => error.name(),
    }
}
