//! Commands that drive a machine.

pub mod connect;
pub mod demo;
pub mod dsm;
pub mod link;
pub mod module;
pub mod platform;
pub mod run;
