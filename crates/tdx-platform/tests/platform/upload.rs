//! Uploads: the image, the worker, and what is kept of an update.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};

use tdx_host::traits::LogLevel;
use tdx_host::upload::{UploadError, UploadRules, UploadStatus};
use tdx_host::{Errno, HostError, UpdateFailure, UpdateObserver, UpdatePhase, UpdateReport};
use tdx_platform::{MAX_IMAGE_BYTES, UploadTarget, Uploader};

use crate::{host_on, quiet};

const RULES: UploadRules = UploadRules::POSTING_2025_09;

/// What a target does with an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It is refused before anything was touched.
    Refused(HostError),
    /// All CPUs stop in INSTALL.
    Stopped(HostError),
    Panic,
}

struct Target {
    offered: AtomicBool,
    end: Mutex<End>,
    /// Told when an update began; it goes on when the other side says so, or is gone.
    began: Mutex<Option<(Sender<()>, Receiver<()>)>>,
    images: Mutex<Vec<usize>>,
    lines: Mutex<Vec<String>>,
}

impl Target {
    fn new(end: End) -> Arc<Self> {
        Arc::new(Self {
            offered: AtomicBool::new(true),
            end: Mutex::new(end),
            began: Mutex::default(),
            images: Mutex::default(),
            lines: Mutex::default(),
        })
    }
}

impl UploadTarget for Target {
    fn takes_updates(&self) -> bool {
        self.offered.load(Ordering::SeqCst)
    }

    fn update(&self, image: &[u8], observer: &dyn UpdateObserver) -> Result<UpdateReport, HostError> {
        self.images.lock().unwrap().push(image.len());
        if let Some((began, go)) = &*self.began.lock().unwrap() {
            began.send(()).unwrap();
            let _ = go.recv();
        }
        let end = *self.end.lock().unwrap();
        match end {
            End::Refused(error) => Err(error),
            End::Stopped(error) => {
                observer.phase_started(UpdatePhase::Shutdown);
                observer.phase_started(UpdatePhase::Install);
                Err(error)
            }
            End::Panic => panic!("as the test wants it"),
        }
    }

    fn update_failure(&self) -> Option<UpdateFailure> {
        let error = HostError::ModuleDown;
        Some(UpdateFailure { phase: UpdatePhase::Install, cpu: tdx_host::traits::CpuNumber(1), error })
    }

    fn log(&self, level: LogLevel, line: fmt::Arguments<'_>) {
        self.lines.lock().unwrap().push(format!("{level:?} {line}"));
    }
}

fn commit(uploader: &Uploader, image: &[u8]) {
    uploader.write_loading(b"1\n", RULES).unwrap();
    uploader.write_data(0, image).unwrap();
    uploader.write_loading(b"0\n", RULES).unwrap();
}

fn shown(uploader: &Uploader) -> String {
    uploader.failure().unwrap().map_or(String::new(), |failure| failure.to_string())
}

#[test]
fn a_failed_update_is_kept_with_its_reason_and_logged() {
    let target = Target::new(End::Refused(HostError::UpdateLogFull));
    let uploader = Uploader::new(target.clone());
    assert_eq!(uploader.last(), None);
    commit(&uploader, &[7; 10]);
    uploader.wait();
    let last = uploader.last().unwrap();
    assert_eq!((last.bytes, last.phase, last.stopped), (10, None, None), "nothing was touched");
    assert_eq!(last.outcome, Some(Err(UploadError::Update(HostError::UpdateLogFull))));
    assert_eq!(shown(&uploader), "transferring:flash-wearout");
    assert_eq!(
        *target.lines.lock().unwrap(),
        [format!("Error module update failed: {}", HostError::UpdateLogFull)]
    );

    *target.end.lock().unwrap() = End::Stopped(HostError::ModuleDown);
    commit(&uploader, &[7; 11]);
    uploader.wait();
    let last = uploader.last().unwrap();
    assert_eq!((last.bytes, last.phase), (11, Some(UpdatePhase::Install)));
    assert_eq!(last.stopped, target.update_failure());
    assert_eq!(shown(&uploader), "transferring:device-busy");
}

#[test]
fn a_worker_that_panics_leaves_an_interrupted_update_and_the_next_one_runs() {
    let target = Target::new(End::Panic);
    let uploader = Uploader::new(target.clone());
    commit(&uploader, &[7; 10]);
    uploader.wait();
    assert_eq!(uploader.last().unwrap().outcome, Some(Err(UploadError::Interrupted)));
    assert_eq!(shown(&uploader), "transferring:hw-error");

    *target.end.lock().unwrap() = End::Refused(HostError::UpdateLogFull);
    commit(&uploader, &[7; 10]);
    uploader.wait();
    assert_eq!(shown(&uploader), "transferring:flash-wearout");
}

#[test]
fn an_update_in_flight_is_waited_for_when_the_files_go() {
    let target = Target::new(End::Refused(HostError::UpdateLogFull));
    let (began, has_begun) = mpsc::channel();
    let (go, may_go) = mpsc::channel();
    *target.began.lock().unwrap() = Some((began, may_go));
    let uploader = Uploader::new(target.clone());
    commit(&uploader, &[7; 10]);
    has_begun.recv().unwrap();
    assert_eq!(uploader.status(), Ok(UploadStatus::Transferring));
    assert_eq!(uploader.failure(), Err(Errno::EBUSY));
    assert_eq!(uploader.write_data(0, b"x"), Err(Errno::ENODEV));
    assert_eq!(uploader.last().unwrap().outcome, None);

    target.offered.store(false, Ordering::SeqCst);
    assert_eq!(uploader.status(), Err(Errno::ENODEV));
    drop(go);
    drop(uploader);
    // Only this test still knows the target: the worker has ended.
    assert_eq!(Arc::strong_count(&target), 1);
    assert_eq!(*target.images.lock().unwrap(), [10]);
}

#[test]
fn every_file_is_dead_while_no_device_offers_updates() {
    let target = Target::new(End::Panic);
    let uploader = Uploader::new(target.clone());
    uploader.write_loading(b"1", RULES).unwrap();
    uploader.write_data(0, b"image").unwrap();
    target.offered.store(false, Ordering::SeqCst);
    assert!(!uploader.is_offered());
    assert_eq!(uploader.write_loading(b"0", RULES), Err(Errno::ENODEV));
    assert_eq!(uploader.is_loading(), Err(Errno::ENODEV));
    assert_eq!(uploader.write_data(0, b"x"), Err(Errno::ENODEV));
    assert_eq!(uploader.read_data(0, 1), Err(Errno::ENODEV));
    assert_eq!(uploader.status(), Err(Errno::ENODEV));
    assert_eq!(uploader.failure(), Err(Errno::ENODEV));
    assert_eq!(uploader.remaining_size(), Err(Errno::ENODEV));
    assert_eq!(uploader.cancel(b"1", RULES), Err(Errno::ENODEV));
    assert!(target.images.lock().unwrap().is_empty());
}

#[test]
fn an_image_grows_to_64_mib_and_no_further() {
    let target = Target::new(End::Refused(HostError::UpdateLogFull));
    let uploader = Uploader::new(target.clone());
    let limit = MAX_IMAGE_BYTES as u64;
    for (offset, bytes) in [(limit, &b"x"[..]), (limit - 1, b"xy"), (u64::MAX, b"x"), (u64::MAX, b"")] {
        uploader.write_loading(b"1", RULES).unwrap();
        assert_eq!(uploader.write_data(offset, bytes), Err(Errno::EFBIG), "{offset}");
        assert_eq!(uploader.is_loading(), Ok(false));
        assert_eq!(uploader.read_data(0, 1), Ok(vec![]));
    }
    uploader.write_loading(b"1", RULES).unwrap();
    uploader.write_data(limit - 1, b"x").unwrap();
    assert_eq!(uploader.read_data(limit - 3, 100), Ok(b"\0\0x".to_vec()));
    assert_eq!(uploader.read_data(limit, 100), Ok(vec![]));
    uploader.write_loading(b"0", RULES).unwrap();
    uploader.wait();
    assert_eq!(*target.images.lock().unwrap(), [MAX_IMAGE_BYTES]);
}

#[test]
fn a_number_that_means_nothing_is_logged_and_drops_the_image() {
    let target = Target::new(End::Panic);
    let uploader = Uploader::new(target.clone());
    uploader.write_data(0, b"image").unwrap();
    uploader.write_loading(b"7\n", RULES).unwrap();
    assert_eq!(*target.lines.lock().unwrap(), ["Error firmware upload: unexpected value (7)"]);
    assert_eq!(uploader.read_data(0, 10), Ok(vec![]));
}

#[test]
fn a_host_offers_uploads_while_its_device_offers_updates() {
    let host = Arc::new(host_on(quiet("tiny")));
    let target: Arc<dyn UploadTarget> = host.clone();
    let uploader = Uploader::new(target);
    assert!(!uploader.is_offered());
    host.bring_up(&()).unwrap();
    assert!(uploader.is_offered());
    commit(&uploader, b"no image");
    uploader.wait();
    let Some(Err(UploadError::Update(error))) = uploader.last().unwrap().outcome else {
        panic!("{:?}", uploader.last());
    };
    assert_eq!(error.name(), "image-refused");
    assert_eq!(shown(&uploader), "transferring:firmware-invalid");
    let logged = host.platform().log_lines();
    assert!(logged.iter().any(|line| line.text.contains("module update failed")), "{logged:?}");
    host.remove_device();
    assert!(!uploader.is_offered());
}
