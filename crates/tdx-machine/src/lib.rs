//! A software machine for a TDX module: memory with KeyIDs, packages, logical processors, firmware
//! tables and faults.
//!
//! A [`Machine`] is switched on from a [`PlatformSpec`], a TOML file that says everything in which
//! one machine differs from another; [`presets`] are built in, and [`capture`] makes one from a
//! real machine or from its boot log. The machine carries the SEAM software of `tdx-module` and
//! faults as hardware does where that cannot be reached.
//!
//! What is not modelled: timing, TLBs, cache contents beyond dirty lines, per-package key tables
//! (a KeyID that is programmed on one package has its new key everywhere), SMM.

mod board;
pub mod capture;
mod chaos;
mod connect;
mod cpu;
pub mod endpoint;
mod event;
pub mod fault;
mod firmware;
pub mod ide;
mod key_unit;
mod machine;
mod memory;
pub mod pci;
mod power;
pub mod presets;
mod protection;
mod seam;
pub mod spec;
mod vtd;

pub use cpu::VmxFault;
pub use event::{DropReason, Event, LinkLoss, StreamEnd};
pub use fault::{Fault, FaultError};
pub use firmware::{E820Entry, LogicalProcessor, NodeId};
pub use machine::{GpFault, Machine, MemFault, SeamFault};
pub use memory::{MemoryFootprint, PoisonCause, PoisonRecord, Ram};
pub use power::PowerOn;
pub use spec::{E820Kind, PlatformSpec, SpecError, SpecIssue};
// What a caller of a machine needs of the crate below it.
pub use tdx_module::LoadError;
pub use tdx_module::hardware::{CpuidRegs, LpIndex, PackageIndex};
pub use tdx_module::io::{LinkStatus, MmioWidth};
