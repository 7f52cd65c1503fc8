//! How often the plan has restarted the machine: two bytes of the real-time clock's CMOS memory, which a reset leaves
//! as they are. They are reached through `/dev/port`, because `/dev/nvram` refuses memory whose checksum no firmware
//! has made.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
};

use anyhow::{Context, Result};
use nix::sys::reboot::RebootMode;

use super::report::Report;

/// Index and data port of the CMOS memory.
const INDEX_PORT: u64 = 0x70;
const DATA_PORT: u64 = 0x71;
/// The bytes that are used. PC firmware uses those below 0x60.
const MAGIC_AT: u8 = 0x70;
const COUNT_AT: u8 = 0x71;
const CHECK_AT: u8 = 0x72;
const RUNNING_AT: u8 = 0x73;
const MAGIC: u8 = 0xd7;

/// The store, for as long as the plan runs.
#[derive(Debug)]
pub(super) struct Boots {
    cmos: Cmos,
    restarts: u8,
}

/// Why the count cannot be trusted.
#[derive(Debug)]
pub(super) enum Error {
    /// The machine came back without having been asked to.
    Unasked,
    /// The memory cannot be reached.
    Store(io::Error),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unasked => f.write_str("the machine was reset in the middle of the plan"),
            Self::Store(error) => {
                write!(f, "the boot count has no place, /dev/port (CONFIG_DEVPORT) says: {error}")
            }
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Store(error)
    }
}

impl Boots {
    /// Reads the count and notes that this boot is under way.
    pub(super) fn begin() -> Result<Self, Error> {
        let cmos = Cmos::open()?;
        let (magic, restarts, check) = (cmos.read(MAGIC_AT)?, cmos.read(COUNT_AT)?, cmos.read(CHECK_AT)?);
        if magic != MAGIC || check != !restarts {
            let boots = Self { cmos, restarts: 0 };
            boots.set(0, true)?;
            return Ok(boots);
        }
        if cmos.read(RUNNING_AT)? != 0 {
            return Err(Error::Unasked);
        }
        let boots = Self { cmos, restarts };
        boots.set(restarts, true)?;
        Ok(boots)
    }

    /// Restarts that lie behind this boot.
    pub(super) fn restarts(&self) -> u8 {
        self.restarts
    }

    /// Counts one more and restarts the machine. Returns only when that fails.
    pub(super) fn restart(&self, report: &Report) -> Result<()> {
        let next = self.restarts.checked_add(1).context("the machine was restarted too often")?;
        self.set(next, false).context("the boot count cannot be written")?;
        report.drain();
        nix::unistd::sync();
        let Err(errno) = nix::sys::reboot::reboot(RebootMode::RB_AUTOBOOT);
        Err(errno).context("the kernel does not restart")
    }

    /// The next plan begins from nothing.
    pub(super) fn forget(&self) -> io::Result<()> {
        self.cmos.write(MAGIC_AT, 0)
    }

    fn set(&self, restarts: u8, running: bool) -> io::Result<()> {
        self.cmos.write(MAGIC_AT, MAGIC)?;
        self.cmos.write(COUNT_AT, restarts)?;
        self.cmos.write(CHECK_AT, !restarts)?;
        self.cmos.write(RUNNING_AT, u8::from(running))
    }
}

#[derive(Debug)]
struct Cmos(File);

impl Cmos {
    fn open() -> io::Result<Self> {
        OpenOptions::new().read(true).write(true).open("/dev/port").map(Self)
    }

    fn read(&self, index: u8) -> io::Result<u8> {
        let mut byte = [0];
        self.0.write_all_at(&[index], INDEX_PORT)?;
        self.0.read_exact_at(&mut byte, DATA_PORT)?;
        Ok(byte[0])
    }

    fn write(&self, index: u8, value: u8) -> io::Result<()> {
        self.0.write_all_at(&[index], INDEX_PORT)?;
        self.0.write_all_at(&[value], DATA_PORT)
    }
}
