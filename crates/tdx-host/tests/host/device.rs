//! The tdx_host device.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use tdx_abi::features::Features0;
use tdx_abi::leaf::{LeafWord, SeamcallLeaf, SeamldrLeaf};
use tdx_abi::metadata::sys;
use tdx_abi::status::{SeamldrStatus, Status};
use tdx_host::HostError;
use tdx_host::device::TdxHostDevice;
use tdx_host::traits::SeamcallFault;

use crate::fake::{Access, Bench, FEATURES, Fake, Outcome};

fn probed(fake: Fake) -> (Bench, TdxHostDevice) {
    let bench = Bench::up(fake);
    let device = TdxHostDevice::new();
    device.platform_is_ready();
    device.probe(&bench.host, &*bench.fake).unwrap();
    (bench, device)
}

fn read(bench: &Bench, device: &TdxHostDevice, name: &str) -> Result<String, HostError> {
    let mut buffer = [0; 64];
    let size = device.read(&bench.host, &*bench.fake, name, &mut buffer)?;
    Ok(String::from_utf8(buffer[..size].to_vec()).unwrap())
}

fn names(device: &TdxHostDevice) -> Vec<(&'static str, u16)> {
    device.attributes().map(|attribute| (attribute.name, attribute.mode)).collect()
}

#[test]
fn the_attributes_are_those_of_linux() {
    let (bench, device) = probed(Fake::new(1));
    assert_eq!(
        names(&device),
        [("version", 0o444), ("seamldr_version", 0o400), ("num_remaining_updates", 0o400)]
    );
    assert_eq!(read(&bench, &device, "version").unwrap(), "1.5.06\n");
    assert_eq!(read(&bench, &device, "seamldr_version").unwrap(), "1.5.02\n");
    assert_eq!(read(&bench, &device, "num_remaining_updates").unwrap(), "59\n");
    assert_eq!(read(&bench, &device, "nothing"), Err(HostError::NoSuchAttribute));
    assert_eq!(bench.fake.leaked_pages(), 0);
}

#[test]
fn the_loader_is_asked_at_each_read() {
    let (bench, device) = probed(Fake::new(1));
    let asked = || {
        let state = bench.fake.state();
        state.calls.iter().filter(|call| call.1 == LeafWord::seamldr(SeamldrLeaf::INFO)).count()
    };
    assert_eq!(asked(), 0);
    for n in 1..4 {
        read(&bench, &device, "num_remaining_updates").unwrap();
        assert_eq!(asked(), n);
    }
    read(&bench, &device, "version").unwrap();
    assert_eq!(asked(), 3);
}

#[test]
fn update_attributes_need_module_and_cpu() {
    let cases: [fn(&Fake); 3] = [
        |fake| fake.set_field(sys::TDX_FEATURES0, FEATURES.difference(Features0::TD_PRESERVING).bits()),
        |fake| _ = fake.state().msrs.insert(0x480, Some(0x400 << 32 | 0x12)),
        |_| (),
    ];
    for (bend, visible) in cases.into_iter().zip([false, false, true]) {
        let fake = Fake::new(1);
        bend(&fake);
        let (bench, device) = probed(fake);
        assert_eq!(names(&device).len(), if visible { 3 } else { 1 });
        let result = read(&bench, &device, "num_remaining_updates");
        assert_eq!(result.is_ok(), visible);
        if !visible {
            assert_eq!(result, Err(HostError::NoSuchAttribute));
        }
        assert_eq!(read(&bench, &device, "version").unwrap(), "1.5.06\n");
    }
}

#[test]
fn a_feature_that_fails_does_not_take_the_others_away() {
    let bench = Bench::up(Fake::new(1));
    bench.fake.state().msrs.insert(0x480, None);
    let device = TdxHostDevice::new();
    device.platform_is_ready();
    assert_eq!(device.probe(&bench.host, &*bench.fake), Ok(()));
    assert_eq!(names(&device), [("version", 0o444)]);
    assert!(bench.fake.state().lines.iter().any(|(_, line)| line.contains("Update attributes")));

    let (bench, device) = probed(Fake::new(1));
    let word = LeafWord::seamldr(SeamldrLeaf::INFO);
    let status = Status::from_raw(SeamldrStatus::EUNSPECERR.0);
    bench.fake.script_word(word, 0, 1, Outcome::Status(status), 0);
    bench.fake.script_word(word, 1, 1, Outcome::Fault(SeamcallFault::VmFailInvalid), 0);
    for _ in 0..2 {
        let error = read(&bench, &device, "seamldr_version").unwrap_err();
        assert_eq!(error.name(), "seamldr-info-failed");
        assert_eq!(read(&bench, &device, "version").unwrap(), "1.5.06\n");
    }
    assert_eq!(read(&bench, &device, "seamldr_version").unwrap(), "1.5.02\n");
    assert_eq!(bench.fake.leaked_pages(), 0);
}

#[test]
fn memory_trouble_of_a_read_is_the_readers_alone() {
    let (bench, device) = probed(Fake::new(1));
    bench.fake.state().poisoned = Some(Access::Read);
    let error = read(&bench, &device, "seamldr_version").unwrap_err();
    assert_eq!(error.name(), "memory-access-failed");
    bench.fake.state().poisoned = None;
    bench.fake.state().largest_allocation = 0;
    assert_eq!(read(&bench, &device, "seamldr_version").unwrap_err().name(), "no-memory");
    assert_eq!(read(&bench, &device, "version").unwrap(), "1.5.06\n");
    let mut small = [0; 4];
    let result = device.read(&bench.host, &*bench.fake, "version", &mut small);
    assert_eq!(result, Err(HostError::BufferTooSmall { bytes: 4 }));
    assert_eq!(bench.fake.leaked_pages(), 0);
}

#[test]
fn the_device_waits_for_module_and_platform() {
    let bench = Bench::new(Fake::new(1));
    let device = TdxHostDevice::new();
    device.platform_is_ready();
    assert_eq!(device.probe(&bench.host, &*bench.fake), Err(HostError::NotInitialised));

    let bench = Bench::up(Fake::new(1));
    let device = TdxHostDevice::new();
    assert_eq!(device.probe(&bench.host, &*bench.fake), Err(HostError::DeviceGone));
    assert_eq!(read(&bench, &device, "version"), Err(HostError::DeviceGone));
    device.platform_is_ready();
    assert_eq!(device.probe(&bench.host, &*bench.fake), Ok(()));
    assert!(device.is_present());
}

#[test]
fn readers_finish_before_the_device_goes_and_come_too_late_after_it() {
    let (bench, device) = probed(Fake::new(1));
    let gone = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut read_once = 0;
                    loop {
                        let was_gone = gone.load(Ordering::SeqCst);
                        match read(&bench, &device, "num_remaining_updates") {
                            Ok(value) => {
                                assert!(!was_gone, "read after removal");
                                assert_eq!(value, "59\n");
                                read_once += 1;
                            }
                            Err(error) => {
                                assert_eq!(error, HostError::DeviceGone);
                                return read_once;
                            }
                        }
                    }
                })
            })
            .collect();
        while bench.fake.calls_of(SeamcallLeaf::SYS_RD) == 0 {
            thread::yield_now();
        }
        device.remove();
        gone.store(true, Ordering::SeqCst);
        for reader in readers {
            reader.join().unwrap();
        }
    });
    assert!(names(&device).is_empty());
    assert_eq!(read(&bench, &device, "version").unwrap_err().errno(), tdx_host::Errno::ENODEV);
    assert_eq!(bench.fake.leaked_pages(), 0);
}

#[test]
fn a_removal_waits_for_a_reader_inside() {
    let (bench, device) = probed(Fake::new(1));
    let device = Arc::new(device);
    let removed = Arc::new(AtomicBool::new(false));
    let remover = Arc::new(Mutex::new(None));
    let in_read = {
        let (device, removed, remover) = (Arc::clone(&device), Arc::clone(&removed), Arc::clone(&remover));
        move || {
            let (leaving, done) = (Arc::clone(&device), Arc::clone(&removed));
            *remover.lock().unwrap() = Some(thread::spawn(move || {
                leaving.remove();
                done.store(true, Ordering::SeqCst);
            }));
            while device.is_present() {
                thread::yield_now();
            }
            // Time enough for a removal that does not wait.
            for _ in 0..1000 {
                thread::yield_now();
                assert!(!removed.load(Ordering::SeqCst));
            }
        }
    };
    bench.fake.in_call(LeafWord::seamldr(SeamldrLeaf::INFO), in_read);
    assert_eq!(read(&bench, &device, "num_remaining_updates").unwrap(), "59\n");
    remover.lock().unwrap().take().unwrap().join().unwrap();
    assert!(removed.load(Ordering::SeqCst));
    assert_eq!(read(&bench, &device, "version"), Err(HostError::DeviceGone));
}

#[test]
fn a_host_that_goes_down_answers_no_reader() {
    let (bench, device) = probed(Fake::new(1));
    bench.host.crash();
    let calls = bench.fake.state().calls.len();
    for name in ["version", "seamldr_version", "num_remaining_updates"] {
        assert_eq!(read(&bench, &device, name), Err(HostError::GoingDown));
    }
    assert_eq!(device.probe(&bench.host, &*bench.fake), Err(HostError::GoingDown));
    assert_eq!(bench.fake.state().calls.len(), calls);
}
