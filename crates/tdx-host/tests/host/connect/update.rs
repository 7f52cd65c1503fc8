//! TDX Connect and updates of the module.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use tdx_abi::features::Features0;
use tdx_abi::leaf::{LeafWord, SeamcallLeaf, SeamldrLeaf};
use tdx_abi::metadata::sys;
use tdx_abi::status::{OperandId, SeamldrStatus, StatusCode};
use tdx_host::{ConnectError, ConnectState, HostError, Lifecycle, UpdateOptions, UpdatePhase};
use tdx_image::Image;

use super::{errors_in_log, reason};
use crate::fake::{Bench, FEATURES, Fake};
use crate::image::{Made, made};
use crate::update::{At, update, update_with};

fn connected(pool: u64) -> Bench {
    let mut bench = Bench::up(Fake::with_connect(pool));
    bench.host.connect_init(&*bench.fake, &mut bench.memory.connect).unwrap();
    bench
}

#[test]
fn connect_goes_on_behind_an_update_with_the_bitmap_of_the_boot() {
    let bench = connected(64);
    let report = update(&bench).unwrap();
    assert_eq!((report.opted_in, report.opt_in_lost), (Features0::TDX_CONNECT, Features0::default()));
    assert_eq!(bench.host.connect_state(), ConnectState::On);
    let state = bench.fake.state();
    let order = [SeamcallLeaf::SYS_UPDATE, SeamcallLeaf::EXT_INIT].map(|leaf| {
        state.calls.iter().rposition(|call| call.1.leaf() == leaf.0 && !call.1.is_seamldr()).unwrap()
    });
    assert!(order[0] < order[1]);
    let call = &state.calls[order[0]];
    assert_eq!((call.1.version(), call.2.r9), (1, Features0::TDX_CONNECT.bits()));
    drop(state);
    assert_eq!(bench.fake.calls_of(SeamcallLeaf::EXT_INIT), 2);
    assert_eq!(bench.fake.calls_of(SeamcallLeaf::EXT_MEM_ADD), 1, "no memory is added");
    assert_eq!(bench.fake.calls_of(SeamcallLeaf::IOMMU_SETUP), 2, "units stay as they are");
}

#[test]
fn a_new_module_that_cannot_go_on_with_connect_leaves_plain_tdx() {
    let more: fn(&Fake) = |fake| {
        fake.state().loader.next_fields.insert(sys::MEMORY_POOL_REQUIRED_PAGES.0, 9);
    };
    let lost: fn(&Fake) = |fake| {
        fake.state().loader.next_fields.insert(sys::TDX_FEATURES0.0, FEATURES.bits());
    };
    let refused: fn(&Fake) = |fake| {
        let word = LeafWord::module(SeamcallLeaf::SYS_UPDATE, 1);
        fake.fail_once(word, 0, StatusCode::OPERAND_INVALID.with_operand(OperandId::R9), 0);
    };
    let no_start: fn(&Fake) = |fake| {
        fake.fail_once(LeafWord::module(SeamcallLeaf::EXT_INIT, 0), 0, StatusCode::SYS_STATE_INCORRECT, 0);
    };
    let cases = [
        (more, "connect-pool-too-small"),
        (lost, "connect-feature-lost"),
        (refused, "connect-feature-lost"),
        (no_start, "connect-extension-failed"),
    ];
    for (bend, name) in cases {
        let mut bench = connected(64);
        bend(&bench.fake);
        let before = errors_in_log(&bench);
        update(&bench).unwrap();
        assert!(matches!(bench.host.connect_state(), ConnectState::Dead(error) if error.name() == name));
        assert!(errors_in_log(&bench) > before, "{name}: said loudly");
        assert_eq!((bench.host.lifecycle(), bench.host.ready()), (Lifecycle::Ready, Ok(())), "{name}");
        assert_eq!(bench.fake.calls_of(SeamcallLeaf::EXT_MEM_ADD), 1);
        // Another update does not bring it back, nor can it be started again.
        bench.fake.state().loader.next_fields.clear();
        update(&bench).unwrap();
        assert_eq!(reason(&bench), name);
        let again = bench.host.connect_init(&*bench.fake, &mut bench.memory.connect);
        assert_eq!(again.unwrap_err().name(), name);
        // Its units still go out of trusted mode in order.
        bench.host.shutdown(&*bench.fake, &mut bench.memory).unwrap();
        assert!(bench.fake.state().io.trusted.is_empty());
        bench.assert_unwound(name);
    }
}

#[test]
fn a_module_that_does_not_go_leaves_connect_as_it_was() {
    for status in [StatusCode::SYS_BUSY, StatusCode::OPERAND_BUSY, StatusCode::OPERAND_INVALID] {
        let bench = connected(64);
        bench.fake.script(SeamcallLeaf::SYS_SHUTDOWN, 0, u64::MAX, status);
        assert_eq!(update(&bench).unwrap_err().name(), "update-shutdown-refused");
        assert_eq!(bench.host.connect_state(), ConnectState::On);
        assert_eq!(bench.fake.calls_of(SeamcallLeaf::EXT_INIT), 1);
        assert!(bench.host.connect_gate().enter(&*bench.fake).is_ok(), "the gate is open again");
        bench.fake.clear_script();
        assert!(update(&bench).is_ok());
    }
}

#[test]
fn an_update_that_leaves_the_module_down_is_made_good_by_the_next() {
    let bench = connected(64);
    bench.fake.state().loader.ends.push((SeamldrStatus::EBADSIG, 0));
    assert_eq!(update(&bench).unwrap_err().name(), "install-failed-recoverable");
    assert_eq!((bench.host.lifecycle(), bench.host.connect_state()), (Lifecycle::Down, ConnectState::On));
    assert!(update(&bench).unwrap().was_down);
    assert_eq!(bench.host.connect_state(), ConnectState::On);
    assert_eq!(bench.fake.calls_of(SeamcallLeaf::EXT_INIT), 2);

    let bench = connected(64);
    bench.fake.fail_once(LeafWord::module(SeamcallLeaf::SYS_INIT, 0), 0, StatusCode::SYS_STATE_INCORRECT, 0);
    assert!(update(&bench).is_err());
    assert_eq!(bench.host.connect_state(), ConnectState::Dead(ConnectError::ModuleGone));
}

#[test]
fn connect_that_is_off_is_not_touched_by_an_update() {
    let fake = Fake::with_connect(64);
    fake.script(SeamcallLeaf::EXT_INIT, 0, 1, StatusCode::SYS_STATE_INCORRECT);
    let bench = Bench::up(fake);
    update(&bench).unwrap();
    assert_eq!(
        (reason(&bench), bench.fake.calls_of(SeamcallLeaf::EXT_INIT)),
        ("connect-extension-failed", 1)
    );
    assert!(matches!(bench.host.connect_state(), ConnectState::Off(_)));
}

#[test]
fn calls_of_connect_wait_for_the_end_of_an_update_and_an_update_for_theirs() {
    let bench = connected(0);
    let (inside, updated) = (AtomicBool::new(true), AtomicBool::new(false));
    let gate = bench.host.connect_gate();
    let guard = gate.enter(&*bench.fake).unwrap();
    let second = gate.enter(&*bench.fake).unwrap();
    thread::scope(|scope| {
        let running = scope.spawn(|| {
            let file = made(Made::default());
            let image = Image::parse(&file).unwrap();
            let outside = At(
                UpdatePhase::Shutdown,
                Mutex::new(|| assert!(!inside.load(Ordering::SeqCst), "somebody is inside")),
            );
            bench.host.update(&*bench.fake, &image, &UpdateOptions::default(), &outside).unwrap();
        });
        drop(second);
        // The update waits in the clock of the fake.
        while bench.fake.state().io.clock.as_millis() < 20 {
            thread::yield_now();
        }
        let waiting = scope.spawn(|| {
            let guard = gate.enter(&*bench.fake).unwrap();
            assert!(updated.load(Ordering::SeqCst) || bench.fake.calls_of(SeamcallLeaf::EXT_INIT) == 2);
            drop(guard);
        });
        inside.store(false, Ordering::SeqCst);
        drop(guard);
        running.join().unwrap();
        updated.store(true, Ordering::SeqCst);
        waiting.join().unwrap();
    });
    assert_eq!(bench.host.connect_state(), ConnectState::On);
}

#[test]
fn nobody_waits_at_the_gate_of_a_host_that_goes_down() {
    let bench = connected(0);
    let guard = bench.host.connect_gate().enter(&*bench.fake).unwrap();
    let host = Arc::clone(&bench.host);
    let free = bench.fake.free_bytes();
    let ended = thread::scope(|scope| {
        let running = scope.spawn(|| update(&bench));
        while bench.fake.state().io.clock.as_millis() < 5 {
            thread::yield_now();
        }
        host.crash();
        running.join().unwrap()
    });
    assert_eq!((ended, bench.fake.free_bytes()), (Err(HostError::GoingDown), free));
    drop(guard);
    let word = LeafWord::seamldr(SeamldrLeaf::INSTALL);
    assert!(!bench.fake.state().calls.iter().any(|call| call.1 == word));
    assert_eq!(bench.host.connect_state().reason(), Some(HostError::GoingDown.into()));
}

#[test]
fn a_crash_in_an_update_is_no_word_on_connect() {
    let bench = connected(0);
    let crash = At(UpdatePhase::Update, Mutex::new(|| bench.host.crash()));
    let ended = update_with(&bench, Made::default(), &UpdateOptions::default(), &crash);
    assert_eq!(ended, Err(HostError::GoingDown));
    assert!(matches!(bench.host.connect_state(), ConnectState::Off(_)));
}

#[test]
fn an_update_between_two_units_has_the_last_word_on_connect() {
    let more: fn(&Fake) = |fake| {
        fake.state().loader.next_fields.insert(sys::MEMORY_POOL_REQUIRED_PAGES.0, 9);
    };
    let good: fn(&Fake) = |_| {};
    let setup = LeafWord::module(SeamcallLeaf::IOMMU_SETUP, 0);
    for (bend, name) in [(more, "connect-pool-too-small"), (good, "")] {
        let mut bench = Bench::up(Fake::with_connect(64));
        bend(&bench.fake);
        let running = Arc::new(Mutex::new(None));
        let (host, fake, handle) = (Arc::clone(&bench.host), Arc::clone(&bench.fake), Arc::clone(&running));
        bench.fake.in_call(setup, move || {
            let waiter = Arc::clone(&fake);
            let host = Arc::clone(&host);
            *handle.lock().unwrap() = Some(thread::spawn(move || {
                let file = made(Made::default());
                let image = Image::parse(&file).unwrap();
                host.update(&*waiter, &image, &UpdateOptions::default(), &()).map(|_| ())
            }));
            // The update stands at the gate, closed by now, and lets nobody else in.
            while fake.state().io.clock.is_zero() {
                thread::yield_now();
            }
        });
        let done = bench.host.connect_init(&*bench.fake, &mut bench.memory.connect);
        let updated = running.lock().unwrap().take().unwrap().join().unwrap();
        assert_eq!(updated, Ok(()), "{name}");
        assert_eq!(done.map_err(|error| error.name()).err().unwrap_or_default(), name);
        assert_eq!((bench.host.connect_state().is_on(), reason(&bench)), (name.is_empty(), name));
        assert_eq!(bench.fake.state().io.trusted.len(), if name.is_empty() { 2 } else { 0 }, "{name}");
        assert_eq!(matches!(bench.host.connect_state(), ConnectState::Dead(_)), !name.is_empty());
    }
}

#[test]
fn the_end_of_connect_says_no_more_than_that_it_is_dead() {
    let mut bench = connected(64);
    bench.fake.state().loader.next_fields.insert(sys::MEMORY_POOL_REQUIRED_PAGES.0, 9);
    update(&bench).unwrap();
    bench.host.connect_exit(&*bench.fake, &mut bench.memory.connect);
    assert_eq!(
        bench.host.connect_state(),
        ConnectState::Dead(ConnectError::PoolTooSmall { pages: 9 }),
        "not merely stopped"
    );
}

#[test]
fn an_update_asks_for_no_feature_that_the_cpu_is_not_fit_for() {
    let fake = Fake::with_connect(64);
    fake.state().erratum = true;
    let bench = Bench::up(fake);
    let options = UpdateOptions { opt_in: Some(Features0::TDX_CONNECT), ..UpdateOptions::default() };
    let report = update_with(&bench, Made::default(), &options, &()).unwrap();
    assert_eq!((report.opted_in, reason(&bench)), (Features0::default(), "connect-erratum"));
}
