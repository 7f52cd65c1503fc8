//! Bad devices, and devices that are taken out or lose power in the middle.

use std::collections::BTreeMap;

use pcie::FunctionId;
use tdx_host::tsm::Refresh;
use tdx_host::{Blame, Errno};
use tdx_machine::endpoint::fault::{At, DeviceFault, Shows};
use tdx_machine::pci::DeviceMove;
use tdx_platform::DeviceEvent;

use crate::{MANY, SINGLE, machine, stock, up, view};

/// Exchanges of a whole connect.
fn exchanges() -> u64 {
    let host = up();
    host.connect(SINGLE, "tsm0").unwrap();
    host.links()[0].messages
}

#[test]
fn every_bad_device_is_refused_with_a_reason_or_is_good_enough() {
    let host = up();
    let before = stock(&host);
    let mut reasons: BTreeMap<&str, u32> = BTreeMap::new();
    for fault in DeviceFault::every() {
        if fault.shows() == Shows::FromPowerOn {
            continue;
        }
        machine(&host).set_device_faults(SINGLE, &[fault]).unwrap();
        match host.connect(SINGLE, "tsm0") {
            Ok(()) => {
                *reasons.entry("connected").or_default() += 1;
                host.disconnect(SINGLE, "tsm0").unwrap();
            }
            Err(error) => {
                *reasons.entry(error.name()).or_default() += 1;
                assert_eq!(error.blame(), Blame::Device, "{fault:?}: {error}");
                assert!([Errno::EFAULT, Errno::EIO].contains(&error.errno()), "{fault:?}: {error}");
                assert_eq!(view(&host, SINGLE).last_error, Some(error));
            }
        }
        assert_eq!(stock(&host), before, "{fault:?}");
        machine(&host).set_device_faults(SINGLE, &[]).unwrap();
        host.connect(SINGLE, "tsm0").unwrap_or_else(|error| panic!("behind {fault:?}: {error}"));
        host.disconnect(SINGLE, "tsm0").unwrap();
        assert_eq!(stock(&host), before, "behind {fault:?}");
    }
    for name in ["device-refused", "device-not-authentic", "device-keys-refused", "doe-exchange-failed"] {
        assert!(reasons.get(name).is_some_and(|count| *count > 0), "{name}: {reasons:?}");
    }
}

#[test]
fn a_device_taken_out_at_any_message_leaves_nothing_behind() {
    let host = up();
    let before = stock(&host);
    for message in 0..exchanges() {
        machine(&host).schedule_device(SINGLE, message, DeviceMove::Remove).unwrap();
        let error = host.connect(SINGLE, "tsm0").unwrap_err();
        assert_eq!((error.name(), error.errno()), ("device-gone-away", Errno::EIO), "message {message}");
        assert_eq!(stock(&host), before, "message {message}");
        host.device_event(DeviceEvent::Removed(SINGLE));
        assert_eq!(host.function(SINGLE), None);
        assert!(machine(&host).replug(SINGLE));
        host.device_event(DeviceEvent::Added(SINGLE));
        assert!(view(&host, SINGLE).dsm_capable());
    }
    host.connect(SINGLE, "tsm0").unwrap();
}

#[test]
fn a_connected_device_that_is_taken_out_is_forgotten() {
    let host = up();
    let before = stock(&host);
    for told in [true, false] {
        let instance = view(&host, SINGLE).instance;
        host.connect(SINGLE, "tsm0").unwrap();
        assert!(machine(&host).remove_device(SINGLE));
        if told {
            host.device_event(DeviceEvent::Removed(SINGLE));
            assert_eq!(host.function(SINGLE), None);
        } else {
            host.tick(std::time::Duration::ZERO);
            assert_eq!(view(&host, SINGLE).last_error.unwrap().name(), "device-gone-away");
            host.device_event(DeviceEvent::Removed(SINGLE));
        }
        assert_eq!(stock(&host), before);
        assert!(machine(&host).replug(SINGLE));
        host.device_event(DeviceEvent::Added(SINGLE));
        assert_ne!(view(&host, SINGLE).instance, instance);
        host.connect(SINGLE, "tsm0").unwrap();
        host.disconnect(SINGLE, "tsm0").unwrap();
        assert_eq!(stock(&host), before);
    }
}

#[test]
fn a_mailbox_that_dies_at_any_message_is_the_end_of_that_connect_alone() {
    let host = up();
    let before = stock(&host);
    for message in 0..exchanges() {
        machine(&host).schedule_device(SINGLE, message, DeviceMove::KillMailbox).unwrap();
        let error = host.connect(SINGLE, "tsm0").unwrap_err();
        assert_eq!((error.blame(), error.errno()), (Blame::Device, Errno::EIO), "message {message}: {error}");
        assert_eq!(stock(&host), before, "message {message}");
        assert!(machine(&host).remove_device(SINGLE));
        host.device_event(DeviceEvent::Removed(SINGLE));
        assert!(machine(&host).replug(SINGLE));
        host.device_event(DeviceEvent::Added(SINGLE));
    }
    host.connect(SINGLE, "tsm0").unwrap();
}

#[test]
fn a_link_that_goes_down_at_any_message_is_undone_and_connected_anew() {
    let host = up();
    let before = stock(&host);
    for message in 0..exchanges() {
        machine(&host).schedule_device(SINGLE, message, DeviceMove::ResetLink).unwrap();
        if host.connect(SINGLE, "tsm0").is_ok() {
            host.tick(std::time::Duration::ZERO);
            if !host.links().is_empty() {
                host.disconnect(SINGLE, "tsm0").unwrap();
            }
        }
        assert_eq!(stock(&host), before, "message {message}");
        host.connect(SINGLE, "tsm0").unwrap_or_else(|error| panic!("behind message {message}: {error}"));
        host.disconnect(SINGLE, "tsm0").unwrap();
        assert_eq!(stock(&host), before, "behind message {message}");
    }
}

#[test]
fn a_machine_that_loses_power_at_any_message_connects_in_its_next_boot() {
    for message in [0, 1, exchanges() / 2, exchanges() - 1] {
        let host = up();
        machine(&host).schedule_device(SINGLE, message, DeviceMove::PowerLoss).unwrap();
        host.connect(SINGLE, "tsm0").unwrap_err();
        assert!(host.links().is_empty());
    }
}

#[test]
fn keys_of_a_link_that_end_in_the_middle_cost_the_connection_when_they_are_tried_again() {
    let host = up();
    let before = stock(&host);
    host.connect(SINGLE, "tsm0").unwrap();
    machine(&host).set_device_faults(SINGLE, &[DeviceFault::Silent { at: At::K_SET_GO }]).unwrap();
    assert_eq!(host.refresh(SINGLE, Refresh::StreamKeys).unwrap_err().name(), "doe-exchange-failed");
    machine(&host).set_device_faults(SINGLE, &[]).unwrap();
    let error = host.refresh(SINGLE, Refresh::StreamKeys).unwrap_err();
    assert_eq!((error.name(), error.errno()), ("session-lost", Errno::EIO));
    assert_eq!(stock(&host), before);
    assert_eq!(view(&host, SINGLE).last_error, Some(error));
    host.connect(SINGLE, "tsm0").unwrap();
}

#[test]
fn functions_of_a_device_whose_connection_is_lost_are_nobodys() {
    let host = up();
    let second = FunctionId::new(MANY.segment, MANY.bdf.checked_add(1).unwrap());
    host.connect(MANY, "tsm0").unwrap();
    assert_eq!(view(&host, second).dsm, Some(MANY));
    let port = view(&host, MANY).pci.root_port.unwrap();
    machine(&host).reset_link(port);
    host.tick(std::time::Duration::ZERO);
    assert!(host.links().is_empty());
    assert_eq!((view(&host, second).dsm, view(&host, second).facts.managed), (None, false));
}
