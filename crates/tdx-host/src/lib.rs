//! The host side of Intel TDX: brings the TDX module up, keeps CPUs, memory and KeyIDs in the order that
//! the module needs, and shows it all as the `tdx_host` device.
//!
//! `no_std`, no `alloc`: state is structs that the embedder stores ([`HostState`], [`HostMemory`],
//! [`device::TdxHostDevice`]), reached through the narrow [`traits`] that the embedder implements. A kernel
//! and a simulator run the same code.
//!
//! The walk of a boot: [`HostState::early_init`] checks the platform, [`HostState::bring_up`] takes the
//! module from power-on to ready, [`device::TdxHostDevice::probe`] shows it, [`HostState::shutdown`] or
//! [`HostState::crash`] ends it. In between [`HostState::update`] replaces the module under running TDs.
#![no_std]

pub mod bringup;
pub mod connect;
pub mod cpu;
pub mod device;
pub mod doe;
pub mod errno;
pub mod error;
pub mod ext;
pub mod host;
pub mod hotplug;
pub mod iommu;
pub mod keyid;
pub mod link;
pub mod memory;
pub mod page_list;
pub mod power;
pub mod seamcall;
pub mod seamldr;
pub mod sync;
pub mod sysinfo;
pub mod tdmr;
pub mod traits;
pub mod tsm;
pub mod update;
pub mod upload;
pub mod vmx;

pub use bringup::{BringUpOptions, BringUpReport, Phase, Progress, addon_features};
pub use connect::{CONNECT_ERRORS, CallGuard, ConnectError, ConnectState};
pub use errno::Errno;
pub use error::{Blame, ERRORS, ErrorInfo, HostError};
pub use host::{HostMemory, HostState, Lifecycle};
pub use iommu::{BridgeStreams, ConnectMemory, ConnectReport};
pub use power::SuspendKind;
pub use tdmr::TdmrRules;
pub use update::{Preflight, UpdateFailure, UpdateObserver, UpdateOptions, UpdatePhase, UpdateReport};
