//! Who signed an image, and whether it is what was signed: SHA-384 and RSA-3072 by aws-lc.
//!
//! A trust anchor is the SHA-384 of a modulus as the SIGSTRUCT stores it, little endian, the way P-SEAMLDR has
//! Intel's built in.

use core::fmt;

use aws_lc_rs::digest::{self, SHA384};
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA384, RsaPublicKeyComponents};

use crate::container::Image;
use crate::reason::reason_enum;
use crate::sigstruct::{EXPONENT, MODULUS_SIZE, SIGNED_SIZE, Sigstruct};

/// SHA-384 of the modulus of Intel's production key, equal in all published images and built into the
/// published sources of P-SEAMLDR.
pub const INTEL_MODULUS_HASH: [u8; 48] = [
    0xc8, 0x57, 0x2f, 0x54, 0x88, 0x69, 0xa0, 0xbe, 0xca, 0x19, 0x37, 0x6b, 0x81, 0xc2, 0xdf, 0xfc, //
    0x2a, 0x23, 0xb5, 0xa5, 0xf7, 0x1d, 0xa0, 0xb8, 0x75, 0x79, 0xb4, 0x3f, 0x40, 0x8d, 0xaa, 0x1a, //
    0x33, 0xba, 0xd9, 0xc1, 0x49, 0xeb, 0x56, 0xc6, 0x34, 0xf8, 0x83, 0x73, 0x79, 0x68, 0xa3, 0x4c,
];

/// SHA-384 of the modulus of the project's test key, whose private half is public (`keys/README.md`).
pub const TEST_KEY_MODULUS_HASH: [u8; 48] = [
    0xa6, 0xfa, 0x38, 0x5b, 0xa2, 0x7d, 0x94, 0x2e, 0x7c, 0xdb, 0xbf, 0x05, 0x65, 0x2e, 0xfa, 0x50, //
    0xda, 0x57, 0x7c, 0xf8, 0x2b, 0x06, 0xe9, 0x37, 0x2b, 0x8a, 0xc0, 0x10, 0x9b, 0xd0, 0x39, 0xeb, //
    0xaa, 0x94, 0xad, 0x75, 0x69, 0x3b, 0xf1, 0x37, 0x3e, 0x65, 0xd2, 0xd1, 0xb9, 0xb1, 0x1c, 0xbb,
];

/// A known key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signer {
    /// Intel's production key.
    Intel,
    /// The project's test key. Anyone can sign with it.
    TdxhostTestKey,
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Intel => "Intel",
            Self::TdxhostTestKey => "tdxhost test key",
        })
    }
}

/// A SHA-384 that prints as hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash384(pub [u8; 48]);

impl fmt::Display for Hash384 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash384 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

reason_enum! {
    /// Why an image is not what a known key signed.
    pub enum VerifyError {
        /// The modulus is of no known key.
        UnknownSigner {
            /// SHA-384 of the modulus.
            modulus_hash: Hash384,
        } = "image-signer-unknown",
            "the key with modulus hash {modulus_hash} is neither Intel's nor the test key",
            "take an image of Intel; a changed bit in the modulus shows like this too";
        /// The public exponent, which no signature covers.
        Exponent {
            /// The field.
            exponent: u32,
        } = "image-exponent-wrong",
            "the public exponent is {exponent:#x}, not 0x10001",
            "the image is damaged or was tampered with: get it again";
        /// The signature does not fit to the SIGSTRUCT.
        Signature = "image-signature-wrong",
            "the RSA-3072 signature does not fit to the SIGSTRUCT",
            "the image is damaged or was tampered with: get it again";
        /// The module is not the one that was signed.
        ModuleHash {
            /// SHA-384 of the module's pages.
            computed: Hash384,
            /// SEAMHASH.
            signed: Hash384,
        } = "image-module-hash-wrong",
            "the module's SHA-384 is {computed}, but the SIGSTRUCT is for {signed}",
            "SIGSTRUCT and module do not belong together, or the image is damaged: get it again";
    }
}

/// An image that a known key signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Whose key.
    pub signer: Signer,
    /// SHA-384 of the module's pages: MRSEAM of the running module.
    pub seamhash: [u8; 48],
}

/// SHA-384 of a module's pages, fill included.
pub fn seamhash(module: &[u8]) -> [u8; 48] {
    sha384(module)
}

/// SHA-384 of the modulus as stored.
pub fn modulus_hash(sigstruct: &Sigstruct) -> [u8; 48] {
    sha384(&sigstruct.modulus)
}

/// Whose modulus it is. Says nothing of the signature.
pub fn signer(sigstruct: &Sigstruct) -> Option<Signer> {
    match modulus_hash(sigstruct) {
        INTEL_MODULUS_HASH => Some(Signer::Intel),
        TEST_KEY_MODULUS_HASH => Some(Signer::TdxhostTestKey),
        _ => None,
    }
}

/// Whether the SIGSTRUCT's own key signed it: RSASSA-PKCS1-v1_5 with SHA-384 and exponent 65537.
pub fn signature(sigstruct: &Sigstruct) -> Result<(), VerifyError> {
    let exponent = sigstruct.exponent.get();
    if exponent != EXPONENT {
        return Err(VerifyError::Exponent { exponent });
    }
    let modulus = big_endian(&sigstruct.modulus);
    let key = RsaPublicKeyComponents { n: modulus.as_slice(), e: &[1, 0, 1] };
    key.verify(&RSA_PKCS1_2048_8192_SHA384, &signed_bytes(sigstruct), &big_endian(&sigstruct.signature))
        .map_err(|_| VerifyError::Signature)
}

/// Signer, signature and module hash of an image, in this order: the long one last.
pub fn image(image: &Image<'_>) -> Result<Verified, VerifyError> {
    let sigstruct = image.sigstruct();
    let modulus_hash = modulus_hash(sigstruct);
    let signer =
        signer(sigstruct).ok_or(VerifyError::UnknownSigner { modulus_hash: Hash384(modulus_hash) })?;
    signature(sigstruct)?;
    let seamhash = seamhash(image.module());
    if seamhash != *sigstruct.seamhash() {
        let signed = Hash384(*sigstruct.seamhash());
        return Err(VerifyError::ModuleHash { computed: Hash384(seamhash), signed });
    }
    Ok(Verified { signer, seamhash })
}

/// The bytes under the signature in one piece.
pub(crate) fn signed_bytes(sigstruct: &Sigstruct) -> [u8; SIGNED_SIZE] {
    let mut bytes = [0; SIGNED_SIZE];
    let parts = sigstruct.signed_parts();
    for (to, from) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    bytes
}

fn sha384(bytes: &[u8]) -> [u8; 48] {
    let mut hash = [0; 48];
    hash.copy_from_slice(digest::digest(&SHA384, bytes).as_ref());
    hash
}

fn big_endian(little: &[u8; MODULUS_SIZE]) -> [u8; MODULUS_SIZE] {
    let mut big = *little;
    big.reverse();
    big
}
