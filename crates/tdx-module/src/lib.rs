//! A software P-SEAMLDR and TDX module behind a [`Hardware`] trait.
//!
//! [`SeamSoftware`] is what sits in the SEAM range of one powered-on machine. A SEAMCALL with bit
//! 63 of RAX set reaches the P-SEAMLDR, any other the module. Which release the module plays is a
//! [`Profile`]: data, not code. Every refusal carries the name of its check row (`checks`); tests
//! and comments use the same names.
//!
//! # What is modelled
//! - P-SEAMLDR: all leaves that have a public source, each with the checks of the loader's generation
//!   ([`LoaderGeneration`]): SEAMLDR.INFO; INSTALL, which loads and updates modules; SHUTDOWN, behind
//!   which no SEAMCALL is answered until power is cycled; SEAMINFO; and, from 1.5.02 on, CLEANUP,
//!   behind which any module may follow.
//! - Images: the module that an image holds is never run. An image signed by Intel is played as the
//!   profile with its hash ([`UnknownRelease`] if there is none), one signed with the project's test
//!   key as the profile that its record names.
//! - Module: TDH.SYS.{INIT, LP.INIT, INFO, RD, RDALL, CONFIG, KEY.CONFIG, TDMR.INIT, SHUTDOWN,
//!   UPDATE, DISABLE, LP.SHUTDOWN}, and for the synthetic releases TDH.EXT.{MEM.ADD, INIT}, TDH.IOMMU.{SETUP,
//!   CLEAR}, TDH.SPDM.* and TDH.IDE.STREAM.* ([`MODELLED_LEAVES`]). A leaf that the release has and this crate
//!   has not is answered like an unknown number: OPERAND_INVALID|RAX once the module is ready.
//! - TDX Connect up to a connected device, on the machine's [`io::ConnectHardware`]. Pages that a host gives
//!   are kept by range and owner; units, sessions and streams are locked one by one.
//! - TDX_FEATURES0 and the FIXED masks report what is modelled (see [`features`]);
//!   [`ModuleConfig::real_features`] reports what the release reports.
//!
//! # Locks
//! No leaf waits. Each lock is tried once and a failure is the BUSY status of the interface. State
//! that many LPs read (SYS.RD, TDMR.INIT) is in atomics and in tables that are written once.

mod call;
pub mod checks;
mod connect;
mod disable;
pub mod features;
mod generated;
mod handoff;
pub mod hardware;
mod hpa;
pub mod inspect;
pub mod io;
mod keys;
mod leaves;
mod loader;
mod lock;
mod lps;
mod metadata;
mod module;
mod platform;
pub mod profile;
mod software;
mod tdmrs;

pub use hardware::{
    CmrEntry, CpuidRegs, Hardware, KeyAlgorithm, LockName, LpIdentity, LpIndex, MachineCheck, McheckInfo,
    PackageIndex, PconfigError, RandomUse, SeamNote,
};
pub use inspect::Inspection;
pub use loader::{LoadError, LoaderConfig, LoaderGeneration, UnknownRelease};
pub use module::{MODELLED_LEAVES, ModuleConfig, ModuleState, UnknownRow};
pub use profile::{ConnectSizes, Profile};
pub use software::{LpPort, NoAnswer, SeamConfig, SeamSoftware};
