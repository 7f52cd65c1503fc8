//! Chains against trusted roots.

use alloc::vec::Vec;
use core::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, anchor_from_trusted_cert};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::oid::db::rfc5280::ID_CE_KEY_USAGE;
use x509_cert::ext::pkix::KeyUsage;

use super::chain::CertChain;
use super::{ChainError, Verifier, Wanted, leaf};
use crate::crypto::aws_lc::AwsLc;
use crate::crypto::{Crypto, PublicKey};

/// The roots that are believed.
#[derive(Clone, Debug)]
pub enum TrustStore {
    /// Chains of these roots.
    Roots(Vec<Vec<u8>>),
    /// Any root that stands in the chain itself: the chain is checked, the device stays a stranger.
    AnyRoot,
}

impl TrustStore {
    /// Believes chains of `roots`, certificates in DER.
    pub fn new<R: Into<Vec<u8>>>(roots: impl IntoIterator<Item = R>) -> Self {
        Self::Roots(roots.into_iter().map(Into::into).collect())
    }

    /// The root of `chain` and how many of the chain's certificates are that root (0 or 1).
    fn root<'a>(&'a self, chain: &CertChain<'a>) -> Result<(&'a [u8], usize), ChainError> {
        let is_root = |der: &[u8]| is_root_hash(chain, der);
        let first = *chain.certificates().first().ok_or(ChainError::Empty)?;
        let included = is_root(first);
        let root = match self {
            Self::Roots(roots) => roots.iter().map(Vec::as_slice).find(|der| is_root(der)),
            Self::AnyRoot => Some(first).filter(|_| included),
        };
        match root {
            Some(root) => Ok((root, usize::from(included))),
            // A self-issued first certificate that the header's hash is not of: a lie, not a stranger.
            None if !included && is_self_issued(first) => Err(ChainError::RootHash),
            None => Err(ChainError::UnknownRoot),
        }
    }
}

impl Verifier for TrustStore {
    fn verify(&self, chain: &CertChain<'_>, wanted: &Wanted) -> Result<PublicKey, ChainError> {
        let (root, included) = self.root(chain)?;
        let parsed = parse_all(chain)?;
        check_validity(&parsed, wanted.now)?;
        let root_certificate = Certificate::from_der(root).map_err(|_| ChainError::UnknownRoot)?;
        if included == 0 {
            check_validity_of(&root_certificate, wanted.now).map_err(|_| ChainError::RootValidity)?;
        }
        check_order(&root_certificate, &parsed, included)?;
        check_extensions(&parsed)?;

        let last = parsed.len() - 1;
        if included == 1 && last == 0 {
            return Err(ChainError::LeafIsAuthority);
        }
        let der: Vec<_> = chain.certificates().iter().map(|&der| CertificateDer::from(der)).collect();
        let (leaf_der, issuers) = der.split_last().ok_or(ChainError::Empty)?;
        let root = CertificateDer::from(root);
        let anchor = anchor_from_trusted_cert(&root).map_err(|_| ChainError::UnknownRoot)?;
        let anchors = [anchor];
        let end_entity = EndEntityCert::try_from(leaf_der).map_err(|error| named(&error, last))?;
        let issuers = issuers.get(included..).unwrap_or(&[]);
        let now = UnixTime::since_unix_epoch(wanted.now);
        let path = end_entity
            .verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, issuers, now, AnyPurpose, None, None)
            .map_err(|error| named(&error, last))?;
        // webpki is content with a path that leaves some of them out.
        if path.intermediate_certificates().count() != issuers.len() {
            return Err(ChainError::Stray);
        }

        let leaf = parsed.last().ok_or(ChainError::Empty)?;
        leaf::check(leaf, last, wanted.model, wanted.asym)
    }
}

/// Purposes are the leaf's affair ([`leaf::check`]): authorities of SPDM name what they like.
struct AnyPurpose;

impl ExtendedKeyUsageValidator for AnyPurpose {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        purposes.into_iter().try_for_each(|purpose| purpose.map(drop))
    }
}

/// Whether the chain's root hash is that of the certificate `der`.
pub(super) fn is_root_hash(chain: &CertChain<'_>, der: &[u8]) -> bool {
    *AwsLc.digest(chain.hash(), der) == *chain.root_hash()
}

pub(super) fn parse_all(chain: &CertChain<'_>) -> Result<Vec<Certificate>, ChainError> {
    let parse = |(certificate, der): (usize, &&[u8])| {
        Certificate::from_der(der).map_err(|_| ChainError::Malformed { certificate })
    };
    chain.certificates().iter().enumerate().map(parse).collect()
}

/// On which side of its validity a certificate is.
enum Outside {
    Before,
    After,
}

fn check_validity_of(certificate: &Certificate, now: Duration) -> Result<(), Outside> {
    let validity = certificate.tbs_certificate().validity();
    if now < validity.not_before.to_unix_duration() {
        return Err(Outside::Before);
    }
    if now > validity.not_after.to_unix_duration() {
        return Err(Outside::After);
    }
    Ok(())
}

/// webpki tells that one has expired, but not which, and says nothing of the root.
fn check_validity(certificates: &[Certificate], now: Duration) -> Result<(), ChainError> {
    for (certificate, parsed) in certificates.iter().enumerate() {
        check_validity_of(parsed, now).map_err(|outside| match outside {
            Outside::Before => ChainError::NotYetValid { certificate },
            Outside::After => ChainError::Expired { certificate },
        })?;
    }
    Ok(())
}

/// webpki looks at no key usage, and at repetitions only of the extensions that it knows.
pub(super) fn check_extensions(chain: &[Certificate]) -> Result<(), ChainError> {
    let last = chain.len().saturating_sub(1);
    for (certificate, parsed) in chain.iter().enumerate() {
        let malformed = ChainError::Malformed { certificate };
        let extensions = parsed.tbs_certificate().extensions().map_or(&[][..], Vec::as_slice);
        for (index, extension) in extensions.iter().enumerate() {
            if extensions.iter().skip(index + 1).any(|other| other.extn_id == extension.extn_id) {
                return Err(malformed);
            }
            if extension.extn_id == ID_CE_KEY_USAGE && certificate != last {
                let usage = KeyUsage::from_der(extension.extn_value.as_bytes()).map_err(|_| malformed)?;
                if !usage.key_cert_sign() {
                    return Err(ChainError::NotAuthority);
                }
            }
        }
    }
    Ok(())
}

/// webpki finds a path among issuers in any order; SPDM has one order.
pub(super) fn check_order(
    root: &Certificate,
    chain: &[Certificate],
    included: usize,
) -> Result<(), ChainError> {
    let mut issuer = root;
    for (certificate, parsed) in chain.iter().enumerate().skip(included) {
        if parsed.tbs_certificate().issuer() != issuer.tbs_certificate().subject() {
            return Err(ChainError::Order { certificate });
        }
        issuer = parsed;
    }
    Ok(())
}

pub(super) fn is_self_issued(der: &[u8]) -> bool {
    Certificate::from_der(der).is_ok_and(|certificate| {
        certificate.tbs_certificate().issuer() == certificate.tbs_certificate().subject()
    })
}

/// Our name for webpki's reason; `last` is the leaf.
pub(super) fn named(error: &webpki::Error, last: usize) -> ChainError {
    use webpki::Error;
    match error {
        Error::InvalidSignatureForPublicKey | Error::SignatureAlgorithmMismatch => ChainError::Signature,
        Error::UnknownIssuer => ChainError::UnknownRoot,
        Error::CaUsedAsEndEntity => ChainError::LeafIsAuthority,
        Error::EndEntityUsedAsCa | Error::PathLenConstraintViolated => ChainError::NotAuthority,
        Error::UnsupportedCriticalExtension => ChainError::CriticalExtension,
        Error::BadDer
        | Error::BadDerTime
        | Error::TrailingData(_)
        | Error::MalformedExtensions
        | Error::ExtensionValueInvalid
        | Error::EmptyEkuExtension
        | Error::InvalidSerialNumber
        | Error::UnsupportedCertVersion => ChainError::Malformed { certificate: last },
        _ => ChainError::Path,
    }
}
