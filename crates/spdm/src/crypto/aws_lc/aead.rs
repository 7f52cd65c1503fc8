//! AES-GCM.

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::algo::AeadAlgo;
use crate::crypto::{Aead, CryptoError};

/// AES-GCM with its key schedule, which is made once.
pub(super) struct Gcm(LessSafeKey);

impl Gcm {
    pub(super) fn new(algo: AeadAlgo, key: &[u8]) -> Result<Self, CryptoError> {
        let gcm = match algo {
            AeadAlgo::Aes128Gcm => &aead::AES_128_GCM,
            AeadAlgo::Aes256Gcm => &aead::AES_256_GCM,
        };
        let key = UnboundKey::new(gcm, key).map_err(|_| CryptoError::Key("the key of AES-GCM"))?;
        Ok(Self(LessSafeKey::new(key)))
    }
}

impl Aead for Gcm {
    fn seal(
        &self,
        iv: &[u8; AeadAlgo::IV_SIZE],
        aad: &[u8],
        text: &mut [u8],
    ) -> Result<[u8; AeadAlgo::TAG_SIZE], CryptoError> {
        const FAILED: CryptoError = CryptoError::Backend("AES-GCM");
        let tag =
            self.0.seal_in_place_separate_tag(Nonce::from(iv), Aad::from(aad), text).map_err(|_| FAILED)?;
        tag.as_ref().try_into().map_err(|_| FAILED)
    }

    fn open(
        &self,
        iv: &[u8; AeadAlgo::IV_SIZE],
        aad: &[u8],
        text: &mut [u8],
        tag: &[u8; AeadAlgo::TAG_SIZE],
    ) -> Result<(), CryptoError> {
        match self.0.open_in_place_separate_tag(Nonce::from(iv), Aad::from(aad), tag, text) {
            Ok(_) => Ok(()),
            Err(_) => Err(CryptoError::Tag),
        }
    }
}
