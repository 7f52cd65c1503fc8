//! Host bridges and their functions: `devices/pciDDDD:BB/…`, and `bus/pci/devices`, whose links lead there.

pub(super) mod config;
pub(super) mod function;
mod tsm;

use std::sync::Arc;

use pcie::FunctionId;
use tdx_host::traits::{HostBridge, PciFunction};
use tdx_host::tsm::{Content, TSM_ATTRIBUTES, TsmAttribute};
use tdx_platform::BridgeView;

use self::function::FunctionDirectory;
use super::Errno;
use super::tree::{Attribute, Directory, Entry, Node};
use super::view::HostView;

/// The row of what an attribute shows.
fn attribute(content: Content) -> Option<&'static TsmAttribute> {
    TSM_ATTRIBUTES.iter().find(|row| row.content == content)
}

/// A function whose name is exactly `name`.
fn named_function(name: &str) -> Option<FunctionId> {
    name.parse().ok().filter(|id: &FunctionId| id.to_string() == name)
}

/// Where the directory of a function is, from the root of sysfs.
fn function_path(place: &PciFunction) -> String {
    match place.root_port {
        Some(port) => format!("devices/{}/{port}/{}", place.bridge, place.id),
        None => format!("devices/{}/{}", place.bridge, place.id),
    }
}

/// `devices`: host bridges beside what else is there.
pub(super) struct Devices {
    pub(super) host: Arc<dyn HostView>,
    pub(super) others: Vec<Entry>,
}

impl Devices {
    fn bridge(&self, bridge: HostBridge) -> BridgeDirectory {
        BridgeDirectory { host: Arc::clone(&self.host), bridge }
    }
}

impl Directory for Devices {
    fn entries(&self) -> Vec<Entry> {
        let bridges = self.host.bridges().into_iter().map(|view| view.bridge);
        let bridges = bridges.map(|bridge| Entry::directory(bridge.to_string(), self.bridge(bridge)));
        self.others.iter().cloned().chain(bridges).collect()
    }

    fn lookup(&self, name: &str) -> Option<Node> {
        if let Some(other) = self.others.iter().find(|entry| entry.name == name) {
            return Some(other.node.clone());
        }
        let mut bridges = self.host.bridges().into_iter().map(|view| view.bridge);
        let bridge = bridges.find(|bridge| bridge.to_string() == name)?;
        Some(Node::Directory(Arc::new(self.bridge(bridge))))
    }
}

/// `devices/pciDDDD:BB`.
struct BridgeDirectory {
    host: Arc<dyn HostView>,
    bridge: HostBridge,
}

impl BridgeDirectory {
    fn on_root_bus(&self, place: &PciFunction) -> bool {
        place.bridge == self.bridge && place.root_port.is_none()
    }

    fn function(&self, id: FunctionId) -> FunctionDirectory {
        FunctionDirectory { host: Arc::clone(&self.host), id }
    }

    fn on_root_buses(&self) -> impl Iterator<Item = PciFunction> {
        self.host.functions().into_iter().filter(|place| self.on_root_bus(place))
    }

    fn view(&self) -> Option<BridgeView> {
        self.host.bridges().into_iter().find(|view| view.bridge == self.bridge)
    }

    /// `available_secure_streams`, where the bridge has streams at all.
    fn available(&self, view: &BridgeView) -> Option<Entry> {
        view.available_secure_streams?;
        let row = attribute(Content::AvailableStreams)?;
        let file = AvailableStreams { host: Arc::clone(&self.host), bridge: self.bridge, mode: row.mode };
        Some(Entry::file(row.name, file))
    }

    /// The link to the endpoint of a stream.
    fn link(&self, endpoint: FunctionId) -> Option<String> {
        let place = self.host.function(endpoint)?.pci;
        let path = function_path(&place);
        Some(path.strip_prefix(&format!("devices/{}/", self.bridge))?.to_owned())
    }
}

impl Directory for BridgeDirectory {
    fn entries(&self) -> Vec<Entry> {
        let Some(view) = self.view() else { return Vec::new() };
        let available = self.available(&view);
        let links = view.streams.into_iter();
        let links = links.filter_map(|(name, endpoint)| Some(Entry::symlink(name, self.link(endpoint)?)));
        let functions = self.on_root_buses();
        let functions =
            functions.map(|place| Entry::directory(place.id.to_string(), self.function(place.id)));
        available.into_iter().chain(links).chain(functions).collect()
    }

    fn lookup(&self, name: &str) -> Option<Node> {
        if let Some(id) = named_function(name) {
            let place = self.host.function(id)?.pci;
            return self.on_root_bus(&place).then(|| Node::Directory(Arc::new(self.function(id))));
        }
        let view = self.view()?;
        if let Some(available) = self.available(&view).filter(|entry| entry.name == name) {
            return Some(available.node);
        }
        let (_, endpoint) = view.streams.into_iter().find(|(stream, _)| stream == name)?;
        Some(Node::Symlink(self.link(endpoint)?.into()))
    }

    fn subdirectories(&self) -> usize {
        self.on_root_buses().count()
    }
}

/// `available_secure_streams`.
struct AvailableStreams {
    host: Arc<dyn HostView>,
    bridge: HostBridge,
    mode: u16,
}

impl Attribute for AvailableStreams {
    fn mode(&self) -> u16 {
        self.mode
    }

    fn read(&self) -> Result<String, Errno> {
        let mut bridges = self.host.bridges().into_iter();
        let view = bridges.find(|view| view.bridge == self.bridge);
        let available = view.and_then(|view| view.available_secure_streams).ok_or(Errno::ENXIO)?;
        Ok(format!("{available}\n"))
    }
}

/// `bus/pci/devices`.
struct Links(Arc<dyn HostView>);

/// `bus/pci`.
pub(super) fn bus(host: &Arc<dyn HostView>) -> Vec<Entry> {
    vec![Entry::directory("devices", Links(Arc::clone(host)))]
}

fn link(place: &PciFunction) -> String {
    format!("../../../{}", function_path(place))
}

impl Directory for Links {
    fn entries(&self) -> Vec<Entry> {
        let functions = self.0.functions();
        functions.iter().map(|place| Entry::symlink(place.id.to_string(), link(place))).collect()
    }

    fn lookup(&self, name: &str) -> Option<Node> {
        let function = self.0.function(named_function(name)?)?;
        Some(Node::Symlink(link(&function.pci).into()))
    }

    fn subdirectories(&self) -> usize {
        0
    }
}
