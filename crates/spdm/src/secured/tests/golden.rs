//! The whole way from a key agreement's secret to sealed messages, against values calculated apart
//! from this crate, with the HMAC and AES-GCM of another library, and against the key schedule
//! written down once more over HMAC alone.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{ID, SUITE, bytes, sealed, session_with, th1, th2};
use crate::algo::{AeadAlgo, AsymAlgo, DheGroup, HashAlgo, Suite};
use crate::crypto::aws_lc::AwsLc;
use crate::crypto::{Crypto, CryptoError, Digest, Secret};
use crate::ids::Version;
use crate::key_schedule::{KeySchedule, bin_concat};
use crate::secured::{Direction, Phase, Role, Session};

struct Golden {
    version: Version,
    suite: Suite,
    /// HMACs over TH1, of requests and responses.
    macs: [&'static str; 2],
    /// First messages of the handshake: FINISH and FINISH_RSP without their HMACs.
    handshake: [&'static str; 2],
    /// First messages of the data phase: HEARTBEAT and its ACK.
    data: [&'static str; 2],
    /// HEARTBEAT with sequence number 258.
    request_258: &'static str,
    /// The first HEARTBEAT after an update of requests.
    updated: &'static str,
    export_master: &'static str,
}

const GOLDEN: [Golden; 2] = [
    Golden {
        version: Version::V1_2,
        suite: SUITE,
        macs: [
            "49b9ec5e8347d8f60376122395da05c376d6b2be6a33dc1f208182b744f85a0725d979880aa2daa3c45fbaa953403362",
            "7d1ccdd81e553df71ae9cce6cb17fd321edf4b15011f4aa5b6662125ca93d410298971afb2913427e33a9d175bf27eaf",
        ],
        handshake: [
            "0201feff160038cedee25b567f873a2c02d1127adc99eb673db586f9",
            "0201feff1600e8fc52c7dd9f2485b4aa8b56fdc881d9f49105342f92",
        ],
        data: [
            "0201feff160023f53ee6a003bdf4a8c8381526f1dac78dc36cd2ba64",
            "0201feff1600e848f1d2194ba792c2b11583c28fad87cb5f08529d5f",
        ],
        request_258: "0201feff160064d3ae4c34ce8ca2f8110febddfb86474b8ea1dd153f",
        updated: "0201feff16003a4f5824025fc89ae1a6b0b8c61cd08739662739f22d",
        export_master: "553153892a3364a2ff7cce6cf51b0240a146c3f4bfdb0a5470ca52776c2170f4\
                        a89ef6c9c33b22a317fe2a0cf4357a1a",
    },
    Golden {
        version: Version::V1_3,
        suite: Suite {
            hash: HashAlgo::Sha256,
            asym: AsymAlgo::EcdsaP256,
            dhe: Some(DheGroup::Secp256r1),
            aead: Some(AeadAlgo::Aes128Gcm),
            measurement_hash: None,
        },
        macs: [
            "8c57018f40845b649efd1fd4cc935e67e334224e2699dc047ff6ee355852e6ca",
            "e09379f0f6c69195e2ce247635b1bb33e3675ca1f29c4956a5dc43186cf9084c",
        ],
        handshake: [
            "0201feff1600271eac382fc137e46995c65d948ebc75d8d2eed0efe3",
            "0201feff160041ec5448f4994bad452133bd2a2a9fd19d6a8fef00d9",
        ],
        data: [
            "0201feff16001ecd03f0a2e99b59f52aa22fc7285540932fd772b16e",
            "0201feff16004b15a031c83bfc55b13209825828b64ea4e9ee823b6d",
        ],
        request_258: "0201feff1600673b8ae30d4e044f0d517ef8364fa385666723a56bc3",
        updated: "0201feff160079d8e6f8a06d0d67b93bef44c94690c629197e3bab9a",
        export_master: "c2d3cb2f5989b3d411e4a8d77b8e38c0e5f063d3d4fbd0807ab69369f47e2cc5",
    },
];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn crypto() -> Arc<dyn Crypto> {
    Arc::new(AwsLc)
}

#[test]
fn keys_and_records_are_those_of_a_calculation_apart_from_this_crate() {
    for golden in &GOLDEN {
        let version = golden.version.0;
        for (at, role) in [Role::Requester, Role::Responder].into_iter().enumerate() {
            let mut session = session_with(&crypto(), golden.suite, golden.version, role);
            let codes = [[0xe5, 0xe8], [0x65, 0x68]][at];
            let mac = session.finished_mac(role.sends(), &th1(golden.suite)).unwrap();
            assert_eq!(hex(&mac), golden.macs[at]);
            assert_eq!(hex(&sealed(&mut session, &[version, codes[0], 0, 0])), golden.handshake[at]);
            session.enter_data(&th2(golden.suite)).unwrap();
            assert_eq!(hex(&sealed(&mut session, &[version, codes[1], 0, 0])), golden.data[at]);
            assert_eq!(hex(session.secrets().export_master.unwrap()), golden.export_master);
        }
        let mut session = session_with(&crypto(), golden.suite, golden.version, Role::Requester);
        session.enter_data(&th2(golden.suite)).unwrap();
        for _ in 0..258 {
            let _ = sealed(&mut session, &[version, 0xe8, 0, 0]);
        }
        assert_eq!(hex(&sealed(&mut session, &[version, 0xe8, 0, 0])), golden.request_258);
        session.prepare_update(Direction::Request).unwrap();
        assert_eq!(hex(&sealed(&mut session, &[version, 0xe8, 0, 0])), golden.updated);
    }
}

#[test]
fn bin_concat_has_length_version_label_and_context_in_this_order() {
    let info = bin_concat(0x0130, Version::V1_3, "req hs data", &[0xaa, 0xbb]);
    assert_eq!(info, b"\x30\x01spdm1.3 req hs data\xaa\xbb");
    assert_eq!(bin_concat(12, Version::V1_2, "iv", &[]), b"\x0c\x00spdm1.2 iv");
}

/// HKDF-Expand of at most one digest: the first block of RFC 5869.
fn expand(algo: HashAlgo, secret: &[u8], text: &str, context: &[u8], size: usize) -> Vec<u8> {
    let mut info = u16::try_from(size).unwrap().to_le_bytes().to_vec();
    info.extend_from_slice(text.as_bytes());
    info.extend_from_slice(context);
    info.push(1);
    AwsLc.hmac(algo, secret, &info)[..size].to_vec()
}

#[test]
fn the_key_schedule_is_the_written_one_for_every_hash_cipher_and_version() {
    for (hash, version, text) in [
        (HashAlgo::Sha256, Version::V1_2, "spdm1.2 "),
        (HashAlgo::Sha384, Version::V1_2, "spdm1.2 "),
        (HashAlgo::Sha256, Version::V1_3, "spdm1.3 "),
        (HashAlgo::Sha384, Version::V1_3, "spdm1.3 "),
    ] {
        let size = hash.size();
        let of = |secret: &[u8], label: &str, context: &[u8], size| {
            expand(hash, secret, &format!("{text}{label}"), context, size)
        };
        let schedule = KeySchedule::new(&AwsLc, hash, version);
        let dhe = bytes(11, 2, 48);
        let [th1, th2] = [3, 4].map(|seed| Digest::new(&bytes(13, seed, size)).unwrap());
        let zeros = alloc::vec![0; size];

        let ours = schedule.handshake(&dhe, &th1).unwrap();
        let handshake = AwsLc.hmac(hash, &zeros, &dhe);
        assert_eq!(ours.handshake[..], handshake[..]);
        assert_eq!(*ours.request, of(&handshake, "req hs data", &th1, size));
        assert_eq!(*ours.response, of(&handshake, "rsp hs data", &th1, size));
        let finished = schedule.finished_key(&ours.request).unwrap();
        assert_eq!(*finished, of(&ours.request, "finished", &[], size));

        let data = schedule.data(&ours.handshake, &th2).unwrap();
        let master = AwsLc.hmac(hash, &of(&handshake, "derived", &[], size), &zeros);
        assert_eq!(*data.request, of(&master, "req app data", &th2, size));
        assert_eq!(*data.response, of(&master, "rsp app data", &th2, size));
        assert_eq!(*data.export_master, of(&master, "exp master", &th2, size));
        assert_eq!(*schedule.update(&data.request).unwrap(), of(&data.request, "traffic upd", &[], size));

        for aead in AeadAlgo::ALL {
            let keys = schedule.traffic_keys(aead, &data.response).unwrap();
            assert_eq!(*keys.key, of(&data.response, "key", &[], aead.key_size()));
            assert_eq!(keys.iv[..], of(&data.response, "iv", &[], 12)[..]);
        }
    }
}

#[test]
fn a_transcript_of_another_hash_makes_no_session() {
    let other = Digest::new(&[1; 32]).unwrap();
    let dhe = Secret::new(bytes(7, 1, 48));
    let refused = Session::new(&crypto(), SUITE, Version::V1_2, ID, Role::Requester, dhe, &other).err();
    let reason = CryptoError::Backend("a key schedule with a transcript of another hash");
    assert_eq!(refused, Some(reason));

    let mut session = super::session(Role::Requester);
    assert_eq!(session.enter_data(&other), Err(reason.into()));
    assert_eq!(session.phase(), Phase::Handshake);
    assert_eq!(session.enter_data(&th2(SUITE)), Ok(()));
}

#[test]
fn a_suite_without_a_cipher_makes_no_session() {
    let suite = Suite { aead: None, ..SUITE };
    let dhe = Secret::new(bytes(7, 1, 48));
    let refused = Session::new(&crypto(), suite, Version::V1_2, ID, Role::Responder, dhe, &th1(suite)).err();
    assert_eq!(refused, Some(CryptoError::Backend("a session without a cipher")));
}
