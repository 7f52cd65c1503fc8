//! Driver and mailbox together, with arbitrary objects and a stranger who pokes at the registers.

use std::time::Duration;
use std::vec;

use proptest::prelude::*;

use super::*;

/// What the owner does with a request.
#[derive(Clone, Debug)]
enum Answer {
    Respond(Vec<u8>),
    RespondAs(u8, Vec<u8>),
    Fail,
    Discard,
    /// Nothing, as long as nobody aborts.
    Sleep,
}

#[derive(Clone, Copy, Debug)]
enum Poke {
    Read(u16, Width),
    Write(u16, Width, u32),
    Hold(bool),
    BreakDown,
}

fn answer() -> impl Strategy<Value = Answer> {
    let payload = prop::collection::vec(any::<u8>(), 0..70);
    prop_oneof![
        4 => payload.clone().prop_map(Answer::Respond),
        1 => (0u8..5, payload).prop_map(|(kind, payload)| Answer::RespondAs(kind, payload)),
        1 => Just(Answer::Fail),
        1 => Just(Answer::Discard),
        1 => Just(Answer::Sleep),
    ]
}

fn poke() -> impl Strategy<Value = Poke> {
    let width = prop::sample::select(&Width::ALL[..]);
    let value = prop_oneof![
        any::<u32>(),
        prop::sample::select(&[0, ABORT, ENABLE, GO, 1 << 31 | 2, 0x0001_0001, 2, 3][..])
    ];
    prop_oneof![
        2 => (0..0x1c_u16, width.clone()).prop_map(|(offset, width)| Poke::Read(offset, width)),
        6 => (0..0x1c_u16, width, value.clone()).prop_map(|(offset, width, value)| Poke::Write(offset, width, value)),
        6 => (prop::sample::select(&[offset::CONTROL, offset::STATUS, offset::WRITE_MAILBOX, offset::READ_MAILBOX][..]), value)
            .prop_map(|(offset, value)| Poke::Write(offset, Width::Dword, value)),
        1 => any::<bool>().prop_map(Poke::Hold),
        1 => Just(Poke::BreakDown),
    ]
}

struct Device {
    mailbox: Mailbox<Vec<u32>>,
    answers: Vec<Answer>,
    /// What the stranger does, one after each access of the driver that is `Some`.
    pokes: Vec<Option<Poke>>,
    requests: usize,
}

impl Device {
    fn settle(&mut self) {
        while let Some(event) = self.mailbox.take_event() {
            if event != MailboxEvent::Request {
                continue;
            }
            self.requests += 1;
            let request = self.mailbox.request().expect("it was announced");
            assert!(SupportedTypes::SPDM.contains(request.object_type));
            match self.answers.pop().unwrap_or(Answer::Respond(vec![])) {
                Answer::Respond(payload) => {
                    if let Err(error) = self.mailbox.respond(&payload) {
                        assert!(matches!(error, RespondError::NoRoom { .. }), "{error}");
                        self.mailbox.fail().unwrap();
                    }
                }
                Answer::RespondAs(kind, payload) => {
                    if self.mailbox.respond_as(ObjectType::pci_sig(kind), &payload).is_err() {
                        self.mailbox.discard().unwrap();
                    }
                }
                Answer::Fail => self.mailbox.fail().unwrap(),
                Answer::Discard => self.mailbox.discard().unwrap(),
                Answer::Sleep => {}
            }
        }
    }

    fn poke(&mut self, poke: Poke) {
        match poke {
            Poke::Read(offset, width) => drop(self.mailbox.read(offset, width)),
            Poke::Write(offset, width, value) => drop(self.mailbox.write(offset, width, value)),
            Poke::Hold(held) => self.mailbox.hold(held),
            Poke::BreakDown => self.mailbox.break_down(),
        }
        self.check();
        self.settle();
        self.check();
    }

    /// What holds for the status at any time.
    fn check(&self) {
        let status = self.mailbox.status();
        assert!(!(status.error() && status.ready()), "an error leaves nothing to read");
        assert!(self.mailbox.request().is_none() || status.busy());
        assert_eq!(read(&self.mailbox, offset::STATUS), status.into_bits());
        if !status.ready() {
            assert_eq!(read(&self.mailbox, offset::READ_MAILBOX), 0);
        }
    }
}

impl DoeRegisters for Device {
    fn read32(&mut self, offset: u16) -> u32 {
        let value = read(&self.mailbox, offset);
        if let Some(Some(poke)) = self.pokes.pop() {
            self.poke(poke);
        }
        value
    }

    fn write32(&mut self, offset: u16, value: u32) {
        write(&mut self.mailbox, offset, value);
        self.settle();
        self.check();
        if let Some(Some(poke)) = self.pokes.pop() {
            self.poke(poke);
        }
    }
}

/// Steps until the exchange ends, which it must.
fn run(exchange: &mut Exchange<'_>, device: &mut Device) -> Result<usize, DoeError> {
    let mut now = Duration::ZERO;
    // Each of at most six waits of an exchange takes 128 looks and one at its end.
    for _ in 0..6 * 130 {
        match exchange.step(device, now)? {
            Step::Done(size) => return Ok(size),
            Step::Wait(time) => now += time,
        }
    }
    panic!("the exchange does not end");
}

fn device(answers: Vec<Answer>, pokes: Vec<Option<Poke>>) -> Device {
    let capability = Capability::new().with_interrupt_support(true);
    let mailbox = Mailbox::new(vec![0; 16], SupportedTypes::SPDM, capability);
    Device { mailbox, answers, pokes, requests: 0 }
}

fn padded(payload: &[u8]) -> Vec<u8> {
    let mut padded = payload.to_vec();
    padded.resize(payload.len().next_multiple_of(4), 0);
    padded
}

proptest! {
    /// Nobody pokes: every object arrives once, and its answer is what the host gets.
    #[test]
    fn objects_and_answers_arrive_as_they_were_given(
        exchanges in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..60), 1u8..3, answer()), 1..8),
    ) {
        let mut device = device(vec![], vec![]);
        let mut driver = Driver::new();
        for (payload, kind, answer) in exchanges {
            device.answers.push(answer.clone());
            let request = Object { object_type: ObjectType::pci_sig(kind), payload: &payload };
            let mut room = [0; 64];
            let before = device.requests;
            let result = run(&mut driver.exchange(request, &mut room), &mut device);
            let arrives = payload.len() <= 56;
            prop_assert_eq!(device.requests - before, usize::from(arrives));
            let answer = if arrives { answer } else { device.answers.pop().map_or(answer, |_| Answer::Fail) };
            match answer {
                Answer::Respond(response) if response.len() <= 56 => {
                    prop_assert_eq!(result.map(|size| &room[..size]), Ok(&padded(&response)[..]));
                }
                Answer::Respond(_) | Answer::Fail => prop_assert_eq!(result, Err(DoeError::Error)),
                Answer::RespondAs(other, response) if response.len() <= 56 && other == kind => {
                    prop_assert_eq!(result.map(|size| &room[..size]), Ok(&padded(&response)[..]));
                }
                Answer::RespondAs(other, response) if response.len() <= 56 => {
                    let (expected, found) = (ObjectType::pci_sig(kind), ObjectType::pci_sig(other));
                    prop_assert_eq!(result, Err(DoeError::WrongType { expected, found }));
                }
                Answer::RespondAs(..) | Answer::Discard | Answer::Sleep => {
                    prop_assert_eq!(result, Err(DoeError::Timeout));
                }
            }
        }
    }

    /// A stranger pokes during the first exchanges: each ends, and the first one alone works again.
    #[test]
    fn a_stranger_disturbs_and_leaves_nothing_behind(
        answers in prop::collection::vec(answer(), 0..6),
        pokes in prop::collection::vec(prop::option::weighted(0.3, poke()), 0..120),
        payload in prop::collection::vec(any::<u8>(), 0..57),
        exchanges in 1usize..4,
    ) {
        let mut device = device(answers, pokes);
        let mut driver = Driver::new();
        let request = Object { object_type: ObjectType::SPDM, payload: &payload };
        let mut room = [0; 64];
        for _ in 0..exchanges {
            let result = run(&mut driver.exchange(request, &mut room), &mut device);
            prop_assert_ne!(result, Err(DoeError::Ended));
        }
        device.pokes.clear();
        device.answers = vec![Answer::Respond(payload.clone())];
        // The stranger may have asked the device to be busy, and left. Then the driver may have given up.
        device.mailbox.hold(false);
        if driver.is_dead() {
            driver.revive();
        }
        let mut result = run(&mut driver.exchange(request, &mut room), &mut device);
        if result == Err(DoeError::Timeout) {
            // Half an object of the stranger was in the mailbox, which shows nowhere.
            device.answers = vec![Answer::Respond(payload.clone())];
            result = run(&mut driver.exchange(request, &mut room), &mut device);
        }
        if let Err(error @ DoeError::Error) = result {
            // Half an object of the stranger left no room for ours.
            device.answers = vec![Answer::Respond(payload.clone())];
            prop_assert!(!driver.is_dead(), "{}", error);
            result = run(&mut driver.exchange(request, &mut room), &mut device);
        }
        prop_assert_eq!(result.map(|size| &room[..size]), Ok(&padded(&payload)[..]));
    }

    /// Any registers at all: the driver ends.
    #[test]
    fn a_driver_ends_whatever_the_registers_say(values in prop::collection::vec(any::<u32>(), 1..40), clear in 1usize..4) {
        struct Noise(Vec<u32>, usize, usize);
        impl DoeRegisters for Noise {
            fn read32(&mut self, offset: u16) -> u32 {
                self.1 += 1;
                let value = self.0[self.1 % self.0.len()];
                // A status that is often idle or ready gets further, and lengths that are short end sooner.
                if offset == offset::STATUS && !self.1.is_multiple_of(self.2) { value & 1 << 31 } else { value & 0x00ff_f03f }
            }
            fn write32(&mut self, _: u16, _: u32) {}
        }
        let mut noise = Noise(values, 0, clear);
        let mut driver = Driver::new();
        let mut room = [0; 16];
        let mut exchange = driver.exchange(Object { object_type: ObjectType::SPDM, payload: &[] }, &mut room);
        let mut now = Duration::ZERO;
        let mut steps = 0;
        while let Ok(Step::Wait(time)) = exchange.step(&mut noise, now) {
            now += time;
            steps += 1;
            prop_assert!(steps < 6 * 130);
        }
    }
}
