//! The units of a machine, from both sides.

use pcie::ide::StreamControl;
use pcie::{Bdf, Segment};
use proptest::prelude::*;
use spdm::ide_km::{Direction, IdeKey, KeySet, KeySlot, StreamId};
use tdx_module::hardware::Hardware;

use super::*;
use crate::spec::{Hex, HostBridgeSpec, IommuSpec, KeyUnitSpec, RootPortSpec};
use crate::vtd::registers::{
    ECAP, ECAP_TDXC, ECMD, ECRSP, ESTS0, GSTS, IQA_WIDE, IQT, QUEUE, RTADDR, SET_TDX_MODE, T_IQA, T_RTADDR,
    TDX_MODE, TTM,
};
use crate::{Machine, presets};

/// Registers of the two VT-d units and the two key units.
const VTD: [u64; 2] = [0xC3FF_0000, 0xC7FF_0000];
const KEYS: [u64; 2] = [0xFE00_0000, 0xFE01_0000];

fn pa(address: u64) -> PhysAddr {
    PhysAddr::new(address)
}

fn root_port(bus: u8, device: u8) -> FunctionId {
    FunctionId::new(Segment(0), Bdf::new(bus, device, 0).expect("a function"))
}

/// Two host bridges on one package, each below a VT-d unit, with two root ports and a key unit.
fn spec() -> PlatformSpec {
    let mut spec = presets::find("tiny").expect("a preset").spec().expect("valid");
    for (number, bus) in (0u8..).zip([0x10, 0x80]) {
        let index = usize::from(number);
        spec.iommus.push(IommuSpec {
            reg_base: Hex(VTD[index]),
            bus: Some(bus),
            tdx: true,
            ..IommuSpec::default()
        });
        spec.host_bridges.push(HostBridgeSpec {
            bus,
            last_bus: Some(bus + 0x1F),
            ..HostBridgeSpec::default()
        });
        spec.root_ports.push(RootPortSpec {
            bus,
            device: 1,
            secondary: bus + 1,
            count: 2,
            ..RootPortSpec::default()
        });
        let reg_base = Hex(KEYS[index]);
        spec.key_units.push(KeyUnitSpec { bus, reg_base, streams: 4, ..KeyUnitSpec::default() });
    }
    spec
}

fn machine(faults: &[Fault]) -> Machine {
    let spec = PlatformSpec { faults: faults.to_vec(), ..spec() };
    Machine::power_on(spec, 0).expect("valid")
}

fn seam(machine: &Machine) -> &dyn ConnectHardware {
    machine.board().connect().expect("it has units")
}

/// A register of a VT-d unit as SEAM mode sees it.
fn vtd(machine: &Machine, unit: usize, offset: u16) -> u64 {
    seam(machine).mmio_read(pa(VTD[unit] + u64::from(offset)), MmioWidth::Qword)
}

fn set_vtd(machine: &Machine, unit: usize, offset: u16, value: u64) {
    seam(machine).mmio_write(pa(VTD[unit] + u64::from(offset)), MmioWidth::Qword, value);
}

/// Status of the command that takes a unit into TDX mode; `None` if it does not end in `looks`.
fn enter_tdx_mode(machine: &Machine, unit: usize, looks: u32) -> Option<u64> {
    set_vtd(machine, unit, T_IQA, 0x8000 | IQA_WIDE);
    set_vtd(machine, unit, TDX_MODE, 1);
    set_vtd(machine, unit, ECMD, SET_TDX_MODE.into());
    (0..looks)
        .map(|_| vtd(machine, unit, ECRSP))
        .find(|response| response & 1 == 0)
        .map(|response| response >> 1)
}

fn keyp(machine: &Machine) -> Vec<(u64, Vec<[u8; 4]>)> {
    let table = machine.acpi_table("KEYP").expect("it has key units");
    assert_eq!(table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0, "checksum");
    assert_eq!(&table[..4], b"KEYP");
    assert_eq!(table[4..8], u32::try_from(table.len()).expect("small").to_le_bytes());
    let mut rest = &table[40..];
    let mut rows = Vec::new();
    while let [0, _, low, high, protocol, _, count, flags, ..] = *rest {
        assert_eq!((protocol, flags), (1, 1));
        let (row, behind) = rest.split_at(usize::from(u16::from_le_bytes([low, high])));
        let (base, ports) = row[8..].split_first_chunk::<8>().expect("16 bytes at least");
        let ports = ports.as_chunks::<4>().0.to_vec();
        assert_eq!(ports.len(), usize::from(count));
        rows.push((u64::from_le_bytes(*base), ports));
        rest = behind;
    }
    assert!(rest.is_empty());
    rows
}

#[test]
fn firmware_tells_the_module_and_the_host_the_same() {
    let machine = machine(&[]);
    let units = seam(&machine).units();
    assert_eq!(units.len(), 2);
    for (number, (unit, bus)) in units.iter().zip([0x10, 0x80]).enumerate() {
        let stack = u8::try_from(number).expect("small");
        assert_eq!((unit.socket, unit.stack, unit.segment, unit.root_bus), (0, stack, Segment(0), bus));
        assert_eq!(unit.buses, bus..=bus + 0x1F);
        assert_eq!(unit.registers, PhysRange::from_size(pa(VTD[number]), 64 << 10).expect("fits"));
        assert_eq!(unit.key_units.len(), 1);
        assert_eq!(
            unit.key_units[0].registers,
            PhysRange::from_size(pa(KEYS[number]), 0x1000).expect("fits")
        );
        assert_eq!(unit.key_units[0].root_ports, [root_port(bus, 1), root_port(bus, 2)]);
    }
    assert_eq!(
        keyp(&machine),
        [
            (KEYS[0], vec![[0, 0, 0x10, 1 << 3], [0, 0, 0x10, 2 << 3]]),
            (KEYS[1], vec![[0, 0, 0x80, 1 << 3], [0, 0, 0x80, 2 << 3]]),
        ]
    );
    let dmar = machine.acpi_table("DMAR").expect("it has units");
    // 16 pages of registers, two root ports.
    assert_eq!(dmar[48..64], [&[0, 0, 32, 0, 0, 4, 0, 0][..], &VTD[0].to_le_bytes()].concat());
    assert_eq!(dmar[64..80], [2, 8, 0, 0, 0, 0x10, 1, 0, 2, 8, 0, 0, 0, 0x10, 2, 0]);
    assert_eq!(dmar.len(), 48 + 2 * 32);
}

#[test]
fn a_platform_without_units_has_no_hardware_for_connect() {
    let tiny = presets::find("tiny").expect("a preset").spec().expect("valid");
    let machine = Machine::power_on(tiny, 0).expect("valid");
    assert!(machine.board().connect().is_none());
    assert!(machine.acpi_table("KEYP").is_none());
}

#[test]
fn stacks_are_numbered_around_those_that_are_given() {
    let mut spec = spec();
    spec.iommus[0].stack = Some(5);
    spec.iommus[1].stack = None;
    let plan = spec.pci_plan().expect("valid");
    let stacks =
        |spec: &PlatformSpec| io::units(spec, &plan).iter().map(|unit| unit.stack).collect::<Vec<_>>();
    assert_eq!(stacks(&spec), [5, 0]);
    spec.iommus[0].stack = Some(0);
    assert_eq!(stacks(&spec), [0, 1]);
    spec.iommus[0].stack = None;
    spec.iommus[1].stack = Some(0);
    assert_eq!(stacks(&spec), [1, 0]);
}

#[test]
fn an_access_that_is_not_aligned_reaches_no_register() {
    let machine = machine(&[]);
    let io = seam(&machine);
    for (address, width, expected) in [
        (VTD[0] + 0x22, MmioWidth::Dword, u64::from(u32::MAX)),
        (VTD[0] + 0x24, MmioWidth::Qword, u64::MAX),
        (KEYS[0] + 2, MmioWidth::Dword, u64::from(u32::MAX)),
        (KEYS[0] + 4, MmioWidth::Qword, u64::MAX),
        (KEYS[0] + 0x1000, MmioWidth::Qword, u64::MAX),
        (VTD[0] - 8, MmioWidth::Qword, u64::MAX),
    ] {
        assert_eq!(io.mmio_read(pa(address), width), expected, "{address:#x}");
        assert_eq!(machine.mmio_read(pa(address), width), expected, "{address:#x}");
        let before = vtd(&machine, 0, RTADDR);
        io.mmio_write(pa(address), width, 0);
        assert_eq!(vtd(&machine, 0, RTADDR), before, "{address:#x}");
    }
    assert_eq!(io.mmio_read(pa(VTD[0] + 0xFFF8), MmioWidth::Qword), 0, "reserved");
}

#[test]
fn what_seam_mode_keeps_for_itself_the_host_cannot_write() {
    let machine = machine(&[]);
    let queue_tail = pa(VTD[0] + u64::from(IQT));
    let range = PhysRange::from_size(queue_tail, 8).expect("fits");
    let writes = |value| {
        machine.mmio_write(queue_tail, MmioWidth::Dword, value);
        machine.mmio_read(queue_tail, MmioWidth::Dword)
    };
    assert_eq!(writes(0x20), 0x20);
    seam(&machine).protect(range, true);
    assert_eq!(writes(0x40), 0x20);
    assert_eq!(machine.log().last(), Some(&Event::ProtectedWrite { pa: queue_tail }));
    machine.mmio_write(pa(VTD[0] + u64::from(IQT) - 8), MmioWidth::Qword, 0);
    assert_eq!(machine.log().len(), 1, "the register in front is not protected");
    set_vtd(&machine, 0, IQT, 0x60);
    assert_eq!(machine.mmio_read(queue_tail, MmioWidth::Dword), 0x60, "SEAM mode writes, everybody reads");
    seam(&machine).protect(range, false);
    assert_eq!(writes(0x80), 0x80);
    seam(&machine).protect(range, true);
    machine.power_cycle();
    assert_eq!(writes(0x20), 0x20, "nothing is protected after power-on");
}

#[test]
fn configuration_space_that_seam_mode_keeps_for_itself_the_host_cannot_write() {
    let machine = machine(&[]);
    let port = root_port(0x10, 1);
    let subordinate = |value| {
        machine.config_write(port, 0x1A, pcie::config::Width::Byte, value);
        machine.config_read(port, 0x1A, pcie::config::Width::Byte)
    };
    assert_eq!(subordinate(0x12), 0x12);
    seam(&machine).protect_config(port, 0x18, 4, true);
    assert_eq!(subordinate(0x13), 0x12);
    assert_eq!(machine.log().last(), Some(&Event::ProtectedConfigWrite { function: port, offset: 0x1A }));
    let buses = seam(&machine).config_read(port, 0x18);
    seam(&machine).config_write(port, 0x18, buses & !0x00FF_0000 | 0x0014_0000);
    assert_eq!(machine.config_read(port, 0x1A, pcie::config::Width::Byte), 0x14);
    seam(&machine).protect_config(port, 0x18, 4, false);
    assert_eq!(subordinate(0x15), 0x15);
}

#[test]
fn links_and_functions_that_are_not_there_are_said_not_to_be() {
    let machine = machine(&[]);
    assert_eq!(seam(&machine).link(root_port(0x10, 3)), None);
    let link = seam(&machine).link(root_port(0x10, 1)).expect("a root port");
    assert_eq!((link.up, link.losses), (false, 0), "nothing is plugged in");
    assert_eq!(seam(&machine).config_read(root_port(0x10, 3), 0), u32::MAX);
}

#[test]
fn a_unit_goes_into_tdx_mode_and_out_of_it() {
    let machine = machine(&[]);
    assert_eq!(enter_tdx_mode(&machine, 0, 10), Some(0));
    assert_eq!((vtd(&machine, 0, ESTS0), vtd(&machine, 1, ESTS0)), (2, 0));
    set_vtd(&machine, 0, TDX_MODE, 0);
    set_vtd(&machine, 0, ECMD, SET_TDX_MODE.into());
    assert!((0..10).any(|_| vtd(&machine, 0, ECRSP) == 0));
    assert_eq!(vtd(&machine, 0, ESTS0), 0);
    assert_eq!(enter_tdx_mode(&machine, 1, 10), Some(0));
    machine.power_cycle();
    assert_eq!(vtd(&machine, 1, ESTS0), 0);
}

#[test]
fn the_host_does_not_see_trusted_registers() {
    let machine = machine(&[]);
    set_vtd(&machine, 0, T_RTADDR, 0x4000);
    let address = pa(VTD[0] + u64::from(T_RTADDR));
    assert_eq!(machine.mmio_read(address, MmioWidth::Qword), 0);
    machine.mmio_write(address, MmioWidth::Qword, 0x9000);
    assert_eq!(vtd(&machine, 0, T_RTADDR), 0x4000);
}

#[test]
fn each_fault_shows_where_the_catalogue_says() {
    type Case = (fn(u32) -> Fault, fn(&Machine, usize) -> bool);
    let cases: [Case; 6] = [
        (
            |unit| Fault::IommuWithoutTdxMode { unit },
            |machine, unit| vtd(machine, unit, ECAP) & ECAP_TDXC == 0,
        ),
        (|unit| Fault::IommuLegacyMode { unit }, |machine, unit| vtd(machine, unit, RTADDR) & TTM == 0),
        (
            |unit| Fault::IommuQueueOff { unit },
            |machine, unit| vtd(machine, unit, GSTS & !7) >> 32 & u64::from(QUEUE) == 0,
        ),
        (
            |unit| Fault::SetTdxModeTimesOut { unit, polls: Some(70) },
            |machine, unit| enter_tdx_mode(machine, unit, 64).is_none() && vtd(machine, unit, ECRSP) == 1,
        ),
        (
            |unit| Fault::SetTdxModeFails { unit, status: 0x21 },
            |machine, unit| enter_tdx_mode(machine, unit, 10) == Some(0x21),
        ),
        (
            |unit| Fault::KeyUnitLeftEnabled { unit },
            |machine, unit| seam(machine).mmio_read(pa(KEYS[unit] + 4), MmioWidth::Dword) & 1 == 1,
        ),
    ];
    for (fault, shows) in cases {
        let named = fault(1);
        let of_file = machine(std::slice::from_ref(&named));
        assert!(shows(&of_file, 1), "{}", named.name());
        assert!(!shows(&of_file, 0), "{}: the other unit", named.name());
        assert!(of_file.inject(fault(2)).is_err(), "{}: no such unit", named.name());
        of_file.power_cycle();
        assert!(shows(&of_file, 1), "{}: faults of the file stay", named.name());

        let injected = machine(&[]);
        injected.inject(fault(0)).expect("possible");
        let at_once = named.info().takes_effect == crate::fault::TakesEffect::AtOnce;
        assert_eq!(shows(&injected, 0), at_once, "{}", named.name());
        if !at_once {
            injected.power_cycle();
            assert!(shows(&injected, 0), "{}", named.name());
        }
        injected.power_cycle();
        assert!(!shows(&injected, 0), "{}: it has ended", named.name());
    }
}

#[test]
fn a_command_that_hangs_never_ends() {
    let machine = machine(&[Fault::SetTdxModeTimesOut { unit: 0, polls: None }]);
    assert_eq!(enter_tdx_mode(&machine, 0, 10_000), None);
    assert_eq!(vtd(&machine, 0, ESTS0), 0);
}

#[test]
fn keyp_can_list_a_root_port_of_another_bridge() {
    let machine = machine(&[Fault::KeypPartialMatch]);
    let rows = keyp(&machine);
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].1, [[0, 0, 0x10, 1 << 3], [0, 0, 0x10, 2 << 3], [0, 0, 0x80, 1 << 3]]);
    assert_eq!(seam(&machine).units()[0].key_units[0].root_ports.len(), 2, "the module is told the truth");
}

#[test]
fn keyp_of_a_single_bridge_can_list_a_port_of_none() {
    let mut spec = spec();
    spec.iommus.pop();
    spec.host_bridges.pop();
    spec.root_ports.pop();
    spec.key_units.pop();
    spec.faults = vec![Fault::KeypPartialMatch];
    let machine = Machine::power_on(spec.clone(), 0).expect("valid");
    assert_eq!(keyp(&machine)[0].1.last(), Some(&[0, 0, 0x30, 0]), "the bus behind the bridge's last");
    (spec.host_bridges[0].bus, spec.host_bridges[0].last_bus) = (0, Some(0xFF));
    spec.iommus[0].bus = Some(0);
    spec.key_units[0].bus = 0;
    (spec.root_ports[0].bus, spec.root_ports[0].secondary) = (0, 1);
    let machine = Machine::power_on(spec, 0).expect("valid");
    assert_eq!(keyp(&machine)[0].1.last(), Some(&[0xFF, 0xFF, 0, 0]), "another segment");
}

#[test]
fn keyp_can_list_a_unit_twice() {
    let machine = machine(&[Fault::KeypDoubleMatch]);
    let bases: Vec<_> = keyp(&machine).iter().map(|(base, _)| *base).collect();
    assert_eq!(bases, [KEYS[0], KEYS[1], KEYS[0]]);
}

#[test]
fn domain_ids_are_in_use_below_the_unit_of_the_fault_alone() {
    let machine = machine(&[]);
    assert_eq!(machine.upper_domain_id_in_use(pa(VTD[0])), None);
    machine.inject(Fault::DomainIdsInUse { unit: 1 }).expect("possible");
    assert_eq!(machine.upper_domain_id_in_use(pa(VTD[0])), None);
    assert_eq!(machine.upper_domain_id_in_use(pa(VTD[1])), Some(0x8000));
    machine.power_cycle();
    assert_eq!(machine.upper_domain_id_in_use(pa(VTD[1])), None);
}

#[test]
fn faults_are_refused_where_there_is_nothing_to_break() {
    let tiny = presets::find("tiny").expect("a preset").spec().expect("valid");
    let mut plain = spec();
    plain.iommus[0].tdx = false;
    for fault in [
        Fault::IommuWithoutTdxMode { unit: 0 },
        Fault::IommuLegacyMode { unit: 0 },
        Fault::IommuQueueOff { unit: 0 },
        Fault::SetTdxModeTimesOut { unit: 0, polls: None },
        Fault::SetTdxModeFails { unit: 0, status: 1 },
        Fault::DomainIdsInUse { unit: 0 },
    ] {
        assert!(fault.check(&tiny).is_err(), "{}", fault.name());
        assert!(fault.check(&plain).is_err(), "{}", fault.name());
        assert!(fault.check(&spec()).is_ok(), "{}", fault.name());
    }
    for fault in [Fault::KeyUnitLeftEnabled { unit: 0 }, Fault::KeypPartialMatch, Fault::KeypDoubleMatch] {
        assert!(fault.check(&tiny).is_err(), "{}", fault.name());
        assert!(fault.check(&spec()).is_ok(), "{}", fault.name());
    }
    for (status, possible) in [(0, false), (1, true), (0x7F, true), (0x80, false)] {
        assert_eq!(Fault::SetTdxModeFails { unit: 0, status }.check(&spec()).is_ok(), possible, "{status}");
    }
}

#[test]
fn faults_without_parameters_break_the_last_unit_with_tdx_mode() {
    assert_eq!(
        Fault::by_name("set-tdx-mode-fails", &spec()),
        Some(Fault::SetTdxModeFails { unit: 1, status: 1 })
    );
    let mut spec = spec();
    spec.iommus[1].tdx = false;
    assert_eq!(Fault::by_name("iommu-queue-off", &spec), Some(Fault::IommuQueueOff { unit: 0 }));
}

/// The control register of the first selective stream of a root port.
fn control(machine: &Machine, port: FunctionId) -> (u16, u16) {
    let read = |offset| machine.config_read(port, offset, Width::Dword);
    let mut at = 0x100;
    while read(at) & 0xFFFF != 0x30 {
        at = u16::try_from(read(at) >> 20).expect("12 bits");
        assert_ne!(at, 0, "an IDE capability");
    }
    let link_streams =
        if read(at + 4) & 1 == 0 { 0 } else { u16::try_from(read(at + 4) >> 13 & 7).expect("3 bits") + 1 };
    let block = at + 0xC + 8 * link_streams;
    (block, block + 4)
}

#[test]
fn keys_of_the_unit_make_the_stream_of_the_root_port_secure() {
    let machine = machine(&[]);
    let port = root_port(0x10, 2);
    let (block, control_register) = control(&machine, port);
    let io = seam(&machine);
    let id = StreamId(7);
    io.config_write(port, block + 0xC, 0x00FF_FF00);
    io.config_write(port, block + 0x10, 1);
    let settings = StreamControl::new().with_stream_id(id.0);
    io.config_write(port, control_register, settings.into_bits());
    let layout = Layout::new(4);
    let write = |offset: u64, value: u32| io.mmio_write(pa(KEYS[0] + offset), MmioWidth::Dword, value.into());
    let [tx_keys, tx_ivs, rx_keys, rx_ivs] = [148, 148 + 24 * 32, 148 + 24 * 40, 148 + 24 * 72];
    assert_eq!(io.mmio_read(pa(KEYS[0]), MmioWidth::Dword), u64::from(layout.capability()));
    for slot in KeySlot::of_set(KeySet::K0) {
        let place = u64::from(slot.sub_stream.number());
        let (keys, ivs) = if slot.direction == Direction::Tx { (tx_keys, tx_ivs) } else { (rx_keys, rx_ivs) };
        let key = IdeKey::new([slot.sub_stream.number() + 1; 32]).to_root_port_slot();
        for (dword, value) in (0..).zip(key.as_chunks::<4>().0) {
            write(keys + place * 32 + dword * 4, u32::from_le_bytes(*value));
        }
        write(ivs + place * 8, 1);
        write(ivs + place * 8 + 4, 0);
    }
    write(4 + 20, 1 << 10 | 2 << 20);
    write(4 + 28, 1 << 10 | 2 << 20);
    write(4, u32::from(id.0) << 24);
    write(4 + 4, 1 | 1 << 8);
    write(4 + 12, 1 << 8);
    let state = || io.config_read(port, block + 8) & 0xF;
    assert_eq!(state(), 0);
    write(4, u32::from(id.0) << 24 | 1);
    assert_eq!(state(), 0, "the port is not enabled");
    io.config_write(port, control_register, settings.with_enable(true).into_bits());
    assert_eq!(state(), 2);
    write(4, u32::from(id.0) << 24);
    assert_eq!(state(), 0, "the unit is disabled");
}

fn registers(machine: &Machine) -> Vec<u64> {
    let io = seam(machine);
    let vtd = (0..0x500).step_by(8).map(|offset| io.mmio_read(pa(VTD[0] + offset), MmioWidth::Qword));
    let keys = (0..0x1000).step_by(8).map(|offset| io.mmio_read(pa(KEYS[0] + offset), MmioWidth::Qword));
    vtd.chain(keys).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A unit that the module has taken is not changed by whatever the host writes.
    #[test]
    fn the_host_never_changes_a_protected_unit(
        writes in proptest::collection::vec((any::<bool>(), 0..0x1000u64, any::<bool>(), any::<u64>()), 1..100),
    ) {
        let machine = machine(&[]);
        prop_assert_eq!(enter_tdx_mode(&machine, 0, 10), Some(0));
        let io = seam(&machine);
        for unit in io.units().to_vec() {
            io.protect(unit.registers, true);
            unit.key_units.iter().for_each(|unit| io.protect(unit.registers, true));
        }
        let before = registers(&machine);
        for (keys, dword, wide, value) in &writes {
            let (base, offset) = if *keys { (KEYS[0], dword * 4 % 0x1000) } else { (VTD[0], dword * 4) };
            let width = if *wide { MmioWidth::Qword } else { MmioWidth::Dword };
            let offset = if *wide { offset & !7 } else { offset };
            machine.mmio_write(pa(base + offset), width, *value);
        }
        prop_assert_eq!(registers(&machine), before);
        let dropped = machine.log().iter().filter(|event| matches!(event, Event::ProtectedWrite { .. })).count();
        prop_assert_eq!(dropped, writes.len());
    }
}
