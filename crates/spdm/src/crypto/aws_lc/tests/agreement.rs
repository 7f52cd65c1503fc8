//! ECDH: RFC 5903, 8.1 and 8.2, the first of NIST's ECC CDH examples, and points at the edges.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::hex;
use crate::algo::DheGroup;
use crate::crypto::aws_lc::{AwsLc, agreement::KeyPair};
use crate::crypto::{Crypto, CryptoError, Ephemeral, Secret};

const REFUSED: CryptoError = CryptoError::Key("the public value of the other side");

/// What is known of a group.
struct Group {
    dhe: DheGroup,
    /// Private key, its public value, that of the other side, and what they share.
    known: [[&'static str; 4]; 2],
    /// Private key, public value of the other side, and what they share, which starts with zeros.
    leading_zeros: [&'static str; 3],
    /// Prime of the field.
    prime: &'static str,
    /// A point with x = 0.
    zero_x: &'static str,
    /// The same point, with its x, and with `prime + x`.
    unreduced: [&'static str; 2],
}

const GROUPS: [Group; 2] = [
    Group {
        dhe: DheGroup::Secp256r1,
        known: [
            [
                "c88f01f510d9ac3f70a292daa2316de544e9aab8afe84049c62a9c57862d1433",
                "dad0b65394221cf9b051e1feca5787d098dfe637fc90b9ef945d0c37725811805271a0461cdb8252 \
                 d61f1c456fa3e59ab1f45b33accf5f58389e0577b8990bb3",
                "d12dfb5289c8d4f81208b70270398c342296970a0bccb74c736fc7554494bf6356fbf3ca366cc23e \
                 8157854c13c58d6aac23f046ada30f8353e74f33039872ab",
                "d6840f6b42f6edafd13116e0e12565202fef8e9ece7dce03812464d04b9442de",
            ],
            [
                "7d7dc5f71eb29ddaf80d6214632eeae03d9058af1fb6d22ed80badb62bc1a534",
                "ead218590119e8876b29146ff89ca61770c4edbbf97d38ce385ed281d8a6b23028af61281fd35e2f \
                 a7002523acc85a429cb06ee6648325389f59edfce1405141",
                "700c48f77f56584c5cc632ca65640db91b6bacce3a4df6b42ce7cc838833d287db71e509e3fd9b06 \
                 0ddb20ba5c51dcc5948d46fbf640dfe0441782cab85fa4ac",
                "46fc62106420ff012e54a434fbdd2d25ccc5852060561e68040dd7778997bd7b",
            ],
        ],
        leading_zeros: [
            "6728e197b6a171bf0ee2f3c4ed1ea2a3a18294e5be3002f0f706a24f4288557b",
            "1774532586e9105a970d927d477dcaaa727a169368e8fc0e6855ec76179f40cbb3d7a6aa229bfc1e28f7 \
             3f69f1529cc184e4fb8964942da868b60a9dbb84ad79",
            "0000293c9add0e24c78e844ec77325793426823e20f85913b85e7f569716bc24",
        ],
        prime: "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff",
        zero_x: "000000000000000000000000000000000000000000000000000000000000000066485c780e2f83d72433bd5d \
         84a06bb6541c2af31dae871728bf856a174f93f4",
        unreduced: [
            "0000000000000000000000000000000000000000000000000000000000000005459243b9aa581806fe91 \
             3bce99817ade11ca503c64d9a3c533415c083248fbcc",
            "ffffffff00000001000000000000000000000001000000000000000000000004459243b9aa581806fe91 \
             3bce99817ade11ca503c64d9a3c533415c083248fbcc",
        ],
    },
    Group {
        dhe: DheGroup::Secp384r1,
        known: [
            [
                "099f3c7034d4a2c699884d73a375a67f7624ef7c6b3c0f160647b67414dce655e35b538041e649ee \
                 3faef896783ab194",
                "667842d7d180ac2cde6f74f37551f55755c7645c20ef73e31634fe72b4c55ee6de3ac808acb4bdb4 \
                 c88732aee95f41aa9482ed1fc0eeb9cafc4984625ccfc23f65032149e0e144ada024181535a0f38e \
                 eb9fcff3c2c947dae69b4c634573a81c",
                "e558dbef53eecde3d3fccfc1aea08a89a987475d12fd950d83cfa41732bc509d0d1ac43a0336def9 \
                 6fda41d0774a3571dcfbec7aacf3196472169e838430367f66eebe3c6e70c416dd5f0c68759dd1ff \
                 f83fa40142209dff5eaad96db9e6386c",
                "11187331c279962d93d604243fd592cb9d0a926f422e47187521287e7156c5c4d603135569b9e9d0 \
                 9cf5d4a270f59746",
            ],
            [
                "3cc3122a68f0d95027ad38c067916ba0eb8c38894d22e1b15618b6818a661774ad463b205da88cf6 \
                 99ab4d43c9cf98a1",
                "9803807f2f6d2fd966cdd0290bd410c0190352fbec7ff6247de1302df86f25d34fe4a97bef60cff5 \
                 48355c015dbb3e5fba26ca69ec2f5b5d9dad20cc9da711383a9dbe34ea3fa5a2af75b46502629ad5 \
                 4dd8b7d73a8abb06a3a3be47d650cc99",
                "a7c76b970c3b5fe8b05d2838ae04ab47697b9eaf52e764592efda27fe7513272734466b400091adb \
                 f2d68c58e0c50066ac68f19f2e1cb879aed43a9969b91a0839c4c38a49749b661efedf243451915e \
                 d0905a32b060992b468c64766fc8437a",
                "5f9d29dc5e31a163060356213669c8ce132e22f57c9a04f40ba7fcead493b457e5621e766c40a2e3 \
                 d4d6a04b25e533f1",
            ],
        ],
        leading_zeros: [
            "0fa5a789bb04e4c8a3bc663028fa978267f1a4025324a113f0600b600628f54e6465c0f9ed134633eed2 \
             2a6da2e2f479",
            "925291eb08413b85736fa128a31af29777efb9a33db591314e8970b4653a5f1eb7f50151480f4da7ac31 \
             ab6dcc4e8e19c50e8540e4c7a2316797bab1992e2a0b1793ffbad187e7b7d0587f2109b8db44b2b50c54 \
             1fe2e77493bfe90ad033ccce",
            "00008fdfb056674a365204ca74f858d66c6ff810e996b50af38ef5c09d1985fece55cf423f17e5a56097 \
             127c1ed5bed4",
        ],
        prime: "fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffeffffffff0000000000000000 \
         ffffffff",
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

fn agree(group: DheGroup, private: &[u8], peer: &[u8]) -> Result<Secret, CryptoError> {
    Box::new(KeyPair::known(group, private).unwrap()).agree(peer)
}

#[test]
fn both_groups_give_the_known_answers() {
    for group in &GROUPS {
        for [private, public, peer, shared] in group.known.map(|known| known.map(hex)) {
            assert_eq!(KeyPair::known(group.dhe, &private).unwrap().public(), public);
            assert_eq!(agree(group.dhe, &private, &peer).unwrap()[..], shared[..]);
        }
    }
}

#[test]
fn zeros_at_the_start_of_a_shared_secret_are_kept() {
    for group in &GROUPS {
        let [private, peer, shared] = group.leading_zeros.map(hex);
        assert_eq!(shared[..2], [0, 0]);
        assert_eq!(agree(group.dhe, &private, &peer).unwrap()[..], shared[..]);
    }
}

#[test]
fn fresh_pairs_of_both_sides_agree() {
    for group in DheGroup::ALL {
        let [requester, responder] = [(); 2].map(|()| AwsLc.ephemeral(group).unwrap());
        let [for_responder, for_requester] = [&requester, &responder].map(|pair| pair.public().to_vec());
        assert_eq!(for_responder.len(), group.exchange_size());
        assert_ne!(for_responder, for_requester);
        let shared = requester.agree(&for_requester).unwrap();
        assert_eq!(shared.len(), group.exchange_size() / 2);
        assert_eq!(shared, responder.agree(&for_responder).unwrap());
    }
}

#[test]
fn a_public_value_must_be_a_point_of_the_group() {
    for group in &GROUPS {
        let [private, _, good, _] = group.known[0].map(hex);
        assert!(agree(group.dhe, &private, &good).is_ok());
        let half = good.len() / 2;
        let prime = hex(group.prime);
        let mut off_curve = good.clone();
        off_curve[good.len() - 1] ^= 1;
        let [reduced, unreduced] = group.unreduced.map(hex);
        let other = GROUPS.iter().find(|other| other.dhe != group.dhe).unwrap();
        let bad: [Vec<u8>; 13] = [
            off_curve,
            // What stands for infinity elsewhere, and all that a coordinate can be too large by.
            alloc::vec![0; good.len()],
            alloc::vec![0xff; good.len()],
            [&good[half..], &good[..half]].concat(),
            [&prime[..], &good[half..]].concat(),
            [&good[..half], &prime[..]].concat(),
            unreduced,
            good[1..].to_vec(),
            [&good[..], &[0]].concat(),
            [&[4][..], &good].concat(),
            [&[2][..], &good[..half]].concat(),
            alloc::vec![0],
            hex(other.known[0][2]),
        ];
        for peer in &bad {
            assert_eq!(agree(group.dhe, &private, peer), Err(REFUSED), "{peer:02x?}");
        }
        assert_eq!(agree(group.dhe, &private, &[]), Err(REFUSED));
        for peer in [hex(group.zero_x), reduced] {
            assert!(agree(group.dhe, &private, &peer).is_ok(), "{peer:02x?}");
        }
    }
}
