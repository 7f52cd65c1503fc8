use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::algo::{AeadAlgo, AsymAlgo, DheGroup, HashAlgo, MeasurementHash};
use crate::crypto::Signer;
use crate::ids::{SlotId, Version};
use crate::msg::capabilities::{MAX_CT_EXPONENT, MIN_DATA_TRANSFER_SIZE};
use crate::msg::{ResponderFlags, VersionNumber};

/// What a responder offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Versions of SPDM.
    pub versions: Vec<Version>,
    /// Hashes, the preferred one first.
    pub hashes: Vec<HashAlgo>,
    /// Signature algorithms, the preferred one first. Slot 0 needs an [`Identity`] for each.
    pub asyms: Vec<AsymAlgo>,
    /// Groups of the key agreement, the preferred one first.
    pub dhes: Vec<DheGroup>,
    /// Ciphers of sessions, the preferred one first.
    pub aeads: Vec<AeadAlgo>,
    /// How measurements are digested.
    pub measurement_hash: MeasurementHash,
    /// Versions of secured messages (DSP0277), the preferred one first.
    pub secured_versions: Vec<VersionNumber>,
    /// Capabilities. Mutual authentication, pre-shared keys, encapsulated requests, a handshake in the
    /// clear, and everything that writes into the device are not built.
    pub flags: ResponderFlags,
    /// Time for cryptography: 2^n µs.
    pub ct_exponent: u8,
    /// Largest message that is taken in one object, in bytes; at least 42.
    pub data_transfer_size: u32,
    /// Largest message that is taken in chunks, in bytes; not below `data_transfer_size`.
    pub max_message_size: u32,
    /// Seconds after which a heartbeat is due; a session ends after twice as many of silence. 0 is none.
    pub heartbeat_period: u8,
    /// Sessions at the same time, handshakes included.
    pub max_sessions: usize,
    /// Messages that one key of a session may protect; all that sequence numbers allow if `None`.
    pub sequence_limit: Option<u64>,
}

impl Default for Config {
    /// The profile of TEE-IO devices, P-384 and SHA-384 first. Objects of one page of 4 KiB.
    fn default() -> Self {
        Self {
            versions: Version::SPOKEN.to_vec(),
            hashes: vec![HashAlgo::Sha384, HashAlgo::Sha256],
            asyms: vec![AsymAlgo::EcdsaP384],
            dhes: vec![DheGroup::Secp384r1, DheGroup::Secp256r1],
            aeads: vec![AeadAlgo::Aes256Gcm, AeadAlgo::Aes128Gcm],
            measurement_hash: MeasurementHash::Hash(HashAlgo::Sha384),
            secured_versions: vec![VersionNumber(0x1200), VersionNumber(0x1100)],
            flags: ResponderFlags::new()
                .with_cert(true)
                .with_chal(true)
                .with_meas(2)
                .with_meas_fresh(true)
                .with_encrypt(true)
                .with_mac(true)
                .with_key_ex(true)
                .with_hbeat(true)
                .with_key_upd(true)
                .with_chunk(true),
            ct_exponent: 14,
            data_transfer_size: 4056,
            max_message_size: 0x1_2000,
            heartbeat_period: 0x20,
            max_sessions: 4,
            sequence_limit: None,
        }
    }
}

/// Capabilities that may be offered.
const BUILT: ResponderFlags = ResponderFlags::new()
    .with_cert(true)
    .with_chal(true)
    .with_meas(3)
    .with_meas_fresh(true)
    .with_encrypt(true)
    .with_mac(true)
    .with_key_ex(true)
    .with_hbeat(true)
    .with_key_upd(true)
    .with_chunk(true)
    .with_alias_cert(true);

impl Config {
    pub(super) fn check(&self, identities: &[Identity]) -> Result<(), ConfigError> {
        if self.versions.is_empty() || !self.versions.iter().all(|version| version.is_spoken()) {
            return Err(ConfigError::Versions);
        }
        let flags = self.flags;
        let more = u32::from(flags) & !u32::from(BUILT);
        if more != 0 {
            return Err(ConfigError::NotBuilt(more));
        }
        if flags.meas() == 3 || !flags.cert() || !(flags.chal() || flags.key_ex() || flags.meas() == 2) {
            return Err(ConfigError::Flags(
                "CERT_CAP and a use of it, and a MEAS_CAP that is no reserved one",
            ));
        }
        if flags.key_ex() != flags.encrypt() || flags.key_ex() != flags.mac() {
            return Err(ConfigError::Flags("KEY_EX_CAP, ENCRYPT_CAP and MAC_CAP together, or none of them"));
        }
        if (flags.hbeat() || flags.key_upd()) && !flags.key_ex() {
            return Err(ConfigError::Flags("KEY_EX_CAP for HBEAT_CAP and KEY_UPD_CAP"));
        }
        if flags.meas_fresh() && flags.meas() == 0 {
            return Err(ConfigError::Flags("MEAS_CAP for MEAS_FRESH_CAP"));
        }
        if self.hashes.is_empty() || self.asyms.is_empty() {
            return Err(ConfigError::NoAlgorithm);
        }
        if flags.key_ex()
            && (self.dhes.is_empty() || self.aeads.is_empty() || self.secured_versions.is_empty())
        {
            return Err(ConfigError::NoAlgorithm);
        }
        let (one, all) = (self.data_transfer_size, self.max_message_size);
        if one < MIN_DATA_TRANSFER_SIZE || all < one || (!flags.chunk() && all != one) {
            return Err(ConfigError::Sizes { data_transfer_size: one, max_message_size: all });
        }
        if self.ct_exponent > MAX_CT_EXPONENT {
            return Err(ConfigError::CtExponent(self.ct_exponent));
        }
        for asym in &self.asyms {
            if !identities.iter().any(|identity| identity.serves(SlotId::ZERO, *asym)) {
                return Err(ConfigError::NoIdentity(*asym));
            }
        }
        for (index, identity) in identities.iter().enumerate() {
            let asym = identity.signer.algo();
            if identities.iter().skip(index + 1).any(|other| other.serves(identity.slot, asym)) {
                return Err(ConfigError::TwoIdentities(identity.slot, asym));
            }
            if identity.certificates.is_empty() {
                return Err(ConfigError::EmptyChain(identity.slot));
            }
        }
        Ok(())
    }
}

/// A certificate chain and the key of its leaf.
pub struct Identity {
    /// The slot that it stands in. A slot may hold one chain for each signature algorithm.
    pub slot: SlotId,
    /// The certificates in DER, the root first.
    pub certificates: Vec<Vec<u8>>,
    /// The key of the last certificate.
    pub signer: Box<dyn Signer>,
}

impl Identity {
    pub(super) fn serves(&self, slot: SlotId, asym: AsymAlgo) -> bool {
        self.slot == slot && self.signer.algo() == asym
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("slot", &self.slot)
            .field("certificates", &self.certificates.len())
            .field("algo", &self.signer.algo())
            .finish_non_exhaustive()
    }
}

/// Why a responder cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No version, or one that is not spoken.
    #[error("a responder needs versions of SPDM out of 1.2 and 1.3")]
    Versions,
    /// Capabilities that are not built.
    #[error("capabilities {0:#x} are not built")]
    NotBuilt(u32),
    /// Capabilities that contradict each other.
    #[error("capabilities need {0}")]
    Flags(&'static str),
    /// A capability without an algorithm for it.
    #[error("a capability has no algorithm")]
    NoAlgorithm,
    /// Sizes that contradict each other, or are below what every endpoint must take.
    #[error("messages of {data_transfer_size} bytes in one object and {max_message_size} in chunks")]
    Sizes {
        /// Largest message in one object.
        data_transfer_size: u32,
        /// Largest message in chunks.
        max_message_size: u32,
    },
    /// The exponent of a time that is above all bounds.
    #[error("a time for cryptography of 2^{0} µs")]
    CtExponent(u8),
    /// Slot 0 is empty for that algorithm.
    #[error("slot 0 has no certificate chain for {0:?}")]
    NoIdentity(AsymAlgo),
    /// Two chains in one place.
    #[error("slot {0} has two certificate chains for {1:?}")]
    TwoIdentities(SlotId, AsymAlgo),
    /// A chain without a certificate.
    #[error("the certificate chain of slot {0} is empty")]
    EmptyChain(SlotId),
    /// A chain that its header cannot express.
    #[error("the certificate chain of slot {0} is too long")]
    LongChain(SlotId),
}
