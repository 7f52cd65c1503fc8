//! `explain --dmesg`: kernel logs as people post them.

use proptest::prelude::*;
use tdxhost::explain::dmesg::{Kind, Log, Mood, Outcome, annotate, fuzz_body};
use tdxhost::text::{Output, Paint};

fn text(log: &Log<'_>, all: bool) -> String {
    let mut bytes = Vec::new();
    log.print(&mut Output::plain(&mut bytes), all).expect("a vector takes everything");
    String::from_utf8(bytes).expect("text")
}

fn flat(log: &Log<'_>) -> String {
    text(log, false).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Mood and all words of a single line.
fn only(line: &str) -> (Mood, String) {
    let log = annotate(line);
    match &log.entries()[0].kind {
        Kind::Explained { mood, .. } => (*mood, flat(&log)),
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn every_known_wording_is_explained() {
    use Mood::{Good, Info, Problem};
    for (line, mood, part) in [
        // Linux 6.8 and the kernels of distributions made from it.
        (
            "[    8.972357] virt/tdx: BIOS enabled: private KeyID range [32, 64)",
            Info,
            "32 private KeyIDs from 32: at most 31 TDs",
        ),
        ("[    8.97] virt/tdx: Disable ACPI S3. Turn off TDX in the BIOS to use ACPI S3.", Info, "S3"),
        (
            "[   19.3] virt/tdx: SEAMCALL (0x0000000000000021) failed: 0xc000090000000000",
            Problem,
            "TDX_INCORRECT_CPUID_VALUE",
        ),
        (
            "[   10.7] virt/tdx: TDX module: attributes 0x0, vendor_id 0x8086, major_version 1, minor_version 0, build_date 20230206, build_num 457",
            Info,
            "generation 1.0; without TDH.SYS.RD",
        ),
        (
            "[   31.1] virt/tdx: TDX module: attributes 0x0, vendor_id 0x8086, major_version 1, minor_version 5, build_date 20240725, build_num 784",
            Info,
            "generation 1.5",
        ),
        ("[   10.7] virt/tdx: CMR: [0x100000, 0x77800000)", Info, "convertible memory"),
        (
            "virt/tdx: initialization failed: TDMR [0x40000000, 0x80000000): reserved areas exhausted.",
            Problem,
            "spans 1 GiB from 1 GiB",
        ),
        ("virt/tdx: initialization failed: TDMRs exhausted.", Problem, "too many TDMRs"),
        ("virt/tdx: consumed TDMRs reaching limit: 61 used out of 64", Info, "nearly used up"),
        (
            "virt/tdx: TDMR [0x0, 0x40000000): unable to find local NUMA node for PAMT allocation, fallback to use node 0.",
            Info,
            "another NUMA node",
        ),
        ("virt/tdx: module initialization failed (-28)", Problem, "-ENOSPC"),
        ("virt/tdx: module initialization failed (-5)", Problem, "-EIO"),
        ("virt/tdx: initialization failed: too few private KeyIDs available.", Problem, "TDX share"),
        ("virt/tdx: initialization failed: Hibernation support is enabled", Problem, "nohibernate"),
        ("virt/tdx: initialization failed: register_memory_notifier() failed (-12)", Problem, "hotplug"),
        ("virt/tdx: module not loaded", Problem, "SEAM loader"),
        ("virt/tdx: frame pointer (RBP) clobber bug present, upgrade TDX module", Problem, "NO_RBP_MOD"),
        ("[   36.3] virt/tdx: 8396820 KB allocated for PAMT", Good, "about 2046 GiB"),
        ("virt/tdx: 262668 KBs allocated for PAMT", Good, "about 64 GiB"),
        ("[   36.3] virt/tdx: module initialized", Good, "TDs can be created"),
        ("kvm_intel: Failed to initialize TDX module.", Problem, "lines before"),
        // Linux 6.14 to 7.3.
        ("virt/tdx: TDX module 2.0.08.00, build number 882, build date 0134fed5", Info, "release"),
        ("virt/tdx: Module version: 1.5.06", Info, "release"),
        ("virt/tdx: TDX-Module version: 1.5.24", Info, "release"),
        ("virt/tdx: TDX_FEATURES0: 0xfbf", Info, "feature word"),
        ("virt/tdx: TDX not supported by the host platform", Problem, "harmless"),
        ("virt/tdx: XSAVE is required for TDX", Problem, "XSAVE"),
        ("virt/tdx: MOVDIR64B is required for TDX", Problem, "clearcpuid"),
        ("virt/tdx: Self-snoop is required for TDX", Problem, "self-snoop"),
        ("virt/tdx: TDX-Module initialization failed (-19)", Problem, "no TDX module is loaded"),
        ("virt/tdx: TDX-Module initialized", Good, "complete"),
        ("seamldr: SEAMCALL (0x8000000000000001) failed: 0x8000000000020001", Problem, "EBADHASH"),
        ("kvm_intel: EPT is required for TDX", Problem, "ept=0"),
        ("kvm_intel: TDP MMU and MMIO caching and EPT A/D bit is required for TDX", Problem, "tdp_mmu"),
        ("kvm_intel: APICv is required for TDX", Problem, "enable_apicv"),
        ("kvm_intel: tdx: no TDX private KeyIDs available", Problem, "KeyIDs"),
        ("kvm_intel: tdx: tdx requires kvm.enable_virt_at_load=1", Problem, "enable_virt_at_load=1"),
        ("kvm_intel: SEAMCALL TDH_MNG_INIT failed: 0xc000010000000045, rcx 0x7", Problem, "CPUID leaf 0x7"),
        (
            "kvm_intel: Disable TDX: MAX_VCPU_PER_TD (576) smaller than number of logical CPUs (1792).",
            Problem,
            "MAX_VCPUS_PER_TD",
        ),
        ("kvm_intel: tdh_mng_key_freeid() failed. HKID 35 is leaked.", Problem, "KeyID"),
        ("VMXON faulted, MSR_IA32_FEAT_CTL (0x3a) = 0x1", Problem, "VMX"),
        ("mce: [Hardware Error]: TDX private memory error. Possible kernel bug.", Problem, "erratum"),
        // Before Linux 6.8.
        ("[    2.932397] tdx: BIOS enabled: private KeyID range [32, 64)", Info, "32 private KeyIDs"),
        (
            "[    7.592823] tdx: SEAMCALL failed: CPU 94: leaf 33, error 0xc000092100000122.",
            Problem,
            "IA32_TSX_CTRL",
        ),
        ("tdx: SEAMCALL failed: CPU 3 is not in VMX operation.", Problem, "#UD"),
        ("[   15.287540] tdx: not enabled by BIOS.", Problem, "0x1401"),
        ("tdx: [firmware bug]: TDX is not enabled by BIOS.", Problem, "0x1401"),
        ("tdx: TDX module is not loaded.", Problem, "SEAM loader"),
        ("tdx: TDX module is outdated. Use v1.0.3 or newer.", Problem, "INCORRECT_CPUID_VALUE"),
        ("tdx: 65667 pages allocated for PAMT.", Good, "about 64 GiB"),
        ("tdx: TDX module initialized.", Good, "complete"),
        // KVM before it was merged, other hypervisors, QEMU, guests.
        (
            "[  261.2] SEAMCALL (0x000000000000001c) failed: 0xc000030000000001 RCX 0x0000000000000000 RDX 0x0000000000000000 R8 0x0",
            Problem,
            "TDH.PHYMEM.PAGE.RECLAIM",
        ),
        (
            "vmkernel: cpu25:2100108)TDX: TDH.MNG.INIT failed with status: 0xc000010000000045",
            Problem,
            "CPUID_CONFIG",
        ),
        ("SEAMCALL (33) failed: 0xc000092100000122", Problem, "TDH.SYS.INIT"),
        ("SEAMCALL leaf 0x22 error 0xc000050500000000", Problem, "TDX 1.0 generation"),
        ("qemu-system-x86_64: vm-type TDX not supported by KVM", Problem, "module initialized"),
        ("[    0.000000] [    T0] tdx: Guest detected", Info, "inside a TD"),
        (
            "[    0.0] Command line: BOOT_IMAGE=/vmlinuz root=/dev/sda kvm_intel.tdx=1 nohibernate",
            Info,
            "hibernation is off",
        ),
        (
            "[    0.0] Command line: BOOT_IMAGE=/vmlinuz kvm_intel.tdx=on",
            Info,
            "hibernation is not turned off",
        ),
        ("virt/tdx: something that nobody has seen before", Info, "no known message"),
    ] {
        let (found, text) = only(line);
        assert_eq!(found, mood, "{line}");
        assert!(text.contains(part), "{line}: `{part}` is missing from: {text}");
    }
}

#[test]
fn prefixes_of_any_kind_are_tolerated() {
    for prefix in [
        "",
        "[    7.592823] ",
        "[    7.592823][    T1] ",
        "[    0.000000] [    T0] ",
        "<3>[    7.592823] ",
        "3,1234,7592823,-;",
        "May 16 16:01:38 host kernel: ",
        "May 16 16:01:38 tdx-host-3 kernel: ",
        "2026-02-02T11:26:41.630Z host kernel: [    7.5] ",
        "> > [    7.592823] ",
        "   ",
    ] {
        let line = format!("{prefix}virt/tdx: SEAMCALL (0x0000000000000021) failed: 0xc000092100000122");
        assert!(only(&line).1.contains("IA32_TSX_CTRL"), "{line}");
        let line = format!("{prefix}virt/tdx: module not loaded");
        assert!(only(&line).1.contains("SEAM loader"), "{line}");
    }
}

#[test]
fn names_that_only_contain_the_letters_are_passed_over() {
    for line in [
        "smpboot: CPU0: Intel(R) Xeon(R) Platinum 8480CTDX (family: 0x6, model: 0x8f, stepping: 0x8)",
        "May 16 16:01:38 tdx-host-3 kernel: usb 1-1: new high-speed USB device",
        "systemd[1]: Started Session 3 of user outdx.",
        "[    1.2] ata1: SATA link up 6.0 Gbps",
        "",
        "R10: 0000000000000001 R11: 0000000000000246 R12: 0000000000000000",
    ] {
        assert_eq!(annotate(&format!("{line}\n")).entries()[0].kind, Kind::Passed, "{line}");
    }
}

const MODULE_1_0: &str = "\
[    5.118752] virt/tdx: BIOS enabled: private KeyID range [1, 128)
[    5.118754] virt/tdx: Disable ACPI S3. Turn off TDX in the BIOS to use ACPI S3.
[    9.000000] usb 1-1: new device
[   14.036730] virt/tdx: SEAMCALL (0x0000000000000022) failed: 0xc000050500000000
[   14.036735] virt/tdx: RCX 0x0000000000000000 RDX 0x9100000100000008 R08 0x0000000000000000
[   14.036736] i2c i2c-1: 16/32 memory slots populated (from DMI)
[   14.036737] virt/tdx: R09 0x0000000000000000 R10 0x0000000000000000 R11 0x0000000000000000
[   14.036738] virt/tdx: module initialization failed (-5)
[   14.036739] kvm_intel: Failed to initialize TDX module.
";

#[test]
fn registers_of_the_following_lines_belong_to_the_call() {
    let log = annotate(MODULE_1_0);
    assert_eq!(log.entries()[4].kind, Kind::Continues { of: 4 });
    assert_eq!(log.entries()[6].kind, Kind::Continues { of: 4 });
    assert!(flat(&log).contains("MAX_TDMRS (0x9100000100000008)"), "{}", flat(&log));
}

#[test]
fn the_first_failure_is_the_reason() {
    let log = annotate(MODULE_1_0);
    let Outcome::Failed { sentence, advice } = log.outcome() else { panic!("{:?}", log.outcome()) };
    assert!(sentence.contains("TDX_SYS_NOT_READY") && sentence.contains("TDH.SYS.RD"), "{sentence}");
    assert!(sentence.contains("TDX 1.0 generation"), "{sentence}");
    assert!(advice.contains("BIOS"), "{advice}");
}

#[test]
fn a_log_without_an_end_says_what_to_look_at() {
    let log = annotate("virt/tdx: BIOS enabled: private KeyID range [64, 128)\nvirt/tdx: Disable ACPI S3.\n");
    let Outcome::Unfinished { advice, .. } = log.outcome() else { panic!("{:?}", log.outcome()) };
    assert!(advice.contains("kvm_intel") && advice.contains("0x1401"), "{advice}");
}

#[test]
fn success_and_silence_are_told_apart() {
    let up =
        annotate("virt/tdx: BIOS enabled: private KeyID range [64, 128)\nvirt/tdx: TDX-Module initialized\n");
    assert_eq!(up.outcome(), &Outcome::Initialized);
    assert_eq!(annotate("usb 1-1: new device\n").outcome(), &Outcome::Silent);
    assert_eq!(annotate("").outcome(), &Outcome::Silent);
    // Trouble with a TD later does not undo bring-up, and of several boots the last one counts.
    let late = annotate(
        "virt/tdx: module initialized\nSEAMCALL (0x000000000000001c) failed: 0xc000030000000001 RCX 0x0 RDX 0x0\n",
    );
    let Outcome::Troubled { sentence, advice } = late.outcome() else { panic!("{:?}", late.outcome()) };
    assert!(sentence.contains("TDX_PAGE_METADATA_INCORRECT"), "{sentence}");
    assert!(advice.contains("kernel bug"), "{advice}");
    assert!(flat(&late).contains("the TDX module came up; later: TDX_PAGE_METADATA_INCORRECT"));
    // What a later attempt overcame is no trouble.
    let second = annotate("SEAMCALL (0x2d) failed: 0xc000050c00000000\nvirt/tdx: module initialized\n");
    assert_eq!(second.outcome(), &Outcome::Initialized);
    let boots = format!("virt/tdx: module initialized\n{MODULE_1_0}");
    assert!(matches!(annotate(&boots).outcome(), Outcome::Failed { .. }));
}

#[test]
fn a_silent_log_says_where_to_look() {
    let text = flat(&annotate("usb 1-1: new device\n"));
    assert!(text.contains("no line about bring-up") && text.contains("turn on TME-MT and TDX"), "{text}");
}

#[test]
fn colours_and_carriage_returns_change_nothing() {
    let plain = "[   10.1] virt/tdx: SEAMCALL (0x0000000000000021) failed: 0xc000092100000122\n\
                 [   10.1] virt/tdx: RCX 0x0 RDX 0x0 R08 0x0\n";
    let coloured = "\u{1b}[32m[   10.1] \u{1b}[0m\u{1b}[33mvirt/tdx: \u{1b}[0m\u{1b}[1;31mSEAMCALL (0x0000000000000021) \
                    failed: 0xc000092100000122\u{1b}[0m\r\n\
                    \u{1b}[32m[   10.1] \u{1b}[0m\u{1b}[33mvirt/tdx: \u{1b}[0mRCX 0x0 RDX 0x0 R08 0x0\r\n";
    assert_eq!(flat(&annotate(coloured)), flat(&annotate(plain)));
    // A sequence that is cut off takes nothing else with it.
    assert_eq!(annotate("\u{1b}[\n\u{1b}[31\n\u{1b}").entries().len(), 3);
}

#[test]
fn a_repeated_failure_is_explained_once() {
    let line = "SEAMCALL (0x000000000000001c) failed: 0xc000030000000001 RCX 0x0 RDX 0x0 R8 0x0\n";
    let text = text(&annotate(&line.repeat(3)), false);
    assert_eq!(text.matches("means").count(), 1, "{text}");
    assert_eq!(text.matches("as line 1").count(), 2, "{text}");
}

#[test]
fn lines_without_tdx_are_shown_only_on_request() {
    let log = annotate("usb 1-1: new device\nvirt/tdx: module not loaded\n");
    assert!(!text(&log, false).contains("usb"));
    assert!(text(&log, true).contains("1: usb 1-1: new device"));
}

#[test]
fn a_log_cannot_send_escape_sequences_to_the_terminal() {
    let log = annotate("virt/tdx: \x1b[2Jmodule not loaded");
    assert!(!text(&log, false).contains('\x1b'));
    let mut bytes = Vec::new();
    let mut output = Output { paint: Paint::always(), ..Output::plain(&mut bytes) };
    log.print(&mut output, false).expect("a vector takes everything");
    let coloured = String::from_utf8(bytes).expect("text");
    assert!(coloured.contains("\x1b[31;1m") && !coloured.contains("\x1b[2J"));
}

#[test]
fn the_document_lists_lines_and_outcome() {
    let mut bytes = Vec::new();
    annotate(MODULE_1_0).print(&mut Output::json(&mut bytes), false).expect("a vector takes everything");
    let document: serde_json::Value = serde_json::from_slice(&bytes).expect("a JSON document");
    assert_eq!(document["lines"], 9);
    assert_eq!(document["outcome"]["result"], "failed");
    let entries = document["entries"].as_array().expect("entries");
    assert_eq!(entries.len(), 7);
    assert_eq!(entries[2]["kind"], "explained");
    assert_eq!(entries[2]["explanation"]["leaf"]["name"], "TDH.SYS.RD");
    assert_eq!(entries[3]["of"], 4);
}

proptest! {
    #[test]
    fn any_bytes_are_accounted_for(data in prop::collection::vec(any::<u8>(), 0..600)) {
        fuzz_body(&data);
    }

    #[test]
    fn any_mixture_of_log_words_is_accounted_for(
        words in prop::collection::vec(prop::sample::select(vec![
            "virt/tdx: ", "tdx: ", "seamldr: ", "SEAMCALL ", "(0x21) ", "failed: ", "error ", "leaf ", "CPU ", "0x",
            "0xc000092100000122 ", "-5 ", "RCX ", "RDX ", "R08 ", "0x1 ", "[", ")", ", ", "TDH_SYS_INIT ", "\n", "\r\n",
            "private KeyID range ", "BIOS enabled: ", "reserved areas exhausted", "KB allocated for PAMT", "module initialized",
            "(-28)", "é", " kernel: ", "<6>", "6,1,2,-;", "command line: ", "kvm_intel.tdx=1 ", "major_version ", "99999999999999999999 ",
        ]), 0..60)
    ) {
        fuzz_body(words.concat().as_bytes());
    }
}
