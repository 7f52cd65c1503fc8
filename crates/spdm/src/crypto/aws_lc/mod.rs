//! The back end on aws-lc, through `aws-lc-rs`.
//!
//! aws-lc wipes what it frees; what leaves it as a secret goes straight into a [`Secret`].

mod aead;
mod agreement;
mod hash;
mod signature;
#[cfg(test)]
mod tests;

pub use signature::EcdsaSigner;

use alloc::boxed::Box;

use aws_lc_rs::rand;

use super::{Aead, Crypto, CryptoError, Digest, Ephemeral, Hasher, PublicKey, Secret};
use crate::algo::{AeadAlgo, DheGroup, HashAlgo};

/// aws-lc as the cryptography of SPDM.
#[derive(Clone, Copy, Debug, Default)]
pub struct AwsLc;

impl Crypto for AwsLc {
    fn random(&self, out: &mut [u8]) -> Result<(), CryptoError> {
        rand::fill(out).map_err(|_| CryptoError::Entropy)
    }

    fn hasher(&self, algo: HashAlgo) -> Box<dyn Hasher> {
        Box::new(hash::Running::new(algo))
    }

    fn hmac(&self, algo: HashAlgo, key: &[u8], data: &[u8]) -> Digest {
        hash::hmac(algo, key, data)
    }

    fn hkdf_extract(&self, algo: HashAlgo, salt: &[u8], ikm: &[u8]) -> Result<Secret, CryptoError> {
        hash::hkdf_extract(algo, salt, ikm)
    }

    fn hkdf_expand(
        &self,
        algo: HashAlgo,
        prk: &[u8],
        info: &[u8],
        out: &mut [u8],
    ) -> Result<(), CryptoError> {
        hash::hkdf_expand(algo, prk, info, out)
    }

    fn ephemeral(&self, group: DheGroup) -> Result<Box<dyn Ephemeral>, CryptoError> {
        Ok(Box::new(agreement::KeyPair::generate(group)?))
    }

    fn verify(
        &self,
        key: &PublicKey,
        hash: HashAlgo,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), CryptoError> {
        signature::verify(key, hash, message, signature)
    }

    fn aead(&self, algo: AeadAlgo, key: &[u8]) -> Result<Box<dyn Aead>, CryptoError> {
        Ok(Box::new(aead::Gcm::new(algo, key)?))
    }

    fn digest(&self, algo: HashAlgo, bytes: &[u8]) -> Digest {
        hash::digest(algo, bytes)
    }
}
