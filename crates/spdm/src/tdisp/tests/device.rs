//! One request at a time.

use super::*;

const OK: Result<(), ErrorCode> = Ok(());

#[test]
fn the_version_is_1_0_and_nothing_else() {
    let answer = Device::default().ask_in(SESSION, PF, Body::GetVersion);
    assert_eq!(answer[16..], [1, 0x10]);
}

#[test]
fn capabilities_are_what_a_validator_expects() {
    let answer = Device::default().ask_in(SESSION, PF, Body::GetCapabilities(GetCapabilities::default()));
    assert_eq!(answer.len(), 16 + 28);
    let Body::Capabilities(capabilities) = Message::read(&answer).unwrap().body else {
        panic!("{answer:02x?}")
    };
    assert_eq!(capabilities.dsm_capabilities, 0);
    assert_eq!(capabilities.requests.0, 0xfe);
    assert_eq!(capabilities.lock_flags.0 & 0xffe0, 0);
    assert!(capabilities.address_width >= 52);
    assert!(capabilities.requests_this > 0 && capabilities.requests_all > 0);
}

/// A request, and what each state says to it: the state that follows, or the error.
type Row = (&'static str, fn(&Nonce) -> Body<'static>, [Result<TdiState, ErrorCode>; 4]);

#[test]
fn each_state_answers_each_request_as_the_table_says() {
    use TdiState as S;
    let state_error = Err(ErrorCode::INVALID_INTERFACE_STATE);
    let rows: [Row; 7] = [
        ("version", |_| Body::GetVersion, [Ok(S::UNLOCKED), Ok(S::LOCKED), Ok(S::RUN), Ok(S::ERROR)]),
        (
            "capabilities",
            |_| Body::GetCapabilities(GetCapabilities::default()),
            [Ok(S::UNLOCKED), Ok(S::LOCKED), Ok(S::RUN), Ok(S::ERROR)],
        ),
        ("state", |_| Body::GetState, [Ok(S::UNLOCKED), Ok(S::LOCKED), Ok(S::RUN), Ok(S::ERROR)]),
        ("lock", |_| Body::Lock(lock()), [Ok(S::LOCKED), state_error, state_error, state_error]),
        ("report", |_| get_report(0, 64), [state_error, Ok(S::LOCKED), Ok(S::RUN), state_error]),
        ("start", start, [state_error, Ok(S::RUN), state_error, state_error]),
        ("stop", |_| Body::Stop, [Ok(S::UNLOCKED), Ok(S::UNLOCKED), Ok(S::UNLOCKED), Ok(S::UNLOCKED)]),
    ];
    for (what, body, results) in rows {
        for (state, expected) in STATES.into_iter().zip(results) {
            let mut device = Device::default();
            device.to(state);
            // The nonce that a locked interface has: the model's random numbers count.
            let nonce = Nonce::new([device.platform.entropy.unwrap(); 32]);
            let result = device.result(body(&nonce));
            assert_eq!(result.map(|_| device.state()), expected, "{what} in {state}");
            if expected.is_err() {
                assert_eq!(device.state(), state, "{what} in {state} changes nothing");
            }
        }
    }
}

#[test]
fn a_lock_is_refused_for_its_first_fault_and_changes_nothing() {
    type Change = fn(&mut Device, &mut LockInterface);
    let rows: [(&str, Change, Result<(), ErrorCode>); 10] = [
        ("as it should be", |_, _| {}, OK),
        ("all supported flags", |_, lock| lock.flags = LockFlags(7), OK),
        (
            "a flag that is not supported",
            |_, lock| lock.flags = LockFlags::BIND_P2P,
            Err(ErrorCode::INVALID_REQUEST),
        ),
        (
            "a flag that does not exist",
            |_, lock| lock.flags = LockFlags(1 << 5),
            Err(ErrorCode::INVALID_REQUEST),
        ),
        (
            "an offset within a page",
            |_, lock| lock.mmio_reporting_offset = 0x800,
            Err(ErrorCode::INVALID_REQUEST),
        ),
        (
            "a stream without keys",
            |_, lock| lock.default_stream = StreamId(1),
            Err(ErrorCode::INVALID_REQUEST),
        ),
        ("no stream has keys", |device, _| device.platform.streams.clear(), Err(ErrorCode::INVALID_REQUEST)),
        (
            "keys of another session",
            |device, _| device.platform.key_session = OTHER_SESSION,
            Err(ErrorCode::INVALID_REQUEST),
        ),
        (
            "a device not set up",
            |device, _| device.platform.configured = false,
            Err(ErrorCode::INVALID_DEVICE_CONFIGURATION),
        ),
        (
            "no random numbers",
            |device, _| device.platform.entropy = None,
            Err(ErrorCode::INSUFFICIENT_ENTROPY),
        ),
    ];
    for (what, change, expected) in rows {
        let mut device = Device::default();
        let mut lock = lock();
        change(&mut device, &mut lock);
        assert_eq!(device.result(Body::Lock(lock)).map(|_| ()), expected, "{what}");
        let state = if expected.is_ok() { TdiState::LOCKED } else { TdiState::UNLOCKED };
        assert_eq!(device.state(), state, "{what}");
        assert_eq!(device.set.binding(PF).is_some(), expected.is_ok(), "{what}");
    }
    // The faults in the order in which they are found.
    let mut device = Device::default();
    device.platform.configured = false;
    device.platform.entropy = None;
    let bad = LockInterface { default_stream: StreamId(1), ..lock() };
    assert_eq!(device.result(Body::Lock(bad)), Err(ErrorCode::INVALID_REQUEST));
    assert_eq!(device.result(Body::Lock(lock())), Err(ErrorCode::INVALID_DEVICE_CONFIGURATION));
    device.platform.configured = true;
    assert_eq!(device.result(Body::Lock(lock())), Err(ErrorCode::INSUFFICIENT_ENTROPY));
}

#[test]
fn a_report_that_cannot_be_asked_for_is_an_invalid_configuration() {
    let mut device = Device::default();
    device.platform.report.device_specific = vec![0; 70_000];
    assert_eq!(device.result(Body::Lock(lock())), Err(ErrorCode::INVALID_DEVICE_CONFIGURATION));
    assert_eq!(device.state(), TdiState::UNLOCKED);
}

#[test]
fn a_nonce_works_once_and_only_for_its_lock() {
    let mut device = Device::default();
    let first = device.lock();
    assert_eq!(device.result(Body::Stop), Ok(MessageType::STOP_INTERFACE_RESPONSE));
    let second = device.lock();
    assert_ne!(first, second);
    assert_eq!(device.result(start(&first)), Err(ErrorCode::INVALID_NONCE), "of the lock before");
    assert_eq!(device.result(start(&Nonce::new([0; 32]))), Err(ErrorCode::INVALID_NONCE));
    assert_eq!(device.state(), TdiState::LOCKED, "a wrong nonce changes nothing");
    assert_eq!(device.result(start(&second)), Ok(MessageType::START_INTERFACE_RESPONSE));
    assert_eq!(device.result(start(&second)), Err(ErrorCode::INVALID_INTERFACE_STATE));
}

#[test]
fn the_report_comes_in_portions_with_the_offset_added() {
    let mut device = Device::with(TdiConfig { max_portion: 20, ..TdiConfig::default() });
    device.lock();
    let mut report = Vec::new();
    loop {
        let offset = u16::try_from(report.len()).unwrap();
        let answer = device.ask_in(SESSION, PF, get_report(offset, 1024));
        let Body::Report(portion) = Message::read(&answer).unwrap().body else { panic!("{answer:02x?}") };
        report.extend_from_slice(portion.bytes);
        if portion.remainder == 0 {
            break;
        }
        assert_eq!(portion.bytes.len(), 20);
    }
    assert_eq!(Report::parse(&report), Ok(device.platform.report.shifted(OFFSET)));
}

#[test]
fn a_portion_is_never_longer_than_asked_for_and_must_be_one() {
    let mut device = Device::default();
    device.lock();
    let size = u16::try_from(device.platform.report.to_bytes().unwrap().len()).unwrap();
    let mut portion = |offset, length| {
        let answer = device.ask_in(SESSION, PF, get_report(offset, length));
        match Message::read(&answer).unwrap().body {
            Body::Report(portion) => Ok((portion.bytes.len(), portion.remainder)),
            Body::Error(error) => Err(error.code),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(portion(0, 1), Ok((1, size - 1)));
    assert_eq!(portion(0, size), Ok((size.into(), 0)));
    assert_eq!(portion(size - 1, u16::MAX), Ok((1, 0)));
    assert_eq!(portion(size, 1), Err(ErrorCode::INVALID_REQUEST));
    assert_eq!(portion(u16::MAX, 1), Err(ErrorCode::INVALID_REQUEST));
    assert_eq!(portion(0, 0), Err(ErrorCode::INVALID_REQUEST));
}

/// Each request as the only one with that fault, and with all later faults too.
#[test]
fn faults_of_a_message_are_found_in_order() {
    let good = payload(PF, get_report(0, 1));
    let with = |changes: &[(usize, u8)]| {
        let mut request = good.clone();
        for &(at, value) in changes {
            request[at] = value;
        }
        request
    };
    let mut short = with(&[(1, 0x11), (5, 0x99), (3, 1)]);
    short.pop();
    let rows = [
        ("unknown type", with(&[(2, 0x8c), (1, 0x11), (5, 0x99)]), ErrorCode::UNSUPPORTED_REQUEST, 0x8c),
        ("a response", with(&[(2, 0x05), (1, 0x11), (5, 0x99)]), ErrorCode::UNSUPPORTED_REQUEST, 0x05),
        ("a request that is not enabled", with(&[(2, 0x8b)]), ErrorCode::UNSUPPORTED_REQUEST, 0x8b),
        ("too short", short, ErrorCode::INVALID_REQUEST, 0),
        ("too long", [&good[..], &[0]].concat(), ErrorCode::INVALID_REQUEST, 0),
        ("version 1.1", with(&[(1, 0x11), (5, 0x99), (3, 1)]), ErrorCode::VERSION_MISMATCH, 0),
        ("unknown interface", with(&[(5, 0x99), (3, 1)]), ErrorCode::INVALID_INTERFACE, 0),
        ("reserved part of the interface id", with(&[(9, 1), (3, 1)]), ErrorCode::INVALID_INTERFACE, 0),
        ("reserved part of the header", with(&[(3, 1)]), ErrorCode::INVALID_REQUEST, 0),
        ("state", good.clone(), ErrorCode::INVALID_INTERFACE_STATE, 0),
    ];
    for (what, request, code, data) in rows {
        let answer = Device::default().ask_bytes(SESSION, &request).unwrap();
        let Body::Error(error) = Message::read(&answer[1..]).unwrap().body else {
            panic!("{what}: {answer:02x?}")
        };
        assert_eq!((error.code, error.data), (code, data), "{what}");
        assert_eq!(answer[5..9], request[5..9], "{what}: the interface is echoed");
    }
}

#[test]
fn the_state_comes_before_the_fields_of_a_lock() {
    let mut device = Device::default();
    let bad = LockInterface { flags: LockFlags(0xffff), ..lock() };
    let mut reserved = payload(PF, Body::Lock(lock()));
    reserved[20] = 1;
    for (state, code) in [
        (TdiState::UNLOCKED, ErrorCode::INVALID_REQUEST),
        (TdiState::LOCKED, ErrorCode::INVALID_INTERFACE_STATE),
    ] {
        device.to(state);
        assert_eq!(device.result(Body::Lock(bad)), Err(code));
        let answer = device.ask_bytes(SESSION, &reserved).unwrap();
        let Body::Error(error) = Message::read(&answer[1..]).unwrap().body else { panic!("{answer:02x?}") };
        assert_eq!(error.code, code);
    }
}

#[test]
fn what_has_no_header_gets_no_answer_of_the_protocol() {
    let mut device = Device::default();
    let good = payload(PF, Body::GetVersion);
    for end in 0..good.len() {
        assert!(matches!(device.ask_bytes(SESSION, &good[..end]), Err(TdispError::Decode(_))), "{end} bytes");
    }
    let mut other = good;
    other[0] = 0;
    assert_eq!(device.ask_bytes(SESSION, &other), Err(TdispError::Protocol(0)));
}

#[test]
fn an_interface_that_does_not_exist_is_invalid_in_every_request() {
    let mut device = Device::default();
    for body in [Body::GetVersion, Body::GetState, Body::Stop, Body::Lock(lock()), get_report(0, 1)] {
        let refused = device.result_in(SESSION, NOWHERE, body.clone());
        assert_eq!(refused, Err((ErrorCode::INVALID_INTERFACE, 0)), "{body:?}");
    }
}

#[test]
fn interfaces_of_one_device_have_states_of_their_own() {
    let mut device = Device::default();
    device.run();
    let nonce = device.lock_in(SESSION, VF, lock());
    assert_eq!((device.set.state(PF), device.set.state(VF)), (Some(TdiState::RUN), Some(TdiState::LOCKED)));
    assert_eq!(device.result(Body::Stop), Ok(MessageType::STOP_INTERFACE_RESPONSE));
    assert_eq!(
        (device.set.state(PF), device.set.state(VF)),
        (Some(TdiState::UNLOCKED), Some(TdiState::LOCKED))
    );
    assert_eq!(device.result_in(SESSION, VF, start(&nonce)), Ok(MessageType::START_INTERFACE_RESPONSE));
}

#[test]
fn what_one_session_locked_is_not_for_another_one() {
    let mut device = Device::default();
    let nonce = device.lock();
    let refused = Err((ErrorCode::INVALID_REQUEST, 0));
    for body in [start(&nonce), get_report(0, 1), Body::Stop] {
        assert_eq!(device.result_in(OTHER_SESSION, PF, body), refused);
    }
    assert_eq!(device.result_in(OTHER_SESSION, PF, Body::GetState), Ok(MessageType::DEVICE_INTERFACE_STATE));
    assert_eq!(device.state(), TdiState::LOCKED);
    device.event(TdiEvent::SessionEnded(SESSION));
    assert_eq!(device.result_in(OTHER_SESSION, PF, Body::Stop), Ok(MessageType::STOP_INTERFACE_RESPONSE));
}

#[test]
fn optional_requests_are_unsupported_unless_enabled() {
    let range =
        MmioRange { first_page: 0x10_0000 + OFFSET, pages: 1, attributes: RangeAttributes::NON_TEE, id: 0 };
    let vdm = Vdm { registry: RegistryId::PCI_SIG, vendor: &[0x86, 0x80], data: b"abc" };
    let bodies = [
        Body::BindP2p(P2pStream { stream: PEER }),
        Body::UnbindP2p(P2pStream { stream: PEER }),
        Body::SetMmioAttribute(SetMmioAttribute { range }),
        Body::Vdm(vdm),
    ];
    let mut closed = Device::default();
    closed.run();
    let all = RequestSet::P2P.with(MessageType::SET_MMIO_ATTRIBUTE_REQUEST).with(MessageType::VDM_REQUEST);
    let flags = LockFlags(0x1f);
    let mut open = Device::with(TdiConfig { optional: all, lock_flags: flags, ..TdiConfig::default() });
    open.run_with(LockInterface { flags: LockFlags::BIND_P2P, ..lock() });
    for body in bodies {
        let request = body.message_type();
        let unsupported = Err((ErrorCode::UNSUPPORTED_REQUEST, u32::from(request.0)));
        assert_eq!(closed.result_in(SESSION, PF, body.clone()), unsupported);
        assert_eq!(open.result_in(SESSION, PF, body), Ok(request.response()));
    }
    assert_eq!(open.platform.attributes, [(MmioRange { first_page: 0x10_0000, ..range }, true)]);
}

#[test]
fn a_peer_to_peer_stream_is_bound_only_where_the_lock_and_the_keys_permit_it() {
    let config =
        TdiConfig { optional: RequestSet::P2P, lock_flags: LockFlags::BIND_P2P, ..TdiConfig::default() };
    let bind = |stream| Body::BindP2p(P2pStream { stream });
    let unbind = |stream| Body::UnbindP2p(P2pStream { stream });
    let refused = Err(ErrorCode::INVALID_REQUEST);
    let mut device = Device::with(config);
    assert_eq!(device.result(bind(PEER)), Err(ErrorCode::INVALID_INTERFACE_STATE));
    device.run();
    assert_eq!(device.result(bind(PEER)), refused, "the lock does not permit it");
    let mut device = Device::with(config);
    device.run_with(LockInterface { flags: LockFlags::BIND_P2P, ..lock() });
    assert_eq!(device.result(bind(STREAM)), refused, "the default stream");
    assert_eq!(device.result(bind(StreamId(6))), refused, "no keys");
    assert_eq!(device.result(unbind(PEER)), refused, "not bound");
    assert!(device.result(bind(PEER)).is_ok());
    assert_eq!(device.result(bind(PEER)), refused, "bound already");
    assert_eq!(device.set.binding(PF).unwrap().p2p_streams, [PEER]);
    assert!(device.result(unbind(PEER)).is_ok());
    assert!(device.set.binding(PF).unwrap().p2p_streams.is_empty());
}

#[test]
fn an_attribute_is_set_only_within_a_range_that_may_be_updated() {
    let config = TdiConfig {
        optional: RequestSet::NONE.with(MessageType::SET_MMIO_ATTRIBUTE_REQUEST),
        ..TdiConfig::default()
    };
    let mut device = Device::with(config);
    let whole =
        MmioRange { first_page: 0x10_0000 + OFFSET, pages: 16, attributes: RangeAttributes(0), id: 0 };
    let set = |range| Body::SetMmioAttribute(SetMmioAttribute { range });
    device.to(TdiState::LOCKED);
    assert_eq!(device.result(set(whole)), Err(ErrorCode::INVALID_INTERFACE_STATE));
    device.result(Body::Stop).unwrap();
    device.run();
    let rows = [
        ("all of it", whole, true),
        ("its last page", MmioRange { first_page: whole.first_page + 15 * 4096, pages: 1, ..whole }, true),
        ("a page too many", MmioRange { pages: 17, ..whole }, false),
        ("no page", MmioRange { pages: 0, ..whole }, false),
        ("another id", MmioRange { id: 1, ..whole }, false),
        ("not a page", MmioRange { first_page: whole.first_page + 1, pages: 1, ..whole }, false),
        ("real addresses", MmioRange { first_page: 0x10_0000, ..whole }, false),
        (
            "an attribute that cannot be set",
            MmioRange { attributes: RangeAttributes::UPDATABLE, ..whole },
            false,
        ),
        ("not updatable", MmioRange { first_page: 0x20_0000 + OFFSET, pages: 1, id: 2, ..whole }, false),
    ];
    for (what, range, may) in rows {
        let expected =
            if may { Ok(MessageType::SET_MMIO_ATTRIBUTE_RESPONSE) } else { Err(ErrorCode::INVALID_REQUEST) };
        assert_eq!(device.result(set(range)), expected, "{what}");
    }
    assert_eq!(device.platform.attributes.len(), 2);
    device.platform.configured = false;
    assert_eq!(device.result(set(whole)), Err(ErrorCode::INVALID_REQUEST), "the device refuses");
}

#[test]
fn a_vendors_request_is_for_the_device() {
    let config =
        TdiConfig { optional: RequestSet::NONE.with(MessageType::VDM_REQUEST), ..TdiConfig::default() };
    let mut device = Device::with(config);
    let vdm = |vendor, data| Body::Vdm(Vdm { registry: RegistryId::PCI_SIG, vendor, data });
    let answer = device.ask_in(SESSION, PF, vdm(&[0x86, 0x80], b"abc"));
    let expected = Vdm { registry: RegistryId::PCI_SIG, vendor: &[0x86, 0x80], data: b"cba" };
    assert_eq!(Message::read(&answer).unwrap().body, Body::VdmResponse(expected));
    assert_eq!(device.result(vdm(&[0x86, 0x80], &[0])), Err(ErrorCode::INVALID_REQUEST));
    assert_eq!(device.result(vdm(&[0x86, 0x80], &[1])), Err(ErrorCode::INVALID_INTERFACE_STATE));
    let unknown = Err((ErrorCode::UNSUPPORTED_REQUEST, 0x8b));
    assert_eq!(device.result_in(SESSION, PF, vdm(&[0x34, 0x12], &[2])), unknown);
    let mut short = payload(PF, vdm(&[0x86, 0x80], &[]));
    short[18] = 3;
    let answer = device.ask_bytes(SESSION, &short).unwrap();
    assert_eq!(answer[17], 1, "a vendor id that is not there is an invalid request");
}

#[test]
fn with_fresh_keys_a_stream_is_keyed_anew_between_a_stop_and_a_lock() {
    let mut device = Device::with(TdiConfig { fresh_keys: true, ..TdiConfig::default() });
    device.run();
    device.result(Body::Stop).unwrap();
    assert_eq!(device.result(Body::Lock(lock())), Err(ErrorCode::INVALID_REQUEST));
    assert_eq!(device.state(), TdiState::UNLOCKED);
    device.platform.streams[0].1 += 7;
    assert!(device.result(Body::Lock(lock())).is_ok());
    let mut lenient = Device::default();
    lenient.run();
    lenient.result(Body::Stop).unwrap();
    assert!(lenient.result(Body::Lock(lock())).is_ok(), "nobody else wants that");
}
