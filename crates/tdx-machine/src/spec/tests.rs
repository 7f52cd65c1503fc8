use proptest::prelude::*;

use super::*;
use crate::fault::{Answer, CallLeaf};
use crate::presets;

fn tiny() -> PlatformSpec {
    presets::find("tiny").expect("a preset").spec().expect("valid")
}

/// Changes `tiny` and returns what is wrong with it then.
fn issue(change: impl FnOnce(&mut PlatformSpec)) -> Option<SpecIssue> {
    let mut spec = tiny();
    change(&mut spec);
    spec.validate().err().and_then(|error| error.issue().cloned())
}

fn span(start: u64, end: u64) -> RangeSpec {
    RangeSpec { start: Hex(start), end: Hex(end) }
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_what_is_allowed() {
    let text = "name = \"x\"\n[cpu]\nkind = \"laptop\"\npackages = 1\ncores = 1\nthreads = 1\nsockets = 2\n";
    let message = PlatformSpec::from_toml(text).expect_err("unknown key").to_string();
    assert!(message.contains("line 7"), "{message}");
    assert!(message.contains("`sockets`"), "{message}");
    assert!(message.contains("`packages`"), "{message}");
    assert!(!message.contains('\n'), "{message}");
}

#[test]
fn unknown_keys_are_refused_at_every_level() {
    let text = presets::find("tiny").expect("a preset").toml;
    for (table, line) in [
        ("[cpu]", "zzz = 1"),
        ("[memory]", "zzz = 1"),
        ("[keyids]", "zzz = 1"),
        ("[module]", "zzz = 1"),
        ("[seamldr]", "zzz = 1"),
    ] {
        let changed = text.replacen(table, &format!("{table}\n{line}"), 1);
        let message = PlatformSpec::from_toml(&changed).expect_err(table).to_string();
        assert!(message.contains("`zzz`"), "{table}: {message}");
    }
    for addition in [
        "[seamrr]\nzzz = 1",
        "[errata]\nzzz = 1",
        "[allocator]\nzzz = 1",
        "[embedder]\nzzz = 1",
        "[chaos]\nzzz = 1",
        "[cpu.x2apic]\nzzz = 1",
        "[[node]]\nid = 0\nzzz = 1",
        "[[cmr]]\nstart = 0\nend = 1\nzzz = 1",
        "[[e820]]\nstart = 0\nend = 1\nkind = \"usable\"\nzzz = 1",
        "[[package]]\nindex = 0\nzzz = 1",
        "[[iommu]]\nsegment = 0\nreg_base = 0\nzzz = 1",
        "[[host_bridge]]\nsegment = 0\nbus = 0\npackage = 0\nzzz = 1",
        "[[key_unit]]\nsegment = 0\nbus = 0\nreg_base = 0\nstreams = 1\nzzz = 1",
        "zzz = 1",
    ] {
        let changed = format!("{addition}\n").replacen("zzz = 1\n", "zzz = 1\n", 1);
        let changed =
            if addition == "zzz = 1" { format!("{changed}{text}") } else { format!("{text}\n{changed}") };
        let message = PlatformSpec::from_toml(&changed).expect_err(addition).to_string();
        assert!(message.contains("`zzz`"), "{addition}: {message}");
    }
}

#[test]
fn a_wrong_kind_names_those_that_exist() {
    let text = presets::find("tiny").expect("a preset").toml.replace("granite-rapids", "pentium");
    let message = PlatformSpec::from_toml(&text).expect_err("no such kind").to_string();
    assert!(message.contains("`pentium`") && message.contains("`sapphire-rapids`"), "{message}");
}

#[test]
fn topology_rules_are_named() {
    assert_eq!(issue(|_| {}), None);
    assert_eq!(issue(|spec| spec.cpu.packages = 9), Some(SpecIssue::PackageCount { packages: 9 }));
    assert_eq!(issue(|spec| spec.cpu.packages = 0), Some(SpecIssue::PackageCount { packages: 0 }));
    assert_eq!(issue(|spec| spec.cpu.cores = 0), Some(SpecIssue::CoreCount { cores: 0 }));
    assert_eq!(issue(|spec| spec.cpu.threads = 3), Some(SpecIssue::ThreadCount { threads: 3 }));
    assert_eq!(
        issue(|spec| spec.cpu.x2apic.package_stride = Some(3)),
        Some(SpecIssue::BadPackageStride { stride: 3, needed: 2 })
    );
    assert_eq!(
        issue(|spec| spec.cpu.x2apic.package_bases = vec![0, 2]),
        Some(SpecIssue::PackageBaseCount { given: 2, packages: 1 })
    );
    assert_eq!(
        issue(|spec| spec.cpu.x2apic.package_bases = vec![1]),
        Some(SpecIssue::UnalignedPackageBase { package: 0, base: 1, stride: 2 })
    );
    assert_eq!(
        issue(|spec| {
            spec.cpu.packages = 2;
            spec.cpu.x2apic.package_bases = vec![4, 4];
        }),
        Some(SpecIssue::DuplicateX2apicId { id: 4, first: 0, second: 1 })
    );
    assert_eq!(
        issue(|spec| spec.cpu.x2apic.package_bases = vec![u32::MAX - 1]),
        None,
        "the last two ids are ids"
    );
    assert_eq!(
        issue(|spec| {
            spec.cpu.packages = 8;
            spec.cpu.x2apic.package_stride = Some(1 << 31);
        }),
        Some(SpecIssue::X2apicIdOverflow { package: 2 })
    );
}

#[test]
fn cmr_rules_are_named() {
    let cmrs = |list: Vec<RangeSpec>| issue(move |spec| spec.cmrs = list);
    assert_eq!(
        cmrs((0..33).map(|n| span(n << 20, (n << 20) + 4096)).collect()),
        Some(SpecIssue::TooManyCmrs { count: 33 })
    );
    assert_eq!(cmrs((0..32).map(|n| span(n << 20, (n << 20) + 4096)).collect()), None);
    let odd = PhysRange::new(PhysAddr::new(0x1000), PhysAddr::new(0x1800)).expect("a range");
    assert_eq!(cmrs(vec![span(0x1000, 0x1800)]), Some(SpecIssue::UnalignedCmr { index: 0, range: odd }));
    let second = PhysRange::new(PhysAddr::new(0x2000), PhysAddr::new(0x4000)).expect("a range");
    assert_eq!(
        cmrs(vec![span(0x1000, 0x3000), span(0x2000, 0x4000)]),
        Some(SpecIssue::OverlappingCmr { index: 1, range: second })
    );
    assert_eq!(cmrs(vec![span(0x1000, 0x1000)]), Some(SpecIssue::EmptyCmr { index: 0 }));
    assert!(matches!(
        cmrs(vec![span(0x1000, 1 << 47)]),
        Some(SpecIssue::BeyondAddressWidth { what: "cmr", bits: 46, .. })
    ));
    assert!(matches!(
        cmrs(vec![span(0x1000, 0x7900_0000)]),
        Some(SpecIssue::SeamrrOverlap { what: "CMR", .. })
    ));
}

#[test]
fn memory_rules_are_named() {
    let usable = |start, end| E820Spec { start: Hex(start), end: Hex(end), kind: E820Kind::Usable };
    let node = |start, end| NodeSpec { id: 0, package: Some(0), ranges: vec![span(start, end)] };
    assert_eq!(issue(|spec| spec.memory.size = None), Some(SpecIssue::NoMemory));
    assert_eq!(
        issue(|spec| spec.memory.size = Some(Size(1 << 30))),
        Some(SpecIssue::BadMemorySize { size: 1 << 30 })
    );
    assert!(matches!(
        issue(|spec| spec.memory.size = Some(Size(1 << 46))),
        Some(SpecIssue::BeyondAddressWidth { what: "memory.size", .. })
    ));
    assert_eq!(issue(|spec| spec.e820 = vec![usable(0, 1 << 30)]), Some(SpecIssue::MapWithoutNodes));
    assert_eq!(
        issue(|spec| {
            spec.e820 = vec![usable(0, 1 << 30)];
            spec.nodes = vec![node(0, 1 << 30)];
        }),
        None
    );
    let pieces = |count: u64| {
        issue(move |spec| {
            spec.e820 = (0..count).map(|n| usable((4 + n) << 30, ((4 + n) << 30) + 4096)).collect();
            spec.nodes = vec![node(4 << 30, (4 + count) << 30)];
        })
    };
    assert_eq!(pieces(32), None);
    assert_eq!(pieces(33), Some(SpecIssue::TooManyGeneratedCmrs { count: 33 }));
    let lost = PhysRange::new(PhysAddr::new(0), PhysAddr::new(1 << 30)).expect("a range");
    assert_eq!(
        issue(|spec| {
            spec.e820 = vec![usable(0, 1 << 30)];
            spec.nodes = vec![node(0, 1 << 29)];
        }),
        Some(SpecIssue::MemoryOutsideNodes { range: lost })
    );
    assert!(matches!(
        issue(|spec| spec.e820 = vec![usable(0, 0x2000), usable(0x1000, 0x3000)]),
        Some(SpecIssue::OverlappingE820 { index: 1, .. })
    ));
    assert!(matches!(
        issue(|spec| spec.nodes = vec![node(0, 0x2000), NodeSpec { id: 1, ..node(0x1000, 0x3000) }]),
        Some(SpecIssue::OverlappingNodes { node: 1, other: 0, .. })
    ));
    assert_eq!(
        issue(|spec| spec.nodes = vec![node(0, 1 << 40), node(1 << 41, 1 << 42)]),
        Some(SpecIssue::DuplicateNode { node: 0 })
    );
    assert_eq!(
        issue(|spec| spec.nodes = vec![NodeSpec { package: Some(1), ..node(0, 1 << 40) }]),
        Some(SpecIssue::NodeWithoutPackage { node: 0, package: 1, packages: 1 })
    );
}

#[test]
fn keyid_rules_are_named() {
    let keys =
        |bits, mktme, tdx| issue(move |spec| spec.keyids = KeyIdSpec { bits, mktme, tdx, integrity: true });
    assert_eq!(keys(6, 31, 32), None);
    assert_eq!(keys(7, 0, 127), None);
    assert_eq!(keys(16, 0, 1), Some(SpecIssue::KeyIdBits { bits: 16 }));
    assert_eq!(keys(6, 31, 33), Some(SpecIssue::KeyIdSplit { mktme: 31, tdx: 33, bits: 6, room: 63 }));
    assert_eq!(keys(6, 30, 32), Some(SpecIssue::KeyIdSplitNotByBits { mktme: 30 }));
    assert!(matches!(keys(6, u32::MAX, 1), Some(SpecIssue::KeyIdSplit { .. })));
}

#[test]
fn seamrr_rules_are_named() {
    let seamrr = |base, size| {
        issue(move |spec| {
            spec.seamrr.base = Hex(base);
            spec.seamrr.size = Size(size);
        })
    };
    assert_eq!(seamrr(0x7800_0000, 64 << 20), None);
    assert_eq!(seamrr(0x7800_0000, 1 << 20), Some(SpecIssue::SeamrrSize { size: 1 << 20 }));
    assert_eq!(
        seamrr(0x7A00_0000, 64 << 20),
        Some(SpecIssue::SeamrrAlignment { base: 0x7A00_0000, size: 64 << 20 })
    );
    assert!(matches!(seamrr(1 << 32, 64 << 20), Some(SpecIssue::SeamrrOverlap { .. })));
}

#[test]
fn names_of_other_parts_must_exist() {
    assert!(matches!(
        issue(|spec| spec.module.profile = "1.9".to_owned()),
        Some(SpecIssue::UnknownProfile { profile, known }) if profile == "1.9" && known.contains("1.5.01")
    ));
    assert_eq!(
        issue(|spec| spec.module.switches = [("TDH.NOTHING-1".to_owned(), true)].into()),
        Some(SpecIssue::UnknownSwitch { row: "TDH.NOTHING-1".to_owned() })
    );
    assert_eq!(
        issue(|spec| spec.seamldr.version = "2.0".to_owned()),
        Some(SpecIssue::BadSeamldrVersion { version: "2.0".to_owned() })
    );
    assert_eq!(
        issue(|spec| spec.packages = vec![PackageSpec { index: 1, ..PackageSpec::default() }]),
        Some(SpecIssue::NoSuchPackage { key: "package.index", package: 1, packages: 1 })
    );
    assert_eq!(
        issue(|spec| spec.faults = vec![Fault::CpuidMismatch { package: 1 }]),
        Some(SpecIssue::NoSuchPackage { key: "faults", package: 1, packages: 1 })
    );
    assert_eq!(issue(|spec| spec.cpu.kind = CpuKind::Laptop), Some(SpecIssue::ModuleWithoutTdx));
    assert_eq!(
        issue(|spec| spec.chaos.busy = 1_000_001),
        Some(SpecIssue::BadRate { key: "busy", rate: 1_000_001 })
    );
}

#[test]
fn dates_are_eight_decimal_digits() {
    for good in [20250101, 20231231, 10000101] {
        assert_eq!(issue(|spec| spec.module.build_date = Some(good)), None, "{good}");
    }
    for bad in [0, 9991231, 20250001, 20251301, 20250100, 20250132, 100000101, u32::MAX] {
        let refused = |key| Some(SpecIssue::BadDate { key, date: bad });
        assert_eq!(issue(|spec| spec.seamldr.build_date = bad), refused("seamldr.build_date"));
        assert_eq!(issue(|spec| spec.module.build_date = Some(bad)), refused("module.build_date"));
    }
}

#[test]
fn device_rules_are_named() {
    let unit = IommuSpec { segment: 0, reg_base: Hex(0x1000), ..IommuSpec::default() };
    let list = |units: Vec<IommuSpec>| issue(move |spec| spec.iommus = units);
    assert_eq!(list(vec![unit.clone()]), None);
    assert_eq!(
        list(vec![IommuSpec { reg_base: Hex(0x1800), ..unit.clone() }]),
        Some(SpecIssue::UnalignedRegisters { key: "iommu", base: 0x1800 })
    );
    assert_eq!(list(vec![unit.clone(), unit.clone()]), Some(SpecIssue::DuplicateIommu { base: 0x1000 }));
    let far = FunctionSpec { bus: 0, device: 32, function: 0, bridge: false };
    assert_eq!(
        list(vec![IommuSpec { scope: vec![far], ..unit }]),
        Some(SpecIssue::BadFunction { device: 32, function: 0 })
    );
    assert_eq!(
        issue(|spec| spec.host_bridges = vec![HostBridgeSpec { package: 3, ..HostBridgeSpec::default() }]),
        Some(SpecIssue::NoSuchPackage { key: "host_bridge.package", package: 3, packages: 1 })
    );
    let key_unit = KeyUnitSpec { reg_base: Hex(0x10), streams: 1, ..KeyUnitSpec::default() };
    assert_eq!(
        issue(|spec| spec.key_units = vec![key_unit]),
        Some(SpecIssue::UnalignedRegisters { key: "key_unit", base: 0x10 })
    );
}

#[test]
fn faults_are_written_by_name_and_with_parameters() {
    let text = presets::find("tiny").expect("a preset").toml;
    let faults = "faults = [\"no-vmx\", \"msr-0x87-faults\", \"module-1.0\", \"no-movdir64b\", \
                  { msr-mismatch = { package = 0, msr = \"0x122\" } }, { tdmr-init-fails = { after = 7 } }]\n";
    let spec = PlatformSpec::from_toml(&format!("{faults}{text}")).expect("valid");
    assert_eq!(
        spec.faults,
        [
            Fault::NoVmx,
            Fault::Msr0x87Faults,
            Fault::Module10,
            Fault::NoMovdir64b,
            Fault::MsrMismatch { package: 0, msr: Hex(0x122) },
            Fault::TdmrInitFails { after: 7 },
        ]
    );
    let unknown = format!("faults = [\"no-luck\"]\n{text}");
    let message = PlatformSpec::from_toml(&unknown).expect_err("unknown").to_string();
    assert!(message.contains("`no-luck`") && message.contains("`lp-missing`"), "{message}");
}

#[test]
fn every_preset_reads_back_from_its_own_text() {
    for preset in presets::all() {
        let spec = preset.spec().unwrap_or_else(|error| panic!("{}: {error}", preset.name));
        assert_eq!(spec.name, preset.name);
        assert_eq!(spec.description, preset.description);
        let text = spec.to_toml().expect("written");
        assert_eq!(PlatformSpec::from_toml(&text).expect("read back"), spec, "{}", preset.name);
    }
}

fn any_range() -> impl Strategy<Value = RangeSpec> {
    (any::<u64>(), any::<u64>()).prop_map(|(start, end)| span(start, end))
}

fn any_fault() -> impl Strategy<Value = Fault> {
    let names: Vec<_> = crate::fault::CATALOGUE.iter().map(|info| info.name).collect();
    (prop::sample::select(names), any::<u32>(), any::<u64>()).prop_map(|(name, number, msr)| {
        match Fault::by_name(name, &tiny()).expect("in the catalogue") {
            Fault::CpuidMismatch { .. } => Fault::CpuidMismatch { package: number },
            Fault::CpuidIncorrect { .. } => Fault::CpuidIncorrect { package: number },
            Fault::MsrMismatch { .. } => Fault::MsrMismatch { package: number, msr: Hex(msr) },
            Fault::KeyConfigEntropy { .. } => Fault::KeyConfigEntropy { times: number },
            Fault::TdmrInitFails { .. } => Fault::TdmrInitFails { after: number },
            Fault::NoEntropyForInstall { .. } => Fault::NoEntropyForInstall { times: number },
            Fault::NoEntropyForLog { .. } => Fault::NoEntropyForLog { times: number },
            Fault::SeamcallFails { .. } => Fault::SeamcallFails {
                leaf: CallLeaf::of(msr),
                lp: number,
                status: if number % 2 == 0 { Answer::Status(msr) } else { Answer::VmFailInvalid },
                times: number,
            },
            other => other,
        }
    })
}

proptest! {
    #[test]
    fn any_platform_reads_back_from_its_own_text(
        name in "\\PC{0,20}",
        counts in (any::<u32>(), any::<u32>(), any::<u32>()),
        size in prop::option::of(any::<u64>()),
        cmrs in prop::collection::vec(any_range(), 0..4),
        nodes in prop::collection::vec((any::<u32>(), prop::option::of(any::<u32>()), any_range()), 0..4),
        msrs in prop::collection::btree_map(any::<u32>(), any::<u64>().prop_map(Hex), 0..4),
        faults in prop::collection::vec(any_fault(), 0..4),
        allocator in (prop::option::of(any::<u64>()), prop::option::of(any::<u32>())),
        flags in any::<[bool; 4]>(),
    ) {
        let mut spec = tiny();
        spec.name = name;
        (spec.cpu.packages, spec.cpu.cores, spec.cpu.threads) = counts;
        spec.memory.size = size.map(Size);
        spec.cmrs = cmrs;
        spec.nodes = nodes.into_iter().map(|(id, package, range)| NodeSpec { id, package, ranges: vec![range] }).collect();
        spec.packages = vec![PackageSpec { index: 3, msr: msrs, msr_absent: vec![Hex(1)], cpuid: vec![] }];
        spec.faults = faults;
        spec.allocator = AllocatorSpec { largest_free_run: allocator.0.map(Size), free_ranges: allocator.1 };
        spec.seamrr.locked = flags[0];
        spec.keyids.integrity = flags[1];
        spec.module.real_features = flags[2];
        spec.errata = flags[3].then(|| ErrataSpec { pw_mce: flags[0], seamret_invd_vmcs: flags[1] });
        let text = spec.to_toml().expect("written");
        prop_assert_eq!(toml::from_str::<PlatformSpec>(&text).expect("read back"), spec);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
        let _ = PlatformSpec::from_toml(&text).map_err(|error| error.to_string());
    }

    #[test]
    fn any_numbers_are_accepted_or_refused_by_name(
        packages in any::<u32>(),
        cores in any::<u32>(),
        base in any::<u64>(),
        size in any::<u64>(),
        cmrs in prop::collection::vec(any_range(), 0..4),
    ) {
        let mut spec = tiny();
        spec.cpu.packages = packages;
        spec.cpu.cores = cores;
        spec.seamrr.base = Hex(base);
        spec.memory.size = Some(Size(size));
        spec.cmrs = cmrs;
        if let Err(error) = spec.validate() {
            prop_assert!(error.issue().is_some());
            prop_assert!(!error.to_string().contains('\n'));
        }
    }
}
