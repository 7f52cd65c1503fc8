//! Device security managers on a socket: a modelled one that others talk to, and a requester that
//! talks to any.
//!
//! | module | holds |
//! |---|---|
//! | [`socket`] | frames of the emulators' protocol |
//! | [`listen`], [`modelled`] | the server: commands, one client after another, and the device behind it |
//! | [`outside`] | a responder on a socket as the device of a machine's slot |
//! | [`dial`], [`connect`] | the requester: what it does phase by phase, and the table of it |
//! | [`bad`] | bad requesters: what nobody may say to a responder, tried on any |
//! | [`record`], [`pcap`], [`keylog`] | what is kept of what passes |
//! | [`trace`] | messages decoded, one line of JSON each |

pub mod bad;
pub mod connect;
pub mod dial;
pub mod keylog;
pub mod listen;
pub mod modelled;
pub mod outside;
pub mod pcap;
pub mod record;
pub mod socket;
pub mod trace;
