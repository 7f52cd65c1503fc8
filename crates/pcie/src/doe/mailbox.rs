use zerocopy::IntoBytes;

use super::object::payload_dwords;
use super::{
    Capability, Control, DOE_SIZE, DiscoveryRequest, Header, Object, ObjectError, ObjectLength, ObjectType,
    Status, SupportedTypes, offset,
};
use crate::config::{AccessError, Lanes, Width};

/// What a mailbox tells its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailboxEvent {
    /// An object has come: [`Mailbox::request`] shows it, and [`Mailbox::respond`], [`Mailbox::fail`] or
    /// [`Mailbox::discard`] end it.
    Request,
    /// The host gave up; a request that was open is none any more.
    Aborted,
    /// The host broke the rules: the error bit is set, and a request that was open is none any more.
    Failed(Fault),
    /// An object was dropped without a word, as the specification wants it.
    Discarded(Discard),
    /// The message of the capability register is to be sent.
    Interrupt,
}

/// Why the error bit is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// More dwords were written than the mailbox has room for.
    #[error("the object is longer than the {0} dwords of the mailbox")]
    Overflow(usize),
    /// A dword was written while the mailbox was busy.
    #[error("an object was written while the mailbox was busy")]
    WrittenWhileBusy,
    /// A dword was written before the last response was read.
    #[error("an object was written before the response was read")]
    WrittenBeforeRead,
    /// A dword was acknowledged that was not there.
    #[error("the read mailbox was advanced without an object in it")]
    Underflow,
    /// The owner failed.
    #[error("the device failed")]
    Device,
}

/// Why an object was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Discard {
    /// It has no sound header.
    #[error(transparent)]
    Malformed(ObjectError),
    /// Other dwords were written than the header announces.
    #[error("an object of {expected} was given as {found} dwords")]
    Length {
        /// As the header says.
        expected: ObjectLength,
        /// Dwords written.
        found: usize,
    },
    /// Its type is not in the list of the mailbox.
    #[error("objects of {0} are not taken")]
    Unsupported(ObjectType),
}

/// Why a response was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RespondError {
    /// No request is open, or what happened to it was not looked at yet.
    #[error("no request is open")]
    NoRequest,
    /// The response does not fit the mailbox.
    #[error("a response of {needed} dwords does not fit the {room} dwords of the mailbox")]
    NoRoom {
        /// Dwords of the response.
        needed: u32,
        /// Dwords of the mailbox.
        room: usize,
    },
    /// The response is no data object.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// An object is being written.
    Idle { written: usize },
    /// The owner has an object. `seen` once it was told: only then may it answer, so that an answer to
    /// a request that was aborted never becomes the answer to the next one.
    Asked { header: Header, seen: bool },
    /// The host has an object and is at dword `at` of it.
    Ready { length: ObjectLength, at: usize },
    /// Only an abort helps.
    Failed,
}

/// What the owner was not told yet. Each event is told once, however often it happened since.
#[derive(Clone, Copy, Debug, Default)]
struct News {
    failed: Option<Fault>,
    aborted: bool,
    discarded: Option<Discard>,
    interrupt: bool,
}

/// The device's side of a DOE mailbox: the registers behind an extended capability.
///
/// One object is in flight: it is written, handled and answered in the one buffer `B` of dwords, which
/// also bounds its length. Discovery is answered by the mailbox itself.
#[derive(Debug)]
pub struct Mailbox<B> {
    /// Dwords in little-endian order, so that their bytes are those of the object on every machine.
    buffer: B,
    types: SupportedTypes,
    capability: Capability,
    interrupt_enable: bool,
    interrupt_status: bool,
    /// The owner wants no objects.
    held: bool,
    state: State,
    news: News,
}

impl<B: AsRef<[u32]> + AsMut<[u32]>> Mailbox<B> {
    /// An idle mailbox that takes objects of `types`, as long as `buffer` at most.
    pub fn new(buffer: B, types: SupportedTypes, capability: Capability) -> Self {
        Self {
            buffer,
            types,
            capability,
            interrupt_enable: false,
            interrupt_status: false,
            held: false,
            state: State::Idle { written: 0 },
            news: News::default(),
        }
    }

    /// A read of the registers; `offset` counts from the start of the extended capability, whose header
    /// is not the mailbox's and reads as 0.
    pub fn read(&self, offset: u16, width: Width) -> Result<u32, AccessError> {
        let lanes = Lanes::new(offset, width, DOE_SIZE)?;
        Ok(lanes.extract(match lanes.dword {
            offset::CAPABILITY => self.capability.into_bits(),
            offset::CONTROL => Control::new().with_interrupt_enable(self.interrupt_enable).into_bits(),
            offset::STATUS => self.status().into_bits(),
            offset::READ_MAILBOX => match self.state {
                State::Ready { at, .. } => self.buffer.as_ref().get(at).copied().map_or(0, u32::from_le),
                _ => 0,
            },
            _ => 0,
        }))
    }

    /// A write of the registers. The data mailboxes take whole dwords only; narrower writes to them do
    /// nothing. Ask [`Self::take_event`] afterwards what it led to.
    pub fn write(&mut self, offset: u16, width: Width, value: u32) -> Result<(), AccessError> {
        let lanes = Lanes::new(offset, width, DOE_SIZE)?;
        let value = lanes.place(value);
        match lanes.dword {
            offset::CONTROL => self.control(lanes, Control::from_bits(value)),
            offset::STATUS if Status::from_bits(value).interrupt_status() => self.interrupt_status = false,
            offset::WRITE_MAILBOX if width == Width::Dword => self.add(value),
            offset::READ_MAILBOX if width == Width::Dword => self.advance(),
            _ => {}
        }
        Ok(())
    }

    /// The status register.
    pub fn status(&self) -> Status {
        Status::new()
            .with_busy(self.held || matches!(self.state, State::Asked { .. }))
            .with_interrupt_status(self.interrupt_status)
            .with_error(self.state == State::Failed)
            .with_ready(matches!(self.state, State::Ready { .. }))
    }

    /// The next thing that the owner was not told yet.
    pub fn take_event(&mut self) -> Option<MailboxEvent> {
        if let Some(fault) = self.news.failed.take() {
            return Some(MailboxEvent::Failed(fault));
        }
        if core::mem::take(&mut self.news.aborted) {
            return Some(MailboxEvent::Aborted);
        }
        if let Some(discard) = self.news.discarded.take() {
            return Some(MailboxEvent::Discarded(discard));
        }
        if let State::Asked { seen, .. } = &mut self.state
            && !core::mem::replace(seen, true)
        {
            return Some(MailboxEvent::Request);
        }
        core::mem::take(&mut self.news.interrupt).then_some(MailboxEvent::Interrupt)
    }

    /// The open request.
    pub fn request(&self) -> Option<Object<'_>> {
        let State::Asked { header, .. } = self.state else { return None };
        let bytes = self.buffer.as_ref().as_bytes();
        let payload = bytes.get(Header::BYTES..header.length.bytes())?;
        Some(Object { object_type: header.object_type, payload })
    }

    /// Answers the open request with an object of its type.
    pub fn respond(&mut self, payload: &[u8]) -> Result<(), RespondError> {
        let header = self.open_request()?;
        self.respond_as(header.object_type, payload)
    }

    /// Answers the open request with an object of another type, which no sound device does.
    pub fn respond_as(&mut self, object_type: ObjectType, payload: &[u8]) -> Result<(), RespondError> {
        self.open_request()?;
        let header = Header::new(object_type, payload.len())?;
        self.answer(header, payload_dwords(payload))
    }

    /// Ends the open request with the error bit.
    pub fn fail(&mut self) -> Result<(), RespondError> {
        self.open_request()?;
        self.state = State::Failed;
        self.raise();
        Ok(())
    }

    /// Ends the open request without a word.
    pub fn discard(&mut self) -> Result<(), RespondError> {
        self.open_request()?;
        self.state = State::Idle { written: 0 };
        Ok(())
    }

    /// Whether the mailbox is to be busy although no request is open: its owner wants none now.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// The error bit because of something inside the device, whatever the mailbox does.
    pub fn break_down(&mut self) {
        self.break_off(Fault::Device);
    }

    /// Back to the state after power-on.
    pub fn reset(&mut self) {
        self.interrupt_enable = false;
        self.interrupt_status = false;
        self.held = false;
        self.state = State::Idle { written: 0 };
        self.news = News::default();
    }

    fn open_request(&self) -> Result<Header, RespondError> {
        match self.state {
            State::Asked { header, seen: true } => Ok(header),
            _ => Err(RespondError::NoRequest),
        }
    }

    fn control(&mut self, lanes: Lanes, control: Control) {
        let touched = Control::from_bits(lanes.mask());
        if touched.interrupt_enable() {
            self.interrupt_enable = control.interrupt_enable() && self.capability.interrupt_support();
        }
        if control.abort() {
            self.news.aborted = true;
            self.state = State::Idle { written: 0 };
        } else if control.go()
            && let State::Idle { written } = self.state
            && !self.held
        {
            self.go(written);
        }
    }

    fn add(&mut self, dword: u32) {
        match self.state {
            State::Idle { .. } if self.held => self.break_off(Fault::WrittenWhileBusy),
            State::Idle { written } => match self.buffer.as_mut().get_mut(written) {
                Some(place) => {
                    *place = dword.to_le();
                    self.state = State::Idle { written: written + 1 };
                }
                None => self.break_off(Fault::Overflow(written)),
            },
            State::Asked { .. } => self.break_off(Fault::WrittenWhileBusy),
            State::Ready { .. } => self.break_off(Fault::WrittenBeforeRead),
            State::Failed => {}
        }
    }

    fn advance(&mut self) {
        match self.state {
            State::Ready { length, at } => {
                let at = at + 1;
                let over = at >= length.count();
                self.state = if over { State::Idle { written: 0 } } else { State::Ready { length, at } };
            }
            State::Failed => {}
            State::Idle { .. } | State::Asked { .. } => self.break_off(Fault::Underflow),
        }
    }

    fn go(&mut self, written: usize) {
        match self.incoming(written) {
            Ok(header) if header.object_type == ObjectType::DISCOVERY => self.discovery(header, written),
            Ok(header) => self.state = State::Asked { header, seen: false },
            Err(discard) => self.drop_object(discard),
        }
    }

    /// The header of the object that was written, if the mailbox takes the object.
    fn incoming(&self, written: usize) -> Result<Header, Discard> {
        let dwords = self.buffer.as_ref().get(..written).unwrap_or_default();
        let no_header = Discard::Malformed(ObjectError::NoHeader(written.saturating_mul(4)));
        let header = dwords.first_chunk().ok_or(no_header)?.map(u32::from_le);
        let header = Header::decode(header).map_err(Discard::Malformed)?;
        if header.length.count() != written {
            return Err(Discard::Length { expected: header.length, found: written });
        }
        if !self.types.contains(header.object_type) {
            return Err(Discard::Unsupported(header.object_type));
        }
        Ok(header)
    }

    fn discovery(&mut self, header: Header, written: usize) {
        let expected = ObjectLength::of_payload(4).unwrap_or(header.length);
        let dword = self.buffer.as_ref().get(2).copied().map(u32::from_le);
        let Some(dword) = dword.filter(|_| header.length == expected) else {
            return self.drop_object(Discard::Length { expected, found: written });
        };
        match DiscoveryRequest::decode(dword) {
            Ok(request) => {
                let response = self.types.discover(request.index).encode();
                // A request of three dwords was in the buffer, so the response fits too.
                if self.answer(header, [response].into_iter()).is_err() {
                    self.break_off(Fault::Device);
                }
            }
            Err(error) => self.drop_object(Discard::Malformed(error)),
        }
    }

    fn answer(&mut self, header: Header, payload: impl Iterator<Item = u32>) -> Result<(), RespondError> {
        let buffer = self.buffer.as_mut();
        let no_room = RespondError::NoRoom { needed: header.length.dwords(), room: buffer.len() };
        let places = buffer.get_mut(..header.length.count()).ok_or(no_room)?;
        for (place, dword) in places.iter_mut().zip(header.encode().into_iter().chain(payload)) {
            *place = dword.to_le();
        }
        self.state = State::Ready { length: header.length, at: 0 };
        self.raise();
        Ok(())
    }

    fn drop_object(&mut self, discard: Discard) {
        self.state = State::Idle { written: 0 };
        self.news.discarded = Some(discard);
    }

    fn break_off(&mut self, fault: Fault) {
        self.state = State::Failed;
        self.news.failed = Some(fault);
        self.raise();
    }

    /// Sends the interrupt, once until the host clears its status.
    fn raise(&mut self) {
        if self.interrupt_enable && !core::mem::replace(&mut self.interrupt_status, true) {
            self.news.interrupt = true;
        }
    }
}
