//! RDMSR and WRMSR of the MSRs that make a machine a TDX host.

use tdx_abi::msr::MsrIndex;

use super::low;
use crate::cpu::{Gpr, Outcome, Vcpu};
use crate::host::Host;

/// IA32_FEATURE_CONTROL.
const FEATURE_CONTROL: u32 = 0x3A;

/// True for an MSR whose value is the machine's.
fn is_ours(host: &Host, msr: u32) -> bool {
    match msr {
        // IA32_MKTME_KEYID_PARTITIONING, MCHECK's result, VMX capabilities, SEAM range.
        FEATURE_CONTROL | 0x87 | 0xA0 | 0x480..=0x492 | 0x1400 | 0x1401 => true,
        // IA32_TME_CAPABILITY and IA32_TME_ACTIVATE: a guest whose addresses are short of the KeyID
        // bits would take them off a second time.
        0x981 | 0x982 => !host.observe.lacks_keyid_bits(),
        _ => false,
    }
}

pub(super) fn read(host: &Host, vcpu: &mut dyn Vcpu) -> Outcome {
    let msr = low(vcpu.gpr(Gpr::Rcx));
    if !is_ours(host, msr) {
        return Outcome::Native;
    }
    if MsrIndex(msr) == MsrIndex::IA32_MKTME_KEYID_PARTITIONING {
        host.guest_looks_at_tdx();
    }
    let Ok(value) = host.machine.rdmsr(vcpu.index(), MsrIndex(msr)) else {
        return Outcome::GeneralProtection;
    };
    vcpu.set_gpr(Gpr::Rax, value & 0xFFFF_FFFF);
    vcpu.set_gpr(Gpr::Rdx, value >> 32);
    Outcome::Done
}

/// All of them are read-only. IA32_FEATURE_CONTROL is locked, but firmware under QEMU takes it for
/// unlocked and writes it at every boot: QEMU swallows that.
pub(super) fn write(host: &Host, vcpu: &dyn Vcpu) -> Outcome {
    let msr = low(vcpu.gpr(Gpr::Rcx));
    if msr != FEATURE_CONTROL && is_ours(host, msr) { Outcome::GeneralProtection } else { Outcome::Native }
}
