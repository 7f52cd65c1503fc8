//! The functions that QEMU calls.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::{c_int, c_uint, c_void};
use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tdx_machine::LpIndex;

use crate::api::types::{Block, PluginId, RW_REGS_PC};
use crate::api::{Api, OnVcpu, process_symbol};
use crate::cpu::{After, Flags, Gpr, Outcome, Vcpu};
use crate::decode::{Decoded, Kind, MAX_LENGTH, Operation, decode, is_candidate};
use crate::exec;
use crate::flags::exact::Raise;
use crate::flags::{FlagsWriter, VcpuFlags};
use crate::guard::{self, Refusal, refuse};
use crate::host::Host;
use crate::mark::Mark;
use crate::options::Options;
use crate::ram::GuestRam;
use crate::ram_map::ram_ranges;
use crate::reset::{Entrance, Restart, Sight};
use crate::vcpu::{QemuVcpu, Registers};

/// The plugin: there is one in a process.
static PLUGIN: OnceLock<Plugin> = OnceLock::new();

thread_local! {
    /// The vCPU of this thread: translation is not told.
    static INDEX: Cell<Option<c_uint>> = const { Cell::new(None) };
    /// Where the guest goes on behind the last block that this thread translated, if it ends with
    /// an instruction that is to be looked at from behind.
    static BEHIND: Cell<Option<u64>> = const { Cell::new(None) };
}

/// RAX of the SEAMCALL that `bench=empty` answers with nothing: no leaf, all reserved bits set.
const EMPTY_CALL: u64 = i64::MAX as u64;

/// What the callbacks share.
pub(crate) struct Plugin {
    pub(crate) api: Api,
    pub(crate) options: Options,
    /// Answer [`EMPTY_CALL`] with success and nothing else: what a callback costs by itself.
    pub(crate) bench_empty: bool,
    /// vCPUs by index.
    pub(crate) vcpus: Box<[Slot]>,
    pub(crate) host: OnceLock<Host>,
    pub(crate) flags: FlagsWriter,
    /// The host was told that the guest runs.
    started: AtomicBool,
    /// Something was executed on the machine since it was switched on.
    used: AtomicBool,
}

/// What is kept for a vCPU. Only its own thread touches it.
#[derive(Default)]
pub(crate) struct Slot {
    registers: OnceLock<Registers>,
    flags: VcpuFlags,
    /// What is left to do behind the last instruction.
    after: Mutex<Option<After>>,
}

impl Plugin {
    pub(crate) fn new(
        api: Api,
        options: Options,
        bench_empty: bool,
        flags: FlagsWriter,
        vcpus: usize,
    ) -> Self {
        Self {
            api,
            options,
            bench_empty,
            vcpus: std::iter::repeat_with(Slot::default).take(vcpus).collect(),
            host: OnceLock::new(),
            flags,
            started: AtomicBool::new(false),
            used: AtomicBool::new(false),
        }
    }

    /// Makes this the plugin of the process and has QEMU call it.
    pub(crate) fn install(self, id: PluginId) {
        let api = self.api;
        if PLUGIN.set(self).is_err() {
            refuse(&Refusal::Twice);
        }
        // SAFETY: during the installation, with functions that live as long as the process: the
        // plugin is never unloaded.
        unsafe {
            (api.register_vcpu_init)(id, on_vcpu, std::ptr::null_mut());
            (api.register_translation)(id, on_translation, std::ptr::null_mut());
            (api.register_exit)(id, on_exit, std::ptr::null_mut());
        }
    }

    /// Tells the host once that the guest runs, and how flags reach it.
    fn started(&'static self, exact_flags: bool) {
        if !self.started.swap(true, Ordering::Relaxed) {
            self.host().started(exact_flags);
        }
    }

    /// An instruction was executed on the machine. The first one in 64-bit code settles how flags
    /// are written. Its own do not matter: compilers keep none across what is caught here.
    fn note_use(&'static self, vcpu: &QemuVcpu<'_>, outcome: Outcome) {
        // Looked at first: the line is shared by all vCPUs. Reading an MSR or CR4 leaves no trace.
        if !matches!(outcome, Outcome::Done) && !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        if !self.started.load(Ordering::Relaxed) && vcpu.long_mode() {
            self.started(self.flags.settle(vcpu));
        }
    }

    /// The guest was reset, or has just begun. Firmware answers a reset with another one: a machine
    /// that nobody has used since the last is still as at power-on.
    fn reset(&'static self) {
        if self.used.swap(false, Ordering::Relaxed) {
            self.started(false);
            self.host().reset();
        }
    }

    /// The machine, switched on at the first translation: from then on the map of RAM is complete.
    fn host(&'static self) -> &'static Host {
        self.host.get_or_init(|| self.power_on().unwrap_or_else(|refusal| refuse(&refusal)))
    }

    fn power_on(&'static self) -> Result<Host, Refusal> {
        let ranges = ram_ranges(process_symbol)?;
        let ram = GuestRam::new(&self.api, ranges.clone());
        let vcpus = u32::try_from(self.vcpus.len()).unwrap_or(u32::MAX);
        Host::new(&self.options, Box::new(ram), &ranges, vcpus, say)
            .map_err(|error| Refusal::Host(error.to_string()))
    }

    /// True if the vCPU of this thread runs 64-bit code at CPL 0.
    fn in_kernel(&self, cpu: OnVcpu<'_>) -> bool {
        let slot = INDEX.get().and_then(|index| self.vcpus.get(index as usize));
        let Some(registers) = slot.and_then(|slot| slot.registers.get()) else { return false };
        let vcpu = QemuVcpu::new(LpIndex(0), cpu, registers);
        vcpu.long_mode() && vcpu.cpl() == 0
    }

    fn vcpu_count(&self) -> c_int {
        c_int::try_from(self.vcpus.len()).unwrap_or(c_int::MAX)
    }
}

/// Says something to the user, beside what the guest says.
fn say(line: &str) {
    guard::say(&line);
}

/// Runs a callback's work. A panic must not unwind into QEMU: it ends the process, with the one
/// line of the panic hook.
pub(crate) fn shielded<T>(work: impl FnOnce() -> T) -> T {
    match std::panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result,
        Err(_) => std::process::abort(),
    }
}

/// Checks the accelerator, where the plugin is installed.
pub(crate) fn check_accelerator() {
    if let Some(plugin) = PLUGIN.get()
        && let Err(refusal) = guard::check_accelerator(plugin.vcpu_count(), process_symbol)
    {
        refuse(&refusal);
    }
}

extern "C" fn on_vcpu(index: c_uint, _userdata: *mut c_void) {
    shielded(|| {
        check_accelerator();
        let Some((plugin, slot)) = slot(index) else { return };
        // SAFETY: a callback on the thread of this vCPU, which may read registers.
        let cpu = unsafe { OnVcpu::new(&plugin.api) };
        let registers = Registers::of(cpu).unwrap_or_else(|refusal| refuse(&refusal));
        // What is kept of a vCPU is about one object of QEMU's, and points into it.
        if slot.registers.set(registers).is_err() {
            refuse(&Refusal::Replugged(index));
        }
        INDEX.set(Some(index));
    });
}

fn slot(index: c_uint) -> Option<(&'static Plugin, &'static Slot)> {
    let plugin = PLUGIN.get()?;
    Some((plugin, plugin.vcpus.get(index as usize)?))
}

extern "C" fn on_translation(block: *mut Block, _userdata: *mut c_void) {
    shielded(|| {
        let Some(plugin) = PLUGIN.get() else { return };
        // SAFETY: translation happens on the thread of the vCPU that runs into the code, in a callback
        // that may read registers.
        let cpu = unsafe { OnVcpu::new(&plugin.api) };
        plugin.host();
        // SAFETY: `block` is valid during this callback.
        unsafe { translate(plugin, cpu, block) }
    });
}

/// Chooses what is called before the instructions of a block.
///
/// # Safety
///
/// `block` is one of QEMU's that is being translated.
unsafe fn translate(plugin: &Plugin, cpu: OnVcpu<'_>, block: *mut Block) {
    let api = &plugin.api;
    // SAFETY: by contract; the instructions of a block live as long as it, and there are as many
    // as it says.
    unsafe {
        let mut behind = BEHIND.take();
        for position in 0..(api.block_length)(block) {
            let insn = (api.block_insn)(block, position);
            let address = (api.insn_address)(insn);
            if behind.take() == Some(address) {
                (api.register_execution)(insn, on_behind, RW_REGS_PC, std::ptr::null_mut());
            }
            if position == 0 && Entrance::at(address).is_some() {
                (api.register_execution)(insn, on_entrance, RW_REGS_PC, address as *mut c_void);
            }
            let mut bytes = [0_u8; MAX_LENGTH];
            let length = (api.insn_data)(insn, bytes.as_mut_ptr().cast(), bytes.len());
            let bytes = bytes.get(..length).unwrap_or_default();
            if let Some(kind) = is_candidate(bytes) {
                let mark = Mark::caught(address, kind, bytes).in_kernel(plugin.in_kernel(cpu));
                (api.register_execution)(insn, on_caught, RW_REGS_PC, mark.to_userdata());
                behind = (kind == Kind::Cpuid).then(|| address.wrapping_add(mark.length()));
            }
        }
        BEHIND.set(behind);
    }
}

extern "C" fn on_entrance(index: c_uint, userdata: *mut c_void) {
    shielded(|| {
        let Some((plugin, slot)) = slot(index) else { return };
        let Some(vcpu) = vcpu(plugin, slot, index) else { return };
        let Some(entrance) = Entrance::at(userdata as u64) else { return };
        let registers = vcpu.registers();
        let sight = Sight {
            vcpu: index,
            real_mode: vcpu.real_mode(),
            cs: vcpu.read(registers.cs),
            ip: vcpu.read(registers.rip),
        };
        match entrance.judge(sight) {
            Some(Restart::Machine) => plugin.reset(),
            Some(Restart::Vcpu) => plugin.host().restarted(LpIndex(index)),
            None => {}
        }
    });
}

extern "C" fn on_behind(index: c_uint, _userdata: *mut c_void) {
    shielded(|| {
        let Some((plugin, slot)) = slot(index) else { return };
        let Some(after) = slot.after.lock().take() else { return };
        if let Some(mut vcpu) = vcpu(plugin, slot, index) {
            exec::finish(plugin.host(), after, &mut vcpu);
        }
    });
}

extern "C" fn on_caught(index: c_uint, userdata: *mut c_void) {
    // Nothing with a destructor may live in this function: two of its ways out are long jumps.
    let work = || match slot(index) {
        Some((plugin, slot)) => caught(plugin, slot, index, Mark::from_userdata(userdata)),
        None => Exit::Native,
    };
    match shielded(work) {
        Exit::Native => {}
        Exit::GoOn { api, at } => {
            // SAFETY: on the vCPU's thread, in a callback that was registered to set the PC.
            unsafe { (api.set_pc)(at) }
        }
        Exit::Raise(raise) => {
            // SAFETY: made just now, in this callback.
            unsafe { raise.now() }
        }
    }
}

/// How a callback leaves.
#[derive(Clone, Copy)]
enum Exit {
    /// QEMU executes the instruction.
    Native,
    /// The guest goes on elsewhere.
    GoOn { api: &'static Api, at: u64 },
    /// The guest gets an exception.
    Raise(Raise),
}

fn vcpu(plugin: &'static Plugin, slot: &'static Slot, index: c_uint) -> Option<QemuVcpu<'static>> {
    // SAFETY: all callers are callbacks on the thread of the vCPU `index`, registered with
    // QEMU_PLUGIN_CB_RW_REGS_PC.
    let cpu = unsafe { OnVcpu::new(&plugin.api) };
    Some(QemuVcpu::new(LpIndex(index), cpu, slot.registers.get()?))
}

fn caught(plugin: &'static Plugin, slot: &'static Slot, index: c_uint, mark: Mark) -> Exit {
    let Some(vcpu) = vcpu(plugin, slot, index) else { return Exit::Native };
    let mut vcpu = vcpu.with(slot.flags.known(), mark.is_in_kernel());
    let Some(insn) = mark.decoded().or_else(|| read_again(&vcpu, mark)) else {
        // Not what it looked like when it was translated.
        return Exit::Native;
    };
    if plugin.bench_empty && insn.operation == Operation::Seamcall && vcpu.gpr(Gpr::Rax) == EMPTY_CALL {
        vcpu.set_gpr(Gpr::Rax, 0);
        let next = next(&vcpu, mark, insn);
        let at = plugin.flags.leave(Flags::SUCCEED, next, &vcpu, &slot.flags);
        return Exit::GoOn { api: &plugin.api, at };
    }
    let host = plugin.host();
    let writes_cr4 = matches!(insn.operation, Operation::WriteCr4(_));
    let vmxe = writes_cr4 && host.machine.cr4_vmxe(vcpu.index());
    let outcome = exec::execute(host, &insn, &mut vcpu);
    if !matches!(outcome, Outcome::Native | Outcome::Then(After::Cpuid { .. })) {
        plugin.note_use(&vcpu, outcome);
    }
    match outcome {
        Outcome::Native => {
            if insn.operation == Operation::Cpuid {
                // One before it may have been the last of its block, and nothing followed it up.
                *slot.after.lock() = None;
            }
            Exit::Native
        }
        Outcome::Done => Exit::GoOn { api: &plugin.api, at: next(&vcpu, mark, insn) },
        Outcome::DoneWithFlags(flags) => {
            let at = plugin.flags.leave(flags, next(&vcpu, mark, insn), &vcpu, &slot.flags);
            Exit::GoOn { api: &plugin.api, at }
        }
        Outcome::Then(After::Restore { gpr, value }) => {
            // MOV to CR4. Written through the interface, which lets QEMU follow every bit up; what
            // this CPU does not take faults.
            let taken = vcpu.set_cr4(vcpu.gpr(gpr));
            vcpu.set_gpr(gpr, value);
            if taken {
                Exit::GoOn { api: &plugin.api, at: next(&vcpu, mark, insn) }
            } else {
                host.machine.set_cr4_vmxe(vcpu.index(), vmxe);
                general_protection(plugin, slot, &vcpu, mark)
            }
        }
        Outcome::Then(after) => {
            *slot.after.lock() = Some(after);
            Exit::Native
        }
        Outcome::GeneralProtection => general_protection(plugin, slot, &vcpu, mark),
    }
}

/// #GP, where it can be raised; elsewhere the instruction itself, which QEMU may refuse otherwise.
fn general_protection(plugin: &'static Plugin, slot: &Slot, vcpu: &QemuVcpu<'_>, mark: Mark) -> Exit {
    let address = vcpu.instruction_address(mark.offset_in_page());
    let now = vcpu.read(vcpu.registers().rip);
    plugin
        .flags
        .environment(vcpu, &slot.flags)
        .and_then(|(helpers, environment)| helpers.general_protection(environment, now, address))
        .map_or(Exit::Native, Exit::Raise)
}

/// The instruction as it is in memory: of one that it refuses, QEMU has not read all bytes.
fn read_again(vcpu: &QemuVcpu<'_>, mark: Mark) -> Option<Decoded> {
    let address = vcpu.instruction_address(mark.offset_in_page());
    decode(vcpu.instruction_bytes(address, &mut [0; MAX_LENGTH]), address).ok()
}

/// Address behind the instruction.
fn next(vcpu: &QemuVcpu<'_>, mark: Mark, insn: Decoded) -> u64 {
    vcpu.instruction_address(mark.offset_in_page()).wrapping_add(insn.length.into())
}

extern "C" fn on_exit(_userdata: *mut c_void) {
    shielded(|| {
        if let Some(plugin) = PLUGIN.get()
            && plugin.host.get().is_some()
        {
            plugin.started(false);
        }
    });
}

#[cfg(test)]
mod tests;
