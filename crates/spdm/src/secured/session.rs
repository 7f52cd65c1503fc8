//! A session's keys and the messages under them.

mod saved;

pub(crate) use saved::Unreadable;

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::channel::{Channel, Key};
use super::{APPLICATION_LENGTH_SIZE, Direction, HEADER_SIZE, MAX_APPLICATION, Phase, Role, SecuredError};
use crate::algo::{AeadAlgo, HashAlgo, Suite};
use crate::crypto::{Crypto, CryptoError, Digest, Secret};
use crate::ids::{SessionId, Version};
use crate::key_schedule::{HandshakeSecrets, KeySchedule};
use crate::observe::SessionSecrets;

/// What only the handshake phase has.
struct Handshake {
    dhe: Secret,
    secret: Secret,
    /// Keys of the HMACs, request and response.
    finished: [Secret; 2],
}

/// What belongs to the phase that a session is in.
enum Stage {
    Handshake(Handshake),
    Data { export_master: Secret },
}

/// One side of a session: keys, sequence numbers and phase.
///
/// Every key has its own sequence numbers, from 0. They are not wrapped, and no number is used
/// twice with one key. Dropping a session wipes its secrets.
pub struct Session {
    crypto: Arc<dyn Crypto>,
    hash: HashAlgo,
    aead: AeadAlgo,
    version: Version,
    id: SessionId,
    role: Role,
    stage: Stage,
    /// TH1 or TH2.
    transcript: Digest,
    request: Channel,
    response: Channel,
    /// Messages that one key may protect.
    limit: u64,
    ended: bool,
}

impl Session {
    /// A session in its handshake phase.
    ///
    /// # Errors
    /// [`CryptoError`] if `suite` has no cipher or a hash of another size than `th1`, or the back
    /// end fails.
    pub fn new(
        crypto: &Arc<dyn Crypto>,
        suite: Suite,
        version: Version,
        id: SessionId,
        role: Role,
        dhe: Secret,
        th1: &Digest,
    ) -> Result<Self, CryptoError> {
        let aead = suite.aead.ok_or(CryptoError::Backend("a session without a cipher"))?;
        let schedule = KeySchedule::new(&**crypto, suite.hash, version);
        let HandshakeSecrets { handshake, request, response } = schedule.handshake(&dhe, th1)?;
        let finished = [schedule.finished_key(&request)?, schedule.finished_key(&response)?];
        let channel = |secret| Key::new(&schedule, &**crypto, aead, secret).map(Channel::new);
        Ok(Self {
            request: channel(request)?,
            response: channel(response)?,
            crypto: Arc::clone(crypto),
            hash: suite.hash,
            aead,
            version,
            id,
            role,
            stage: Stage::Handshake(Handshake { dhe, secret: handshake, finished }),
            transcript: *th1,
            limit: u64::MAX,
            ended: false,
        })
    }

    /// The session's id.
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// Which side this is.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The phase.
    pub const fn phase(&self) -> Phase {
        match self.stage {
            Stage::Handshake(_) => Phase::Handshake,
            Stage::Data { .. } => Phase::Data,
        }
    }

    /// Whether an error has ended the session: nothing is sealed or opened any more.
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// How many messages one key may protect. Unless told otherwise 2^64 - 1, the most that
    /// sequence numbers of 64 bits can count; devices keep well below it.
    pub fn set_sequence_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// Sequence number of the last message that was sealed or opened in that direction, under
    /// whatever key it was.
    pub const fn last_sequence(&self, direction: Direction) -> Option<u64> {
        self.channel(direction).last
    }

    /// Sequence number of the next message in that direction, under its present key.
    pub const fn next_sequence(&self, direction: Direction) -> u64 {
        self.channel(direction).key.next
    }

    /// The HMAC of FINISH (`Request`), or of KEY_EXCHANGE_RSP and FINISH_RSP (`Response`).
    ///
    /// # Errors
    /// [`SecuredError::WrongPhase`] in the data phase, where the keys for it are gone.
    pub fn finished_mac(&self, direction: Direction, th: &Digest) -> Result<Digest, SecuredError> {
        let Stage::Handshake(Handshake { finished: [request, response], .. }) = &self.stage else {
            return Err(self.wrong_phase());
        };
        let key = match direction {
            Direction::Request => request,
            Direction::Response => response,
        };
        Ok(self.crypto.hmac(self.hash, key, th))
    }

    /// Goes on to the data phase, after FINISH_RSP has been sealed or opened. The secrets of the
    /// handshake are wiped. After an error the session is as it was.
    ///
    /// # Errors
    /// [`SecuredError::WrongPhase`] if it is there already.
    pub fn enter_data(&mut self, th2: &Digest) -> Result<(), SecuredError> {
        self.alive()?;
        let Stage::Handshake(Handshake { secret, .. }) = &self.stage else {
            return Err(self.wrong_phase());
        };
        let secrets = self.schedule().data(secret, th2)?;
        let request = self.key(secrets.request)?;
        let response = self.key(secrets.response)?;
        self.request = Channel::new(request);
        self.response = Channel::new(response);
        self.stage = Stage::Data { export_master: secrets.export_master };
        self.transcript = *th2;
        Ok(())
    }

    /// The secrets as they are, for an [`Observer`](crate::observe::Observer).
    pub fn secrets(&self) -> SessionSecrets<'_> {
        let (dhe, export_master) = match &self.stage {
            Stage::Handshake(handshake) => (Some(&handshake.dhe[..]), None),
            Stage::Data { export_master } => (None, Some(&export_master[..])),
        };
        SessionSecrets {
            session: self.id,
            version: self.version,
            hash: self.hash,
            aead: self.aead,
            phase: self.phase(),
            transcript: &self.transcript,
            dhe,
            request: &self.request.key.secret,
            response: &self.response.key.secret,
            export_master,
        }
    }

    /// Seals a message as the next one that this side sends, and appends the secured message to
    /// `out`: a DOE object's payload but for the padding. After an error `out` is as it was.
    ///
    /// The first message under an updated key makes the update final.
    pub fn seal(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<(), SecuredError> {
        self.alive()?;
        if message.len() > MAX_APPLICATION {
            return Err(SecuredError::TooLong { len: message.len() });
        }
        let direction = self.role.sends();
        self.within_limit(direction, self.next_sequence(direction))?;

        let too_long = |_| SecuredError::TooLong { len: message.len() };
        let application = u16::try_from(message.len()).map_err(too_long)?;
        let text_len = APPLICATION_LENGTH_SIZE + message.len();
        let length = u16::try_from(text_len + AeadAlgo::TAG_SIZE).map_err(too_long)?;
        let header = header(self.id, length);

        let start = out.len();
        let text_start = start + HEADER_SIZE;
        out.reserve(HEADER_SIZE + usize::from(length));
        out.extend_from_slice(&header);
        out.extend_from_slice(&application.to_le_bytes());
        out.extend_from_slice(message);

        let channel = self.channel_mut(direction);
        let sequence = channel.key.next;
        match channel.key.seal(&header, out.get_mut(text_start..).unwrap_or_default()) {
            Ok(tag) => out.extend_from_slice(&tag),
            Err(error) => {
                // No plaintext stays behind in memory that goes out on the wire.
                zeroize::Zeroize::zeroize(out.get_mut(start..).unwrap_or_default());
                out.truncate(start);
                return Err(error.into());
            }
        }
        channel.last = Some(sequence);
        channel.previous = None;
        Ok(())
    }

    /// Opens a DOE object's payload as the next message that the other side sends.
    ///
    /// Exactly one secured message of this session is taken, followed by the zeros that fill a
    /// DWORD. What is malformed outside of its authentication changes nothing; a tag that does not
    /// verify ends the session.
    ///
    /// After [`prepare_update`](Self::prepare_update) of what is received, the other side may use
    /// either key: the new one makes the update final, the old one undoes it.
    pub fn open(&mut self, object: &[u8]) -> Result<Secret, SecuredError> {
        self.alive()?;
        let record = Record::parse(object, self.id)?;
        let direction = self.role.receives();
        let mut text = Secret::new(record.text.to_vec());
        if let Err(error) = self.open_text(direction, &record, &mut text) {
            self.ended = error.ends_session();
            return Err(error);
        }
        let stated = match text.first_chunk() {
            Some(&bytes) => u16::from_le_bytes(bytes),
            None => 0,
        };
        let room = text.len().saturating_sub(APPLICATION_LENGTH_SIZE);
        if text.len() < APPLICATION_LENGTH_SIZE || usize::from(stated) != room {
            self.ended = true;
            return Err(SecuredError::ApplicationLength { stated, room });
        }
        text.drain(..APPLICATION_LENGTH_SIZE);
        Ok(text)
    }

    fn open_text(
        &mut self,
        direction: Direction,
        record: &Record<'_>,
        text: &mut Secret,
    ) -> Result<(), SecuredError> {
        let sequence = self.next_sequence(direction);
        self.within_limit(direction, sequence)?;
        let (id, limit) = (self.id, self.limit);
        let channel = self.channel_mut(direction);
        match channel.key.open(&record.header, text, record.tag) {
            Ok(()) => {
                channel.last = Some(sequence);
                channel.previous = None;
                return Ok(());
            }
            Err(CryptoError::Tag) => {}
            Err(other) => return Err(other.into()),
        }
        // The other side may not have got, or not have agreed to, the update.
        if let Some(previous) = &mut channel.previous
            && previous.next < limit
        {
            let old = previous.next;
            text.copy_from_slice(record.text);
            match previous.open(&record.header, text, record.tag) {
                Ok(()) => {
                    channel.last = Some(old);
                    channel.roll_back();
                    return Ok(());
                }
                Err(CryptoError::Tag) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Err(SecuredError::Tag { session: id, direction, sequence })
    }

    /// Derives the next key of a direction and uses it from now on, from sequence number 0. The
    /// old one is kept until the new one has been used, or one of [`commit`](Self::commit) and
    /// [`roll_back`](Self::roll_back) is called.
    ///
    /// # Errors
    /// [`SecuredError::WrongPhase`] in the handshake phase, [`SecuredError::Update`] while the last
    /// update of that direction is not final.
    pub fn prepare_update(&mut self, direction: Direction) -> Result<(), SecuredError> {
        self.alive()?;
        if self.phase() != Phase::Data {
            return Err(self.wrong_phase());
        }
        if self.update_pending(direction) {
            return Err(SecuredError::Update { session: self.id, direction });
        }
        let secret = self.schedule().update(&self.channel(direction).key.secret)?;
        let key = self.key(secret)?;
        let channel = self.channel_mut(direction);
        channel.previous = Some(core::mem::replace(&mut channel.key, key));
        channel.updates = channel.updates.saturating_add(1);
        Ok(())
    }

    /// Wipes the old key of a direction, if it is still there.
    pub fn commit(&mut self, direction: Direction) {
        self.channel_mut(direction).previous = None;
    }

    /// Goes back to the old key of a direction, at the sequence number where it was.
    ///
    /// # Errors
    /// [`SecuredError::Update`] if there is no update to undo, or the new key has been used: the
    /// same key would be derived again, and its sequence numbers used twice.
    pub fn roll_back(&mut self, direction: Direction) -> Result<(), SecuredError> {
        let session = self.id;
        if self.channel_mut(direction).roll_back() {
            Ok(())
        } else {
            Err(SecuredError::Update { session, direction })
        }
    }

    /// Whether an update of a direction is neither final nor undone.
    pub const fn update_pending(&self, direction: Direction) -> bool {
        self.channel(direction).previous.is_some()
    }

    /// Updates of a direction's key that have not been undone.
    pub const fn updates(&self, direction: Direction) -> u32 {
        self.channel(direction).updates
    }

    /// As if that many messages had gone before, for tests of the end of the numbers.
    #[cfg(test)]
    pub(super) fn skip_to(&mut self, direction: Direction, next: u64) {
        self.channel_mut(direction).key.next = next;
    }

    const fn channel(&self, direction: Direction) -> &Channel {
        match direction {
            Direction::Request => &self.request,
            Direction::Response => &self.response,
        }
    }

    const fn channel_mut(&mut self, direction: Direction) -> &mut Channel {
        match direction {
            Direction::Request => &mut self.request,
            Direction::Response => &mut self.response,
        }
    }

    fn schedule(&self) -> KeySchedule<'_> {
        KeySchedule::new(&*self.crypto, self.hash, self.version)
    }

    fn key(&self, secret: Secret) -> Result<Key, CryptoError> {
        Key::new(&self.schedule(), &*self.crypto, self.aead, secret)
    }

    const fn alive(&self) -> Result<(), SecuredError> {
        if self.ended { Err(SecuredError::Ended(self.id)) } else { Ok(()) }
    }

    const fn within_limit(&self, direction: Direction, sequence: u64) -> Result<(), SecuredError> {
        if sequence < self.limit {
            Ok(())
        } else {
            Err(SecuredError::SequenceExhausted { session: self.id, direction, limit: self.limit })
        }
    }

    const fn wrong_phase(&self) -> SecuredError {
        SecuredError::WrongPhase { session: self.id, phase: self.phase() }
    }
}

fn header(id: SessionId, length: u16) -> [u8; HEADER_SIZE] {
    let [a, b, c, d] = id.0.to_le_bytes();
    let [low, high] = length.to_le_bytes();
    [a, b, c, d, low, high]
}

/// A secured message taken apart.
struct Record<'a> {
    header: [u8; HEADER_SIZE],
    text: &'a [u8],
    tag: &'a [u8; AeadAlgo::TAG_SIZE],
}

impl<'a> Record<'a> {
    fn parse(object: &'a [u8], id: SessionId) -> Result<Self, SecuredError> {
        let too_short = SecuredError::TooShort { len: object.len() };
        let (&[a, b, c, d, low, high], rest) = object.split_first_chunk::<HEADER_SIZE>().ok_or(too_short)?;
        let found = SessionId(u32::from_le_bytes([a, b, c, d]));
        if found != id {
            return Err(SecuredError::WrongSession { expected: id, found });
        }
        let length = u16::from_le_bytes([low, high]);
        let wrong_length = SecuredError::Length { length, available: rest.len() };
        let (body, padding) = rest.split_at_checked(length.into()).ok_or(wrong_length)?;
        let (text, tag) = body.split_last_chunk().ok_or(wrong_length)?;
        if padding.len() > 3 || padding.iter().any(|&byte| byte != 0) {
            return Err(SecuredError::Padding { len: padding.len() });
        }
        Ok(Self { header: header(id, length), text, tag })
    }
}
