//! Looking on: what passes protected, and the secrets that protect it.
//!
//! Traces and key logs of modelled devices hang here. Whoever drives a session calls the observer;
//! nothing is kept for one.

use crate::algo::{AeadAlgo, HashAlgo};
use crate::crypto::Digest;
use crate::ids::{SessionId, Version};
use crate::key_schedule::Direction;
use crate::secured::Phase;

/// The secrets of one session as they are now.
pub struct SessionSecrets<'a> {
    /// The session.
    pub session: SessionId,
    /// Version of SPDM, which is part of every label.
    pub version: Version,
    /// Hash of the key schedule.
    pub hash: HashAlgo,
    /// Cipher of the session.
    pub aead: AeadAlgo,
    /// The phase that the secrets belong to.
    pub phase: Phase,
    /// TH1 in the handshake phase, TH2 in the data phase.
    pub transcript: &'a Digest,
    /// The secret of the key agreement; gone in the data phase.
    pub dhe: Option<&'a [u8]>,
    /// `S_req_hs` or `S_req_app`, or what KEY_UPDATE has made of the latter.
    pub request: &'a [u8],
    /// `S_rsp_hs` or `S_rsp_app`, or what KEY_UPDATE has made of the latter.
    pub response: &'a [u8],
    /// The export master secret; only in the data phase.
    pub export_master: Option<&'a [u8]>,
}

/// Somebody who looks on.
pub trait Observer {
    /// A message was sealed, or opened and found genuine.
    fn secured(&mut self, direction: Direction, session: SessionId, sequence: u64, plaintext: &[u8]) {
        let _ = (direction, session, sequence, plaintext);
    }

    /// A session has new secrets: it was made, entered the data phase, or updated a key.
    fn secrets(&mut self, secrets: &SessionSecrets<'_>) {
        let _ = secrets;
    }
}

/// Nobody looks on.
impl Observer for () {}
