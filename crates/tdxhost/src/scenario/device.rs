//! Steps that work on devices: they are connected, pulled out, made faulty, tampered with and used.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use pcie::FunctionId;
use serde::Deserialize;
use serde_json::json;
use spdm::Kind;
use spdm::ids::SessionId;
use spdm::key_schedule::Direction;
use tdx_abi::PhysAddr;
use tdx_host::tsm::Refresh;
use tdx_host::update::UpdatePhase;
use tdx_host::{ConnectState, UpdateObserver};
use tdx_machine::endpoint::DeviceFault;
use tdx_machine::endpoint::mmio::reg;
use tdx_machine::pci::{DeviceMove, DeviceObserver, LinkAttack, LinkDirection, LinkMove};
use tdx_module::inspect::UnitInspection;
use tdx_module::io::MmioWidth;
use tdx_platform::{DeviceEvent, FunctionView, LinkView};

use super::rig::{Rig, RigError};
use super::run::Yield;
use super::update::UpdateStep;
use crate::link::{address, is_secure};
use crate::transcript::Transcript;

/// TSM that steps mean unless they name another.
pub(super) const TSM: &str = "tsm0";

/// Connect a device, as `echo tsm0 > tsm/connect` does.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ConnectStep {
    /// Its address; without it, every device that can be connected, one after the other.
    pub device: Option<String>,
    /// What is written.
    pub tsm: Option<String>,
    /// What happens in the middle.
    pub during: Option<During>,
    /// Name of the error in which the step must end.
    pub expect: Option<String>,
}

/// Something that happens when a device is given a data object, before it answers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct During {
    /// So many data objects pass before.
    pub exchange: u64,
    /// What happens.
    pub what: DuringWhat,
    /// For `update`: what is installed, and how it must end.
    pub update: Option<Box<UpdateStep>>,
}

/// What happens to a device, or beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DuringWhat {
    /// The device is pulled out.
    Remove,
    /// Its mailbox fails from then on.
    DeadMailbox,
    /// Its link goes down and comes up again.
    LinkReset,
    /// The machine loses power.
    PowerLoss,
    /// The module is replaced.
    Update,
}

impl DuringWhat {
    fn device_move(self) -> Option<DeviceMove> {
        Some(match self {
            Self::Remove => DeviceMove::Remove,
            Self::DeadMailbox => DeviceMove::KillMailbox,
            Self::LinkReset => DeviceMove::ResetLink,
            Self::PowerLoss => DeviceMove::PowerLoss,
            Self::Update => return None,
        })
    }
}

/// What is made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefreshName {
    /// Keys of the session.
    Session,
    /// Keys of the link.
    Stream,
    /// Device information.
    Evidence,
}

impl From<RefreshName> for Refresh {
    fn from(name: RefreshName) -> Self {
        match name {
            RefreshName::Session => Self::SessionKeys,
            RefreshName::Stream => Self::StreamKeys,
            RefreshName::Evidence => Self::Evidence,
        }
    }
}

/// What somebody on the link does to the next packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tampering {
    /// It does not arrive.
    Drop,
    /// It arrives twice.
    Replay,
    /// It arrives behind the next one.
    Reorder,
    /// A bit of it arrives changed.
    Flip,
}

impl From<Tampering> for LinkMove {
    fn from(what: Tampering) -> Self {
        match what {
            Tampering::Drop => Self::Drop,
            Tampering::Replay => Self::Replay,
            Tampering::Reorder => Self::Reorder,
            Tampering::Flip => Self::Flip { bit: 77 },
        }
    }
}

/// The address of a step.
pub(super) fn device(text: &str) -> Result<FunctionId, RigError> {
    address(text).map_err(RigError::BadDevice)
}

impl Rig {
    /// Connects one device, or all that can be.
    pub fn connect(&mut self, step: &ConnectStep, product: &mut Yield) -> Result<(), RigError> {
        let text = step.tsm.as_deref().unwrap_or(TSM);
        let Some(name) = &step.device else { return self.connect_all(text, product) };
        let id = device(name)?;
        match &step.during {
            None => self.host()?.connect(id, text)?,
            Some(during) => self.connect_during(id, text, during)?,
        }
        let view = self.host()?.function(id);
        let streams = view.map(|view| view.streams).unwrap_or_default();
        product.facts.insert("device".to_owned(), json!(id.to_string()));
        product.facts.insert("streams".to_owned(), json!(streams));
        Ok(())
    }

    fn connect_all(&self, text: &str, product: &mut Yield) -> Result<(), RigError> {
        let host = self.host()?;
        let functions = host.functions();
        let devices: Vec<_> =
            functions.iter().filter(|view| is_connectable(view)).map(|view| view.pci.id).collect();
        for &device in &devices {
            host.connect(device, text)?;
        }
        product.facts.insert("devices".to_owned(), json!(devices.len()));
        Ok(())
    }

    pub(super) fn connect_during(&self, id: FunctionId, text: &str, during: &During) -> Result<(), RigError> {
        let host = self.host()?;
        let machine = host.platform().machine();
        if let Some(what) = during.what.device_move() {
            machine
                .schedule_device(id, during.exchange, what)
                .map_err(|error| RigError::BadDevice(error.to_string()))?;
            let ended = host.connect(id, text);
            return match during.what {
                // Whoever was told of the error has lost power as well.
                DuringWhat::PowerLoss if ended.is_err() => Err(RigError::PowerLost("a device was connected")),
                DuringWhat::Remove => {
                    // What the hot-plug interrupt of the port tells.
                    host.device_event(DeviceEvent::Removed(id));
                    Ok(ended?)
                }
                _ => Ok(ended?),
            };
        }
        let update = during.update.as_deref().cloned().unwrap_or_default();
        let image = update.image().map_err(RigError::BadImage)?;
        let (pause, arrived, go_on) = Pause::new(id, during.exchange, self.transcript.clone());
        machine.observe_devices(Some(Arc::new(pause)));
        let (updated, connected) = thread::scope(|scope| {
            let connecting = scope.spawn(|| {
                let ended = host.connect(id, text);
                // Whoever waits for it to get there learns that it will not.
                machine.observe_devices(self.transcript.clone().map(|transcript| transcript as _));
                ended
            });
            let go_on = GoOn(Mutex::new(Some(go_on)));
            let updated = arrived.recv().ok().map(|()| host.update(&image, &update.options(), &go_on));
            drop(go_on);
            let connected = connecting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (updated, connected)
        });
        connected?;
        let updated = updated.ok_or(RigError::NotThatFar { exchanges: during.exchange })?;
        match (updated, &update.expect) {
            (Err(error), Some(wanted)) if error.name() == wanted => Ok(()),
            (Ok(_), Some(wanted)) => {
                Err(RigError::Mismatch(format!("the update went well, but {wanted} was expected")))
            }
            (updated, _) => Ok(updated.map(|_| ())?),
        }
    }

    /// Connects several devices at once; each must end as `expect` says for its place, `ok` or a name.
    pub fn connect_together(&self, names: &[String], expect: &[String]) -> Result<(), RigError> {
        let host = self.host()?;
        let devices = names.iter().map(|name| device(name)).collect::<Result<Vec<_>, _>>()?;
        let together = Barrier::new(devices.len());
        let mut ended: Vec<&'static str> = thread::scope(|scope| {
            let connect = |&device: &FunctionId| {
                let together = &together;
                scope.spawn(move || {
                    together.wait();
                    host.connect(device, TSM).map_or_else(|error| error.name(), |()| "ok")
                })
            };
            let threads: Vec<_> = devices.iter().map(connect).collect();
            let join = |thread: thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(join).collect()
        });
        // Who comes first is not decided here.
        ended.sort_unstable();
        let mut wanted: Vec<&str> = expect.iter().map(String::as_str).collect();
        wanted.resize(devices.len(), "ok");
        wanted.sort_unstable();
        if ended == wanted {
            return Ok(());
        }
        Err(RigError::Mismatch(format!("they ended in {}, expected {}", ended.join(", "), wanted.join(", "))))
    }

    /// Disconnects one device, or all.
    pub fn disconnect(&self, name: Option<&str>, tsm: Option<&str>) -> Result<(), RigError> {
        let host = self.host()?;
        let text = tsm.unwrap_or(TSM);
        if let Some(name) = name {
            return Ok(host.disconnect(device(name)?, text)?);
        }
        for id in self.connected_devices()? {
            host.disconnect(id, text)?;
        }
        Ok(())
    }

    /// Makes keys or device information anew.
    pub fn refresh(&self, name: &str, what: RefreshName) -> Result<(), RigError> {
        Ok(self.host()?.refresh(device(name)?, what.into())?)
    }

    /// Makes a device faulty, or sound.
    pub fn device_faults(&self, name: &str, faults: &[DeviceFault]) -> Result<(), RigError> {
        let set = self.host()?.platform().machine().set_device_faults(device(name)?, faults);
        set.map_err(|error| RigError::BadDevice(error.to_string()))
    }

    /// Pulls a device out.
    pub fn unplug(&self, name: &str) -> Result<(), RigError> {
        let (host, id) = (self.host()?, device(name)?);
        if !host.platform().machine().remove_device(id) {
            return Err(RigError::BadDevice(format!("there is no device at {id}")));
        }
        host.device_event(DeviceEvent::Removed(id));
        Ok(())
    }

    /// Puts it back.
    pub fn plug(&self, name: &str) -> Result<(), RigError> {
        let (host, id) = (self.host()?, device(name)?);
        if !host.platform().machine().replug(id) {
            return Err(RigError::BadDevice(format!("no device was pulled out at {id}")));
        }
        host.device_event(DeviceEvent::Added(id));
        Ok(())
    }

    /// Lets somebody do something to the next packet on the way to a device.
    pub fn tamper(&self, name: &str, how: Tampering) -> Result<(), RigError> {
        let port = self.root_port(device(name)?)?;
        let attack = LinkAttack { direction: LinkDirection::Down, after: 0, action: how.into() };
        let machine = self.host()?.platform().machine();
        machine.attack_link(port, attack).map_err(|error| RigError::BadDevice(error.to_string()))
    }

    /// Uses a device: writes its scratch registers and reads them back. Fails if a value was lost, or if any
    /// of it travelled in the clear while `protected`.
    pub fn traffic(
        &self,
        name: &str,
        packets: u32,
        protected: bool,
        product: &mut Yield,
    ) -> Result<(), RigError> {
        let (host, id) = (self.host()?, device(name)?);
        let machine = host.platform().machine();
        let port = self.root_port(id)?;
        let window = machine.with_endpoint(id, |endpoint| {
            endpoint.functions().find(|function| function.id == id).and_then(|function| function.window)
        });
        let no_window = || RigError::BadDevice(format!("{id} has no memory that answers"));
        let window = window.flatten().ok_or_else(no_window)?;
        let before = machine.link_traffic(port).unwrap_or_default();
        let mut lost = 0;
        for number in 0..u64::from(packets) {
            let register = PhysAddr::new(window + reg::SCRATCH + number % 8 * 8);
            let value = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            machine.mmio_write(register, MmioWidth::Qword, value);
            lost += u32::from(machine.mmio_read(register, MmioWidth::Qword) != value);
        }
        let after = machine.link_traffic(port).unwrap_or_default();
        let moved = |after: [u64; 2], before: [u64; 2]| {
            after.iter().sum::<u64>().saturating_sub(before.iter().sum::<u64>())
        };
        let (sealed, clear) = (moved(after.sealed, before.sealed), moved(after.clear, before.clear));
        product.facts.insert("sealed_packets".to_owned(), json!(sealed));
        product.facts.insert("clear_packets".to_owned(), json!(clear));
        if lost > 0 {
            return Err(RigError::TrafficLost { device: id, lost, packets });
        }
        if protected && (clear > 0 || sealed == 0) {
            return Err(RigError::Mismatch(format!(
                "{clear} packets travelled in the clear, {sealed} protected"
            )));
        }
        Ok(())
    }

    /// Makes the keys of links anew each time that so many seconds have passed.
    pub fn key_refresh(&self, seconds: Option<u64>) -> Result<(), RigError> {
        self.host()?.set_key_refresh(seconds.map(Duration::from_secs));
        Ok(())
    }

    /// Times that the keys of links were made anew, all links together.
    pub fn key_refreshes(&self) -> Option<u64> {
        Some(self.host().ok()?.links().iter().map(|link| link.key_refreshes).sum())
    }

    /// Lets time pass on the machine, and the host do what is due.
    pub fn pass_time(&self, seconds: u64) -> Result<(), RigError> {
        let host = self.host()?;
        let machine = host.platform().machine();
        machine.advance(Duration::from_secs(seconds));
        host.tick(machine.now());
        Ok(())
    }

    fn root_port(&self, id: FunctionId) -> Result<FunctionId, RigError> {
        let functions = self.host()?.platform().machine().pci_functions();
        let found =
            functions.iter().find(|function| function.id == id).and_then(|function| function.root_port);
        found.ok_or_else(|| RigError::BadDevice(format!("there is no device at {id}")))
    }

    /// Devices that are connected, ascending.
    pub fn connected_devices(&self) -> Result<Vec<FunctionId>, RigError> {
        let functions = self.host()?.functions();
        let connected = functions.into_iter().filter(|view| view.dsm_capable() && view.tsm.is_some());
        Ok(connected.map(|view| view.pci.id).collect())
    }

    /// `on`, or the name of the reason why TDX Connect is off.
    pub fn connect_state(&self) -> Option<&'static str> {
        Some(match self.host().ok()?.state().connect_state() {
            ConnectState::On => "on",
            ConnectState::Off(reason) | ConnectState::Dead(reason) => reason.name(),
        })
    }

    /// Name of the TSM that is registered; empty for none.
    pub fn tsm_name(&self) -> Option<String> {
        Some(self.host().ok()?.tsm().map(|tsm| tsm.name).unwrap_or_default())
    }

    /// Streams that are left on all host bridges together.
    pub fn available_streams(&self) -> Option<u64> {
        let bridges = self.host().ok()?.bridges();
        Some(bridges.iter().filter_map(|bridge| bridge.available_secure_streams).map(u64::from).sum())
    }

    /// Sessions and streams that the module has.
    pub fn module_objects(&self) -> Option<(u32, u32)> {
        let units = self.host().ok()?.platform().machine().seam().module?.connect?.units;
        let sum = |count: fn(&UnitInspection) -> u16| units.iter().map(|unit| u32::from(count(unit))).sum();
        Some((sum(|unit| unit.sessions), sum(|unit| unit.streams)))
    }

    /// Whether TDX Connect works.
    pub fn connect_status(&self) -> Result<ConnectState, RigError> {
        Ok(self.host()?.connect_status())
    }

    /// Pages that the module's extensions took, once bring-up succeeded.
    pub fn extension_pages(&self) -> Option<u64> {
        Some(self.host().ok()?.status().report?.extension_pages as u64)
    }

    /// The first device that can be connected and is not; below `root_port`, if one is named.
    pub fn first_device(&self, root_port: Option<FunctionId>) -> Result<Option<FunctionId>, RigError> {
        let functions = self.host()?.functions();
        let mut wanted = functions.iter().filter(|view| {
            is_connectable(view) && root_port.is_none_or(|port| view.pci.root_port == Some(port))
        });
        Ok(wanted.next().map(|view| view.pci.id))
    }

    /// The link of a connected device.
    pub fn link(&self, device: FunctionId) -> Result<Option<LinkView>, RigError> {
        Ok(self.host()?.links().into_iter().find(|link| link.device == device))
    }

    /// Devices whose link is secure at both ends, ascending.
    pub fn secure_devices(&self) -> Option<Vec<String>> {
        let links = self.host().ok()?.links();
        let secure = links.into_iter().filter(is_secure);
        Some(secure.map(|link| link.device.to_string()).collect())
    }
}

/// A function that has a DSM and is not connected, with selective IDE at both ends.
fn is_connectable(view: &FunctionView) -> bool {
    view.dsm_capable() && view.ide && view.tsm.is_none()
}

/// Lets a device that was stopped go on with the last phase of an update: whoever waits for its answer calls the
/// module next, and that call waits until the update is over.
struct GoOn(Mutex<Option<Sender<()>>>);

impl UpdateObserver for GoOn {
    fn phase_started(&self, phase: UpdatePhase) {
        if phase == UpdatePhase::Update {
            *self.0.lock() = None;
        }
    }
}

/// Stops a device when it is given a certain data object, until somebody lets it go on.
struct Pause {
    device: FunctionId,
    /// Objects that pass before; none left once it has stopped.
    passing: Mutex<Option<u64>>,
    arrived: Mutex<Option<Sender<()>>>,
    go_on: Mutex<Receiver<()>>,
    /// Who looked at devices before, and still does.
    transcript: Option<Arc<Transcript>>,
}

impl Pause {
    fn new(
        device: FunctionId,
        passing: u64,
        transcript: Option<Arc<Transcript>>,
    ) -> (Self, Receiver<()>, Sender<()>) {
        let (arrived, arrival) = channel();
        let (leave, go_on) = channel();
        let pause = Self {
            device,
            passing: Mutex::new(Some(passing)),
            arrived: Mutex::new(Some(arrived)),
            go_on: Mutex::new(go_on),
            transcript,
        };
        (pause, arrival, leave)
    }
}

impl DeviceObserver for Pause {
    fn request(&self, function: FunctionId, kind: Kind, payload: &[u8]) {
        if let Some(transcript) = &self.transcript {
            transcript.request(function, kind, payload);
        }
        if function == self.device {
            self.wait();
        }
    }

    fn response(&self, function: FunctionId, kind: Kind, payload: &[u8]) {
        if let Some(transcript) = &self.transcript {
            transcript.response(function, kind, payload);
        }
    }

    fn secured(
        &self,
        function: FunctionId,
        direction: Direction,
        session: SessionId,
        sequence: u64,
        text: &[u8],
    ) {
        if let Some(transcript) = &self.transcript {
            transcript.secured(function, direction, session, sequence, text);
        }
    }
}

impl Pause {
    fn wait(&self) {
        let mut passing = self.passing.lock();
        match *passing {
            None => return,
            Some(0) => *passing = None,
            Some(left) => {
                *passing = Some(left - 1);
                return;
            }
        }
        drop(passing);
        if let Some(arrived) = self.arrived.lock().take() {
            // Both ends of the channels are there until the step is over.
            let _ = arrived.send(());
            let _ = self.go_on.lock().recv();
        }
    }
}
