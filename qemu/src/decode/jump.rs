//! Conditional jumps behind an instruction whose flags QEMU does not know.

use iced_x86::{ConditionCode, OpKind};

use super::{DecodeError, instruction};
use crate::cpu::Flags;

/// Why the way on is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JumpError {
    /// No instruction, or not all of it.
    #[error("not decoded: {0}")]
    Undecoded(#[from] DecodeError),
    /// The instruction uses a condition but does not jump: SETcc, CMOVcc.
    #[error("an instruction other than a jump uses the condition")]
    NoJump,
    /// The instruction has no condition.
    #[error("the instruction does not look at the flags")]
    Unconditional,
}

/// Where execution goes on behind the conditional jump at `rip`, short or near. VMX instructions
/// clear OF, SF and PF, so that all sixteen conditions are known.
pub fn conditional_jump(bytes: &[u8], rip: u64, flags: Flags) -> Result<u64, JumpError> {
    let insn = instruction(bytes, rip)?;
    let taken = match insn.condition_code() {
        ConditionCode::None => return Err(JumpError::Unconditional),
        // Overflow, sign, parity, sign other than overflow: all clear.
        ConditionCode::o | ConditionCode::s | ConditionCode::p | ConditionCode::l => false,
        ConditionCode::no | ConditionCode::ns | ConditionCode::np | ConditionCode::ge => true,
        ConditionCode::b => flags.cf,
        ConditionCode::ae => !flags.cf,
        ConditionCode::e | ConditionCode::le => flags.zf,
        ConditionCode::ne | ConditionCode::g => !flags.zf,
        ConditionCode::be => flags.cf || flags.zf,
        ConditionCode::a => !flags.cf && !flags.zf,
    };
    // LOOPE and LOOPNE have a condition too, but count besides.
    if !(insn.is_jcc_short_or_near() && insn.op0_kind() == OpKind::NearBranch64) {
        return Err(JumpError::NoJump);
    }
    Ok(if taken { insn.near_branch64() } else { insn.next_ip() })
}
