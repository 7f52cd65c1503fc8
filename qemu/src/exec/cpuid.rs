//! CPUID: QEMU answers, the answer is looked at.

use tdx_machine::CpuidRegs;

use super::low;
use crate::cpu::{After, Gpr, Outcome, Vcpu};
use crate::host::Host;
use crate::observe::Observe;

/// Notes the question if the answer is of interest.
pub(super) fn execute(vcpu: &dyn Vcpu) -> Outcome {
    let (leaf, subleaf) = (low(vcpu.gpr(Gpr::Rax)), low(vcpu.gpr(Gpr::Rcx)));
    if Observe::wants(leaf, subleaf) {
        Outcome::Then(After::Cpuid { leaf, subleaf })
    } else {
        Outcome::Native
    }
}

pub(super) fn finish(host: &Host, leaf: u32, subleaf: u32, vcpu: &dyn Vcpu) {
    let value = |gpr| low(vcpu.gpr(gpr));
    let answer =
        CpuidRegs { eax: value(Gpr::Rax), ebx: value(Gpr::Rbx), ecx: value(Gpr::Rcx), edx: value(Gpr::Rdx) };
    host.observe.cpuid(vcpu.index(), leaf, subleaf, answer);
    if host.observe.has_looked() {
        host.complain();
    }
}
