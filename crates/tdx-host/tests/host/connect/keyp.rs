//! The table KEYP.

use pcie::{Bdf, FunctionId, Segment};
use proptest::prelude::*;
use tdx_abi::PhysAddr;
use tdx_host::iommu::keyp::KeyUnits;
use tdx_host::traits::PciFunction;
use tdx_host::{ConnectError, ConnectState};

use crate::fake::connect::{bridge, function, key_unit, keyp};
use crate::fake::{Bench, Fake};

const A: u64 = 0xFEDB_0000;
const B: u64 = 0xFEDC_0000;

/// Streams of the two bridges with `table`, or the reason for which Connect is off.
fn streams(table: Option<Vec<u8>>) -> Result<[u16; 2], &'static str> {
    let mut bench = Bench::up(Fake::with_connect(0));
    bench.fake.state().io.keyp = table;
    bench.fake.state().io.registers = [(A, 0), (B, 0xFFFF_F0FE)].into();
    let done = bench.host.connect_init(&*bench.fake, &mut bench.memory.connect);
    if let Err(error) = done {
        assert_eq!(bench.host.connect_state(), ConnectState::Off(error));
        assert!(bench.fake.state().io.trusted.is_empty(), "units are taken back");
        return Err(match error {
            ConnectError::Keyp { reason, .. } => match reason.to_string() {
                text if text.contains("does not fit") => "malformed",
                text if text.contains("more than one") => "partial",
                text if text.contains("two units") => "double",
                _ => "no answer",
            },
            other => other.name(),
        });
    }
    let streams: Vec<u16> = bench.memory.connect.bridges().map(|bridge| bridge.streams).collect();
    Ok(streams.try_into().unwrap())
}

#[test]
fn a_unit_is_that_of_the_bridge_with_all_its_root_ports() {
    let [first, second, other] = [function(0, 1), function(0, 2), function(0x40, 1)];
    let nowhere = function(0x90, 0);
    let elsewhere = FunctionId::new(Segment(1), Bdf::new(0, 1, 0).unwrap());
    let one = |ports: &[FunctionId]| vec![key_unit(1, 1, A, ports)];
    let none = Err("connect-no-streams");
    let cases = [
        (one(&[first, second]), Ok([1, 0])),
        (one(&[second]), Ok([1, 0])),
        (one(&[other]), Ok([0, 1])),
        (vec![key_unit(1, 1, A, &[first]), key_unit(1, 1, B, &[other])], Ok([1, 255])),
        // In another segment, or of no bridge: not for TDs of this machine.
        (one(&[elsewhere]), none),
        (one(&[nowhere]), none),
        (one(&[]), none),
        (vec![], none),
        // Not for TDs, or not PCIe.
        (vec![key_unit(1, 0, A, &[first])], none),
        (vec![key_unit(2, 1, A, &[first])], none),
        (vec![key_unit(2, 1, A, &[first]), key_unit(1, 1, A, &[first])], Ok([1, 0])),
        (one(&[first, other]), Err("partial")),
        (one(&[first, nowhere]), Err("partial")),
        (one(&[elsewhere, other]), Err("partial")),
        (vec![key_unit(1, 1, A, &[first]), key_unit(1, 1, B, &[second])], Err("double")),
        (vec![key_unit(1, 1, 0x1000, &[first])], Err("no answer")),
    ];
    for (index, (units, expected)) in cases.into_iter().enumerate() {
        assert_eq!(streams(Some(keyp(&units))), expected, "case {index}");
    }
    assert_eq!(streams(None), none);
}

#[test]
fn a_table_that_does_not_fit_is_refused() {
    let good = keyp(&[key_unit(1, 1, A, &[function(0, 1)])]);
    let bent = |at: usize, value: u8| {
        let mut table = good.clone();
        table[at] = value;
        Some(table)
    };
    for (what, table) in [
        ("table longer than its bytes", bent(4, 61)),
        ("table shorter than its header", bent(4, 39)),
        ("unit shorter than its fields", bent(42, 15)),
        ("unit without length", bent(42, 0)),
        ("unit longer than the table", bent(42, 21)),
        ("more root ports than bytes", bent(46, 2)),
        ("no header", Some(good[..7].to_vec())),
        ("nothing", Some(Vec::new())),
    ] {
        assert_eq!(streams(table), Err("malformed"), "{what}");
    }
    // Entries of other types are passed over.
    let mut other = key_unit(1, 1, B, &[function(0, 1)]);
    other[0] = 7;
    let table = keyp(&[other, key_unit(1, 1, A, &[function(0, 1)])]);
    assert_eq!(streams(Some(table)), Ok([1, 0]));
}

#[test]
fn bridges_are_in_order_however_functions_come() {
    let mut bench = Bench::up(Fake::with_connect(0));
    let mut at = |bus: u8| PciFunction {
        id: function(bus, 1),
        root_port: None,
        physical: None,
        bridge: bridge(bus & 0xF0, bus | 0x0F),
    };
    bench.fake.state().io.functions = [0x50, 0x00, 0x30, 0x35, 0x51, 0x01, 0x20].map(&mut at).into();
    bench.host.connect_init(&*bench.fake, &mut bench.memory.connect).unwrap();
    let buses: Vec<u8> = bench.memory.connect.bridges().map(|bridge| bridge.bridge.bus).collect();
    assert_eq!(buses, [0x00, 0x20, 0x30, 0x50]);
    bench.host.connect_exit(&*bench.fake, &mut bench.memory.connect);
    bench.fake.state().io.functions =
        (0..=128).map(|bus| PciFunction { bridge: bridge(bus, bus), ..at(bus) }).collect();
    let error = bench.host.connect_init(&*bench.fake, &mut bench.memory.connect).unwrap_err();
    assert_eq!(error, ConnectError::TooManyUnits { limit: 128 });
    bench.fake.state().io.functions.truncate(128);
    assert!(bench.host.connect_init(&*bench.fake, &mut bench.memory.connect).is_ok());
    bench.host.connect_exit(&*bench.fake, &mut bench.memory.connect);
    bench.fake.state().io.units = (0..129).map(|unit| (unit << 16, false)).collect();
    let error = bench.host.connect_init(&*bench.fake, &mut bench.memory.connect).unwrap_err();
    assert_eq!(error, ConnectError::TooManyUnits { limit: 128 });
}

proptest! {
    #[test]
    fn no_table_leads_to_a_panic_or_outside_of_it(
        mut table in prop::collection::vec(any::<u8>(), 0..200),
        length in prop::option::of(0u8..200),
    ) {
        if let (Some(length), Some(place)) = (length, table.get_mut(4..8)) {
            place.copy_from_slice(&[length, 0, 0, 0]);
        }
        if let Ok(units) = KeyUnits::new(&table) {
            let mut last = 0;
            for unit in units {
                match unit {
                    Ok(unit) => {
                        prop_assert!(unit.offset > last && unit.offset < table.len());
                        prop_assert!(unit.root_ports().count() <= table.len() / 4);
                        last = unit.offset;
                    }
                    Err((_, offset)) => prop_assert!(offset < table.len()),
                }
            }
        }
    }

    #[test]
    fn units_are_read_as_they_were_written(
        written in prop::collection::vec(
            (any::<u8>(), any::<u8>(), any::<u64>(), prop::collection::vec(any::<(u16, u16)>(), 0..20)),
            0..8,
        ),
    ) {
        let units: Vec<Vec<u8>> = written.iter().map(|(protocol, flags, base, ports)| {
            let ports: Vec<FunctionId> = ports.iter().map(|&(segment, rid)| {
                FunctionId::new(Segment(segment), Bdf::from_routing_id(rid))
            }).collect();
            key_unit(*protocol, *flags, *base, &ports)
        }).collect();
        let table = keyp(&units);
        let read: Vec<_> = KeyUnits::new(&table).unwrap().map(Result::unwrap).collect();
        prop_assert_eq!(read.len(), written.len());
        for (read, (protocol, flags, base, ports)) in read.iter().zip(&written) {
            prop_assert_eq!((read.protocol, read.tvm_usable), (*protocol, flags & 1 == 1));
            prop_assert_eq!(read.register_base, PhysAddr::new(*base));
            let found: Vec<_> =
                read.root_ports().map(|port| (port.segment.0, port.bdf.routing_id())).collect();
            prop_assert_eq!(&found, ports);
        }
    }
}
