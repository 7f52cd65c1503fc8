//! Sessions: known answers, records, phases, updates, the end of numbers, and a model of two sides.

mod backend;
mod golden;
mod model;
mod phases;
mod record;
mod sequence;
mod update;

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use super::{Direction, Role, Session};
use crate::algo::{AeadAlgo, AsymAlgo, DheGroup, HashAlgo, Suite};
use crate::crypto::aws_lc::AwsLc;
use crate::crypto::{Crypto, Digest, Secret};
use crate::ids::{SessionId, Version};

const ID: SessionId = SessionId(0xfffe_0102);

const SUITE: Suite = Suite {
    hash: HashAlgo::Sha384,
    asym: AsymAlgo::EcdsaP384,
    dhe: Some(DheGroup::Secp384r1),
    aead: Some(AeadAlgo::Aes256Gcm),
    measurement_hash: None,
};

/// `size` bytes that differ with `seed`.
fn bytes(factor: u8, seed: u8, size: usize) -> Vec<u8> {
    (0..size).map(|at| u8::try_from((at * usize::from(factor) + usize::from(seed)) % 256).unwrap()).collect()
}

fn th(factor: u8, seed: u8, suite: Suite) -> Digest {
    Digest::new(&bytes(factor, seed, suite.digest_size())).unwrap()
}

fn th1(suite: Suite) -> Digest {
    th(3, 5, suite)
}

fn th2(suite: Suite) -> Digest {
    th(5, 9, suite)
}

fn session_with(crypto: &Arc<dyn Crypto>, suite: Suite, version: Version, role: Role) -> Session {
    let dhe = Secret::new(bytes(7, 1, suite.exchange_size() / 2));
    Session::new(crypto, suite, version, ID, role, dhe, &th1(suite)).unwrap()
}

fn session(role: Role) -> Session {
    let crypto: Arc<dyn Crypto> = Arc::new(AwsLc);
    session_with(&crypto, SUITE, Version::V1_2, role)
}

/// Both sides, in the handshake phase.
fn handshake() -> (Session, Session) {
    (session(Role::Requester), session(Role::Responder))
}

/// Both sides, in the data phase.
fn data() -> (Session, Session) {
    let (mut requester, mut responder) = handshake();
    requester.enter_data(&th2(SUITE)).unwrap();
    responder.enter_data(&th2(SUITE)).unwrap();
    (requester, responder)
}

fn sealed(session: &mut Session, message: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    session.seal(message, &mut out).unwrap();
    out
}

/// One message from `from` to `to` that arrives.
fn passes(from: &mut Session, to: &mut Session, message: &[u8]) {
    let object = sealed(from, message);
    assert_eq!(to.open(&object).unwrap()[..], *message);
}

/// Messages pass in both directions.
fn both_ways(requester: &mut Session, responder: &mut Session) {
    passes(requester, responder, b"ping");
    passes(responder, requester, b"pong");
}

/// A direction's sender and receiver.
fn ends<'a>(
    direction: Direction,
    requester: &'a mut Session,
    responder: &'a mut Session,
) -> (&'a mut Session, &'a mut Session) {
    match direction {
        Direction::Request => (requester, responder),
        Direction::Response => (responder, requester),
    }
}
