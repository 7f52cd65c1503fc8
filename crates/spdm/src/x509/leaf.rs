//! What DSP0274 asks of the leaf certificate of a responder, beyond a valid path to a root.

use x509_cert::Certificate;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::oid::db::rfc5280::{ID_CE_BASIC_CONSTRAINTS, ID_CE_EXT_KEY_USAGE, ID_CE_KEY_USAGE};
use x509_cert::der::oid::db::rfc5912::{ID_EC_PUBLIC_KEY, SECP_256_R_1, SECP_384_R_1};
use x509_cert::der::{Any, AnyRef, Decode, Reader as _, SliceReader};
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage};

use super::{CertModel, ChainError};
use crate::algo::AsymAlgo;
use crate::crypto::PublicKey;

/// `id-DMTF-hardware-identity`: the certificate stands for the hardware.
pub const HARDWARE_IDENTITY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.412.274.2");
/// `id-DMTF-eku-responder-auth`.
pub const RESPONDER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.412.274.3");
/// `id-DMTF-eku-requester-auth`.
pub const REQUESTER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.412.274.4");
/// `id-DMTF-spdm-extension`: a list of the OIDs above.
pub const SPDM_EXTENSION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.412.274.6");

/// Checks the leaf `certificate` (the `index`th of its chain) and gives its key.
pub fn check(
    certificate: &Certificate,
    index: usize,
    model: CertModel,
    asym: AsymAlgo,
) -> Result<PublicKey, ChainError> {
    let malformed = ChainError::Malformed { certificate: index };
    let extension = |oid: ObjectIdentifier| {
        let all = certificate.tbs_certificate().extensions().into_iter().flatten();
        all.filter(move |extension| extension.extn_id == oid).map(|extension| &extension.extn_value).next()
    };
    if let Some(value) = extension(ID_CE_BASIC_CONSTRAINTS) {
        let constraints = BasicConstraints::from_der(value.as_bytes()).map_err(|_| malformed)?;
        if constraints.ca {
            return Err(ChainError::LeafIsAuthority);
        }
    }
    let usage = extension(ID_CE_KEY_USAGE).ok_or(ChainError::KeyUsage)?;
    if !KeyUsage::from_der(usage.as_bytes()).map_err(|_| malformed)?.digital_signature() {
        return Err(ChainError::KeyUsage);
    }
    // Either purpose may be left out; a certificate that names only the other role's is not ours.
    if let Some(value) = extension(ID_CE_EXT_KEY_USAGE) {
        let purposes = ExtendedKeyUsage::from_der(value.as_bytes()).map_err(|_| malformed)?.0;
        if purposes.contains(&REQUESTER_AUTH) && !purposes.contains(&RESPONDER_AUTH) {
            return Err(ChainError::RequesterOnly);
        }
    }
    if let Some(value) = extension(SPDM_EXTENSION) {
        let hardware = names_hardware(value.as_bytes()).map_err(|_| malformed)?;
        if hardware && model == CertModel::Alias {
            return Err(ChainError::AliasIsHardware);
        }
    }
    public_key(certificate, asym)
}

/// Whether the SPDM extension `value`, a sequence of sequences that begin with an OID, has the one
/// of hardware identity.
fn names_hardware(value: &[u8]) -> Result<bool, x509_cert::der::Error> {
    let mut found = false;
    let mut reader = SliceReader::new(value)?;
    reader.sequence(|list| {
        while !list.is_finished() {
            list.sequence(|entry| {
                found |= ObjectIdentifier::decode(entry)? == HARDWARE_IDENTITY;
                while !entry.is_finished() {
                    AnyRef::decode(entry)?;
                }
                Ok::<_, x509_cert::der::Error>(())
            })?;
        }
        Ok::<_, x509_cert::der::Error>(())
    })?;
    reader.finish()?;
    Ok(found)
}

/// The key of `certificate`, an uncompressed point on the curve of `asym`.
fn public_key(certificate: &Certificate, asym: AsymAlgo) -> Result<PublicKey, ChainError> {
    let wrong = ChainError::KeyAlgorithm(asym);
    let key = certificate.tbs_certificate().subject_public_key_info();
    let curve = match asym {
        AsymAlgo::EcdsaP256 => SECP_256_R_1,
        AsymAlgo::EcdsaP384 => SECP_384_R_1,
    };
    let named = key.algorithm.parameters.as_ref().map(Any::decode_as::<ObjectIdentifier>);
    if key.algorithm.oid != ID_EC_PUBLIC_KEY || named != Some(Ok(curve)) {
        return Err(wrong);
    }
    match key.subject_public_key.as_bytes() {
        Some([0x04, point @ ..]) if point.len() == asym.signature_size() => {
            Ok(PublicKey { algo: asym, point: point.to_vec() })
        }
        _ => Err(wrong),
    }
}
