//! ECDSA: RFC 6979, A.2.5 and A.2.6, and signatures at the edges.

use alloc::vec::Vec;

use aws_lc_rs::signature::{ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, UnparsedPublicKey};

use super::{HASHES, hex};
use crate::algo::{AsymAlgo, HashAlgo};
use crate::crypto::aws_lc::{AwsLc, EcdsaSigner};
use crate::crypto::{Crypto, CryptoError, PublicKey, Signer};

const BAD_KEY: CryptoError = CryptoError::Key("the public key of the signature");

/// What is known of a curve.
struct Curve {
    algo: AsymAlgo,
    /// Public key of the examples of RFC 6979.
    key: &'static str,
    /// Signatures of it over "sample" and "test", each with SHA-256 and SHA-384.
    signatures: [(&'static str, HashAlgo, &'static str); 4],
    /// Order of the group.
    order: &'static str,
    /// Prime of the field.
    prime: &'static str,
    /// A key and a signature over "sample", with the curve's own hash, whose point has an x of
    /// `order + r`: only its remainder is `r`.
    large_x: [&'static str; 2],
    /// A point of the curve with x = 0.
    zero_x: &'static str,
    /// The same point of the curve, with its x, and with `prime + x`.
    unreduced: [&'static str; 2],
}

const CURVES: [Curve; 2] = [
    Curve {
        algo: AsymAlgo::EcdsaP256,
        key: "60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb67903fe1008b8bc99a41ae9e9 \
         5628bc64f2f1b20c2d7e9f5177a3c294d4462299",
        signatures: [
            (
                "sample",
                HashAlgo::Sha256,
                "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716f7cb1c942d657c41 \
                 d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8",
            ),
            (
                "sample",
                HashAlgo::Sha384,
                "0eafea039b20e9b42309fb1d89e213057cbf973dc0cfc8f129edddc800ef77194861f0491e6998b9 \
                 455193e34e7b0d284ddd7149a74b95b9261f13abde940954",
            ),
            (
                "test",
                HashAlgo::Sha256,
                "f1abb023518351cd71d881567b1ea663ed3efcf6c5132b354f28d3b0b7d38367019f4113742a2b14 \
                 bd25926b49c649155f267e60d3814b4c0cc84250e46f0083",
            ),
            (
                "test",
                HashAlgo::Sha384,
                "83910e8b48bb0c74244ebdf7f07a1c5413d61472bd941ef3920e623fbccebeb68ddbec54cf8cd587 \
                 4883841d712142a56a8d0f218f5003cb0296b6b509619f2c",
            ),
        ],
        order: "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
        prime: "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff",
        large_x: [
            "3aa425001ecfaed55314adc6ff5261b30df66594c43226d4e3fc1dc7fbb8c313cdcb2c6bf065b3812420 \
             2bc290383571e2b561972719a3dd50fbf1f3a6c467a5",
            "000000000000000000000000000000000000000000000000000000000000000300000000000000000000 \
             00000000000000000000000000001234567890abcdef",
        ],
        zero_x: "000000000000000000000000000000000000000000000000000000000000000066485c780e2f83d72433bd5d \
         84a06bb6541c2af31dae871728bf856a174f93f4",
        unreduced: [
            "0000000000000000000000000000000000000000000000000000000000000005459243b9aa581806fe91 \
             3bce99817ade11ca503c64d9a3c533415c083248fbcc",
            "ffffffff00000001000000000000000000000001000000000000000000000004459243b9aa581806fe91 \
             3bce99817ade11ca503c64d9a3c533415c083248fbcc",
        ],
    },
    Curve {
        algo: AsymAlgo::EcdsaP384,
        key: "ec3a4e415b4e19a4568618029f427fa5da9a8bc4ae92e02e06aae5286b300c64def8f0ea9055866064a25451 \
         5480bc138015d9b72d7d57244ea8ef9ac0c621896708a59367f9dfb9f54ca84b3f1c9db1288b231c3ae0d4fe \
         7344fd2533264720",
        signatures: [
            (
                "sample",
                HashAlgo::Sha256,
                "21b13d1e013c7fa1392d03c5f99af8b30c570c6f98d4ea8e354b63a21d3daa33bde1e888e63355d9 \
                 2fa2b3c36d8fb2cdf3aa443fb107745bf4bd77cb3891674632068a10ca67e3d45db2266fa7d1feeb \
                 efdc63eccd1ac42ec0cb8668a4fa0ab0",
            ),
            (
                "sample",
                HashAlgo::Sha384,
                "94edbb92a5ecb8aad4736e56c691916b3f88140666ce9fa73d64c4ea95ad133c81a648152e44acf9 \
                 6e36dd1e80fabe4699ef4aeb15f178cea1fe40db2603138f130e740a19624526203b6351d0a3a94f \
                 a329c145786e679e7b82c71a38628ac8",
            ),
            (
                "test",
                HashAlgo::Sha256,
                "6d6defac9ab64dabafe36c6bf510352a4cc27001263638e5b16d9bb51d451559f918eedaf2293be5 \
                 b475cc8f0188636b2d46f3becbcc523d5f1a1256bf0c9b024d879ba9e838144c8ba6baeb4b53b47d \
                 51ab373f9845c0514eefb14024787265",
            ),
            (
                "test",
                HashAlgo::Sha384,
                "8203b63d3c853e8d77227fb377bcf7b7b772e97892a80f36ab775d509d7a5feb0542a7f0812998da \
                 8f1dd3ca3cf023dbddd0760448d42d8a43af45af836fce4de8be06b485e9b61b827c2f13173923e0 \
                 6a739f040649a667bf3b828246baa5a5",
            ),
        ],
        order: "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196a \
         ccc52973",
        prime: "fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffeffffffff0000000000000000 \
         ffffffff",
        large_x: [
            "c12c66f1b4f18aadbab045704cb33d8036f01b1b5c32e35c6ef97c463ff3f7f07e338fd56b87ddaeb333 \
             b540851607a73f10d022fb0911a526f14a86180b42ffbeaec476896ca33180ff9d36f3120c87511e849f \
             8536222f4151ca07568880dd",
            "000000000000000000000000000000000000000000000000000000000000000000000000000000000000 \
             000000000003000000000000000000000000000000000000000000000000000000000000000000000000 \
             000000001234567890abcdef",
        ],
        zero_x: "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000 \
         00000000c306610fb0ae5a159cf45c06069f22a6c5eb3641c602d42dea2c4b4f75550793406d80d2b91ad54f \
         9048bd487af1ade1",
        unreduced: [
            "000000000000000000000000000000000000000000000000000000000000000000000000000000000000 \
             0000000000028cdeadbbd04911a3c1931e26df3fa6439dca9c7eb286fbd46fc319f0e2bb780232baf578 \
             25fc0c1912ada2fefe84024c",
            "fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffeffffffff000000000000 \
             0001000000018cdeadbbd04911a3c1931e26df3fa6439dca9c7eb286fbd46fc319f0e2bb780232baf578 \
             25fc0c1912ada2fefe84024c",
        ],
    },
];

impl Curve {
    fn public(&self) -> PublicKey {
        PublicKey { algo: self.algo, point: hex(self.key) }
    }

    /// The curve's own hash.
    fn hash(&self) -> HashAlgo {
        match self.algo {
            AsymAlgo::EcdsaP256 => HashAlgo::Sha256,
            AsymAlgo::EcdsaP384 => HashAlgo::Sha384,
        }
    }

    /// The example over "sample" with the curve's own hash, as `r` and `s`.
    fn sample(&self) -> [Vec<u8>; 2] {
        let find = |known: &&(&str, HashAlgo, &str)| known.0 == "sample" && known.1 == self.hash();
        let signature = hex(self.signatures.iter().find(find).unwrap().2);
        let (r, s) = signature.split_at(signature.len() / 2);
        [r.to_vec(), s.to_vec()]
    }

    /// `n - value`, of the same length.
    fn negative(&self, value: &[u8]) -> Vec<u8> {
        minus(&hex(self.order), value)
    }
}

/// `a - b`, big endian, of the same length.
fn minus(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut borrow = 0;
    let mut out: Vec<u8> = a
        .iter()
        .zip(b)
        .rev()
        .map(|(&a, &b)| {
            let value = i16::from(a) - i16::from(b) - borrow;
            borrow = i16::from(value < 0);
            u8::try_from(value.rem_euclid(256)).unwrap()
        })
        .collect();
    out.reverse();
    out
}

/// The value with one added, of the same length.
fn plus_one(value: &[u8]) -> Vec<u8> {
    minus(&minus(value, &alloc::vec![0xff; value.len()]), &alloc::vec![0; value.len()])
}

fn verify(key: &PublicKey, hash: HashAlgo, signature: &[u8]) -> Result<(), CryptoError> {
    AwsLc.verify(key, hash, b"sample", signature)
}

#[test]
fn every_hash_with_every_curve_verifies_the_examples_of_rfc_6979() {
    for curve in &CURVES {
        for (message, hash, signature) in curve.signatures {
            let key = curve.public();
            let signature = hex(signature);
            assert_eq!(
                AwsLc.verify(&key, hash, message.as_bytes(), &signature),
                Ok(()),
                "{message} {hash:?}"
            );
            for (other, hash) in [("", hash), ("sampl", hash), ("sample ", hash)] {
                let given = AwsLc.verify(&key, hash, other.as_bytes(), &signature);
                assert_eq!(given, Err(CryptoError::Signature), "{other}");
            }
            let other = if hash == HashAlgo::Sha256 { HashAlgo::Sha384 } else { HashAlgo::Sha256 };
            let given = AwsLc.verify(&key, other, message.as_bytes(), &signature);
            assert_eq!(given, Err(CryptoError::Signature), "of {hash:?}, as {other:?}");
        }
    }
}

#[test]
fn r_and_s_outside_of_the_order_are_refused() {
    for curve in &CURVES {
        let [r, s] = curve.sample();
        let key = curve.public();
        let join = |r: &[u8], s: &[u8]| [r, s].concat();
        assert_eq!(verify(&key, curve.hash(), &join(&r, &s)), Ok(()));
        // A signature and its mirror image are both valid: ECDSA does not tell them apart.
        assert_eq!(verify(&key, curve.hash(), &join(&r, &curve.negative(&s))), Ok(()));

        let size = r.len();
        let zero = alloc::vec![0; size];
        let mut one = zero.clone();
        one[size - 1] = 1;
        let ones = alloc::vec![0xff; size];
        let order = hex(curve.order);
        let prime = hex(curve.prime);
        let outside = [
            zero,
            one,
            order.clone(),
            plus_one(&order),
            minus(&order, &plus_one(&[0].repeat(size))),
            prime,
            ones,
        ];
        for value in &outside {
            for signature in [join(value, &s), join(&r, value)] {
                assert_eq!(
                    verify(&key, curve.hash(), &signature),
                    Err(CryptoError::Signature),
                    "{value:02x?}"
                );
            }
            for other in &outside {
                let given = verify(&key, curve.hash(), &join(value, other));
                assert_eq!(given, Err(CryptoError::Signature), "{value:02x?} {other:02x?}");
            }
        }
        for signature in [join(&s, &r), join(&curve.negative(&r), &s)] {
            assert_eq!(
                verify(&key, curve.hash(), &signature),
                Err(CryptoError::Signature),
                "{signature:02x?}"
            );
        }
    }
}

#[test]
fn a_signature_of_another_length_is_refused() {
    for curve in &CURVES {
        let good = curve.sample().concat();
        let half = good.len() / 2;
        let padded = [&[0][..], &good[..half], &[0], &good[half..]].concat();
        let other_form = [&[0x30, 0x44, 0x02, 0x20][..], &good].concat();
        let doubled = good.repeat(2);
        for signature in
            [&[][..], &good[..half], &good[1..], &good[..good.len() - 1], &padded, &other_form, &doubled]
        {
            assert_eq!(verify(&curve.public(), curve.hash(), signature), Err(CryptoError::Signature));
        }
    }
}

#[test]
fn every_changed_byte_of_a_signature_is_noticed() {
    for curve in &CURVES {
        let good = curve.sample().concat();
        for at in 0..good.len() {
            let mut signature = good.clone();
            signature[at] ^= 0x10;
            assert_eq!(
                verify(&curve.public(), curve.hash(), &signature),
                Err(CryptoError::Signature),
                "{at}"
            );
        }
    }
}

#[test]
fn r_is_the_remainder_of_an_x_that_is_larger_than_the_order() {
    for curve in &CURVES {
        let [key, signature] = curve.large_x.map(hex);
        let key = PublicKey { algo: curve.algo, point: key };
        assert_eq!(verify(&key, curve.hash(), &signature), Ok(()));
        // The whole x is no `r`.
        let (r, s) = signature.split_at(signature.len() / 2);
        let negative = minus(&alloc::vec![0; r.len()], r);
        let x = minus(&hex(curve.order), &negative);
        assert_eq!(verify(&key, curve.hash(), &[&x, s].concat()), Err(CryptoError::Signature));
    }
}

#[test]
fn a_public_key_must_be_a_point_of_its_curve() {
    for curve in &CURVES {
        let signature = curve.sample().concat();
        let good = hex(curve.key);
        let half = good.len() / 2;
        let prime = hex(curve.prime);
        let mut off_curve = good.clone();
        off_curve[good.len() - 1] ^= 1;
        let [reduced, unreduced] = curve.unreduced.map(hex);
        let bad = [
            off_curve,
            alloc::vec![0; good.len()],
            alloc::vec![0xff; good.len()],
            [&good[half..], &good[..half]].concat(),
            [&prime[..], &good[half..]].concat(),
            [&good[..half], &prime[..]].concat(),
            unreduced,
            good[1..].to_vec(),
            [&good[..], &[0]].concat(),
            [&[4][..], &good].concat(),
            Vec::new(),
            good[..half].to_vec(),
        ];
        for point in bad {
            let key = PublicKey { algo: curve.algo, point };
            assert_eq!(verify(&key, curve.hash(), &signature), Err(BAD_KEY), "{:02x?}", key.point);
        }
        // Points of the curve, but none that has signed.
        let mirrored = [&good[..half], &minus(&prime, &good[half..])].concat();
        for point in [hex(curve.zero_x), reduced, mirrored] {
            let key = PublicKey { algo: curve.algo, point };
            assert_eq!(
                verify(&key, curve.hash(), &signature),
                Err(CryptoError::Signature),
                "{:02x?}",
                key.point
            );
        }
        for other in CURVES.iter().filter(|other| other.algo != curve.algo) {
            let key = PublicKey { algo: curve.algo, point: hex(other.key) };
            assert_eq!(verify(&key, curve.hash(), &signature), Err(BAD_KEY));
        }
    }
}

#[test]
fn what_a_signer_signs_with_either_hash_verifies_with_that_hash_only() {
    for algo in AsymAlgo::ALL {
        let signer = EcdsaSigner::generate(algo).unwrap();
        assert_eq!(signer.algo(), algo);
        let stranger = EcdsaSigner::generate(algo).unwrap().public();
        for hash in HASHES {
            let signature = signer.sign(hash, b"sample").unwrap();
            assert_eq!(signature.len(), algo.signature_size());
            for read_as in HASHES {
                let known = if read_as == hash { Ok(()) } else { Err(CryptoError::Signature) };
                assert_eq!(verify(&signer.public(), read_as, &signature), known);
            }
            assert_eq!(verify(&stranger, hash, &signature), Err(CryptoError::Signature));
        }
    }
}

/// `r` and `s` as DER.
fn der(signature: &[u8]) -> Vec<u8> {
    let (r, s) = signature.split_at(signature.len() / 2);
    let mut body = Vec::new();
    for number in [r, s] {
        let start = number.iter().position(|&byte| byte != 0).unwrap();
        let sign = usize::from(number[start] >= 0x80);
        body.extend_from_slice(&[2, u8::try_from(number.len() - start + sign).unwrap()]);
        body.resize(body.len() + sign, 0);
        body.extend_from_slice(&number[start..]);
    }
    [&[0x30, u8::try_from(body.len()).unwrap()][..], &body].concat()
}

#[test]
fn a_hash_of_another_size_than_the_curve_is_signed_as_others_sign_it() {
    for (algo, hash, others) in [
        (AsymAlgo::EcdsaP256, HashAlgo::Sha384, &ECDSA_P256_SHA384_ASN1),
        (AsymAlgo::EcdsaP384, HashAlgo::Sha256, &ECDSA_P384_SHA256_ASN1),
    ] {
        let signer = EcdsaSigner::generate(algo).unwrap();
        let point = [&[4][..], &signer.public().point].concat();
        let key = UnparsedPublicKey::new(others, point);
        for message in [&b"sample"[..], b"", &[0xaa; 1000]] {
            let signature = der(&signer.sign(hash, message).unwrap());
            assert!(key.verify(message, &signature).is_ok(), "{algo:?} {hash:?}");
            assert!(key.verify(b"other", &signature).is_err(), "{algo:?} {hash:?}");
        }
    }
}

#[test]
fn a_key_survives_pkcs8_and_is_not_taken_for_one_of_the_other_curve() {
    for algo in AsymAlgo::ALL {
        let signer = EcdsaSigner::generate(algo).unwrap();
        let der = signer.to_pkcs8().unwrap();
        let again = EcdsaSigner::from_pkcs8(algo, &der).unwrap();
        assert_eq!(again.public(), signer.public());
        let signature = again.sign(HashAlgo::Sha384, b"sample").unwrap();
        assert_eq!(verify(&signer.public(), HashAlgo::Sha384, &signature), Ok(()));

        let refused = Some(CryptoError::Key("the private key in PKCS#8"));
        for other in AsymAlgo::ALL.into_iter().filter(|&other| other != algo) {
            assert_eq!(EcdsaSigner::from_pkcs8(other, &der).err(), refused);
        }
        for bad in [&[][..], &der[..der.len() - 1], &der[1..], &[0x30, 0x00]] {
            assert_eq!(EcdsaSigner::from_pkcs8(algo, bad).err(), refused);
        }
    }
}
