//! AES-GCM: the test cases of its specification (McGrew and Viega; 1, 2, 4, 13, 14 and 16).

use alloc::vec::Vec;

use super::hex;
use crate::algo::AeadAlgo;
use crate::crypto::aws_lc::AwsLc;
use crate::crypto::{Crypto, CryptoError};

struct Case {
    algo: AeadAlgo,
    key: Vec<u8>,
    iv: [u8; 12],
    aad: Vec<u8>,
    plain: Vec<u8>,
    /// Ciphertext and tag.
    sealed: Vec<u8>,
}

fn cases() -> Vec<Case> {
    let [long_key, long_plain, long_aad] = [
        "feffe9928665731c6d6a8f9467308308",
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e24 \
         49a6b525b16aedf5aa0de657ba637b39",
        "feedfacedeadbeeffeedfacedeadbeefabaddad2",
    ]
    .map(hex);
    let long_iv = [0xca, 0xfe, 0xba, 0xbe, 0xfa, 0xce, 0xdb, 0xad, 0xde, 0xca, 0xf8, 0x88];
    let sealed = [
        "58e2fccefa7e3061367f1d57a4e7455a",
        "0388dace60b6a392f328c2b971b2fe78ab6e47d42cec13bdf53a67b21257bddf",
        "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5a \
         ac84aa051ba30b396a0aac973d58e0915bc94fbc3221a5db94fae95ae7121a47",
        "530f8afbc74536b9a963b4f1c4cb738b",
        "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919",
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b10 \
         56828838c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b",
    ];
    let mut cases = Vec::new();
    for (at, sealed) in sealed.into_iter().enumerate() {
        let algo = AeadAlgo::ALL[at / 3];
        let mut key = long_key.repeat(algo.key_size() / long_key.len());
        let (mut iv, mut aad, mut plain) = (long_iv, long_aad.clone(), long_plain.clone());
        if at % 3 < 2 {
            key.fill(0);
            iv.fill(0);
            aad.clear();
            plain = alloc::vec![0; 16 * (at % 3)];
        }
        cases.push(Case { algo, key, iv, aad, plain, sealed: hex(sealed) });
    }
    cases
}

#[test]
fn gcm_is_that_of_its_specification() {
    for case in cases() {
        let aead = AwsLc.aead(case.algo, &case.key).unwrap();
        let mut text = case.plain.clone();
        let tag = aead.seal(&case.iv, &case.aad, &mut text).unwrap();
        assert_eq!([&text[..], &tag].concat(), case.sealed);
        aead.open(&case.iv, &case.aad, &mut text, &tag).unwrap();
        assert_eq!(text, case.plain);
    }
}

#[test]
fn any_changed_bit_is_a_tag_that_does_not_verify() {
    for case in cases() {
        let aead = AwsLc.aead(case.algo, &case.key).unwrap();
        let (cipher, tag) = case.sealed.split_last_chunk::<16>().unwrap();
        let open = |iv: &[u8; 12], aad: &[u8], cipher: &[u8], tag: &[u8; 16]| {
            aead.open(iv, aad, &mut cipher.to_vec(), tag)
        };
        assert_eq!(open(&case.iv, &case.aad, cipher, tag), Ok(()));
        let flipped = |bytes: &[u8], bit: usize| {
            let mut bytes = bytes.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        };
        for bit in 0..8 * case.iv.len() {
            let iv = flipped(&case.iv, bit).try_into().unwrap();
            assert_eq!(open(&iv, &case.aad, cipher, tag), Err(CryptoError::Tag), "IV bit {bit}");
        }
        for bit in 0..8 * case.aad.len() {
            let aad = flipped(&case.aad, bit);
            assert_eq!(open(&case.iv, &aad, cipher, tag), Err(CryptoError::Tag), "AAD bit {bit}");
        }
        for bit in 0..8 * cipher.len() {
            let cipher = flipped(cipher, bit);
            assert_eq!(open(&case.iv, &case.aad, &cipher, tag), Err(CryptoError::Tag), "text bit {bit}");
        }
        for bit in 0..8 * tag.len() {
            let tag = flipped(tag, bit).try_into().unwrap();
            assert_eq!(open(&case.iv, &case.aad, cipher, &tag), Err(CryptoError::Tag), "tag bit {bit}");
        }
        let longer = [&case.aad[..], &[0]].concat();
        assert_eq!(open(&case.iv, &longer, cipher, tag), Err(CryptoError::Tag), "longer AAD");
        if let Some((_, shorter)) = cipher.split_last() {
            assert_eq!(open(&case.iv, &case.aad, shorter, tag), Err(CryptoError::Tag), "shorter text");
        }
    }
}

#[test]
fn a_key_of_another_size_is_refused() {
    for algo in AeadAlgo::ALL {
        for size in [0, 15, 16, 17, 24, 31, 32, 33] {
            let made = AwsLc.aead(algo, &alloc::vec![0; size]).map(|_| ());
            let known =
                if size == algo.key_size() { Ok(()) } else { Err(CryptoError::Key("the key of AES-GCM")) };
            assert_eq!(made, known, "{algo:?} {size}");
        }
    }
}
