//! A session of the data phase as bytes, for whoever goes on with it in another program.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{Session, Stage};
use crate::algo::{HashAlgo, Suite};
use crate::crypto::{Crypto, CryptoError, Digest, Secret};
use crate::ids::{SessionId, Version};
use crate::key_schedule::KeySchedule;
use crate::secured::channel::{Channel, Key};
use crate::secured::{Direction, Role};
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

/// Why bytes are no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

/// What a session of the data phase consists of.
pub(crate) struct DataPhase<'a> {
    session: &'a Session,
    export_master: &'a Secret,
}

impl DataPhase<'_> {
    /// Writes everything but what the connection has agreed on: the id, TH2, and every secret that is
    /// still of use, with its sequence numbers. Keys and IVs are derived again.
    pub(crate) fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        writer.u32(self.session.id.0)?;
        writer.bytes(&self.session.transcript)?;
        writer.bytes(self.export_master)?;
        Direction::ALL
            .iter()
            .try_for_each(|direction| write_channel(self.session.channel(*direction), writer))
    }
}

fn write_key(key: &Key, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
    writer.bytes(&key.secret)?;
    writer.u64(key.next)
}

fn write_channel(channel: &Channel, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
    write_key(&channel.key, writer)?;
    writer.u8(channel.previous.is_some().into())?;
    if let Some(previous) = &channel.previous {
        write_key(previous, writer)?;
    }
    writer.u8(channel.last.is_some().into())?;
    writer.u64(channel.last.unwrap_or(0))?;
    writer.u32(channel.updates)
}

/// Makes keys of what is read.
struct Maker<'a> {
    schedule: KeySchedule<'a>,
    crypto: &'a dyn Crypto,
    aead: crate::algo::AeadAlgo,
    hash: HashAlgo,
}

impl Maker<'_> {
    fn key(&self, reader: &mut Reader<'_>) -> Result<Key, Unreadable> {
        let secret = Secret::new(reader.take(self.hash.size(), "Secret")?.to_vec());
        let next = reader.u64("NextSequence")?;
        let mut key = Key::new(&self.schedule, self.crypto, self.aead, secret)?;
        key.next = next;
        Ok(key)
    }

    fn channel(&self, reader: &mut Reader<'_>) -> Result<Channel, Unreadable> {
        let mut channel = Channel::new(self.key(reader)?);
        if reader.flag("PreviousKey")? {
            channel.previous = Some(self.key(reader)?);
        }
        let some = reader.flag("LastSequence")?;
        let last = reader.u64("LastSequence")?;
        if !some && last != 0 {
            return Err(DecodeError::Reserved { field: "LastSequence", value: last }.into());
        }
        channel.last = some.then_some(last);
        channel.updates = reader.u32("Updates")?;
        Ok(channel)
    }
}

impl Session {
    /// What has to be kept of it; `None` in the handshake, or after an error has ended it.
    pub(crate) fn data_phase(&self) -> Option<DataPhase<'_>> {
        match &self.stage {
            Stage::Data { export_master } if !self.ended => Some(DataPhase { session: self, export_master }),
            _ => None,
        }
    }

    /// The session that [`DataPhase::write`] has written, of a connection with that suite and version.
    /// Its limit of sequence numbers is the default one.
    pub(crate) fn read(
        reader: &mut Reader<'_>,
        crypto: &Arc<dyn Crypto>,
        suite: Suite,
        version: Version,
        role: Role,
    ) -> Result<Self, Unreadable> {
        let aead = suite.aead.ok_or(CryptoError::Backend("a session without a cipher"))?;
        let hash = suite.hash;
        let id = SessionId(reader.u32("SessionId")?);
        let too_long = CryptoError::Backend("a digest that long");
        let transcript = Digest::new(reader.take(hash.size(), "TH2")?).ok_or(too_long)?;
        let export_master: Vec<u8> = reader.take(hash.size(), "ExportMaster")?.to_vec();
        let stage = Stage::Data { export_master: Secret::new(export_master) };
        let maker =
            Maker { schedule: KeySchedule::new(&**crypto, hash, version), crypto: &**crypto, aead, hash };
        let (request, response) = (maker.channel(reader)?, maker.channel(reader)?);
        Ok(Self {
            crypto: Arc::clone(crypto),
            hash,
            aead,
            version,
            id,
            role,
            stage,
            transcript,
            request,
            response,
            limit: u64::MAX,
            ended: false,
        })
    }
}
