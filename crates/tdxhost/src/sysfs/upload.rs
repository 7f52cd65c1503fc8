//! The firmware-upload files: `class/firmware/NAME`, a link to a directory under the device that they
//! belong to.

use std::sync::Arc;

use tdx_host::upload::UploadRules;
use tdx_platform::Uploader;

use super::Errno;
use super::layout::Layout;
use super::tree::{Attribute, BinaryAttribute, Directory, Entry};
use super::view::{DeviceInstance, HostView};

/// Where a layout has the files, and how its driver behaves.
impl Layout {
    /// Name of the upload.
    pub fn upload_name(self) -> &'static str {
        match self {
            Self::Linux7_3 => "tdx_module",
            Self::Posting2025_09 | Self::Posting2025_03 => "seamldr_upload",
        }
    }

    /// Path that programs use, from the root of sysfs; it leads to the same files as a link.
    pub fn upload_path(self) -> &'static str {
        match self {
            Self::Linux7_3 => "class/firmware/tdx_module",
            Self::Posting2025_09 | Self::Posting2025_03 => "class/firmware/seamldr_upload",
        }
    }

    /// The driver behind the files.
    pub fn upload_rules(self) -> UploadRules {
        match self {
            Self::Linux7_3 => UploadRules::LINUX_7_3,
            Self::Posting2025_09 => UploadRules::POSTING_2025_09,
            Self::Posting2025_03 => UploadRules::POSTING_2025_03,
        }
    }

    /// The device that the upload belongs to, from the root of sysfs, and its last component.
    fn upload_parent(self) -> (&'static str, &'static str) {
        match self {
            Self::Linux7_3 | Self::Posting2025_09 => ("devices/faux/tdx_host", "../../../tdx_host"),
            Self::Posting2025_03 => ("devices/virtual/tdx", "../../../tdx"),
        }
    }
}

/// The device whose update attributes are offered now.
fn offered(host: &Arc<dyn HostView>) -> Option<DeviceInstance> {
    host.upload().filter(|upload| upload.is_offered()).and_then(|_| host.device())
}

/// The entry `firmware` of the parent device; none where nothing can be updated.
pub(super) fn firmware(host: &Arc<dyn HostView>, layout: Layout) -> Option<Entry> {
    offered(host).map(|_| Entry::directory("firmware", Devices { host: Arc::clone(host), layout }))
}

/// `firmware` of `class`, which every kernel has.
pub(super) fn class(host: &Arc<dyn HostView>, layout: Layout) -> Entry {
    Entry::directory("firmware", Class { host: Arc::clone(host), layout })
}

/// `class/firmware`.
struct Class {
    host: Arc<dyn HostView>,
    layout: Layout,
}

impl Directory for Class {
    fn entries(&self) -> Vec<Entry> {
        let link = |_| {
            let (parent, _) = self.layout.upload_parent();
            let name = self.layout.upload_name();
            Entry::symlink(name, format!("../../{parent}/firmware/{name}"))
        };
        offered(&self.host).map(link).into_iter().collect()
    }
}

/// `firmware` under the parent device.
struct Devices {
    host: Arc<dyn HostView>,
    layout: Layout,
}

impl Directory for Devices {
    fn entries(&self) -> Vec<Entry> {
        let upload = |device| {
            let files = Files { host: Arc::clone(&self.host), layout: self.layout, device };
            Entry::directory(self.layout.upload_name(), files)
        };
        offered(&self.host).map(upload).into_iter().collect()
    }
}

/// The directory of the upload, for one registration of the device.
struct Files {
    host: Arc<dyn HostView>,
    layout: Layout,
    device: DeviceInstance,
}

impl Directory for Files {
    fn entries(&self) -> Vec<Entry> {
        if offered(&self.host) != Some(self.device) {
            return Vec::new();
        }
        let upload = Upload { host: Arc::clone(&self.host), device: self.device };
        let rules = self.layout.upload_rules();
        let text = |file: File| Entry::file(file.name(), TextFile { upload: upload.clone(), rules, file });
        let mut entries: Vec<Entry> = File::ALL.into_iter().map(text).collect();
        entries.push(Entry::binary(DATA.0, Data(upload.clone())));
        entries.push(Entry::symlink("device", self.layout.upload_parent().1));
        entries.push(Entry::symlink("subsystem", "../../../../../class/firmware"));
        entries
    }
}

/// The upload of one registration of the device.
#[derive(Clone)]
struct Upload {
    host: Arc<dyn HostView>,
    device: DeviceInstance,
}

impl Upload {
    fn is_live(&self) -> bool {
        self.host.device() == Some(self.device)
    }

    /// The uploader, for as long as the device is the same.
    fn get(&self) -> Result<&Uploader, Errno> {
        self.host.upload().filter(|_| self.is_live()).ok_or(Errno::ENODEV)
    }
}

fn errno(errno: tdx_host::Errno) -> Errno {
    Errno::from_raw(errno.0)
}

/// The text files. Beside them is [`DATA`].
#[derive(Clone, Copy)]
pub(super) enum File {
    Cancel,
    Error,
    Loading,
    RemainingSize,
    Status,
}

impl File {
    pub(super) const ALL: [Self; 5] =
        [Self::Cancel, Self::Error, Self::Loading, Self::RemainingSize, Self::Status];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Error => "error",
            Self::Loading => "loading",
            Self::RemainingSize => "remaining_size",
            Self::Status => "status",
        }
    }

    pub(super) const fn mode(self) -> u16 {
        match self {
            Self::Cancel => 0o200,
            Self::Loading => 0o644,
            Self::Error | Self::RemainingSize | Self::Status => 0o444,
        }
    }

    /// What reading gives; `None` if it cannot be read.
    pub(super) const fn reads(self) -> Option<&'static str> {
        match self {
            Self::Cancel => None,
            Self::Error => Some("`STATUS:WORD` of the last failure, or nothing; -EBUSY: an update runs"),
            Self::Loading => Some("`1` while an image comes in, else `0`"),
            Self::RemainingSize => Some("bytes that were not transferred, decimal"),
            Self::Status => Some("`idle`, `receiving`, `preparing`, `transferring` or `programming`"),
        }
    }

    /// What may be written; `None` if nothing may.
    pub(super) const fn writes(self) -> Option<&'static str> {
        match self {
            Self::Cancel => {
                Some("`1`; -EINVAL: something else; -ENODEV: nothing runs that could be cancelled")
            }
            Self::Loading => Some("`1` an image follows, `0` it is whole, `-1` it is called off"),
            Self::Error | Self::RemainingSize | Self::Status => None,
        }
    }
}

/// The file of the image's bytes, and its mode.
pub(super) const DATA: (&str, u16) = ("data", 0o644);

/// One of the text files.
struct TextFile {
    upload: Upload,
    rules: UploadRules,
    file: File,
}

impl Attribute for TextFile {
    fn mode(&self) -> u16 {
        self.file.mode()
    }

    fn read(&self) -> Result<String, Errno> {
        let upload = self.upload.get()?;
        match self.file {
            File::Cancel => return Err(Errno::EIO),
            // Empty without a failure.
            File::Error => {
                upload.failure().map(|failure| failure.map_or(String::new(), |it| format!("{it}\n")))
            }
            File::Loading => upload.is_loading().map(|loading| format!("{}\n", u8::from(loading))),
            File::RemainingSize => upload.remaining_size().map(|size| format!("{size}\n")),
            File::Status => upload.status().map(|status| format!("{status}\n")),
        }
        .map_err(errno)
    }

    fn write(&self, bytes: &[u8]) -> Result<(), Errno> {
        let upload = self.upload.get()?;
        match self.file {
            File::Cancel => upload.cancel(bytes, self.rules).map_err(errno),
            File::Loading => upload.write_loading(bytes, self.rules).map_err(errno),
            File::Error | File::RemainingSize | File::Status => Err(Errno::EIO),
        }
    }

    fn is_live(&self) -> bool {
        self.upload.is_live()
    }
}

/// `data`.
struct Data(Upload);

impl BinaryAttribute for Data {
    fn mode(&self) -> u16 {
        DATA.1
    }

    fn read_at(&self, offset: u64, size: usize) -> Result<Vec<u8>, Errno> {
        self.0.get()?.read_data(offset, size).map_err(errno)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.0.get()?.write_data(offset, bytes).map_err(errno)
    }

    fn is_live(&self) -> bool {
        self.0.is_live()
    }
}
