//! A back end that fails, and one that counts the keys that live.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::{SUITE, both_ways, passes, sealed, session_with, th2};
use crate::algo::{AeadAlgo, DheGroup, HashAlgo};
use crate::crypto::aws_lc::AwsLc;
use crate::crypto::{Aead, Crypto, CryptoError, Digest, Ephemeral, Hasher, PublicKey, Secret};
use crate::ids::Version;
use crate::key_schedule::{DataSecrets, HandshakeSecrets, TrafficKeys};
use crate::secured::{Direction, Phase, Role, SecuredError, Session};

const BROKEN: CryptoError = CryptoError::Backend("a broken engine");
const FOREVER: usize = usize::MAX / 2;

/// aws-lc that breaks after a number of operations with keys, and knows how many keys live.
struct Engine {
    left: AtomicUsize,
    keys: Arc<AtomicUsize>,
}

impl Engine {
    fn new() -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(FOREVER), keys: Arc::default() })
    }

    fn works(&self) -> Result<(), CryptoError> {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 0 {
            self.left.store(0, Ordering::Relaxed);
            return Err(BROKEN);
        }
        Ok(())
    }

    fn breaks_after(&self, operations: usize) {
        self.left.store(operations, Ordering::Relaxed);
    }

    fn keys(&self) -> usize {
        self.keys.load(Ordering::Relaxed)
    }
}

impl Crypto for Engine {
    fn random(&self, out: &mut [u8]) -> Result<(), CryptoError> {
        AwsLc.random(out)
    }

    fn hasher(&self, algo: HashAlgo) -> Box<dyn Hasher> {
        AwsLc.hasher(algo)
    }

    fn hmac(&self, algo: HashAlgo, key: &[u8], data: &[u8]) -> Digest {
        AwsLc.hmac(algo, key, data)
    }

    fn hkdf_extract(&self, algo: HashAlgo, salt: &[u8], ikm: &[u8]) -> Result<Secret, CryptoError> {
        self.works()?;
        AwsLc.hkdf_extract(algo, salt, ikm)
    }

    fn hkdf_expand(
        &self,
        algo: HashAlgo,
        prk: &[u8],
        info: &[u8],
        out: &mut [u8],
    ) -> Result<(), CryptoError> {
        self.works()?;
        AwsLc.hkdf_expand(algo, prk, info, out)
    }

    fn ephemeral(&self, group: DheGroup) -> Result<Box<dyn Ephemeral>, CryptoError> {
        AwsLc.ephemeral(group)
    }

    fn verify(
        &self,
        key: &PublicKey,
        hash: HashAlgo,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), CryptoError> {
        AwsLc.verify(key, hash, message, signature)
    }

    fn aead(&self, algo: AeadAlgo, key: &[u8]) -> Result<Box<dyn Aead>, CryptoError> {
        self.works()?;
        self.keys.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(Key { aead: AwsLc.aead(algo, key)?, keys: Arc::clone(&self.keys) }))
    }
}

struct Key {
    aead: Box<dyn Aead>,
    keys: Arc<AtomicUsize>,
}

impl Drop for Key {
    fn drop(&mut self) {
        self.keys.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A length at which a key breaks: of the message that is to fail.
const POISON: usize = 13;

impl Aead for Key {
    fn seal(&self, iv: &[u8; 12], aad: &[u8], text: &mut [u8]) -> Result<[u8; 16], CryptoError> {
        if text.len() == POISON + 2 { Err(BROKEN) } else { self.aead.seal(iv, aad, text) }
    }

    fn open(&self, iv: &[u8; 12], aad: &[u8], text: &mut [u8], tag: &[u8; 16]) -> Result<(), CryptoError> {
        if text.len() == POISON + 2 { Err(BROKEN) } else { self.aead.open(iv, aad, text, tag) }
    }
}

fn on(engine: &Arc<Engine>, role: Role) -> Session {
    let crypto: Arc<dyn Crypto> = engine.clone();
    session_with(&crypto, SUITE, Version::V1_2, role)
}

#[test]
fn a_key_lives_no_longer_than_it_is_needed() {
    let engine = Engine::new();
    let mut requester = on(&engine, Role::Requester);
    assert_eq!(engine.keys(), 2, "one of each direction");
    requester.enter_data(&th2(SUITE)).unwrap();
    assert_eq!(engine.keys(), 2, "those of the handshake are gone");
    for _ in 0..100 {
        sealed(&mut requester, b"no key is made for a message");
    }
    assert_eq!(engine.keys(), 2);
    requester.prepare_update(Direction::Request).unwrap();
    requester.prepare_update(Direction::Response).unwrap();
    assert_eq!(engine.keys(), 4);
    sealed(&mut requester, b"the new key is in use");
    assert_eq!(engine.keys(), 3);
    requester.commit(Direction::Response);
    assert_eq!(engine.keys(), 2);
    requester.prepare_update(Direction::Response).unwrap();
    requester.roll_back(Direction::Response).unwrap();
    assert_eq!(engine.keys(), 2);
    drop(requester);
    assert_eq!(engine.keys(), 0);
}

#[test]
fn whatever_step_of_the_handshake_fails_no_key_is_left() {
    let engine = Engine::new();
    let crypto: Arc<dyn Crypto> = engine.clone();
    let new = || {
        let dhe = Secret::new(vec![7; 48]);
        Session::new(&crypto, SUITE, Version::V1_2, super::ID, Role::Responder, dhe, &super::th1(SUITE))
    };
    let mut steps = 0;
    loop {
        engine.breaks_after(steps);
        match new() {
            Ok(_) => break,
            Err(error) => assert_eq!(error, BROKEN),
        }
        assert_eq!(engine.keys(), 0);
        steps += 1;
    }
    // One extract, two secrets, two finished keys, and of each direction key, IV and cipher.
    assert_eq!(steps, 11);
}

#[test]
fn a_failed_change_of_keys_leaves_the_session_as_it_was() {
    let engine = Engine::new();
    let (mut requester, mut responder) = (on(&engine, Role::Requester), on(&engine, Role::Responder));
    for steps in 0..11 {
        engine.breaks_after(steps);
        assert_eq!(requester.enter_data(&th2(SUITE)), Err(BROKEN.into()), "{steps}");
        assert_eq!((requester.phase(), engine.keys()), (Phase::Handshake, 4));
        assert!(requester.finished_mac(Direction::Request, &th2(SUITE)).is_ok());
    }
    both_ways(&mut requester, &mut responder);
    engine.breaks_after(FOREVER);
    for session in [&mut requester, &mut responder] {
        session.enter_data(&th2(SUITE)).unwrap();
    }
    for direction in Direction::ALL {
        for steps in 0..4 {
            engine.breaks_after(steps);
            assert_eq!(requester.prepare_update(direction), Err(BROKEN.into()));
            assert_eq!((requester.updates(direction), engine.keys()), (0, 4));
        }
    }
    both_ways(&mut requester, &mut responder);
}

#[test]
fn where_sealing_failed_nothing_is_appended_and_no_number_is_used_twice() {
    let engine = Engine::new();
    let mut requester = on(&engine, Role::Requester);
    let mut out = vec![0xee; 4];
    assert_eq!(requester.seal(&[0x55; POISON], &mut out), Err(BROKEN.into()));
    assert_eq!(out, [0xee; 4]);
    assert_eq!(requester.next_sequence(Direction::Request), 1, "the engine may have used number 0");
    assert_eq!(requester.last_sequence(Direction::Request), None);
}

#[test]
fn an_engine_that_fails_does_not_end_the_session() {
    let engine = Engine::new();
    let (mut requester, mut responder) = (super::session(Role::Requester), on(&engine, Role::Responder));
    let object = sealed(&mut requester, &[1; POISON]);
    let failed = SecuredError::Crypto(BROKEN);
    assert_eq!(responder.open(&object), Err(failed));
    assert!(!failed.ends_session() && !responder.has_ended());
    passes(&mut responder, &mut requester, b"ERROR");
}

fn wiped<T: ZeroizeOnDrop>(_: &T) {}

#[test]
fn secrets_are_of_types_that_wipe_themselves() {
    // Named one by one, so that a new field has to be thought of here.
    let schedule = crate::key_schedule::KeySchedule::new(&AwsLc, SUITE.hash, Version::V1_2);
    let HandshakeSecrets { handshake, request, response } =
        schedule.handshake(&[1; 48], &super::th1(SUITE)).unwrap();
    let DataSecrets { request: request_data, response: response_data, export_master } =
        schedule.data(&handshake, &th2(SUITE)).unwrap();
    for secret in [&handshake, &request, &response, &request_data, &response_data, &export_master] {
        wiped(secret);
    }
    let TrafficKeys { key, iv } = schedule.traffic_keys(AeadAlgo::Aes256Gcm, &request).unwrap();
    wiped::<Secret>(&key);
    wiped::<Zeroizing<[u8; 12]>>(&iv);
}
