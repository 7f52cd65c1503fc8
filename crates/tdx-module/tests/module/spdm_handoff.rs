//! Sessions and streams across an update.

use pcie::FuncId;
use proptest::prelude::*;
use spdm::ide_km::KeySet;
use tdx_abi::connect::ids::{KmOperation, MngOperation};
use tdx_abi::connect::stream::StreamInfo;
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::status::{Status, StatusCode};
use tdx_abi::{PAGE_SIZE, Registers};

use crate::common::connect::TDX_CONNECT;
use crate::common::device::Responding;
use crate::common::tee_io::{
    Host, SESSION_PAGES, connect_regs, create_regs, disconnect_regs, km_regs, mng_regs, status, stream_regs,
};
use crate::common::{Bench, config};
use crate::handoff::{successor, update};
use crate::sys_shutdown::shutdown;

const KM: SeamcallLeaf = SeamcallLeaf::IDE_STREAM_KM;
const MNG: SeamcallLeaf = SeamcallLeaf::SPDM_MNG;
const REQUEST_OUT: Status = StatusCode::SPDM_REQUEST.plain();
const BAD: Status = StatusCode::SYS_INVALID_HANDOFF.plain();

/// A module on the same machine that has what `old` has left, before SYS.UPDATE.
fn heir(old: &Bench) -> Bench {
    assert_eq!(status(old.raw(0, shutdown(2)).expect("an answer")), Status::SUCCESS);
    let heir = successor(old, config("connect"));
    heir.hw.restore(old.hw.facts());
    heir
}

/// The module is replaced under the host.
fn replace(host: Host) -> Host {
    let bench = heir(&host.bench);
    assert_eq!(status(bench.raw(0, update(1, TDX_CONNECT)).expect("an answer")), Status::SUCCESS);
    let (left, before) = (ConnectLeft::of(&bench), ConnectLeft::of(&host.bench));
    assert_eq!(left, ConnectLeft { active: left.active, ..before });
    bench.ok(0, SeamcallLeaf::EXT_INIT, Registers::default());
    Host { bench, ..host }
}

/// What an update must not change.
#[derive(Debug, PartialEq)]
struct ConnectLeft {
    sessions: u16,
    active: u16,
    streams: u16,
    pages: Vec<(tdx_abi::PhysRange, tdx_module::inspect::Owner)>,
}

impl ConnectLeft {
    fn of(bench: &Bench) -> Self {
        let connect = bench.connect();
        let unit = &connect.units[0];
        Self {
            sessions: unit.sessions,
            active: unit.active_sessions,
            streams: unit.streams,
            pages: connect.pages.clone(),
        }
    }
}

/// Everything is taken down as usual.
fn take_down(mut host: Host, id: u64, stream: Option<u64>) {
    if let Some(stream) = stream {
        assert_eq!(status(host.block(id, stream)), Status::SUCCESS);
        assert_eq!(status(host.delete_stream(id, stream)), Status::SUCCESS);
    }
    assert_eq!(status(host.disconnect(id)), Status::SUCCESS);
    assert_eq!(status(host.delete(id)), Status::SUCCESS);
    let left = ConnectLeft::of(&host.bench);
    assert_eq!((left.sessions, left.active, left.streams), (0, 0, 0));
}

#[test]
fn a_connected_device_stays_connected() {
    let (host, id, stream) = Host::secure();
    let mut host = replace(host);
    assert_eq!(ConnectLeft::of(&host.bench).active, 1);
    for operation in [MngOperation::HEARTBEAT, MngOperation::KEY_UPDATE, MngOperation::DEV_INFO_RECOLLECTION]
    {
        assert_eq!(status(host.mng(id, operation)), Status::SUCCESS, "{operation}");
    }
    assert_eq!(status(host.km(id, stream, KmOperation::REFRESH)), Status::SUCCESS);
    assert_eq!(host.sends_with(), Some(KeySet::K1));
    let again = status(host.call(SeamcallLeaf::IDE_STREAM_CREATE, stream_regs(id, 1)));
    assert_eq!(again, StatusCode::IDE_STREAM_RID_OVERLAP.plain(), "what the stream has is known");
    let mut host = replace(host);
    assert_eq!(status(host.km(id, stream, KmOperation::REFRESH)), Status::SUCCESS);
    assert_eq!(host.sends_with(), Some(KeySet::K0), "the set in use is known");
    assert_eq!(host.device.dsm.sessions, 1);
    take_down(host, id, Some(stream));
}

#[test]
fn evidence_is_the_same_behind_an_update() {
    let (host, id) = Host::connected();
    let before = host.dev_info(4096);
    let mut host = replace(host);
    let after = host.mng(id, MngOperation::DEV_INFO_RECOLLECTION);
    assert_eq!(status(after), Status::SUCCESS);
    let blob = host.dev_info(after.rcx);
    let outline = |blob: &[u8]| {
        use tdx_abi::connect::dev_info::{RecordType, Records};
        let records = Records::new(blob).map_while(Result::ok).filter(|record| !record.bytes.is_empty());
        let others = records.filter(|record| record.kind != RecordType::MEASUREMENTS);
        others.map(|record| (record.kind, record.index, record.bytes.to_vec())).collect::<Vec<_>>()
    };
    assert_eq!(outline(&blob), outline(&before));
    take_down(host, id, None);
}

#[test]
fn an_update_at_each_message_of_each_operation_inside_a_session_changes_nothing() {
    let operations = [MngOperation::HEARTBEAT, MngOperation::KEY_UPDATE, MngOperation::DEV_INFO_RECOLLECTION];
    for operation in operations {
        for messages in 1..=2 {
            let (mut host, id) = Host::connected();
            let regs = mng_regs(id, operation);
            let out = host.drive_to(MNG, regs, messages);
            if status(out) != REQUEST_OUT {
                break;
            }
            let mut host = replace(host);
            host.exchange(out.rcx);
            assert_eq!(status(host.mng(id, operation)), Status::SUCCESS, "{operation}, message {messages}");
            assert_eq!(status(host.mng(id, MngOperation::HEARTBEAT)), Status::SUCCESS);
            take_down(host, id, None);
        }
    }
    let (mut host, id) = Host::connected();
    let out = host.resume(SeamcallLeaf::SPDM_DISCONNECT, disconnect_regs(id));
    let mut host = replace(host);
    host.exchange(out.rcx);
    take_down(host, id, None);
}

#[test]
fn an_update_at_each_message_of_key_management_changes_nothing() {
    for operation in [KmOperation::SETUP, KmOperation::REFRESH, KmOperation::STOP] {
        let prepared = || if operation == KmOperation::SETUP { Host::configured() } else { Host::secure() };
        for messages in 1..=12 {
            let (mut host, id, stream) = prepared();
            let out = host.drive_to(KM, km_regs(id, stream, operation), messages);
            if status(out) != REQUEST_OUT {
                break;
            }
            let mut host = replace(host);
            host.exchange(out.rcx);
            let after = status(host.km(id, stream, operation));
            assert_eq!(after, Status::SUCCESS, "{operation}, message {messages}");
            assert_eq!(host.is_enabled(), operation != KmOperation::STOP);
            take_down(host, id, Some(stream));
        }
    }
}

#[test]
fn a_handshake_begins_anew() {
    for messages in [1, 5, 9] {
        let (mut host, id) = Host::created();
        host.drive_to(SeamcallLeaf::SPDM_CONNECT, connect_regs(id), messages);
        let mut host = replace(host);
        assert_eq!(ConnectLeft::of(&host.bench).active, 0);
        // The host goes on as if nothing had been: what is in its page does not matter.
        assert_eq!(status(host.connect(id)), Status::SUCCESS);
        take_down(host, id, None);
    }
}

#[test]
fn a_session_that_was_lost_stays_lost_and_can_be_taken_down() {
    let (mut host, id, stream) = Host::configured();
    host.tamper = Box::new(|_, answer| answer[12] ^= 1);
    host.mng(id, MngOperation::HEARTBEAT);
    host.tamper = Box::new(|_, _| {});
    let mut host = replace(host);
    let lost = StatusCode::SPDM_INVALID_STATE.plain();
    assert_eq!(status(host.mng(id, MngOperation::HEARTBEAT)), lost);
    take_down(host, id, Some(stream));
}

#[test]
fn a_session_that_ends_with_its_device_is_deleted_behind_an_update() {
    let (mut host, id) = Host::connected();
    host.lose_link();
    let mut host = replace(host);
    assert_eq!(status(host.delete(id)), Status::SUCCESS, "the losses of the link are known");
}

/// Bytes of a saved stream, the last ones of the hand-off data; of its port and block, of its place in the
/// key unit, and of its key slots.
const STREAM: usize = 71;
const PORT_AND_BLOCK: std::ops::Range<usize> = 11..16;
const PLACE: std::ops::Range<usize> = 18..20;
const SLOTS: std::ops::Range<usize> = 20..44;

#[test]
fn streams_that_share_what_only_one_can_have_are_refused() {
    let (mut host, ..) = Host::configured();
    let other = create_regs(&host.bench, 0x1200, SESSION_PAGES + 2 * PAGE_SIZE);
    let other = host.bench.ok(0, SeamcallLeaf::SPDM_CREATE, other).rcx;
    host.device = Responding::of(FuncId(0x1200));
    assert_eq!(status(host.connect(other)), Status::SUCCESS);
    let regs = Registers { r10: 0x1207 << 8, r11: 0x1200 << 8 | 1, ..stream_regs(other, 1) };
    let regs = Registers { rcx: StreamInfo::selective(1 << 3).0, ..regs };
    host.bench.ok(0, SeamcallLeaf::IDE_STREAM_CREATE, regs);
    assert_eq!(status(host.bench.raw(0, shutdown(2)).expect("an answer")), Status::SUCCESS);
    for (what, from, to, expected) in [
        ("nothing", 0..0, 0, Status::SUCCESS),
        ("port and block", PORT_AND_BLOCK, STREAM + PORT_AND_BLOCK.start, BAD),
        ("place in the key unit", PLACE, STREAM + PLACE.start, BAD),
        ("key slots", SLOTS, STREAM + SLOTS.start, BAD),
        ("a slot of its own", SLOTS.start..SLOTS.start + 2, SLOTS.start + 2, BAD),
    ] {
        let heir = successor(&host.bench, config("connect"));
        heir.hw.restore(host.bench.hw.facts());
        let mut bytes = heir.software.handoff_area();
        let size = u32::from_le_bytes(bytes[4..8].try_into().expect("a size"));
        let end = 8 + usize::try_from(size).expect("a size");
        bytes[end - 2 * STREAM..end].copy_within(from, to);
        heir.software.set_handoff_area(&bytes);
        assert_eq!(status(heir.raw(0, update(1, TDX_CONNECT)).expect("an answer")), expected, "{what}");
    }
}

/// Where the part of TDX Connect begins in the hand-off area.
const CONNECT: usize = 0xD097;

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn bytes_that_were_not_written_are_refused_or_do_no_harm(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1..=u8::MAX), 1..4),
        outstanding in any::<bool>(),
    ) {
        let (mut host, id, stream) = Host::configured();
        if outstanding {
            host.drive_to(KM, km_regs(id, stream, KmOperation::SETUP), 3);
        }
        let bench = heir(&host.bench);
        let mut bytes = bench.software.handoff_area();
        let size = u32::from_le_bytes(bytes[4..8].try_into().expect("a size"));
        let part = CONNECT..8 + usize::try_from(size).expect("a size");
        for (index, bits) in &flips {
            bytes[part.start + index.index(part.len())] ^= bits;
        }
        bench.software.set_handoff_area(&bytes);
        let answer = status(bench.raw(0, update(1, TDX_CONNECT)).expect("an answer"));
        if answer != Status::SUCCESS {
            prop_assert_eq!(answer, StatusCode::SYS_INVALID_HANDOFF.plain());
            return Ok(());
        }
        bench.ok(0, SeamcallLeaf::EXT_INIT, Registers::default());
        let mut host = Host { bench, ..host };
        host.resume(KM, km_regs(id, stream, KmOperation::SETUP));
        host.block(id, stream);
        host.delete_stream(id, stream);
        host.resume(SeamcallLeaf::SPDM_DISCONNECT, disconnect_regs(id));
        host.delete(id);
    }
}
