//! Where each kernel keeps the files of the `tdx_host` device; those of PCI have one place in all of them.

use std::borrow::Cow;
use std::sync::Arc;

use tdx_host::device;

use super::Errno;
use super::tree::{Attribute, Directory, Entry, Node, Tree};
use super::view::{DeviceInstance, HostView};
use super::{pci, tsm, upload};
use crate::update::cpus::family_and_model;

/// Paths and formats of one generation of the kernel interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    /// Linux 7.3: `devices/faux/tdx_host/{version,seamldr_version,num_remaining_updates}`
    #[default]
    #[value(name = "7.3")]
    Linux7_3,
    /// Postings of 2025-09 to 2026-05: `devices/faux/tdx_host/seamldr/…`
    #[value(name = "2025-09")]
    Posting2025_09,
    /// Posting of 2025-03: `devices/virtual/tdx/{tdx_tsm,seamldr}/…`
    #[value(name = "2025-03")]
    Posting2025_03,
}

impl Layout {
    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linux7_3 => "7.3",
            Self::Posting2025_09 => "2025-09",
            Self::Posting2025_03 => "2025-03",
        }
    }

    /// Path of the directory that holds the module's `version`, from the root of sysfs.
    pub fn device_path(self) -> &'static str {
        match self {
            Self::Linux7_3 | Self::Posting2025_09 => "devices/faux/tdx_host",
            Self::Posting2025_03 => "devices/virtual/tdx/tdx_tsm",
        }
    }
}

impl Layout {
    /// Where an attribute of the device is, from the root of sysfs, and its mode there.
    pub fn attribute(self, attribute: &device::Attribute) -> Option<(String, u16)> {
        let (directory, name) = match (self, attribute.name) {
            (_, VERSION) | (Self::Linux7_3, _) => (self.device_path(), attribute.name),
            (Self::Posting2025_09, SEAMLDR_VERSION) => ("devices/faux/tdx_host/seamldr", VERSION),
            (Self::Posting2025_09, REMAINING_UPDATES) => ("devices/faux/tdx_host/seamldr", REMAINING_UPDATES),
            (Self::Posting2025_03, SEAMLDR_VERSION) => ("devices/virtual/tdx/seamldr", VERSION),
            (Self::Posting2025_03, REMAINING_UPDATES) => ("devices/virtual/tdx/seamldr", REMAINING_UPDATES),
            _ => return None,
        };
        let mode = if self == Self::Linux7_3 { attribute.mode } else { READ_ONLY };
        Some((format!("{directory}/{name}"), mode))
    }
}

/// The 2025 texts call all of their files read-only for everybody; only Linux 7.3 reserves those
/// that call P-SEAMLDR for root.
const READ_ONLY: u16 = 0o444;

const VERSION: &str = "version";
const SEAMLDR_VERSION: &str = "seamldr_version";
const REMAINING_UPDATES: &str = "num_remaining_updates";

/// The sysfs tree of `host` in one layout.
pub fn sysfs(host: &Arc<dyn HostView>, layout: Layout) -> Tree {
    let device_parent = match layout {
        Layout::Linux7_3 => part(host, "faux", faux_7_3),
        Layout::Posting2025_09 => part(host, "faux", faux_2025_09),
        Layout::Posting2025_03 => part(host, "virtual", virtual_2025_03),
    };
    let cpu = vec![
        Entry::file("modalias", CpuModalias { host: Arc::clone(host) }),
        Entry::file("online", CpuMask { host: Arc::clone(host), online: true }),
        Entry::file("present", CpuMask { host: Arc::clone(host), online: false }),
    ];
    let others = vec![device_parent, fixed("system", vec![fixed("cpu", cpu)])];
    let devices = pci::Devices { host: Arc::clone(host), others };
    let mut bus = vec![part(host, "pci", pci::bus)];
    if layout != Layout::Posting2025_03 {
        bus.push(fixed("faux", vec![part(host, "devices", faux_links)]));
    }
    let class = vec![upload::class(host, layout), tsm::class(host, layout)];
    Tree::new(Fixed(vec![Entry::directory("devices", devices), fixed("class", class), fixed("bus", bus)]))
}

/// A directory whose entries never change.
struct Fixed(Vec<Entry>);

impl Directory for Fixed {
    fn entries(&self) -> Vec<Entry> {
        self.0.clone()
    }

    fn lookup(&self, name: &str) -> Option<Node> {
        self.0.iter().find(|entry| entry.name == name).map(|entry| entry.node.clone())
    }
}

fn fixed(name: &'static str, entries: Vec<Entry>) -> Entry {
    Entry::directory(name, Fixed(entries))
}

/// A directory whose entries follow from what the host offers at the moment.
struct FromHost {
    host: Arc<dyn HostView>,
    list: fn(&Arc<dyn HostView>) -> Vec<Entry>,
}

impl Directory for FromHost {
    fn entries(&self) -> Vec<Entry> {
        (self.list)(&self.host)
    }
}

fn part(host: &Arc<dyn HostView>, name: &'static str, list: fn(&Arc<dyn HostView>) -> Vec<Entry>) -> Entry {
    Entry::directory(name, FromHost { host: Arc::clone(host), list })
}

fn faux_7_3(host: &Arc<dyn HostView>) -> Vec<Entry> {
    with_device(host, |_| vec![part(host, "tdx_host", tdx_host_7_3)])
}

fn faux_2025_09(host: &Arc<dyn HostView>) -> Vec<Entry> {
    with_device(host, |_| vec![part(host, "tdx_host", tdx_host_2025_09)])
}

fn faux_links(host: &Arc<dyn HostView>) -> Vec<Entry> {
    with_device(host, |_| vec![Entry::symlink("tdx_host", "../../../devices/faux/tdx_host")])
}

fn tdx_host_7_3(host: &Arc<dyn HostView>) -> Vec<Entry> {
    with_device(host, |device| {
        let firmware = upload::firmware(host, Layout::Linux7_3);
        host.attributes()
            .into_iter()
            .map(|offered| {
                let attribute = DeviceAttribute {
                    host: Arc::clone(host),
                    device,
                    name: offered.name.clone().into(),
                    mode: offered.mode,
                    format: Format::AsOffered,
                };
                Entry::file(offered.name, attribute)
            })
            .chain(firmware)
            .chain(tsm::devices(host, Layout::Linux7_3))
            .collect()
    })
}

fn tdx_host_2025_09(host: &Arc<dyn HostView>) -> Vec<Entry> {
    with_device(host, |device| {
        let mut entries = vec![Entry::file(VERSION, read_only(host, device, VERSION, Format::Plain))];
        if offers(host, SEAMLDR_VERSION) || offers(host, REMAINING_UPDATES) {
            entries.push(part(host, "seamldr", seamldr_2025_09));
        }
        entries.extend(upload::firmware(host, Layout::Posting2025_09));
        entries.extend(tsm::devices(host, Layout::Posting2025_09));
        entries
    })
}

fn seamldr_2025_09(host: &Arc<dyn HostView>) -> Vec<Entry> {
    with_device(host, |device| {
        [(VERSION, SEAMLDR_VERSION, Format::Plain), (REMAINING_UPDATES, REMAINING_UPDATES, Format::AsOffered)]
            .into_iter()
            .filter(|(_, source, _)| offers(host, source))
            .map(|(name, source, format)| Entry::file(name, read_only(host, device, source, format)))
            .collect()
    })
}

fn virtual_2025_03(host: &Arc<dyn HostView>) -> Vec<Entry> {
    with_device(host, |_| vec![part(host, "tdx", tdx_2025_03)])
}

fn tdx_2025_03(host: &Arc<dyn HostView>) -> Vec<Entry> {
    let mut entries = vec![part(host, "seamldr", seamldr_2025_03), part(host, "tdx_tsm", tdx_tsm_2025_03)];
    entries.extend(upload::firmware(host, Layout::Posting2025_03));
    entries
}

fn tdx_tsm_2025_03(host: &Arc<dyn HostView>) -> Vec<Entry> {
    with_device(host, |device| {
        let version = Entry::file(VERSION, read_only(host, device, VERSION, Format::Plain));
        std::iter::once(version).chain(tsm::devices(host, Layout::Posting2025_03)).collect()
    })
}

fn seamldr_2025_03(host: &Arc<dyn HostView>) -> Vec<Entry> {
    with_device(host, |device| {
        vec![
            Entry::file(VERSION, read_only(host, device, SEAMLDR_VERSION, Format::Plain)),
            Entry::file(
                REMAINING_UPDATES,
                read_only(host, device, REMAINING_UPDATES, Format::ZeroIfNotOffered),
            ),
        ]
    })
}

fn with_device(host: &Arc<dyn HostView>, list: impl FnOnce(DeviceInstance) -> Vec<Entry>) -> Vec<Entry> {
    host.device().map(list).unwrap_or_default()
}

fn offers(host: &Arc<dyn HostView>, name: &str) -> bool {
    host.attributes().iter().any(|offered| offered.name == name)
}

fn read_only(
    host: &Arc<dyn HostView>,
    device: DeviceInstance,
    name: &'static str,
    format: Format,
) -> DeviceAttribute {
    DeviceAttribute { host: Arc::clone(host), device, name: name.into(), mode: READ_ONLY, format }
}

/// How a value of the device becomes the text of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    /// The device's own text (Linux 7.3: `1.5.06`).
    AsOffered,
    /// `%u.%u.%u`: printing the update with two digits came with the postings of 2026-03.
    Plain,
    /// As offered; `0` where the device lacks the attribute.
    ZeroIfNotOffered,
}

/// An attribute of one registration of the device.
struct DeviceAttribute {
    host: Arc<dyn HostView>,
    device: DeviceInstance,
    /// Name that the device knows, in Linux 7.3.
    name: Cow<'static, str>,
    mode: u16,
    format: Format,
}

impl Attribute for DeviceAttribute {
    fn mode(&self) -> u16 {
        self.mode
    }

    fn read(&self) -> Result<String, Errno> {
        let value = if offers(&self.host, &self.name) {
            self.host.read_attribute(&self.name)?
        } else if !self.is_live() {
            return Err(Errno::ENODEV);
        } else if self.format == Format::ZeroIfNotOffered {
            "0".to_owned()
        } else {
            return Err(Errno::ENXIO);
        };
        let value = match self.format {
            Format::Plain => without_padding(&value),
            Format::AsOffered | Format::ZeroIfNotOffered => value,
        };
        Ok(line(value))
    }

    fn is_live(&self) -> bool {
        self.host.device() == Some(self.device)
    }
}

/// `1.5.06` as `1.5.6`; a text of another form stays as it is.
fn without_padding(version: &str) -> String {
    let numbers: Option<Vec<String>> =
        version.split('.').map(|part| part.parse::<u32>().ok().map(|number| number.to_string())).collect();
    numbers.map_or_else(|| version.to_owned(), |numbers| numbers.join("."))
}

fn line(mut text: String) -> String {
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// `devices/system/cpu/{online,present}`.
struct CpuMask {
    host: Arc<dyn HostView>,
    online: bool,
}

impl Attribute for CpuMask {
    fn mode(&self) -> u16 {
        0o444
    }

    fn read(&self) -> Result<String, Errno> {
        Ok(line(if self.online { self.host.cpus_online() } else { self.host.cpus_present() }))
    }
}

/// `devices/system/cpu/modalias`: vendor, family and model. The list of features behind them is empty:
/// its numbers are those of one kernel.
struct CpuModalias {
    host: Arc<dyn HostView>,
}

impl Attribute for CpuModalias {
    fn mode(&self) -> u16 {
        0o444
    }

    fn read(&self) -> Result<String, Errno> {
        let (family, model) = family_and_model(self.host.cpu_signature());
        Ok(line(format!("cpu:type:x86,ven0000fam{family:04X}mod{model:04X}:feature:,")))
    }
}
