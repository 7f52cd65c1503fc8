//! A body for the ACPI table that a host reads itself: KEYP.

use pcie::{FunctionId, Segment};
use tdx_abi::PhysAddr;
use tdx_host::BridgeStreams;
use tdx_host::iommu::keyp::{KeyUnit, KeyUnits, streams_of};
use tdx_host::traits::HostBridge;

/// Bytes of a unit without root ports: no table has more units than this many fit into it.
const SMALLEST_UNIT: usize = 16;

/// Host bridges of two segments.
fn bridges() -> [Option<BridgeStreams>; 3] {
    [(0, 0, 0x7F), (0, 0x80, 0xFF), (1, 0, 0xFF)].map(|(segment, bus, last_bus)| {
        let bridge = HostBridge { segment: Segment(segment), bus, last_bus };
        Some(BridgeStreams { bridge, streams: 0 })
    })
}

fn below(bridge: HostBridge) -> impl Fn(FunctionId) -> bool {
    move |port| port.segment == bridge.segment && (bridge.bus..=bridge.last_bus).contains(&port.bdf.bus())
}

/// The first register of a unit, made up from its address.
fn capability(base: PhysAddr) -> u32 {
    u32::try_from(base.as_u64() & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}

/// A KEYP table: refused in one line, or each bridge has the streams of the one unit that is its own.
pub fn keyp_table(data: &[u8]) {
    let mut found = bridges();
    let streams = streams_of(data, &mut found, &capability);
    if let Err(error) = &streams {
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    let Ok(units) = KeyUnits::new(data) else {
        assert!(streams.is_err());
        return;
    };
    let mut last = 0;
    let mut sound: Vec<KeyUnit<'_>> = Vec::new();
    let mut broken = false;
    for unit in units {
        assert!(!broken, "a unit that does not fit is the last");
        assert!(sound.len() * SMALLEST_UNIT < data.len());
        match unit {
            Ok(unit) => {
                assert!(unit.offset > last && unit.offset + SMALLEST_UNIT <= data.len());
                assert!(unit.offset + SMALLEST_UNIT + 4 * unit.root_ports().count() <= data.len());
                last = unit.offset;
                sound.push(unit);
            }
            Err((_, offset)) => {
                assert!(offset > last && offset < data.len());
                broken = true;
            }
        }
    }
    if streams.is_err() {
        return;
    }
    assert!(!broken, "a table that does not fit was taken");
    for place in found.into_iter().flatten() {
        let inside = below(place.bridge);
        let usable = sound.iter().filter(|unit| unit.protocol == 1 && unit.tvm_usable);
        let own: Vec<_> = usable.filter(|unit| unit.root_ports().any(&inside)).collect();
        assert!(own.iter().all(|unit| unit.root_ports().all(&inside)), "a unit of two bridges was taken");
        let registers: Vec<PhysAddr> = own.iter().map(|unit| unit.register_base).collect();
        match registers[..] {
            [] => assert_eq!(place.streams, 0),
            [base] => {
                assert_ne!(capability(base), u32::MAX, "registers that do not answer were believed");
                assert_eq!(u32::from(place.streams), ((capability(base) & 0x1FF) + 1).min(255));
            }
            _ => panic!("two units for one bridge were taken"),
        }
    }
}
