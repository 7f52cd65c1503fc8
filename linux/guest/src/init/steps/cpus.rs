//! CPUs coming and going, and their MSRs.

use std::{fs::File, os::unix::fs::FileExt as _};

use anyhow::{Context, Result, ensure};
use tdx_linux_guest::{
    plan::{Hex, Outcome},
    symbols::cpu_list,
};

use super::{super::files, Finding, ended_as};

const CPUS: &str = "/sys/devices/system/cpu";

fn list(name: &str) -> Result<Vec<u32>> {
    let path = format!("{CPUS}/{name}");
    let text = files::line_of(&path)?;
    cpu_list(&text).with_context(|| format!("{path} is {text:?}"))
}

/// Linux's numbers of the CPUs that are online.
pub(super) fn online() -> Result<Vec<u32>> {
    list("online")
}

/// Linux's numbers of the CPUs that are there.
pub(super) fn present() -> Result<Vec<u32>> {
    list("present")
}

/// The steps `cpu-offline` and `cpu-online`.
pub(super) fn switch(cpu: u32, on: bool, expect: &Outcome) -> Result<Finding> {
    let word = if on { "online" } else { "offline" };
    let before = online()?;
    ensure!(before.contains(&cpu) != on, "CPU {cpu} is {word} already");
    let ended = match files::write(format!("{CPUS}/cpu{cpu}/online"), if on { b"1" } else { b"0" }) {
        Ok(()) => Outcome::Done,
        Err(error) => Outcome::Refused(format!("errno:{}", files::errno_name(&error))),
    };
    ended_as(expect, &ended)?;
    let after = online()?;
    let is_on = after.contains(&cpu);
    ensure!(
        is_on == (on == (ended == Outcome::Done)),
        "switching CPU {cpu} {word} ended with {ended}, but the online CPUs are {after:?}"
    );
    Ok(Finding::new(format!("switching CPU {cpu} {word} ended with {ended}"))
        .with("online", after.len() as u64))
}

/// The step `cpu-count`.
pub(super) fn count(expect: u32) -> Result<Finding> {
    let online = online()?;
    ensure!(online.len() as u64 == u64::from(expect), "{} CPUs are online, not {expect}", online.len());
    Ok(Finding::new(format!("{expect} CPUs are online")))
}

/// The step `msr`.
pub(super) fn msr(msr: u32, expect: Hex) -> Result<Finding> {
    let online = online()?;
    for cpu in &online {
        let path = format!("/dev/cpu/{cpu}/msr");
        let file = File::open(&path).with_context(|| format!("{path} cannot be opened"))?;
        let mut bytes = [0; 8];
        let read = file.read_exact_at(&mut bytes, u64::from(msr));
        read.with_context(|| format!("MSR {msr:#x} of CPU {cpu} cannot be read"))?;
        let is = Hex(u64::from_le_bytes(bytes));
        ensure!(is == expect, "MSR {msr:#x} of CPU {cpu} is {is}, not {expect}");
    }
    Ok(Finding::new(format!("MSR {msr:#x} is {expect} on {} CPUs", online.len())))
}
