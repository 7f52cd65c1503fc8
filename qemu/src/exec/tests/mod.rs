//! Caught instructions on a machine over a guest's memory.

mod vmx;

use tdx_abi::leaf::{LeafWord, SeamcallLeaf, SeamldrLeaf};
use tdx_abi::msr::MsrIndex;
use tdx_abi::status::StatusCode;
use tdx_machine::{CpuidRegs, Event, LpIndex};

use super::*;
use crate::cpu::{Flags, Gpr};
use crate::decode::{Memory as Operand, Place, Vmx};
use crate::testing::{DIRECT_MAP, FakeVcpu, Memory, host};

const VMXE: u64 = 1 << 13;
/// Revision of IA32_VMX_BASIC.
const REVISION: u32 = 0x13;
/// Where the tests keep an operand.
const OPERAND: u64 = 0x1000;
const VMXON_REGION: u64 = 0x10_0000;
const VMCS: u64 = 0x20_0000;
const OTHER_VMCS: u64 = 0x30_0000;
/// VM-instruction error.
const ERROR: u64 = 0x4400;

fn done(flags: Flags) -> Outcome {
    Outcome::DoneWithFlags(flags)
}

fn run(host: &Host, vcpu: &mut FakeVcpu, operation: Operation) -> Outcome {
    execute(host, &Decoded { length: 4, operation }, vcpu)
}

/// The operand at [`OPERAND`], addressed by RDI.
fn operand() -> Operand {
    Operand { base: Some(Gpr::Rdi), index: None, scale: 1, displacement: 0, segment: None, address32: false }
}

fn with_operand(host: &Host, vcpu: &mut FakeVcpu, insn: Vmx, words: [u64; 2]) -> Outcome {
    for (address, word) in [(OPERAND, words[0]), (OPERAND + 8, words[1])] {
        assert!(vcpu.write_virtual(DIRECT_MAP + address, &word.to_le_bytes()));
    }
    vcpu.set(Gpr::Rdi, DIRECT_MAP + OPERAND);
    run(host, vcpu, Operation::Vmx(insn))
}

fn region(host: &Host, vcpu: &mut FakeVcpu, insn: fn(Operand) -> Vmx, pa: u64) -> Outcome {
    with_operand(host, vcpu, insn(operand()), [pa, 0])
}

fn vmread(host: &Host, vcpu: &mut FakeVcpu, field: u64) -> (Outcome, u64) {
    vcpu.set(Gpr::Rcx, field).set(Gpr::Rax, 0x5555);
    let insn = Vmx::Vmread { field: Gpr::Rcx, to: Place::Register(Gpr::Rax) };
    let outcome = run(host, vcpu, Operation::Vmx(insn));
    (outcome, vcpu.gpr(Gpr::Rax))
}

fn vmwrite(host: &Host, vcpu: &mut FakeVcpu, field: u64, value: u64) -> Outcome {
    vcpu.set(Gpr::Rcx, field).set(Gpr::Rdx, value);
    let insn = Vmx::Vmwrite { field: Gpr::Rcx, from: Place::Register(Gpr::Rdx) };
    run(host, vcpu, Operation::Vmx(insn))
}

/// VMfailValid with this number.
fn failed(host: &Host, vcpu: &mut FakeVcpu, outcome: Outcome, number: u64) {
    assert_eq!(outcome, done(Flags::FAIL_VALID));
    assert_eq!(vmread(host, vcpu, ERROR), (done(Flags::SUCCEED), number));
}

fn set_vmxe(host: &Host, vcpu: &mut FakeVcpu) {
    vcpu.set(Gpr::Rbx, vcpu.cr4 | VMXE);
    let outcome = run(host, vcpu, Operation::WriteCr4(Gpr::Rbx));
    assert!(matches!(outcome, Outcome::Then(_)), "{outcome:?}");
}

/// A vCPU in VMX operation.
fn in_vmx(host: &Host, memory: &Memory, lp: u32) -> FakeVcpu {
    let mut vcpu = FakeVcpu::new(lp, memory);
    set_vmxe(host, &mut vcpu);
    memory.write_u32(VMXON_REGION, REVISION);
    assert_eq!(region(host, &mut vcpu, Vmx::Vmxon, VMXON_REGION), done(Flags::SUCCEED));
    vcpu
}

/// A vCPU in VMX operation with a current VMCS.
fn with_vmcs(host: &Host, memory: &Memory) -> FakeVcpu {
    let mut vcpu = in_vmx(host, memory, 0);
    for pa in [VMCS, OTHER_VMCS] {
        memory.write_u32(pa, REVISION);
        assert_eq!(region(host, &mut vcpu, Vmx::Vmclear, pa), done(Flags::SUCCEED));
    }
    assert_eq!(region(host, &mut vcpu, Vmx::Vmptrld, VMCS), done(Flags::SUCCEED));
    vcpu
}

fn call(vcpu: &mut FakeVcpu, leaf: SeamcallLeaf) {
    vcpu.set(Gpr::Rax, LeafWord::module(leaf, 0).raw());
}

#[test]
fn seamcall_outside_vmx_operation_is_left_to_raise_ud() {
    let (host, memory) = host(&[], 1);
    let mut vcpu = FakeVcpu::new(0, &memory);
    call(&mut vcpu, SeamcallLeaf::SYS_INIT);
    assert_eq!(run(&host, &mut vcpu, Operation::Seamcall), Outcome::Native);
    set_vmxe(&host, &mut vcpu);
    call(&mut vcpu, SeamcallLeaf::SYS_INIT);
    assert_eq!(run(&host, &mut vcpu, Operation::Seamcall), Outcome::Native, "CR4.VMXE alone is not enough");
}

#[test]
fn seamcall_without_a_module_sets_cf_and_changes_no_register() {
    let (host, memory) = host(&["fault=module-missing"], 1);
    let mut vcpu = in_vmx(&host, &memory, 0);
    for (number, gpr) in (0x100..).zip(Gpr::ALL) {
        vcpu.set(gpr, number);
    }
    call(&mut vcpu, SeamcallLeaf::SYS_INIT);
    let before = vcpu.gprs;
    assert_eq!(run(&host, &mut vcpu, Operation::Seamcall), done(Flags::FAIL_INVALID));
    assert_eq!(vcpu.gprs, before);
}

#[test]
fn seamcall_with_seam_off_is_a_general_protection_fault() {
    let (host, memory) = host(&["fault=seamrr-disabled"], 1);
    let mut vcpu = in_vmx(&host, &memory, 0);
    call(&mut vcpu, SeamcallLeaf::SYS_INIT);
    assert_eq!(run(&host, &mut vcpu, Operation::Seamcall), Outcome::GeneralProtection);
}

#[test]
fn seamcall_copies_every_output_and_writes_nothing_else() {
    // The same calls on another machine of the same seed say what the outputs are.
    let (subject, memory) = host(&["seed=7"], 2);
    let (oracle, oracle_memory) = host(&["seed=7"], 2);
    let mut vcpu = in_vmx(&subject, &memory, 1);
    in_vmx(&oracle, &oracle_memory, 1);
    for (leaf, outputs) in
        [(SeamcallLeaf::SYS_INIT, 1), (SeamcallLeaf::SYS_RD, 2), (SeamcallLeaf::VP_ENTER, 1)]
    {
        vcpu.gprs = [0x77; 16];
        vcpu.set(Gpr::Rcx, 0).set(Gpr::Rdx, u64::MAX);
        call(&mut vcpu, leaf);
        vcpu.register_writes = 0;
        let before = vcpu.gprs;
        let mut regs = seamcall::registers(&vcpu);
        oracle.machine.seamcall(LpIndex(1), &mut regs).expect("answered");
        assert_eq!(run(&subject, &mut vcpu, Operation::Seamcall), done(Flags::SUCCEED));
        for (gpr, value) in named(&regs) {
            assert_eq!(vcpu.gpr(gpr), value, "{leaf}: {gpr:?}");
        }
        let changed = before.iter().zip(vcpu.gprs).filter(|(before, after)| *before != after).count();
        assert!(changed >= outputs, "{leaf}: {changed}");
        assert_eq!((vcpu.register_writes, vcpu.gpr(Gpr::Rsp)), (changed, 0x77), "{leaf}");
    }
}

#[test]
fn seamcall_tells_a_refusal_by_rax_alone() {
    let (host, memory) = host(&[], 1);
    let mut vcpu = in_vmx(&host, &memory, 0);
    call(&mut vcpu, SeamcallLeaf::SYS_LP_INIT);
    assert_eq!(run(&host, &mut vcpu, Operation::Seamcall), done(Flags::SUCCEED));
    assert_eq!(vcpu.gpr(Gpr::Rax), StatusCode::SYS_LP_INIT_NOT_PENDING.0);
}

#[test]
fn seamldr_info_writes_the_memory_of_the_guest() {
    let (host, memory) = host(&["remaining_updates=7"], 1);
    let mut vcpu = in_vmx(&host, &memory, 0);
    vcpu.set(Gpr::Rax, LeafWord::seamldr(SeamldrLeaf::INFO).raw()).set(Gpr::Rcx, 0x8000);
    assert_eq!(run(&host, &mut vcpu, Operation::Seamcall), done(Flags::SUCCEED));
    assert_eq!(vcpu.gpr(Gpr::Rax), 0);
    let mut left = [0; 4];
    assert!(vcpu.read_virtual(DIRECT_MAP + 0x8000 + 28, &mut left));
    assert_eq!(u32::from_le_bytes(left), 7);
}

#[test]
fn a_program_gets_no_further_than_qemu_lets_it() {
    let (host, memory) = host(&[], 1);
    let mut vcpu = with_vmcs(&host, &memory);
    vcpu.cpl = 3;
    vcpu.set(Gpr::Rcx, 0x87).set(Gpr::Rdi, DIRECT_MAP + OPERAND);
    let before = vcpu.gprs;
    for operation in [
        Operation::Seamcall,
        Operation::Rdmsr,
        Operation::Wrmsr,
        Operation::ReadCr4(Gpr::Rax),
        Operation::WriteCr4(Gpr::Rax),
        Operation::Vmx(Vmx::Vmxoff),
        Operation::Vmx(Vmx::Vmptrld(operand())),
    ] {
        assert_eq!(run(&host, &mut vcpu, operation), Outcome::Native, "{operation:?}");
    }
    assert_eq!(vcpu.gprs, before);
    assert!(host.machine.in_vmx(LpIndex(0)));
}

#[test]
fn outside_64_bit_code_only_msrs_and_cr4_are_looked_at() {
    let (host, memory) = host(&[], 1);
    let mut vcpu = with_vmcs(&host, &memory);
    vcpu.long_mode = false;
    for operation in [Operation::Seamcall, Operation::Vmx(Vmx::Vmxoff)] {
        assert_eq!(run(&host, &mut vcpu, operation), Outcome::Native, "{operation:?}");
    }
    vcpu.set(Gpr::Rcx, 0x480);
    assert_eq!(run(&host, &mut vcpu, Operation::Rdmsr), Outcome::Done);
}

#[test]
fn msrs_of_tdx_and_vmx_have_the_platforms_values_on_each_vcpu() {
    let (host, memory) = host(&["private_keyids=8"], 2);
    for lp in 0..2 {
        let mut vcpu = FakeVcpu::new(lp, &memory);
        for msr in [0x87, 0x3A, 0xA0, 0x981, 0x982, 0x1400, 0x1401].into_iter().chain(0x480..=0x492) {
            vcpu.gprs = [u64::MAX; 16];
            vcpu.set(Gpr::Rcx, 0xFFFF_FFFF_0000_0000 | u64::from(msr));
            assert_eq!(run(&host, &mut vcpu, Operation::Rdmsr), Outcome::Done, "{msr:#x}");
            let value = host.machine.rdmsr(LpIndex(lp), MsrIndex(msr)).expect("there");
            assert_eq!(
                (vcpu.gpr(Gpr::Rax), vcpu.gpr(Gpr::Rdx)),
                (value & 0xFFFF_FFFF, value >> 32),
                "{msr:#x}"
            );
        }
        vcpu.set(Gpr::Rcx, 0x87);
        run(&host, &mut vcpu, Operation::Rdmsr);
        assert_eq!((vcpu.gpr(Gpr::Rdx), vcpu.gpr(Gpr::Rax)), (8, 31));
    }
}

#[test]
fn all_other_msrs_are_qemus() {
    let (host, memory) = host(&[], 1);
    let mut vcpu = FakeVcpu::new(0, &memory);
    for msr in [0x10, 0x3B, 0x10A, 0x122, 0x1A0, 0x47F, 0x493, 0x980, 0x983, 0x13FF, 0x1402, 0xC000_0080] {
        vcpu.gprs = [0; 16];
        vcpu.set(Gpr::Rcx, msr);
        assert_eq!(run(&host, &mut vcpu, Operation::Rdmsr), Outcome::Native, "{msr:#x}");
        assert_eq!(run(&host, &mut vcpu, Operation::Wrmsr), Outcome::Native, "{msr:#x}");
        assert_eq!(vcpu.register_writes, 0);
    }
}

#[test]
fn an_msr_that_the_platform_lacks_faults() {
    let (host, memory) = host(&["fault=msr-0x87-faults"], 1);
    let mut vcpu = FakeVcpu::new(0, &memory);
    vcpu.set(Gpr::Rcx, 0x87);
    assert_eq!(run(&host, &mut vcpu, Operation::Rdmsr), Outcome::GeneralProtection);
}

#[test]
fn writing_an_msr_of_tdx_faults_and_what_firmware_writes_is_swallowed() {
    let (host, memory) = host(&[], 1);
    let mut vcpu = FakeVcpu::new(0, &memory);
    for msr in [0x87, 0x480, 0x492, 0x982, 0x1401] {
        vcpu.set(Gpr::Rcx, msr).set(Gpr::Rax, 0);
        assert_eq!(run(&host, &mut vcpu, Operation::Wrmsr), Outcome::GeneralProtection, "{msr:#x}");
    }
    vcpu.set(Gpr::Rcx, 0x3A);
    assert_eq!(run(&host, &mut vcpu, Operation::Wrmsr), Outcome::Native);
}

#[test]
fn a_guest_short_of_the_keyid_bits_does_not_take_them_off_twice() {
    let (host, memory) = host(&[], 1);
    let mut vcpu = FakeVcpu::new(0, &memory);
    for (bits, outcome) in [(46, Outcome::Native), (52, Outcome::Done)] {
        vcpu.set(Gpr::Rax, 0x8000_0008).set(Gpr::Rcx, 0);
        let after = run(&host, &mut vcpu, Operation::Cpuid);
        let Outcome::Then(after) = after else { panic!("{after:?}") };
        vcpu.set(Gpr::Rax, 0x3000 | bits);
        finish(&host, after, &mut vcpu);
        for msr in [0x981, 0x982] {
            vcpu.set(Gpr::Rcx, msr);
            assert_eq!(run(&host, &mut vcpu, Operation::Rdmsr), outcome, "{bits} bits, {msr:#x}");
        }
        vcpu.set(Gpr::Rcx, 0x87);
        assert_eq!(run(&host, &mut vcpu, Operation::Rdmsr), Outcome::Done, "{bits} bits");
    }
}

#[test]
fn cpuid_is_answered_by_qemu_and_looked_at_where_it_matters() {
    let (host, memory) = host(&[], 1);
    let mut vcpu = FakeVcpu::new(0, &memory);
    vcpu.cpl = 3;
    for (leaf, subleaf, outcome) in [
        (0, 0, Outcome::Then(After::Cpuid { leaf: 0, subleaf: 0 })),
        (7, 0, Outcome::Then(After::Cpuid { leaf: 7, subleaf: 0 })),
        (7, 1, Outcome::Native),
        (0xD, 0, Outcome::Native),
    ] {
        vcpu.set(Gpr::Rax, leaf).set(Gpr::Rcx, subleaf);
        assert_eq!(run(&host, &mut vcpu, Operation::Cpuid), outcome, "{leaf:#x}");
    }
}

#[test]
fn qemu_never_sees_vmxe_and_the_guest_always_does() {
    let (host, memory) = host(&[], 2);
    let mut vcpu = FakeVcpu::new(0, &memory);
    assert_eq!(run(&host, &mut vcpu, Operation::ReadCr4(Gpr::R9)), Outcome::Native, "CR4 as QEMU has it");

    vcpu.set(Gpr::Rbx, VMXE | 0x6A0);
    let restore = After::Restore { gpr: Gpr::Rbx, value: VMXE | 0x6A0 };
    assert_eq!(run(&host, &mut vcpu, Operation::WriteCr4(Gpr::Rbx)), Outcome::Then(restore));
    assert_eq!(vcpu.gpr(Gpr::Rbx), 0x6A0, "what QEMU gets");
    vcpu.cr4 = 0x6A0;
    finish(&host, restore, &mut vcpu);
    assert_eq!(vcpu.gpr(Gpr::Rbx), VMXE | 0x6A0, "the register is as it was");

    assert_eq!(run(&host, &mut vcpu, Operation::ReadCr4(Gpr::R9)), Outcome::Done);
    assert_eq!(vcpu.gpr(Gpr::R9), VMXE | 0x6A0);
    assert!(!host.machine.cr4_vmxe(LpIndex(1)), "other vCPUs have their own");

    vcpu.set(Gpr::Rbx, 0x6A0);
    let restore = After::Restore { gpr: Gpr::Rbx, value: 0x6A0 };
    assert_eq!(run(&host, &mut vcpu, Operation::WriteCr4(Gpr::Rbx)), Outcome::Then(restore));
    assert!(!host.machine.cr4_vmxe(LpIndex(0)));
    assert_eq!(run(&host, &mut vcpu, Operation::WriteCr4(Gpr::Rbx)), Outcome::Native, "VMXE stays clear");
}

#[test]
fn vmxe_cannot_be_cleared_in_vmx_operation() {
    let (host, memory) = host(&[], 1);
    let mut vcpu = in_vmx(&host, &memory, 0);
    vcpu.set(Gpr::Rbx, 0x20);
    assert_eq!(run(&host, &mut vcpu, Operation::WriteCr4(Gpr::Rbx)), Outcome::GeneralProtection);
    assert_eq!(vcpu.gpr(Gpr::Rbx), 0x20);
    assert!(host.machine.cr4_vmxe(LpIndex(0)));
    assert!(host.machine.log().contains(&Event::Cr4WriteFaulted { lp: LpIndex(0) }));
}

#[test]
fn a_reset_takes_every_vcpu_out_of_vmx_and_an_init_takes_one() {
    let (host, memory) = host(&[], 2);
    in_vmx(&host, &memory, 1);
    let mut vcpu = with_vmcs(&host, &memory);
    host.restarted(LpIndex(1));
    assert_eq!((host.machine.in_vmx(LpIndex(0)), host.machine.in_vmx(LpIndex(1))), (true, false));
    assert!(host.machine.is_online(LpIndex(1)) && !host.machine.cr4_vmxe(LpIndex(1)));
    assert_eq!(vmwrite(&host, &mut vcpu, 0x681E, 9), done(Flags::SUCCEED));
    host.reset();
    assert!(!host.machine.in_vmx(LpIndex(0)) && !host.machine.cr4_vmxe(LpIndex(0)));
    let mut vcpu = with_vmcs(&host, &memory);
    assert_eq!(vmread(&host, &mut vcpu, 0x681E).1, 0, "what VMCSes held is gone");
}

#[test]
fn what_the_guest_learned_is_complained_of_when_it_looks_at_tdx() {
    let (host, memory) = host(&[], 1);
    let mut vcpu = FakeVcpu::new(0, &memory);
    host.observe.cpuid(
        LpIndex(0),
        0,
        0,
        CpuidRegs { ebx: 0x6874_7541, edx: 0x6974_6E65, ecx: 0x444D_4163, eax: 0xD },
    );
    assert!(!host.observe.has_looked());
    vcpu.set(Gpr::Rcx, 0x87);
    run(&host, &mut vcpu, Operation::Rdmsr);
    assert!(host.observe.has_looked());
    assert!(host.observe.complaints().is_empty(), "said already");
}
