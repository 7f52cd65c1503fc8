//! TDH.IDE.STREAM.CREATE, BLOCK and DELETE: streams of root ports.

use tdx_abi::connect::ids::{KmOperation, SpdmId};
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_abi::{PAGE_SIZE, Registers};
use tdx_module::inspect::Owner;
use tdx_module::{LockName, LpIndex};

use crate::common::Moment;
use crate::common::fake_io::{KEY_UNITS, function};
use crate::common::tee_io::{
    BLOCK, BLOCK_CONTROL, BLOCK_SIZE, BLOCKS, Host, IDE, RELEASED, SESSION_PAGES, STREAM_PAGES, array,
    disconnect_regs, regs, status, stream_regs,
};
use crate::common::with_leaf;

const CREATE: SeamcallLeaf = SeamcallLeaf::IDE_STREAM_CREATE;
const BLOCK_LEAF: SeamcallLeaf = SeamcallLeaf::IDE_STREAM_BLOCK;
const DELETE: SeamcallLeaf = SeamcallLeaf::IDE_STREAM_DELETE;

fn invalid(operand: OperandId) -> Status {
    StatusCode::OPERAND_INVALID.with_operand(operand)
}

#[test]
fn a_stream_is_set_up_in_the_root_port_and_out_of_reach_of_the_host() {
    let (mut host, id) = Host::connected();
    let before = host.bench.hw.facts().io;
    let regs = Registers { r9: 1 << 8 | 3 << 19, ..stream_regs(id, 0) };
    let after = host.call(CREATE, regs);
    assert_eq!((status(after), after.rcx, after.rdx), (Status::SUCCESS, 1, 0));
    assert_eq!(host.port_register(BLOCK + BLOCK_CONTROL), 1 << 24 | 3 << 19 | 1 << 8);
    let programmed: Vec<u32> = (12..32).step_by(4).map(|offset| host.port_register(BLOCK + offset)).collect();
    assert_eq!(programmed, [0x11_0700, 0x11_0001, 0x0010_0001, 0x20, 0x20]);
    assert_eq!(host.key_register(0), 1 << 24, "named, not enabled");
    let protected = host.bench.hw.facts().io.protected_config;
    assert!(protected.contains(&(function(0, 0x10, 0), BLOCK, BLOCK_SIZE)));
    assert_eq!(host.bench.connect().units[0].streams, 1);
    assert_eq!(host.bench.pages_of(Owner::Stream(SpdmId(id), 1)), 1);

    assert_eq!(status(host.block(id, 1)), Status::SUCCESS);
    assert_eq!(host.key_register(0), 0);
    let after = host.delete_stream(id, 1);
    assert_eq!((status(after), after.rcx), (Status::SUCCESS, STREAM_PAGES));
    let now = host.bench.hw.facts().io;
    assert_eq!(now.config, before.config);
    assert_eq!(now.protected_config, before.protected_config);
    assert_eq!(host.bench.connect().units[0].streams, 0);
    assert_eq!(host.bench.pages_of(Owner::Stream(SpdmId(id), 1)), 0);
}

/// Makes a row, and none above it, answer.
struct Refused {
    row: &'static str,
    spoil: fn(&mut Host, &mut Registers),
    status: Status,
}

fn port(offset: u16, host: &mut Host, value: u32) {
    host.bench.hw.set(|facts| {
        facts.io.config.insert((function(0, 0x10, 0), offset), value);
    });
}

fn refusals() -> Vec<Refused> {
    let rp = StatusCode::IOMMU_RP_INVALID_CONFIGURATION.plain();
    vec![
        Refused {
            row: "TDH.IDE.STREAM.CREATE-1a",
            spoil: |_, regs| regs.rcx |= 1 << 9,
            status: invalid(OperandId::RCX),
        },
        Refused {
            row: "TDH.IDE.STREAM.CREATE-1b",
            spoil: |_, regs| regs.rcx &= 0xFF,
            status: invalid(OperandId::RCX),
        },
        Refused {
            row: "TDH.IDE.STREAM.CREATE-2",
            spoil: |_, regs| regs.rdx ^= 1 << 33,
            status: StatusCode::SPDM_INVALID_STATE.plain(),
        },
        Refused {
            row: "TDH.IDE.STREAM.CREATE-3",
            spoil: |_, regs| regs.r9 |= 1,
            status: invalid(OperandId::R9),
        },
        Refused {
            row: "TDH.IDE.STREAM.CREATE-13a",
            spoil: |_, regs| regs.r10 |= 1,
            status: invalid(OperandId::R10),
        },
        Refused {
            row: "TDH.IDE.STREAM.CREATE-13b",
            spoil: |_, regs| regs.r11 &= !1,
            status: invalid(OperandId::R11),
        },
        Refused {
            row: "TDH.IDE.STREAM.CREATE-13c",
            spoil: |_, regs| (regs.r10, regs.r11) = (0x1207 << 8, 0x1200 << 8 | 1),
            status: invalid(OperandId::R11),
        },
        Refused {
            row: "TDH.IDE.STREAM.CREATE-13g",
            spoil: |_, regs| regs.r11 |= 1 << 24,
            status: invalid(OperandId::R11),
        },
        Refused {
            row: "TDH.IDE.STREAM.CREATE-13d",
            spoil: |_, regs| regs.r12 &= !1,
            status: invalid(OperandId::R12),
        },
        Refused {
            row: "TDH.IDE.STREAM.CREATE-13e",
            spoil: |_, regs| regs.r13 = 0x1F,
            status: invalid(OperandId::R12),
        },
        Refused {
            row: "TDH.IDE.STREAM.CREATE-13f",
            spoil: |_, regs| regs.r14 |= 1 << 32,
            status: invalid(OperandId::R14),
        },
        Refused {
            row: "TDH.IDE.STREAM.CREATE-4",
            spoil: |_, regs| regs.r8 = array(RELEASED, 2),
            status: invalid(OperandId::R8),
        },
        Refused {
            row: "TDH.IDE.STREAM.CREATE-12a",
            spoil: |host, _| port(IDE + 4, host, 1 << 6),
            status: StatusCode::IDE_STREAM_NOT_SUPPORTED.plain(),
        },
        Refused {
            row: "TDH.IDE.STREAM.CREATE-12b",
            spoil: |_, regs| regs.rcx |= 5 << 3,
            status: StatusCode::IDE_STREAM_NOT_SUPPORTED.plain(),
        },
        Refused { row: "TDH.IDE.STREAM.CREATE-5a", spoil: |_, regs| regs.rcx |= 1 << 3, status: rp },
        Refused {
            row: "TDH.IDE.STREAM.CREATE-5b",
            spoil: |host, _| port(IDE + 4, host, 1 << 1 | 1 << 8 | (u32::from(BLOCKS) - 1) << 16),
            status: rp,
        },
        Refused {
            row: "TDH.IDE.STREAM.CREATE-5c",
            spoil: |host, regs| {
                port(IDE + 4, host, 1 << 1 | (u32::from(BLOCKS) - 1) << 16);
                regs.r9 |= 1 << 8;
            },
            status: rp,
        },
        Refused {
            row: "TDH.IDE.STREAM.CREATE-10",
            spoil: |host, _| port(BLOCK + BLOCK_CONTROL, host, 1),
            status: StatusCode::IOMMU_RP_IDE_MUST_BE_DISABLED.plain(),
        },
        Refused {
            row: "TDH.IDE.STREAM.CREATE-14",
            spoil: |_, regs| regs.r8 = SESSION_PAGES,
            status: StatusCode::PAGE_METADATA_INCORRECT.with_operand(OperandId::R8),
        },
        Refused {
            row: "TDH.IDE.STREAM.CREATE-11",
            spoil: |host, _| host.bench.hw.set(|facts| facts.contended = vec![LockName::Iommu]),
            status: StatusCode::OPERAND_BUSY.with_operand(OperandId::RCX),
        },
    ]
}

#[test]
fn create_refuses_each_row_alone_and_takes_nothing() {
    let (mut host, id) = Host::connected();
    let (healthy, free) = (host.bench.hw.facts(), host.bench.connect());
    for Refused { row, spoil, status: expected } in refusals() {
        let mut regs = stream_regs(id, 0);
        spoil(&mut host, &mut regs);
        assert_eq!(status(host.call(CREATE, regs)), expected, "{row}");
        host.bench.hw.restore(healthy.clone());
        assert_eq!(host.bench.connect(), free, "{row}");
    }
    assert_eq!(status(host.call(CREATE, stream_regs(id, 0))), Status::SUCCESS);
}

#[test]
fn create_looks_in_the_order_of_the_rows() {
    let cases = refusals();
    let (mut host, id) = Host::connected();
    let healthy = host.bench.hw.facts();
    for pair in [
        "TDH.IDE.STREAM.CREATE-1a before TDH.IDE.STREAM.CREATE-2",
        "TDH.IDE.STREAM.CREATE-2 before TDH.IDE.STREAM.CREATE-3",
        "TDH.IDE.STREAM.CREATE-3 before TDH.IDE.STREAM.CREATE-13a",
        "TDH.IDE.STREAM.CREATE-13f before TDH.IDE.STREAM.CREATE-4",
        "TDH.IDE.STREAM.CREATE-4 before TDH.IDE.STREAM.CREATE-12a",
        "TDH.IDE.STREAM.CREATE-4 before TDH.IDE.STREAM.CREATE-10",
        "TDH.IDE.STREAM.CREATE-12a before TDH.IDE.STREAM.CREATE-10",
        "TDH.IDE.STREAM.CREATE-5b before TDH.IDE.STREAM.CREATE-10",
        "TDH.IDE.STREAM.CREATE-5b before TDH.IDE.STREAM.CREATE-14",
        "TDH.IDE.STREAM.CREATE-10 before TDH.IDE.STREAM.CREATE-14",
        "TDH.IDE.STREAM.CREATE-14 before TDH.IDE.STREAM.CREATE-11",
    ] {
        let (upper, lower) = pair.split_once(" before ").expect("a pair");
        let case = |row: &str| cases.iter().find(|case| case.row == row).expect("a case");
        let mut regs = stream_regs(id, 0);
        (case(upper).spoil)(&mut host, &mut regs);
        (case(lower).spoil)(&mut host, &mut regs);
        assert_eq!(status(host.call(CREATE, regs)), case(upper).status, "{pair}");
        host.bench.hw.restore(healthy.clone());
    }
}

#[test]
fn streams_of_a_port_share_nothing() {
    let (mut host, id, _) = Host::configured();
    let overlap = StatusCode::IDE_STREAM_RID_OVERLAP.plain();
    assert_eq!(status(host.call(CREATE, stream_regs(id, 1))), overlap, "TDH.IDE.STREAM.CREATE-6");
    // A range that begins in the other one, with addresses of the other one: TDH.IDE.STREAM.CREATE-6 before
    // TDH.IDE.STREAM.CREATE-7. Ranges that hold the function of one session always meet.
    let inside = Registers { r10: 0x11FF << 8, ..stream_regs(id, 1) };
    assert_eq!(status(host.call(CREATE, inside)), overlap);
    assert_eq!(status(host.block(id, 1)), Status::SUCCESS);
    // A blocked stream keeps its block and its slots, but no traffic is in it.
    let after = host.call(CREATE, stream_regs(id, 1));
    assert_eq!((status(after), after.rcx, after.rdx), (Status::SUCCESS, 2, 1));
}

#[test]
fn addresses_belong_to_one_stream() {
    let (mut host, id, _) = Host::configured();
    // A second function below the same port, with a session of its own.
    let other = connect_second(&mut host);
    let beside = Registers { rdx: other, r10: 0x1108 << 8, r11: 0x1108 << 8 | 1, ..stream_regs(id, 1) };
    let overlap = StatusCode::IDE_STREAM_ADDR_OVERLAP.plain();
    assert_eq!(status(host.call(CREATE, beside)), overlap, "TDH.IDE.STREAM.CREATE-7");
    let elsewhere = Registers { r12: 0x0020_0201, ..beside };
    let after = host.call(CREATE, elsewhere);
    assert_eq!((status(after), after.rcx, after.rdx), (Status::SUCCESS, 2, 1));
    assert_eq!(
        status(host.block(id, 2)),
        StatusCode::IDE_STREAM_NOT_CONFIGURED.plain(),
        "of another session"
    );
    // What is found free: none of 16 slots is left for a third stream.
    assert_eq!(status(host.block(id, 1)), Status::SUCCESS);
    let none = Registers { r12: 0, r13: 0, r14: 0, r8: STREAM_PAGES + 2 * PAGE_SIZE, ..stream_regs(id, 2) };
    let used = StatusCode::IDE_STREAM_KEY_ID_ALREADY_USED.plain();
    assert_eq!(status(host.call(CREATE, none)), used, "TDH.IDE.STREAM.CREATE-9a");
    // More slots, and one block of the port too few.
    host.bench.hw.set(|facts| {
        facts.io.set(KEY_UNITS[0], 3 | 63 << 10 | 63 << 20);
        facts.io.config.insert((function(0, 0x10, 0), IDE + 4), 1 << 1 | 1 << 6 | 1 << 16);
    });
    let used = StatusCode::IDE_STREAM_IDE_ID_ALREADY_USED.plain();
    assert_eq!(status(host.call(CREATE, none)), used, "TDH.IDE.STREAM.CREATE-9b");
    // One stream too few in the key unit, before the slots.
    host.bench.hw.set(|facts| facts.io.set(KEY_UNITS[0], 1 | 63 << 10 | 63 << 20));
    let not_free = StatusCode::IDE_STREAM_NOT_FREE.plain();
    assert_eq!(status(host.call(CREATE, none)), not_free, "TDH.IDE.STREAM.CREATE-8");
    host.bench.hw.set(|facts| {
        facts.io.set(KEY_UNITS[0], 3 | 63 << 10 | 63 << 20);
        facts.put_root_port(0, 0x11);
    });
    // Without addresses; the first free id again.
    assert_eq!(status(host.delete_stream(id, 1)), Status::SUCCESS);
    let after = host.call(CREATE, none);
    assert_eq!((status(after), after.rcx), (Status::SUCCESS, 1));
}

/// A session with function 11:01.0.
fn connect_second(host: &mut Host) -> u64 {
    use crate::common::device::Responding;
    use crate::common::tee_io::create_regs;
    use pcie::FuncId;
    let regs = create_regs(&host.bench, 0x1108, SESSION_PAGES + 2 * PAGE_SIZE);
    let id = host.bench.ok(0, SeamcallLeaf::SPDM_CREATE, regs).rcx;
    let first = std::mem::replace(&mut host.device, Responding::of(FuncId(0x1108)));
    assert_eq!(status(host.connect(id)), Status::SUCCESS);
    host.device = first;
    id
}

#[test]
fn the_session_of_a_stream_is_connected() {
    let (mut host, id) = Host::connected();
    host.resume(SeamcallLeaf::SPDM_DISCONNECT, disconnect_regs(id));
    let answer = status(host.call(CREATE, stream_regs(id, 0)));
    assert_eq!(answer, StatusCode::SPDM_INVALID_STATE.plain(), "TDH.IDE.STREAM.CREATE-2");
}

#[test]
fn another_lp_that_takes_the_same_place_is_told_to_try_again() {
    let (mut host, id) = Host::connected();
    let other = with_leaf(CREATE, 0, stream_regs(id, 1));
    host.bench.hw.intrude(Moment::Initialise, &host.bench.software, LpIndex(1), other);
    let after = host.call(CREATE, stream_regs(id, 0));
    assert_eq!(status(host.bench.hw.intrusion().expect("an answer")), Status::SUCCESS);
    assert_eq!(status(after), StatusCode::IDE_STREAM_RID_OVERLAP.plain());
    assert_eq!(host.bench.connect().units[0].streams, 1);
    assert_eq!(host.bench.pages_of(Owner::Stream(SpdmId(id), 1)), 1);
}

#[test]
fn block_is_for_streams_that_are_not_blocked() {
    let (mut host, id, stream) = Host::configured();
    let unknown = StatusCode::IDE_STREAM_NOT_CONFIGURED.plain();
    for (session, stream) in [(id, 0), (id, 2), (id, 257), (id ^ 1, stream), (0, stream)] {
        assert_eq!(status(host.block(session, stream)), unknown, "TDH.IDE.STREAM.BLOCK-1");
    }
    host.bench.hw.set(|facts| facts.contended = vec![LockName::Stream]);
    let busy = StatusCode::OPERAND_BUSY.with_operand(OperandId::RDX);
    assert_eq!(status(host.block(id, stream)), busy, "TDH.IDE.STREAM.BLOCK-3");
    assert_eq!(status(host.block(id, 2)), unknown, "TDH.IDE.STREAM.BLOCK-1 before TDH.IDE.STREAM.BLOCK-3");
    host.bench.hw.set(|facts| facts.contended.clear());
    assert_eq!(status(host.block(id, stream)), Status::SUCCESS);
    host.bench.hw.set(|facts| facts.contended = vec![LockName::Stream]);
    let blocked = StatusCode::IDE_STREAM_BLOCKED.plain();
    assert_eq!(status(host.block(id, stream)), blocked, "TDH.IDE.STREAM.BLOCK-2");
    assert_eq!(host.bench.call(0, BLOCK_LEAF, Registers { rdx: stream, ..regs(id) }).rcx, id);
}

#[test]
fn delete_is_for_blocked_streams() {
    let (mut host, id, stream) = Host::configured();
    let unknown = StatusCode::IDE_STREAM_NOT_CONFIGURED.plain();
    assert_eq!(status(host.delete_stream(id, 7)), unknown, "TDH.IDE.STREAM.DELETE-1");
    let not_blocked = StatusCode::IDE_STREAM_NOT_BLOCKED.plain();
    let odd = Registers { rdx: stream, r8: RELEASED, ..regs(id) };
    assert_eq!(status(host.call(DELETE, odd)), not_blocked, "TDH.IDE.STREAM.DELETE-2");
    assert_eq!(status(host.block(id, stream)), Status::SUCCESS);
    let bad = invalid(OperandId::R8);
    host.bench.hw.set(|facts| facts.contended = vec![LockName::Stream]);
    assert_eq!(status(host.call(DELETE, odd)), bad, "TDH.IDE.STREAM.DELETE-4");
    for (lock, operand) in [
        (LockName::Stream, OperandId::RDX),
        (LockName::Spdm, OperandId::RCX),
        (LockName::Iommu, OperandId::RCX),
    ] {
        host.bench.hw.set(|facts| facts.contended = vec![lock]);
        let busy = StatusCode::OPERAND_BUSY.with_operand(operand);
        assert_eq!(status(host.delete_stream(id, stream)), busy, "TDH.IDE.STREAM.DELETE-5");
    }
    host.bench.hw.set(|facts| facts.contended.clear());
    assert_eq!(status(host.delete_stream(id, stream)), Status::SUCCESS);
    assert_eq!(status(host.delete_stream(id, stream)), unknown);
}

#[test]
fn block_needs_neither_device_nor_session_and_leaves_no_key() {
    let (mut host, id, stream) = Host::secure();
    assert!(host.is_enabled());
    // In the middle of a refresh, which nobody will end.
    let refresh = crate::common::tee_io::km_regs(id, stream, KmOperation::REFRESH);
    host.drive_to(SeamcallLeaf::IDE_STREAM_KM, refresh, 5);
    assert_eq!(status(host.block(id, stream)), Status::SUCCESS);
    assert!(!host.is_enabled());
    let io = host.bench.hw.facts().io;
    let slots = KEY_UNITS[0] + 4 + 36 * 4..KEY_UNITS[0] + 4 + 36 * 4 + 2 * 40 * 16;
    assert!(io.registers.range(slots).all(|(_, &value)| value == 0), "keys are wiped");
    assert_eq!(status(host.delete_stream(id, stream)), Status::SUCCESS);
    // The device has a message of the refresh: nothing can be said in that session any more.
    assert_eq!(status(host.disconnect(id)), Status::SUCCESS);
    assert_eq!(status(host.delete(id)), Status::SUCCESS);
}

#[test]
fn an_id_that_stands_in_any_block_below_the_key_unit_is_not_given_out() {
    let (mut host, id) = Host::connected();
    // A block that the host may write, enabled or not.
    let control = BLOCK + BLOCK_SIZE + BLOCK_CONTROL;
    host.bench.hw.set(|facts| {
        facts.io.config.insert((function(0, 0x10, 0), control), 1 << 24 | 1);
    });
    let after = host.call(CREATE, stream_regs(id, 0));
    assert_eq!((status(after), after.rcx), (Status::SUCCESS, 2));
}
