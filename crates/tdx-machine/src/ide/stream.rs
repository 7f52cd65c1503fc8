use spdm::ide_km::{Direction, IdeKey, Ifv, KeyRefused, KeySet, KeySlot, StreamId, SubStream};

use super::cipher::CipherFailed;
use super::error::{OpenError, SealError};
use super::lane::{Lane, LaneError};
use super::sealed::Sealed;
use super::tlp::{MaxPayload, Tlp};

/// How many TLPs of a sub-stream are put under one MAC at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Aggregation {
    /// Each has its own.
    #[default]
    Off,
    /// Up to two.
    Two,
    /// Up to four.
    Four,
    /// Up to eight.
    Eight,
}

impl Aggregation {
    /// The value of the two bits in the stream's control register.
    pub const fn from_bits(bits: u32) -> Self {
        match bits & 3 {
            0 => Self::Off,
            1 => Self::Two,
            2 => Self::Four,
            _ => Self::Eight,
        }
    }

    /// How many TLPs at most.
    pub const fn most(self) -> usize {
        match self {
            Self::Off => 1,
            Self::Two => 2,
            Self::Four => 4,
            Self::Eight => 8,
        }
    }
}

/// State of a stream, as in its status register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamState {
    /// Nothing is protected: 0.
    Insecure,
    /// Every TLP is protected: 2.
    Secure,
}

/// What the status register of a stream says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamStatus {
    /// State, bits 3:0.
    pub state: StreamState,
    /// The other end said that an integrity check failed, bit 31.
    pub fail_message: bool,
}

impl From<StreamStatus> for u32 {
    fn from(status: StreamStatus) -> Self {
        let state = match status.state {
            StreamState::Insecure => 0,
            StreamState::Secure => 2,
        };
        state | Self::from(status.fail_message) << 31
    }
}

/// One end of a selective stream. Directions are this end's: `Rx` is what it receives.
#[derive(Debug)]
pub struct Stream {
    id: StreamId,
    max_payload: MaxPayload,
    aggregation: [Aggregation; 3],
    enabled: bool,
    failed: bool,
    fail_message: bool,
    counter_limit: u64,
    /// By [`KeySlot::lane`].
    lanes: [Lane; 6],
}

const fn lane(direction: Direction, sub_stream: SubStream) -> usize {
    KeySlot { set: KeySet::K0, direction, sub_stream }.lane()
}

impl Stream {
    /// A stream without keys, not enabled.
    pub fn new(id: StreamId, max_payload: MaxPayload) -> Self {
        Self {
            id,
            max_payload,
            aggregation: [Aggregation::Off; 3],
            enabled: false,
            failed: false,
            fail_message: false,
            counter_limit: u64::MAX,
            lanes: Default::default(),
        }
    }

    /// Its Stream ID.
    pub const fn id(&self) -> StreamId {
        self.id
    }

    /// The Enable bit of its control register. A stream that is disabled forgets that it failed, and its
    /// keys; those that came before it was enabled wait.
    pub fn set_enabled(&mut self, enabled: bool) {
        if self.enabled && !enabled {
            self.lanes = Default::default();
        }
        self.enabled = enabled;
        self.failed &= enabled;
    }

    /// How many TLPs of a sub-stream are put under one MAC at most.
    pub const fn set_aggregation(&mut self, sub_stream: SubStream, aggregation: Aggregation) {
        self.aggregation[sub_stream as usize] = aggregation;
    }

    /// The invocation that must not be reached with one key; 2^64 − 1 if nothing else is said.
    pub const fn set_counter_limit(&mut self, limit: u64) {
        self.counter_limit = limit;
    }

    /// Puts a key into a slot. What was in it is gone.
    pub fn program(&mut self, slot: KeySlot, key: &IdeKey, ifv: Ifv) -> Result<(), KeyRefused> {
        self.lanes[slot.lane()].program(slot.set, key, ifv, slot.sub_stream).map_err(|_| KeyRefused)
    }

    /// Sends with the key of a slot from now on, or is ready to receive with it.
    pub fn go(&mut self, slot: KeySlot) -> Result<(), KeyRefused> {
        let lane = &mut self.lanes[slot.lane()];
        let gone = match slot.direction {
            Direction::Tx => lane.go_sending(slot.set),
            Direction::Rx => lane.go_receiving(slot.set),
        };
        if gone { Ok(()) } else { Err(KeyRefused) }
    }

    /// Wipes the key of a slot.
    pub fn stop(&mut self, slot: KeySlot) {
        self.lanes[slot.lane()].stop(slot.set);
    }

    /// Whether a slot has a key, in use or waiting.
    pub fn has_key(&self, slot: KeySlot) -> bool {
        self.lanes[slot.lane()].has_key(slot.set)
    }

    /// The set that TLPs of a sub-stream are sent with.
    pub fn sends_with(&self, sub_stream: SubStream) -> Option<KeySet> {
        self.lanes[lane(Direction::Tx, sub_stream)].current()
    }

    /// The set of the last TLP of a sub-stream that was received and sound.
    pub fn last_received(&self, sub_stream: SubStream) -> Option<KeySet> {
        self.lanes[lane(Direction::Rx, sub_stream)].last()
    }

    /// Takes over the keys of the stream at the other end of the link.
    pub(crate) fn mirror(&mut self, other: &Self) {
        for direction in Direction::ALL {
            for sub_stream in SubStream::ALL {
                let theirs = &other.lanes[lane(direction.opposite(), sub_stream)];
                self.lanes[lane(direction, sub_stream)].mirror(theirs, direction == Direction::Rx);
            }
        }
    }

    /// Whether every lane has a key in use.
    pub fn is_keyed(&self) -> bool {
        self.lanes.iter().all(|lane| lane.current().is_some())
    }

    /// What the status register says.
    pub fn status(&self) -> StreamStatus {
        let secure = self.enabled && !self.failed && self.is_keyed();
        let state = if secure { StreamState::Secure } else { StreamState::Insecure };
        StreamStatus { state, fail_message: self.fail_message }
    }

    /// An integrity check failed here, or the other end says that one failed there: keys are wiped, and
    /// the stream is insecure until it is disabled and keyed again. One that is not enabled has nothing to
    /// fail in, and only loses its keys.
    pub(super) fn fail(&mut self, told: bool) {
        self.failed = self.enabled;
        self.fail_message |= told && self.enabled;
        self.lanes = Default::default();
    }

    /// Software clears bit 31 of the status register.
    pub const fn clear_fail_message(&mut self) {
        self.fail_message = false;
    }

    fn is_secure(&self) -> bool {
        self.status().state == StreamState::Secure
    }

    /// Seals one TLP.
    pub fn seal(&mut self, tlp: Tlp) -> Result<Sealed, SealError> {
        tlp.check(self.max_payload)?;
        let Tlp { trusted, header, payload } = tlp;
        let part = (trusted, header, payload.len());
        self.seal_checked(header.sub_stream(), std::iter::once(part), payload)
    }

    /// Seals TLPs of one sub-stream under one MAC.
    pub fn seal_aggregated(&mut self, tlps: &[Tlp]) -> Result<Sealed, SealError> {
        let count = tlps.len();
        let Some(first) = tlps.first() else { return Err(SealError::Aggregation { count, limit: 1 }) };
        let sub_stream = first.sub_stream();
        let limit = self.aggregation[sub_stream as usize].most();
        if count > limit {
            return Err(SealError::Aggregation { count, limit });
        }
        if tlps.iter().any(|tlp| tlp.sub_stream() != sub_stream) {
            return Err(SealError::MixedSubStreams);
        }
        tlps.iter().try_for_each(|tlp| tlp.check(self.max_payload))?;
        let text = tlps.iter().flat_map(|tlp| &tlp.payload).copied().collect();
        let parts = tlps.iter().map(|tlp| (tlp.trusted, tlp.header, tlp.payload.len()));
        self.seal_checked(sub_stream, parts, text)
    }

    fn seal_checked(
        &mut self,
        sub_stream: SubStream,
        parts: impl ExactSizeIterator<Item = (bool, super::TlpHeader, usize)>,
        text: Vec<u8>,
    ) -> Result<Sealed, SealError> {
        let stream = self.id;
        if !self.is_secure() {
            return Err(SealError::Insecure(stream));
        }
        let lane = &mut self.lanes[lane(Direction::Tx, sub_stream)];
        let set = lane.current().ok_or(SealError::NotKeyed { stream, sub_stream })?;
        let (cipher, invocation) = lane.next(set, self.counter_limit).map_err(|error| match error {
            LaneError::NotKeyed => SealError::NotKeyed { stream, sub_stream },
            LaneError::Exhausted => SealError::CounterExhausted { stream, sub_stream },
        })?;
        let mut sealed = Sealed::heads(stream, set, parts, text);
        let (heads, text) = sealed.parts();
        let mac = cipher.seal(invocation, heads, text).map_err(|CipherFailed| SealError::Cipher)?;
        sealed.mac = mac;
        lane.advance(set);
        Ok(sealed)
    }

    /// Opens what arrived. What cannot be authenticated makes the stream [insecure](StreamState).
    pub fn open(&mut self, mut sealed: Sealed) -> Result<Vec<Tlp>, OpenError> {
        let (stream, set, sub_stream) = (self.id, sealed.set(), sealed.sub_stream());
        if !self.is_secure() {
            return Err(OpenError::Insecure(stream));
        }
        let lane = &mut self.lanes[lane(Direction::Rx, sub_stream)];
        let mac = *sealed.mac();
        let (heads, text) = sealed.parts();
        let opened = match lane.next(set, self.counter_limit) {
            Ok((cipher, invocation)) => {
                let opened = cipher.open(invocation, heads, text, &mac);
                opened.map_err(|CipherFailed| OpenError::IntegrityFail { stream, sub_stream })
            }
            Err(LaneError::NotKeyed) => Err(OpenError::NotKeyed { stream, set, sub_stream }),
            Err(LaneError::Exhausted) => Err(OpenError::CounterExhausted { stream, sub_stream }),
        };
        match opened {
            Ok(()) => lane.advance(set),
            // What cannot be authenticated was dropped: no later TLP of the lane could be.
            Err(error) => {
                self.fail(false);
                return Err(error);
            }
        }
        self.take_apart(sealed)
    }

    /// The TLPs of what was opened.
    fn take_apart(&self, sealed: Sealed) -> Result<Vec<Tlp>, OpenError> {
        let count = sealed.count();
        let mut tlps: Vec<Tlp> = Vec::with_capacity(count);
        let mut at = 0;
        for part in sealed.tlps() {
            let (trusted, header, size) = part?;
            let payload = if count == 1 {
                Vec::new()
            } else {
                sealed.text().get(at..at + size).unwrap_or(&[]).to_vec()
            };
            at += size;
            tlps.push(Tlp { trusted, header, payload });
        }
        if let [tlp] = &mut tlps[..] {
            tlp.payload = sealed.into_text();
        }
        tlps.iter().try_for_each(|tlp| tlp.check(self.max_payload))?;
        Ok(tlps)
    }
}
