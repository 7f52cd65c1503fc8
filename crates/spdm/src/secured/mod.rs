//! Secured messages on PCI DOE: DSP0277 1.1 and 1.2, the record of an SPDM session.
//!
//! ```text
//! session id u32 | length u16 | { application length u16 | message } encrypted | tag 16
//! ```
//!
//! `length` counts what follows it; the six bytes before the ciphertext are authenticated with it.
//! On DOE the sequence number has no bytes on the wire and there is no random padding, so a message
//! is accepted only as the next one of its direction.
//!
//! A session of the data phase can be written down and read again with all that it needs to go on; that is
//! for the requester, whose state it is a part of ([`crate::requester::Requester::save`]).

mod channel;
mod error;
mod session;
#[cfg(test)]
mod tests;

pub use crate::key_schedule::Direction;
pub use error::SecuredError;
pub use session::Session;
pub(crate) use session::Unreadable;

use core::fmt;

use crate::algo::AeadAlgo;
use crate::ids::SessionId;

/// Bytes before the ciphertext: session id and length.
pub const HEADER_SIZE: usize = 6;
/// Bytes of the application length, the first of the plaintext.
pub const APPLICATION_LENGTH_SIZE: usize = 2;
/// Bytes that a secured message is longer than the message in it.
pub const OVERHEAD: usize = HEADER_SIZE + APPLICATION_LENGTH_SIZE + AeadAlgo::TAG_SIZE;
/// Longest message that a secured message can hold, as its length is a u16.
pub const MAX_APPLICATION: usize = 0xffff - AeadAlgo::TAG_SIZE - APPLICATION_LENGTH_SIZE;

/// Which side a session's owner is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It sends requests.
    Requester,
    /// It sends responses.
    Responder,
}

impl Role {
    /// The direction of what this side sends.
    pub const fn sends(self) -> Direction {
        match self {
            Self::Requester => Direction::Request,
            Self::Responder => Direction::Response,
        }
    }

    /// The direction of what this side gets.
    pub const fn receives(self) -> Direction {
        self.sends().opposite()
    }
}

/// Phase of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// From KEY_EXCHANGE_RSP to FINISH_RSP.
    Handshake,
    /// After FINISH_RSP.
    Data,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Handshake => "handshake",
            Self::Data => "data",
        })
    }
}

/// The session that a secured message names; `None` if it is too short to name one.
pub fn session_id_of(object: &[u8]) -> Option<SessionId> {
    let (id, _) = object.split_first_chunk()?;
    Some(SessionId(u32::from_le_bytes(*id)))
}
