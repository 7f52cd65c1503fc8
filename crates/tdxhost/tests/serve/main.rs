//! The served host: sysfs files, the API, and the process around them.

mod api;
mod connect_api;
mod connect_files;
mod connect_process;
mod fake;
mod fake_pci;
mod files;
mod mount;
mod process;
mod schema;
mod upload;
