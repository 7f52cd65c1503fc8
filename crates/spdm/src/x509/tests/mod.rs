//! Chains made on the spot, each wrong in one way.

mod presented;

extern crate std;

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;
use std::format;

use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, SignatureAlgorithm,
};
use time::OffsetDateTime;

use super::chain::{MAX_CERTIFICATES, build};
use super::*;
use crate::algo::HashAlgo;
use crate::crypto::aws_lc::AwsLc;

const NOW: Duration = Duration::from_secs(1_800_000_000);
const WANTED: Wanted = Wanted { asym: AsymAlgo::EcdsaP384, model: CertModel::Alias, now: NOW };
const SPDM: [u64; 9] = [1, 3, 6, 1, 4, 1, 412, 274, 0];

fn oid(last: u64) -> Vec<u64> {
    let mut oid = SPDM.to_vec();
    oid[8] = last;
    oid
}

fn at(seconds: i64) -> OffsetDateTime {
    let now = i64::try_from(NOW.as_secs()).unwrap();
    OffsetDateTime::from_unix_timestamp(now + seconds).unwrap()
}

fn params(name: &str, is_ca: IsCa) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = match is_ca {
        IsCa::Ca(_) => vec![KeyUsagePurpose::KeyCertSign],
        _ => vec![KeyUsagePurpose::DigitalSignature],
    };
    params.is_ca = is_ca;
    (params.not_before, params.not_after) = (at(-1000), at(1000));
    params
}

fn authority(name: &str) -> CertificateParams {
    params(name, IsCa::Ca(BasicConstraints::Unconstrained))
}

/// Root, intermediate and leaf, each of which a test may bend.
struct Maker {
    root: CertificateParams,
    intermediate: CertificateParams,
    leaf: CertificateParams,
    leaf_key: &'static SignatureAlgorithm,
}

impl Maker {
    fn new() -> Self {
        Self {
            root: authority("root"),
            intermediate: authority("intermediate"),
            leaf: params("leaf", IsCa::ExplicitNoCa),
            leaf_key: &PKCS_ECDSA_P384_SHA384,
        }
    }

    fn make(self) -> Vec<Vec<u8>> {
        let key = |algorithm| KeyPair::generate_for(algorithm).unwrap();
        let root = Issuer::new(self.root.clone(), key(&PKCS_ECDSA_P384_SHA384));
        let root_der = self.root.self_signed(root.key()).unwrap();
        let middle_key = key(&PKCS_ECDSA_P384_SHA384);
        let middle_der = self.intermediate.signed_by(&middle_key, &root).unwrap();
        let middle = Issuer::new(self.intermediate, middle_key);
        let leaf_der = self.leaf.signed_by(&key(self.leaf_key), &middle).unwrap();
        [root_der, middle_der, leaf_der].map(|certificate| certificate.der().to_vec()).into()
    }
}

fn verify_with(
    trust: &TrustStore,
    certificates: &[Vec<u8>],
    wanted: &Wanted,
) -> Result<PublicKey, ChainError> {
    let bytes = build(&AwsLc, HashAlgo::Sha384, certificates).unwrap();
    trust.verify(&CertChain::parse(&bytes, HashAlgo::Sha384).unwrap(), wanted)
}

/// The verdict on a chain whose root is trusted.
fn verify(certificates: &[Vec<u8>]) -> Result<PublicKey, ChainError> {
    verify_with(&TrustStore::new([certificates[0].clone()]), certificates, &WANTED)
}

#[test]
fn a_chain_of_a_trusted_root_gives_the_key_of_its_leaf() {
    let key = verify(&Maker::new().make()).unwrap();
    assert_eq!((key.algo, key.point.len()), (AsymAlgo::EcdsaP384, 96));
    let p256 = Wanted { asym: AsymAlgo::EcdsaP256, ..WANTED };
    let chain = Maker { leaf_key: &PKCS_ECDSA_P256_SHA256, ..Maker::new() }.make();
    let key = verify_with(&TrustStore::new([chain[0].clone()]), &chain, &p256).unwrap();
    assert_eq!((key.algo, key.point.len()), (AsymAlgo::EcdsaP256, 64));
}

/// The bytes of a chain of these certificates that has its root's hash but not the root.
fn without_root(certificates: &[Vec<u8>]) -> Vec<u8> {
    let with_root = build(&AwsLc, HashAlgo::Sha384, certificates).unwrap();
    let size = u16::try_from(with_root.len() - certificates[0].len()).unwrap();
    [&size.to_le_bytes()[..], &with_root[2..52], &certificates[1..].concat()].concat()
}

#[test]
fn a_chain_may_leave_its_root_out() {
    let certificates = Maker::new().make();
    let trust = TrustStore::new([certificates[0].clone()]);
    let bytes = without_root(&certificates);
    let chain = CertChain::parse(&bytes, HashAlgo::Sha384).unwrap();
    assert!(trust.verify(&chain, &WANTED).is_ok());
    assert_eq!(TrustStore::AnyRoot.verify(&chain, &WANTED), Err(ChainError::UnknownRoot));
}

#[test]
fn a_root_outside_of_the_chain_has_to_be_valid_as_well() {
    for ((from, to), verdict) in [
        ((-10, -1), Err(ChainError::RootValidity)),
        ((-10, 0), Ok(())),
        ((0, 10), Ok(())),
        ((1, 10), Err(ChainError::RootValidity)),
    ] {
        let mut maker = Maker::new();
        (maker.root.not_before, maker.root.not_after) = (at(from), at(to));
        let certificates = maker.make();
        let bytes = without_root(&certificates);
        let chain = CertChain::parse(&bytes, HashAlgo::Sha384).unwrap();
        let trust = TrustStore::new([certificates[0].clone()]);
        assert_eq!(trust.verify(&chain, &WANTED).map(drop), verdict);
    }
}

#[test]
fn a_stranger_s_root_is_believed_only_where_any_root_is() {
    let certificates = Maker::new().make();
    let other = TrustStore::new([Maker::new().make().remove(0)]);
    assert_eq!(verify_with(&other, &certificates, &WANTED), Err(ChainError::UnknownRoot));
    assert!(verify_with(&TrustStore::AnyRoot, &certificates, &WANTED).is_ok());
    assert_eq!(
        verify_with(&TrustStore::Roots(Vec::new()), &certificates, &WANTED),
        Err(ChainError::UnknownRoot)
    );
}

#[test]
fn a_root_of_the_same_name_does_not_stand_in_for_the_trusted_one() {
    let (mut mine, theirs) = (Maker::new().make(), Maker::new().make());
    let trust = TrustStore::new([mine[0].clone()]);
    mine[1..].clone_from_slice(&theirs[1..]);
    assert_eq!(verify_with(&trust, &mine, &WANTED), Err(ChainError::Signature));
}

#[test]
fn a_root_hash_that_is_not_the_root_s_is_a_lie() {
    let certificates = Maker::new().make();
    let mut bytes = build(&AwsLc, HashAlgo::Sha384, &certificates).unwrap();
    bytes[4] ^= 1;
    let chain = CertChain::parse(&bytes, HashAlgo::Sha384).unwrap();
    let trust = TrustStore::new([certificates[0].clone()]);
    assert_eq!(trust.verify(&chain, &WANTED), Err(ChainError::RootHash));
}

#[test]
fn validity_is_checked_of_every_certificate_with_its_ends_included() {
    for certificate in 0..3 {
        let bend = |from, to| {
            let mut maker = Maker::new();
            let bent = [&mut maker.root, &mut maker.intermediate, &mut maker.leaf];
            (bent[certificate].not_before, bent[certificate].not_after) = (at(from), at(to));
            verify(&maker.make()).map(drop)
        };
        assert_eq!(bend(-10, -1), Err(ChainError::Expired { certificate }));
        assert_eq!(bend(-10, 0), Ok(()));
        assert_eq!(bend(0, 10), Ok(()));
        assert_eq!(bend(1, 10), Err(ChainError::NotYetValid { certificate }));
    }
}

#[test]
fn certificates_stand_in_the_order_of_their_issuers() {
    let mut certificates = Maker::new().make();
    certificates.swap(1, 2);
    assert_eq!(verify(&certificates), Err(ChainError::Order { certificate: 1 }));
    let mut certificates = Maker::new().make();
    let root = certificates[0].clone();
    certificates.insert(1, root);
    certificates.remove(2);
    assert_eq!(verify(&certificates), Err(ChainError::Order { certificate: 2 }));
}

#[test]
fn a_flipped_bit_in_a_signature_is_found() {
    for certificate in 1..3 {
        let mut certificates = Maker::new().make();
        *certificates[certificate].last_mut().unwrap() ^= 1;
        assert_eq!(verify(&certificates), Err(ChainError::Signature));
    }
}

#[test]
fn only_authorities_issue_and_within_their_path_length() {
    let mut maker = Maker::new();
    maker.intermediate = params("intermediate", IsCa::ExplicitNoCa);
    assert_eq!(verify(&maker.make()), Err(ChainError::NotAuthority));
    let mut maker = Maker::new();
    maker.root = params("root", IsCa::Ca(BasicConstraints::Constrained(0)));
    // webpki takes no constraints from an anchor; the next authority's are kept.
    assert!(verify(&maker.make()).is_ok());
    let mut maker = Maker::new();
    maker.leaf = authority("leaf");
    let certificates = maker.make();
    assert_eq!(verify(&certificates), Err(ChainError::LeafIsAuthority));
    // Not for the sake of the path alone.
    let leaf = x509_cert::der::Decode::from_der(&certificates[2]).unwrap();
    let verdict = leaf::check(&leaf, 2, CertModel::Device, AsymAlgo::EcdsaP384);
    assert_eq!(verdict, Err(ChainError::LeafIsAuthority));
}

#[test]
fn an_authority_s_key_usage_has_to_allow_certificates_if_there_is_one() {
    let with = |usages| {
        let mut maker = Maker::new();
        maker.intermediate.key_usages = usages;
        verify(&maker.make()).map(drop)
    };
    assert_eq!(with(vec![KeyUsagePurpose::CrlSign]), Err(ChainError::NotAuthority));
    assert_eq!(with(vec![KeyUsagePurpose::CrlSign, KeyUsagePurpose::KeyCertSign]), Ok(()));
    assert_eq!(with(vec![]), Ok(()));
}

#[test]
fn an_extension_that_comes_twice_is_refused() {
    let with = |extensions| {
        let mut maker = Maker::new();
        maker.leaf.custom_extensions = extensions;
        verify(&maker.make()).map(drop)
    };
    // The second one would not be looked at, and is what an alias must not claim.
    assert_eq!(with(vec![spdm_extension(3)]), Ok(()));
    let twice = vec![spdm_extension(3), spdm_extension(2)];
    assert_eq!(with(twice), Err(ChainError::Malformed { certificate: 2 }));
}

#[test]
fn a_certificate_that_is_no_link_is_refused() {
    let mut certificates = Maker::new().make();
    let trust = TrustStore::new([certificates[0].clone()]);
    let bytes = build(&AwsLc, HashAlgo::Sha384, &certificates).unwrap();
    // A forged root before the true chain: its name is right, its signature is not, and nothing needs it.
    let forged = certificates[0].last_mut().unwrap();
    *forged ^= 1;
    let mut forged = build(&AwsLc, HashAlgo::Sha384, &certificates).unwrap();
    forged[4..52].copy_from_slice(&bytes[4..52]);
    let chain = CertChain::parse(&forged, HashAlgo::Sha384).unwrap();
    assert_eq!(trust.verify(&chain, &WANTED), Err(ChainError::Stray));
}

#[test]
fn a_root_alone_is_no_device() {
    let certificates = Maker::new().make();
    assert_eq!(verify(&certificates[..1]), Err(ChainError::LeafIsAuthority));
}

#[test]
fn the_leaf_is_for_digital_signatures() {
    for usages in [vec![], vec![KeyUsagePurpose::KeyAgreement]] {
        let mut maker = Maker::new();
        maker.leaf.key_usages = usages;
        assert_eq!(verify(&maker.make()), Err(ChainError::KeyUsage));
    }
}

#[test]
fn the_leaf_is_not_one_of_a_requester_alone() {
    let purposes = |last: &[u64]| {
        let mut maker = Maker::new();
        let purpose = |&last: &u64| ExtendedKeyUsagePurpose::Other(oid(last));
        maker.leaf.extended_key_usages = last.iter().map(purpose).collect();
        verify(&maker.make()).map(drop)
    };
    assert_eq!(purposes(&[3]), Ok(()));
    assert_eq!(purposes(&[4]), Err(ChainError::RequesterOnly));
    assert_eq!(purposes(&[3, 4]), Ok(()));
    assert_eq!(purposes(&[9]), Ok(()));
}

/// A sequence of one sequence of the OID `…274.last`.
fn spdm_extension(last: u8) -> CustomExtension {
    let identity = [0x30, 0x0e, 0x30, 0x0c, 0x06, 0x0a, 0x2b, 6, 1, 4, 1, 0x83, 0x1c, 0x82, 0x12, last];
    CustomExtension::from_oid_content(&oid(6), identity.to_vec())
}

#[test]
fn only_a_device_certificate_is_the_hardware_s_identity() {
    let with = |last, model| {
        let mut maker = Maker::new();
        maker.leaf.custom_extensions = vec![spdm_extension(last)];
        let certificates = maker.make();
        let trust = TrustStore::new([certificates[0].clone()]);
        verify_with(&trust, &certificates, &Wanted { model, ..WANTED }).map(drop)
    };
    assert_eq!(with(2, CertModel::Device), Ok(()));
    assert_eq!(with(2, CertModel::Alias), Err(ChainError::AliasIsHardware));
    assert_eq!(with(5, CertModel::Alias), Ok(()));
}

#[test]
fn a_malformed_spdm_extension_is_refused() {
    for content in [vec![], vec![0x30, 0x05], vec![0x30, 0x02, 0x05, 0x00], vec![0x30, 0x00, 0x00]] {
        let mut maker = Maker::new();
        maker.leaf.custom_extensions = vec![CustomExtension::from_oid_content(&oid(6), content)];
        assert_eq!(verify(&maker.make()), Err(ChainError::Malformed { certificate: 2 }));
    }
}

#[test]
fn the_leaf_s_key_is_of_the_connection_s_algorithm() {
    let maker = Maker { leaf_key: &PKCS_ECDSA_P256_SHA256, ..Maker::new() };
    assert_eq!(verify(&maker.make()), Err(ChainError::KeyAlgorithm(AsymAlgo::EcdsaP384)));
}

#[test]
fn a_critical_extension_that_nobody_knows_is_refused() {
    let mut maker = Maker::new();
    let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
    extension.set_criticality(true);
    maker.leaf.custom_extensions = vec![extension];
    assert_eq!(verify(&maker.make()), Err(ChainError::CriticalExtension));
}

#[test]
fn a_chain_s_header_is_strict() {
    let certificates = Maker::new().make();
    let bytes = build(&AwsLc, HashAlgo::Sha384, &certificates).unwrap();
    let parse = |bytes: &[u8]| CertChain::parse(bytes, HashAlgo::Sha384).map(drop);
    assert_eq!(parse(&bytes), Ok(()));

    let short = &bytes[..bytes.len() - 1];
    assert_eq!(parse(short), Err(ChainError::Length { said: bytes.len(), found: short.len() }));
    assert_eq!(parse(&bytes[..3]), Err(ChainError::Length { said: bytes.len(), found: 3 }));
    assert_eq!(parse(&[]), Err(ChainError::Length { said: 52, found: 0 }));
    let mut reserved = bytes.clone();
    reserved[3] = 1;
    assert_eq!(parse(&reserved), Err(ChainError::Reserved(0x100)));
    let header_only = [&[52, 0, 0, 0][..], &[0; 48]].concat();
    assert_eq!(parse(&header_only), Err(ChainError::Empty));

    let many = vec![vec![0x30, 0x00]; MAX_CERTIFICATES + 1];
    let many = build(&AwsLc, HashAlgo::Sha384, &many).unwrap();
    assert_eq!(parse(&many), Err(ChainError::TooMany(MAX_CERTIFICATES)));
    for broken in [vec![0x30], vec![0x30, 0x80], vec![0x30, 0x05, 0], vec![0x30, 0x85, 1, 0, 0, 0, 0]] {
        let bytes = build(&AwsLc, HashAlgo::Sha384, &[broken]).unwrap();
        assert_eq!(parse(&bytes), Err(ChainError::Malformed { certificate: 0 }));
    }
    let not_x509 = build(&AwsLc, HashAlgo::Sha384, &[[0x30, 0x00]]).unwrap();
    let chain = CertChain::parse(&not_x509, HashAlgo::Sha384).unwrap();
    assert_eq!(TrustStore::AnyRoot.verify(&chain, &WANTED), Err(ChainError::Malformed { certificate: 0 }));
}

#[test]
fn a_chain_too_long_for_its_header_is_not_built() {
    let size = 4 + 48 + 0x1_0000;
    assert_eq!(
        build(&AwsLc, HashAlgo::Sha384, &[vec![0; 0x1_0000]]),
        Err(ChainError::Length { said: 0xffff, found: size })
    );
    assert_eq!(build::<Vec<u8>>(&AwsLc, HashAlgo::Sha384, &[]), Err(ChainError::Empty));
}

#[test]
fn every_reason_says_what_is_wrong() {
    assert_eq!(format!("{}", ChainError::Expired { certificate: 2 }), "certificate 2 has expired");
    assert_eq!(
        format!("{}", ChainError::KeyAlgorithm(AsymAlgo::EcdsaP384)),
        "the leaf's key is not one of EcdsaP384"
    );
}

proptest! {
    #[test]
    fn a_chain_with_any_byte_changed_is_not_believed(at in 4..1500_usize, with in 1..=255_u8) {
        let certificates = Maker::new().make();
        let trust = TrustStore::new([certificates[0].clone()]);
        let mut bytes = build(&AwsLc, HashAlgo::Sha384, &certificates).unwrap();
        let at = at % (bytes.len() - 4) + 4;
        bytes[at] ^= with;
        let verdict = CertChain::parse(&bytes, HashAlgo::Sha384).and_then(|chain| trust.verify(&chain, &WANTED));
        prop_assert!(verdict.is_err(), "byte {} changed by {:#x}", at, with);
    }

    #[test]
    fn any_bytes_are_judged_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(chain) = CertChain::parse(&bytes, HashAlgo::Sha256) {
            prop_assert!(TrustStore::AnyRoot.verify(&chain, &WANTED).is_err());
        }
    }
}
