//! Files that a command writes: whole or not at all, and never over another one unasked.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

/// Where a command writes.
#[derive(Args, Clone, Debug)]
pub(super) struct OutArgs {
    /// File to write
    #[arg(long, value_name = "FILE")]
    pub(super) out: PathBuf,
    /// Write over a file that exists
    #[arg(long)]
    pub(super) force: bool,
}

impl OutArgs {
    /// Writes the file.
    pub(super) fn write(&self, bytes: &[u8]) -> anyhow::Result<()> {
        write(&self.out, bytes, self.force)
    }
}

/// Fails if the file exists and may not be written over.
pub(super) fn check_free(path: &Path, force: bool) -> anyhow::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => anyhow::bail!("{} is a directory; name a file in it", path.display()),
        Ok(found) if force && found.is_file() => Ok(()),
        Ok(_) if force => anyhow::bail!("{} is no regular file", path.display()),
        Ok(_) => anyhow::bail!("{} exists; --force writes over it", path.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot write {}", path.display())),
    }
}

/// Writes `bytes` under another name and renames the file when it is whole.
pub(super) fn write(path: &Path, bytes: &[u8], force: bool) -> anyhow::Result<()> {
    check_free(path, force)?;
    let name = path.file_name().with_context(|| format!("{} names no file", path.display()))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(hidden);
    let written = fill(&part, bytes).and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        // What is left of it is of no use; why it was left is what counts.
        let _ = fs::remove_file(&part);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

fn fill(part: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(part)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_whole_and_nothing_else_is_left() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x.blob");
        write(&path, b"one", false).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_exists_is_kept_unless_asked() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x.blob");
        fs::write(&path, "old").unwrap();
        let error = write(&path, b"new", false).unwrap_err().to_string();
        assert_eq!(error, format!("{} exists; --force writes over it", path.display()));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write(&path, b"new", true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_directory_is_never_written_over() {
        let root = tempfile::tempdir().unwrap();
        for force in [false, true] {
            let error = write(root.path(), b"x", force).unwrap_err().to_string();
            assert!(error.ends_with("is a directory; name a file in it"), "{error}");
        }
        let missing = root.path().join("none/x.blob");
        let error = format!("{:#}", write(&missing, b"x", false).unwrap_err());
        assert!(error.starts_with("cannot write ") && error.contains("No such file"), "{error}");
    }
}
