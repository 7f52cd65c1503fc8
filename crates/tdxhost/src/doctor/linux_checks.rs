//! Checks of the kernel: hibernation, KVM's switch, what the kernel found, the device.

use super::check::Check;
use super::cpu::CpuIdentity;
use super::facts::{Facts, Unseen};
use crate::explain::dmesg::{self, Outcome};

/// The first kernel that has the `tdx_host` device.
const FIRST_WITH_DEVICE: (u32, u32) = (7, 3);

/// Where the module's version can be read: Linux 7.3, the postings of 2025-09, those of 2025-03.
const VERSION_FILES: [(&str, &str); 3] = [
    ("/sys/devices/faux/tdx_host/version", "faux/tdx_host"),
    ("/sys/devices/virtual/tdx/tdx_tsm/version", "virtual/tdx/tdx_tsm"),
    ("/sys/devices/virtual/tdx/seamldr/version", "virtual/tdx/seamldr (P-SEAMLDR)"),
];

/// All checks of the kernel.
pub(super) fn all(facts: &dyn Facts, cpu: Option<&CpuIdentity>) -> Vec<Check> {
    let mut checks = Vec::new();
    if facts.runs_linux() {
        let command_line = facts.read_file("/proc/cmdline");
        let words: Vec<&str> =
            command_line.as_deref().map(|line| line.split_whitespace().collect()).unwrap_or_default();
        checks.push(hibernation(facts, &words));
        checks.extend(cpu.map(host_platform));
        checks.push(kvm(facts, &words));
        checks.push(kernel_log(facts));
    }
    if let Some(failure) = facts.bring_up_failure() {
        checks.push(Check::failed(
            "bring-up",
            "the host brought the TDX module up",
            failure.seen,
            failure.advice,
        ));
    }
    checks.push(device(facts));
    checks
}

fn hibernation(facts: &dyn Facts, command_line: &[&str]) -> Check {
    const ID: &str = "hibernation";
    const EXPECTED: &str = "hibernation impossible: the kernel refuses TDX while it is possible";
    const ADVICE: &str = "Boot with `nohibernate` on the kernel command line.";
    if command_line.iter().any(|&word| word == "nohibernate" || word == "hibernate=no") {
        return Check::ok(ID, EXPECTED, "`nohibernate` is on the command line");
    }
    match facts.read_file("/sys/power/state") {
        Ok(states) if states.split_whitespace().any(|state| state == "disk") => {
            Check::failed(ID, EXPECTED, "hibernation is possible (/sys/power/state offers disk)", ADVICE)
        }
        Ok(_) => Check::ok(ID, EXPECTED, "/sys/power/state does not offer disk"),
        // Without CONFIG_PM_SLEEP and CONFIG_HIBERNATION there is no such file.
        Err(Unseen::Missing(_)) => Check::ok(ID, EXPECTED, "the kernel has no /sys/power/state"),
        Err(unseen) => Check::unknown(ID, EXPECTED, unseen.to_string(), ADVICE),
    }
}

fn host_platform(cpu: &CpuIdentity) -> Check {
    const ID: &str = "tdx-host-platform";
    const EXPECTED: &str =
        "flag tdx_host_platform in /proc/cpuinfo: the kernel accepted the platform at boot";
    if cpu.has("tdx_host_platform") {
        return Check::ok(ID, EXPECTED, "present");
    }
    Check::failed(
        ID,
        EXPECTED,
        "absent",
        "Either the kernel is older than 6.8 or built without CONFIG_INTEL_TDX_HOST, or MSR 0x87 offers \
         fewer than 2 private KeyIDs, or hibernation is possible: see those checks.",
    )
}

fn kvm(facts: &dyn Facts, command_line: &[&str]) -> Check {
    const ID: &str = "kvm-intel-tdx";
    const EXPECTED: &str = "parameter tdx of kvm_intel is Y";
    const ADVICE: &str = "Put `kvm_intel.tdx=1` on the kernel command line (or `options kvm_intel tdx=1` \
                          into /etc/modprobe.d) and reboot; kernels before 6.16 need the distribution's \
                          TDX patches.";
    let asked = command_line
        .iter()
        .filter_map(|word| word.strip_prefix("kvm_intel.tdx="))
        .next_back()
        .is_some_and(|value| matches!(value, "1" | "y" | "Y" | "on" | "true"));
    match facts.read_file("/sys/module/kvm_intel/parameters/tdx") {
        Ok(value) if matches!(value.trim(), "Y" | "1") => Check::ok(ID, EXPECTED, "Y"),
        Ok(_) if asked => Check::failed(
            ID,
            EXPECTED,
            "N, although the command line asks for it: KVM turned it off when it was loaded",
            "The kernel log says why: `tdxhost explain --dmesg FILE`.",
        ),
        Ok(value) => Check::failed(ID, EXPECTED, value.trim().to_owned(), ADVICE),
        Err(Unseen::Missing(_)) if asked => Check::failed(
            ID,
            EXPECTED,
            "the parameter does not exist: kvm_intel is not loaded or built without TDX",
            "Run `modprobe kvm_intel`; if the parameter is still missing, use a kernel with \
             CONFIG_KVM_INTEL_TDX.",
        ),
        Err(Unseen::Missing(_)) => Check::failed(
            ID,
            EXPECTED,
            "the parameter does not exist and the command line does not ask for it",
            ADVICE,
        ),
        Err(unseen) => Check::unknown(ID, EXPECTED, unseen.to_string(), ADVICE),
    }
}

fn kernel_log(facts: &dyn Facts) -> Check {
    const ID: &str = "kernel-log";
    const EXPECTED: &str = "the kernel log says that the TDX module is initialized";
    let log = match facts.kernel_log() {
        Ok(log) => log,
        Err(unseen) => {
            return Check::unknown(
                ID,
                EXPECTED,
                unseen.to_string(),
                "Run this as root, or give the log to `tdxhost explain --dmesg -`.",
            );
        }
    };
    let log = dmesg::annotate(&log);
    match log.outcome() {
        Outcome::Initialized => Check::ok(ID, EXPECTED, "the module is initialized"),
        Outcome::Troubled { sentence, .. } => {
            Check::ok(ID, EXPECTED, format!("the module is initialized; later: {sentence}"))
        }
        Outcome::Failed { sentence, advice } | Outcome::Unfinished { sentence, advice } => {
            Check::failed(ID, EXPECTED, sentence, advice)
        }
        Outcome::Silent => Check::unknown(
            ID,
            EXPECTED,
            "the log does not mention TDX",
            "The log may have been overwritten since boot (`journalctl -k -b` has all of it); otherwise \
             the kernel has no TDX host support.",
        ),
    }
}

fn device(facts: &dyn Facts) -> Check {
    const ID: &str = "tdx-host-device";
    const EXPECTED: &str = "the tdx_host device shows the module's version";
    for (path, place) in VERSION_FILES {
        match facts.read_file(path) {
            Ok(version) => return Check::ok(ID, EXPECTED, format!("{place}: version {}", version.trim())),
            Err(Unseen::Missing(_)) => {}
            Err(unseen) => {
                return Check::unknown(ID, EXPECTED, unseen.to_string(), "Read the file as root.");
            }
        }
    }
    let release = facts.read_file("/proc/sys/kernel/osrelease").unwrap_or_default();
    match kernel_version(release.trim()) {
        Some(version) if version < FIRST_WITH_DEVICE => Check::ok(
            ID,
            EXPECTED,
            format!("Linux {} is older than 7.3, which has the device: nothing to see", release.trim()),
        ),
        _ => Check::failed(
            ID,
            EXPECTED,
            "no such device",
            "The device appears when bring-up has succeeded: see the other checks; on Linux also load the \
             driver (`modprobe tdx-host`, CONFIG_TDX_HOST_SERVICES).",
        ),
    }
}

fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::kernel_version;

    #[test]
    fn kernel_releases_compare_by_their_first_two_numbers() {
        assert_eq!(kernel_version("6.8.0-1028-intel"), Some((6, 8)));
        assert_eq!(kernel_version("7.3.0-rc2+"), Some((7, 3)));
        assert_eq!(kernel_version("next-20260101"), None);
        assert_eq!(kernel_version(""), None);
    }
}
