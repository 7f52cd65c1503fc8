//! The bytes of a secured message, and what is refused before and behind its tag.

use alloc::vec;
use alloc::vec::Vec;

use super::{ID, data, passes, sealed};
use crate::ids::SessionId;
use crate::secured::{Direction, MAX_APPLICATION, OVERHEAD, SecuredError, Session, session_id_of};

#[test]
fn a_record_has_the_sessions_id_and_counts_what_follows() {
    let (mut requester, _) = data();
    let object = sealed(&mut requester, &[1; 11]);
    assert_eq!(object.len(), 11 + OVERHEAD);
    assert_eq!(object[..6], [0x02, 0x01, 0xfe, 0xff, 29, 0]);
    assert_eq!(session_id_of(&object), Some(ID));
    assert_eq!(session_id_of(&object[..4]), Some(ID));
    assert_eq!(session_id_of(&object[..3]), None);
}

#[test]
fn sealing_appends_to_what_is_there() {
    let (mut requester, mut responder) = data();
    let mut out = vec![0xee; 8];
    requester.seal(b"abc", &mut out).unwrap();
    assert_eq!(out[..8], [0xee; 8]);
    assert_eq!(responder.open(&out[8..]).unwrap()[..], *b"abc");
}

#[test]
fn messages_of_any_length_up_to_the_largest_pass() {
    let (mut requester, mut responder) = data();
    for len in [0, 1, 2, 3, 4, 5, 4096, MAX_APPLICATION - 1, MAX_APPLICATION] {
        passes(&mut requester, &mut responder, &vec![0x5a; len]);
    }
    let mut out = vec![1];
    let refused = requester.seal(&vec![0; MAX_APPLICATION + 1], &mut out);
    assert_eq!(refused, Err(SecuredError::TooLong { len: MAX_APPLICATION + 1 }));
    assert_eq!(out, [1]);
    passes(&mut requester, &mut responder, b"and on");
}

#[test]
fn padding_is_up_to_three_zeros() {
    let (mut requester, mut responder) = data();
    for (padding, good) in [
        (&[][..], true),
        (&[0], true),
        (&[0, 0], true),
        (&[0, 0, 0], true),
        (&[0, 0, 0, 0], false),
        (&[1], false),
        (&[0, 0, 1], false),
        (&[0; 8], false),
    ] {
        let object = sealed(&mut requester, b"abcde");
        let padded = [&object[..], padding].concat();
        match responder.open(&padded) {
            Ok(text) => assert!(good && text[..] == *b"abcde"),
            Err(error) => {
                assert_eq!(error, SecuredError::Padding { len: padding.len() });
                assert!(!good && !error.ends_session());
                assert!(responder.open(&object).is_ok(), "the message itself is still the next");
            }
        }
    }
}

/// Refuses `object` as `error`, without a change: the next message is taken.
fn unchanged(responder: &mut Session, object: &[u8], error: SecuredError) {
    assert_eq!(responder.open(object), Err(error));
    assert!(!error.ends_session() && !responder.has_ended());
}

#[test]
fn what_is_malformed_outside_of_the_tag_changes_nothing() {
    let (mut requester, mut responder) = data();
    let object = sealed(&mut requester, b"abcd");
    for len in 0..6 {
        unchanged(&mut responder, &object[..len], SecuredError::TooShort { len });
    }
    for len in 6..object.len() {
        let error = SecuredError::Length { length: 22, available: len - 6 };
        unchanged(&mut responder, &object[..len], error);
    }
    let with = |at: usize, value: u8| {
        let mut object = object.clone();
        object[at] = value;
        object
    };
    for (at, found) in [(0, 0xfffe_0103), (2, 0xff03_0102)] {
        let error = SecuredError::WrongSession { expected: ID, found: SessionId(found) };
        unchanged(&mut responder, &with(at, 3), error);
    }
    for length in [23, 0xff, 15, 0] {
        let error = SecuredError::Length { length: length.into(), available: 22 };
        unchanged(&mut responder, &with(4, length), error);
    }
    unchanged(&mut responder, &with(5, 0xff), SecuredError::Length { length: 0xff16, available: 22 });
    unchanged(&mut responder, &with(4, 18), SecuredError::Padding { len: 4 });
    assert_eq!(responder.open(&object).unwrap()[..], *b"abcd");
}

#[test]
fn a_tag_that_does_not_verify_ends_the_session() {
    // Flipped bits of ciphertext and tag, and a length that the tag does not know of.
    let changes: [fn(&mut Vec<u8>); 4] = [
        |object| object[6] ^= 1,
        |object| object[11] ^= 0x80,
        |object| *object.last_mut().unwrap() ^= 1,
        |object| {
            object[4] -= 1;
            *object.last_mut().unwrap() = 0;
        },
    ];
    for change in changes {
        let (mut requester, mut responder) = data();
        passes(&mut requester, &mut responder, b"first");
        let mut object = sealed(&mut requester, b"abcd");
        let good = object.clone();
        change(&mut object);
        let error = SecuredError::Tag { session: ID, direction: Direction::Request, sequence: 1 };
        assert_eq!(responder.open(&object), Err(error));
        assert!(error.ends_session() && responder.has_ended());
        assert_eq!(responder.open(&good), Err(SecuredError::Ended(ID)));
        let mut out = vec![];
        assert_eq!(responder.seal(b"late", &mut out), Err(SecuredError::Ended(ID)));
        assert!(out.is_empty());
    }
}

#[test]
fn replayed_reordered_and_mirrored_messages_are_not_taken() {
    let tries: [fn(&mut Session, &mut Session) -> Vec<u8>; 4] = [
        |requester, responder| {
            let object = sealed(requester, b"once");
            responder.open(&object).unwrap();
            object
        },
        |requester, _| {
            let _lost = sealed(requester, b"lost");
            sealed(requester, b"after")
        },
        |_, responder| sealed(responder, b"its own"),
        |_, _| sealed(&mut super::session(crate::secured::Role::Requester), b"of the handshake"),
    ];
    for attack in tries {
        let (mut requester, mut responder) = data();
        let object = attack(&mut requester, &mut responder);
        assert!(matches!(responder.open(&object), Err(SecuredError::Tag { .. })));
        assert!(responder.has_ended());
    }
}

#[test]
fn the_application_length_must_fill_the_plaintext() {
    for (plain, stated, room) in [
        (&[][..], 0, 0),
        (&[0], 0, 0),
        (&[1, 0], 1, 0),
        (&[0, 0, 9], 0, 1),
        (&[3, 0, 9, 9], 3, 2),
        (&[0, 1, 9], 256, 1),
        (&[0xff, 0xff, 9], 0xffff, 1),
    ] {
        let (mut requester, mut responder) = data();
        let object = sealed_plaintext(&mut requester, plain);
        let error = SecuredError::ApplicationLength { stated, room };
        assert_eq!(responder.open(&object), Err(error), "{plain:?}");
        assert!(error.ends_session() && responder.has_ended());
    }
    let (mut requester, mut responder) = data();
    let object = sealed_plaintext(&mut requester, &[1, 0, 9]);
    assert_eq!(responder.open(&object).unwrap()[..], [9]);
}

/// A genuine record of any plaintext, as a peer would make that does not keep to the format.
fn sealed_plaintext(session: &mut Session, plain: &[u8]) -> Vec<u8> {
    use crate::algo::AeadAlgo;
    use crate::crypto::{Crypto, aws_lc::AwsLc};
    use crate::key_schedule::KeySchedule;

    let secrets = session.secrets();
    let keys = KeySchedule::new(&AwsLc, secrets.hash, secrets.version)
        .traffic_keys(AeadAlgo::Aes256Gcm, secrets.request)
        .unwrap();
    let length = u16::try_from(plain.len() + AeadAlgo::TAG_SIZE).unwrap();
    let header = [&ID.0.to_le_bytes()[..], &length.to_le_bytes()].concat();
    let mut text = plain.to_vec();
    let tag = AwsLc.aead(AeadAlgo::Aes256Gcm, &keys.key).unwrap().seal(&keys.iv, &header, &mut text).unwrap();
    [header, text, tag.to_vec()].concat()
}
