//! Commands that drive a machine.

pub mod demo;
pub mod module;
pub mod platform;
pub mod run;
