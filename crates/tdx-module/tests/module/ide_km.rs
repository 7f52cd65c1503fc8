//! TDH.IDE.STREAM.KM: keys at both ends of a stream.

use std::collections::BTreeSet;

use spdm::ide_km::{Direction, KeySet, KeySlot, SubStream};
use spdm::responder::Stage;
use tdx_abi::Registers;
use tdx_abi::connect::ids::{KmOperation, MngOperation};
use tdx_abi::connect::refusal::{Refusal, RefusalReason};
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_module::{LockName, LpIndex};

use crate::common::Moment;
use crate::common::device::KeyEvent;
use crate::common::fake_io::KEY_UNITS;
use crate::common::tee_io::{ANSWER, Host, KEY_STREAM, REQUEST, SESSION_PAGES, km_regs, mng_regs, status};
use crate::common::with_leaf;

const KM: SeamcallLeaf = SeamcallLeaf::IDE_STREAM_KM;
const BAD_STATE: Status = StatusCode::IDE_STREAM_INVALID_STATE.plain();
const REQUEST_OUT: Status = StatusCode::SPDM_REQUEST.plain();

/// Offsets in the key unit: key and IV slots of what the root port sends and receives.
const TX_KEYS: u64 = 4 + 36 * 4;
const TX_IVS: u64 = TX_KEYS + 32 * 16;
const RX_KEYS: u64 = TX_IVS + 8 * 16;

fn number(sub_stream: SubStream) -> u64 {
    sub_stream.number().into()
}

/// The bytes of a key slot of the key unit, in the order in which a cipher takes them.
fn unit_key(host: &Host, slot: KeySlot) -> [u8; 32] {
    let set = if slot.set == KeySet::K0 { 0 } else { 3 };
    let place = set + number(slot.sub_stream);
    // What the device receives the root port sends.
    let keys = if slot.direction == Direction::Rx { TX_KEYS } else { RX_KEYS };
    let io = host.bench.hw.facts().io;
    let mut key = [0; 32];
    for (dword, at) in key.chunks_mut(4).zip((KEY_UNITS[0] + keys + 32 * place..).step_by(4)) {
        dword.copy_from_slice(&u32::try_from(io.register(at)).expect("a dword").to_le_bytes());
    }
    key.reverse();
    key
}

/// Both ends have the same six keys of a set, each with another one.
fn same_keys(host: &Host, stream: u8, set: KeySet) -> BTreeSet<[u8; 32]> {
    let mut keys = BTreeSet::new();
    for slot in KeySlot::of_set(set) {
        let key = host.device.dsm.port.keys.get(&(stream, slot)).expect("a key");
        assert_eq!(*key.bytes(), unit_key(host, slot), "{slot}");
        assert!(keys.insert(*key.bytes()), "{slot} has the key of another slot");
    }
    keys
}

#[test]
fn setup_brings_six_keys_to_both_ends_in_the_order_of_the_protocol() {
    let (mut host, id, stream) = Host::configured();
    let mut after = host.resume(KM, km_regs(id, stream, KmOperation::SETUP));
    for message in 0..12 {
        assert_eq!(status(after), REQUEST_OUT, "TDH.IDE.STREAM.KM-7");
        assert!(!host.is_enabled(), "not before the device sends with its keys");
        assert_eq!(host.key_register(4) >> 8 & 1, u32::from(message >= 6), "primed once all keys are there");
        let selected = if message >= 9 { Some(KeySet::K0) } else { None };
        assert_eq!(host.sends_with(), selected, "message {message}");
        host.exchange(after.rcx);
        after = host.resume(KM, km_regs(id, stream, KmOperation::SETUP));
    }
    assert_eq!(status(after), Status::SUCCESS);
    assert!(host.is_enabled());
    same_keys(&host, 1, KeySet::K0);
    let expected: Vec<_> =
        KeySlot::of_set(KeySet::K0).into_iter().map(|slot| KeyEvent::Go(1, slot)).collect();
    assert_eq!(host.device.dsm.port.events[6..], expected);
    // IV slots start with 1; slot indices are 0, 1, 2 for set 0.
    let io = host.bench.hw.facts().io;
    assert_eq!((io.register(KEY_UNITS[0] + TX_IVS), io.register(KEY_UNITS[0] + TX_IVS + 4)), (1, 0));
    assert_eq!(host.key_register(20), 1 << 10 | 2 << 20);
}

#[test]
fn a_refresh_changes_over_without_a_gap() {
    let (mut host, id, stream) = Host::secure();
    let mut all = same_keys(&host, 1, KeySet::K0);
    for (round, set) in [KeySet::K1, KeySet::K0, KeySet::K1].into_iter().enumerate() {
        let regs = km_regs(id, stream, KmOperation::REFRESH);
        let mut after = host.resume(KM, regs);
        for message in 0..12 {
            assert_eq!(status(after), REQUEST_OUT);
            assert!(host.is_enabled());
            let selected = if message >= 9 { set } else { set.other() };
            assert_eq!(host.sends_with(), Some(selected), "round {round}, message {message}");
            // The set in use stays where it is until the far side has changed over.
            same_keys(&host, 1, set.other());
            host.exchange(after.rcx);
            after = host.resume(KM, regs);
        }
        assert_eq!(status(after), Status::SUCCESS);
        let fresh = same_keys(&host, 1, set);
        assert!(all.is_disjoint(&fresh), "no key is used twice");
        all.extend(fresh);
    }
}

#[test]
fn stop_has_the_device_forget_the_set_and_setup_begins_with_new_keys() {
    let (mut host, id, stream) = Host::secure();
    let before = same_keys(&host, 1, KeySet::K0);
    let first = host.resume(KM, km_regs(id, stream, KmOperation::STOP));
    assert!(!host.is_enabled(), "the root port stops first");
    host.exchange(first.rcx);
    assert_eq!(status(host.km(id, stream, KmOperation::STOP)), Status::SUCCESS);
    assert!(host.device.dsm.port.keys.is_empty());
    assert_eq!(
        status(host.call(KM, km_regs(id, stream, KmOperation::STOP))),
        BAD_STATE,
        "TDH.IDE.STREAM.KM-2"
    );
    assert_eq!(status(host.km(id, stream, KmOperation::SETUP)), Status::SUCCESS);
    assert!(same_keys(&host, 1, KeySet::K0).is_disjoint(&before));
}

#[test]
fn keys_of_another_session_are_others() {
    let (mut host, id, stream) = Host::secure();
    let before = same_keys(&host, 1, KeySet::K0);
    assert_eq!(status(host.block(id, stream)), Status::SUCCESS);
    assert_eq!(status(host.delete_stream(id, stream)), Status::SUCCESS);
    assert_eq!(status(host.disconnect(id)), Status::SUCCESS);
    assert_eq!(status(host.connect(id)), Status::SUCCESS);
    let regs = crate::common::tee_io::stream_regs(id, 0);
    assert_eq!(host.bench.ok(0, SeamcallLeaf::IDE_STREAM_CREATE, regs).rcx, stream);
    assert_eq!(status(host.km(id, stream, KmOperation::SETUP)), Status::SUCCESS);
    assert!(same_keys(&host, 1, KeySet::K0).is_disjoint(&before));
}

#[test]
fn operation_and_state_are_looked_at_first() {
    let (mut host, id, stream) = Host::configured();
    let bad = StatusCode::OPERAND_INVALID.with_operand(OperandId::R8);
    let odd = Registers { r8: 3, r9: 8, ..km_regs(id, 9, KmOperation::SETUP) };
    assert_eq!(status(host.call(KM, odd)), bad, "TDH.IDE.STREAM.KM-1: before TDH.IDE.STREAM.KM-2");
    for (session, stream) in [(id, 2), (id, 0), (id ^ 1 << 40, stream), (id, 1 << 8 | stream)] {
        let regs = Registers { r9: 8, ..km_regs(session, stream, KmOperation::SETUP) };
        let order = "TDH.IDE.STREAM.KM-2 before TDH.IDE.STREAM.KM-13";
        assert_eq!(status(host.call(KM, regs)), BAD_STATE, "{order}");
    }
    for operation in [KmOperation::REFRESH, KmOperation::STOP] {
        assert_eq!(status(host.call(KM, km_regs(id, stream, operation))), BAD_STATE, "TDH.IDE.STREAM.KM-2");
    }
    for (operand, regs) in [
        (OperandId::R9, Registers { r9: ANSWER + 8, ..km_regs(id, stream, KmOperation::SETUP) }),
        (OperandId::R10, Registers { r10: SESSION_PAGES, ..km_regs(id, stream, KmOperation::SETUP) }),
    ] {
        host.bench.hw.set(|facts| facts.contended = vec![LockName::Spdm]);
        let order = "TDH.IDE.STREAM.KM-13: before TDH.IDE.STREAM.KM-12";
        let expected = StatusCode::OPERAND_INVALID.with_operand(operand);
        assert_eq!(status(host.call(KM, regs)), expected, "{order}");
        host.bench.hw.set(|facts| facts.contended.clear());
    }
    assert_eq!(status(host.km(id, stream, KmOperation::SETUP)), Status::SUCCESS);
    assert_eq!(
        status(host.call(KM, km_regs(id, stream, KmOperation::SETUP))),
        BAD_STATE,
        "TDH.IDE.STREAM.KM-2"
    );
    assert_eq!(status(host.block(id, stream)), Status::SUCCESS);
    let blocked = StatusCode::IDE_STREAM_BLOCKED.plain();
    for operation in [KmOperation::SETUP, KmOperation::REFRESH, KmOperation::STOP] {
        let regs = Registers { r9: 8, ..km_regs(id, stream, operation) };
        assert_eq!(status(host.call(KM, regs)), blocked, "TDH.IDE.STREAM.KM-3");
    }
}

#[test]
fn one_message_of_a_stream_is_with_the_device() {
    let (mut host, id, stream) = Host::secure();
    let refresh = km_regs(id, stream, KmOperation::REFRESH);
    let first = host.resume(KM, refresh);
    assert_eq!(status(first), REQUEST_OUT);
    let stop = km_regs(id, stream, KmOperation::STOP);
    host.bench.hw.set(|facts| facts.contended = vec![LockName::Spdm]);
    let outstanding = StatusCode::IDE_STREAM_IDEKM_OUTREQ.plain();
    assert_eq!(status(host.call(KM, stop)), outstanding, "TDH.IDE.STREAM.KM-5: before TDH.IDE.STREAM.KM-12");
    host.bench.hw.set(|facts| facts.contended.clear());
    // Another leaf has to wait, too.
    let heartbeat = host.call(SeamcallLeaf::SPDM_MNG, mng_regs(id, MngOperation::HEARTBEAT));
    assert_eq!(status(heartbeat), StatusCode::OPERAND_BUSY.with_operand(OperandId::RCX));
    host.exchange(first.rcx);
    assert_eq!(status(host.km(id, stream, KmOperation::REFRESH)), Status::SUCCESS);
    // And the other way round.
    let beat = host.resume(SeamcallLeaf::SPDM_MNG, mng_regs(id, MngOperation::HEARTBEAT));
    assert_eq!(status(beat), REQUEST_OUT);
    let busy = StatusCode::OPERAND_BUSY.with_operand(OperandId::RCX);
    assert_eq!(status(host.call(KM, refresh)), busy, "TDH.IDE.STREAM.KM-12");
    host.exchange(beat.rcx);
    assert_eq!(status(host.mng(id, MngOperation::HEARTBEAT)), Status::SUCCESS);
}

#[test]
fn locks_are_tried_and_not_waited_for() {
    let (mut host, id, stream) = Host::configured();
    for (lock, operand) in [(LockName::Spdm, OperandId::RCX), (LockName::Stream, OperandId::RDX)] {
        host.bench.hw.set(|facts| facts.contended = vec![lock]);
        let busy = StatusCode::OPERAND_BUSY.with_operand(operand);
        assert_eq!(
            status(host.call(KM, km_regs(id, stream, KmOperation::SETUP))),
            busy,
            "TDH.IDE.STREAM.KM-12"
        );
    }
    host.bench.hw.set(|facts| facts.contended.clear());
    // Another LP, in the middle of the first message.
    let regs = with_leaf(KM, 0, km_regs(id, stream, KmOperation::SETUP));
    host.bench.hw.intrude(Moment::Write(REQUEST), &host.bench.software, LpIndex(2), regs);
    let first = host.call(KM, regs);
    assert_eq!(status(first), REQUEST_OUT);
    let intruder = host.bench.hw.intrusion().expect("an answer");
    assert_eq!(
        status(intruder),
        StatusCode::OPERAND_BUSY.with_operand(OperandId::RCX),
        "TDH.IDE.STREAM.KM-12"
    );
    // The emergency stop meets the stream's lock only.
    let block = with_leaf(SeamcallLeaf::IDE_STREAM_BLOCK, 0, Registers { rcx: id, rdx: stream, ..regs });
    host.exchange(first.rcx);
    host.bench.hw.intrude(Moment::Write(REQUEST), &host.bench.software, LpIndex(2), block);
    assert_eq!(status(host.call(KM, regs)), REQUEST_OUT);
    let intruder = host.bench.hw.intrusion().expect("an answer");
    assert_eq!(status(intruder), StatusCode::OPERAND_BUSY.with_operand(OperandId::RDX));
}

#[test]
fn without_a_random_number_there_is_no_key() {
    let (mut host, id, stream) = Host::configured();
    // What messages need was drawn before.
    host.bench.hw.set(|facts| facts.entropy = None);
    let after = status(host.call(KM, km_regs(id, stream, KmOperation::SETUP)));
    let none = StatusCode::IDE_STREAM_IDEKM_NO_ENTROPY.plain();
    assert_eq!(after, none, "TDH.IDE.STREAM.KM-6");
    host.bench.hw.set(|facts| facts.entropy = Some(5));
    assert_eq!(status(host.km(id, stream, KmOperation::SETUP)), Status::SUCCESS);
}

/// The status of a device that answers what it must not.
fn refused() -> Status {
    let detail = Refusal { reason: RefusalReason::BAD_VENDOR_ANSWER, request: 0xFE }.detail();
    StatusCode::IDE_STREAM_IDEKM_INVALID_RESPONSE.with_detail(detail)
}

#[test]
fn a_wrong_acknowledgement_ends_a_setup_and_the_next_one_works() {
    // Bytes of the vendor-defined answer: object id, stream id, status, key, port.
    for (message, at) in [(0, 11), (0, 14), (2, 15), (5, 16), (6, 14), (9, 16), (11, 12)] {
        let (mut host, id, stream) = Host::configured();
        let mut seen = 0;
        host.device.dsm.bend = Box::new(move |stage, response| {
            if let Stage::BeforeSeal(_) = stage {
                if seen == message {
                    response[at + 1] ^= 1;
                }
                seen += 1;
            }
        });
        let after = status(host.km(id, stream, KmOperation::SETUP));
        assert_eq!(after, refused(), "TDH.IDE.STREAM.KM-8: message {message}, byte {at}");
        assert!(!host.is_enabled());
        host.device.dsm.bend = Box::new(|_, _| {});
        assert_eq!(status(host.km(id, stream, KmOperation::SETUP)), Status::SUCCESS);
        same_keys(&host, 1, KeySet::K0);
    }
}

#[test]
fn a_refresh_that_fails_early_can_be_repeated_and_one_that_fails_late_cannot() {
    for (message, repeats) in [(0, true), (5, true), (6, false), (11, false)] {
        let (mut host, id, stream) = Host::secure();
        let mut seen = 0;
        host.device.dsm.bend = Box::new(move |stage, response| {
            if let Stage::BeforeSeal(_) = stage {
                if seen == message {
                    response[15] ^= 1;
                }
                seen += 1;
            }
        });
        assert_eq!(status(host.km(id, stream, KmOperation::REFRESH)), refused(), "message {message}");
        assert!(host.is_enabled(), "traffic goes on");
        host.device.dsm.bend = Box::new(|_, _| {});
        let again = status(host.km(id, stream, KmOperation::REFRESH));
        assert_eq!(again, if repeats { Status::SUCCESS } else { BAD_STATE }, "message {message}");
        assert_eq!(status(host.km(id, stream, KmOperation::STOP)), Status::SUCCESS);
        assert_eq!(status(host.km(id, stream, KmOperation::SETUP)), Status::SUCCESS);
        assert_eq!(status(host.km(id, stream, KmOperation::REFRESH)), Status::SUCCESS);
    }
}

#[test]
fn a_stop_that_was_left_leaves_nothing_to_refresh() {
    let (mut host, id, stream) = Host::secure();
    let first = host.call(KM, km_regs(id, stream, KmOperation::STOP));
    assert_eq!(status(first), REQUEST_OUT);
    host.exchange(first.rcx);
    host.bench.hw.set(|facts| facts.interrupt = true);
    let left = status(host.call(KM, km_regs(id, stream, KmOperation::STOP)));
    assert_eq!(left, StatusCode::INTERRUPTED_RESUMABLE.plain());
    let left = status(host.call(KM, km_regs(id, stream, KmOperation::STOP)));
    assert_eq!(left, StatusCode::INTERRUPTED_RESUMABLE.plain());
    host.bench.hw.set(|facts| facts.interrupt = false);
    assert_eq!(status(host.km(id, stream, KmOperation::REFRESH)), BAD_STATE, "TDH.IDE.STREAM.KM-2");
    assert!(!host.is_enabled());
    assert_eq!(status(host.km(id, stream, KmOperation::SETUP)), Status::SUCCESS);
    assert!(host.is_enabled());
}

#[test]
fn no_key_stays_behind_in_the_key_unit() {
    let keys = |host: &Host| {
        let slots = KEY_UNITS[0] + TX_KEYS..KEY_UNITS[0] + RX_KEYS + 40 * 16;
        host.bench.hw.facts().io.registers.range(slots).map(|(_, &dword)| dword).collect::<Vec<_>>()
    };
    let (mut host, id, stream) = Host::secure();
    assert!(keys(&host).iter().any(|&dword| dword != 0));
    assert_eq!(status(host.call(KM, km_regs(id, stream, KmOperation::STOP))), REQUEST_OUT);
    assert!(keys(&host).iter().all(|&dword| dword == 0), "STOP");
    let (mut host, id, stream) = Host::configured();
    host.drive_to(KM, km_regs(id, stream, KmOperation::SETUP), 4);
    assert!(keys(&host).iter().any(|&dword| dword != 0));
    host.bench.hw.set(|facts| facts.put_message(ANSWER, &[]));
    let after = status(host.call(KM, km_regs(id, stream, KmOperation::SETUP)));
    assert_eq!(after.code(), StatusCode::IDE_STREAM_IDEKM_INVALID_RESPONSE);
    assert!(keys(&host).iter().all(|&dword| dword == 0), "a SETUP that failed");
}

#[test]
fn keys_that_do_not_get_ready_enable_nothing() {
    let (mut host, id, stream) = Host::configured();
    host.bench.hw.set(|facts| facts.io.keys_get_ready = false);
    let not_ready = StatusCode::IDE_STREAM_IDEKM_KEYS_NOT_READY.plain();
    assert_eq!(status(host.km(id, stream, KmOperation::SETUP)), not_ready, "TDH.IDE.STREAM.KM-9");
    assert!(!host.is_enabled());
    host.bench.hw.set(|facts| facts.io.keys_get_ready = true);
    assert_eq!(status(host.km(id, stream, KmOperation::SETUP)), Status::SUCCESS);
    // A refresh looks before the device changes over.
    host.bench.hw.set(|facts| facts.io.keys_get_ready = false);
    let gone = host.device.dsm.port.events.len();
    assert_eq!(status(host.km(id, stream, KmOperation::REFRESH)), not_ready, "TDH.IDE.STREAM.KM-9");
    let events = &host.device.dsm.port.events[gone..];
    assert!(events.iter().all(|event| matches!(event, KeyEvent::Programmed(..))));
    host.bench.hw.set(|facts| facts.io.keys_get_ready = true);
    assert_eq!(status(host.km(id, stream, KmOperation::REFRESH)), Status::SUCCESS);
    assert_eq!(host.bench.hw.facts().io.register(KEY_STREAM) & 1, 1);
}

#[test]
fn a_port_that_does_not_go_secure_itself_enables_nothing() {
    let (mut host, id, stream) = Host::configured();
    host.bench.hw.set(|facts| facts.io.ports_go_secure = false);
    let not_ready = StatusCode::IDE_STREAM_IDEKM_KEYS_NOT_READY.plain();
    assert_eq!(status(host.km(id, stream, KmOperation::SETUP)), not_ready, "TDH.IDE.STREAM.KM-9");
    assert!(!host.is_enabled());
    host.bench.hw.set(|facts| facts.io.ports_go_secure = true);
    assert_eq!(status(host.km(id, stream, KmOperation::SETUP)), Status::SUCCESS);
}

#[test]
fn a_record_that_does_not_open_ends_the_session_and_everything_comes_back() {
    let (mut host, id, stream) = Host::configured();
    host.tamper = Box::new(|_, answer| *answer.last_mut().expect("a byte") ^= 0x80);
    let after = status(host.km(id, stream, KmOperation::SETUP));
    let detail = Refusal { reason: RefusalReason::BAD_RECORD, request: 0xFE }.detail();
    let expected = StatusCode::IDE_STREAM_IDEKM_INVALID_RESPONSE.with_detail(detail);
    assert_eq!(after, expected, "TDH.IDE.STREAM.KM-8");
    host.tamper = Box::new(|_, _| {});
    assert_eq!(status(host.km(id, stream, KmOperation::SETUP)), BAD_STATE, "there is no session");
    assert_eq!(status(host.mng(id, MngOperation::HEARTBEAT)), StatusCode::SPDM_INVALID_STATE.plain());
    assert_eq!(status(host.block(id, stream)), Status::SUCCESS);
    assert_eq!(status(host.delete_stream(id, stream)), Status::SUCCESS);
    assert_eq!(status(host.disconnect(id)), Status::SUCCESS);
    assert_eq!(status(host.connect(id)), Status::SUCCESS);
}

#[test]
fn interrupts_everywhere_and_any_lp_change_nothing() {
    for operation in [KmOperation::SETUP, KmOperation::REFRESH, KmOperation::STOP] {
        let prepared = || if operation == KmOperation::SETUP { Host::configured() } else { Host::secure() };
        let (mut calm, id, stream) = prepared();
        let before = calm.device.exchanges;
        assert_eq!(status(calm.km(id, stream, operation)), Status::SUCCESS);
        let messages = calm.device.exchanges - before;
        let events = |host: &Host| {
            let slot = |event: &KeyEvent| match event {
                KeyEvent::Programmed(_, slot, _) | KeyEvent::Go(_, slot) | KeyEvent::Stopped(_, slot) => {
                    *slot
                }
            };
            host.device.dsm.port.events.iter().map(slot).collect::<Vec<_>>()
        };
        let (mut host, id, stream) = prepared();
        host.bench.hw.set(|facts| facts.interrupt = true);
        host.wanders = true;
        let before = host.device.exchanges;
        assert_eq!(status(host.km(id, stream, operation)), Status::SUCCESS, "TDH.IDE.STREAM.KM-11");
        assert_eq!(host.device.exchanges - before, messages);
        assert!(host.interruptions as usize > 2 * messages);
        assert_eq!(events(&host), events(&calm));
        for point in 0..host.interruptions {
            let (mut host, id, stream) = prepared();
            host.bench.hw.set(|facts| facts.interrupt_after = Some(point));
            assert_eq!(status(host.km(id, stream, operation)), Status::SUCCESS, "point {point}");
            assert_eq!(host.interruptions, 1, "point {point}");
            assert_eq!(events(&host), events(&calm), "point {point}");
        }
    }
}
