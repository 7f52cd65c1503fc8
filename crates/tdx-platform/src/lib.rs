//! The host traits of `tdx-host`, played by a `tdx-machine`.
//!
//! Thin on purpose: a [`Platform`] adds to a [`Machine`] what an operating system adds to hardware (a page
//! allocator, the set of online CPUs, a log), and a [`TdxHost`] stores the state of the host side and has
//! one method per walk. Both can be shared between threads.

mod allocator;
mod connect;
mod host;
mod lockstep;
mod pci;
mod platform;
mod seam;
mod tsm;
mod upload;

pub use allocator::{Leaks, PageAccounts};
pub use host::{DeviceView, HostOptions, HostStatus, TdmrSummary, TdxHost};
pub use platform::{CpuMode, LogLine, MAX_THREADS, Platform};
pub use seam::CallObserver;
pub use tdx_machine::Machine;
pub use tsm::{BridgeView, DeviceEvent, FunctionView, LinkEnd, LinkView, TsmView, UeventRecord};
pub use upload::{MAX_IMAGE_BYTES, UploadTarget, UploadedUpdate, Uploader};
