//! What belongs to one way of talking: in the clear, or one session.

use alloc::vec::Vec;

use crate::crypto::Secret;
use crate::msg::RequestCode;

/// A transfer in chunks, and a response that was not ready. They do not mix with those of another
/// channel: a session's large response is read inside that session.
#[derive(Default)]
pub(super) struct Channel {
    pub(super) transfer: Option<Transfer>,
    pub(super) deferred: Option<Deferred>,
}

/// A transfer in chunks that is under way.
pub(super) enum Transfer {
    /// A large request comes in.
    Request {
        handle: u8,
        /// Number of the next chunk.
        next: u16,
        /// Size of the whole request.
        size: usize,
        /// A session's request may hold keys.
        received: Secret,
    },
    /// A large response goes out.
    Response {
        handle: u8,
        /// Number of the next chunk.
        next: u16,
        sent: usize,
        message: Vec<u8>,
    },
}

/// A request whose response is not ready.
pub(super) struct Deferred {
    pub(super) code: RequestCode,
    pub(super) token: u8,
    /// A session's request may hold keys.
    pub(super) request: Secret,
    pub(super) padded: bool,
}
