use std::collections::VecDeque;
use std::time::Duration;
use std::vec;

use super::*;

/// A device: a mailbox and what its owner does with a request.
struct Device<O> {
    mailbox: Mailbox<Vec<u32>>,
    owner: O,
}

impl<O: FnMut(&mut Mailbox<Vec<u32>>)> Device<O> {
    fn new(owner: O) -> Self {
        Self { mailbox: Mailbox::new(vec![0; 64], SupportedTypes::SPDM, Capability::new()), owner }
    }
}

impl<O: FnMut(&mut Mailbox<Vec<u32>>)> DoeRegisters for Device<O> {
    fn read32(&mut self, offset: u16) -> u32 {
        read(&self.mailbox, offset)
    }

    fn write32(&mut self, offset: u16, value: u32) {
        write(&mut self.mailbox, offset, value);
        while let Some(event) = self.mailbox.take_event() {
            if event == MailboxEvent::Request {
                (self.owner)(&mut self.mailbox);
            }
        }
    }
}

/// Steps until the exchange ends, and says when that was.
fn run(
    exchange: &mut Exchange<'_>,
    registers: &mut impl DoeRegisters,
) -> (Result<usize, DoeError>, Duration) {
    let mut elapsed = Duration::ZERO;
    loop {
        match exchange.step(registers, Duration::from_secs(1000) + elapsed) {
            Ok(Step::Wait(time)) => elapsed += time,
            Ok(Step::Done(size)) => return (Ok(size), elapsed),
            Err(error) => return (Err(error), elapsed),
        }
    }
}

const GET_VERSION: Object<'_> = Object { object_type: ObjectType::SPDM, payload: &[0x10, 0x84, 0, 0] };

fn exchange(driver: &mut Driver, registers: &mut impl DoeRegisters) -> Result<Vec<u8>, DoeError> {
    let mut response = [0xee; 32];
    let (size, _) = run(&mut driver.exchange(GET_VERSION, &mut response), registers);
    size.map(|size| response[..size].to_vec())
}

#[test]
fn an_object_goes_out_and_its_response_comes_back() {
    let mut device = Device::new(|mailbox| {
        let payload = mailbox.request().unwrap().payload.to_vec();
        assert_eq!(payload, GET_VERSION.payload);
        mailbox.respond(b"hello").unwrap();
    });
    let mut driver = Driver::new();
    for _ in 0..3 {
        assert_eq!(exchange(&mut driver, &mut device).unwrap(), b"hello\0\0\0");
    }
}

#[test]
fn an_empty_response_is_one() {
    let mut device = Device::new(|mailbox| mailbox.respond(&[]).unwrap());
    assert_eq!(exchange(&mut Driver::new(), &mut device), Ok(vec![]));
}

#[test]
fn every_type_of_a_mailbox_is_discovered() {
    let mut device = Device::new(|_| panic!("the mailbox answers a discovery"));
    let (mut driver, mut discovery) = (Driver::new(), Discovery::new(2));
    let mut types = Vec::new();
    while let Some(request) = discovery.request() {
        let request = Object { object_type: ObjectType::DISCOVERY, payload: &request };
        let mut response = [0; 4];
        let size = run(&mut driver.exchange(request, &mut response), &mut device).0.unwrap();
        types.push(discovery.take(&response[..size]).unwrap());
    }
    assert_eq!(types, SupportedTypes::SPDM.as_slice());
}

#[test]
fn a_discovery_asks_in_the_version_of_the_capability() {
    assert_eq!(Discovery::new(1).request(), Some([0, 0, 0, 0]));
    assert_eq!(Discovery::new(2).request(), Some([0, 2, 0, 0]));
}

#[test]
fn a_discovery_that_would_never_end_is_given_up() {
    let mut discovery = Discovery::new(2);
    assert_eq!(discovery.take(&[1, 0, 0, 5]), Ok(ObjectType::DISCOVERY));
    assert_eq!(discovery.request(), Some([5, 2, 0, 0]));
    let error = DiscoveryError::NotAscending { index: 5, next: 5 };
    assert_eq!(discovery.take(&[1, 0, 1, 5]), Err(error));
    assert_eq!(discovery.request(), None);
}

#[test]
fn a_discovery_response_of_another_size_or_without_vendor_is_refused() {
    assert_eq!(Discovery::new(0).take(&[1, 0, 0]), Err(DiscoveryError::Length(3)));
    assert_eq!(Discovery::new(0).take(&[0; 8]), Err(DiscoveryError::Length(8)));
    assert_eq!(Discovery::new(0).take(&[0xff, 0xff, 0xff, 0]), Err(DiscoveryError::NoVendor(0)));
}

#[test]
fn silence_is_a_timeout_after_a_second_and_the_next_exchange_works() {
    let mut silent = true;
    let mut device = Device::new(move |mailbox| {
        if core::mem::replace(&mut silent, false) {
            mailbox.discard().unwrap();
        } else {
            mailbox.respond(b"late").unwrap();
        }
    });
    let mut driver = Driver::new();
    let mut response = [0; 8];
    let (result, time) = run(&mut driver.exchange(GET_VERSION, &mut response), &mut device);
    assert_eq!(result, Err(DoeError::Timeout));
    assert!(time >= TIMEOUT && time < TIMEOUT + 2 * POLL_INTERVAL, "{time:?}");
    assert_eq!(exchange(&mut driver, &mut device).unwrap(), b"late");
}

#[test]
fn an_error_of_the_device_is_reported_after_it_was_cleared() {
    let mut device = Device::new(|mailbox| mailbox.fail().unwrap());
    let mut driver = Driver::new();
    assert_eq!(exchange(&mut driver, &mut device), Err(DoeError::Error));
    assert_eq!(device.mailbox.status(), Status::new());
    assert!(!driver.is_dead());
}

#[test]
fn a_request_that_the_device_still_works_on_times_out_and_is_aborted() {
    let mut device = Device::new(|_| {});
    assert_eq!(exchange(&mut Driver::new(), &mut device), Err(DoeError::Timeout));
    assert_eq!(device.mailbox.status(), Status::new());
}

#[test]
fn a_response_of_another_type_is_refused_and_the_next_exchange_works() {
    let mut wrong = true;
    let mut device = Device::new(move |mailbox| {
        let wrong = core::mem::replace(&mut wrong, false);
        let object_type = if wrong { ObjectType::SECURED_SPDM } else { ObjectType::SPDM };
        mailbox.respond_as(object_type, b"data").unwrap();
    });
    let mut driver = Driver::new();
    let error = DoeError::WrongType { expected: ObjectType::SPDM, found: ObjectType::SECURED_SPDM };
    assert_eq!(exchange(&mut driver, &mut device), Err(error));
    assert_eq!(exchange(&mut driver, &mut device).unwrap(), b"data");
}

#[test]
fn a_response_that_is_longer_than_the_buffer_is_drained() {
    let mut size = 40;
    let mut device = Device::new(move |mailbox| {
        mailbox.respond(&[7; 40][..size]).unwrap();
        size = 32;
    });
    let mut driver = Driver::new();
    assert_eq!(exchange(&mut driver, &mut device), Err(DoeError::NoRoom { needed: 40, room: 32 }));
    assert_eq!(device.mailbox.status(), Status::new());
    assert_eq!(exchange(&mut driver, &mut device), Ok(vec![7; 32]));
}

#[test]
fn a_request_that_is_too_long_is_refused_before_anything_is_written() {
    let mut device = Device::new(|_| panic!("nothing is sent"));
    let payload = vec![0; 1 << 20];
    let request = Object { object_type: ObjectType::SPDM, payload: &payload };
    let mut driver = Driver::new();
    let (result, _) = run(&mut driver.exchange(request, &mut []), &mut device);
    assert_eq!(result, Err(DoeError::Request(ObjectError::TooLong((1 << 20) + 8))));
}

#[test]
fn what_somebody_else_left_in_the_mailbox_is_cleared_away_first() {
    let mut device = Device::new(|mailbox| mailbox.respond(b"mine").unwrap());
    let mut driver = Driver::new();
    assert_eq!(exchange(&mut driver, &mut device).unwrap(), b"mine");
    // An answer that nobody reads, half an object, an error.
    send(&mut device.mailbox, &[1, 3, 0]);
    assert!(device.mailbox.status().ready());
    assert_eq!(exchange(&mut driver, &mut device).unwrap(), b"mine");
    device.mailbox.break_down();
    assert_eq!(exchange(&mut driver, &mut device).unwrap(), b"mine");
    write(&mut device.mailbox, offset::WRITE_MAILBOX, 1);
    assert_eq!(exchange(&mut driver, &mut device), Err(DoeError::Timeout));
    assert_eq!(exchange(&mut driver, &mut device).unwrap(), b"mine");
}

#[test]
fn an_exchange_that_was_left_does_not_disturb_the_next_one() {
    let mut device = Device::new(|_| {});
    let mut driver = Driver::new();
    run(&mut driver.abort(), &mut device).0.unwrap();
    let mut response = [0; 4];
    let step = driver.exchange(GET_VERSION, &mut response).step(&mut device, Duration::ZERO);
    assert_eq!(step, Ok(Step::Wait(POLL_INTERVAL)));
    assert!(device.mailbox.status().busy());
    let mut device = Device {
        mailbox: device.mailbox,
        owner: |mailbox: &mut Mailbox<_>| mailbox.respond(b"next").unwrap(),
    };
    assert_eq!(exchange(&mut driver, &mut device).unwrap(), b"next");
}

#[test]
fn a_busy_mailbox_is_waited_for_and_given_up_after_a_second() {
    let mut device = Device::new(|mailbox| mailbox.respond(&[]).unwrap());
    let mut driver = Driver::new();
    run(&mut driver.abort(), &mut device).0.unwrap();
    device.mailbox.hold(true);
    let mut response = [0; 4];
    let mut busy = driver.exchange(GET_VERSION, &mut response);
    assert_eq!(busy.step(&mut device, Duration::ZERO), Ok(Step::Wait(POLL_INTERVAL)));
    assert_eq!(busy.step(&mut device, TIMEOUT.mul_f32(0.99)), Ok(Step::Wait(POLL_INTERVAL)));
    // The abort that follows does not help either while the mailbox is held.
    assert_eq!(busy.step(&mut device, TIMEOUT), Ok(Step::Wait(POLL_INTERVAL)));
    device.mailbox.hold(false);
    assert_eq!(busy.step(&mut device, TIMEOUT + POLL_INTERVAL), Err(DoeError::Busy));
    assert_eq!(busy.step(&mut device, TIMEOUT + POLL_INTERVAL), Err(DoeError::Ended));
    assert_eq!(exchange(&mut driver, &mut device), Ok(vec![]));
}

#[test]
fn a_mailbox_that_an_abort_does_not_bring_back_is_dead_until_it_is_reset() {
    let mut device = Device::new(|mailbox| mailbox.respond(&[]).unwrap());
    device.mailbox.hold(true);
    let mut driver = Driver::new();
    let (result, time) = run(&mut driver.abort(), &mut device);
    assert_eq!(result, Err(DoeError::Dead));
    assert!(time >= TIMEOUT);
    device.mailbox.reset();
    assert!(driver.is_dead());
    assert_eq!(exchange(&mut driver, &mut device), Err(DoeError::Dead));
    driver.revive();
    assert_eq!(exchange(&mut driver, &mut device), Ok(vec![]));
}

#[test]
fn an_interrupt_enable_of_somebody_else_is_left_as_it_is() {
    let mut device = Device::new(|mailbox| mailbox.respond(&[]).unwrap());
    device.mailbox =
        Mailbox::new(vec![0; 64], SupportedTypes::SPDM, Capability::new().with_interrupt_support(true));
    write(&mut device.mailbox, offset::CONTROL, ENABLE);
    assert_eq!(exchange(&mut Driver::new(), &mut device), Ok(vec![]));
    assert_eq!(read(&device.mailbox, offset::CONTROL), ENABLE);
}

/// Registers of a device that keeps no rules: the dwords of the read mailbox, and the last status.
struct Script {
    dwords: VecDeque<u32>,
    /// Ready while dwords are left; afterwards this.
    after: Status,
    sent: bool,
    aborts: usize,
}

impl Script {
    fn new(dwords: &[u32], after: Status) -> Self {
        Self { dwords: dwords.iter().copied().collect(), after, sent: false, aborts: 0 }
    }
}

impl DoeRegisters for Script {
    fn read32(&mut self, offset: u16) -> u32 {
        let ready = Status::new().with_ready(true);
        match offset {
            offset::STATUS if !self.sent => 0,
            offset::STATUS if self.dwords.is_empty() => self.after.into_bits(),
            offset::STATUS => ready.into_bits(),
            offset::READ_MAILBOX => self.dwords.front().copied().unwrap_or(0),
            _ => 0,
        }
    }

    fn write32(&mut self, offset: u16, value: u32) {
        match offset {
            offset::CONTROL if Control::from_bits(value).abort() => {
                self.aborts += 1;
                self.sent = false;
            }
            offset::CONTROL => self.sent = true,
            offset::READ_MAILBOX => drop(self.dwords.pop_front()),
            _ => {}
        }
    }
}

#[test]
fn a_response_that_is_no_object_is_refused_by_name_and_aborted() {
    let idle = Status::new();
    let length = |dwords| ObjectLength::from_dwords(dwords).unwrap();
    for (dwords, after, error) in [
        (&[0x0001_0001, 1][..], idle, DoeError::BadHeader(ObjectError::TooShort(1))),
        (
            &[0xff01_0001, 3, 0],
            idle,
            DoeError::BadHeader(ObjectError::Reserved { dword: 0, bits: 0xff00_0000 }),
        ),
        (&[0x0001_0001, 4, 7], idle, DoeError::Short { expected: length(4), found: 3 }),
        (&[0x0001_0001], idle, DoeError::Short { expected: length(1 << 18), found: 1 }),
        (&[0x0001_0001, 3, 7, 8], idle, DoeError::Overlong(length(3))),
        (&[0x0001_0001, 2, 8], idle, DoeError::Overlong(length(2))),
        (&[0x0001_0001, 3, 7], idle.with_error(true), DoeError::Error),
    ] {
        let mut script = Script::new(dwords, after);
        let mut driver = Driver::new();
        assert_eq!(exchange(&mut driver, &mut script), Err(error), "{dwords:x?}");
        assert_eq!(script.aborts, 2, "before the first exchange, and after the error");
    }
}

/// Registers that always read as one value.
struct Stuck(u32);

impl DoeRegisters for Stuck {
    fn read32(&mut self, _: u16) -> u32 {
        self.0
    }

    fn write32(&mut self, _: u16, _: u32) {}
}

#[test]
fn registers_that_are_stuck_end_in_a_dead_mailbox_or_a_timeout() {
    for (value, error) in [
        (0xffff_ffff, DoeError::Dead),
        (1 << 31, DoeError::Dead),
        (4, DoeError::Dead),
        (1, DoeError::Dead),
        (0, DoeError::Timeout),
    ] {
        assert_eq!(exchange(&mut Driver::new(), &mut Stuck(value)), Err(error), "{value:#x}");
    }
}

/// A mailbox whose status comes from a list, again and again.
struct Flicker(VecDeque<u32>);

impl DoeRegisters for Flicker {
    fn read32(&mut self, offset: u16) -> u32 {
        if offset == offset::STATUS {
            self.0.rotate_left(1);
            return *self.0.back().unwrap();
        }
        0
    }

    fn write32(&mut self, _: u16, _: u32) {}
}

#[test]
fn a_mailbox_that_has_an_error_again_after_each_abort_is_not_aborted_forever() {
    let mut flicker = Flicker([0, 4].into());
    assert_eq!(exchange(&mut Driver::new(), &mut flicker), Err(DoeError::Error));
}
