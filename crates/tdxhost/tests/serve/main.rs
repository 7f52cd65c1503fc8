//! The served host: sysfs files, the API, and the process around them.

mod api;
mod fake;
mod files;
mod mount;
mod process;
mod schema;
mod upload;
