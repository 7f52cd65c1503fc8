//! IOMMUs into trusted mode and out of it.

use tdx_abi::leaf::{LeafWord, SeamcallLeaf};
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_host::traits::{CpuNumber, SeamcallFault};
use tdx_host::{ConnectError, ConnectReport, ConnectState, HostError};

use super::{assert_tdx_goes_on, errors_in_log, reason};
use crate::fake::connect::{UNIT_0, UNIT_1, bridge};
use crate::fake::{Bench, Event, Fake};

const SETUP: SeamcallLeaf = SeamcallLeaf::IOMMU_SETUP;
const CLEAR: SeamcallLeaf = SeamcallLeaf::IOMMU_CLEAR;

fn init(bench: &mut Bench) -> Result<ConnectReport, ConnectError> {
    bench.host.connect_init(&*bench.fake, &mut bench.memory.connect)
}

fn exit(bench: &mut Bench) {
    bench.host.connect_exit(&*bench.fake, &mut bench.memory.connect);
}

fn trusted(bench: &Bench) -> Vec<u64> {
    bench.fake.state().io.trusted.keys().copied().collect()
}

/// No unit, no domain id and no page is held for Connect.
fn assert_taken_back(bench: &Bench, what: &str) {
    assert_eq!(trusted(bench), [], "{what}");
    assert!(bench.fake.state().io.ids_reserved.is_empty(), "{what}");
    assert_eq!(bench.memory.connect.trusted_units().count(), 0, "{what}");
    assert_eq!(bench.memory.connect.bridges().count(), 0, "{what}");
}

#[test]
fn every_unit_goes_into_trusted_mode_and_out_again() {
    let mut bench = Bench::up(Fake::with_connect(64));
    for round in 0..2 {
        let before = bench.fake.free_bytes();
        let report = init(&mut bench).unwrap();
        let expected = ConnectReport { units: 2, units_without: 0, bridges: 1, streams: 4 };
        assert_eq!((report, bench.host.connect_state()), (expected, ConnectState::On), "round {round}");
        assert_eq!(trusted(&bench), [UNIT_0, UNIT_1]);
        assert_eq!(bench.fake.state().io.ids_reserved, [UNIT_0, UNIT_1].into());
        let bridges: Vec<_> = bench.memory.connect.bridges().map(|b| (b.bridge, b.streams)).collect();
        assert_eq!(bridges, [(bridge(0, 0x3F), 4), (bridge(0x40, 0x7F), 0)]);
        // Two blocks of two pages, eight pages and the host's own.
        assert_eq!(before - bench.fake.free_bytes(), 2 * 13 * 4096);
        assert_eq!(init(&mut bench).unwrap_err(), ConnectError::AlreadyOn);
        assert_eq!(trusted(&bench), [UNIT_0, UNIT_1]);
        bench.fake.state().cleared.clear();
        exit(&mut bench);
        assert_eq!(bench.host.connect_state(), ConnectState::Off(ConnectError::Stopped));
        assert_taken_back(&bench, "exit");
        assert_eq!(bench.fake.free_bytes(), before);
        let cleared: u64 = bench.fake.state().cleared.iter().map(|range| range.size()).sum();
        assert_eq!(cleared, 2 * 12 * 4096, "the module's key is taken off");
    }
    assert_eq!(errors_in_log(&bench), 0);
    assert_tdx_goes_on(&mut bench, "units");
}

#[test]
fn a_unit_without_trusted_mode_is_left_out() {
    for (units, without) in [(vec![UNIT_1], 1), (vec![UNIT_0, UNIT_1], 0)] {
        let mut bench = Bench::up(Fake::with_connect(0));
        bench.fake.state().io.units = [UNIT_0, UNIT_1].map(|unit| (unit, units.contains(&unit))).into();
        let report = init(&mut bench).unwrap();
        assert_eq!((report.units as usize, report.units_without), (units.len(), without));
        assert_eq!(trusted(&bench), units);
        assert_eq!(bench.fake.state().io.ids_reserved, units.into_iter().collect());
        exit(&mut bench);
        assert_tdx_goes_on(&mut bench, "without");
    }
    for units in [vec![], vec![(UNIT_0, false), (UNIT_1, false)]] {
        let mut bench = Bench::up(Fake::with_connect(0));
        bench.fake.state().io.units = units;
        assert_eq!(init(&mut bench).unwrap_err(), ConnectError::NoUnits);
        assert_tdx_goes_on(&mut bench, "no units");
    }
}

#[test]
fn a_failure_at_any_call_takes_the_units_before_it_back() {
    let ends = [
        StatusCode::IOMMU_INVALID_STATE.plain(),
        StatusCode::IOMMU_KCB_MUST_BE_DISABLED.plain(),
        StatusCode::IOMMU_MT_PAGE_IN_USE.plain(),
        StatusCode::PAGE_METADATA_INCORRECT.with_operand(OperandId::RDX),
        // Only that of RCX means a unit without the mode.
        StatusCode::OPERAND_INVALID.with_operand(OperandId::RDX),
        Status::from_raw(0xC000_7777_0000_0000),
    ];
    for failing in [0, 1] {
        for end in ends {
            let mut bench = Bench::up(Fake::with_connect(64));
            bench.fake.script(SETUP, failing, 1, end);
            let error = init(&mut bench).unwrap_err();
            let what = format!("call {failing}: {error}");
            let reg_base = tdx_abi::PhysAddr::new(if failing == 0 { UNIT_0 } else { UNIT_1 });
            let ConnectError::UnitFailed { reg_base: base, error: call } = error else { panic!("{what}") };
            assert_eq!((base, call.status()), (reg_base, Some(end)), "the raw status is kept");
            assert_eq!(bench.host.connect_state(), ConnectState::Off(error));
            assert_eq!(errors_in_log(&bench), 1);
            assert_eq!(bench.fake.calls_of(CLEAR) as u64, failing, "{what}");
            assert_taken_back(&bench, &what);
            // It is no failure for good.
            assert!(init(&mut bench).is_ok(), "{what}");
            exit(&mut bench);
            assert_tdx_goes_on(&mut bench, &what);
        }
    }
}

#[test]
fn a_unit_that_does_not_answer_in_time_is_asked_again() {
    for late in [1, 99] {
        let mut bench = Bench::up(Fake::with_connect(0));
        bench.fake.script(SETUP, 0, late, StatusCode::IOMMU_ECMD_TIMEOUT);
        bench.fake.script(CLEAR, 0, late, StatusCode::IOMMU_ECMD_TIMEOUT);
        assert!(init(&mut bench).is_ok());
        assert_eq!(bench.fake.calls_of(SETUP) as u64, late + 2);
        assert_eq!(u128::from(late), bench.fake.state().io.clock.as_millis(), "and waited for");
        exit(&mut bench);
        assert_eq!(bench.fake.calls_of(CLEAR) as u64, late + 2);
        assert_taken_back(&bench, "late");
        assert_tdx_goes_on(&mut bench, "late");
    }
}

#[test]
fn a_unit_that_never_answers_is_cleared_by_the_id_that_came_with_the_timeout() {
    for (failing, id) in [(0, UNIT_0), (1, UNIT_1)] {
        let mut bench = Bench::up(Fake::with_connect(0));
        bench.fake.state().io.silent.insert(id);
        let error = init(&mut bench).unwrap_err();
        assert!(
            matches!(error, ConnectError::UnitFailed { error, .. } if error.is(StatusCode::IOMMU_ECMD_TIMEOUT))
        );
        assert_eq!(bench.fake.calls_of(SETUP), failing + 100);
        let cleared: Vec<u64> = {
            let state = bench.fake.state();
            let calls = state.calls.iter().filter(|call| call.1 == LeafWord::module(CLEAR, 0));
            calls.map(|call| call.2.rcx).collect()
        };
        assert_eq!((cleared.len(), cleared[0]), (failing + 1, id), "the last one first");
        assert_taken_back(&bench, "silent");
        assert_tdx_goes_on(&mut bench, "silent");
    }
}

#[test]
fn a_unit_that_answers_with_an_error_is_cleared_and_its_pages_come_back() {
    for (failing, id) in [(0, UNIT_0), (1, UNIT_1)] {
        let mut bench = Bench::up(Fake::with_connect(0));
        bench.fake.script_word(LeafWord::module(SETUP, 0), failing, 1, StatusCode::IOMMU_ECMD_ERROR, id);
        let error = init(&mut bench).unwrap_err();
        assert!(
            matches!(error, ConnectError::UnitFailed { error, .. } if error.is(StatusCode::IOMMU_ECMD_ERROR))
        );
        assert_eq!(bench.fake.calls_of(CLEAR) as u64, failing + 1);
        assert_taken_back(&bench, "error");
        assert!(init(&mut bench).is_ok());
        exit(&mut bench);
        assert_tdx_goes_on(&mut bench, "error");
    }
    // An id that is none: nobody knows what became of the pages.
    let mut bench = Bench::up(Fake::with_connect(0));
    bench.fake.script(SETUP, 1, 1, StatusCode::IOMMU_ECMD_ERROR);
    assert!(init(&mut bench).is_err());
    assert_eq!((bench.memory.connect.stuck_pages(), bench.fake.leaked_pages()), (12, 0));
}

#[test]
fn a_unit_that_never_answers_gives_no_page_back_that_its_list_leaves_out() {
    let mut bench = Bench::up(Fake::with_connect(0));
    bench.fake.state().io.silent.insert(UNIT_1);
    bench.fake.state().io.kept_entries = 1;
    // UNIT_0 goes the usual way: it keeps a page too.
    let error = init(&mut bench).unwrap_err();
    assert!(matches!(error, ConnectError::UnitFailed { .. }), "{error}");
    assert_eq!(bench.fake.leaked_pages(), 2);
    assert_eq!(bench.host.connect_state(), ConnectState::Off(ConnectError::PagesKept { pages: 2 }));
}

#[test]
fn no_memory_at_any_allocation_takes_everything_back() {
    let mut refused = 0;
    for left in 0.. {
        let mut bench = Bench::up(Fake::with_connect(0));
        bench.fake.state().allocations_left = left;
        let done = init(&mut bench);
        bench.fake.state().allocations_left = u64::MAX;
        if done.is_ok() {
            break;
        }
        refused += 1;
        assert_eq!(reason(&bench), "connect-no-memory");
        assert_taken_back(&bench, "no memory");
        assert_tdx_goes_on(&mut bench, "no memory");
    }
    assert_eq!(refused, 8, "a list, pages and two blocks of each unit");
}

#[test]
fn domain_ids_in_use_are_the_end_of_connect_alone() {
    for unit in [UNIT_0, UNIT_1] {
        let mut bench = Bench::up(Fake::with_connect(0));
        bench.fake.state().io.ids_in_use.insert(unit);
        let reg_base = tdx_abi::PhysAddr::new(unit);
        assert_eq!(init(&mut bench).unwrap_err(), ConnectError::DomainIdsInUse { reg_base, first: 0x8001 });
        assert_taken_back(&bench, "domain ids");
        bench.fake.state().io.ids_in_use.clear();
        assert!(init(&mut bench).is_ok());
        exit(&mut bench);
        assert_tdx_goes_on(&mut bench, "domain ids");
    }
}

#[test]
fn a_unit_that_cannot_be_cleared_keeps_its_pages() {
    for failing in [0, 1] {
        let mut bench = Bench::up(Fake::with_connect(0));
        init(&mut bench).unwrap();
        bench.fake.script(CLEAR, failing, 1, StatusCode::IOMMU_INVALID_STATE);
        exit(&mut bench);
        assert_eq!((errors_in_log(&bench), bench.fake.leaked_pages()), (1, 0));
        assert_eq!(bench.memory.connect.stuck_pages(), 12);
        let stuck = if failing == 0 { UNIT_1 } else { UNIT_0 };
        assert_eq!((trusted(&bench), bench.memory.connect.trusted_units().count()), (vec![stuck], 0));
        assert_eq!(bench.fake.state().io.ids_reserved, [stuck].into(), "its ids may be in use");
        // Not tried again, the others go on.
        let report = init(&mut bench).unwrap();
        assert_eq!((report.units, bench.fake.state().io.trusted.len()), (1, 2));
    }
}

#[test]
fn pages_that_a_unit_kept_are_poisoned_and_connect_is_off_for_good() {
    for (kept, pages) in [(1, 1), (8, 8), (9, 10), (10, 12)] {
        let mut bench = Bench::up(Fake::with_connect(0));
        init(&mut bench).unwrap();
        bench.fake.state().io.kept_entries = kept;
        exit(&mut bench);
        let reason = ConnectError::PagesKept { pages: 2 * pages };
        assert_eq!(bench.host.connect_state(), ConnectState::Off(reason));
        assert_eq!(bench.fake.leaked_pages(), u64::from(2 * pages));
        assert_eq!(errors_in_log(&bench), 1);
        assert_eq!(init(&mut bench).unwrap_err(), reason);
        assert_eq!(bench.fake.calls_of(SETUP), 2);
    }
}

#[test]
fn pages_are_freed_behind_a_write_back() {
    let mut bench = Bench::up(Fake::with_connect(0));
    bench.fake.state().io.units = vec![(UNIT_0, true)];
    init(&mut bench).unwrap();
    bench.fake.state().events.clear();
    exit(&mut bench);
    let events = bench.fake.state().events.clone();
    let expected = [
        Event::Seamcall(LeafWord::module(CLEAR, 0)),
        Event::WriteBack(CpuNumber(0)),
        Event::WriteBack(CpuNumber(1)),
        Event::Reclaim,
    ];
    assert_eq!(events[..4], expected);
    // Refused ones too: the module may have looked at them.
    bench.fake.script(SETUP, 1, 1, StatusCode::IOMMU_INVALID_STATE);
    bench.fake.state().events.clear();
    assert!(init(&mut bench).is_err());
    let events = bench.fake.state().events.clone();
    let call = events.iter().position(|event| *event == Event::Seamcall(LeafWord::module(SETUP, 0))).unwrap();
    assert_eq!(events[call + 1..call + 4], expected[1..]);
}

#[test]
fn units_are_cleared_before_the_module_is_disabled() {
    let mut bench = Bench::up(Fake::with_connect(64));
    init(&mut bench).unwrap();
    bench.fake.state().events.clear();
    bench.host.shutdown(&*bench.fake, &mut bench.memory).unwrap();
    let of = |leaf| {
        let word = Event::Seamcall(LeafWord::module(leaf, 0));
        bench.fake.state().events.iter().position(|event| *event == word).unwrap()
    };
    assert!(of(CLEAR) < of(SeamcallLeaf::SYS_DISABLE));
    bench.assert_unwound("shutdown");
    assert_taken_back(&bench, "shutdown");
}

#[test]
fn a_call_that_gets_nowhere_leaves_the_pages_with_the_module() {
    let going_down = HostError::GoingDown;
    for failing in [0, 1] {
        let mut bench = Bench::up(Fake::with_connect(0));
        bench.fake.script(SETUP, failing, 1, SeamcallFault::GeneralProtection);
        assert!(init(&mut bench).is_err());
        assert_eq!((bench.memory.connect.stuck_pages(), bench.fake.leaked_pages()), (12, 0));
        assert_eq!(trusted(&bench), []);

        let mut bench = Bench::up(Fake::with_connect(0));
        let host = std::sync::Arc::clone(&bench.host);
        bench.fake.script(SETUP, failing, 1, StatusCode::INTERRUPTED_RESUMABLE);
        bench.fake.crash_in(SETUP, move || host.crash());
        assert!(init(&mut bench).is_err());
        assert_eq!(bench.fake.leaked_pages(), 0);
        assert_eq!(init(&mut bench).unwrap_err(), going_down.into());
    }
}

#[test]
fn what_does_not_answer_busy_for_ever_is_not_given_up() {
    let mut bench = Bench::up(Fake::with_connect(0));
    for (leaf, from) in [(SETUP, 0), (CLEAR, 0)] {
        bench.fake.script(leaf, from, 5, StatusCode::OPERAND_BUSY.with_operand(OperandId::RCX));
        bench.fake.script(leaf, from + 5, 5, StatusCode::INTERRUPTED_RESUMABLE);
    }
    assert!(init(&mut bench).is_ok());
    exit(&mut bench);
    assert_taken_back(&bench, "busy");
    let stays = bench.fake.state().calls.iter().filter(|call| call.1 == LeafWord::module(SETUP, 0)).count();
    assert_eq!(stays, 12);
    assert_tdx_goes_on(&mut bench, "busy");
}

#[test]
fn nothing_begins_before_the_module_is_up() {
    let mut bench = Bench::new(Fake::with_connect(0));
    assert_eq!(init(&mut bench).unwrap_err(), HostError::NotInitialised.into());
    assert_eq!(init(&mut bench).unwrap_err().to_string(), "the host could not do its part: not-initialised");
    assert_eq!(bench.host.connect_state(), ConnectState::Off(ConnectError::NotTried));
}
