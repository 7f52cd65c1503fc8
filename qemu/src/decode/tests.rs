//! Encodings that Linux has, and every other.

use iced_x86::{ConditionCode, Decoder, DecoderOptions};
use proptest::prelude::*;

use super::*;
use crate::cpu::{Flags, Vcpu};
use crate::testing::{FakeVcpu, Memory as FakeMemory};

const RIP: u64 = 0xFFFF_FFFF_8100_0000;

fn at(base: Gpr) -> Memory {
    Memory { base: Some(base), index: None, scale: 1, displacement: 0, segment: None, address32: false }
}

fn operation(bytes: &[u8]) -> Operation {
    let decoded = decode(bytes, RIP).unwrap_or_else(|error| panic!("{bytes:02x?}: {error}"));
    assert_eq!(usize::from(decoded.length), bytes.len(), "{bytes:02x?}");
    assert_eq!(is_candidate(bytes), Some(decoded.kind()), "{bytes:02x?}");
    decoded.operation
}

#[test]
fn every_caught_instruction_is_known_by_its_encoding() {
    for (bytes, expected) in [
        (&[0x66, 0x0F, 0x01, 0xCF][..], Operation::Seamcall),
        (&[0x0F, 0x32], Operation::Rdmsr),
        (&[0x0F, 0x30], Operation::Wrmsr),
        (&[0x0F, 0xA2], Operation::Cpuid),
        (&[0x0F, 0x20, 0xE0], Operation::ReadCr4(Gpr::Rax)),
        (&[0x41, 0x0F, 0x20, 0xE7], Operation::ReadCr4(Gpr::R15)),
        (&[0x0F, 0x22, 0xE7], Operation::WriteCr4(Gpr::Rdi)),
        (&[0x0F, 0x01, 0xC4], Operation::Vmx(Vmx::Vmxoff)),
        (&[0x0F, 0x01, 0xC2], Operation::Vmx(Vmx::Vmlaunch)),
        (&[0x0F, 0x01, 0xC3], Operation::Vmx(Vmx::Vmresume)),
        (&[0xF3, 0x0F, 0xC7, 0x30], Operation::Vmx(Vmx::Vmxon(at(Gpr::Rax)))),
        (&[0x66, 0x0F, 0xC7, 0x33], Operation::Vmx(Vmx::Vmclear(at(Gpr::Rbx)))),
        (&[0x0F, 0xC7, 0x36], Operation::Vmx(Vmx::Vmptrld(at(Gpr::Rsi)))),
        (&[0x0F, 0xC7, 0x3F], Operation::Vmx(Vmx::Vmptrst(at(Gpr::Rdi)))),
        (&[0x0F, 0x78, 0xC8], Operation::Vmx(Vmx::Vmread { field: Gpr::Rcx, to: Place::Register(Gpr::Rax) })),
        (
            &[0x0F, 0x78, 0x08],
            Operation::Vmx(Vmx::Vmread { field: Gpr::Rcx, to: Place::Memory(at(Gpr::Rax)) }),
        ),
        (
            &[0x0F, 0x79, 0xC8],
            Operation::Vmx(Vmx::Vmwrite { field: Gpr::Rcx, from: Place::Register(Gpr::Rax) }),
        ),
        (
            &[0x66, 0x0F, 0x38, 0x80, 0x08],
            Operation::Vmx(Vmx::Invept { kind: Gpr::Rcx, descriptor: at(Gpr::Rax) }),
        ),
        (
            &[0x66, 0x0F, 0x38, 0x81, 0x08],
            Operation::Vmx(Vmx::Invvpid { kind: Gpr::Rcx, descriptor: at(Gpr::Rax) }),
        ),
    ] {
        assert_eq!(operation(bytes), expected, "{bytes:02x?}");
    }
}

#[test]
fn neighbours_of_the_caught_instructions_are_left_alone() {
    for bytes in [
        &[0x66, 0x0F, 0x01, 0xCC][..],   // TDCALL
        &[0x0F, 0x01, 0xCF],             // ENCLS
        &[0x0F, 0x01, 0xC1],             // VMCALL
        &[0x0F, 0x20, 0xD8],             // MOV from CR3
        &[0x0F, 0x22, 0xC0],             // MOV to CR0
        &[0x44, 0x0F, 0x20, 0xE0],       // MOV from CR12
        &[0x0F, 0xC7, 0xF0],             // RDRAND
        &[0xF3, 0x0F, 0xC7, 0xF8],       // RDPID
        &[0x0F, 0xC7, 0x08],             // CMPXCHG8B
        &[0x0F, 0xC7, 0x20],             // XSAVEC
        &[0x0F, 0x33],                   // RDPMC
        &[0x66, 0x0F, 0x38, 0x82, 0x08], // INVPCID
        &[0x0F, 0x38, 0x80, 0x08],       // INVEPT without its prefix
        &[0x90],
        &[0xC4, 0xE2, 0x78, 0xF2, 0xC0], // VEX
    ] {
        assert_eq!(is_candidate(bytes), None, "{bytes:02x?}");
        assert!(decode(bytes, RIP).is_err(), "{bytes:02x?}");
    }
}

#[test]
fn what_tcg_read_of_a_refused_instruction_is_enough_to_catch_it() {
    for (bytes, rest) in [
        (&[0xF3, 0x0F, 0xC7, 0x75][..], &[0xF8][..]),
        (&[0xF3, 0x0F, 0xC7], &[0x30]),
        (&[0x66, 0x0F, 0x38, 0x80], &[0x4C, 0x24, 0x10]),
        (&[0x66, 0x0F, 0x38, 0x81], &[0x08]),
        (&[0x0F, 0x79], &[0xC8]),
        (&[0x0F, 0x78], &[0x44, 0x24, 0x08]),
        (&[0x0F, 0xC7, 0x35], &[1, 2, 3, 4]),
    ] {
        assert_eq!(is_candidate(bytes), Some(Kind::Vmx), "{bytes:02x?}");
        assert_eq!(decode(bytes, RIP), Err(DecodeError::Truncated), "{bytes:02x?}");
        let whole = [bytes, rest].concat();
        assert!(matches!(operation(&whole), Operation::Vmx(_)), "{whole:02x?}");
    }
    for bytes in [
        &[][..],
        &[0x0F],
        &[0x66, 0x0F],
        &[0x0F, 0x01],
        &[0x0F, 0xC7, 0x08 | 0x80],
        &[0x66, 0x0F, 0x78],
        &[0x66, 0x0F, 0x38, 0x80, 0xC1],
        &[0x66],
    ] {
        assert_eq!(is_candidate(bytes), None, "{bytes:02x?}");
    }
}

#[test]
fn operands_in_memory_have_the_addresses_of_the_processor() {
    let mut vcpu = FakeVcpu::new(0, &FakeMemory::default());
    vcpu.set(Gpr::Rax, 0x1000).set(Gpr::Rcx, 0x20).set(Gpr::Rsp, 0x7000).set(Gpr::R13, 0x1_0000_9000);
    (vcpu.fs_base, vcpu.gs_base) = (0x10_0000, 0x20_0000);
    for (bytes, address) in [
        // (%rax), 0x10(%rax), -8(%rax), 0x12345678(%rax)
        (&[0x0F, 0xC7, 0x30][..], 0x1000),
        (&[0x0F, 0xC7, 0x70, 0x10], 0x1010),
        (&[0x0F, 0xC7, 0x70, 0xF8], 0xFF8),
        (&[0x0F, 0xC7, 0xB0, 0x78, 0x56, 0x34, 0x12], 0x1234_6678),
        // (%rsp), 8(%rsp,%rcx,4), (,%rcx,8)
        (&[0x0F, 0xC7, 0x34, 0x24], 0x7000),
        (&[0x0F, 0xC7, 0x74, 0x8C, 0x08], 0x7088),
        (&[0x0F, 0xC7, 0x34, 0xCD, 0, 0, 0, 0], 0x100),
        // 0x10(%rip), -0x20(%rip): behind seven bytes
        (&[0x0F, 0xC7, 0x35, 0x10, 0, 0, 0], RIP + 0x17),
        (&[0x0F, 0xC7, 0x35, 0xE0, 0xFF, 0xFF, 0xFF], RIP - 0x19),
        // %fs:(%rax), %gs:(%rax), %gs:8(%rip), and DS, which has no base
        (&[0x64, 0x0F, 0xC7, 0x30], 0x10_1000),
        (&[0x65, 0x0F, 0xC7, 0x30], 0x20_1000),
        (&[0x65, 0x0F, 0xC7, 0x35, 8, 0, 0, 0], RIP + 0x10 + 0x20_0000),
        (&[0x3E, 0x0F, 0xC7, 0x30], 0x1000),
        // (%r13), (%r13d), %gs:(%r13d), 0xfffffff0 with and without an address size prefix
        (&[0x41, 0x0F, 0xC7, 0x75, 0], 0x1_0000_9000),
        (&[0x67, 0x41, 0x0F, 0xC7, 0x75, 0], 0x9000),
        (&[0x65, 0x67, 0x41, 0x0F, 0xC7, 0x75, 0], 0x20_9000),
        (&[0x0F, 0xC7, 0x34, 0x25, 0xF0, 0xFF, 0xFF, 0xFF], 0xFFFF_FFFF_FFFF_FFF0),
        (&[0x67, 0x0F, 0xC7, 0x34, 0x25, 0xF0, 0xFF, 0xFF, 0xFF], 0xFFFF_FFF0),
    ] {
        let Operation::Vmx(Vmx::Vmptrld(memory)) = operation(bytes) else { panic!("{bytes:02x?}") };
        assert_eq!(memory.address(&vcpu), address, "{bytes:02x?}");
    }
}

#[test]
fn registers_of_vmread_follow_the_prefixes() {
    assert_eq!(
        operation(&[0x4D, 0x0F, 0x78, 0xC8]),
        Operation::Vmx(Vmx::Vmread { field: Gpr::R9, to: Place::Register(Gpr::R8) })
    );
}

/// Condition of an opcode's low four bits, for CF and ZF with OF, SF and PF clear.
fn taken(condition: u8, flags: Flags) -> bool {
    let Flags { cf, zf } = flags;
    let even = match condition >> 1 {
        1 => cf,
        2 | 7 => zf,
        3 => cf || zf,
        _ => false,
    };
    even != (condition & 1 == 1)
}

#[test]
fn all_sixteen_jumps_go_where_the_flags_say_short_and_near() {
    for condition in 0..16u8 {
        for flags in [Flags::SUCCEED, Flags::FAIL_INVALID, Flags::FAIL_VALID] {
            let short = [0x70 | condition, 0x10, 0x90];
            let near = [0x0F, 0x80 | condition, 0xFA, 0xFF, 0xFF, 0xFF];
            for (bytes, length, target) in [(&short[..], 2, RIP + 0x12), (&near, 6, RIP)] {
                let expected = if taken(condition, flags) { target } else { RIP + length };
                assert_eq!(conditional_jump(bytes, RIP, flags), Ok(expected), "{bytes:02x?} {flags:?}");
            }
        }
    }
}

#[test]
fn what_is_no_conditional_jump_is_refused_by_name() {
    for (bytes, error) in [
        (&[0x0F, 0x92, 0xC0][..], JumpError::NoJump), // SETB
        (&[0x0F, 0x42, 0xC1], JumpError::NoJump),     // CMOVB
        (&[0xE1, 0x10], JumpError::NoJump),           // LOOPE
        (&[0xEB, 0x10], JumpError::Unconditional),    // JMP
        (&[0xE3, 0x10], JumpError::Unconditional),    // JRCXZ
        (&[0x90], JumpError::Unconditional),
        (&[0x72], JumpError::Undecoded(DecodeError::Truncated)),
        (&[0x06, 0x90], JumpError::Undecoded(DecodeError::Invalid)),
    ] {
        assert_eq!(conditional_jump(bytes, RIP, Flags::SUCCEED), Err(error), "{bytes:02x?}");
    }
}

#[test]
fn every_register_has_its_number_and_its_name() {
    let vcpu = FakeVcpu::new(0, &FakeMemory::default());
    for (number, gpr) in Gpr::ALL.into_iter().enumerate() {
        assert_eq!((gpr as usize, vcpu.gpr(gpr)), (number, 0));
    }
    assert_eq!((Gpr::Rsp.name(), Gpr::R10.name()), ("rsp", "r10"));
    assert_eq!(Gpr::of(Register::EDI), Some(Gpr::Rdi));
    assert_eq!(Gpr::of(Register::R9), Some(Gpr::R9));
    for register in [Register::None, Register::XMM1, Register::CR4, Register::FS, Register::AH] {
        assert_eq!(Gpr::of(register), None, "{register:?}");
    }
}

/// Bytes that begin like a caught instruction more often than chance would.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let prefix = prop::sample::select(vec![
        0x66, 0xF2, 0xF3, 0xF0, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65, 0x67, 0x40, 0x41, 0x44, 0x48, 0x4F,
    ]);
    let opcode = prop::sample::select(vec![
        vec![0x0F, 0x01],
        vec![0x0F, 0x20],
        vec![0x0F, 0x22],
        vec![0x0F, 0x30],
        vec![0x0F, 0x32],
        vec![0x0F, 0x78],
        vec![0x0F, 0x79],
        vec![0x0F, 0xA2],
        vec![0x0F, 0xC7],
        vec![0x0F, 0x38, 0x80],
        vec![0x0F, 0x38, 0x81],
        vec![0x0F],
        vec![],
    ]);
    let rest = prop::collection::vec(any::<u8>(), 0..16);
    (prop::collection::vec(prefix, 0..4), opcode, rest)
        .prop_map(|(prefixes, opcode, rest)| [prefixes, opcode, rest].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn decoding_never_panics_and_never_goes_beyond_fifteen_bytes(bytes in bytes(), rip: u64) {
        if let Ok(decoded) = decode(&bytes, rip) {
            prop_assert!((1..=MAX_LENGTH).contains(&usize::from(decoded.length)));
            prop_assert!(usize::from(decoded.length) <= bytes.len());
        }
        if let Ok(target) = conditional_jump(&bytes, rip, Flags::FAIL_VALID) {
            let insn = Decoder::with_ip(64, &bytes, rip, DecoderOptions::NONE).decode();
            prop_assert!(target == insn.next_ip() || target == insn.near_branch_target());
            prop_assert!(insn.condition_code() != ConditionCode::None);
        }
    }

    #[test]
    fn whole_instructions_are_candidates_of_exactly_their_kind(bytes in bytes()) {
        match decode(&bytes, RIP) {
            Ok(decoded) => prop_assert_eq!(is_candidate(&bytes), Some(decoded.kind())),
            // Behind a guess stands an instruction that wants more bytes.
            Err(DecodeError::Truncated) => {}
            Err(_) => prop_assert_eq!(is_candidate(&bytes), None),
        }
    }

    #[test]
    fn every_caught_instruction_is_caught_from_wherever_tcg_gave_up(bytes in bytes()) {
        if let Ok(decoded) = decode(&bytes, RIP) {
            // TCG reads the opcode, and for the opcodes that it knows the whole instruction.
            let opcode = bytes.iter().position(|&byte| byte == 0x0F).expect("an escape byte");
            let read = opcode + if bytes[opcode + 1] == 0x38 { 3 } else { 2 };
            if decoded.kind() == Kind::Vmx && bytes[opcode + 1] != 0x01 {
                for end in read..=usize::from(decoded.length) {
                    prop_assert_eq!(is_candidate(&bytes[..end]), Some(Kind::Vmx), "{} bytes", end);
                }
            }
        }
    }
}
