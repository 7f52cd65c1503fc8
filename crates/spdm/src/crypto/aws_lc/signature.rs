//! ECDSA.
//!
//! ECDSA signs a number, the leftmost bits of the digest up to the size of the group's order. So a
//! digest of either hash is brought to the size of the curve first, and the curve's own algorithm
//! of aws-lc, which has `r` and `s` side by side, takes every hash.

use alloc::vec::Vec;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED,
    ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, EcdsaVerificationAlgorithm,
    KeyPair, UnparsedPublicKey,
};
use zeroize::Zeroizing;

use super::hash;
use crate::algo::{AsymAlgo, HashAlgo, MAX_DIGEST, MAX_SIGNATURE};
use crate::crypto::{CryptoError, PublicKey, Secret, Signer};

/// First byte of a point with both coordinates (SEC 1, 2.3.3).
pub(super) const UNCOMPRESSED: u8 = 4;

const fn verification(algo: AsymAlgo) -> &'static EcdsaVerificationAlgorithm {
    match algo {
        AsymAlgo::EcdsaP256 => &ECDSA_P256_SHA256_FIXED,
        AsymAlgo::EcdsaP384 => &ECDSA_P384_SHA384_FIXED,
    }
}

const fn signing(algo: AsymAlgo) -> &'static EcdsaSigningAlgorithm {
    match algo {
        AsymAlgo::EcdsaP256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
        AsymAlgo::EcdsaP384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
    }
}

/// The digest of `message` as the number that the curve signs: a longer one loses its end, a shorter
/// one gets zeros in front (FIPS 186-5, 6.4.1 step 2).
fn number(algo: AsymAlgo, hash: HashAlgo, message: &[u8]) -> Result<digest::Digest, CryptoError> {
    let sha = match algo {
        AsymAlgo::EcdsaP256 => &digest::SHA256,
        AsymAlgo::EcdsaP384 => &digest::SHA384,
    };
    let digest = hash::digest(hash, message);
    let size = algo.signature_size() / 2;
    let mut bytes = [0; MAX_DIGEST];
    let kept = digest.len().min(size);
    bytes[size - kept..size].copy_from_slice(&digest[..kept]);
    digest::Digest::import_less_safe(&bytes[..size], sha).map_err(|_| CryptoError::Backend("ECDSA"))
}

pub(super) fn verify(
    key: &PublicKey,
    hash: HashAlgo,
    message: &[u8],
    signature: &[u8],
) -> Result<(), CryptoError> {
    const BAD_KEY: CryptoError = CryptoError::Key("the public key of the signature");
    let algo = key.algo;
    // Two numbers of the field take as many bytes as two of the order.
    let size = algo.signature_size();
    if key.point.len() != size {
        return Err(BAD_KEY);
    }
    let mut point = [UNCOMPRESSED; 1 + MAX_SIGNATURE];
    point[1..=size].copy_from_slice(&key.point);
    let key = UnparsedPublicKey::new(verification(algo), &point[..=size]).parse().map_err(|_| BAD_KEY)?;
    key.verify_digest_sig(&number(algo, hash, message)?, signature).map_err(|_| CryptoError::Signature)
}

/// A private key for ECDSA, in memory.
pub struct EcdsaSigner {
    algo: AsymAlgo,
    pair: EcdsaKeyPair,
}

impl EcdsaSigner {
    /// A key from its PKCS#8 DER.
    ///
    /// # Errors
    /// [`CryptoError::Key`] if it is none of `algo`.
    pub fn from_pkcs8(algo: AsymAlgo, der: &[u8]) -> Result<Self, CryptoError> {
        let pair = EcdsaKeyPair::from_pkcs8(signing(algo), der)
            .map_err(|_| CryptoError::Key("the private key in PKCS#8"))?;
        Ok(Self { algo, pair })
    }

    /// A fresh key.
    pub fn generate(algo: AsymAlgo) -> Result<Self, CryptoError> {
        let pair =
            EcdsaKeyPair::generate(signing(algo)).map_err(|_| CryptoError::Backend("making a key pair"))?;
        Ok(Self { algo, pair })
    }

    /// The key as PKCS#8 DER.
    pub fn to_pkcs8(&self) -> Result<Secret, CryptoError> {
        // aws-lc-rs wipes its document; the bytes are copied once, into what wipes them as well.
        let der = self.pair.to_pkcs8v1().map_err(|_| CryptoError::Backend("writing PKCS#8"))?;
        Ok(Zeroizing::new(der.as_ref().to_vec()))
    }

    /// The public key.
    pub fn public(&self) -> PublicKey {
        // The first byte says that both coordinates follow.
        let point = self.pair.public_key().as_ref().get(1..).unwrap_or_default();
        PublicKey { algo: self.algo, point: point.to_vec() }
    }
}

impl Signer for EcdsaSigner {
    fn algo(&self) -> AsymAlgo {
        self.algo
    }

    fn sign(&self, hash: HashAlgo, message: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let signature = self
            .pair
            .sign_digest(&number(self.algo, hash, message)?)
            .map_err(|_| CryptoError::Backend("signing"))?;
        Ok(signature.as_ref().to_vec())
    }
}
