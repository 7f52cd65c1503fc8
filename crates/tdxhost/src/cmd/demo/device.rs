//! The device of a demonstration: it is connected, used, and looked at again behind an update.

use std::fmt::{self, Display};
use std::io::{self, Write};
use std::time::Instant;

use anyhow::Context as _;
use pcie::{Bdf, FunctionId};
use serde::Serialize;
use tdx_host::ConnectError;
use tdx_machine::PlatformSpec;
use tdx_machine::spec::DsmSpec;
use tdx_platform::LinkView;

use super::ErrorDocument;
use crate::link::is_secure;
use crate::scenario::{ConnectStep, PhaseReport, Rig, RigError, Yield};

/// Writes to the scratch registers of the device, each with a read behind it.
const ACCESSES: u32 = 64;

/// What TDX Connect is on this machine, and what came of connecting a device.
#[derive(Serialize)]
pub(super) struct ConnectDocument {
    /// `on`, `off` or `dead`.
    state: &'static str,
    /// Why it is not on.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<ErrorDocument>,
    /// What the module's extensions cost, in pages of 4 KiB.
    extension_pages: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tsm: Option<String>,
    available_streams: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<DeviceDocument>,
}

#[derive(Serialize)]
struct DeviceDocument {
    address: String,
    /// Address of the responder outside that answers for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    socket: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<ErrorDocument>,
    phases: Vec<PhaseReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<StreamDocument>,
    /// The same behind the update.
    #[serde(skip_serializing_if = "Option::is_none")]
    behind_update: Option<AgainDocument>,
}

#[derive(Clone, Serialize)]
struct StreamDocument {
    name: String,
    stream_id: u8,
    root_port: EndDocument,
    endpoint: EndDocument,
    secure: bool,
    session: String,
}

#[derive(Clone, Serialize)]
struct EndDocument {
    port: String,
    block: u8,
    state: String,
}

#[derive(Serialize)]
struct AgainDocument {
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<StreamDocument>,
    /// TLPs that went protected once more.
    sealed_packets: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<ErrorDocument>,
}

impl From<&LinkView> for StreamDocument {
    fn from(link: &LinkView) -> Self {
        let end = |end: &tdx_platform::LinkEnd| EndDocument {
            port: end.port.to_string(),
            block: end.block,
            state: end.state.to_string(),
        };
        Self {
            name: link.name.clone(),
            stream_id: link.stream_id,
            root_port: end(&link.root_port),
            endpoint: end(&link.endpoint),
            secure: is_secure(link),
            session: format!("{:#x}", link.session.0),
        }
    }
}

/// A device whose security manager is outside.
pub(super) struct Stranger {
    root_port: FunctionId,
    socket: String,
}

/// Lets the responder at `socket` answer for the first device of a platform.
pub(super) fn put_behind_socket(spec: &mut PlatformSpec, socket: &str) -> anyhow::Result<Stranger> {
    let first = spec.endpoints.first_mut();
    let first =
        first.with_context(|| format!("platform {} has no device to stand for {socket}", spec.name))?;
    let root_port = first.port.0;
    // Of several equal ones, the others stay what they were.
    let others = first.count.checked_sub(1).filter(|others| *others > 0).and_then(|count| {
        let (bus, device, function) = (root_port.bdf.bus(), root_port.bdf.device(), root_port.bdf.function());
        let next = Bdf::new(bus, device.checked_add(1)?, function)?;
        let mut others = first.clone();
        others.port.0 = FunctionId::new(root_port.segment, next);
        others.count = count;
        Some(others)
    });
    first.count = 1;
    first.dsm = Some(DsmSpec { socket: socket.to_owned() });
    spec.endpoints.extend(others);
    Ok(Stranger { root_port, socket: socket.to_owned() })
}

/// Connects the device of `stranger`, or the first that can be, and uses it. What is off, missing or refused is
/// part of the document.
pub(super) fn connect(
    rig: &mut Rig,
    stranger: Option<Stranger>,
    each: Option<fn(&PhaseReport)>,
) -> anyhow::Result<ConnectDocument> {
    let state = rig.connect_status()?;
    let mut document = ConnectDocument {
        state: state.name(),
        reason: state.reason().as_ref().map(ErrorDocument::connect),
        extension_pages: rig.extension_pages().unwrap_or(0),
        tsm: rig.tsm_name().filter(|name| !name.is_empty()),
        available_streams: rig.available_streams().unwrap_or(0),
        device: None,
    };
    if !state.is_on() {
        return Ok(document);
    }
    let root_port = stranger.as_ref().map(|stranger| stranger.root_port);
    let Some(address) = rig.first_device(root_port)? else { return Ok(document) };
    if each.is_some() {
        writeln!(io::stdout())?;
        document.print_head(&mut io::stdout().lock())?;
    }
    let mut device = DeviceDocument {
        address: address.to_string(),
        socket: stranger.map(|stranger| stranger.socket),
        refused: None,
        phases: Vec::new(),
        stream: None,
        behind_update: None,
    };
    let went = device.walk(rig, address, each);
    device.refused = went.err().map(|error| ErrorDocument::of(&error));
    document.device = Some(device);
    Ok(document)
}

impl DeviceDocument {
    fn walk(
        &mut self,
        rig: &mut Rig,
        address: FunctionId,
        each: Option<fn(&PhaseReport)>,
    ) -> Result<(), RigError> {
        let phase = |phases: &mut Vec<PhaseReport>, phase: PhaseReport| {
            if let Some(each) = each {
                each(&phase);
            }
            phases.push(phase);
        };
        let started = Instant::now();
        let step = ConnectStep { device: Some(self.address.clone()), ..ConnectStep::default() };
        rig.connect(&step, &mut Yield::default())?;
        let seconds = started.elapsed().as_secs_f64();
        let link = rig.link(address)?;
        let count = link.as_ref().map_or(0, |link| link.messages);
        phase(&mut self.phases, PhaseReport { name: "connect".into(), count, counts: "messages", seconds });
        self.stream = link.as_ref().map(StreamDocument::from);
        let started = Instant::now();
        let count = sealed(rig, &self.address)?;
        let seconds = started.elapsed().as_secs_f64();
        phase(
            &mut self.phases,
            PhaseReport { name: "traffic".into(), count, counts: "protected TLPs", seconds },
        );
        Ok(())
    }
}

/// Uses a device; the TLPs that went protected.
fn sealed(rig: &Rig, address: &str) -> Result<u64, RigError> {
    let mut product = Yield::default();
    rig.traffic(address, ACCESSES, true, &mut product)?;
    Ok(product.facts.get("sealed_packets").and_then(serde_json::Value::as_u64).unwrap_or(0))
}

impl ErrorDocument {
    fn connect(error: &ConnectError) -> Self {
        Self { name: error.name().to_owned(), message: error.to_string(), advice: Some(error.advice()) }
    }
}

impl ConnectDocument {
    /// A device was there and could not be connected, or did not stay so.
    pub(super) fn has_failed(&self) -> bool {
        self.device.as_ref().is_some_and(|device| {
            device.refused.is_some()
                || device.behind_update.as_ref().is_some_and(|again| again.failed.is_some())
        })
    }

    /// Looks at the device behind the update, and uses it again.
    pub(super) fn look_again(&mut self, rig: &Rig) -> Result<(), RigError> {
        let Some(device) = self.device.as_mut().filter(|device| device.stream.is_some()) else {
            return Ok(());
        };
        let address = crate::link::address(&device.address).map_err(RigError::BadDevice)?;
        let stream = rig.link(address)?.as_ref().map(StreamDocument::from);
        let (sealed_packets, failed) = match sealed(rig, &device.address) {
            Ok(packets) => (packets, None),
            Err(error) => (0, Some(ErrorDocument::of(&error))),
        };
        device.behind_update = Some(AgainDocument { stream, sealed_packets, failed });
        Ok(())
    }

    fn print_head(&self, out: &mut dyn Write) -> io::Result<()> {
        // Pages of 4 KiB in tenths of a MB of 1024 * 1024 bytes, to the nearest.
        let tenths = (self.extension_pages * 10 + 128) / 256;
        let (whole, tenths) = (tenths / 10, tenths % 10);
        let tsm = self.tsm.as_deref().unwrap_or_default();
        let streams = self.available_streams;
        writeln!(
            out,
            "TDX Connect: {tsm} with {streams} streams; the module's extensions took {whole}.{tenths} MB\n"
        )
    }

    pub(super) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        if let Some(reason) = &self.reason {
            return writeln!(out, "\nno device is connected: {reason}");
        }
        let Some(device) = &self.device else {
            writeln!(out)?;
            self.print_head(out)?;
            return writeln!(out, "no device to connect: none has selective IDE and a security manager");
        };
        if let Some(refused) = &device.refused {
            return writeln!(out, "\n{} is not connected: {refused}", device.address);
        }
        let Some(stream) = &device.stream else { return Ok(()) };
        let tsm = self.tsm.as_deref().unwrap_or_default();
        writeln!(out, "\nbus/pci/devices/{}/", device.address)?;
        writeln!(out, "  {:<22} {tsm}", "tsm/connect")?;
        writeln!(out, "  {:<22} {stream}", stream.name)?;
        if let Some(socket) = &device.socket {
            writeln!(out, "  {:<22} the responder at {socket}", "answered for by")?;
        }
        Ok(())
    }

    /// What became of the device over the update.
    pub(super) fn print_end(&self, out: &mut dyn Write) -> io::Result<()> {
        let Some(device) = &self.device else { return Ok(()) };
        let Some(again) = &device.behind_update else { return Ok(()) };
        writeln!(out, "\nbus/pci/devices/{}/", device.address)?;
        match (&again.stream, &again.failed) {
            (_, Some(failed)) => writeln!(out, "  is lost: {failed}"),
            (Some(stream), None) => {
                writeln!(out, "  {:<22} {stream}, {} protected TLPs more", stream.name, again.sealed_packets)
            }
            (None, None) => writeln!(out, "  has no stream any more"),
        }
    }
}

impl Display for StreamDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stream_id, root_port, endpoint, session, .. } = self;
        let (from, to) = (&root_port.port, &endpoint.port);
        write!(
            f,
            "stream {stream_id}, {from} {}, {to} {}, session {session}",
            root_port.state, endpoint.state
        )
    }
}
