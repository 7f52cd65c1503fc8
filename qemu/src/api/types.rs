//! What crosses the plugin interface, in the layout of C.

use std::ffi::{c_char, c_int, c_uint, c_void};

/// Version of the interface that this plugin speaks.
pub(crate) const VERSION: c_int = 7;

/// Name of this plugin towards QEMU: what callbacks are registered under.
pub(crate) type PluginId = u64;

/// What QEMU says of itself when it loads a plugin.
///
/// Version 7: 32 bytes, the union of the last member has only one use.
#[repr(C)]
pub(crate) struct Info {
    /// Name of the guest architecture, a C string.
    pub(crate) target_name: *const c_char,
    /// Oldest and newest interface that this QEMU serves.
    pub(crate) version: VersionRange,
    /// A whole machine, not one program.
    pub(crate) system_emulation: bool,
    /// Processors; without meaning unless `system_emulation`.
    pub(crate) system: SystemInfo,
}

/// Interface versions, both inclusive.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct VersionRange {
    pub(crate) min: c_int,
    pub(crate) cur: c_int,
}

/// The processors of a machine.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct SystemInfo {
    /// Those that are there at power-on.
    pub(crate) smp_vcpus: c_int,
    /// Those that there can be after hot-plug.
    pub(crate) max_vcpus: c_int,
}

const _: () = assert!(size_of::<Info>() == 32);
const _: () = assert!(std::mem::offset_of!(Info, system) == 20);

/// A translation block; QEMU's own, only handed through.
#[repr(C)]
pub(crate) struct Block {
    _opaque: [u8; 0],
}

/// An instruction of a translation block; QEMU's own, valid during the translation callback.
#[repr(C)]
pub(crate) struct Insn {
    _opaque: [u8; 0],
}

/// A register, as QEMU names it to itself. The same number on every vCPU of one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Handle(pub(crate) usize);

/// One element of the list of registers: 32 bytes.
#[repr(C)]
pub(crate) struct Descriptor {
    pub(crate) handle: Handle,
    /// A C string that lives as long as QEMU.
    pub(crate) name: *const c_char,
    pub(crate) feature: *const c_char,
    pub(crate) is_readonly: bool,
}

const _: () = assert!(size_of::<Descriptor>() == 32);

/// GLib's array of bytes, as far as it is public.
#[repr(C)]
pub(crate) struct ByteArray {
    pub(crate) data: *mut u8,
    pub(crate) len: c_uint,
}

/// GLib's array of elements, here of registers, as far as it is public.
#[repr(C)]
pub(crate) struct Array {
    pub(crate) data: *mut Descriptor,
    pub(crate) len: c_uint,
}

/// `QEMU_PLUGIN_CB_RW_REGS_PC`: the callback reads and writes registers and may leave by setting
/// the PC. With any weaker flag `qemu_plugin_set_pc` is an assertion failure.
pub(crate) const RW_REGS_PC: c_int = 3;

/// Result of an access to physical memory: everything but this is a failure.
pub(crate) const HWADDR_OK: c_int = 0;

/// Callback about a vCPU.
pub(crate) type VcpuCallback = extern "C" fn(vcpu: c_uint, userdata: *mut c_void);
/// Callback about a block that is being translated.
pub(crate) type BlockCallback = extern "C" fn(block: *mut Block, userdata: *mut c_void);
/// Callback about the plugin as a whole.
pub(crate) type PlainCallback = extern "C" fn(userdata: *mut c_void);
