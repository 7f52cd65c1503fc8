//! Handshake and data phase, their keys and their secrets.

use super::{SUITE, both_ways, data, handshake, passes, sealed, session, th1, th2};
use crate::secured::{Direction, Phase, Role, SecuredError};

#[test]
fn each_phase_has_its_own_keys_and_numbers() {
    let (mut requester, mut responder) = handshake();
    both_ways(&mut requester, &mut responder);
    assert_eq!(requester.next_sequence(Direction::Request), 1);
    let late = sealed(&mut requester, b"of the handshake");
    requester.enter_data(&th2(SUITE)).unwrap();
    responder.enter_data(&th2(SUITE)).unwrap();
    for direction in Direction::ALL {
        assert_eq!((requester.next_sequence(direction), requester.last_sequence(direction)), (0, None));
    }
    both_ways(&mut requester, &mut responder);
    assert!(matches!(responder.open(&late), Err(SecuredError::Tag { .. })));
}

#[test]
fn sides_with_different_transcripts_do_not_understand_each_other() {
    let (mut requester, mut responder) = handshake();
    requester.enter_data(&th2(SUITE)).unwrap();
    responder.enter_data(&th1(SUITE)).unwrap();
    let object = sealed(&mut requester, b"hello");
    assert!(matches!(responder.open(&object), Err(SecuredError::Tag { .. })));
}

#[test]
fn finished_macs_differ_by_direction_and_end_with_the_handshake() {
    let (mut requester, responder) = handshake();
    let th = th1(SUITE);
    for direction in Direction::ALL {
        let mac = requester.finished_mac(direction, &th).unwrap();
        assert_eq!(responder.finished_mac(direction, &th), Ok(mac));
        assert_eq!(mac.len(), SUITE.digest_size());
        assert_ne!(requester.finished_mac(direction.opposite(), &th), Ok(mac));
        assert_ne!(requester.finished_mac(direction, &th2(SUITE)), Ok(mac));
    }
    requester.enter_data(&th2(SUITE)).unwrap();
    let refused = Err(SecuredError::WrongPhase { session: requester.id(), phase: Phase::Data });
    assert_eq!(requester.finished_mac(Direction::Request, &th), refused);
}

#[test]
fn the_data_phase_is_entered_once_and_not_after_the_end() {
    let (mut requester, _) = data();
    let refused = SecuredError::WrongPhase { session: requester.id(), phase: Phase::Data };
    assert_eq!(requester.enter_data(&th2(SUITE)), Err(refused));
    assert_eq!(requester.next_sequence(Direction::Request), 0);

    let (mut requester, mut responder) = handshake();
    let mut object = sealed(&mut requester, b"FINISH");
    object[6] ^= 1;
    assert!(responder.open(&object).is_err());
    assert_eq!(responder.enter_data(&th2(SUITE)), Err(SecuredError::Ended(responder.id())));
    assert_eq!(responder.phase(), Phase::Handshake);
}

#[test]
fn secrets_are_those_of_the_phase_and_the_same_on_both_sides() {
    let (mut requester, mut responder) = handshake();
    let first = requester.secrets();
    assert_eq!(first.phase, Phase::Handshake);
    assert!(first.dhe.is_some() && first.export_master.is_none());
    assert_eq!(*first.transcript, th1(SUITE));
    assert_eq!(
        (first.dhe, first.request, first.response),
        (responder.secrets().dhe, responder.secrets().request, responder.secrets().response)
    );
    let old = first.request.to_vec();

    for session in [&mut requester, &mut responder] {
        session.enter_data(&th2(SUITE)).unwrap();
    }
    let second = requester.secrets();
    assert_eq!((second.phase, second.session), (Phase::Data, responder.id()));
    assert!(second.dhe.is_none(), "nothing of the handshake is left");
    assert_eq!(second.export_master, responder.secrets().export_master);
    assert_eq!(*second.transcript, th2(SUITE));
    assert_ne!(second.request, old);
    assert_ne!(second.request, second.response);
}

#[test]
fn numbers_of_the_last_message_are_known() {
    let (mut requester, mut responder) = data();
    for number in 0..3 {
        passes(&mut requester, &mut responder, b"x");
        for session in [&requester, &responder] {
            assert_eq!(session.last_sequence(Direction::Request), Some(number));
            assert_eq!(session.last_sequence(Direction::Response), None);
        }
    }
}

#[test]
fn a_role_sends_one_direction_and_gets_the_other() {
    for (role, direction) in [(Role::Requester, Direction::Request), (Role::Responder, Direction::Response)] {
        assert_eq!((role.sends(), role.receives()), (direction, direction.opposite()));
        assert_eq!(session(role).role(), role);
    }
}
