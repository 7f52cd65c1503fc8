//! Commands that drive a machine.

pub mod demo;
pub mod dsm;
pub mod module;
pub mod platform;
pub mod run;
