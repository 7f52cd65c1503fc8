use tdx_abi::PhysAddr;

use super::*;
use crate::api::fake;
use crate::api::types::VcpuCallback;
use crate::testing;

/// Where the instruction of a test lies.
const AT: u64 = 0x40_0010;
const VMXE: u64 = 1 << 13;

/// A plugin with one vCPU in 64-bit code at CPL 0, on this thread.
struct Rig {
    plugin: &'static Plugin,
    memory: testing::Memory,
}

impl Rig {
    fn new(bench_empty: bool) -> Self {
        let cpu = fake::on_vcpu();
        fake::set("efer", 0xD01);
        fake::set("cr0", 0x8005_0033);
        fake::set("cr4", 0x20);
        fake::set("cs", 0x10);
        fake::set("rip", AT & !0xF);
        let plugin = Plugin::new(*fake::api(), Options::default(), bench_empty, FlagsWriter::jumps_only(), 1);
        let (host, memory) = testing::host(&[], 1);
        assert!(plugin.host.set(host).is_ok());
        assert!(plugin.vcpus[0].registers.set(fake::registers_of(cpu.proof())).is_ok());
        Self { plugin: Box::leak(Box::new(plugin)), memory }
    }

    /// Executes an instruction, with the bytes that QEMU saw of it. The answer is where the guest
    /// goes on, nothing if QEMU is to execute the instruction.
    fn run(&self, bytes: &[u8], seen: usize) -> Option<u64> {
        fake::poke(AT, bytes);
        let seen = &bytes[..seen];
        let mark = Mark::caught(0xffff_ffff_8100_0000 | AT & 0xFFF, is_candidate(seen).unwrap(), seen);
        match caught(self.plugin, &self.plugin.vcpus[0], 0, mark) {
            Exit::Native => None,
            Exit::GoOn { at, .. } => Some(at),
            Exit::Raise(_) => unreachable!("no function of QEMU's is there to raise anything"),
        }
    }

    fn host(&self) -> &'static Host {
        self.plugin.host()
    }

    /// The vCPU in VMX operation.
    fn enter_vmx(&self) {
        let machine = &self.host().machine;
        let region = PhysAddr::new(0x20_0000);
        let basic = machine.rdmsr(LpIndex(0), tdx_abi::msr::MsrIndex(0x480)).unwrap();
        self.memory.write_u32(region.as_u64(), (basic & 0x7FFF_FFFF) as u32);
        machine.set_cr4_vmxe(LpIndex(0), true);
        machine.vmxon(LpIndex(0), region).unwrap();
    }
}

const SEAMCALL: [u8; 4] = [0x66, 0x0F, 0x01, 0xCF];

#[test]
fn an_msr_of_tdx_is_read_from_the_machine_and_any_other_by_qemu() {
    let rig = Rig::new(false);
    fake::set("rcx", 0x87);
    assert_eq!(rig.run(&[0x0F, 0x32], 2), Some(AT + 2));
    assert_eq!((fake::get("rax"), fake::get("rdx")), (31, 32));
    fake::set("rcx", 0xC000_0080);
    let before = fake::register_reads();
    assert_eq!(rig.run(&[0x0F, 0x32], 2), None);
    assert_eq!(fake::register_reads() - before, 1, "ECX alone tells");
}

#[test]
fn seamcall_outside_vmx_operation_is_left_to_raise_ud() {
    let rig = Rig::new(false);
    assert_eq!(rig.run(&SEAMCALL, 4), None);
    assert!(!rig.plugin.used.load(Ordering::Relaxed));
}

#[test]
fn seamcall_goes_on_behind_the_jump_that_its_flags_decide() {
    let rig = Rig::new(false);
    rig.enter_vmx();
    fake::set("rax", 33);
    let mut code = SEAMCALL.to_vec();
    code.extend([0x72, 0x20]); // JC
    assert_eq!(rig.run(&code, 4), Some(AT + 6));
    assert_eq!(fake::get("rax"), 0, "TDH.SYS.INIT succeeds");
    assert!(rig.plugin.used.load(Ordering::Relaxed));

    rig.host().machine.cut_power();
    assert_eq!(rig.run(&code, 4), Some(AT + 6 + 0x20), "VMfailInvalid sets CF");
}

#[test]
fn the_empty_callback_answers_without_a_machine() {
    let rig = Rig::new(true);
    fake::set("rax", EMPTY_CALL);
    assert_eq!(rig.run(&SEAMCALL, 4), Some(AT + 4));
    assert_eq!(fake::get("rax"), 0);
    fake::set("rax", 33);
    assert_eq!(rig.run(&SEAMCALL, 4), None, "outside VMX operation, as without it");
}

#[test]
fn vmxe_is_kept_from_qemu_and_every_other_bit_of_cr4_is_not() {
    let rig = Rig::new(false);
    let to_cr4 = [0x0F, 0x22, 0xE0]; // MOV CR4, RAX
    fake::set("rax", 0x6F0 | VMXE);
    assert_eq!(rig.run(&to_cr4, 3), Some(AT + 3));
    assert_eq!((fake::get("cr4"), fake::get("rax")), (0x6F0, 0x6F0 | VMXE));
    assert!(rig.host().machine.cr4_vmxe(LpIndex(0)));

    assert_eq!(rig.run(&[0x0F, 0x20, 0xE3], 3), Some(AT + 3)); // MOV RBX, CR4
    assert_eq!(fake::get("rbx"), 0x6F0 | VMXE);

    // A bit that this CPU does not have: the instruction itself faults, CR4 stays, VMXE with it.
    for vmxe in [true, false] {
        rig.host().machine.set_cr4_vmxe(LpIndex(0), vmxe);
        fake::set("rax", 1 << 31 | VMXE);
        assert_eq!(rig.run(&to_cr4, 3), None);
        assert_eq!((fake::get("cr4"), fake::get("rax")), (0x6F0, 1 << 31 | VMXE));
        assert_eq!(rig.host().machine.cr4_vmxe(LpIndex(0)), vmxe);
    }

    // The same when VMXE would go.
    rig.host().machine.set_cr4_vmxe(LpIndex(0), true);
    fake::set("rax", 1 << 31);
    assert_eq!(rig.run(&to_cr4, 3), None);
    assert!(rig.host().machine.cr4_vmxe(LpIndex(0)));
    fake::set("rax", 0x6B0);
    assert_eq!(rig.run(&to_cr4, 3), Some(AT + 3));
    assert_eq!(fake::get("cr4"), 0x6B0);
    assert!(!rig.host().machine.cr4_vmxe(LpIndex(0)));
}

#[test]
fn an_instruction_that_qemu_saw_cut_off_is_read_again() {
    let rig = Rig::new(false);
    rig.host().machine.set_cr4_vmxe(LpIndex(0), true);
    let basic = rig.host().machine.rdmsr(LpIndex(0), tdx_abi::msr::MsrIndex(0x480)).unwrap();
    rig.memory.write_u32(0x20_0000, (basic & 0x7FFF_FFFF) as u32);
    fake::poke(0x20_0000, &((basic & 0x7FFF_FFFF) as u32).to_le_bytes());
    fake::set("rbp", 0x5000);
    fake::poke(0x4FF8, &0x20_0000_u64.to_le_bytes());
    // VMXON [RBP-8], of which TCG reads no displacement.
    assert_eq!(rig.run(&[0xF3, 0x0F, 0xC7, 0x75, 0xF8], 4), Some(AT + 5));
    assert!(rig.host().machine.in_vmx(LpIndex(0)));
}

#[test]
fn code_that_changed_since_its_translation_is_left_alone() {
    let rig = Rig::new(false);
    fake::poke(AT, &[0x90; 4]);
    let mark = Mark::caught(AT, Kind::Vmx, &[0xF3, 0x0F, 0xC7]);
    let exit = caught(rig.plugin, &rig.plugin.vcpus[0], 0, mark);
    assert!(matches!(exit, Exit::Native));
}

#[test]
fn cpuid_is_looked_at_behind_the_instruction() {
    let rig = Rig::new(false);
    fake::set("rax", 0x8000_0008);
    assert_eq!(rig.run(&[0x0F, 0xA2], 2), None);
    let after = *rig.plugin.vcpus[0].after.lock();
    assert_eq!(after, Some(After::Cpuid { leaf: 0x8000_0008, subleaf: 0 }));
}

#[test]
fn a_cpuid_that_nothing_followed_up_does_not_take_the_answer_of_the_next_one() {
    let rig = Rig::new(false);
    fake::set("rax", 0x8000_0008);
    rig.run(&[0x0F, 0xA2], 2);
    fake::set("rax", 2);
    rig.run(&[0x0F, 0xA2], 2);
    assert_eq!(*rig.plugin.vcpus[0].after.lock(), None);
}

/// The callbacks of a block of instructions, each by the address that it is called at.
fn translated(rig: &Rig, block: &[(u64, &[u8])]) -> Vec<(u64, &'static str)> {
    fake::translate(block);
    // SAFETY: the functions of the fake need no block.
    unsafe { translate(rig.plugin, OnVcpu::new(fake::api()), std::ptr::null_mut()) }
    let names: [(VcpuCallback, _); 3] =
        [(on_caught, "caught"), (on_behind, "behind"), (on_entrance, "entrance")];
    let name = |called: VcpuCallback| {
        names.iter().find(|(known, _)| *known as usize == called as usize).map_or("unknown", |(_, name)| name)
    };
    fake::registered().into_iter().map(|(address, called)| (address, name(called))).collect()
}

#[test]
fn only_what_is_executed_here_is_caught_and_cpuid_is_followed_up_wherever_its_block_ends() {
    let rig = Rig::new(false);
    let (nop, cpuid) = ([0x90].as_slice(), [0x0F, 0xA2].as_slice());
    assert_eq!(
        translated(&rig, &[(0x40_1000, nop), (0x40_1001, &SEAMCALL), (0x40_1005, nop)]),
        [(0x40_1001, "caught")]
    );
    let behind = [(0x40_2000, "caught"), (0x40_2002, "behind"), (0x40_2002, "caught"), (0x40_2004, "behind")];
    assert_eq!(translated(&rig, &[(0x40_2000, cpuid), (0x40_2002, cpuid), (0x40_2004, nop)]), behind);
    assert_eq!(translated(&rig, &[(0x40_2FFE, cpuid)]), [(0x40_2FFE, "caught")]);
    assert_eq!(translated(&rig, &[(0x40_3000, nop)]), [(0x40_3000, "behind")]);
    assert_eq!(translated(&rig, &[(0x40_2FFE, cpuid)]), [(0x40_2FFE, "caught")]);
    assert_eq!(translated(&rig, &[(0x40_4000, nop), (0x40_3000, nop)]), [], "another block");
    assert_eq!(translated(&rig, &[(0x9_A000, nop), (0x9_B000, nop)]), [(0x9_A000, "entrance")]);
}

#[test]
fn in_real_mode_qemu_executes_what_is_caught() {
    let rig = Rig::new(false);
    fake::set("cr0", 0x10);
    fake::set("rcx", 0x87);
    assert_eq!(rig.run(&[0x0F, 0x32], 2), None);
    fake::set("rax", 0x8000_0008);
    rig.run(&[0x0F, 0xA2], 2);
    assert!(rig.plugin.vcpus[0].after.lock().is_some(), "CPUID changes no address");
}

#[test]
fn a_reset_returns_a_machine_to_power_on_that_was_used() {
    let rig = Rig::new(false);
    rig.enter_vmx();
    rig.plugin.reset();
    assert!(rig.host().machine.in_vmx(LpIndex(0)), "no instruction was executed, nothing is to be reset");
    fake::set("rax", 33);
    assert!(rig.run(&SEAMCALL, 4).is_some());
    rig.plugin.reset();
    assert!(!rig.host().machine.in_vmx(LpIndex(0)));
}
