//! The facts of a host as a document: what a served host hands out, and what tests make up.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tdx_abi::msr::MsrIndex;

use super::cpu::CpuIdentity;
use super::facts::{BringUpFailure, Facts, Unseen};

/// Everything that the checks look at, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// The first CPU.
    pub cpu: CpuIdentity,
    /// MSRs of each package, by package and by index; an MSR that is not there raises #GP. Values are
    /// `0x…` strings.
    pub msrs: BTreeMap<u32, BTreeMap<String, String>>,
    /// Files by their full path.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// The kernel's log, if the host has Linux.
    #[serde(default)]
    pub kernel_log: Option<String>,
}

impl Snapshot {
    /// Sets an MSR of a package.
    pub fn set_msr(&mut self, package: u32, msr: MsrIndex, value: u64) {
        self.msrs.entry(package).or_default().insert(key(msr), format!("{value:#x}"));
    }

    /// Takes an MSR away.
    pub fn remove_msr(&mut self, package: u32, msr: MsrIndex) {
        self.msrs.entry(package).or_default().remove(&key(msr));
    }
}

fn key(msr: MsrIndex) -> String {
    format!("{:#x}", msr.0)
}

impl Facts for Snapshot {
    fn cpu(&self) -> Result<CpuIdentity, Unseen> {
        Ok(self.cpu.clone())
    }

    fn packages(&self) -> Result<Vec<u32>, Unseen> {
        Ok(self.msrs.keys().copied().collect())
    }

    fn rdmsr(&self, package: u32, msr: MsrIndex) -> Result<u64, Unseen> {
        let text = self.msrs.get(&package).and_then(|msrs| msrs.get(&key(msr))).ok_or(Unseen::NoMsr(msr))?;
        crate::text::number(text).map_err(|error| Unseen::Failed {
            what: format!("MSR {} of package {package}", key(msr)),
            why: error.to_string(),
        })
    }

    fn read_file(&self, path: &str) -> Result<String, Unseen> {
        self.files.get(path).cloned().ok_or_else(|| Unseen::Missing(path.to_owned()))
    }

    fn kernel_log(&self) -> Result<String, Unseen> {
        self.kernel_log.clone().ok_or_else(|| Unseen::Missing("/dev/kmsg".to_owned()))
    }

    fn runs_linux(&self) -> bool {
        self.kernel_log.is_some()
    }
}

/// A snapshot of a host that says itself why it did not come up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Simulated {
    /// What the checks look at.
    pub snapshot: Snapshot,
    /// Why bring-up failed.
    pub failure: Option<BringUpFailure>,
}

impl Facts for Simulated {
    fn cpu(&self) -> Result<CpuIdentity, Unseen> {
        self.snapshot.cpu()
    }

    fn packages(&self) -> Result<Vec<u32>, Unseen> {
        self.snapshot.packages()
    }

    fn rdmsr(&self, package: u32, msr: MsrIndex) -> Result<u64, Unseen> {
        self.snapshot.rdmsr(package, msr)
    }

    fn read_file(&self, path: &str) -> Result<String, Unseen> {
        self.snapshot.read_file(path)
    }

    fn kernel_log(&self) -> Result<String, Unseen> {
        self.snapshot.kernel_log()
    }

    fn bring_up_failure(&self) -> Option<BringUpFailure> {
        self.failure.clone()
    }

    fn runs_linux(&self) -> bool {
        self.snapshot.runs_linux()
    }
}
