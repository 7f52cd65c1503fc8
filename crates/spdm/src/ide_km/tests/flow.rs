//! The requester's flows, against the device and against one that lies.

use super::*;
use crate::wire::DecodeError;

fn keys() -> SetKeys {
    SetKeys::from_fn(|slot| IdeKey::new([u8::try_from(slot.lane()).unwrap() + 1; 32]))
}

fn program(set: KeySet) -> ProgramStream {
    ProgramStream::new(PORT, STREAM, set, keys())
}

#[test]
fn a_query_tells_the_port() {
    let mut device = Device::default();
    let query = QueryPort { port: PortIndex(1) };
    let answer = device.ask(&query.request()).unwrap();
    let port = query.response(&answer).unwrap();
    assert_eq!((port.index, port.max_port, port.registers.len()), (PortIndex(1), PortIndex(1), 3));
}

#[test]
fn a_query_that_is_answered_for_another_port_fails() {
    let query = QueryPort { port: PortIndex(1) };
    let answer = Device::default().ask(&QueryPort { port: PORT }.request()).unwrap();
    assert_eq!(query.response(&answer), Err(IdeKmFailure::WrongPort { found: PORT, asked: PortIndex(1) }));
    let lie = [0, 1, 0, 1, 0, 0, 0, 0];
    assert_eq!(query.response(&lie), Err(IdeKmFailure::PortAboveMax { port: PortIndex(1), max: PORT }));
    let ack = ack(KeySlot::of_set(KeySet::K0)[0]);
    let unexpected =
        IdeKmFailure::Unexpected { found: ObjectId::K_GOSTOP_ACK, expected: ObjectId::QUERY_RESP };
    assert_eq!(query.response(&ack), Err(unexpected));
}

#[test]
fn programming_takes_six_keys_and_six_goes_and_tells_when_the_other_end_has_its_turn() {
    let mut device = Device::default();
    let mut flow = program(KeySet::K1);
    let mut told = Vec::new();
    while let Some(request) = flow.request() {
        told.push(flow.response(&device.ask(&request).unwrap()).unwrap());
    }
    let [rx_pr, rx_npr, _, tx_pr, tx_npr, _] = KeySlot::of_set(KeySet::K1);
    let rx_cpl = KeySlot { sub_stream: SubStream::Completion, ..rx_pr };
    let expected = [
        Programmed::Key(rx_pr),
        Programmed::Key(rx_npr),
        Programmed::Key(rx_cpl),
        Programmed::Key(tx_pr),
        Programmed::Key(tx_npr),
        Programmed::AllKeys,
        Programmed::Go(rx_pr),
        Programmed::Go(rx_npr),
        Programmed::Receiving,
        Programmed::Go(tx_pr),
        Programmed::Go(tx_npr),
        Programmed::Done,
    ];
    assert_eq!(told, expected);
    for (.., slot, key) in &device.ports.keys {
        assert_eq!(key, keys().key(*slot), "{slot}");
    }
    let mut stop = StopStream::new(PORT, STREAM, KeySet::K1);
    let mut answers = Vec::new();
    while let Some(request) = stop.request() {
        answers.push(stop.response(&device.ask(&request).unwrap()).unwrap());
    }
    assert_eq!(answers, [false, false, false, false, false, true]);
    assert!(device.ports.keys.is_empty());
}

#[test]
fn a_wrong_echo_ends_the_flow_with_its_name() {
    let slot = KeySlot::of_set(KeySet::K0)[0];
    let echoed = [
        Target { stream: StreamId(1), ..target(slot) },
        Target { port: PortIndex(1), ..target(slot) },
        Target { key: KeySelector(0x10), ..target(slot) },
        Target { key: KeySelector(0xff), ..target(slot) },
    ];
    for echoed in echoed {
        let mut flow = program(KeySet::K0);
        flow.request().unwrap();
        let lie = payload(&Message::KpAck(KpAck { target: echoed, status: KpStatus::SUCCESS }));
        assert_eq!(flow.response(&lie), Err(IdeKmFailure::WrongKeyEchoed { stream: STREAM, slot, echoed }));
        assert_eq!(flow.request(), None, "nothing follows a failure");
    }
}

#[test]
fn a_refused_key_ends_the_flow_with_the_status() {
    let mut device = Device::default();
    device.ports.refuses = true;
    let mut flow = program(KeySet::K0);
    let request = flow.request().unwrap();
    let answer = device.ask(&request).unwrap();
    let slot = KeySlot::of_set(KeySet::K0)[0];
    let refused = IdeKmFailure::Refused { stream: STREAM, slot, status: KpStatus::UNSPECIFIED };
    assert_eq!(flow.response(&answer), Err(refused));
    assert_eq!((flow.request(), flow.response(&answer)), (None, Err(IdeKmFailure::Unasked)));
}

#[test]
fn a_go_that_is_answered_with_something_else_ends_the_flow() {
    let mut device = Device::default();
    let mut flow = program(KeySet::K0);
    for _ in 0..6 {
        let request = flow.request().unwrap();
        flow.response(&device.ask(&request).unwrap()).unwrap();
    }
    let slot = KeySlot::of_set(KeySet::K0)[0];
    let request = flow.request().unwrap();
    assert_eq!(request, key_set_go(target(slot)));
    let key_ack = payload(&Message::KpAck(KpAck { target: target(slot), status: KpStatus::SUCCESS }));
    let unexpected = IdeKmFailure::Unexpected { found: ObjectId::KP_ACK, expected: ObjectId::K_GOSTOP_ACK };
    assert_eq!(flow.response(&key_ack), Err(unexpected));
    assert_eq!(flow.request(), None);
}

#[test]
fn what_is_no_message_ends_the_flow() {
    let rows = [
        (&[1, 3][..], IdeKmFailure::Protocol(1)),
        (&[], IdeKmFailure::Decode(DecodeError::Truncated { field: "protocol id", needed: 1, left: 0 })),
        (&[0, 8], IdeKmFailure::Decode(DecodeError::UnknownCode(8))),
    ];
    for (answer, failure) in rows {
        let mut flow = program(KeySet::K0);
        assert_eq!(flow.response(answer), Err(IdeKmFailure::Unasked), "nothing was asked yet");
        let mut flow = program(KeySet::K0);
        flow.request().unwrap();
        assert_eq!(flow.response(answer), Err(failure));
        let mut stop = StopStream::new(PORT, STREAM, KeySet::K0);
        assert_eq!(stop.response(answer), Err(IdeKmFailure::Unasked));
        stop.request().unwrap();
        assert_eq!(stop.response(answer), Err(failure));
    }
}

#[test]
fn one_response_answers_one_request() {
    let mut device = Device::default();
    let mut flow = program(KeySet::K0);
    let request = flow.request().unwrap();
    let answer = device.ask(&request).unwrap();
    flow.response(&answer).unwrap();
    assert_eq!(flow.response(&answer), Err(IdeKmFailure::Unasked), "a replay");
}
