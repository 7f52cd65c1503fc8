//! A body for the firmware-upload files, one user after the other: the images that get to the update,
//! and what the files show behind it.

use std::fmt;
use std::sync::{Arc, Mutex};

use tdx_abi::features::Features0;
use tdx_abi::seamldr::Version;
use tdx_host::traits::LogLevel;
use tdx_host::upload::{UploadRules, UploadStatus};
use tdx_host::{Errno, HostError, UpdateFailure, UpdateObserver, UpdatePhase, UpdateReport};
use tdx_platform::{MAX_IMAGE_BYTES, UploadTarget, Uploader};

use super::bytes::Choices;

/// Operations of one run at most.
const OPERATIONS: usize = 128;
/// What an update of these files can end in.
const ENDS: [Option<HostError>; 4] =
    [None, Some(HostError::UpdateLogFull), Some(HostError::NotInitialised), Some(HostError::GoingDown)];

const REPORT: UpdateReport = UpdateReport {
    from: Version::new(2, 0, 8),
    to: Version::new(2, 0, 14),
    cpus: 2,
    was_down: false,
    install_sessions: 1,
    remaining_updates: None,
    opted_in: Features0::EMPTY,
    opt_in_lost: Features0::EMPTY,
};

/// A host that takes every image and ends every update as it was told.
#[derive(Debug, Default)]
struct Target(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    gone: bool,
    end: Option<HostError>,
    images: Vec<Vec<u8>>,
}

impl Target {
    fn with<R>(&self, look: impl FnOnce(&mut Told) -> R) -> R {
        look(&mut self.0.lock().expect("nobody panics with it"))
    }
}

impl UploadTarget for Target {
    fn takes_updates(&self) -> bool {
        self.with(|told| !told.gone)
    }

    fn update(&self, image: &[u8], observer: &dyn UpdateObserver) -> Result<UpdateReport, HostError> {
        observer.phase_started(UpdatePhase::Shutdown);
        self.with(|told| {
            told.images.push(image.to_vec());
            told.end.map_or(Ok(REPORT), Err)
        })
    }

    fn update_failure(&self) -> Option<UpdateFailure> {
        None
    }

    fn log(&self, _: LogLevel, line: fmt::Arguments<'_>) {
        assert!(!line.to_string().contains('\n'), "{line}");
    }
}

/// The files as a reader of Linux's `sysfs_upload.c` would expect them.
#[derive(Debug, Default)]
struct Expected {
    loading: bool,
    bytes: Vec<u8>,
    /// Text of `error`.
    error: String,
    remaining: usize,
    images: Vec<Vec<u8>>,
}

/// Any order of writes to the files: what is committed is what was written, and `error` tells of the
/// last update that ran.
pub fn upload_files(data: &[u8]) {
    let mut choices = Choices::new(data);
    let rules =
        choices.of(&[UploadRules::LINUX_7_3, UploadRules::POSTING_2025_09, UploadRules::POSTING_2025_03]);
    let target = Arc::new(Target::default());
    let files = Uploader::new(Arc::clone(&target) as Arc<dyn UploadTarget>);
    let mut expected = Expected::default();
    for _ in 0..OPERATIONS {
        if choices.is_empty() {
            break;
        }
        match choices.below(16) {
            0 => target.with(|told| told.end = choices.of(&ENDS)),
            1 => {
                // Without a device there are no files, and nothing is forgotten.
                target.with(|told| told.gone = true);
                assert_eq!(files.write_loading(b"0\n", rules), Err(Errno::ENODEV));
                assert_eq!(files.write_data(0, b"x"), Err(Errno::ENODEV));
                assert_eq!((files.status(), files.failure()), (Err(Errno::ENODEV), Err(Errno::ENODEV)));
                target.with(|told| told.gone = false);
            }
            2..=7 => loading(&files, &target, rules, &mut expected, &mut choices),
            8 => {
                let text: &[u8] = choices.of(&[&b"1\n"[..], b"0\n", b"yes", b"on", b""]);
                let asked = files.cancel(text, rules);
                assert!(matches!(asked, Err(Errno::ENODEV | Errno::EINVAL)), "nothing runs: {asked:?}");
            }
            _ => write(&files, &mut expected, &mut choices),
        }
        agree(&files, &target, &expected);
    }
}

fn loading(
    files: &Uploader,
    target: &Target,
    rules: UploadRules,
    expected: &mut Expected,
    choices: &mut Choices<'_>,
) {
    let texts: [&[u8]; 8] = [b"1\n", b"1", b"0\n", b"0", b"-1\n", b"7", b"", b"none"];
    let text = choices.of(&texts);
    assert_eq!(files.write_loading(text, rules), Ok(()));
    files.wait();
    match text {
        b"1\n" | b"1" => {
            expected.loading = true;
            expected.bytes.clear();
        }
        // What begins with no number counts as 0.
        b"0\n" | b"0" | b"" | b"none" if expected.loading => {
            expected.loading = false;
            if expected.bytes.is_empty() {
                return;
            }
            let image = std::mem::take(&mut expected.bytes);
            expected.remaining = image.len();
            // No file of this test has another header than zeros or letters.
            let end = target.with(|told| told.end);
            expected.error = String::new();
            match end {
                None => expected.remaining = 0,
                Some(error) => expected.error = format!("transferring:{}", rules.word(&error.into())),
            }
            expected.images.push(image);
        }
        _ => {
            expected.loading = false;
            expected.bytes.clear();
        }
    }
}

fn write(files: &Uploader, expected: &mut Expected, choices: &mut Choices<'_>) {
    let near = choices.below(64) as u64;
    let limit = MAX_IMAGE_BYTES as u64;
    // Mostly where an image goes on; now and then a hole, or where none can be.
    let end = expected.bytes.len() as u64;
    let offset = match choices.below(32) {
        // Seldom: 64 MiB are written.
        0 if near == 40 => limit - near,
        0 | 1 => limit + near,
        2 => u64::MAX - near,
        3 => near,
        4 => end + near,
        _ => end,
    };
    let bytes = vec![choices.of(b"ab\0"); choices.below(32)];
    let done = files.write_data(offset, &bytes);
    match offset.checked_add(bytes.len() as u64).filter(|&end| end <= limit) {
        Some(end) if end <= 4096 => {
            assert_eq!(done, Ok(()));
            let (start, end) =
                (usize::try_from(offset).expect("small"), usize::try_from(end).expect("small"));
            expected.bytes.resize(expected.bytes.len().max(end), 0);
            expected.bytes[start..end].copy_from_slice(&bytes);
        }
        // A whole 64 MiB: once is enough to see that they are taken, but they are not kept here.
        Some(_) => {
            assert_eq!(done, Ok(()));
            assert_eq!(files.write_loading(b"-1", UploadRules::LINUX_7_3), Ok(()));
            (expected.loading, expected.bytes) = (false, Vec::new());
        }
        None => {
            assert_eq!(done, Err(Errno::EFBIG));
            (expected.loading, expected.bytes) = (false, Vec::new());
            "receiving:invalid-file-size".clone_into(&mut expected.error);
        }
    }
}

fn agree(files: &Uploader, target: &Target, expected: &Expected) {
    assert_eq!(files.status(), Ok(UploadStatus::Idle));
    assert_eq!(files.is_loading(), Ok(expected.loading));
    let error = files.failure().expect("nothing runs").map_or(String::new(), |failure| failure.to_string());
    assert_eq!(error, expected.error);
    assert_eq!(files.remaining_size().map(|size| size as usize), Ok(expected.remaining));
    assert_eq!(files.read_data(0, 4096).as_deref(), Ok(&expected.bytes[..]));
    target.with(|told| assert_eq!(told.images, expected.images, "what was committed is what came"));
}
