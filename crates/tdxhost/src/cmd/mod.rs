//! Commands that drive a machine.

pub mod demo;
pub mod platform;
pub mod run;
