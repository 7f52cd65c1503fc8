//! Random numbers of the hardware for the cryptography of SPDM.
//!
//! A requester has no LP at hand when it needs a nonce. What it may need in one step is drawn before the
//! step; without it the step does not begin. Ephemeral keys of a key exchange come from the library.

use std::sync::{Arc, Mutex, PoisonError};

use spdm::algo::{AeadAlgo, DheGroup, HashAlgo};
use spdm::crypto::aws_lc::AwsLc;
use spdm::crypto::{Aead, Crypto, CryptoError, Digest, Ephemeral, Hasher, PublicKey, Secret};
use zeroize::Zeroizing;

use crate::call::Call;

/// Bytes that one step takes at most: nonce, context and tag, several times over.
const STEP: usize = 128;

/// Random bytes that were drawn and not used.
#[derive(Debug, Default)]
pub(crate) struct Entropy {
    drawn: Mutex<Zeroizing<Vec<u8>>>,
}

impl Entropy {
    /// Draws what a step may need; false if the hardware had nothing. What came is kept.
    pub(crate) fn refill(&self, call: &Call<'_>) -> bool {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        // A vector that grows leaves what was in it behind.
        let room = STEP + size_of::<u64>();
        let missing = room.saturating_sub(drawn.len());
        drawn.reserve_exact(missing);
        while drawn.len() < STEP {
            let Some(random) = call.hw.random(call.lp) else { return false };
            drawn.extend_from_slice(&random.to_le_bytes());
        }
        true
    }

    fn take(&self, out: &mut [u8]) -> Result<(), CryptoError> {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = drawn.len().checked_sub(out.len()).ok_or(CryptoError::Entropy)?;
        out.copy_from_slice(drawn.get(rest..).unwrap_or_default());
        drawn.truncate(rest);
        Ok(())
    }
}

/// The library, but random bytes are the hardware's.
#[derive(Debug)]
pub(crate) struct SeamCrypto(pub(crate) Arc<Entropy>);

impl Crypto for SeamCrypto {
    fn random(&self, out: &mut [u8]) -> Result<(), CryptoError> {
        self.0.take(out)
    }

    fn hasher(&self, algo: HashAlgo) -> Box<dyn Hasher> {
        AwsLc.hasher(algo)
    }

    fn hmac(&self, algo: HashAlgo, key: &[u8], data: &[u8]) -> Digest {
        AwsLc.hmac(algo, key, data)
    }

    fn hkdf_extract(&self, algo: HashAlgo, salt: &[u8], ikm: &[u8]) -> Result<Secret, CryptoError> {
        AwsLc.hkdf_extract(algo, salt, ikm)
    }

    fn hkdf_expand(
        &self,
        algo: HashAlgo,
        prk: &[u8],
        info: &[u8],
        out: &mut [u8],
    ) -> Result<(), CryptoError> {
        AwsLc.hkdf_expand(algo, prk, info, out)
    }

    fn ephemeral(&self, group: DheGroup) -> Result<Box<dyn Ephemeral>, CryptoError> {
        AwsLc.ephemeral(group)
    }

    fn verify(
        &self,
        key: &PublicKey,
        hash: HashAlgo,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), CryptoError> {
        AwsLc.verify(key, hash, message, signature)
    }

    fn aead(&self, algo: AeadAlgo, key: &[u8]) -> Result<Box<dyn Aead>, CryptoError> {
        AwsLc.aead(algo, key)
    }

    fn digest(&self, algo: HashAlgo, bytes: &[u8]) -> Digest {
        AwsLc.digest(algo, bytes)
    }
}
