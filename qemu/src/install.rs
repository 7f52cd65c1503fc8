//! What QEMU looks for in a plugin.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int};
use std::io::Write as _;
use std::panic::PanicHookInfo;

use crate::api::types::{Info, PluginId, VERSION};
use crate::api::{Api, process_symbol};
use crate::flags::FlagsWriter;
use crate::guard::{self, Refusal, refuse};
use crate::hooks::{Plugin, shielded};
use crate::options::{self, Options};

/// The interface that this plugin was written for.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)] // The name is QEMU's.
pub(crate) static qemu_plugin_version: c_int = VERSION;

/// Called once by QEMU, before there is a machine.
///
/// # Safety
///
/// As the plugin interface has it: `info` points to a description that lives during the call, and
/// `argv` to `argc` C strings.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn qemu_plugin_install(
    id: PluginId,
    info: *const Info,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    std::panic::set_hook(Box::new(report));
    shielded(|| {
        // SAFETY: by contract.
        let installed = unsafe { install(id, &*info, arguments(argc, argv)) };
        installed.unwrap_or_else(|refusal| refuse(&refusal));
    });
    0
}

/// # Safety
///
/// As [`qemu_plugin_install`].
unsafe fn install(id: PluginId, info: &Info, arguments: Vec<String>) -> Result<(), Refusal> {
    // SAFETY: by contract.
    let vcpus = unsafe { guard::check_info(info) }?;
    // SAFETY: the names are those of QEMU's plugin interface and of GLib, in a process that has
    // just said that it is a QEMU with version 7 of it.
    let api = unsafe { Api::resolve(process_symbol) }?;
    if arguments.iter().any(|argument| argument == "help=on") {
        let _ = std::io::stdout().write_all(options::help().as_bytes());
        std::process::exit(0);
    }
    let (arguments, bench_empty) = without(arguments, "bench=empty");
    let (arguments, jumps_only) = without(arguments, "flags=jump");
    let options = Options::parse(arguments.iter().map(String::as_str))
        .map_err(|error| Refusal::Host(error.to_string()))?;
    let vcpus = usize::try_from(vcpus).unwrap_or(0);
    let flags = if jumps_only { FlagsWriter::jumps_only() } else { FlagsWriter::default() };
    Plugin::new(api, options, bench_empty, flags, vcpus).install(id);
    guard::check_accelerator_when_known();
    Ok(())
}

/// # Safety
///
/// `argv` points to `argc` C strings, or `argc` is 0.
unsafe fn arguments(argc: c_int, argv: *const *const c_char) -> Vec<String> {
    (0..usize::try_from(argc).unwrap_or(0))
        .map(|index| {
            // SAFETY: by contract.
            unsafe { CStr::from_ptr(*argv.add(index)) }.to_string_lossy().into_owned()
        })
        .collect()
}

/// Takes one of the arguments out that are for tests of the plugin, not for its users:
/// `bench=empty`, the yardstick of the speed that is promised, and `flags=jump`, as if QEMU did not
/// export its functions.
fn without(mut arguments: Vec<String>, test: &str) -> (Vec<String>, bool) {
    let before = arguments.len();
    arguments.retain(|argument| argument != test);
    let taken = arguments.len() != before;
    (arguments, taken)
}

/// A panic is a bug of the plugin: one line, as every other end.
fn report(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let text =
        payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("no reason given").replace('\n', " ");
    match panic.location() {
        Some(place) => guard::say(&format_args!("internal error at {place}: {text}")),
        None => guard::say(&format_args!("internal error: {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_for_tests_are_kept_from_the_options() {
        let given = ["seed=1", "bench=empty", "trace=x"].map(str::to_owned).to_vec();
        let (rest, taken) = without(given, "bench=empty");
        assert!(taken);
        assert_eq!(without(rest, "flags=jump"), (vec!["seed=1".to_owned(), "trace=x".to_owned()], false));
    }
}
