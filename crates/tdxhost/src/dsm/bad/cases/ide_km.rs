//! `IDE_KM` requests that no key follows.

use spdm::ide_km::{
    IdeKey, Ifv, KSetGo, KSetStop, KeyProg, KeySelector, KpStatus, PROTOCOL, PortIndex, Target,
};
use spdm::msg::ErrorCode;

use super::{Attempt, Case, Expected, Probe, Setback, case, written};

/// Refused by SPDM: the protocol has no message for it.
const REFUSED: Expected = Expected::Error(&[
    ErrorCode::INVALID_REQUEST,
    ErrorCode::UNEXPECTED_REQUEST,
    ErrorCode::UNSPECIFIED,
    ErrorCode::UNSUPPORTED_REQUEST,
]);
const LENGTH: Expected = Expected::KpAck(&[KpStatus::INCORRECT_LENGTH]);
const PORT: Expected = Expected::KpAck(&[KpStatus::UNSUPPORTED_PORT]);
const VALUE: Expected = Expected::KpAck(&[KpStatus::UNSUPPORTED_VALUE]);

/// Keys are refused with a port's answer first: whoever has no `IDE_KM` at all is not tried.
fn ready(probe: &mut Probe<'_>) -> Result<Target, Setback> {
    probe.session()?;
    probe.interface_of_port()?;
    let super::super::Target { port, stream, .. } = probe.target();
    Ok(Target { stream, key: KeySelector(0), port })
}

/// `KEY_PROG`, with the protocol id.
fn key_prog(target: Target) -> Result<Vec<u8>, Setback> {
    let request = KeyProg { target, key: IdeKey::new([0x33; 32]), ifv: Ifv::INITIAL };
    let message = written(|writer| request.write(writer))?;
    Ok([&[PROTOCOL][..], &message].concat())
}

fn bent(probe: &mut Probe<'_>, bend: impl FnOnce(&mut Vec<u8>)) -> Attempt {
    let target = ready(probe)?;
    let mut payload = key_prog(target)?;
    bend(&mut payload);
    probe.vendor(&payload)
}

fn go(probe: &mut Probe<'_>, bend: impl FnOnce(&mut Vec<u8>)) -> Attempt {
    let target = ready(probe)?;
    let message = written(|writer| KSetGo { target }.write(writer))?;
    let mut payload = [&[PROTOCOL][..], &message].concat();
    bend(&mut payload);
    probe.vendor(&payload)
}

/// Offsets in a payload: stream, key and sub-stream, port.
const STREAM: usize = 4;
const KEY: usize = 6;
const AT: usize = 7;

pub(super) const CASES: &[Case] = &[
    case("query-port-beyond", "QUERY of port 255", REFUSED, |probe| {
        ready(probe)?;
        probe.vendor(&[PROTOCOL, 0, 0, 0xff])
    }),
    case("query-short", "QUERY without its port", REFUSED, |probe| {
        ready(probe)?;
        probe.vendor(&[PROTOCOL, 0, 0])
    }),
    case("ide-km-unknown-object", "IDE_KM object 0x77", REFUSED, |probe| {
        ready(probe)?;
        probe.vendor(&[PROTOCOL, 0x77, 0, 0])
    }),
    case("ide-km-response", "KP_ACK, which is a response", REFUSED, |probe| {
        ready(probe)?;
        probe.vendor(&[PROTOCOL, 3, 0, 0, 0, 0, 0, 0])
    }),
    case("key-prog-short", "KEY_PROG without its last four bytes", LENGTH, |probe| {
        bent(probe, |payload| payload.truncate(payload.len() - 4))
    }),
    case("key-prog-long", "KEY_PROG and four bytes more", LENGTH, |probe| {
        bent(probe, |payload| payload.extend([0; 4]))
    }),
    case("key-prog-port-beyond", "KEY_PROG for port 255", PORT, |probe| {
        bent(probe, |payload| payload[AT] = 0xff)
    }),
    case("key-prog-stream-beyond", "KEY_PROG for stream 254, which the port does not have", VALUE, |probe| {
        bent(probe, |payload| payload[STREAM] = 0xfe)
    }),
    case("key-prog-sub-stream", "KEY_PROG for sub-stream 3", VALUE, |probe| {
        bent(probe, |payload| payload[KEY] = 0x30)
    }),
    case("key-prog-sub-stream-15", "KEY_PROG for sub-stream 15", VALUE, |probe| {
        bent(probe, |payload| payload[KEY] = 0xf0)
    }),
    case(
        "key-prog-reserved-key-bit",
        "KEY_PROG with a reserved bit beside key set and direction",
        VALUE,
        |probe| bent(probe, |payload| payload[KEY] = 0x04),
    ),
    case(
        "key-prog-reserved",
        "KEY_PROG with reserved bytes",
        Expected::KpAckOrIgnored(&[KpStatus::UNSUPPORTED_VALUE]),
        |probe| bent(probe, |payload| payload[2] = 0x80),
    ),
    case("go-without-keys", "K_SET_GO for a key that was never brought", REFUSED, |probe| go(probe, |_| {})),
    case("go-port-beyond", "K_SET_GO for port 255", REFUSED, |probe| go(probe, |payload| payload[AT] = 0xff)),
    case("go-sub-stream", "K_SET_GO for sub-stream 3", REFUSED, |probe| {
        go(probe, |payload| payload[KEY] = 0x30)
    }),
    case("go-short", "K_SET_GO without its last byte", REFUSED, |probe| {
        go(probe, |payload| payload.truncate(AT))
    }),
    case("stop-port-beyond", "K_SET_STOP for port 255", REFUSED, |probe| {
        let target = Target { port: PortIndex(0xff), ..ready(probe)? };
        let message = written(|writer| KSetStop { target }.write(writer))?;
        probe.vendor(&[&[PROTOCOL][..], &message].concat())
    }),
];
