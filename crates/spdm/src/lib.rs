//! SPDM 1.2 and 1.3 as PCI Express devices speak it: codec, requester and responder.
//!
//! Sans-IO: the state machines take the messages of the other side and give theirs; who moves the
//! bytes (a DOE mailbox, a socket, a SEAMCALL) and who tells the time is the caller.
//!
//! | module | holds |
//! |---|---|
//! | [`wire`] | reading and writing of bytes, and why bytes are refused |
//! | [`msg`] | every message, one file each |
//! | [`algo`] | algorithms and what a connection has agreed on |
//! | [`crypto`] | the cryptography that is needed, as traits; a back end on aws-lc |
//! | [`key_schedule`] | from a key agreement to the keys of a session |
//! | [`secured`] | sessions: secured messages, sequence numbers, key updates |
//! | [`observe`] | looking on, for traces and key logs |
//! | [`x509`] | certificate chains and whether they are believed |
//! | [`transcript`], [`signing`] | what MACs and signatures stand on |
//! | [`requester`] | asks a device who it is and opens sessions with it |
//! | [`responder`] | a device's side: answers, measures, holds sessions |
//! | [`ide_km`] | key management of IDE streams: codec, device, requester |
//! | [`tdisp`] | locking and starting interfaces: codec, device, requester |
//!
//! `no_std`; the codec does not allocate, the state machines do.
#![no_std]

extern crate alloc;

pub mod algo;
pub mod crypto;
pub mod ide_km;
pub mod ids;
pub mod key_schedule;
mod kind;
pub mod msg;
pub mod observe;
pub mod requester;
pub mod responder;
pub mod secured;
pub mod signing;
pub mod tdisp;
pub mod transcript;
pub mod wire;
pub mod x509;

pub use kind::Kind;
