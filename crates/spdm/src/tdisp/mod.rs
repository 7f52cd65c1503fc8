//! TDISP: how an interface of a device is locked, attested and started for a trusted VM. PCI Express
//! 6.1, chapter 11.
//!
//! A payload here is what a vendor-defined message of the PCI-SIG carries inside a secure session:
//! [`PROTOCOL`], then one message. The codec reads and writes messages; [`TdiSet`] is the device's
//! side, one state machine per interface; [`TdiRequester`] is the other one.
//!
//! | messages | file |
//! |---|---|
//! | `GET_TDISP_VERSION`, `TDISP_VERSION` | `version.rs` |
//! | `GET_TDISP_CAPABILITIES`, `TDISP_CAPABILITIES` | `capabilities.rs` |
//! | `LOCK_INTERFACE` | `lock.rs` |
//! | `GET_DEVICE_INTERFACE_REPORT`, `DEVICE_INTERFACE_REPORT` | `get_report.rs` |
//! | `GET_DEVICE_INTERFACE_STATE`, `DEVICE_INTERFACE_STATE` | `get_state.rs` |
//! | `START_INTERFACE`, `STOP_INTERFACE` | `start.rs`; a stop is a header alone |
//! | `BIND_P2P_STREAM`, `UNBIND_P2P_STREAM` | `p2p.rs` |
//! | `SET_MMIO_ATTRIBUTE` | `mmio_attribute.rs` |
//! | `VDM` | `vdm.rs` |
//! | `TDISP_ERROR` | `error.rs` |

mod capabilities;
mod error;
mod get_report;
mod get_state;
mod header;
mod lock;
mod message;
mod mmio_attribute;
mod p2p;
mod report;
mod report_check;
mod requester;
mod start;
mod tdi;
#[cfg(test)]
mod tests;
mod vdm;
mod version;

pub use capabilities::{DsmCapabilities, GetCapabilities, RequestSet};
pub use error::{ErrorCode, ErrorResponse};
pub use get_report::{GetReport, ReportPortion};
pub use get_state::{InterfaceState, TdiState};
pub use header::{Header, InterfaceId, MessageType};
pub use lock::{LockFlags, LockInterface, LockResponse, Nonce};
pub use message::{Body, Message};
pub use mmio_attribute::SetMmioAttribute;
pub use p2p::P2pStream;
pub use report::{InterfaceInfo, MmioRange, RangeAttributes, Report, ReportTooLong};
pub use report_check::{RangeFault, Window};
pub use requester::{Outcome, Progress, TdiOperation, TdiRequester, TdispFailure};
pub use start::StartInterface;
pub use tdi::{
    Binding, NotConfigured, TdiConfig, TdiEvent, TdiPlatform, TdiSet, TdispError, UnknownInterface,
    VdmRefused,
};
pub use vdm::{RegistryId, Vdm};
pub use version::{TDISP_1_0, VersionList};

/// First byte of a payload of this protocol.
pub const PROTOCOL: u8 = 1;
