//! TDX Connect across an update: what goes through the hand-off bytes, and what does not.

use proptest::prelude::*;
use tdx_abi::Registers;
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_module::ModuleConfig;
use tdx_module::ModuleState;
use tdx_module::inspect::{ConnectInspection, Owner, UnitMode};

use crate::common::connect::{
    LIST, OBJECTS, TDX_CONNECT, clear_regs, extended, list_of, opted_in, setup_regs, trusted,
};
use crate::common::fake_io::{UNIT_IDS, UNITS};
use crate::common::tee_io::Host;
use crate::common::{Bench, Stage, config, with_leaf};
use crate::handoff::{successor, update};
use crate::sys_shutdown::shutdown;

/// Where the part of TDX Connect begins in the hand-off area.
const CONNECT: usize = 0xD097;
const REFUSED: Status = StatusCode::SYS_INVALID_HANDOFF.plain();

fn status(bench: &Bench, regs: Registers) -> Status {
    Status::from_raw(bench.raw(0, regs).expect("an answer").rax)
}

/// A module on the same machine, with what `old` left, before SYS.UPDATE.
fn heir(old: &Bench, config: ModuleConfig) -> Bench {
    let heir = successor(old, config);
    heir.hw.restore(old.hw.facts());
    heir
}

/// The same behind it.
fn updated(old: &Bench, config: ModuleConfig) -> Bench {
    assert_eq!(status(old, shutdown(2)), Status::SUCCESS);
    let heir = heir(old, config);
    assert_eq!(status(&heir, update(1, TDX_CONNECT)), Status::SUCCESS);
    heir
}

fn init(bench: &Bench) -> Status {
    bench.status(0, SeamcallLeaf::EXT_INIT, Registers::default())
}

#[test]
fn units_and_pages_survive_and_the_extensions_start_anew() {
    let before = trusted();
    before.ok(0, SeamcallLeaf::IOMMU_CLEAR, clear_regs(UNIT_IDS[1], 1));
    let left = before.connect();
    let after = updated(&before, config("connect"));
    let fresh = after.connect();
    assert!(left.ext_ready && !fresh.ext_ready);
    assert_eq!(ConnectInspection { ext_ready: true, ..fresh }, left);
    assert_eq!(left.units[0].mode, UnitMode::Trusted);
    assert_eq!(left.units[1].generation, 1);
    assert_eq!(init(&after), Status::SUCCESS);
    assert_eq!(after.connect(), left);
    after.ok(0, SeamcallLeaf::IOMMU_CLEAR, clear_regs(UNIT_IDS[0], 0));
    assert_eq!(after.pages_of(Owner::Unit(0)), 0);
    after.ok(0, SeamcallLeaf::IOMMU_SETUP, setup_regs(1));
}

#[test]
fn a_module_that_wants_a_larger_pool_leaves_its_extensions_off() {
    let before = trusted();
    let mut larger = config("connect");
    larger.connect.pool_pages = 80;
    let after = updated(&before, larger);
    assert_eq!(after.connect().pool_pages_missing, 16);
    assert_eq!(init(&after), StatusCode::SYS_STATE_INCORRECT.plain(), "TDH.EXT.INIT-2");
    // Units do not need the extensions.
    after.ok(0, SeamcallLeaf::IOMMU_CLEAR, clear_regs(UNIT_IDS[0], 0));
    // A host that gives more, against all custom, gets them back.
    let pages: Vec<u64> = (0..16).map(|index| OBJECTS + 4096 * index).collect();
    after.hw.set(|facts| facts.put_page(LIST, &pages));
    after.ok(0, SeamcallLeaf::EXT_MEM_ADD, Registers { rcx: list_of(16), ..Registers::default() });
    assert_eq!(init(&after), Status::SUCCESS);
    // One that wants less is content with what is there.
    let mut smaller = config("connect");
    smaller.connect.pool_pages = 10;
    let last = updated(&after, smaller);
    assert_eq!((last.connect().pool_pages_missing, last.connect().pool_pages_given), (0, 80));
    assert_eq!(init(&last), Status::SUCCESS);
}

#[test]
fn the_sizes_of_a_boot_module_hold_for_its_successors() {
    let before = extended();
    let after = updated(&before, config("connect"));
    let size = after.call(
        0,
        SeamcallLeaf::SYS_RD,
        Registers { rdx: tdx_abi::metadata::sys::SPDM_MT_PAGE_COUNT.raw(), ..Registers::default() },
    );
    assert_eq!(size.r8, 2);
}

#[test]
fn an_update_without_the_opt_in_keeps_the_pages_and_closes_the_leaves() {
    let before = trusted();
    assert_eq!(status(&before, shutdown(2)), Status::SUCCESS);
    let after = heir(&before, config("connect"));
    assert_eq!(status(&after, update(0, 0)), Status::SUCCESS);
    let closed = after.status(0, SeamcallLeaf::IOMMU_CLEAR, clear_regs(UNIT_IDS[0], 0));
    assert_eq!(closed, StatusCode::OPERAND_INVALID.with_operand(OperandId::RAX), "CONNECT-1");
    assert_eq!(after.connect().pages, before.connect().pages);
    let open = updated(&after, config("connect"));
    open.ok(0, SeamcallLeaf::IOMMU_CLEAR, clear_regs(UNIT_IDS[0], 0));
}

#[test]
fn nothing_is_handed_over_while_a_call_is_interrupted() {
    let half_set_up = extended();
    half_set_up.table_of(0);
    half_set_up.hw.set(|facts| facts.interrupt = true);
    let regs = with_leaf(SeamcallLeaf::IOMMU_SETUP, 0, setup_regs(0));
    let half_cleared = trusted();
    half_cleared.hw.set(|facts| facts.interrupt = true);
    let clear = with_leaf(SeamcallLeaf::IOMMU_CLEAR, 0, clear_regs(UNIT_IDS[0], 0));
    let half_started = opted_in();
    half_started.fill_pool();
    half_started.hw.set(|facts| facts.interrupt = true);
    let start = with_leaf(SeamcallLeaf::EXT_INIT, 0, Registers::default());
    for (bench, regs) in [(half_set_up, regs), (half_cleared, clear), (half_started, start)] {
        assert_eq!(status(&bench, regs), StatusCode::INTERRUPTED_RESUMABLE.plain());
        let before = bench.state();
        assert_eq!(status(&bench, shutdown(2)), StatusCode::SYS_BUSY.plain(), "TDH.SYS.SHUTDOWN-7");
        // "TDH.SYS.SHUTDOWN-7 before TDH.SYS.SHUTDOWN-8"
        assert_eq!(status(&bench, shutdown(1)), StatusCode::SYS_BUSY.plain());
        assert_eq!(bench.state(), before);
        let (after, _) = bench.resume(0, regs);
        assert_eq!(Status::from_raw(after.rax), Status::SUCCESS);
        assert_eq!(status(&bench, shutdown(2)), Status::SUCCESS);
    }
}

#[test]
fn pages_do_not_go_to_a_version_that_cannot_carry_them() {
    let bench = extended();
    let before = bench.state();
    for version in [0, 1] {
        let expected = StatusCode::OPERAND_INVALID.with_operand(OperandId::RCX);
        assert_eq!(status(&bench, shutdown(version)), expected, "TDH.SYS.SHUTDOWN-8: {version}");
        assert_eq!(bench.state(), before);
    }
    let bench = opted_in();
    assert_eq!(status(&bench, shutdown(1)), Status::SUCCESS, "there are none yet");
}

#[test]
fn a_module_without_connect_neither_writes_nor_takes_version_2() {
    let mut odd = config("2.0.18");
    odd.sigstruct.module_hv = 2;
    odd.built = odd.sigstruct;
    let bench = Bench::with(Some(odd.clone()));
    bench.advance(Stage::Ready);
    assert_eq!(status(&bench, shutdown(2)), REFUSED, "TDH.SYS.SHUTDOWN-6");
    assert_eq!(bench.state().state, ModuleState::SysReady);
    let before = trusted();
    assert_eq!(status(&before, shutdown(2)), Status::SUCCESS);
    assert_eq!(status(&heir(&before, odd), update(0, 0)), REFUSED, "TDH.SYS.UPDATE-9");
}

#[test]
fn a_unit_of_another_machine_is_not_taken_over() {
    let before = trusted();
    assert_eq!(status(&before, shutdown(2)), Status::SUCCESS);
    let after = heir(&before, config("connect"));
    after.hw.set(|facts| facts.io.units = &facts.io.units[1..]);
    let state = after.state();
    assert_eq!(status(&after, update(1, TDX_CONNECT)), REFUSED, "TDH.SYS.UPDATE-9");
    assert_eq!(after.state(), state);
    after.hw.restore(before.hw.facts());
    assert_eq!(status(&after, update(1, TDX_CONNECT)), Status::SUCCESS);
}

#[test]
fn the_bytes_leave_the_area_with_the_update() {
    let before = trusted();
    assert_eq!(status(&before, shutdown(2)), Status::SUCCESS);
    assert!(before.software.handoff_area()[CONNECT..].iter().any(|&byte| byte != 0));
    let after = heir(&before, config("connect"));
    assert_eq!(status(&after, update(1, TDX_CONNECT)), Status::SUCCESS);
    assert!(after.software.handoff_area()[CONNECT..].iter().all(|&byte| byte == 0));
}

/// A page that has an owner has one, and it is a page that SYS.CONFIG's TDMRs hold.
fn is_sound(connect: &ConnectInspection) -> bool {
    let disjoint = connect.pages.windows(2).all(|pair| pair[0].0.end() <= pair[1].0.start());
    let units = (0u16..).zip(&connect.units).all(|(index, unit)| {
        let pages = connect.pages.iter().any(|&(_, owner)| owner == Owner::Unit(index));
        pages == (unit.mode == UnitMode::Trusted)
    });
    disjoint && units
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_bytes_are_refused_or_give_a_sound_state(
        damage in proptest::collection::vec((CONNECT - 8..CONNECT + 0x140, any::<u8>()), 1..6),
        lengthen in prop_oneof![12 => Just(0u32), 4 => 0u32..64, 1 => any::<u32>()],
    ) {
        let before = trusted();
        prop_assert_eq!(status(&before, shutdown(2)), Status::SUCCESS);
        let mut area = before.software.handoff_area();
        area.truncate(CONNECT + 0x1000);
        for (at, value) in damage {
            area[at] = value;
        }
        let size = u32::from_le_bytes([area[4], area[5], area[6], area[7]]).wrapping_add(lengthen);
        area[4..8].copy_from_slice(&size.to_le_bytes());
        before.software.set_handoff_area(&area);
        let after = heir(&before, config("connect"));
        let answer = status(&after, update(1, TDX_CONNECT));
        if answer == Status::SUCCESS {
            let connect = after.connect();
            prop_assert!(is_sound(&connect), "{connect:?}");
            for (unit, id) in UNIT_IDS.into_iter().enumerate() {
                let unit = u64::try_from(unit).expect("small");
                let regs = with_leaf(SeamcallLeaf::IOMMU_CLEAR, 0, clear_regs(id, unit));
                prop_assert_eq!(status(&after, regs), Status::SUCCESS);
            }
            let owners = after.connect().pages;
            prop_assert!(owners.iter().all(|&(_, owner)| owner == Owner::Pool));
        } else {
            prop_assert_eq!(answer, REFUSED);
            prop_assert_eq!(after.state().connect, None);
        }
    }
}

#[test]
fn disable_leaves_units_as_they_are() {
    let bench = trusted();
    loop {
        match bench.status(0, SeamcallLeaf::SYS_DISABLE, Registers::default()) {
            Status::SUCCESS => break,
            other => assert_eq!(other, StatusCode::INTERRUPTED_RESUMABLE.plain()),
        }
    }
    let io = bench.hw.facts().io;
    assert!(!io.protected.is_empty());
    assert_eq!(io.register(UNITS[0] + 0x420), 1 << 1, "the next kernel finds it in TDX mode");
}

#[test]
fn the_area_has_room_for_2048_sessions_with_a_stream_each() {
    let size = |bench: &Bench| {
        assert_eq!(status(bench, shutdown(2)), Status::SUCCESS);
        u64::from(bench.state().handoff.expect("valid data").size)
    };
    let base = size(&trusted());
    let (host, _, _) = Host::secure();
    let share = size(&host.bench) - base;
    let area = u64::try_from(host.bench.software.handoff_area().len()).expect("small");
    assert!(base + 2048 * share <= area, "{share} bytes of each session do not fit into {area}");
}
