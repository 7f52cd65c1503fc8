//! Bring-up, users, CPUs that come and go, P-SEAMLDR, removal of the device, shutdown and crash.

use shuttle::sync::Arc;
use shuttle::thread;
use tdx_host::device::TdxHostDevice;
use tdx_host::seamcall::SeamcallCause;
use tdx_host::sync::Spin;
use tdx_host::{HostError, Lifecycle};
use tdx_races::{Options, Platform, VERSION, explore};

#[test]
fn a_cpu_that_comes_and_goes_is_always_known_to_the_module_when_it_is_used() {
    explore(7200, || {
        let platform = Arc::new(Platform::new(2, Options::default()));
        let host = Arc::new(platform.host(Spin::new()));
        let hotplug = {
            let (platform, host) = (Arc::clone(&platform), Arc::clone(&host));
            thread::spawn(move || {
                platform.cpu_offline(&host, 1).unwrap();
                platform.cpu_online(&host, 1).unwrap();
            })
        };
        for _ in 0..3 {
            if let Some(used) = platform.use_module(&host, 1) {
                assert_eq!(used, Ok(1), "an online CPU reaches the module");
            }
        }
        hotplug.join().unwrap();
        assert_eq!(platform.use_module(&host, 1), Some(Ok(1)));
        platform.no_violations();
    });
}

#[test]
fn the_device_goes_when_its_last_reader_is_done() {
    explore(7200, || {
        let platform = Arc::new(Platform::new(1, Options::default()));
        let host = Arc::new(platform.host(Spin::new()));
        let device = Arc::new(TdxHostDevice::new());
        device.platform_is_ready();
        device.probe(&host, &*platform).unwrap();
        let reader = {
            let (platform, host, device) = (Arc::clone(&platform), Arc::clone(&host), Arc::clone(&device));
            thread::spawn(move || {
                let mut text = [0; 16];
                let read = device.read(&host, &*platform, "version", &mut text);
                (read, text)
            })
        };
        device.remove();
        let attributes = device.attributes().count();
        assert_eq!(attributes, 0);
        let (read, text) = reader.join().unwrap();
        match read {
            Ok(size) => assert_eq!(text[..size], *format!("{VERSION}\n").as_bytes()),
            Err(error) => assert_eq!(error, HostError::DeviceGone),
        }
        platform.no_violations();
    });
}

#[test]
fn after_a_crash_no_call_reaches_the_module_and_whoever_tries_is_told() {
    explore(7200, || {
        let platform = Arc::new(Platform::new(2, Options::default()));
        let host = Arc::new(platform.host(Spin::new()));
        let user = {
            let (platform, host) = (Arc::clone(&platform), Arc::clone(&host));
            thread::spawn(move || [(); 3].map(|()| platform.use_module(&host, 0).unwrap()))
        };
        host.crash();
        let used = user.join().unwrap();
        let mut down = false;
        for one in used {
            match one {
                Ok(_) => assert!(!down, "a call got through after one was refused"),
                Err(error) => {
                    assert_eq!(error.cause, SeamcallCause::GoingDown);
                    down = true;
                }
            }
        }
        assert_eq!(platform.use_module(&host, 1).unwrap().unwrap_err().cause, SeamcallCause::GoingDown);
        assert_eq!(host.lifecycle(), Lifecycle::Crashed);
        platform.no_violations();
    });
}
