//! A QEMU plugin that turns a stock virtual machine into a TDX host.

mod api;
pub mod cpu;
pub mod decode;
pub mod exec;
mod flags;
mod guard;
mod hooks;
pub mod host;
mod install;
mod mark;
mod near;
pub mod observe;
pub mod options;
mod ram;
mod ram_map;
mod reset;
pub mod spec;
#[cfg(test)]
mod testing;
pub mod trace;
mod vcpu;
