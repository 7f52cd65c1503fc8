//! Bodies for what a stranger may put on the wire or into the registers of a device: data objects,
//! pokes at a mailbox while its driver works, and configuration spaces of any bytes.

use std::collections::BTreeSet;
use std::time::Duration;

use pcie::address::Bdf;
use pcie::cap::{Aer, Device3, DoeCapability, Express, Msix, SrIovRegisters};
use pcie::config::{
    Bar, ConfigBuilder, ConfigSpace, FunctionIds, Width, capabilities, extended_capabilities,
};
use pcie::doe::{
    Capability, Discovery, DoeError, DoeRegisters, Driver, Exchange, Header, Mailbox, MailboxEvent, Object,
    ObjectType, Step, SupportedTypes, offset,
};
use pcie::functions::{DeviceFunctions, PhysicalFunction};
use pcie::ide::{Ide, IdeCapability};

use super::bytes::Choices;

/// Dwords of the mailbox.
const DWORDS: usize = 32;
/// Operations of one run at most.
const OPERATIONS: usize = 256;
/// Steps of one exchange at most: each of its six waits takes 128 looks and one at the end.
const STEPS: usize = 6 * 130;

/// Any bytes as a data object: refused with a reason, or written as they were read.
pub fn doe_object(data: &[u8]) {
    match Object::parse(data) {
        Ok(object) => {
            let header = object.header().expect("it was read");
            assert_eq!(header.length.bytes(), data.len());
            assert_eq!(Header::decode(header.encode()), Ok(header));
            let mut written = vec![0xff; data.len()];
            assert_eq!(object.write(&mut written), Ok(data.len()));
            assert_eq!(written, data);
            let dwords: Vec<u8> = object.dwords().expect("it was read").flat_map(u32::to_le_bytes).collect();
            assert_eq!(dwords, data);
        }
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
    // The bytes as a payload: padded with less than a dword of zeros.
    let object = Object { object_type: ObjectType::SPDM, payload: data };
    if let Ok(header) = object.header() {
        let mut written = vec![0xff; header.length.bytes()];
        assert_eq!(object.write(&mut written), Ok(written.len()));
        let read = Object::parse(&written).expect("it was written");
        let (payload, padding) = read.payload.split_at(data.len());
        assert!(payload == data && padding.len() < 4 && padding.iter().all(|&byte| byte == 0));
    }
    // And as the answers to a discovery, which ends whatever they say.
    let mut discovery = Discovery::new(2);
    let mut answers = data.chunks(4);
    let mut count = 0;
    while discovery.request().is_some() {
        let taken = discovery.take(answers.next().unwrap_or_default());
        assert!(taken.is_ok() || discovery.request().is_none(), "a refused answer ends it");
        count += 1;
    }
    assert!(count <= 256);
}

/// A device whose owner and whose strangers decide by the bytes of the fuzzer.
struct Device<'a> {
    mailbox: Mailbox<[u32; DWORDS]>,
    choices: Choices<'a>,
    /// A stranger pokes in between.
    poked: bool,
    /// What the last request was and what the owner answered.
    last: Option<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Device<'_> {
    fn settle(&mut self) {
        while let Some(event) = self.mailbox.take_event() {
            if event == MailboxEvent::Request {
                self.request();
            }
        }
    }

    fn request(&mut self) {
        let request = self.mailbox.request().expect("it was announced");
        assert!(SupportedTypes::SPDM.contains(request.object_type));
        assert_ne!(request.object_type, ObjectType::DISCOVERY, "the mailbox answers a discovery");
        let asked = request.payload.to_vec();
        let answer: Vec<u8> = match self.choices.below(8) {
            0 => {
                self.mailbox.fail().expect("the request is open");
                self.last = Some((asked, None));
                return;
            }
            1 => {
                self.mailbox.discard().expect("the request is open");
                self.last = Some((asked, None));
                return;
            }
            2 => {
                // It is left open.
                self.last = Some((asked, None));
                return;
            }
            _ => {
                let len = self.choices.below(DWORDS * 4 + 4);
                (0..len).map(|_| self.choices.byte()).collect()
            }
        };
        let fits = answer.len() <= (DWORDS - 2) * 4;
        assert_eq!(self.mailbox.respond(&answer).is_ok(), fits);
        if !fits {
            self.mailbox.fail().expect("the request is still open");
        }
        self.last = Some((asked, fits.then_some(answer)));
    }

    fn poke(&mut self) {
        let offset = u16::try_from(self.choices.below(0x1c)).expect("it is small");
        let width = self.choices.of(&Width::ALL);
        let value = match self.choices.below(6) {
            0 => 1,
            1 => 2,
            2 => 1 << 31,
            3 => 0x0001_0001,
            4 => self.choices.byte().into(),
            _ => u32::try_from(self.choices.word() >> 32).expect("it has 32 bits"),
        };
        match self.choices.below(8) {
            0 => self.mailbox.hold(true),
            1 => self.mailbox.hold(false),
            2 => self.mailbox.break_down(),
            3 => drop(self.mailbox.read(offset, width)),
            4 => {
                let registers =
                    [offset::CONTROL, offset::STATUS, offset::WRITE_MAILBOX, offset::READ_MAILBOX];
                let offset = self.choices.of(&registers);
                self.mailbox.write(offset, Width::Dword, value).expect("it is a register");
            }
            _ => drop(self.mailbox.write(offset, width, value)),
        }
        self.check();
        self.settle();
    }

    fn check(&self) {
        let status = self.mailbox.status();
        assert!(!(status.error() && status.ready()));
        assert!(self.mailbox.request().is_none() || status.busy());
    }

    fn maybe_poke(&mut self) {
        if self.poked && self.choices.byte() < 64 && !self.choices.is_empty() {
            self.poke();
        }
    }
}

impl DoeRegisters for Device<'_> {
    fn read32(&mut self, offset: u16) -> u32 {
        self.maybe_poke();
        self.mailbox.read(offset, Width::Dword).expect("a driver reads registers")
    }

    fn write32(&mut self, offset: u16, value: u32) {
        self.mailbox.write(offset, Width::Dword, value).expect("a driver writes registers");
        self.check();
        self.settle();
        self.maybe_poke();
    }
}

fn run(exchange: &mut Exchange<'_>, device: &mut Device<'_>) -> Result<usize, DoeError> {
    let mut now = Duration::ZERO;
    for _ in 0..STEPS {
        match exchange.step(device, now)? {
            Step::Done(size) => return Ok(size),
            Step::Wait(time) => now += time,
        }
    }
    panic!("an exchange does not end")
}

/// A driver and a mailbox, with a stranger at the same registers or without: every exchange ends, and
/// without a stranger the host gets what the owner has answered.
pub fn doe_mailbox(data: &[u8]) {
    let capability = Capability::new().with_interrupt_support(true);
    let mailbox = Mailbox::new([0; DWORDS], SupportedTypes::SPDM, capability);
    let mut device = Device { mailbox, choices: Choices::new(data), poked: false, last: None };
    let mut driver = Driver::new();
    for _ in 0..OPERATIONS {
        if device.choices.is_empty() {
            break;
        }
        device.poked = device.choices.flag();
        let len = device.choices.below(DWORDS * 4);
        let payload: Vec<u8> = (0..len).map(|_| device.choices.byte()).collect();
        let object_type = device.choices.of(&[ObjectType::SPDM, ObjectType::SECURED_SPDM]);
        let mut response = [0; DWORDS * 4];
        device.last = None;
        let mut exchange = driver.exchange(Object { object_type, payload: &payload }, &mut response);
        let result = run(&mut exchange, &mut device);
        assert_ne!(result, Err(DoeError::Ended));
        if device.poked {
            // What the stranger has left is none of the next exchange's business.
            device.mailbox.reset();
            driver.revive();
            continue;
        }
        let padded = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        match device.last.take() {
            Some((asked, answer)) => {
                assert_eq!(asked, padded(&payload));
                let answer = answer.map(|answer| padded(&answer));
                assert_eq!(result.ok().map(|size| response[..size].to_vec()), answer);
            }
            None => assert!(len > (DWORDS - 2) * 4, "{result:?}"),
        }
        assert!(!driver.is_dead());
    }
}

/// Any bytes as a configuration space, and any order of building one: walks end inside the space, and
/// what was built is found.
pub fn config_space(data: &[u8]) {
    walk(&ConfigSpace::from_image(data));
    let mut choices = Choices::new(data);
    let ids = FunctionIds {
        vendor: 0x8086,
        device: 1,
        revision: choices.byte(),
        class: [choices.byte(), 0, 0],
        subsystem_vendor: 0,
        subsystem: 0,
    };
    let mut builder = if choices.flag() { ConfigBuilder::endpoint(ids) } else { ConfigBuilder::bridge(ids) };
    let mut placed = BTreeSet::new();
    for _ in 0..OPERATIONS {
        if choices.is_empty() {
            break;
        }
        let at = u16::try_from(choices.below(0x1100)).expect("it is small") & !u16::from(choices.byte() & 3);
        match choices.below(5) {
            0 => {
                let bar = Bar { size: 1 << (choices.byte() & 63), wide: choices.flag(), prefetchable: true };
                let _ = builder.bar(choices.byte() & 7, bar);
            }
            1 => placed.extend(builder.extended_at(at, &Aer)),
            2 => placed.extend(builder.extended(&Device3::default())),
            3 => {
                let registers = Capability::from_bits(choices.byte().into());
                let mailbox = DoeCapability { version: choices.byte(), registers };
                placed.extend(if choices.flag() {
                    builder.extended_at(at, &mailbox)
                } else {
                    builder.extended(&mailbox)
                });
            }
            _ => {
                let blocks = [choices.byte() & 0x1f, choices.byte() & 0xf, 1];
                let ide = IdeCapability {
                    features: pcie::ide::Capability::from_bits(u32::from(choices.byte()) << 2),
                    link_streams: choices.byte() & 0xf,
                    selective_streams: &blocks[..choices.below(4)],
                };
                placed.extend(builder.extended_at(at, &ide));
            }
        }
    }
    let mut space = builder.build();
    let found: BTreeSet<u16> =
        extended_capabilities(&space).map(|found| found.expect("a built chain is sound").offset).collect();
    assert_eq!(found, placed);
    for _ in 0..OPERATIONS {
        if choices.is_empty() {
            break;
        }
        let offset = u16::try_from(choices.below(0x1100)).expect("it is small");
        let _ = space.write(offset, choices.of(&Width::ALL), choices.byte().into());
    }
    let still: BTreeSet<u16> = extended_capabilities(&space).flatten().map(|found| found.offset).collect();
    assert_eq!(still, placed, "software cannot change a chain");
    walk(&space);
}

/// Looks at everything in a space.
fn walk(space: &ConfigSpace) {
    assert!(capabilities(space).count() <= 49);
    assert!(extended_capabilities(space).count() <= 961);
    for found in extended_capabilities(space).flatten() {
        DoeCapability::read(space, found);
    }
    Aer::uncorrectable(space);
    Device3::find(space);
    Express::find(space);
    Express::control(space);
    Msix::find(space);
    for index in 0..8 {
        if let Some(view) = space.bar(index) {
            assert!(view.bar.size.is_power_of_two());
        }
    }
    let physical = PhysicalFunction {
        bdf: Bdf::from_routing_id(0x3b00),
        virtual_functions: SrIovRegisters::find(space),
    };
    if let Ok(device) = DeviceFunctions::new(&[physical], false) {
        for (bdf, kind) in device.iter().step_by(97) {
            assert_eq!(device.kind(bdf), Some(kind));
        }
    }
    if let Some(ide) = Ide::find(space) {
        for stream in ide.streams() {
            assert!(stream.status() < 4096);
            ide.stream_status(&stream);
            if let Some(association) = ide.rid_association(&stream) {
                assert_eq!(
                    association.contains(association.first()),
                    association.first() <= association.last()
                );
            }
            for association in
                (0..stream.address_blocks).filter_map(|index| ide.address_association(&stream, index))
            {
                assert!(association.last().0 & 0xf_ffff == 0xf_ffff);
            }
        }
        assert_eq!(ide.image().count() * 4 + 4, usize::from(ide.size()));
    }
}
