//! Why a message was not sealed or opened.

use crate::crypto::CryptoError;
use crate::ids::SessionId;
use crate::key_schedule::Direction;

use super::Phase;

/// Why a session refuses. [`ends_session`](Self::ends_session) tells which of them it does not
/// survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecuredError {
    /// No room for header and tag.
    #[error("a secured message of {len} bytes: fewer than header, length and tag take")]
    TooShort {
        /// Bytes there are.
        len: usize,
    },
    /// It belongs to another session.
    #[error("a secured message of session {found} in session {expected}")]
    WrongSession {
        /// This session.
        expected: SessionId,
        /// The one that it names.
        found: SessionId,
    },
    /// The length field does not fit to the bytes there are, or to header and tag.
    #[error("a secured message says {length} bytes follow, there are {available}")]
    Length {
        /// What the field says.
        length: u16,
        /// Bytes behind the field.
        available: usize,
    },
    /// More than three bytes follow, or they are not zero.
    #[error("{len} bytes after a secured message are no padding to a DWORD of zeros")]
    Padding {
        /// Bytes that follow.
        len: usize,
    },
    /// Genuine, but it does not hold exactly the application data that it says.
    #[error("application data of {stated} bytes in a secured message with room for {room}")]
    ApplicationLength {
        /// What the field says.
        stated: u16,
        /// What there is.
        room: usize,
    },
    /// Wrong key, wrong sequence number or changed bytes.
    #[error("the tag of {direction} {sequence} of session {session} does not verify")]
    Tag {
        /// The session.
        session: SessionId,
        /// Who sent it.
        direction: Direction,
        /// The sequence number that it should have had.
        sequence: u64,
    },
    /// No further message may be sent with this key.
    #[error("session {session} has used all of its {limit} sequence numbers of {direction}s")]
    SequenceExhausted {
        /// The session.
        session: SessionId,
        /// The direction whose numbers are used up.
        direction: Direction,
        /// How many there were.
        limit: u64,
    },
    /// Longer than the length field can say.
    #[error("application data of {len} bytes: more than a secured message can hold")]
    TooLong {
        /// Bytes there are.
        len: usize,
    },
    /// An error has ended the session before.
    #[error("session {0} has ended")]
    Ended(SessionId),
    /// Asked for what the session has not, or has no longer, in this phase.
    #[error("session {session} is in its {phase} phase")]
    WrongPhase {
        /// The session.
        session: SessionId,
        /// Its phase.
        phase: Phase,
    },
    /// An update that is already under way, or a roll back of none or of one that is in use.
    #[error("session {session} has no such key update of {direction}s to make or undo")]
    Update {
        /// The session.
        session: SessionId,
        /// The direction of the key.
        direction: Direction,
    },
    /// The cryptography failed for another reason.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

impl SecuredError {
    /// Whether the session is over: nothing more can be sealed or opened in it, and it is to be
    /// ended on this side.
    pub const fn ends_session(&self) -> bool {
        matches!(
            self,
            Self::ApplicationLength { .. }
                | Self::Tag { .. }
                | Self::SequenceExhausted { .. }
                | Self::Ended(_)
        )
    }
}
