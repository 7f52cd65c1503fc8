//! Keeps Connect and updates of the module apart.
//!
//! A call that was interrupted inside the module must be called again before the module may go, so that
//! each group of "call until it is not interrupted" stands behind this gate. Nobody is inside while a
//! device is waited for.

use core::time::Duration;

use crate::error::HostError;
use crate::seamcall::Gate;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::traits::PciBus;

/// Set while an update has the module for itself; the rest counts those inside.
const CLOSED: u32 = 1 << 31;

/// Time between two looks at the gate.
const PATIENCE: Duration = Duration::from_millis(1);

/// The state of the gate.
#[derive(Debug, Default)]
pub(crate) struct GateState(AtomicU32);

impl GateState {
    pub(crate) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }
}

/// The gate of one host.
#[derive(Clone, Copy, Debug)]
pub struct ConnectGate<'a> {
    state: &'a GateState,
    module: &'a Gate,
}

impl<'a> ConnectGate<'a> {
    pub(crate) const fn new(state: &'a GateState, module: &'a Gate) -> Self {
        Self { state, module }
    }

    /// Waits until no update has the module for itself, and keeps updates out until the guard is dropped.
    pub fn enter<P: PciBus + ?Sized>(self, platform: &P) -> Result<CallGuard<'a>, HostError> {
        loop {
            let entered = self.state.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
                (now & CLOSED == 0).then_some(now + 1)
            });
            if entered.is_ok() {
                return Ok(CallGuard(self.state));
            }
            self.wait(platform)?;
        }
    }

    /// Closes the gate and waits until nobody is inside; it opens when the guard is dropped. Only one
    /// update runs at a time.
    pub(crate) fn close<P: PciBus + ?Sized>(self, platform: &P) -> Result<UpdateGuard<'a>, HostError> {
        self.state.0.fetch_or(CLOSED, Ordering::AcqRel);
        let guard = UpdateGuard(self.state);
        while self.state.0.load(Ordering::Acquire) != CLOSED {
            self.wait(platform)?;
        }
        Ok(guard)
    }

    fn wait<P: PciBus + ?Sized>(self, platform: &P) -> Result<(), HostError> {
        if self.module.is_closed() {
            return Err(HostError::GoingDown);
        }
        platform.wait(PATIENCE);
        Ok(())
    }
}

/// No update begins while it lives.
#[derive(Debug)]
#[must_use = "the gate is left when the guard is dropped"]
pub struct CallGuard<'a>(&'a GateState);

impl Drop for CallGuard<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// No call of Connect begins while it lives.
#[derive(Debug)]
#[must_use = "the gate opens when the guard is dropped"]
pub(crate) struct UpdateGuard<'a>(&'a GateState);

impl Drop for UpdateGuard<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_and(!CLOSED, Ordering::AcqRel);
    }
}
