//! Packages, cores, threads and their x2APIC ids.

use serde::{Deserialize, Serialize};

use super::ErrataSpec;

/// The processors of a machine. All packages are alike but for `[[package]]` entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuSpec {
    /// Kind of CPU.
    pub kind: CpuKind,
    /// Packages (sockets), at most 8.
    pub packages: u32,
    /// Cores of a package.
    pub cores: u32,
    /// Threads of a core, 1 or 2.
    pub threads: u32,
    /// How x2APIC ids are given.
    #[serde(default, skip_serializing_if = "X2apicSpec::is_dense")]
    pub x2apic: X2apicSpec,
}

/// How x2APIC ids follow from the topology.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct X2apicSpec {
    /// Ids from the first of a package to the first of the next, a power of two. The smallest
    /// that holds a package if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package_stride: Option<u32>,
    /// First id of each package, if not a multiple of the stride by package number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub package_bases: Vec<u32>,
}

impl X2apicSpec {
    fn is_dense(&self) -> bool {
        *self == Self::default()
    }
}

/// Kind of CPU: decides CPUID, MSR and errata facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CpuKind {
    /// 4th generation Xeon Scalable.
    SapphireRapids,
    /// 5th generation Xeon Scalable.
    EmeraldRapids,
    /// Xeon 6 with P-cores.
    GraniteRapids,
    /// Xeon 6 with E-cores.
    SierraForest,
    /// A client CPU without TDX.
    Laptop,
}

impl CpuKind {
    /// Errata of the kind.
    pub fn errata(self) -> ErrataSpec {
        ErrataSpec {
            pw_mce: matches!(self, Self::SapphireRapids | Self::EmeraldRapids),
            seamret_invd_vmcs: matches!(self, Self::SapphireRapids | Self::EmeraldRapids),
        }
    }

    /// True if the CPU knows SEAM.
    pub fn has_tdx(self) -> bool {
        self != Self::Laptop
    }

    /// True if IA32_TSX_CTRL exists.
    pub(crate) fn has_tsx_ctrl(self) -> bool {
        !matches!(self, Self::SierraForest | Self::Laptop)
    }

    /// Width of a physical address, CPUID 0x80000008 EAX bits 7:0.
    pub fn maxpa(self) -> u8 {
        if self == Self::Laptop { 46 } else { 52 }
    }

    /// Code name.
    pub fn code_name(self) -> &'static str {
        match self {
            Self::SapphireRapids => "Sapphire Rapids",
            Self::EmeraldRapids => "Emerald Rapids",
            Self::GraniteRapids => "Granite Rapids",
            Self::SierraForest => "Sierra Forest",
            Self::Laptop => "client CPU without TDX",
        }
    }
}

impl CpuSpec {
    /// Logical processors of the machine; `None` beyond 32 bits.
    pub fn lp_count(&self) -> Option<u32> {
        self.packages.checked_mul(self.cores)?.checked_mul(self.threads)
    }

    /// Bits of an x2APIC id below the core number.
    pub fn thread_bits(&self) -> u32 {
        bits_for(self.threads)
    }

    /// Bits of an x2APIC id below the package number.
    pub fn package_shift(&self) -> u32 {
        let needed = self.thread_bits() + bits_for(self.cores);
        self.x2apic.package_stride.map_or(needed, |stride| needed.max(bits_for(stride)))
    }

    /// x2APIC id of a thread; `None` if it does not fit 32 bits.
    pub fn x2apic_id(&self, package: u32, core: u32, thread: u32) -> Option<u32> {
        let base = if let Some(&base) = self.x2apic.package_bases.get(package as usize) {
            base
        } else {
            u32::try_from(u64::from(package).checked_shl(self.package_shift())?).ok()?
        };
        base.checked_add(core.checked_shl(self.thread_bits())? | thread)
    }
}

/// Bits that number `count` things.
fn bits_for(count: u32) -> u32 {
    count.max(1).next_power_of_two().trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(cores: u32, threads: u32, x2apic: X2apicSpec) -> CpuSpec {
        CpuSpec { kind: CpuKind::GraniteRapids, packages: 8, cores, threads, x2apic }
    }

    #[test]
    fn dense_ids_pack_threads_cores_and_packages() {
        let cpu = cpu(56, 2, X2apicSpec::default());
        assert_eq!((cpu.thread_bits(), cpu.package_shift()), (1, 7));
        assert_eq!(cpu.x2apic_id(1, 55, 1), Some(128 + 111));
    }

    #[test]
    fn a_stride_spreads_the_packages() {
        let cpu = cpu(112, 2, X2apicSpec { package_stride: Some(512), package_bases: vec![] });
        assert_eq!(cpu.package_shift(), 9);
        assert_eq!(cpu.x2apic_id(7, 0, 0), Some(3584));
    }

    #[test]
    fn bases_place_each_package() {
        let cpu = cpu(2, 1, X2apicSpec { package_stride: None, package_bases: vec![0, 1024] });
        assert_eq!(cpu.x2apic_id(1, 1, 0), Some(1025));
    }
}
