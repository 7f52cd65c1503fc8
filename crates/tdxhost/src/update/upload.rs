//! The kernel's firmware upload files: begin, write, commit, wait, read the result.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Bytes of one write to `data`.
const PIECE: usize = 64 << 10;
/// Time between the first looks at `status`; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// How far an upload is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// This many bytes are in the kernel's buffer.
    Written(usize),
    /// The kernel works; text of `status`.
    Working(String),
}

/// Why an upload failed.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// A file could not be written or read.
    #[error("{path}: {cause}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        cause: io::Error,
    },
    /// Another process of this program uploads.
    #[error("{path}: another upload has begun there; nothing was touched, try again behind it", path = .path.display())]
    Taken {
        /// The directory.
        path: PathBuf,
    },
    /// The kernel did not become idle.
    #[error("{path} is still `{status}` after {seconds} s; the update may yet end", path = .path.display())]
    Timeout {
        /// `status`.
        path: PathBuf,
        /// Its text.
        status: String,
        /// How long was waited.
        seconds: u64,
    },
    /// A signal came before the image was committed.
    #[error("interrupted: the upload was abandoned, nothing was touched")]
    Abandoned,
    /// A signal came when the image was committed.
    #[error("interrupted, but the kernel goes on with the update: {path} was `{status}`", path = .path.display())]
    Left {
        /// `status`.
        path: PathBuf,
        /// Its text.
        status: String,
    },
    /// The kernel refused the image or failed to install it.
    #[error("the kernel says {0}")]
    Refused(KernelWord),
}

/// Text of `error`: in which state the upload failed, and the one word that Linux has for the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelWord {
    /// `preparing`, `transferring` or `programming`.
    pub state: String,
    /// The word, such as `firmware-invalid`.
    pub word: String,
}

impl KernelWord {
    /// The text of `error`; `None` if it is empty, which means success.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (state, word) = text.split_once(':').unwrap_or(("", text));
        (!text.is_empty()).then(|| Self { state: state.to_owned(), word: word.to_owned() })
    }

    /// As the kernel writes it.
    pub fn text(&self) -> String {
        if self.state.is_empty() { self.word.clone() } else { format!("{}:{}", self.state, self.word) }
    }
}

impl std::fmt::Display for KernelWord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.state.is_empty() {
            return f.write_str(&self.word);
        }
        write!(f, "{} while {}", self.word, self.state)
    }
}

/// Who is told how far an upload is, and may break it off.
pub type Watch<'a> = dyn FnMut(&Progress) -> ControlFlow<()> + 'a;

/// Uploads `image` through the files in `directory`. Before the image is committed, `watch` can break off
/// without a trace; behind that, only the waiting.
pub fn upload(
    directory: &Path,
    image: &[u8],
    patience: Duration,
    watch: &mut Watch<'_>,
) -> Result<(), UploadError> {
    let _lock = lock(directory)?;
    let loading = directory.join("loading");
    write(&loading, b"1\n")?;
    if let Err(error) = fill(&directory.join("data"), image, watch) {
        // The kernel would wait for the rest; the reason why it did not get it is worth more.
        let _ = write(&loading, b"-1\n");
        return Err(error);
    }
    write(&loading, b"0\n")?;
    wait(&directory.join("status"), patience, watch)?;
    let error = read(&directory.join("error"))?;
    KernelWord::parse(&error).map_or(Ok(()), |word| Err(UploadError::Refused(word)))
}

/// The kernel would let two uploads fill one buffer, and install what comes of it.
fn lock(directory: &Path) -> Result<Flock<File>, UploadError> {
    let path = || directory.to_owned();
    let file = File::open(directory).map_err(|cause| UploadError::File { path: path(), cause })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => UploadError::Taken { path: path() },
        errno => UploadError::File { path: path(), cause: errno.into() },
    })
}

fn fill(data: &Path, image: &[u8], watch: &mut Watch<'_>) -> Result<(), UploadError> {
    let failed = |cause| UploadError::File { path: data.to_owned(), cause };
    let mut file = OpenOptions::new().write(true).open(data).map_err(failed)?;
    let mut written = 0;
    for piece in image.chunks(PIECE) {
        file.write_all(piece).map_err(failed)?;
        written += piece.len();
        if watch(&Progress::Written(written)).is_break() {
            return Err(UploadError::Abandoned);
        }
    }
    Ok(())
}

fn wait(status: &Path, patience: Duration, watch: &mut Watch<'_>) -> Result<(), UploadError> {
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let text = read(status)?;
        if text == "idle" {
            return Ok(());
        }
        if started.elapsed() >= patience {
            let seconds = patience.as_secs();
            return Err(UploadError::Timeout { path: status.to_owned(), status: text, seconds });
        }
        if watch(&Progress::Working(text.clone())).is_break() {
            return Err(UploadError::Left { path: status.to_owned(), status: text });
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn write(path: &Path, text: &[u8]) -> Result<(), UploadError> {
    // In one write: each is a command of its own.
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(text))
        .map_err(|cause| UploadError::File { path: path.to_owned(), cause })
}

fn read(path: &Path) -> Result<String, UploadError> {
    fs::read_to_string(path)
        .map(|text| text.trim_end().to_owned())
        .map_err(|cause| UploadError::File { path: path.to_owned(), cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_nothing_or_a_state_and_a_word() {
        assert_eq!(KernelWord::parse("\n"), None);
        let word = KernelWord::parse("transferring:firmware-invalid\n").unwrap();
        assert_eq!((word.state.as_str(), word.word.as_str()), ("transferring", "firmware-invalid"));
        assert_eq!(word.to_string(), "firmware-invalid while transferring");
        assert_eq!(word.text(), "transferring:firmware-invalid");
        assert_eq!(KernelWord::parse("hw-error").unwrap().to_string(), "hw-error");
    }

    #[test]
    fn a_directory_without_the_files_fails_at_the_first_one() {
        let root = tempfile::tempdir().unwrap();
        let error =
            upload(root.path(), b"x", Duration::ZERO, &mut |_| ControlFlow::Continue(())).unwrap_err();
        assert!(error.to_string().contains("/loading: No such file"), "{error}");
    }

    #[test]
    fn two_uploads_do_not_fill_one_buffer() {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in [("loading", "0\n"), ("data", ""), ("status", "idle\n"), ("error", "")] {
            fs::write(root.path().join(name), text).unwrap();
        }
        let go_on = &mut |_: &Progress| ControlFlow::Continue(());
        let first = lock(root.path()).unwrap();
        let error = upload(root.path(), b"x", Duration::ZERO, go_on).unwrap_err();
        assert!(matches!(error, UploadError::Taken { .. }), "{error}");
        assert_eq!(fs::read(root.path().join("data")).unwrap(), b"");
        drop(first);
        upload(root.path(), b"x", Duration::ZERO, go_on).unwrap();
        assert_eq!(fs::read(root.path().join("data")).unwrap(), b"x");
    }

    #[test]
    fn an_upload_that_cannot_be_filled_is_abandoned() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("loading"), "0\n").unwrap();
        let error =
            upload(root.path(), b"x", Duration::ZERO, &mut |_| ControlFlow::Continue(())).unwrap_err();
        assert!(error.to_string().contains("/data: No such file"), "{error}");
        assert_eq!(fs::read_to_string(root.path().join("loading")).unwrap(), "-1\n");
    }

    #[test]
    fn an_upload_is_broken_off_without_a_trace_until_it_is_committed() {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in [("loading", "0\n"), ("data", ""), ("status", "programming\n"), ("error", "")] {
            fs::write(root.path().join(name), text).unwrap();
        }
        let image = vec![7; PIECE + 1];
        let long = Duration::from_secs(3600);
        for pieces in [1, 2] {
            let mut told = 0;
            let error = upload(root.path(), &image, long, &mut |_| {
                told += 1;
                if told == pieces { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            assert!(matches!(error, Err(UploadError::Abandoned)), "{error:?}");
            assert_eq!(fs::read_to_string(root.path().join("loading")).unwrap(), "-1\n");
        }
        fs::write(root.path().join("loading"), "1\n").unwrap();
        let error = upload(root.path(), &image, long, &mut |progress| match progress {
            Progress::Written(_) => ControlFlow::Continue(()),
            Progress::Working(_) => ControlFlow::Break(()),
        });
        assert!(error.unwrap_err().to_string().contains("/status was `programming`"));
        assert_eq!(fs::read_to_string(root.path().join("loading")).unwrap(), "0\n");
    }

    #[test]
    fn a_kernel_that_stays_busy_is_named_with_its_state() {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in [("loading", "0\n"), ("data", ""), ("status", "programming\n"), ("error", "")] {
            fs::write(root.path().join(name), text).unwrap();
        }
        let mut seen = Vec::new();
        let error = upload(root.path(), &vec![7; PIECE + 1], Duration::ZERO, &mut |progress| {
            seen.push(progress.clone());
            ControlFlow::Continue(())
        })
        .unwrap_err();
        assert!(error.to_string().contains("/status is still `programming` after 0 s"), "{error}");
        assert_eq!(seen, [Progress::Written(PIECE), Progress::Written(PIECE + 1)]);
        assert_eq!(fs::read(root.path().join("data")).unwrap(), vec![7; PIECE + 1]);
        assert_eq!(fs::read_to_string(root.path().join("loading")).unwrap(), "0\n");
    }
}
