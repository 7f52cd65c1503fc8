//! A machine on the checker's primitives, small enough that thousands of orders of its CPUs' steps
//! can be tried, and the ways to try them.
//!
//! [`Platform`] plays the host's traits, [`Software`] P-SEAMLDR and the module. Whatever the host must
//! never do (a call to a module that is gone, two CPUs in P-SEAMLDR, an update without all CPUs) is kept
//! as a violation, and [`Platform::no_violations`] ends a run.

mod explore;
mod image;
mod memory;
mod platform;
mod software;

pub use explore::{explore, explore_all};
pub use image::image;
pub use memory::Leaks;
pub use platform::{Host, Options, Platform};
pub use software::{Outcome, Software, VERSION};
