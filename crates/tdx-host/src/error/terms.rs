//! Terms that only failures speak of.

use core::fmt;

/// Sub-leaf of a CPUID refusal; all ones where the leaf has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CpuidSubleaf(pub u32);

impl fmt::Display for CpuidSubleaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == u32::MAX { Ok(()) } else { write!(f, " sub-leaf {:#x}", self.0) }
    }
}

/// A CPU feature that bring-up needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CpuFeature {
    /// XSAVE: the state of guests must be kept.
    Xsave,
    /// MOVDIR64B: clears private memory.
    Movdir64b,
    /// Self-snoop: caches stay coherent when attributes of memory change.
    SelfSnoop,
}

impl fmt::Display for CpuFeature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Xsave => "XSAVE (CPUID.1:ECX[26])",
            Self::Movdir64b => "MOVDIR64B (CPUID.7.0:ECX[28])",
            Self::SelfSnoop => "self-snoop (CPUID.1:EDX[27])",
        })
    }
}

/// Work of the module that does not survive its replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SensitiveWork {
    /// TDs between TDH.MNG.INIT and TDH.MR.FINALIZE.
    TdBuild,
    /// Interrupted calls of an export or import.
    Migration,
    /// Another reason that the module gave by its number.
    Other(u16),
}

impl SensitiveWork {
    /// The work that the module names by `reason`.
    pub(crate) const fn from_reason(reason: u16) -> Self {
        match reason {
            0 => Self::TdBuild,
            1 => Self::Migration,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for SensitiveWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TdBuild => f.write_str("TDs being built"),
            Self::Migration => f.write_str("interrupted migration calls"),
            Self::Other(reason) => write!(f, "of reason {reason}"),
        }
    }
}
