use core::time::Duration;

use super::{
    Control, DiscoveryRequest, DiscoveryResponse, Header, Object, ObjectError, ObjectLength, ObjectType,
    Status, VendorId, offset,
};

/// The registers of a mailbox, as its host reaches them. Offsets are those of [`offset`].
pub trait DoeRegisters {
    /// Reads a register.
    fn read32(&mut self, offset: u16) -> u32;
    /// Writes a register.
    fn write32(&mut self, offset: u16, value: u32);
}

impl<R: DoeRegisters + ?Sized> DoeRegisters for &mut R {
    fn read32(&mut self, offset: u16) -> u32 {
        (**self).read32(offset)
    }

    fn write32(&mut self, offset: u16, value: u32) {
        (**self).write32(offset, value);
    }
}

/// How long each wait for the mailbox may take.
pub const TIMEOUT: Duration = Duration::from_secs(1);
/// How often the mailbox is looked at meanwhile: 128 times.
pub const POLL_INTERVAL: Duration = Duration::from_nanos(1_000_000_000 / 128);

/// Why an exchange brought nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DoeError {
    /// No response came.
    #[error("no response within a second")]
    Timeout,
    /// The mailbox took no object.
    #[error("the mailbox stayed busy for a second")]
    Busy,
    /// The mailbox has set its error bit.
    #[error("the mailbox reports an error")]
    Error,
    /// The response is of another type than the request.
    #[error("a response of {found} to a request of {expected}")]
    WrongType {
        /// As asked.
        expected: ObjectType,
        /// As answered.
        found: ObjectType,
    },
    /// The header of the response is none.
    #[error("the response is no data object: {0}")]
    BadHeader(ObjectError),
    /// The response ended before its length.
    #[error("a response of {expected} ended after {found} dwords")]
    Short {
        /// As its header says.
        expected: ObjectLength,
        /// Dwords that came.
        found: u32,
    },
    /// The mailbox had more to give than the length of the response.
    #[error("a response of {0} goes on behind its end")]
    Overlong(ObjectLength),
    /// The buffer for the response is too small. The response was taken from the mailbox and is lost.
    #[error("a response of {needed} bytes does not fit a buffer of {room} bytes")]
    NoRoom {
        /// Bytes of the payload.
        needed: usize,
        /// Bytes of the buffer.
        room: usize,
    },
    /// The request is no data object.
    #[error(transparent)]
    Request(ObjectError),
    /// An abort did not help within a second: the mailbox is of no use until the function is reset.
    #[error("the mailbox does not come back from an abort")]
    Dead,
    /// The exchange is over already.
    #[error("the exchange has ended")]
    Ended,
}

/// What an exchange wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// To be called again after this time.
    Wait(Duration),
    /// Nothing: the payload of the response has this many bytes, padding included.
    Done(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    /// Never used, or an exchange was left: nobody knows what is in the mailbox.
    Unknown,
    Idle,
    Dead,
}

/// The host's side of a DOE mailbox: moves one object and its response at a time.
///
/// It has no registers and no clock of its own. A first exchange, and one after an error or after an
/// exchange that was left, begins with an abort.
#[derive(Debug)]
pub struct Driver {
    health: Health,
}

impl Default for Driver {
    fn default() -> Self {
        Self::new()
    }
}

impl Driver {
    /// The driver of a mailbox that nothing is known of.
    pub const fn new() -> Self {
        Self { health: Health::Unknown }
    }

    /// Whether an abort has failed. Only [`Self::revive`] ends that.
    pub fn is_dead(&self) -> bool {
        self.health == Health::Dead
    }

    /// The function was reset: the mailbox gets another chance.
    pub fn revive(&mut self) {
        self.health = Health::Unknown;
    }

    /// Begins an exchange: `request` goes out, and the payload of the response is put into `response`.
    pub fn exchange<'a>(&'a mut self, request: Object<'a>, response: &'a mut [u8]) -> Exchange<'a> {
        self.begin(Some(request), response)
    }

    /// Begins an abort alone.
    pub fn abort(&mut self) -> Exchange<'_> {
        self.begin(None, &mut [])
    }

    fn begin<'a>(&'a mut self, request: Option<Object<'a>>, response: &'a mut [u8]) -> Exchange<'a> {
        let phase = match (self.health, request) {
            (Health::Dead, _) => Phase::Dead,
            (Health::Idle, Some(_)) => Phase::Begin,
            (Health::Unknown, _) | (Health::Idle, None) => Phase::Abort { cause: None },
        };
        if self.health == Health::Idle {
            self.health = Health::Unknown;
        }
        Exchange { driver: self, request, response, phase, aborted: false }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// An abort is to be written, because of `cause` or to find the mailbox idle.
    Abort {
        cause: Option<DoeError>,
    },
    /// The abort has until `until`.
    Aborting {
        cause: Option<DoeError>,
        until: Duration,
    },
    /// The mailbox was idle when it was used last.
    Begin,
    /// It is busy and has until `until` to stop being so.
    Busy {
        until: Duration,
    },
    /// The response may come until `until`.
    Sent {
        until: Duration,
    },
    Ended,
    Dead,
}

/// What a wait of a phase has come to.
enum Next {
    Go(Phase),
    Stop(Step),
}

/// One object and its response. Call [`Self::step`] until it says that it is done, or fails.
#[derive(Debug)]
#[must_use = "an exchange that is not stepped moves nothing"]
pub struct Exchange<'a> {
    driver: &'a mut Driver,
    request: Option<Object<'a>>,
    response: &'a mut [u8],
    phase: Phase,
    aborted: bool,
}

impl Exchange<'_> {
    /// Goes as far as it can at the time `now`, which counts from any fixed moment.
    ///
    /// An error is reported after the mailbox was aborted, which may take some steps too.
    pub fn step(&mut self, registers: &mut impl DoeRegisters, now: Duration) -> Result<Step, DoeError> {
        loop {
            match self.next(registers, now)? {
                Next::Go(phase) => self.phase = phase,
                Next::Stop(step) => return Ok(step),
            }
        }
    }

    fn next(&mut self, registers: &mut impl DoeRegisters, now: Duration) -> Result<Next, DoeError> {
        let until = now.saturating_add(TIMEOUT);
        let wait_until = |until: Duration| (now < until).then_some(Next::Stop(Step::Wait(POLL_INTERVAL)));
        match self.phase {
            Phase::Abort { cause } => {
                // An interrupt enable that somebody has set stays as it is.
                self.aborted = true;
                let control = Control::from_bits(registers.read32(offset::CONTROL));
                let abort = Control::new().with_interrupt_enable(control.interrupt_enable()).with_abort(true);
                registers.write32(offset::CONTROL, abort.into_bits());
                Ok(Next::Go(Phase::Aborting { cause, until }))
            }
            Phase::Aborting { cause, until } => {
                let status = Status::from_bits(registers.read32(offset::STATUS));
                if !status.busy() && !status.error() && !status.ready() {
                    return self.after_abort(cause);
                }
                wait_until(until).map_or_else(|| self.die(), Ok)
            }
            Phase::Begin => Ok(Next::Go(Phase::Busy { until })),
            Phase::Busy { until } => {
                let status = Status::from_bits(registers.read32(offset::STATUS));
                if status.error() || status.ready() {
                    // Somebody else was here. An abort clears that away, but one is enough.
                    let cause = self.aborted.then_some(DoeError::Error);
                    return Ok(Next::Go(Phase::Abort { cause }));
                }
                if status.busy() {
                    let late = Next::Go(Phase::Abort { cause: Some(DoeError::Busy) });
                    return Ok(wait_until(until).unwrap_or(late));
                }
                self.send(registers, now)
            }
            Phase::Sent { until } => {
                let status = Status::from_bits(registers.read32(offset::STATUS));
                if status.error() {
                    return Ok(Next::Go(Phase::Abort { cause: Some(DoeError::Error) }));
                }
                if status.ready() {
                    return self.receive(registers);
                }
                let late = Next::Go(Phase::Abort { cause: Some(DoeError::Timeout) });
                Ok(wait_until(until).unwrap_or(late))
            }
            Phase::Ended => Err(DoeError::Ended),
            Phase::Dead => Err(DoeError::Dead),
        }
    }

    fn after_abort(&mut self, cause: Option<DoeError>) -> Result<Next, DoeError> {
        if let Some(error) = cause {
            return self.end(Err(error));
        }
        match self.request {
            Some(_) => Ok(Next::Go(Phase::Begin)),
            None => self.end(Ok(0)),
        }
    }

    /// Ends the exchange with the mailbox idle.
    fn end(&mut self, result: Result<usize, DoeError>) -> Result<Next, DoeError> {
        self.phase = Phase::Ended;
        self.driver.health = Health::Idle;
        result.map(|bytes| Next::Stop(Step::Done(bytes)))
    }

    fn die(&mut self) -> Result<Next, DoeError> {
        self.phase = Phase::Dead;
        self.driver.health = Health::Dead;
        Err(DoeError::Dead)
    }

    fn send(&mut self, registers: &mut impl DoeRegisters, now: Duration) -> Result<Next, DoeError> {
        // An abort alone never comes here.
        let Some(request) = self.request else { return self.end(Ok(0)) };
        let dwords = match request.dwords() {
            Ok(dwords) => dwords,
            Err(error) => return self.end(Err(DoeError::Request(error))),
        };
        dwords.for_each(|dword| registers.write32(offset::WRITE_MAILBOX, dword));
        let control = Control::from_bits(registers.read32(offset::CONTROL));
        let go = Control::new().with_interrupt_enable(control.interrupt_enable()).with_go(true);
        registers.write32(offset::CONTROL, go.into_bits());
        Ok(Next::Go(Phase::Sent { until: now.saturating_add(TIMEOUT) }))
    }

    fn receive(&mut self, registers: &mut impl DoeRegisters) -> Result<Next, DoeError> {
        let expected = self.request.map_or(ObjectType::DISCOVERY, |request| request.object_type);
        match take_response(registers, expected, self.response) {
            Ok(bytes) => self.end(Ok(bytes)),
            // The mailbox has given the whole object and is idle.
            Err(error @ DoeError::NoRoom { .. }) => self.end(Err(error)),
            Err(error) => Ok(Next::Go(Phase::Abort { cause: Some(error) })),
        }
    }
}

/// Takes the object out of the read mailbox and puts its payload into `response`.
fn take_response(
    registers: &mut impl DoeRegisters,
    expected: ObjectType,
    response: &mut [u8],
) -> Result<usize, DoeError> {
    let status = |registers: &mut dyn DoeRegisters| Status::from_bits(registers.read32(offset::STATUS));
    let first = registers.read32(offset::READ_MAILBOX);
    registers.write32(offset::READ_MAILBOX, 0);
    let second = registers.read32(offset::READ_MAILBOX);
    let header = Header::decode([first, second]).map_err(DoeError::BadHeader)?;
    let Header { object_type: found, length } = header;
    if found != expected {
        return Err(DoeError::WrongType { expected, found });
    }
    let mut places = response.chunks_exact_mut(4);
    for dword in 1..length.dwords() {
        // The dword is there if the mailbox is still ready, and may be acknowledged only then.
        let value = if dword == 1 { second } else { registers.read32(offset::READ_MAILBOX) };
        if !status(registers).ready() {
            return Err(DoeError::Short { expected: length, found: dword });
        }
        registers.write32(offset::READ_MAILBOX, 0);
        if dword > 1
            && let Some(place) = places.next()
        {
            place.copy_from_slice(&value.to_le_bytes());
        }
    }
    let status = status(registers);
    if status.error() {
        return Err(DoeError::Error);
    }
    if status.ready() {
        return Err(DoeError::Overlong(length));
    }
    let (needed, room) = (length.payload_bytes(), response.len());
    if needed > room { Err(DoeError::NoRoom { needed, room }) } else { Ok(needed) }
}

/// Why a discovery ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// A response is not one dword long.
    #[error("a discovery response of {0} bytes, not 4")]
    Length(usize),
    /// The list does not go on: it would never end.
    #[error("behind index {index} of the list comes index {next}")]
    NotAscending {
        /// As asked.
        index: u8,
        /// As answered.
        next: u8,
    },
    /// The mailbox says that an index is none that it named itself.
    #[error("index {0} of the list names no vendor")]
    NoVendor(u8),
}

/// The host's walk over the list of types of a mailbox: ask, send, tell, until there is nothing to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discovery {
    version: u8,
    index: Option<u8>,
}

impl Discovery {
    /// The walk for an extended capability of this version (bits 19:16 of its header).
    pub const fn new(capability_version: u8) -> Self {
        Self { version: if capability_version >= 2 { 2 } else { 0 }, index: Some(0) }
    }

    /// What to ask next; `None` at the end.
    pub fn request(&self) -> Option<[u8; 4]> {
        let request = |index| DiscoveryRequest { index, version: self.version };
        self.index.map(|index| request(index).encode().to_le_bytes())
    }

    /// Takes the payload of the response and gives the type that it names. The walk is over after an
    /// error.
    pub fn take(&mut self, payload: &[u8]) -> Result<ObjectType, DiscoveryError> {
        let index = self.index.take().unwrap_or(0);
        let dword = payload.try_into().map_err(|_| DiscoveryError::Length(payload.len()))?;
        let DiscoveryResponse { object_type, next } = DiscoveryResponse::decode(u32::from_le_bytes(dword));
        if object_type.vendor == VendorId::NONE {
            return Err(DiscoveryError::NoVendor(index));
        }
        if next != 0 {
            if next <= index {
                return Err(DiscoveryError::NotAscending { index, next });
            }
            self.index = Some(next);
        }
        Ok(object_type)
    }
}
