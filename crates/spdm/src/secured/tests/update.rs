//! Key updates, as both sides make them around KEY_UPDATE.

use super::{data, ends, handshake, passes, sealed};
use crate::secured::{Direction, Phase, SecuredError};

#[test]
fn update_key_verify_new_key() {
    let (mut requester, mut responder) = data();
    let direction = Direction::Request;
    passes(&mut requester, &mut responder, b"UPDATE_KEY");
    responder.prepare_update(direction).unwrap();
    passes(&mut responder, &mut requester, b"ACK under the old key of responses");
    requester.prepare_update(direction).unwrap();
    assert!(responder.update_pending(direction) && requester.update_pending(direction));
    passes(&mut requester, &mut responder, b"VERIFY_NEW_KEY");
    assert!(!responder.update_pending(direction) && !requester.update_pending(direction));
    passes(&mut responder, &mut requester, b"ACK");
    for session in [&requester, &responder] {
        assert_eq!((session.updates(Direction::Request), session.updates(Direction::Response)), (1, 0));
        assert_eq!(session.next_sequence(Direction::Request), 1);
        assert_eq!(session.next_sequence(Direction::Response), 2);
    }
    assert_eq!(requester.secrets().request, responder.secrets().request);
}

#[test]
fn update_all_keys_is_acknowledged_under_the_new_key() {
    let (mut requester, mut responder) = data();
    requester.prepare_update(Direction::Response).unwrap();
    passes(&mut requester, &mut responder, b"UPDATE_ALL_KEYS");
    responder.prepare_update(Direction::Request).unwrap();
    responder.prepare_update(Direction::Response).unwrap();
    passes(&mut responder, &mut requester, b"ACK");
    requester.prepare_update(Direction::Request).unwrap();
    passes(&mut requester, &mut responder, b"VERIFY_NEW_KEY");
    passes(&mut responder, &mut requester, b"ACK");
    for session in [&requester, &responder] {
        for direction in Direction::ALL {
            assert_eq!((session.updates(direction), session.update_pending(direction)), (1, false));
        }
    }
}

#[test]
fn an_answer_under_the_old_key_undoes_the_update() {
    let (mut requester, mut responder) = data();
    passes(&mut responder, &mut requester, b"0");
    requester.prepare_update(Direction::Response).unwrap();
    passes(&mut requester, &mut responder, b"UPDATE_ALL_KEYS");
    passes(&mut responder, &mut requester, b"ERROR: busy");
    assert_eq!(requester.last_sequence(Direction::Response), Some(1));
    assert_eq!(
        (requester.updates(Direction::Response), requester.update_pending(Direction::Response)),
        (0, false)
    );
    passes(&mut responder, &mut requester, b"2");

    // Once more, and this time the other side agrees.
    requester.prepare_update(Direction::Response).unwrap();
    responder.prepare_update(Direction::Response).unwrap();
    passes(&mut responder, &mut requester, b"ACK");
    assert_eq!(requester.updates(Direction::Response), 1);
}

#[test]
fn once_the_new_key_was_used_the_old_one_is_gone() {
    for direction in Direction::ALL {
        let (mut requester, mut responder) = data();
        let (sender, receiver) = ends(direction, &mut requester, &mut responder);
        let old = sealed(sender, b"under the old key");
        receiver.prepare_update(direction).unwrap();
        sender.prepare_update(direction).unwrap();
        passes(sender, receiver, b"under the new key");
        assert!(matches!(receiver.open(&old), Err(SecuredError::Tag { sequence: 1, .. })));
        let refused = SecuredError::Update { session: sender.id(), direction };
        assert_eq!(sender.roll_back(direction), Err(refused), "the same numbers would be used twice");
    }
}

#[test]
fn after_a_commit_the_old_key_is_gone() {
    let (mut requester, mut responder) = data();
    let old = sealed(&mut requester, b"under the old key");
    responder.prepare_update(Direction::Request).unwrap();
    responder.commit(Direction::Request);
    assert!(!responder.update_pending(Direction::Request));
    assert!(responder.roll_back(Direction::Request).is_err());
    assert!(matches!(responder.open(&old), Err(SecuredError::Tag { sequence: 0, .. })));
}

#[test]
fn an_unused_update_can_be_undone_on_either_side() {
    for direction in Direction::ALL {
        let (mut requester, mut responder) = data();
        let (sender, receiver) = ends(direction, &mut requester, &mut responder);
        passes(sender, receiver, b"0");
        for session in [&mut *sender, &mut *receiver] {
            session.prepare_update(direction).unwrap();
            assert_eq!(session.next_sequence(direction), 0);
            session.roll_back(direction).unwrap();
            assert_eq!((session.next_sequence(direction), session.updates(direction)), (1, 0));
            let refused = SecuredError::Update { session: session.id(), direction };
            assert_eq!(session.roll_back(direction), Err(refused), "there is none any more");
        }
        passes(sender, receiver, b"1");
    }
}

#[test]
fn a_second_update_waits_for_the_first() {
    let (mut requester, mut responder) = data();
    let direction = Direction::Request;
    requester.prepare_update(direction).unwrap();
    let refused = SecuredError::Update { session: requester.id(), direction };
    assert_eq!(requester.prepare_update(direction), Err(refused));
    assert_eq!(requester.prepare_update(direction.opposite()), Ok(()), "the other direction is free");
    responder.prepare_update(direction).unwrap();
    passes(&mut requester, &mut responder, b"used");
    assert_eq!(requester.prepare_update(direction), Ok(()));
    assert_eq!(responder.prepare_update(direction), Ok(()));
    passes(&mut requester, &mut responder, b"under the third key");
    assert_eq!(responder.updates(direction), 2);
}

#[test]
fn the_handshake_phase_has_no_updates() {
    let (mut requester, _) = handshake();
    let refused = SecuredError::WrongPhase { session: requester.id(), phase: Phase::Handshake };
    assert_eq!(requester.prepare_update(Direction::Request), Err(refused));
    assert!(!requester.update_pending(Direction::Request));
}

#[test]
fn an_ended_session_is_not_updated() {
    let (mut requester, mut responder) = data();
    let mut object = sealed(&mut requester, b"x");
    object[7] ^= 1;
    assert!(responder.open(&object).is_err());
    assert_eq!(responder.prepare_update(Direction::Request), Err(SecuredError::Ended(responder.id())));
}

#[test]
fn changed_bytes_end_a_session_during_an_update_as_well() {
    let (mut requester, mut responder) = data();
    let mut object = sealed(&mut requester, b"x");
    object[7] ^= 1;
    responder.prepare_update(Direction::Request).unwrap();
    assert!(matches!(responder.open(&object), Err(SecuredError::Tag { .. })));
    assert!(responder.has_ended());
}
