//! The firmware-upload files of a host: the image that comes in, and the worker that updates the module.

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;
use tdx_host::device::AttributeGroup;
use tdx_host::traits::{Log as _, LogLevel};
use tdx_host::upload::{
    FailureWord, ImageStore, LoadingWrite, RunningUpload, StoreError, Upload, UploadError, UploadFailure,
    UploadRules, UploadStatus, UploadView,
};
use tdx_host::{Errno, HostError, UpdateFailure, UpdateObserver, UpdateOptions, UpdatePhase, UpdateReport};

use crate::host::TdxHost;

/// Largest image that is kept: many times the largest that P-SEAMLDR takes.
pub const MAX_IMAGE_BYTES: usize = 64 << 20;

/// Most bytes that one read of `data` gives.
const MAX_READ: usize = 1 << 20;

/// What an [`Uploader`] updates.
pub trait UploadTarget: Send + Sync {
    /// True while there is a device that offers updates.
    fn takes_updates(&self) -> bool;
    /// Replaces the module by that of the file `image`.
    fn update(&self, image: &[u8], observer: &dyn UpdateObserver) -> Result<UpdateReport, HostError>;
    /// Where the last update stopped, if it reached its lockstep and failed.
    fn update_failure(&self) -> Option<UpdateFailure>;
    /// A line for the log.
    fn log(&self, level: LogLevel, line: fmt::Arguments<'_>);
}

impl UploadTarget for TdxHost {
    fn takes_updates(&self) -> bool {
        self.device().is_some_and(|device| device.attributes().any(|it| it.group == AttributeGroup::Update))
    }

    fn update(&self, image: &[u8], observer: &dyn UpdateObserver) -> Result<UpdateReport, HostError> {
        TdxHost::update(self, image, &UpdateOptions::default(), observer)
    }

    fn update_failure(&self) -> Option<UpdateFailure> {
        self.state().update_failure()
    }

    fn log(&self, level: LogLevel, line: fmt::Arguments<'_>) {
        self.platform().log(level, line);
    }
}

/// An update that came through an [`Uploader`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadedUpdate {
    /// Size of the image.
    pub bytes: u32,
    /// The part of the lockstep that began last; `None` if none did.
    pub phase: Option<UpdatePhase>,
    /// Where the lockstep stopped, if it did.
    pub stopped: Option<UpdateFailure>,
    /// How it ended; `None` while it runs.
    pub outcome: Option<Result<UpdateReport, UploadError>>,
}

/// The image, as it comes in.
#[derive(Debug, Default)]
struct ImageBytes(Vec<u8>);

impl ImageStore for ImageBytes {
    fn len(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let start = usize::try_from(offset).map_err(|_| StoreError::TooLarge)?;
        let end = start.checked_add(bytes.len()).ok_or(StoreError::TooLarge)?;
        if end > MAX_IMAGE_BYTES {
            return Err(StoreError::TooLarge);
        }
        if let Some(more) = end.checked_sub(self.0.len()) {
            self.0.try_reserve(more).map_err(|_| StoreError::NoMemory)?;
            self.0.resize(end, 0);
        }
        let place = self.0.get_mut(start..end).ok_or(StoreError::TooLarge)?;
        place.copy_from_slice(bytes);
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.0.get(start..).unwrap_or_default();
        let size = rest.len().min(buffer.len());
        buffer.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        size
    }

    fn clear(&mut self) {
        self.0 = Vec::new();
    }
}

/// What the worker shares with the files.
struct Shared {
    target: Arc<dyn UploadTarget>,
    upload: Upload,
    last: Mutex<Option<UploadedUpdate>>,
    /// One more than the [`UpdatePhase`] that the update in `last` began last; 0 before the first. Not
    /// under the lock: it is written while all CPUs stand still.
    phase: AtomicU8,
}

#[derive(Default)]
struct Incoming {
    image: ImageBytes,
    worker: Option<JoinHandle<()>>,
}

/// The firmware-upload files of one host.
///
/// Each update runs on a thread of its own, which a drop waits for. Everything here fails with -ENODEV
/// while the target does not take updates; an update that began before goes on.
pub struct Uploader {
    shared: Arc<Shared>,
    incoming: Mutex<Incoming>,
}

impl Uploader {
    /// Files to which nothing was written.
    pub fn new(target: Arc<dyn UploadTarget>) -> Self {
        let shared =
            Shared { target, upload: Upload::new(), last: Mutex::new(None), phase: AtomicU8::new(0) };
        Self { shared: Arc::new(shared), incoming: Mutex::default() }
    }

    /// True if the files are there.
    pub fn is_offered(&self) -> bool {
        self.shared.target.takes_updates()
    }

    fn offered(&self) -> Result<&Upload, Errno> {
        if self.is_offered() { Ok(&self.shared.upload) } else { Err(Errno::ENODEV) }
    }

    /// A write to `loading`; a commit starts the update by the driver's `rules`.
    pub fn write_loading(&self, text: &[u8], rules: UploadRules) -> Result<(), Errno> {
        let upload = self.offered()?;
        let mut incoming = self.incoming.lock();
        match upload.write_loading(&mut incoming.image, text) {
            LoadingWrite::Committed => self.start(&mut incoming, rules),
            LoadingWrite::Unexpected(number) => {
                let target = &self.shared.target;
                target.log(LogLevel::Error, format_args!("firmware upload: unexpected value ({number})"));
                Ok(())
            }
            LoadingWrite::Started | LoadingWrite::Empty | LoadingWrite::Aborted | LoadingWrite::Ignored => {
                Ok(())
            }
        }
    }

    fn start(&self, incoming: &mut Incoming, rules: UploadRules) -> Result<(), Errno> {
        let bytes = incoming.image.len();
        let image = mem::take(&mut incoming.image).0;
        {
            let mut last = self.shared.last.lock();
            self.shared.phase.store(0, Ordering::Relaxed);
            *last = Some(UploadedUpdate { bytes, phase: None, stopped: None, outcome: None });
        }
        let shared = Arc::clone(&self.shared);
        let worker =
            thread::Builder::new().name("firmware-upload".to_owned()).spawn(move || shared.run(image, rules));
        let Ok(worker) = worker else {
            *self.shared.last.lock() = None;
            if let Some(run) = self.shared.upload.begin() {
                run.fail(FailureWord::ReadWriteError);
            }
            return Err(Errno::ENOMEM);
        };
        // The one before has nothing left to do: its update ended before this one could start.
        incoming.worker = Some(worker);
        Ok(())
    }

    /// What all of the files show at one moment.
    pub fn view(&self) -> Result<UploadView, Errno> {
        Ok(self.offered()?.view())
    }

    /// What `loading` shows.
    pub fn is_loading(&self) -> Result<bool, Errno> {
        Ok(self.offered()?.is_loading())
    }

    /// A write to `data`.
    pub fn write_data(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.offered()?.write_data(&mut self.incoming.lock().image, offset, bytes)
    }

    /// A read of `data`: up to `size` bytes.
    pub fn read_data(&self, offset: u64, size: usize) -> Result<Vec<u8>, Errno> {
        let upload = self.offered()?;
        let mut buffer = vec![0; size.min(MAX_READ)];
        let read = upload.read_data(&self.incoming.lock().image, offset, &mut buffer)?;
        buffer.truncate(read);
        Ok(buffer)
    }

    /// What `status` shows.
    pub fn status(&self) -> Result<UploadStatus, Errno> {
        Ok(self.offered()?.status())
    }

    /// What `error` shows; -EBUSY while an update runs.
    pub fn failure(&self) -> Result<Option<UploadFailure>, Errno> {
        self.offered()?.failure()
    }

    /// What `remaining_size` shows.
    pub fn remaining_size(&self) -> Result<u32, Errno> {
        Ok(self.offered()?.remaining_size())
    }

    /// A write to `cancel`.
    pub fn cancel(&self, text: &[u8], rules: UploadRules) -> Result<(), Errno> {
        self.offered()?.cancel(text, rules.heeds_cancel)
    }

    /// The last update that was committed, by the names that `error` has no room for.
    pub fn last(&self) -> Option<UploadedUpdate> {
        let last = self.shared.last.lock();
        let begun = self.shared.phase();
        last.map(|last| UploadedUpdate { phase: begun, ..last })
    }

    /// Waits until no update runs.
    pub fn wait(&self) {
        let worker = self.incoming.lock().worker.take();
        if let Some(worker) = worker {
            // A panic in it has been printed, and was recorded as the end of its update.
            let _ = worker.join();
        }
    }
}

impl Drop for Uploader {
    fn drop(&mut self) {
        self.wait();
    }
}

impl Shared {
    fn phase(&self) -> Option<UpdatePhase> {
        let index = usize::from(self.phase.load(Ordering::Relaxed)).checked_sub(1)?;
        UpdatePhase::ALL.get(index).copied()
    }

    /// What the worker does.
    fn run(&self, image: Vec<u8>, rules: UploadRules) {
        let Some(mut run) = self.upload.begin() else { return };
        // Dropped before `run`, even in a panic: whoever sees `idle` finds the outcome.
        let record = Record(self);
        let outcome = self.update(&mut run, &image, rules, &record);
        drop(image);
        record.end(outcome);
        if let Err(error) = &outcome {
            self.target.log(LogLevel::Error, format_args!("module update failed: {error}"));
        }
        drop(record);
        match outcome {
            Ok(_) => run.succeed(),
            Err(error) => run.fail(rules.word(&error)),
        }
    }

    fn update(
        &self,
        run: &mut RunningUpload<'_>,
        image: &[u8],
        rules: UploadRules,
        record: &Record<'_>,
    ) -> Result<UpdateReport, UploadError> {
        run.transfer()?;
        rules.check_header(image)?;
        let report = self.target.update(image, record)?;
        run.transferred();
        Ok(report)
    }
}

/// Writes down how an update gets on.
struct Record<'a>(&'a Shared);

impl Record<'_> {
    fn end(&self, outcome: Result<UpdateReport, UploadError>) {
        // What the target keeps of a failure is of another update if this one did not get that far.
        let got_there = outcome.is_err() && self.0.phase().is_some();
        let stopped = if got_there { self.0.target.update_failure() } else { None };
        if let Some(last) = self.0.last.lock().as_mut() {
            last.stopped = stopped;
            last.outcome = Some(outcome);
        }
    }
}

impl UpdateObserver for Record<'_> {
    fn phase_started(&self, phase: UpdatePhase) {
        self.0.phase.store(phase as u8 + 1, Ordering::Relaxed);
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        if let Some(last) = self.0.last.lock().as_mut() {
            last.outcome.get_or_insert(Err(UploadError::Interrupted));
        }
    }
}
