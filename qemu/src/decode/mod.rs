//! Which instructions the plugin catches, and their operands.

mod jump;
mod operand;
#[cfg(test)]
mod tests;

use iced_x86::{Code, Decoder, DecoderError, DecoderOptions, Instruction, OpKind, Register};

pub use jump::{JumpError, conditional_jump};
pub use operand::{Memory, Place, Segment};

use crate::cpu::Gpr;

/// Bytes of the longest instruction.
pub const MAX_LENGTH: usize = 15;

/// What an instruction is caught for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SEAMCALL.
    Seamcall,
    /// RDMSR.
    Rdmsr,
    /// WRMSR.
    Wrmsr,
    /// MOV from CR4.
    ReadCr4,
    /// MOV to CR4.
    WriteCr4,
    /// An instruction of VMX.
    Vmx,
    /// CPUID.
    Cpuid,
}

/// An instruction that the plugin catches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of the instruction, 1 to 15.
    pub length: u8,
    /// What it does.
    pub operation: Operation,
}

/// An operation with its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Names of instructions.
pub enum Operation {
    Seamcall,
    Rdmsr,
    Wrmsr,
    Cpuid,
    /// MOV from CR4 to a register.
    ReadCr4(Gpr),
    /// MOV to CR4 from a register.
    WriteCr4(Gpr),
    Vmx(Vmx),
}

/// An instruction of VMX. Memory operands of VMXON, VMCLEAR, VMPTRLD and VMPTRST hold the physical
/// address of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Names of instructions and of their operands.
pub enum Vmx {
    Vmxon(Memory),
    Vmxoff,
    Vmclear(Memory),
    Vmptrld(Memory),
    Vmptrst(Memory),
    Vmread { field: Gpr, to: Place },
    Vmwrite { field: Gpr, from: Place },
    Invept { kind: Gpr, descriptor: Memory },
    Invvpid { kind: Gpr, descriptor: Memory },
    Vmlaunch,
    Vmresume,
}

impl Decoded {
    /// What the instruction is caught for.
    pub const fn kind(&self) -> Kind {
        match self.operation {
            Operation::Seamcall => Kind::Seamcall,
            Operation::Rdmsr => Kind::Rdmsr,
            Operation::Wrmsr => Kind::Wrmsr,
            Operation::Cpuid => Kind::Cpuid,
            Operation::ReadCr4(_) => Kind::ReadCr4,
            Operation::WriteCr4(_) => Kind::WriteCr4,
            Operation::Vmx(_) => Kind::Vmx,
        }
    }
}

/// Why bytes are no instruction that is caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The instruction does not end within the bytes.
    #[error("the instruction does not end within the bytes given")]
    Truncated,
    /// No instruction at all.
    #[error("no valid instruction")]
    Invalid,
    /// Some other instruction.
    #[error("an instruction that is not caught")]
    Other,
}

/// Decodes one instruction of 64-bit code at `rip`. Outside of 64-bit code, RDMSR, WRMSR, CPUID and
/// MOV to or from CR4 have the same encodings.
pub fn decode(bytes: &[u8], rip: u64) -> Result<Decoded, DecodeError> {
    let insn = instruction(bytes, rip)?;
    let gpr = |operand| Gpr::of(insn.op_register(operand)).ok_or(DecodeError::Other);
    let memory = |operand| match insn.op_kind(operand) {
        OpKind::Memory => Memory::of(&insn).ok_or(DecodeError::Other),
        _ => Err(DecodeError::Other),
    };
    let place = |operand| match insn.op_kind(operand) {
        OpKind::Register => gpr(operand).map(Place::Register),
        _ => memory(operand).map(Place::Memory),
    };
    let operation = match insn.code() {
        Code::Seamcall => Operation::Seamcall,
        Code::Rdmsr => Operation::Rdmsr,
        Code::Wrmsr => Operation::Wrmsr,
        Code::Cpuid => Operation::Cpuid,
        Code::Mov_r64_cr if insn.op1_register() == Register::CR4 => Operation::ReadCr4(gpr(0)?),
        Code::Mov_cr_r64 if insn.op0_register() == Register::CR4 => Operation::WriteCr4(gpr(1)?),
        Code::Vmxon_m64 => Operation::Vmx(Vmx::Vmxon(memory(0)?)),
        Code::Vmxoff => Operation::Vmx(Vmx::Vmxoff),
        Code::Vmclear_m64 => Operation::Vmx(Vmx::Vmclear(memory(0)?)),
        Code::Vmptrld_m64 => Operation::Vmx(Vmx::Vmptrld(memory(0)?)),
        Code::Vmptrst_m64 => Operation::Vmx(Vmx::Vmptrst(memory(0)?)),
        Code::Vmread_rm64_r64 => Operation::Vmx(Vmx::Vmread { field: gpr(1)?, to: place(0)? }),
        Code::Vmwrite_r64_rm64 => Operation::Vmx(Vmx::Vmwrite { field: gpr(0)?, from: place(1)? }),
        Code::Invept_r64_m128 => Operation::Vmx(Vmx::Invept { kind: gpr(0)?, descriptor: memory(1)? }),
        Code::Invvpid_r64_m128 => Operation::Vmx(Vmx::Invvpid { kind: gpr(0)?, descriptor: memory(1)? }),
        Code::Vmlaunch => Operation::Vmx(Vmx::Vmlaunch),
        Code::Vmresume => Operation::Vmx(Vmx::Vmresume),
        _ => return Err(DecodeError::Other),
    };
    let length = u8::try_from(insn.len()).map_err(|_| DecodeError::Invalid)?;
    Ok(Decoded { length, operation })
}

fn instruction(bytes: &[u8], rip: u64) -> Result<Instruction, DecodeError> {
    let bytes = bytes.get(..MAX_LENGTH).unwrap_or(bytes);
    let mut decoder = Decoder::with_ip(64, bytes, rip, DecoderOptions::NONE);
    let insn = decoder.decode();
    match decoder.last_error() {
        DecoderError::None => Ok(insn),
        DecoderError::NoMoreBytes if bytes.len() < MAX_LENGTH => Err(DecodeError::Truncated),
        _ => Err(DecodeError::Invalid),
    }
}

/// What an instruction would be caught for. The bytes are those that QEMU read at translation time:
/// of an instruction that TCG refuses they may end before the instruction does, and then the
/// answer is what it may turn out to be.
pub fn is_candidate(bytes: &[u8]) -> Option<Kind> {
    let opcode = Opcode::of(bytes)?;
    match decode(bytes, 0) {
        Ok(decoded) => Some(decoded.kind()),
        Err(DecodeError::Truncated) => opcode.guess(),
        Err(DecodeError::Invalid | DecodeError::Other) => None,
    }
}

/// Opcode of an instruction of the maps 0F and 0F 38, with what was read of its operands.
struct Opcode<'a> {
    prefix_66: bool,
    /// F2 or F3, the last one of them.
    repeat: Option<u8>,
    byte: u8,
    map_38: bool,
    rest: &'a [u8],
}

impl<'a> Opcode<'a> {
    /// `None` for every opcode that is not caught: most instructions end here.
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        let (mut prefix_66, mut repeat) = (false, None);
        loop {
            let (&byte, tail) = rest.split_first()?;
            rest = tail;
            match byte {
                0x0F => break,
                0x66 => prefix_66 = true,
                0xF2 | 0xF3 => repeat = Some(byte),
                // Segments, address size, LOCK, REX.
                0x26 | 0x2E | 0x36 | 0x3E | 0x64 | 0x65 | 0x67 | 0xF0 | 0x40..=0x4F => {}
                _ => return None,
            }
        }
        match *rest {
            [byte @ (0x01 | 0x20 | 0x22 | 0x30 | 0x32 | 0x78 | 0x79 | 0xA2 | 0xC7), ref rest @ ..] => {
                Some(Self { prefix_66, repeat, byte, map_38: false, rest })
            }
            [0x38, byte @ (0x80 | 0x81), ref rest @ ..] => {
                Some(Self { prefix_66, repeat, byte, map_38: true, rest })
            }
            _ => None,
        }
    }

    /// What a truncated instruction may be.
    fn guess(&self) -> Option<Kind> {
        let modrm = self.rest.first();
        let in_memory = modrm.is_none_or(|modrm| modrm >> 6 != 3);
        let extension_6 = modrm.is_none_or(|modrm| modrm >> 3 & 7 == 6);
        let possible = match (self.map_38, self.byte) {
            (true, _) => self.prefix_66 && self.repeat.is_none() && in_memory,
            // VMPTRST is extension 7.
            (false, 0xC7) => in_memory && (extension_6 || modrm.is_some_and(|modrm| modrm >> 3 & 7 == 7)),
            (false, 0x78 | 0x79) => !self.prefix_66 && self.repeat.is_none(),
            // The others have no more than a ModRM byte, which TCG reads.
            _ => false,
        };
        possible.then_some(Kind::Vmx)
    }
}
