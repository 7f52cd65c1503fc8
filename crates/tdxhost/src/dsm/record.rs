//! What is kept of the messages that pass: a capture, a trace and a key log.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pcie::doe::{Object, ObjectType};
use spdm::Kind;
use spdm::ids::SessionId;
use spdm::key_schedule::Direction;
use spdm::observe::{Observer, SessionSecrets};

use super::keylog::KeyLog;
use super::pcap::Pcap;
use super::trace::{Secrets, Trace};

/// Whose message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The requester's.
    Requester,
    /// The responder's.
    Responder,
}

/// Why a file cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {what} {}: {cause}", path.display())]
pub struct RecordError {
    /// What the file is.
    pub what: &'static str,
    /// Its name.
    pub path: PathBuf,
    /// The operating system's reason.
    pub cause: io::Error,
}

struct Kept<T> {
    path: PathBuf,
    file: T,
}

/// Keeps what it was asked to keep; by default nothing.
///
/// The first file that cannot be written ends all keeping. A line on standard error says so at once,
/// as a device may be served for long, and [`finish`](Self::finish) tells the caller.
#[derive(Default)]
pub struct Recorder {
    pcap: Option<Kept<Pcap<File>>>,
    trace: Option<Kept<Trace<File>>>,
    keylog: Option<Kept<KeyLog<File>>>,
    failed: Option<RecordError>,
}

impl Recorder {
    /// Keeps every data object in a capture.
    pub fn keep_pcap(&mut self, path: &Path) -> Result<(), RecordError> {
        let file = create("the capture", path, 0o644, Pcap::new)?;
        self.pcap = Some(Kept { path: path.to_owned(), file });
        Ok(())
    }

    /// Keeps every message decoded, one line of JSON each; those of sessions in plaintext. With secrets
    /// only the file's owner may read it.
    pub fn keep_trace(&mut self, path: &Path, secrets: Secrets) -> Result<(), RecordError> {
        let mode = if secrets == Secrets::Shown { 0o600 } else { 0o644 };
        let file = create("the trace", path, mode, |file| Ok(Trace::new(file, secrets)))?;
        self.trace = Some(Kept { path: path.to_owned(), file });
        Ok(())
    }

    /// Keeps the secrets of sessions; only its owner may read the file.
    pub fn keep_keylog(&mut self, path: &Path) -> Result<(), RecordError> {
        let file = create("the key log", path, 0o600, KeyLog::new)?;
        self.keylog = Some(Kept { path: path.to_owned(), file });
        Ok(())
    }

    /// A whole data object passed.
    pub fn object(&mut self, sender: Sender, object: &[u8]) {
        let time = now();
        if let Some(Kept { path, file }) = &mut self.pcap {
            let written = file.object(time, object);
            self.failed = failure("the capture", path, written);
        }
        if let Some(Kept { path, file }) = &mut self.trace {
            let parsed = Object::parse(object);
            let written = match parsed.map(|object| (object.object_type, object.payload)) {
                Ok((ObjectType::SPDM, payload)) => file.message(time, sender, Kind::Clear, payload),
                Ok((ObjectType::SECURED_SPDM, payload)) => file.message(time, sender, Kind::Secured, payload),
                _ => file.other(time, sender, object),
            };
            self.failed = self.failed.take().or_else(|| failure("the trace", path, written));
        }
        self.give_up_after_a_failure();
    }

    /// Whether everything was kept.
    pub fn finish(&mut self) -> Result<(), RecordError> {
        self.failed.take().map_or(Ok(()), Err)
    }

    fn give_up_after_a_failure(&mut self) {
        if let Some(error) = &self.failed {
            if self.pcap.is_some() || self.trace.is_some() || self.keylog.is_some() {
                eprintln!("tdxhost: {error}; nothing more is recorded");
            }
            self.pcap = None;
            self.trace = None;
            self.keylog = None;
        }
    }
}

impl Observer for Recorder {
    fn secured(&mut self, direction: Direction, session: SessionId, sequence: u64, plaintext: &[u8]) {
        if let Some(Kept { path, file }) = &mut self.trace {
            let written = file.secured(now(), direction, session, sequence, plaintext);
            self.failed = failure("the trace", path, written);
        }
        self.give_up_after_a_failure();
    }

    fn secrets(&mut self, secrets: &SessionSecrets<'_>) {
        if let Some(Kept { path, file }) = &mut self.keylog {
            let written = file.secrets(secrets);
            self.failed = failure("the key log", path, written);
        }
        self.give_up_after_a_failure();
    }
}

/// A new file, over one that was there; `mode` is for whom.
pub(crate) fn create<T>(
    what: &'static str,
    path: &Path,
    mode: u32,
    begin: impl FnOnce(File) -> io::Result<T>,
) -> Result<T, RecordError> {
    let open = || {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
        // A file that was there has kept its mode; a pipe or /dev/stdout keeps it for good.
        let metadata = file.metadata()?;
        let for_others = |mode: u32| mode & 0o077 != 0;
        if !for_others(mode) && metadata.is_file() && for_others(metadata.permissions().mode()) {
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        begin(file)
    };
    open().map_err(|cause| RecordError { what, path: path.to_owned(), cause })
}

/// What a write that failed is told as.
pub(crate) fn failure(what: &'static str, path: &Path, written: io::Result<()>) -> Option<RecordError> {
    written.err().map(|cause| RecordError { what, path: path.to_owned(), cause })
}

/// Time since 1970.
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_log_is_its_owner_s_alone_even_over_a_file_that_was_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        std::fs::write(&path, "old").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        Recorder::default().keep_keylog(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // A capture has no secrets; the file's mode is its owner's affair.
        let capture = folder.path().join("capture");
        std::fs::write(&capture, "old").unwrap();
        std::fs::set_permissions(&capture, Permissions::from_mode(0o640)).unwrap();
        Recorder::default().keep_pcap(&capture).unwrap();
        assert_eq!(std::fs::metadata(&capture).unwrap().permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn the_first_file_that_cannot_be_written_ends_all_keeping() {
        let folder = tempfile::tempdir().unwrap();
        let (capture, trace) = (folder.path().join("capture"), folder.path().join("trace"));
        std::fs::write(&trace, "").unwrap();
        let mut recorder = Recorder::default();
        recorder.keep_pcap(&capture).unwrap();
        let file = Trace::new(File::open(&trace).unwrap(), Secrets::Hidden);
        recorder.trace = Some(Kept { path: trace, file });
        let object = [1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0];
        recorder.object(Sender::Requester, &object);
        let kept = std::fs::metadata(&capture).unwrap().len();
        recorder.object(Sender::Requester, &object);
        assert_eq!(std::fs::metadata(&capture).unwrap().len(), kept);
        let error = recorder.finish().unwrap_err().to_string();
        assert!(error.starts_with("cannot write the trace /"), "{error}");
        assert!(recorder.finish().is_ok());
    }
}
