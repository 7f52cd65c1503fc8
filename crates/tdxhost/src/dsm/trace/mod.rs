//! Traces: every message that passes, decoded, as one line of JSON each.
//!
//! | file | holds |
//! |---|---|
//! | `decoder` | what a connection has agreed on, as far as decoding needs it |
//! | `requests`, `responses` | the fields of each message of SPDM |
//! | `ide_km`, `tdisp` | those of the PCI-SIG protocols inside it |
//! | `names` | bits by their names, bytes as text |
//!
//! A line has `time` (seconds since 1970), `from`, `size` in bytes, and one of `message` (decoded; in a
//! session with `session` and `sequence`), `sealed` (a secured object as it is on the wire) or
//! `object` (something that is not SPDM).

mod decoder;
mod ide_km;
mod names;
mod requests;
mod responses;
mod tdisp;
#[cfg(test)]
mod tests;

pub use decoder::Decoder;

use std::io::{self, Write};
use std::time::Duration;

use serde_json::{Map, Value, json};
use spdm::Kind;
use spdm::ids::SessionId;
use spdm::key_schedule::Direction;
use spdm::wire::Reader;

use super::record::Sender;
use names::hex;

/// Whether a trace shows the keys of IDE streams and the nonces that start interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrets {
    /// For modelled devices only.
    Shown,
    /// `hidden` stands in their place.
    Hidden,
}

impl Secrets {
    fn show(self, bytes: &[u8]) -> Value {
        match self {
            Self::Shown => hex(bytes),
            Self::Hidden => "hidden".into(),
        }
    }
}

/// What a trace says of one connection, message by message.
#[derive(Debug)]
pub struct Lines {
    decoder: Decoder,
}

impl Lines {
    /// Of a connection that begins.
    pub const fn new(secrets: Secrets) -> Self {
        Self { decoder: Decoder::new(secrets) }
    }

    /// The payload of a data object passed: a message in the clear, or a secured one as it is.
    pub fn message(
        &mut self,
        time: Duration,
        sender: Sender,
        kind: Kind,
        payload: &[u8],
    ) -> Map<String, Value> {
        let (key, value) = match kind {
            Kind::Clear => ("message", self.decoder.message(sender, None, payload)),
            Kind::Secured => ("sealed", sealed(payload)),
        };
        let mut line = begin(time, sender, payload.len());
        line.insert(key.into(), value);
        line
    }

    /// A message of a session passed protected, and this is what it says.
    pub fn secured(
        &mut self,
        time: Duration,
        direction: Direction,
        session: SessionId,
        sequence: u64,
        plaintext: &[u8],
    ) -> Map<String, Value> {
        let sender = match direction {
            Direction::Request => Sender::Requester,
            Direction::Response => Sender::Responder,
        };
        let mut line = begin(time, sender, plaintext.len());
        line.insert("session".into(), session.to_string().into());
        line.insert("sequence".into(), sequence.into());
        line.insert("message".into(), self.decoder.message(sender, Some(session), plaintext));
        line
    }
}

/// A trace that is written line by line.
#[derive(Debug)]
pub struct Trace<W> {
    out: W,
    lines: Lines,
}

impl<W: Write> Trace<W> {
    /// A trace of a connection that begins.
    pub const fn new(out: W, secrets: Secrets) -> Self {
        Self { out, lines: Lines::new(secrets) }
    }

    /// The payload of a data object passed: a message in the clear, or a secured one as it is.
    pub fn message(&mut self, time: Duration, sender: Sender, kind: Kind, payload: &[u8]) -> io::Result<()> {
        write_line(&mut self.out, self.lines.message(time, sender, kind, payload))
    }

    /// A message of a session passed protected, and this is what it says.
    pub fn secured(
        &mut self,
        time: Duration,
        direction: Direction,
        session: SessionId,
        sequence: u64,
        plaintext: &[u8],
    ) -> io::Result<()> {
        write_line(&mut self.out, self.lines.secured(time, direction, session, sequence, plaintext))
    }

    /// A data object of another type passed.
    pub fn other(&mut self, time: Duration, sender: Sender, object: &[u8]) -> io::Result<()> {
        let mut line = begin(time, sender, object.len());
        line.insert("object".into(), hex(object));
        write_line(&mut self.out, line)
    }
}

/// Appends one line to a trace.
pub fn write_line(out: &mut impl Write, line: Map<String, Value>) -> io::Result<()> {
    let mut text = Value::Object(line).to_string();
    text.push('\n');
    out.write_all(text.as_bytes())?;
    // Whatever ends the program, every line so far can be looked at.
    out.flush()
}

/// What every line begins with.
fn begin(time: Duration, sender: Sender, size: usize) -> Map<String, Value> {
    let from = match sender {
        Sender::Requester => "requester",
        Sender::Responder => "responder",
    };
    let mut line = Map::new();
    line.insert("time".into(), time.as_secs_f64().into());
    line.insert("from".into(), from.into());
    line.insert("size".into(), size.into());
    line
}

/// A secured message as it is on the wire.
fn sealed(payload: &[u8]) -> Value {
    let mut reader = Reader::new(payload);
    match (reader.u32("session id"), reader.u16("length")) {
        (Ok(session), Ok(length)) => json!({
            "session": SessionId(session).to_string(),
            "length": length,
            "bytes": hex(reader.rest()),
        }),
        (_, Err(error)) | (Err(error), _) => undecoded(payload, &error),
    }
}

/// Bytes that were refused, with the reason.
fn undecoded(bytes: &[u8], error: &dyn std::fmt::Display) -> Value {
    json!({ "error": error.to_string(), "bytes": hex(bytes) })
}
