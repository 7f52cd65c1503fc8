//! The socket file: where it is, whose it is, and that it goes when the server goes.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Only the user who serves may ask.
const MODE: u32 = 0o600;

/// Most bytes of a path: the system's 107 less those of the passing name with a process id.
const LONGEST: usize = 99;

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error("cannot listen on {0}: another server answers there")]
    Taken(PathBuf),
    /// Something else has the name.
    #[error("cannot listen on {0}: it exists and is not a socket")]
    NotASocket(PathBuf),
    /// Unix sockets have short names.
    #[error("cannot listen on {0}: the path is too long for a socket; take one of at most {LONGEST} bytes")]
    TooLong(PathBuf),
    /// The system refused.
    #[error("cannot listen on {path}: {cause}")]
    Io {
        /// The socket file.
        path: PathBuf,
        /// The system's answer.
        cause: io::Error,
    },
}

/// Where server and client meet unless they are told otherwise: `tdxhost.sock` in
/// `$XDG_RUNTIME_DIR`, or in `/run` without it.
pub fn default_socket() -> PathBuf {
    std::env::var_os("XDG_RUNTIME_DIR")
        .filter(|directory| !directory.is_empty())
        .map_or_else(|| PathBuf::from("/run"), PathBuf::from)
        .join("tdxhost.sock")
}

/// A listening socket with its file; the file goes with it.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    /// Device and inode, so that only our own file is removed.
    identity: (u64, u64),
}

impl Socket {
    /// Listens on `path`; a socket file that nobody answers on is replaced.
    pub(super) fn listen(path: &Path) -> Result<(Self, UnixListener), SocketError> {
        let failed = |cause| SocketError::Io { path: path.to_owned(), cause };
        if path.as_os_str().len() > LONGEST {
            return Err(SocketError::TooLong(path.to_owned()));
        }
        // The file gets its mode under another name and its own name by a link, which fails if the
        // name is taken: at no moment can anybody else connect, and of two servers one wins.
        let mut other = path.as_os_str().to_owned();
        other.push(format!(".{}", std::process::id()));
        let other = PathBuf::from(other);
        let listener = UnixListener::bind(&other).map_err(failed)?;
        let made = fs::set_permissions(&other, Permissions::from_mode(MODE))
            .map_err(failed)
            .and_then(|()| claim(&other, path))
            .and_then(|()| fs::symlink_metadata(path).map_err(failed));
        let removed = fs::remove_file(&other).map_err(failed);
        let metadata = made?;
        removed?;
        let identity = (metadata.dev(), metadata.ino());
        Ok((Self { path: path.to_owned(), identity }, listener))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Gives the socket file `from` the name `path`, past a stale file.
fn claim(from: &Path, path: &Path) -> Result<(), SocketError> {
    let failed = |cause| SocketError::Io { path: path.to_owned(), cause };
    match fs::hard_link(from, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        result => return result.map_err(failed),
    }
    if !fs::symlink_metadata(path).map_err(failed)?.file_type().is_socket() {
        return Err(SocketError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path) {
        Ok(_) => return Err(SocketError::Taken(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) => return Err(failed(error)),
    }
    fs::remove_file(path).map_err(failed)?;
    fs::hard_link(from, path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => SocketError::Taken(path.to_owned()),
        _ => failed(error),
    })
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours {
            // A file that cannot be removed is stale for the next server, which replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_for_its_owner_and_goes_with_the_server() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api");
        let (socket, listener) = Socket::listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, MODE);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        UnixStream::connect(&path).unwrap();
        drop((socket, listener));
        assert!(!path.exists());
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused_in_words() {
        let directory = tempfile::tempdir().unwrap();
        let fill = LONGEST - directory.path().as_os_str().len() - 1;
        assert!(Socket::listen(&directory.path().join("x".repeat(fill))).is_ok());
        let error = Socket::listen(&directory.path().join("x".repeat(fill + 1))).unwrap_err();
        assert!(error.to_string().ends_with("take one of at most 99 bytes"), "{error}");
    }

    #[test]
    fn a_name_on_which_somebody_answers_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api");
        let live = UnixListener::bind(&path).unwrap();
        assert!(matches!(Socket::listen(&path), Err(SocketError::Taken(_))));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        drop(live);
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let (_socket, _listener) = Socket::listen(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api");
        fs::write(&path, "mine").unwrap();
        assert!(matches!(Socket::listen(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }

    #[test]
    fn a_directory_that_is_missing_is_named() {
        let error = Socket::listen(Path::new("/nonexistent/api")).unwrap_err();
        assert!(error.to_string().starts_with("cannot listen on /nonexistent/api: "));
    }

    #[test]
    fn a_file_that_took_the_name_later_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api");
        let (socket, _listener) = Socket::listen(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        drop(socket);
        assert!(path.exists());
    }
}
