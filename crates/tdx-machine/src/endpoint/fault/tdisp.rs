//! Faults inside the payloads of `IDE_KM` and TDISP.

use spdm::ide_km::{self, ObjectId};
use spdm::tdisp::{self, MessageType};

use super::bend::put;
use super::{At, DeviceFault, Echo, ReportLie};

/// Bytes of a payload before a message's body: protocol id, and the header of TDISP.
const BODY: usize = 1 + tdisp::Header::SIZE;
/// Offset of the interface in a payload of TDISP.
const INTERFACE: usize = 5;
/// Bytes of `DEVICE_INTERFACE_REPORT` before the portion.
const PORTION: usize = BODY + 4;
/// Offsets in a report: count of ranges, and of the first range its page, size, attributes and id.
const RANGE_COUNT: usize = 12;
const FIRST_PAGE: usize = 16;
const PAGES: usize = 24;
const ATTRIBUTES: usize = 28;
const RANGE_ID: usize = 30;
const RANGE: usize = 16;

/// The request in a payload.
pub(super) fn request(payload: &[u8]) -> Option<At> {
    match *payload {
        [ide_km::PROTOCOL, object, ..] => Some(At::IdeKm(ObjectId(object))),
        [tdisp::PROTOCOL, _, message, ..] => Some(At::Tdisp(MessageType(message))),
        _ => None,
    }
}

/// How a portion of a report was asked for.
pub(super) fn report_offset(payload: &[u8]) -> Option<u16> {
    match (request(payload), payload.get(BODY..)) {
        (Some(At::Tdisp(MessageType::GET_DEVICE_INTERFACE_REPORT)), Some([low, high, ..])) => {
            Some(u16::from_le_bytes([*low, *high]))
        }
        _ => None,
    }
}

fn flip(payload: &mut [u8], at: usize, bits: u8) {
    if let Some(byte) = payload.get_mut(at) {
        *byte ^= bits;
    }
}

/// Changes what the acknowledgement of a key echoes.
fn echo(payload: &mut [u8], echo: Echo) {
    // Behind the protocol id: object id, reserved ×2, stream, status, key and sub-stream, port.
    let (at, bits) = match echo {
        Echo::Stream => (4, 0x40),
        Echo::KeySet => (6, 0x01),
        Echo::Direction => (6, 0x02),
        Echo::SubStream => (6, 0x10),
        Echo::Port => (7, 0x01),
    };
    flip(payload, at, bits);
}

/// Bends the answer to a request of either protocol.
pub(super) fn bend(fault: DeviceFault, request: At, offset: Option<u16>, payload: &mut Vec<u8>) {
    let is_ide = |object| request == At::IdeKm(object);
    let is_tdisp = |message| request == At::Tdisp(message);
    match fault {
        DeviceFault::WrongPort if is_ide(ObjectId::QUERY) => flip(payload, 3, 1),
        DeviceFault::WrongKeyEchoed { echo: field } if is_ide(ObjectId::KEY_PROG) => echo(payload, field),
        DeviceFault::WrongGoEchoed { echo: field } if is_ide(ObjectId::K_SET_GO) => echo(payload, field),
        DeviceFault::KeyRefused { status } if is_ide(ObjectId::KEY_PROG) => put(payload, 5, &[status]),
        DeviceFault::WrongProtocol { at } if at.covers(request) => flip(payload, 0, 1),
        DeviceFault::WrongMessage { at } if at.covers(request) => match request {
            At::IdeKm(ObjectId::QUERY) => {
                *payload = vec![ide_km::PROTOCOL, ObjectId::KP_ACK.0, 0, 0, 0, 0, 0, 0];
            }
            At::IdeKm(ObjectId::KEY_PROG) => put(payload, 1, &[ObjectId::K_GOSTOP_ACK.0]),
            At::IdeKm(_) => put(payload, 1, &[ObjectId::KP_ACK.0]),
            _ => {
                let stopped = is_tdisp(MessageType::STOP_INTERFACE_REQUEST);
                let other = if stopped {
                    MessageType::START_INTERFACE_RESPONSE
                } else {
                    MessageType::STOP_INTERFACE_RESPONSE
                };
                payload.truncate(BODY);
                put(payload, 2, &[other.0]);
            }
        },
        DeviceFault::WrongInterface { at } if at.covers(request) => flip(payload, INTERFACE, 1),
        DeviceFault::TdispRefused { at } if at.covers(request) => {
            payload.truncate(BODY);
            put(payload, 2, &[MessageType::TDISP_ERROR.0]);
            payload.extend(tdisp::ErrorCode::UNSPECIFIED.0.to_le_bytes());
            payload.extend([0; 4]);
        }
        DeviceFault::WrongTdispVersion { at } if at.covers(request) => put(payload, 1, &[0x20]),
        DeviceFault::WrongNonceLength { bytes } if is_tdisp(MessageType::LOCK_INTERFACE_REQUEST) => {
            payload.resize(BODY + usize::from(bytes), 0xa5);
        }
        DeviceFault::UnknownState if is_tdisp(MessageType::GET_DEVICE_INTERFACE_STATE) => {
            put(payload, BODY, &[0x0f]);
        }
        DeviceFault::ReportSizeChanges if offset.is_some_and(|offset| offset != 0) => {
            flip(payload, BODY + 2, 0x10);
        }
        DeviceFault::LyingReport { lie } => {
            if let Some(offset) = offset {
                bend_report(lie, offset, payload);
            }
        }
        _ => {}
    }
}

/// Changes the bytes of a report that lie in this portion of it.
fn bend_report(lie: ReportLie, offset: u16, payload: &mut [u8]) {
    let Some((_, portion)) = payload.split_at_mut_checked(PORTION) else { return };
    let mut set = |at: usize, change: &dyn Fn(u8) -> u8| {
        if let Some(byte) = at.checked_sub(offset.into()).and_then(|at| portion.get_mut(at)) {
            *byte = change(*byte);
        }
    };
    match lie {
        ReportLie::Outside => set(PAGES + 2, &|_| 1),
        ReportLie::Elsewhere => set(FIRST_PAGE + 5, &|byte| byte ^ 1),
        // The second range begins where the first does, and is longer.
        ReportLie::Overlap => {
            set(FIRST_PAGE + RANGE + 1, &|_| 0);
            set(PAGES + RANGE, &|pages| pages.saturating_add(2));
        }
        ReportLie::NoBar => set(RANGE_ID, &|_| 5),
        ReportLie::Empty => (0..4).for_each(|byte| set(PAGES + byte, &|_| 0)),
        ReportLie::Count => set(RANGE_COUNT + 3, &|_| 0xff),
        ReportLie::Attributes => set(ATTRIBUTES + 1, &|_| 0x80),
    }
}
