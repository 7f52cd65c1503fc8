//! FIPS 180-4, RFC 4231 and RFC 5869.

use alloc::vec;
use alloc::vec::Vec;

use super::{HASHES, hex};
use crate::algo::HashAlgo;
use crate::crypto::aws_lc::AwsLc;
use crate::crypto::{Crypto, CryptoError};

#[test]
fn sha2_of_abc_is_that_of_the_standard() {
    let known = [
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca1 \
         34c825a7",
    ];
    for (algo, known) in HASHES.into_iter().zip(known) {
        assert_eq!(AwsLc.digest(algo, b"abc")[..], hex(known)[..], "{algo:?}");
    }
}

#[test]
fn a_hash_goes_on_after_its_digest_was_taken_and_a_fork_goes_its_own_way() {
    for algo in HASHES {
        let mut hasher = AwsLc.hasher(algo);
        assert_eq!(hasher.digest(), AwsLc.digest(algo, b""));
        hasher.update(b"a");
        assert_eq!(hasher.digest(), AwsLc.digest(algo, b"a"));
        let mut fork = hasher.fork();
        fork.update(b"x");
        hasher.update(b"bc");
        assert_eq!(hasher.digest(), AwsLc.digest(algo, b"abc"));
        assert_eq!(fork.digest(), AwsLc.digest(algo, b"ax"));
        assert_eq!(hasher.digest().len(), algo.size());
    }
}

/// Key, data, HMAC with SHA-256 and with SHA-384: cases 1 to 4, 6 and 7 of RFC 4231.
fn rfc4231() -> Vec<(Vec<u8>, &'static [u8], [&'static str; 2])> {
    vec![
        (
            vec![0x0b; 20],
            b"Hi There",
            [
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
                "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59cfaea9ea9076ede7f \
                 4af152e8b2fa9cb6",
            ],
        ),
        (
            b"Jefe".to_vec(),
            b"what do ya want for nothing?",
            [
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
                "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c7 \
                 8b3239ecfab21649",
            ],
        ),
        (
            vec![0xaa; 20],
            &[0xdd; 50],
            [
                "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
                "88062608d3e6ad8a0aa2ace014c8a86f0aa635d947ac9febe83ef4e55966144b2a5ab39dc13814b9 \
                 4e3ab6e101a34f27",
            ],
        ),
        (
            (1..=25).collect(),
            &[0xcd; 50],
            [
                "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
                "3e8a69b7783c25851933ab6290af6ca77a9981480850009cc5577c6e1f573b4e6801dd23c4a7d679 \
                 ccf8a386c674cffb",
            ],
        ),
        (
            vec![0xaa; 131],
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            [
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
                "4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f3cd11f05033ac4c60c2ef6ab4030fe82 \
                 96248df163f44952",
            ],
        ),
        (
            vec![0xaa; 131],
            b"This is a test using a larger than block-size key and a larger than block-size data. \
             The key needs to be hashed before being used by the HMAC algorithm.",
            [
                "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
                "6617178e941f020d351e2f254e8fd32c602420feb0b8fb9adccebb82461e99c5a678cc31e799176d \
                 3860e6110c46523e",
            ],
        ),
    ]
}

#[test]
fn hmac_and_extract_are_those_of_rfc_4231() {
    for (key, data, known) in rfc4231() {
        for (algo, known) in HASHES.into_iter().zip(known) {
            assert_eq!(AwsLc.hmac(algo, &key, data)[..], hex(known)[..], "{algo:?}");
            assert_eq!(AwsLc.hkdf_extract(algo, &key, data).unwrap()[..], hex(known)[..], "{algo:?}");
        }
    }
}

struct Hkdf {
    ikm: Vec<u8>,
    salt: Vec<u8>,
    info: Vec<u8>,
    prk: &'static str,
    okm: &'static str,
}

/// Cases 1 to 3 of RFC 5869.
fn rfc5869() -> [Hkdf; 3] {
    [
        Hkdf {
            ikm: vec![0x0b; 22],
            salt: (0..13).collect(),
            info: (0xf0..0xfa).collect(),
            prk: "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
            okm: "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        },
        Hkdf {
            ikm: (0..0x50).collect(),
            salt: (0x60..0xb0).collect(),
            info: (0xb0..=0xff).collect(),
            prk: "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
            okm: "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb \
             41c65e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        },
        Hkdf {
            ikm: vec![0x0b; 22],
            salt: Vec::new(),
            info: Vec::new(),
            prk: "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
            okm: "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        },
    ]
}

#[test]
fn hkdf_is_that_of_rfc_5869() {
    for Hkdf { ikm, salt, info, prk, okm } in rfc5869() {
        let extracted = AwsLc.hkdf_extract(HashAlgo::Sha256, &salt, &ikm).unwrap();
        assert_eq!(extracted[..], hex(prk)[..]);
        let mut out = vec![0; hex(okm).len()];
        AwsLc.hkdf_expand(HashAlgo::Sha256, &extracted, &info, &mut out).unwrap();
        assert_eq!(out, hex(okm));
    }
}

/// HKDF-Expand as RFC 5869 writes it down, over HMAC.
fn expand(algo: HashAlgo, prk: &[u8], info: &[u8], size: usize) -> Vec<u8> {
    let (mut out, mut last) = (Vec::new(), Vec::new());
    for counter in 1..=255 {
        let input = [&last[..], info, &[counter]].concat();
        last = AwsLc.hmac(algo, prk, &input).to_vec();
        out.extend_from_slice(&last);
    }
    out.truncate(size);
    out
}

#[test]
fn expand_gives_any_length_up_to_255_digests() {
    for algo in HASHES {
        let prk = vec![7; algo.size()];
        for size in [1, 12, 16, 32, 48, algo.size() + 1, 255 * algo.size()] {
            let mut out = vec![0; size];
            AwsLc.hkdf_expand(algo, &prk, b"info", &mut out).unwrap();
            assert_eq!(out, expand(algo, &prk, b"info", size), "{algo:?} {size}");
        }
        let mut out = vec![0; 255 * algo.size() + 1];
        let refused = AwsLc.hkdf_expand(algo, &prk, b"info", &mut out);
        assert_eq!(refused, Err(CryptoError::Backend("HKDF")), "{algo:?}");
    }
}

#[test]
fn expand_refuses_a_key_that_is_too_short_or_too_long() {
    for algo in HASHES {
        for (size, good) in
            [(0, false), (algo.size() - 1, false), (algo.size(), true), (64, true), (65, false)]
        {
            let given = AwsLc.hkdf_expand(algo, &vec![7; size], b"info", &mut [0; 16]);
            let known = if good { Ok(()) } else { Err(CryptoError::Key("the input of HKDF-Expand")) };
            assert_eq!(given, known, "{algo:?} {size}");
        }
    }
}

#[test]
fn random_bytes_are_not_the_same_twice() {
    let [mut one, mut other] = [[0; 32]; 2];
    AwsLc.random(&mut one).unwrap();
    AwsLc.random(&mut other).unwrap();
    assert!(one != other && one != [0; 32]);
}
