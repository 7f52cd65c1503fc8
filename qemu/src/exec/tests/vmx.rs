//! VMX instructions.

use proptest::prelude::*;
use tdx_abi::PAGE_SIZE;

use super::*;

#[test]
fn vmxon_wants_vmxe_and_a_region_with_the_right_revision() {
    let (host, memory) = host(&[], 1);
    let mut vcpu = FakeVcpu::new(0, &memory);
    memory.write_u32(VMXON_REGION, REVISION);
    assert_eq!(region(&host, &mut vcpu, Vmx::Vmxon, VMXON_REGION), Outcome::Native, "CR4.VMXE is clear");
    set_vmxe(&host, &mut vcpu);
    memory.write_u32(OTHER_VMCS, REVISION + 1);
    for (pa, why) in [
        (OTHER_VMCS, "another revision"),
        (VMXON_REGION + 8, "not page aligned"),
        (1 << 52, "beyond the address width"),
        (crate::testing::RAM, "no memory"),
    ] {
        assert_eq!(region(&host, &mut vcpu, Vmx::Vmxon, pa), done(Flags::FAIL_INVALID), "{why}");
    }
    vcpu.set(Gpr::Rdi, 0x1234);
    assert_eq!(run(&host, &mut vcpu, Operation::Vmx(Vmx::Vmxon(operand()))), Outcome::Native, "not mapped");
    assert!(!host.machine.in_vmx(LpIndex(0)));
    assert_eq!(region(&host, &mut vcpu, Vmx::Vmxon, VMXON_REGION), done(Flags::SUCCEED));
    assert!(host.machine.in_vmx(LpIndex(0)));
}

#[test]
fn vmxon_in_vmx_operation_fails_with_error_15() {
    let (host, memory) = host(&[], 1);
    let mut vcpu = in_vmx(&host, &memory, 0);
    assert_eq!(
        region(&host, &mut vcpu, Vmx::Vmxon, VMXON_REGION),
        done(Flags::FAIL_INVALID),
        "there is no VMCS to hold the number"
    );
    memory.write_u32(VMCS, REVISION);
    assert_eq!(region(&host, &mut vcpu, Vmx::Vmptrld, VMCS), done(Flags::SUCCEED));
    let outcome = region(&host, &mut vcpu, Vmx::Vmxon, VMXON_REGION);
    failed(&host, &mut vcpu, outcome, 15);
}

#[test]
fn vmxoff_ends_vmx_operation_and_forgets_the_current_vmcs() {
    let (host, memory) = host(&[], 1);
    let mut vcpu = with_vmcs(&host, &memory);
    assert_eq!(run(&host, &mut vcpu, Operation::Vmx(Vmx::Vmxoff)), done(Flags::SUCCEED));
    assert!(!host.machine.in_vmx(LpIndex(0)));
    assert_eq!(run(&host, &mut vcpu, Operation::Vmx(Vmx::Vmxoff)), Outcome::Native, "#UD");
    assert_eq!(region(&host, &mut vcpu, Vmx::Vmxon, VMXON_REGION), done(Flags::SUCCEED));
    assert_eq!(vmread(&host, &mut vcpu, ERROR).0, done(Flags::FAIL_INVALID));
}

#[test]
fn vmx_instructions_outside_vmx_operation_are_left_to_raise_ud() {
    let (host, memory) = host(&[], 1);
    let mut vcpu = FakeVcpu::new(0, &memory);
    vcpu.set(Gpr::Rdi, DIRECT_MAP + OPERAND);
    for insn in [
        Vmx::Vmxoff,
        Vmx::Vmlaunch,
        Vmx::Vmresume,
        Vmx::Vmclear(operand()),
        Vmx::Vmptrld(operand()),
        Vmx::Vmptrst(operand()),
        Vmx::Vmread { field: Gpr::Rax, to: Place::Register(Gpr::Rax) },
        Vmx::Vmwrite { field: Gpr::Rax, from: Place::Register(Gpr::Rax) },
        Vmx::Invept { kind: Gpr::Rax, descriptor: operand() },
        Vmx::Invvpid { kind: Gpr::Rax, descriptor: operand() },
    ] {
        assert_eq!(run(&host, &mut vcpu, Operation::Vmx(insn)), Outcome::Native, "{insn:?}");
    }
}

#[test]
fn vmclear_and_vmptrld_refuse_bad_regions_with_the_numbers_of_the_architecture() {
    let (host, memory) = host(&[], 1);
    let mut vcpu = with_vmcs(&host, &memory);
    memory.write_u32(0x40_0000, REVISION | 1 << 31);
    for (insn, pa, number) in [
        (Vmx::Vmclear as fn(Operand) -> Vmx, VMCS + 4, 2),
        (Vmx::Vmclear, 1 << 52, 2),
        (Vmx::Vmclear, VMXON_REGION, 3),
        (Vmx::Vmptrld, VMCS + PAGE_SIZE / 2, 9),
        (Vmx::Vmptrld, 1 << 52, 9),
        (Vmx::Vmptrld, VMXON_REGION, 10),
        // No revision, no memory, a shadow VMCS.
        (Vmx::Vmptrld, 0x50_0000, 11),
        (Vmx::Vmptrld, crate::testing::RAM, 11),
        (Vmx::Vmptrld, 0x40_0000, 11),
    ] {
        let outcome = region(&host, &mut vcpu, insn, pa);
        failed(&host, &mut vcpu, outcome, number);
    }
}

#[test]
fn without_a_current_vmcs_there_is_nowhere_to_put_a_number() {
    let (host, memory) = host(&[], 1);
    let mut vcpu = in_vmx(&host, &memory, 0);
    assert_eq!(region(&host, &mut vcpu, Vmx::Vmclear, VMXON_REGION), done(Flags::FAIL_INVALID));
    assert_eq!(vmread(&host, &mut vcpu, ERROR), (done(Flags::FAIL_INVALID), 0x5555));
    assert_eq!(vmwrite(&host, &mut vcpu, 0x681E, 0), done(Flags::FAIL_INVALID));
    for insn in [Vmx::Vmlaunch, Vmx::Vmresume] {
        assert_eq!(run(&host, &mut vcpu, Operation::Vmx(insn)), done(Flags::FAIL_INVALID), "{insn:?}");
    }
}

#[test]
fn vmptrst_stores_the_current_pointer_or_all_ones() {
    let (host, memory) = host(&[], 1);
    let mut vcpu = with_vmcs(&host, &memory);
    let stored = |vcpu: &mut FakeVcpu| {
        assert_eq!(region(&host, vcpu, Vmx::Vmptrst, 0), done(Flags::SUCCEED));
        let mut bytes = [0; 8];
        assert!(vcpu.read_virtual(DIRECT_MAP + OPERAND, &mut bytes));
        u64::from_le_bytes(bytes)
    };
    assert_eq!(stored(&mut vcpu), VMCS);
    assert_eq!(region(&host, &mut vcpu, Vmx::Vmclear, OTHER_VMCS), done(Flags::SUCCEED));
    assert_eq!(stored(&mut vcpu), VMCS, "another one was cleared");
    assert_eq!(region(&host, &mut vcpu, Vmx::Vmclear, VMCS), done(Flags::SUCCEED));
    assert_eq!(stored(&mut vcpu), u64::MAX);
    vcpu.set(Gpr::Rdi, 0x1234);
    assert_eq!(run(&host, &mut vcpu, Operation::Vmx(Vmx::Vmptrst(operand()))), Outcome::Native, "not mapped");
}

#[test]
fn each_vmcs_keeps_its_components_in_their_width() {
    let (host, memory) = host(&[], 1);
    let mut vcpu = with_vmcs(&host, &memory);
    for (field, value, kept) in [
        (0x0002, 0x12345, 0x2345),
        (0x2000, 0x1122_3344_5566_7788, 0x1122_3344_5566_7788),
        (0x4002, 0x1_FFFF_FFFF, 0xFFFF_FFFF),
        (0x681E, u64::MAX, u64::MAX),
    ] {
        assert_eq!(vmwrite(&host, &mut vcpu, field, value), done(Flags::SUCCEED));
        assert_eq!(vmread(&host, &mut vcpu, field), (done(Flags::SUCCEED), kept), "{field:#x}");
    }
    assert_eq!(vmread(&host, &mut vcpu, 0x2001).1, 0x1122_3344, "the high half");
    assert_eq!(vmwrite(&host, &mut vcpu, 0x2001, 0xAAAA_BBBB), done(Flags::SUCCEED));
    assert_eq!(vmread(&host, &mut vcpu, 0x2000).1, 0xAAAA_BBBB_5566_7788);

    assert_eq!(region(&host, &mut vcpu, Vmx::Vmptrld, OTHER_VMCS), done(Flags::SUCCEED));
    assert_eq!(vmread(&host, &mut vcpu, 0x681E).1, 0);
    assert_eq!(region(&host, &mut vcpu, Vmx::Vmclear, VMCS), done(Flags::SUCCEED));
    assert_eq!(region(&host, &mut vcpu, Vmx::Vmptrld, VMCS), done(Flags::SUCCEED));
    assert_eq!(vmread(&host, &mut vcpu, 0x681E).1, u64::MAX, "VMCLEAR writes it back");
}

#[test]
fn vmread_and_vmwrite_work_on_memory() {
    let (host, memory) = host(&[], 1);
    let mut vcpu = with_vmcs(&host, &memory);
    vcpu.set(Gpr::Rcx, 0x681E);
    let place = Place::Memory(operand());
    let write = Vmx::Vmwrite { field: Gpr::Rcx, from: place };
    assert_eq!(with_operand(&host, &mut vcpu, write, [42, 0]), done(Flags::SUCCEED));
    let read = Vmx::Vmread { field: Gpr::Rcx, to: place };
    assert_eq!(with_operand(&host, &mut vcpu, read, [0, 0]), done(Flags::SUCCEED));
    let mut bytes = [0; 8];
    assert!(vcpu.read_virtual(DIRECT_MAP + OPERAND, &mut bytes));
    assert_eq!(u64::from_le_bytes(bytes), 42);
    vcpu.set(Gpr::Rdi, 0x1234);
    for insn in [write, read] {
        assert_eq!(run(&host, &mut vcpu, Operation::Vmx(insn)), Outcome::Native, "not mapped: {insn:?}");
    }
}

#[test]
fn malformed_components_fail_with_error_12() {
    let (host, memory) = host(&[], 1);
    let mut vcpu = with_vmcs(&host, &memory);
    // Reserved bits 12, 15 and above, the high half of what has none.
    for field in [0x1000, 0x8000, 0x1_0000, 1 << 32, 0x4001, 0x0001, 0x6801] {
        let outcome = vmwrite(&host, &mut vcpu, field, 0);
        failed(&host, &mut vcpu, outcome, 12);
        let (outcome, kept) = vmread(&host, &mut vcpu, field);
        assert_eq!(kept, 0x5555);
        failed(&host, &mut vcpu, outcome, 12);
    }
}

#[test]
fn vm_exit_information_can_be_written_where_vmx_misc_says_so() {
    let misc = |value: &str| {
        let toml = tdx_machine::presets::find("tiny").expect("a preset").toml;
        let file = tempfile::NamedTempFile::new().expect("a file");
        let more = format!("{toml}\n[[package]]\nindex = 0\nmsr = {{ \"0x485\" = \"{value}\" }}\n");
        std::fs::write(file.path(), more).expect("written");
        file
    };
    for (value, taken) in [("0x7004c1e7", true), ("0x5004c1e7", false)] {
        let file = misc(value);
        let (host, memory) = host(&[&format!("platform={}", file.path().display())], 2);
        let mut vcpu = with_vmcs(&host, &memory);
        let outcome = vmwrite(&host, &mut vcpu, 0x4402, 1);
        if taken {
            assert_eq!(outcome, done(Flags::SUCCEED));
        } else {
            failed(&host, &mut vcpu, outcome, 13);
        }
        assert_eq!(vmwrite(&host, &mut vcpu, 0x4002, 1), done(Flags::SUCCEED));
    }
}

#[test]
fn no_vm_is_ever_entered() {
    let (host, memory) = host(&[], 1);
    let mut vcpu = with_vmcs(&host, &memory);
    for (insn, number) in [(Vmx::Vmlaunch, 7), (Vmx::Vmresume, 5)] {
        let outcome = run(&host, &mut vcpu, Operation::Vmx(insn));
        failed(&host, &mut vcpu, outcome, number);
    }
}

#[test]
fn invept_and_invvpid_check_their_operands() {
    let (host, memory) = host(&[], 1);
    let mut vcpu = with_vmcs(&host, &memory);
    let invept = Vmx::Invept { kind: Gpr::Rcx, descriptor: operand() };
    let invvpid = Vmx::Invvpid { kind: Gpr::Rcx, descriptor: operand() };
    for (insn, kind, words, good) in [
        (invept, 1, [0x1000_001E, 0], true),
        (invept, 2, [0, 0], true),
        (invept, 0, [0, 0], false),
        (invept, 3, [0, 0], false),
        (invept, 1, [0x1000_001E, 1], false),
        (invvpid, 0, [1, DIRECT_MAP], true),
        (invvpid, 0, [1, 1 << 62], false),
        (invvpid, 0, [0, 0], false),
        (invvpid, 1, [5, 0], true),
        (invvpid, 1, [0, 0], false),
        (invvpid, 2, [0, 0], true),
        (invvpid, 3, [0xFFFF, 0], true),
        (invvpid, 3, [0, 0], false),
        (invvpid, 2, [0x1_0000, 0], false),
        (invvpid, 4, [1, 0], false),
    ] {
        vcpu.set(Gpr::Rcx, kind);
        let outcome = with_operand(&host, &mut vcpu, insn, words);
        if good {
            assert_eq!(outcome, done(Flags::SUCCEED), "{insn:?} {kind} {words:x?}");
        } else {
            failed(&host, &mut vcpu, outcome, 28);
        }
    }
    vcpu.set(Gpr::Rdi, 0x1234).set(Gpr::Rcx, 2);
    assert_eq!(run(&host, &mut vcpu, Operation::Vmx(invept)), Outcome::Native, "not mapped");
}

#[test]
fn where_seamret_loses_the_vmcs_a_call_of_the_loader_does() {
    // The last call never reaches the P-SEAMLDR, so that nothing returns from it.
    for (platform, erratum, reached, kept) in
        [("tiny", false, true, true), ("spr", true, true, false), ("spr", true, false, true)]
    {
        let toml = tdx_machine::presets::find("tiny").expect("a preset").toml;
        let file = tempfile::NamedTempFile::new().expect("a file");
        let kind = if erratum { "sapphire-rapids" } else { "granite-rapids" };
        std::fs::write(file.path(), toml.replace("granite-rapids", kind)).expect("written");
        let (host, memory) = host(&[&format!("platform={}", file.path().display())], 2);
        let mut vcpu = with_vmcs(&host, &memory);
        call(&mut vcpu, SeamcallLeaf::SYS_LP_INIT);
        run(&host, &mut vcpu, Operation::Seamcall);
        assert_eq!(
            vmread(&host, &mut vcpu, ERROR).0,
            done(Flags::SUCCEED),
            "{platform}: the module keeps it"
        );
        if !reached {
            host.machine.cut_power();
        }
        vcpu.set(Gpr::Rax, LeafWord::seamldr(SeamldrLeaf::INFO).raw()).set(Gpr::Rcx, 0x8000);
        let answer = if reached { Flags::SUCCEED } else { Flags::FAIL_INVALID };
        assert_eq!(run(&host, &mut vcpu, Operation::Seamcall), done(answer));
        let expected = if kept { Flags::SUCCEED } else { Flags::FAIL_INVALID };
        assert_eq!(vmread(&host, &mut vcpu, ERROR).0, done(expected), "{platform}");
    }
}

/// An instruction with whatever operands come to mind.
fn any_insn() -> impl Strategy<Value = (Vmx, [u64; 2], u64)> {
    let pa = prop::sample::select(vec![
        0,
        VMCS,
        OTHER_VMCS,
        VMXON_REGION,
        VMCS + 1,
        crate::testing::RAM,
        1 << 52,
        u64::MAX,
    ]);
    let field = prop_oneof![
        prop::sample::select(vec![ERROR, 0x681E, 0x2000, 0x2001, 0x0002, 0x4402]),
        any::<u64>(),
        0_u64..0x8000
    ];
    let place = prop_oneof![Just(Place::Register(Gpr::Rdx)), Just(Place::Memory(operand()))];
    let insn = (0..11, place).prop_map(|(number, place)| match number {
        0 => Vmx::Vmxon(operand()),
        1 => Vmx::Vmxoff,
        2 => Vmx::Vmclear(operand()),
        3 | 4 => Vmx::Vmptrld(operand()),
        5 => Vmx::Vmptrst(operand()),
        6 => Vmx::Vmread { field: Gpr::Rcx, to: place },
        7 => Vmx::Vmwrite { field: Gpr::Rcx, from: place },
        8 => Vmx::Invept { kind: Gpr::Rcx, descriptor: operand() },
        9 => Vmx::Invvpid { kind: Gpr::Rcx, descriptor: operand() },
        _ => Vmx::Vmlaunch,
    });
    (insn, (pa, any::<u64>()).prop_map(|(pa, word)| [pa, word]), field)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_executed_the_flags_agree_with_the_state(
        steps in prop::collection::vec((0..2_u32, any_insn()), 1..60),
    ) {
        let (host, memory) = host(&[], 2);
        for pa in [VMXON_REGION, VMCS, OTHER_VMCS] {
            memory.write_u32(pa, REVISION);
        }
        let mut vcpus = [0, 1].map(|lp| {
            let mut vcpu = FakeVcpu::new(lp, &memory);
            set_vmxe(&host, &mut vcpu);
            vcpu
        });
        for (lp, (insn, words, field)) in steps {
            let vcpu = &mut vcpus[lp as usize];
            vcpu.set(Gpr::Rcx, field);
            let before = host.machine.in_vmx(LpIndex(lp));
            let outcome = with_operand(&host, vcpu, insn, words);
            // VMREAD and VMPTRST may have gone over the operand, but never over a region.
            let current = host.vmx.current(LpIndex(lp));
            let after = host.machine.in_vmx(LpIndex(lp));
            match outcome {
                Outcome::Native => prop_assert!(!before && !matches!(insn, Vmx::Vmxon(_))),
                Outcome::DoneWithFlags(Flags::FAIL_VALID) => prop_assert!(before && current.is_some()),
                Outcome::DoneWithFlags(Flags::FAIL_INVALID) => prop_assert!(current.is_none()),
                Outcome::DoneWithFlags(Flags::SUCCEED) => {
                    prop_assert!(before || matches!(insn, Vmx::Vmxon(_)));
                    prop_assert_eq!(after, !matches!(insn, Vmx::Vmxoff));
                }
                other => prop_assert!(false, "{other:?}"),
            }
            prop_assert!(after || current.is_none(), "no VMCS outside VMX operation");
        }
    }
}
