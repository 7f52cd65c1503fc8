//! The end of the sequence numbers.

use alloc::vec;

use super::{ID, data, ends, handshake, passes, sealed};
use crate::secured::{Direction, SecuredError};

#[test]
fn at_the_limit_nothing_more_is_sealed_or_opened() {
    for direction in Direction::ALL {
        for start in [handshake, data] {
            let (mut requester, mut responder) = start();
            let (sender, receiver) = ends(direction, &mut requester, &mut responder);
            sender.set_sequence_limit(3);
            for _ in 0..3 {
                passes(sender, receiver, b"x");
            }
            let exhausted = SecuredError::SequenceExhausted { session: ID, direction, limit: 3 };
            let mut out = vec![];
            for _ in 0..2 {
                assert_eq!(sender.seal(b"x", &mut out), Err(exhausted));
            }
            assert!(out.is_empty() && exhausted.ends_session());
            assert_eq!(sender.next_sequence(direction), 3, "nothing was wrapped");

            // A sender that goes on is not listened to: not even its genuine next message is opened.
            sender.set_sequence_limit(4);
            receiver.set_sequence_limit(3);
            let object = sealed(sender, b"x");
            assert_eq!(receiver.open(&object), Err(exhausted));
            assert_eq!(receiver.open(&object), Err(SecuredError::Ended(ID)));
        }
    }
}

#[test]
fn the_last_number_of_64_bits_is_not_used() {
    for direction in Direction::ALL {
        let (mut requester, mut responder) = data();
        for session in [&mut requester, &mut responder] {
            session.skip_to(direction, u64::MAX - 1);
        }
        let (sender, receiver) = ends(direction, &mut requester, &mut responder);
        passes(sender, receiver, b"the last one");
        let limit = u64::MAX;
        let exhausted = SecuredError::SequenceExhausted { session: ID, direction, limit };
        assert_eq!(sender.seal(b"x", &mut vec![]), Err(exhausted));
        assert_eq!(sender.next_sequence(direction), u64::MAX);
        let one_more = [&[2, 1, 0xfe, 0xff, 16, 0][..], &[0; 16]].concat();
        assert_eq!(receiver.open(&one_more), Err(exhausted));
        assert_eq!(receiver.next_sequence(direction), u64::MAX);
    }
}

#[test]
fn an_updated_key_has_numbers_of_its_own() {
    for direction in Direction::ALL {
        let (mut requester, mut responder) = data();
        let (sender, receiver) = ends(direction, &mut requester, &mut responder);
        for session in [&mut *sender, &mut *receiver] {
            session.set_sequence_limit(2);
        }
        passes(sender, receiver, b"0");
        passes(sender, receiver, b"1");
        sender.prepare_update(direction).unwrap();
        receiver.prepare_update(direction).unwrap();
        passes(sender, receiver, b"0");
        passes(sender, receiver, b"1");
        assert!(matches!(sender.seal(b"2", &mut vec![]), Err(SecuredError::SequenceExhausted { .. })));
    }
}

#[test]
fn the_old_key_has_its_limit_during_an_update_as_well() {
    let direction = Direction::Request;
    for (limit, taken) in [(1, false), (2, true)] {
        let (mut requester, mut responder) = data();
        passes(&mut requester, &mut responder, b"0");
        responder.set_sequence_limit(limit);
        responder.prepare_update(direction).unwrap();
        let opened = responder.open(&sealed(&mut requester, b"1"));
        if taken {
            assert_eq!(opened.unwrap()[..], *b"1");
        } else {
            assert_eq!(opened, Err(SecuredError::Tag { session: ID, direction, sequence: 0 }));
        }
    }
}

#[test]
fn numbers_of_the_other_direction_are_its_own() {
    let (mut requester, mut responder) = data();
    requester.set_sequence_limit(1);
    passes(&mut requester, &mut responder, b"x");
    passes(&mut responder, &mut requester, b"x");
    assert!(requester.seal(b"x", &mut vec![]).is_err());
}
