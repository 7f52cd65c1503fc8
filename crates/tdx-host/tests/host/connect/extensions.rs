//! Memory and start of the module's extensions.

use tdx_abi::PhysAddr;
use tdx_abi::leaf::{LeafWord, SeamcallLeaf};
use tdx_abi::metadata::sys;
use tdx_abi::status::StatusCode;
use tdx_host::traits::{CpuNumber, SeamcallFault};
use tdx_host::{HostError, Lifecycle};

use super::{assert_tdx_goes_on, errors_in_log, reason};
use crate::fake::{Bench, Event, Fake, Outcome};

fn word(leaf: SeamcallLeaf) -> LeafWord {
    LeafWord::module(leaf, 0)
}

#[test]
fn memory_and_start_are_wanted_independently() {
    for (pool, required) in [(0, 0), (0, 1), (64, 0), (64, 1)] {
        let fake = Fake::with_connect(pool);
        fake.set_field(sys::EXT_REQUIRED, required);
        let mut bench = Bench::up(fake);
        let calls = [SeamcallLeaf::EXT_MEM_ADD, SeamcallLeaf::EXT_INIT].map(|leaf| bench.fake.calls_of(leaf));
        assert_eq!(calls, [usize::from(pool > 0), usize::from(required > 0)], "{pool} {required}");
        assert_eq!(reason(&bench), "connect-not-started");
        assert_eq!(bench.memory.pool.count() as u64, pool);
        assert_tdx_goes_on(&mut bench, "extensions");
    }
}

#[test]
fn memory_is_one_run_if_there_is_one_and_is_given_512_pages_at_a_time() {
    for (pool, lists) in [(1, vec![1]), (512, vec![512]), (1200, vec![512, 512, 176])] {
        let mut bench = Bench::up(Fake::with_connect(pool));
        let state = bench.fake.state();
        let calls = state.calls.iter().filter(|call| call.1 == word(SeamcallLeaf::EXT_MEM_ADD));
        let counts: Vec<u64> = calls.map(|call| (call.2.rcx >> 55) + 1).collect();
        assert_eq!(counts, lists);
        assert!(state.io.pool.windows(2).all(|pair| pair[1] == pair[0] + 4096), "one run");
        drop(state);
        assert_tdx_goes_on(&mut bench, "pool");
    }
}

#[test]
fn memory_in_pieces_is_given_as_it_is_found() {
    for (largest, pages_per_call) in [(4096, usize::MAX), (8192, 5), (u64::MAX, 7)] {
        let fake = Fake::with_connect(700);
        fake.state().io.pages_per_call = pages_per_call;
        let mut bench = Bench::new(fake);
        bench.host.early_init(&*bench.fake).unwrap();
        // The PAMTs come first.
        let other = std::sync::Arc::clone(&bench.fake);
        bench.fake.in_call(LeafWord::module(SeamcallLeaf::SYS_TDMR_INIT, 0), move || {
            let mut state = other.state();
            state.largest_allocation = largest;
            if largest == 4096 {
                state.free = (0..800).map(|i| ((1 << 30) + i * 8192, (1 << 30) + i * 8192 + 4096)).collect();
            }
        });
        bench.bring_up().unwrap();
        assert_eq!((reason(&bench), bench.memory.pool.count()), ("connect-not-started", 700));
        let given = bench.fake.state().io.pool.clone();
        let held: Vec<u64> = bench.memory.pool.addresses().map(PhysAddr::as_u64).collect();
        assert_eq!(given, held, "the host knows which pages are the module's");
    }
}

/// What ends a call.
type End = fn(&Fake, LeafWord, u64);

#[test]
fn a_failure_at_any_call_leaves_plain_tdx_and_accounts_for_every_page() {
    let status: End =
        |fake, word, call| fake.script_word(word, call, 1, StatusCode::PAGE_METADATA_INCORRECT, 0);
    let fault: End = |fake, word, call| fake.script_word(word, call, 1, SeamcallFault::GeneralProtection, 0);
    let stopped: End = |fake, word, call| fake.script_word(word, call, u64::MAX, StatusCode::OPERAND_BUSY, 0);
    let add = SeamcallLeaf::EXT_MEM_ADD;
    // (leaf, call that fails, pages of a call, reason, pages that the module has then)
    let cases = [
        (add, 0, usize::MAX, "connect-pool-refused", 0),
        (add, 1, usize::MAX, "connect-pool-refused", 512),
        (add, 2, usize::MAX, "connect-pool-refused", 1024),
        // In the middle of a list.
        (add, 1, 10, "connect-pool-refused", 10),
        (add, 60, 10, "connect-pool-refused", 592),
        (SeamcallLeaf::EXT_INIT, 0, usize::MAX, "connect-extension-failed", 1200),
    ];
    for (leaf, call, pages_per_call, name, taken) in cases {
        for end in [status, fault, stopped] {
            let fake = Fake::with_connect(1200);
            fake.state().io.pages_per_call = pages_per_call;
            end(&fake, word(leaf), call);
            let mut bench = Bench::up(fake);
            let what = format!("{name} at call {call} of {leaf:?}");
            assert_eq!((reason(&bench), errors_in_log(&bench)), (name, 1), "{what}");
            assert_eq!(bench.fake.state().io.pool.len(), taken, "{what}");
            assert_eq!(bench.memory.pool.count(), taken, "{what}");
            let refused = bench.host.connect_init(&*bench.fake, &mut bench.memory.connect);
            assert_eq!(refused.unwrap_err().name(), name);
            bench.fake.clear_script();
            assert_tdx_goes_on(&mut bench, &what);
        }
    }
}

#[test]
fn pages_that_the_module_did_not_take_are_freed_behind_a_write_back() {
    let fake = Fake::with_connect(64);
    fake.script(SeamcallLeaf::EXT_MEM_ADD, 0, 1, StatusCode::OPERAND_INVALID);
    let bench = Bench::up(fake);
    let state = bench.fake.state();
    let add = Event::Seamcall(word(SeamcallLeaf::EXT_MEM_ADD));
    let call = state.events.iter().position(|event| *event == add).unwrap();
    let behind: Vec<_> =
        state.events[call + 1..].iter().filter(|event| !matches!(event, Event::Seamcall(_))).collect();
    assert_eq!(behind[..2], [&Event::WriteBack(CpuNumber(0)), &Event::WriteBack(CpuNumber(1))]);
    assert_eq!(behind[2], &Event::Reclaim);
}

#[test]
fn no_memory_at_any_allocation_is_the_end_of_connect_alone() {
    let mut names = Vec::new();
    for left in 0..40 {
        let fake = Fake::with_connect(100);
        let mut bench = Bench::new(fake);
        bench.host.early_init(&*bench.fake).unwrap();
        let other = std::sync::Arc::clone(&bench.fake);
        bench.fake.in_call(LeafWord::module(SeamcallLeaf::SYS_TDMR_INIT, 0), move || {
            let mut state = other.state();
            state.free = (0..400).map(|i| ((1 << 30) + i * 8192, (1 << 30) + i * 8192 + 4096)).collect();
            state.allocations_left = left;
        });
        bench.bring_up().unwrap();
        assert_eq!((bench.host.lifecycle(), bench.fake.leaked_pages()), (Lifecycle::Ready, 0));
        assert_eq!(bench.memory.pool.count(), bench.fake.state().io.pool.len());
        assert_eq!(bench.fake.free_bytes() / 4096 + bench.memory.pool.count() as u64, 400);
        names.push(reason(&bench));
    }
    assert!(names.iter().all(|name| *name == "connect-no-memory"), "{names:?}");
}

#[test]
fn a_module_that_takes_and_takes_is_stopped() {
    let fake = Fake::with_connect(64);
    let other_pool = 64;
    let mut bench = Bench::new(fake);
    let other = std::sync::Arc::clone(&bench.fake);
    // Success, and the requirement stays.
    bench.fake.script_word(word(SeamcallLeaf::EXT_MEM_ADD), 0, u64::MAX, StatusCode::SUCCESS, 0);
    bench.bring_up().unwrap();
    assert_eq!((reason(&bench), bench.fake.calls_of(SeamcallLeaf::EXT_MEM_ADD)), ("connect-pool-stuck", 1));
    assert_eq!(other.state().fields[&sys::MEMORY_POOL_REQUIRED_PAGES.0], other_pool);
    assert_eq!(bench.memory.pool.count(), 64, "they are the module's, as it said");
    assert_tdx_goes_on(&mut bench, "stuck");
}

#[test]
fn a_page_that_cannot_be_written_is_the_end_of_connect_alone() {
    let mut bench = Bench::new(Fake::with_connect(64));
    let other = std::sync::Arc::clone(&bench.fake);
    bench.fake.in_call(LeafWord::module(SeamcallLeaf::SYS_TDMR_INIT, 0), move || {
        other.state().poisoned = Some(crate::fake::Access::Write);
    });
    bench.bring_up().unwrap();
    assert_eq!(reason(&bench), "connect-memory-access");
    assert_tdx_goes_on(&mut bench, "poison");
}

#[test]
fn a_crash_in_the_middle_leaves_no_page_behind() {
    for leaf in [SeamcallLeaf::EXT_MEM_ADD, SeamcallLeaf::EXT_INIT] {
        let mut bench = Bench::new(Fake::with_connect(700));
        let host = std::sync::Arc::clone(&bench.host);
        bench.fake.crash_in(leaf, move || host.crash());
        bench.fake.script_word(
            word(leaf),
            0,
            1,
            Outcome::Status(StatusCode::INTERRUPTED_RESUMABLE.plain()),
            0,
        );
        assert_eq!(bench.bring_up(), Err(HostError::GoingDown));
        bench.assert_unwound("crash");
    }
}
