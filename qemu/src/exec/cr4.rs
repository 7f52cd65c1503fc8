//! MOV to and from CR4: QEMU never learns of VMXE.

use crate::cpu::{After, Gpr, Outcome, Vcpu};
use crate::host::Host;

/// CR4.VMXE.
const VMXE: u64 = 1 << 13;

/// MOV from CR4.
pub(super) fn read(host: &Host, to: Gpr, vcpu: &mut dyn Vcpu) -> Outcome {
    if !host.machine.cr4_vmxe(vcpu.index()) {
        return Outcome::Native;
    }
    let value = vcpu.cr4() | VMXE;
    vcpu.set_gpr(to, value);
    Outcome::Done
}

/// MOV to CR4. Clearing VMXE in VMX operation raises #GP before anything else of CR4 changes.
pub(super) fn write(host: &Host, from: Gpr, vcpu: &mut dyn Vcpu) -> Outcome {
    let (lp, value) = (vcpu.index(), vcpu.gpr(from));
    let set = value & VMXE != 0;
    if set != host.machine.cr4_vmxe(lp) {
        host.machine.set_cr4_vmxe(lp, set);
        if host.machine.cr4_vmxe(lp) != set {
            return Outcome::GeneralProtection;
        }
    } else if !set {
        // Nothing of it is ours. Where VMXE changes, the caller writes the rest, so that it can take
        // VMXE back if the CPU refuses it.
        return Outcome::Native;
    }
    vcpu.set_gpr(from, value & !VMXE);
    Outcome::Then(After::Restore { gpr: from, value })
}
