//! ECDH over the NIST curves.

use alloc::boxed::Box;
use alloc::vec::Vec;

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};

use super::signature::UNCOMPRESSED;
use crate::algo::DheGroup;
use crate::crypto::{CryptoError, Ephemeral, Secret};

/// Our half of one key agreement.
pub(super) struct KeyPair {
    algorithm: &'static agreement::Algorithm,
    private: PrivateKey,
    public: Vec<u8>,
}

const fn ecdh(group: DheGroup) -> &'static agreement::Algorithm {
    match group {
        DheGroup::Secp256r1 => &agreement::ECDH_P256,
        DheGroup::Secp384r1 => &agreement::ECDH_P384,
    }
}

impl KeyPair {
    pub(super) fn generate(group: DheGroup) -> Result<Self, CryptoError> {
        let private =
            PrivateKey::generate(ecdh(group)).map_err(|_| CryptoError::Backend("making a key pair"))?;
        Self::of(group, private)
    }

    fn of(group: DheGroup, private: PrivateKey) -> Result<Self, CryptoError> {
        const FAILED: CryptoError = CryptoError::Backend("computing a public value");
        let point = private.compute_public_key().map_err(|_| FAILED)?;
        let public = match point.as_ref() {
            [UNCOMPRESSED, point @ ..] if point.len() == group.exchange_size() => point.to_vec(),
            _ => return Err(FAILED),
        };
        Ok(Self { algorithm: ecdh(group), private, public })
    }

    /// With a private key that is known, for vectors.
    #[cfg(test)]
    pub(super) fn known(group: DheGroup, scalar: &[u8]) -> Result<Self, CryptoError> {
        let private =
            PrivateKey::from_private_key(ecdh(group), scalar).map_err(|_| CryptoError::Key("the scalar"))?;
        Self::of(group, private)
    }
}

impl Ephemeral for KeyPair {
    fn public(&self) -> &[u8] {
        &self.public
    }

    fn agree(self: Box<Self>, peer: &[u8]) -> Result<Secret, CryptoError> {
        const REFUSED: CryptoError = CryptoError::Key("the public value of the other side");
        let mut point = Vec::with_capacity(1 + peer.len());
        point.push(UNCOMPRESSED);
        point.extend_from_slice(peer);
        // Another length, or a point that is not of the curve, is refused when it is parsed.
        let peer = UnparsedPublicKey::new(self.algorithm, point);
        agreement::agree(&self.private, peer, REFUSED, |secret| Ok(Secret::new(secret.to_vec())))
    }
}
