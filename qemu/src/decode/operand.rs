//! Memory operands of 64-bit code.

use iced_x86::{Instruction, Register};

use crate::cpu::{Gpr, Vcpu};

/// A segment whose base counts in 64-bit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names are the hardware's own.
pub enum Segment {
    Fs,
    Gs,
}

/// A memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Base register; none with RIP, whose value is part of the displacement.
    pub base: Option<Gpr>,
    /// Index register.
    pub index: Option<Gpr>,
    /// What the index is multiplied with: 1, 2, 4 or 8.
    pub scale: u8,
    /// Displacement, sign-extended.
    pub displacement: u64,
    /// Segment with a base; none for the others, whose base is 0.
    pub segment: Option<Segment>,
    /// Address size prefix: the sum before the segment's base is cut to 32 bits.
    pub address32: bool,
}

impl Memory {
    /// The memory operand of an instruction; `None` if its address is formed in another way.
    pub(super) fn of(insn: &Instruction) -> Option<Self> {
        let register = |register| match register {
            Register::None | Register::RIP | Register::EIP => Some(None),
            other => Gpr::of(other).map(Some),
        };
        let segment = match insn.memory_segment() {
            Register::FS => Some(Segment::Fs),
            Register::GS => Some(Segment::Gs),
            _ => None,
        };
        let narrow = |register: Register| register.is_gpr32() || register == Register::EIP;
        let unregistered = insn.memory_base() == Register::None && insn.memory_index() == Register::None;
        let address32 = narrow(insn.memory_base())
            || narrow(insn.memory_index())
            || unregistered && insn.memory_displ_size() == 4;
        Some(Self {
            base: register(insn.memory_base())?,
            index: register(insn.memory_index())?,
            scale: u8::try_from(insn.memory_index_scale()).ok()?,
            displacement: insn.memory_displacement64(),
            segment,
            address32,
        })
    }

    /// Linear address of the operand.
    pub fn address(&self, vcpu: &dyn Vcpu) -> u64 {
        let value = |gpr: Option<Gpr>| gpr.map_or(0, |gpr| vcpu.gpr(gpr));
        let index = value(self.index).wrapping_mul(u64::from(self.scale));
        let sum = value(self.base).wrapping_add(index).wrapping_add(self.displacement);
        let offset = if self.address32 { sum & 0xFFFF_FFFF } else { sum };
        match self.segment {
            None => offset,
            Some(Segment::Fs) => offset.wrapping_add(vcpu.fs_base()),
            Some(Segment::Gs) => offset.wrapping_add(vcpu.gs_base()),
        }
    }
}

/// An operand in a register or in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A register.
    Register(Gpr),
    /// Memory.
    Memory(Memory),
}
