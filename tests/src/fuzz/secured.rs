//! A body for secured messages: two sides of a session, and a wire that does what it likes.

use std::sync::{Arc, OnceLock};

use spdm::algo::{AeadAlgo, AsymAlgo, DheGroup, HashAlgo, Suite};
use spdm::crypto::aws_lc::AwsLc;
use spdm::crypto::{Crypto, Digest, Secret};
use spdm::ids::{SessionId, Version};
use spdm::secured::{Direction, OVERHEAD, Phase, Role, SecuredError, Session, session_id_of};

use super::bytes::Choices;

const ID: SessionId = SessionId::new(0x0001, 0xffff);
const SUITES: [Suite; 2] = [
    Suite {
        hash: HashAlgo::Sha384,
        asym: AsymAlgo::EcdsaP384,
        dhe: Some(DheGroup::Secp384r1),
        aead: Some(AeadAlgo::Aes256Gcm),
        measurement_hash: None,
    },
    Suite {
        hash: HashAlgo::Sha256,
        asym: AsymAlgo::EcdsaP256,
        dhe: Some(DheGroup::Secp256r1),
        aead: Some(AeadAlgo::Aes128Gcm),
        measurement_hash: None,
    },
];
/// Steps of one run at most.
const STEPS: usize = 64;
/// Messages under one key at most, so that the end of the numbers is met.
const LIMIT: u64 = 12;

struct Pair {
    requester: Session,
    responder: Session,
    /// The last object that was taken, of each direction.
    taken: [Option<Vec<u8>>; 2],
}

impl Pair {
    fn new(suite: Suite, version: Version) -> Self {
        static CRYPTO: OnceLock<Arc<dyn Crypto>> = OnceLock::new();
        let crypto = CRYPTO.get_or_init(|| Arc::new(AwsLc));
        let th1 = digest(suite, 1);
        let [requester, responder] = [Role::Requester, Role::Responder].map(|role| {
            let dhe = Secret::new(vec![0x5a; suite.exchange_size() / 2]);
            let mut session =
                Session::new(crypto, suite, version, ID, role, dhe, &th1).expect("all of the suite is there");
            session.set_sequence_limit(LIMIT);
            session
        });
        Self { requester, responder, taken: [None, None] }
    }

    fn ends(&mut self, direction: Direction) -> (&mut Session, &mut Session, &mut Option<Vec<u8>>) {
        let [requests, responses] = &mut self.taken;
        match direction {
            Direction::Request => (&mut self.requester, &mut self.responder, requests),
            Direction::Response => (&mut self.responder, &mut self.requester, responses),
        }
    }
}

fn digest(suite: Suite, value: u8) -> Digest {
    Digest::new(&vec![value; suite.digest_size()]).expect("a digest of a known size")
}

/// Both sides understand each other as long as the wire is true. What is not the next message is
/// refused in a line; if that was not the end of the session, the next message is still taken.
pub fn secured_message(data: &[u8]) {
    let mut choices = Choices::new(data);
    let suite = choices.of(&SUITES);
    let mut pair = Pair::new(suite, choices.of(&Version::SPOKEN));
    for _ in 0..STEPS {
        if choices.is_empty() || !step(&mut pair, suite, &mut choices) {
            return;
        }
    }
}

/// `false` if that was the end of the session.
fn step(pair: &mut Pair, suite: Suite, choices: &mut Choices<'_>) -> bool {
    let kind = choices.byte();
    let direction = choices.of(&Direction::ALL);
    match kind % 16 {
        0 => {
            let th2 = digest(suite, 2);
            let first = pair.requester.phase() == Phase::Handshake;
            for session in [&mut pair.requester, &mut pair.responder] {
                assert_eq!(session.enter_data(&th2).is_ok(), first);
            }
            true
        }
        1 | 2 => {
            let (sender, receiver, _) = pair.ends(direction);
            let prepared = receiver.prepare_update(direction).is_ok();
            assert_eq!(prepared, receiver.phase() == Phase::Data && !sender.update_pending(direction));
            // The other side agrees, or goes on with the old key.
            if prepared && choices.flag() {
                sender.prepare_update(direction).expect("both are in the same state");
            }
            exchange(pair, direction, choices)
        }
        _ => exchange(pair, direction, choices),
    }
}

fn exchange(pair: &mut Pair, direction: Direction, choices: &mut Choices<'_>) -> bool {
    let (sender, receiver, taken) = pair.ends(direction);
    let message: Vec<u8> = (0..choices.below(24)).map(|_| choices.byte()).collect();
    let mut object = Vec::new();
    match sender.seal(&message, &mut object) {
        Ok(()) => assert_eq!(object.len(), message.len() + OVERHEAD),
        Err(error @ SecuredError::SequenceExhausted { .. }) => {
            assert!(object.is_empty() && sender.next_sequence(direction) == LIMIT);
            told(&error);
            return false;
        }
        Err(error) => panic!("{error}"),
    }
    assert_eq!(session_id_of(&object), Some(ID));

    let mut other = object.clone();
    match choices.below(10) {
        0 => {
            for _ in 0..=choices.below(3) {
                let at = choices.below(other.len());
                other[at] ^= choices.byte();
            }
        }
        1 => other.truncate(choices.below(other.len())),
        2 => other.extend((0..choices.below(9)).map(|_| choices.byte() & 1)),
        3 => other = taken.clone().unwrap_or_default(),
        4 => {
            other.truncate(6);
            other.extend((0..choices.below(48)).map(|_| choices.byte()));
        }
        _ => {}
    }
    let padding = other.strip_prefix(&object[..]);
    let genuine = padding.is_some_and(|padding| padding.len() <= 3 && padding.iter().all(|&byte| byte == 0));
    match receiver.open(&other) {
        Ok(opened) => {
            assert!(genuine, "something else than the next message was taken");
            assert_eq!(*opened, message);
        }
        Err(error) => {
            assert!(!genuine, "the next message was refused: {error}");
            told(&error);
            assert_eq!(receiver.has_ended(), error.ends_session());
            let again = receiver.open(&object);
            if error.ends_session() {
                assert_eq!(again, Err(SecuredError::Ended(ID)));
                return false;
            }
            assert_eq!(again.as_deref(), Ok(&message));
        }
    }
    assert!(!sender.update_pending(direction) && !receiver.update_pending(direction));
    assert_eq!(sender.updates(direction), receiver.updates(direction));
    assert_eq!(sender.next_sequence(direction), receiver.next_sequence(direction));
    *taken = Some(object);
    true
}

fn told(error: &SecuredError) {
    let text = error.to_string();
    assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
}
