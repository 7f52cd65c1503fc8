//! PCI functions, TDX Connect and its links as the API tells them.

use pcie::FunctionId;
use pcie::config::{Width, offset};
use pcie::doe::ObjectType;
use serde::{Deserialize, Serialize};
use tdx_host::ConnectState;
use tdx_host::tsm::{Refresh, TsmError};
use tdx_platform::{FunctionView, LinkEnd, LinkView, UeventRecord};

use super::facts::{ErrorFacts, HostSource};

/// Whether devices can be connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConnectMode {
    /// They cannot.
    Off,
    /// They can.
    On,
    /// They could, until an update of the module.
    Dead,
}

/// `GET /v1/tsm`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TsmFacts {
    /// Whether TDX Connect works.
    pub connect: ConnectMode,
    /// Why it does not.
    pub reason: Option<ErrorFacts>,
    /// Name of the TSM; `None` while none is registered.
    pub name: Option<String>,
    /// It takes no more devices: the module kept pages that it should have given back.
    pub broken: bool,
    /// Pages that the module kept.
    pub pages_kept: u64,
    /// Devices that are connected.
    pub connected: u64,
}

impl TsmFacts {
    /// What `host` tells of its TSM.
    pub(super) fn of(host: &dyn HostSource) -> Self {
        let (state, tsm) = (host.connect_status(), host.tsm());
        Self {
            connect: match state {
                ConnectState::Off(_) => ConnectMode::Off,
                ConnectState::On => ConnectMode::On,
                ConnectState::Dead(_) => ConnectMode::Dead,
            },
            reason: state.reason().as_ref().map(ErrorFacts::from),
            broken: tsm.as_ref().is_some_and(|tsm| tsm.broken),
            pages_kept: tsm.as_ref().map_or(0, |tsm| tsm.pages_kept),
            connected: tsm.as_ref().map_or(0, |tsm| tsm.connected as u64),
            name: tsm.map(|tsm| tsm.name),
        }
    }
}

/// `GET /v1/devices`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionsFacts {
    /// Every PCI function, ascending.
    pub devices: Vec<FunctionFacts>,
}

/// `GET /v1/devices/{address}`: one PCI function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools)] // Each is a fact of its own.
pub struct FunctionFacts {
    /// `0000:18:00.0`.
    pub address: String,
    /// Its host bridge, `pci0000:17`.
    pub bridge: String,
    /// The root port above it; `None` on a root bus.
    pub root_port: Option<String>,
    /// The physical function of a virtual one.
    pub physical: Option<String>,
    /// Vendor id.
    pub vendor: String,
    /// Device id.
    pub device: String,
    /// Class code.
    pub class: String,
    /// A PCI Express function.
    pub express: bool,
    /// It and the root port above it have selective IDE.
    pub ide: bool,
    /// It has the TEE-IO bit.
    pub tee: bool,
    /// Function 0 with IDE or TEE-IO: what can be connected.
    pub dsm_capable: bool,
    /// The function whose DSM manages it.
    pub dsm: Option<String>,
    /// The TSM that it is connected to, itself or by its DSM.
    pub tsm: Option<String>,
    /// An interface of it belongs to a TD.
    pub bound: bool,
    /// Types of data objects that its mailboxes take.
    pub doe_features: Vec<String>,
    /// Its streams.
    pub streams: Vec<String>,
    /// Why the last connect or refresh failed, or the connection was lost.
    pub last_error: Option<TsmErrorFacts>,
}

impl FunctionFacts {
    /// What `host` tells of a function.
    pub(super) fn of(host: &dyn HostSource, view: FunctionView) -> Self {
        let id = view.pci.id;
        let read = |at| host.config_read(id, at, Width::Dword);
        let (ids, class) = (read(offset::IDS), read(offset::CLASS));
        Self {
            address: id.to_string(),
            bridge: view.pci.bridge.to_string(),
            root_port: view.pci.root_port.map(|port| port.to_string()),
            physical: view.pci.physical.map(|bdf| FunctionId::new(id.segment, bdf).to_string()),
            vendor: format!("{:#06x}", ids & 0xffff),
            device: format!("{:#06x}", ids >> 16),
            class: format!("{:#08x}", class >> 8),
            express: view.facts.express,
            ide: view.ide,
            tee: view.facts.has_tee,
            dsm_capable: view.facts.dsm_capable,
            dsm: view.dsm.map(|dsm| dsm.to_string()),
            tsm: view.tsm,
            bound: view.bound,
            doe_features: view.doe_features.into_iter().map(doe_feature).collect(),
            streams: view.streams,
            last_error: view.last_error.as_ref().map(TsmErrorFacts::from),
        }
    }
}

/// As in the name of a file of `doe_features`.
fn doe_feature(kind: ObjectType) -> String {
    format!("{:04x}:{:02x}", kind.vendor.0, kind.kind)
}

/// A failure of the TSM, with what the writer of a sysfs file sees of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TsmErrorFacts {
    /// Name, sentence, blame and advice.
    #[serde(flatten)]
    pub error: ErrorFacts,
    /// Error name, such as `EBUSY`.
    pub errno: String,
    /// What the module had against the device's answers.
    pub reason: Option<String>,
}

impl From<&TsmError> for TsmErrorFacts {
    fn from(error: &TsmError) -> Self {
        Self {
            error: error.into(),
            errno: error.errno().name().map_or_else(|| error.errno().0.to_string(), str::to_owned),
            reason: match error {
                TsmError::DeviceRefused { refusal, .. }
                | TsmError::NotAuthentic { refusal, .. }
                | TsmError::KeysRefused { refusal, .. } => Some(refusal.reason.to_string()),
                _ => None,
            },
        }
    }
}

/// Body of `POST /v1/devices/{address}/connect` and `…/disconnect`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectRequest {
    /// Name of the TSM; the one that is there if it is left out.
    pub tsm: Option<String>,
}

/// What is made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefreshWhat {
    /// The keys of the SPDM session.
    Session,
    /// The keys of the link.
    Stream,
    /// The device information.
    Evidence,
}

impl From<RefreshWhat> for Refresh {
    fn from(what: RefreshWhat) -> Self {
        match what {
            RefreshWhat::Session => Self::SessionKeys,
            RefreshWhat::Stream => Self::StreamKeys,
            RefreshWhat::Evidence => Self::Evidence,
        }
    }
}

/// Body of `POST /v1/devices/{address}/refresh`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefreshRequest {
    /// What is made anew.
    pub what: RefreshWhat,
}

/// `GET /v1/links`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinksFacts {
    /// The links of connected devices.
    pub links: Vec<LinkFacts>,
}

/// A link that is secured, or was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkFacts {
    /// The device, by its DSM.
    pub device: String,
    /// `stream0.0.0`.
    pub name: String,
    /// Stream id.
    pub stream_id: u8,
    /// The end of the root port.
    pub root_port: LinkEndFacts,
    /// The end of the device.
    pub endpoint: LinkEndFacts,
    /// Both ends are enabled and secure.
    pub secure: bool,
    /// Key set in use.
    pub key_set: u8,
    /// Times that the keys of the link were made anew.
    pub key_refreshes: u64,
    /// The SPDM session, as the module names it.
    pub session: String,
    /// Times that the keys of the session were made anew.
    pub session_key_updates: u64,
    /// Messages that went to the device and back.
    pub messages: u64,
    /// Bytes of device information.
    pub dev_info_bytes: u64,
}

impl From<LinkView> for LinkFacts {
    fn from(link: LinkView) -> Self {
        let root_port = LinkEndFacts::from(link.root_port);
        let endpoint = LinkEndFacts::from(link.endpoint);
        Self {
            device: link.device.to_string(),
            name: link.name,
            stream_id: link.stream_id,
            secure: root_port.is_secure() && endpoint.is_secure(),
            root_port,
            endpoint,
            key_set: link.key_set,
            key_refreshes: link.key_refreshes,
            session: format!("{:#x}", link.session.0),
            session_key_updates: link.session_key_updates,
            messages: link.messages,
            dev_info_bytes: link.dev_info_bytes as u64,
        }
    }
}

/// One end of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkEndFacts {
    /// The port.
    pub port: String,
    /// Its register block.
    pub block: u8,
    /// Its control register has the stream enabled.
    pub enabled: bool,
    /// What its status register says.
    pub state: String,
    /// The other end said that an integrity check failed.
    pub fail_message: bool,
}

impl LinkEndFacts {
    fn is_secure(&self) -> bool {
        self.enabled && self.state == "secure"
    }
}

impl From<LinkEnd> for LinkEndFacts {
    fn from(end: LinkEnd) -> Self {
        Self {
            port: end.port.to_string(),
            block: end.block,
            enabled: end.enabled,
            state: end.state.to_string(),
            fail_message: end.fail_message,
        }
    }
}

/// `GET /v1/events`: what user space was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsFacts {
    /// Events between the one asked for and the first of these that are kept no longer.
    pub lost: u64,
    /// Number of the newest event, to ask from the next time.
    pub last: u64,
    /// Oldest first.
    pub events: Vec<EventFacts>,
}

impl EventsFacts {
    /// What `host` still knows of the events behind number `after`. A number that it has not reached is of
    /// another boot: then everything is new.
    pub(super) fn after(host: &dyn HostSource, after: u64) -> Self {
        let (mut after, mut records) = (after, host.uevents_after(after));
        if records.is_empty() && after != 0 && host.uevents_after(after - 1).is_empty() {
            after = 0;
            records = host.uevents_after(after);
        }
        let first = records.first().map_or(0, |record| record.seq);
        Self {
            lost: first.saturating_sub(after.saturating_add(1)),
            last: records.last().map_or(after, |record| record.seq),
            events: records.into_iter().map(EventFacts::from).collect(),
        }
    }
}

/// One uevent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventFacts {
    /// Its number; they ascend without gaps.
    pub seq: u64,
    /// `add`, `change` or `remove`.
    pub action: String,
    /// To which device, below `/sys`.
    pub devpath: String,
    /// In which subsystem.
    pub subsystem: String,
    /// One more line, `KEY=value`.
    pub extra: Option<String>,
}

impl From<UeventRecord> for EventFacts {
    fn from(record: UeventRecord) -> Self {
        Self {
            seq: record.seq,
            action: record.action.name().to_owned(),
            devpath: record.devpath,
            subsystem: record.subsystem,
            extra: record.extra,
        }
    }
}
