//! A device that answers with anything: the right answer, a changed one, another message, an old one,
//! or none. Success is reported only if every answer was right, and the next session works.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use proptest::collection;
use proptest::prelude::*;
use proptest::sample::Index;

use super::bench::{ALL, Bench, start_session};
use crate::Kind;
use crate::ids::{SlotId, Version};
use crate::msg::{ErrorCode, Header, ResponseCode, SummaryHash};
use crate::requester::{
    Blame, ChallengeRequest, Operation, RequesterConfig, RequesterError, TransportFailure,
};
use crate::responder::{Config, Stage};

/// Messages that are none of the answers.
const OTHERS: [&[u8]; 9] = [
    &[0x12, 0x7f, ErrorCode::BUSY.0, 0],
    &[0x13, 0x7f, ErrorCode::RESPONSE_NOT_READY.0, 0, 3, 0xe4, 1, 8],
    &[0x13, 0x7f, ErrorCode::REQUEST_RESYNCH.0, 0],
    &[0x13, 0x7f, ErrorCode::LARGE_RESPONSE.0, 0, 1],
    &[0x10, ResponseCode::VERSION.0, 0, 0, 0, 1, 0, 0x12],
    &[0x13, ResponseCode::HEARTBEAT_ACK.0, 0, 0],
    &[0x12, ResponseCode::END_SESSION_ACK.0, 0, 0],
    &[0x13, ResponseCode::PSK_FINISH_RSP.0, 0, 0],
    &[0x12, ResponseCode::FINISH_RSP.0, 0, 0],
];

#[derive(Clone, Debug)]
enum Change {
    Flip(Index, u8),
    Cut(Index),
    Append(u8),
    Other(usize),
    /// The answer to an earlier request.
    Replay(Index),
    Silence,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => (any::<Index>(), 1..=u8::MAX).prop_map(|(at, bits)| Change::Flip(at, bits)),
        1 => any::<Index>().prop_map(Change::Cut),
        1 => (1..=u8::MAX).prop_map(Change::Append),
        2 => (0..OTHERS.len()).prop_map(Change::Other),
        2 => any::<Index>().prop_map(Change::Replay),
        1 => Just(Change::Silence),
    ]
}

/// A change of an answer: which one, and whether before it is sealed.
type Planned = (usize, bool, Change);

fn is_error(message: &[u8]) -> bool {
    Header::peek(message).is_ok_and(|header| header.code == ResponseCode::ERROR.0)
}

/// Applies a change. `None` stands for no answer.
fn apply(change: &Change, answer: &mut Vec<u8>, earlier: &[Vec<u8>]) -> Option<()> {
    match change {
        Change::Flip(at, bits) if !answer.is_empty() => {
            let at = at.index(answer.len());
            answer[at] ^= bits;
        }
        Change::Cut(at) => answer.truncate(at.index(answer.len().max(1))),
        Change::Append(byte) => answer.push(*byte),
        Change::Other(number) => *answer = OTHERS[*number].to_vec(),
        Change::Replay(number) if !earlier.is_empty() => answer.clone_from(number.get(earlier)),
        Change::Flip(..) | Change::Replay(_) => {}
        Change::Silence => return None,
    }
    Some(())
}

/// How far the answers were from the right ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wrong {
    Nowhere,
    /// An error came, or one was changed: a request may have been repeated, and that may do no harm. Or
    /// only the padding was touched.
    Perhaps,
    Surely,
}

fn operations() -> Vec<Operation> {
    let slot = SlotId::ZERO;
    vec![
        Operation::Connect,
        Operation::Digests,
        Operation::Certificate(slot),
        Operation::Challenge(ChallengeRequest { slot, summary: SummaryHash::All }),
        Operation::Measurements(ALL),
        start_session(SummaryHash::All),
        Operation::Measurements(ALL),
        Operation::Heartbeat,
        Operation::KeyUpdate { all: true },
        Operation::Heartbeat,
        Operation::KeyUpdate { all: false },
        Operation::EndSession,
    ]
}

/// Whether an object holds the same either way.
fn is_padding_only(right: &[u8], answer: &[u8]) -> bool {
    let padded = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    padded(right) == padded(answer)
}

fn judge(wrong: &Cell<Wrong>, right: &[u8], answer: &[u8], error: bool) {
    if right != answer {
        let perhaps = error || is_padding_only(right, answer);
        wrong.set(wrong.get().max(if perhaps { Wrong::Perhaps } else { Wrong::Surely }));
    }
}

fn plan(bench: &mut Bench, planned: Vec<Planned>) -> Rc<Cell<Wrong>> {
    let wrong = Rc::new(Cell::new(Wrong::Nowhere));
    let (inside, outside): (Vec<_>, Vec<_>) = planned.into_iter().partition(|(_, sealed, _)| *sealed);

    // The message as the device meant it, and as it was made of it before sealing.
    let meant = Rc::new(RefCell::new((Vec::new(), Vec::new())));
    let (noted, mut number, mut earlier) = (Rc::clone(&meant), 0, Vec::new());
    bench.line.device.bend = Box::new(move |at, answer| {
        let Stage::BeforeSeal(_) = at else { return };
        let right = answer.clone();
        for (_, _, change) in inside.iter().filter(|(at, ..)| *at == number) {
            // Silence is a matter of the line.
            let _ = apply(change, answer, &earlier);
        }
        *noted.borrow_mut() = (right.clone(), answer.clone());
        earlier.push(right);
        number += 1;
    });

    let (told, mut earlier) = (Rc::clone(&wrong), Vec::new());
    bench.line.tamper = Box::new(move |number, kind: &mut Kind, answer| {
        let object = answer.clone();
        for (_, _, change) in outside.iter().filter(|(at, ..)| *at == number) {
            if apply(change, answer, &earlier).is_none() {
                told.set(Wrong::Surely);
                return Err(TransportFailure::Silence);
            }
        }
        let (right, bent) = &*meant.borrow();
        if *kind == Kind::Clear {
            judge(&told, right, answer, is_error(right) || is_error(answer));
        } else {
            judge(&told, right, bent, is_error(right) || is_error(bent));
            judge(&told, &object, answer, false);
        }
        earlier.push(object);
        Ok(())
    });
    wrong
}

/// Whether an error names a fault of the other side or of the line.
fn is_theirs(error: &RequesterError) -> bool {
    use RequesterError::{EmptySlot, Lacking, RequestTooLarge};
    // What an answer has lied about can keep the caller from asking before a signature tells.
    let kept_from_asking = matches!(error, RequestTooLarge { .. } | Lacking(_) | EmptySlot(_));
    kept_from_asking || matches!(error.blame(), Blame::Responder | Blame::Transport)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn success_is_reported_only_if_every_answer_was_right(
        version in prop::sample::select(Version::SPOKEN.to_vec()),
        transfer in prop_oneof![3 => Just(4056), 1 => 42..200_u32],
        planned in collection::vec((0..24_usize, any::<bool>(), change()), 0..3),
    ) {
        let ours = RequesterConfig {
            versions: vec![version],
            data_transfer_size: transfer,
            ..RequesterConfig::default()
        };
        let mut bench = Bench::with(ours, Config::default());
        let wrong = plan(&mut bench, planned);
        let done = bench.run_all(operations());
        match (wrong.get(), &done) {
            (Wrong::Nowhere | Wrong::Perhaps, Ok(())) => {}
            (Wrong::Perhaps | Wrong::Surely, Err(error)) => prop_assert!(is_theirs(error), "{error:?}"),
            (wrong, done) => prop_assert!(false, "{wrong:?} but {done:?}"),
        }
        match done {
            Err(error) if error.blame() != Blame::Caller => {}
            _ => bench.requester.reset(),
        }
        prop_assert!(bench.requester.session.is_none(), "no secrets stay");
        bench.works_again();
    }
}
