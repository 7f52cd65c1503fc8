//! TDH.SPDM.MNG and TDH.SPDM.DISCONNECT: life and end of a session.

use spdm::responder::SessionEnd;
use tdx_abi::Registers;
use tdx_abi::connect::NO_PAGE;
use tdx_abi::connect::dev_info::{RecordType, Records};
use tdx_abi::connect::ids::{KmOperation, MngOperation};
use tdx_abi::connect::refusal::{Refusal, RefusalReason};
use tdx_abi::connect::spdm::SpdmConfigInfo;
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_module::LockName;
use zerocopy::IntoBytes;

use crate::common::config;
use crate::common::device::Responding;
use crate::common::tee_io::{
    ANSWER, CONFIG, Host, INFO_ROOT, REQUEST, SESSION_PAGES, bridged_with, config_info, created,
    disconnect_regs, mng_regs, status, stream_regs,
};

const MNG: SeamcallLeaf = SeamcallLeaf::SPDM_MNG;
const DISCONNECT: SeamcallLeaf = SeamcallLeaf::SPDM_DISCONNECT;
const HEARTBEAT: MngOperation = MngOperation::HEARTBEAT;
const KEY_UPDATE: MngOperation = MngOperation::KEY_UPDATE;
const RECOLLECTION: MngOperation = MngOperation::DEV_INFO_RECOLLECTION;
const BAD_STATE: Status = StatusCode::SPDM_INVALID_STATE.plain();
const REQUEST_OUT: Status = StatusCode::SPDM_REQUEST.plain();
const INTERRUPTED: Status = StatusCode::INTERRUPTED_RESUMABLE.plain();

fn invalid(operand: OperandId) -> Status {
    StatusCode::OPERAND_INVALID.with_operand(operand)
}

#[test]
fn a_session_lives_gets_new_keys_and_ends() {
    let (mut host, id) = Host::connected();
    for operation in [HEARTBEAT, KEY_UPDATE, HEARTBEAT, KEY_UPDATE] {
        let after = host.mng(id, operation);
        assert_eq!((status(after), after.rcx), (Status::SUCCESS, 0), "{operation}");
    }
    assert_eq!(status(host.disconnect(id)), Status::SUCCESS);
    assert_eq!(host.device.dsm.ended, [SessionEnd::Asked]);
    assert_eq!(host.bench.connect().units[0].active_sessions, 0);
    assert_eq!(status(host.connect(id)), Status::SUCCESS, "and begins again");
}

/// What the measurements record says.
fn measurements(blob: &[u8]) -> Vec<u8> {
    let mut records = Records::new(blob).map(|record| record.expect("a record"));
    records.find(|record| record.kind == RecordType::MEASUREMENTS).expect("measurements").bytes.to_vec()
}

#[test]
fn recollection_tells_what_the_device_runs_now() {
    let (mut host, id) = Host::created();
    let raw = SpdmConfigInfo { raw_bitstream_requested: 1, ..config_info() };
    host.bench.hw.set(|facts| facts.put_message(CONFIG, raw.as_bytes()));
    let first = host.connect(id);
    let first = host.dev_info(first.rcx);
    assert!(measurements(&first).windows(64).any(|bytes| bytes == [1; 64]));
    host.device.dsm.version = 2;
    let second = host.mng(id, RECOLLECTION);
    assert_eq!(status(second), Status::SUCCESS);
    let second = host.dev_info(second.rcx);
    assert!(measurements(&second).windows(64).any(|bytes| bytes == [2; 64]));
    // All else is as it was.
    let others = |blob: &[u8]| {
        let records = Records::new(blob).map(|record| record.expect("a record"));
        let others = records.filter(|record| record.kind != RecordType::MEASUREMENTS);
        others.map(|record| (record.kind, record.index, record.bytes.to_vec())).collect::<Vec<_>>()
    };
    assert_eq!(others(&second), others(&first));
    // The parameter page says anew what is wanted.
    let digests = SpdmConfigInfo { raw_bitstream_requested: 0, ..raw };
    host.bench.hw.set(|facts| facts.put_message(CONFIG, digests.as_bytes()));
    let after = host.drive(MNG, Registers { r8: CONFIG, ..mng_regs(id, RECOLLECTION) });
    assert!(!measurements(&host.dev_info(after.rcx)).windows(64).any(|bytes| bytes == [2; 64]));
    host.bench.hw.set(|facts| facts.put_message(CONFIG, &[0xFF]));
    let after = host.drive(MNG, Registers { r8: CONFIG, ..mng_regs(id, RECOLLECTION) });
    assert_eq!(status(after), invalid(OperandId::R8), "TDH.SPDM.MNG-12");
}

#[test]
fn operands_of_mng_are_looked_at_in_their_order() {
    let (mut host, id) = Host::created();
    let unknown = StatusCode::SPDM_ENTRY_NOT_PRESENT.plain();
    assert_eq!(status(host.call(MNG, mng_regs(id ^ 1, HEARTBEAT))), unknown, "TDH.SPDM.MNG-1");
    let odd = Registers { rdx: 3, r8: 0, r9: 8, ..mng_regs(id, HEARTBEAT) };
    assert_eq!(status(host.call(MNG, odd)), BAD_STATE, "TDH.SPDM.MNG-2 before TDH.SPDM.MNG-3");
    assert_eq!(status(host.connect(id)), Status::SUCCESS);
    assert_eq!(status(host.call(MNG, odd)), invalid(OperandId::RDX), "TDH.SPDM.MNG-3: before TDH.SPDM.MNG-4");
    for operation in [HEARTBEAT, KEY_UPDATE] {
        let good = mng_regs(id, operation);
        for (row, operand, regs) in [
            ("TDH.SPDM.MNG-4a", OperandId::R8, Registers { r8: CONFIG, ..good }),
            ("TDH.SPDM.MNG-4b", OperandId::R11, Registers { r11: INFO_ROOT, ..good }),
            ("TDH.SPDM.MNG-4 before TDH.SPDM.MNG-10", OperandId::R8, Registers { r8: 0, r9: 8, ..good }),
            ("TDH.SPDM.MNG-10a", OperandId::R9, Registers { r9: ANSWER + 1, ..good }),
            ("TDH.SPDM.MNG-10b", OperandId::R10, Registers { r10: SESSION_PAGES, ..good }),
        ] {
            host.bench.hw.set(|facts| facts.contended = vec![LockName::Extension]);
            assert_eq!(status(host.call(MNG, regs)), invalid(operand), "{row}");
            host.bench.hw.set(|facts| facts.contended.clear());
        }
    }
    let regs = Registers { r8: 1 << 51 | 8, ..mng_regs(id, RECOLLECTION) };
    assert_eq!(status(host.call(MNG, regs)), invalid(OperandId::R8), "TDH.SPDM.MNG-10c");
    for r11 in [NO_PAGE, 8, SESSION_PAGES] {
        let regs = Registers { r11, ..mng_regs(id, RECOLLECTION) };
        assert_eq!(status(host.drive(MNG, regs)), invalid(OperandId::R11), "TDH.SPDM.MNG-13");
    }
    assert_eq!(status(host.mng(id, RECOLLECTION)), Status::SUCCESS, "the session lives on");
}

#[test]
fn an_operation_that_was_not_agreed_on_is_refused() {
    let (mut host, id) = Host::created();
    let none = SpdmConfigInfo { capabilities: 0.into(), ..config_info() };
    host.bench.hw.set(|facts| facts.put_message(CONFIG, none.as_bytes()));
    assert_eq!(status(host.connect(id)), Status::SUCCESS);
    for operation in [HEARTBEAT, KEY_UPDATE] {
        let after = host.mng(id, operation);
        assert_eq!(status(after), invalid(OperandId::RDX), "TDH.SPDM.MNG-11");
    }
    assert!(!host.bench.connect().interrupted);
    assert_eq!(status(host.mng(id, RECOLLECTION)), Status::SUCCESS);
}

#[test]
fn the_extension_is_busy_or_interrupted_for_mng_and_disconnect() {
    let (mut host, id) = Host::connected();
    let busy = StatusCode::OPERAND_BUSY.with_operand(OperandId::RAX);
    host.bench.hw.set(|facts| facts.contended = vec![LockName::Extension]);
    assert_eq!(status(host.call(MNG, mng_regs(id, HEARTBEAT))), busy, "TDH.SPDM.MNG-5");
    assert_eq!(status(host.call(DISCONNECT, disconnect_regs(id))), busy, "TDH.SPDM.DISCONNECT-4");
    host.bench.hw.set(|facts| facts.contended = vec![LockName::Spdm]);
    let locked = StatusCode::OPERAND_BUSY.with_operand(OperandId::RCX);
    assert_eq!(status(host.call(MNG, mng_regs(id, HEARTBEAT))), locked, "TDH.SPDM.MNG-5");
    assert_eq!(status(host.call(DISCONNECT, disconnect_regs(id))), locked, "TDH.SPDM.DISCONNECT-4");
    host.bench.hw.set(|facts| {
        facts.contended.clear();
        facts.interrupt = true;
    });
    assert_eq!(status(host.call(MNG, mng_regs(id, HEARTBEAT))), INTERRUPTED, "TDH.SPDM.MNG-6");
    assert_eq!(status(host.call(DISCONNECT, disconnect_regs(id))), busy, "TDH.SPDM.DISCONNECT-4");
    assert_eq!(status(host.call(MNG, mng_regs(id, KEY_UPDATE))), busy, "TDH.SPDM.MNG-5");
    assert_eq!(status(host.call(DISCONNECT, disconnect_regs(id))), busy, "the heartbeat still has the slot");
    assert_eq!(status(host.call(MNG, mng_regs(id, HEARTBEAT))), REQUEST_OUT, "TDH.SPDM.MNG-7");
    // Another operation has to wait for the answer.
    assert_eq!(status(host.call(MNG, mng_regs(id, KEY_UPDATE))), locked, "TDH.SPDM.MNG-5");
    host.exchange(u64::from(u16::try_from(host.bench.hw.word(REQUEST) >> 32 << 2).expect("a length")));
    assert_eq!(status(host.mng(id, HEARTBEAT)), Status::SUCCESS);
    assert_eq!(status(host.call(DISCONNECT, disconnect_regs(id))), INTERRUPTED, "TDH.SPDM.DISCONNECT-5");
    host.wanders = true;
    assert_eq!(status(host.disconnect(id)), Status::SUCCESS);
}

#[test]
fn used_up_keys_are_renewed_before_anything_else_is_said() {
    let mut module = config("connect");
    module.session_key_uses = 16;
    let mut host = Host::new(bridged_with(module), Responding::new());
    let id = created(&host.bench);
    assert_eq!(status(host.connect(id)), Status::SUCCESS);
    let refresh = StatusCode::SPDM_SESSION_KEY_REQUIRE_REFRESH.plain();
    let mut refreshed = 0;
    for _ in 0..40 {
        while status(host.mng(id, HEARTBEAT)) == refresh {
            refreshed += 1;
            assert!(!host.bench.connect().interrupted, "TDH.SPDM.MNG-8");
            assert_eq!(status(host.mng(id, RECOLLECTION)), refresh, "TDH.SPDM.MNG-8");
            assert_eq!(status(host.mng(id, KEY_UPDATE)), Status::SUCCESS, "never from KEY_UPDATE");
        }
    }
    assert_eq!(refreshed, 2, "40 heartbeats under keys that are good for 16 messages");
    // In the middle of key management, which goes on behind it.
    let stream = host.bench.ok(0, SeamcallLeaf::IDE_STREAM_CREATE, stream_regs(id, 0)).rcx;
    let mut interrupted = 0;
    for operation in [KmOperation::SETUP, KmOperation::REFRESH, KmOperation::REFRESH] {
        while status(host.km(id, stream, operation)) == refresh {
            interrupted += 1;
            assert_eq!(status(host.mng(id, KEY_UPDATE)), Status::SUCCESS, "TDH.IDE.STREAM.KM-10");
        }
        assert!(host.is_enabled());
    }
    assert!(interrupted >= 2, "36 messages");
    assert_eq!(host.device.dsm.port.events.len(), 36, "none of them twice");
}

#[test]
fn a_wrong_answer_loses_the_session_for_good() {
    let (mut host, id) = Host::connected();
    host.tamper = Box::new(|_, answer| answer[16] ^= 1);
    let detail = Refusal { reason: RefusalReason::BAD_RECORD, request: 0xE8 }.detail();
    let expected = StatusCode::SPDM_INVALID_MESSAGE.with_detail(detail);
    assert_eq!(status(host.mng(id, HEARTBEAT)), expected, "TDH.SPDM.MNG-9");
    host.tamper = Box::new(|_, _| {});
    for operation in [HEARTBEAT, KEY_UPDATE, RECOLLECTION] {
        assert_eq!(status(host.mng(id, operation)), BAD_STATE, "TDH.SPDM.MNG-2");
    }
    // There is nothing to be said any more.
    let exchanges = host.device.exchanges;
    assert_eq!(status(host.disconnect(id)), Status::SUCCESS);
    assert_eq!(host.device.exchanges, exchanges);
    assert_eq!(status(host.connect(id)), Status::SUCCESS);
}

#[test]
fn disconnect_is_for_connected_sessions_without_streams() {
    let (mut host, id) = Host::created();
    let unknown = StatusCode::SPDM_ENTRY_NOT_PRESENT.plain();
    assert_eq!(status(host.call(DISCONNECT, disconnect_regs(id + 1))), unknown, "TDH.SPDM.DISCONNECT-1");
    assert_eq!(status(host.call(DISCONNECT, disconnect_regs(id))), BAD_STATE, "TDH.SPDM.DISCONNECT-3");
    assert_eq!(status(host.connect(id)), Status::SUCCESS);
    host.bench.ok(0, SeamcallLeaf::IDE_STREAM_CREATE, stream_regs(id, 0));
    let streams = StatusCode::SPDM_HAS_ACTIVE_IDE_STREAMS.plain();
    let odd = Registers { rdx: 8, ..disconnect_regs(id) };
    assert_eq!(status(host.call(DISCONNECT, odd)), streams, "TDH.SPDM.DISCONNECT-2");
    assert_eq!(status(host.block(id, 1)), Status::SUCCESS);
    assert_eq!(status(host.call(DISCONNECT, odd)), streams, "TDH.SPDM.DISCONNECT-2");
    assert_eq!(status(host.delete_stream(id, 1)), Status::SUCCESS);
    assert_eq!(status(host.call(DISCONNECT, odd)), invalid(OperandId::RDX), "TDH.SPDM.DISCONNECT-7");
    let odd = Registers { r8: SESSION_PAGES, ..disconnect_regs(id) };
    assert_eq!(status(host.call(DISCONNECT, odd)), invalid(OperandId::R8), "TDH.SPDM.DISCONNECT-7");
    let after = host.call(DISCONNECT, disconnect_regs(id));
    assert_eq!(status(after), REQUEST_OUT, "TDH.SPDM.DISCONNECT-6");
    assert_eq!(status(host.mng(id, HEARTBEAT)), BAD_STATE, "TDH.SPDM.MNG-2");
    host.exchange(after.rcx);
    assert_eq!(status(host.disconnect(id)), Status::SUCCESS);
}

#[test]
fn a_device_that_does_not_answer_does_not_keep_the_session() {
    // The host calls once more with nothing in its page.
    let (mut host, id) = Host::connected();
    assert_eq!(status(host.resume(DISCONNECT, disconnect_regs(id))), REQUEST_OUT);
    host.bench.hw.set(|facts| facts.put_message(ANSWER, &[]));
    assert_eq!(status(host.resume(DISCONNECT, disconnect_regs(id))), Status::SUCCESS);
    assert_eq!(status(host.delete(id)), Status::SUCCESS);
    // Or it has the port reset.
    let id = created(&host.bench);
    assert_eq!(status(host.connect(id)), Status::SUCCESS);
    assert_eq!(status(host.resume(DISCONNECT, disconnect_regs(id))), REQUEST_OUT);
    assert_eq!(status(host.delete(id)), BAD_STATE);
    host.lose_link();
    assert_eq!(status(host.delete(id)), Status::SUCCESS);
    // A message of another leaf is with the device: the session ends on this side.
    let id = created(&host.bench);
    assert_eq!(status(host.connect(id)), Status::SUCCESS);
    assert_eq!(status(host.resume(MNG, mng_regs(id, KEY_UPDATE))), REQUEST_OUT);
    assert_eq!(status(host.resume(DISCONNECT, disconnect_regs(id))), Status::SUCCESS);
    assert_eq!(status(host.delete(id)), Status::SUCCESS);
}

#[test]
fn interrupts_everywhere_change_nothing_in_a_session() {
    for operation in [HEARTBEAT, KEY_UPDATE, RECOLLECTION] {
        let (mut host, id) = Host::connected();
        host.bench.hw.set(|facts| facts.interrupt = true);
        host.wanders = true;
        assert_eq!(status(host.mng(id, operation)), Status::SUCCESS, "{operation}");
        let points = host.interruptions;
        for point in 0..points {
            let (mut host, id) = Host::connected();
            host.bench.hw.set(|facts| facts.interrupt_after = Some(point));
            assert_eq!(status(host.mng(id, operation)), Status::SUCCESS, "{operation} at {point}");
            assert_eq!(host.interruptions, 1, "{operation} at {point}");
            assert_eq!(status(host.mng(id, HEARTBEAT)), Status::SUCCESS, "{operation} at {point}");
        }
    }
}

#[test]
fn an_operation_that_the_host_gives_up_loses_the_session() {
    for operation in [HEARTBEAT, KEY_UPDATE, RECOLLECTION] {
        let (mut host, id) = Host::connected();
        assert_eq!(status(host.drive_to(MNG, mng_regs(id, operation), 1)), REQUEST_OUT);
        host.bench.hw.set(|facts| facts.put_message(ANSWER, &[]));
        let given_up = status(host.call(MNG, mng_regs(id, operation)));
        assert_eq!(given_up.code(), StatusCode::SPDM_INVALID_MESSAGE, "{operation}");
        // The device may have changed its keys or counted a message: nobody knows.
        assert_eq!(status(host.mng(id, HEARTBEAT)), BAD_STATE, "{operation}");
        assert_eq!(status(host.call(DISCONNECT, disconnect_regs(id))), Status::SUCCESS, "{operation}");
    }
}
