//! Calls that are only allowed on the thread of a vCPU.

use std::cell::Cell;
use std::ffi::{CStr, c_uint};
use std::marker::PhantomData;
use std::ptr::null_mut;

use super::Api;
use super::types::{ByteArray, HWADDR_OK, Handle};

thread_local! {
    /// One array of GLib per thread, kept: the calls below would otherwise allocate one each.
    /// A plain pointer has no destructor, which a callback that leaves by a long jump needs.
    static SCRATCH: Cell<*mut ByteArray> = const { Cell::new(null_mut()) };
    /// There was an [`OnVcpu`] on this thread.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// The proof of being inside a callback of QEMU on a vCPU's thread. Not `Send`.
#[derive(Clone, Copy)]
pub(crate) struct OnVcpu<'a> {
    api: &'a Api,
    _this_thread: PhantomData<*mut ()>,
}

impl<'a> OnVcpu<'a> {
    /// Marks this thread as that of a vCPU.
    ///
    /// # Safety
    ///
    /// The calling thread runs a vCPU of QEMU and is inside a callback; where registers are
    /// touched, one that was registered for that. The value does not outlive the callback.
    pub(crate) unsafe fn new(api: &'a Api) -> Self {
        INSIDE.set(true);
        Self { api, _this_thread: PhantomData }
    }

    /// The proof again, for code that has lost it on the way: a thread that was once inside a
    /// callback belongs to a vCPU, and calls nothing of this crate but from callbacks.
    pub(crate) fn again(api: &'a Api) -> Option<Self> {
        INSIDE.get().then_some(Self { api, _this_thread: PhantomData })
    }

    /// Handles of registers by name, and whether each can be written.
    pub(crate) fn registers(self, mut each: impl FnMut(&CStr, Handle, bool)) {
        // SAFETY: on a vCPU's thread (contract of `new`).
        let list = unsafe { (self.api.registers)() };
        if list.is_null() {
            return;
        }
        // SAFETY: the list is ours until it is freed below; it holds `len` descriptors.
        let descriptors = unsafe {
            let (data, len) = ((*list).data, (*list).len as usize);
            if data.is_null() { &[] } else { std::slice::from_raw_parts(data, len) }
        };
        for descriptor in descriptors {
            if !descriptor.name.is_null() {
                // SAFETY: names are C strings that QEMU keeps for ever.
                let name = unsafe { CStr::from_ptr(descriptor.name) };
                each(name, descriptor.handle, !descriptor.is_readonly);
            }
        }
        // SAFETY: nothing borrows from the list any more; its elements own nothing.
        unsafe { (self.api.array_free)(list, 1) };
    }

    /// A register of up to 8 bytes.
    pub(crate) fn read_register(self, handle: Handle) -> Option<u64> {
        let scratch = self.empty();
        // SAFETY: on a vCPU's thread with a handle that QEMU gave out; the call appends to
        // `scratch`, which nothing else uses during it.
        let bytes = unsafe {
            if !(self.api.read_register)(handle, scratch) {
                return None;
            }
            contents(scratch)
        };
        let mut value = [0; 8];
        value.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(u64::from_le_bytes(value))
    }

    /// Writes a register, which must be a writable one: QEMU aborts otherwise.
    pub(crate) fn write_register(self, handle: Handle, value: u64) -> bool {
        let Some(scratch) = self.filled(&value.to_le_bytes()) else { return false };
        // SAFETY: on a vCPU's thread; eight bytes are enough for every register that has a name
        // in `vcpu::Registers`.
        unsafe { (self.api.write_register)(handle, scratch) }
    }

    /// Reads guest memory by virtual address; false where nothing is mapped.
    pub(crate) fn read_virtual(self, address: u64, bytes: &mut [u8]) -> bool {
        if bytes.is_empty() {
            return true;
        }
        let scratch = self.empty();
        // SAFETY: on a vCPU's thread; the call sizes `scratch` itself.
        unsafe {
            (self.api.read_virtual)(address, scratch, bytes.len()) && copy_out(contents(scratch), bytes)
        }
    }

    /// Writes guest memory by virtual address.
    pub(crate) fn write_virtual(self, address: u64, bytes: &[u8]) -> bool {
        if bytes.is_empty() {
            return true;
        }
        let Some(scratch) = self.filled(bytes) else { return false };
        // SAFETY: on a vCPU's thread.
        unsafe { (self.api.write_virtual)(address, scratch) }
    }

    /// Reads guest memory by physical address.
    pub(crate) fn read_physical(self, address: u64, bytes: &mut [u8]) -> bool {
        if bytes.is_empty() {
            return true;
        }
        let scratch = self.empty();
        // SAFETY: on a vCPU's thread; the call sizes `scratch` itself.
        unsafe {
            (self.api.read_physical)(address, scratch, bytes.len()) == HWADDR_OK
                && copy_out(contents(scratch), bytes)
        }
    }

    /// Writes guest memory by physical address.
    pub(crate) fn write_physical(self, address: u64, bytes: &[u8]) -> bool {
        if bytes.is_empty() {
            return true;
        }
        let Some(scratch) = self.filled(bytes) else { return false };
        // SAFETY: on a vCPU's thread.
        unsafe { (self.api.write_physical)(address, scratch) == HWADDR_OK }
    }

    /// This thread's array, without anything in it.
    fn empty(self) -> *mut ByteArray {
        let mut array = SCRATCH.get();
        if array.is_null() {
            // SAFETY: GLib allocates or aborts.
            array = unsafe { (self.api.bytes_new)() };
            SCRATCH.set(array);
        }
        // SAFETY: the array is this thread's own, made above, and never freed; its length is a
        // public member, and an array may always be shorter than its room.
        unsafe { (*array).len = 0 };
        array
    }

    /// This thread's array with these bytes in it; none if they are more than an array holds.
    fn filled(self, bytes: &[u8]) -> Option<*mut ByteArray> {
        let len = c_uint::try_from(bytes.len()).ok()?;
        let array = self.empty();
        // SAFETY: the array is this thread's own; behind the first call it has room for all bytes,
        // and is no part of them: slices of it never leave this module.
        unsafe {
            (self.api.bytes_set_size)(array, len);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), (*array).data, bytes.len());
        }
        Some(array)
    }
}

/// The bytes of an array.
///
/// # Safety
///
/// `array` is one of GLib, and nothing changes it while the slice lives.
unsafe fn contents<'a>(array: *mut ByteArray) -> &'a [u8] {
    // SAFETY: by contract; an empty array may have no data at all.
    unsafe {
        let (data, len) = ((*array).data, (*array).len as usize);
        if data.is_null() { &[] } else { std::slice::from_raw_parts(data, len) }
    }
}

fn copy_out(from: &[u8], to: &mut [u8]) -> bool {
    let fits = from.len() == to.len();
    if fits {
        to.copy_from_slice(from);
    }
    fits
}
