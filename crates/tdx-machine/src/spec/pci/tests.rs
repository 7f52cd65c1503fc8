use pcie::Bdf;
use tdx_abi::{PhysAddr, PhysRange};

use super::*;
use crate::presets;
use crate::spec::{Hex, SpecIssue};

const MIB: u64 = 1 << 20;
/// Above all memory of `tiny`.
const WINDOW: u64 = 0x2000_0000_0000;

fn at(bus: u8, device: u8) -> FunctionId {
    FunctionId::new(pcie::Segment(0), Bdf::new(bus, device, 0).expect("an address"))
}

fn span(start: u64, end: u64) -> RangeSpec {
    RangeSpec { start: Hex(start), end: Hex(end) }
}

/// Two host bridges with two root ports each, an endpoint below the first of each, a key unit.
fn platform() -> PlatformSpec {
    let mut spec = presets::find("tiny").expect("a preset").spec().expect("valid");
    for (number, bus) in [(0, 0x10), (1, 0x40)] {
        let start = WINDOW + number * 64 * MIB;
        let window = Some(span(start, start + 64 * MIB));
        spec.host_bridges.push(HostBridgeSpec { bus, window, ..HostBridgeSpec::default() });
        spec.root_ports.push(RootPortSpec {
            bus,
            device: 1,
            secondary: bus + 1,
            subordinate: Some(bus + 4),
            count: 2,
            ..RootPortSpec::default()
        });
        spec.endpoints.push(EndpointEntry::below(at(bus, 1)));
    }
    let reg_base = Hex(0xfe00_0000);
    spec.key_units.push(KeyUnitSpec { bus: 0x10, reg_base, streams: 4, ..KeyUnitSpec::default() });
    spec
}

fn issue(change: impl FnOnce(&mut PlatformSpec)) -> Option<SpecIssue> {
    let mut spec = platform();
    change(&mut spec);
    let issue = spec.validate().err().and_then(|error| error.issue().cloned());
    if let Some(issue) = &issue {
        assert!(!issue.to_string().contains('\n'), "{issue}");
    }
    issue
}

#[test]
fn a_plan_has_every_function_at_its_address_and_every_window_in_its_bridge() {
    let plan = platform().pci_plan().expect("valid");
    assert_eq!(plan.bridges.iter().map(|bridge| bridge.last_bus).collect::<Vec<_>>(), [0x3f, 0xff]);
    let buses: Vec<_> = plan.ports.iter().map(|port| (port.id, port.secondary, port.subordinate)).collect();
    assert_eq!(
        buses,
        [
            (at(0x10, 1), 0x11, 0x14),
            (at(0x10, 2), 0x15, 0x18),
            (at(0x40, 1), 0x41, 0x44),
            (at(0x40, 2), 0x45, 0x48),
        ]
    );
    let device = plan.ports[2].device.as_ref().expect("an endpoint");
    assert_eq!(device.spec.pci.address.0, at(0x41, 0));
    assert_eq!(device.spec.pci.window, Hex(WINDOW + 64 * MIB));
    let range = PhysRange::from_size(PhysAddr::new(WINDOW + 64 * MIB), MIB);
    assert_eq!(Some(plan.ports[2].window), range, "six windows of 64 KiB, in whole MiB");
    assert!(plan.ports[1].window.is_empty(), "nothing is below");
    assert_eq!(plan.key_units[0].root_ports, [at(0x10, 1), at(0x10, 2)], "all of the bridge");
}

#[test]
fn host_bridges_share_neither_buses_nor_addresses() {
    assert_eq!(issue(|_| {}), None);
    assert_eq!(
        issue(|spec| spec.host_bridges[0].last_bus = Some(0x40)),
        Some(SpecIssue::OverlappingBridges { segment: 0, bus: 0x10, other: 0x40 })
    );
    assert_eq!(issue(|spec| spec.host_bridges[0].last_bus = Some(0x3f)), None);
    assert_eq!(
        issue(|spec| spec.host_bridges[1].last_bus = Some(0x3f)),
        Some(SpecIssue::BridgeBuses { segment: 0, bus: 0x40, last_bus: 0x3f })
    );
    for window in [span(WINDOW, WINDOW), span(WINDOW, WINDOW + MIB / 2), span(WINDOW + 1, WINDOW + MIB)] {
        assert_eq!(
            issue(|spec| spec.host_bridges[0].window = Some(window)),
            Some(SpecIssue::BridgeWindow { segment: 0, bus: 0x10 })
        );
    }
    for (start, what) in [
        (0x1_0000_0000, "memory"),
        (0x7800_0000, "the SEAM range"),
        (WINDOW + 64 * MIB, "the window of another host bridge"),
        (0xfe00_0000, "registers of an IOMMU or a key unit"),
    ] {
        let found = issue(|spec| spec.host_bridges[0].window = Some(span(start, start + MIB)));
        let window = PhysRange::from_size(PhysAddr::new(start), MIB).expect("a range");
        // Of two windows that overlap, the second one is named.
        let window = if start > WINDOW {
            PhysRange::from_size(PhysAddr::new(WINDOW + 64 * MIB), 64 * MIB).expect("a range")
        } else {
            window
        };
        assert_eq!(found, Some(SpecIssue::WindowOverlap { window, what }));
    }
    assert!(matches!(
        issue(|spec| spec.host_bridges[0].window = Some(span(1 << 47, (1 << 47) + MIB))),
        Some(SpecIssue::BeyondAddressWidth { what: "host_bridge.window", .. })
    ));
}

#[test]
fn root_ports_are_on_a_root_bus_and_have_buses_of_their_own() {
    assert_eq!(
        issue(|spec| spec.root_ports[0].device = 31),
        Some(SpecIssue::RootPortAddress { segment: 0, bus: 0x10, device: 31, function: 0, number: 1 })
    );
    assert_eq!(
        issue(|spec| spec.root_ports[1].bus = 0x11),
        Some(SpecIssue::PortWithoutBridge { port: at(0x11, 1) })
    );
    assert_eq!(
        issue(|spec| spec.root_ports[1] = RootPortSpec { secondary: 0x30, ..spec.root_ports[0] }),
        Some(SpecIssue::DuplicatePort { port: at(0x10, 1) })
    );
    for (secondary, subordinate) in [(0x14, 0x11), (0x10, 0x10), (0x3d, 0x40)] {
        assert!(
            matches!(
                issue(|spec| {
                    spec.root_ports[0].count = 1;
                    spec.root_ports[0].secondary = secondary;
                    spec.root_ports[0].subordinate = Some(subordinate);
                }),
                Some(SpecIssue::PortBuses { .. })
            ),
            "{secondary:#x}"
        );
    }
    assert_eq!(
        issue(|spec| {
            let more = RootPortSpec { device: 5, secondary: 0x18, count: 1, ..spec.root_ports[0] };
            spec.root_ports.push(RootPortSpec { subordinate: None, ..more });
        }),
        Some(SpecIssue::OverlappingPorts { port: at(0x10, 5), other: at(0x10, 2), bus: 0x18 })
    );
    for streams in [0, 97] {
        assert_eq!(
            issue(|spec| spec.root_ports[1].selective_streams = streams),
            Some(SpecIssue::PortStreams { port: at(0x40, 1), streams, most: 96 })
        );
    }
    assert_eq!(issue(|spec| spec.root_ports[1].selective_streams = 96), None);
    assert_eq!(
        issue(|spec| (spec.root_ports[1].ide, spec.root_ports[1].selective_streams) = (false, 0)),
        None,
        "a port without IDE"
    );
}

#[test]
fn an_endpoint_has_a_port_for_itself_and_a_device_that_can_be() {
    assert_eq!(
        issue(|spec| spec.endpoints[0].port = Named(at(0x10, 3))),
        Some(SpecIssue::EndpointWithoutPort { port: at(0x10, 3) })
    );
    assert_eq!(
        issue(|spec| spec.endpoints[0].count = 3),
        Some(SpecIssue::EndpointWithoutPort { port: at(0x10, 3) })
    );
    assert_eq!(
        issue(|spec| spec.endpoints.push(EndpointEntry::below(at(0x10, 1)))),
        Some(SpecIssue::TwoEndpoints { port: at(0x10, 1) })
    );
    assert!(matches!(
        issue(|spec| spec.endpoints[0].device = "toaster".to_owned()),
        Some(SpecIssue::UnknownDevice { device, known }) if device == "toaster" && known.contains("plain")
    ));
    assert_eq!(
        issue(|spec| {
            spec.endpoints[0].device = "single".to_owned();
            spec.endpoints[0].own = Some(Box::default());
        }),
        Some(SpecIssue::TwoDevices { port: at(0x10, 1), device: "single".to_owned() })
    );
    assert_eq!(issue(|spec| spec.endpoints[0].own = Some(Box::default())), None);
    assert!(matches!(
        issue(|spec| {
            let mut own = EndpointSpec::default();
            own.functions[0].virtual_functions = 300;
            spec.endpoints[0].own = Some(Box::new(own));
        }),
        Some(SpecIssue::Device { port, .. }) if port == at(0x10, 1)
    ));
    assert_eq!(
        issue(|spec| spec.endpoints[0].dsm = Some(DsmSpec { socket: String::new() })),
        Some(SpecIssue::NoSocket { port: at(0x10, 1) })
    );
}

#[test]
fn windows_that_do_not_fit_their_bridge_are_refused() {
    assert_eq!(
        issue(|spec| spec.host_bridges[0].window = None),
        Some(SpecIssue::WindowFull { port: at(0x10, 1), window: None })
    );
    let window = PhysRange::from_size(PhysAddr::new(WINDOW), MIB);
    let one = |spec: &mut PlatformSpec| spec.host_bridges[0].window = Some(span(WINDOW, WINDOW + MIB));
    assert_eq!(issue(one), None);
    assert_eq!(
        issue(|spec| {
            one(spec);
            spec.endpoints[0].count = 2;
        }),
        Some(SpecIssue::WindowFull { port: at(0x10, 2), window })
    );
}

#[test]
fn a_key_unit_serves_ports_with_ide_of_one_bridge() {
    let base = 0xfe00_0000;
    let ports = |list: &'static [(u8, u8)]| {
        issue(move |spec| {
            spec.key_units[0].root_ports = list.iter().map(|&(bus, device)| Named(at(bus, device))).collect();
        })
    };
    assert_eq!(ports(&[(0x10, 2)]), None);
    assert_eq!(ports(&[(0x10, 1), (0x40, 1)]), Some(SpecIssue::UnitOfTwoBridges { base, port: at(0x40, 1) }));
    assert_eq!(ports(&[(0x10, 7)]), Some(SpecIssue::UnitWithoutPort { base, port: at(0x10, 7) }));
    assert_eq!(
        issue(|spec| spec.key_units[0].bus = 0x20),
        Some(SpecIssue::UnitWithoutBridge { base, segment: 0, bus: 0x20 })
    );
    assert_eq!(
        issue(|spec| {
            spec.root_ports[0].ide = false;
            spec.key_units[0].root_ports = vec![Named(at(0x10, 1))];
        }),
        Some(SpecIssue::UnitPortWithoutIde { base, port: at(0x10, 1) })
    );
    for streams in [0, 257] {
        assert_eq!(
            issue(|spec| spec.key_units[0].streams = streams),
            Some(SpecIssue::UnitStreams { base, streams })
        );
    }
    assert_eq!(
        issue(|spec| spec.key_units[0].streams = 3),
        Some(SpecIssue::MoreStreamsThanUnit { base, port: at(0x10, 1), streams: 4, most: 3 })
    );
    let second = base + 0x2_0000;
    assert_eq!(
        issue(|spec| {
            let unit = KeyUnitSpec { reg_base: Hex(second), ..spec.key_units[0].clone() };
            spec.key_units.push(unit);
        }),
        Some(SpecIssue::PortOfTwoUnits { port: at(0x10, 1), first: base, second })
    );
}

#[test]
fn a_vtd_unit_serves_a_bridge_that_is_there() {
    let unit = |stack, bus| {
        let unit = IommuSpec { reg_base: Hex(0xf000_0000), stack, bus, ..IommuSpec::default() };
        issue(move |spec| spec.iommus = vec![unit])
    };
    assert_eq!(unit(Some(15), Some(0x40)), None);
    assert_eq!(unit(Some(16), None), Some(SpecIssue::IommuStack { base: 0xf000_0000, stack: 16 }));
    assert_eq!(
        unit(None, Some(0x41)),
        Some(SpecIssue::IommuWithoutBridge { base: 0xf000_0000, segment: 0, bus: 0x41 })
    );
    let mut spec = platform();
    let served = IommuSpec { bus: Some(0x40), ..IommuSpec::default() };
    let rest = IommuSpec { include_all: true, reg_base: Hex(0x1000), ..IommuSpec::default() };
    spec.iommus = vec![served.clone(), rest.clone()];
    let plan = spec.pci_plan().expect("valid");
    assert_eq!(spec.bridge_below(&served, &plan).map(|bridge| bridge.bus), Some(0x40));
    assert_eq!(spec.bridge_below(&rest, &plan).map(|bridge| bridge.bus), Some(0x10));
    let scope = |device| FunctionSpec { bus: 0x40, device, function: 0, bridge: true };
    assert_eq!(spec.scope_of(&served), [scope(1), scope(2)]);
    assert!(spec.scope_of(&rest).is_empty());
}

#[test]
fn no_two_units_are_the_same_stack_of_a_package() {
    let unit = |number: u64, bus, stack| IommuSpec {
        reg_base: Hex(0xf000_0000 + (number << 16)),
        bus: Some(bus),
        stack,
        ..IommuSpec::default()
    };
    let two =
        |first, second| issue(move |spec| spec.iommus = vec![unit(0, 0x10, first), unit(1, 0x40, second)]);
    assert_eq!(two(Some(3), Some(4)), None);
    assert_eq!(two(Some(0), None), None, "the other one gets a free stack");
    assert_eq!(
        two(Some(3), Some(3)),
        Some(SpecIssue::SameStack { base: 0xf001_0000, other: 0xf000_0000, package: 0, stack: 3 })
    );
    let many = |count| issue(move |spec| spec.iommus = (0..count).map(|n| unit(n, 0x10, None)).collect());
    assert_eq!(many(16), None);
    assert_eq!(many(17), Some(SpecIssue::TooManyStacks { package: 0, most: 16 }));
}

#[test]
fn registers_of_units_lie_apart_and_below_the_last_address() {
    let tdx = |reg_base: u64| IommuSpec { reg_base: Hex(reg_base), tdx: true, ..IommuSpec::default() };
    let one = |reg_base| issue(move |spec| spec.iommus = vec![tdx(reg_base)]);
    // 64 KiB with TDX mode; the key unit is at 0xfe000000, with streams for one page.
    assert_eq!(one(0xfdff_0000), None);
    assert_eq!(one(0xfe00_1000), None);
    for reg_base in [0xfdff_1000, 0xfe00_0000] {
        let issue = one(reg_base);
        assert!(matches!(issue, Some(SpecIssue::OverlappingRegisters { .. })), "{reg_base:#x}: {issue:?}");
    }
    let two = |second| issue(move |spec| spec.iommus = vec![tdx(0xf000_0000), tdx(second)]);
    assert_eq!(two(0xf001_0000), None);
    assert!(matches!(two(0xf000_f000), Some(SpecIssue::OverlappingRegisters { .. })));
    assert_eq!(one(!0xfff), Some(SpecIssue::RegistersBeyond { key: "iommu" }));
    assert!(matches!(one(1 << 50), Some(SpecIssue::BeyondAddressWidth { what: "iommu", .. })));
    // The window of a host bridge begins inside of them.
    let overlap = one(WINDOW - 0x1000);
    assert!(matches!(overlap, Some(SpecIssue::WindowOverlap { .. })), "{overlap:?}");
}

#[test]
fn what_tdx_connect_takes_fits_a_list_of_pages() {
    let set =
        |change: fn(&mut crate::spec::ModuleConnectSpec)| issue(move |spec| change(&mut spec.module.connect));
    assert_eq!(set(|connect| connect.ide_mt = Some(512)), None);
    let refused = |key, pages, least, most| Some(SpecIssue::ConnectPages { key, pages, least, most });
    assert_eq!(set(|connect| connect.ide_mt = Some(0)), refused("ide_mt", 0, 1, 512));
    assert_eq!(set(|connect| connect.spdm_mt = Some(513)), refused("spdm_mt", 513, 1, 512));
    assert_eq!(set(|connect| connect.iommu_mt = Some(511)), refused("iommu_mt", 511, 0, 510));
    assert_eq!(
        set(|connect| connect.spdm_max_dev_info_pages = Some(0)),
        refused("spdm_max_dev_info_pages", 0, 1, 512)
    );
}

#[test]
fn a_platform_with_devices_reads_back_from_its_own_text() {
    let mut spec = platform();
    spec.endpoints[0].faults = vec![crate::endpoint::DeviceFault::ExpiredChain];
    spec.endpoints[0].dsm = Some(DsmSpec { socket: "127.0.0.1:2323".to_owned() });
    spec.endpoints[1].own = Some(Box::default());
    spec.key_units[0].root_ports = vec![Named(at(0x10, 2))];
    spec.module.connect.pool_pages = Some(100);
    let text = spec.to_toml().expect("written");
    assert_eq!(PlatformSpec::from_toml(&text).expect("read back"), spec);
    for addition in [
        "[[root_port]]\nsegment = 0\nbus = 16\ndevice = 9\nsecondary = 48\nzzz = 1",
        "[[endpoint]]\nport = \"0000:10:02.0\"\nzzz = 1",
        "[[endpoint]]\nport = \"0000:10:02.0\"\ndsm = { socket = \"x\", zzz = 1 }",
        "[module.connect]\nzzz = 1",
    ] {
        let tiny = presets::find("tiny").expect("a preset").toml;
        let message =
            PlatformSpec::from_toml(&format!("{tiny}\n{addition}\n")).expect_err(addition).to_string();
        assert!(message.contains("`zzz`"), "{addition}: {message}");
    }
}

#[test]
fn presets_with_tdx_connect_have_devices_within_the_limits_of_the_hardware() {
    let plan =
        |name| presets::find(name).expect("a preset").spec().expect("valid").pci_plan().expect("valid");
    let large = plan("gnr-2s-connect");
    assert!(large.ports.iter().filter(|port| port.device.is_some()).count() >= 256);
    for (number, bridge) in large.bridges.iter().enumerate() {
        let below = large.ports.iter().filter(|port| port.bridge == number);
        assert!(below.count() <= 255, "stream ids of a host bridge");
        let streams = large.key_units.iter().find(|unit| unit.bridge == number).map(|unit| unit.streams);
        assert_eq!(streams, Some(32), "a stream for each device below {}:{:#x}", bridge.segment, bridge.bus);
    }
    let small = plan("default");
    let devices: Vec<_> = small.ports.iter().filter_map(|port| port.device.as_ref()).collect();
    assert_eq!(devices.iter().filter(|device| device.spec.pci.tee_io).count(), 3);
    assert_eq!(devices.iter().filter(|device| !device.spec.pci.tee_io).count(), 1);
}
