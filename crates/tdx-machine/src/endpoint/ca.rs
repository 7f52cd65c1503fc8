//! Who vouches for a modelled device: a certification authority of its own, made at power-on.
//!
//! Keys and serial numbers are fresh each time: nothing that such a device proves outlives the
//! process, and its names say that it is simulated.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, OtherNameValue, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    SanType, SignatureAlgorithm,
};
use spdm::algo::AsymAlgo;
use spdm::crypto::Secret;
use time::{Duration, OffsetDateTime};

/// Arc of DMTF's SPDM object identifiers.
const SPDM_ARC: [u64; 8] = [1, 3, 6, 1, 4, 1, 412, 274];
/// `id-DMTF-device-info`: the alternative name of a device, `manufacturer:product:serial`.
const DEVICE_INFO: u64 = 1;
/// `id-DMTF-eku-responder-auth`.
const RESPONDER_AUTH: u64 = 3;
/// `id-DMTF-spdm-extension`.
const SPDM_EXTENSION: u64 = 6;
/// Content of the SPDM extension: a sequence of one sequence of `id-DMTF-hardware-identity`.
const HARDWARE_IDENTITY: [u8; 16] =
    [0x30, 0x0e, 0x30, 0x0c, 0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0x1c, 0x82, 0x12, 0x02];

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the certificate of {what}: {source}")]
pub struct CaError {
    /// Whose.
    what: &'static str,
    /// Why.
    source: rcgen::Error,
}

/// From when to when certificates are valid, in seconds since 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First second.
    pub from: i64,
    /// Last second.
    pub to: i64,
}

impl Validity {
    /// From a day before `now` to ten years after it.
    pub fn around(now: std::time::Duration) -> Self {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX / 2);
        Self { from: now - Duration::DAY.whole_seconds(), to: now + 3650 * Duration::DAY.whole_seconds() }
    }
}

/// A root authority, with the intermediate one that devices are certified by.
pub struct Ca {
    algorithm: &'static SignatureAlgorithm,
    root: Vec<u8>,
    intermediate: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    /// A new authority that signs with `asym`.
    pub fn new(asym: AsymAlgo, validity: Validity) -> Result<Self, CaError> {
        let algorithm = match asym {
            AsymAlgo::EcdsaP256 => &PKCS_ECDSA_P256_SHA256,
            AsymAlgo::EcdsaP384 => &PKCS_ECDSA_P384_SHA384,
        };
        let failed = |what| move |source| CaError { what, source };
        let root_params = authority("tdxhost simulated root", BasicConstraints::Unconstrained, validity)
            .map_err(failed("the root"))?;
        let key = || KeyPair::generate_for(algorithm);
        let root = Issuer::new(root_params.clone(), key().map_err(failed("the root"))?);
        let root_der = root_params.self_signed(root.key()).map_err(failed("the root"))?;

        let params =
            authority("tdxhost simulated device authority", BasicConstraints::Constrained(0), validity)
                .map_err(failed("the intermediate authority"))?;
        let intermediate_key = key().map_err(failed("the intermediate authority"))?;
        let intermediate =
            params.signed_by(&intermediate_key, &root).map_err(failed("the intermediate authority"))?;
        Ok(Self {
            algorithm,
            root: root_der.der().to_vec(),
            intermediate: intermediate.der().to_vec(),
            issuer: Issuer::new(params, intermediate_key),
        })
    }

    /// The root certificate in DER: what a verifier has to trust.
    pub fn root(&self) -> &[u8] {
        &self.root
    }

    /// Certifies a new device `serial`: its chain in DER, root first, and its key.
    pub fn issue(&self, serial: &str, validity: Validity) -> Result<Issued, CaError> {
        let failed = |source| CaError { what: "the device", source };
        let key = KeyPair::generate_for(self.algorithm).map_err(failed)?;
        let mut params = named(&format!("tdxhost simulated device {serial}"), validity).map_err(failed)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(oid(RESPONDER_AUTH))];
        let info = OtherNameValue::Utf8String(format!("tdxhost:simulated-tee-io:{serial}"));
        params.subject_alt_names = vec![SanType::OtherName((oid(DEVICE_INFO), info))];
        params.custom_extensions =
            vec![CustomExtension::from_oid_content(&oid(SPDM_EXTENSION), HARDWARE_IDENTITY.to_vec())];
        let leaf = params.signed_by(&key, &self.issuer).map_err(failed)?;
        let chain = vec![self.root.clone(), self.intermediate.clone(), leaf.der().to_vec()];
        Ok(Issued { chain, key: Secret::new(key.serialize_der()) })
    }
}

/// A certified key.
pub struct Issued {
    /// Certificates in DER: root, intermediate, leaf.
    pub chain: Vec<Vec<u8>>,
    /// The leaf's private key in PKCS #8 DER.
    pub key: Secret,
}

fn oid(last: u64) -> Vec<u64> {
    SPDM_ARC.into_iter().chain([last]).collect()
}

fn named(name: &str, validity: Validity) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| rcgen::Error::Time);
    (params.not_before, params.not_after) = (at(validity.from)?, at(validity.to)?);
    Ok(params)
}

fn authority(
    name: &str,
    constraints: BasicConstraints,
    validity: Validity,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = named(name, validity)?;
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use spdm::algo::HashAlgo;
    use spdm::crypto::aws_lc::AwsLc;
    use spdm::x509::{CertChain, CertModel, ChainError, TrustStore, Verifier, Wanted, chain};
    use std::time::Duration as Since;

    const NOW: Since = Since::from_secs(1_800_000_000);

    #[test]
    fn a_device_of_the_authority_is_believed_with_its_root_and_no_other() {
        for asym in AsymAlgo::ALL {
            let validity = Validity::around(NOW);
            let ca = Ca::new(asym, validity).unwrap();
            let issued = ca.issue("0", validity).unwrap();
            let bytes = chain::build(&AwsLc, HashAlgo::Sha384, &issued.chain).unwrap();
            let chain = CertChain::parse(&bytes, HashAlgo::Sha384).unwrap();
            let wanted = Wanted { asym, model: CertModel::Device, now: NOW };
            assert!(TrustStore::new([ca.root()]).verify(&chain, &wanted).is_ok());
            let other = Ca::new(asym, validity).unwrap();
            assert_eq!(TrustStore::new([other.root()]).verify(&chain, &wanted), Err(ChainError::UnknownRoot));
        }
    }

    #[test]
    fn a_device_may_be_certified_for_a_time_that_is_over() {
        let ca = Ca::new(AsymAlgo::EcdsaP384, Validity::around(NOW)).unwrap();
        let issued = ca.issue("0", Validity { from: 0, to: 1 }).unwrap();
        let bytes = chain::build(&AwsLc, HashAlgo::Sha256, &issued.chain).unwrap();
        let chain = CertChain::parse(&bytes, HashAlgo::Sha256).unwrap();
        let wanted = Wanted { asym: AsymAlgo::EcdsaP384, model: CertModel::Device, now: NOW };
        let verdict = TrustStore::new([ca.root()]).verify(&chain, &wanted);
        assert_eq!(verdict, Err(ChainError::Expired { certificate: 2 }));
    }

    #[test]
    fn a_validity_beyond_the_calendar_is_refused() {
        let Err(error) = Ca::new(AsymAlgo::EcdsaP256, Validity { from: 0, to: i64::MAX }) else {
            panic!("a certificate without an end")
        };
        assert!(error.to_string().starts_with("cannot make the certificate of the root: "));
    }
}
