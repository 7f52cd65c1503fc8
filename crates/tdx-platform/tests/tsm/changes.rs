//! Connect and updates of the module, and devices at the same time.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::Duration;

use pcie::FunctionId;
use pcie::ide::StreamState;
use tdx_abi::seamldr::Version;
use tdx_host::traits::UeventAction;
use tdx_host::tsm::{Refresh, TsmError};
use tdx_host::{ConnectState, Errno, Lifecycle, UpdateObserver, UpdateOptions, UpdatePhase};
use tdx_image::build::{ModuleSpec, image};
use tdx_image::{HeaderVersion, Svn};
use tdx_machine::pci::DeviceObserver;
use tdx_machine::{Machine, presets};
use tdx_platform::{CpuMode, DeviceEvent, HostOptions, Platform, TdxHost};

use crate::{MANY, SINGLE, machine, stock, up};

/// The next module with TDX Connect.
fn next_module(pool_pages: Option<u32>) -> Vec<u8> {
    let spec = ModuleSpec {
        svn: Svn { major: 3, minor: 11 },
        module_handoff_version: 2,
        handoff_pages: 4223,
        pool_pages,
        ..ModuleSpec::new(Version::new(2, 1, 1), "connect")
    };
    image(&spec, HeaderVersion::V0x200).unwrap()
}

#[test]
fn sessions_and_streams_survive_an_update() {
    let host = up();
    let before = stock(&host);
    host.connect(MANY, "tsm0").unwrap();
    host.connect(SINGLE, "tsm0").unwrap();
    host.update(&next_module(None), &UpdateOptions::default(), &()).unwrap();
    assert_eq!(host.connect_status(), ConnectState::On);
    assert_eq!(host.tsm().unwrap().connected, 2);
    for link in host.links() {
        assert_eq!((link.root_port.state, link.endpoint.state), (StreamState::SECURE, StreamState::SECURE));
        for what in Refresh::ALL {
            host.refresh(link.device, what).unwrap();
        }
    }
    host.disconnect(MANY, "tsm0").unwrap();
    host.disconnect(SINGLE, "tsm0").unwrap();
    assert_eq!(stock(&host), before);
    host.connect(SINGLE, "tsm0").unwrap();
}

/// Connects from another thread as soon as the module is shut down.
struct ConnectMeanwhile<'scope, 'env> {
    scope: &'scope thread::Scope<'scope, 'env>,
    host: &'scope TdxHost,
    connecting: Mutex<Option<thread::ScopedJoinHandle<'scope, Result<(), TsmError>>>>,
}

impl UpdateObserver for ConnectMeanwhile<'_, '_> {
    fn phase_started(&self, phase: UpdatePhase) {
        if phase == UpdatePhase::Shutdown {
            let host = self.host;
            *self.connecting.lock().unwrap() = Some(self.scope.spawn(move || host.connect(SINGLE, "tsm0")));
        }
    }
}

#[test]
fn a_connect_during_an_update_waits_for_its_end() {
    let host = up();
    thread::scope(|scope| {
        let observer = ConnectMeanwhile { scope, host: &host, connecting: Mutex::new(None) };
        host.update(&next_module(None), &UpdateOptions::default(), &observer).unwrap();
        let connecting = observer.connecting.lock().unwrap().take().unwrap();
        connecting.join().unwrap().unwrap();
    });
    assert_eq!(host.links().len(), 1);
    host.disconnect(SINGLE, "tsm0").unwrap();
}

#[test]
fn an_update_during_a_connect_does_not_end_it() {
    let host = up();
    let before = stock(&host);
    thread::scope(|scope| {
        let connecting = [MANY, SINGLE].map(|device| {
            let host = &host;
            scope.spawn(move || host.connect(device, "tsm0"))
        });
        host.update(&next_module(None), &UpdateOptions::default(), &()).unwrap();
        for thread in connecting {
            thread.join().unwrap().unwrap();
        }
    });
    assert_eq!(host.links().len(), 2);
    for device in [MANY, SINGLE] {
        host.disconnect(device, "tsm0").unwrap();
    }
    assert_eq!(stock(&host), before);
}

#[test]
fn a_module_that_wants_more_memory_ends_connect_but_not_tdx() {
    let host = up();
    host.connect(MANY, "tsm0").unwrap();
    host.connect(SINGLE, "tsm0").unwrap();
    host.update(&next_module(Some(100)), &UpdateOptions::default(), &()).unwrap();
    assert!(matches!(host.connect_status(), ConnectState::Dead(_)));
    assert_eq!(host.status().lifecycle, Lifecycle::Ready);
    assert!(host.tsm().is_none() && host.links().is_empty());
    assert_eq!(host.platform().page_accounts().leaked, 0, "{:#?}", host.platform().log_lines());
    let error = host.connect(SINGLE, "tsm0").unwrap_err();
    assert_eq!((error.name(), error.errno()), ("no-such-tsm", Errno::ENXIO));
    host.shutdown().unwrap();
}

#[test]
fn devices_are_connected_at_the_same_time_and_each_only_once() {
    let host = up();
    let before = stock(&host);
    for _ in 0..3 {
        let results: Vec<_> = thread::scope(|scope| {
            let connect = |device| {
                let host = &host;
                scope.spawn(move || host.connect(device, "tsm0"))
            };
            let threads: Vec<_> = [MANY, SINGLE, SINGLE, MANY].map(connect).into();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let busy = results.iter().filter_map(|result| result.err()).map(|error| error.name());
        assert_eq!(busy.collect::<Vec<_>>(), ["already-connected"; 2], "{results:?}");
        assert_eq!(host.links().len(), 2);
        for device in [MANY, SINGLE] {
            host.disconnect(device, "tsm0").unwrap();
        }
        assert_eq!(stock(&host), before);
    }
    assert!(machine(&host).lps().len() > 1);
}

#[test]
fn a_large_machine_connects_all_of_its_devices_and_gives_everything_back() {
    let spec = presets::find("gnr-2s-connect").unwrap().spec().unwrap();
    let platform = Platform::new(Arc::new(Machine::power_on(spec, 1).unwrap()), CpuMode::Sequential);
    let host = TdxHost::new(Arc::new(platform), HostOptions::default());
    host.bring_up(&()).unwrap();
    let before = stock(&host);
    let functions = host.functions();
    let devices: Vec<_> =
        functions.iter().filter(|view| view.dsm_capable()).map(|view| view.pci.id).collect();
    assert_eq!(devices.len(), 256);
    for device in &devices {
        host.connect(*device, "tsm0").unwrap_or_else(|error| panic!("{error}"));
    }
    let connected = stock(&host);
    assert_eq!(connected.links, 256);
    assert_eq!((before.free - connected.free) % 256, 0, "each takes the same");
    assert!((before.free - connected.free) / 256 <= 128 << 10);
    for device in devices.iter().rev() {
        host.disconnect(*device, "tsm0").unwrap();
    }
    assert_eq!(stock(&host), before);
}

/// Has another device taken out while one is being asked.
struct RemoveMeanwhile {
    host: Weak<TdxHost>,
    done: Mutex<Option<Result<(), RecvTimeoutError>>>,
}

impl DeviceObserver for RemoveMeanwhile {
    fn request(&self, function: FunctionId, _: spdm::Kind, _: &[u8]) {
        let mut done = self.done.lock().unwrap();
        if function == SINGLE && done.is_none() {
            let (host, (tell, told)) = (self.host.upgrade().unwrap(), mpsc::channel());
            thread::spawn(move || {
                host.device_event(DeviceEvent::Removed(MANY));
                let _ = tell.send(());
            });
            *done = Some(told.recv_timeout(Duration::from_secs(60)));
        }
    }
}

#[test]
fn a_device_that_is_being_asked_holds_up_no_other() {
    let host = Arc::new(up());
    let observer = Arc::new(RemoveMeanwhile { host: Arc::downgrade(&host), done: Mutex::new(None) });
    machine(&host).observe_devices(Some(Arc::clone(&observer) as Arc<dyn DeviceObserver>));
    host.connect(SINGLE, "tsm0").unwrap();
    assert_eq!(*observer.done.lock().unwrap(), Some(Ok(())));
    assert_eq!(host.function(MANY), None);
}

#[test]
fn a_device_that_is_taken_out_and_connected_at_once_keeps_nothing() {
    let host = up();
    let before = stock(&host);
    for round in 0..8 {
        let (connected, again) = thread::scope(|scope| {
            let connects = [(); 2].map(|()| scope.spawn(|| host.connect(SINGLE, "tsm0")));
            let removal = scope.spawn(|| host.device_event(DeviceEvent::Removed(SINGLE)));
            removal.join().unwrap();
            (connects.map(|thread| thread.join().unwrap()), host.connect(SINGLE, "tsm0"))
        });
        assert_eq!(again.unwrap_err().name(), "no-such-function", "round {round}");
        for error in connected.iter().filter_map(|result| result.err()) {
            assert!(
                ["no-such-function", "already-connected"].contains(&error.name()),
                "round {round}: {error}"
            );
        }
        assert_eq!(stock(&host), before, "round {round}");
        host.device_event(DeviceEvent::Added(SINGLE));
    }
    host.connect(SINGLE, "tsm0").unwrap();
}

#[test]
fn a_tsm_that_leaves_waits_for_who_is_connecting_and_lets_nobody_in() {
    for _ in 0..4 {
        let host = up();
        let before = stock(&host);
        let results = thread::scope(|scope| {
            let connects = [MANY, SINGLE].map(|device| {
                let host = &host;
                scope.spawn(move || host.connect(device, "tsm0"))
            });
            scope.spawn(|| host.remove_device()).join().unwrap();
            connects.map(|thread| thread.join().unwrap())
        });
        for error in results.iter().filter_map(|result| result.err()) {
            assert_eq!(error.name(), "no-such-tsm");
        }
        assert!(host.tsm().is_none() && host.links().is_empty());
        assert_eq!(host.platform().page_accounts().leaked, before.leaked);
        let all = host.uevents_after(0);
        assert_eq!(all.last().map(|record| record.action), Some(UeventAction::Remove));
    }
}
