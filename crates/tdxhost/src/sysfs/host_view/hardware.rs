//! What software on the machine could find out about it: for checks of a served host.

use tdx_machine::{LpIndex, Machine};

use crate::doctor::{CpuIdentity, Snapshot, TOLD_MSRS};

/// A register of a CPUID leaf.
#[derive(Clone, Copy)]
enum Register {
    Ecx,
    Edx,
}

/// Features that a TDX host needs, or must not have, by Linux's names: leaf, register, bit.
const FLAGS: [(&str, u32, Register, u32); 5] = [
    ("vmx", 1, Register::Ecx, 5),
    ("xsave", 1, Register::Ecx, 26),
    ("hypervisor", 1, Register::Ecx, 31),
    ("ss", 1, Register::Edx, 27),
    ("movdir64b", 7, Register::Ecx, 28),
];

/// First of the three leaves with the processor's name.
const NAME_LEAF: u32 = 0x8000_0002;

/// CPU and registers of the machine; no files.
pub(super) fn snapshot(machine: &Machine) -> Snapshot {
    let mut snapshot = Snapshot { cpu: identity(machine), ..Snapshot::default() };
    for lp in machine.lps().iter().filter(|lp| machine.is_online(lp.index)) {
        // The registers are the same within a package.
        if snapshot.msrs.contains_key(&lp.package.0) {
            continue;
        }
        snapshot.msrs.entry(lp.package.0).or_default();
        for msr in TOLD_MSRS {
            if let Ok(value) = machine.rdmsr(lp.index, msr) {
                snapshot.set_msr(lp.package.0, msr, value);
            }
        }
    }
    snapshot
}

fn identity(machine: &Machine) -> CpuIdentity {
    let cpuid = |leaf| machine.cpuid(LpIndex(0), leaf, 0);
    let (vendor, signature) = (cpuid(0), cpuid(1).eax);
    let name: Vec<u32> = (NAME_LEAF..NAME_LEAF + 3)
        .map(cpuid)
        .flat_map(|answer| [answer.eax, answer.ebx, answer.ecx, answer.edx])
        .collect();
    let (family, extended_family) = (signature >> 8 & 0xF, signature >> 20 & 0xFF);
    let (model, extended_model) = (signature >> 4 & 0xF, signature >> 16 & 0xF);
    CpuIdentity {
        vendor: text(&[vendor.ebx, vendor.edx, vendor.ecx]),
        family: if family == 0xF { family + extended_family } else { family },
        model: if matches!(family, 6 | 0xF) { extended_model << 4 | model } else { model },
        stepping: signature & 0xF,
        name: text(&name),
        flags: FLAGS
            .into_iter()
            .filter(|&(_, leaf, register, bit)| {
                let answer = cpuid(leaf);
                let word = match register {
                    Register::Ecx => answer.ecx,
                    Register::Edx => answer.edx,
                };
                word >> bit & 1 != 0
            })
            .map(|(flag, ..)| flag.to_owned())
            .collect(),
    }
}

/// Characters in registers, up to the first NUL.
fn text(words: &[u32]) -> String {
    let bytes = words.iter().flat_map(|word| word.to_le_bytes()).take_while(|&byte| byte != 0);
    let text: Vec<u8> = bytes.collect();
    String::from_utf8_lossy(&text).trim().to_owned()
}
