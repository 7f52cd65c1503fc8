//! Bytes of a message: reading with a reason for every refusal, writing without allocation.
//!
//! All numbers of SPDM are little endian.

mod error;
mod reader;
mod writer;

pub use error::DecodeError;
pub use reader::Reader;
pub use writer::{NoSpace, Writer};
