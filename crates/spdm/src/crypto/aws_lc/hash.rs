//! SHA-2, HMAC and HKDF.

use alloc::boxed::Box;
use alloc::vec;

use aws_lc_rs::{digest, hkdf, hmac};

use crate::algo::{HashAlgo, MAX_DIGEST};
use crate::crypto::{CryptoError, Digest, Hasher, Secret};

const HKDF: CryptoError = CryptoError::Backend("HKDF");

const fn sha(algo: HashAlgo) -> &'static digest::Algorithm {
    match algo {
        HashAlgo::Sha256 => &digest::SHA256,
        HashAlgo::Sha384 => &digest::SHA384,
    }
}

const fn hmac_sha(algo: HashAlgo) -> hmac::Algorithm {
    match algo {
        HashAlgo::Sha256 => hmac::HMAC_SHA256,
        HashAlgo::Sha384 => hmac::HMAC_SHA384,
    }
}

fn taken(bytes: &[u8]) -> Digest {
    let mut all = [0; MAX_DIGEST];
    let size = bytes.len().min(MAX_DIGEST);
    all[..size].copy_from_slice(&bytes[..size]);
    Digest { bytes: all, size }
}

/// A hash under way.
#[derive(Clone)]
pub(super) struct Running(digest::Context);

impl Running {
    pub(super) fn new(algo: HashAlgo) -> Self {
        Self(digest::Context::new(sha(algo)))
    }
}

impl Hasher for Running {
    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn digest(&self) -> Digest {
        taken(self.0.clone().finish().as_ref())
    }

    fn fork(&self) -> Box<dyn Hasher> {
        Box::new(self.clone())
    }
}

pub(super) fn digest(algo: HashAlgo, bytes: &[u8]) -> Digest {
    taken(digest::digest(sha(algo), bytes).as_ref())
}

pub(super) fn hmac(algo: HashAlgo, key: &[u8], data: &[u8]) -> Digest {
    taken(hmac::sign(&hmac::Key::new(hmac_sha(algo), key), data).as_ref())
}

/// HKDF-Extract is an HMAC; `hkdf::Salt` would keep its result to itself.
pub(super) fn hkdf_extract(algo: HashAlgo, salt: &[u8], ikm: &[u8]) -> Result<Secret, CryptoError> {
    let mut prk = Secret::new(vec![0; algo.size()]);
    // Into the secret itself: a `Tag` is not wiped.
    hmac::sign_to_buffer(&hmac::Key::new(hmac_sha(algo), salt), ikm, &mut prk).map_err(|_| HKDF)?;
    Ok(prk)
}

/// As many bytes as are wanted, told to `expand`.
struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

pub(super) fn hkdf_expand(
    algo: HashAlgo,
    prk: &[u8],
    info: &[u8],
    out: &mut [u8],
) -> Result<(), CryptoError> {
    // RFC 5869 wants a key of at least the hash's size; a longer one makes `new_less_safe` panic.
    if prk.len() < algo.size() || prk.len() > digest::MAX_OUTPUT_LEN {
        return Err(CryptoError::Key("the input of HKDF-Expand"));
    }
    let hkdf_algo = match algo {
        HashAlgo::Sha256 => hkdf::HKDF_SHA256,
        HashAlgo::Sha384 => hkdf::HKDF_SHA384,
    };
    hkdf::Prk::new_less_safe(hkdf_algo, prk)
        .expand(&[info], Length(out.len()))
        .and_then(|okm| okm.fill(out))
        .map_err(|_| HKDF)
}
