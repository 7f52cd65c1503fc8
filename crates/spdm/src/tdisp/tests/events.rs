//! What takes an interface to `ERROR`.

use super::*;

/// The events that concern the interface, with a lock of all flags.
fn fatal() -> Vec<TdiEvent> {
    vec![
        TdiEvent::BusMasterCleared(PF),
        TdiEvent::MemorySpaceCleared(PF),
        TdiEvent::ConfigWrite(PF),
        TdiEvent::MsixWrite(PF),
        TdiEvent::FunctionReset(PF),
        TdiEvent::InternalError(PF),
        TdiEvent::StreamLost(STREAM),
        TdiEvent::KeysOutsideSession(STREAM),
        TdiEvent::SessionEnded(SESSION),
        TdiEvent::FirmwareUpdated,
    ]
}

fn strict() -> LockInterface {
    LockInterface { flags: LockFlags::NO_FIRMWARE_UPDATE.union(LockFlags::LOCK_MSIX), ..lock() }
}

#[test]
fn every_event_takes_a_locked_and_a_running_interface_to_error() {
    for event in fatal() {
        for state in [TdiState::LOCKED, TdiState::RUN] {
            let mut device = Device::default();
            let nonce = device.lock_in(SESSION, PF, strict());
            if state == TdiState::RUN {
                device.result(start(&nonce)).unwrap();
            }
            device.event(event);
            assert_eq!(device.state(), TdiState::ERROR, "{event:?} in {state}");
            assert_eq!(device.platform.entered.last(), Some(&(PF, state, TdiState::ERROR)));
            assert_eq!(device.set.binding(PF), None, "nothing of the lock is left");
            assert_eq!(device.result(start(&nonce)), Err(ErrorCode::INVALID_INTERFACE_STATE));
        }
    }
}

#[test]
fn no_event_changes_an_unlocked_interface_or_one_in_error() {
    for event in fatal() {
        for state in [TdiState::UNLOCKED, TdiState::ERROR] {
            let mut device = Device::default();
            device.to(state);
            let before = device.platform.entered.len();
            device.event(event);
            assert_eq!(
                (device.state(), device.platform.entered.len()),
                (state, before),
                "{event:?} in {state}"
            );
        }
    }
}

#[test]
fn events_of_others_change_nothing() {
    let others = [
        TdiEvent::BusMasterCleared(VF),
        TdiEvent::MemorySpaceCleared(VF),
        TdiEvent::ConfigWrite(VF),
        TdiEvent::MsixWrite(VF),
        TdiEvent::FunctionReset(VF),
        TdiEvent::InternalError(VF),
        TdiEvent::StreamLost(PEER),
        TdiEvent::KeysOutsideSession(PEER),
        TdiEvent::SessionEnded(OTHER_SESSION),
    ];
    for event in others {
        let mut device = Device::default();
        device.run_with(strict());
        device.event(event);
        assert_eq!(device.state(), TdiState::RUN, "{event:?}");
    }
}

#[test]
fn msix_and_firmware_matter_only_if_the_lock_includes_them() {
    for event in [TdiEvent::MsixWrite(PF), TdiEvent::FirmwareUpdated] {
        let mut device = Device::default();
        device.run();
        device.event(event);
        assert_eq!(device.state(), TdiState::RUN, "{event:?}");
    }
}

#[test]
fn a_bound_peer_to_peer_stream_matters_like_the_default_stream() {
    let config =
        TdiConfig { optional: RequestSet::P2P, lock_flags: LockFlags::BIND_P2P, ..TdiConfig::default() };
    for (bound, state) in [(false, TdiState::RUN), (true, TdiState::ERROR)] {
        let mut device = Device::with(config);
        device.run_with(LockInterface { flags: LockFlags::BIND_P2P, ..lock() });
        if bound {
            device.result(Body::BindP2p(P2pStream { stream: PEER })).unwrap();
        }
        device.event(TdiEvent::StreamLost(PEER));
        assert_eq!(device.state(), state);
    }
}

#[test]
fn a_lost_stream_takes_all_interfaces_on_it() {
    let mut device = Device::default();
    device.run();
    device.lock_in(SESSION, VF, LockInterface { default_stream: PEER, ..lock() });
    device.event(TdiEvent::StreamLost(STREAM));
    assert_eq!((device.set.state(PF), device.set.state(VF)), (Some(TdiState::ERROR), Some(TdiState::LOCKED)));
}

#[test]
fn error_ends_with_a_stop_or_a_conventional_reset() {
    let mut device = Device::default();
    device.to(TdiState::ERROR);
    assert!(device.result(Body::Stop).is_ok());
    assert_eq!(device.state(), TdiState::UNLOCKED);
    for state in STATES {
        let mut device = Device::default();
        device.to(state);
        device.event(TdiEvent::ConventionalReset);
        assert_eq!(device.state(), TdiState::UNLOCKED, "from {state}");
        assert_eq!(device.set.binding(PF), None);
    }
}

#[test]
fn an_interface_whose_function_goes_fails_first() {
    let mut device = Device::default();
    device.run();
    device.set.remove(PF, &mut device.platform).unwrap();
    assert_eq!(device.platform.entered.last(), Some(&(PF, TdiState::RUN, TdiState::ERROR)));
    assert_eq!(device.set.state(PF), None);
    assert_eq!(device.set.remove(PF, &mut device.platform), Err(UnknownInterface(PF)));
    assert!(device.set.interfaces().eq([VF]));
    device.set.add(VF);
    assert_eq!(device.set.interfaces().count(), 1, "it is there once");
}
