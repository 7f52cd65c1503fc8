//! Chains that are judged by themselves.

use super::*;
use crate::x509::PresentedChain;

fn presented_with(certificates: &[Vec<u8>], wanted: &Wanted) -> Result<PublicKey, ChainError> {
    let bytes = build(&AwsLc, HashAlgo::Sha384, certificates).unwrap();
    presented_bytes(&bytes, wanted)
}

fn presented_bytes(bytes: &[u8], wanted: &Wanted) -> Result<PublicKey, ChainError> {
    PresentedChain.verify(&CertChain::parse(bytes, HashAlgo::Sha384).unwrap(), wanted)
}

fn presented(certificates: &[Vec<u8>]) -> Result<(), ChainError> {
    presented_with(certificates, &WANTED).map(drop)
}

#[test]
fn a_stranger_s_chain_that_is_consistent_gives_the_key_of_its_leaf() {
    let chain = Maker::new().make();
    let key = presented_with(&chain, &WANTED).unwrap();
    assert_eq!(key, verify(&chain).unwrap());
    let p256 = Wanted { asym: AsymAlgo::EcdsaP256, ..WANTED };
    let chain = Maker { leaf_key: &PKCS_ECDSA_P256_SHA256, ..Maker::new() }.make();
    assert_eq!(presented_with(&chain, &p256).unwrap().algo, AsymAlgo::EcdsaP256);
    assert_eq!(
        presented_with(&chain, &WANTED),
        Err(ChainError::KeyAlgorithm(AsymAlgo::EcdsaP384)),
        "a curve that was not negotiated"
    );
}

#[test]
fn the_time_does_not_matter() {
    // Never valid all at once.
    let mut maker = Maker::new();
    (maker.root.not_before, maker.root.not_after) = (at(-20), at(-10));
    (maker.intermediate.not_before, maker.intermediate.not_after) = (at(10), at(20));
    (maker.leaf.not_before, maker.leaf.not_after) = (at(-2), at(-1));
    let chain = maker.make();
    for now in [Duration::ZERO, NOW, Duration::from_secs(u64::MAX)] {
        assert!(presented_with(&chain, &Wanted { now, ..WANTED }).is_ok());
    }
}

#[test]
fn a_root_may_be_left_out_if_the_leaf_s_issuer_is_there() {
    let chain = Maker::new().make();
    assert!(presented_bytes(&without_root(&chain), &WANTED).is_ok());
    let mut bytes = without_root(&chain);
    bytes.drain(52..52 + chain[1].len());
    let size = u16::try_from(bytes.len()).unwrap();
    bytes[..2].copy_from_slice(&size.to_le_bytes());
    assert_eq!(presented_bytes(&bytes, &WANTED), Err(ChainError::NoIssuer));
    assert_eq!(presented(&chain[..1]), Err(ChainError::LeafIsAuthority));
}

#[test]
fn the_root_hash_is_that_of_the_root() {
    let chain = Maker::new().make();
    let mut bytes = build(&AwsLc, HashAlgo::Sha384, &chain).unwrap();
    bytes[4] ^= 1;
    assert_eq!(presented_bytes(&bytes, &WANTED), Err(ChainError::RootHash));
}

#[test]
fn every_signature_is_checked_and_a_root_s_is_its_own() {
    for certificate in 0..3 {
        let mut chain = Maker::new().make();
        *chain[certificate].last_mut().unwrap() ^= 1;
        assert_eq!(presented(&chain), Err(ChainError::Signature), "certificate {certificate}");
    }
    // The names fit, the keys are others.
    let (mut mine, theirs) = (Maker::new().make(), Maker::new().make());
    mine[1..].clone_from_slice(&theirs[1..]);
    assert_eq!(presented(&mine), Err(ChainError::Signature));
}

#[test]
fn swapped_doubled_and_missing_certificates_are_out_of_order() {
    let chain = Maker::new().make();
    let of = |order: &[usize]| order.iter().map(|&at| chain[at].clone()).collect::<Vec<_>>();
    assert_eq!(presented(&of(&[0, 2, 1])), Err(ChainError::Order { certificate: 1 }));
    assert_eq!(presented(&of(&[1, 0, 2])), Err(ChainError::Order { certificate: 1 }));
    assert_eq!(presented(&of(&[0, 1, 1, 2])), Err(ChainError::Order { certificate: 2 }));
    assert_eq!(presented(&of(&[0, 2])), Err(ChainError::Order { certificate: 1 }));
}

#[test]
fn issuers_are_authorities_within_their_path_lengths() {
    let constrained = |length| IsCa::Ca(BasicConstraints::Constrained(length));
    let bend = |bend: fn(&mut Maker)| {
        let mut maker = Maker::new();
        bend(&mut maker);
        presented(&maker.make())
    };
    assert_eq!(
        bend(|maker| maker.intermediate = params("intermediate", IsCa::ExplicitNoCa)),
        Err(ChainError::NotAuthority)
    );
    assert_eq!(
        bend(|maker| maker.root = params("root", IsCa::NoCa)),
        Err(ChainError::NotAuthority),
        "no constraints at all"
    );
    assert_eq!(
        bend(|maker| maker.intermediate.key_usages = vec![KeyUsagePurpose::CrlSign]),
        Err(ChainError::NotAuthority)
    );
    for (root, intermediate, verdict) in
        [(0, 0, Err(ChainError::NotAuthority)), (1, 0, Ok(())), (2, 1, Ok(()))]
    {
        let mut maker = Maker::new();
        maker.root = params("root", constrained(root));
        maker.intermediate = params("intermediate", constrained(intermediate));
        assert_eq!(presented(&maker.make()), verdict, "{root}, {intermediate}");
    }
}

#[test]
fn the_leaf_is_one_of_a_responder() {
    let bend = |bend: fn(&mut CertificateParams)| {
        let mut maker = Maker::new();
        bend(&mut maker.leaf);
        presented(&maker.make())
    };
    assert_eq!(bend(|leaf| *leaf = authority("leaf")), Err(ChainError::LeafIsAuthority));
    assert_eq!(bend(|leaf| leaf.key_usages = vec![KeyUsagePurpose::KeyAgreement]), Err(ChainError::KeyUsage));
    assert_eq!(
        bend(|leaf| leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(oid(4))]),
        Err(ChainError::RequesterOnly)
    );
    assert_eq!(
        bend(|leaf| leaf.custom_extensions = vec![spdm_extension(2)]),
        Err(ChainError::AliasIsHardware)
    );
    assert_eq!(bend(|leaf| leaf.custom_extensions = vec![spdm_extension(3)]), Ok(()));
}

#[test]
fn extensions_that_nobody_understands_are_refused_everywhere() {
    let strange = || {
        let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        extension.set_criticality(true);
        vec![extension]
    };
    for certificate in 0..3 {
        let mut maker = Maker::new();
        let bent = [&mut maker.root, &mut maker.intermediate, &mut maker.leaf];
        bent[certificate].custom_extensions = strange();
        assert_eq!(presented(&maker.make()), Err(ChainError::CriticalExtension), "{certificate}");
    }
    let mut maker = Maker::new();
    maker.intermediate.name_constraints = Some(rcgen::NameConstraints {
        permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("example".into())],
        excluded_subtrees: vec![],
    });
    assert_eq!(presented(&maker.make()), Err(ChainError::CriticalExtension));
    let mut maker = Maker::new();
    maker.intermediate.custom_extensions = vec![spdm_extension(3), spdm_extension(3)];
    assert_eq!(presented(&maker.make()), Err(ChainError::Malformed { certificate: 1 }));
}

proptest! {
    #[test]
    fn a_chain_with_any_byte_changed_is_not_consistent(at in 4..1500_usize, with in 1..=255_u8) {
        let certificates = Maker::new().make();
        let mut bytes = build(&AwsLc, HashAlgo::Sha384, &certificates).unwrap();
        // A root with another name for its issuer is an issuer whose own root is left out.
        let root = 52..52 + certificates[0].len();
        let mut at = at % (bytes.len() - 4 - root.len()) + 4;
        if at >= root.start {
            at += root.len();
        }
        bytes[at] ^= with;
        let verdict = CertChain::parse(&bytes, HashAlgo::Sha384)
            .and_then(|chain| PresentedChain.verify(&chain, &WANTED));
        prop_assert!(verdict.is_err(), "byte {} changed by {:#x}", at, with);
    }

    #[test]
    fn any_bytes_are_judged_by_themselves_without_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        if let Ok(chain) = CertChain::parse(&bytes, HashAlgo::Sha256) {
            prop_assert!(PresentedChain.verify(&chain, &WANTED).is_err());
        }
    }
}
