//! SEAMCALL, VMXON, MSRs, CPUID and memory accesses as instructions of one LP.

use tdx_abi::msr::MsrIndex;
use tdx_abi::{KeyId, PhysAddr, PhysRange, Registers};
use tdx_machine::{
    DropReason, Event, Fault, LpIndex, Machine, MemFault, PlatformSpec, SeamFault, VmxFault, presets,
};

use crate::common::{REGION, enter_vmx, quiet};

const LP: LpIndex = LpIndex(0);
const PRIVATE: KeyId = KeyId::new(40);

fn tiny() -> PlatformSpec {
    quiet(presets::find("tiny").expect("a preset").spec().expect("valid"))
}

fn with_faults(faults: &[Fault]) -> Machine {
    let mut spec = tiny();
    spec.faults = faults.to_vec();
    Machine::power_on(spec, 1).expect("valid")
}

/// SEAMCALL of TDH.SYS.INIT or of SEAMLDR.INFO; registers must be untouched by a fault.
fn seamcall(machine: &Machine, rax: u64) -> Result<u64, SeamFault> {
    let mut regs = Registers { rax, rcx: 0, rdx: 7, ..Registers::default() };
    let before = regs;
    machine.seamcall(LP, &mut regs).map(|()| regs.rax).inspect_err(|_| assert_eq!(regs, before))
}

const SYS_INIT: u64 = 33;
const SEAMLDR_INFO: u64 = 1 << 63;

#[test]
fn seamcall_outside_vmx_operation_is_an_invalid_opcode() {
    let machine = with_faults(&[]);
    assert_eq!(seamcall(&machine, SYS_INIT), Err(SeamFault::InvalidOpcode));
    machine.set_cr4_vmxe(LP, true);
    assert_eq!(seamcall(&machine, SYS_INIT), Err(SeamFault::InvalidOpcode), "CR4.VMXE alone is not enough");
    enter_vmx(&machine);
    assert_eq!(seamcall(&machine, SYS_INIT), Ok(0));
    machine.vmxoff(LP).expect("was on");
    assert_eq!(seamcall(&machine, SYS_INIT), Err(SeamFault::InvalidOpcode));
}

#[test]
fn seamcall_without_a_valid_and_locked_seam_range_is_a_general_protection_fault() {
    for fault in [Fault::SeamrrDisabled, Fault::SeamrrUnlocked, Fault::Msr0x87Faults] {
        let machine = with_faults(std::slice::from_ref(&fault));
        enter_vmx(&machine);
        for rax in [SYS_INIT, SEAMLDR_INFO] {
            assert_eq!(seamcall(&machine, rax), Err(SeamFault::GeneralProtection), "{}", fault.name());
        }
    }
}

#[test]
fn seamcall_without_a_module_fails_invalid_but_reaches_the_loader() {
    let machine = with_faults(&[Fault::ModuleMissing]);
    enter_vmx(&machine);
    assert_eq!(seamcall(&machine, SYS_INIT), Err(SeamFault::VmFailInvalid));
    assert!(seamcall(&machine, SEAMLDR_INFO).is_ok());
}

#[test]
fn mcheck_leaves_a_status_where_it_refused_the_seam_range() {
    let status = |faults: &[Fault]| with_faults(faults).rdmsr(LP, MsrIndex(0xA0)).expect("present");
    assert_eq!(status(&[]), 0);
    assert_ne!(status(&[Fault::SeamrrUnlocked]), 0);
}

#[test]
fn of_several_reasons_the_instruction_names_the_first() {
    let all = [Fault::ModuleMissing, Fault::SeamrrDisabled];
    let machine = with_faults(&all);
    assert_eq!(seamcall(&machine, SYS_INIT), Err(SeamFault::InvalidOpcode), "before #GP and VMfailInvalid");
    enter_vmx(&machine);
    assert_eq!(seamcall(&machine, SYS_INIT), Err(SeamFault::GeneralProtection), "before VMfailInvalid");
    let machine = with_faults(&all[..1]);
    assert_eq!(seamcall(&machine, SYS_INIT), Err(SeamFault::InvalidOpcode), "before VMfailInvalid");
    enter_vmx(&machine);
    assert_eq!(seamcall(&machine, SYS_INIT), Err(SeamFault::VmFailInvalid));
}

#[test]
fn an_lp_that_does_not_exist_executes_nothing() {
    let machine = with_faults(&[]);
    let nobody = LpIndex(99);
    assert_eq!(machine.seamcall(nobody, &mut Registers::default()), Err(SeamFault::InvalidOpcode));
    assert!(machine.rdmsr(nobody, MsrIndex::IA32_VMX_BASIC).is_err());
    assert_eq!(machine.vmxon(nobody, REGION), Err(VmxFault::InvalidOpcode));
    assert!(!machine.is_online(nobody) && !machine.in_vmx(nobody) && !machine.cr4_vmxe(nobody));
}

#[test]
fn vmxon_needs_cr4_permission_and_a_proper_region() {
    let machine = with_faults(&[]);
    let revision = machine.rdmsr(LP, MsrIndex::IA32_VMX_BASIC).expect("VMX");
    machine.write(REGION, KeyId::TME, &revision.to_le_bytes()[..4]).expect("RAM");
    assert_eq!(machine.vmxon(LP, REGION), Err(VmxFault::InvalidOpcode), "CR4.VMXE is clear");
    machine.set_cr4_vmxe(LP, true);
    for region in [PhysAddr::new(REGION.as_u64() + 8), PhysAddr::new(0xFFFF_F000), PhysAddr::new(0x20_0000)] {
        assert_eq!(machine.vmxon(LP, region), Err(VmxFault::InvalidRegion), "{region}");
    }
    assert_eq!(machine.vmxon(LP, REGION), Ok(()));
    assert!(machine.in_vmx(LP));
    assert_eq!(machine.vmxon(LP, REGION), Err(VmxFault::AlreadyOn));
    assert_eq!(machine.vmxoff(LP), Ok(()));
    assert_eq!(machine.vmxoff(LP), Err(VmxFault::InvalidOpcode));
}

#[test]
fn vmxon_is_a_general_protection_fault_where_firmware_forbids_vmx() {
    let mut spec = tiny();
    spec.packages = vec![tdx_machine::spec::PackageSpec {
        msr: [(0x3A, tdx_machine::spec::Hex(1))].into(),
        ..Default::default()
    }];
    let machine = Machine::power_on(spec, 1).expect("valid");
    machine.set_cr4_vmxe(LP, true);
    assert_eq!(machine.vmxon(LP, REGION), Err(VmxFault::GeneralProtection));
}

#[test]
fn cr4_vmxe_stays_set_in_vmx_operation_and_clear_without_vmx() {
    let machine = with_faults(&[]);
    enter_vmx(&machine);
    machine.set_cr4_vmxe(LP, false);
    assert!(machine.cr4_vmxe(LP));
    assert_eq!(machine.log(), [Event::Cr4WriteFaulted { lp: LP }]);
    machine.vmxoff(LP).expect("on");
    machine.set_cr4_vmxe(LP, false);
    assert!(!machine.cr4_vmxe(LP));

    let machine = with_faults(&[Fault::NoVmx]);
    machine.set_cr4_vmxe(LP, true);
    assert!(!machine.cr4_vmxe(LP));
    assert_eq!(machine.cpuid(LP, 1, 0).ecx & 1 << 5, 0);
}

#[test]
fn init_loses_vmx_state_and_keeps_msrs() {
    let machine = with_faults(&[]);
    enter_vmx(&machine);
    machine.wrmsr(LP, MsrIndex::IA32_TSX_CTRL, 2).expect("writable");
    machine.offline(LP);
    assert!(!machine.is_online(LP) && !machine.in_vmx(LP) && !machine.cr4_vmxe(LP));
    assert_eq!(seamcall(&machine, SYS_INIT), Err(SeamFault::InvalidOpcode));
    machine.set_cr4_vmxe(LP, true);
    assert!(!machine.cr4_vmxe(LP), "an LP that is offline executes nothing");
    machine.online(LP);
    assert!(machine.is_online(LP) && !machine.in_vmx(LP) && !machine.cr4_vmxe(LP));
    assert_eq!(machine.rdmsr(LP, MsrIndex::IA32_TSX_CTRL), Ok(2));
}

#[test]
fn hiding_tsx_shows_in_cpuid_of_that_lp_only() {
    const RTM: u32 = 1 << 11;
    let machine = with_faults(&[]);
    assert_ne!(machine.cpuid(LP, 7, 0).ebx & RTM, 0);
    machine.wrmsr(LP, MsrIndex::IA32_TSX_CTRL, 3).expect("writable");
    assert_eq!(machine.cpuid(LP, 7, 0).ebx & RTM, 0);
    assert_ne!(machine.cpuid(LpIndex(1), 7, 0).ebx & RTM, 0);
    assert!(machine.wrmsr(LP, MsrIndex::IA32_VMX_BASIC, 0).is_err());
}

#[test]
fn cpuid_beyond_the_last_leaf_answers_like_the_last_basic_leaf() {
    let machine = with_faults(&[]);
    let last = machine.cpuid(LP, 0, 0).eax;
    assert_eq!(machine.cpuid(LP, last + 1, 1), machine.cpuid(LP, last, 1));
    assert_eq!(machine.cpuid(LP, 0x8000_0009, 1), machine.cpuid(LP, last, 1));
    assert_eq!(machine.cpuid(LpIndex(1), 0x1F, 0).edx, 1, "the x2APIC id");
    assert_eq!(machine.cpuid(LpIndex(1), 0x1F, 7).ecx, 7, "the sub-leaf comes back");
}

#[test]
fn row_7_private_keyids_are_reserved_outside_seam() {
    let machine = with_faults(&[]);
    let mut bytes = [0; 8];
    for key in [KeyId::new(32), KeyId::new(63), KeyId::new(64)] {
        assert_eq!(machine.read(REGION, key, &mut bytes), Err(MemFault::ReservedKeyId { key }));
        assert_eq!(machine.write(REGION, key, &bytes), Err(MemFault::ReservedKeyId { key }));
        assert_eq!(machine.partial_write(REGION, key, &bytes), Err(MemFault::ReservedKeyId { key }));
    }
    for key in [KeyId::TME, KeyId::new(31)] {
        assert_eq!(machine.write(REGION, key, &bytes), Ok(()), "shared KeyID {key}");
    }
}

#[test]
fn row_21_dma_with_a_private_keyid_is_dropped_and_reads_ones() {
    let machine = with_faults(&[]);
    machine.dma_write(REGION, KeyId::TME, &[1; 64]);
    machine.dma_write(REGION, PRIVATE, &[2; 64]);
    let mut bytes = [0; 64];
    assert_eq!(machine.dma_read(REGION, KeyId::TME, &mut bytes), Ok(()));
    assert_eq!(bytes, [1; 64]);
    assert_eq!(machine.dma_read(REGION, PRIVATE, &mut bytes), Ok(()));
    assert_eq!(bytes, [0xFF; 64]);
    assert_eq!(machine.log(), [Event::DroppedWrite { pa: REGION, reason: DropReason::UntrustedDma }]);
}

#[test]
fn the_seam_range_and_holes_are_closed_to_the_host() {
    let machine = with_faults(&[]);
    let mut bytes = [0; 8];
    let seam = PhysAddr::new(0x7800_0000);
    assert_eq!(machine.read(seam, KeyId::TME, &mut bytes), Err(MemFault::SeamRange { pa: seam }));
    let hole = PhysAddr::new(0xD000_0000);
    assert_eq!(machine.read(hole, KeyId::TME, &mut bytes), Err(MemFault::NotRam { pa: hole }));
    let top = PhysAddr::new(u64::MAX - 3);
    assert_eq!(machine.write(top, KeyId::TME, &bytes), Err(MemFault::NotRam { pa: top }));
    let range = |pa| PhysRange::from_size(pa, 64).expect("a range");
    assert_eq!(machine.movdir64b_zero(range(seam)), Err(MemFault::SeamRange { pa: seam }));
    assert_eq!(machine.movdir64b_zero(range(hole)), Err(MemFault::NotRam { pa: hole }));
}

#[test]
fn a_line_that_was_written_back_stays_so_when_its_neighbour_is_written() {
    let machine = with_faults(&[]);
    let neighbour = REGION.checked_add(64).expect("RAM");
    let line = PhysRange::from_size(REGION, 64).expect("a range");
    for wbinvd in [true, false] {
        machine.write(REGION, KeyId::new(5), &[5; 64]).expect("RAM");
        if wbinvd {
            machine.wbinvd(LP);
        }
        machine.write(neighbour, KeyId::new(5), &[6; 64]).expect("RAM");
        machine.write(REGION, KeyId::TME, &[7; 64]).expect("RAM");
        machine.evict(line);
        let mut bytes = [0; 64];
        machine.read(REGION, KeyId::TME, &mut bytes).expect("RAM");
        assert_eq!(bytes == [7; 64], wbinvd, "a dirty line is written back late, a clean one is not");
    }
}
