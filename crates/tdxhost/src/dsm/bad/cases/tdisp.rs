//! TDISP requests that no interface may grant.

use spdm::tdisp::{
    Body, ErrorCode, GetCapabilities, GetReport, InterfaceId, LockInterface, Message, MessageType, Nonce,
    PROTOCOL, StartInterface, TdiOperation,
};

use super::{Attempt, Case, Expected, Probe, Setback, case, written};

const INVALID: Expected = Expected::Tdisp(&[ErrorCode::INVALID_REQUEST]);
const STATE: Expected = Expected::Tdisp(&[ErrorCode::INVALID_INTERFACE_STATE]);

fn payload(interface: InterfaceId, body: Body<'_>) -> Result<Vec<u8>, Setback> {
    let message = written(|writer| Message { interface, body }.write(writer))?;
    Ok([&[PROTOCOL][..], &message].concat())
}

/// A request to an interface that is unlocked, bent.
fn unlocked(probe: &mut Probe<'_>, body: Body<'_>, bend: impl FnOnce(&mut Vec<u8>)) -> Attempt {
    probe.session()?;
    let interface = probe.interface()?;
    let stop = payload(interface, Body::Stop)?;
    probe.vendor(&stop)?;
    let mut request = payload(interface, body)?;
    bend(&mut request);
    probe.vendor(&request)
}

/// A request to an interface that is locked, bent.
fn locked(probe: &mut Probe<'_>, body: Body<'_>) -> Attempt {
    let tdi = probe.locked()?;
    let request = payload(tdi.interface(), body)?;
    probe.vendor(&request)
}

fn lock(probe: &Probe<'_>) -> Body<'static> {
    Body::Lock(LockInterface { default_stream: probe.target().stream, ..LockInterface::default() })
}

const WHOLE: GetReport = GetReport { offset: 0, length: 1024 };

fn start() -> Body<'static> {
    Body::Start(StartInterface { nonce: Nonce::new([0x5a; 32]) })
}

pub(super) const CASES: &[Case] = &[
    case(
        "tdisp-version-2",
        "GET_TDISP_CAPABILITIES of TDISP 2.0",
        Expected::Tdisp(&[ErrorCode::VERSION_MISMATCH]),
        |probe| {
            unlocked(probe, Body::GetCapabilities(GetCapabilities::default()), |request| request[1] = 0x20)
        },
    ),
    case(
        "tdisp-unknown-interface",
        "GET_DEVICE_INTERFACE_STATE of an interface that there is not",
        Expected::Tdisp(&[ErrorCode::INVALID_INTERFACE]),
        |probe| unlocked(probe, Body::GetState, |request| request[5..9].fill(0xff)),
    ),
    case(
        "tdisp-unknown-request",
        "TDISP request 0x8f",
        Expected::Tdisp(&[ErrorCode::UNSUPPORTED_REQUEST]),
        |probe| unlocked(probe, Body::GetState, |request| request[2] = 0x8f),
    ),
    case(
        "tdisp-response",
        "TDISP_VERSION, which is a response",
        Expected::Tdisp(&[ErrorCode::UNSUPPORTED_REQUEST, ErrorCode::INVALID_REQUEST]),
        |probe| unlocked(probe, Body::GetState, |request| request[2] = MessageType::TDISP_VERSION.0),
    ),
    case("tdisp-trailing", "GET_DEVICE_INTERFACE_STATE and 8 bytes more", INVALID, |probe| {
        unlocked(probe, Body::GetState, |request| request.extend([0; 8]))
    }),
    case("lock-short", "LOCK_INTERFACE_REQUEST without its last 8 bytes", INVALID, |probe| {
        let lock = lock(probe);
        unlocked(probe, lock, |request| request.truncate(request.len() - 8))
    }),
    case("lock-without-keys", "LOCK_INTERFACE_REQUEST to a stream that has no keys", INVALID, |probe| {
        let lock = lock(probe);
        unlocked(probe, lock, |_| {})
    }),
    case(
        "lock-stream-beyond",
        "LOCK_INTERFACE_REQUEST to stream 254, which the device does not have",
        INVALID,
        |probe| {
            let lock = lock(probe);
            unlocked(probe, lock, |request| request[19] = 0xfe)
        },
    ),
    case(
        "report-unlocked",
        "GET_DEVICE_INTERFACE_REPORT of an interface that is not locked",
        STATE,
        |probe| unlocked(probe, Body::GetReport(WHOLE), |_| {}),
    ),
    case("start-unlocked", "START_INTERFACE_REQUEST to an interface that is not locked", STATE, |probe| {
        unlocked(probe, start(), |_| {})
    }),
    case("lock-twice", "LOCK_INTERFACE_REQUEST to an interface that is locked", STATE, |probe| {
        let lock = lock(probe);
        locked(probe, lock)
    }),
    case(
        "start-wrong-nonce",
        "START_INTERFACE_REQUEST with another nonce",
        Expected::Tdisp(&[ErrorCode::INVALID_NONCE]),
        |probe| locked(probe, start()),
    ),
    case("start-short-nonce", "START_INTERFACE_REQUEST with 16 bytes of nonce", INVALID, |probe| {
        let tdi = probe.locked()?;
        let mut request = payload(tdi.interface(), start())?;
        request.truncate(request.len() - 16);
        probe.vendor(&request)
    }),
    case("report-offset-beyond", "GET_DEVICE_INTERFACE_REPORT with offset 0xffff", INVALID, |probe| {
        locked(probe, Body::GetReport(GetReport { offset: u16::MAX, length: u16::MAX }))
    }),
    case("report-no-length", "GET_DEVICE_INTERFACE_REPORT of 0 bytes", INVALID, |probe| {
        locked(probe, Body::GetReport(GetReport { offset: 0, length: 0 }))
    }),
    case("start-running", "START_INTERFACE_REQUEST to an interface that runs", STATE, |probe| {
        let mut tdi = probe.locked()?;
        probe.tdisp(&mut tdi, TdiOperation::Start)?;
        let request = payload(tdi.interface(), start())?;
        probe.vendor(&request)
    }),
    case("lock-running", "LOCK_INTERFACE_REQUEST to an interface that runs", STATE, |probe| {
        let mut tdi = probe.locked()?;
        probe.tdisp(&mut tdi, TdiOperation::Start)?;
        let lock = lock(probe);
        let request = payload(tdi.interface(), lock)?;
        probe.vendor(&request)
    }),
    case(
        "start-behind-stop",
        "START_INTERFACE_REQUEST with the nonce of a lock that was taken back",
        STATE,
        |probe| {
            let tdi = probe.locked()?;
            let stop = payload(tdi.interface(), Body::Stop)?;
            probe.vendor(&stop)?;
            // The requester still knows the nonce.
            let mut tdi = tdi;
            tdi.start(TdiOperation::Start)?;
            let request = tdi.request().ok_or(Setback::Lacking("a nonce"))?;
            probe.vendor(&request)
        },
    ),
];
