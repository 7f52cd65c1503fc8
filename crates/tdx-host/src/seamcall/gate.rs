//! Who may call the module at all.

use super::SeamcallCause;
use crate::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// Stands before every SEAMCALL: open while the module is in use, shut to all but an update while it is
/// down, closed for good once the host goes down. Counts the calls that are interrupted inside the module.
#[derive(Debug, Default)]
pub struct Gate {
    state: AtomicU8,
    interrupted: AtomicU32,
}

const OPEN: u8 = 0;
const DOWN: u8 = 1;
const GONE: u8 = 2;
const CLOSED: u8 = 3;

impl Gate {
    /// An open gate.
    pub const fn new() -> Self {
        Self { state: AtomicU8::new(OPEN), interrupted: AtomicU32::new(0) }
    }

    /// Closes the gate for good. Takes no lock, fit for a crash.
    pub fn close(&self) {
        self.state.store(CLOSED, Ordering::Release);
    }

    /// True after [`Gate::close`].
    pub fn is_closed(&self) -> bool {
        self.state.load(Ordering::Acquire) == CLOSED
    }

    /// Calls that were interrupted inside the module and have not ended, given up or about to be resumed.
    pub fn interrupted_calls(&self) -> u32 {
        self.interrupted.load(Ordering::Acquire)
    }

    /// The module was shut down.
    pub(crate) fn module_down(&self) {
        self.turn(DOWN);
    }

    /// No module is left in this boot.
    pub(crate) fn module_gone(&self) {
        self.turn(GONE);
    }

    /// A module took over.
    pub(crate) fn module_back(&self) {
        self.turn(OPEN);
    }

    fn turn(&self, to: u8) {
        // Refused where nothing leads back.
        let _ =
            self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| (now < GONE).then_some(to));
    }

    /// Why a call may not be made; `exempt` ones care only for the host's own end.
    #[inline]
    pub(super) fn refusal(&self, exempt: bool) -> Option<SeamcallCause> {
        match self.state.load(Ordering::Acquire) {
            OPEN => None,
            CLOSED => Some(SeamcallCause::GoingDown),
            _ if exempt => None,
            DOWN => Some(SeamcallCause::Down),
            _ => Some(SeamcallCause::Gone),
        }
    }

    pub(super) fn call_interrupted(&self) {
        self.interrupted.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn call_finished(&self) {
        self.interrupted.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_back_from_gone_or_closed() {
        let gate = Gate::new();
        assert_eq!(gate.refusal(false), None);
        gate.module_down();
        assert_eq!((gate.refusal(false), gate.refusal(true)), (Some(SeamcallCause::Down), None));
        gate.module_back();
        assert_eq!(gate.refusal(false), None);
        gate.module_gone();
        gate.module_back();
        gate.module_down();
        assert_eq!((gate.refusal(false), gate.refusal(true)), (Some(SeamcallCause::Gone), None));
        gate.close();
        gate.module_gone();
        for exempt in [false, true] {
            assert_eq!(gate.refusal(exempt), Some(SeamcallCause::GoingDown));
        }
    }
}
