//! Configuration space.

mod access;

pub(crate) use access::Lanes;
pub use access::{AccessError, CONFIG_SIZE, Width};
