//! A virtual CPU of QEMU.

use std::ffi::CStr;

use tdx_abi::PhysAddr;
use tdx_machine::LpIndex;

use crate::api::OnVcpu;
use crate::api::types::Handle;
use crate::cpu::{Gpr, Vcpu};
use crate::decode::MAX_LENGTH;
use crate::flags::exact::Environment;
use crate::guard::Refusal;

const CR0_PE: u64 = 1;
const EFER_LMA: u64 = 1 << 10;

/// Handles of the registers that the plugin touches, looked up once for each vCPU.
#[derive(Clone, Debug)]
pub(crate) struct Registers {
    gprs: [Handle; 16],
    pub(crate) rip: Handle,
    pub(crate) cs: Handle,
    pub(crate) cr0: Handle,
    pub(crate) cr4: Handle,
    efer: Handle,
    fs_base: Handle,
    gs_base: Handle,
}

impl Registers {
    /// Looks the registers of the calling thread's vCPU up.
    pub(crate) fn of(cpu: OnVcpu<'_>) -> Result<Self, Refusal> {
        let mut known = Vec::new();
        cpu.registers(|name, handle, writable| known.push((name.to_owned(), handle, writable)));
        let find = |wanted: &CStr, to_write: bool| {
            known
                .iter()
                .find(|(name, _, writable)| name.as_c_str() == wanted && (*writable || !to_write))
                .map(|&(_, handle, _)| handle)
                .ok_or_else(|| Refusal::Register(wanted.to_string_lossy().into_owned()))
        };
        let mut gprs = [Handle(0); 16];
        for (slot, name) in gprs.iter_mut().zip(GPR_NAMES) {
            *slot = find(name, true)?;
        }
        Ok(Self {
            gprs,
            rip: find(c"rip", false)?,
            cs: find(c"cs", false)?,
            cr0: find(c"cr0", false)?,
            cr4: find(c"cr4", true)?,
            efer: find(c"efer", false)?,
            fs_base: find(c"fs_base", false)?,
            gs_base: find(c"gs_base", false)?,
        })
    }

    /// The handle of a general purpose register.
    pub(crate) fn gpr(&self, gpr: Gpr) -> Handle {
        self.gprs[gpr as usize]
    }
}

/// In the order of [`Gpr::ALL`].
const GPR_NAMES: [&CStr; 16] = [
    c"rax", c"rcx", c"rdx", c"rbx", c"rsp", c"rbp", c"rsi", c"rdi", c"r8", c"r9", c"r10", c"r11", c"r12",
    c"r13", c"r14", c"r15",
];

/// The vCPU of the calling thread, inside a callback.
pub(crate) struct QemuVcpu<'a> {
    index: LpIndex,
    cpu: OnVcpu<'a>,
    registers: &'a Registers,
    /// The short way to the general purpose registers, where there is one.
    environment: Option<Environment>,
    /// 64-bit code at CPL 0; false if that is to be asked.
    in_kernel: bool,
}

impl<'a> QemuVcpu<'a> {
    pub(crate) fn new(index: LpIndex, cpu: OnVcpu<'a>, registers: &'a Registers) -> Self {
        Self { index, cpu, registers, environment: None, in_kernel: false }
    }

    /// The same with the short way, which must be this vCPU's, and with what is known of the mode.
    pub(crate) fn with(self, environment: Option<Environment>, in_kernel: bool) -> Self {
        Self { environment, in_kernel, ..self }
    }

    /// The proof of being inside a callback.
    pub(crate) fn inside(&self) -> OnVcpu<'a> {
        self.cpu
    }

    /// A register; 0 where QEMU does not have it at the moment.
    pub(crate) fn read(&self, handle: Handle) -> u64 {
        self.cpu.read_register(handle).unwrap_or(0)
    }

    pub(crate) fn registers(&self) -> &'a Registers {
        self.registers
    }

    /// Address of the instruction whose callback runs. QEMU keeps the instruction pointer up to
    /// date only at the start of a block, and the address that the translation saw is another one
    /// where the same page is mapped twice: the page comes from the one, the offset in it from the
    /// other.
    pub(crate) fn instruction_address(&self, offset_in_page: u64) -> u64 {
        instruction_address(self.read(self.registers.rip), offset_in_page)
    }

    /// The bytes at `address`, up to the longest instruction: fewer where the next page is not
    /// mapped.
    pub(crate) fn instruction_bytes<'b>(&self, address: u64, buffer: &'b mut [u8; MAX_LENGTH]) -> &'b [u8] {
        if self.cpu.read_virtual(address, buffer) {
            return buffer;
        }
        let left =
            usize::try_from(0x1000 - (address & 0xFFF)).map_or(MAX_LENGTH, |left| left.min(MAX_LENGTH));
        let (head, _) = buffer.split_at_mut(left);
        if self.cpu.read_virtual(address, head) { head } else { &[] }
    }

    /// Writes CR4 with all that follows of it; false, and CR4 as before, if this CPU does not take
    /// the value.
    pub(crate) fn set_cr4(&self, value: u64) -> bool {
        let before = self.cr4();
        let taken = self.cpu.write_register(self.registers.cr4, value) && self.cr4() == value;
        if !taken {
            self.cpu.write_register(self.registers.cr4, before);
        }
        taken
    }
}

fn instruction_address(block: u64, offset_in_page: u64) -> u64 {
    let address = block & !0xFFF | offset_in_page & 0xFFF;
    // A block that begins at the end of a page goes on in the next one.
    if address < block { address.wrapping_add(0x1000) } else { address }
}

impl Vcpu for QemuVcpu<'_> {
    fn index(&self) -> LpIndex {
        self.index
    }

    fn gpr(&self, gpr: Gpr) -> u64 {
        match self.environment {
            Some(environment) => environment.gpr(self.cpu, gpr),
            None => self.read(self.registers.gpr(gpr)),
        }
    }

    fn gprs(&self) -> [u64; 16] {
        match self.environment {
            Some(environment) => environment.gprs(self.cpu),
            None => Gpr::ALL.map(|gpr| self.read(self.registers.gpr(gpr))),
        }
    }

    fn set_gpr(&mut self, gpr: Gpr, value: u64) {
        match self.environment {
            Some(environment) => environment.set_gpr(self.cpu, gpr, value),
            None => {
                self.cpu.write_register(self.registers.gpr(gpr), value);
            }
        }
    }

    fn long_mode(&self) -> bool {
        // CS.L has no register of its own. Kernels at CPL 0, where everything is that this matters
        // for, are in compatibility mode for a few instructions of their start only.
        self.in_kernel || self.read(self.registers.efer) & EFER_LMA != 0
    }

    fn real_mode(&self) -> bool {
        !self.in_kernel && self.read(self.registers.cr0) & CR0_PE == 0
    }

    fn cpl(&self) -> u8 {
        if self.in_kernel {
            return 0;
        }
        let requested = (self.read(self.registers.cs) & 3) as u8;
        // Only real mode has other selectors at level 0, and it is seldom asked.
        if requested == 0 || self.real_mode() { 0 } else { requested }
    }

    fn fs_base(&self) -> u64 {
        self.read(self.registers.fs_base)
    }

    fn gs_base(&self) -> u64 {
        self.read(self.registers.gs_base)
    }

    fn cr4(&self) -> u64 {
        self.read(self.registers.cr4)
    }

    fn read_virtual(&self, va: u64, bytes: &mut [u8]) -> bool {
        self.cpu.read_virtual(va, bytes)
    }

    fn write_virtual(&mut self, va: u64, bytes: &[u8]) -> bool {
        self.cpu.write_virtual(va, bytes)
    }

    fn read_physical(&self, pa: PhysAddr, bytes: &mut [u8]) -> bool {
        self.cpu.read_physical(pa.as_u64(), bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fake;

    fn with_vcpu(test: impl FnOnce(&mut QemuVcpu<'_>)) {
        let thread = fake::on_vcpu();
        let registers = fake::registers_of(thread.proof());
        test(&mut QemuVcpu::new(LpIndex(0), thread.proof(), &registers));
    }

    #[test]
    fn registers_are_found_by_name_and_read_when_asked_for() {
        with_vcpu(|vcpu| {
            for (number, gpr) in (1..).zip(Gpr::ALL) {
                fake::set(gpr.name(), number);
            }
            assert_eq!(fake::register_reads(), 0);
            for (number, gpr) in (1..).zip(Gpr::ALL) {
                assert_eq!(vcpu.gpr(gpr), number, "{gpr:?}");
                vcpu.set_gpr(gpr, number << 32);
                assert_eq!(vcpu.gpr(gpr), number << 32, "{gpr:?}");
            }
            assert_eq!(fake::register_reads(), 32);
        });
    }

    #[test]
    fn mode_and_privilege_follow_the_control_registers() {
        with_vcpu(|vcpu| {
            // Real mode: the selector says nothing of privilege.
            fake::set("cs", 0xF003);
            assert_eq!((vcpu.real_mode(), vcpu.cpl(), vcpu.long_mode()), (true, 0, false));
            fake::set("cr0", 0x8000_0011);
            fake::set("efer", 0xD01);
            fake::set("cs", 0x33);
            assert_eq!((vcpu.real_mode(), vcpu.cpl(), vcpu.long_mode()), (false, 3, true));
            fake::set("cs", 0x10);
            assert_eq!(vcpu.cpl(), 0);
        });
        with_vcpu(|vcpu| {
            vcpu.in_kernel = true;
            assert_eq!((vcpu.real_mode(), vcpu.cpl(), vcpu.long_mode()), (false, 0, true));
            assert_eq!(fake::register_reads(), 0);
        });
    }

    #[test]
    fn a_cr4_that_the_cpu_does_not_take_changes_nothing() {
        with_vcpu(|vcpu| {
            assert!(vcpu.set_cr4(0x6F0));
            assert_eq!(vcpu.cr4(), 0x6F0);
            assert!(!vcpu.set_cr4(1 << 31));
            assert_eq!(vcpu.cr4(), 0x6F0);
        });
    }

    #[test]
    fn instruction_bytes_end_where_nothing_is_mapped() {
        with_vcpu(|vcpu| {
            fake::poke(0xDEA_CFFC, &[0x66, 0x0F, 0x01, 0xCF]);
            let mut buffer = [0; MAX_LENGTH];
            assert_eq!(vcpu.instruction_bytes(0xDEA_CFFC, &mut buffer), [0x66, 0x0F, 0x01, 0xCF]);
            assert_eq!(vcpu.instruction_bytes(0xDEA_CF00, &mut buffer).len(), MAX_LENGTH);
            assert!(vcpu.instruction_bytes(0xDEA_D000, &mut buffer).is_empty());
        });
    }

    #[test]
    fn an_instruction_lies_in_the_page_of_its_block_or_in_the_next_one() {
        for (block, offset, address) in [
            (0xffff_ffff_8100_0010, 0x010, 0xffff_ffff_8100_0010),
            (0xffff_ffff_8100_0010, 0x7f3, 0xffff_ffff_8100_07f3),
            (0xffff_ffff_8100_0ff0, 0x003, 0xffff_ffff_8100_1003),
            // The translation saw another mapping of the page.
            (0x0000_7fff_0000_0ff0, 0xffff_ffff_8100_0ff4, 0x0000_7fff_0000_0ff4),
        ] {
            assert_eq!(instruction_address(block, offset), address, "{block:#x}");
        }
    }
}
