//! SEAMCALL.

use tdx_abi::Registers;
use tdx_abi::leaf::{LeafWord, SeamldrLeaf};
use tdx_machine::SeamFault;

use crate::cpu::{Flags, Gpr, Outcome, Vcpu};
use crate::host::Host;

pub(super) fn execute(host: &Host, vcpu: &mut dyn Vcpu) -> Outcome {
    let lp = vcpu.index();
    let before = registers(vcpu);
    let mut after = before;
    let result = host.machine.seamcall(lp, &mut after);
    if host.trace.is_on() {
        host.trace.call(&host.machine, lp, &before, &after, result);
    }
    let call = LeafWord::from_raw(before.rax);
    if call.is_seamldr() && result.is_ok() {
        host.vmx.seamret(lp);
    }
    // What else the log gets belongs to an LP that stops, or to a module that was installed.
    if result == Err(SeamFault::VmFailInvalid)
        || call.is_seamldr() && SeamldrLeaf(call.leaf()) == SeamldrLeaf::INSTALL
    {
        host.note_events();
    }
    match result {
        Ok(()) => {
            store(vcpu, &before, &after);
            Outcome::DoneWithFlags(Flags::SUCCEED)
        }
        Err(SeamFault::VmFailInvalid) => Outcome::DoneWithFlags(Flags::FAIL_INVALID),
        Err(SeamFault::GeneralProtection) => Outcome::GeneralProtection,
        Err(SeamFault::InvalidOpcode) => Outcome::Native,
    }
}

pub(super) fn registers(vcpu: &dyn Vcpu) -> Registers {
    let [rax, rcx, rdx, rbx, _rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = vcpu.gprs();
    Registers { rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15 }
}

/// The registers of a call by name, in the order of the structure.
pub(crate) const fn named(regs: &Registers) -> [(Gpr, u64); 15] {
    [
        (Gpr::Rax, regs.rax),
        (Gpr::Rcx, regs.rcx),
        (Gpr::Rdx, regs.rdx),
        (Gpr::Rbx, regs.rbx),
        (Gpr::Rbp, regs.rbp),
        (Gpr::Rsi, regs.rsi),
        (Gpr::Rdi, regs.rdi),
        (Gpr::R8, regs.r8),
        (Gpr::R9, regs.r9),
        (Gpr::R10, regs.r10),
        (Gpr::R11, regs.r11),
        (Gpr::R12, regs.r12),
        (Gpr::R13, regs.r13),
        (Gpr::R14, regs.r14),
        (Gpr::R15, regs.r15),
    ]
}

/// Writing a register of a vCPU costs more than comparing it, and most keep their value.
fn store(vcpu: &mut dyn Vcpu, before: &Registers, after: &Registers) {
    for ((gpr, new), (_, old)) in named(after).into_iter().zip(named(before)) {
        if new != old {
            vcpu.set_gpr(gpr, new);
        }
    }
}
