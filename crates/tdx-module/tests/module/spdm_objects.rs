//! TDH.SPDM.CREATE and TDH.SPDM.DELETE: session objects and their pages.

use pcie::FuncId;
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_abi::{PAGE_SIZE, Registers};
use tdx_module::inspect::Owner;
use tdx_module::{LockName, LpIndex, ModuleConfig};

use crate::common::connect::{clear_regs, opted_in_with, setup_regs};
use crate::common::device::{FUNCTION, Responding};
use crate::common::tee_io::{
    ARRAY, Host, RELEASED, SESSION_PAGES, STREAM_PAGES, array, bridged, connect_regs, create_regs, created,
    disconnect_regs, regs, status, stream_regs,
};
use crate::common::{Bench, Case, Moment, Trial, config, with_leaf};

const CREATE: SeamcallLeaf = SeamcallLeaf::SPDM_CREATE;
const DELETE: SeamcallLeaf = SeamcallLeaf::SPDM_DELETE;

fn prepared() -> Bench {
    let bench = bridged();
    create_regs(&bench, FUNCTION, SESSION_PAGES);
    bench
}

fn good_create() -> Registers {
    with_leaf(CREATE, 0, Registers { rcx: FUNCTION.into(), rdx: array(ARRAY, 2), ..Registers::default() })
}

fn create_cases() -> [Case; 7] {
    const NOTHING: fn(&mut Registers) = |_| {};
    [
        Case {
            row: "TDH.SPDM.CREATE-1a",
            spoil: |_, regs| regs.rcx |= 1 << 25,
            status: StatusCode::OPERAND_INVALID.with_operand(OperandId::RCX),
            outputs: NOTHING,
        },
        Case {
            row: "TDH.SPDM.CREATE-1b",
            spoil: |_, regs| regs.rcx |= 1 << 16,
            status: StatusCode::OPERAND_INVALID.with_operand(OperandId::RCX),
            outputs: NOTHING,
        },
        Case {
            row: "TDH.SPDM.CREATE-1c",
            spoil: |_, regs| regs.rcx |= 1 << 32,
            status: StatusCode::OPERAND_INVALID.with_operand(OperandId::RCX),
            outputs: NOTHING,
        },
        Case {
            row: "TDH.SPDM.CREATE-2",
            spoil: |_, regs| regs.rdx = array(ARRAY, 3),
            status: StatusCode::OPERAND_INVALID.with_operand(OperandId::RDX),
            outputs: NOTHING,
        },
        Case {
            row: "TDH.SPDM.CREATE-3",
            spoil: |_, regs| regs.rcx = regs.rcx & 0xFF | 0x2000,
            status: StatusCode::IOMMU_INVALID_STATE.plain(),
            outputs: NOTHING,
        },
        Case {
            row: "TDH.SPDM.CREATE-6",
            spoil: |facts, _| {
                facts.memory.insert(ARRAY + 8, SESSION_PAGES);
            },
            status: StatusCode::PAGE_METADATA_INCORRECT.with_operand(OperandId::RDX),
            outputs: NOTHING,
        },
        Case {
            row: "TDH.SPDM.CREATE-7",
            spoil: |facts, _| facts.contended.push(LockName::Iommu),
            status: StatusCode::OPERAND_BUSY.with_operand(OperandId::RCX),
            outputs: NOTHING,
        },
    ]
}

const CREATION: Trial = Trial { bench: prepared, lp: 0, good: good_create };

#[test]
fn create_refuses_each_row_alone_and_takes_nothing() {
    CREATION.refuses(&create_cases(), |_| {});
}

#[test]
fn create_looks_in_the_order_of_the_rows() {
    CREATION.orders(
        &create_cases(),
        &[
            "TDH.SPDM.CREATE-1a before TDH.SPDM.CREATE-2",
            "TDH.SPDM.CREATE-2 before TDH.SPDM.CREATE-3",
            "TDH.SPDM.CREATE-2 before TDH.SPDM.CREATE-6",
            "TDH.SPDM.CREATE-3 before TDH.SPDM.CREATE-6",
            "TDH.SPDM.CREATE-6 before TDH.SPDM.CREATE-7",
        ],
    );
}

#[test]
fn a_function_has_one_session() {
    let bench = bridged();
    let id = created(&bench);
    // TDH.SPDM.CREATE-4: before its pages are looked at.
    let again = create_regs(&bench, FUNCTION, SESSION_PAGES);
    assert_eq!(
        bench.status(0, CREATE, again),
        StatusCode::SPDM_ENTRY_ALREADY_PRESENT.plain(),
        "TDH.SPDM.CREATE-4"
    );
    // A segment of 0 may be said to be valid.
    let again = Registers { rcx: again.rcx | 1 << 24, ..again };
    assert_eq!(bench.status(0, CREATE, again), StatusCode::SPDM_ENTRY_ALREADY_PRESENT.plain());
    assert_eq!(bench.pages_of(Owner::Session(tdx_abi::connect::ids::SpdmId(id))), 2);
    let other = create_regs(&bench, FUNCTION + 1, SESSION_PAGES + 2 * PAGE_SIZE);
    assert_ne!(bench.ok(0, CREATE, other).rcx, id);
}

#[test]
fn a_unit_has_at_most_256_sessions() {
    let bench = bridged();
    let mut ids = Vec::new();
    for number in 0..256 {
        let regs = create_regs(&bench, 0x1100 + number, SESSION_PAGES + u64::from(number) * 2 * PAGE_SIZE);
        ids.push(bench.ok(0, CREATE, regs).rcx);
    }
    let more = create_regs(&bench, 0x1200, STREAM_PAGES + 0x80_0000);
    assert_eq!(bench.status(0, CREATE, more), StatusCode::CONNECT_INVALID_STATE.plain(), "TDH.SPDM.CREATE-5");
    assert_eq!(bench.connect().units[0].sessions, 256);
    // Before the pages: TDH.SPDM.CREATE-5 before TDH.SPDM.CREATE-6.
    let taken = create_regs(&bench, 0x1200, SESSION_PAGES);
    assert_eq!(bench.status(0, CREATE, taken), StatusCode::CONNECT_INVALID_STATE.plain());
    // Another unit has its own: segment 1.
    let other = create_regs(&bench, 1 << 24 | 1 << 16 | 0x0200, STREAM_PAGES + 0x80_0000);
    bench.ok(0, CREATE, other);
    let release = Registers { rdx: RELEASED, ..regs(ids[7]) };
    bench.ok(0, DELETE, release);
    let again = create_regs(&bench, 0x1200, SESSION_PAGES + 14 * PAGE_SIZE);
    bench.ok(0, CREATE, again);
}

#[test]
fn another_lp_that_creates_the_same_session_meets_busy_or_the_session() {
    for (moment, expected) in [
        (Moment::Read(ARRAY), StatusCode::SPDM_ENTRY_ALREADY_PRESENT.plain()),
        (Moment::Initialise, StatusCode::SPDM_ENTRY_ALREADY_PRESENT.plain()),
    ] {
        let bench = prepared();
        let other = Registers { rdx: array(ARRAY + PAGE_SIZE, 2), ..good_create() };
        bench.hw.set(|facts| {
            facts.put_page(ARRAY + PAGE_SIZE, &[STREAM_PAGES, STREAM_PAGES + PAGE_SIZE]);
        });
        bench.hw.intrude(moment, &bench.software, LpIndex(1), other);
        let after = bench.raw(0, good_create()).expect("an answer");
        let intruder = bench.hw.intrusion().expect("an answer");
        assert_eq!(status(intruder), Status::SUCCESS);
        assert_eq!(status(after), expected, "{moment:?}");
        assert_eq!(bench.connect().units[0].sessions, 1);
        let id = tdx_abi::connect::ids::SpdmId(intruder.rcx);
        assert_eq!(bench.pages_of(Owner::Session(id)), 2, "the pages of the other call are free again");
    }
}

fn delete_regs(id: u64) -> Registers {
    Registers { rdx: RELEASED, ..regs(id) }
}

#[test]
fn delete_gives_back_exactly_the_pages_of_create() {
    let bench = bridged();
    let free = bench.connect();
    let id = created(&bench);
    assert_ne!(bench.connect(), free);
    let after = bench.ok(0, DELETE, delete_regs(id));
    assert_eq!(after.rcx, array(RELEASED, 2));
    assert_eq!(bench.hw.word(RELEASED), SESSION_PAGES);
    assert_eq!(bench.hw.word(RELEASED + 8), SESSION_PAGES + PAGE_SIZE);
    assert_eq!(bench.hw.word(RELEASED + 16), 0);
    assert_eq!(bench.connect(), free);
    // The id is gone for good, and the pages are good for another session.
    assert_eq!(
        bench.status(0, DELETE, delete_regs(id)),
        StatusCode::SPDM_ENTRY_NOT_PRESENT.plain(),
        "TDH.SPDM.DELETE-1"
    );
    assert_ne!(created(&bench), id);
    assert_eq!(bench.status(0, DELETE, delete_regs(id)), StatusCode::SPDM_ENTRY_NOT_PRESENT.plain());
}

#[test]
fn a_session_of_one_page_comes_back_in_the_register() {
    let mut module: ModuleConfig = config("connect");
    module.connect.spdm_mt_pages = 1;
    let bench = opted_in_with(module);
    bench.fill_pool();
    bench.ok(0, SeamcallLeaf::EXT_INIT, Registers::default());
    bench.table_of(0);
    bench.ok(0, SeamcallLeaf::IOMMU_SETUP, setup_regs(0));
    let regs = Registers { rcx: FUNCTION.into(), rdx: SESSION_PAGES, ..Registers::default() };
    let id = bench.ok(0, CREATE, regs).rcx;
    assert_eq!(
        bench.status(0, DELETE, delete_regs(id)),
        StatusCode::OPERAND_INVALID.with_operand(OperandId::RDX),
        "TDH.SPDM.DELETE-4"
    );
    let after = bench.ok(0, DELETE, Registers { rcx: id, ..Registers::default() });
    assert_eq!(after.rcx, SESSION_PAGES);
}

#[test]
fn delete_wants_a_page_for_the_list_and_the_locks() {
    let bench = bridged();
    let id = created(&bench);
    let bad = StatusCode::OPERAND_INVALID.with_operand(OperandId::RDX);
    for rdx in [0, RELEASED + 8, 1 << 50, SESSION_PAGES] {
        assert_eq!(bench.status(0, DELETE, Registers { rdx, ..regs(id) }), bad, "TDH.SPDM.DELETE-4");
    }
    for lock in [LockName::Spdm, LockName::Iommu] {
        bench.hw.set(|facts| facts.contended = vec![lock]);
        let busy = StatusCode::OPERAND_BUSY.with_operand(OperandId::RCX);
        assert_eq!(bench.status(0, DELETE, delete_regs(id)), busy, "TDH.SPDM.DELETE-5");
        assert_eq!(bench.status(0, DELETE, regs(id)), bad, "TDH.SPDM.DELETE-4 before TDH.SPDM.DELETE-5");
    }
    bench.hw.set(|facts| facts.contended.clear());
    bench.ok(0, DELETE, delete_regs(id));
}

#[test]
fn delete_leaves_what_is_connected_or_on_its_way() {
    let (mut host, id) = Host::created();
    let state = StatusCode::SPDM_INVALID_STATE.plain();
    let first = host.resume(SeamcallLeaf::SPDM_CONNECT, connect_regs(id));
    assert_eq!(status(first), StatusCode::SPDM_REQUEST.plain());
    assert_eq!(status(host.delete(id)), state, "TDH.SPDM.DELETE-3");
    host.exchange(first.rcx);
    assert_eq!(status(host.connect(id)), Status::SUCCESS);
    assert_eq!(status(host.delete(id)), state, "TDH.SPDM.DELETE-3");
    let stream = host.bench.ok(0, SeamcallLeaf::IDE_STREAM_CREATE, stream_regs(id, 0)).rcx;
    host.lose_link();
    let streams = StatusCode::SPDM_HAS_ACTIVE_IDE_STREAMS.plain();
    assert_eq!(status(host.delete(id)), streams, "TDH.SPDM.DELETE-2");
    // The device is gone: its stream and its session are taken down without it.
    assert_eq!(status(host.block(id, stream)), Status::SUCCESS);
    assert_eq!(status(host.delete_stream(id, stream)), Status::SUCCESS);
    assert_eq!(status(host.delete(id)), Status::SUCCESS);
    let units = host.bench.connect().units;
    assert_eq!((units[0].sessions, units[0].active_sessions, units[0].streams), (0, 0, 0));
}

#[test]
fn a_unit_with_sessions_is_not_cleared() {
    let (mut host, id) = Host::created();
    let unit = host.bench.connect().units[0].id.0;
    let clear = clear_regs(unit, 0);
    let refused = |host: &Host| host.bench.status(0, SeamcallLeaf::IOMMU_CLEAR, clear);
    assert_eq!(refused(&host), StatusCode::SPDM_INVALID_STATE.plain(), "TDH.IOMMU.CLEAR-5");
    assert_eq!(status(host.connect(id)), Status::SUCCESS);
    assert_eq!(refused(&host), StatusCode::IOMMU_INVALID_STATE.plain(), "TDH.IOMMU.CLEAR-2");
    assert_eq!(status(host.disconnect(id)), Status::SUCCESS);
    assert_eq!(status(host.delete(id)), Status::SUCCESS);
    let after = host.bench.resume(0, with_leaf(SeamcallLeaf::IOMMU_CLEAR, 0, clear)).0;
    assert_eq!(status(after), Status::SUCCESS);
}

#[test]
fn sessions_begin_behind_the_start_of_the_extension() {
    let bench = opted_in_with(config("connect"));
    let connect = bench.status(0, SeamcallLeaf::SPDM_CONNECT, connect_regs(1));
    assert_eq!(connect, StatusCode::SYS_STATE_INCORRECT.plain(), "CONNECT-2");
    let deleted = bench.status(0, DELETE, regs(1));
    assert_eq!(deleted, StatusCode::SPDM_ENTRY_NOT_PRESENT.plain(), "DELETE does not need it");
}

#[test]
fn an_interrupted_call_of_a_deleted_session_does_not_keep_the_extension() {
    let (mut host, id) = Host::connected();
    host.bench.hw.set(|facts| facts.interrupt = true);
    let heartbeat = crate::common::tee_io::mng_regs(id, tdx_abi::connect::ids::MngOperation::HEARTBEAT);
    let after = host.call(SeamcallLeaf::SPDM_MNG, heartbeat);
    assert_eq!(status(after), StatusCode::INTERRUPTED_RESUMABLE.plain());
    host.bench.hw.set(|facts| facts.interrupt = false);
    host.lose_link();
    assert_eq!(status(host.delete(id)), Status::SUCCESS);
    assert!(!host.bench.connect().interrupted);
    let id = created(&host.bench);
    let mut next = Host::new(host.bench, Responding::new());
    assert_eq!(status(next.connect(id)), Status::SUCCESS);
}

#[test]
fn a_session_that_another_lp_deletes_meanwhile_is_not_there_any_more() {
    let gone = StatusCode::SPDM_ENTRY_NOT_PRESENT.plain();
    let release = |id| with_leaf(DELETE, 0, delete_regs(id));
    let (mut host, id) = Host::created();
    let moment = Moment::Contended(LockName::Extension);
    host.bench.hw.intrude(moment, &host.bench.software, LpIndex(1), release(id));
    let after = host.call(SeamcallLeaf::SPDM_CONNECT, connect_regs(id));
    assert_eq!(status(after), gone, "TDH.SPDM.CONNECT-1");
    assert_eq!(status(host.bench.hw.intrusion().expect("an answer")), Status::SUCCESS);
    let connect = host.bench.connect();
    assert_eq!((connect.units[0].sessions, connect.units[0].active_sessions), (0, 0));
    assert!(!connect.interrupted, "the extension is free");

    // What is taken away twice must not be missing from what another session counts.
    for leaf in [SeamcallLeaf::SPDM_DISCONNECT, DELETE] {
        let (mut host, id) = Host::connected();
        let other = create_regs(&host.bench, FUNCTION + 0x100, SESSION_PAGES + 2 * PAGE_SIZE);
        let other = host.bench.ok(0, CREATE, other).rcx;
        host.device = Responding::of(FuncId(FUNCTION + 0x100));
        assert_eq!(status(host.connect(other)), Status::SUCCESS);
        host.lose_link();
        let (row, lock, regs) = match leaf {
            DELETE => ("TDH.SPDM.DELETE-1", LockName::Iommu, delete_regs(id)),
            _ => ("TDH.SPDM.DISCONNECT-1", LockName::Extension, disconnect_regs(id)),
        };
        let moment = Moment::Contended(lock);
        host.bench.hw.intrude(moment, &host.bench.software, LpIndex(1), release(id));
        assert_eq!(status(host.call(leaf, regs)), gone, "{row}");
        assert_eq!(status(host.bench.hw.intrusion().expect("an answer")), Status::SUCCESS);
        let unit = host.bench.connect().units.remove(0);
        assert_eq!((unit.sessions, unit.active_sessions), (1, 1), "{leaf}");
    }
}
