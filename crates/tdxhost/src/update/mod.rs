//! Choosing, checking and uploading a TDX module: what `module plan`, `module update` and `doctor --update`
//! share.
//!
//! [`HostFacts`] are read from the kernel's files, [`Candidate`]s from image files, [`Mapping`] from Intel's
//! table or the built-in one. The rules and the planner are pure functions over the three.

pub mod build;
pub mod candidate;
pub mod checks;
pub mod cpus;
pub mod diagnose;
pub mod host;
pub mod interrupt;
pub mod layout;
pub mod mapping;
pub mod plan;
pub mod reasons;
pub mod rules;
pub mod served;
pub mod upload;
pub mod version;
pub mod words;

pub use candidate::{Candidate, ImageFacts, Refusal, VersionSource};
pub use host::{Fact, HostFacts, Sources, Unknown};
pub use layout::Layout;
pub use mapping::{Mapping, Release};
pub use plan::{Goal, Outcome, Plan, plan};
pub use rules::{Policy, Running, preflight};
