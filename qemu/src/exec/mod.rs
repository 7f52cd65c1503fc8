//! Instructions that are executed on the machine instead of by QEMU.

mod cpuid;
mod cr4;
mod msr;
mod seamcall;
#[cfg(test)]
mod tests;
mod vmcs;
mod vmx;

pub(crate) use seamcall::named;
pub(crate) use vmcs::VmxState;

use crate::cpu::{After, Outcome, Vcpu};
use crate::decode::{Decoded, Operation};
use crate::host::Host;

/// Executes an instruction that was caught, before QEMU does. Registers and memory are those of
/// `vcpu`; the instruction pointer stays, the caller moves it as the outcome says.
///
/// What faults for want of privilege or of 64-bit code is left to QEMU, which faults likewise.
pub fn execute(host: &Host, insn: &Decoded, vcpu: &mut dyn Vcpu) -> Outcome {
    match insn.operation {
        Operation::Cpuid => return cpuid::execute(vcpu),
        // Before the look at the privilege level: kernels write the MSR of their timer all the time.
        Operation::Rdmsr | Operation::Wrmsr if !msr::is_ours(host, vcpu) => return Outcome::Native,
        _ => {}
    }
    // Firmware in real mode looks at none of this, and going on behind an instruction takes its address.
    if vcpu.cpl() != 0 || vcpu.real_mode() {
        return Outcome::Native;
    }
    match insn.operation {
        Operation::Seamcall if vcpu.long_mode() => seamcall::execute(host, vcpu),
        Operation::Vmx(insn) if vcpu.long_mode() => vmx::execute(host, &insn, vcpu),
        Operation::Rdmsr => msr::read(host, vcpu),
        Operation::Wrmsr => msr::write(vcpu),
        Operation::ReadCr4(to) => cr4::read(host, to, vcpu),
        Operation::WriteCr4(from) => cr4::write(host, from, vcpu),
        Operation::Seamcall | Operation::Vmx(_) | Operation::Cpuid => Outcome::Native,
    }
}

/// Does what is left behind an instruction that QEMU has executed.
pub fn finish(host: &Host, after: After, vcpu: &mut dyn Vcpu) {
    match after {
        After::Restore { gpr, value } => vcpu.set_gpr(gpr, value),
        After::Cpuid { leaf, subleaf } => cpuid::finish(host, leaf, subleaf, vcpu),
    }
}

/// The low half of a register.
#[allow(clippy::cast_possible_truncation)]
const fn low(value: u64) -> u32 {
    value as u32
}
