//! A root port and a device behind it.

use std::collections::BTreeMap;
use std::fmt;

use pcie::cap::{Aer, DoeCapability, Express, MaxPayload, PortType, SrIov, UncorrectableErrors};
use pcie::config::{ConfigBuilder, ConfigSpace, FunctionIds, ReadConfig, Width, offset};
use pcie::doe::{Capability, DOE_SIZE, Mailbox, MailboxEvent, ObjectType, SupportedTypes};
use pcie::ide::{self, Ide, IdeCapability, StreamState};
use pcie::{Bdf, FunctionId, Segment};
use tdx_host::traits::{HostBridge, PciFunction};

use super::connect::bridge;

pub(crate) const BRIDGE_BUS: u8 = 0;
const DEVICE_BUS: u8 = 1;

/// The root port.
pub(crate) const PORT: FunctionId = at(BRIDGE_BUS, 3, 0);
/// Function 0 of the device.
pub(crate) const DEVICE: FunctionId = at(DEVICE_BUS, 0, 0);

pub(crate) const fn at(bus: u8, device: u8, function: u8) -> FunctionId {
    match Bdf::new(bus, device, function) {
        Some(bdf) => FunctionId::new(Segment(0), bdf),
        None => panic!("no such place"),
    }
}

/// What a device does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It never answers.
    Silent,
    /// Nor does its mailbox come back from an abort.
    Dead,
    /// It is taken out.
    Gone,
    /// It answers with something else than it should.
    Wrong,
}

/// The hardware. Public: tests bend it.
#[derive(Default)]
pub(crate) struct Pcie {
    pub(crate) spaces: BTreeMap<FunctionId, ConfigSpace>,
    mailbox: Option<(u16, Mailbox<Vec<u32>>)>,
    /// From the so many-th exchange with the device on.
    pub(crate) trouble: Option<(u64, Trouble)>,
    pub(crate) exchanges: u64,
    pub(crate) gone: bool,
    /// Streams stay insecure whatever is enabled.
    pub(crate) insecure: bool,
    pub(crate) bus_resets: u32,
    /// Looks at each access to the mailbox.
    pub(crate) watch: Option<Box<dyn Fn() + Send>>,
}

impl fmt::Debug for Pcie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pcie").finish_non_exhaustive()
    }
}

const IDS: FunctionIds = FunctionIds {
    vendor: 0x8086,
    device: 0x0d93,
    revision: 1,
    class: [0x12, 0, 0],
    subsystem_vendor: 0x8086,
    subsystem: 0,
};

const fn express(port_type: PortType, tee_io: bool) -> Express {
    Express {
        port_type,
        max_payload: MaxPayload::MIN,
        function_reset: true,
        tee_io,
        link_speed: 5,
        link_width: 16,
    }
}

fn ide(blocks: &[u8]) -> IdeCapability<'_> {
    let features =
        ide::Capability::new().with_ide_km(true).with_selective_config(true).with_tee_limited(true);
    IdeCapability { features, link_streams: 0, selective_streams: blocks }
}

/// What is built.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape<'a> {
    /// Address blocks of each selective stream of the port; none: no IDE.
    pub(crate) port_streams: &'a [u8],
    pub(crate) device_streams: &'a [u8],
    pub(crate) tee: bool,
    pub(crate) types: &'a [ObjectType],
    pub(crate) virtual_functions: u16,
    /// First and last MiB of the port's prefetchable window.
    pub(crate) window: (u32, u32),
}

impl Default for Shape<'_> {
    fn default() -> Self {
        Self {
            port_streams: &[1, 1],
            device_streams: &[1],
            tee: true,
            types: &[ObjectType::SPDM, ObjectType::SECURED_SPDM],
            virtual_functions: 0,
            window: (0x1_0000, 0x1_00ff),
        }
    }
}

impl Pcie {
    /// A root port with a device behind it.
    pub(crate) fn new(shape: Shape<'_>) -> Self {
        let mut port = ConfigBuilder::bridge(IDS);
        port.capability(&express(PortType::ROOT_PORT, false)).unwrap();
        if !shape.port_streams.is_empty() {
            port.extended(&ide(shape.port_streams)).unwrap();
        }
        port.extended(&Aer).unwrap();
        let mut port = port.build();
        let (first, last) = shape.window;
        let low = (last & 0xfff) << 20 | (first & 0xfff) << 4 | 0x1_0001;
        port.set(offset::PREFETCHABLE, Width::Dword, low).unwrap();
        port.set(offset::PREFETCHABLE_UPPER, Width::Dword, first >> 12).unwrap();
        port.set(offset::PREFETCHABLE_UPPER + 4, Width::Dword, last >> 12).unwrap();

        let mut device = ConfigBuilder::endpoint(IDS);
        device.capability(&express(PortType::ENDPOINT, shape.tee)).unwrap();
        if !shape.device_streams.is_empty() {
            device.extended(&ide(shape.device_streams)).unwrap();
        }
        device.extended(&Aer).unwrap();
        let mut mailbox = None;
        if !shape.types.is_empty() {
            let capability = DoeCapability { version: 2, registers: Capability::new() };
            let types = SupportedTypes::new(shape.types).unwrap();
            let offset = device.extended(&capability).unwrap();
            mailbox = Some((offset, Mailbox::new(vec![0; 1024], types, Capability::new())));
        }
        if shape.virtual_functions > 0 {
            let total = shape.virtual_functions;
            let sriov = SrIov { total, first_offset: 8, stride: 1, device: 1, bars: [None; 6] };
            let offset = device.extended(&sriov).unwrap();
            let mut device = device.build();
            device.set(offset + 8, Width::Dword, 1).unwrap();
            device.set(offset + 0x10, Width::Dword, total.into()).unwrap();
            return Self::of(port, device, mailbox);
        }
        Self::of(port, device.build(), mailbox)
    }

    fn of(port: ConfigSpace, device: ConfigSpace, mailbox: Option<(u16, Mailbox<Vec<u32>>)>) -> Self {
        let mut spaces = BTreeMap::new();
        spaces.insert(PORT, port);
        spaces.insert(DEVICE, device);
        Self { spaces, mailbox, ..Self::default() }
    }

    /// As an operating system enumerates it.
    pub(crate) fn functions() -> [PciFunction; 2] {
        let bridge = pcie_bridge();
        [
            PciFunction { id: PORT, root_port: None, physical: None, bridge },
            PciFunction { id: DEVICE, root_port: Some(PORT), physical: None, bridge },
        ]
    }

    /// Registers of a selective stream of a function: control, status, RIDs, addresses.
    pub(crate) fn stream_registers(&self, function: FunctionId, index: u8) -> Vec<u32> {
        let space = &self.spaces[&function];
        let block = Ide::find(space).unwrap().selective(index).unwrap();
        block.registers().skip(4).step_by(4).map(|at| space.dword(at)).collect()
    }

    /// Registers of a device that comes back are as after power-on.
    pub(crate) fn write_all_streams_off(&mut self) {
        let Some(space) = self.spaces.get_mut(&DEVICE) else { return };
        let Some(ide) = Ide::find(space) else { return };
        let registers: Vec<u16> =
            ide.streams().flat_map(|stream| stream.registers().skip(4).step_by(4)).collect();
        for at in registers {
            space.set(at, Width::Dword, 0).unwrap();
        }
    }

    fn absent(&self, function: FunctionId) -> bool {
        function != PORT && self.gone
    }

    pub(crate) fn read(&mut self, function: FunctionId, at: u16, width: Width) -> u32 {
        if self.absent(function) {
            return width.mask();
        }
        if let Some((offset, mailbox)) = &self.mailbox
            && function == DEVICE
            && (offset + 4..offset + DOE_SIZE).contains(&at)
        {
            if let Some(watch) = &self.watch {
                watch();
            }
            return mailbox.read(at - offset, width).unwrap();
        }
        self.spaces.get(&function).map_or(width.mask(), |space| space.read(at, width).unwrap())
    }

    pub(crate) fn write(&mut self, function: FunctionId, at: u16, width: Width, value: u32) {
        if self.absent(function) {
            return;
        }
        if let Some((offset, mailbox)) = &mut self.mailbox
            && function == DEVICE
            && (*offset + 4..*offset + DOE_SIZE).contains(&at)
        {
            mailbox.write(at - *offset, width, value).unwrap();
            self.serve();
            return;
        }
        let Some(space) = self.spaces.get_mut(&function) else { return };
        let change = space.write(at, width, value).unwrap();
        if function == PORT && at == offset::INTERRUPT && change.before & !change.after & 1 << 22 != 0 {
            self.reset();
        }
        self.follow_streams();
    }

    /// The module has given the port's end of a stream keys, or taken it down.
    pub(super) fn set_port_end(&mut self, block: u64, secure: bool) {
        let Ok(block) = u8::try_from(block) else { return };
        let Some(space) = self.spaces.get_mut(&PORT) else { return };
        let Some(stream) = Ide::find(space).and_then(|ide| ide.selective(block)) else { return };
        let state = if secure { StreamState::SECURE } else { StreamState::INSECURE };
        ide::set_state(space, &stream, state).unwrap();
    }

    /// A check at the end of `function` failed: the other end is told.
    pub(crate) fn fail_stream(&mut self, function: FunctionId, errors: UncorrectableErrors) {
        let space = self.spaces.get_mut(&function).unwrap();
        let stream = Ide::find(space).unwrap().selective(0).unwrap();
        ide::set_failed(space, &stream).unwrap();
        Aer::report(space, errors).unwrap();
    }

    /// The bus below the port was reset.
    fn reset(&mut self) {
        self.bus_resets += 1;
        self.reset_mailbox();
    }

    /// The device was reset behind the host's back: its mailbox answers again.
    pub(crate) fn reset_mailbox(&mut self) {
        if let Some((_, mailbox)) = &mut self.mailbox {
            mailbox.reset();
            mailbox.hold(false);
        }
    }

    /// A stream of the device is secure as long as it is enabled.
    fn follow_streams(&mut self) {
        let insecure = self.insecure;
        let Some(space) = self.spaces.get_mut(&DEVICE) else { return };
        let Some(ide) = Ide::find(space) else { return };
        // One that has failed gets secure only with new keys.
        let wanted = |stream| {
            let (control, status) = (ide.stream_control(&stream), ide.stream_status(&stream));
            (stream, control.enable() && !status.fail_message() && !insecure)
        };
        let streams: Vec<_> = ide.streams().map(wanted).collect();
        for (stream, secure) in streams {
            let state = if secure { StreamState::SECURE } else { StreamState::INSECURE };
            ide::set_state(space, &stream, state).unwrap();
        }
    }

    /// The device answers what came: the same bytes, inverted.
    fn serve(&mut self) {
        let Some((_, mailbox)) = &mut self.mailbox else { return };
        while let Some(event) = mailbox.take_event() {
            if event != MailboxEvent::Request {
                continue;
            }
            let number = self.exchanges;
            self.exchanges += 1;
            let mut answer: Vec<u8> =
                mailbox.request().unwrap().payload.iter().map(|byte| byte ^ 0xff).collect();
            match self.trouble.filter(|(from, _)| number >= *from) {
                Some((_, Trouble::Silent)) => return,
                Some((_, Trouble::Dead)) => {
                    mailbox.hold(true);
                    return;
                }
                Some((_, Trouble::Gone)) => {
                    self.gone = true;
                    return;
                }
                Some((_, Trouble::Wrong)) => answer[0] ^= 1,
                None => {}
            }
            mailbox.respond(&answer).unwrap();
        }
    }
}

/// The bridge above the port.
pub(crate) fn pcie_bridge() -> HostBridge {
    bridge(BRIDGE_BUS, 0x3F)
}
