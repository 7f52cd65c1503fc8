use alloc::vec;

use super::*;
use crate::wire::DecodeError;

const SLOT: KeySlot = KeySlot { set: KeySet::K0, direction: Direction::Tx, sub_stream: SubStream::NonPosted };

#[test]
fn query_tells_where_a_port_sits_and_its_registers() {
    let mut device = Device::default();
    let answer = device.ask(&payload(&Message::Query(Query { port: PortIndex(1) }))).unwrap();
    let Ok(Message::QueryResp(response)) = Message::read(&answer[1..]) else { panic!("{answer:02x?}") };
    assert_eq!((response.port, response.max_port), (PortIndex(1), PortIndex(1)));
    assert_eq!(response.location, PortLocation { segment: 0, bus: 0x3b, device_function: 1 });
    assert!(response.registers.dwords().eq([0x10_0042, 0, 1]));
}

#[test]
fn query_for_a_port_above_the_highest_is_not_answered() {
    let refused = Err(IdeKmError::Port { port: PortIndex(2), max: PortIndex(1) });
    assert_eq!(Device::default().ask(&payload(&Message::Query(Query { port: PortIndex(2) }))), refused);
}

#[test]
fn query_leaves_keys_alone() {
    let mut device = Device::default();
    device.key(KeySet::K0);
    device.ask(&payload(&Message::Query(Query { port: PORT }))).unwrap();
    assert!(device.manager.keyed(STREAM).is_some());
    assert_eq!(device.ports.keys.len(), 6);
}

#[test]
fn key_prog_says_what_is_wrong_and_takes_nothing() {
    let good = key_prog(target(SLOT));
    let changed = |at: usize, value: u8| {
        let mut request = good.clone();
        request[at] = value;
        request
    };
    let rows = [
        ("as it should be", good.clone(), KpStatus::SUCCESS),
        ("4 bytes missing", good[..good.len() - 4].to_vec(), KpStatus::INCORRECT_LENGTH),
        ("24 bytes missing", good[..good.len() - 24].to_vec(), KpStatus::INCORRECT_LENGTH),
        ("no key at all", good[..8].to_vec(), KpStatus::INCORRECT_LENGTH),
        ("a byte too many", [&good[..], &[0]].concat(), KpStatus::INCORRECT_LENGTH),
        ("port 2", changed(7, 2), KpStatus::UNSUPPORTED_PORT),
        ("port 255", changed(7, 255), KpStatus::UNSUPPORTED_PORT),
        ("sub-stream 3", changed(6, 0x32), KpStatus::UNSUPPORTED_VALUE),
        ("sub-stream 15", changed(6, 0xf2), KpStatus::UNSUPPORTED_VALUE),
        ("reserved bit of the key byte", changed(6, 0x16), KpStatus::UNSUPPORTED_VALUE),
        ("stream 1", changed(4, 1), KpStatus::UNSUPPORTED_VALUE),
        ("stream 255", changed(4, 255), KpStatus::UNSUPPORTED_VALUE),
        ("IFV 0", changed(44, 0), KpStatus::UNSUPPORTED_VALUE),
        ("IFV 2", changed(44, 2), KpStatus::UNSUPPORTED_VALUE),
        ("IFV 2^32 + 1", changed(40, 1), KpStatus::UNSUPPORTED_VALUE),
        ("reserved in front", changed(2, 1), KpStatus::UNSUPPORTED_VALUE),
        ("reserved behind the stream", changed(5, 1), KpStatus::UNSUPPORTED_VALUE),
    ];
    for (what, request, status) in rows {
        let mut device = Device::default();
        assert_eq!(device.key_prog_status(&request), status, "{what}");
        let taken = usize::from(status == KpStatus::SUCCESS);
        assert_eq!(device.ports.keys.len(), taken, "{what}");
    }
}

#[test]
fn key_prog_looks_at_the_length_before_the_port_and_at_the_port_before_the_rest() {
    let mut request = key_prog(target(SLOT));
    request[4] = 9;
    request[6] = 0xff;
    request[7] = 9;
    let mut device = Device::default();
    assert_eq!(device.key_prog_status(&request[..20]), KpStatus::INCORRECT_LENGTH);
    assert_eq!(device.key_prog_status(&request), KpStatus::UNSUPPORTED_PORT);
    request[7] = 1;
    assert_eq!(device.key_prog_status(&request), KpStatus::UNSUPPORTED_VALUE);
}

#[test]
fn key_prog_too_short_for_an_echo_gets_none() {
    for end in 2..8 {
        let refused = Device::default().ask(&key_prog(target(SLOT))[..end]);
        assert!(
            matches!(refused, Err(IdeKmError::Decode(DecodeError::Truncated { .. }))),
            "{end} bytes: {refused:?}"
        );
    }
}

#[test]
fn a_port_that_refuses_a_key_is_an_unspecified_failure_and_the_slot_is_empty() {
    let mut device = Device::default();
    assert_eq!(device.key_prog_status(&key_prog(target(SLOT))), KpStatus::SUCCESS);
    device.ports.refuses = true;
    assert_eq!(device.key_prog_status(&key_prog(target(SLOT))), KpStatus::UNSPECIFIED);
    device.ports.refuses = false;
    assert_eq!(device.ask(&key_set_go(target(SLOT))), Err(IdeKmError::NoKey { stream: STREAM, slot: SLOT }));
}

#[test]
fn the_key_reaches_the_port_in_the_order_of_a_cipher() {
    let mut device = Device::default();
    let bytes: [u8; 32] = core::array::from_fn(|at| u8::try_from(at).unwrap());
    let mut request = key_prog(target(SLOT));
    for (at, dword) in request[8..40].chunks_exact_mut(4).enumerate() {
        dword.copy_from_slice(&[bytes[at * 4 + 3], bytes[at * 4 + 2], bytes[at * 4 + 1], bytes[at * 4]]);
    }
    device.ask(&request).unwrap();
    assert_eq!(device.ports.keys[0].3.bytes(), &bytes);
}

#[test]
fn go_needs_a_key_that_was_not_used_yet() {
    let mut device = Device::default();
    let no_key = Err(IdeKmError::NoKey { stream: STREAM, slot: SLOT });
    assert_eq!(device.ask(&key_set_go(target(SLOT))), no_key);
    device.ask(&key_prog(target(SLOT))).unwrap();
    let neighbour = KeySlot { sub_stream: SubStream::Posted, ..SLOT };
    assert!(device.ask(&key_set_go(target(neighbour))).is_err(), "the key is another slot's");
    assert_eq!(device.ask(&key_set_go(target(SLOT))), Ok(ack(SLOT)));
    assert_eq!(device.ask(&key_set_go(target(SLOT))), Ok(ack(SLOT)), "once more changes nothing");
    assert_eq!(device.ports.used.len(), 1);
    let newer = KeySlot { set: KeySet::K1, ..SLOT };
    device.ask(&key_prog(target(newer))).unwrap();
    device.ask(&key_set_go(target(newer))).unwrap();
    assert_eq!(device.ask(&key_set_go(target(SLOT))), no_key, "a key that was replaced does not come back");
}

#[test]
fn a_port_that_cannot_use_a_key_is_told_of_and_the_key_still_waits() {
    let mut device = Device::default();
    device.ask(&key_prog(target(SLOT))).unwrap();
    device.ports.refuses = true;
    assert_eq!(
        device.ask(&key_set_go(target(SLOT))),
        Err(IdeKmError::Refused { stream: STREAM, slot: SLOT })
    );
    device.ports.refuses = false;
    assert_eq!(device.ask(&key_set_go(target(SLOT))), Ok(ack(SLOT)));
}

#[test]
fn neither_is_acknowledged_for_a_port_that_does_not_exist_nor_go_for_a_stream() {
    let key = KeySelector::from(SLOT);
    let port = Target { stream: STREAM, key, port: PortIndex(2) };
    let stream = Target { stream: StreamId(1), key, port: PORT };
    for request in [key_set_go, key_set_stop] {
        let mut device = Device::default();
        assert_eq!(
            device.ask(&request(port)),
            Err(IdeKmError::Port { port: PortIndex(2), max: PortIndex(1) })
        );
    }
    let refused = Err(IdeKmError::Stream { port: PORT, stream: StreamId(1) });
    assert_eq!(Device::default().ask(&key_set_go(stream)), refused);
}

#[test]
fn stop_is_acknowledged_for_a_stream_whose_registers_are_cleared() {
    let mut device = Device::default();
    let gone = Target { stream: StreamId(1), key: KeySelector::from(SLOT), port: PORT };
    let echo = payload(&Message::KGoStopAck(KGoStopAck { target: gone }));
    assert_eq!(device.ask(&key_set_stop(gone)), Ok(echo));
    let odd = Target { key: KeySelector(0x32), ..gone };
    assert!(matches!(device.ask(&key_set_stop(odd)), Err(IdeKmError::Decode(DecodeError::Value { .. }))));
    // Keys that are left are wiped all the same.
    device.key(KeySet::K0);
    device.ports.cleared = true;
    assert_eq!(device.ask(&key_set_stop(target(SLOT))), Ok(ack(SLOT)));
    assert_eq!((device.manager.keyed(STREAM), device.ports.keys.len()), (None, 5));
}

#[test]
fn a_stream_is_keyed_with_the_last_go_and_not_before() {
    let mut device = Device::default();
    let slots = KeySlot::of_set(KeySet::K0);
    // Key by key, as some requesters do it.
    for (at, slot) in slots.into_iter().enumerate() {
        assert_eq!(device.manager.keyed(STREAM), None, "{at} keys");
        device.ask(&key_prog(target(slot))).unwrap();
        assert_eq!(device.ask(&key_set_go(target(slot))), Ok(ack(slot)));
    }
    assert_eq!(device.manager.keyed(STREAM), Some(KeyGeneration(1)));
    assert_eq!(device.ports.changes, [StreamChange::Keyed(KeyGeneration(1))]);
    assert_eq!(device.manager.keyed_in(STREAM, SESSION), device.manager.keyed(STREAM));
    assert_eq!(device.manager.keyed_in(STREAM, OTHER_SESSION), None);
}

#[test]
fn lanes_may_use_different_sets() {
    let mut device = Device::default();
    for (slot, set) in KeySlot::of_set(KeySet::K0).into_iter().zip(KeySet::ALL.into_iter().cycle()) {
        assert_eq!(device.manager.keyed(STREAM), None);
        let slot = KeySlot { set, ..slot };
        device.ask(&key_prog(target(slot))).unwrap();
        device.ask(&key_set_go(target(slot))).unwrap();
    }
    assert_eq!(device.manager.keyed(STREAM), Some(KeyGeneration(1)));
}

#[test]
fn a_refresh_leaves_no_moment_without_keys() {
    let mut device = Device::default();
    device.key(KeySet::K0);
    for (set, generation) in [(KeySet::K1, 2), (KeySet::K0, 3), (KeySet::K1, 4)] {
        for slot in KeySlot::of_set(set) {
            device.ask(&key_prog(target(slot))).unwrap();
            assert!(device.manager.keyed(STREAM).is_some(), "{slot} programmed");
        }
        for slot in KeySlot::of_set(set) {
            device.ask(&key_set_go(target(slot))).unwrap();
            assert!(device.manager.keyed(STREAM).is_some(), "{slot} in use");
        }
        assert_eq!(device.manager.keyed(STREAM), Some(KeyGeneration(generation)));
    }
    assert!(!device.ports.changes.contains(&StreamChange::Lost));
}

#[test]
fn a_new_key_in_a_slot_in_use_takes_the_stream_down_until_it_is_used() {
    let mut device = Device::default();
    device.key(KeySet::K0);
    device.ask(&key_prog(target(SLOT))).unwrap();
    assert_eq!(device.manager.keyed(STREAM), None);
    device.ask(&key_set_go(target(SLOT))).unwrap();
    assert_eq!(device.manager.keyed(STREAM), Some(KeyGeneration(2)));
    let changes =
        [StreamChange::Keyed(KeyGeneration(1)), StreamChange::Lost, StreamChange::Keyed(KeyGeneration(2))];
    assert_eq!(device.ports.changes, changes);
}

#[test]
fn stop_wipes_one_key_and_says_yes_when_there_is_none() {
    let mut device = Device::default();
    assert_eq!(device.ask(&key_set_stop(target(SLOT))), Ok(ack(SLOT)));
    device.key(KeySet::K0);
    assert_eq!(device.ask(&key_set_stop(target(SLOT))), Ok(ack(SLOT)));
    assert_eq!((device.manager.keyed(STREAM), device.ports.keys.len()), (None, 5));
    for slot in KeySlot::of_set(KeySet::K0) {
        assert_eq!(device.ask(&key_set_stop(target(slot))), Ok(ack(slot)));
    }
    assert!(device.ports.keys.is_empty());
    assert_eq!(device.ports.changes, [StreamChange::Keyed(KeyGeneration(1)), StreamChange::Lost]);
}

#[test]
fn stopping_the_set_that_was_replaced_does_not_take_the_stream_down() {
    let mut device = Device::default();
    device.key(KeySet::K0);
    device.key(KeySet::K1);
    for slot in KeySlot::of_set(KeySet::K0) {
        device.ask(&key_set_stop(target(slot))).unwrap();
    }
    assert!(device.manager.keyed(STREAM).is_some());
    assert!(!device.ports.changes.contains(&StreamChange::Lost));
}

#[test]
fn keys_of_another_session_are_reported() {
    let mut device = Device::default();
    device.key(KeySet::K0);
    let newer = target(KeySlot { set: KeySet::K1, ..SLOT });
    device.ask_in(OTHER_SESSION, &key_prog(newer)).unwrap();
    assert_eq!(device.ports.changes.last(), Some(&StreamChange::ForeignSession));
    assert_eq!(device.manager.keyed_in(STREAM, SESSION), device.manager.keyed(STREAM), "it is not used yet");
    device.ask_in(OTHER_SESSION, &key_set_go(newer)).unwrap();
    assert!(device.manager.keyed(STREAM).is_some());
    for session in [SESSION, OTHER_SESSION] {
        assert_eq!(device.manager.keyed_in(STREAM, session), None, "keys of both");
    }
}

#[test]
fn keys_end_with_the_session_that_brought_them_whoever_asked_last() {
    let mut device = Device::default();
    device.key(KeySet::K0);
    let unused = target(KeySlot { set: KeySet::K1, ..SLOT });
    device.ask_in(OTHER_SESSION, &key_set_stop(unused)).unwrap();
    device.manager.session_ended(OTHER_SESSION, &mut device.ports);
    assert!(device.manager.keyed_in(STREAM, SESSION).is_some(), "none of the keys is that session's");
    device.ask_in(OTHER_SESSION, &key_set_stop(unused)).unwrap();
    device.manager.session_ended(SESSION, &mut device.ports);
    assert!(device.manager.keyed(STREAM).is_none() && device.ports.keys.is_empty());
}

#[test]
fn the_end_of_a_session_wipes_its_keys_and_no_others() {
    let mut device = Device::default();
    device.key(KeySet::K0);
    let elsewhere = Target { port: PortIndex(1), ..target(SLOT) };
    device.ask_in(OTHER_SESSION, &key_prog(elsewhere)).unwrap();
    device.manager.session_ended(SESSION, &mut device.ports);
    assert_eq!(device.manager.keyed(STREAM), None);
    assert_eq!(device.ports.keys.iter().map(|key| key.0).collect::<Vec<_>>(), [PortIndex(1)]);
    assert_eq!(device.ports.changes.last(), Some(&StreamChange::Lost));
    device.manager.reset(&mut device.ports);
    assert!(device.ports.keys.is_empty());
}

#[test]
fn a_stream_that_failed_has_no_keys_left() {
    let mut device = Device::default();
    device.key(KeySet::K0);
    device.manager.stream_failed(PortIndex(1), STREAM, &mut device.ports);
    assert!(device.manager.keyed(STREAM).is_some(), "that was another port's");
    device.manager.stream_failed(PORT, STREAM, &mut device.ports);
    assert_eq!((device.manager.keyed(STREAM), device.ports.keys.len()), (None, 0));
}

#[test]
fn what_is_no_request_of_the_protocol_is_refused_with_its_reason() {
    let mut device = Device::default();
    assert_eq!(device.ask(&[1, 0, 0, 0]), Err(IdeKmError::Protocol(1)));
    assert_eq!(device.ask(&[0, 9, 0]), Err(IdeKmError::Decode(DecodeError::UnknownCode(9))));
    assert_eq!(device.ask(&ack(SLOT)), Err(IdeKmError::NotARequest(ObjectId::K_GOSTOP_ACK)));
    let truncated =
        |field, needed| Err(IdeKmError::Decode(DecodeError::Truncated { field, needed, left: 0 }));
    assert_eq!(device.ask(&[]), truncated("protocol id", 1));
    assert_eq!(device.ask(&[0]), truncated("object id", 1));
    assert_eq!(device.ask(&[0, 0, 0, 0, 0]), Err(IdeKmError::Decode(DecodeError::Trailing { extra: 1 })));
    assert_eq!(
        device.ask(&[&key_set_go(target(SLOT))[..], &[0]].concat()),
        Err(IdeKmError::Decode(DecodeError::Trailing { extra: 1 }))
    );
    assert_eq!(device.ports.keys, vec![]);
}
