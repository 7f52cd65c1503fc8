use std::ptr::null_mut;

use super::*;

#[test]
fn a_missing_function_is_named() {
    // SAFETY: nothing is found, so nothing is taken for a function.
    let missing = unsafe { Api::resolve(|_| null_mut()) }.err();
    assert_eq!(missing, Some(MissingSymbol("qemu_plugin_register_vcpu_init_cb")));
    // SAFETY: the functions are not called.
    let missing = unsafe {
        Api::resolve(|name| if name == c"g_array_free" { null_mut() } else { 0x1000 as *mut c_void })
    };
    let message = missing.err().map(|missing| missing.to_string());
    assert_eq!(
        message.as_deref(),
        Some("this QEMU has no g_array_free: use QEMU 11.1 or newer (Debian: trixie-backports)")
    );
}

#[test]
fn registers_and_memory_go_through_one_scratch_array() {
    let thread = fake::on_vcpu();
    let cpu = thread.proof();
    let mut handles = Vec::new();
    cpu.registers(|name, handle, writable| handles.push((name.to_owned(), handle, writable)));
    let rax = handles.iter().find(|(name, ..)| name.as_c_str() == c"rax").map(|&(_, handle, _)| handle);
    let rip = handles.iter().find(|(name, ..)| name.as_c_str() == c"rip").map(|&(.., writable)| writable);
    assert_eq!(rip, Some(false));

    assert!(cpu.write_virtual(0x5000, &[1, 2, 3, 4, 5, 6, 7, 8, 9]));
    assert!(cpu.write_register(rax.unwrap(), 0x1122_3344_5566_7788));
    assert_eq!(cpu.read_register(rax.unwrap()), Some(0x1122_3344_5566_7788));
    let mut bytes = [0; 9];
    assert!(cpu.read_physical(0x5000, &mut bytes));
    assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert!(cpu.read_virtual(0x5000, &mut []) && !cpu.read_virtual(0xDEA_D000, &mut bytes));
}
