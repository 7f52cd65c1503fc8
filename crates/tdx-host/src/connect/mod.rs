//! TDX Connect on the host side: whether it works, and if not, why.
//!
//! Bring-up switches the feature on in the module ([`crate::bringup`]) and starts the module's extensions;
//! [`HostState::connect_init`] takes the IOMMUs into trusted mode. From then on devices can be connected.
//! Whatever goes wrong on this way leaves TDX without Connect working.

mod error;
mod gate;
mod state;

use crate::cpu::CpuSlot;
use crate::error::HostError;
use crate::host::{HostState, Lifecycle};
use crate::sync::atomic::AtomicBool;

pub use error::{CONNECT_ERRORS, ConnectError, HostFailure, KeypError};
pub use gate::{CallGuard, ConnectGate};
pub use state::ConnectState;

pub(crate) use gate::GateState;
pub(crate) use state::StateCell;

impl<C: AsRef<[CpuSlot]>, K> HostState<C, K> {
    /// Whether TDX Connect works. To be read at any time.
    pub fn connect_state(&self) -> ConnectState {
        match self.connect.state.get() {
            ConnectState::On if self.is_going_down() => ConnectState::Off(HostError::GoingDown.into()),
            // Whatever became of the walk that was to say so.
            ConnectState::On if self.lifecycle() == Lifecycle::Gone => {
                ConnectState::Dead(ConnectError::ModuleGone)
            }
            state => state,
        }
    }

    /// The gate that keeps Connect and updates apart. Entered for each group of calls of a Connect leaf,
    /// never over an exchange with a device.
    pub fn connect_gate(&self) -> ConnectGate<'_> {
        ConnectGate::new(&self.connect.gate, self.gate())
    }
}

/// What a host keeps of Connect.
#[derive(Debug, Default)]
pub(crate) struct ConnectShared {
    /// The module has the feature and its extensions run.
    pub(crate) usable: AtomicBool,
    pub(crate) state: StateCell,
    pub(crate) gate: GateState,
}

impl ConnectShared {
    pub(crate) const fn new() -> Self {
        Self { usable: AtomicBool::new(false), state: StateCell::new(), gate: GateState::new() }
    }
}
