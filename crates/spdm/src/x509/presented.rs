//! Chains as they are presented: consistent in themselves, whoever has issued them.

use alloc::vec::Vec;

use rustls_pki_types::CertificateDer;
use webpki::EndEntityCert;
use x509_cert::Certificate;
use x509_cert::der::oid::db::rfc5280::{ID_CE_BASIC_CONSTRAINTS, ID_CE_NAME_CONSTRAINTS};
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::BasicConstraints;

use super::chain::{CertChain, first_der, inside_der};
use super::trust::{check_extensions, check_order, is_root_hash, is_self_issued, named, parse_all};
use super::{ChainError, Verifier, Wanted, leaf};
use crate::crypto::PublicKey;

/// Believes any chain that is consistent in itself. It has no roots and no clock: whose chain it is, and
/// whether it is valid now, is for whoever reads the chain as evidence.
///
/// The chain has to be one: in the order of its issuers, the root hash of its header that of its root,
/// every certificate signed by the one before it (a root that stands in the chain by itself), issuers that
/// are authorities and keep their path lengths, no extension that is not understood. Its leaf has to be
/// one of an SPDM responder, with a key of the connection's algorithm.
///
/// A chain may leave its root out. Then the signature of its first certificate and the root hash can be
/// checked by nobody who has not the root; the leaf must have its issuer in the chain.
///
/// Name constraints are not evaluated; a chain with them is refused.
#[derive(Clone, Copy, Debug, Default)]
pub struct PresentedChain;

impl Verifier for PresentedChain {
    /// `wanted.now` is not looked at.
    fn verify(&self, chain: &CertChain<'_>, wanted: &Wanted) -> Result<PublicKey, ChainError> {
        let first = *chain.certificates().first().ok_or(ChainError::Empty)?;
        let parsed = parse_all(chain)?;
        let (leaf, issuers) = parsed.split_last().ok_or(ChainError::Empty)?;
        if !is_root_hash(chain, first) {
            if is_self_issued(first) {
                return Err(ChainError::RootHash);
            }
            if issuers.is_empty() {
                return Err(ChainError::NoIssuer);
            }
        } else if issuers.is_empty() {
            return Err(ChainError::LeafIsAuthority);
        }
        if let Some(top) = issuers.first() {
            check_order(top, &parsed, 1)?;
        }
        check_extensions(&parsed)?;
        check_authorities(issuers)?;
        check_signatures(chain, &parsed)?;
        leaf::check(leaf, issuers.len(), wanted.model, wanted.asym)
    }
}

/// Issuers are authorities, and none has more of them below it than its path length allows.
fn check_authorities(issuers: &[Certificate]) -> Result<(), ChainError> {
    for (certificate, issuer) in issuers.iter().enumerate() {
        let mut extensions = issuer.tbs_certificate().extensions().into_iter().flatten();
        if extensions.clone().any(|extension| extension.extn_id == ID_CE_NAME_CONSTRAINTS) {
            return Err(ChainError::CriticalExtension);
        }
        let constraints = extensions
            .find(|extension| extension.extn_id == ID_CE_BASIC_CONSTRAINTS)
            .ok_or(ChainError::NotAuthority)?;
        let constraints = BasicConstraints::from_der(constraints.extn_value.as_bytes())
            .map_err(|_| ChainError::Malformed { certificate })?;
        let below = issuers.len() - certificate - 1;
        let too_many = constraints.path_len_constraint.is_some_and(|limit| below > usize::from(limit));
        if !constraints.ca || too_many {
            return Err(ChainError::NotAuthority);
        }
    }
    Ok(())
}

/// Each signature is one of the certificate before; that of a first one which names itself as its issuer
/// is its own.
fn check_signatures(chain: &CertChain<'_>, parsed: &[Certificate]) -> Result<(), ChainError> {
    let ders: Vec<_> = chain.certificates().iter().map(|&der| CertificateDer::from(der)).collect();
    let keys = ders
        .iter()
        .enumerate()
        .map(|(certificate, der)| EndEntityCert::try_from(der).map_err(|error| named(&error, certificate)));
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    if let (Some(key), Some(root)) = (keys.first(), parsed.first())
        && root.tbs_certificate().issuer() == root.tbs_certificate().subject()
    {
        check_signature(key, chain, root, 0)?;
    }
    for (above, (signed, key)) in parsed.iter().skip(1).zip(&keys).enumerate() {
        check_signature(key, chain, signed, above + 1)?;
    }
    Ok(())
}

/// The signature of the `certificate`th of the chain, `parsed`, is one of `key`.
fn check_signature(
    key: &EndEntityCert<'_>,
    chain: &CertChain<'_>,
    parsed: &Certificate,
    certificate: usize,
) -> Result<(), ChainError> {
    let malformed = ChainError::Malformed { certificate };
    // What is signed are the bytes as they came, not as they would be encoded again.
    let signed = chain.certificates().get(certificate).and_then(|der| first_der(inside_der(der)?));
    let signed = signed.ok_or(malformed)?;
    let signature = parsed.signature().as_bytes().ok_or(malformed)?;
    let algorithm = parsed.signature_algorithm().to_der().map_err(|_| malformed)?;
    let algorithm = inside_der(&algorithm).ok_or(malformed)?;
    let fits = |candidate: &&&dyn rustls_pki_types::SignatureVerificationAlgorithm| {
        *candidate.signature_alg_id() == *algorithm
    };
    // Some algorithms are listed once for every kind of key.
    let mut candidates = webpki::ALL_VERIFICATION_ALGS.iter().filter(fits);
    if candidates.any(|candidate| key.verify_signature(*candidate, signed, signature).is_ok()) {
        Ok(())
    } else {
        Err(ChainError::Signature)
    }
}
