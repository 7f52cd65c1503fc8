//! Which CPU a machine has, and whether TDX exists for it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// What `/proc/cpuinfo` tells of the first CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuIdentity {
    /// `GenuineIntel` for Intel.
    pub vendor: String,
    /// Display family.
    pub family: u32,
    /// Display model.
    pub model: u32,
    /// Stepping.
    pub stepping: u32,
    /// Name the CPU gives itself.
    pub name: String,
    /// Feature flags by the names that Linux uses.
    pub flags: BTreeSet<String>,
}

impl CpuIdentity {
    /// Reads the first CPU of a `/proc/cpuinfo`. What is missing stays empty or 0.
    pub fn from_cpuinfo(text: &str) -> Self {
        let mut cpu = Self::default();
        // The first CPU ends at the first empty line.
        for line in text.lines().take_while(|line| !line.trim().is_empty()) {
            let Some((key, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            match key.trim() {
                "vendor_id" => value.clone_into(&mut cpu.vendor),
                "cpu family" => cpu.family = value.parse().unwrap_or(0),
                "model" => cpu.model = value.parse().unwrap_or(0),
                "stepping" => cpu.stepping = value.parse().unwrap_or(0),
                "model name" => value.clone_into(&mut cpu.name),
                "flags" => cpu.flags = value.split_whitespace().map(str::to_owned).collect(),
                _ => {}
            }
        }
        cpu
    }

    /// True if the flag is there.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.contains(flag)
    }

    /// True for an Intel CPU.
    pub fn is_intel(&self) -> bool {
        self.vendor == "GenuineIntel"
    }

    /// The TDX generation that this CPU belongs to, if it belongs to one.
    pub fn tdx_model(&self) -> Option<&'static TdxModel> {
        TDX_MODELS.iter().find(|known| self.is_intel() && self.family == 6 && self.model == known.model)
    }
}

/// A CPU model that Intel publishes TDX modules for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TdxModel {
    /// Display model of family 6.
    pub model: u32,
    /// Code name.
    pub code_name: &'static str,
    /// Under which names it is sold.
    pub sold_as: &'static str,
    /// A partial write to private memory poisons it (erratum).
    pub partial_write_erratum: bool,
}

/// The models in the CPU tables of the published modules, and the one announced after them.
pub const TDX_MODELS: &[TdxModel] = &[
    TdxModel {
        model: 0x8f,
        code_name: "Sapphire Rapids",
        sold_as: "4th Gen Xeon Scalable, Xeon Max, Xeon W-2400/3400",
        partial_write_erratum: true,
    },
    TdxModel {
        model: 0xcf,
        code_name: "Emerald Rapids",
        sold_as: "5th Gen Xeon Scalable",
        partial_write_erratum: true,
    },
    TdxModel {
        model: 0xaf,
        code_name: "Sierra Forest",
        sold_as: "Xeon 6 with E-cores (6700E)",
        partial_write_erratum: false,
    },
    TdxModel {
        model: 0xad,
        code_name: "Granite Rapids",
        sold_as: "Xeon 6 with P-cores (6900P, 6700P, 6500P)",
        partial_write_erratum: false,
    },
    TdxModel {
        model: 0xae,
        code_name: "Granite Rapids-D",
        sold_as: "Xeon 6 SoC",
        partial_write_erratum: false,
    },
    TdxModel {
        model: 0xdd,
        code_name: "Clearwater Forest",
        sold_as: "in no published table",
        partial_write_erratum: false,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuinfo_gives_the_first_cpu_only() {
        let cpu = CpuIdentity::from_cpuinfo(
            "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\nstepping\t: 8\n\
             model name\t: Intel(R) Xeon(R) Platinum 8480C\nflags\t\t: vmx ss xsave\n\n\
             processor\t: 1\nmodel\t\t: 1\nflags\t\t: nothing\n",
        );
        assert_eq!((cpu.family, cpu.model, cpu.stepping), (6, 143, 8));
        assert!(cpu.has("vmx") && cpu.has("ss") && !cpu.has("nothing"));
        assert_eq!(cpu.tdx_model().map(|model| model.code_name), Some("Sapphire Rapids"));
    }

    #[test]
    fn only_intel_cpus_of_family_6_have_a_tdx_generation() {
        let cpu = |vendor: &str, family, model| CpuIdentity {
            vendor: vendor.to_owned(),
            family,
            model,
            ..CpuIdentity::default()
        };
        assert!(cpu("GenuineIntel", 6, 0xad).tdx_model().is_some());
        assert!(cpu("GenuineIntel", 6, 0x6a).tdx_model().is_none());
        assert!(cpu("AuthenticAMD", 6, 0xad).tdx_model().is_none());
        assert!(cpu("GenuineIntel", 19, 0xad).tdx_model().is_none());
    }

    #[test]
    fn broken_cpuinfo_is_read_as_far_as_it_goes() {
        assert_eq!(CpuIdentity::from_cpuinfo(""), CpuIdentity::default());
        assert_eq!(CpuIdentity::from_cpuinfo("model : x\nflags\nvendor_id : V").vendor, "V");
    }
}
