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

/// Bytes that outlast a reset.
pub(super) trait Memory {
    /// One byte.
    fn read(&self, index: u8) -> io::Result<u8>;
    /// Sets one byte.
    fn write(&self, index: u8, value: u8) -> io::Result<()>;
}

/// The store, for as long as the plan runs.
#[derive(Debug)]
pub(super) struct Boots<M = Cmos> {
    memory: M,
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
    /// Reads the count of this machine and notes that this boot is under way.
    pub(super) fn begin() -> Result<Self, Error> {
        Self::begin_in(Cmos::open()?)
    }
}

impl<M: Memory> Boots<M> {
    fn begin_in(memory: M) -> Result<Self, Error> {
        let (magic, restarts, check) =
            (memory.read(MAGIC_AT)?, memory.read(COUNT_AT)?, memory.read(CHECK_AT)?);
        let restarts = if magic == MAGIC && check == !restarts {
            if memory.read(RUNNING_AT)? != 0 {
                return Err(Error::Unasked);
            }
            restarts
        } else {
            0
        };
        let boots = Self { memory, restarts };
        boots.set(restarts, true)?;
        Ok(boots)
    }

    /// Restarts that lie behind this boot.
    pub(super) fn restarts(&self) -> u8 {
        self.restarts
    }

    /// Counts one more and restarts the machine. Returns only when that fails.
    pub(super) fn restart(&self, report: &Report) -> Result<()> {
        self.count_one_more()?;
        report.drain();
        nix::unistd::sync();
        let Err(errno) = nix::sys::reboot::reboot(RebootMode::RB_AUTOBOOT);
        // The boot goes on, so that only a reset that follows is one that nobody asked for.
        self.set(self.restarts, true).context("the boot count cannot be written")?;
        Err(errno).context("the kernel does not restart")
    }

    fn count_one_more(&self) -> Result<()> {
        let next = self.restarts.checked_add(1).context("the machine was restarted too often")?;
        self.set(next, false).context("the boot count cannot be written")
    }

    /// The next plan begins from nothing.
    pub(super) fn forget(&self) -> io::Result<()> {
        self.memory.write(MAGIC_AT, 0)
    }

    fn set(&self, restarts: u8, running: bool) -> io::Result<()> {
        self.memory.write(MAGIC_AT, MAGIC)?;
        self.memory.write(COUNT_AT, restarts)?;
        self.memory.write(CHECK_AT, !restarts)?;
        self.memory.write(RUNNING_AT, u8::from(running))
    }
}

/// The real-time clock's memory.
#[derive(Debug)]
pub(super) struct Cmos(File);

impl Cmos {
    fn open() -> io::Result<Self> {
        OpenOptions::new().read(true).write(true).open("/dev/port").map(Self)
    }
}

impl Memory for Cmos {
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Memory of a machine that a test resets by beginning again.
    #[derive(Debug, Default)]
    struct Bytes(RefCell<std::collections::BTreeMap<u8, u8>>);

    impl Memory for &Bytes {
        fn read(&self, index: u8) -> io::Result<u8> {
            Ok(self.0.borrow().get(&index).copied().unwrap_or(0))
        }

        fn write(&self, index: u8, value: u8) -> io::Result<()> {
            self.0.borrow_mut().insert(index, value);
            Ok(())
        }
    }

    #[derive(Debug)]
    struct Broken;

    impl Memory for Broken {
        fn read(&self, _index: u8) -> io::Result<u8> {
            Err(io::ErrorKind::NotFound.into())
        }

        fn write(&self, _index: u8, _value: u8) -> io::Result<()> {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    #[test]
    fn restarts_are_counted_over_resets() {
        let memory = Bytes::default();
        for expected in 0..3 {
            let boots = Boots::begin_in(&memory).unwrap();
            assert_eq!(boots.restarts(), expected);
            boots.count_one_more().unwrap();
        }
    }

    #[test]
    fn a_reset_that_nobody_asked_for_is_found() {
        let memory = Bytes::default();
        let _first = Boots::begin_in(&memory).unwrap();
        assert!(matches!(Boots::begin_in(&memory), Err(Error::Unasked)));
    }

    #[test]
    fn a_plan_that_ended_leaves_nothing_behind() {
        let memory = Bytes::default();
        Boots::begin_in(&memory).unwrap().count_one_more().unwrap();
        Boots::begin_in(&memory).unwrap().forget().unwrap();
        assert_eq!(Boots::begin_in(&memory).unwrap().restarts(), 0);
    }

    #[test]
    fn bytes_that_somebody_else_left_are_no_count() {
        for other in [vec![0xff; 4], vec![MAGIC, 3, 3, 0], vec![0, 3, !3, 0]] {
            let memory = Bytes::default();
            for (index, byte) in (MAGIC_AT..).zip(other) {
                (&memory).write(index, byte).unwrap();
            }
            assert_eq!(Boots::begin_in(&memory).unwrap().restarts(), 0);
        }
    }

    #[test]
    fn the_count_does_not_wrap() {
        let memory = Bytes::default();
        Boots::begin_in(&memory).unwrap().set(u8::MAX, false).unwrap();
        assert!(Boots::begin_in(&memory).unwrap().count_one_more().is_err());
    }

    #[test]
    fn memory_that_cannot_be_reached_says_so() {
        let error = Boots::begin_in(Broken).unwrap_err();
        assert!(matches!(error, Error::Store(_)));
        assert!(error.to_string().contains("CONFIG_DEVPORT"), "{error}");
    }
}
