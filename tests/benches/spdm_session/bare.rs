//! The yardstick of a session: the public-key operations that nobody can leave out, bare on aws-lc.
//!
//! | operation | times | who needs it |
//! |---|---|---|
//! | key pair for the agreement | 2 | each side one |
//! | agreement | 2 | each side one |
//! | signature | 1 | KEY_EXCHANGE_RSP |
//! | verification | 3 | that signature, and two certificates: of the leaf and of its issuer |
//!
//! Hashes, HMACs, ciphers and certificates as such are not in it: they are the session's own affair.

use std::hint::black_box;

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED,
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA384_ASN1_SIGNING,
    ECDSA_P384_SHA384_FIXED, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    EcdsaVerificationAlgorithm, KeyPair,
};

/// Size of what a certificate signs, about that of the chains of the benches.
const CERTIFICATE: usize = 500;

/// A curve with its own hash.
#[derive(Clone, Copy)]
pub(crate) struct Curve {
    pub(crate) name: &'static str,
    ecdh: &'static agreement::Algorithm,
    sha: &'static digest::Algorithm,
    signing: &'static EcdsaSigningAlgorithm,
    verifying: &'static EcdsaVerificationAlgorithm,
    issuing: &'static EcdsaSigningAlgorithm,
    checking: &'static EcdsaVerificationAlgorithm,
}

pub(crate) const P256: Curve = Curve {
    name: "P-256",
    ecdh: &agreement::ECDH_P256,
    sha: &digest::SHA256,
    signing: &ECDSA_P256_SHA256_FIXED_SIGNING,
    verifying: &ECDSA_P256_SHA256_FIXED,
    issuing: &ECDSA_P256_SHA256_ASN1_SIGNING,
    checking: &ECDSA_P256_SHA256_ASN1,
};

pub(crate) const P384: Curve = Curve {
    name: "P-384",
    ecdh: &agreement::ECDH_P384,
    sha: &digest::SHA384,
    signing: &ECDSA_P384_SHA384_FIXED_SIGNING,
    verifying: &ECDSA_P384_SHA384_FIXED,
    issuing: &ECDSA_P384_SHA384_ASN1_SIGNING,
    checking: &ECDSA_P384_SHA384_ASN1,
};

/// A certificate as far as its signature goes.
struct Certificate {
    issuer: Vec<u8>,
    signed: Vec<u8>,
    signature: Vec<u8>,
}

/// What the operations need and a device has before its first session.
pub(crate) struct Bare {
    curve: Curve,
    device: EcdsaKeyPair,
    certificates: [Certificate; 2],
    /// Of KEY_EXCHANGE_RSP: the transcript is hashed as it goes.
    transcript: Digest,
}

impl Bare {
    pub(crate) fn new(curve: Curve) -> Self {
        let certificates = [1, 2].map(|filling| {
            let issuer = EcdsaKeyPair::generate(curve.issuing).expect("a key");
            let signed = vec![filling; CERTIFICATE];
            let signature = issuer.sign(&SystemRandom::new(), &signed).expect("a signature");
            Certificate {
                issuer: issuer.public_key().as_ref().to_vec(),
                signed,
                signature: signature.as_ref().to_vec(),
            }
        });
        Self {
            curve,
            device: EcdsaKeyPair::generate(curve.signing).expect("a key"),
            certificates,
            transcript: digest::digest(curve.sha, b"transcript"),
        }
    }

    /// Every operation of one session, one after the other.
    pub(crate) fn run(&self) {
        let Curve { ecdh, verifying, checking, .. } = self.curve;
        for certificate in &self.certificates {
            signature::UnparsedPublicKey::new(checking, &certificate.issuer)
                .verify(black_box(&certificate.signed), &certificate.signature)
                .expect("a good signature");
        }
        let [requester, responder] = [(); 2].map(|()| PrivateKey::generate(ecdh).expect("a key"));
        let [request, response] =
            [&requester, &responder].map(|key| key.compute_public_key().expect("a point"));
        let signed = self.device.sign_digest(black_box(&self.transcript)).expect("a signature");
        signature::UnparsedPublicKey::new(verifying, self.device.public_key().as_ref())
            .verify_digest(&self.transcript, signed.as_ref())
            .expect("a good signature");
        for (own, peer) in [(&requester, &response), (&responder, &request)] {
            let peer = UnparsedPublicKey::new(ecdh, peer.as_ref());
            agreement::agree(own, peer, (), |secret| Ok(black_box(secret.len())))
                .expect("a point of the curve");
        }
    }
}
