//! The requester against the responder of this crate, whose device and line are bent.

mod bench;
mod bending;
mod collecting;
mod evidence;
mod handshake;
mod large;
mod line;
mod model;
mod negotiation;
mod patience;
mod refresh;
mod saved;
mod saved_history;
mod sessions;
