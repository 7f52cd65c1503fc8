//! Where the checks get their facts from: a real machine or a simulated one.

use tdx_abi::msr::MsrIndex;

use super::cpu::CpuIdentity;

/// Why a fact could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unseen {
    /// The file is not there.
    #[error("{0} does not exist")]
    Missing(String),
    /// Not allowed to look.
    #[error("{0}: permission denied")]
    Denied(String),
    /// The CPU raises #GP on the MSR: it does not have it.
    #[error("the CPU has no MSR {:#x}", .0.0)]
    NoMsr(MsrIndex),
    /// The device files of the `msr` driver are missing.
    #[error("{0} does not exist: the msr driver is not loaded")]
    NoMsrDriver(String),
    /// Something else.
    #[error("{what}: {why}")]
    Failed {
        /// What was looked at.
        what: String,
        /// The error.
        why: String,
    },
}

/// Why a host did not come up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BringUpFailure {
    /// Name and sentence of the error.
    pub seen: String,
    /// What to try.
    pub advice: String,
}

/// Facts about a host. Nothing here changes the machine.
pub trait Facts {
    /// The first CPU; all CPUs of a TDX host are of one kind.
    fn cpu(&self) -> Result<CpuIdentity, Unseen>;

    /// Numbers of the packages that have an online CPU, ascending.
    fn packages(&self) -> Result<Vec<u32>, Unseen>;

    /// Reads an MSR on the first online CPU of `package`.
    fn rdmsr(&self, package: u32, msr: MsrIndex) -> Result<u64, Unseen>;

    /// Reads a file of `/proc` or `/sys`, by its full path.
    fn read_file(&self, path: &str) -> Result<String, Unseen>;

    /// The kernel's log since boot.
    fn kernel_log(&self) -> Result<String, Unseen>;

    /// Why bring-up failed, if the host tells it itself instead of in a log.
    fn bring_up_failure(&self) -> Option<BringUpFailure> {
        None
    }

    /// False for a host without command line, module parameters and log of Linux: those checks are left out.
    fn runs_linux(&self) -> bool {
        true
    }
}
