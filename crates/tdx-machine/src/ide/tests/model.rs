//! A stream under loss, repetition, reordering, changed bits and refresh.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// What happens on the link between the ends.
#[derive(Clone, Copy, Debug)]
enum Step {
    Send(u8),
    Arrive,
    Lose,
    Repeat,
    /// The oldest two TLPs of the same lane change places.
    Swap,
    Flip(usize),
    Refresh,
}

fn tlp(kind: u8) -> Tlp {
    match kind % 3 {
        0 => write(usize::from(kind) / 3 * 4 + 4, kind),
        1 => read(kind),
        _ => completion(vec![kind; usize::from(kind) / 3 * 4]),
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => any::<u8>().prop_map(Step::Send),
        20 => Just(Step::Arrive),
        1 => Just(Step::Lose),
        1 => Just(Step::Repeat),
        1 => Just(Step::Swap),
        1 => any::<usize>().prop_map(Step::Flip),
        2 => Just(Step::Refresh),
    ]
}

/// Sent and not arrived: the TLP, what is on the link, and whether it comes in its turn, unchanged.
struct OnItsWay {
    tlp: Tlp,
    bytes: Vec<u8>,
}

proptest! {
    #[test]
    fn nothing_that_did_not_come_in_its_turn_is_believed(steps in prop::collection::vec(step(), 1..80)) {
        let mut link = Link::new();
        let mut set = KeySet::K0;
        let mut round = 0_u8;
        let mut way: VecDeque<OnItsWay> = VecDeque::new();
        // What the sender sent in each lane and the receiver still has to get, in order.
        let mut due: [VecDeque<Vec<u8>>; 3] = Default::default();
        for step in steps {
            match step {
                Step::Send(kind) => {
                    let tlp = tlp(kind);
                    let bytes = link.device.seal(ID, tlp.clone()).unwrap().to_bytes();
                    due[tlp.sub_stream() as usize].push_back(bytes.clone());
                    way.push_back(OnItsWay { tlp, bytes });
                }
                Step::Arrive => {
                    let Some(OnItsWay { tlp, bytes }) = way.pop_front() else { continue };
                    let lane = &mut due[tlp.sub_stream() as usize];
                    let in_turn = lane.front() == Some(&bytes);
                    let opened = Sealed::from_bytes(&bytes).map(|sealed| link.root.open(sealed));
                    if in_turn {
                        prop_assert_eq!(opened, Ok(Ok(vec![tlp])));
                        lane.pop_front();
                        continue;
                    }
                    match opened {
                        Ok(Ok(_)) => prop_assert!(false, "{:?} came out of turn and was believed", tlp),
                        // Changed so that it is for another stream, or none: nobody's fault is proven.
                        Err(_) | Ok(Err(OpenError::MisroutedStream(_))) => {
                            prop_assert_eq!(link.secure(), (true, true));
                        }
                        Ok(Err(error)) => {
                            prop_assert_eq!(error.uncorrectable_error(), Some(28));
                            prop_assert_eq!(link.secure(), (true, false));
                            return Ok(());
                        }
                    }
                }
                Step::Lose => drop(way.pop_front()),
                Step::Repeat => {
                    if let Some(OnItsWay { tlp, bytes }) = way.front() {
                        let again = OnItsWay { tlp: tlp.clone(), bytes: bytes.clone() };
                        way.push_front(again);
                    }
                }
                Step::Swap => {
                    if way.len() > 1 && way[0].tlp.sub_stream() == way[1].tlp.sub_stream() {
                        way.swap(0, 1);
                    }
                }
                Step::Flip(bit) => {
                    if let Some(OnItsWay { bytes, .. }) = way.front_mut() {
                        let bit = bit % (bytes.len() * 8);
                        bytes[bit / 8] ^= 1 << (bit % 8);
                    }
                }
                Step::Refresh => {
                    // Keys wait for the lanes to be used before the next refresh.
                    if way.is_empty() && due.iter().all(VecDeque::is_empty) {
                        set = set.other();
                        round = round.wrapping_add(1);
                        link.program(set, round);
                        link.go(set);
                        prop_assert_eq!(link.secure(), (true, true));
                    }
                }
            }
        }
    }

    #[test]
    fn sealed_tlps_read_as_they_were_written(bytes in prop::collection::vec(any::<u8>(), 0..120), kind in any::<u8>()) {
        if let Ok(sealed) = Sealed::from_bytes(&bytes) {
            prop_assert_eq!(sealed.to_bytes(), bytes);
        }
        let sealed = Link::new().device.seal(ID, tlp(kind)).unwrap();
        prop_assert_eq!(Sealed::from_bytes(&sealed.to_bytes()), Ok(sealed));
    }

    #[test]
    fn no_changed_bit_gets_through(kind in any::<u8>(), bit in any::<usize>()) {
        let mut link = Link::new();
        let mut bytes = link.device.seal(ID, tlp(kind)).unwrap().to_bytes();
        let bit = bit % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(sealed) = Sealed::from_bytes(&bytes) {
            prop_assert!(link.root.open(sealed).is_err(), "bit {}", bit);
        }
    }
}
