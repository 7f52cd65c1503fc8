//! The requester, against the device and against one that lies.

use super::*;
use crate::wire::DecodeError;

fn drive(
    requester: &mut TdiRequester,
    device: &mut Device,
    operation: TdiOperation,
) -> Result<Outcome, TdispFailure> {
    requester.start(operation)?;
    loop {
        let request = requester.request().unwrap();
        let answer = device.ask_bytes(SESSION, &request).unwrap();
        if let Progress::Done(outcome) = requester.response(&answer)? {
            return Ok(outcome);
        }
    }
}

#[test]
fn an_interface_is_locked_attested_started_and_stopped() {
    let all = RequestSet::P2P.with(MessageType::SET_MMIO_ATTRIBUTE_REQUEST);
    let config =
        TdiConfig { optional: all, lock_flags: LockFlags::BIND_P2P, max_portion: 30, ..TdiConfig::default() };
    let mut device = Device::with(config);
    let mut requester = TdiRequester::new(PF);
    let mut does = |operation| drive(&mut requester, &mut device, operation).unwrap();
    assert_eq!(does(TdiOperation::Versions), Outcome::Versions(vec![0x10]));
    assert_eq!(does(TdiOperation::Capabilities), Outcome::Capabilities(config.capabilities()));
    let lock = LockInterface { flags: LockFlags::BIND_P2P, ..lock() };
    assert_eq!(does(TdiOperation::Lock(lock)), Outcome::Locked);
    assert_eq!(does(TdiOperation::State), Outcome::State(TdiState::LOCKED));
    let report = Platform::default().report.shifted(OFFSET);
    let bytes = report.to_bytes().unwrap();
    for portion in [0, 1, 7, 30, 1024] {
        assert_eq!(does(TdiOperation::Report { portion }), Outcome::Report(bytes.clone(), report.clone()));
    }
    assert_eq!(does(TdiOperation::Start), Outcome::Started);
    assert_eq!(does(TdiOperation::BindP2p(PEER)), Outcome::P2pBound);
    assert_eq!(does(TdiOperation::UnbindP2p(PEER)), Outcome::P2pUnbound);
    let range = MmioRange { attributes: RangeAttributes::NON_TEE, ..report.ranges[0] };
    assert_eq!(does(TdiOperation::SetMmioAttribute(range)), Outcome::MmioAttributeSet);
    assert_eq!(does(TdiOperation::Stop), Outcome::Stopped);
    assert_eq!(does(TdiOperation::State), Outcome::State(TdiState::UNLOCKED));
}

#[test]
fn a_refusal_names_request_code_and_data() {
    let mut device = Device::default();
    let mut requester = TdiRequester::new(PF);
    let refused = |request, code, data| Err(TdispFailure::Refused { request, code, data });
    let report = MessageType::GET_DEVICE_INTERFACE_REPORT;
    let unsupported = MessageType::BIND_P2P_STREAM_REQUEST;
    let mut does = |operation| drive(&mut requester, &mut device, operation);
    assert_eq!(
        does(TdiOperation::Report { portion: 64 }),
        refused(report, ErrorCode::INVALID_INTERFACE_STATE, 0)
    );
    assert_eq!(does(TdiOperation::BindP2p(PEER)), refused(unsupported, ErrorCode::UNSUPPORTED_REQUEST, 0x88));
    assert_eq!(does(TdiOperation::State), Ok(Outcome::State(TdiState::UNLOCKED)), "the next one works");
}

#[test]
fn a_start_needs_the_nonce_of_a_lock_and_spends_it() {
    let mut device = Device::default();
    let mut requester = TdiRequester::new(PF);
    assert_eq!(requester.start(TdiOperation::Start), Err(TdispFailure::NoNonce));
    drive(&mut requester, &mut device, TdiOperation::Lock(lock())).unwrap();
    drive(&mut requester, &mut device, TdiOperation::Start).unwrap();
    assert_eq!(requester.start(TdiOperation::Start), Err(TdispFailure::NoNonce));
    drive(&mut requester, &mut device, TdiOperation::Stop).unwrap();
    drive(&mut requester, &mut device, TdiOperation::Lock(lock())).unwrap();
    drive(&mut requester, &mut device, TdiOperation::Stop).unwrap();
    assert_eq!(requester.start(TdiOperation::Start), Err(TdispFailure::NoNonce));
}

#[test]
fn one_operation_is_under_way_at_a_time_and_one_response_answers_one_request() {
    let mut device = Device::default();
    let mut requester = TdiRequester::new(PF);
    assert_eq!(requester.request(), None);
    requester.start(TdiOperation::State).unwrap();
    assert_eq!(requester.start(TdiOperation::Stop), Err(TdispFailure::UnderWay));
    let answer = device.ask_bytes(SESSION, &payload(PF, Body::GetState)).unwrap();
    assert_eq!(requester.response(&answer), Err(TdispFailure::Unasked), "before the request");
    requester.request().unwrap();
    assert!(requester.response(&answer).is_ok());
    assert_eq!(requester.response(&answer), Err(TdispFailure::Unasked), "a replay");
    requester.start(TdiOperation::State).unwrap();
    requester.abandon();
    assert_eq!(requester.request(), None);
    assert_eq!(requester.start(TdiOperation::Stop), Ok(()));
}

#[test]
fn a_response_that_lies_is_named_and_the_next_operation_works() {
    let state = Body::State(InterfaceState { state: TdiState::RUN });
    let mut other_version = payload(PF, state.clone());
    other_version[1] = 0x11;
    let mut other_protocol = payload(PF, state.clone());
    other_protocol[0] = 0;
    let unexpected = TdispFailure::Unexpected {
        found: MessageType::STOP_INTERFACE_RESPONSE,
        expected: MessageType::DEVICE_INTERFACE_STATE,
    };
    let rows = [
        (payload(VF, state), TdispFailure::WrongInterface { found: VF, asked: PF }),
        (payload(PF, Body::Stopped), unexpected),
        (other_version, TdispFailure::Decode(DecodeError::Value { field: "TDISP version", value: 0x11 })),
        (other_protocol, TdispFailure::Protocol(0)),
        (vec![], TdispFailure::Decode(DecodeError::Truncated { field: "protocol id", needed: 1, left: 0 })),
    ];
    let mut device = Device::default();
    let mut requester = TdiRequester::new(PF);
    for (answer, failure) in rows {
        requester.start(TdiOperation::State).unwrap();
        requester.request().unwrap();
        assert_eq!(requester.response(&answer), Err(failure));
        assert!(drive(&mut requester, &mut device, TdiOperation::State).is_ok());
    }
    requester.start(TdiOperation::Versions).unwrap();
    requester.request().unwrap();
    let newer = payload(PF, Body::Version(VersionList(&[0x20, 0x11])));
    assert_eq!(requester.response(&newer), Err(TdispFailure::NoCommonVersion));
}

#[test]
fn a_report_that_lies_about_itself_is_named() {
    let report = Platform::default().report.to_bytes().unwrap();
    let answers = |answers: &[(&[u8], u16)]| {
        let mut requester = TdiRequester::new(PF);
        requester.start(TdiOperation::Report { portion: 16 }).unwrap();
        let mut last = None;
        for &(bytes, remainder) in answers {
            requester.request().unwrap();
            last = Some(requester.response(&payload(PF, Body::Report(ReportPortion { remainder, bytes }))));
        }
        last.unwrap()
    };
    let left = u16::try_from(report.len() - 16).unwrap();
    assert_eq!(answers(&[(&report[..16], left)]), Ok(Progress::More));
    assert_eq!(answers(&[(&[], left)]), Err(TdispFailure::BadPortion { found: 0, asked: 16 }));
    assert_eq!(answers(&[(&report[..17], left)]), Err(TdispFailure::BadPortion { found: 17, asked: 16 }));
    let changed = TdispFailure::ReportChanged { before: report.len(), now: report.len() + 4 };
    assert_eq!(answers(&[(&report[..16], left), (&report[16..32], left - 12)]), Err(changed));
    assert_eq!(
        answers(&[(&report[..16], u16::MAX)]),
        Err(TdispFailure::ReportChanged { before: 65_551, now: 65_551 }),
        "longer than any report"
    );
    assert!(matches!(answers(&[(&report[..16], 0)]), Err(TdispFailure::MalformedReport(_))), "too short");
}
