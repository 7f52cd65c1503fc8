use std::fs;

use proptest::prelude::*;

use super::*;
use crate::spec::{CpuKind, E820Kind};
use crate::{Machine, presets};

const LOG: &str = "\
[    0.000000] Linux version 6.8.0
[    0.000000] BIOS-provided physical RAM map:
[    0.000000] BIOS-e820: [mem 0x0000000000000000-0x000000000009ffff] usable
kernel: BIOS-e820: [mem 0x00000000000a0000-0x00000000000fffff] reserved
2026-01-02T03:04:05 host kernel: BIOS-e820: [mem 0x0000000000100000-0x000000006f7fffff] usable
[    0.000000] BIOS-e820: [mem 0x000000006f800000-0x000000006fffffff] ACPI NVS
[    0.000000] BIOS-e820: [mem 0x0000000070000000-0x0000000070ffffff] ACPI data
[    0.000000] BIOS-e820: [mem 0x0000000100000000-0x000000207fffffff] usable
[    0.010000] ACPI: SRAT: Node 0 PXM 0 [mem 0x00000000-0x7fffffff]
[    0.010000] ACPI: SRAT: Node 0 PXM 0 [mem 0x100000000-0x107fffffff]
[    0.010000] ACPI: SRAT: Node 1 PXM 1 [mem 0x1080000000-0x207fffffff]
[    0.010000] ACPI: SRAT: Node 1 PXM 1 [mem 0x3000000000-0x3fffffffff] hotplug
[    0.020000] DMAR: DRHD base: 0x000000c77fc000 flags: 0x0
[    0.020000] DMAR: DRHD base: 0x000000f3ffc000 flags: 0x1
[    0.030000] CPU topo: Max. logical packages:   2
[    0.030000] CPU topo: Max. threads per core:   2
[    0.030000] CPU topo: Num. cores per package:    32
[    0.040000] smpboot: CPU0: INTEL(R) XEON(R) GOLD 6530 (family: 0x6, model: 0xcf, stepping: 0x2)
[    0.050000] virt/tdx: BIOS enabled: private KeyID range [32, 64)
[    5.000000] virt/tdx: CMR: [0x100000, 0x6f800000)
[    5.000000] virt/tdx: CMR: [0x100000000, 0x107a000000)
[    5.000000] virt/tdx: CMR: [0x1080000000, 0x207c000000)
[    5.000000] virt/tdx: TDX module: attributes 0x0, vendor_id 0x8086, major_version 1, minor_version 5, build_date 20231008, build_num 595
[    5.100000] virt/tdx: 532508 KB allocated for PAMT
";

#[test]
fn a_posted_log_gives_the_machine_it_tells_of() {
    let (spec, notes) = from_dmesg(LOG).expect("a machine");
    assert_eq!(spec.cpu.kind, CpuKind::EmeraldRapids);
    assert_eq!((spec.cpu.packages, spec.cpu.cores, spec.cpu.threads), (2, 32, 2));
    assert_eq!((spec.keyids.bits, spec.keyids.mktme, spec.keyids.tdx), (6, 31, 32));
    assert_eq!(spec.module.profile, "1.5.01");
    assert!(spec.description.contains("GOLD 6530"), "{}", spec.description);
    assert_eq!(spec.e820.len(), 6);
    assert_eq!(spec.e820[2].end.0, 0x6f80_0000, "the last address of a line is included");
    assert_eq!(spec.e820[3].kind, E820Kind::AcpiNvs);
    assert_eq!(spec.nodes.len(), 2);
    assert_eq!(spec.nodes[1].ranges.len(), 1, "a hotplug range is no memory");
    assert_eq!(spec.cmrs.len(), 3);
    assert_eq!(spec.cmrs[2].end.0, 0x20_7c00_0000);
    assert_eq!(spec.iommus.len(), 2);
    assert!(spec.iommus[1].include_all && !spec.iommus[0].include_all);
    assert_eq!(notes.len(), 1, "only the SEAM range was not told: {notes:?}");
    let text = spec.to_toml().expect("written");
    assert_eq!(PlatformSpec::from_toml(&text).expect("read back"), spec);
    assert!(Machine::power_on(spec, 1).is_ok());
}

#[test]
fn a_log_without_a_memory_map_is_refused_with_a_hint() {
    let message = from_dmesg("virt/tdx: TDX not supported").expect_err("nothing to go by").to_string();
    assert!(message.contains("BIOS-e820"), "{message}");
}

#[test]
fn what_a_log_does_not_tell_is_assumed_and_noted() {
    let map: Vec<_> = LOG.lines().filter(|line| line.contains("BIOS-e820:")).collect();
    let short = map.join("\n");
    let (spec, notes) = from_dmesg(&short).expect("a machine");
    let missing: Vec<_> = notes
        .iter()
        .filter_map(|note| match note {
            Note::Assumed { what, .. } => Some(*what),
            _ => None,
        })
        .collect();
    for what in
        ["CPU model", "NUMA table", "private KeyID range", "CMR list", "module version", "number of CPUs"]
    {
        assert!(missing.contains(&what), "{what} in {missing:?}");
        assert!(spec.assumed.iter().any(|assumed| assumed == what));
    }
    assert!(Machine::power_on(spec, 1).is_ok());
}

#[test]
fn a_build_that_no_release_has_is_kept() {
    let old = "major_version 1, minor_version 0, build_date 20230206, build_num 457";
    let log = LOG.replace("major_version 1, minor_version 5, build_date 20231008, build_num 595", old);
    let (spec, notes) = from_dmesg(&log).expect("a machine");
    assert_eq!((spec.module.profile.as_str(), spec.module.build), ("1.0", Some(457)));
    assert_eq!(spec.module.build_date, Some(20230206));
    assert_eq!(spec.seamldr.version, "1.0.01", "later ones do not load it");
    assert!(notes.iter().any(|note| matches!(note, Note::Assumed { what: "release of the module", .. })));

    // 1.5.20 is assumed to have the build number of 1.5.08: it proves nothing.
    let log = LOG.replace("build_date 20231008, build_num 595", "build_date 20240725, build_num 784");
    let (spec, _) = from_dmesg(&log).expect("a machine");
    assert_eq!((spec.module.profile.as_str(), spec.module.build), ("1.5.08", None));
}

#[test]
fn a_client_cpu_is_captured_without_tdx() {
    let log = LOG.replace("model: 0xcf", "model: 0x9a");
    let (spec, _) = from_dmesg(&log).expect("a machine");
    assert_eq!(spec.cpu.kind, CpuKind::Laptop);
    assert!(!spec.module.present && !spec.seamrr.enabled && spec.cmrs.is_empty());
}

#[test]
fn overlapping_entries_and_lost_memory_are_repaired_and_noted() {
    let log = "BIOS-e820: [mem 0x0-0x7fffffff] usable\n\
               BIOS-e820: [mem 0x70000000-0x8fffffff] reserved\n\
               BIOS-e820: [mem 0x100000000-0x1ffffffff] usable\n\
               SRAT: Node 0 PXM 0 [mem 0x0-0x7fffffff]\n\
               SRAT: Node 1 PXM 1 [mem 0x180000000-0x1ffffffff]\n";
    let (spec, notes) = from_dmesg(log).expect("a machine");
    assert_eq!(spec.e820[1].start.0, 0x8000_0000);
    assert_eq!(
        spec.nodes[0].ranges[1],
        crate::spec::RangeSpec {
            start: crate::spec::Hex(0x1_0000_0000),
            end: crate::spec::Hex(0x1_8000_0000)
        }
    );
    let conflicts = notes.iter().filter(|note| matches!(note, Note::Conflict { .. })).count();
    assert_eq!(conflicts, 2, "{notes:?}");
}

/// A small host below a directory of its own, removed at the end.
struct HostTree(std::path::PathBuf);

impl HostTree {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("tdx-machine-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).expect("a directory");
        Self(root)
    }

    fn put(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("a directory");
        fs::write(path, content).expect("a file");
    }
}

impl Drop for HostTree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn cpuinfo(model: u32) -> String {
    let cpus = (0..8).map(|cpu| {
        format!(
            "processor\t: {cpu}\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: {model}\n\
             model name\t: A CPU\nphysical id\t: {}\nsiblings\t: 4\ncpu cores\t: 2\n",
            cpu / 4
        )
    });
    cpus.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_running_host_is_captured_with_its_tables() {
    let tree = HostTree::new("tables");
    tree.put("proc/cpuinfo", cpuinfo(173));
    let reference = presets::find("default").expect("a preset").spec().expect("valid");
    let machine = Machine::power_on(reference.clone(), 1).expect("valid");
    for (index, entry) in machine.memory_map().iter().enumerate() {
        let kind = match entry.kind {
            E820Kind::Usable => "System RAM",
            E820Kind::AcpiData => "ACPI Tables",
            E820Kind::AcpiNvs => "ACPI Non-volatile Storage",
            _ => "Reserved",
        };
        tree.put(&format!("sys/firmware/memmap/{index}/start"), format!("{}\n", entry.range.start()));
        tree.put(
            &format!("sys/firmware/memmap/{index}/end"),
            format!("{:#x}\n", entry.range.end().as_u64() - 1),
        );
        tree.put(&format!("sys/firmware/memmap/{index}/type"), format!("{kind}\n"));
    }
    for table in ["SRAT", "DMAR"] {
        let bytes = machine.acpi_table(table).expect("built");
        tree.put(&format!("sys/firmware/acpi/tables/{table}"), bytes);
    }
    tree.put("sys/devices/faux/tdx_host/version", "2.0.08\n");
    let (spec, notes) = from_host(&tree.0).expect("a machine");
    assert_eq!(spec.cpu.kind, CpuKind::GraniteRapids);
    assert_eq!((spec.cpu.packages, spec.cpu.cores, spec.cpu.threads), (2, 2, 2));
    assert_eq!(spec.module.profile, "2.0.08");
    // A capture knows of units what DMAR tells: not that one has TDX mode, nor which bridge it names.
    let plan = reference.pci_plan().expect("valid");
    assert_eq!(spec.iommus.len(), reference.iommus.len());
    for (seen, unit) in spec.iommus.iter().zip(&reference.iommus) {
        assert_eq!(
            (seen.segment, seen.reg_base, seen.include_all),
            (unit.segment, unit.reg_base, unit.include_all)
        );
        let ports = plan.ports.iter().map(|port| port.id);
        let below = ports.filter(|id| id.segment.0 == unit.segment && Some(id.bdf.bus()) == unit.bus);
        let named = unit.scope.iter().map(|function| (function.bus, function.device, function.function));
        let below = below.map(|id| (id.bdf.bus(), id.bdf.device(), id.bdf.function()));
        let scope = seen.scope.iter().map(|function| (function.bus, function.device, function.function));
        assert_eq!(scope.collect::<Vec<_>>(), named.chain(below).collect::<Vec<_>>());
    }
    assert!(notes.iter().all(|note| !matches!(note, Note::Unreadable { .. })), "{notes:?}");
    let captured = Machine::power_on(spec, 1).expect("valid");
    assert_eq!(captured.memory_map(), machine.memory_map());
    assert_eq!(captured.numa_ranges(), machine.numa_ranges());
}

#[test]
fn a_host_that_hides_its_map_is_captured_by_size() {
    let tree = HostTree::new("hidden");
    tree.put("proc/cpuinfo", cpuinfo(154));
    tree.put("proc/iomem", "00000000-00000000 : System RAM\n  00000000-00000000 : Kernel code\n");
    tree.put("proc/meminfo", "MemTotal:       16000000 kB\nMemFree: 1 kB\n");
    let (spec, notes) = from_host(&tree.0).expect("a machine");
    assert_eq!(spec.memory.size, Some(crate::spec::Size(16 << 30)));
    assert_eq!(spec.cpu.kind, CpuKind::Laptop);
    for path in ["/sys/firmware/memmap", "/sys/firmware/acpi/tables/SRAT", "/sys/firmware/acpi/tables/DMAR"] {
        assert!(
            notes.iter().any(|note| matches!(note, Note::Unreadable { path: noted, .. } if noted == path)),
            "{path}"
        );
    }
}

#[test]
fn a_host_without_cpuinfo_names_the_file() {
    let tree = HostTree::new("empty");
    let message = from_host(&tree.0).expect_err("nothing there").to_string();
    assert!(message.starts_with("/proc/cpuinfo: "), "{message}");
    tree.put("proc/cpuinfo", cpuinfo(154));
    assert!(matches!(from_host(&tree.0), Err(CaptureError::NoMemoryMap { .. })));
}

#[test]
fn iomem_and_memory_blocks_stand_in_for_firmware_tables() {
    let tree = HostTree::new("blocks");
    tree.put("proc/cpuinfo", cpuinfo(143));
    tree.put(
        "proc/iomem",
        "00001000-0009ffff : System RAM\n00100000-7fffffff : System RAM\n  01000000-01ffffff : Kernel code\n\
         80000000-8fffffff : PCI Bus 0000:00\n90000000-9fffffff : Reserved\n\
         100000000-17fffffff : System RAM\n",
    );
    tree.put("sys/devices/system/memory/block_size_bytes", "40000000\n");
    for (node, blocks) in [(0, &[0, 1][..]), (1, &[4, 5])] {
        for block in blocks {
            tree.put(&format!("sys/devices/system/node/node{node}/memory{block}/state"), "online\n");
        }
    }
    let (spec, _) = from_host(&tree.0).expect("a machine");
    assert_eq!(spec.e820.len(), 4, "device windows are no memory");
    assert_eq!(spec.nodes.len(), 2);
    assert_eq!(spec.nodes[1].ranges[0].start.0, 4 << 30);
    assert_eq!(spec.nodes[1].ranges[0].end.0, 6 << 30);
}

#[test]
fn numbers_beyond_every_machine_are_refused_without_a_panic() {
    for (old, new) in [
        ("[32, 64)", "[1, 4294967295)"),
        ("[32, 64)", "[0, 4294967295)"),
        ("0x000000207fffffff] usable", "0xfffffffffffffffe] usable"),
        ("0x0000000070ffffff] ACPI data", "0xfffffffffffffffe] ACPI data"),
        ("0x207fffffff]", "0xfffffffffffffffe]"),
        ("cores per package:    32", "cores per package: 4294967295"),
        ("logical packages:   2", "logical packages: 4294967295"),
    ] {
        let log = LOG.replace(old, new);
        assert_ne!(log, LOG, "{old}");
        assert!(from_dmesg(&log).is_err_and(|error| matches!(error, CaptureError::Spec(_))), "{new}");
    }
}

proptest! {
    #[test]
    fn any_text_is_a_log_or_is_refused(text in "\\PC{0,300}") {
        let _ = from_dmesg(&text).map_err(|error| error.to_string());
    }

    #[test]
    fn broken_logs_are_read_as_far_as_they_go(
        cuts in prop::collection::vec((0usize..2500, 0usize..40, "[ -~]{0,6}"), 0..12),
    ) {
        let mut text = LOG.to_owned();
        for (at, len, insert) in cuts {
            let at = at.min(text.len());
            let end = (at + len).min(text.len());
            text.replace_range(at..end, &insert);
        }
        if let Ok((spec, _)) = from_dmesg(&text) {
            prop_assert!(spec.validate().is_ok());
        }
    }

    #[test]
    fn any_bytes_are_a_table(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let affinity = acpi::srat(&bytes);
        prop_assert!(affinity.lps as usize <= bytes.len());
        prop_assert!(acpi::dmar(&bytes).len() <= bytes.len());
    }
}
