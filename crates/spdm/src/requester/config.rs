use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use super::RequesterError;
use crate::algo::{AeadAlgo, AsymAlgo, DheGroup, HashAlgo};
use crate::ids::Version;
use crate::msg::RequesterFlags;
use crate::msg::VersionNumber;

/// The least that both sides must take in one message, in bytes (`MinDataTransferSize`).
pub const MIN_TRANSFER: u32 = 42;
/// Largest exponent of a time that is waited for: 2^20 µs, about a second.
pub(super) const MAX_EXPONENT: u8 = 20;
/// Messages of either direction under a new key that its own update takes: two acknowledgements come.
const UPDATE_MESSAGES: u64 = 2;

/// What a requester offers and how patient it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequesterConfig {
    /// Versions that may be spoken; the highest common one is.
    pub versions: Vec<Version>,
    /// Hashes that are offered.
    pub hashes: Vec<HashAlgo>,
    /// Signature algorithms that are offered.
    pub asyms: Vec<AsymAlgo>,
    /// Groups that are offered.
    pub dhes: Vec<DheGroup>,
    /// Ciphers that are offered.
    pub aeads: Vec<AeadAlgo>,
    /// Versions of secured messages that are offered (DSP0277).
    pub secured_versions: Vec<VersionNumber>,
    /// Capabilities. Mutual authentication, pre-shared keys, encapsulated requests and a handshake in
    /// the clear are never offered.
    pub flags: RequesterFlags,
    /// Time for cryptography: 2^n µs. Only told.
    pub ct_exponent: u8,
    /// Largest message that is taken in one object, in bytes; at least [`MIN_TRANSFER`].
    pub data_transfer_size: u32,
    /// Largest message that is taken in chunks, in bytes; not below `data_transfer_size`.
    pub max_message_size: u32,
    /// Bytes of a certificate chain that are asked for at once; 0 stands for as many as there may be.
    pub certificate_portion: u16,
    /// How often a request is repeated to a busy responder.
    pub busy_retries: u32,
    /// How long to wait before that.
    pub busy_delay: Duration,
    /// How often a response that is not ready is asked for.
    pub ready_retries: u32,
    /// Messages that a key of a session may protect; the next one is refused and ends the session.
    pub sequence_limit: u64,
    /// Messages of one direction under one key after which [`super::Requester::keys_used_up`] asks for
    /// new keys. What one operation takes, and a key update with all its repetitions, should still be
    /// possible between this and `sequence_limit`.
    pub refresh_after: u64,
}

impl Default for RequesterConfig {
    /// What a TEE-IO device wants: encrypted sessions, heartbeat, key update, chunks; everything else
    /// that is spoken is offered, too. Objects of one page of 4 KiB, DOE and secured header included.
    fn default() -> Self {
        Self {
            versions: Version::SPOKEN.to_vec(),
            hashes: HashAlgo::ALL.to_vec(),
            asyms: AsymAlgo::ALL.to_vec(),
            dhes: DheGroup::ALL.to_vec(),
            aeads: AeadAlgo::ALL.to_vec(),
            secured_versions: vec![VersionNumber(0x1100), VersionNumber(0x1200)],
            flags: RequesterFlags::new()
                .with_encrypt(true)
                .with_mac(true)
                .with_key_ex(true)
                .with_hbeat(true)
                .with_key_upd(true)
                .with_chunk(true),
            ct_exponent: 14,
            data_transfer_size: 4056,
            max_message_size: 0x1_2000,
            certificate_portion: 0x400,
            busy_retries: 8,
            busy_delay: Duration::from_millis(20),
            ready_retries: 16,
            sequence_limit: u64::MAX,
            // What TLS 1.3 lets a key of AES-GCM protect, to the next power of two (RFC 8446, 5.5).
            refresh_after: 1 << 24,
        }
    }
}

impl RequesterConfig {
    /// Offers `HEARTBEAT` and `KEY_UPDATE` only where `allowed` has them; whoever asks for a connection
    /// may forbid them, but nothing else.
    #[must_use]
    pub fn allowing(self, allowed: RequesterFlags) -> Self {
        let flags = self
            .flags
            .with_hbeat(self.flags.hbeat() && allowed.hbeat())
            .with_key_upd(self.flags.key_upd() && allowed.key_upd());
        Self { flags, ..self }
    }

    /// Whether keys can be renewed in time, and are not used up by their own update.
    fn can_refresh(&self) -> bool {
        // The first request of an update is repeated to a busy responder, and asked for again.
        let update = 1 + u64::from(self.busy_retries) + u64::from(self.ready_retries);
        let last = self.refresh_after.checked_add(update);
        self.refresh_after > UPDATE_MESSAGES && last.is_some_and(|last| last <= self.sequence_limit)
    }

    /// Refuses what cannot be offered.
    pub(super) fn check(&self) -> Result<(), RequesterError> {
        let flags = self.flags;
        let spoken = self.versions.iter().all(|version| version.is_spoken());
        let chunks = self.max_message_size == self.data_transfer_size || flags.chunk();
        let sizes =
            MIN_TRANSFER <= self.data_transfer_size && self.data_transfer_size <= self.max_message_size;
        let identity =
            flags.cert() || flags.chal() || flags.mut_auth() || flags.pub_key_id() || flags.encap();
        let unbuilt = flags.psk() != 0
            || flags.handshake_in_clear()
            || flags.event()
            || flags.ep_info() != 0
            || flags.multi_key() != 0;
        let keys = !self.dhes.is_empty() && !self.aeads.is_empty() && !self.secured_versions.is_empty();
        let session = flags.encrypt() && flags.mac();
        let needs_keys = flags.encrypt() || flags.mac() || flags.hbeat() || flags.key_upd();
        let wrong = [
            (self.versions.is_empty() || !spoken, "versions that are spoken"),
            (self.hashes.is_empty(), "a hash"),
            (self.asyms.is_empty(), "a signature algorithm"),
            (!sizes, "sizes of messages that are in order"),
            (!chunks, "CHUNK_CAP for messages larger than a transfer"),
            (identity || unbuilt, "a requester with such capabilities"),
            (flags.key_ex() && !(keys && session), "what sessions need"),
            (!flags.key_ex() && needs_keys, "KEY_EX_CAP for its sessions"),
            (!self.can_refresh(), "room for a key update between refresh_after and sequence_limit"),
        ];
        match wrong.iter().find(|(holds, _)| *holds) {
            Some((_, lacking)) => Err(RequesterError::Configuration(lacking)),
            None => Ok(()),
        }
    }
}
