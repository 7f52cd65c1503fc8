//! What a host shows of devices, links and TSMs.

mod devices;
mod uevents;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use pcie::doe::ObjectType;
use pcie::ide::{Ide, StreamState};
use pcie::{Bdf, FunctionId};
use tdx_abi::connect::ids::SpdmId;
use tdx_host::link::BridgeStreams;
use tdx_host::traits::{HostBridge, Log, LogLevel, PciBus, PciFunction, UeventAction, Uevents};
use tdx_host::tsm::{
    Config, DevPath, Dsm, FunctionFacts, LinkFacts, Loss, Refresh, TSM_ATTRIBUTES, TsmAttribute, TsmError,
};

use crate::allocator::Leaks;
use crate::host::TdxHost;
use crate::platform::Platform;
use devices::{DsmSlot, DsmState, Function, HostTsm, LinkState};

pub(crate) use devices::Devices;
pub(crate) use uevents::UeventLog;
pub use uevents::UeventRecord;

/// A TSM that is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TsmView {
    /// `tsm0`.
    pub name: String,
    /// Its number.
    pub number: u32,
    /// Another one for each registration.
    pub instance: u64,
    /// It takes no more devices: the module kept pages that it should have given back.
    pub broken: bool,
    /// Pages that the module kept.
    pub pages_kept: u64,
    /// Devices that are connected.
    pub connected: usize,
}

/// A PCI function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionView {
    /// Where it is.
    pub pci: PciFunction,
    /// Another one each time that a function comes to this place.
    pub instance: u64,
    /// What its attributes depend on.
    pub facts: LinkFacts,
    /// It and the root port above it have selective IDE.
    pub ide: bool,
    /// The DSM that manages it: its own, or that of function 0.
    pub dsm: Option<FunctionId>,
    /// The TSM that it is connected to, itself or by its DSM.
    pub tsm: Option<String>,
    /// A TDI is bound.
    pub bound: bool,
    /// Types of data objects that its mailboxes take, discovery first; empty without a mailbox.
    pub doe_features: Vec<ObjectType>,
    /// Streams of the device, `stream0.0.0`.
    pub streams: Vec<String>,
    /// Why the last connect or refresh failed, or the connection was lost; none after one that succeeded.
    pub last_error: Option<TsmError>,
}

impl FunctionView {
    /// The attributes in `tsm/`, and `authenticated`, that the function has.
    pub fn attributes(&self) -> impl Iterator<Item = &'static TsmAttribute> {
        TSM_ATTRIBUTES.iter().filter(|attribute| attribute.visible.on(&self.facts))
    }

    /// True for a function in which a DSM can answer.
    pub fn dsm_capable(&self) -> bool {
        self.facts.dsm_capable
    }
}

/// A host bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeView {
    /// Its place; printed as `pci0000:3a`.
    pub bridge: HostBridge,
    /// Streams that are left; `None` if it has none at all, so that the attribute is hidden.
    pub available_secure_streams: Option<u16>,
    /// Links to endpoints, by name.
    pub streams: Vec<(String, FunctionId)>,
}

impl BridgeView {
    /// True while a TSM manages a stream below it.
    pub fn is_managed(&self) -> bool {
        !self.streams.is_empty()
    }
}

/// One end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkEnd {
    /// The port.
    pub port: FunctionId,
    /// Its register block.
    pub block: u8,
    /// Its control register has the stream enabled.
    pub enabled: bool,
    /// What its status register says.
    pub state: StreamState,
    /// The other end said that an integrity check failed.
    pub fail_message: bool,
}

/// A link that is secured, or was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkView {
    /// The device, by its DSM.
    pub device: FunctionId,
    /// `stream0.0.0`.
    pub name: String,
    /// Stream id.
    pub stream_id: u8,
    /// The end of the root port.
    pub root_port: LinkEnd,
    /// The end of the device.
    pub endpoint: LinkEnd,
    /// Key set in use, 0 or 1.
    pub key_set: u8,
    /// Times that the keys of the link were made anew.
    pub key_refreshes: u64,
    /// The SPDM session, as the module names it.
    pub session: SpdmId,
    /// Times that the keys of the session were made anew.
    pub session_key_updates: u64,
    /// Messages that went to the device and back.
    pub messages: u64,
    /// Bytes of device information.
    pub dev_info_bytes: usize,
}

/// What hardware tells about a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceEvent {
    /// A function came; with function 0 the whole device.
    Added(FunctionId),
    /// The device was taken out, or its link is down.
    Removed(FunctionId),
    /// The stream of the device is not secure any more: an integrity check failed at one end (AER 28 to 30),
    /// or the link lost its keys.
    StreamLost(FunctionId),
}

impl TdxHost {
    /// Functions as they were enumerated at the first look.
    pub(crate) fn devices(&self) -> &Devices {
        self.devices.get_or_init(|| Devices::enumerate(self.platform()))
    }

    /// The TSM, while one is registered.
    pub fn tsm(&self) -> Option<TsmView> {
        let tsm = &self.devices.get()?.tsm;
        let number = tsm.number()?;
        let pages_kept = tsm.pages_kept();
        let states = self.devices().all();
        let connected = states.iter().filter_map(|function| function.state()?.tsm).count();
        let (name, instance) = (name_of(number), tsm.instance());
        Some(TsmView { name, number, instance, broken: pages_kept != 0, pages_kept, connected })
    }

    /// All PCI functions, ascending.
    pub fn functions(&self) -> Vec<FunctionView> {
        self.devices().all().iter().map(|function| self.view(function)).collect()
    }

    /// One PCI function.
    pub fn function(&self, function: FunctionId) -> Option<FunctionView> {
        self.devices().get(function).map(|function| self.view(&function))
    }

    fn view(&self, function: &Function) -> FunctionView {
        let devices = self.devices();
        let facts = &function.facts;
        let own = function.state().unwrap_or_default();
        // Its own DSM, or the one that manages it, while that is connected.
        let managed_by = *function.managed_by.read();
        let dsm = own.tsm.map_or(managed_by, |_| Some(function.id()));
        let manager = dsm.and_then(|dsm| devices.get(dsm));
        let state = manager.as_ref().and_then(|manager| manager.state());
        let dsm_has_tee = manager.as_ref().map(|manager| manager.facts.has_tee);
        let streams = own.link.iter().map(|link| link.place.to_string()).collect();
        FunctionView {
            pci: facts.function,
            instance: function.instance,
            facts: facts.link_facts(devices.tsm.number().is_some(), dsm_has_tee),
            ide: facts.has_ide,
            dsm,
            tsm: state.and_then(|state| state.tsm).map(name_of),
            // Interfaces are bound by virtual machines, of which there are none yet.
            bound: false,
            doe_features: function.features.clone(),
            streams,
            last_error: own.last_error,
        }
    }

    /// The host bridges, ascending.
    pub fn bridges(&self) -> Vec<BridgeView> {
        let devices = self.devices();
        let links: Vec<_> = devices.all().iter().filter_map(|function| function.state()?.link).collect();
        let view = |bridge: &BridgeStreams| {
            let below = links.iter().filter(|link| link.place.bridge == bridge.bridge());
            BridgeView {
                bridge: bridge.bridge(),
                available_secure_streams: bridge.available(),
                streams: below.map(|link| (link.place.to_string(), link.place.endpoint)).collect(),
            }
        };
        devices.tsm.bridges().iter().map(view).collect()
    }

    /// The links of connected devices.
    pub fn links(&self) -> Vec<LinkView> {
        let functions = self.devices().all();
        functions.iter().filter_map(|function| self.link(function.id(), function.state()?.link?)).collect()
    }

    fn link(&self, device: FunctionId, link: LinkState) -> Option<LinkView> {
        let place = link.place;
        let end = |port, block| {
            let config = Config::new(self.platform(), port);
            let ide = Ide::find(&config)?;
            let registers = ide.selective(block)?;
            let (control, status) = (ide.stream_control(&registers), ide.stream_status(&registers));
            let (enabled, state) = (control.enable(), status.state());
            Some(LinkEnd { port, block, enabled, state, fail_message: status.fail_message() })
        };
        Some(LinkView {
            device,
            name: place.to_string(),
            stream_id: link.stream_id,
            root_port: end(place.root_port, place.root_port_block)?,
            endpoint: end(place.endpoint, place.endpoint_block)?,
            key_set: link.key_set.0,
            key_refreshes: link.key_refreshes,
            session: link.session,
            session_key_updates: link.session_key_updates,
            messages: link.messages,
            dev_info_bytes: link.dev_info_bytes,
        })
    }

    /// Connects a device to the TSM named by `text`, as it is written to `tsm/connect`.
    pub fn connect(&self, device: FunctionId, text: &str) -> Result<(), TsmError> {
        self.with_dsm(device, |tsm, dsm| {
            tsm.connect(self.state(), self.platform(), dsm, text)?;
            self.manage_dependents(dsm);
            Ok(())
        })
    }

    /// Disconnects a device from the TSM named by `text`, as it is written to `tsm/disconnect`.
    pub fn disconnect(&self, device: FunctionId, text: &str) -> Result<(), TsmError> {
        self.with_dsm(device, |tsm, dsm| tsm.disconnect(self.state(), self.platform(), dsm, text))
    }

    /// Makes keys or device information of a connected device anew.
    pub fn refresh(&self, device: FunctionId, what: Refresh) -> Result<(), TsmError> {
        self.with_dsm(device, |tsm, dsm| tsm.refresh(self.state(), self.platform(), dsm, what))
    }

    /// The device information of a connected device.
    pub fn dev_info(&self, device: FunctionId) -> Result<Vec<u8>, TsmError> {
        self.with_dsm(device, |_, dsm| {
            let session = dsm.session().ok_or(TsmError::NotConnected { device })?;
            let mut bytes = vec![0; session.information_bytes()];
            let read = session.read_information(self.platform(), 0, &mut bytes);
            read.map_err(|fault| TsmError::PageAccess { device, fault })?;
            Ok(bytes)
        })
    }

    /// Does `work` on the DSM of a device, and publishes what became of it.
    fn with_dsm<R>(
        &self,
        device: FunctionId,
        work: impl FnOnce(&HostTsm, &mut Dsm<Leaks>) -> Result<R, TsmError>,
    ) -> Result<R, TsmError> {
        let function = self.devices().get(device).ok_or(TsmError::NoSuchFunction { device })?;
        let slot = function.slot.as_ref().ok_or(TsmError::NotADsm { device })?;
        let mut place = slot.dsm.lock();
        let dsm = place.as_mut().ok_or(TsmError::NoSuchFunction { device })?;
        self.work_on(slot, dsm, work)
    }

    fn work_on<R>(
        &self,
        slot: &DsmSlot,
        dsm: &mut Dsm<Leaks>,
        work: impl FnOnce(&HostTsm, &mut Dsm<Leaks>) -> R,
    ) -> R {
        let was_connected = dsm.tsm().is_some();
        let result = work(&self.devices().tsm, dsm);
        if was_connected && dsm.tsm().is_none() {
            self.forget_dependents(dsm.function());
        }
        *slot.state.write() = DsmState::of(dsm);
        result
    }

    /// A DSM was connected: it manages the other functions of its device. One that is not there is left out.
    fn manage_dependents(&self, dsm: &Dsm<Leaks>) {
        let (devices, own) = (self.devices(), dsm.function());
        devices.tsm.dependents(self.platform(), dsm, |id| {
            if let Some(function) = devices.get(id) {
                *function.managed_by.write() = Some(own);
                return;
            }
            let line = format_args!("{id} answers but was not enumerated, and {own} does not manage it");
            self.platform().log(LogLevel::Warning, line);
        });
    }

    /// A DSM is not connected any more, and manages nothing.
    fn forget_dependents(&self, dsm: FunctionId) {
        for function in self.devices().all().iter().rev() {
            let mut managed_by = function.managed_by.write();
            if *managed_by == Some(dsm) {
                *managed_by = None;
            }
        }
    }

    /// What user space was told after `seq`; older records may be gone, which shows in the numbers.
    pub fn uevents_after(&self, seq: u64) -> Vec<UeventRecord> {
        self.platform().uevents.after(seq)
    }

    /// Makes the keys of each link anew after this time, by [`Self::tick`]; `None` for never. Without a word,
    /// after [`tdx_host::tsm::DEFAULT_KEY_REFRESH`].
    pub fn set_key_refresh(&self, every: Option<Duration>) {
        self.devices().tsm.set_key_refresh(every);
    }

    /// Does what is due at the time `now`, which any clock may tell that does not go back: connections that were
    /// lost are taken down, keys of links are made anew. What fails is told in the log and in
    /// [`FunctionView::last_error`], and tried again at the next tick.
    pub fn tick(&self, now: Duration) {
        let Some(devices) = self.devices.get() else { return };
        for function in devices.all() {
            if function.state().is_some_and(|state| state.tsm.is_some()) {
                // It has told its failure itself.
                let _ = self.with_dsm(function.id(), |tsm, dsm| {
                    tsm.look_after(self.state(), self.platform(), dsm, now)
                });
            }
        }
    }

    /// Takes note of what hardware tells.
    pub fn device_event(&self, event: DeviceEvent) {
        let devices = self.devices();
        match event {
            DeviceEvent::Added(id) => {
                let _alone = devices.enumeration.lock();
                self.add_functions(id);
            }
            DeviceEvent::Removed(id) => {
                let _alone = devices.enumeration.lock();
                self.remove_functions(id);
            }
            DeviceEvent::StreamLost(id) => {
                // What is no DSM has no connection of its own.
                let _ = self.with_dsm(id, |tsm, dsm| {
                    tsm.lose(self.state(), self.platform(), dsm, Loss::Stream);
                    Ok(())
                });
            }
        }
    }

    /// The function of this address, and with a function 0 all of the device.
    fn add_functions(&self, id: FunctionId) {
        let mut added = Vec::new();
        self.platform().functions(&mut |function| {
            let physical = function.physical.unwrap_or(function.id.bdf).routing_id();
            let place = FunctionId::new(function.id.segment, Bdf::from_routing_id(physical & !7));
            if function.id == id || place == id {
                added.push(function);
            }
            ControlFlow::Continue(())
        });
        for function in added {
            self.add_function(function);
        }
    }

    fn add_function(&self, found: PciFunction) {
        let (devices, platform, id) = (self.devices(), self.platform(), found.id);
        if devices.get(id).is_some() {
            return;
        }
        let function = devices.add(platform, FunctionFacts::read(platform, found));
        let place = function.facts.dsm_place();
        if place != id {
            // Managed at once, if its DSM is connected. Behind a connect that is under way: that one may have
            // asked for functions before this one came. Where no DSM is, nobody manages it.
            let _ = self.with_dsm(place, |_, dsm| {
                *function.managed_by.write() = dsm.tsm().map(|_| place);
                Ok(())
            });
        }
        pci_event(platform, UeventAction::Add, &found);
    }

    /// The function of this address, and with a function 0 all of the device, last one first.
    fn remove_functions(&self, id: FunctionId) {
        let devices = self.devices();
        let belongs = |function: &&Arc<Function>| {
            let physical = function.facts.function.physical.map(|bdf| FunctionId::new(id.segment, bdf));
            function.id() == id || physical == Some(id) || function.facts.dsm_place() == id
        };
        let all = devices.all();
        let gone: Vec<_> = all.iter().filter(belongs).rev().collect();
        for function in gone {
            if let Some(slot) = &function.slot {
                let mut place = slot.dsm.lock();
                if let Some(mut dsm) = place.take() {
                    self.work_on(slot, &mut dsm, |tsm, dsm| {
                        tsm.lose(self.state(), self.platform(), dsm, Loss::Removed);
                    });
                }
            }
            devices.remove(function.id());
            pci_event(self.platform(), UeventAction::Remove, &function.facts.function);
        }
    }

    /// Registers the TSM: TDX Connect works, with so many secure streams below each bridge.
    pub(crate) fn tsm_register(&self, streams: &[(HostBridge, u16)]) {
        let devices = self.devices();
        let _alone = devices.registration.lock();
        for bridge in devices.tsm.bridges() {
            let of_bridge = streams.iter().find(|(other, _)| *other == bridge.bridge());
            bridge.set_streams(of_bridge.map_or(0, |(_, streams)| *streams));
        }
        devices.tsm.register(self.platform(), &devices.class);
    }

    /// Takes the TSM away: disconnects every device, last one first.
    pub(crate) fn tsm_unregister(&self) {
        let Some(devices) = self.devices.get() else { return };
        let _alone = devices.registration.lock();
        // A connect that is under way is waited for below, one that comes later finds no TSM.
        let Some(number) = devices.tsm.stop_connecting() else { return };
        for function in devices.all().iter().rev() {
            // What is no DSM has no connection of its own.
            let _ = self.with_dsm(function.id(), |tsm, dsm| {
                tsm.release(self.state(), self.platform(), dsm);
                Ok(())
            });
        }
        devices.tsm.unregister(self.platform(), &devices.class, number);
    }
}

fn name_of(number: u32) -> String {
    format!("tsm{number}")
}

fn pci_event(platform: &Platform, action: UeventAction, function: &PciFunction) {
    platform.uevent(action, format_args!("{}", DevPath(function)), "pci", None);
}
