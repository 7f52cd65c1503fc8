//! Transcripts: the running hashes of exact messages that signatures and MACs stand on. DSP0274 1.3.
//!
//! Every transcript of SPDM 1.2 and 1.3 begins with VCA: `GET_VERSION`, `VERSION`, `GET_CAPABILITIES`,
//! `CAPABILITIES`, `NEGOTIATE_ALGORITHMS`, `ALGORITHMS`. Its bytes are kept until the last of them names
//! the hash; from there on everything is hashed as it passes.
//!
//! | transcript | behind VCA | proves |
//! |---|---|---|
//! | M1/M2, [`Log`] | `GET_DIGESTS` … `CERTIFICATE`, `CHALLENGE`, `CHALLENGE_AUTH` without its signature | the identity |
//! | L1/L2, [`Log`] | `GET_MEASUREMENTS`, `MEASUREMENTS` …, the last one without its signature | measurements; one of each session, and one in the clear |
//! | TH, [`SessionTranscript`] | digest of the certificate chain, `KEY_EXCHANGE` … `FINISH_RSP` | a session |

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use crate::algo::HashAlgo;
use crate::crypto::{Crypto, Digest, Hasher};

/// VCA and the transcripts of a connection outside its sessions.
///
/// Which request empties which transcript is the business of the two roles; see
/// [`Self::measurements`] and [`Self::authentication`].
#[derive(Default)]
pub struct Transcript {
    vca: Vec<u8>,
    agreed: Option<Agreed>,
}

struct Agreed {
    start: Box<dyn Hasher>,
    authentication: Log,
    measurements: Log,
}

impl Transcript {
    /// Empty, before `GET_VERSION`.
    pub const fn new() -> Self {
        Self { vca: Vec::new(), agreed: None }
    }

    /// Forgets everything, as `GET_VERSION` wants it.
    pub fn reset(&mut self) {
        *self = Self::new();
    }

    /// Appends a message of VCA. Only before [`Self::agree`].
    pub fn append_vca(&mut self, message: &[u8]) {
        self.vca.extend_from_slice(message);
    }

    /// The messages of VCA so far.
    pub fn vca(&self) -> &[u8] {
        &self.vca
    }

    /// VCA is complete and `hash` agreed on: the transcripts behind it begin.
    pub fn agree(&mut self, crypto: &dyn Crypto, hash: HashAlgo) {
        let mut start = crypto.hasher(hash);
        start.update(&self.vca);
        let (authentication, measurements) = (Log::new(start.fork()), Log::new(start.fork()));
        self.agreed = Some(Agreed { start, authentication, measurements });
    }

    /// M1/M2. `None` before [`Self::agree`].
    ///
    /// It is emptied by a signed `CHALLENGE_AUTH`, by `GET_DIGESTS` before that is appended, and, until
    /// the first `CHALLENGE_AUTH` of the connection, by every request of a later phase (measurements,
    /// sessions), refused ones included.
    pub fn authentication(&mut self) -> Option<&mut Log> {
        self.agreed.as_mut().map(|agreed| &mut agreed.authentication)
    }

    /// Whether no message stands behind VCA: all that there is can be made of VCA again.
    pub fn is_bare(&self) -> bool {
        let bare = |agreed: &Agreed| agreed.authentication.is_empty() && agreed.measurements.is_empty();
        self.agreed.as_ref().is_none_or(bare)
    }

    /// L1/L2 of messages in the clear. `None` before [`Self::agree`].
    ///
    /// It is emptied by signed `MEASUREMENTS`, by a `GET_MEASUREMENTS` that is refused (except that its
    /// response is not ready or the responder busy), and by every other request in the clear.
    pub fn measurements(&mut self) -> Option<&mut Log> {
        self.agreed.as_mut().map(|agreed| &mut agreed.measurements)
    }

    /// An empty L1/L2 for a session. `None` before [`Self::agree`].
    pub fn session_measurements(&self) -> Option<Log> {
        self.agreed.as_ref().map(|agreed| Log::new(agreed.start.fork()))
    }

    /// TH of a session: VCA and `chain`, the digest of the whole certificate chain of the slot, header
    /// included. `None` before [`Self::agree`].
    pub fn session(&self, chain: &Digest) -> Option<SessionTranscript> {
        let mut hasher = self.agreed.as_ref()?.start.fork();
        hasher.update(chain);
        Some(SessionTranscript { hasher })
    }
}

impl fmt::Debug for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transcript")
            .field("vca", &self.vca.len())
            .field("agreed", &self.agreed.is_some())
            .finish()
    }
}

/// VCA and the messages behind it: M1/M2 or L1/L2.
pub struct Log {
    start: Box<dyn Hasher>,
    messages: Option<Box<dyn Hasher>>,
}

impl Log {
    fn new(start: Box<dyn Hasher>) -> Self {
        Self { start, messages: None }
    }

    /// Whether nothing stands behind VCA.
    pub const fn is_empty(&self) -> bool {
        self.messages.is_none()
    }

    /// Drops everything behind VCA.
    pub fn clear(&mut self) {
        self.messages = None;
    }

    /// Appends a message.
    pub fn append(&mut self, message: &[u8]) {
        self.messages.get_or_insert_with(|| self.start.fork()).update(message);
    }

    /// The digest of everything so far.
    pub fn digest(&self) -> Digest {
        self.messages.as_ref().unwrap_or(&self.start).digest()
    }

    /// The digest as it will be with these messages appended; nothing is appended yet.
    pub fn digest_with(&self, messages: &[&[u8]]) -> Digest {
        digest_with(self.messages.as_ref().unwrap_or(&self.start).as_ref(), messages)
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Log").field(&self.digest()).finish()
    }
}

/// TH of one session: VCA, the digest of the certificate chain, and the messages since `KEY_EXCHANGE`.
///
/// | digest | taken behind |
/// |---|---|
/// | of the signature of `KEY_EXCHANGE_RSP` | all before the signature |
/// | TH1, and of `ResponderVerifyData` | the signature |
/// | of `RequesterVerifyData` | `FINISH` without it, behind the whole `KEY_EXCHANGE_RSP` |
/// | TH2 | the whole `FINISH_RSP` |
pub struct SessionTranscript {
    hasher: Box<dyn Hasher>,
}

impl SessionTranscript {
    /// Appends a message, or the next part of one.
    pub fn append(&mut self, message: &[u8]) {
        self.hasher.update(message);
    }

    /// The digest of everything so far.
    pub fn digest(&self) -> Digest {
        self.hasher.digest()
    }

    /// The digest as it will be with these messages appended; nothing is appended yet.
    pub fn digest_with(&self, messages: &[&[u8]]) -> Digest {
        digest_with(self.hasher.as_ref(), messages)
    }
}

impl fmt::Debug for SessionTranscript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SessionTranscript").field(&self.digest()).finish()
    }
}

fn digest_with(hasher: &dyn Hasher, messages: &[&[u8]]) -> Digest {
    let mut hasher = hasher.fork();
    for message in messages {
        hasher.update(message);
    }
    hasher.digest()
}

#[cfg(all(test, feature = "aws-lc"))]
mod tests {
    use super::*;
    use crate::crypto::aws_lc::AwsLc;

    fn agreed() -> Transcript {
        let mut transcript = Transcript::new();
        transcript.append_vca(b"GET_VERSION");
        transcript.append_vca(b"ALGORITHMS");
        transcript.agree(&AwsLc, HashAlgo::Sha384);
        transcript
    }

    fn digest(bytes: &[u8]) -> Digest {
        AwsLc.digest(HashAlgo::Sha384, bytes)
    }

    #[test]
    fn there_is_nothing_behind_vca_before_a_hash_is_agreed_on() {
        let mut transcript = Transcript::new();
        transcript.append_vca(b"GET_VERSION");
        assert_eq!(transcript.vca(), b"GET_VERSION");
        assert!(transcript.authentication().is_none() && transcript.measurements().is_none());
        assert!(transcript.session_measurements().is_none());
        assert!(transcript.session(&digest(b"chain")).is_none());
        let mut transcript = agreed();
        assert!(transcript.authentication().is_some() && transcript.measurements().is_some());
        transcript.reset();
        assert!(transcript.authentication().is_none() && transcript.vca().is_empty());
    }

    #[test]
    fn logs_begin_with_vca_and_do_not_mix() {
        let mut transcript = agreed();
        transcript.authentication().unwrap().append(b"DIGESTS");
        assert_eq!(transcript.authentication().unwrap().digest(), digest(b"GET_VERSIONALGORITHMSDIGESTS"));
        assert_eq!(transcript.measurements().unwrap().digest(), digest(b"GET_VERSIONALGORITHMS"));
        assert_eq!(transcript.session_measurements().unwrap().digest(), digest(b"GET_VERSIONALGORITHMS"));
    }

    #[test]
    fn a_look_ahead_appends_nothing_and_clearing_leaves_vca() {
        let mut transcript = agreed();
        let log = transcript.measurements().unwrap();
        assert_eq!(log.digest_with(&[b"one", b"two"]), digest(b"GET_VERSIONALGORITHMSonetwo"));
        assert!(log.is_empty());
        log.append(b"one");
        assert_eq!(log.digest_with(&[b"two"]), digest(b"GET_VERSIONALGORITHMSonetwo"));
        assert!(!log.is_empty());
        log.clear();
        assert!(log.is_empty());
        assert_eq!(log.digest(), digest(b"GET_VERSIONALGORITHMS"));
    }

    #[test]
    fn the_transcript_of_a_session_has_the_digest_of_the_chain_behind_vca() {
        let chain = digest(b"chain");
        let mut th = agreed().session(&chain).unwrap();
        th.append(b"KEY_EXCHANGE");
        let so_far = [&b"GET_VERSIONALGORITHMS"[..], &chain, b"KEY_EXCHANGE"].concat();
        assert_eq!(th.digest(), digest(&so_far));
        assert_eq!(th.digest_with(&[b"FINISH"]), digest(&[&so_far[..], b"FINISH"].concat()));
        assert_eq!(th.digest(), digest(&so_far));
    }
}
