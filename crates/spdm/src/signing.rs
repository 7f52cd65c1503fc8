//! What is signed: `combined_spdm_prefix` and the digest of a transcript. DSP0274, "Signature generation".

use alloc::vec::Vec;

use crate::algo::HashAlgo;
use crate::crypto::{Crypto, CryptoError, Digest, PublicKey, Signer};
use crate::ids::Version;

/// Size of `combined_spdm_prefix` in bytes.
pub const PREFIX_SIZE: usize = 100;
/// Where the zeros before the context string begin: behind four copies of the version string.
const PAD: usize = 64;

/// A message of the responder that carries a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Context {
    /// `CHALLENGE_AUTH`.
    ChallengeAuth,
    /// `MEASUREMENTS`.
    Measurements,
    /// `KEY_EXCHANGE_RSP`.
    KeyExchangeRsp,
}

impl Context {
    /// `spdm_context`.
    pub const fn text(self) -> &'static str {
        match self {
            Self::ChallengeAuth => "responder-challenge_auth signing",
            Self::Measurements => "responder-measurements signing",
            Self::KeyExchangeRsp => "responder-key_exchange_rsp signing",
        }
    }
}

/// `combined_spdm_prefix`: four times `dmtf-spdm-v1.2.*` with the version of the connection, zeros, and
/// the context at the end.
pub fn prefix(version: Version, context: Context) -> [u8; PREFIX_SIZE] {
    let mut spdm_prefix = *b"dmtf-spdm-v0.0.*";
    let digit = |nibble: u8| b'0' + nibble;
    spdm_prefix[11] = digit(version.0 >> 4);
    spdm_prefix[13] = digit(version.0 & 0xf);

    let text = context.text().as_bytes();
    let mut prefix = [0; PREFIX_SIZE];
    for copy in prefix[..PAD].chunks_exact_mut(spdm_prefix.len()) {
        copy.copy_from_slice(&spdm_prefix);
    }
    prefix[PREFIX_SIZE - text.len()..].copy_from_slice(text);
    prefix
}

/// The message that a signature of `context` stands under: the prefix, then the digest of the transcript.
pub fn message(version: Version, context: Context, transcript: &Digest) -> Vec<u8> {
    [&prefix(version, context)[..], transcript].concat()
}

/// Signs the digest of a transcript; `r` and `s`, big endian.
pub fn sign(
    signer: &dyn Signer,
    hash: HashAlgo,
    version: Version,
    context: Context,
    transcript: &Digest,
) -> Result<Vec<u8>, CryptoError> {
    signer.sign(hash, &message(version, context, transcript))
}

/// Checks a signature over the digest of a transcript.
pub fn verify(
    crypto: &dyn Crypto,
    key: &PublicKey,
    hash: HashAlgo,
    version: Version,
    context: Context,
    transcript: &Digest,
    signature: &[u8],
) -> Result<(), CryptoError> {
    crypto.verify(key, hash, &message(version, context, transcript), signature)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_names_the_version_four_times_and_ends_with_the_context() {
        let spdm_1_2 = prefix(Version::V1_2, Context::KeyExchangeRsp);
        assert_eq!(&spdm_1_2[..64], b"dmtf-spdm-v1.2.*dmtf-spdm-v1.2.*dmtf-spdm-v1.2.*dmtf-spdm-v1.2.*");
        assert_eq!(&spdm_1_2[64..], b"\0\0responder-key_exchange_rsp signing");

        let spdm_1_3 = prefix(Version::V1_3, Context::ChallengeAuth);
        assert_eq!(&spdm_1_3[..64], b"dmtf-spdm-v1.3.*dmtf-spdm-v1.3.*dmtf-spdm-v1.3.*dmtf-spdm-v1.3.*");
        assert_eq!(&spdm_1_3[64..], b"\0\0\0\0responder-challenge_auth signing");

        let measurements = prefix(Version::V1_2, Context::Measurements);
        assert_eq!(&measurements[64..], b"\0\0\0\0\0\0responder-measurements signing");
    }

    #[test]
    fn the_digest_follows_the_prefix() {
        let digest = Digest::new(&[0xa5; 48]).unwrap();
        let message = message(Version::V1_3, Context::Measurements, &digest);
        assert_eq!(message.len(), 148);
        assert_eq!(message[..100], prefix(Version::V1_3, Context::Measurements));
        assert_eq!(message[100..], [0xa5; 48]);
    }
}
