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
