//! Platform files from real machines: from a posted boot log, or from the machine at hand.

mod acpi;
mod builder;
mod dmesg;
mod host;

use std::fmt;
use std::path::Path;

use crate::spec::{PlatformSpec, SpecError};

/// Something about a captured platform that its user should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A fact was not there; something else stands in the platform file.
    Assumed {
        /// What is missing.
        what: &'static str,
        /// What was taken instead.
        instead: String,
    },
    /// A part of the source could not be read.
    Unreadable {
        /// Where it is.
        path: String,
        /// Why.
        reason: String,
    },
    /// Two facts do not fit together.
    Conflict {
        /// What was done about it.
        resolution: String,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Assumed { what, instead } => write!(f, "{what} not found: {instead}"),
            Self::Unreadable { path, reason } => write!(f, "{path} not readable: {reason}"),
            Self::Conflict { resolution } => f.write_str(resolution),
        }
    }
}

/// Why no platform file came out.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// There is no memory map at all.
    #[error("no memory map found: {hint}")]
    NoMemoryMap {
        /// Where one is expected.
        hint: &'static str,
    },
    /// The facts do not make a machine.
    #[error("the captured facts do not make a machine: {0}")]
    Spec(#[from] SpecError),
    /// The description of the CPUs could not be read.
    #[error("{path}: {reason}")]
    Unreadable {
        /// File.
        path: String,
        /// Why.
        reason: String,
    },
}

/// A platform from a boot log: BIOS-e820, SRAT, CMR, KeyID, CPU and module lines, whatever stands
/// before them. Other lines are skipped.
pub fn from_dmesg(text: &str) -> Result<(PlatformSpec, Vec<Note>), CaptureError> {
    let mut notes = Vec::new();
    let facts = dmesg::facts(text);
    if facts.e820.is_empty() {
        return Err(CaptureError::NoMemoryMap {
            hint: "the log has no line `BIOS-e820: [mem 0x…-0x…] usable`; take it from the first lines of dmesg",
        });
    }
    let spec = builder::build(&facts, "captured-log", "a posted boot log", &mut notes)?;
    Ok((spec, notes))
}

/// A platform from the files of a running Linux below `root` (normally `/`). What only the
/// superuser may read is noted where it could not be.
pub fn from_host(root: &Path) -> Result<(PlatformSpec, Vec<Note>), CaptureError> {
    let mut notes = Vec::new();
    let facts = host::facts(root, &mut notes)?;
    let spec = builder::build(&facts, "captured-host", "the files of a running system", &mut notes)?;
    Ok((spec, notes))
}

#[cfg(test)]
mod tests;
