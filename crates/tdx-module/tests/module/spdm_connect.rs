//! TDH.SPDM.CONNECT: from a session object to a session with evidence.

use proptest::prelude::*;
use spdm::ide_km::PROTOCOL as IDE_KM;
use spdm::msg::{RequestCode, ResponderFlags, ResponseCode};
use spdm::responder::{Config, SessionEnd, Stage};
use tdx_abi::Registers;
use tdx_abi::connect::dev_info::{RecordType, Records};
use tdx_abi::connect::refusal::{Refusal, RefusalReason};
use tdx_abi::connect::spdm::SpdmConfigInfo;
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_module::{LockName, LpIndex};
use zerocopy::IntoBytes;

use crate::common::device::{FUNCTION, Responding};
use crate::common::tee_io::{
    ANSWER, CONFIG, Host, INFO_ROOT, REQUEST, SESSION_PAGES, array, bridged, config_info, connect_regs,
    create_regs, created, disconnect_regs, status,
};
use crate::common::{Moment, PAMT, PAMT_1G, SEAMRR, with_leaf};

const CONNECT: SeamcallLeaf = SeamcallLeaf::SPDM_CONNECT;
const REQUEST_OUT: Status = StatusCode::SPDM_REQUEST.plain();
const INTERRUPTED: Status = StatusCode::INTERRUPTED_RESUMABLE.plain();
const BAD_STATE: Status = StatusCode::SPDM_INVALID_STATE.plain();

#[test]
fn a_device_is_connected_and_its_evidence_written_down() {
    let (mut host, id) = Host::created();
    let after = host.connect(id);
    assert_eq!(status(after), Status::SUCCESS);
    assert_eq!(host.device.dsm.sessions, 1);
    let blob = host.dev_info(after.rcx);
    let records: Vec<_> = Records::new(&blob).collect::<Result<_, _>>().expect("records");
    let kinds: Vec<_> = records.iter().map(|record| (record.kind, record.index)).collect();
    assert_eq!(
        kinds,
        [
            (RecordType::VCA, 0),
            (RecordType::CERTIFICATE_CHAIN, 0),
            (RecordType::CERTIFICATE_CHAIN, 3),
            (RecordType::MEASUREMENTS, 0),
            (RecordType::CAPABILITIES, 0),
            (RecordType::CAPABILITIES, 0),
            (RecordType::CAPABILITIES, 0),
        ]
    );
    assert_eq!(records[0].bytes[..2], [0x10, RequestCode::GET_VERSION.0]);
    assert_eq!(records[3].bytes[1], RequestCode::GET_MEASUREMENTS.0);
    // TDISP twice, IDE_KM once.
    let protocols: Vec<u8> = records[4..].iter().map(|record| record.bytes[0]).collect();
    assert_eq!(protocols, [1, 1, IDE_KM]);
    let units = host.bench.connect().units;
    assert_eq!((units[0].sessions, units[0].active_sessions), (1, 1));
    assert!(!host.bench.connect().interrupted);
}

#[test]
fn only_the_slots_of_the_mask_are_read() {
    let (mut host, id) = Host::created();
    let info = SpdmConfigInfo { certificate_slot_mask: 1 << 3, ..config_info() };
    host.bench.hw.set(|facts| facts.put_message(CONFIG, info.as_bytes()));
    let after = host.connect(id);
    let blob = host.dev_info(after.rcx);
    let chains = Records::new(&blob).map(|record| record.expect("a record"));
    let chains: Vec<_> = chains
        .filter(|record| record.kind == RecordType::CERTIFICATE_CHAIN)
        .map(|record| record.index)
        .collect();
    assert_eq!(chains, [3]);
}

#[test]
fn a_device_that_does_not_sign_measurements_is_challenged() {
    for flags in [
        Config::default().flags.with_meas(1).with_meas_fresh(false),
        Config::default().flags.with_meas(0).with_meas_fresh(false),
        Config::default().flags.with_meas(0).with_meas_fresh(false).with_chal(false),
    ] {
        let device = Responding::with(Config { flags, ..Config::default() });
        let mut host = Host::new(bridged(), device);
        let id = created(&host.bench);
        let after = host.connect(id);
        assert_eq!(status(after), Status::SUCCESS, "{flags:?}");
        let blob = host.dev_info(after.rcx);
        let measured = |record: Result<tdx_abi::connect::dev_info::Record<'_>, _>| {
            record.is_ok_and(|record| record.kind == RecordType::MEASUREMENTS)
        };
        assert!(!Records::new(&blob).any(measured));
    }
}

#[test]
fn connect_is_for_objects_that_are_not_connected() {
    let (mut host, id) = Host::created();
    let unknown = StatusCode::SPDM_ENTRY_NOT_PRESENT.plain();
    for other in [0, id + 1, id ^ 1 << 32] {
        assert_eq!(status(host.call(CONNECT, connect_regs(other))), unknown, "TDH.SPDM.CONNECT-1");
    }
    assert_eq!(status(host.connect(id)), Status::SUCCESS);
    assert_eq!(status(host.call(CONNECT, connect_regs(id))), BAD_STATE, "TDH.SPDM.CONNECT-2");
    let odd = Registers { r8: ANSWER + 8, ..connect_regs(id) };
    assert_eq!(status(host.call(CONNECT, odd)), BAD_STATE, "TDH.SPDM.CONNECT-2 before TDH.SPDM.CONNECT-9");
    host.resume(SeamcallLeaf::SPDM_DISCONNECT, disconnect_regs(id));
    assert_eq!(status(host.call(CONNECT, connect_regs(id))), BAD_STATE);
}

/// Puts a page into an operand.
type Set = fn(&mut Registers, u64);

#[test]
fn pages_of_the_host_must_be_pages_of_the_host() {
    let (mut host, id) = Host::created();
    let invalid = |operand| StatusCode::OPERAND_INVALID.with_operand(operand);
    let operands: [(OperandId, Set); 3] = [
        (OperandId::RDX, |regs, page| regs.rdx = page),
        (OperandId::R8, |regs, page| regs.r8 = page),
        (OperandId::R9, |regs, page| regs.r9 = page),
    ];
    for (operand, set) in operands {
        for page in [ANSWER + 8, ANSWER | 1 << 47, SESSION_PAGES, SEAMRR, PAMT, PAMT + PAMT_1G] {
            let mut regs = connect_regs(id);
            set(&mut regs, page);
            assert_eq!(status(host.call(CONNECT, regs)), invalid(operand), "TDH.SPDM.CONNECT-9");
            host.bench.hw.set(|facts| facts.contended = vec![LockName::Extension]);
            let order = "TDH.SPDM.CONNECT-9 before TDH.SPDM.CONNECT-3";
            assert_eq!(status(host.call(CONNECT, regs)), invalid(operand), "{order}");
            host.bench.hw.set(|facts| facts.contended.clear());
        }
    }
    assert_eq!(status(host.connect(id)), Status::SUCCESS);
}

#[test]
fn the_configuration_page_says_only_what_it_may_and_is_read_once() {
    let (mut host, id) = Host::created();
    let good = config_info();
    let bad = [
        SpdmConfigInfo { capabilities: 1.into(), ..good },
        SpdmConfigInfo { session_policy: 2, ..good },
        SpdmConfigInfo { certificate_slot_mask: 0, ..good },
        SpdmConfigInfo { raw_bitstream_requested: 2, ..good },
    ];
    let invalid = StatusCode::OPERAND_INVALID.with_operand(OperandId::RDX);
    for info in bad {
        host.bench.hw.set(|facts| facts.put_message(CONFIG, info.as_bytes()));
        assert_eq!(status(host.call(CONNECT, connect_regs(id))), invalid, "TDH.SPDM.CONNECT-10: {info:?}");
    }
    host.bench.hw.set(|facts| {
        facts.put_message(CONFIG, good.as_bytes());
        facts.put_bytes(CONFIG + 4088, &[0, 0, 0, 0, 0, 0, 0, 1]);
    });
    assert_eq!(status(host.call(CONNECT, connect_regs(id))), invalid, "the rest of the page is zero");
    assert_eq!(host.bench.connect().units[0].active_sessions, 0);
    host.bench.hw.set(|facts| facts.put_message(CONFIG, good.as_bytes()));
    let first = host.resume(CONNECT, connect_regs(id));
    host.exchange(first.rcx);
    host.bench.hw.set(|facts| facts.put_message(CONFIG, &[0xFF; 64]));
    assert_eq!(status(host.connect(id)), Status::SUCCESS, "nobody looks again");
}

#[test]
fn the_extension_has_one_slot_and_a_message_frees_it() {
    let (mut host, id) = Host::created();
    let other = create_regs(&host.bench, FUNCTION + 0x100, SESSION_PAGES + 0x2000);
    let other = host.bench.ok(0, SeamcallLeaf::SPDM_CREATE, other).rcx;
    let busy = StatusCode::OPERAND_BUSY.with_operand(OperandId::RAX);
    host.bench.hw.set(|facts| facts.contended = vec![LockName::Extension]);
    assert_eq!(status(host.call(CONNECT, connect_regs(id))), busy, "TDH.SPDM.CONNECT-3");
    host.bench.hw.set(|facts| {
        facts.contended.clear();
        facts.interrupt = true;
    });
    assert_eq!(status(host.call(CONNECT, connect_regs(id))), INTERRUPTED, "TDH.SPDM.CONNECT-4");
    assert!(host.bench.connect().interrupted);
    assert_eq!(status(host.call(CONNECT, connect_regs(other))), busy, "TDH.SPDM.CONNECT-3");
    let shut = host.bench.status(0, SeamcallLeaf::SYS_SHUTDOWN, Registers { rcx: 2, ..Registers::default() });
    assert_eq!(shut, StatusCode::SYS_BUSY.plain());
    host.bench.hw.set(|facts| facts.interrupt = false);
    let out = host.call(CONNECT, connect_regs(id));
    assert_eq!(status(out), REQUEST_OUT, "TDH.SPDM.CONNECT-5");
    assert!(!host.bench.connect().interrupted);
    assert_eq!(status(host.call(CONNECT, connect_regs(other))), REQUEST_OUT, "the slot is free");
}

#[test]
fn another_lp_meets_busy_while_a_call_runs() {
    let (host, id) = Host::created();
    let other = with_leaf(CONNECT, 0, connect_regs(id));
    host.bench.hw.intrude(Moment::Read(CONFIG), &host.bench.software, LpIndex(1), other);
    let first = host.bench.raw(0, other).expect("an answer");
    assert_eq!(status(first), REQUEST_OUT);
    let intruder = host.bench.hw.intrusion().expect("an answer");
    assert_eq!(status(intruder), StatusCode::OPERAND_BUSY.with_operand(OperandId::RAX), "TDH.SPDM.CONNECT-3");
}

#[test]
fn a_session_that_another_leaf_has_locked_is_busy() {
    let (mut host, id) = Host::created();
    host.bench.hw.set(|facts| facts.contended = vec![LockName::Spdm]);
    let busy = StatusCode::OPERAND_BUSY.with_operand(OperandId::RCX);
    assert_eq!(status(host.call(CONNECT, connect_regs(id))), busy);
    host.bench.hw.set(|facts| facts.contended.clear());
    assert!(!host.bench.connect().interrupted, "a final status frees the slot");
    assert_eq!(status(host.connect(id)), Status::SUCCESS);
}

/// Kinds of records and the evidence that does not depend on random numbers.
fn outline(blob: &[u8]) -> Vec<(RecordType, u16, usize)> {
    let records = Records::new(blob).map(|record| record.expect("a record"));
    records.map(|record| (record.kind, record.index, record.bytes.len())).collect()
}

#[test]
fn interrupts_everywhere_and_any_lp_change_nothing() {
    let (mut calm, id) = Host::created();
    let after = calm.connect(id);
    let expected = outline(&calm.dev_info(after.rcx));
    let exchanges = calm.device.exchanges;

    let (mut host, id) = Host::created();
    host.bench.hw.set(|facts| facts.interrupt = true);
    host.wanders = true;
    let after = host.connect(id);
    assert_eq!(status(after), Status::SUCCESS);
    assert_eq!(host.device.exchanges, exchanges, "no message twice");
    assert_eq!(outline(&host.dev_info(after.rcx)), expected);
    assert!(host.interruptions as usize > 2 * exchanges, "calls end between steps, too");

    // And at each single point.
    for point in 0..host.interruptions {
        let (mut host, id) = Host::created();
        host.bench.hw.set(|facts| facts.interrupt_after = Some(point));
        let after = host.connect(id);
        assert_eq!(status(after), Status::SUCCESS, "point {point}");
        assert_eq!((host.device.exchanges, host.interruptions), (exchanges, 1), "point {point}");
        assert_eq!(outline(&host.dev_info(after.rcx)), expected, "point {point}");
    }
}

#[test]
fn without_entropy_a_call_is_interrupted_and_goes_on_later() {
    let (mut host, id) = Host::created();
    host.bench.hw.set(|facts| facts.entropy = None);
    for _ in 0..3 {
        assert_eq!(status(host.call(CONNECT, connect_regs(id))), INTERRUPTED);
    }
    host.bench.hw.set(|facts| facts.entropy = Some(1));
    assert_eq!(status(host.connect(id)), Status::SUCCESS);
}

#[test]
fn a_response_that_is_not_ready_is_asked_for_at_once_and_not_for_ever() {
    let (mut host, id) = Host::created();
    host.device.dsm.not_ready = Some((RequestCode::KEY_EXCHANGE, 200));
    assert_eq!(status(host.connect(id)), Status::SUCCESS);

    let (mut host, id) = Host::created();
    host.device.dsm.not_ready = Some((RequestCode::KEY_EXCHANGE, 300));
    let refused = StatusCode::SPDM_INVALID_MESSAGE;
    let detail = Refusal { reason: RefusalReason::TOO_SLOW, request: RequestCode::KEY_EXCHANGE.0 }.detail();
    assert_eq!(status(host.connect(id)), refused.with_detail(detail));
}

/// The detail of a refusal.
fn refusal(status: Status) -> Refusal {
    Refusal::from_detail(u32::try_from(status.raw() & 0xFFFF_FFFF).expect("a half"))
}

/// Behind a failed connect the object is as new: the next one works, and everything comes back.
fn works_again(mut host: Host, id: u64) {
    host.tamper = Box::new(|_, _| {});
    host.device.dsm.bend = Box::new(|_, _| {});
    assert_eq!(host.bench.connect().units[0].active_sessions, 0);
    assert!(!host.bench.connect().interrupted);
    assert_eq!(status(host.connect(id)), Status::SUCCESS);
    assert_eq!(status(host.disconnect(id)), Status::SUCCESS);
    assert_eq!(status(host.delete(id)), Status::SUCCESS);
}

/// Makes something else of an answer.
type Spoil = fn(&mut Vec<u8>);

#[test]
fn an_in_page_without_an_object_of_spdm_is_refused_at_every_message() {
    let bad: [(&str, Spoil); 6] = [
        ("zeros", |answer| answer.fill(0)),
        ("another vendor", |answer| answer[0] = 2),
        ("another type", |answer| answer[2] = 3),
        ("longer than the page", |answer| answer[4..8].copy_from_slice(&1025_u32.to_le_bytes())),
        ("the longest there is", |answer| answer[4..8].fill(0)),
        ("shorter than a header", |answer| answer[4..8].copy_from_slice(&1_u32.to_le_bytes())),
    ];
    let (mut calm, id) = Host::created();
    calm.connect(id);
    for number in [0, 1, calm.device.exchanges / 2, calm.device.exchanges - 1] {
        for (what, spoil) in bad {
            let (mut host, id) = Host::created();
            host.tamper = Box::new(move |at, answer| {
                if at == number {
                    spoil(answer);
                }
            });
            let after = status(host.connect(id));
            assert_eq!(after.code(), StatusCode::SPDM_INVALID_MESSAGE, "TDH.SPDM.CONNECT-6: {what}");
            assert_eq!(refusal(after).reason, RefusalReason::BAD_OBJECT, "{what} at {number}");
            works_again(host, id);
        }
    }
}

#[test]
fn what_does_not_verify_is_an_authentication_failure() {
    type Bent = (ResponseCode, fn(&mut Vec<u8>), StatusCode, RefusalReason);
    let last = |response: &mut Vec<u8>| *response.last_mut().expect("a byte") ^= 1;
    let bent: [Bent; 5] = [
        (ResponseCode::MEASUREMENTS, last, StatusCode::SPDM_AUTH_FAILED, RefusalReason::BAD_SIGNATURE),
        (
            ResponseCode::KEY_EXCHANGE_RSP,
            |response| {
                let at = response.len() - 60;
                response[at] ^= 1;
            },
            StatusCode::SPDM_AUTH_FAILED,
            RefusalReason::BAD_SIGNATURE,
        ),
        (ResponseCode::KEY_EXCHANGE_RSP, last, StatusCode::SPDM_AUTH_FAILED, RefusalReason::BAD_FINISHED),
        (ResponseCode::DIGESTS, last, StatusCode::SPDM_AUTH_FAILED, RefusalReason::INCONSISTENT),
        (
            ResponseCode::ALGORITHMS,
            |response| {
                response.truncate(6);
            },
            StatusCode::SPDM_INVALID_MESSAGE,
            RefusalReason::MALFORMED,
        ),
    ];
    for (code, bend, expected, reason) in bent {
        let (mut host, id) = Host::created();
        host.device.dsm.bend = Box::new(move |stage, response| {
            if stage == Stage::BeforeSeal(code) {
                bend(response);
            }
        });
        let after = status(host.connect(id));
        assert_eq!(after.code(), expected, "TDH.SPDM.CONNECT-7: {code} {}", refusal(after));
        assert_eq!(refusal(after).reason, reason, "{code}");
        works_again(host, id);
    }
}

#[test]
fn a_device_without_what_tee_io_needs_is_refused() {
    let flags = ResponderFlags::new().with_cert(true).with_chal(true).with_meas(2);
    let device = Responding::with(Config { flags, max_message_size: 4056, ..Config::default() });
    let mut host = Host::new(bridged(), device);
    let id = created(&host.bench);
    let after = status(host.connect(id));
    assert_eq!(after.code(), StatusCode::SPDM_INVALID_MESSAGE);
    assert_eq!(refusal(after).reason, RefusalReason::MISSING_CAPABILITY);
}

#[test]
fn what_the_register_image_of_a_port_says_is_evidence_and_no_more() {
    let (mut host, id) = Host::created();
    host.device.dsm.port.capability = 1 << 6;
    let after = host.connect(id);
    assert_eq!(status(after), Status::SUCCESS, "no selective streams at port 0");
    let blob = host.dev_info(after.rcx);
    let told = Records::new(&blob).map(|record| record.expect("a record"));
    let told: Vec<_> = told.filter(|record| record.kind == RecordType::CAPABILITIES).collect();
    // QUERY_RESP: protocol and object id, reserved, port, location, highest port, then the register.
    assert_eq!(told.last().expect("a record").bytes.get(8..12), Some(&[1 << 6, 0, 0, 0][..]));
}

#[test]
fn too_few_pages_for_the_evidence_end_the_session() {
    let (mut host, id) = Host::created();
    let bad = StatusCode::OPERAND_INVALID.with_operand(OperandId::R10);
    host.device.dsm.measured = 2048;
    let info = SpdmConfigInfo { raw_bitstream_requested: 1, ..config_info() };
    host.bench.hw.set(|facts| facts.put_message(CONFIG, info.as_bytes()));
    let single = Registers { r10: 0x44_0000, ..connect_regs(id) };
    assert_eq!(status(host.drive(CONNECT, single)), bad, "TDH.SPDM.CONNECT-8");
    for r10 in [INFO_ROOT + 8, array(INFO_ROOT, 16) | 1 << 52, array(SESSION_PAGES, 2)] {
        assert_eq!(status(host.drive(CONNECT, Registers { r10, ..connect_regs(id) })), bad);
    }
    host.bench.hw.set(|facts| {
        facts.memory.insert(INFO_ROOT, SESSION_PAGES);
    });
    assert_eq!(status(host.connect(id)), bad, "a page that is the module's");
    host.bench.hw.set(|facts| {
        facts.memory.insert(INFO_ROOT, 0x44_0000);
    });
    works_again(host, id);
}

#[test]
fn a_host_that_gives_up_gets_its_object_back() {
    let (mut host, id) = Host::created();
    let after = host.drive_to(CONNECT, connect_regs(id), 6);
    assert_eq!(status(after), REQUEST_OUT);
    host.bench.hw.set(|facts| facts.put_message(ANSWER, &[]));
    let after = status(host.call(CONNECT, connect_regs(id)));
    assert_eq!(after.code(), StatusCode::SPDM_INVALID_MESSAGE);
    assert_eq!(status(host.delete(id)), Status::SUCCESS);
}

#[test]
fn the_out_page_holds_the_object_and_zeros() {
    let (mut host, id) = Host::created();
    host.bench.hw.set(|facts| facts.put_page(REQUEST, &[u64::MAX; 512]));
    let after = host.call(CONNECT, connect_regs(id));
    assert_eq!(after.rcx, 12, "GET_VERSION: a header and four bytes");
    let page = host.bench.hw.bytes(REQUEST, 4096);
    assert_eq!(page[..12], [1, 0, 1, 0, 3, 0, 0, 0, 0x10, 0x84, 0, 0]);
    assert!(page[12..].iter().all(|&byte| byte == 0));
}

#[test]
fn a_new_connect_ends_what_the_device_had() {
    let (mut host, id) = Host::connected();
    host.lose_link();
    assert_eq!(status(host.delete(id)), Status::SUCCESS);
    let id = created(&host.bench);
    assert_eq!(status(host.connect(id)), Status::SUCCESS);
    assert_eq!(host.device.dsm.ended, [SessionEnd::Reset]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn no_answer_whatsoever_upsets_the_module(
        number in 0..14_usize,
        whole in prop::collection::vec(any::<u8>(), 0..80),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1..=u8::MAX), 0..4),
    ) {
        let (mut host, id) = Host::created();
        let replaced = whole.len() % 3 == 0;
        host.tamper = Box::new(move |at, answer| {
            if at != number {
                return;
            }
            if replaced {
                answer.clone_from(&whole);
            }
            for (index, bits) in &flips {
                if !answer.is_empty() {
                    let at = index.index(answer.len());
                    answer[at] ^= bits;
                }
            }
        });
        let after = status(host.connect(id));
        let refused = [StatusCode::SPDM_INVALID_MESSAGE, StatusCode::SPDM_AUTH_FAILED];
        prop_assert!(after == Status::SUCCESS || refused.contains(&after.code()), "{after}");
        if after == Status::SUCCESS {
            prop_assert_eq!(status(host.disconnect(id)), Status::SUCCESS);
        }
        works_again(host, id);
    }
}
