//! What the emulated instructions need of a virtual CPU.

use iced_x86::Register;
use tdx_abi::PhysAddr;
use tdx_machine::LpIndex;

/// A general purpose register of 64 bits, in the order of its encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // The names are the hardware's own.
pub enum Gpr {
    Rax,
    Rcx,
    Rdx,
    Rbx,
    Rsp,
    Rbp,
    Rsi,
    Rdi,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
}

impl Gpr {
    /// Every register, in the order of its encoding.
    pub const ALL: [Self; 16] = [
        Self::Rax,
        Self::Rcx,
        Self::Rdx,
        Self::Rbx,
        Self::Rsp,
        Self::Rbp,
        Self::Rsi,
        Self::Rdi,
        Self::R8,
        Self::R9,
        Self::R10,
        Self::R11,
        Self::R12,
        Self::R13,
        Self::R14,
        Self::R15,
    ];

    /// Name in lower case, as debuggers and QEMU have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rax => "rax",
            Self::Rcx => "rcx",
            Self::Rdx => "rdx",
            Self::Rbx => "rbx",
            Self::Rsp => "rsp",
            Self::Rbp => "rbp",
            Self::Rsi => "rsi",
            Self::Rdi => "rdi",
            Self::R8 => "r8",
            Self::R9 => "r9",
            Self::R10 => "r10",
            Self::R11 => "r11",
            Self::R12 => "r12",
            Self::R13 => "r13",
            Self::R14 => "r14",
            Self::R15 => "r15",
        }
    }

    /// The register that `register` is, or is the low half of; `None` if it is no general purpose
    /// register.
    pub(crate) fn of(register: Register) -> Option<Self> {
        let number = register.full_register().number();
        if register.is_gpr32() || register.is_gpr64() { Self::ALL.get(number).copied() } else { None }
    }
}

/// A virtual CPU while one of its instructions is being emulated. Its thread is the caller's.
pub trait Vcpu {
    /// Which LP of the machine it is.
    fn index(&self) -> LpIndex;

    /// Value of a register.
    fn gpr(&self, gpr: Gpr) -> u64;

    /// All registers, in the order of [`Gpr::ALL`].
    fn gprs(&self) -> [u64; 16] {
        Gpr::ALL.map(|gpr| self.gpr(gpr))
    }

    /// Writes a register.
    fn set_gpr(&mut self, gpr: Gpr, value: u64);

    /// True in 64-bit code: IA32_EFER.LMA and CS.L are 1.
    fn long_mode(&self) -> bool;

    /// True in real mode, where the code segment has a base: the address of an instruction is not that
    /// of its bytes.
    fn real_mode(&self) -> bool;

    /// Current privilege level, 0 to 3; 0 in real mode.
    fn cpl(&self) -> u8;

    /// Base of FS.
    fn fs_base(&self) -> u64;

    /// Base of GS.
    fn gs_base(&self) -> u64;

    /// CR4 as QEMU has it. CR4.VMXE is never set there.
    fn cr4(&self) -> u64;

    /// Reads memory through the guest's page tables; false if a byte of it is not mapped.
    fn read_virtual(&self, va: u64, bytes: &mut [u8]) -> bool;

    /// Writes memory through the guest's page tables; false if a byte of it is not mapped.
    fn write_virtual(&mut self, va: u64, bytes: &[u8]) -> bool;

    /// Reads physical memory; false if nothing answers.
    fn read_physical(&self, pa: PhysAddr, bytes: &mut [u8]) -> bool;
}

/// What an instruction of VMX leaves in RFLAGS. The other arithmetic flags (OF, SF, AF, PF) are
/// cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags {
    /// Carry: VMfailInvalid.
    pub cf: bool,
    /// Zero: VMfailValid.
    pub zf: bool,
}

impl Flags {
    /// VMsucceed.
    pub const SUCCEED: Self = Self { cf: false, zf: false };
    /// VMfailInvalid: there is no current VMCS.
    pub const FAIL_INVALID: Self = Self { cf: true, zf: false };
    /// VMfailValid: the current VMCS holds the error number.
    pub const FAIL_VALID: Self = Self { cf: false, zf: true };
}

/// What becomes of an instruction that was caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// QEMU executes it as if nobody had looked.
    Native,
    /// Executed: go on behind it.
    Done,
    /// Executed: go on behind it with these flags.
    DoneWithFlags(Flags),
    /// QEMU executes it. Before the next instruction of this vCPU,
    /// [`finish`](crate::exec::finish) wants to be called with this.
    Then(After),
    /// Hardware raises #GP. Where that cannot be had, QEMU executes the instruction.
    GeneralProtection,
}

/// What is left to do behind an instruction that QEMU executes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// The operand of MOV to CR4 was changed for its sake and gets its value back.
    Restore {
        /// The operand.
        gpr: Gpr,
        /// Its value before.
        value: u64,
    },
    /// CPUID: its answer is in the registers.
    Cpuid {
        /// EAX before.
        leaf: u32,
        /// ECX before.
        subleaf: u32,
    },
}
