//! The register file of a SEAMCALL or TDCALL.

use core::fmt;

/// General purpose registers that a call reads and writes. RSP never takes part.
///
/// Registers that a leaf does not list as output keep their value.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)] // The names are the hardware's own.
pub struct Registers {
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rbx: u64,
    pub rbp: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
}

impl fmt::Debug for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [
            ("rax", self.rax),
            ("rcx", self.rcx),
            ("rdx", self.rdx),
            ("rbx", self.rbx),
            ("rbp", self.rbp),
            ("rsi", self.rsi),
            ("rdi", self.rdi),
            ("r8", self.r8),
            ("r9", self.r9),
            ("r10", self.r10),
            ("r11", self.r11),
            ("r12", self.r12),
            ("r13", self.r13),
            ("r14", self.r14),
            ("r15", self.r15),
        ];
        let mut map = f.debug_map();
        // RAX is always of interest; a zero elsewhere seldom is.
        for (name, value) in named.into_iter().filter(|&(name, value)| name == "rax" || value != 0) {
            map.entry(&format_args!("{name}"), &format_args!("{value:#x}"));
        }
        map.finish()
    }
}
