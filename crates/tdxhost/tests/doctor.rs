//! `doctor`: what is missing on fabricated hosts.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use tdx_abi::msr::MsrIndex;
use tdxhost::doctor::{
    CpuIdentity, DoctorArgs, Facts, MSRS, RealHost, Report, Snapshot, State, Unseen, examine, run_on,
};
use tdxhost::text::Output;

const SEAMRR: MsrIndex = MsrIndex::IA32_SEAMRR_PHYS_MASK;
const KEYIDS: MsrIndex = MsrIndex::IA32_MKTME_KEYID_PARTITIONING;

/// Two packages of Granite Rapids with everything right, and Linux 7.3.
fn good() -> Snapshot {
    let mut host = Snapshot {
        cpu: CpuIdentity {
            vendor: "GenuineIntel".to_owned(),
            family: 6,
            model: 0xad,
            stepping: 1,
            name: "Intel(R) Xeon(R) 6747P".to_owned(),
            flags: ["vmx", "xsave", "movdir64b", "ss", "tdx_host_platform"].map(str::to_owned).into(),
        },
        files: BTreeMap::from(
            [
                ("/proc/cmdline", "root=/dev/sda kvm_intel.tdx=1 nohibernate"),
                ("/proc/sys/kernel/osrelease", "7.3.0\n"),
                ("/sys/module/kvm_intel/parameters/tdx", "Y\n"),
                ("/sys/devices/faux/tdx_host/version", "2.0.08\n"),
            ]
            .map(|(path, text)| (path.to_owned(), text.to_owned())),
        ),
        kernel_log: Some("virt/tdx: TDX-Module initialized\n".to_owned()),
        ..Snapshot::default()
    };
    for package in 0..2 {
        host.set_msr(package, MsrIndex::IA32_TME_ACTIVATE, 0x2);
        host.set_msr(package, SEAMRR, 0xc00);
        host.set_msr(package, KEYIDS, 32 << 32 | 31);
        host.set_msr(package, MsrIndex::MSR_MCHECK_STATUS, 0);
        host.set_msr(package, MsrIndex::MSR_PLATFORM_INFO, 0x8000);
    }
    host
}

fn failed(report: &Report) -> Vec<&'static str> {
    report.checks.iter().filter(|check| check.state == State::Failed).map(|check| check.id).collect()
}

fn text(report: &Report) -> String {
    let mut bytes = Vec::new();
    report.print(&mut Output::plain(&mut bytes)).expect("a vector takes everything");
    String::from_utf8(bytes).expect("text")
}

#[test]
fn a_host_with_everything_is_ready() {
    let report = examine(&good());
    assert_eq!(failed(&report), Vec::<&str>::new(), "{report:?}");
    assert!(report.ready && !report.hopeless);
    assert!(text(&report).contains("2.0.08") && text(&report).contains("Granite Rapids"));
}

#[test]
fn every_missing_piece_is_found_alone() {
    type Change = fn(&mut Snapshot);
    let cases: [(&str, Change); 18] = [
        ("cpu-vmx", |host| _ = host.cpu.flags.remove("vmx")),
        ("cpu-xsave", |host| _ = host.cpu.flags.remove("xsave")),
        ("cpu-movdir64b", |host| _ = host.cpu.flags.remove("movdir64b")),
        ("cpu-self-snoop", |host| _ = host.cpu.flags.remove("ss")),
        ("tdx-host-platform", |host| _ = host.cpu.flags.remove("tdx_host_platform")),
        ("msr-tme-activate", |host| host.set_msr(1, MsrIndex::IA32_TME_ACTIVATE, 0)),
        ("msr-seamrr", |host| host.set_msr(1, SEAMRR, 0x400)),
        ("msr-seamrr", |host| host.set_msr(1, SEAMRR, 0x800)),
        ("msr-seamrr", |host| host.remove_msr(0, SEAMRR)),
        ("msr-keyid-partitioning", |host| host.set_msr(0, KEYIDS, 63)),
        ("msr-keyid-partitioning", |host| {
            host.set_msr(0, KEYIDS, 1 << 32 | 31);
            host.set_msr(1, KEYIDS, 1 << 32 | 31);
        }),
        // Each value would do, but the packages must agree.
        ("msr-keyid-partitioning", |host| host.set_msr(1, KEYIDS, 16 << 32 | 31)),
        ("msr-mcheck", |host| host.set_msr(1, MsrIndex::MSR_MCHECK_STATUS, 0x2)),
        ("msr-production", |host| host.set_msr(0, MsrIndex::MSR_PLATFORM_INFO, 1 << 27)),
        ("hibernation", |host| {
            host.files.insert("/proc/cmdline".to_owned(), "root=/dev/sda kvm_intel.tdx=1".to_owned());
            host.files.insert("/sys/power/state".to_owned(), "freeze mem disk\n".to_owned());
        }),
        ("kvm-intel-tdx", |host| {
            host.files.insert("/sys/module/kvm_intel/parameters/tdx".to_owned(), "N\n".to_owned());
        }),
        ("kernel-log", |host| host.kernel_log = Some("virt/tdx: module not loaded\n".to_owned())),
        ("tdx-host-device", |host| _ = host.files.remove("/sys/devices/faux/tdx_host/version")),
    ];
    for (id, change) in cases {
        let mut host = good();
        change(&mut host);
        let report = examine(&host);
        assert_eq!(failed(&report), [id], "{report:?}");
        assert!(!report.ready && !report.hopeless, "{id}");
        let check = report.checks.iter().find(|check| check.id == id).expect("it is there");
        assert!(check.advice.as_deref().is_some_and(|advice| advice.ends_with('.')), "{check:?}");
        assert!(text(&report).contains("FAILED"), "{id}");
    }
}

#[test]
fn the_package_at_fault_is_named() {
    let mut host = good();
    host.set_msr(1, SEAMRR, 0x400);
    assert!(
        text(&examine(&host))
            .contains("package 0: bit 11 = 1, bit 10 = 1; package 1: bit 11 = 0, bit 10 = 1")
    );
}

#[test]
fn a_machine_without_tdx_is_told_so_in_one_sentence() {
    type Change = fn(&mut CpuIdentity);
    let cases: [(&str, Change); 4] = [
        ("AuthenticAMD", |cpu| "AuthenticAMD".clone_into(&mut cpu.vendor)),
        ("a guest of a hypervisor", |cpu| _ = cpu.flags.insert("hypervisor".to_owned())),
        ("is a TD", |cpu| _ = cpu.flags.insert("tdx_guest".to_owned())),
        ("has no TDX", |cpu| {
            cpu.model = 0x9a;
            cpu.flags.remove("tdx_host_platform");
        }),
    ];
    for (part, change) in cases {
        let mut host = good();
        change(&mut host.cpu);
        let report = examine(&host);
        assert!(report.hopeless && !report.ready, "{part}");
        let text = text(&report);
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains(part), "{text}");
        assert!(failed(&report).contains(&"cpu-model"));
    }
}

#[test]
fn a_model_that_the_kernel_knows_needs_no_list() {
    let mut host = good();
    host.cpu.model = 0xff;
    assert!(examine(&host).ready);
}

#[test]
fn the_device_is_found_in_every_layout_and_not_expected_of_old_kernels() {
    for path in ["/sys/devices/virtual/tdx/tdx_tsm/version", "/sys/devices/virtual/tdx/seamldr/version"] {
        let mut host = good();
        host.files.remove("/sys/devices/faux/tdx_host/version");
        host.files.insert(path.to_owned(), "1.5.06\n".to_owned());
        assert!(examine(&host).ready, "{path}");
    }
    let mut host = good();
    host.files.remove("/sys/devices/faux/tdx_host/version");
    host.files.insert("/proc/sys/kernel/osrelease".to_owned(), "6.8.0-1028-intel\n".to_owned());
    assert!(examine(&host).ready);
}

#[test]
fn a_host_without_linux_is_not_asked_for_kernel_options() {
    let mut host = good();
    host.kernel_log = None;
    host.files.retain(|path, _| path.starts_with("/sys/devices/faux"));
    let report = examine(&host);
    assert!(report.ready, "{report:?}");
    assert!(!report.checks.iter().any(|check| check.id == "kvm-intel-tdx"));
}

#[test]
fn a_snapshot_survives_its_document() {
    let host = good();
    let document = serde_json::to_string(&host).expect("a document");
    assert_eq!(serde_json::from_str::<Snapshot>(&document).expect("a snapshot"), host);
    for msr in MSRS {
        assert!(host.rdmsr(0, msr).is_ok(), "{msr}");
    }
    let mut broken = good();
    broken.msrs.entry(0).or_default().insert("0x1401".to_owned(), "soon".to_owned());
    assert!(matches!(broken.rdmsr(0, SEAMRR), Err(Unseen::Failed { .. })));
}

/// A host that refuses to be looked at as closely as an ordinary user wants.
struct Locked(Snapshot);

impl Facts for Locked {
    fn cpu(&self) -> Result<CpuIdentity, Unseen> {
        self.0.cpu()
    }

    fn packages(&self) -> Result<Vec<u32>, Unseen> {
        self.0.packages()
    }

    fn rdmsr(&self, _: u32, _: MsrIndex) -> Result<u64, Unseen> {
        Err(Unseen::Denied("/dev/cpu/0/msr".to_owned()))
    }

    fn read_file(&self, path: &str) -> Result<String, Unseen> {
        self.0.read_file(path)
    }

    fn kernel_log(&self) -> Result<String, Unseen> {
        Err(Unseen::Denied("/dev/kmsg".to_owned()))
    }
}

#[test]
fn what_needs_root_is_unknown_and_says_so() {
    let report = examine(&Locked(good()));
    assert!(!report.ready && failed(&report).is_empty(), "{report:?}");
    for check in report.checks.iter().filter(|check| check.state == State::Unknown) {
        assert!(check.seen.contains("permission denied"), "{check:?}");
        assert!(check.advice.as_deref().is_some_and(|advice| advice.contains("as root")), "{check:?}");
    }
    assert!(report.verdict.contains("6 checks could not be looked at"), "{}", report.verdict);
}

/// Writes the files of [`good`] below a directory, as Linux shows them.
fn fabricate(root: &Path) {
    let write = |path: &str, text: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        fs::write(path, text).expect("written");
    };
    write(
        "proc/cpuinfo",
        "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 173\nmodel name\t: Xeon\nstepping\t: 1\n\
         flags\t\t: vmx xsave movdir64b ss tdx_host_platform\n\n",
    );
    for (path, text) in &good().files {
        write(path.trim_start_matches('/'), text);
    }
    write(
        "dev/kmsg",
        "6,1,2,-;virt/tdx: BIOS enabled: private KeyID range [32, 64)\n6,2,3,-;virt/tdx: TDX-Module initialized\n",
    );
    for (cpu, package) in [(0, 0), (1, 0), (2, 1)] {
        write(
            &format!("sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id"),
            &format!("{package}\n"),
        );
        write(&format!("dev/cpu/{cpu}/msr"), "");
        let file =
            fs::OpenOptions::new().write(true).open(root.join(format!("dev/cpu/{cpu}/msr"))).expect("opened");
        for msr in MSRS {
            let value = good().rdmsr(0, msr).expect("set");
            file.write_all_at(&value.to_le_bytes(), u64::from(msr.0)).expect("written");
        }
    }
    // An offline CPU has no topology, and its MSRs cannot be read.
    fs::create_dir_all(root.join("sys/devices/system/cpu/cpu3")).expect("made");
    fs::create_dir_all(root.join("sys/devices/system/cpu/cpufreq")).expect("made");
}

fn doctor(root: &Path) -> Report {
    examine(&RealHost::new(root))
}

#[test]
fn a_fabricated_root_with_everything_is_ready() {
    let root = tempfile::tempdir().expect("a directory");
    fabricate(root.path());
    let report = doctor(root.path());
    assert!(report.ready, "{}", text(&report));
    let keyids =
        report.checks.iter().find(|check| check.id == "msr-keyid-partitioning").expect("it is there");
    assert_eq!(keyids.seen, "32 private KeyIDs (32 to 63) on all 2 packages");
}

#[test]
fn without_the_msr_driver_the_checks_say_how_to_load_it() {
    let root = tempfile::tempdir().expect("a directory");
    fabricate(root.path());
    fs::remove_dir_all(root.path().join("dev/cpu")).expect("removed");
    let report = doctor(root.path());
    let unknown: Vec<&str> =
        report.checks.iter().filter(|check| check.state == State::Unknown).map(|check| check.id).collect();
    assert_eq!(unknown.len(), MSRS.len(), "{unknown:?}");
    assert!(!report.ready && failed(&report).is_empty());
    assert!(text(&report).contains("modprobe msr"));
}

#[test]
fn an_empty_root_leaves_everything_unknown_but_breaks_nothing() {
    let root = tempfile::tempdir().expect("a directory");
    let report = doctor(root.path());
    assert!(!report.ready && !report.hopeless);
    assert!(report.checks.iter().any(|check| check.id == "cpu-model" && check.state == State::Unknown));
    assert!(text(&report).contains("Not ready for TDX"));
}

#[test]
fn the_wrong_msr_of_one_package_is_found_through_its_device_file() {
    let root = tempfile::tempdir().expect("a directory");
    fabricate(root.path());
    let file = fs::OpenOptions::new().write(true).open(root.path().join("dev/cpu/2/msr")).expect("opened");
    file.write_all_at(&0_u64.to_le_bytes(), u64::from(SEAMRR.0)).expect("written");
    assert_eq!(failed(&doctor(root.path())), ["msr-seamrr"]);
}

#[test]
fn exit_code_and_document_follow_the_report() {
    let root = tempfile::tempdir().expect("a directory");
    fabricate(root.path());
    let args = DoctorArgs { root: Some(root.path().to_owned()), ..DoctorArgs::default() };
    let run = |args: &DoctorArgs| {
        let mut bytes = Vec::new();
        let code = run_on(args, &mut Output::json(&mut bytes), &|_| Ok(Box::new(good()))).expect("it runs");
        let document: serde_json::Value = serde_json::from_slice(&bytes).expect("a JSON document");
        (format!("{code:?}"), document)
    };
    let (code, document) = run(&args);
    assert_eq!(code, format!("{:?}", std::process::ExitCode::SUCCESS));
    assert_eq!(document["ready"], true);
    fs::remove_file(root.path().join("sys/devices/faux/tdx_host/version")).expect("removed");
    let (code, document) = run(&args);
    assert_eq!(code, format!("{:?}", std::process::ExitCode::FAILURE));
    let device = document["checks"].as_array().expect("checks").last().expect("a check").clone();
    assert_eq!((device["id"].as_str(), device["state"].as_str()), (Some("tdx-host-device"), Some("failed")));
    // Behind a socket, the facts are those of the simulated host.
    let (_, document) = run(&DoctorArgs { api: Some("socket".into()), ..DoctorArgs::default() });
    assert_eq!(document["ready"], true);
}
