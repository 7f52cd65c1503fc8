//! Reading `/dev/kmsg`.

use std::{fs::OpenOptions, io::Read as _, os::unix::fs::OpenOptionsExt as _};

use anyhow::{Context, Result};
use nix::{errno::Errno, libc::O_NONBLOCK};
use tdx_linux_guest::kernel_log::{Record, is_alarm};

/// Every record that the kernel's buffer holds.
pub(super) fn read() -> Result<Vec<Record>> {
    let mut log = OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open("/dev/kmsg")
        .context("the kernel's log cannot be opened")?;
    let mut records = Vec::new();
    // A read gives one record, and a record is never longer than this.
    let mut record = vec![0; 16 << 10];
    loop {
        match log.read(&mut record) {
            Ok(length) => {
                let text = String::from_utf8_lossy(record.get(..length).unwrap_or_default());
                records.extend(Record::parse(&text));
            }
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EAGAIN) => return Ok(records),
                // The oldest records were overwritten meanwhile: goes on with the oldest that is left.
                Some(Errno::EPIPE | Errno::EINTR) => {}
                _ => return Err(error).context("the kernel's log cannot be read"),
            },
        }
    }
}

/// What the kernel says about trouble of its own.
pub(super) fn alarms() -> Result<Vec<String>> {
    Ok(read()?.into_iter().map(|record| record.text).filter(|text| is_alarm(text)).collect())
}
