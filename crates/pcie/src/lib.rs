//! PCI Express as a TEE-IO host and device see it: addresses of functions, configuration space,
//! DOE mailboxes and IDE register blocks.
//!
//! `no_std`, no `alloc`.
#![no_std]

pub mod address;
pub mod cap;
pub mod config;
pub mod doe;
pub mod functions;
pub mod ide;

pub use address::{Bdf, BusAddress, FuncId, FunctionId, Segment};
