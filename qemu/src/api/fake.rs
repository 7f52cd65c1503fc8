//! A QEMU of one thread for tests: registers in a table, memory at physical = virtual.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::LazyLock;

use super::types::{
    Array, Block, BlockCallback, ByteArray, Descriptor, HWADDR_OK, Handle, Insn, PlainCallback, PluginId,
    RW_REGS_PC, VcpuCallback,
};
use super::{Api, OnVcpu};
use crate::vcpu::Registers;

const NAMES: [&std::ffi::CStr; 24] = [
    c"rax", c"rbx", c"rcx", c"rdx", c"rsi", c"rdi", c"rbp", c"rsp", c"r8", c"r9", c"r10", c"r11", c"r12",
    c"r13", c"r14", c"r15", c"rip", c"eflags", c"cs", c"fs_base", c"gs_base", c"cr0", c"cr4", c"efer",
];
const RIP: usize = 16;
const CR4: usize = 22;
/// What CR4 of this CPU takes.
const CR4_BITS: u64 = 0x7FF;

#[derive(Default)]
struct Machine {
    registers: [u64; 24],
    memory: BTreeMap<u64, u8>,
    /// Reads of a register since the start.
    reads: usize,
    /// Instructions of the block that is being translated.
    block: Vec<(u64, Vec<u8>)>,
    /// Callbacks, by the address of the instruction.
    registered: Vec<(u64, VcpuCallback)>,
}

thread_local! {
    static MACHINE: RefCell<Machine> = RefCell::default();
}

/// The functions.
pub(crate) fn api() -> &'static Api {
    static API: LazyLock<Api> = LazyLock::new(|| Api {
        register_vcpu_init,
        register_translation,
        register_execution,
        register_exit,
        block_length,
        block_insn,
        insn_data,
        insn_address,
        registers,
        read_register,
        write_register,
        set_pc,
        read_virtual,
        write_virtual,
        read_physical,
        write_physical,
        bytes_new,
        bytes_set_size,
        array_free,
    });
    &API
}

/// This thread as a vCPU, with everything zero.
pub(crate) struct Thread(OnVcpu<'static>);

impl Thread {
    pub(crate) fn proof(&self) -> OnVcpu<'static> {
        self.0
    }
}

pub(crate) fn on_vcpu() -> Thread {
    MACHINE.take();
    // SAFETY: the functions of this file take any thread.
    Thread(unsafe { OnVcpu::new(api()) })
}

pub(crate) fn registers_of(cpu: OnVcpu<'_>) -> Registers {
    Registers::of(cpu).unwrap()
}

/// Sets a register from outside of the interface.
pub(crate) fn set(name: &str, value: u64) {
    let index = NAMES.iter().position(|known| known.to_str() == Ok(name)).unwrap();
    MACHINE.with_borrow_mut(|machine| machine.registers[index] = value);
}

/// A register from outside of the interface.
pub(crate) fn get(name: &str) -> u64 {
    let index = NAMES.iter().position(|known| known.to_str() == Ok(name)).unwrap();
    MACHINE.with_borrow(|machine| machine.registers[index])
}

/// Puts bytes into memory.
pub(crate) fn poke(address: u64, bytes: &[u8]) {
    MACHINE.with_borrow_mut(|machine| {
        machine.memory.extend((address..).zip(bytes.iter().copied()));
    });
}

/// Makes this the block that is being translated.
pub(crate) fn translate(block: &[(u64, &[u8])]) {
    MACHINE.with_borrow_mut(|machine| {
        machine.block = block.iter().map(|(address, bytes)| (*address, bytes.to_vec())).collect();
        machine.registered.clear();
    });
}

/// The callbacks that were registered for its instructions.
pub(crate) fn registered() -> Vec<(u64, VcpuCallback)> {
    MACHINE.with_borrow(|machine| machine.registered.clone())
}

/// How often a register was read.
pub(crate) fn register_reads() -> usize {
    MACHINE.with_borrow(|machine| machine.reads)
}

unsafe extern "C" fn register_vcpu_init(_: PluginId, _: VcpuCallback, _: *mut c_void) {}
unsafe extern "C" fn register_translation(_: PluginId, _: BlockCallback, _: *mut c_void) {}
unsafe extern "C" fn register_execution(insn: *mut Insn, called: VcpuCallback, flags: c_int, _: *mut c_void) {
    assert_eq!(flags, RW_REGS_PC, "set_pc asserts on any other");
    MACHINE.with_borrow_mut(|machine| {
        let (address, _) = machine.block[insn.addr()];
        machine.registered.push((address, called));
    });
}
unsafe extern "C" fn register_exit(_: PluginId, _: PlainCallback, _: *mut c_void) {}
unsafe extern "C" fn block_length(_: *const Block) -> usize {
    MACHINE.with_borrow(|machine| machine.block.len())
}
/// An instruction is its position.
unsafe extern "C" fn block_insn(_: *const Block, position: usize) -> *mut Insn {
    std::ptr::without_provenance_mut(position)
}
unsafe extern "C" fn insn_data(insn: *const Insn, to: *mut c_void, room: usize) -> usize {
    MACHINE.with_borrow(|machine| {
        let (_, bytes) = &machine.block[insn.addr()];
        let len = bytes.len().min(room);
        // SAFETY: the caller has so much room.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.cast(), len) };
        len
    })
}
unsafe extern "C" fn insn_address(insn: *const Insn) -> u64 {
    MACHINE.with_borrow(|machine| machine.block[insn.addr()].0)
}

unsafe extern "C" fn registers() -> *mut Array {
    let list: Vec<Descriptor> = NAMES
        .iter()
        .enumerate()
        .map(|(index, name)| Descriptor {
            handle: Handle(index),
            name: name.as_ptr(),
            feature: std::ptr::null(),
            is_readonly: index == RIP,
        })
        .collect();
    let len = c_uint::try_from(list.len()).unwrap();
    let data = Box::into_raw(list.into_boxed_slice()).cast::<Descriptor>();
    Box::into_raw(Box::new(Array { data, len }))
}

unsafe extern "C" fn array_free(list: *mut Array, _: c_int) -> *mut c_char {
    // SAFETY: made by `registers`, and freed once.
    unsafe {
        let list = Box::from_raw(list);
        let elements = std::ptr::slice_from_raw_parts_mut(list.data, list.len as usize);
        drop(Box::from_raw(elements));
    }
    std::ptr::null_mut()
}

unsafe extern "C" fn read_register(handle: Handle, to: *mut ByteArray) -> bool {
    let value = MACHINE.with_borrow_mut(|machine| {
        machine.reads += 1;
        machine.registers[handle.0]
    });
    // SAFETY: an array of `bytes_new`.
    unsafe { append(to, &value.to_le_bytes()) }
    true
}

unsafe extern "C" fn write_register(handle: Handle, from: *mut ByteArray) -> bool {
    assert_ne!(handle.0, RIP, "QEMU aborts here");
    // SAFETY: an array of `bytes_new`.
    let bytes = unsafe { bytes_of(from) };
    let mut value = u64::from_le_bytes(bytes.try_into().unwrap());
    if handle.0 == CR4 {
        value &= CR4_BITS;
    }
    MACHINE.with_borrow_mut(|machine| machine.registers[handle.0] = value);
    true
}

unsafe extern "C" fn set_pc(_: u64) -> ! {
    std::process::abort()
}

unsafe extern "C" fn read_virtual(address: u64, to: *mut ByteArray, len: usize) -> bool {
    // The page at 0xDEAD000 is the one that is not mapped.
    let end = address + len as u64;
    if end > 0xDEA_D000 && address < 0xDEA_E000 {
        return false;
    }
    // SAFETY: the caller's.
    unsafe { read_physical(address, to, len) == HWADDR_OK }
}

unsafe extern "C" fn write_virtual(address: u64, from: *mut ByteArray) -> bool {
    // SAFETY: the caller's.
    unsafe { write_physical(address, from) == HWADDR_OK }
}

unsafe extern "C" fn read_physical(address: u64, to: *mut ByteArray, len: usize) -> c_int {
    assert!(len <= 0x1000, "one page at most");
    let bytes: Vec<u8> = MACHINE.with_borrow(|machine| {
        (address..).take(len).map(|at| machine.memory.get(&at).copied().unwrap_or(0)).collect()
    });
    // SAFETY: an array of `bytes_new`.
    unsafe {
        bytes_set_size(to, 0);
        append(to, &bytes);
    }
    HWADDR_OK
}

unsafe extern "C" fn write_physical(address: u64, from: *mut ByteArray) -> c_int {
    // SAFETY: an array of `bytes_new`.
    let bytes = unsafe { bytes_of(from) };
    assert!(bytes.len() <= 0x1000, "one page at most");
    poke(address, &bytes);
    HWADDR_OK
}

/// Room of every array: fixed, so that the data never moves.
const ROOM: usize = 0x2000;

unsafe extern "C" fn bytes_new() -> *mut ByteArray {
    let data = Box::into_raw(vec![0_u8; ROOM].into_boxed_slice()).cast::<u8>();
    Box::into_raw(Box::new(ByteArray { data, len: 0 }))
}

unsafe extern "C" fn bytes_set_size(array: *mut ByteArray, len: c_uint) -> *mut ByteArray {
    assert!(len as usize <= ROOM);
    // SAFETY: an array of `bytes_new`.
    unsafe { (*array).len = len }
    array
}

/// Appends, as GLib does.
///
/// # Safety
///
/// An array of `bytes_new`.
unsafe fn append(array: *mut ByteArray, bytes: &[u8]) {
    // SAFETY: by contract; the room is checked.
    unsafe {
        let len = (*array).len as usize;
        assert!(len + bytes.len() <= ROOM);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), (*array).data.add(len), bytes.len());
        (*array).len = c_uint::try_from(len + bytes.len()).unwrap();
    }
}

/// # Safety
///
/// An array of `bytes_new`.
unsafe fn bytes_of(array: *mut ByteArray) -> Vec<u8> {
    // SAFETY: by contract.
    unsafe { std::slice::from_raw_parts((*array).data, (*array).len as usize).to_vec() }
}
