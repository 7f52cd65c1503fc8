//! CF and ZF of an instruction that QEMU did not execute.
//!
//! QEMU keeps the arithmetic flags as "result of the last operation", and the plugin interface
//! reaches them neither way. Two ways out: a function of QEMU's own that sets them, where this build
//! exports it and a trial shows that it does ([`exact`]); else the conditional jump behind the
//! instruction is evaluated in its place ([`follow_jump`]).

pub(crate) mod exact;

use std::sync::OnceLock;

use crate::cpu::Flags;
use crate::decode::{MAX_LENGTH, conditional_jump};
use crate::vcpu::QemuVcpu;
use exact::{Environment, Helpers};

/// How flags reach the guest: chosen at the first instruction that has any.
#[derive(Debug, Default)]
pub(crate) struct FlagsWriter {
    helpers: OnceLock<Option<Helpers>>,
}

/// The same for one vCPU.
#[derive(Debug, Default)]
pub(crate) struct VcpuFlags {
    environment: OnceLock<Option<Environment>>,
}

impl VcpuFlags {
    /// The vCPU's environment, once it was found.
    pub(crate) fn known(&self) -> Option<Environment> {
        self.environment.get().copied().flatten()
    }
}

impl FlagsWriter {
    /// Never uses functions of QEMU that are no interface.
    pub(crate) fn jumps_only() -> Self {
        Self { helpers: OnceLock::from(None) }
    }

    /// Leaves `flags` behind the instruction that ends at `next`. The answer is where the guest
    /// goes on.
    pub(crate) fn leave(&self, flags: Flags, next: u64, vcpu: &QemuVcpu<'_>, of: &VcpuFlags) -> u64 {
        match self.environment(vcpu, of) {
            Some((helpers, environment)) => {
                helpers.write(environment, flags);
                next
            }
            None => follow_jump(flags, next, vcpu.instruction_bytes(next, &mut [0; MAX_LENGTH])),
        }
    }

    /// Makes the choice, if it was not made before: true if CF and ZF are exact, false if only the
    /// jump behind sees them. The arithmetic flags of this vCPU are lost by it.
    pub(crate) fn settle(&self, vcpu: &QemuVcpu<'_>) -> bool {
        self.helpers(vcpu).is_some()
    }

    fn helpers(&self, vcpu: &QemuVcpu<'_>) -> Option<&Helpers> {
        self.helpers.get_or_init(|| Helpers::try_out(vcpu)).as_ref()
    }

    /// The means of the exact way, for this vCPU.
    pub(crate) fn environment(&self, vcpu: &QemuVcpu<'_>, of: &VcpuFlags) -> Option<(&Helpers, Environment)> {
        let helpers = self.helpers(vcpu)?;
        let environment = *of.environment.get_or_init(|| helpers.environment(vcpu));
        Some((helpers, environment?))
    }
}

/// Where the guest goes on if the instruction at `next` is a conditional jump: its target, or what
/// is behind it. Compilers and the kernel's assembly test the flags of a VMX instruction at once.
fn follow_jump(flags: Flags, next: u64, bytes: &[u8]) -> u64 {
    conditional_jump(bytes, next, flags).unwrap_or(next)
}

#[cfg(test)]
mod tests {
    use tdx_machine::LpIndex;

    use super::*;
    use crate::api::fake;

    #[test]
    fn a_jump_behind_the_instruction_is_taken_by_the_flags_it_would_have_seen() {
        let next = 0xffff_ffff_8100_0004;
        for (bytes, flags, goes_on) in [
            (&[0x72, 0x10][..], Flags::FAIL_INVALID, next + 0x12),
            (&[0x72, 0x10], Flags::SUCCEED, next + 2),
            (&[0x74, 0xF0], Flags::FAIL_VALID, next - 14),
            (&[0x0F, 0x86, 0, 1, 0, 0], Flags::FAIL_VALID, next + 0x106),
            // Nothing that looks at the flags, or nothing that could be read.
            (&[0x90], Flags::FAIL_INVALID, next),
            (&[], Flags::FAIL_INVALID, next),
        ] {
            assert_eq!(follow_jump(flags, next, bytes), goes_on, "{bytes:02x?} {flags:?}");
        }
    }

    #[test]
    fn without_the_functions_of_qemu_flags_are_left_to_the_jump() {
        let cpu = fake::on_vcpu();
        let registers = fake::registers_of(cpu.proof());
        let vcpu = QemuVcpu::new(LpIndex(0), cpu.proof(), &registers);
        let writer = FlagsWriter::default();
        fake::poke(0x1004, &[0x72, 0x10]);
        let goes_on = writer.leave(Flags::FAIL_INVALID, 0x1004, &vcpu, &VcpuFlags::default());
        assert_eq!(goes_on, 0x1016);
        assert!(!writer.settle(&vcpu));
    }
}
