//! The plugin interface of QEMU 11.1, version 7, declared by hand: no published crate speaks it.
//!
//! Nothing here is linked. Each function is looked up in the running process, so that a missing one
//! is a sentence instead of a failed load, and so that tests run without QEMU.
#![allow(unsafe_code)]

mod thread;
pub(crate) mod types;

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

pub(crate) use thread::OnVcpu;
use types::{Array, Block, BlockCallback, ByteArray, Handle, Insn, PlainCallback, PluginId, VcpuCallback};

/// A function that this plugin needs and the process does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this QEMU has no {0}: use QEMU 11.1 or newer (Debian: trixie-backports)")]
pub(crate) struct MissingSymbol(pub(crate) &'static str);

/// The dynamic symbols of a process.
pub(crate) type Lookup = fn(&CStr) -> *mut c_void;

/// The symbols of this process.
pub(crate) fn process_symbol(name: &CStr) -> *mut c_void {
    // SAFETY: `name` is a C string, and RTLD_DEFAULT needs no handle to be open.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
}

macro_rules! table {
    ($($name:ident: $symbol:literal, fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions of QEMU and GLib that this plugin calls.
        #[derive(Clone, Copy)]
        pub(crate) struct Api {
            $(pub(crate) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Api {
            /// Looks all functions up.
            ///
            /// # Safety
            ///
            /// A symbol that `lookup` finds under one of the names is that function of QEMU, with
            /// the signature of interface version 7.
            pub(crate) unsafe fn resolve(lookup: Lookup) -> Result<Self, MissingSymbol> {
                Ok(Self {
                    $($name: {
                        const NAME: &CStr = match CStr::from_bytes_with_nul(concat!($symbol, "\0").as_bytes()) {
                            Ok(name) => name,
                            Err(_) => panic!("a symbol with a zero in it"),
                        };
                        let address = lookup(NAME);
                        if address.is_null() {
                            return Err(MissingSymbol($symbol));
                        }
                        // SAFETY: not null, and by this function's contract of this signature.
                        unsafe {
                            std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) $(-> $result)?>(address)
                        }
                    },)*
                })
            }
        }
    };
}

table! {
    register_vcpu_init: "qemu_plugin_register_vcpu_init_cb", fn(PluginId, VcpuCallback, *mut c_void);
    register_translation: "qemu_plugin_register_vcpu_tb_trans_cb", fn(PluginId, BlockCallback, *mut c_void);
    register_execution: "qemu_plugin_register_vcpu_insn_exec_cb", fn(*mut Insn, VcpuCallback, c_int, *mut c_void);
    register_exit: "qemu_plugin_register_atexit_cb", fn(PluginId, PlainCallback, *mut c_void);
    block_length: "qemu_plugin_tb_n_insns", fn(*const Block) -> usize;
    block_insn: "qemu_plugin_tb_get_insn", fn(*const Block, usize) -> *mut Insn;
    insn_data: "qemu_plugin_insn_data", fn(*const Insn, *mut c_void, usize) -> usize;
    insn_address: "qemu_plugin_insn_vaddr", fn(*const Insn) -> u64;
    registers: "qemu_plugin_get_registers", fn() -> *mut Array;
    read_register: "qemu_plugin_read_register", fn(Handle, *mut ByteArray) -> bool;
    write_register: "qemu_plugin_write_register", fn(Handle, *mut ByteArray) -> bool;
    set_pc: "qemu_plugin_set_pc", fn(u64) -> !;
    read_virtual: "qemu_plugin_read_memory_vaddr", fn(u64, *mut ByteArray, usize) -> bool;
    write_virtual: "qemu_plugin_write_memory_vaddr", fn(u64, *mut ByteArray) -> bool;
    read_physical: "qemu_plugin_read_memory_hwaddr", fn(u64, *mut ByteArray, usize) -> c_int;
    write_physical: "qemu_plugin_write_memory_hwaddr", fn(u64, *mut ByteArray) -> c_int;
    bytes_new: "g_byte_array_new", fn() -> *mut ByteArray;
    bytes_set_size: "g_byte_array_set_size", fn(*mut ByteArray, c_uint) -> *mut ByteArray;
    array_free: "g_array_free", fn(*mut Array, c_int) -> *mut c_char;
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
