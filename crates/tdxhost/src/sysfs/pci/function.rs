//! The directory of a PCI function.

use std::sync::Arc;

use pcie::FunctionId;
use pcie::config::{Width, offset};
use pcie::doe::ObjectType;
use tdx_host::tsm::Content;
use tdx_platform::FunctionView;

use super::config::{self, Config};
use super::{attribute, named_function, tsm};
use crate::sysfs::Errno;
use crate::sysfs::tree::{Attribute, Directory, Entry, Node};
use crate::sysfs::view::HostView;

const DOE_FEATURES: &str = "doe_features";
const SUBSYSTEM: &str = "subsystem";

/// A device that was found at some time, for the files that somebody opened on it.
#[derive(Clone)]
pub(super) struct Device {
    pub(super) host: Arc<dyn HostView>,
    pub(super) id: FunctionId,
    instance: u64,
}

impl Device {
    /// What it is now; `ENODEV` once it is gone, even if another one has its place.
    pub(super) fn get(&self) -> Result<FunctionView, Errno> {
        let function = self.host.function(self.id).filter(|function| function.instance == self.instance);
        function.ok_or(Errno::ENODEV)
    }
}

/// The directory of whatever device is at `id`.
pub(super) struct FunctionDirectory {
    pub(super) host: Arc<dyn HostView>,
    pub(super) id: FunctionId,
}

impl FunctionDirectory {
    fn device(&self, function: &FunctionView) -> Device {
        Device { host: Arc::clone(&self.host), id: self.id, instance: function.instance }
    }

    fn below(&self, id: FunctionId) -> Self {
        Self { host: Arc::clone(&self.host), id }
    }

    fn ids_below(&self) -> impl Iterator<Item = FunctionId> {
        let functions = self.host.functions().into_iter();
        functions.filter(|place| place.root_port == Some(self.id)).map(|place| place.id)
    }

    /// What is there without the functions below.
    fn own(&self, function: &FunctionView) -> Vec<Entry> {
        let device = self.device(function);
        let mut entries: Vec<Entry> = Register::ALL
            .into_iter()
            .map(|register| Entry::file(register.name(), RegisterFile { device: device.clone(), register }))
            .collect();
        entries.push(Entry::binary(
            config::NAME,
            Config { device: device.clone(), express: function.facts.express },
        ));
        let up = if function.pci.root_port.is_some() { "../../../../" } else { "../../../" };
        entries.push(Entry::symlink(SUBSYSTEM, format!("{up}bus/pci")));
        if !function.doe_features.is_empty() {
            let features = function.doe_features.clone();
            entries.push(Entry::directory(DOE_FEATURES, DoeFeatures { device: device.clone(), features }));
        }
        entries.extend(tsm::entries(&device, function));
        entries
    }
}

impl Directory for FunctionDirectory {
    fn entries(&self) -> Vec<Entry> {
        let Some(function) = self.host.function(self.id) else { return Vec::new() };
        let below = self.ids_below().map(|id| Entry::directory(id.to_string(), self.below(id)));
        self.own(&function).into_iter().chain(below).collect()
    }

    fn lookup(&self, name: &str) -> Option<Node> {
        if let Some(id) = named_function(name) {
            let below = self.host.function(id)?.pci.root_port == Some(self.id);
            return below.then(|| Node::Directory(Arc::new(self.below(id))));
        }
        let own = self.own(&self.host.function(self.id)?);
        own.into_iter().find(|entry| entry.name == name).map(|entry| entry.node)
    }

    fn subdirectories(&self) -> usize {
        let Some(function) = self.host.function(self.id) else { return 0 };
        let own = self.own(&function);
        own.iter().filter(|entry| matches!(entry.node, Node::Directory(_))).count() + self.ids_below().count()
    }
}

/// Registers of the header that have a text file each.
#[derive(Clone, Copy)]
pub(in crate::sysfs) enum Register {
    Class,
    Device,
    Revision,
    Vendor,
}

impl Register {
    pub(in crate::sysfs) const ALL: [Self; 4] = [Self::Class, Self::Device, Self::Revision, Self::Vendor];

    /// Permission bits of all of them.
    pub(in crate::sysfs) const MODE: u16 = 0o444;

    /// What reading gives.
    pub(in crate::sysfs) const fn reads(self) -> &'static str {
        match self {
            Self::Class => "class code, `0x` and six digits",
            Self::Device => "device id, `0x` and four digits",
            Self::Revision => "revision, `0x` and two digits",
            Self::Vendor => "vendor id, `0x` and four digits",
        }
    }

    pub(in crate::sysfs) const fn name(self) -> &'static str {
        match self {
            Self::Class => "class",
            Self::Device => "device",
            Self::Revision => "revision",
            Self::Vendor => "vendor",
        }
    }
}

struct RegisterFile {
    device: Device,
    register: Register,
}

impl Attribute for RegisterFile {
    fn mode(&self) -> u16 {
        Register::MODE
    }

    fn read(&self) -> Result<String, Errno> {
        self.device.get()?;
        let read = |at| self.device.host.config_read(self.device.id, at, Width::Dword);
        Ok(match self.register {
            Register::Class => format!("{:#08x}\n", read(offset::CLASS) >> 8),
            Register::Revision => format!("{:#04x}\n", read(offset::CLASS) & 0xff),
            Register::Device => format!("{:#06x}\n", read(offset::IDS) >> 16),
            Register::Vendor => format!("{:#06x}\n", read(offset::IDS) & 0xffff),
        })
    }

    fn is_live(&self) -> bool {
        self.device.get().is_ok()
    }
}

/// `doe_features`: each type of data object that a mailbox takes, by its name.
struct DoeFeatures {
    device: Device,
    features: Vec<ObjectType>,
}

impl DoeFeatures {
    fn feature(&self, kind: ObjectType) -> Option<Entry> {
        let discovery = kind == ObjectType::DISCOVERY;
        let row = attribute(if discovery { Content::DoeDiscovery } else { Content::DoeFeature })?;
        let own_name = format!("{:04x}:{:02x}", kind.vendor.0, kind.kind);
        let name = if discovery { row.name.to_owned() } else { own_name.clone() };
        Some(Entry::file(name, Feature { device: self.device.clone(), mode: row.mode, own_name }))
    }
}

impl Directory for DoeFeatures {
    fn entries(&self) -> Vec<Entry> {
        let mut features = self.features.clone();
        // Whoever takes anything takes discoveries, and several mailboxes may take the same.
        features.push(ObjectType::DISCOVERY);
        features.sort_unstable();
        features.dedup();
        features.into_iter().filter_map(|kind| self.feature(kind)).collect()
    }

    fn subdirectories(&self) -> usize {
        0
    }
}

struct Feature {
    device: Device,
    mode: u16,
    own_name: String,
}

impl Attribute for Feature {
    fn mode(&self) -> u16 {
        self.mode
    }

    fn read(&self) -> Result<String, Errno> {
        self.device.get()?;
        Ok(format!("{}\n", self.own_name))
    }

    fn is_live(&self) -> bool {
        self.device.get().is_ok()
    }
}
