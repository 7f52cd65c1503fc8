//! Bodies for a modelled TEE-IO device: its file, its socket, and its registers.

use std::cell::RefCell;
use std::io;
use std::time::Duration;

use pcie::FunctionId;
use pcie::config::Width;
use pcie::doe::{Object, ObjectType};
use spdm::Kind;
use spdm::tdisp::TdiState;
use tdx_machine::endpoint::{Endpoint, EndpointSpec, MmioAccess, devices};
use tdxhost::dsm::listen::{Tally, serve_commands};
use tdxhost::dsm::modelled::Modelled;
use tdxhost::dsm::record::Recorder;
use tdxhost::dsm::socket::{Command, Limits, Link, Stream};

use super::bytes::Choices;

const NOW: Duration = Duration::from_secs(1_800_000_000);
/// Operations of one run at most.
const OPERATIONS: usize = 256;
const GET_VERSION: [u8; 4] = [0x10, 0x84, 0, 0];
const VERSION: [u8; 2] = [0x10, 0x04];

/// A device file is refused in one line, or it is a device whose file says the same.
pub fn device_file(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match EndpointSpec::from_toml(&text) {
        Ok(spec) => {
            let written = spec.to_toml().expect("what was read can be written");
            assert_eq!(EndpointSpec::from_toml(&written), Ok(spec));
        }
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
}

/// The bytes of a client in pieces of one size; what is written is kept.
struct Pieces<'a> {
    left: &'a [u8],
    piece: usize,
    written: Vec<u8>,
}

impl Stream for Pieces<'_> {
    fn receive(&mut self, buffer: &mut [u8], _: Duration) -> io::Result<usize> {
        let (now, later) = self.left.split_at(self.left.len().min(self.piece).min(buffer.len()));
        buffer[..now.len()].copy_from_slice(now);
        self.left = later;
        Ok(now.len())
    }

    fn send(&mut self, bytes: &[u8], _: Duration) -> io::Result<()> {
        self.written.extend_from_slice(bytes);
        Ok(())
    }
}

fn default_device() -> Endpoint {
    let spec = devices::find("default").expect("it is built in").spec().expect("and in order");
    Endpoint::new(&spec, 0, NOW).expect("and can be built")
}

thread_local! {
    // Certificates take longer than everything else.
    static SERVED: RefCell<Modelled> = RefCell::new(Modelled::new(default_device()));
    static REGISTERS: RefCell<Endpoint> = RefCell::new(default_device());
}

/// Whatever comes on the socket, answers are whole frames with whole data objects, and the next client
/// is served. The first byte is the size of the pieces in which the others come.
pub fn dsm_socket(data: &[u8]) {
    let Some((&piece, stream)) = data.split_first() else { return };
    SERVED.with_borrow_mut(|device| {
        let stream = Pieces { left: stream, piece: usize::from(piece).max(1), written: Vec::new() };
        let mut link = Link::new(stream, Limits::default());
        let mut tally = Tally::default();
        let end = serve_commands(&mut link, device, &mut Recorder::default(), &mut tally);
        assert!(!end.to_string().contains('\n') && !end.name().is_empty());
        assert!(tally.unanswered <= tally.messages && tally.messages <= tally.frames);

        let answers = Pieces { left: &link.stream().written, piece: usize::MAX, written: Vec::new() };
        let mut answers = Link::new(answers, Limits::default());
        let mut frames = 0;
        while let Some(frame) = answers.receive().expect("answers are frames") {
            frames += 1;
            if frame.command == Command::NORMAL {
                let object = Object::parse(frame.payload).expect("with data objects");
                assert!(matches!(
                    object.object_type,
                    ObjectType::DISCOVERY | ObjectType::SPDM | ObjectType::SECURED_SPDM
                ));
            }
        }
        assert!(frames <= tally.frames);

        let mut hello = Vec::new();
        tdxhost::dsm::listen::write_object(ObjectType::SPDM, &GET_VERSION, &mut hello).expect("it is short");
        let mut frame = Link::new(Pieces { left: &[], piece: 1, written: Vec::new() }, Limits::default());
        frame.send(Command::NORMAL, &hello).expect("nothing refuses it");
        let next = Pieces { left: &frame.stream().written, piece: usize::MAX, written: Vec::new() };
        let mut next = Link::new(next, Limits::default());
        serve_commands(&mut next, device, &mut Recorder::default(), &mut Tally::default());
        assert_eq!(next.stream().written.get(20..22), Some(&VERSION[..]), "the next client is served");
    });
}

/// Whatever is written to configuration space and registers, nothing but a session locks an interface,
/// functions are there or not, and a reset leads back to power-on.
pub fn endpoint_config(data: &[u8]) {
    REGISTERS.with_borrow_mut(|device| {
        device.reset();
        let all: Vec<FunctionId> = device.functions().map(|facts| facts.id).collect();
        let at_power_on: Vec<_> = device.functions().collect();
        let mut choices = Choices::new(data);
        for _ in 0..OPERATIONS {
            if choices.is_empty() {
                break;
            }
            step(device, &all, &mut choices);
            for facts in device.functions() {
                assert_eq!(facts.state, TdiState::UNLOCKED, "{}", facts.id);
                assert_eq!(device.state(facts.id), Some(facts.state));
                let window = facts.window;
                assert!(window.is_none_or(|window| window.is_multiple_of(0x1_0000)), "{window:?}");
            }
            let physical = device.functions().filter(|facts| !facts.is_virtual);
            assert_eq!(physical.count(), 2);
        }
        device.reset();
        assert_eq!(device.functions().collect::<Vec<_>>(), at_power_on);
        let version = device.exchange(Kind::Clear, &GET_VERSION, Duration::ZERO, &mut ());
        assert!(version.is_some_and(|(kind, answer)| kind == Kind::Clear && answer.starts_with(&VERSION)));
    });
}

fn step(device: &mut Endpoint, all: &[FunctionId], choices: &mut Choices<'_>) {
    let function = choices.of(all);
    match choices.below(8) {
        0..4 => {
            let width = choices.of(&Width::ALL);
            let at = u16::try_from(choices.below(4096 + 16)).unwrap_or(u16::MAX);
            let [a, b, c, d, ..] = choices.word().to_le_bytes();
            let value = u32::from_le_bytes([a, b, c, d]);
            let written = device.config_write(function, at, width, value, Duration::ZERO, &mut ());
            let read = device.config_read(function, at, width);
            if let Ok(read) = read {
                assert_eq!(read & !width.mask(), 0);
            }
            // A write may make the function vanish, and then every read is all ones.
            assert!(written.is_ok() || read.is_err() || device.state(function).is_none());
        }
        4 => {
            let access = access(choices);
            let read = device.mmio_read(function, access);
            let bits = u32::from(access.size) * 8;
            assert!(read.is_err() || bits >= 64 || read.is_ok_and(|value| value >> bits == 0));
        }
        5 => {
            let (access, value) = (access(choices), choices.word());
            assert_eq!(
                device.mmio_write(function, access, value, &mut ()).is_ok(),
                device.mmio_read(function, access).is_ok()
            );
        }
        6 => {
            let message: Vec<u8> = (0..choices.below(48)).map(|_| choices.byte()).collect();
            let kind = if choices.flag() { Kind::Clear } else { Kind::Secured };
            let answered = device.exchange(kind, &message, Duration::ZERO, &mut ());
            assert!(answered.is_some() || kind == Kind::Secured);
        }
        _ => device.disconnect(),
    }
}

fn access(choices: &mut Choices<'_>) -> MmioAccess {
    let size = choices.of(&[1, 2, 4, 8, 3]);
    let offset =
        u64::try_from(choices.below(0x1_0000)).unwrap_or(0) + if choices.flag() { 0x8000 } else { 0 };
    MmioAccess { offset, size, tee: choices.flag() }
}
