//! PCI functions and a TSM that a test sets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock, RwLockWriteGuard};
use pcie::config::Width;
use pcie::doe::ObjectType;
use pcie::ide::StreamState;
use pcie::{Bdf, FunctionId, Segment};
use tdx_abi::connect::ids::SpdmId;
use tdx_abi::connect::refusal::{Refusal, RefusalReason};
use tdx_abi::leaf::{LeafWord, SeamcallLeaf};
use tdx_abi::status::StatusCode;
use tdx_host::seamcall::{SeamcallCause, SeamcallError};
use tdx_host::traits::{HostBridge, PciFunction, UeventAction};
use tdx_host::tsm::{LinkFacts, Refresh, TsmError, parse_name};
use tdx_platform::{BridgeView, FunctionView, LinkEnd, LinkView, TsmView, UeventRecord};
use tdxhost::sysfs::PciView;

use crate::fake::FakeHost;

/// Events that the fake keeps.
const KEPT: usize = 4;

/// The function at a text address.
pub(crate) fn id(address: &str) -> FunctionId {
    address.parse().unwrap()
}

const BRIDGE: HostBridge = HostBridge { segment: Segment(0), bus: 0x17, last_bus: 0x3F };

/// What a function has of its own.
#[derive(Clone)]
struct Function {
    place: PciFunction,
    instance: u64,
    dsm_capable: bool,
    tee: bool,
    express: bool,
    mailboxes: Vec<ObjectType>,
    config: Vec<u8>,
    last_error: Option<TsmError>,
}

#[derive(Default)]
struct State {
    /// Number of the registration of tsm0, while there is one.
    tsm: Option<u64>,
    registrations: u64,
    functions: BTreeMap<FunctionId, Function>,
    /// Connected DSMs.
    connected: Vec<FunctionId>,
    /// How the next connect ends.
    failure: Option<TsmError>,
    events: Vec<UeventRecord>,
    asked: u64,
    /// Times that a device was waited for.
    waited_for: usize,
}

/// PCI of a fake host: nothing, unless a test puts something there.
#[derive(Default)]
pub(crate) struct FakePci(Mutex<State>, RwLock<()>);

impl State {
    fn dsm_of(&self, id: FunctionId) -> Option<FunctionId> {
        let same_device = |dsm: &&FunctionId| {
            dsm.segment == id.segment && dsm.bdf.routing_id() >> 3 == id.bdf.routing_id() >> 3
        };
        self.connected.iter().find(same_device).copied()
    }

    fn view(&self, function: &Function) -> FunctionView {
        let id = function.place.id;
        let dsm = self.dsm_of(id);
        let dsm_has_tee = dsm.and_then(|dsm| self.functions.get(&dsm)).is_some_and(|dsm| dsm.tee);
        FunctionView {
            pci: function.place,
            instance: function.instance,
            facts: LinkFacts {
                link_tsm: self.tsm.is_some(),
                express: function.express,
                dsm_capable: function.dsm_capable,
                has_tee: function.tee,
                managed: dsm.is_some(),
                dsm_has_tee,
            },
            ide: function.dsm_capable,
            dsm,
            tsm: dsm.map(|_| "tsm0".to_owned()),
            bound: false,
            doe_features: function.mailboxes.clone(),
            streams: dsm.filter(|&dsm| dsm == id).map(|_| "stream0.0.0".to_owned()).into_iter().collect(),
            last_error: function.last_error,
        }
    }

    fn event(&mut self, action: UeventAction, devpath: &str, subsystem: &str) {
        let seq = self.events.last().map_or(1, |event| event.seq + 1);
        let (devpath, subsystem) = (devpath.to_owned(), subsystem.to_owned());
        self.events.push(UeventRecord { seq, action, devpath, subsystem, extra: None });
        let gone = self.events.len().saturating_sub(KEPT);
        self.events.drain(..gone);
    }
}

impl FakePci {
    /// Puts a device of several kinds below each of three root ports, and one on a root bus.
    fn populate(&self) {
        let secure = vec![ObjectType::DISCOVERY, ObjectType::SPDM, ObjectType::SECURED_SPDM];
        for (address, port, dsm_capable, tee, mailboxes) in [
            ("0000:17:00.0", None, false, false, Vec::new()),
            ("0000:17:01.0", None, false, false, Vec::new()),
            ("0000:17:02.0", None, false, false, Vec::new()),
            ("0000:17:03.0", None, false, false, Vec::new()),
            ("0000:18:00.0", Some("0000:17:01.0"), true, true, secure.clone()),
            ("0000:18:00.1", Some("0000:17:01.0"), false, false, Vec::new()),
            ("0000:19:00.0", Some("0000:17:02.0"), true, false, secure),
            ("0000:1a:00.0", Some("0000:17:03.0"), false, false, Vec::new()),
        ] {
            self.insert(id(address), port.map(id), dsm_capable, tee, mailboxes);
        }
        let mut state = self.0.lock();
        if let Some(old) = state.functions.get_mut(&id("0000:17:00.0")) {
            old.express = false;
        }
    }

    fn insert(
        &self,
        id: FunctionId,
        root_port: Option<FunctionId>,
        dsm_capable: bool,
        tee: bool,
        mailboxes: Vec<ObjectType>,
    ) {
        let mut config = vec![0; 4096];
        config[..12].copy_from_slice(&[0x86, 0x80, 0x34, 0x12, 6, 0, 0x10, 0, 3, 0, 0x80, 0x01]);
        let place = PciFunction { id, root_port, physical: None, bridge: BRIDGE };
        let express = true;
        let function =
            Function { place, instance: 1, dsm_capable, tee, express, mailboxes, config, last_error: None };
        self.0.lock().functions.insert(id, function);
    }

    /// `devices` devices, each below a root port of its own.
    pub(crate) fn populate_widely(&self, devices: u16) {
        for number in 0..devices {
            let device = u8::try_from(number / 8 % 32).unwrap();
            let port = Bdf::new(
                0x17 + u8::try_from(number / 256).unwrap(),
                device,
                u8::try_from(number % 8).unwrap(),
            );
            let port = FunctionId::new(Segment(0), port.unwrap());
            let endpoint = FunctionId::new(Segment(1), Bdf::from_routing_id(number << 3));
            self.insert(port, None, false, false, Vec::new());
            self.insert(endpoint, Some(port), true, true, vec![ObjectType::SPDM]);
        }
    }

    /// While this is held, devices answer neither connects nor reads of their registers.
    pub(crate) fn silence(&self) -> RwLockWriteGuard<'_, ()> {
        self.1.write()
    }

    /// Waits until devices were waited for so many times.
    pub(crate) fn until_waited_for(&self, times: usize) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.0.lock().waited_for < times {
            assert!(Instant::now() < deadline, "not {times} at the same time");
            thread::yield_now();
        }
    }

    fn wait_for_device(&self) {
        self.0.lock().waited_for += 1;
        drop(self.1.read());
    }

    pub(crate) fn register_tsm(&self) {
        let mut state = self.0.lock();
        state.registrations += 1;
        state.tsm = Some(state.registrations);
        for action in [UeventAction::Add, UeventAction::Change] {
            state.event(action, "/devices/faux/tdx_host/tsm/tsm0", "tsm");
        }
    }

    pub(crate) fn unregister_tsm(&self) {
        let mut state = self.0.lock();
        state.connected.clear();
        state.tsm = None;
        state.event(UeventAction::Remove, "/devices/faux/tdx_host/tsm/tsm0", "tsm");
    }

    /// Somebody takes a device out.
    pub(crate) fn remove(&self, id: FunctionId) -> bool {
        let mut state = self.0.lock();
        state.connected.retain(|&dsm| dsm != id);
        state.functions.remove(&id).is_some()
    }

    /// Somebody takes a device out and puts another one in.
    pub(crate) fn replace(&self, id: FunctionId) {
        let mut state = self.0.lock();
        state.connected.retain(|&dsm| dsm != id);
        let function = state.functions.get_mut(&id).unwrap();
        function.instance += 1;
        function.last_error = None;
    }

    pub(crate) fn fail_next(&self, error: TsmError) {
        self.0.lock().failure = Some(error);
    }

    /// How often one function, or all of them, were asked for; counted anew from here.
    pub(crate) fn take_asked(&self) -> u64 {
        std::mem::take(&mut self.0.lock().asked)
    }

    pub(crate) fn links(&self) -> Vec<LinkView> {
        let state = self.0.lock();
        let link = |&device: &FunctionId| {
            let end = |port| LinkEnd {
                port,
                block: 0,
                enabled: true,
                state: StreamState::SECURE,
                fail_message: false,
            };
            LinkView {
                device,
                name: "stream0.0.0".to_owned(),
                stream_id: 1,
                root_port: end(state.functions[&device].place.root_port.unwrap()),
                endpoint: end(device),
                key_set: 0,
                key_refreshes: 2,
                session: SpdmId(0x7000),
                session_key_updates: 1,
                messages: 40,
                dev_info_bytes: 5_000,
            }
        };
        state.connected.iter().map(link).collect()
    }

    pub(crate) fn uevents_after(&self, after: u64) -> Vec<UeventRecord> {
        self.0.lock().events.iter().filter(|event| event.seq > after).cloned().collect()
    }

    pub(crate) fn refresh(&self, device: FunctionId, _: Refresh) -> Result<(), TsmError> {
        let connected = self.0.lock().connected.contains(&device);
        if connected { Ok(()) } else { Err(TsmError::NotConnected { device }) }
    }
}

/// The module refuses a device whose signature is wrong.
pub(crate) fn refused(device: FunctionId) -> TsmError {
    let refusal = Refusal { reason: RefusalReason::BAD_SIGNATURE, request: 0xE4 };
    let status = StatusCode::SPDM_AUTH_FAILED.with_detail(refusal.detail());
    let leaf = LeafWord::module(SeamcallLeaf::SPDM_CONNECT, 0);
    let error = SeamcallError { leaf, cause: SeamcallCause::Status(status), rcx: 0, rdx: 0 };
    TsmError::NotAuthentic { device, error, refusal }
}

impl FakeHost {
    /// A host with devices, and with tsm0.
    pub(crate) fn with_pci() -> Arc<Self> {
        let host = Self::with_device(&crate::fake::UPDATABLE);
        host.pci.populate();
        host.pci.register_tsm();
        host
    }
}

impl PciView for FakeHost {
    fn tsm(&self) -> Option<TsmView> {
        let state = self.pci.0.lock();
        state.tsm.map(|instance| TsmView {
            name: "tsm0".to_owned(),
            number: 0,
            instance,
            broken: false,
            pages_kept: 0,
            connected: state.connected.len(),
        })
    }

    fn bridges(&self) -> Vec<BridgeView> {
        let state = self.pci.0.lock();
        if state.functions.is_empty() {
            return Vec::new();
        }
        let streams = state.connected.iter().map(|&dsm| ("stream0.0.0".to_owned(), dsm)).collect();
        let used = u16::try_from(state.connected.len()).unwrap();
        let without = HostBridge { segment: Segment(0), bus: 0x80, last_bus: 0x8F };
        vec![
            BridgeView { bridge: BRIDGE, available_secure_streams: Some(8 - used), streams },
            BridgeView { bridge: without, available_secure_streams: None, streams: Vec::new() },
        ]
    }

    fn functions(&self) -> Vec<PciFunction> {
        let mut state = self.pci.0.lock();
        state.asked += state.functions.len() as u64;
        state.functions.values().map(|function| function.place).collect()
    }

    fn function(&self, id: FunctionId) -> Option<FunctionView> {
        let mut state = self.pci.0.lock();
        state.asked += 1;
        state.functions.get(&id).map(|function| state.view(function))
    }

    fn config_read(&self, id: FunctionId, offset: u16, width: Width) -> u32 {
        self.pci.wait_for_device();
        let state = self.pci.0.lock();
        let Some(function) = state.functions.get(&id) else { return width.mask() };
        let (at, bytes) = (usize::from(offset), usize::from(width.bytes()));
        function.config[at..at + bytes].iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte))
    }

    fn config_write(&self, id: FunctionId, offset: u16, width: Width, value: u32) {
        let mut state = self.pci.0.lock();
        let Some(function) = state.functions.get_mut(&id) else { return };
        let (at, bytes) = (usize::from(offset), usize::from(width.bytes()));
        function.config[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
    }

    fn connect(&self, device: FunctionId, text: &str) -> Result<(), TsmError> {
        self.pci.wait_for_device();
        let mut state = self.pci.0.lock();
        if !state.functions.contains_key(&device) {
            return Err(TsmError::NoSuchFunction { device });
        }
        let tsm = parse_name(text).ok_or(TsmError::BadTsmName { device })?;
        if state.connected.contains(&device) {
            return Err(TsmError::AlreadyConnected { device, tsm: 0 });
        }
        if tsm != 0 || state.tsm.is_none() {
            return Err(TsmError::NoSuchTsm { device, tsm });
        }
        let failure = state.failure.take();
        let function = state.functions.get_mut(&device).unwrap();
        function.last_error = failure;
        failure.map_or(Ok(()), Err)?;
        state.connected.push(device);
        state.event(UeventAction::Change, "/devices/pci0000:17/0000:17:01.0/0000:18:00.0", "pci");
        Ok(())
    }

    fn disconnect(&self, device: FunctionId, text: &str) -> Result<(), TsmError> {
        let mut state = self.pci.0.lock();
        if !state.connected.contains(&device) {
            return Err(TsmError::NotConnected { device });
        }
        if text.strip_suffix('\n').unwrap_or(text) != "tsm0" {
            return Err(TsmError::OtherTsm { device, tsm: 0 });
        }
        state.connected.retain(|&dsm| dsm != device);
        Ok(())
    }
}
