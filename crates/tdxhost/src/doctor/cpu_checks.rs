//! Checks of the CPU's kind and features.

use super::check::Check;
use super::cpu::CpuIdentity;

const MODEL: &str = "an Intel server CPU that TDX modules are published for, outside a virtual machine";

/// Why a machine cannot be a TDX host at all, in one sentence.
pub(super) fn hopeless(cpu: &CpuIdentity) -> Option<String> {
    if !cpu.is_intel() {
        let vendor = if cpu.vendor.is_empty() { "an unknown vendor" } else { cpu.vendor.as_str() };
        return Some(format!(
            "This machine cannot be a TDX host: its CPU is of {vendor}, and TDX exists only in Intel \
             server CPUs."
        ));
    }
    if cpu.has("tdx_guest") {
        return Some(
            "This machine is a TD, a guest of TDX: a TDX host needs the bare machine, SEAMCALL cannot be \
             nested."
                .to_owned(),
        );
    }
    if cpu.has("hypervisor") {
        return Some(
            "This machine is a guest of a hypervisor: a TDX host needs the bare machine, because no \
             hypervisor passes SEAM mode on."
                .to_owned(),
        );
    }
    // A kernel that found TDX knows better than a list of models.
    if cpu.tdx_model().is_none() && !cpu.has("tdx_host_platform") {
        let name = if cpu.name.is_empty() { "this model" } else { cpu.name.as_str() };
        return Some(format!(
            "This CPU has no TDX: {name} (family {}, model {:#x}) is none of the models that TDX modules \
             are published for (Sapphire Rapids and later Xeons).",
            cpu.family, cpu.model
        ));
    }
    None
}

/// The CPU's kind.
pub(super) fn model(cpu: &CpuIdentity) -> Check {
    let numbers = format!("family {}, model {:#x}, stepping {}", cpu.family, cpu.model, cpu.stepping);
    if let Some(reason) = hopeless(cpu) {
        return Check::failed(
            "cpu-model",
            MODEL,
            reason,
            "Use another machine, or the software platform: `tdxhost demo`.",
        );
    }
    let seen = match cpu.tdx_model() {
        Some(model) => format!("{} ({numbers})", model.code_name),
        None => format!("{} ({numbers}), unknown here, but the kernel reports TDX for it", cpu.name),
    };
    Check::ok("cpu-model", MODEL, seen)
}

struct Feature {
    id: &'static str,
    flag: &'static str,
    expected: &'static str,
    advice: &'static str,
}

const FEATURES: [Feature; 4] = [
    Feature {
        id: "cpu-vmx",
        flag: "vmx",
        expected: "VMX (flag vmx): SEAMCALL works only in VMX operation",
        advice: "Turn on virtualisation (VT-x, VMX) in the BIOS.",
    },
    Feature {
        id: "cpu-xsave",
        flag: "xsave",
        expected: "XSAVE (flag xsave)",
        advice: "Boot without `noxsave` or `clearcpuid=xsave`.",
    },
    Feature {
        id: "cpu-movdir64b",
        flag: "movdir64b",
        expected: "MOVDIR64B (flag movdir64b), with which private pages are cleared",
        advice: "Boot without `clearcpuid=movdir64b`; a CPU with TDX has the instruction.",
    },
    Feature {
        id: "cpu-self-snoop",
        flag: "ss",
        expected: "self-snoop (flag ss)",
        advice: "The kernel clears the flag on CPUs with memory-type errata; otherwise boot without \
                 `clearcpuid=ss`.",
    },
];

/// The features that the host side needs.
pub(super) fn features(cpu: &CpuIdentity) -> Vec<Check> {
    FEATURES
        .iter()
        .map(|feature| {
            if cpu.has(feature.flag) {
                Check::ok(feature.id, feature.expected, "present")
            } else {
                Check::failed(feature.id, feature.expected, "absent", feature.advice)
            }
        })
        .collect()
}
