//! CPUs that a SIGSTRUCT can name: code name, product line and P-SEAMLDR line.
//!
//! Models and code names: Linux 7.3, `arch/x86/include/asm/intel-family.h`. The P-SEAMLDR line is inferred
//! from the platforms and `min_seamldr_versions` of releases 1.5.24 and 1.5.25; product names of Granite
//! Rapids and later are general knowledge.

use crate::sigstruct::STEPPING_MASK;

/// A family and model of CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CpuModel {
    /// CPUID.1.EAX with stepping 0.
    pub cpuid1_eax: u32,
    /// Family.
    pub family: u8,
    /// Model.
    pub model: u8,
    /// Intel's code name.
    pub code_name: &'static str,
    /// Products; `None` if no published SIGSTRUCT names the CPU.
    pub sold_as: Option<&'static str>,
    /// Whether Linux 7.3 lists the CPU for the partial-write machine check erratum.
    pub partial_write_erratum: bool,
    /// Major and minor version of the P-SEAMLDR that the CPU has; `None` if not known.
    pub seamldr_line: Option<(u16, u16)>,
}

const LINE_1_5: Option<(u16, u16)> = Some((1, 5));
const LINE_2_0: Option<(u16, u16)> = Some((2, 0));

/// Every CPU known to have TDX.
pub const CPUS: &[CpuModel] = &[
    CpuModel {
        cpuid1_eax: 0x806F0,
        family: 6,
        model: 0x8F,
        code_name: "Sapphire Rapids",
        sold_as: Some("4th Gen Xeon Scalable, Xeon Max, Xeon W-2400/3400"),
        partial_write_erratum: true,
        seamldr_line: LINE_1_5,
    },
    CpuModel {
        cpuid1_eax: 0xC06F0,
        family: 6,
        model: 0xCF,
        code_name: "Emerald Rapids",
        sold_as: Some("5th Gen Xeon Scalable"),
        partial_write_erratum: true,
        seamldr_line: LINE_1_5,
    },
    CpuModel {
        cpuid1_eax: 0xA06F0,
        family: 6,
        model: 0xAF,
        code_name: "Sierra Forest",
        sold_as: Some("Xeon 6 with E-cores (6700E)"),
        partial_write_erratum: false,
        seamldr_line: LINE_2_0,
    },
    CpuModel {
        cpuid1_eax: 0xA06D0,
        family: 6,
        model: 0xAD,
        code_name: "Granite Rapids",
        sold_as: Some("Xeon 6 with P-cores (6900P, 6700P, 6500P)"),
        partial_write_erratum: false,
        seamldr_line: LINE_2_0,
    },
    CpuModel {
        cpuid1_eax: 0xA06E0,
        family: 6,
        model: 0xAE,
        code_name: "Granite Rapids-D",
        sold_as: Some("Xeon 6 SoC"),
        partial_write_erratum: false,
        seamldr_line: LINE_2_0,
    },
    CpuModel {
        cpuid1_eax: 0xD06D0,
        family: 6,
        model: 0xDD,
        code_name: "Clearwater Forest",
        sold_as: None,
        partial_write_erratum: false,
        seamldr_line: None,
    },
    CpuModel {
        cpuid1_eax: 0x400F10,
        family: 19,
        model: 0x01,
        code_name: "Diamond Rapids",
        sold_as: None,
        partial_write_erratum: false,
        seamldr_line: None,
    },
];

/// What is known of the CPU with this CPUID.1.EAX, whatever its stepping.
pub fn code_name(cpuid1_eax: u32) -> Option<&'static CpuModel> {
    CPUS.iter().find(|cpu| cpu.cpuid1_eax == cpuid1_eax & !STEPPING_MASK)
}
