//! The firmware-upload protocol of `/sys/class/firmware/NAME/`: how an image comes in, how the update that
//! it starts is followed, and how it ends.
//!
//! The behaviour is that of Linux's `drivers/base/firmware_loader/sysfs.c` and `sysfs_upload.c`, with its
//! peculiarities: no write to `loading` fails, whatever its order; writes to `data` are taken at any time
//! but while an update runs; a commit of nothing succeeds and does nothing; `status` says `idle` until the
//! commit. Four things are different on purpose, and none is seen by a program that keeps to the protocol:
//!
//! - An abort frees the image at once; Linux keeps it until the next start.
//! - An image that cannot be kept ends the load with an error that `error` shows; Linux takes no further
//!   image until its next boot.
//! - `loading` and `status` come back to rest in one step, so that no commit finds the update of another
//!   one still ending (-EBUSY in Linux).
//! - Asking to cancel while nothing runs does not cancel the next update.
//!
//! An [`Upload`] is one word. Bytes are kept by the embedder in an [`ImageStore`] under a lock of its own;
//! reading `loading`, `status`, `error` and `remaining_size` takes no lock. After
//! [`LoadingWrite::Committed`], the embedder takes the image out of the store and lets a worker run the
//! update as a [`RunningUpload`].

mod error;

use core::fmt;

use bitfield_struct::bitfield;

pub use error::{FailureWord, UPLOAD_ERRORS, UploadError, UploadRules, WordRule, find};

use crate::errno::Errno;
use crate::sync::atomic::{AtomicU64, Ordering};

/// What `status` shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UploadStatus {
    /// No update runs. An image may be coming in.
    #[default]
    Idle,
    /// An image was committed; the worker has not begun.
    Receiving,
    /// The worker looks at the image.
    Preparing,
    /// The module is being replaced.
    Transferring,
    /// The new module runs.
    Programming,
}

impl UploadStatus {
    /// All of them, in the order in which an update goes through them.
    pub const ALL: [Self; 5] =
        [Self::Idle, Self::Receiving, Self::Preparing, Self::Transferring, Self::Programming];

    /// Linux's word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Receiving => "receiving",
            Self::Preparing => "preparing",
            Self::Transferring => "transferring",
            Self::Programming => "programming",
        }
    }

    fn from_bits(bits: u8) -> Self {
        Self::ALL.get(usize::from(bits)).copied().unwrap_or_default()
    }
}

impl fmt::Display for UploadStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What `error` shows: `transferring:firmware-invalid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UploadFailure {
    /// Where the update was.
    pub status: UploadStatus,
    /// Linux's word for what went wrong.
    pub word: FailureWord,
}

impl fmt::Display for UploadFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.status, self.word)
    }
}

/// What the files show, all of them at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UploadView {
    /// An image is coming in.
    pub loading: bool,
    /// Where the update is.
    pub status: UploadStatus,
    /// How the last update failed; `None` while one runs.
    pub failure: Option<UploadFailure>,
    /// Bytes of the last image that were not transferred.
    pub remaining_size: u32,
}

/// Why bytes of an image cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreError {
    /// The image would be larger than any that is taken.
    TooLarge,
    /// No memory.
    NoMemory,
}

/// Where an image is kept while it comes in. It grows up to the last byte that was written; bytes that
/// were skipped are zero.
pub trait ImageStore {
    /// Bytes of the image so far; at most `u32::MAX`.
    fn len(&self) -> u32;

    /// True without a byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes all of `bytes` from `offset` on, or nothing.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StoreError>;

    /// Fills `buffer` with the bytes from `offset` on; how many there were.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> usize;

    /// Frees everything.
    fn clear(&mut self);
}

/// What a write to `loading` did. The write itself succeeds in every case, as in Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoadingWrite {
    /// `1`: the load begins, without the bytes of an earlier one.
    Started,
    /// `0` after a `1` and some bytes: the image is to be taken out of the store and a worker is to
    /// [`Upload::begin`].
    Committed,
    /// `0` after a `1` without any bytes: nothing happens, and nobody is told.
    Empty,
    /// `-1`: the bytes are gone.
    Aborted,
    /// Any other number, or `0` without a `1`: as `-1`, with a line in Linux's log.
    Unexpected(i64),
    /// An update runs.
    Ignored,
}

/// All that an upload is, in one word: readers see no mix of two moments.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
struct Word {
    #[bits(3)]
    status: u8,
    /// Where the last update failed.
    #[bits(3)]
    failed_in: u8,
    /// 0 without a failure, else a [`FailureWord`].
    #[bits(4)]
    failure: u8,
    loading: bool,
    cancelled: bool,
    #[bits(20)]
    reserved: u32,
    remaining: u32,
}

impl Word {
    fn at(self) -> UploadStatus {
        UploadStatus::from_bits(self.status())
    }

    fn with_at(self, status: UploadStatus) -> Self {
        self.with_status(status as u8)
    }

    fn is_running(self) -> bool {
        self.at() != UploadStatus::Idle
    }

    /// With a failure at the present status.
    fn failed(self, word: FailureWord) -> Self {
        self.with_failed_in(self.status()).with_failure(word.bits())
    }

    fn last_failure(self) -> Option<UploadFailure> {
        let word = FailureWord::from_bits(self.failure())?;
        Some(UploadFailure { status: UploadStatus::from_bits(self.failed_in()), word })
    }
}

/// The state of one firmware-upload directory.
#[derive(Debug, Default)]
pub struct Upload(AtomicU64);

impl Upload {
    /// Nothing was loaded yet.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    fn now(&self) -> Word {
        Word::from(self.0.load(Ordering::Acquire))
    }

    /// Replaces the word by what `change` makes of it; gives the new one. With `None` it stays.
    fn change(&self, change: impl Fn(Word) -> Option<Word>) -> Option<Word> {
        let mut before = self.now();
        loop {
            let after = change(before)?;
            match self.0.compare_exchange_weak(
                before.into(),
                after.into(),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some(after),
                Err(found) => before = Word::from(found),
            }
        }
    }

    /// What all of the files show at one moment.
    pub fn view(&self) -> UploadView {
        let now = self.now();
        let failure = if now.is_running() { None } else { now.last_failure() };
        UploadView { loading: now.loading(), status: now.at(), failure, remaining_size: now.remaining() }
    }

    /// What `loading` shows: an image is coming in.
    pub fn is_loading(&self) -> bool {
        self.now().loading()
    }

    /// What `status` shows.
    pub fn status(&self) -> UploadStatus {
        self.now().at()
    }

    /// What `error` shows; -EBUSY while an update runs.
    pub fn failure(&self) -> Result<Option<UploadFailure>, Errno> {
        let now = self.now();
        if now.is_running() { Err(Errno::EBUSY) } else { Ok(now.last_failure()) }
    }

    /// What `remaining_size` shows: bytes of the last image that were not transferred.
    pub fn remaining_size(&self) -> u32 {
        self.now().remaining()
    }

    /// A write to `loading`. A text that does not begin with a number counts as 0, as in Linux.
    pub fn write_loading(&self, store: &mut impl ImageStore, text: &[u8]) -> LoadingWrite {
        // Only the holder of the store starts an update, so one that does not run now will not.
        if self.now().is_running() {
            return LoadingWrite::Ignored;
        }
        match leading_number(text) {
            1 => {
                store.clear();
                self.change(|word| Some(word.with_loading(true)));
                LoadingWrite::Started
            }
            0 if self.is_loading() => {
                let size = store.len();
                if size == 0 {
                    self.change(|word| Some(word.with_loading(false)));
                    return LoadingWrite::Empty;
                }
                self.change(|_| Some(Word::new().with_at(UploadStatus::Receiving).with_remaining(size)));
                LoadingWrite::Committed
            }
            number => {
                self.discard(store);
                if number == -1 { LoadingWrite::Aborted } else { LoadingWrite::Unexpected(number) }
            }
        }
    }

    fn discard(&self, store: &mut impl ImageStore) {
        store.clear();
        self.change(|word| Some(word.with_loading(false)));
    }

    /// A write to `data`: -ENODEV while an update runs. If the bytes cannot be kept (-EFBIG, -ENOMEM), the
    /// load ends and `error` shows it.
    pub fn write_data(&self, store: &mut impl ImageStore, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        if self.now().is_running() {
            return Err(Errno::ENODEV);
        }
        store.write_at(offset, bytes).map_err(|error| {
            let (errno, word) = match error {
                StoreError::TooLarge => (Errno::EFBIG, FailureWord::InvalidFileSize),
                StoreError::NoMemory => (Errno::ENOMEM, FailureWord::ReadWriteError),
            };
            self.discard(store);
            let at_receiving = UploadStatus::Receiving as u8;
            self.change(|now| Some(now.with_failed_in(at_receiving).with_failure(word.bits())));
            errno
        })
    }

    /// A read of `data`: the bytes that came in so far; -ENODEV while an update runs.
    pub fn read_data(&self, store: &impl ImageStore, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        if self.now().is_running() { Err(Errno::ENODEV) } else { Ok(store.read_at(offset, buffer)) }
    }

    /// A write to `cancel`: -EINVAL unless it says yes, -ENODEV unless an update runs.
    ///
    /// Without `heeded` that is all. With it, an update that did not begin to replace the module ends
    /// before it does.
    pub fn cancel(&self, text: &[u8], heeded: bool) -> Result<(), Errno> {
        if !says_yes(text) {
            return Err(Errno::EINVAL);
        }
        let asked = self.change(|word| match word.at() {
            UploadStatus::Idle => None,
            UploadStatus::Receiving | UploadStatus::Preparing if heeded => Some(word.with_cancelled(true)),
            _ => Some(word),
        });
        asked.map(|_| ()).ok_or(Errno::ENODEV)
    }

    /// The worker begins with the image that was committed; `None` if there is none, or another worker
    /// has it.
    pub fn begin(&self) -> Option<RunningUpload<'_>> {
        self.change(|word| {
            (word.at() == UploadStatus::Receiving).then(|| word.with_at(UploadStatus::Preparing))
        })?;
        Some(RunningUpload { upload: self, ended: false })
    }
}

/// An update that a worker runs. Dropping it, as a worker that panics does, ends it as `hw-error`.
#[derive(Debug)]
#[must_use = "dropping it ends the update as failed"]
pub struct RunningUpload<'a> {
    upload: &'a Upload,
    ended: bool,
}

impl RunningUpload<'_> {
    /// From here on the update cannot be cancelled.
    pub fn transfer(&mut self) -> Result<(), UploadError> {
        let moved =
            self.upload.change(|word| (!word.cancelled()).then(|| word.with_at(UploadStatus::Transferring)));
        moved.map(|_| ()).ok_or(UploadError::Cancelled)
    }

    /// The new module runs: all bytes were transferred.
    pub fn transferred(&mut self) {
        self.upload.change(|word| Some(word.with_at(UploadStatus::Programming).with_remaining(0)));
    }

    /// Ends it well.
    pub fn succeed(mut self) {
        self.end(None);
    }

    /// Ends it as failed where it is.
    pub fn fail(mut self, word: FailureWord) {
        self.end(Some(word));
    }

    fn end(&mut self, failure: Option<FailureWord>) {
        if self.ended {
            return;
        }
        self.ended = true;
        self.upload.change(|word| {
            let word = failure.map_or(word, |failure| word.failed(failure));
            Some(word.with_at(UploadStatus::Idle).with_cancelled(false))
        });
    }
}

impl Drop for RunningUpload<'_> {
    fn drop(&mut self) {
        self.end(Some(FailureWord::HwError));
    }
}

/// The number at the start of a text, as `simple_strtol` finds it: 0 without one. Larger ones than any
/// that matter are cut.
fn leading_number(text: &[u8]) -> i64 {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        all => (false, all),
    };
    let digits = digits.iter().map_while(|&byte| char::from(byte).to_digit(10));
    let number = digits.fold(0i64, |number, digit| number.saturating_mul(10).saturating_add(digit.into()));
    if negative { -number } else { number }
}

/// Whether a text says yes, as `kstrtobool` understands it.
fn says_yes(text: &[u8]) -> bool {
    matches!(text, [b'1' | b'y' | b'Y' | b't' | b'T', ..] | [b'o' | b'O', b'n' | b'N', ..])
}
