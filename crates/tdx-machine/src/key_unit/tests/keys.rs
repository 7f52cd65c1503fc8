//! Priming, readiness, key sets, enabling.

use super::*;
use crate::ide::{Tlp, TlpHeader};

fn read(tag: u8) -> Tlp {
    let requester = Bdf::from_routing_id(0x3b00);
    let header = TlpHeader::Read { requester, tag, address: 0x1000, dwords: 1 };
    Tlp { trusted: true, header, payload: vec![] }
}

#[test]
fn keys_and_ivs_are_written_and_never_read() {
    let bench = Bench::new();
    bench.put_all(KeySet::K0, 0);
    for offset in (TX_KEYS..RX_IVS + 8 * SLOTS).step_by(4) {
        assert_eq!(bench.read(offset), 0, "{offset:#x}");
    }
    assert_eq!(bench.unit.read(TX_KEYS, MmioWidth::Qword, &bench.ports), 0);
}

#[test]
fn reserved_bits_are_not_kept_and_read_only_registers_not_written() {
    let bench = Bench::new();
    let capability = bench.read(0);
    for (offset, expected) in [
        (0, capability),
        (CONTROL, 0xFF00_0001),
        (TX_CONTROL, 0b11),
        (TX_STATUS, 0),
        (RX_CONTROL, 0),
        (RX_STATUS, 0),
        (TX_SLOTS, 0x3FFF_FFFF),
        (TX_SLOTS + 4, 0x3FFF_FFFF),
        (RX_SLOTS, 0x3FFF_FFFF),
        (RX_SLOTS + 4, 0x3FFF_FFFF),
    ] {
        bench.write(offset, 0xFFFF_FFFF);
        assert_eq!(bench.read(offset), expected, "{offset}");
    }
    assert_eq!(bench.read(RX_IVS + 8 * SLOTS), 0, "behind the last register");
}

#[test]
fn a_wide_access_is_two_registers() {
    let bench = Bench::new();
    bench.unit.write(TX_SLOTS, MmioWidth::Qword, 0x22_0000_0011, &bench.ports);
    assert_eq!((bench.read(TX_SLOTS), bench.read(TX_SLOTS + 4)), (0x11, 0x22));
    assert_eq!(bench.unit.read(TX_SLOTS, MmioWidth::Qword, &bench.ports), 0x22_0000_0011);
}

#[test]
fn a_set_is_ready_when_all_three_sub_streams_are_primed() {
    for direction in Direction::ALL {
        let (control, status) = match direction {
            Direction::Tx => (TX_CONTROL, TX_STATUS),
            Direction::Rx => (RX_CONTROL, RX_STATUS),
        };
        let bench = Bench::new();
        bench.name_slots(KeySet::K1);
        for sub_stream in SubStream::ALL {
            assert_eq!(bench.read(status), 0, "{direction:?} without {sub_stream:?}");
            bench.put(slot(KeySet::K1, direction, sub_stream), &IdeKey::new([7; 32]));
            bench.write(control, PRIME_0);
            assert_eq!(bench.read(status), 0, "the other set has no slots");
            bench.write(control, PRIME_1);
        }
        assert_eq!(bench.read(status), READY_1, "{direction:?}");
        assert_eq!(bench.read(control), 0, "a prime bit acts and is gone");
    }
}

#[test]
fn a_stream_is_secure_when_unit_and_port_are_enabled_and_everything_is_keyed() {
    let bench = Bench::new();
    bench.put_all(KeySet::K0, 0);
    bench.write(CONTROL, u64::from(ID.0) << 24);
    bench.prime(PRIME_0);
    assert_eq!(bench.read(TX_STATUS), READY_0);
    assert_eq!(bench.read(RX_STATUS), READY_0);
    bench.write(TX_CONTROL, 1);
    bench.stream(1, ID, |stream| stream.set_enabled(true));
    assert!(!bench.is_secure(), "the unit is not enabled");
    assert_eq!(bench.read(TX_STATUS), READY_0, "and sends nothing");
    bench.write(CONTROL, u64::from(ID.0) << 24 | 1);
    assert!(bench.is_secure());
    assert_eq!(bench.read(TX_STATUS), READY_0 | 1);
    bench.stream(1, ID, |stream| stream.set_enabled(false));
    assert!(!bench.is_secure());
    assert_eq!(bench.read(TX_STATUS), 0, "a port that is disabled has forgotten its keys");
}

#[test]
fn keys_arrive_with_their_bytes_in_order() {
    let bench = Bench::new();
    bench.set_up();
    let mut device = device_end(KeySet::K0, 0);
    let down = bench.stream(1, ID, |stream| stream.seal(read(1))).unwrap();
    assert_eq!(device.open(down), Ok(vec![read(1)]));
    let up = device.seal(ID, read(2)).unwrap();
    assert_eq!(bench.stream(1, ID, |stream| stream.open(up)), Ok(vec![read(2)]));
    assert_eq!(bench.read(RX_STATUS), READY_0 | 1 << 2, "set 0, non-posted");
}

#[test]
fn a_missing_key_keeps_the_stream_insecure() {
    for missing in KeySlot::of_set(KeySet::K0) {
        let bench = Bench::new();
        bench.name_slots(KeySet::K0);
        for slot in KeySlot::of_set(KeySet::K0).into_iter().filter(|slot| *slot != missing) {
            bench.put(slot, &key(slot, 0));
        }
        bench.prime(PRIME_0);
        bench.write(TX_CONTROL, 1);
        bench.write(CONTROL, u64::from(ID.0) << 24 | 1);
        bench.stream(1, ID, |stream| stream.set_enabled(true));
        assert!(!bench.is_secure(), "{missing}");
        let ready = |direction| if missing.direction == direction { 0 } else { READY_0 };
        let used = u64::from(missing.direction != Direction::Tx);
        assert_eq!(bench.read(TX_STATUS), ready(Direction::Tx) | used, "{missing}");
        assert_eq!(bench.read(RX_STATUS), ready(Direction::Rx), "{missing}");
        bench.put(missing, &key(missing, 0));
        bench.prime(PRIME_0);
        assert!(bench.is_secure(), "{missing} came late");
    }
}

#[test]
fn keys_are_refreshed_without_a_gap() {
    let bench = Bench::new();
    bench.set_up();
    let mut device = device_end(KeySet::K0, 0);
    let old = device.seal(ID, read(1)).unwrap();
    bench.put_all(KeySet::K1, 1);
    bench.prime(PRIME_1);
    assert_eq!(bench.read(TX_STATUS), READY_0 | READY_1 | 1, "set 0 is sent with still");
    assert!(bench.is_secure());
    bench.write(TX_CONTROL, 2);
    assert_eq!(bench.read(TX_STATUS), READY_1 | 2, "and is forgotten by the sender");
    let opened = bench.stream(1, ID, |stream| stream.open(old));
    assert_eq!(opened, Ok(vec![read(1)]), "what was under way is received");
    assert_eq!(bench.read(RX_STATUS), READY_0 | READY_1 | 1 << 2);
    let new = super::device_end(KeySet::K1, 1).seal(ID, read(2)).unwrap();
    assert_eq!(bench.stream(1, ID, |stream| stream.open(new)), Ok(vec![read(2)]));
    assert_eq!(bench.read(RX_STATUS) & 0x3F, 2 << 2, "set 1, non-posted");
    assert!(bench.is_secure());
}

#[test]
fn priming_again_without_new_keys_changes_nothing() {
    let bench = Bench::new();
    bench.set_up();
    let device = device_end(KeySet::K0, 0).seal(ID, read(1)).unwrap();
    assert!(bench.stream(1, ID, |stream| stream.open(device.clone())).is_ok());
    bench.write(TX_CONTROL, 1 | PRIME_0);
    bench.write(RX_CONTROL, PRIME_0);
    assert!(bench.is_secure());
    let again = bench.stream(1, ID, |stream| stream.open(device));
    assert!(again.is_err(), "the counter did not start again");
}

#[test]
fn no_key_set_sends_nothing() {
    for select in [0, 3] {
        let bench = Bench::new();
        bench.set_up();
        bench.write(TX_CONTROL, select);
        assert!(!bench.is_secure(), "{select}");
        assert_eq!(bench.read(TX_STATUS), 0, "{select}");
        assert_eq!(bench.read(RX_STATUS), READY_0, "{select}");
    }
}

#[test]
fn a_set_that_is_not_ready_is_not_changed_over_to() {
    let bench = Bench::new();
    bench.set_up();
    bench.write(TX_CONTROL, 2);
    assert_eq!(bench.read(TX_STATUS), READY_0 | 1);
    assert!(bench.is_secure());
}

#[test]
fn disabling_a_block_wipes_its_keys() {
    let bench = Bench::new();
    bench.set_up();
    bench.put_all(KeySet::K1, 1);
    bench.write(CONTROL, u64::from(ID.0) << 24);
    assert!(!bench.is_secure());
    assert_eq!(bench.read(TX_STATUS) | bench.read(RX_STATUS), 0);
    bench.write(CONTROL, u64::from(ID.0) << 24 | 1);
    assert!(!bench.is_secure(), "enabled again, without keys");
    assert_eq!(bench.read(TX_STATUS) | bench.read(RX_STATUS), 0);
}

#[test]
fn primed_keys_of_a_block_that_is_disabled_are_gone() {
    let bench = Bench::new();
    // No root port has this stream yet, so the keys wait.
    bench.write(CONTROL, 0x7700_0001);
    bench.put_all(KeySet::K0, 0);
    bench.prime(PRIME_0);
    assert_eq!(bench.read(RX_STATUS), READY_0);
    bench.write(CONTROL, 0);
    assert_eq!(bench.read(RX_STATUS), 0);
}

#[test]
fn the_stream_id_of_an_enabled_block_stays() {
    let bench = Bench::new();
    bench.set_up();
    bench.write(CONTROL, u64::from(OTHER.0) << 24 | 1);
    assert_eq!(bench.read(CONTROL), u64::from(ID.0) << 24 | 1);
    assert!(bench.is_secure());
}

#[test]
fn two_enabled_blocks_do_not_have_the_same_stream() {
    let bench = Bench::new();
    bench.set_up();
    bench.write(CONTROL + BLOCK, u64::from(ID.0) << 24 | 1);
    assert_eq!(bench.read(CONTROL + BLOCK), u64::from(ID.0) << 24, "it has the id and is not enabled");
    bench.write(CONTROL + BLOCK, u64::from(OTHER.0) << 24 | 1);
    assert_eq!(bench.read(CONTROL + BLOCK), u64::from(OTHER.0) << 24 | 1);
}

#[test]
fn keys_go_to_the_root_port_that_has_the_stream() {
    let bench = Bench::new();
    bench.put_all(KeySet::K0, 0);
    for direction in [TX_SLOTS, RX_SLOTS] {
        bench.write(direction + BLOCK, bench.read(direction));
    }
    bench.write(TX_CONTROL + BLOCK, PRIME_0 | 1);
    bench.write(RX_CONTROL + BLOCK, PRIME_0);
    bench.write(CONTROL + BLOCK, u64::from(OTHER.0) << 24 | 1);
    assert!(bench.stream(2, OTHER, |stream| stream.is_keyed()));
    assert!(!bench.stream(1, ID, |stream| stream.is_keyed()));
}

#[test]
fn a_unit_that_was_left_enabled_has_no_keys_and_can_be_disabled() {
    let unit = KeyUnit::new(Layout::new(STREAMS), vec![root_port(1)], true);
    let bench = Bench { unit, ..Bench::new() };
    assert_eq!(bench.read(CONTROL) & 1, 1);
    assert_eq!(bench.read(TX_STATUS) | bench.read(RX_STATUS), 0);
    bench.write(CONTROL, 0);
    assert_eq!(bench.read(CONTROL) & 1, 0);
    bench.unit.leave_enabled();
    assert_eq!(bench.read(CONTROL) & 1, 1);
    bench.unit.reset(false);
    assert_eq!(bench.read(CONTROL), 0);
}
