//! Who signed an image, and that no bit of it can be changed.

use proptest::prelude::*;
use tdx_image::sigstruct::SIGSTRUCT_SIZE;
use tdx_image::verify::{self, INTEL_MODULUS_HASH, Signer, TEST_KEY_MODULUS_HASH, VerifyError};
use tdx_image::{HeaderVersion, Image, build};
use zerocopy::IntoBytes;

use crate::{assert_all_reached, built, parts};

#[test]
fn a_built_image_is_signed_with_the_test_key_and_never_taken_for_intels() {
    for header in HeaderVersion::ALL {
        let file = built(header);
        let image = Image::parse(&file).expect("a good file");
        let verified = verify::image(&image).expect("a good signature");
        assert_eq!(verified.signer, Signer::TdxhostTestKey);
        assert_eq!(&verified.seamhash, image.sigstruct().seamhash());
        assert_eq!(verify::modulus_hash(image.sigstruct()), TEST_KEY_MODULUS_HASH);
    }
    assert_ne!(TEST_KEY_MODULUS_HASH, INTEL_MODULUS_HASH);
    assert_eq!(Signer::TdxhostTestKey.to_string(), "tdxhost test key");
}

#[test]
fn each_forgery_has_its_own_reason() {
    let (good, module) = parts();
    let verify = |sigstruct: &_, module: &[u8]| {
        let file = build::wrap(HeaderVersion::V0x200, sigstruct, module).expect("whole pages");
        verify::image(&Image::parse(&file).expect("well-formed"))
    };
    assert!(verify(&good, &module).is_ok());

    let mut other_key = good.clone();
    other_key.modulus[0] ^= 2;
    let mut other_exponent = good.clone();
    other_exponent.exponent.set(3);
    let mut raised_svn = good.clone();
    raised_svn.minor_svn += 1;
    let mut other_module = module.clone();
    other_module[0x1000] ^= 1;

    let reached = [
        verify(&other_key, &module).expect_err("not a known key"),
        verify(&other_exponent, &module).expect_err("not 65537"),
        verify(&raised_svn, &module).expect_err("not what was signed"),
        verify(&good, &other_module).expect_err("not the module that was signed"),
    ];
    assert!(matches!(reached[0], VerifyError::UnknownSigner { .. }));
    assert_eq!(reached[1], VerifyError::Exponent { exponent: 3 });
    assert_eq!(reached[2], VerifyError::Signature);
    assert!(matches!(reached[3], VerifyError::ModuleHash { .. }));
    assert_all_reached(VerifyError::REASONS, &reached.map(|error| error.name()));
    let line = reached[3].to_string();
    assert!(line.contains(&verify::Hash384(*good.seamhash()).to_string()), "{line}");
}

#[test]
fn each_flipped_bit_of_a_sigstruct_is_rejected() {
    let (good, _) = parts();
    for at in 0..SIGSTRUCT_SIZE {
        let mut bad = good.clone();
        bad.as_mut_bytes()[at] ^= 1 << (at % 8);
        assert!(verify::signer(&bad).is_none() || verify::signature(&bad).is_err(), "byte {at:#x}");
    }
}

#[test]
fn a_modulus_or_signature_of_zeros_or_ones_is_rejected() {
    for fill in [0, 0xFF] {
        let (mut sigstruct, _) = parts();
        sigstruct.signature.fill(fill);
        assert_eq!(verify::signature(&sigstruct), Err(VerifyError::Signature));
        let (mut sigstruct, _) = parts();
        sigstruct.modulus.fill(fill);
        assert_eq!(verify::signature(&sigstruct), Err(VerifyError::Signature));
    }
}

proptest! {
    #[test]
    fn a_flipped_bit_anywhere_behind_the_header_is_rejected(at in 4096_usize..7 * 4096, bit in 0..8) {
        let mut file = built(HeaderVersion::V0x200);
        file[2..4].fill(0);
        prop_assert!(Image::parse(&file).is_ok_and(|image| verify::image(&image).is_ok()));
        file[at] ^= 1_u8 << bit;
        // Without a checksum: the padding is the container's business, everything else the signature's.
        match Image::parse(&file) {
            Ok(image) => prop_assert!(verify::image(&image).is_err()),
            Err(error) => prop_assert_eq!(error.name(), "image-sigstruct-padding-not-zero"),
        }
    }
}
