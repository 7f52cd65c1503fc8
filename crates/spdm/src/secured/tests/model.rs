//! A model of two sides and a wire that loses, repeats, reorders and changes what passes.
//!
//! The model knows no cryptography: of each direction it keeps which message of which key is the
//! next to be sent, and which one the receiver waits for. Nothing else may ever be accepted.

use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::{data, ends};
use crate::secured::{Direction, SecuredError, Session};

/// Which message: of the how-manieth key, and of that the how-manieth.
type Place = (u32, u64);

#[derive(Clone, Copy, Debug, Default)]
struct End {
    at: Place,
    previous: Option<Place>,
}

impl End {
    fn prepare(&mut self) -> bool {
        if self.previous.is_some() {
            return false;
        }
        self.previous = Some(self.at);
        self.at = (self.at.0 + 1, 0);
        true
    }

    fn roll_back(&mut self) -> bool {
        let Some(previous) = self.previous.take() else { return false };
        self.at = previous;
        true
    }

    /// Takes the message of that place, if it is the next.
    fn take(&mut self, place: Place) -> bool {
        if place == self.at {
            self.previous = None;
        } else if !(Some(place) == self.previous && self.roll_back()) {
            return false;
        }
        self.at.1 += 1;
        true
    }
}

#[derive(Debug, Default)]
struct Way {
    sender: End,
    receiver: End,
    /// Everything that was ever sent, with its message.
    sent: Vec<(Place, Vec<u8>, Vec<u8>)>,
}

impl Way {
    /// The object that the receiver waits for.
    fn awaited(&self) -> Option<usize> {
        let at = |place| self.sent.iter().position(|sent| sent.0 == place);
        at(self.receiver.at).or_else(|| self.receiver.previous.and_then(at))
    }
}

#[derive(Clone, Debug)]
enum Step {
    Send(Vec<u8>),
    /// What the receiver waits for, with so many bytes of padding.
    Deliver(usize),
    /// Any object that was ever sent, of either direction.
    DeliverAny(prop::sample::Index, bool),
    /// What the receiver waits for, with a bit changed.
    Flip(prop::sample::Index),
    /// What the receiver waits for, without its end.
    Truncate(prop::sample::Index),
    /// What the receiver waits for, and something behind it.
    Extend(Vec<u8>),
    /// Nothing that anybody has sent.
    Garbage(Vec<u8>),
    PrepareSender,
    PrepareReceiver,
    RollBackSender,
    RollBackReceiver,
    CommitSender,
    CommitReceiver,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Step::Send),
        12 => (0..4usize).prop_map(Step::Deliver),
        1 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(at, own)| Step::DeliverAny(at, own)),
        1 => any::<prop::sample::Index>().prop_map(Step::Flip),
        2 => any::<prop::sample::Index>().prop_map(Step::Truncate),
        1 => prop::collection::vec(any::<u8>(), 1..8).prop_map(Step::Extend),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Step::Garbage),
        3 => Just(Step::PrepareSender),
        3 => Just(Step::PrepareReceiver),
        1 => Just(Step::RollBackSender),
        1 => Just(Step::RollBackReceiver),
        1 => Just(Step::CommitSender),
        1 => Just(Step::CommitReceiver),
    ]
}

struct Both {
    requester: Session,
    responder: Session,
    ways: [Way; 2],
}

const fn index(direction: Direction) -> usize {
    match direction {
        Direction::Request => 0,
        Direction::Response => 1,
    }
}

impl Both {
    fn new() -> Self {
        let (requester, responder) = data();
        Self { requester, responder, ways: Default::default() }
    }

    fn way(&mut self, direction: Direction) -> (&mut Session, &mut Session, &mut Way) {
        let (sender, receiver) = ends(direction, &mut self.requester, &mut self.responder);
        (sender, receiver, &mut self.ways[index(direction)])
    }

    /// Hands an object over; `place` is what it is of, if it is anything that was sent this way.
    /// `false` if that was the end of the session.
    fn deliver(&mut self, direction: Direction, object: &[u8], place: Option<usize>) -> bool {
        let (_, receiver, way) = self.way(direction);
        let before = way.receiver;
        let sent = place.and_then(|at| way.sent.get(at));
        let expected = sent.filter(|sent| way.receiver.take(sent.0)).map(|sent| &sent.1);
        match receiver.open(object) {
            Ok(message) => assert_eq!(Some(&*message), expected, "accepted out of order"),
            Err(error) => {
                assert_eq!(expected, None, "refused what was next: {error}");
                assert_eq!(error.ends_session(), receiver.has_ended());
                way.receiver = before;
                return !error.ends_session();
            }
        }
        true
    }

    /// `false` if the session has ended.
    fn step(&mut self, direction: Direction, step: &Step) -> bool {
        let (sender, receiver, way) = self.way(direction);
        let awaited = way.awaited().map(|at| (at, way.sent[at].2.clone()));
        match (step, awaited) {
            (Step::Send(message), _) => {
                let mut object = vec![];
                sender.seal(message, &mut object).unwrap();
                way.sent.push((way.sender.at, message.clone(), object));
                assert!(way.sender.take(way.sender.at));
                true
            }
            (Step::Deliver(padding), Some((at, mut object))) => {
                object.resize(object.len() + padding, 0);
                self.deliver(direction, &object, Some(at))
            }
            (Step::DeliverAny(choice, own), _) => {
                let from = if *own { direction } else { direction.opposite() };
                let sent = &self.ways[index(from)].sent;
                if sent.is_empty() {
                    return true;
                }
                let at = choice.index(sent.len());
                let object = sent[at].2.clone();
                self.deliver(direction, &object, (from == direction).then_some(at))
            }
            (Step::Flip(choice), Some((_, mut object))) => {
                let bit = choice.index(8 * object.len());
                object[bit / 8] ^= 1 << (bit % 8);
                self.deliver(direction, &object, None)
            }
            (Step::Truncate(choice), Some((_, object))) => {
                let len = choice.index(object.len());
                let goes_on = self.deliver(direction, &object[..len], None);
                assert!(goes_on, "a tag was looked for in a part of a message");
                true
            }
            (Step::Extend(more), Some((at, object))) => {
                let padding = more.len() <= 3 && more.iter().all(|&byte| byte == 0);
                let object = [object, more.clone()].concat();
                self.deliver(direction, &object, padding.then_some(at))
            }
            (Step::Garbage(bytes), _) => self.deliver(direction, bytes, None),
            (Step::PrepareSender, _) => {
                assert_eq!(sender.prepare_update(direction).is_ok(), way.sender.prepare());
                true
            }
            (Step::PrepareReceiver, _) => {
                assert_eq!(receiver.prepare_update(direction).is_ok(), way.receiver.prepare());
                true
            }
            (Step::RollBackSender, _) => {
                assert_eq!(sender.roll_back(direction).is_ok(), way.sender.roll_back());
                true
            }
            (Step::RollBackReceiver, _) => {
                assert_eq!(receiver.roll_back(direction).is_ok(), way.receiver.roll_back());
                true
            }
            (Step::CommitSender, _) => {
                sender.commit(direction);
                way.sender.previous = None;
                true
            }
            (Step::CommitReceiver, _) => {
                receiver.commit(direction);
                way.receiver.previous = None;
                true
            }
            (_, None) => true,
        }
    }

    /// Both sides are where the model has them.
    fn compare(&mut self) {
        for direction in Direction::ALL {
            let (sender, receiver, way) = self.way(direction);
            for (session, end) in [(sender, way.sender), (receiver, way.receiver)] {
                let at = (session.updates(direction), session.next_sequence(direction));
                assert_eq!(at, end.at, "{direction}");
                assert_eq!(session.update_pending(direction), end.previous.is_some(), "{direction}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn a_receiver_accepts_what_was_sent_next_and_nothing_else(
        steps in prop::collection::vec((any::<bool>(), step()), 1..60)
    ) {
        let mut both = Both::new();
        for (request, step) in &steps {
            let direction = if *request { Direction::Request } else { Direction::Response };
            if both.step(direction, step) {
                both.compare();
                continue;
            }
            // The end: nothing passes any more, in neither direction.
            let (_, receiver, way) = both.way(direction);
            let ended = SecuredError::Ended(receiver.id());
            for (_, _, object) in &way.sent {
                prop_assert_eq!(receiver.open(object), Err(ended));
            }
            prop_assert_eq!(receiver.seal(b"late", &mut vec![]), Err(ended));
            return Ok(());
        }
    }

    #[test]
    fn no_bytes_make_a_session_panic(object in prop::collection::vec(any::<u8>(), 0..80), named in any::<bool>()) {
        let (_, mut responder) = data();
        let mut object = object;
        if named && object.len() >= 6 {
            object[..4].copy_from_slice(&responder.id().0.to_le_bytes());
            let length = u16::try_from(object.len() - 6).unwrap();
            object[4..6].copy_from_slice(&length.to_le_bytes());
        }
        prop_assert!(responder.open(&object).is_err());
        prop_assert!(!responder.open(&object).unwrap_err().to_string().contains('\n'));
    }
}
