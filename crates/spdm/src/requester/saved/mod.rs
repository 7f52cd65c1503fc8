//! A requester with a session as bytes, and back: whoever replaces the program that holds it goes on where
//! it was, in the middle of a request if need be.
//!
//! All numbers are little endian; a list stands behind its 32 bit length.
//!
//! | part | holds |
//! |---|---|
//! | head | `SPDMreq`, 0, and the number of the format, u16 |
//! | connection | version, capabilities, algorithms, VCA, slots, chains, measurements, summary |
//! | session | slot, version of secured messages, heartbeat, summary; secrets and sequence numbers |
//! | flight | the request under way and how far its answer is, if there is one |
//!
//! The bytes hold the secrets of the session, and nothing proves that they are genuine: whoever keeps them
//! has to keep them as well as the session itself. A session must not be used on both sides of a hand-over:
//! its sequence numbers would be used twice.

mod connection;
mod flight;

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use zeroize::Zeroizing;

use super::{Requester, RequesterConfig, RequesterError};
use crate::algo::HashAlgo;
use crate::crypto::{Crypto, CryptoError, Digest};
use crate::ids::SlotId;
use crate::msg::RequestCode;
use crate::secured::Unreadable;
use crate::wire::{DecodeError, NoSpace, Reader, Writer};
use crate::x509::Verifier;

const MAGIC: [u8; 8] = *b"SPDMreq\0";
/// Number of the format; another one is refused.
const FORMAT: u16 = 1;
/// Room that is tried first, and the most that a state may take, in bytes.
const FIRST_ROOM: usize = 1 << 13;
const MAX_ROOM: usize = 1 << 20;

/// Why a requester cannot be saved now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSavable {
    /// There is no session: begin anew instead.
    #[error("there is no session that could be saved")]
    NoSession,
    /// A connection or session is being made, and half of a key agreement cannot be kept.
    #[error("the handshake is at {0}, where it cannot be saved")]
    Handshake(RequestCode),
    /// Measurements were read without a signature, and the next signature stands for them, too.
    #[error("measurements were read whose signature is still to come")]
    Unsigned,
    /// Chains were read for a challenge that is still to come.
    #[error("certificates were read for a challenge that is still to come")]
    Challenge,
    /// More than is ever kept.
    #[error("the state exceeds {0} bytes")]
    TooLarge(usize),
}

/// Why bytes are no requester.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// They were not written by [`Requester::save`].
    #[error("the bytes are no saved requester")]
    Magic,
    /// They were written in another format.
    #[error("the requester was saved in format {0}, not {FORMAT}")]
    Format(u16),
    /// A field is missing, or has a value that it cannot have.
    #[error("the saved requester is malformed: {0}")]
    Decode(#[from] DecodeError),
    /// Two parts contradict each other.
    #[error("the saved requester contradicts itself: {0}")]
    Contradiction(&'static str),
    /// The keys of the session cannot be made.
    #[error("keys of the saved session: {0}")]
    Crypto(#[from] CryptoError),
    /// The configuration is none.
    #[error(transparent)]
    Configuration(RequesterError),
}

impl From<Unreadable> for RestoreError {
    fn from(error: Unreadable) -> Self {
        match error {
            Unreadable::Decode(error) => Self::Decode(error),
            Unreadable::Crypto(error) => Self::Crypto(error),
        }
    }
}

impl Requester {
    /// Everything of the session and its connection, the request that is under way included; the
    /// configuration and the observer are not part of it. The requester itself stays as it is, and must
    /// not be used any more once another one goes on.
    ///
    /// # Errors
    /// [`NotSavable`] without a session, in a handshake, and where a transcript has begun that a later
    /// signature stands for.
    pub fn save(&self) -> Result<Zeroizing<Vec<u8>>, NotSavable> {
        if let Some(flight) = self.flight.as_ref().filter(|flight| !flight.is_savable()) {
            return Err(NotSavable::Handshake(flight.code()));
        }
        let active = self.session.as_ref().ok_or(NotSavable::NoSession)?;
        let data = active.session.data_phase().ok_or(NotSavable::Handshake(RequestCode::FINISH))?;
        let connection = self.connection.as_ref().ok_or(NotSavable::NoSession)?;
        if !active.measurements.is_empty() {
            return Err(NotSavable::Unsigned);
        }
        if !self.transcript.is_bare() {
            return Err(NotSavable::Challenge);
        }
        let write = |writer: &mut Writer<'_>| {
            writer.bytes(&MAGIC)?;
            writer.u16(FORMAT)?;
            self.write_connection(connection, writer)?;
            connection::write_facts(&active.facts, writer)?;
            data.write(writer)?;
            flight::write(self.flight.as_ref(), writer)
        };
        let mut room = FIRST_ROOM;
        loop {
            let mut buffer = Zeroizing::new(vec![0; room]);
            match crate::msg::encode(&mut buffer, write).map(|bytes| bytes.len()) {
                Ok(size) => {
                    buffer.truncate(size);
                    return Ok(buffer);
                }
                Err(NoSpace(_)) if room < MAX_ROOM => room *= 2,
                Err(NoSpace(_)) => return Err(NotSavable::TooLarge(MAX_ROOM)),
            }
        }
    }

    /// The requester that was [saved](Self::save), with its limits of sequence numbers and its patience
    /// from `config`; the rest of `config` matters for its next connection.
    ///
    /// # Errors
    /// [`RestoreError`] if the bytes are not exactly what [`Self::save`] has written, as far as that can be
    /// told without a key, or `config` cannot be.
    pub fn restore(
        config: RequesterConfig,
        crypto: Arc<dyn Crypto>,
        verifier: Arc<dyn Verifier>,
        bytes: &[u8],
    ) -> Result<Self, RestoreError> {
        config.check().map_err(RestoreError::Configuration)?;
        let mut reader = Reader::new(bytes);
        if reader.array("Magic").ok() != Some(MAGIC) {
            return Err(RestoreError::Magic);
        }
        match reader.u16("Format")? {
            FORMAT => {}
            other => return Err(RestoreError::Format(other)),
        }
        let mut requester = Self::new(config, crypto, verifier);
        let connection = requester.read_connection(&mut reader)?;
        requester.read_session(connection, &mut reader)?;
        requester.flight = requester.read_flight(connection, &mut reader)?;
        reader.finish()?;
        Ok(requester)
    }
}

/// Bytes behind their length.
fn write_list(bytes: &[u8], writer: &mut Writer<'_>) -> Result<(), NoSpace> {
    writer.u32(u32::try_from(bytes.len()).map_err(|_| NoSpace(MAX_ROOM))?)?;
    writer.bytes(bytes)
}

fn read_list<'a>(reader: &mut Reader<'a>, field: &'static str) -> Result<&'a [u8], DecodeError> {
    let size = reader.u32(field)?;
    reader.take(usize::try_from(size).unwrap_or(usize::MAX), field)
}

fn read_digest(reader: &mut Reader<'_>, hash: HashAlgo, field: &'static str) -> Result<Digest, RestoreError> {
    let bytes = reader.take(hash.size(), field)?;
    Digest::new(bytes).ok_or(RestoreError::Contradiction("a digest longer than any"))
}

/// One bit per slot of which `list` has something.
fn slots_of<T>(list: &[Option<T>; SlotId::COUNT]) -> u8 {
    list.iter().rev().fold(0, |mask, entry| mask << 1 | u8::from(entry.is_some()))
}
