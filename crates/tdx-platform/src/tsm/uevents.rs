//! What user space was told.

use std::collections::VecDeque;
use std::fmt;

use parking_lot::Mutex;
use tdx_host::traits::{UeventAction, Uevents};

use crate::platform::Platform;

/// Records that are kept.
const KEPT: usize = 4096;

/// Something that user space was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UeventRecord {
    /// Its number, ascending without gaps from 1 in a boot.
    pub seq: u64,
    /// What happened.
    pub action: UeventAction,
    /// To which device, below `/sys`.
    pub devpath: String,
    /// In which subsystem.
    pub subsystem: String,
    /// One more line, `KEY=value`.
    pub extra: Option<String>,
}

/// The last records of a boot.
#[derive(Debug, Default)]
pub(crate) struct UeventLog(Mutex<Records>);

#[derive(Debug, Default)]
struct Records {
    last: u64,
    kept: VecDeque<UeventRecord>,
}

impl UeventLog {
    /// Forgets everything: a boot begins.
    pub(crate) fn clear(&self) {
        *self.0.lock() = Records::default();
    }

    /// Records after `seq`, oldest first.
    pub(crate) fn after(&self, seq: u64) -> Vec<UeventRecord> {
        self.0.lock().kept.iter().filter(|record| record.seq > seq).cloned().collect()
    }
}

impl Uevents for Platform {
    fn uevent(
        &self,
        action: UeventAction,
        devpath: fmt::Arguments<'_>,
        subsystem: &str,
        extra: Option<fmt::Arguments<'_>>,
    ) {
        let (devpath, extra) = (devpath.to_string(), extra.map(|extra| extra.to_string()));
        let mut records = self.uevents.0.lock();
        records.last += 1;
        let seq = records.last;
        if records.kept.len() == KEPT {
            records.kept.pop_front();
        }
        records.kept.push_back(UeventRecord { seq, action, devpath, subsystem: subsystem.to_owned(), extra });
    }
}
