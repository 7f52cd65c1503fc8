//! What a host shows of devices, links and TSMs.

use std::time::Duration;

use pcie::FunctionId;
use pcie::doe::ObjectType;
use pcie::ide::StreamState;
use tdx_abi::connect::ids::SpdmId;
use tdx_host::traits::{HostBridge, PciFunction, UeventAction};
use tdx_host::tsm::{LinkFacts, Refresh, TSM_ATTRIBUTES, TsmAttribute, TsmError, parse_name};

use crate::host::TdxHost;

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

/// Something that user space was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UeventRecord {
    /// Its number, ascending without gaps from 1 in a boot.
    pub seq: u64,
    /// What happened.
    pub action: UeventAction,
    /// To which device, below `/sys`.
    pub devpath: String,
    /// In which subsystem.
    pub subsystem: String,
    /// One more line, `KEY=value`.
    pub extra: Option<String>,
}

/// What hardware tells about a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceEvent {
    /// A function came.
    Added(FunctionId),
    /// The device was taken out, or its link is down.
    Removed(FunctionId),
    /// The stream of the device is not secure any more: an integrity check failed at one end (AER 28 to 30),
    /// or the link lost its keys.
    StreamLost(FunctionId),
}

impl TdxHost {
    /// The TSM, while one is registered.
    pub fn tsm(&self) -> Option<TsmView> {
        None
    }

    /// All PCI functions, ascending.
    pub fn functions(&self) -> Vec<FunctionView> {
        Vec::new()
    }

    /// One PCI function.
    pub fn function(&self, function: FunctionId) -> Option<FunctionView> {
        self.functions().into_iter().find(|view| view.pci.id == function)
    }

    /// The host bridges, ascending.
    pub fn bridges(&self) -> Vec<BridgeView> {
        Vec::new()
    }

    /// The links of connected devices.
    pub fn links(&self) -> Vec<LinkView> {
        Vec::new()
    }

    /// Connects a device to the TSM named by `text`, as it is written to `tsm/connect`.
    pub fn connect(&self, device: FunctionId, text: &str) -> Result<(), TsmError> {
        self.function(device).ok_or(TsmError::NoSuchFunction { device })?;
        let tsm = parse_name(text).ok_or(TsmError::BadTsmName { device })?;
        Err(TsmError::NoSuchTsm { device, tsm })
    }

    /// Disconnects a device from the TSM named by `text`, as it is written to `tsm/disconnect`.
    pub fn disconnect(&self, device: FunctionId, _text: &str) -> Result<(), TsmError> {
        self.function(device).ok_or(TsmError::NoSuchFunction { device })?;
        Err(TsmError::NotConnected { device })
    }

    /// Makes keys or device information of a connected device anew.
    pub fn refresh(&self, device: FunctionId, _what: Refresh) -> Result<(), TsmError> {
        self.function(device).ok_or(TsmError::NoSuchFunction { device })?;
        Err(TsmError::NotConnected { device })
    }

    /// The device information of a connected device.
    pub fn dev_info(&self, device: FunctionId) -> Result<Vec<u8>, TsmError> {
        self.function(device).ok_or(TsmError::NoSuchFunction { device })?;
        Err(TsmError::NotConnected { device })
    }

    /// What user space was told after `seq`; older records may be gone, which shows in the numbers.
    pub fn uevents_after(&self, _seq: u64) -> Vec<UeventRecord> {
        Vec::new()
    }

    /// Does what is due at the time `now`: keys of links are made anew.
    pub fn tick(&self, _now: Duration) {}

    /// Takes note of what hardware tells.
    pub fn device_event(&self, _event: DeviceEvent) {}
}
