//! The cryptography that SPDM needs, as traits that a device can implement on its own engines.
//!
//! Objects, not generics: a requester with one back end and a responder with another are the same
//! type. Secrets are zeroised when they are dropped.

#[cfg(feature = "aws-lc")]
pub mod aws_lc;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::algo::{AeadAlgo, AsymAlgo, DheGroup, HashAlgo, MAX_DIGEST};

/// Bytes that are overwritten when they are dropped.
pub type Secret = Zeroizing<Vec<u8>>;

/// Why a cryptographic operation failed. It says nothing of secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// No random bytes at the moment.
    #[error("the random number generator failed")]
    Entropy,
    /// A key or public value is malformed.
    #[error("{0} is no valid key")]
    Key(&'static str),
    /// A signature is not one of that key over that message.
    #[error("the signature does not verify")]
    Signature,
    /// A tag does not match: wrong key, wrong sequence number, or changed bytes.
    #[error("the authentication tag does not verify")]
    Tag,
    /// The back end refused for another reason.
    #[error("{0} failed")]
    Backend(&'static str),
}

/// A digest or HMAC of a supported hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest {
    bytes: [u8; MAX_DIGEST],
    size: usize,
}

impl Digest {
    /// `None` if `bytes` is longer than any digest.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut digest = Self { bytes: [0; MAX_DIGEST], size: bytes.len() };
        digest.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(digest)
    }
}

impl Deref for Digest {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.size).unwrap_or(&[])
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A hash under way; transcripts are kept as such.
pub trait Hasher: Send + Sync {
    /// Appends bytes.
    fn update(&mut self, bytes: &[u8]);
    /// The digest of everything so far. More may follow.
    fn digest(&self) -> Digest;
    /// A copy at this point.
    fn fork(&self) -> Box<dyn Hasher>;
}

/// Our half of one key agreement; used once.
pub trait Ephemeral: Send + Sync {
    /// The public value: `x` and `y`, big endian.
    fn public(&self) -> &[u8];
    /// The shared secret with the public value `x`, `y` of the other side.
    ///
    /// # Errors
    /// [`CryptoError::Key`] if `peer` is no point of the group.
    fn agree(self: Box<Self>, peer: &[u8]) -> Result<Secret, CryptoError>;
}

/// A cipher with its key.
pub trait Aead: Send + Sync {
    /// Encrypts `text` where it stands and returns the tag.
    fn seal(
        &self,
        iv: &[u8; AeadAlgo::IV_SIZE],
        aad: &[u8],
        text: &mut [u8],
    ) -> Result<[u8; AeadAlgo::TAG_SIZE], CryptoError>;
    /// Decrypts `text` where it stands. After an error its bytes are worthless.
    ///
    /// # Errors
    /// [`CryptoError::Tag`] if the tag is not the right one.
    fn open(
        &self,
        iv: &[u8; AeadAlgo::IV_SIZE],
        aad: &[u8],
        text: &mut [u8],
        tag: &[u8; AeadAlgo::TAG_SIZE],
    ) -> Result<(), CryptoError>;
}

/// A public key for signatures: `x` and `y` of its point, big endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// The algorithm that it belongs to.
    pub algo: AsymAlgo,
    /// The point.
    pub point: Vec<u8>,
}

/// The private key of a certificate.
pub trait Signer: Send + Sync {
    /// The algorithm of the key.
    fn algo(&self) -> AsymAlgo;
    /// Signs `message`, hashed with `hash`; `r` and `s`, big endian.
    fn sign(&self, hash: HashAlgo, message: &[u8]) -> Result<Vec<u8>, CryptoError>;
}

/// A back end.
pub trait Crypto: Send + Sync {
    /// Fills `out` with random bytes.
    fn random(&self, out: &mut [u8]) -> Result<(), CryptoError>;
    /// An empty hash.
    fn hasher(&self, algo: HashAlgo) -> Box<dyn Hasher>;
    /// HMAC of `data`.
    fn hmac(&self, algo: HashAlgo, key: &[u8], data: &[u8]) -> Digest;
    /// HKDF-Extract (RFC 5869). Its result is a secret, which a [`Digest`] is not.
    fn hkdf_extract(&self, algo: HashAlgo, salt: &[u8], ikm: &[u8]) -> Result<Secret, CryptoError>;
    /// HKDF-Expand (RFC 5869).
    fn hkdf_expand(&self, algo: HashAlgo, prk: &[u8], info: &[u8], out: &mut [u8])
    -> Result<(), CryptoError>;
    /// A fresh key pair for one key agreement.
    fn ephemeral(&self, group: DheGroup) -> Result<Box<dyn Ephemeral>, CryptoError>;
    /// Checks a signature (`r`, `s`) of `key` over `message`, hashed with `hash`.
    fn verify(
        &self,
        key: &PublicKey,
        hash: HashAlgo,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), CryptoError>;
    /// A cipher with its key.
    fn aead(&self, algo: AeadAlgo, key: &[u8]) -> Result<Box<dyn Aead>, CryptoError>;

    /// The digest of `bytes`.
    fn digest(&self, algo: HashAlgo, bytes: &[u8]) -> Digest {
        let mut hasher = self.hasher(algo);
        hasher.update(bytes);
        hasher.digest()
    }
}

/// Compares secrets or tags in a time that does not depend on where they differ.
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}
