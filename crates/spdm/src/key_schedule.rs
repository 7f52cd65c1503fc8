//! The key schedule: from the shared secret of KEY_EXCHANGE to the keys of both directions.
//! DSP0274 1.2 and 1.3, "Key schedule"; the labels are those of its BinConcat table.
//!
//! ```text
//! DHE secret ─extract(zeros)→ handshake secret ─expand→ S_req_hs, S_rsp_hs   (TH1)
//!                                     └─expand("derived")→ salt_1
//! zeros ─extract(salt_1)→ master secret ─expand→ S_req_app, S_rsp_app, export master   (TH2)
//! each S ─expand→ key, IV; of the handshake also the finished key; of the data phase its successor
//! ```

use alloc::vec;
use alloc::vec::Vec;

use zeroize::Zeroizing;

use crate::algo::{AeadAlgo, HashAlgo, MAX_DIGEST};
use crate::crypto::{Crypto, CryptoError, Digest, Secret};
use crate::ids::Version;

/// Who sends a message, and so whose keys protect it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the requester to the responder.
    Request,
    /// From the responder to the requester.
    Response,
}

impl Direction {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Request, Self::Response];

    /// The other one.
    #[must_use]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Request => Self::Response,
            Self::Response => Self::Request,
        }
    }
}

impl core::fmt::Display for Direction {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Request => "request",
            Self::Response => "response",
        })
    }
}

/// `BinConcat(length, version, label, context)`, the `info` of every HKDF-Expand: the length of what
/// is wanted as u16, "spdm", version and a blank, the label, and a transcript hash where there is one.
pub fn bin_concat(length: u16, version: Version, label: &str, context: &[u8]) -> Vec<u8> {
    let mut info = Vec::with_capacity(10 + label.len() + context.len());
    info.extend_from_slice(&length.to_le_bytes());
    info.extend_from_slice(b"spdm");
    info.extend_from_slice(&[b'0' + (version.0 >> 4), b'.', b'0' + (version.0 & 0xf), b' ']);
    info.extend_from_slice(label.as_bytes());
    info.extend_from_slice(context);
    info
}

/// Secrets of the handshake phase.
pub struct HandshakeSecrets {
    /// The handshake secret, of which the master secret is made.
    pub handshake: Secret,
    /// `S_req_hs`.
    pub request: Secret,
    /// `S_rsp_hs`.
    pub response: Secret,
}

/// Secrets of the data phase.
pub struct DataSecrets {
    /// `S_req_app`.
    pub request: Secret,
    /// `S_rsp_app`.
    pub response: Secret,
    /// The export master secret, for users of the session.
    pub export_master: Secret,
}

/// Key and IV of one direction.
pub struct TrafficKeys {
    /// Key of the cipher.
    pub key: Secret,
    /// The IV that sequence numbers are mixed into.
    pub iv: Zeroizing<[u8; AeadAlgo::IV_SIZE]>,
}

/// The key schedule of one connection's hash and version.
#[derive(Clone, Copy)]
pub struct KeySchedule<'a> {
    crypto: &'a dyn Crypto,
    hash: HashAlgo,
    version: Version,
}

impl<'a> KeySchedule<'a> {
    /// The schedule with that hash and version.
    pub const fn new(crypto: &'a dyn Crypto, hash: HashAlgo, version: Version) -> Self {
        Self { crypto, hash, version }
    }

    /// The secrets of the handshake phase: of the key agreement's secret and TH1.
    pub fn handshake(&self, dhe: &[u8], th1: &Digest) -> Result<HandshakeSecrets, CryptoError> {
        let handshake = self.crypto.hkdf_extract(self.hash, self.zeros(), dhe)?;
        Ok(HandshakeSecrets {
            request: self.of_transcript(&handshake, "req hs data", th1)?,
            response: self.of_transcript(&handshake, "rsp hs data", th1)?,
            handshake,
        })
    }

    /// The secrets of the data phase: of the handshake secret and TH2.
    pub fn data(&self, handshake: &[u8], th2: &Digest) -> Result<DataSecrets, CryptoError> {
        let salt = self.expand(handshake, "derived", &[], self.hash.size())?;
        let master = self.crypto.hkdf_extract(self.hash, &salt, self.zeros())?;
        Ok(DataSecrets {
            request: self.of_transcript(&master, "req app data", th2)?,
            response: self.of_transcript(&master, "rsp app data", th2)?,
            export_master: self.of_transcript(&master, "exp master", th2)?,
        })
    }

    /// Key and IV of a direction's secret.
    pub fn traffic_keys(&self, aead: AeadAlgo, secret: &[u8]) -> Result<TrafficKeys, CryptoError> {
        let key = self.expand(secret, "key", &[], aead.key_size())?;
        let mut iv = Zeroizing::new([0; AeadAlgo::IV_SIZE]);
        self.expand_into(secret, "iv", &[], &mut *iv)?;
        Ok(TrafficKeys { key, iv })
    }

    /// The key of a direction's HMAC in FINISH and FINISH_RSP, and in KEY_EXCHANGE_RSP.
    pub fn finished_key(&self, secret: &[u8]) -> Result<Secret, CryptoError> {
        self.expand(secret, "finished", &[], self.hash.size())
    }

    /// The secret that follows on a direction's secret of the data phase after KEY_UPDATE.
    pub fn update(&self, secret: &[u8]) -> Result<Secret, CryptoError> {
        self.expand(secret, "traffic upd", &[], self.hash.size())
    }

    /// A digest's worth of zeros: salt_0, and the input of the master secret.
    fn zeros(&self) -> &'static [u8] {
        &[0; MAX_DIGEST][..self.hash.size()]
    }

    fn of_transcript(&self, secret: &[u8], label: &str, th: &Digest) -> Result<Secret, CryptoError> {
        if th.len() != self.hash.size() {
            return Err(CryptoError::Backend("a key schedule with a transcript of another hash"));
        }
        self.expand(secret, label, th, self.hash.size())
    }

    fn expand(&self, secret: &[u8], label: &str, context: &[u8], size: usize) -> Result<Secret, CryptoError> {
        let mut out = Secret::new(vec![0; size]);
        self.expand_into(secret, label, context, &mut out)?;
        Ok(out)
    }

    fn expand_into(
        &self,
        secret: &[u8],
        label: &str,
        context: &[u8],
        out: &mut [u8],
    ) -> Result<(), CryptoError> {
        let length =
            u16::try_from(out.len()).map_err(|_| CryptoError::Backend("a key schedule of that length"))?;
        let info = bin_concat(length, self.version, label, context);
        self.crypto.hkdf_expand(self.hash, secret, &info, out)
    }
}
