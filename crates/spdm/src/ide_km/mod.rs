//! `IDE_KM`: how the keys of PCI Express IDE streams come into a port. PCI Express 6.1, section 6.33.3.
//!
//! A payload here is what a vendor-defined message of the PCI-SIG carries inside a secure session:
//! [`PROTOCOL`], then one message. The codec reads and writes messages; [`KeyManager`] is the
//! device's side; [`QueryPort`], [`ProgramStream`] and [`StopStream`] are the other one.
//!
//! | message | file |
//! |---|---|
//! | `QUERY`, `QUERY_RESP` | `query.rs`, `query_resp.rs` |
//! | `KEY_PROG`, `KP_ACK` | `key_prog.rs`, `kp_ack.rs` |
//! | `K_SET_GO`, `K_SET_STOP`, `K_GOSTOP_ACK` | `k_set.rs`: one layout for the three |

mod device;
mod k_set;
mod key;
mod key_prog;
mod kp_ack;
mod message;
mod query;
mod query_resp;
mod requester;
mod slot;
mod target;
#[cfg(test)]
mod tests;

pub use device::{IdeKmError, IdePort, KeyGeneration, KeyManager, KeyRefused, StreamChange};
pub use k_set::{KGoStopAck, KSetGo, KSetStop};
pub use key::{IdeKey, Ifv};
pub use key_prog::KeyProg;
pub use kp_ack::KpAck;
pub use message::Message;
pub use query::Query;
pub use query_resp::{PortLocation, QueryResp, Registers};
pub use requester::{IdeKmFailure, Port, ProgramStream, Programmed, QueryPort, SetKeys, StopStream};
pub use slot::{Direction, KeySelector, KeySet, KeySlot, SubStream};
pub use target::Target;

use core::fmt;

use open_enum::open_enum;

/// First byte of a payload of this protocol.
pub const PROTOCOL: u8 = 0;

open_enum! {
    /// What a message is: its first byte.
    pub struct ObjectId(u8) {
        /// Asks for a port's IDE registers.
        QUERY = 0 => "QUERY",
        /// A port's IDE registers.
        QUERY_RESP = 1 => "QUERY_RESP",
        /// Brings a key.
        KEY_PROG = 2 => "KEY_PROG",
        /// What became of a key.
        KP_ACK = 3 => "KP_ACK",
        /// Use a key from now on.
        K_SET_GO = 4 => "K_SET_GO",
        /// Forget a key.
        K_SET_STOP = 5 => "K_SET_STOP",
        /// A key is used from now on, or forgotten.
        K_GOSTOP_ACK = 6 => "K_GOSTOP_ACK",
    }
}

open_enum! {
    /// What became of a key, in `KP_ACK`.
    pub struct KpStatus(u8) {
        /// It is in its slot.
        SUCCESS = 0 => "success",
        /// The request has another length.
        INCORRECT_LENGTH = 1 => "incorrect length",
        /// The device has no such port.
        UNSUPPORTED_PORT = 2 => "unsupported port index",
        /// Stream, key set, direction, sub-stream, invocation field or a reserved field.
        UNSUPPORTED_VALUE = 3 => "unsupported value in another field",
        /// Anything else.
        UNSPECIFIED = 4 => "unspecified failure",
    }
}

/// Stream ID of an IDE stream, as in the stream's control register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u8);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Port of a device: 0 is the one that the DOE mailbox belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortIndex(pub u8);

impl fmt::Display for PortIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Checks the object id of a message that has been read up to it.
fn object(reader: &mut crate::wire::Reader<'_>, expected: ObjectId) -> Result<(), crate::wire::DecodeError> {
    let found = reader.u8("object id")?;
    if found == expected.0 {
        Ok(())
    } else {
        Err(crate::wire::DecodeError::Code { found, expected: expected.0 })
    }
}
