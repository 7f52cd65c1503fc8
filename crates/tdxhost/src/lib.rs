//! Command line, scenarios and service of the TDX host stack.

pub mod api;
pub mod cli;
pub mod cmd;
pub mod doctor;
pub mod dsm;
pub mod explain;
pub mod fuse;
pub mod link;
pub mod scenario;
pub mod serve;
pub mod status;
pub mod sysfs;
pub mod text;
pub mod transcript;
pub mod update;
