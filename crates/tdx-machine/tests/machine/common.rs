//! What several test programs need.

use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::status::{Status, StatusCode};
use tdx_abi::{KeyId, PhysAddr, Registers};
use tdx_machine::spec::ChaosSpec;
use tdx_machine::{LpIndex, Machine, PlatformSpec};

/// A page of RAM that nothing else in the tests uses.
pub(crate) const REGION: PhysAddr = PhysAddr::new(0x10_0000);

/// The same machine with nothing left to chance.
pub(crate) fn quiet(mut spec: PlatformSpec) -> PlatformSpec {
    spec.chaos = ChaosSpec { interrupt: 0, no_entropy: 0, busy: 0, write_back_within: 0 };
    spec
}

/// Puts every LP into VMX operation.
pub(crate) fn enter_vmx(machine: &Machine) {
    for lp in machine.lps() {
        machine.set_cr4_vmxe(lp.index, true);
        let revision = machine.rdmsr(lp.index, tdx_abi::msr::MsrIndex::IA32_VMX_BASIC).expect("VMX");
        let word = u32::try_from(revision & 0x7FFF_FFFF).expect("31 bits").to_le_bytes();
        machine.write(REGION, KeyId::TME, &word).expect("RAM");
        machine.vmxon(lp.index, REGION).expect("VMXON");
    }
}

/// A quiet machine behind TDH.SYS.INIT.
pub(crate) fn ready(spec: PlatformSpec) -> Machine {
    let name = spec.name.clone();
    let machine = Machine::power_on(quiet(spec), 1).expect("valid");
    enter_vmx(&machine);
    let status = call(&machine, LpIndex(0), SeamcallLeaf::SYS_INIT);
    assert_eq!(status, StatusCode::SUCCESS.plain(), "{name}");
    machine
}

/// Calls a leaf without operands.
pub(crate) fn call(machine: &Machine, lp: LpIndex, leaf: SeamcallLeaf) -> Status {
    let mut regs = Registers { rax: u64::from(leaf.0), ..Registers::default() };
    machine.seamcall(lp, &mut regs).expect("an answer");
    Status::from_raw(regs.rax)
}
