//! What Linux writes to its console: complaints that no boot may have, and the last words of one that hangs.

use tdx_linux_guest::kernel_log::is_alarm;

/// Lines that say how the kernel is tainted.
const TAINTS: [&str; 2] = ["Tainted:", "taints kernel"];

/// A console's text in lines, without carriage returns and the control codes of firmware.
pub(super) fn lines(console: &str) -> impl Iterator<Item = &str> {
    console.lines().map(|line| line.trim_end_matches('\r'))
}

/// Lines in which the kernel complains. `tainted` says that a taint is expected. What a driver says in its own words
/// (`virt/tdx: ... failed`) is no complaint: boots with a fault are there to see it.
pub(super) fn complaints(console: &str, tainted: bool) -> Vec<&str> {
    let is_complaint =
        |line: &&str| is_alarm(line) || (!tainted && TAINTS.iter().any(|text| line.contains(text)));
    lines(console).filter(is_complaint).collect()
}

/// The last lines that say anything.
pub(super) fn last_words(console: &str, count: usize) -> Vec<&str> {
    let mut last: Vec<&str> = lines(console).filter(|line| !line.trim().is_empty()).collect();
    last.split_off(last.len().saturating_sub(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEALTHY: &str = "SeaBIOS (version 1.17.0)\r\n\
        [    0.000000] Linux version 7.3.4\r\n\
        [    0.101000] virt/tdx: BIOS enabled: private KeyID range [32, 64)\r\n\
        [    0.611000] virt/tdx: 4204 KB allocated for PAMT\r\n\
        [    0.612000] virt/tdx: TDX-Module initialized\r\n\
        [    1.900000] reboot: Power down\r\n";

    #[test]
    fn a_healthy_boot_has_no_complaint() {
        assert_eq!(complaints(HEALTHY, false), [""; 0]);
        let faulty =
            "[ 0.6] virt/tdx: module not loaded\r\n[ 0.6] virt/tdx: SEAMCALL (0x22) failed: 0xc0000505\n";
        assert_eq!(complaints(faulty, false), [""; 0], "a driver's own words are no complaint");
    }

    #[test]
    fn each_way_in_which_a_kernel_complains_is_seen() {
        for line in [
            "[    0.6] WARNING: CPU: 0 PID: 1 at arch/x86/virt/hw.c:120 x86_virt_get_ref+0x1/0x2",
            "[    0.6] BUG: kernel NULL pointer dereference, address: 0000000000000000",
            "[    0.6] kernel BUG at mm/slub.c:553!",
            "[    0.6] Oops: general protection fault, probably for non-canonical address",
            "[    0.6] Call Trace:",
            "[    0.6] Kernel panic - not syncing: Attempted to kill init!",
            "[    0.6] unchecked MSR access error: RDMSR from 0x1401 at rIP: 0xffffffff81000000",
            "[    0.6] BUG: unable to handle page fault for address: ffffc90000000000",
            "[    0.6] mce: [Hardware Error]: Machine check events logged",
            "[   21.0] rcu: INFO: rcu_sched self-detected stall on CPU",
            "[   99.0] INFO: task init:1 blocked for more than 60 seconds.",
            "[    0.6] CPU: 0 UID: 0 PID: 1 Comm: init Tainted: G        W           7.3.4 #1",
        ] {
            let console = format!("{HEALTHY}{line}\r\n");
            assert_eq!(complaints(&console, false), [line]);
        }
    }

    #[test]
    fn a_taint_is_a_complaint_unless_it_is_expected() {
        let line = "[    1.0] tdx_bench: loading out-of-tree module taints kernel.";
        assert_eq!(complaints(line, false), [line]);
        assert_eq!(complaints(line, true), [""; 0]);
    }

    #[test]
    fn the_last_words_leave_empty_lines_out() {
        assert_eq!(last_words("a\r\n\r\nb\r\n  \r\nc\r\n", 2), ["b", "c"]);
        assert_eq!(last_words("a\n", 5), ["a"]);
        assert_eq!(last_words("", 5), [""; 0]);
    }
}
