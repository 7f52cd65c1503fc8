//! A certificate chain as `CERTIFICATE` carries it. DSP0274, "Certificate chain format".
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 2 | length of the whole chain |
//! | 2 | 2 | reserved |
//! | 4 | H | hash of the root certificate |
//! | 4 + H | | certificates in DER, each issued by the one before it |

use alloc::vec::Vec;

use x509_cert::der::{Decode, Encode, Header, SliceReader};

use super::ChainError;
use crate::algo::HashAlgo;
use crate::crypto::Crypto;
use crate::wire::Reader;

/// Size of length and reserved field in bytes.
const FIXED: usize = 4;
/// More certificates than any device has; bounds the work that a stranger's chain makes.
pub const MAX_CERTIFICATES: usize = 16;

/// A chain taken apart. Whether it is believed is another question ([`super::Verifier`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertChain<'a> {
    root_hash: &'a [u8],
    certificates: Vec<&'a [u8]>,
    hash: HashAlgo,
}

impl<'a> CertChain<'a> {
    /// Takes the bytes of a chain apart that uses `hash`.
    pub fn parse(bytes: &'a [u8], hash: HashAlgo) -> Result<Self, ChainError> {
        let short = ChainError::Length { said: FIXED + hash.size(), found: bytes.len() };
        let mut reader = Reader::new(bytes);
        let said = usize::from(reader.u16("Length").map_err(|_| short)?);
        if said != bytes.len() {
            return Err(ChainError::Length { said, found: bytes.len() });
        }
        match reader.u16("Reserved").map_err(|_| short)? {
            0 => {}
            set => return Err(ChainError::Reserved(set)),
        }
        let root_hash = reader.take(hash.size(), "RootHash").map_err(|_| short)?;
        let certificates = split(reader.rest())?;
        if certificates.is_empty() {
            return Err(ChainError::Empty);
        }
        Ok(Self { root_hash, certificates, hash })
    }

    /// The hash that the chain uses.
    pub const fn hash(&self) -> HashAlgo {
        self.hash
    }

    /// Hash of the root certificate, whether or not that stands in the chain.
    pub const fn root_hash(&self) -> &'a [u8] {
        self.root_hash
    }

    /// The certificates in DER, root or its first subject first.
    pub fn certificates(&self) -> &[&'a [u8]] {
        &self.certificates
    }

    /// The certificate of the device.
    pub fn leaf(&self) -> &'a [u8] {
        self.certificates.last().copied().unwrap_or(&[])
    }
}

/// The bytes of a chain whose first certificate is its root.
///
/// # Errors
/// [`ChainError::Empty`] without certificates, [`ChainError::Length`] if the chain exceeds what its
/// header can say.
pub fn build<C: AsRef<[u8]>>(
    crypto: &dyn Crypto,
    hash: HashAlgo,
    certificates: &[C],
) -> Result<Vec<u8>, ChainError> {
    let root = certificates.first().ok_or(ChainError::Empty)?;
    let size = FIXED + hash.size() + certificates.iter().map(|der| der.as_ref().len()).sum::<usize>();
    let said =
        u16::try_from(size).map_err(|_| ChainError::Length { said: usize::from(u16::MAX), found: size })?;
    let mut bytes = Vec::with_capacity(size);
    bytes.extend(said.to_le_bytes());
    bytes.extend([0; 2]);
    bytes.extend_from_slice(&crypto.digest(hash, root.as_ref()));
    for der in certificates {
        bytes.extend_from_slice(der.as_ref());
    }
    Ok(bytes)
}

/// The DER objects that stand behind each other in `bytes`.
fn split(bytes: &[u8]) -> Result<Vec<&[u8]>, ChainError> {
    let mut certificates = Vec::new();
    let mut left = bytes;
    while !left.is_empty() {
        if certificates.len() == MAX_CERTIFICATES {
            return Err(ChainError::TooMany(MAX_CERTIFICATES));
        }
        let size = der_size(left).ok_or(ChainError::Malformed { certificate: certificates.len() })?;
        let (certificate, rest) =
            left.split_at_checked(size).ok_or(ChainError::Malformed { certificate: certificates.len() })?;
        certificates.push(certificate);
        left = rest;
    }
    Ok(certificates)
}

/// Size of the DER object at the start of `bytes`, with its header.
fn der_size(bytes: &[u8]) -> Option<usize> {
    let (header, body) = der_sizes(bytes)?;
    header.checked_add(body)
}

/// Sizes of header and body of the DER object at the start of `bytes`.
fn der_sizes(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut reader = SliceReader::new(bytes).ok()?;
    let header = Header::decode(&mut reader).ok()?;
    let body = usize::try_from(header.length()).ok()?;
    Some((usize::try_from(header.encoded_len().ok()?).ok()?, body))
}

/// The DER object at the start of `bytes`, with its header.
#[cfg(feature = "aws-lc")]
pub(super) fn first_der(bytes: &[u8]) -> Option<&[u8]> {
    bytes.get(..der_size(bytes)?)
}

/// The body of the DER object at the start of `bytes`.
#[cfg(feature = "aws-lc")]
pub(super) fn inside_der(bytes: &[u8]) -> Option<&[u8]> {
    let (header, body) = der_sizes(bytes)?;
    bytes.get(header..)?.get(..body)
}
