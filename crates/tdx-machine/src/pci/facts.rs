//! What is known of functions and bridges, and what can be done to devices.

use pcie::FunctionId;

use crate::spec::BridgePlan;

/// A function that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciFunctionFacts {
    /// Its address.
    pub id: FunctionId,
    /// The root port above it; `None` for root ports themselves.
    pub root_port: Option<FunctionId>,
    /// The physical function of a virtual one.
    pub physical: Option<FunctionId>,
    /// Its host bridge.
    pub bridge: BridgePlan,
}

/// What happens to a device in the middle of its exchanges of data objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceMove {
    /// It is pulled out.
    Remove,
    /// Its mailbox fails whatever it is given, until the device is reset.
    KillMailbox,
    /// Its link goes down and comes up again.
    ResetLink,
    /// The machine loses power, as by [`Machine::cut_power`](crate::Machine::cut_power).
    PowerLoss,
}

/// Why something was not done to a device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// There is no such function, or it is not there now.
    #[error("there is no device at {0}")]
    NoDevice(FunctionId),
    /// There is no such root port.
    #[error("there is no root port at {0}")]
    NoRootPort(FunctionId),
    /// The device cannot be made so.
    #[error("the device at {function}: {source}")]
    Endpoint {
        /// Its function 0.
        function: FunctionId,
        /// Why.
        source: crate::endpoint::EndpointError,
    },
}
