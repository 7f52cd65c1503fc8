//! One function per step. An error is a failed step: its text is the answer's sentence.

pub(super) mod attributes;
mod bench;
mod cpus;
mod kernel;
pub(super) mod module;
mod stress;
mod upload;

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use nix::errno::Errno;
use tdx_linux_guest::plan::{Outcome, Step};

/// What a step found that is as it should be.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) detail: String,
    pub(super) numbers: BTreeMap<String, u64>,
}

impl Finding {
    pub(super) fn new(detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), numbers: BTreeMap::new() }
    }

    fn with(mut self, name: &str, number: u64) -> Self {
        self.numbers.insert(name.to_owned(), number);
        self
    }
}

/// What steps leave for later ones.
#[derive(Debug)]
pub(super) struct World {
    /// How loading the `tdx_host` driver ended; None: the initramfs has no such file.
    tdx_host: Option<Result<(), Errno>>,
    /// Alarms in the log that a step has reported already.
    alarms_seen: usize,
}

impl World {
    pub(super) fn begin() -> Self {
        Self { tdx_host: module::load_tdx_host(), alarms_seen: 0 }
    }
}

/// Runs one step.
pub(super) fn run(step: &Step, world: &mut World) -> Result<Finding> {
    match step {
        Step::Initialised {} => kernel::initialised(world),
        Step::NotInitialised { text } => kernel::not_initialised(text, world),
        Step::LoadModule { path, params, expect } => module::load(path, params, expect),
        Step::Attributes { expect } => attributes::check(expect),
        Step::Update { image, expect, then, time_limit } => upload::update(image, expect, then, *time_limit),
        Step::GiveUpUpdate { image } => upload::give_up(image),
        Step::Healthy { expect, offline } => kernel::healthy(expect, *offline, world),
        Step::CpuOffline { cpu, expect } => cpus::switch(*cpu, false, expect),
        Step::CpuOnline { cpu, expect } => cpus::switch(*cpu, true, expect),
        Step::CpuCount { expect } => cpus::count(*expect),
        Step::Taint { allow } => kernel::taint(*allow, world),
        Step::Kaslr { expect } => kernel::kaslr(*expect),
        Step::DmesgHas { text } => kernel::dmesg_has(text),
        Step::DmesgLacks { text } => kernel::dmesg_lacks(text),
        Step::DmesgTime { text } => kernel::dmesg_time(text),
        Step::Msr { msr, expect } => cpus::msr(*msr, *expect),
        Step::Bench { module, calls, all_cpus, field, leaf, status } => bench::run(
            module,
            &bench::Request { calls: *calls, all_cpus: *all_cpus, field: *field, leaf: *leaf },
            *status,
        ),
        Step::Ciphertext { module } => bench::ciphertext(module),
        Step::Stress { image, readers, expect, then, time_limit } => {
            stress::run(image, *readers, expect, then, *time_limit)
        }
        // Process 1 does it itself, because what follows belongs to another boot.
        Step::Reboot {} => anyhow::bail!("a restart is no step within a boot"),
    }
}

/// Fails unless an act ended as the plan expects.
fn ended_as(expected: &Outcome, ended: &Outcome) -> Result<()> {
    ensure!(expected == ended, "it ended with {ended}, not with {expected}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_act_must_end_as_expected() {
        let refused = Outcome::Refused("transferring:firmware-invalid".into());
        assert!(ended_as(&Outcome::Done, &Outcome::Done).is_ok());
        assert!(ended_as(&refused, &refused.clone()).is_ok());
        let error = ended_as(&Outcome::Done, &refused).unwrap_err();
        assert_eq!(error.to_string(), "it ended with transferring:firmware-invalid, not with done");
        assert!(ended_as(&refused, &Outcome::Done).is_err());
        assert!(ended_as(&refused, &Outcome::Refused("preparing:hw-error".into())).is_err());
    }
}
