//! From one key set to the other without a gap.

use super::*;

#[test]
fn what_was_sealed_with_the_old_set_opens_until_the_new_one_arrives() {
    let mut link = Link::new();
    let old: Vec<Sealed> = (0..3).map(|fill| link.device.seal(ID, write(16, fill)).unwrap()).collect();
    link.program(KeySet::K1, 1);
    link.go(KeySet::K1);
    assert_eq!(link.secure(), (true, true));
    let new = link.device.seal(ID, write(16, 9)).unwrap();
    assert_eq!((old[0].set(), new.set()), (KeySet::K0, KeySet::K1));
    for (sealed, fill) in old.into_iter().zip(0..) {
        assert_eq!(link.root.open(sealed), Ok(vec![write(16, fill)]), "on its way while keys changed");
    }
    assert_eq!(link.root.open(new), Ok(vec![write(16, 9)]));
    assert_eq!(link.secure(), (true, true));
}

#[test]
fn the_old_set_ends_with_the_first_tlp_of_the_new_one_in_its_lane() {
    let mut link = Link::new();
    let late = link.device.seal(ID, write(16, 0)).unwrap();
    let late_read = link.device.seal(ID, read(1)).unwrap();
    link.program(KeySet::K1, 1);
    link.go(KeySet::K1);
    let new = link.device.seal(ID, write(16, 1)).unwrap();
    assert!(link.root.open(new).is_ok());
    assert_eq!(link.root.open(late_read), Ok(vec![read(1)]), "another lane has not changed over yet");
    let not_keyed = OpenError::NotKeyed { stream: ID, set: KeySet::K0, sub_stream: SubStream::Posted };
    assert_eq!(link.root.open(late), Err(not_keyed));
    assert_eq!(link.secure(), (true, false));
}

#[test]
fn a_key_that_waits_is_not_received_with() {
    let mut link = Link::new();
    link.program(KeySet::K1, 1);
    assert!(link.send_up(write(16, 0)).is_ok(), "the old set is in use");
    // The device is told to go, the root port is not.
    let posted = KeySlot { set: KeySet::K1, direction: Direction::Tx, sub_stream: SubStream::Posted };
    link.device.go(ID, posted).unwrap();
    let early = link.device.seal(ID, write(16, 1)).unwrap();
    let not_keyed = OpenError::NotKeyed { stream: ID, set: KeySet::K1, sub_stream: SubStream::Posted };
    assert_eq!(link.root.open(early), Err(not_keyed));
}

#[test]
fn keys_are_refreshed_many_times_under_traffic() {
    let mut link = Link::new();
    let mut sets = KeySet::ALL.into_iter().cycle().skip(1);
    for round in 1..=10 {
        let set = sets.next().unwrap();
        let before = link.device.seal(ID, write(32, round)).unwrap();
        link.program(set, round);
        assert!(link.send_up(read(round)).is_ok(), "while keys wait");
        link.go(set);
        assert_eq!(link.secure(), (true, true));
        assert_eq!(link.root.open(before), Ok(vec![write(32, round)]));
        assert_eq!(link.send_up(write(32, round)), Ok(vec![write(32, round)]));
        assert_eq!(link.send_up(completion(vec![round; 8])), Ok(vec![completion(vec![round; 8])]));
    }
}

#[test]
fn a_new_key_in_the_slot_in_use_takes_the_stream_down() {
    let mut link = Link::new();
    let slot = KeySlot::of_set(KeySet::K0)[0];
    link.device.program(ID, slot, &key(slot, 1), Ifv::INITIAL).unwrap();
    assert_eq!(link.secure(), (false, true));
    link.device.go(ID, slot).unwrap();
    assert_eq!(link.secure(), (true, true));
}

#[test]
fn stopping_the_old_set_does_not_matter_and_stopping_the_new_one_does() {
    let mut link = Link::new();
    link.program(KeySet::K1, 1);
    link.go(KeySet::K1);
    for slot in KeySlot::of_set(KeySet::K0) {
        link.device.stop(ID, slot);
        link.root.stop(ID, slot);
    }
    assert_eq!(link.secure(), (true, true));
    assert!(link.send_up(write(4, 0)).is_ok());
    link.device.stop(ID, KeySlot::of_set(KeySet::K1)[0]);
    assert_eq!(link.secure(), (false, true));
}

#[test]
fn adding_a_stream_anew_leaves_nothing_of_the_old_one() {
    let mut link = Link::new();
    let added = link.device.add(StreamSettings { id: ID, association: Association::EVERYBODY });
    assert!(!added.is_keyed());
    assert_eq!((link.device.streams().count(), link.secure()), (1, (false, true)));
    link.root.remove(ID);
    assert_eq!(link.root.status(ID), None);
}

#[test]
fn a_stream_that_was_not_enabled_has_not_failed() {
    for lose in [|port: &mut Port| port.link_down(), |port: &mut Port| port.fail_message(ID)] {
        let mut link = Link::new();
        let stream = link.device.stream_mut(ID).unwrap();
        stream.set_enabled(false);
        lose(&mut link.device);
        link.program(KeySet::K0, 1);
        link.go(KeySet::K0);
        link.device.stream_mut(ID).unwrap().set_enabled(true);
        let status = StreamStatus { state: StreamState::Secure, fail_message: false };
        assert_eq!(link.device.status(ID), Some(status));
        // One that was has to be disabled first.
        lose(&mut link.device);
        link.program(KeySet::K0, 2);
        link.go(KeySet::K0);
        assert_eq!(link.device.status(ID).map(|status| status.state), Some(StreamState::Insecure));
    }
}
