//! A QEMU plugin that turns a stock virtual machine into a TDX host.

pub mod cpu;
pub mod decode;
pub mod exec;
pub mod host;
mod near;
pub mod observe;
pub mod options;
pub mod spec;
#[cfg(test)]
mod testing;
pub mod trace;
