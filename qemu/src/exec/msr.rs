//! RDMSR and WRMSR of the MSRs that make a machine a TDX host.

use tdx_abi::msr::MsrIndex;

use super::low;
use crate::cpu::{Gpr, Outcome, Vcpu};
use crate::host::Host;

/// IA32_FEATURE_CONTROL.
const FEATURE_CONTROL: u32 = 0x3A;

/// True if RCX names an MSR whose value is the machine's.
pub(super) fn is_ours(host: &Host, vcpu: &dyn Vcpu) -> bool {
    match low(vcpu.gpr(Gpr::Rcx)) {
        // IA32_MKTME_KEYID_PARTITIONING, MCHECK's result, VMX capabilities, SEAM range.
        FEATURE_CONTROL | 0x87 | 0xA0 | 0x480..=0x492 | 0x1400 | 0x1401 => true,
        // IA32_TME_CAPABILITY and IA32_TME_ACTIVATE: a guest whose addresses are short of the KeyID
        // bits would take them off a second time.
        0x981 | 0x982 => !host.observe.lacks_keyid_bits(),
        _ => false,
    }
}

/// RDMSR of an MSR of ours.
pub(super) fn read(host: &Host, vcpu: &mut dyn Vcpu) -> Outcome {
    let msr = MsrIndex(low(vcpu.gpr(Gpr::Rcx)));
    if msr == MsrIndex::IA32_MKTME_KEYID_PARTITIONING {
        host.guest_looks_at_tdx();
    }
    let Ok(value) = host.machine.rdmsr(vcpu.index(), msr) else {
        return Outcome::GeneralProtection;
    };
    vcpu.set_gpr(Gpr::Rax, value & 0xFFFF_FFFF);
    vcpu.set_gpr(Gpr::Rdx, value >> 32);
    Outcome::Done
}

/// WRMSR to an MSR of ours. All of them are read-only. IA32_FEATURE_CONTROL is locked, but firmware
/// under QEMU takes it for unlocked and writes it at every boot: QEMU swallows that.
pub(super) fn write(vcpu: &dyn Vcpu) -> Outcome {
    if low(vcpu.gpr(Gpr::Rcx)) == FEATURE_CONTROL { Outcome::Native } else { Outcome::GeneralProtection }
}
