//! What keeps the plugin from working: each has one line that says what to change, and then QEMU
//! ends.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::fmt::Display;
use std::io::Write as _;
use std::ptr::null_mut;

use crate::api::types::{Info, VERSION};
use crate::api::{Lookup, MissingSymbol, process_symbol};
use crate::ram_map::RamMapError;

/// Why the plugin does not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The interface is older than version 7.
    #[error("this QEMU is too old for its plugin API: use QEMU 11.1 or newer (Debian: trixie-backports)")]
    TooOld,
    /// The interface has dropped version 7.
    #[error(
        "this QEMU is too new (its oldest plugin API is {0}, this plugin speaks {VERSION}): use QEMU 11.1"
    )]
    TooNew(c_int),
    /// A function is not there.
    #[error(transparent)]
    Symbol(#[from] MissingSymbol),
    /// Another architecture.
    #[error("the guest architecture is {0}: use qemu-system-x86_64")]
    Target(String),
    /// One program instead of a machine.
    #[error("user-mode emulation has no machine: use qemu-system-x86_64")]
    UserMode,
    /// vCPUs that may come later.
    #[error("vCPUs cannot be plugged in later: use -smp {vcpus} without maxcpus={max}")]
    HotPlug { vcpus: c_int, max: c_int },
    /// A vCPU that was taken out and came back.
    #[error("vCPU {0} was plugged in again, which the plugin does not follow: use no device_del on vCPUs")]
    Replugged(c_uint),
    /// Another accelerator.
    #[error("the accelerator is not TCG, so no instruction can be caught: use -accel tcg,thread=multi")]
    Accelerator,
    /// All vCPUs on one thread: QEMU then tells wrong vCPU numbers.
    #[error("{0} vCPUs share one thread: use -accel tcg,thread=multi")]
    OneThread(c_int),
    /// A register has no name.
    #[error("this QEMU does not show the register {0}: use QEMU 11.1 or newer (Debian: trixie-backports)")]
    Register(String),
    /// No map of the machine's memory.
    #[error(transparent)]
    RamMap(#[from] RamMapError),
    /// Two of this plugin in one QEMU.
    #[error("the plugin is loaded twice: give -plugin once")]
    Twice,
    /// Arguments or the machine that they describe.
    #[error("{0}")]
    Host(String),
}

/// Says something to the user on one line, which no other output tears apart. That nobody reads it is no
/// reason to stop the guest.
pub(crate) fn say(text: &dyn Display) {
    let line = format!("tdx-qemu: {text}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Says why on one line, and ends QEMU with status 1.
pub(crate) fn refuse(refusal: &Refusal) -> ! {
    say(refusal);
    // Behind QEMU's own exit handlers, which put the terminal back.
    std::process::exit(1)
}

/// Checks what QEMU says of itself at load time.
///
/// # Safety
///
/// The name in `info` is a C string or null.
pub(crate) unsafe fn check_info(info: &Info) -> Result<c_int, Refusal> {
    if info.version.cur < VERSION {
        return Err(Refusal::TooOld);
    }
    if info.version.min > VERSION {
        return Err(Refusal::TooNew(info.version.min));
    }
    let target = if info.target_name.is_null() {
        String::new()
    } else {
        // SAFETY: by contract a C string.
        unsafe { CStr::from_ptr(info.target_name) }.to_string_lossy().into_owned()
    };
    if target != "x86_64" {
        return Err(Refusal::Target(target));
    }
    if !info.system_emulation {
        return Err(Refusal::UserMode);
    }
    let (vcpus, max) = (info.system.smp_vcpus, info.system.max_vcpus);
    if max > vcpus {
        return Err(Refusal::HotPlug { vcpus, max });
    }
    Ok(vcpus)
}

/// Checks the accelerator, which QEMU chooses after it has loaded its plugins.
pub(crate) fn check_accelerator(vcpus: c_int, lookup: Lookup) -> Result<(), Refusal> {
    let tcg = lookup(c"tcg_allowed").cast::<bool>();
    // SAFETY: QEMU's own variable of that name, a C bool; not null.
    if !tcg.is_null() && !unsafe { tcg.read_volatile() } {
        return Err(Refusal::Accelerator);
    }
    let threads = lookup(c"qemu_tcg_mttcg_enabled");
    if vcpus > 1 && !threads.is_null() {
        // SAFETY: QEMU's own function of that name: no arguments, a C bool, usable once there is
        // a machine.
        let enabled = unsafe { std::mem::transmute::<*mut c_void, extern "C" fn() -> bool>(threads) };
        if !enabled() {
            return Err(Refusal::OneThread(vcpus));
        }
    }
    Ok(())
}

/// QEMU's own `Notifier`: a function and the links of the list that it is in.
#[repr(C)]
struct Notifier {
    notify: extern "C" fn(*mut Self, *mut c_void),
    next: *mut Self,
    previous: *mut *mut Self,
}

/// Has the accelerator checked as soon as the machine is complete. Without this, another
/// accelerator than TCG would go unseen: it calls no plugin. Where QEMU does not let itself be asked
/// for that moment, the check waits for the first vCPU.
pub(crate) fn check_accelerator_when_known() {
    let add = process_symbol(c"qemu_add_machine_init_done_notifier");
    if add.is_null() {
        return;
    }
    // SAFETY: QEMU's own function of that name takes a notifier that lives until it is removed.
    let add = unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut Notifier)>(add) };
    let notifier = Box::new(Notifier { notify: on_machine_complete, next: null_mut(), previous: null_mut() });
    // SAFETY: leaked, so it lives for ever, and nothing but QEMU touches it from here on.
    unsafe { add(Box::into_raw(notifier)) };
}

extern "C" fn on_machine_complete(_notifier: *mut Notifier, _unused: *mut c_void) {
    crate::hooks::shielded(crate::hooks::check_accelerator);
}

/// Runs when the library is loaded, before QEMU looks for anything in it: a QEMU that is too old
/// would only name two numbers.
extern "C" fn on_load() {
    if let Some(refusal) = too_old(process_symbol) {
        say(&refusal);
        // SAFETY: ends the process; QEMU has not begun anything that wants an end of its own.
        unsafe { libc::_exit(1) }
    }
}

#[used]
// SAFETY: the loader calls every pointer of this section once, as a C function.
#[unsafe(link_section = ".init_array")]
static ON_LOAD: extern "C" fn() = on_load;

/// QEMU, but one without a function that came with version 6. Version 6 itself is left to the
/// message of QEMU.
fn too_old(lookup: Lookup) -> Option<Refusal> {
    let qemu = !lookup(c"qemu_plugin_register_vcpu_init_cb").is_null();
    let set_pc = !lookup(c"qemu_plugin_set_pc").is_null();
    (qemu && !set_pc).then_some(Refusal::TooOld)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::{SystemInfo, VersionRange};

    fn info() -> Info {
        Info {
            target_name: c"x86_64".as_ptr(),
            version: VersionRange { min: 7, cur: 7 },
            system_emulation: true,
            system: SystemInfo { smp_vcpus: 4, max_vcpus: 4 },
        }
    }

    #[test]
    fn a_machine_of_x86_64_with_api_7_is_taken_and_nothing_else() {
        // SAFETY: all names are C strings or null.
        let check = |info: &Info| unsafe { check_info(info) };
        assert_eq!(check(&info()), Ok(4));
        let version = VersionRange { min: 0, cur: 6 };
        assert_eq!(check(&Info { version, ..info() }), Err(Refusal::TooOld));
        let version = VersionRange { min: 8, cur: 9 };
        assert_eq!(check(&Info { version, ..info() }), Err(Refusal::TooNew(8)));
        let version = VersionRange { min: 3, cur: 9 };
        assert_eq!(check(&Info { version, ..info() }), Ok(4));
        let target_name = c"i386".as_ptr();
        assert_eq!(check(&Info { target_name, ..info() }), Err(Refusal::Target("i386".into())));
        let target_name = std::ptr::null();
        assert_eq!(check(&Info { target_name, ..info() }), Err(Refusal::Target(String::new())));
        assert_eq!(check(&Info { system_emulation: false, ..info() }), Err(Refusal::UserMode));
        let system = SystemInfo { smp_vcpus: 2, max_vcpus: 8 };
        assert_eq!(check(&Info { system, ..info() }), Err(Refusal::HotPlug { vcpus: 2, max: 8 }));
    }

    #[test]
    fn every_refusal_is_one_line_that_says_what_to_change() {
        for refusal in [
            Refusal::TooOld,
            Refusal::TooNew(8),
            Refusal::Symbol(MissingSymbol("qemu_plugin_set_pc")),
            Refusal::Target("i386".into()),
            Refusal::UserMode,
            Refusal::HotPlug { vcpus: 2, max: 8 },
            Refusal::Replugged(1),
            Refusal::Accelerator,
            Refusal::OneThread(2),
            Refusal::Register("rip".into()),
            Refusal::RamMap(RamMapError::NotExported),
            Refusal::RamMap(RamMapError::Empty),
            Refusal::Twice,
        ] {
            let line = refusal.to_string();
            assert!(!line.contains('\n') && (line.contains(": use ") || line.contains(": give ")), "{line}");
        }
    }

    #[test]
    fn accelerators_other_than_tcg_with_a_thread_for_each_vcpu_are_refused() {
        static YES: bool = true;
        static NO: bool = false;
        extern "C" fn yes() -> bool {
            true
        }
        extern "C" fn no() -> bool {
            false
        }
        fn of(name: &CStr, tcg: &'static bool, threads: extern "C" fn() -> bool) -> *mut c_void {
            match name.to_bytes() {
                b"tcg_allowed" => std::ptr::from_ref(tcg).cast_mut().cast(),
                b"qemu_tcg_mttcg_enabled" => threads as *mut c_void,
                _ => null_mut(),
            }
        }
        assert_eq!(check_accelerator(8, |name| of(name, &YES, yes)), Ok(()));
        assert_eq!(check_accelerator(8, |name| of(name, &NO, yes)), Err(Refusal::Accelerator));
        assert_eq!(check_accelerator(8, |name| of(name, &YES, no)), Err(Refusal::OneThread(8)));
        assert_eq!(check_accelerator(1, |name| of(name, &YES, no)), Ok(()), "one vCPU has one thread");
        assert_eq!(check_accelerator(8, |_| null_mut()), Ok(()), "a build that does not tell");
    }

    #[test]
    fn only_a_qemu_without_set_pc_is_too_old() {
        fn some() -> *mut c_void {
            std::ptr::without_provenance_mut(0x1000)
        }
        assert_eq!(too_old(|_| null_mut()), None, "no QEMU at all, but a test");
        assert_eq!(too_old(|_| some()), None);
        let old = |name: &CStr| if name == c"qemu_plugin_set_pc" { null_mut() } else { some() };
        assert_eq!(too_old(old), Some(Refusal::TooOld));
    }
}
