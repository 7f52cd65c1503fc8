//! Instructions that are executed on the machine instead of by QEMU.

use crate::cpu::{After, Outcome, Vcpu};
use crate::decode::Decoded;
use crate::host::Host;

/// Executes an instruction that was caught, before QEMU does. Registers and memory are those of
/// `vcpu`; the instruction pointer stays, the caller moves it as the outcome says.
pub fn execute(_host: &Host, _insn: &Decoded, _vcpu: &mut dyn Vcpu) -> Outcome {
    Outcome::Native
}

/// Does what is left behind an instruction that QEMU has executed.
pub fn finish(_host: &Host, after: After, vcpu: &mut dyn Vcpu) {
    if let After::Restore { gpr, value } = after {
        vcpu.set_gpr(gpr, value);
    }
}
