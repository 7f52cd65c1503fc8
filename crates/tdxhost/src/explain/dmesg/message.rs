//! Log messages that carry no status, by their wording in Linux 6.8 to 7.3 and in the kernels before.

use tdx_abi::status::Blame;

use super::call::words;

/// Good news, bad news, or neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mood {
    /// As it should be.
    Good,
    /// Only information.
    Info,
    /// Something does not work.
    Problem,
}

/// How far a message says that bring-up has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Says nothing about it.
    None,
    /// The firmware offers TDX.
    Offered,
    /// The module is ready.
    Initialized,
}

/// A known message.
pub(super) struct Message {
    /// Parts that a line must contain, in lower case.
    pub(super) parts: &'static [&'static str],
    pub(super) title: &'static str,
    pub(super) mood: Mood,
    pub(super) step: Step,
    pub(super) blame: Blame,
    pub(super) meaning: &'static str,
    pub(super) advice: &'static str,
    /// What the numbers of the line say.
    pub(super) numbers: Option<fn(&str) -> Option<String>>,
}

/// The first known message that a line in lower case contains.
pub(super) fn find(lower: &str) -> Option<&'static Message> {
    MESSAGES.iter().find(|message| message.parts.iter().all(|part| lower.contains(part)))
}

const fn problem(
    parts: &'static [&'static str],
    title: &'static str,
    blame: Blame,
    meaning: &'static str,
    advice: &'static str,
) -> Message {
    Message { parts, title, mood: Mood::Problem, step: Step::None, blame, meaning, advice, numbers: None }
}

const fn info(parts: &'static [&'static str], title: &'static str, meaning: &'static str) -> Message {
    let (mood, step, blame) = (Mood::Info, Step::None, Blame::Nobody);
    Message { parts, title, mood, step, blame, meaning, advice: "", numbers: None }
}

const fn ready(parts: &'static [&'static str]) -> Message {
    Message {
        mood: Mood::Good,
        step: Step::Initialized,
        ..info(parts, "module initialized", "Bring-up is complete: TDs can be created.")
    }
}

impl Message {
    const fn with_numbers(mut self, numbers: fn(&str) -> Option<String>) -> Self {
        self.numbers = Some(numbers);
        self
    }
}

const OFF_IN_BIOS: &str = "Turn on TDX and the SEAM loader in the BIOS; MSR 0x1401 bit 11 must be 1 on \
                           every package (`tdxhost doctor`). Memory channels must be filled symmetrically.";
const NOT_LOADED: &str = "SEAMCALL found no TDX module (VMfailInvalid): the BIOS has not loaded one, or it \
                          was disabled before a kexec.";
const LOAD_IT: &str = "Turn on the SEAM loader in the BIOS and update the BIOS; some BIOSes take the \
                       module from the EFI system partition. After kexec, reboot through the BIOS.";
const VERSION: &str = "Which release of the TDX module is loaded.";

/// From the special to the general.
static MESSAGES: &[Message] = &[
    // Firmware.
    problem(
        &["not enabled by bios", "tdx"],
        "SEAM is off",
        Blame::Firmware,
        "SEAMCALL raised #GP: the BIOS split off KeyIDs for TDX, but did not enable SEAM.",
        OFF_IN_BIOS,
    ),
    problem(
        &["x86/tme: not enabled by bios"],
        "memory encryption is off",
        Blame::Firmware,
        "The BIOS has not turned memory encryption on; TDX needs it.",
        "Turn on TME and TME-MT in the BIOS.",
    ),
    info(&["x86/tme:"], "memory encryption", "What the BIOS set up for memory encryption (TME)."),
    info(&["x86/mktme:"], "memory encryption keys", "What the BIOS set up for multi-key memory encryption."),
    Message {
        step: Step::Offered,
        ..info(
            &["bios enabled: private keyid range"],
            "the BIOS offers TDX",
            "MSR 0x87 splits off private KeyIDs: the first is the module's own, the others are for TDs. It \
             does not say that SEAM is enabled or a module loaded.",
        )
    }
    .with_numbers(keyid_range),
    problem(
        &["too few private keyids"],
        "too few KeyIDs",
        Blame::Firmware,
        "There is only one private KeyID, and the module needs it for itself.",
        "Raise the TDX share of the KeyIDs in the BIOS (`TME-MT/TDX key split`).",
    ),
    problem(
        &["no tdx private keyids available"],
        "no private KeyIDs",
        Blame::Firmware,
        "The kernel found no usable private KeyIDs at boot, or refused TDX then.",
        "Turn on TDX and raise its share of the KeyIDs in the BIOS; look for earlier lines about \
         hibernation.",
    ),
    problem(
        &["hibernation support is enabled"],
        "hibernation is possible",
        Blame::Caller,
        "The kernel refuses TDX while hibernation is possible: encrypted memory would not survive it.",
        "Boot with `nohibernate`, or build the kernel without CONFIG_HIBERNATION.",
    ),
    info(
        &["disable acpi s3"],
        "S3 removed",
        "Suspend to RAM would destroy the TDX module, so the kernel takes S3 away. This is normal with TDX.",
    ),
    problem(
        &["register_memory_notifier() failed"],
        "no memory notifier",
        Blame::Platform,
        "The kernel could not register for memory hotplug events and leaves TDX off.",
        "Report it to the kernel's distributor.",
    ),
    problem(
        &["tdx not supported by the host platform"],
        "no TDX on this platform",
        Blame::Platform,
        "At boot the kernel found no private KeyIDs in MSR 0x87, or refused TDX for a reason logged \
         before. On a machine without TDX the line is harmless.",
        "On a machine with TDX turn it on in the BIOS, and look for earlier `virt/tdx` lines; `tdxhost \
         doctor` checks both.",
    ),
    // CPU features and KVM's own conditions.
    problem(
        &["xsave is required for tdx"],
        "XSAVE missing",
        Blame::Caller,
        "The kernel runs without XSAVE.",
        "Boot without `noxsave`.",
    ),
    problem(
        &["movdir64b is required for tdx"],
        "MOVDIR64B missing",
        Blame::Platform,
        "The CPU does not show MOVDIR64B, with which private pages are cleared.",
        "Boot without `clearcpuid=movdir64b`; a CPU with TDX has it.",
    ),
    problem(
        &["self-snoop is required for tdx"],
        "self-snoop missing",
        Blame::Platform,
        "The CPU does not show self-snoop.",
        "Boot without `clearcpuid=ss`; the kernel also clears it on CPUs with certain errata.",
    ),
    problem(
        &["ept is required for tdx"],
        "EPT off",
        Blame::Caller,
        "KVM runs without EPT.",
        "Load kvm_intel without `ept=0`.",
    ),
    problem(
        &["tdp mmu and mmio caching"],
        "KVM options",
        Blame::Caller,
        "KVM runs without the two-dimensional MMU, MMIO caching or EPT accessed/dirty bits.",
        "Load kvm without `tdp_mmu=0` and `mmio_caching=0`, and kvm_intel without `eptad=0`.",
    ),
    problem(
        &["apicv is required for tdx"],
        "APICv off",
        Blame::Caller,
        "KVM runs without APIC virtualisation.",
        "Load kvm_intel without `enable_apicv=0`.",
    ),
    problem(
        &["enable_virt_at_load=1"],
        "virtualisation not enabled at load",
        Blame::Caller,
        "This kernel can bring TDX up only if KVM turns VMX on when it is loaded.",
        "Load kvm with `enable_virt_at_load=1`.",
    ),
    problem(
        &["max_vcpu", "smaller"],
        "too many CPUs for one TD",
        Blame::Firmware,
        "KVM insists that one TD could have as many VCPUs as the machine has CPUs, and the module allows \
         fewer.",
        "Use a module with a higher MAX_VCPUS_PER_TD (576 in 1.5.05, 1376 in 2.0), or fewer CPUs (`nosmt`).",
    ),
    problem(
        &["user return msr"],
        "MSR missing",
        Blame::Platform,
        "KVM cannot restore an MSR that a TD changes.",
        "Report it to the kernel's distributor.",
    ),
    problem(
        &["vmxon faulted"],
        "VMXON faulted",
        Blame::Firmware,
        "The CPU refuses VMX operation; the number is IA32_FEATURE_CONTROL.",
        "Turn on virtualisation (VMX) in the BIOS: bits 0 and 2 of that MSR must be 1.",
    ),
    problem(
        &["is not in vmx operation"],
        "CPU not in VMX operation",
        Blame::Caller,
        "SEAMCALL raised #UD: VMXON has not run on this CPU.",
        "Load kvm_intel before TDX bring-up; no other hypervisor may hold VMX.",
    ),
    problem(
        &["vm-type tdx not supported by kvm"],
        "KVM without TDX",
        Blame::Caller,
        "QEMU found that KVM does not offer TDs: the module is not initialised, KVM's TDX support is off, \
         or kernel and QEMU use different versions of the interface.",
        "Look for `module initialized` in the kernel log. If it is there, use a QEMU that fits the kernel.",
    ),
    // Module.
    problem(&["module not loaded", "tdx"], "no TDX module", Blame::Firmware, NOT_LOADED, LOAD_IT),
    problem(&["module is not loaded", "tdx"], "no TDX module", Blame::Firmware, NOT_LOADED, LOAD_IT),
    problem(
        &["module is outdated"],
        "module too old",
        Blame::Firmware,
        "SYS.INIT answered INCORRECT_CPUID_VALUE: the module is older than CPU or microcode.",
        "Update the BIOS to one with module 1.0.3 or later.",
    ),
    problem(
        &["clobber bug present"],
        "module clobbers RBP",
        Blame::Firmware,
        "The module lacks the feature NO_RBP_MOD (bit 18 of TDX_FEATURES0), which Linux insists on.",
        "Update the module (BIOS): all releases from 1.5.01 have it.",
    ),
    // TDMRs and PAMT.
    problem(
        &["tdmrs exhausted"],
        "too many TDMRs",
        Blame::Caller,
        "Memory is cut into more pieces than the module takes TDMRs (64).",
        "Use a kernel that merges neighbouring ranges, or a BIOS setting with fewer holes (NUMA clustering \
         off).",
    ),
    info(
        &["consumed tdmrs reaching limit"],
        "TDMRs nearly used up",
        "Few TDMRs are left: more memory or more holes will make bring-up fail.",
    ),
    problem(
        &["reserved areas exhausted"],
        "too many holes in a TDMR",
        Blame::Caller,
        "One TDMR has more than 16 holes. Linux counts every hole of the page allocator, also those in \
         convertible memory, which need not be reserved.",
        "Use a kernel that reserves only what lies outside the CMRs (`tdxhost platform capture --dmesg` makes \
         a platform file of the log, `tdxhost demo --platform` shows that it comes up), or a BIOS that leaves \
         fewer holes in that range.",
    )
    .with_numbers(tdmr_range),
    info(
        &["unable to find local numa node for pamt"],
        "PAMT on another node",
        "The PAMT of this TDMR was taken from another NUMA node: slower, but right.",
    ),
    Message {
        mood: Mood::Good,
        ..info(
            &["allocated for pamt"],
            "PAMT allocated",
            "Memory that the module uses to keep track of every page.",
        )
    }
    .with_numbers(pamt_size),
    // Outcome.
    problem(
        &["module initialization failed"],
        "bring-up failed",
        Blame::Nobody,
        "The kernel gave up TDX; the reason stands in the lines before.",
        "Look at the first failing line above; without one, at the error number.",
    )
    .with_numbers(errno),
    problem(
        &["failed to initialize tdx module"],
        "bring-up failed",
        Blame::Nobody,
        "KVM found that the module could not be initialised; the reason stands in the lines before.",
        "Look at the first failing line above.",
    ),
    problem(
        &["module update failed"],
        "update failed",
        Blame::Nobody,
        "The new module was installed but did not take the TDs over.",
        "Look at the SEAMCALL line above; the TDs are lost.",
    )
    .with_numbers(errno),
    ready(&["tdx-module initialized"]),
    ready(&["module initialized", "tdx"]),
    ready(&["successfully initialized tdx module"]),
    info(&["tdx-module version"], "module version", VERSION),
    info(&["tdx module:", "major_version"], "module version", VERSION).with_numbers(generation),
    info(&["module version", "tdx"], "module version", VERSION),
    info(&["tdx module", "build number"], "module version", VERSION),
    info(&["tdx_features0"], "module features", "The feature word of the module (TDX_FEATURES0)."),
    info(&["cmr: ["], "convertible memory", "A range that the firmware declares usable for TDX (CMR)."),
    // Life of TDs.
    problem(
        &["hkid", "is leaked"],
        "KeyID lost",
        Blame::Caller,
        "Teardown of a TD failed, so that its KeyID cannot be used again until the next boot.",
        "Look at the SEAMCALL line above; report it with the kernel version.",
    ),
    problem(
        &["all packages need to have online cpu"],
        "a package is offline",
        Blame::Caller,
        "Creating a TD programs its key on every package, and one has no online CPU.",
        "Bring a CPU of every package online and try again.",
    ),
    problem(
        &["all packages to have an online cpu"],
        "CPU must stay online",
        Blame::Caller,
        "While TDs exist, every package needs an online CPU for the teardown of their keys.",
        "Shut the TDs down first, or take another CPU offline.",
    ),
    problem(
        &["tdx private memory error"],
        "machine check on private memory",
        Blame::Caller,
        "The host read or partly wrote memory that belongs to the module or a TD; on Sapphire and Emerald \
         Rapids one partial write is enough (erratum).",
        "Report it as a kernel bug, with the address; the memory itself is sound.",
    ),
    // Not of a host.
    info(
        &["tdx: guest detected"],
        "log of a guest",
        "This kernel runs inside a TD: the log tells nothing about the host.",
    ),
    info(
        &["memory encryption features active: intel tdx"],
        "log of a guest",
        "This kernel runs inside a TD: the log tells nothing about the host.",
    ),
    Message {
        numbers: Some(command_line),
        ..info(&["command line:"], "kernel command line", "What the kernel was asked for.")
    },
];

/// The numbers of a line between brackets, as `[32, 64)` or `[0x100000, 0x77800000)` have them.
fn range(line: &str) -> Option<(u64, u64)> {
    // Time stamps stand in brackets too: the range is what ends with a parenthesis.
    let end = line.rfind(')')?;
    let start = line.get(..end)?.rfind('[')?;
    let (low, high) = line.get(start + 1..end)?.split_once(',')?;
    let number = |text: &str| {
        let text = text.trim();
        match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        }
    };
    Some((number(low)?, number(high)?))
}

fn keyid_range(line: &str) -> Option<String> {
    let (first, end) = range(line)?;
    let count = end.checked_sub(first)?;
    let for_tds = count.saturating_sub(1);
    Some(format!("{count} private KeyIDs from {first}: at most {for_tds} TDs at a time"))
}

fn tdmr_range(line: &str) -> Option<String> {
    let (start, end) = range(line)?;
    let gib = end.checked_sub(start)? >> 30;
    Some(format!("the TDMR spans {gib} GiB from {} GiB on", start >> 30))
}

fn pamt_size(line: &str) -> Option<String> {
    let mut last = None;
    for word in words(line) {
        let unit = word.to_ascii_lowercase();
        match (unit.as_str(), last) {
            // 4,104 KiB for each GiB: 16 bytes for each 4 KiB, 2 MiB and 1 GiB page.
            ("kb" | "kbs", Some(kib)) => {
                return Some(format!("{} MiB, for about {} GiB of memory", kib / 1024, kib / 4104));
            }
            ("pages", Some(pages)) => {
                return Some(format!("{} MiB, for about {} GiB of memory", pages / 256, pages / 1026));
            }
            _ => last = word.parse::<u64>().ok(),
        }
    }
    None
}

fn errno(line: &str) -> Option<String> {
    let number = words(line).find_map(|word| word.strip_prefix('-')?.parse::<u64>().ok())?;
    Some(format!(
        "{}{}",
        errno_name(number).map(|name| format!("{name}: ")).unwrap_or_default(),
        errno_meaning(number)
    ))
}

/// Name of an error number of Linux that bring-up can end with.
pub(super) fn errno_name(number: u64) -> Option<&'static str> {
    Some(match number {
        5 => "-EIO",
        12 => "-ENOMEM",
        13 => "-EACCES",
        14 => "-EFAULT",
        16 => "-EBUSY",
        19 => "-ENODEV",
        22 => "-EINVAL",
        28 => "-ENOSPC",
        95 => "-EOPNOTSUPP",
        _ => return None,
    })
}

/// What such a number means in bring-up.
pub(super) fn errno_meaning(number: u64) -> &'static str {
    match number {
        5 => "a SEAMCALL failed; its line stands before",
        12 => "no memory, most often no contiguous range for a PAMT (1/256 of all memory)",
        13 => "SEAMCALL raised #UD: the CPU was not in VMX operation",
        14 => "VMXON faulted, or a call failed on another CPU",
        16 => "somebody else has turned VMX on (CR4.VMXE is set)",
        19 => "no TDX module is loaded",
        22 => "a required feature is missing, or an earlier attempt has failed",
        28 => "memory is too fragmented for the TDMRs",
        95 => "SEAMCALL raised #GP: SEAM is not enabled (MSR 0x1401 bit 11)",
        _ => "an error number that bring-up is not known to end with",
    }
}

fn generation(line: &str) -> Option<String> {
    let lower = line.to_ascii_lowercase();
    let number = |name: &str| {
        let rest = lower.split_once(name)?.1;
        words(rest).next()?.parse::<u32>().ok()
    };
    let (major, minor) = (number("major_version")?, number("minor_version")?);
    let note = if (major, minor) == (1, 0) {
        "; without TDH.SYS.RD and metadata, so that kernels from 6.8 on cannot use it"
    } else {
        ""
    };
    Some(format!("generation {major}.{minor}{note}"))
}

fn command_line(line: &str) -> Option<String> {
    let has = |prefix: &str| line.split_whitespace().find(|word| word.starts_with(prefix));
    let tdx = has("kvm_intel.tdx=")?;
    let hibernation = if has("nohibernate").is_some() {
        "hibernation is off"
    } else {
        "hibernation is not turned off (nohibernate)"
    };
    Some(format!("KVM is told {tdx}; {hibernation}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_message_hides_behind_another() {
        for message in MESSAGES {
            let line = message.parts.join(" ");
            assert_eq!(find(&line).map(|found| found.parts), Some(message.parts), "{line}");
        }
    }

    #[test]
    fn ranges_are_not_taken_from_time_stamps() {
        assert_eq!(
            range("[    8.972357] virt/tdx: BIOS enabled: private KeyID range [32, 64)"),
            Some((32, 64))
        );
        assert_eq!(range("[ 1.0] x"), None);
        assert_eq!(range(")["), None);
        assert_eq!(keyid_range("[64, 32)"), None);
    }

    #[test]
    fn numbers_of_a_message_are_put_into_words() {
        assert_eq!(
            pamt_size("virt/tdx: 1050644 KB allocated for PAMT").as_deref(),
            Some("1026 MiB, for about 256 GiB of memory")
        );
        assert_eq!(
            pamt_size("tdx: 65667 pages allocated for PAMT.").as_deref(),
            Some("256 MiB, for about 64 GiB of memory")
        );
        assert!(errno("module initialization failed (-28)").is_some_and(|text| text.contains("-ENOSPC")));
        assert!(
            generation("attributes 0x0, vendor_id 0x8086, major_version 1, minor_version 0, build_num 457")
                .is_some_and(|text| text.starts_with("generation 1.0;"))
        );
    }
}
