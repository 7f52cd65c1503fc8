//! IDE: the encryption of PCI Express, over modelled TLPs and with the keys that `IDE_KM` brought.
//!
//! A [`Port`] is one end of a link and has selective streams. Each [`Stream`] has two key sets, and in
//! each set a key per direction and sub-stream; TLPs are sealed with AES-256-GCM and counted per
//! sub-stream and direction, so that one that is lost, repeated, reordered or changed is noticed by
//! the next MAC. Keys are refreshed without a gap: what was sealed with the old set opens until the
//! first TLP of the new one arrives in its lane.
//!
//! | modelled | how |
//! |---|---|
//! | TLPs | memory reads of whole dwords, memory writes with byte enables, completions with and without data |
//! | prefix and header | M, K and T bit, sub-stream, stream id; fields as in a header of 4 dwords, which is authenticated and not encrypted |
//! | initialisation vector | sub-stream in the top nibble, 28 bits 0, invocation field big endian, from 1 |
//! | aggregation | 2, 4 or 8 TLPs of a sub-stream under one MAC travel as one [`Sealed`] |
//! | MAC | 96 bits, and the other 32 of the tag beside it (see [`Mac`]) |
//! | integrity failure | the stream turns insecure, its keys are wiped, the other end gets a fail message |
//! | not modelled | PCRC, partial header encryption, link streams, PR sent counters, flow-through |

mod cipher;
mod error;
mod lane;
mod port;
mod route;
mod sealed;
mod stream;
#[cfg(test)]
mod tests;
mod tlp;

pub use cipher::Mac;
pub use error::{OpenError, SealError};
pub use port::{Association, Port, StreamSettings};
pub use route::{Packet, Routes, route};
pub use sealed::{BadSealed, Sealed};
pub use stream::{Aggregation, Stream, StreamState, StreamStatus};
pub use tlp::{BadTlp, ByteEnables, CompletionStatus, MaxPayload, Tlp, TlpHeader};
