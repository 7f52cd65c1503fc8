//! Small files of the kernel, with the name of the error when one refuses.

use std::{fs, io, path::Path};

use anyhow::{Context, Result};
use nix::errno::Errno;

/// The error's name: `ENXIO`.
pub(super) fn errno_name(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => format!("{:?}", Errno::from_raw(number)),
        None => error.kind().to_string(),
    }
}

/// The text without the line's end.
pub(super) fn read_line(path: impl AsRef<Path>) -> io::Result<String> {
    Ok(fs::read_to_string(path)?.trim_end_matches('\n').to_owned())
}

/// As [`read_line`], with the path in the error.
pub(super) fn line_of(path: &str) -> Result<String> {
    read_line(path).with_context(|| format!("{path} cannot be read"))
}

/// Writes into a file that is there.
pub(super) fn write(path: impl AsRef<Path>, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    // One write: sysfs takes each as a whole.
    let written = file.write(bytes)?;
    if written == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}
