//! Platforms of guests, and what no guest can have.

use tdx_abi::PhysAddr;
use tdx_machine::fault;
use tdx_machine::spec::E820Kind;

use super::*;

const GIB: u64 = 1 << 30;

fn ram() -> [PhysRange; 2] {
    let range = |start, end| PhysRange::new(PhysAddr::new(start), PhysAddr::new(end)).expect("a range");
    [range(0, 2 * GIB), range(4 * GIB, 6 * GIB)]
}

fn build(arguments: &[&str], vcpus: u32) -> Result<PlatformSpec, PlatformError> {
    platform(&Options::parse(arguments.iter().copied()).expect("good arguments"), &ram(), vcpus)
}

fn refusal(arguments: &[&str], vcpus: u32) -> String {
    let text = build(arguments, vcpus).expect_err("refused").to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

#[test]
fn without_a_platform_the_guest_is_one_package_with_thirty_two_private_keyids() {
    let spec = build(&[], 6).expect("good");
    assert_eq!((spec.cpu.packages, spec.cpu.cores, spec.cpu.threads), (1, 6, 1));
    assert_eq!((spec.keyids.bits, spec.keyids.mktme, spec.keyids.tdx), (6, 31, 32));
    assert_eq!((spec.module.profile.as_str(), spec.chaos.busy), ("connect", 0));
    let map: Vec<_> = spec.e820.iter().map(|entry| (entry.start.0, entry.end.0, entry.kind)).collect();
    assert_eq!(map, [(0, 2 * GIB, E820Kind::Usable), (4 * GIB, 6 * GIB, E820Kind::Usable)]);
}

#[test]
fn profile_keyids_and_loader_are_as_asked_for() {
    let spec = build(&["profile=1.5.06", "remaining_updates=2", "seamldr=1.5.02"], 1).expect("good");
    assert_eq!(spec.module.profile, "1.5.06");
    assert_eq!((spec.seamldr.remaining_updates, spec.seamldr.version.as_str()), (2, "1.5.02"));
    let spec = build(&["platform=tiny", "remaining_updates=0"], 2).expect("good");
    assert_eq!((spec.name.as_str(), spec.seamldr.remaining_updates), ("tiny", 0));
}

#[test]
fn any_number_of_private_keyids_has_a_split() {
    for (private, bits, shared) in
        [(0, 6, 31), (1, 6, 31), (32, 6, 31), (33, 7, 63), (64, 7, 63), (65, 8, 127), (16384, 15, 16383)]
    {
        let spec = build(&[&format!("private_keyids={private}")], 1).expect("good");
        assert_eq!((spec.keyids.bits, spec.keyids.mktme, spec.keyids.tdx), (bits, shared, private));
    }
}

#[test]
fn a_preset_and_its_file_are_the_same_platform() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let toml = presets::find("gnr-2s-connect").expect("a preset").toml;
    std::fs::write(file.path(), toml).expect("written");
    let argument = format!("platform={}", file.path().display());
    let from_file = build(&[&argument], 384).expect("good");
    assert_eq!(from_file, build(&["platform=gnr-2s-connect"], 384).expect("good"));
    assert_eq!(from_file.cpu.lp_count(), Some(384));
}

#[test]
fn locks_are_busy_and_keys_fail_by_chance_only_where_a_platform_says_so() {
    let chaos = build(&["platform=default"], 32).expect("good").chaos;
    assert_eq!((chaos.busy, chaos.no_entropy), (0, 0));
    assert_ne!(chaos.interrupt, 0);
    let file = tempfile::NamedTempFile::new().expect("a file");
    let toml = presets::find("tiny").expect("a preset").toml;
    std::fs::write(file.path(), format!("{toml}\n[chaos]\nbusy = 7\nno_entropy = 3\ninterrupt = 5\n"))
        .expect("written");
    let spec = build(&[&format!("platform={}", file.path().display())], 2).expect("good");
    assert_eq!((spec.chaos.busy, spec.chaos.no_entropy, spec.chaos.interrupt), (7, 3, 5));
}

#[test]
fn a_topology_that_cannot_match_is_refused_with_the_one_that_does() {
    assert_eq!(
        refusal(&["platform=gnr-8s"], 4),
        "platform `gnr-8s` has 1792 logical processors, the guest 4: give QEMU `-smp 1792,sockets=8,cores=112,threads=2`"
    );
    assert_eq!(
        refusal(&[], 513),
        "513 vCPUs do not fit one package; name a platform with more packages by `platform`"
    );
}

#[test]
fn a_platform_that_is_nowhere_is_refused_with_the_nearest_name() {
    let text = refusal(&["platform=tinny"], 2);
    assert!(
        text.starts_with("platform `tinny` is neither a file nor a preset, did you mean `tiny`?; presets are tiny, default,"),
        "{text}"
    );
    assert!(refusal(&["platform=/"], 2).starts_with("platform file /: "));
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "name = \"x\"\ncolour = 1\n").expect("written");
    let text = refusal(&[&format!("platform={}", file.path().display())], 2);
    assert!(text.starts_with("platform file, line "), "{text}");
}

#[test]
fn every_fault_of_the_catalogue_is_either_there_or_refused_with_another_way() {
    let mut refused = Vec::new();
    let ours = |info: &&fault::FaultInfo| info.breaks != fault::Breaks::Connect;
    for info in fault::CATALOGUE.iter().filter(|info| !ours(info)) {
        let text = refusal(&[&format!("fault={}", info.name)], 2);
        assert!(text.ends_with("its IOMMUs, its ACPI tables and its devices are QEMU's"), "{text}");
    }
    for info in fault::CATALOGUE.iter().filter(ours) {
        match build(&[&format!("fault={}", info.name)], 2) {
            Ok(spec) => assert!(spec.faults.iter().any(|fault| fault.name() == info.name), "{}", info.name),
            Err(PlatformError::FaultOutOfReach { fault, .. }) => refused.push(fault),
            Err(other) => panic!("{}: {other}", info.name),
        }
    }
    assert_eq!(
        refused,
        [
            "no-vmx",
            "too-many-tdmrs",
            "too-many-reserved-areas",
            "no-contiguous-pamt",
            "no-xsave",
            "no-movdir64b",
            "no-selfsnoop",
            "vmxe-already-set",
            "hibernation-possible"
        ]
    );
    assert_eq!(
        refusal(&["fault=no-xsave"], 1),
        "fault `no-xsave` does not reach a guest: give QEMU `-xsave` with `-cpu`"
    );
}

#[test]
fn what_the_machine_refuses_is_refused() {
    assert!(build(&["seamldr=9.0.00", "platform=tiny"], 2).is_ok(), "any version is played");
    assert!(matches!(build(&["fault=keyids-one", "private_keyids=0"], 1), Err(PlatformError::Refused(_))));
    let none = platform(&Options::default(), &[], 1);
    assert!(matches!(none, Err(PlatformError::Refused(_))), "a guest without RAM");
}
